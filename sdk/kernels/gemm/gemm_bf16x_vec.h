/* bf16 x bf16 where there is no vdpbf16ps: both sides widened to f32 in registers. Over either vocabulary of vectors.
 */
#define GEMM_STEP VL
typedef uint16_t gemm_x;
typedef vf gemm_v;
V_INLINE vf gemm_load_x(const uint16_t *p) { return v_load_bf16(p); }
V_INLINE vf gemm_load_x_n(const uint16_t *p, int64_t n) { return v_load_bf16_n(p, n); }
V_INLINE vf gemm_load_w(int kind, const void *row, int64_t k) { return v_load_kind(kind, row, k); }
V_INLINE vf gemm_load_w_n(int kind, const void *row, int64_t k, int64_t n) { return v_load_kind_n(kind, row, k, n); }
V_INLINE void gemm_store_panel(uint16_t *p, vf a) { v_store_bf16(p, a); } /* exact: these came from bf16 */
V_INLINE vf gemm_fma(vf acc, vf x, vf w) { return v_fma(x, w, acc); }
#include "gemm_vec.h"

static void V_SUFFIX(gemm_bf16_bf16)(const slk_gemm *p, int64_t n0, int64_t n1) { gemm(KIND_BF16, p, n0, n1); }

void V_FILL(gemm_bf16x)(slk_kernels *k) { SLK_SET(k, gemm_bf16_bf16, V_SUFFIX(gemm_bf16_bf16)); }
