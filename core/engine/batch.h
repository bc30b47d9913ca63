/* batch.h - lays rows out as an sl_batch. All memory is taken once, for the largest step. */
#ifndef SLUICE_CORE_BATCH_H
#define SLUICE_CORE_BATCH_H

#include "sluice/step.h"

typedef struct sli_batch {
    sl_batch view;
    int32_t *seq, *row_begin, *row_seq, *token;
    int64_t *n_past, *token_index;
    uint32_t *stage, *row_type;
    float *position;
    const sl_tree **tree;
    int32_t max_seqs, max_rows;
    void *memory;
} sli_batch;

sl_status sli_batch_create(sli_batch *b, int64_t max_seqs, int64_t max_rows);
void sli_batch_destroy(sli_batch *b);

void sli_batch_clear(sli_batch *b, int32_t model, uint64_t step);

/* Adds one sequence; returns its place. Sequences of one stage must be added one after the other. tree: NULL, or a tree
 * of n nodes whose tokens are `token`. position: NULL, or [n]. */
int32_t sli_batch_add(sli_batch *b, int32_t seq, int64_t n_past, uint32_t stage, const int32_t *token, int32_t n,
                      const sl_tree *tree, const float *position);

/* Depth of each node of a tree. */
void sli_tree_depths(const sl_tree *tree, int32_t *depth);

#endif
