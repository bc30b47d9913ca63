/* See sl_keep.h. */
#include "sl_keep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- selection ----------------------------------------------------------------------------------------------------- */

static int better(const float *score, int32_t a, int32_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; }

static void swap(int32_t *x, int64_t a, int64_t b) {
    int32_t old = x[a];
    x[a] = x[b];
    x[b] = old;
}

/* Brings the k best of index[0 .. n) to the front, in any order. */
static void partition_top(const float *score, int32_t *index, int64_t n, int64_t k) {
    int64_t lo = 0, hi = n;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2, put = lo;
        swap(index, mid, hi - 1);
        int32_t pivot = index[hi - 1];
        for (int64_t i = lo; i < hi - 1; i++)
            if (better(score, index[i], pivot))
                swap(index, i, put++);
        swap(index, put, hi - 1);
        if (put == k || put == k - 1)
            return;
        if (put < k)
            lo = put + 1;
        else
            hi = put;
    }
}

void sl_mark_range(int64_t begin, int64_t end, uint8_t *mark) {
    if (end > begin)
        memset(mark + begin, 1, (size_t)(end - begin));
}

void sl_mark_top(const float *score, int64_t begin, int64_t end, int64_t k, int32_t *index, uint8_t *mark) {
    int64_t n = end - begin;
    if (k <= 0 || n <= 0)
        return;
    if (k >= n) {
        sl_mark_range(begin, end, mark);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        index[i] = (int32_t)(begin + i);
    partition_top(score, index, n, k);
    for (int64_t i = 0; i < k; i++)
        mark[index[i]] = 1;
}

void sl_pool1d(const float *x, int64_t n, int64_t kernel, int pooling, float *y) {
    int64_t half = kernel / 2;
    for (int64_t i = 0; i < n; i++) {
        int64_t begin = i > half ? i - half : 0, end = i + half + 1 < n ? i + half + 1 : n;
        float r = pooling == SL_POOL_MAX ? x[begin] : 0;
        for (int64_t j = begin; j < end; j++)
            r = pooling == SL_POOL_MAX ? (x[j] > r ? x[j] : r) : r + x[j];
        y[i] = pooling == SL_POOL_MAX ? r : r / (float)kernel;
    }
}

void sl_group_scores(const float *colsum, int64_t stride, int32_t heads, int32_t n_kv_heads, int32_t head, int agg, int64_t n,
                     float *score) {
    int32_t group = heads / n_kv_heads;
    const float *row = colsum + (int64_t)head * group * stride;
    memcpy(score, row, (size_t)n * sizeof *score);
    for (int32_t g = 1; g < group; g++)
        for (int64_t i = 0; i < n; i++) {
            float x = row[g * stride + i];
            score[i] = agg == SL_AGG_MAX ? (x > score[i] ? x : score[i]) : score[i] + x;
        }
}

/* ---- an edit in the making --------------------------------------------------------------------------------------------- */

int sl_keep_init(sl_keep *k, const sl_model_info *model, const sl_limits *limits, int shared) {
    *k = (sl_keep){.max_rows = limits->max_context + limits->max_tree};
    for (int32_t l = 0; l < model->n_layers; l++)
        k->max_heads = model->layers[l]->n_kv_heads > k->max_heads ? model->layers[l]->n_kv_heads : k->max_heads;
    size_t n = (size_t)k->max_rows;
    k->mark = calloc(n, sizeof *k->mark);
    k->score = calloc(n, sizeof *k->score);
    k->pooled = calloc(n, sizeof *k->pooled);
    k->index = calloc(n, sizeof *k->index);
    k->begin = calloc((size_t)k->max_heads + 1, sizeof *k->begin);
    k->keep = calloc(n * (size_t)k->max_heads, sizeof *k->keep);
    if (shared) {
        n *= (size_t)k->max_heads;
        k->all = calloc(n, sizeof *k->all);
        k->all_mark = calloc(n, sizeof *k->all_mark);
        k->all_index = calloc(n, sizeof *k->all_index);
    }
    return k->mark && k->score && k->pooled && k->index && k->begin && k->keep && (!shared || (k->all && k->all_mark && k->all_index));
}

void sl_keep_free(sl_keep *k) {
    void *owned[] = {k->mark, k->score, k->pooled, k->index, k->begin, k->keep, k->all, k->all_mark, k->all_index};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    *k = (sl_keep){0};
}

void sl_keep_begin(sl_keep *k, const sl_kv_scores *scores) {
    k->n_heads = 0;
    k->drops = 0;
    k->edit = (sl_kv_edit){.struct_size = SL_SIZE(sl_kv_edit), .keep_begin = k->begin, .keep = k->keep, .layer = scores->layer,
                           .seq = scores->seq};
}

int64_t sl_keep_rows(const sl_kv_scores *scores, int32_t head) {
    const sl_seq_view *v = scores->view;
    int64_t n = -1;
    for (int32_t i = 0; v != NULL && i < v->n_segments; i++) {
        const sl_segment *s = v->segments[i];
        if (head < s->head_begin || head >= s->head_begin + s->n_heads)
            continue;
        if (s->kind == SL_SEGMENT_OPAQUE)
            return -1;
        n = (n < 0 ? 0 : n) + s->n_committed;
    }
    return n;
}

void sl_keep_head(sl_keep *k, int64_t n) {
    int64_t at = k->begin[k->n_heads];
    for (int64_t i = 0; i < n; i++)
        if (k->mark[i])
            k->keep[at++] = (int32_t)i;
    k->drops |= at - k->begin[k->n_heads] < n;
    k->begin[++k->n_heads] = at;
    memset(k->mark, 0, (size_t)n);
}

sl_status sl_keep_end(sl_keep *k, const sl_kv_edit **out) {
    *out = k->drops ? &k->edit : NULL;
    return k->drops ? SL_OK : SL_SKIPPED;
}

/* ---- the best rows ------------------------------------------------------------------------------------------------------ */

/* Scores [n - recent] of what stands in front of a head's newest rows, in k->pooled. */
static void score_head(sl_keep *k, const sl_choice *c, const sl_kv_scores *scores, int32_t K, int32_t head, int64_t n) {
    sl_group_scores(scores->colsum, scores->stride, scores->colsum_heads, K, head, c->agg, n - c->recent, k->score);
    sl_pool1d(k->score, n - c->recent, c->kernel, c->pooling, k->pooled);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Each head by itself. */
static sl_status best_alone(sl_keep *k, const sl_choice *c, const sl_kv_scores *scores, int32_t K) {
    for (int32_t h = 0; h < K; h++) {
        int64_t n = sl_keep_rows(scores, h);
        if (n < 0)
            return SL_E_UNIMPLEMENTED;
        if (n <= c->total) {
            sl_mark_range(0, n, k->mark);
        } else {
            score_head(k, c, scores, K, h, n);
            sl_mark_range(0, c->sinks, k->mark);
            sl_mark_top(k->pooled, c->sinks, n - c->recent, c->total - c->recent - c->sinks, k->index, k->mark);
            sl_mark_range(n - c->recent, n, k->mark);
        }
        sl_keep_head(k, n);
    }
    return SL_OK;
}

/* Rows of a head that are neither sinks nor newest. */
static int64_t candidates(const sl_choice *c, int64_t n) { return n > c->recent + c->sinks ? n - c->recent - c->sinks : 0; }

/* All heads together: candidates of head after head stand in k->all, those that are safe with a score above all others. */
static sl_status best_together(sl_keep *k, const sl_choice *c, const sl_kv_scores *scores, int32_t K) {
    int64_t each = c->total - c->recent - c->sinks, at = 0;
    for (int32_t h = 0; h < K; h++) {
        int64_t n = sl_keep_rows(scores, h), m = candidates(c, n);
        if (n < 0)
            return SL_E_UNIMPLEMENTED;
        if (m == 0)
            continue;
        score_head(k, c, scores, K, h, n);
        memcpy(k->all + at, k->pooled + c->sinks, (size_t)m * sizeof *k->all);
        sl_mark_top(k->pooled, c->sinks, n - c->recent, each / 5, k->index, k->mark);
        for (int64_t i = 0; i < m; i++)
            if (k->mark[c->sinks + i])
                k->all[at + i] = INFINITY;
        memset(k->mark, 0, (size_t)n);
        at += m;
    }
    memset(k->all_mark, 0, (size_t)at);
    sl_mark_top(k->all, 0, at, K * each, k->all_index, k->all_mark);
    at = 0;
    for (int32_t h = 0; h < K; h++) {
        int64_t n = sl_keep_rows(scores, h), m = candidates(c, n);
        sl_mark_range(0, m > 0 ? c->sinks : n, k->mark);
        memcpy(k->mark + c->sinks, k->all_mark + at, m > 0 ? (size_t)m : 0);
        sl_mark_range(m > 0 ? n - c->recent : n, n, k->mark);
        sl_keep_head(k, n);
        at += m;
    }
    return SL_OK;
}

sl_status sl_keep_best(sl_keep *k, const sl_choice *choice, const sl_kv_scores *scores, int32_t K, const sl_kv_edit **out) {
    sl_choice c = *choice;
    c.sinks = least(c.sinks, c.total - c.recent);
    if (scores->n <= c.total && !c.shared)
        return SL_SKIPPED;
    if (c.shared) {
        int64_t n = 0;
        for (int32_t h = 0; h < K; h++)
            n += candidates(&c, sl_keep_rows(scores, h));
        if (n <= K * (c.total - c.recent - c.sinks))
            return SL_SKIPPED;
    }
    if (scores->colsum == NULL)
        return SL_E_STATE;
    sl_keep_begin(k, scores);
    sl_status s = c.shared ? best_together(k, &c, scores, K) : best_alone(k, &c, scores, K);
    return s < 0 ? s : sl_keep_end(k, out);
}

int64_t sl_keep_budget(double budget, int64_t n_prompt) {
    int64_t n = (int64_t)(budget < 1 ? budget * (double)n_prompt : budget);
    return n < 1 ? 1 : n;
}
