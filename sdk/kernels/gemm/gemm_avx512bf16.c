/* bf16 x bf16 with vdpbf16ps: 32 elements of k a step, products of neighbours added in f32 inside the instruction. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#define GEMM_STEP 32
typedef uint16_t gemm_x;
typedef __m512bh gemm_v;
V_INLINE __m512bh gemm_load_x(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }
V_INLINE __m512bh gemm_load_x_n(const uint16_t *p, int64_t n) {
    return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
}
V_INLINE __m512bh gemm_load_w(int kind, const void *row, int64_t k) {
    (void)kind;
    return gemm_load_x((const uint16_t *)row + k);
}
V_INLINE __m512bh gemm_load_w_n(int kind, const void *row, int64_t k, int64_t n) {
    (void)kind;
    return gemm_load_x_n((const uint16_t *)row + k, n);
}
V_INLINE void gemm_store_panel(uint16_t *p, __m512bh a) { _mm512_storeu_si512(p, (__m512i)a); }
V_INLINE vf gemm_fma(vf acc, __m512bh x, __m512bh w) { return _mm512_dpbf16_ps(acc, x, w); }
#include "gemm_vec.h"

static void gemm_bf16_bf16_avx512bf16(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_BF16, p, n0, n1); }

void slk_gemm_fill_avx512bf16(slk_kernels *k) { SLK_SET(k, gemm_bf16_bf16, gemm_bf16_bf16_avx512bf16); }
