/* Division of attention's scratch: one tile of queries (rows x group) and one block of keys. */
#ifndef SLUICE_KERNELS_ATTEND_SCRATCH_H
#define SLUICE_KERNELS_ATTEND_SCRATCH_H

#include "attend.h"

enum { ATTEND_TILE = 64, ATTEND_PAD = 16 }; /* queries a tile when the group is smaller; row padding in floats */

static inline int64_t attend_pad(int64_t n) { return (n + ATTEND_PAD - 1) / ATTEND_PAD * ATTEND_PAD; }
static inline int64_t attend_tile_rows(int64_t group) { return group < ATTEND_TILE ? ATTEND_TILE / group : 1; }

typedef struct attend_scratch {
    int64_t ld_k, ld_v;  /* floats between rows of k, and of v and o */
    float *k, *v;        /* [BLOCK, ld_k], [BLOCK, ld_v]: the block widened to f32 */
    float *p;            /* [queries, BLOCK]: scores, then exponentials */
    float *o;            /* [queries, ld_v]: of this part, not normalised */
    float *max, *sum;    /* [queries]: of this part */
    float *base, *decay; /* [queries]: what exponents are taken against, and the factor on what was summed before */
    float *all_max, *all_sum; /* [queries]: of the parts joined so far; their o is in the output */
} attend_scratch;

static inline int64_t attend_scratch_floats(int64_t group, int64_t d_k, int64_t d_v) {
    const int64_t q = attend_pad(attend_tile_rows(group) * group), k = attend_pad(d_k), v = attend_pad(d_v);
    return SLK_ATTEND_BLOCK * (k + v) + q * (SLK_ATTEND_BLOCK + v + 6) +
           ATTEND_PAD; /* ref needs 2 + d_v and a row, less than that */
}

static inline attend_scratch attend_scratch_split(float *at, int64_t group, int64_t d_k, int64_t d_v) {
    const int64_t q = attend_pad(attend_tile_rows(group) * group), k = attend_pad(d_k), v = attend_pad(d_v);
    attend_scratch s = {.ld_k = k, .ld_v = v};
    s.k = at, at += SLK_ATTEND_BLOCK * k;
    s.v = at, at += SLK_ATTEND_BLOCK * v;
    s.p = at, at += q * SLK_ATTEND_BLOCK;
    s.o = at, at += q * v;
    s.max = at, s.sum = at + q, s.base = at + 2 * q, s.decay = at + 3 * q, s.all_max = at + 4 * q,
    s.all_sum = at + 5 * q;
    return s;
}

#endif
