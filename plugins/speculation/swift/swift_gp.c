/* See swift_gp.h. Plain loops: n points cost n^3 / 6 multiplications a length scale. */
#include "swift_gp.h"

#include <math.h>
#include <string.h>

enum { GRID = 11, REFINE = 24 };

int64_t swift_gp_size(int32_t dim, int64_t cap) { return cap * dim + 3 * cap + cap * cap; }

void swift_gp_place(swift_gp *gp, int32_t dim, int64_t cap, double *memory) {
    *gp = (swift_gp){.x = memory, .dim = dim, .cap = cap, .length = 1, .deviation = 1};
    gp->y = gp->x + cap * dim;
    gp->weight = gp->y + cap;
    gp->solve = gp->weight + cap;
    gp->factor = gp->solve + cap;
}

void swift_gp_tell(swift_gp *gp, const double *x, double y) {
    if (gp->n >= gp->cap)
        return;
    memcpy(gp->x + gp->n * gp->dim, x, sizeof *x * (size_t)gp->dim);
    gp->y[gp->n++] = y;
}

/* k(a, b) = (1 + s + s^2 / 3) exp(-s), s = sqrt(5) |a - b| / length */
static double kernel(const swift_gp *gp, const double *a, const double *b) {
    double square = 0;
    for (int32_t i = 0; i < gp->dim; i++)
        square += (a[i] - b[i]) * (a[i] - b[i]);
    double s = sqrt(5 * square) / gp->length;
    return (1 + s + s * s / 3) * exp(-s);
}

/* L z = b, in place. */
static void forward(const swift_gp *gp, double *b) {
    for (int64_t i = 0; i < gp->n; i++) {
        const double *row = gp->factor + i * gp->cap;
        double sum = b[i];
        for (int64_t j = 0; j < i; j++)
            sum -= row[j] * b[j];
        b[i] = sum / row[i];
    }
}

/* L^T z = b, in place. */
static void backward(const swift_gp *gp, double *b) {
    for (int64_t i = gp->n - 1; i >= 0; i--) {
        b[i] /= gp->factor[i * gp->cap + i];
        for (int64_t j = 0; j < i; j++)
            b[j] -= gp->factor[i * gp->cap + j] * b[i];
    }
}

static void normalise(swift_gp *gp) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < gp->n; i++)
        sum += gp->y[i];
    gp->mean = sum / (double)gp->n;
    for (int64_t i = 0; i < gp->n; i++)
        square += (gp->y[i] - gp->mean) * (gp->y[i] - gp->mean);
    gp->deviation = sqrt(square / (double)gp->n);
    if (!(gp->deviation > 0))
        gp->deviation = 1;
}

void swift_gp_fit_length(swift_gp *gp, double length) {
    gp->length = length;
    normalise(gp);
    double log_det = 0, quadratic = 0;
    for (int64_t i = 0; i < gp->n; i++) {
        double *row = gp->factor + i * gp->cap;
        for (int64_t j = 0; j <= i; j++) {
            const double *other = gp->factor + j * gp->cap;
            double sum = kernel(gp, gp->x + i * gp->dim, gp->x + j * gp->dim) + (i == j ? SWIFT_GP_NOISE : 0);
            for (int64_t k = 0; k < j; k++)
                sum -= row[k] * other[k];
            row[j] = i == j ? sqrt(sum) : sum / other[j]; /* the noise keeps it positive */
        }
        log_det += log(row[i]);
    }
    for (int64_t i = 0; i < gp->n; i++)
        gp->weight[i] = (gp->y[i] - gp->mean) / gp->deviation;
    forward(gp, gp->weight);
    for (int64_t i = 0; i < gp->n; i++)
        quadratic += gp->weight[i] * gp->weight[i];
    backward(gp, gp->weight);
    gp->likelihood = -0.5 * quadratic - log_det - 0.5 * (double)gp->n * log(2 * 3.14159265358979323846);
}

static double likelihood_at(swift_gp *gp, double log_length) {
    swift_gp_fit_length(gp, pow(10, log_length));
    return gp->likelihood;
}

/* Points are at least 1 apart or equal, mostly: below 0.01 and above 1000 the kernel no longer changes. A grid over the
 * logarithm, then the golden section around its best point. */
void swift_gp_fit(swift_gp *gp) {
    double best = -2, at_best = -INFINITY;
    for (int i = 0; i < GRID; i++) {
        double at = -2 + 0.5 * i, value = likelihood_at(gp, at);
        if (value > at_best)
            best = at, at_best = value;
    }
    const double ratio = 0.6180339887498949;
    double lo = best - 0.5, hi = best + 0.5;
    double a = hi - ratio * (hi - lo), b = lo + ratio * (hi - lo), fa = likelihood_at(gp, a), fb = likelihood_at(gp, b);
    for (int i = 0; i < REFINE; i++) {
        if (fa < fb) {
            lo = a, a = b, fa = fb;
            fb = likelihood_at(gp, b = lo + ratio * (hi - lo));
        } else {
            hi = b, b = a, fb = fa;
            fa = likelihood_at(gp, a = hi - ratio * (hi - lo));
        }
    }
    double middle = 0.5 * (lo + hi);
    likelihood_at(gp, likelihood_at(gp, middle) >= at_best ? middle : best);
}

void swift_gp_predict(swift_gp *gp, const double *x, double *mean, double *deviation) {
    double sum = 0, explained = 0;
    for (int64_t i = 0; i < gp->n; i++) {
        gp->solve[i] = kernel(gp, x, gp->x + i * gp->dim);
        sum += gp->solve[i] * gp->weight[i];
    }
    forward(gp, gp->solve);
    for (int64_t i = 0; i < gp->n; i++)
        explained += gp->solve[i] * gp->solve[i];
    *mean = sum * gp->deviation + gp->mean;
    *deviation = explained < 1 ? sqrt(1 - explained) * gp->deviation : 0;
}

double swift_gp_bound(swift_gp *gp, const double *x) {
    double mean, deviation;
    swift_gp_predict(gp, x, &mean, &deviation);
    return mean + SWIFT_GP_KAPPA * deviation;
}
