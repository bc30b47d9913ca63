/* The shared CPU kernels: one struct of function pointers an instruction set, reference first, better variants on top.
 *
 *     const slk_kernels *k = slk_kernels_for(slk_isa_detect());
 *     k->rmsnorm(&(slk_norm){...}, 0, T);
 *     log("%s", k->rmsnorm_name);            "rmsnorm_avx512"
 *
 * No kernel allocates, blocks, keeps state or touches anything outside its arguments. Sizes and pointers are the
 * caller's responsibility (asserted in debug builds at most). All of them are safe in any thread.
 */
#ifndef SLUICE_KERNELS_H
#define SLUICE_KERNELS_H

#include "act.h"
#include "attend.h"
#include "gemm.h"
#include "isa.h"
#include "norm.h"
#include "rope.h"
#include "rows.h"
#include "select.h"

/* X(field, function type): every operation that has variants. The order is that of slk_kernel_name. */
#define SLK_KERNEL_LIST(X)                                                                                             \
    X(gemm_f32, slk_gemm_fn)       /* x f32, w f32 */                                                                  \
    X(gemm_f16, slk_gemm_fn)       /* x f32, w f16 */                                                                  \
    X(gemm_bf16, slk_gemm_fn)      /* x f32, w bf16 */                                                                 \
    X(gemm_bf16_bf16, slk_gemm_fn) /* x bf16, w bf16: vdpbf16ps where there is one */                                  \
    X(gemm_q8, slk_gemm_fn)        /* x f32, w packed in 8 bits */                                                     \
    X(gemm_q4, slk_gemm_fn)        /* x f32, w packed in 4 bits */                                                     \
    X(rmsnorm, slk_norm_fn)                                                                                            \
    X(rope, slk_rope_fn)                                                                                               \
    X(silu_mul, slk_act_fn)                                                                                            \
    X(gelu_mul, slk_act_fn)                                                                                            \
    X(softmax, slk_softmax_fn)                                                                                         \
    X(attend, slk_attend_fn)                                                                                           \
    X(attend_join, slk_attend_join_fn)                                                                                 \
    X(lse_merge, slk_lse_merge_fn)                                                                                     \
    X(argmax, slk_argmax_fn)                                                                                           \
    X(topk, slk_topk_fn)                                                                                               \
    X(dot, slk_dot_fn)                                                                                                 \
    X(axpy, slk_axpy_fn)                                                                                               \
    X(f32_of_f16, slk_widen_fn)                                                                                        \
    X(f32_of_bf16, slk_widen_fn)                                                                                       \
    X(f16_of_f32, slk_narrow_fn)                                                                                       \
    X(bf16_of_f32, slk_narrow_fn)

typedef struct slk_kernels {
    uint32_t isa; /* the flags this table was built for */
#define SLK_KERNEL_FIELD_(op, type)                                                                                    \
    type op;                                                                                                           \
    const char *op##_name;
    SLK_KERNEL_LIST(SLK_KERNEL_FIELD_)
#undef SLK_KERNEL_FIELD_
} slk_kernels;

enum {
#define SLK_KERNEL_INDEX_(op, type) SLK_KERNEL_##op,
    SLK_KERNEL_LIST(SLK_KERNEL_INDEX_)
#undef SLK_KERNEL_INDEX_
        SLK_KERNEL_COUNT
};

/* The table for a set of SLK_ISA_* flags; flags that this machine lacks are dropped. Static, never NULL.  [any] */
const slk_kernels *slk_kernels_for(uint32_t isa);

/* Name of the variant that stands in the table for operation 0..SLK_KERNEL_COUNT-1, such as "gemm_q4_avx2". Static.
 * [any] */
const char *slk_kernel_name(const slk_kernels *k, int op);

/* Y = X W^T with the kernel for p's dtypes. p->x_dtype SL_BF16 needs w_dtype SL_BF16.  [worker] */
void slk_gemm_run(const slk_kernels *k, const slk_gemm *p, int64_t n_begin, int64_t n_end);

#endif
