/* Activations of the feed-forward block and softmax. */
#ifndef SLUICE_KERNELS_ACT_H
#define SLUICE_KERNELS_ACT_H

#include <stdint.h>

typedef struct slk_act {
    const float *gate; /* [rows, n] */
    const float *up;   /* [rows, n], or NULL for ones */
    float *y;          /* [rows, n]; may be gate or up */
    int64_t ld_gate, ld_up, ldy;
    int64_t n;
} slk_act;

/* silu_mul: y = gate / (1 + exp(-gate)) * up
 * gelu_mul: the tanh form, 0.5 g (1 + tanh(u)) with u = sqrt(2/pi) (g + 0.044715 g^3), written as g / (1 + exp(-2u)),
 * times up The exponential of the vector variants is within 2 ulp. Rows [row_begin, row_end).  [worker] */
typedef void (*slk_act_fn)(const slk_act *p, int64_t row_begin, int64_t row_end);

/* x[0..n) -> exp(x - max) / sum, in place; returns log(sum exp(x)). -inf is legal and gives 0; a row of nothing but
 * -inf (or n = 0) becomes zeros and returns -inf.  [any] */
typedef float (*slk_softmax_fn)(float *x, int64_t n);

#endif
