/* gather.h - what calibration keeps of the inputs of one group of linears: sums, the Hessian, rows. */
#ifndef SLUICE_CORE_GATHER_H
#define SLUICE_CORE_GATHER_H

#include "sluice/packing.h"
#include "sluice/ops.h"

typedef struct sli_gather {
    const sl_host *host;
    const sl_ops *ops;
    const sl_lane *lane;
    sl_calibration view; /* n_samples is set by the caller */
    int64_t in, expected, max_rows;
    double *sum, *sum_abs, *sum_sq, *hessian;
    float *max_abs, *rows;
    float *turned; /* [in, SLI_GATHER_ROWS] a few inputs, transposed */
    float *part;   /* [SLI_GATHER_STRIPE, in] products of these inputs */
    uint32_t kinds;
} sli_gather;

enum { SLI_GATHER_ROWS = 256, SLI_GATHER_STRIPE = 256 };

/* expected: rows that will come. SL_E_INVALID: it wants what there is not; SL_E_NO_MEMORY. [setup] */
sl_status sli_gather_init(sli_gather *g, const sl_calibration_wants *wants, int64_t in, int64_t expected,
                          sl_error *err);
/* x [n, in]; takes no memory. */
sl_status sli_gather_add(sli_gather *g, const float *x, int64_t n);
/* Completes the view. */
const sl_calibration *sli_gather_finish(sli_gather *g);
void sli_gather_free(sli_gather *g); /* all-zero is legal, leaves it all-zero */

#endif
