/* tidaldecode.h - the instance, as its files share it. */
#ifndef TIDALDECODE_H
#define TIDALDECODE_H

#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include "tidal_calibrate.h"
#include "tidal_correct.h"
#include "tidal_lists.h"
#include "tidal_roles.h"
#include "tidal_select.h"

enum { TIDAL_REDUCE_MAX = 0, TIDAL_REDUCE_SUM_PROB = 1 }; /* group_reduce */
enum { TIDAL_VERIFY_ROW = 0, TIDAL_VERIFY_SHARED = 1 };   /* verify_select */

typedef struct tidal_device tidal_device; /* tidal_device.c */

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_scratch *scratch;
    const sl_threads *threads;
    const sl_ops *ops;
    const sl_metrics *metrics; /* NULL: nobody counts */
    const sl_model_info *model;
    tidal_rule rule;
    int group_reduce, verify_select;
    int half_scores;                             /* score_dtype = f16 */
    int64_t correction_period, correction_chunk; /* period 0: off */
    tidal_role *roles;                           /* [n_layers] */

    /* From activate on. Keys of units: rows of the batch, then places of sequences behind them. */
    tidal_lists lists;
    int32_t *iota;         /* [max_rows] 0, 1, 2 ...: indices of a slice of all rows */
    int64_t *shared_begin; /* [max_seqs * groups + 1] list_begin of a row set by sequence */
    sl_rowset rowset;      /* the last answer of select */
    int64_t max_rows, max_keys, max_groups;
    int64_t score_floats; /* room for the scores of one block of rows */
    tidal_corrector corrector;
    tidal_calibrator calibrator;
    int64_t start; /* sparse_layer_start */

    int on_device;        /* scope.device is one */
    tidal_device *device; /* while active there */
};

/* Query heads and KV heads of a layer; lists of one unit in it. */
typedef struct tidal_heads {
    int64_t H, K, G, n_lists;
} tidal_heads;

static inline tidal_heads tidal_heads_of(const struct sl_instance *self, int32_t layer) {
    const sl_layer_info *l = self->model->layers[layer];
    tidal_heads h = {l->n_heads, l->n_kv_heads, l->n_heads / l->n_kv_heads, 0};
    h.n_lists = self->rule.heads == TIDAL_QUERY ? h.H : self->rule.heads == TIDAL_KV_GROUP ? h.K : 1;
    return h;
}

static inline int32_t tidal_row(const sl_rows *rows, int64_t i) {
    return rows->index != NULL ? rows->index[i] : (int32_t)i;
}

/* Scratch that tidal_attend_select wants: shared, and for each worker. [setup] */
void tidal_scratch_need(const struct sl_instance *self, int64_t *bytes, int64_t *bytes_per_worker);

/* Attends densely to the rows of one stage (decode or verify) and makes the lists that layer `owner` stands for.
 * by_seq: one list a sequence and head, else one a row and head. [step] */
sl_status tidal_attend_select(struct sl_instance *self, const sl_attend *args, int32_t owner, int by_seq);

/* Tables and functions of tidal_beside.c. */
extern const sl_attention_kv tidal_kv;
extern const sl_calibrate tidal_calibrate;
extern const sl_cost tidal_cost; /* tidal_cost.c */
sl_status tidal_commit(struct sl_instance *self, const sl_commit *commit);
sl_status tidal_work(struct sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                     const sl_work *const **works, int32_t *n_works);

void tidal_count(const struct sl_instance *self, const char *name, int64_t n);

#endif
