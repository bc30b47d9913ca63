/* See swift_tree.h. */
#include "swift_tree.h"

#include <math.h>

#include "sl_error.h"

int32_t swift_width(double confidence, int sampling) {
    static const struct {
        double above;
        int32_t width[2]; /* greedy, sampling */
    } table[] = {{0.95, {3, 1}}, {0.8, {5, 3}}, {0.5, {8, 5}}, {-1, {10, 10}}};
    int i = 0;
    while (!(confidence > table[i].above) && table[i].above >= 0)
        i++;
    return table[i].width[sampling != 0];
}

int32_t swift_max_nodes(const swift_tree_rules *r) {
    int32_t on = swift_width(r->stop_threshold, 0); /* of a level behind which there is another one */
    on = on < r->topk ? on : r->topk;
    int64_t n = 1 + (int64_t)(r->max_draft - 1) * on + r->topk;
    return n < SL_MAX_TREE_NODES ? (int32_t)n : SL_MAX_TREE_NODES;
}

static int32_t most_depth(const swift_tree_rules *r, const sl_spec_seq *s) {
    return r->max_draft < s->max_depth ? r->max_draft : s->max_depth;
}

static int32_t most_nodes(const sl_spec_seq *s) {
    return s->max_nodes < SL_MAX_TREE_NODES ? s->max_nodes : SL_MAX_TREE_NODES;
}

void swift_tree_begin(const swift_tree_rules *r, swift_tree *t, const sl_spec_seq *s) {
    t->token[0] = s->token[s->n - 1];
    t->parent[0] = -1;
    t->kind[0] = SL_DRAFT_DET;
    t->q_of[0] = NULL;
    t->n = 1;
    t->depth = t->node = 0;
    t->going = most_depth(r, s) > 0 && most_nodes(s) > 1;
}

static void add(swift_tree *t, int32_t token, uint32_t kind) {
    t->token[t->n] = token;
    t->parent[t->n] = t->node;
    t->kind[t->n] = kind;
    t->q_of[t->n] = NULL;
    t->n++;
}

/* Probability of a token in the plain softmax of the logits. */
static double confidence(const float *logits, int32_t vocab, int32_t token) {
    double most = logits[0], sum = 0;
    for (int32_t i = 1; i < vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int32_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - most);
    return exp(logits[token] - most) / sum;
}

/* Greedy: the token that the request would take, then the best ones of the logits, ties the lower id. */
static void best_children(swift_tree *t, const float *logits, int32_t vocab, int32_t first, int32_t width) {
    int32_t best[SL_MAX_TREE_NODES], n = 0, most = width - 1;
    for (int32_t i = 0; i < vocab && most > 0; i++) {
        if (i == first || (n == most && !(logits[i] > logits[best[n - 1]])))
            continue;
        int32_t at = n < most ? n++ : n - 1;
        for (; at > 0 && logits[i] > logits[best[at - 1]]; at--)
            best[at] = best[at - 1];
        best[at] = i;
    }
    add(t, first, SL_DRAFT_DET);
    for (int32_t i = 0; i < n; i++)
        add(t, best[i], SL_DRAFT_DET);
}

static int64_t find(const int32_t *id, int64_t n, int32_t token) {
    int64_t lo = 0, hi = n;
    while (lo + 1 < hi) {
        int64_t middle = (lo + hi) / 2;
        *(id[middle] <= token ? &lo : &hi) = middle;
    }
    return lo;
}

/* Sampling: the first child and further draws without replacement, as long as q has any other token. */
static sl_status drawn_children(const swift_tree_rules *r, swift_tree *t, const sl_spec_seq *s, sl_draft_q *q,
                                int32_t first, int32_t width) {
    int64_t at[SL_MAX_TREE_NODES];
    double *weight = t->weight + (int64_t)t->depth * r->vocab, taken[SL_MAX_TREE_NODES];
    uint32_t kind = r->verify == SWIFT_DET ? SL_DRAFT_DET : SL_DRAFT_NOREP;
    int32_t n = 0, token = first;
    int64_t left = q->n; /* all weights are positive */
    sl_status status = SL_OK;
    for (;;) {
        add(t, token, kind);
        at[n] = find(q->id, q->n, token);
        taken[n] = weight[at[n]];
        weight[at[n++]] = 0;
        if (n == width || --left == 0)
            break;
        status = r->sample->draw(r->host, s->seq, q, &token);
        if (status < 0)
            break;
    }
    while (n-- > 0) /* verification wants q as it was */
        weight[at[n]] = taken[n];
    return status;
}

sl_status swift_tree_grow(const swift_tree_rules *r, swift_tree *t, const sl_spec_seq *s, const float *logits,
                          sl_error *err) {
    int64_t place = (int64_t)t->depth * r->vocab;
    int sampling = s->temperature > 0;
    sl_draft_q *q = &t->q[t->depth];
    *q = (sl_draft_q){.struct_size = SL_SIZE(sl_draft_q), .id = t->id + place, .weight = t->weight + place};
    SL_TRY(r->sample->distribution(r->host, s->seq, logits, t->path, t->depth, t->id + place, t->weight + place, &q->n,
                                   err));
    int32_t first = q->id[0], node = t->n; /* greedy: the only one */
    sl_status status = sampling ? r->sample->draw(r->host, s->seq, q, &first) : SL_OK;
    if (status < 0)
        return sl_fail(err, status, "swift: drawing a draft token");
    double c = confidence(logits, r->vocab, first);
    int32_t width = swift_width(c, sampling), room = most_nodes(s) - t->n;
    width = width < r->topk ? width : r->topk;
    width = width < room ? width : room;
    if (sampling)
        status = drawn_children(r, t, s, q, first, width);
    else
        best_children(t, logits, r->vocab, first, width);
    if (status < 0)
        return sl_fail(err, status, "swift: drawing a draft token");
    t->q_of[t->node] = sampling && r->verify == SWIFT_NOREP ? q : NULL;
    t->path[t->depth++] = first;
    t->node = node;
    t->going = c >= r->stop_threshold && t->depth < most_depth(r, s) && t->n < most_nodes(s);
    return SL_OK;
}

const sl_tree *swift_tree_finish(swift_tree *t) {
    t->tree = (sl_tree){.struct_size = SL_SIZE(sl_tree),
                        .token = t->token,
                        .parent = t->parent,
                        .kind = t->kind,
                        .q = t->q_of,
                        .n_nodes = t->n};
    return t->n > 1 ? &t->tree : NULL;
}
