/* medusa_tree.h - the static tree: which rank of which head is drafted at each node, and filling it with tokens.
 *
 * A tree is a set of paths. "0,2" is head 0's best token and behind it head 1's third best. Every path's front part is
 * a path, too. The order of a list is the order of importance. */
#ifndef MEDUSA_TREE_H
#define MEDUSA_TREE_H

#include "sl_error.h"
#include "sluice/sl.h"

enum { MEDUSA_MAX_HEADS = 16, MEDUSA_MAX_NODES = SL_MAX_TREE_NODES, MEDUSA_MAX_TOPK = 64 };

/* Nodes stand level by level, lexicographically within a level; node 0 is the root. */
typedef struct medusa_tree {
    int32_t n; /* nodes, root included */
    int32_t parent[MEDUSA_MAX_NODES];
    int32_t rank[MEDUSA_MAX_NODES]; /* among the candidates of head depth - 1 */
    int32_t depth[MEDUSA_MAX_NODES];
    int32_t place[MEDUSA_MAX_NODES]; /* by importance: a limit of m nodes keeps those with place < m; a parent stands in
                                        front of its children */
} medusa_tree;

/* text: the name of a tree of the reference (mc_sim_7b_63 ...), or paths separated by blanks, ranks by commas. Paths
 * deeper than n_heads or with a rank of topk or above are dropped, then all but the first `nodes` (root included).
 * Errors name the path: a front part that is missing, a path that stands there twice. */
sl_status medusa_tree_parse(const char *text, int32_t n_heads, int32_t topk, int32_t nodes, medusa_tree *out,
                            sl_error *err);

/* The tree that these accuracies promise most from: beginning with the path "0", again and again the next sibling or
 * first child whose product of accuracies along its path is largest (ties: the shorter, then lexicographic), until
 * there are `nodes`. accuracy: [n_heads, topk]. */
void medusa_tree_grow(const double *accuracy, int32_t n_heads, int32_t topk, int32_t nodes, medusa_tree *out);

/* The reference's tree of that name as paths of one digit a rank, or NULL. */
const char *medusa_tree_named(const char *name);

typedef struct medusa_draft {
    int32_t token[MEDUSA_MAX_NODES], parent[MEDUSA_MAX_NODES];
    int32_t n;
} medusa_draft;

/* candidates: [heads, topk], best first. max_nodes, max_depth: limits of this draft (root included; 0: root alone). */
void medusa_tree_fill(const medusa_tree *t, const int32_t *candidates, int32_t topk, int32_t root, int32_t max_nodes,
                      int32_t max_depth, medusa_draft *out);

#endif
