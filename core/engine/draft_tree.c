/* See draft_tree.h. */
#include "draft_tree.h"

#include "sl_error.h"

static uint32_t kind_of(const sl_tree *t, int32_t node) { return t->kind != NULL ? t->kind[node] : SL_DRAFT_DET; }

static int is_pseudo(const sl_tree *t, int32_t node) {
    return SL_HAS(t, sl_tree, row_type) && t->row_type != NULL && t->row_type[node] == SL_ROW_PSEUDO;
}

/* Walked through by verification: neither committed nor pseudo. */
static int is_trial(const sl_tree *t, int32_t node) { return node > t->n_forced && !is_pseudo(t, node); }

static sl_status check_q(const sl_tree *t, int32_t node, sl_error *err) {
    const sl_draft_q *q = t->q != NULL ? t->q[t->parent[node]] : NULL;
    if (q == NULL || q->weight == NULL || q->n < 1)
        return sl_fail(err, SL_E_INVALID, "draft node %d was drawn, but its parent %d has no distribution q", node,
                       t->parent[node]);
    return SL_OK;
}

static sl_status check(const sl_tree *t, int32_t root, int32_t vocab, sl_error *err) {
    if (t->n_nodes < 1 || t->n_nodes > SL_MAX_TREE_NODES)
        return sl_fail(err, SL_E_RANGE, "draft tree has %d nodes, expected 1 to %d", t->n_nodes, SL_MAX_TREE_NODES);
    if (t->token == NULL || t->parent == NULL)
        return sl_fail(err, SL_E_INVALID, "draft tree without tokens or parents");
    if (t->n_forced < 0 || t->n_forced >= t->n_nodes)
        return sl_fail(err, SL_E_RANGE, "draft tree of %d nodes has %d forced ones", t->n_nodes, t->n_forced);
    if (t->token[0] != root || t->parent[0] != -1)
        return sl_fail(err, SL_E_INVALID,
                       "draft node 0 is token %d with parent %d, expected the committed token %d and -1", t->token[0],
                       t->parent[0], root);
    for (int32_t i = 0; i <= t->n_forced; i++)
        if (is_pseudo(t, i))
            return sl_fail(err, SL_E_INVALID, "draft node %d is a committed token and cannot be a pseudo node", i);
    for (int32_t i = 1; i < t->n_nodes; i++) {
        if (t->parent[i] < 0 || t->parent[i] >= i)
            return sl_fail(err, SL_E_INVALID, "draft node %d has parent %d, expected 0 to %d", i, t->parent[i], i - 1);
        if (t->token[i] < 0 || t->token[i] >= vocab)
            return sl_fail(err, SL_E_RANGE, "draft node %d has token %d, outside of the vocabulary [0, %d)", i,
                           t->token[i], vocab);
        if (i <= t->n_forced && t->parent[i] != i - 1)
            return sl_fail(err, SL_E_INVALID, "forced draft node %d has parent %d, expected %d", i, t->parent[i],
                           i - 1);
        if (i > t->n_forced && t->parent[i] < t->n_forced)
            return sl_fail(err, SL_E_INVALID,
                           "draft node %d has parent %d, which stands in front of the committed token %d", i,
                           t->parent[i], t->n_forced);
        if (kind_of(t, i) > SL_DRAFT_NOREP)
            return sl_fail(err, SL_E_INVALID, "draft node %d has the unknown kind %u", i, kind_of(t, i));
        if (is_pseudo(t, t->parent[i]) && !is_pseudo(t, i))
            return sl_fail(err, SL_E_INVALID, "draft node %d hangs on the pseudo node %d and could never be accepted",
                           i, t->parent[i]);
        if (is_trial(t, i) && kind_of(t, i) != SL_DRAFT_DET)
            SL_TRY(check_q(t, i, err));
    }
    return SL_OK;
}

/* The group of each node: a new one where a sibling's kind differs from that of the sibling in front of it. */
static sl_status group(const sl_tree *t, int32_t *group_of, sl_error *err) {
    int32_t last[SL_MAX_TREE_NODES], n_groups = 0; /* the youngest child so far of each node; 0: none */
    for (int32_t i = 0; i < t->n_nodes; i++)
        last[i] = 0;
    for (int32_t i = 1; i < t->n_nodes; i++) {
        if (!is_trial(t, i)) {
            group_of[i] = -1;
            continue;
        }
        int32_t before = last[t->parent[i]];
        group_of[i] = before > 0 && kind_of(t, before) == kind_of(t, i) ? group_of[before] : n_groups++;
        last[t->parent[i]] = i;
        if (kind_of(t, i) != SL_DRAFT_NOREP)
            continue;
        for (int32_t j = 1; j < i; j++)
            if (group_of[j] == group_of[i] && t->token[j] == t->token[i])
                return sl_fail(err, SL_E_INVALID, "draft nodes %d and %d are token %d, drawn twice without replacement",
                               j, i, t->token[i]);
    }
    return SL_OK;
}

static int32_t find_row(const sli_tree *t, int32_t n_rows, int32_t parent, int32_t token) {
    for (int32_t r = parent + 1; r < n_rows; r++)
        if (t->parent[r] == parent && t->token[r] == token && t->row_type[r] == SL_ROW_DRAFT)
            return r;
    return -1;
}

sl_status sli_tree_build(const sl_tree *draft, int32_t root, int32_t vocab, sli_tree *out, sl_error *err) {
    int32_t group_of[SL_MAX_TREE_NODES], in_list[SL_MAX_TREE_NODES], n_rows = 1;
    SL_TRY(check(draft, root, vocab, err));
    SL_TRY(group(draft, group_of, err));
    out->token[0] = root;
    out->parent[0] = -1;
    out->depth[0] = out->row_of[0] = out->node_of[0] = 0;
    out->row_type[0] = SL_ROW_DRAFT;
    for (int32_t i = 1; i < draft->n_nodes; i++) {
        int32_t parent = out->row_of[draft->parent[i]];
        int32_t row = is_trial(draft, i) ? find_row(out, n_rows, parent, draft->token[i]) : -1;
        int is_new = row < 0;
        if (is_new) {
            row = n_rows++;
            out->token[row] = draft->token[i];
            out->parent[row] = parent;
            out->depth[row] = out->depth[parent] + 1;
            out->row_type[row] = is_pseudo(draft, i) ? SL_ROW_PSEUDO : SL_ROW_DRAFT;
            out->node_of[row] = i;
        }
        out->row_of[i] = row;
        in_list[i] = is_trial(draft, i) && (is_new || kind_of(draft, i) != SL_DRAFT_DET);
    }
    int32_t n = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        out->trial_begin[r] = n;
        for (int32_t i = 1; i < draft->n_nodes; i++) {
            if (!in_list[i] || out->row_of[draft->parent[i]] != r)
                continue;
            uint32_t kind = kind_of(draft, i);
            out->trial[n++] = (sli_trial){out->row_of[i], kind, group_of[i],
                                          kind == SL_DRAFT_DET ? NULL : draft->q[draft->parent[i]]};
        }
    }
    out->trial_begin[n_rows] = n;
    out->rows = (sl_tree){.struct_size = SL_SIZE(sl_tree),
                          .token = out->token,
                          .parent = out->parent,
                          .n_nodes = n_rows,
                          .n_forced = draft->n_forced,
                          .row_type = out->row_type};
    return SL_OK;
}
