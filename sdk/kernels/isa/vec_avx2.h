/* The vocabulary of vectors in which kernels are written once, for AVX2 with FMA and F16C: 8 f32 lanes. See
 * vec_avx512.h for its twin. Included by files compiled for AVX2 only; everything is static. */
#ifndef SLUICE_KERNELS_VEC_AVX2_H
#define SLUICE_KERNELS_VEC_AVX2_H

#include "vec_kinds.h"

#include <immintrin.h>

#define VL 8
#define V_SUFFIX(name) name##_avx2
#define V_FILL(op) slk_##op##_fill_avx2
typedef __m256 vf;

V_INLINE __m256i v_mask(int64_t n) { /* n in 0..8 */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
V_INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
V_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
V_INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
/* Masked accesses are slow here: take them for the last vector of a row only. */
V_INLINE vf v_load_n(const float *p, int64_t n) { return n >= VL ? v_load(p) : _mm256_maskload_ps(p, v_mask(n)); }
V_INLINE void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
V_INLINE void v_store_n(float *p, vf a, int64_t n) { n >= VL ? v_store(p, a) : _mm256_maskstore_ps(p, v_mask(n), a); }
V_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
V_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a b + c */
V_INLINE vf v_fms(vf a, vf b, vf c) { return _mm256_fmsub_ps(a, b, c); }   /* a b - c */
V_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
V_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* b when either is NaN */
V_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
V_INLINE unsigned v_gt_bits(vf a, vf b) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
} /* bit i: a[i] > b[i] */
/* Lanes n.. become x. */
V_INLINE vf v_fill_from(vf a, int64_t n, float x) {
    return _mm256_blendv_ps(v_set1(x), a, _mm256_castsi256_ps(v_mask(n)));
}

V_INLINE vf v_of_f16(__m128i h) { return _mm256_cvtph_ps(h); }
V_INLINE vf v_of_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
V_INLINE __m128i v_load_u16_n(const uint16_t *p, int64_t n) {
    uint16_t all[8] = {0};
    memcpy(all, p, (size_t)n * sizeof *p);
    return _mm_loadu_si128((const void *)all);
}
V_INLINE vf v_load_f16(const uint16_t *p) { return v_of_f16(_mm_loadu_si128((const void *)p)); }
V_INLINE vf v_load_bf16(const uint16_t *p) { return v_of_bf16(_mm_loadu_si128((const void *)p)); }
V_INLINE vf v_load_f16_n(const uint16_t *p, int64_t n) { return v_of_f16(v_load_u16_n(p, n)); }
V_INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n) { return v_of_bf16(v_load_u16_n(p, n)); }
V_INLINE void v_store_f16(uint16_t *p, vf a) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_store_bf16(uint16_t *p, vf a) {
    const __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)),
                  r = _mm256_blendv_epi8(near, quiet, nan);
    _mm_storeu_si128((void *)p, _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}

/* Vector of sums from VL vectors: lane L gets the sum of in[(L % 4) * (VL / 4) + L / 4]. The order is the same for
 * every lane: i + (i+4), i + (i+2), i + (i+1), so a sum does not depend on the place it stands in. */
#define V_SUMS_INDEX(lane) ((lane) % 4 * (VL / 4) + (lane) / 4)
V_INLINE vf v_sums_8_(vf a, vf b) {
    return v_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
V_INLINE vf v_sums_4_(vf a, vf b) { return v_add(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee)); }
V_INLINE vf v_sums_2_(vf a, vf b) { return v_add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)); }
V_INLINE vf v_sums(const vf *in) {
    const vf a = v_sums_4_(v_sums_8_(in[0], in[1]), v_sums_8_(in[2], in[3]));
    const vf b = v_sums_4_(v_sums_8_(in[4], in[5]), v_sums_8_(in[6], in[7]));
    return v_sums_2_(a, b);
}
/* Sum and largest of the lanes of one vector, same order. */
V_INLINE float v_sum(vf a) {
    a = v_sums_8_(a, a), a = v_sums_4_(a, a);
    return _mm256_cvtss_f32(v_sums_2_(a, a));
}
V_INLINE float v_largest(vf a) {
    a = v_max(a, _mm256_permute2f128_ps(a, a, 0x01)), a = v_max(a, _mm256_shuffle_ps(a, a, 0xee));
    return _mm256_cvtss_f32(v_max(a, _mm256_shuffle_ps(a, a, 0x55)));
}

V_INLINE vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral n in -150..128: in two halves, since 2^n itself may not be a normal number. */
V_INLINE vf v_scale2(vf a, vf n) {
    const __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
    const __m256i one = _mm256_set1_epi32(127);
    a = v_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23)));
    return v_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23)));
}

/* (a0 b0 a1 b1 ...) -> a, b and back. */
V_INLINE void v_unzip(vf lo, vf hi, vf *a, vf *b) {
    const vf l = _mm256_permute2f128_ps(lo, hi, 0x20), h = _mm256_permute2f128_ps(lo, hi, 0x31);
    *a = _mm256_shuffle_ps(l, h, 0x88), *b = _mm256_shuffle_ps(l, h, 0xdd);
}
V_INLINE void v_zip(vf a, vf b, vf *lo, vf *hi) {
    const vf l = _mm256_unpacklo_ps(a, b), h = _mm256_unpackhi_ps(a, b);
    *lo = _mm256_permute2f128_ps(l, h, 0x20), *hi = _mm256_permute2f128_ps(l, h, 0x31);
}

/* VL unsigned codes of 2, 4 or 8 bits, lowest bits first, from a byte on. */
V_INLINE vf v_codes(int bits, const uint8_t *p) {
    if (bits == 8)
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
    uint32_t word = 0;
    memcpy(&word, p, (size_t)bits);
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i by = bits == 4 ? _mm256_slli_epi32(lane, 2) : _mm256_slli_epi32(lane, 1);
    const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32((int)word), by);
    return _mm256_cvtepi32_ps(_mm256_and_si256(code, _mm256_set1_epi32((1 << bits) - 1)));
}

/* Packed weights: what a block's header says, and VL weights of it, exact. */
typedef struct v_scale8 {
    vf scale, shift; /* w = code * scale - shift */
} v_scale8;
typedef v_scale8 v_scale4;
V_INLINE v_scale8 v_q8_scale(float scale, float zero) { return (v_scale8){v_set1(scale), v_set1(scale * zero)}; }
V_INLINE v_scale4 v_q4_scale(float scale, float zero) { return v_q8_scale(scale, zero); }
V_INLINE vf v_q8_load(const uint8_t *codes, int64_t i, v_scale8 s) {
    const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(codes + i)));
    return v_fms(_mm256_cvtepi32_ps(code), s.scale, s.shift);
}
V_INLINE vf v_q4_load(const uint8_t *codes, int64_t i, v_scale4 s) { /* i is a multiple of VL */
    const __m256i two = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(codes + i / 32 * 16 + i % 16)));
    const __m256i code = i % 32 < 16 ? _mm256_and_si256(two, _mm256_set1_epi32(15)) : _mm256_srli_epi32(two, 4);
    return v_fms(_mm256_cvtepi32_ps(code), s.scale, s.shift);
}
V_INLINE float v_f32_of_f16(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

#include "vec_common.h"

#endif
