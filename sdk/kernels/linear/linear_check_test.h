/* What the tests of linear layers share: a product by double sums of the weights' exact values, and the device's beside
 * it. */
#ifndef SLUICE_KERNELS_LINEAR_CHECK_TEST_H
#define SLUICE_KERNELS_LINEAR_CHECK_TEST_H

#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sluice/ops.h"

typedef struct check_case {
    const char *name;
    int32_t t, n, k; /* n: outputs; act_mul: of 2 n rows of w */
    int64_t ldx, ldy;
    int bias, residual, y_bf16, act; /* residual 2: y itself; act: -1, or SL_ACT_* */
} check_case;

/* Device copies of everything but weights. x is bf16 [t, ldx]; gaps are NaN. */
typedef struct check_data {
    check_case c;
    float *x, *bias, *residual; /* on the host: x as bf16 values */
    slk_linear_params p;
} check_data;

static void *check_alloc(int64_t bytes) {
    void *p = malloc((size_t)bytes + 16);
    assert_non_null(p);
    return p;
}

static int64_t check_rows(const check_case *c) { return c->act >= 0 ? 2 * (int64_t)c->n : c->n; }

static check_data check_make(slt_host *h, check_case c) {
    const int64_t x_count = (int64_t)(c.t - 1) * c.ldx + c.k, y_count = (int64_t)(c.t - 1) * c.ldy + c.n;
    check_data d = {.c = c};
    d.x = check_alloc(x_count * 4), d.bias = check_alloc(check_rows(&c) * 4), d.residual = check_alloc(y_count * 4);
    slt_random(d.x, x_count, 11);
    slt_random(d.bias, check_rows(&c), 12);
    slt_random(d.residual, y_count, 13);
    uint16_t *x = check_alloc(x_count * 2);
    for (int64_t i = 0; i < x_count; i++) {
        x[i] = i % c.ldx < c.k ? slt_bf16(d.x[i]) : 0xffff;
        d.x[i] = slt_float(x[i]);
    }
    d.p = (slk_linear_params){.x = slt_upload(h, x, x_count * 2),
                              .y = c.residual == 2 ? slt_upload(h, d.residual, y_count * 4)
                                                   : slt_device(h, y_count * (c.y_bf16 ? 2 : 4)),
                              .bias = c.bias ? slt_upload(h, d.bias, check_rows(&c) * 4) : NULL,
                              .ldx = c.ldx,
                              .ldy = c.ldy,
                              .ldr = c.ldy,
                              .t = c.t,
                              .n = c.n,
                              .k = c.k,
                              .y_bf16 = (uint32_t)c.y_bf16,
                              .act_mul = c.act >= 0,
                              .act = c.act >= 0 ? (uint32_t)c.act : 0};
    if (c.residual)
        d.p.residual = c.residual == 2 ? d.p.y : slt_upload(h, d.residual, y_count * 4);
    free(x);
    return d;
}

static void check_free(check_data *d) { free(d->x), free(d->bias), free(d->residual); }

static double check_act(int act, double x) {
    const double u = 0.79788456080286536 * (x + 0.044715 * x * x * x);
    return act == SL_ACT_SILU        ? x / (1 + exp(-x))
           : act == SL_ACT_RELU      ? (x > 0 ? x : 0)
           : act == SL_ACT_GELU_TANH ? 0.5 * x * (1 + tanh(u))
                                     : 0.5 * x * (1 + erf(x * 0.70710678118654752));
}

/* One sum, and the sum of its terms' sizes. x: [t, ldx]. */
static double check_sum(const check_data *d, const float *x, const float *w, int64_t t, int64_t row, double *size) {
    double sum = 0;
    *size = 1e-30;
    for (int64_t k = 0; k < d->c.k; k++) {
        const double v = (double)x[t * d->c.ldx + k] * w[row * d->c.k + k];
        sum += v;
        *size += fabs(v);
    }
    if (d->c.bias)
        sum += d->bias[row], *size += fabs((double)d->bias[row]);
    return sum;
}

/* y of the device as f32, gaps included. */
static float *check_get(slt_host *h, const check_data *d) {
    const int64_t count = (int64_t)(d->c.t - 1) * d->c.ldy + d->c.n;
    float *y = check_alloc(count * 4);
    slt_download(h, y, d->p.y, count * (d->c.y_bf16 ? 2 : 4));
    if (d->c.y_bf16)
        for (int64_t i = count; i-- > 0;)
            y[i] = slt_float(((uint16_t *)y)[i]);
    return y;
}

/* Compares with weights w [rows, k] and x (d->x, or what it was rounded to); eps: of a sum, relative to its terms'
 * sizes. */
static void check_values(slt_host *h, const check_data *d, const float *x, const float *w, double eps) {
    float *y = check_get(h, d);
    double worst = 0;
    for (int64_t t = 0; t < d->c.t; t++)
        for (int64_t n = 0; n < d->c.ldy; n++) {
            if (n >= d->c.n) { /* a gap keeps its poison, or residual, of which y is made */
                if (t + 1 < d->c.t && d->c.residual != 2 && !isnan(y[t * d->c.ldy + n]))
                    fail_msg("%s: T %d N %d K %d: row %d: something was written in the gap", d->c.name, d->c.t, d->c.n,
                             d->c.k, (int)t);
                continue;
            }
            double size, size_up, want = check_sum(d, x, w, t, n, &size), may = size * eps;
            if (d->c.act >= 0) {
                const double up = check_sum(d, x, w, t, n + d->c.n, &size_up), gate = want;
                want = check_act(d->c.act, gate) * up;
                /* slopes of the activations are below 1.2 */
                may = 1.2 * size * eps * (fabs(up) + size_up * eps) + fabs(check_act(d->c.act, gate)) * size_up * eps +
                      1e-5 * fabs(want) + 2e-6 * (fabs(up) + 1);
            }
            if (d->c.residual)
                want += d->residual[t * d->c.ldy + n], may += 1e-6 * (fabs(want) + 1);
            may += d->c.y_bf16 ? fabs(want) / 200 : 1e-6 * fabs(want);
            const double off = fabs(y[t * d->c.ldy + n] - want) / may;
            if (!(off <= 1))
                fail_msg("%s: T %d N %d K %d strides %d %d bias %d residual %d bf16 %d act %d: row %d, output %d: %g, "
                         "expected %g within %g",
                         d->c.name, d->c.t, d->c.n, d->c.k, (int)d->c.ldx, (int)d->c.ldy, d->c.bias, d->c.residual,
                         d->c.y_bf16, d->c.act, (int)t, (int)n, (double)y[t * d->c.ldy + n], want, may);
            worst = off > worst ? off : worst;
        }
    print_message("%s: T %d N %d K %d: largest error %.2f of what is allowed\n", d->c.name, d->c.t, d->c.n, d->c.k,
                  worst);
    free(y);
}

/* As kind: the kernel of batches. */
enum { CHECK_BATCH = 100 };

static sl_status check_run(slt_host *h, int kind, const slk_linear_params *p) {
    return kind == CHECK_BATCH ? slk_cuda_linear_batch(&h->k, h->lane, p) : slk_cuda_linear(&h->k, h->lane, kind, p);
}

/* Rows computed alone, and in calls of `together` rows, are bit-equal to those of d (f32, no residual). */
static void check_alone(slt_host *h, const check_data *d, int kind, int together) {
    float *y = check_get(h, d), *one = check_alloc((int64_t)together * d->c.ldy * 4);
    for (int t = 0; t + together <= d->c.t; t += together) {
        slk_linear_params p = d->p;
        const int64_t count = (int64_t)(together - 1) * d->c.ldy + d->c.n;
        p.x = (const char *)p.x + t * p.ldx * (kind == SLK_LINEAR_E4M3 ? 1 : 2);
        p.x_scale = p.x_scale != NULL ? p.x_scale + t : NULL;
        p.y = slt_device(h, count * 4);
        p.t = together;
        assert_int_equal(check_run(h, kind, &p), SL_OK);
        slt_download(h, one, p.y, count * 4);
        for (int i = 0; i < together; i++)
            for (int n = 0; n < d->c.n; n++)
                if (memcmp(&one[i * d->c.ldy + n], &y[(t + i) * d->c.ldy + n], 4) != 0)
                    fail_msg("%s: T %d N %d K %d: row %d, output %d: %.9g among %d rows, %.9g among %d", d->c.name,
                             d->c.t, d->c.n, d->c.k, t + i, n, (double)y[(t + i) * d->c.ldy + n], d->c.t,
                             (double)one[i * d->c.ldy + n], together);
    }
    free(y), free(one);
}

#endif
