/* See device_decide.h. */
#include "device_decide.h"

#include <assert.h>

#include "sluice/host.h"

#include "accept.h"
#include "device_ahead.h"
#include "rng.h"
#include "sl_error.h"

/* The best id decides: no draw, and nothing that changes logits before it. */
static int is_greedy(const sli_sampling *how) {
    return how->temperature == 0 && how->n_bias == 0 &&
           (how->penalty_last_n == 0 || ((how->repeat_penalty == 1 || how->repeat_penalty == 0) &&
                                         how->presence_penalty == 0 && how->frequency_penalty == 0));
}

static const double least_temperature = 1e-6; /* below it the kernel's exponents would not be numbers */

/* Can the device draw this request's token? What it cannot do is the host's: penalties, bias, the race. */
static int is_drawn(const sli_sampling *how) {
    sli_sampling plain = *how;
    plain.temperature = 0;
    return is_greedy(&plain) && (how->temperature == 0 || (how->temperature >= least_temperature && !how->seed.race));
}

/* The number that decides is the one that the host's sampler would use. */
static sli_cuda_draw draw_of(const sluice_session *s, int64_t position) {
    const sli_sampling *how = &s->request->sampling;
    return (sli_cuda_draw){
        .temperature = how->temperature,
        .top_p = how->top_p,
        .min_p = how->min_p,
        .u = sli_rng_uniform(how->seed.seed, how->seed.sample, (uint32_t)position, SL_RNG_TARGET, 0),
        .top_k = how->top_k,
    };
}

/* The cheapest answer that all rows can do with. */
static sli_answer answer_of(const sluice_engine *e, int32_t n, int all_greedy, int all_drawn) {
    if (n == 0 || sli_accepts_itself(e))
        return SLI_ANSWER_LOGITS;
    /* drafters learn from logits, and a tree is followed by a draw a node */
    return all_greedy ? SLI_ANSWER_BEST : all_drawn && e->drafter.self == NULL ? SLI_ANSWER_TOKEN : SLI_ANSWER_LOGITS;
}

static sl_status check_tokens(const sluice_engine *e, int32_t n, sl_error *err) {
    for (int32_t i = 0; i < n; i++)
        if (e->best[i] < 0)
            return sl_fail(err, SL_E_DATA, "logits, row %d: a NaN or +inf, or no token left", i);
    return SL_OK;
}

sl_status sli_device_decide_step(sluice_engine *e, const sli_pass *pass, sl_error *err) {
    sli_device_network *d = e->target.device;
    int greedy = 1, drawn = 1;
    int32_t used = 0;
    for (int32_t i = 0; i < e->batch.view.n_seqs; i++) {
        sluice_session *s = e->active[i];
        s->first_logits = -1;
        if (!s->wants_next)
            continue;
        int32_t n = s->tree != NULL && e->batch.stage[i] == SL_STAGE_VERIFY ? s->n_rows : 1;
        assert(used + n <= e->logit_rows);
        s->first_logits = used;
        greedy = greedy && is_greedy(&s->request->sampling);
        drawn = drawn && n == 1 && is_drawn(&s->request->sampling);
        if (drawn)
            d->draw[used] = draw_of(s, s->n);
        for (int32_t j = 0; j < n; j++)
            d->rows[used++] = e->batch.row_begin[i + 1] - n + j;
    }
    sli_answer answer = answer_of(e, used, greedy, drawn);
    sli_flight flight;
    int taken = sli_ahead_take(e, &flight);
    e->stats.device_ahead += taken;
    if (!taken) {
        SL_TRY(sli_network_begin(&e->target, pass->batch, err));
        SL_TRY(sli_device_launch(&e->target, pass, used, answer, 0, &flight, err));
    }
    SL_TRY(sli_ahead_go(e, &flight, answer == SLI_ANSWER_TOKEN ? draw_of : NULL, err));
    SL_TRY(sli_device_land(&e->target, &flight, err));
    e->stats.device_answers[answer] += used > 0;
    e->best = flight.answers;
    return answer == SLI_ANSWER_TOKEN ? check_tokens(e, used, err) : SL_OK;
}

static int32_t child_with(const sli_tree *t, int32_t row, int32_t token) {
    for (int32_t i = t->trial_begin[row]; i < t->trial_begin[row + 1]; i++)
        if (t->token[t->trial[i].row] == token)
            return t->trial[i].row;
    return -1;
}

/* Greedy verification follows the best ids whatever the drafts' kinds are (verify.c: one_by_one). */
void sli_device_decide(const sluice_engine *e, const sluice_session *s, int32_t *path, int32_t *n_path, int32_t *next) {
    int64_t k = e->target.device->n_best; /* 1 where tokens were drawn: nobody drafts there */
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

void sli_device_drop(sluice_engine *e) { sli_ahead_drop(e); }

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
    SL_TRY(sli_ahead_create(e, err));
    return sli_device_best_reserve(&e->target, k > 1 ? k : 1, k > 0, err);
}
