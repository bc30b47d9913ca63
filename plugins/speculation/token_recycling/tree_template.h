/* tree_template.h - the static tree: which ranks of which successors are drafted, and filling it with tokens.
 *
 * A template is a set of paths. A path says which successor to take, node by node: "0,2" is the third successor of the
 * root's first successor. Every path's front part is a path, too. */
#ifndef TOKEN_RECYCLING_TREE_TEMPLATE_H
#define TOKEN_RECYCLING_TREE_TEMPLATE_H

#include "successors.h"

enum { TEMPLATE_MAX_NODES = 81 };

/* Nodes stand level by level, lexicographically within a level; node 0 is the root. */
typedef struct tree_template {
    int32_t n; /* nodes, root included */
    int32_t parent[TEMPLATE_MAX_NODES], rank[TEMPLATE_MAX_NODES], depth[TEMPLATE_MAX_NODES];
    int32_t place[TEMPLATE_MAX_NODES]; /* among the nodes by importance: ascending sum of (rank + 1), ties the shorter
                                          path, then lexicographically. A limit of m keeps the nodes with place < m */
} tree_template;

/* text: "2.2.2" (the paper's 81 nodes), or paths separated by blanks, ranks by commas: "0 1 0,0". Paths with a rank of
 * topk or above are dropped, then all but the `cut` most important nodes. Errors name the path. */
sl_status template_parse(const char *text, int32_t topk, int32_t cut, tree_template *out, sl_error *err);

/* A draft made of the template: dead nodes, whose parent has no such successor, are left out. */
typedef struct template_draft {
    int32_t token[TEMPLATE_MAX_NODES], parent[TEMPLATE_MAX_NODES];
    int32_t n;      /* nodes */
    int32_t n_dead; /* nodes left out because nothing is known, of those within the limits */
} template_draft;

/* max_nodes, max_depth: limits of this draft (root included; 0: the root alone). fill_empty: as the reference does,
 * unknown successors are token 0 instead of dead; siblings may then be equal. */
void template_fill(const tree_template *t, const successors *m, int32_t root, int32_t max_nodes, int32_t max_depth,
                   int fill_empty, template_draft *out);

#endif
