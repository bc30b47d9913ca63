/* The vocabulary of vectors in which kernels are written once, for AVX-512: 16 f32 lanes. See vec_avx2.h for its twin.
 * Included by files compiled for AVX-512 only; everything is static. */
#ifndef SLUICE_KERNELS_VEC_AVX512_H
#define SLUICE_KERNELS_VEC_AVX512_H

#include "vec_kinds.h"

#include <immintrin.h>

#define VL 16
#define V_SUFFIX(name) name##_avx512
#define V_FILL(op) slk_##op##_fill_avx512
typedef __m512 vf;

V_INLINE __mmask16 v_mask(int64_t n) { return (__mmask16)((1u << n) - 1); } /* n in 0..16 */
V_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
V_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
V_INLINE void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
V_INLINE void v_store_n(float *p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, v_mask(n), a); }
V_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
V_INLINE vf v_fms(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }   /* a b - c */
V_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
V_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* b when either is NaN */
V_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V_INLINE unsigned v_gt_bits(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); } /* bit i: a[i] > b[i] */
/* Lanes n.. become x. */
V_INLINE vf v_fill_from(vf a, int64_t n, float x) { return _mm512_mask_blend_ps(v_mask(n), v_set1(x), a); }

V_INLINE vf v_of_f16(__m256i h) { return _mm512_cvtph_ps(h); }
V_INLINE vf v_of_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
V_INLINE vf v_load_f16(const uint16_t *p) { return v_of_f16(_mm256_loadu_si256((const void *)p)); }
V_INLINE vf v_load_bf16(const uint16_t *p) { return v_of_bf16(_mm256_loadu_si256((const void *)p)); }
V_INLINE vf v_load_f16_n(const uint16_t *p, int64_t n) { return v_of_f16(_mm256_maskz_loadu_epi16(v_mask(n), p)); }
V_INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n) { return v_of_bf16(_mm256_maskz_loadu_epi16(v_mask(n), p)); }
V_INLINE void v_store_f16(uint16_t *p, vf a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE void v_store_bf16(uint16_t *p, vf a) {
    const __m512i u = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, near, quiet)));
}

/* Vector of sums from VL vectors: lane L gets the sum of in[(L % 4) * (VL / 4) + L / 4]. The order is the same for
 * every lane: i + (i+8), i + (i+4), i + (i+2), i + (i+1), so a sum does not depend on the place it stands in. */
#define V_SUMS_INDEX(lane) ((lane) % 4 * (VL / 4) + (lane) / 4)
V_INLINE vf v_sums_16_(vf a, vf b) { return v_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)); }
V_INLINE vf v_sums_8_(vf a, vf b) { return v_add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
V_INLINE vf v_sums_4_(vf a, vf b) { return v_add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee)); }
V_INLINE vf v_sums_2_(vf a, vf b) { return v_add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)); }
V_INLINE vf v_sums(const vf *in) {
    const vf a = v_sums_8_(v_sums_16_(in[0], in[1]), v_sums_16_(in[2], in[3]));
    const vf b = v_sums_8_(v_sums_16_(in[4], in[5]), v_sums_16_(in[6], in[7]));
    const vf c = v_sums_8_(v_sums_16_(in[8], in[9]), v_sums_16_(in[10], in[11]));
    const vf d = v_sums_8_(v_sums_16_(in[12], in[13]), v_sums_16_(in[14], in[15]));
    return v_sums_2_(v_sums_4_(a, b), v_sums_4_(c, d));
}
/* Sum and largest of the lanes of one vector, same order. */
V_INLINE float v_sum(vf a) {
    a = v_sums_16_(a, a), a = v_sums_8_(a, a), a = v_sums_4_(a, a);
    return _mm512_cvtss_f32(v_sums_2_(a, a));
}
V_INLINE float v_largest(vf a) {
    a = v_max(a, _mm512_shuffle_f32x4(a, a, 0xee)), a = v_max(a, _mm512_shuffle_f32x4(a, a, 0x55));
    a = v_max(a, _mm512_shuffle_ps(a, a, 0xee));
    return _mm512_cvtss_f32(v_max(a, _mm512_shuffle_ps(a, a, 0x55)));
}

V_INLINE vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral n in -150..128. */
V_INLINE vf v_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }

/* (a0 b0 a1 b1 ...) -> a, b and back. */
V_INLINE void v_unzip(vf lo, vf hi, vf *a, vf *b) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    *a = _mm512_permutex2var_ps(lo, even, hi);
    *b = _mm512_permutex2var_ps(lo, _mm512_add_epi32(even, _mm512_set1_epi32(1)), hi);
}
V_INLINE void v_zip(vf a, vf b, vf *lo, vf *hi) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    *lo = _mm512_permutex2var_ps(a, low, b);
    *hi = _mm512_permutex2var_ps(a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b);
}

/* VL unsigned codes of 2, 4 or 8 bits, lowest bits first, from a byte on. */
V_INLINE vf v_codes(int bits, const uint8_t *p) {
    if (bits == 8)
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
    if (bits == 4) {
        const __m128i two = _mm_loadl_epi64((const void *)p), low = _mm_set1_epi8(15);
        const __m128i one = _mm_unpacklo_epi8(_mm_and_si128(two, low), _mm_and_si128(_mm_srli_epi16(two, 4), low));
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(one));
    }
    uint32_t word;
    memcpy(&word, p, sizeof word);
    const __m512i by = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i code = _mm512_srlv_epi32(_mm512_set1_epi32((int)word), by);
    return _mm512_cvtepi32_ps(_mm512_and_si512(code, _mm512_set1_epi32(3)));
}

/* Packed weights: what a block's header says, and VL weights of it, exact. */
typedef struct v_scale8 {
    vf scale, shift; /* w = code * scale - shift */
} v_scale8;
V_INLINE v_scale8 v_q8_scale(float scale, float zero) { return (v_scale8){v_set1(scale), v_set1(scale * zero)}; }
V_INLINE vf v_q8_load(const uint8_t *codes, int64_t i, v_scale8 s) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(codes + i)));
    return v_fms(_mm512_cvtepi32_ps(code), s.scale, s.shift);
}
typedef vf v_scale4; /* the 16 values a code can have */
V_INLINE v_scale4 v_q4_scale(float scale, float zero) {
    const vf code = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return v_mul(v_sub(code, v_set1(zero)), v_set1(scale));
}
/* i is a multiple of VL; the permutation looks at the low four bits of an index only */
V_INLINE vf v_q4_load(const uint8_t *codes, int64_t i, v_scale4 table) {
    const __m512i two = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(codes + i / 32 * 16)));
    return _mm512_permutexvar_ps(i % 32 ? _mm512_srli_epi32(two, 4) : two, table);
}
V_INLINE float v_f32_of_f16(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

#include "vec_common.h"

#endif
