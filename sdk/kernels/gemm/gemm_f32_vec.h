/* The products with x in f32, over either vocabulary of vectors. */
#define GEMM_STEP VL
#define GEMM_PACKED 1
typedef float gemm_x;
typedef vf gemm_v;
V_INLINE vf gemm_load_x(const float *p) { return v_load(p); }
V_INLINE vf gemm_load_x_n(const float *p, int64_t n) { return v_load_n(p, n); }
V_INLINE vf gemm_load_w(int kind, const void *row, int64_t k) { return v_load_kind(kind, row, k); }
V_INLINE vf gemm_load_w_n(int kind, const void *row, int64_t k, int64_t n) { return v_load_kind_n(kind, row, k, n); }
V_INLINE void gemm_store_panel(float *p, vf a) { v_store(p, a); }
V_INLINE vf gemm_fma(vf acc, vf x, vf w) { return v_fma(x, w, acc); }
#include "gemm_vec.h"

static void V_SUFFIX(gemm_f32)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_F32, p, n0, n1); }
static void V_SUFFIX(gemm_f16)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_F16, p, n0, n1); }
static void V_SUFFIX(gemm_bf16)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_BF16, p, n0, n1); }
static void V_SUFFIX(gemm_q8)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_Q8, p, n0, n1); }
static void V_SUFFIX(gemm_q4)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_Q4, p, n0, n1); }

void V_FILL(gemm)(slk_kernels *k) {
    SLK_SET(k, gemm_f32, V_SUFFIX(gemm_f32));
    SLK_SET(k, gemm_f16, V_SUFFIX(gemm_f16));
    SLK_SET(k, gemm_bf16, V_SUFFIX(gemm_bf16));
    SLK_SET(k, gemm_q8, V_SUFFIX(gemm_q8));
    SLK_SET(k, gemm_q4, V_SUFFIX(gemm_q4));
}
