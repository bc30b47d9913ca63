/* swift_search.h - the skip set and the search for a better one, section "Optimise" of the paper. Knows nothing of
 * models: a set is proposed, somebody scores it, the score is told.
 *
 * A skip set z has 2 (L - 2) coordinates: the attention of layers 1 .. L - 2, then their FFN; 1: skipped. First and
 * last layer always run. */
#ifndef SWIFT_SWIFT_SEARCH_H
#define SWIFT_SWIFT_SEARCH_H

#include "sluice/host.h"

#include "swift_gp.h"

static inline int32_t swift_dim(int32_t n_layers) { return n_layers > 2 ? 2 * (n_layers - 2) : 0; }
/* S of the paper, rounded down. */
static inline int32_t swift_n_skipped(int32_t n_layers, double ratio) { return (int32_t)(swift_dim(n_layers) * ratio); }

typedef struct swift_rules {
    double max_score;
    int64_t bayes_interval, max_opt_iter, max_tolerance_iter;
    uint64_t seed;
    int32_t n_layers, n_skipped; /* S: how many ones the proposed sets have */
    int32_t bayes;
} swift_rules;

typedef struct swift_search {
    swift_rules rules;
    double (*uniform)(uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose, uint32_t child);
    uint8_t *z, *tried; /* [dim] the set in use, and the one that is being scored */
    double *point;      /* [dim] as the Gaussian process knows the tried one */
    double *other;      /* [dim] */
    int32_t *order;     /* [dim] */
    swift_gp gp;        /* cap 0 without bayes */
    double best;        /* score of the best set so far; 0: none was scored */
    int64_t opt_iter, tolerance, n_bayes, n_kept;
    int32_t dim, done;
} swift_search;

/* Bytes that swift_search_place takes of zeroed memory. */
int64_t swift_search_bytes(const swift_rules *rules);
/* z begins as layers 1, 3, 5 ... in both halves; empty when no sub-layer is to be skipped. Then, or when all are, there
 * is nothing to search. */
void swift_search_place(swift_search *s, const swift_rules *rules, void *memory);

/* Makes `tried` from z': every bayes_interval-th time by the Gaussian process, else drawn at random. */
void swift_search_propose(swift_search *s);
/* The score of `tried`. Returns 1 when it has become the set in use. */
int swift_search_tell(swift_search *s, double score);

/* Masks of a set, as work items have them: [n_layers] 1: runs. */
void swift_masks(const uint8_t *z, int32_t n_layers, uint32_t *attn, uint32_t *ffn);

/* Everything that a later search goes on from, as bytes; they fit only the same model and S. Returns the size; writes
 * and reads at most `bytes`. load: 0 when they do not fit. */
int64_t swift_search_save(const swift_search *s, void *out, int64_t bytes);
int swift_search_load(swift_search *s, const void *in, int64_t bytes);

#endif
