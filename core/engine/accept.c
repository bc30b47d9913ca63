/* See accept.h. */
#include "accept.h"

#include <string.h>

#include "draft.h"
#include "sl_error.h"

int sli_accepts_itself(const sluice_engine *e) { return e->drafter.self != NULL && e->drafter.api->accept != NULL; }

static sl_status check(const sl_accept *a, sl_error *err) {
    const sl_tree *t = a->tree;
    if (a->n_path < 1 || a->n_path > t->n_nodes || a->path[0] != 0)
        return sl_fail(err, SL_E_INVALID,
                       "drafter: accepted a path of %d nodes of a tree of %d, expected the root first", a->n_path,
                       t->n_nodes);
    for (int32_t i = 1; i < a->n_path; i++)
        if (a->path[i] < 1 || a->path[i] >= t->n_nodes || t->parent[a->path[i]] != a->path[i - 1])
            return sl_fail(err, SL_E_INVALID, "drafter: accepted node %d behind node %d, which is not its parent",
                           a->path[i], a->path[i - 1]);
    if (a->next < 0 || a->next >= a->vocab)
        return sl_fail(err, SL_E_RANGE, "drafter: decided for token %d, outside of the vocabulary [0, %d)", a->next,
                       (int)a->vocab);
    return SL_OK;
}

sl_status sli_accept_draft(sluice_engine *e, sluice_session *s, const float *logits, int32_t *path, int32_t *n_path,
                           int32_t *next, sl_error *err) {
    const int32_t no_parent = -1;
    int32_t taken[SL_MAX_TREE_NODES];
    sl_tree root = {.struct_size = SL_SIZE(sl_tree), .token = &s->tokens[s->n - 1], .parent = &no_parent, .n_nodes = 1};
    sl_spec_seq seq;
    sli_spec_describe(e, s, (int32_t)e->limits.max_tree, &seq);
    sl_accept a = {.struct_size = SL_SIZE(sl_accept),
                   .seq = &seq,
                   .tree = s->tree != NULL ? s->tree : &root,
                   .logits = logits,
                   .path = taken,
                   .vocab = e->target.info->vocab,
                   .next = -1};
    sl_status status = e->drafter.api->accept(e->drafter.self, &a);
    if (status < 0)
        return sl_fail(err, status, "drafter: accept: %s", sl_status_text(status));
    SL_TRY(check(&a, err));
    *next = a.next;
    if (s->tree == NULL)
        return SL_OK; /* the rows of a chunk all stay */
    memcpy(path, taken, sizeof *path * (size_t)a.n_path);
    *n_path = a.n_path;
    return SL_OK;
}
