/* See quantise_cuda.h. A block a job, head and layer. Keys: a thread a channel, down the rows of the group; values: a
 * warp a row and group of channels. Neighbouring lanes join their codes into words of 32 bits.
 *
 * Bound by reading the plain rows, the second time out of L2: at 4.1 TB/s the keys and values of 32 layers of a prompt
 * of 32768 tokens (8 heads of 128, 4 GiB) take about 1.1 ms; a decode step codes a row of values a layer, a launch of
 * some microseconds. Arithmetic is that of sl_minmax.c operation by operation, whatever fast mathematics the compiler
 * is told.
 */
#include "device.cuh"
#include "quantise_cuda.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

/* The finite f16 next to x, ties to even; NaN and zeros: 0. */
__device__ __forceinline__ __half f16_of(float x) {
    return fabsf(x) > 0.f ? __float2half_rn(fmaxf(-65504.f, fminf(x, 65504.f))) : __ushort_as_half(0);
}

struct Range {
    __half scale, minimum;
    float s, m, most;
};

__device__ __forceinline__ Range range_of(float low, float high, int bits) {
    Range r;
    r.most = static_cast<float>((1 << bits) - 1);
    r.minimum = f16_of(low);
    r.scale = f16_of(__fdiv_rn(__fsub_rn(high, low), r.most));
    r.m = __half2float(r.minimum);
    r.s = __half2float(r.scale);
    if (!(r.s > 0.f)) /* nothing to tell apart in f16 */
        r.scale = __float2half_rn(1.f);
    return r;
}

__device__ __forceinline__ uint32_t code_of(const Range &r, float x) {
    if (!(r.s > 0.f))
        return 0;
    const float t = __fdiv_rn(__fsub_rn(x, r.m), r.s);
    return t > 0.f ? static_cast<uint32_t>(rintf(t < r.most ? t : r.most)) : 0u; /* NaN: 0 */
}

/* Bits of neighbouring lanes, `width` each, joined: every lane of a word has it. */
__device__ __forceinline__ uint32_t join(uint32_t code, int width, int lane) {
    const int lanes = 32 / width;
    uint32_t word = code << (lane % lanes * width);
    for (int i = 1; i < lanes; i *= 2)
        word |= __shfl_xor_sync(kAll, word, i);
    return word;
}

template <typename T>
__device__ __forceinline__ void code_keys(const slk_quantise_side &s, const char *plain, char *codes, __half *scale,
                                          __half *zero, int rows) {
    for (int c = threadIdx.x; c < s.dim; c += blockDim.x) { /* whole warps */
        const char *x = plain + c * static_cast<int64_t>(sizeof(T));
        float low = slk::to_float(*reinterpret_cast<const T *>(x)), high = low;
#pragma unroll 8
        for (int r = 1; r < rows; r++) {
            const float v = slk::to_float(*reinterpret_cast<const T *>(x + r * s.plain_row));
            low = v < low ? v : low;
            high = v > high ? v : high;
        }
        const Range range = range_of(low, high, s.bits);
        scale[c] = range.scale;
        zero[c] = range.minimum;
        const int lanes = 32 / s.bits, lane = threadIdx.x % 32;
        for (int r = 0; r < rows; r++) {
            const uint32_t code = code_of(range, slk::to_float(*reinterpret_cast<const T *>(x + r * s.plain_row)));
            const uint32_t word = join(code, s.bits, lane);
            if (lane % lanes == 0)
                *reinterpret_cast<uint32_t *>(codes + r * s.row + c * s.bits / 8) = word;
        }
    }
}

/* One row: channels [group * s.group, ...) by a warp, E = s.group / 32 neighbouring ones a lane. */
template <typename T, int E>
__device__ __forceinline__ void code_values(const slk_quantise_side &s, const char *row, char *codes, __half *scale,
                                            __half *zero, int group) {
    const int lane = threadIdx.x % 32, first = group * s.group + lane * E;
    float x[E];
#pragma unroll
    for (int i = 0; i < E; i++)
        x[i] = slk::to_float(reinterpret_cast<const T *>(row)[first + i]);
    float low = INFINITY, high = -INFINITY;
#pragma unroll
    for (int i = 0; i < E; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        low = fminf(low, __shfl_xor_sync(kAll, low, i));
        high = fmaxf(high, __shfl_xor_sync(kAll, high, i));
    }
    const float head = __shfl_sync(kAll, x[0], 0); /* comparisons that begin with a NaN end with it */
    if (!(head == head))
        low = high = head;
    const Range range = range_of(low, high, s.bits);
    if (lane == 0) {
        scale[group] = range.scale;
        zero[group] = range.minimum;
    }
    uint32_t code = 0;
#pragma unroll
    for (int i = 0; i < E; i++)
        code |= code_of(range, x[i]) << (i * s.bits);
    const int width = E * s.bits;
    const uint32_t word = join(code, width, lane);
    if (lane % (32 / width) == 0)
        *reinterpret_cast<uint32_t *>(codes + first * s.bits / 8) = word;
}

template <typename T> __device__ __forceinline__ void quantise(const slk_quantise_params &p) {
    slk::wait_for_predecessor();
    const int job = blockIdx.x, head = blockIdx.y, begin = p.begin[job], end = p.end[job], side = p.side[job];
    const slk_quantise_layer &layer = p.layer[blockIdx.z];
    const slk_quantise_side &s = p.of[side];
    const int64_t seq = p.seq[job], entry = begin >> p.page_shift;
    const int64_t from = p.plain_pages[seq * p.plain_pages_stride + entry];
    const int64_t to = p.pages[seq * p.pages_stride + entry];
    const int first = begin & (p.page_rows - 1), rows = end - begin;
    const char *plain = layer.plain[side] + from * s.plain_page + first * s.plain_row + head * s.plain_head;
    char *codes = layer.codes[side] + to * s.page + first * s.row + head * s.head;
    __half *scale = reinterpret_cast<__half *>(layer.scale[side] + to * s.scale_page);
    __half *zero = reinterpret_cast<__half *>(layer.zero[side] + to * s.scale_page);
    if (side == 0) {
        const int64_t at = first / s.group * (s.scale_group / 2) + static_cast<int64_t>(head) * s.dim;
        code_keys<T>(s, plain, codes, scale + at, zero + at, rows);
        return;
    }
    const int groups = s.dim / s.group;
    for (int unit = threadIdx.x / 32; unit < rows * groups; unit += blockDim.x / 32) {
        const int r = unit / groups, g = unit % groups;
        const int64_t at = (first + r) * (s.scale_group / 2) + static_cast<int64_t>(head) * groups;
        const char *row = plain + r * s.plain_row;
        char *to_row = codes + r * s.row;
        if (s.group == 32)
            code_values<T, 1>(s, row, to_row, scale + at, zero + at, g);
        else if (s.group == 64)
            code_values<T, 2>(s, row, to_row, scale + at, zero + at, g);
        else
            code_values<T, 4>(s, row, to_row, scale + at, zero + at, g);
    }
}

} // namespace

SLK_KERNEL __launch_bounds__(128) slk_quantise_bf16(const __grid_constant__ slk_quantise_params p) {
    quantise<slk::bf16>(p);
}
SLK_KERNEL __launch_bounds__(128) slk_quantise_f16(const __grid_constant__ slk_quantise_params p) {
    quantise<__half>(p);
}
SLK_KERNEL __launch_bounds__(128) slk_quantise_f32(const __grid_constant__ slk_quantise_params p) {
    quantise<float>(p);
}
