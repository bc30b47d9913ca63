/* cuBLASLt, opened at run time when the first matrix product is planned: the library's functions, and one planned
 * product as cuda_cublaslt.c (the library, plans of row counts) and cuda_gemm.c (the entries of "sl.exec/1") share it.
 */
#ifndef SLUICE_CORE_CUDA_CUBLASLT_H
#define SLUICE_CORE_CUDA_CUBLASLT_H

#include <cublasLt.h>

#include "cuda_state.h"

#define SLI_CUBLASLT_FUNCTIONS(X)                                                                                      \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtDestroy)                                                                                                 \
    X(cublasLtGetVersion)                                                                                              \
    X(cublasLtGetStatusName)                                                                                           \
    X(cublasLtMatmul)                                                                                                  \
    X(cublasLtMatmulDescCreate)                                                                                        \
    X(cublasLtMatmulDescDestroy)                                                                                       \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatrixLayoutCreate)                                                                                      \
    X(cublasLtMatrixLayoutDestroy)                                                                                     \
    X(cublasLtMatmulPreferenceCreate)                                                                                  \
    X(cublasLtMatmulPreferenceDestroy)                                                                                 \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    X(cublasLtMatmulAlgoGetHeuristic)

typedef struct sli_cublaslt_api {
#define SLI_CUBLASLT_MEMBER_(name) __typeof__(&name) name;
    SLI_CUBLASLT_FUNCTIONS(SLI_CUBLASLT_MEMBER_)
#undef SLI_CUBLASLT_MEMBER_
} sli_cublaslt_api;

struct sli_cublaslt {
    sli_cublaslt_api fn;
    cublasLtHandle_t handle;
    void *workspace;     /* SLI_CUBLASLT_WORKSPACE bytes; products of the compute lane run one after the other */
    sl_gemm_impl *gemms; /* all that exist */
};
enum { SLI_CUBLASLT_WORKSPACE = 32 << 20 };

/* What a plan depends on besides its product. */
typedef struct sli_gemm_key {
    int64_t rows, ldx, ldy, ldr;
    uint32_t align; /* logarithms of the alignment of x, w, y, residual and bias in bytes, 4 bits each, at most 8 */
    uint32_t unused;
} sli_gemm_key;

typedef struct sli_gemm_plan {
    sli_gemm_key key;
    cublasLtMatrixLayout_t w, x, residual, y; /* NULL: the place is free */
    cublasLtMatmulAlgo_t algo;
} sli_gemm_plan;

enum { SLI_GEMM_PLANS = 128, SLI_GEMM_CANDIDATES = 12 };

struct sl_gemm_impl {
    sli_cuda *cuda;
    sl_gemm_impl *next;
    sl_gemm_desc desc;
    cublasLtMatmulDesc_t matmul;
    cudaDataType_t x_type, w_type, y_type;
    uint32_t integer;                 /* alpha and beta are integers */
    int32_t n_plans, n_tuned, oldest; /* the first n_tuned plans stay */
    sli_gemm_plan plans[SLI_GEMM_PLANS];
};

/* Where a product's operands lie. */
typedef struct sli_gemm_operands {
    const void *x, *w, *residual; /* residual NULL: none */
    void *y;
} sli_gemm_operands;

sl_status sli_cublaslt_open(sli_cuda *cuda, sl_error *err);
/* Fails with the library's name of the status and what was being done. */
sl_status sli_cublaslt_check(const sl_gemm_impl *gemm, cublasStatus_t result, sl_error *err, const char *what,
                             int64_t rows);
/* The plan for that key, made now if there is none: on the host alone, so that a capture may ask. tune: candidates are
 * timed on these operands (contents are overwritten), outside of a capture; NULL: the library's first. */
sl_status sli_gemm_plan_for(sl_gemm_impl *gemm, const sli_gemm_key *key, const sli_gemm_operands *tune,
                            const sli_gemm_plan **out, sl_error *err);
sl_status sli_gemm_queue(sl_gemm_impl *gemm, const sli_gemm_plan *plan, const cublasLtMatmulAlgo_t *algo,
                         const sli_gemm_operands *at, sl_error *err);
void sli_gemm_free(sl_gemm_impl *gemm);

#endif
