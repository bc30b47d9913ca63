/* See gem_select.h. */
#include "gem_select.h"

#include <math.h>
#include <string.h>

void gem_scores(const float *q, const float *k, int64_t n, int32_t H, int32_t K, int32_t D, float *query,
                float *score) {
    int32_t G = H / K;
    memset(query, 0, sizeof *query * (size_t)K * (size_t)D);
    for (int32_t h = 0; h < H; h++)
        for (int32_t d = 0; d < D; d++)
            query[h / G * D + d] += q[h * D + d];
    for (int64_t j = 0; j < n; j++, k += (int64_t)K * D) {
        float sum = 0;
        for (int32_t i = 0; i < K * D; i++)
            sum += query[i] * k[i];
        score[j] = sum;
    }
}

int64_t gem_select(const gem_choice *c, const gem_buffers *b, int64_t n, int64_t *kept) {
    int64_t count = 0;
    if (n <= c->topk) {
        sl_mark_range(0, n, b->mark);
    } else {
        int64_t first = c->keep_first, last = n - c->keep_last;
        sl_pool1d(b->score, n, c->pool, SL_POOL_AVG, b->pooled);
        sl_mark_range(0, first, b->mark);
        sl_mark_top(b->pooled, first, last, c->topk - c->keep_first - c->keep_last, b->order, b->mark);
        sl_mark_range(last, n, b->mark);
    }
    for (int64_t i = 0; i < n; i++)
        if (b->mark[i])
            kept[count++] = i;
    memset(b->mark, 0, (size_t)n);
    return count;
}

int32_t gem_default_layer(const sl_model_info *model) {
    static const struct {
        const char *type;
        int32_t n_layers, hidden, layer;
    } named[] = {
        {"llama", 32, 4096, 13},   /* Llama-3.1-8B */
        {"mistral", 40, 5120, 19}, /* Mistral-Nemo-12B */
        {"phi3", 32, 3072, 19},    /* Phi-3.5-mini */
    };
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcmp(model->type, named[i].type) == 0 && model->n_layers == named[i].n_layers &&
            model->hidden == named[i].hidden)
            return named[i].layer;
    int32_t layer = (int32_t)lround(0.42 * model->n_layers);
    return layer < model->n_layers ? layer : model->n_layers - 1;
}
