/* Four neighbouring values of a row at a time, in f32: what the kernels over rows share. */
#ifndef SLUICE_KERNELS_VEC4_CUH
#define SLUICE_KERNELS_VEC4_CUH

#include "device.cuh"

namespace slk {

struct f4 {
    float v[4];
};

/* p is aligned to four elements. */
__device__ __forceinline__ f4 load4(const float *p) {
    const float4 a = *reinterpret_cast<const float4 *>(p);
    return {{a.x, a.y, a.z, a.w}};
}
__device__ __forceinline__ f4 load4(const bf16 *p) {
    const uint2 a = *reinterpret_cast<const uint2 *>(p);
    return {{__uint_as_float(a.x << 16), __uint_as_float(a.x & 0xffff0000u), __uint_as_float(a.y << 16),
             __uint_as_float(a.y & 0xffff0000u)}};
}
__device__ __forceinline__ f4 load4(const __half *p) {
    const uint2 a = *reinterpret_cast<const uint2 *>(p);
    const float2 lo = __half22float2(*reinterpret_cast<const __half2 *>(&a.x));
    const float2 hi = __half22float2(*reinterpret_cast<const __half2 *>(&a.y));
    return {{lo.x, lo.y, hi.x, hi.y}};
}

__device__ __forceinline__ void store4(float *p, const f4 &a) {
    *reinterpret_cast<float4 *>(p) = make_float4(a.v[0], a.v[1], a.v[2], a.v[3]);
}
__device__ __forceinline__ void store4(bf16 *p, const f4 &a) {
    const __nv_bfloat162 lo = __floats2bfloat162_rn(a.v[0], a.v[1]), hi = __floats2bfloat162_rn(a.v[2], a.v[3]);
    *reinterpret_cast<uint2 *>(p) =
        make_uint2(*reinterpret_cast<const uint32_t *>(&lo), *reinterpret_cast<const uint32_t *>(&hi));
}
__device__ __forceinline__ void store4(__half *p, const f4 &a) {
    const __half2 lo = __floats2half2_rn(a.v[0], a.v[1]), hi = __floats2half2_rn(a.v[2], a.v[3]);
    *reinterpret_cast<uint2 *>(p) =
        make_uint2(*reinterpret_cast<const uint32_t *>(&lo), *reinterpret_cast<const uint32_t *>(&hi));
}

/* Elements [i, i + 4) of a row of n, zeros behind its end. wide: the row is aligned and n a multiple of 4. */
template <typename T> __device__ __forceinline__ f4 load4(const T *row, int i, int n, bool wide) {
    if (wide && i < n)
        return load4(row + i);
    f4 a;
#pragma unroll
    for (int k = 0; k < 4; k++)
        a.v[k] = !wide && i + k < n ? to_float(row[i + k]) : 0.0f;
    return a;
}
template <typename T> __device__ __forceinline__ void store4(T *row, int i, int n, bool wide, const f4 &a) {
    if (wide && i < n)
        store4(row + i, a);
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (!wide && i + k < n)
            row[i + k] = from_float<T>(a.v[k]);
}

/* Two neighbours, aligned to two elements. */
__device__ __forceinline__ float2 load2(const bf16 *p) {
    const uint32_t a = *reinterpret_cast<const uint32_t *>(p);
    return make_float2(__uint_as_float(a << 16), __uint_as_float(a & 0xffff0000u));
}
__device__ __forceinline__ void store2(float *p, float a, float b) {
    *reinterpret_cast<float2 *>(p) = make_float2(a, b);
}
__device__ __forceinline__ void store2(bf16 *p, float a, float b) {
    *reinterpret_cast<__nv_bfloat162 *>(p) = __floats2bfloat162_rn(a, b);
}
__device__ __forceinline__ void store2(__half *p, float a, float b) {
    *reinterpret_cast<__half2 *>(p) = __floats2half2_rn(a, b);
}

} // namespace slk

#endif
