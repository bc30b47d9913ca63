/* RMS norm of rows, as Llama has it: y = w * (x * rsqrt(mean(x^2) + eps)).
 *
 * With `residual`: first residual += x, then y is the norm of residual. For the norms of query and key heads call it
 * with one row a head (n = head size, ldx = distance of heads). Rows do not influence each other.
 */
#ifndef SLUICE_KERNELS_NORM_H
#define SLUICE_KERNELS_NORM_H

#include <stdint.h>

typedef struct slk_norm {
    const float *x;        /* [rows, n] */
    float *y;              /* [rows, n]; may be x */
    float *residual;       /* [rows, n], read and written, or NULL; must not overlap y */
    const float *w;        /* [n], or NULL for ones */
    int64_t ldx, ldy, ldr; /* elements between rows */
    int64_t n;             /* row length, >= 1 */
    float eps;
} slk_norm;

/* Rows [row_begin, row_end).  [worker] */
typedef void (*slk_norm_fn)(const slk_norm *p, int64_t row_begin, int64_t row_end);

#endif
