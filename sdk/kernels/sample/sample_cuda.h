/* The next token of rows of logits on the device: greedy, or drawn from the distribution that temperature, top-k, top-p
 * and min-p leave, in this order; equal logits: the lower id first. Rows with penalties or bias are the host's
 * business. */
#ifndef SLUICE_KERNELS_SAMPLE_CUDA_H
#define SLUICE_KERNELS_SAMPLE_CUDA_H

#include <stdint.h>

enum {
    SLK_SAMPLE_CLUSTER = 8,
    SLK_SAMPLE_CACHED = 34816 /* most logits of a block that are kept in shared memory */
};

/* How a row is sampled, in device memory. */
typedef struct slk_sample_row {
    double temperature;  /* 0: the largest logit */
    double top_p, min_p; /* top_p outside of (0, 1), min_p 0: not used */
    double u;            /* in [0, 1): what decides */
    int32_t top_k;       /* 0 or less, or the vocabulary or more: not used */
    uint32_t reserved0;
} slk_sample_row;

typedef struct slk_sample_params {
    const float *logits;       /* [rows, n]; -inf: a banned token */
    const slk_sample_row *how; /* [rows] */
    int32_t *token;            /* [rows]; -1: the row holds a NaN or +inf, or nothing but -inf */
    int64_t stride;            /* elements between rows of logits */
    int32_t n;
    /* set by the launcher */
    int32_t chunk;
    uint32_t cached;
    uint32_t reserved0;
} slk_sample_params;

#define SLK_SAMPLE_KERNELS(X) X(sample, slk_sample_params, 4 * SLK_SAMPLE_CACHED, SLK_SAMPLE_CLUSTER, sample)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* SL_E_INVALID: no vocabulary, or more than 2^22 tokens. */
sl_status slk_cuda_sample(const struct slk_cuda *k, const sl_lane *lane, const slk_sample_params *p, int64_t rows);
#endif

#endif
