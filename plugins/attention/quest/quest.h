/* quest.h - the instance, as its files share it. */
#ifndef QUEST_H
#define QUEST_H

#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include "quest_meta.h"

enum { QUEST_QUERY = 0, QUEST_KV_GROUP = 1 };           /* select_heads */
enum { QUEST_VERIFY_ROW = 0, QUEST_VERIFY_SHARED = 1 }; /* verify_select */
enum { QUEST_F16 = 0, QUEST_F32 = 1, QUEST_KV = 2 };    /* meta_dtype */

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_scratch *scratch;
    const sl_threads *threads;
    const sl_ops *ops;
    const sl_metrics *metrics; /* NULL: nobody counts */
    const sl_model_info *model;
    int64_t page;       /* P */
    int64_t most_pages; /* Kp, the page that is being written included */
    int force_last, heads, verify, meta_type;
    uint8_t *sparse; /* [n_layers] 1: the layer selects */
    sl_dtype *dtype; /* [n_layers] of its bounds */

    /* From activate on. */
    quest_meta meta;
    int32_t *token; /* lists of one call, one after the other */
    int64_t *begin; /* [max_units * max_groups + 1] */
    sl_rowset rowset;
    int64_t max_units, max_groups, max_pages;
    int64_t score_floats; /* room for the bounds of one block of units */
};

/* Scratch that selecting wants: shared, and for each worker. [setup] */
void quest_scratch_need(const struct sl_instance *self, int64_t *bytes, int64_t *bytes_per_worker);

extern const sl_cost quest_cost; /* quest_cost.c */

/* sl_attention.select in a layer that selects. */
sl_status quest_select(struct sl_instance *self, const sl_select *args, const sl_rowset **out);

#endif
