/* Rows of an embedding table for the tokens of a step, as f32. */
#ifndef SLUICE_KERNELS_EMBED_CUDA_H
#define SLUICE_KERNELS_EMBED_CUDA_H

#include <stdint.h>

typedef struct slk_embed_params {
    const void *table;      /* [vocab, n] of the kernel's dtype */
    float *x;               /* [rows, n]; zeros for padding, and where there is no token */
    const int32_t *row_seq; /* [rows] of the step; -1: padding */
    const int32_t *token;   /* [rows] of the step; outside of [0, vocab): none */
    int64_t ld_table, ldx;  /* elements */
    int32_t vocab, n;
    uint32_t wide; /* set by the launcher */
    uint32_t reserved0;
} slk_embed_params;

/* By dtype of the table. */
#define SLK_EMBED_KERNELS(X)                                                                                           \
    X(embed_f32, slk_embed_params, 0, 1, embed)                                                                        \
    X(embed_f16, slk_embed_params, 0, 1, embed)                                                                        \
    X(embed_bf16, slk_embed_params, 0, 1, embed)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* Table: F32, F16 or BF16, else SL_E_UNIMPLEMENTED. */
sl_status slk_cuda_embed(const struct slk_cuda *k, const sl_lane *lane, const slk_embed_params *p, int64_t rows,
                         sl_dtype table_dtype);
#endif

#endif
