/* Rotary position embedding of heads, in place, with cosines and sines given for each row. */
#ifndef SLUICE_KERNELS_ROPE_H
#define SLUICE_KERNELS_ROPE_H

#include <stdint.h>

typedef struct slk_rope {
    float *x;             /* [rows, heads, D], rotated in place */
    int64_t ldx;          /* elements between rows */
    int64_t ld_head;      /* elements between heads, >= n_rot */
    const float *cos_row; /* [rows, n_rot / 2] */
    const float *sin_row;
    int64_t ld_trig; /* elements between rows of cos_row and sin_row */
    int64_t heads;
    int64_t n_rot;        /* even, <= D; elements behind it stay */
    uint32_t interleaved; /* 0: pairs (i, i + n_rot/2), as Hugging Face; 1: pairs (2i, 2i + 1) */
} slk_rope;

/* Pair (a, b) -> (a cos - b sin, b cos + a sin), each product rounded before the sum. Rows [row_begin, row_end).
 * [worker] */
typedef void (*slk_rope_fn)(const slk_rope *p, int64_t row_begin, int64_t row_end);

#endif
