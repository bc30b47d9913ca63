/* See medusa_typical.h. */
#include "medusa_typical.h"

#include <math.h>

#include "sl_error.h"

/* p of one node: m->id and m->weight. */
typedef struct node_p {
    int64_t n;
    double sum, threshold;
} node_p;

double medusa_typical_threshold(const double *weight, int64_t n, double sum, double eps, double delta) {
    double entropy = 0;
    for (int64_t i = 0; i < n; i++)
        entropy -= weight[i] / sum * log(weight[i] / sum + 1e-5);
    double threshold = delta * exp(-entropy);
    return threshold < eps ? threshold : eps;
}

static double probability(const medusa_typical *m, const node_p *p, int32_t token) {
    int64_t low = 0, high = p->n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (m->id[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->n && m->id[low] == token ? m->weight[low] / p->sum : 0;
}

static int32_t most_likely(const medusa_typical *m, const node_p *p) {
    int64_t best = 0;
    for (int64_t i = 1; i < p->n; i++)
        if (m->weight[i] > m->weight[best])
            best = i;
    return m->id[best];
}

/* Nodes from the root to `node`; returns how many. */
static int32_t path_to(const sl_tree *t, int32_t node, int32_t *path) {
    int32_t n = 0;
    for (int32_t i = node; i >= 0; i = t->parent[i])
        n++;
    for (int32_t i = node, at = n; i >= 0; i = t->parent[i])
        path[--at] = i;
    return n;
}

static sl_status load(const medusa_typical *m, const sl_accept *io, int32_t node, node_p *p) {
    SL_ERROR(err);
    int32_t path[SL_MAX_TREE_NODES], token[SL_MAX_TREE_NODES], n = path_to(io->tree, node, path);
    for (int32_t i = 1; i < n; i++)
        token[i - 1] = io->tree->token[path[i]];
    SL_TRY(m->sample->distribution(m->host, io->seq->seq, io->logits + node * io->vocab, token, n - 1, m->id, m->weight,
                                   &p->n, &err));
    p->sum = 0;
    for (int64_t i = 0; i < p->n; i++)
        p->sum += m->weight[i];
    p->threshold = medusa_typical_threshold(m->weight, p->n, p->sum, m->eps, m->delta);
    return SL_OK;
}

/* A draw from the tokens at or above the threshold; the most likely one where there is none. */
static int32_t draw(const medusa_typical *m, const sl_spec_seq *seq, const node_p *p, int64_t position) {
    double sum = 0, before = 0;
    int32_t last = most_likely(m, p);
    for (int64_t i = 0; i < p->n; i++)
        sum += m->weight[i] / p->sum >= p->threshold ? m->weight[i] : 0;
    double u = m->rng->uniform(seq->seed, seq->sample, (uint32_t)position, SL_RNG_TARGET, 0);
    for (int64_t i = 0; i < p->n; i++) {
        if (m->weight[i] == 0 || m->weight[i] / p->sum < p->threshold)
            continue;
        before += m->weight[i];
        last = m->id[i];
        if (u * sum < before)
            break;
    }
    return last;
}

sl_status medusa_typical_accept(const medusa_typical *m, sl_accept *io) {
    const sl_tree *t = io->tree;
    int greedy = io->seq->temperature == 0;
    int32_t depth[SL_MAX_TREE_NODES], best = 0, loaded = -1; /* depth -1: not reached */
    double likelihood[SL_MAX_TREE_NODES];
    node_p p = {0};
    depth[0] = 0;
    likelihood[0] = 0;
    for (int32_t i = 1; i < t->n_nodes; i++)
        depth[i] = -1;
    for (int32_t i = 0; i < t->n_nodes; i++) {
        if (depth[i] < 0)
            continue;
        if (depth[i] > depth[best] || (depth[i] == depth[best] && likelihood[i] > likelihood[best]))
            best = i;
        for (int32_t c = i + 1; c < t->n_nodes; c++) {
            if (t->parent[c] != i)
                continue;
            if (loaded != i)
                SL_TRY(load(m, io, i, &p));
            loaded = i;
            double px = probability(m, &p, t->token[c]);
            if (greedy ? t->token[c] != most_likely(m, &p) : !(px > p.threshold))
                continue;
            depth[c] = depth[i] + 1;
            likelihood[c] = likelihood[i] + log(px);
        }
    }
    if (loaded != best)
        SL_TRY(load(m, io, best, &p));
    io->n_path = path_to(t, best, io->path);
    io->next = greedy || m->fast ? most_likely(m, &p) : draw(m, io->seq, &p, io->seq->n + depth[best]);
    io->n_extra = 0;
    return SL_OK;
}
