/* draft_tree.h - a drafter's tree made ready: checked, its duplicates folded into shared rows, and the children of each
 * row as the list of trials that verification walks.
 *
 * A node whose path from the root spells the same tokens as that of an earlier node gets that node's row. Duplicates
 * that are DET leave the list; those that were drawn (REP, NOREP) stay in it, since refusing them is part of the law.
 * Children of a folded node become children of the shared row, behind those of its first node. Pseudo nodes are never
 * folded and in no list.
 */
#ifndef SLUICE_CORE_DRAFT_TREE_H
#define SLUICE_CORE_DRAFT_TREE_H

#include <stdint.h>

#include "sluice/step.h"

typedef struct sli_trial {
    int32_t row;         /* the child */
    uint32_t kind;       /* SL_DRAFT_* */
    int32_t group;       /* consecutive children of one node and kind; a NOREP group begins with the whole q */
    const sl_draft_q *q; /* what it was drawn from; NULL for DET */
} sli_trial;

/* Points into itself: may not be copied. */
typedef struct sli_tree {
    sl_tree rows; /* token, parent and type of the rows, for the step; kind and q are NULL */
    int32_t token[SL_MAX_TREE_NODES], parent[SL_MAX_TREE_NODES], depth[SL_MAX_TREE_NODES];
    uint32_t row_type[SL_MAX_TREE_NODES];
    int32_t row_of[SL_MAX_TREE_NODES];          /* [nodes of the draft]; the identity where there are no duplicates */
    int32_t node_of[SL_MAX_TREE_NODES];         /* [rows] the first node that has it */
    int32_t trial_begin[SL_MAX_TREE_NODES + 1]; /* [rows + 1] trials of each row, in the draft's order */
    sli_trial trial[SL_MAX_TREE_NODES];
} sli_tree;

/* root: the committed token that node 0 must be (the last one but n_forced); vocab: of the target. draft's q vectors
 * are borrowed as long as out is used. Errors name the node: SL_E_RANGE for counts and tokens, SL_E_INVALID for the
 * structure. */
sl_status sli_tree_build(const sl_tree *draft, int32_t root, int32_t vocab, sli_tree *out, sl_error *err);

#endif
