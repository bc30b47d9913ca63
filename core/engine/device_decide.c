/* See device_decide.h. */
#include "device_decide.h"

#include <assert.h>

#include "accept.h"
#include "sl_error.h"

/* The best id decides: no draw, and nothing that changes logits before it. */
static int is_greedy(const sli_sampling *how) {
    return how->temperature == 0 && how->n_bias == 0 &&
           (how->penalty_last_n == 0 || ((how->repeat_penalty == 1 || how->repeat_penalty == 0) &&
                                         how->presence_penalty == 0 && how->frequency_penalty == 0));
}

sl_status sli_device_decide_step(sluice_engine *e, const sli_pass *pass, sl_error *err) {
    sli_device_network *d = e->target.device;
    int best = !sli_accepts_itself(e);
    int32_t used = 0;
    for (int32_t i = 0; i < e->batch.view.n_seqs; i++) {
        sluice_session *s = e->active[i];
        s->first_logits = -1;
        if (!s->wants_next)
            continue;
        int32_t n = s->tree != NULL && e->batch.stage[i] == SL_STAGE_VERIFY ? s->n_rows : 1;
        assert(used + n <= e->logit_rows);
        s->first_logits = used;
        for (int32_t j = 0; j < n; j++)
            d->rows[used++] = e->batch.row_begin[i + 1] - n + j;
        best = best && is_greedy(&s->request->sampling);
    }
    SL_TRY(sli_device_run(&e->target, pass, used, best && used > 0, err));
    e->best = best && used > 0 ? d->host_best : NULL;
    return SL_OK;
}

static int32_t child_with(const sli_tree *t, int32_t row, int32_t token) {
    for (int32_t i = t->trial_begin[row]; i < t->trial_begin[row + 1]; i++)
        if (t->token[t->trial[i].row] == token)
            return t->trial[i].row;
    return -1;
}

/* Greedy verification follows the best ids whatever the drafts' kinds are (verify.c: one_by_one). */
void sli_device_decide(const sluice_engine *e, const sluice_session *s, int32_t *path, int32_t *n_path, int32_t *next) {
    int64_t k = e->target.device->n_best;
    const int32_t *best = e->best + s->first_logits * k;
    if (s->tree == NULL) {
        *next = best[0];
        return;
    }
    const sli_tree *t = s->draft;
    int32_t row = t->rows.n_forced;
    for (*n_path = 0; *n_path < row; ++*n_path)
        path[*n_path] = *n_path;
    do {
        path[(*n_path)++] = row;
        *next = best[row * k];
        row = child_with(t, row, *next);
    } while (row >= 0);
}

sl_status sli_device_engine_ready(sluice_engine *e, sl_error *err) {
    const char *what = e->prompter.self != NULL ? "[kvcache.prompt]: a prompt transformer"
                       : e->sources != NULL     ? "work that plugins ask for"
                       : e->quantizing != NULL  ? "packing with data"
                                                : NULL;
    if (what != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s is not served on the device yet: set engine.device = cpu", what);
    if (e->drafter.self != NULL)
        SL_TRY(sli_device_head_reserve(&e->target, err));
    int32_t k = e->drafter.caps.topk;
    return sli_device_best_reserve(&e->target, k > 1 ? k : 1, k > 0, err);
}
