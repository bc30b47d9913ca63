/* tidal_select.h - which positions a list names: exact top-k and the rules around it, on plain arrays.
 *
 * A row sees n keys, in token order; the index of a key in that order is its rank, and rank n - 1 is the row itself. A
 * list is sinks [0, S), the M best of [S, n - R) and recents [n - R, n), with S + M + R = budget. Equal scores: the
 * lower rank wins, everywhere, so that lists do not depend on who computed them. Nothing here allocates. */
#ifndef TIDALDECODE_SELECT_H
#define TIDALDECODE_SELECT_H

#include <stdint.h>

#include "sluice/ops.h"

enum { TIDAL_QUERY = 0, TIDAL_KV_GROUP = 1, TIDAL_LAYER = 2 }; /* whose list it is: parameter select_heads */
enum { TIDAL_BINS = 2048 };                                    /* counters that tidal_topk needs */

typedef struct tidal_rule {
    int64_t budget;      /* B: entries of a list, the row itself included */
    int64_t min_context; /* rows that see no more keys attend to all of them; at least B */
    int64_t n_sink;      /* LAYER only */
    double middle_ratio; /* LAYER only: share of the budget that scores decide */
    int heads;           /* TIDAL_QUERY ... */
    int force_current;   /* 1: the row itself is no candidate, it is always in */
} tidal_rule;

typedef struct tidal_split {
    int64_t sinks, middle, recents; /* S, M, R */
} tidal_split;

/* The parts of a list of a row that sees more than max(budget, min_context) keys. */
tidal_split tidal_split_of(const tidal_rule *rule);

/* Indices of the min(k, n) largest of x[0, n), ascending; NaN counts as less than everything. bins: [TIDAL_BINS],
 * undefined before and after. Returns how many there are.  [any] */
int64_t tidal_topk(const float *x, int64_t n, int64_t k, uint32_t *bins, int32_t *out);

/* y = max(y, x). */
void tidal_max(float *y, const float *x, int64_t n);
/* y += exp(x - lse): the softmax of scaled scores, given their log-sum-exp. */
void tidal_add_softmax(float *y, const float *x, float lse, int64_t n);

/* x rounded to f16, nearest even. */
void tidal_round_half(const sl_ops *ops, float *x, int64_t n);

/* One list for several heads: best[h * stride + i] is the i-th best index (from 0) of head h, [n_heads, k]. They are
 * taken rank by rank - the best of head 0, of head 1 ..., then the second best of head 0 ... - and repeats dropped,
 * until there are k. Written to out ascending, with `add` added. marks: [n] bytes, where n is above every index.
 * Returns k, or fewer where the heads do not name k different ones. */
int64_t tidal_interleave(const int32_t *best, int64_t n_heads, int64_t k, int64_t stride, int64_t n, int32_t add,
                         uint8_t *marks, int32_t *out);

#endif
