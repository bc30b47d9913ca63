/* gem_select.h - scores of the prompt's tokens at the filter layer, and the tokens that stay. */
#ifndef GEM_SELECT_H
#define GEM_SELECT_H

#include "sl_keep.h"

/* s[j] = sum over the query heads h of q_h . k_kv(h)[j]: raw logits, neither scaled nor through a softmax. The query
 * heads of a group are added first, since they meet the same keys. q [H, D] of the last token, k [n, K, D], both after
 * RoPE; query [K, D] scratch; score [n] */
void gem_scores(const float *q, const float *k, int64_t n, int32_t H, int32_t K, int32_t D, float *query, float *score);

typedef struct gem_choice {
    int64_t topk, pool;            /* tokens that stay; window of the average, odd */
    int64_t keep_first, keep_last; /* stay whatever their score, counted in topk */
} gem_choice;

/* Buffers of one choice, [n] each. */
typedef struct gem_buffers {
    float *score, *pooled;
    int32_t *order;
    uint8_t *mark; /* zero before and after */
} gem_buffers;

/* Indices of the min(topk, n) tokens that stay, ascending, into kept; returns how many. b->score is set. Pooling pads
 * zeros and always divides by `pool`; ties go to the lower index. */
int64_t gem_select(const gem_choice *c, const gem_buffers *b, int64_t n, int64_t *kept);

/* The filter layer of a model that the paper names, else round(0.42 L). */
int32_t gem_default_layer(const sl_model_info *model);

#endif
