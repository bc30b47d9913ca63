/* Matrix products of the linear layers: Y[T,N] = X[T,K] * W[N,K]^T with W in f32, f16, bf16 or packed in 8 or 4 bits.
 *
 * Weights are used in place, row-major as checkpoints store them. A call covers a range of outputs [n_begin, n_end), so
 * that a thread pool can split N.
 *
 * Determinism: within one instruction set and weight type, an output is one chain of fused multiply-adds in ascending k
 * (lane = k mod vector length) and one fixed horizontal sum. It does not depend on T, on the row's place in the call,
 * or on how N is split: one row computed alone is bit-equal to the same row computed among 64. Packed weights are
 * expanded to f32 exactly (an f16 scale times at most 9 bits fits f32), so a product with packed weights is bit-equal
 * to the f32 product with the weights that slk_q_unpack gives.
 */
#ifndef SLUICE_KERNELS_GEMM_H
#define SLUICE_KERNELS_GEMM_H

#include "gemm_pack.h"
#include "sluice/sl.h"

typedef struct slk_gemm {
    const void *x;         /* [T,K] f32, or bf16 bits for the bf16 x bf16 product; aligned to its element */
    int64_t ldx;           /* elements between rows of x, >= K */
    const void *w;         /* [N,K] row-major, aligned to its element; packed: as slk_q_pack wrote it */
    int64_t ldw;           /* elements between rows of w, >= K; packed: not used */
    float *y;              /* [T,N] f32; must not overlap x or w */
    int64_t ldy;           /* elements between rows of y, >= N */
    int64_t T, N, K;       /* >= 0; K = 0 gives zero plus the epilogue */
    const float *bias;     /* [N] or NULL */
    const float *residual; /* [T,N], added after the bias, or NULL; may be y */
    int64_t ldr;           /* elements between rows of residual */
    slk_q_format q;        /* packed weights only */
    uint32_t x_dtype;      /* SL_F32 or SL_BF16 */
    uint32_t w_dtype;      /* SL_F32, SL_F16, SL_BF16, or SLK_W_PACKED */
    uint32_t accumulate;   /* not 0: y += instead of y = */
} slk_gemm;

enum { SLK_W_PACKED = 0x100 }; /* beside the sl_dtype values: format in slk_gemm.q */

/* Outputs [n_begin, n_end) of all T rows; 0 <= n_begin <= n_end <= N.  [worker] */
typedef void (*slk_gemm_fn)(const slk_gemm *p, int64_t n_begin, int64_t n_end);

#endif
