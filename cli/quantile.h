/* quantile.h - order statistics of measured values. */
#ifndef SLUICE_CLI_QUANTILE_H
#define SLUICE_CLI_QUANTILE_H

#include <stdint.h>

void sort_ascending(double *v, int64_t n);
/* Of n >= 1 sorted values; between the two nearest where none stands at that share (0 .. 1). */
double quantile_of_sorted(const double *v, int64_t n, double share);
/* Of n >= 1 sorted values; of an even number the mean of the two in the middle. */
double median_of_sorted(const double *v, int64_t n);

#endif
