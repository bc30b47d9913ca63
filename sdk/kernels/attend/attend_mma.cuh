/* What the kernel of attend_few is made of: copies, matrix instructions, barriers. Bits of a result depend on `mma`. */
#ifndef SLUICE_KERNELS_ATTEND_MMA_CUH
#define SLUICE_KERNELS_ATTEND_MMA_CUH

#include "device.cuh"

namespace slk {

/* Byte of 16-byte chunk c of a row: eight rows' equal chunks lie in different banks. ROW: a multiple of 128 bytes. */
template <int ROW> __device__ __forceinline__ uint32_t tile_at(int row, int c) {
    return row * ROW + (c ^ (row & 7)) * 16;
}

/* The same for chunk c + 2 k, from the address of an even or odd chunk c < 2 of a tile at a multiple of 128 bytes. */
__device__ __forceinline__ uint32_t further(uint32_t at, int k) { return (at ^ (k % 4 * 32)) + k / 4 * 128; }

/* Zeroes where nothing is there. A head's row of D = 128 is 256 bytes: all of it into the L2 at once. */
template <int D> __device__ __forceinline__ void copy16(uint32_t to, const void *from, bool there) {
    const int bytes = there ? 16 : 0;
    if constexpr (D >= 128)
        asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                     : "memory");
}
__device__ __forceinline__ void copy_some(uint32_t to, const void *from, int bytes) { /* 4, 8 or 16 */
    if (bytes == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    else if (bytes == 8)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void store1(uint32_t to, unsigned char x) {
    asm volatile("st.shared.u8 [%0], %1;" ::"r"(to), "r"(static_cast<uint32_t>(x)) : "memory");
}
__device__ __forceinline__ void prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* The MT warps of a column; the four warps that own 16 rows. */
template <int MT> __device__ __forceinline__ void column_barrier(int column) {
    if constexpr (MT == 1)
        __syncwarp();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(column + 1), "n"(32 * MT) : "memory");
}
template <int MT> __device__ __forceinline__ void rows_barrier(int mt) {
    if constexpr (MT == 1)
        __syncthreads();
    else
        asm volatile("bar.sync %0, 128;" ::"r"(mt + 5) : "memory");
}
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ const char *shuffle(const char *at, int lane) {
    return reinterpret_cast<const char *>(__shfl_sync(0xffffffffu, reinterpret_cast<long long>(at), lane));
}
__device__ __forceinline__ uint32_t pack_bf16(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&v);
}

} // namespace slk

#endif
