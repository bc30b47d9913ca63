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

/* Eight codes of BITS bits behind one another. */
template <int BITS> __device__ __forceinline__ void unpack8(const unsigned char *raw, float (&x)[8]) {
    uint32_t word[2] = {0, 0};
    if constexpr (BITS == 8) {
        const uint2 both = *reinterpret_cast<const uint2 *>(raw);
        word[0] = both.x, word[1] = both.y;
    } else if constexpr (BITS == 4) {
        word[0] = *reinterpret_cast<const uint32_t *>(raw);
    } else if constexpr (BITS == 2) {
        word[0] = *reinterpret_cast<const uint16_t *>(raw);
    } else {
        word[0] = *raw;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) { /* in the last bits of 2^23: a number without a conversion */
        const uint32_t code = word[i * BITS / 32] >> (i * BITS % 32) & ((1u << BITS) - 1u);
        x[i] = __fsub_rn(__uint_as_float(0x4b000000u | code), 8388608.f);
    }
}

/* Keys of a column's 16 that a lane of widen() has eight channels, c, of: every kTogether-th. */
template <int D, int MT> struct Widen {
    static constexpr int kChunks = D / 8, kTogether = 32 / kChunks, kPasses = 16 / kTogether / MT;
    static __device__ __forceinline__ int key(int j, int mt, int lane) {
        return (j * MT + mt) * kTogether + lane / kChunks;
    }
};

/* Codes of BITS bits; what has none is zeroed. Scales of all keys come first, so that one way to them is waited for and
 * not one a key. */
template <int D, int MT, int BITS>
__device__ __forceinline__ void widen_codes(const slk_side_device &s, const unsigned char *raw, const int2 *where,
                                            int channel, unsigned char *to, int mt, int lane) {
    using W = Widen<D, MT>;
    const int c = lane % W::kChunks;
    const bool zeros = s.zero != nullptr;
    const float half = static_cast<float>(1u << (BITS - 1));
    auto is_code = [&](int2 at) { return at.x >= 0 && (at.y & kPlainRow) == 0; };
    auto convert = [&](int key, bool there, const float *a, const float *z, int step) {
        float x[8];
        unpack8<BITS>(raw + key * s.raw + BITS * c, x);
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = there ? value_of(s, a[i * step], x[i], z[i * step]) : 0.f;
        *reinterpret_cast<uint4 *>(to + tile_at<2 * D>(key, c)) =
            make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    };
    if (!s.per_channel) {
        const int64_t group = 2 * (s.group_shift >= 0 ? channel >> s.group_shift : channel / s.group);
        float a[W::kPasses], z[W::kPasses];
        uint32_t codes = 0;
#pragma unroll
        for (int j = 0; j < W::kPasses; j++) {
            const int2 at = where[W::key(j, mt, lane)];
            a[j] = 0.f, z[j] = half;
            if (is_code(at)) {
                const int64_t from = scales_of(s, at.x, at.y) + group;
                codes |= 1u << j;
                a[j] = __half2float(*reinterpret_cast<const __half *>(s.scale + from));
                if (zeros)
                    z[j] = __half2float(*reinterpret_cast<const __half *>(s.zero + from));
            }
        }
#pragma unroll
        for (int j = 0; j < W::kPasses; j++)
            convert(W::key(j, mt, lane), (codes >> j & 1u) != 0, &a[j], &z[j], 0);
        return;
    }
    float a[8] = {}, z[8]; /* of the rows of one group: neighbours mostly share theirs */
#pragma unroll
    for (int i = 0; i < 8; i++)
        z[i] = half;
    int64_t known = -1;
#pragma unroll 1
    for (int j = 0; j < W::kPasses; j++) {
        const int key = W::key(j, mt, lane);
        const int2 at = where[key];
        const int64_t from = is_code(at) ? scales_of(s, at.x, at.y) + 2 * channel : known;
        if (from != known) {
            eight_halves(s.scale + from, a);
            if (zeros)
                eight_halves(s.zero + from, z);
            known = from;
        }
        convert(key, is_code(at), a, z, 1);
    }
}

/* One side of a column's 16 keys as bf16 rows of D channels in shared memory, by the MT warps of the column. raw: of
 * the side's first key; where: of its keys; plain: the side's rows that are no codes. */
template <int D, int MT>
__device__ __forceinline__ void widen(const slk_side_device &s, const slk_side_device &plain, const unsigned char *raw,
                                      const int2 *where, int kv_head, int head_dim, unsigned char *to, int mt,
                                      int lane) {
    using W = Widen<D, MT>;
    const int c = lane % W::kChunks, channel = kv_head * head_dim + 8 * c;
    const bool coded = s.kind == SLK_SIDE_CODES;
    if (c < head_dim / 8 && coded) {
        if (s.bits == 4)
            widen_codes<D, MT, 4>(s, raw, where, channel, to, mt, lane);
        else if (s.bits == 8)
            widen_codes<D, MT, 8>(s, raw, where, channel, to, mt, lane);
        else if (s.bits == 2)
            widen_codes<D, MT, 2>(s, raw, where, channel, to, mt, lane);
        else
            widen_codes<D, MT, 1>(s, raw, where, channel, to, mt, lane);
    }
    /* Plain rows, and zeros where no channels are. */
#pragma unroll 1
    for (int j = 0; j < W::kPasses; j++) {
        const int key = W::key(j, mt, lane);
        const int2 at = where[key];
        const bool is_plain = !coded || (at.y & kPlainRow) != 0;
        if (c < head_dim / 8 && !is_plain)
            continue;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (c < head_dim / 8 && at.x >= 0) {
            const slk_side_device &from = coded ? plain : s;
            x = plain8(from,
                       from.pool + at.x * from.page_stride + (at.y & ~kPlainRow) * from.row_stride +
                           kv_head * from.head_stride,
                       c);
        }
        *reinterpret_cast<uint4 *>(to + tile_at<2 * D>(key, c)) = x;
    }
}

} // namespace slk

#endif
