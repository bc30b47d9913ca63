/* How the operations' files put their variants into a table. Private to sdk/kernels. */
#ifndef SLUICE_KERNELS_FILL_H
#define SLUICE_KERNELS_FILL_H

#include "kernels.h"

/* Put function `fn` into field `op`; the function's name is the name of the variant. */
#define SLK_SET(k, op, fn) SLK_SET_(k, op, fn)
#define SLK_SET_(k, op, fn) ((k)->op = (fn), (k)->op##_name = #fn)

/* One function a file; those of an instruction set are called only where it exists. */
#define SLK_FILL_LIST(X) X(gemm) X(gemm_bf16x) X(norm) X(rope) X(act) X(attend) X(select) X(rows)
#define SLK_FILL_DECLARE_(op)                                                                                          \
    void slk_##op##_fill_ref(slk_kernels *k);                                                                          \
    void slk_##op##_fill_avx2(slk_kernels *k);                                                                         \
    void slk_##op##_fill_avx512(slk_kernels *k);
SLK_FILL_LIST(SLK_FILL_DECLARE_)
#undef SLK_FILL_DECLARE_
void slk_gemm_fill_avx512bf16(slk_kernels *k);

#endif
