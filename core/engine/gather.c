/* See gather.h. The Hessian is the sum over rows of x x^T: products of a few hundred rows are made in f32 by the matrix
 * product of the engine and summed in f64, so that its error does not grow with the number of samples. */
#include "gather.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_error.h"
#include "sl_tensor.h"

sl_status sli_gather_init(sli_gather *g, const sl_calibration_wants *wants, int64_t in, int64_t expected,
                          sl_error *err) {
    const sl_host *host = g->host;
    const sl_ops *ops = g->ops;
    const sl_lane *lane = g->lane;
    const uint32_t known = SL_CALIBRATION_SUMS | SL_CALIBRATION_HESSIAN | SL_CALIBRATION_ROWS;
    if ((wants->kinds & ~known) || ((wants->kinds & SL_CALIBRATION_ROWS) && wants->max_rows < 1))
        return sl_fail(err, SL_E_INVALID, "statistics %#x of %" PRId64 " rows are not what a calibration can give",
                       wants->kinds, wants->max_rows);
    *g = (sli_gather){.host = host, .ops = ops, .lane = lane, .in = in, .expected = expected, .kinds = wants->kinds};
    g->view.struct_size = SL_SIZE(sl_calibration);
    size_t n = (size_t)in;
    int ok = 1;
    if (wants->kinds & SL_CALIBRATION_SUMS) {
        g->sum = sli_calloc(SLI_TAG_SCRATCH, n, sizeof *g->sum);
        g->sum_abs = sli_calloc(SLI_TAG_SCRATCH, n, sizeof *g->sum_abs);
        g->sum_sq = sli_calloc(SLI_TAG_SCRATCH, n, sizeof *g->sum_sq);
        g->max_abs = sli_calloc(SLI_TAG_SCRATCH, n, sizeof *g->max_abs);
        ok = g->sum != NULL && g->sum_abs != NULL && g->sum_sq != NULL && g->max_abs != NULL;
    }
    if (wants->kinds & SL_CALIBRATION_HESSIAN) {
        g->hessian = sli_calloc(SLI_TAG_SCRATCH, n * n, sizeof *g->hessian);
        g->turned = sli_calloc(SLI_TAG_SCRATCH, n * SLI_GATHER_ROWS, sizeof *g->turned);
        g->part = sli_calloc(SLI_TAG_SCRATCH, n * SLI_GATHER_STRIPE, sizeof *g->part);
        ok = ok && g->hessian != NULL && g->turned != NULL && g->part != NULL;
    }
    if (wants->kinds & SL_CALIBRATION_ROWS) {
        g->max_rows = wants->max_rows < expected ? wants->max_rows : expected;
        g->rows = sli_calloc(SLI_TAG_SCRATCH, n * (size_t)g->max_rows, sizeof *g->rows);
        ok = ok && g->rows != NULL;
    }
    if (ok)
        return SL_OK;
    sli_gather_free(g);
    return sl_fail(err, SL_E_NO_MEMORY, "no memory for the statistics of %" PRId64 " inputs", in);
}

void sli_gather_free(sli_gather *g) {
    void *owned[] = {g->sum, g->sum_abs, g->sum_sq, g->max_abs, g->hessian, g->turned, g->part, g->rows};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        sli_free(owned[i]);
    *g = (sli_gather){0};
}

static void add_sums(sli_gather *g, const float *x, int64_t n) {
    for (int64_t t = 0; t < n; t++, x += g->in)
        for (int64_t i = 0; i < g->in; i++) {
            float a = fabsf(x[i]);
            g->sum[i] += x[i];
            g->sum_abs[i] += a;
            g->sum_sq[i] += (double)x[i] * x[i];
            g->max_abs[i] = a > g->max_abs[i] ? a : g->max_abs[i];
        }
}

/* Lower half, stripe by stripe: rows [i, i + s) of it meet columns [0, i + s). */
static sl_status add_products(sli_gather *g, const float *x, int64_t n) {
    int64_t in = g->in;
    for (int64_t i = 0; i < in; i++)
        for (int64_t t = 0; t < n; t++)
            g->turned[i * n + t] = x[t * in + i];
    for (int64_t i = 0; i < in; i += SLI_GATHER_STRIPE) {
        int64_t s = in - i < SLI_GATHER_STRIPE ? in - i : SLI_GATHER_STRIPE, width = i + s;
        sl_tensor a, b, y;
        sl_tensor_make(&a, g->turned + i * n, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){s, n});
        sl_tensor_make(&b, g->turned, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){width, n});
        sl_tensor_make(&y, g->part, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){s, width});
        sl_op_gemm op = {
            .struct_size = SL_SIZE(sl_op_gemm), .lane = g->lane, .x = &a, .w = &b, .y = &y, .compute = SL_F32};
        SL_TRY(g->ops->gemm(g->host, &op));
        for (int64_t r = 0; r < s; r++)
            for (int64_t c = 0; c <= i + r; c++)
                g->hessian[(i + r) * in + c] += g->part[r * width + c];
    }
    return SL_OK;
}

/* Row r of `expected` is kept when the number of rows to be kept so far grows there: evenly spaced. */
static void keep_rows(sli_gather *g, const float *x, int64_t n) {
    for (int64_t t = 0; t < n; t++) {
        int64_t r = g->view.n_rows + t;
        if (g->view.n_kept < g->max_rows && (r + 1) * g->max_rows / g->expected > g->view.n_kept)
            memcpy(g->rows + g->view.n_kept++ * g->in, x + t * g->in, sizeof *x * (size_t)g->in);
    }
}

sl_status sli_gather_add(sli_gather *g, const float *x, int64_t n) {
    if (g->kinds & SL_CALIBRATION_SUMS)
        add_sums(g, x, n);
    for (int64_t t = 0; (g->kinds & SL_CALIBRATION_HESSIAN) && t < n; t += SLI_GATHER_ROWS)
        SL_TRY(add_products(g, x + t * g->in, n - t < SLI_GATHER_ROWS ? n - t : SLI_GATHER_ROWS));
    if (g->kinds & SL_CALIBRATION_ROWS)
        keep_rows(g, x, n);
    g->view.n_rows += n;
    return SL_OK;
}

const sl_calibration *sli_gather_finish(sli_gather *g) {
    for (int64_t i = 0; g->hessian != NULL && i < g->in; i++)
        for (int64_t j = 0; j < i; j++)
            g->hessian[j * g->in + i] = g->hessian[i * g->in + j];
    g->view.sum = g->sum;
    g->view.sum_abs = g->sum_abs;
    g->view.sum_sq = g->sum_sq;
    g->view.max_abs = g->max_abs;
    g->view.hessian = g->hessian;
    g->view.rows = g->rows;
    return &g->view;
}
