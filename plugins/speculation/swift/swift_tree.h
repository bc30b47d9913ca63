/* swift_tree.h - the draft of one sequence: a backbone that follows the skipped model, with siblings that are leaves.
 *
 * Behind the backbone token of depth j come w_j children, the first of which goes on; w_j and whether to go on depend
 * on the confidence c_j of the first child and on nothing that is still to be drawn, so that children that were drawn
 * stay exact (NOREP). */
#ifndef SWIFT_SWIFT_TREE_H
#define SWIFT_SWIFT_TREE_H

#include "sluice/speculation.h"

enum { SWIFT_NOREP = 0, SWIFT_DET = 1 }; /* how a sampled tree is declared */

typedef struct swift_tree_rules {
    const sl_host *host;
    const sl_sample *sample;
    double stop_threshold;
    int32_t vocab, max_draft, topk, verify;
} swift_tree_rules;

typedef struct swift_tree {
    int32_t token[SL_MAX_TREE_NODES], parent[SL_MAX_TREE_NODES], path[SL_MAX_TREE_NODES];
    uint32_t kind[SL_MAX_TREE_NODES];
    sl_draft_q q[SL_MAX_TREE_NODES]; /* of the children of the backbone token of that depth */
    const sl_draft_q *q_of[SL_MAX_TREE_NODES];
    int32_t *id;    /* [max_draft, vocab] of q */
    double *weight; /* likewise */
    sl_tree tree;
    int32_t n;           /* nodes */
    int32_t depth, node; /* of the backbone's last token: path[depth - 1], or the root */
    int32_t going;       /* it is to be computed */
} swift_tree;

/* Children below a first child of that confidence. */
int32_t swift_width(double confidence, int sampling);
/* The largest tree that these rules can give. */
int32_t swift_max_nodes(const swift_tree_rules *rules);

void swift_tree_begin(const swift_tree_rules *rules, swift_tree *t, const sl_spec_seq *s);
/* Logits [vocab] behind the backbone's last token: its children, and whether the first one is to be computed. */
sl_status swift_tree_grow(const swift_tree_rules *rules, swift_tree *t, const sl_spec_seq *s, const float *logits,
                          sl_error *err);
/* NULL: nothing was drafted. */
const sl_tree *swift_tree_finish(swift_tree *t);

#endif
