/* See quantile.h. */
#include "quantile.h"

#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void sort_ascending(double *v, int64_t n) {
    if (n > 0)
        qsort(v, (size_t)n, sizeof *v, ascending);
}

double quantile_of_sorted(const double *v, int64_t n, double share) {
    double at = share * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

double median_of_sorted(const double *v, int64_t n) { return (v[(n - 1) / 2] + v[n / 2]) / 2; }
