/* Choosing the rows that stay: what eviction policies share. Marks are bytes by slot, 1: stays. Ties go to the lower
 * slot everywhere, so that every machine chooses the same rows. */
#ifndef SLUICE_LIB_KEEP_H
#define SLUICE_LIB_KEEP_H

#include "sluice/kv.h"

/* ---- selection, on plain arrays --------------------------------------------------------------------------------- */

/* Marks the k largest of score[begin .. end); all of them when there are fewer. index: room for end - begin. */
void sl_mark_top(const float *score, int64_t begin, int64_t end, int64_t k, int32_t *index, uint8_t *mark);
void sl_mark_range(int64_t begin, int64_t end, uint8_t *mark); /* [begin, end), nothing when it is empty */

enum { SL_POOL_AVG = 0, SL_POOL_MAX = 1 };

/* y[i] over the `kernel` (odd) neighbours of x[i], n of both. AVG: sum / kernel, neighbours that do not exist count as
 * 0; MAX: they do not count. y is not x. */
void sl_pool1d(const float *x, int64_t n, int64_t kernel, int pooling, float *y);

enum { SL_AGG_MEAN = 0, SL_AGG_MAX = 1, SL_AGG_SUM = 2 };

/* Scores [n] of KV head `head` out of column sums [heads, stride]: of its own (heads = n_kv_heads, already summed over
 * the group) or of the query heads of its group. MAX needs query heads apart. */
void sl_group_scores(const float *colsum, int64_t stride, int32_t heads, int32_t n_kv_heads, int32_t head, int agg, int64_t n,
                     float *score);

/* ---- an edit in the making --------------------------------------------------------------------------------------- */

/* Buffers of one policy instance, made in activate; lists are written head by head. */
typedef struct sl_keep {
    int64_t max_rows;
    int32_t max_heads, n_heads;
    uint8_t *mark;         /* [max_rows] of the head that is being decided */
    float *score, *pooled; /* [max_rows] */
    int32_t *index;        /* [max_rows] */
    int64_t *begin;        /* [max_heads + 1] */
    int32_t *keep;         /* [max_heads, max_rows] */
    float *all;            /* [max_heads * max_rows] scores of all heads, for budgets that heads share; else NULL */
    uint8_t *all_mark;     /* as many */
    int32_t *all_index;
    int drops;             /* a row of some head goes */
    sl_kv_edit edit;
} sl_keep;

/* shared: heads may share their budgets. 0: no memory; free what there is. */
int sl_keep_init(sl_keep *k, const sl_model_info *model, const sl_limits *limits, int shared);
void sl_keep_free(sl_keep *k);

void sl_keep_begin(sl_keep *k, const sl_kv_scores *scores);
/* Rows of a head in the view of the scores, in one or several public segments; -1: not in public ones. */
int64_t sl_keep_rows(const sl_kv_scores *scores, int32_t head);
void sl_keep_head(sl_keep *k, int64_t n); /* the marks of its n rows are set; clears them */
/* SL_OK and the edit, SL_SKIPPED when nothing goes. */
sl_status sl_keep_end(sl_keep *k, const sl_kv_edit **out);

/* What stays of a head: `sinks` first rows, `recent` newest ones, and the best of the others, `total` in all. A row's score is
 * its column sum, reduced over the group by SL_AGG_* and pooled over `kernel` neighbours in front of the newest. */
typedef struct sl_choice {
    int64_t total, recent, sinks, kernel;
    int agg, pooling;
    int shared; /* 1: AdaKV: total - recent - sinks rows a head are shared by the heads of the layer: each keeps a fifth of them
                   by its own order, the rest are the best of all heads together */
} sl_choice;

/* The whole edit of a layer. SL_SKIPPED: everything stays. SL_E_STATE: there are no column sums; SL_E_UNIMPLEMENTED: rows
 * that are not in public segments. */
sl_status sl_keep_best(sl_keep *k, const sl_choice *c, const sl_kv_scores *scores, int32_t n_kv_heads, const sl_kv_edit **out);

/* A budget of rows: as given if >= 1, else that fraction of the prompt, rounded down, at least 1. */
int64_t sl_keep_budget(double budget, int64_t n_prompt);

#endif
