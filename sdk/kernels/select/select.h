/* Largest elements of a row: argmax and top-k, with ties resolved for the lower index. NaN counts as -inf. */
#ifndef SLUICE_KERNELS_SELECT_H
#define SLUICE_KERNELS_SELECT_H

#include <stdint.h>

/* Index of the largest of x[0..n), the lowest one of equals; n >= 1. All NaN or -inf: 0.  [any] */
typedef int32_t (*slk_argmax_fn)(const float *x, int64_t n);

/* The k largest of x[0..n), descending, equals in ascending order of index. Writes min(k, n) values and indices (NaN as
 * -inf) and returns how many. k >= 0; values may be NULL.  [any] */
typedef int64_t (*slk_topk_fn)(const float *x, int64_t n, int64_t k, float *values, int32_t *index);

#endif
