/* See sl_factor.h. With J the reversal of rows: J H J = R^T R (Cholesky) gives H = (J R^T J)(J R J), hence U = J R^-T
 * J, so one decomposition and one triangular inverse do, and H^-1 is never formed. */
#include "sl_factor.h"

#include <math.h>
#include <string.h>

typedef struct job {
    double *a, *work;
    int64_t n, begin, end; /* the panel: rows [begin, end) */
} job;

static void run(const sl_host *host, const sl_threads *threads, int64_t n, sl_range_fn fn, job *j) {
    if (threads != NULL && n > 2 * SL_FACTOR_PANEL)
        threads->parallel_for(host, n, 16, fn, j);
    else if (n > 0)
        fn(j, 0, n, 0);
}

static void subtract(double *y, double factor, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] -= factor * x[i];
}

/* ---- R: upper half of a, a = R^T R --------------------------------------------------------------------------------
 */

/* Rows behind the panel lose what the panel explains. */
static void update_rows(void *user, int64_t first, int64_t last, int32_t worker) {
    (void)worker;
    const job *j = user;
    for (int64_t i = j->end + first; i < j->end + last; i++)
        for (int64_t k = j->begin; k < j->end; k++)
            subtract(j->a + i * j->n + i, j->a[k * j->n + i], j->a + k * j->n + i, j->n - i);
}

static int decompose(job *j, const sl_host *host, const sl_threads *threads) {
    int64_t n = j->n;
    for (j->begin = 0; j->begin < n; j->begin = j->end) {
        j->end = j->begin + SL_FACTOR_PANEL < n ? j->begin + SL_FACTOR_PANEL : n;
        for (int64_t k = j->begin; k < j->end; k++) {
            double *row = j->a + k * n;
            if (!(row[k] > 0) || !isfinite(row[k]))
                return 0;
            double root = sqrt(row[k]);
            for (int64_t i = k; i < n; i++)
                row[i] /= root;
            for (int64_t i = k + 1; i < j->end; i++)
                subtract(j->a + i * n + i, row[i], row + i, n - i);
        }
        run(host, threads, n - j->end, update_rows, j);
    }
    return 1;
}

/* ---- R^-1, in its place --------------------------------------------------------------------------------------------
 */

/* Columns [begin + first, begin + last) of the panel's rows of the inverse; rows below are done. work holds the panel
 * of R. */
static void invert_columns(void *user, int64_t first, int64_t last, int32_t worker) {
    (void)worker;
    const job *j = user;
    int64_t n = j->n, c0 = j->begin + first, c1 = j->begin + last;
    for (int64_t i = j->begin; i < j->end; i++)
        memset(j->a + i * n + c0, 0, sizeof(double) * (size_t)(c1 - c0));
    for (int64_t k = j->end; k < c1; k++) {
        int64_t c = k > c0 ? k : c0;
        for (int64_t i = j->begin; i < j->end; i++)
            subtract(j->a + i * n + c, j->work[(i - j->begin) * n + k], j->a + k * n + c, c1 - c);
    }
    for (int64_t i = j->end - 1; i >= j->begin; i--) {
        const double *r = j->work + (i - j->begin) * n;
        double *y = j->a + i * n;
        for (int64_t k = i + 1; k < j->end; k++)
            subtract(y + c0, r[k], j->a + k * n + c0, c1 - c0);
        if (i >= c0 && i < c1)
            y[i] += 1;
        for (int64_t c = c0; c < c1; c++)
            y[c] /= r[i];
    }
}

static void invert(job *j, const sl_host *host, const sl_threads *threads) {
    int64_t n = j->n, panels = (n + SL_FACTOR_PANEL - 1) / SL_FACTOR_PANEL;
    for (int64_t p = panels - 1; p >= 0; p--) {
        j->begin = p * SL_FACTOR_PANEL;
        j->end = j->begin + SL_FACTOR_PANEL < n ? j->begin + SL_FACTOR_PANEL : n;
        memcpy(j->work, j->a + j->begin * n, sizeof(double) * (size_t)((j->end - j->begin) * n));
        run(host, threads, n - j->begin, invert_columns, j);
    }
}

sl_status sl_inverse_factor(double *h, int64_t n, double *work, const sl_host *host, const sl_threads *threads) {
    job j = {.a = h, .work = work, .n = n};
    for (int64_t i = 0, k = n * n - 1; i < k; i++, k--) { /* J H J: the elements in reverse */
        double t = h[i];
        h[i] = h[k];
        h[k] = t;
    }
    if (!decompose(&j, host, threads))
        return SL_E_DATA;
    invert(&j, host, threads);
    for (int64_t i = 0; i < n; i++) /* U[i][j] = inverse[n-1-j][n-1-i]: mirrored at the other diagonal */
        for (int64_t k = 0; k < n - 1 - i; k++) {
            double *x = h + i * n + k, *y = h + (n - 1 - k) * n + (n - 1 - i), t = *x;
            *x = *y;
            *y = t;
        }
    for (int64_t i = 1; i < n; i++)
        memset(h + i * n, 0, sizeof(double) * (size_t)i);
    return SL_OK;
}
