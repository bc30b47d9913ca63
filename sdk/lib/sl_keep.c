/* See sl_keep.h. */
#include "sl_keep.h"

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

int sl_keep_init(sl_keep *k, const sl_model_info *model, const sl_limits *limits) {
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
    return k->mark && k->score && k->pooled && k->index && k->begin && k->keep;
}

void sl_keep_free(sl_keep *k) {
    void *owned[] = {k->mark, k->score, k->pooled, k->index, k->begin, k->keep};
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

int64_t sl_keep_budget(double budget, int64_t n_prompt) {
    int64_t n = (int64_t)(budget < 1 ? budget * (double)n_prompt : budget);
    return n < 1 ? 1 : n;
}
