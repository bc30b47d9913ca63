/* Rows that are not bf16: codes come into shared memory as they are and are made bf16 there; f16 and f32 rows are read
 * when they are needed. */
#ifndef SLUICE_KERNELS_ATTEND_RAW_CUH
#define SLUICE_KERNELS_ATTEND_RAW_CUH

#include "attend_few_cuda.h"
#include "attend_mma.cuh"

namespace slk {

/* Bytes to the scales of a row. */
__device__ __forceinline__ int64_t scales_of(const slk_side_device &s, int page, int row) {
    return page * s.scale_page_stride + (s.per_channel ? row / s.group : row) * s.scale_stride;
}

/* What widen() will want of a row's scales, on its way into the L2. */
__device__ __forceinline__ void fetch_scales(const slk_side_device &s, int page, int row, int channel) {
    if (page < 0 || s.kind != SLK_SIDE_CODES)
        return;
    const int64_t at = scales_of(s, page, row) + 2 * (s.per_channel ? channel : channel / s.group);
    prefetch(s.scale + at);
    if (s.zero != nullptr)
        prefetch(s.zero + at);
}

/* Copies pieces first, first + step, ... of a row of codes; nothing where the side has none, or nobody looks. */
__device__ __forceinline__ void fetch_raw(const slk_side_device &s, const char *from, uint32_t to, int first,
                                          int step) {
    if (from == nullptr || s.raw == 0)
        return;
    if (s.piece >= 4) {
        for (int at = first * s.piece; at < s.row_bytes; at += step * s.piece)
            copy_some(to + at, from + at, s.piece);
    } else {
        for (int at = first; at < s.row_bytes; at += step)
            store1(to + at, static_cast<unsigned char>(from[at]));
    }
}

/* Eight values of f16 or f32 (or bf16, beside codes on the other side) as bf16. */
__device__ __forceinline__ uint4 plain8(const slk_side_device &s, const char *at, int c) {
    float x[8];
    if (s.kind == SLK_SIDE_BF16)
        return *reinterpret_cast<const uint4 *>(at + 16 * c);
    if (s.kind == SLK_SIDE_F16) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(at + 16 * c);
        const __half2 *h = reinterpret_cast<const __half2 *>(&raw);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 f = __half22float2(h[i]);
            x[2 * i] = f.x;
            x[2 * i + 1] = f.y;
        }
    } else {
        const float4 a = *reinterpret_cast<const float4 *>(at + 32 * c);
        const float4 b = *reinterpret_cast<const float4 *>(at + 32 * c + 16);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    }
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

__device__ __forceinline__ void eight_halves(const char *at, float (&x)[8]) {
    if (reinterpret_cast<uintptr_t>(at) % 16 == 0) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(at);
        const __half2 *h = reinterpret_cast<const __half2 *>(&raw);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 f = __half22float2(h[i]);
            x[2 * i] = f.x;
            x[2 * i + 1] = f.y;
        }
    } else {
        const __half *h = reinterpret_cast<const __half *>(at);
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = __half2float(h[i]);
    }
}

__device__ __forceinline__ float value_of(const slk_side_device &s, float scale, float code, float zero) {
    return s.zero_is_min ? __fadd_rn(__fmul_rn(scale, code), zero) : __fmul_rn(scale, __fsub_rn(code, zero));
}

/* Codes [8 c, 8 c + 8) of a row that begins at `raw`, in device or shared memory. base: bytes to the scales and zeros
 * that hold for the row; channel: of the row's channel 8 c, counted over all heads. */
__device__ __forceinline__ uint4 codes8(const slk_side_device &s, const unsigned char *raw, int c, int64_t base,
                                        int channel) {
    uint64_t codes; /* `bits` bytes hold eight codes, and begin at a multiple of them */
    if (s.bits == 8)
        codes = *reinterpret_cast<const uint64_t *>(raw + 8 * c);
    else if (s.bits == 4)
        codes = *reinterpret_cast<const uint32_t *>(raw + 4 * c);
    else if (s.bits == 2)
        codes = *reinterpret_cast<const uint16_t *>(raw + 2 * c);
    else
        codes = raw[c];
    const uint32_t mask = (1u << s.bits) - 1u;
    float x[8];
    if (s.per_channel) {
        float a[8], z[8];
        eight_halves(s.scale + base + 2 * channel, a);
        if (s.zero != nullptr)
            eight_halves(s.zero + base + 2 * channel, z);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float code = static_cast<float>(static_cast<uint32_t>(codes >> (i * s.bits)) & mask);
            const float zero = s.zero != nullptr ? z[i] : static_cast<float>(1u << (s.bits - 1));
            x[i] = value_of(s, a[i], code, zero);
        }
    } else {
        const int64_t at = base + 2 * (s.group_shift >= 0 ? channel >> s.group_shift : channel / s.group);
        const float a = __half2float(*reinterpret_cast<const __half *>(s.scale + at));
        const float z = s.zero != nullptr ? __half2float(*reinterpret_cast<const __half *>(s.zero + at))
                                          : static_cast<float>(1u << (s.bits - 1));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float code = static_cast<float>(static_cast<uint32_t>(codes >> (i * s.bits)) & mask);
            x[i] = value_of(s, a, code, z);
        }
    }
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

/* In the place of a row: it is plain, although its side has codes. */
constexpr int kPlainRow = 1 << 30;

/* One side of a column's 16 keys as bf16 rows of D channels in shared memory; two lanes a key. raw: the lane's row;
 * plain: the side's rows that are no codes. */
template <int D, int MT>
__device__ __forceinline__ void widen(const slk_side_device &codes, const slk_side_device &plain,
                                      const unsigned char *raw, int2 at, int kv_head, int head_dim, unsigned char *to,
                                      int mt, int lane) {
    const int key = lane / 2, chunks = head_dim / 8;
    const bool is_plain = (at.y & kPlainRow) != 0;
    const slk_side_device &s = is_plain ? plain : codes;
    at.y &= ~kPlainRow;
    const char *const row = s.pool + at.x * s.page_stride + at.y * s.row_stride + kv_head * s.head_stride;
    const int64_t base = s.kind == SLK_SIDE_CODES ? scales_of(s, at.x, at.y) : 0;
#pragma unroll 4
    for (int j = 0; j < D / 16 / MT; j++) {
        const int c = lane % 2 * (D / 16) + j * MT + mt;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (at.x >= 0 && c < chunks)
            x = s.kind == SLK_SIDE_CODES ? codes8(s, raw, c, base, kv_head * head_dim + 8 * c) : plain8(s, row, c);
        *reinterpret_cast<uint4 *>(to + tile_at<2 * D>(key, c)) = x;
    }
}

} // namespace slk

#endif
