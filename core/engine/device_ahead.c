/* See device_ahead.h. */
#include "device_ahead.h"

#include "base/ledger.h"
#include "binding.h"
#include "sl_error.h"
#include "transcript.h"

sl_status sli_ahead_create(sluice_engine *e, sl_error *err) {
    if (e->drafter.self != NULL || e->prompter.self != NULL || e->sources != NULL || e->quantizing != NULL ||
        e->target.n_policies > 0 || sli_binding_hears(e->target_plugins))
        return SL_OK;
    size_t n = (size_t)e->limits.max_seqs;
    e->ahead = sli_calloc(SLI_TAG_MISC, 1, sizeof *e->ahead + n * sizeof e->ahead->of[0]);
    return e->ahead != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for steps of %zu sequences", n);
}

void sli_ahead_drop(sluice_engine *e) {
    if (e->ahead != NULL)
        e->ahead->n = 0; /* its rows are no one's, as those of rejected drafts */
}

int sli_ahead_take(sluice_engine *e, sli_flight *flight) {
    sli_ahead *a = e->ahead;
    sl_batch *b = &e->batch.view;
    int is_it = a != NULL && a->n > 0 && a->n == b->n_seqs;
    for (int32_t i = 0; is_it && i < a->n; i++)
        is_it = a->of[i].seq == b->seq[i] && a->of[i].n_past == b->n_past[i] && b->stage[i] == SL_STAGE_DECODE &&
                e->active[i]->wants_next && a->of[i].request == e->active[i]->request;
    sli_ahead_drop(e);
    if (is_it) {
        *flight = a->flight;
        b->step = e->target.step = a->step;
    }
    return is_it;
}

/* Every running session decodes in this step, and in the next one whatever its token will be, but for a stop. */
static int may_go(const sluice_engine *e, const sli_flight *flight) {
    const sl_batch *b = &e->batch.view;
    if (e->ahead == NULL || !flight->from_graph || !flight->fits || b->n_seqs != e->n_running ||
        flight->n != b->n_seqs || b->n_rows != b->n_seqs)
        return 0;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const sluice_session *s = e->active[i];
        if (b->stage[i] != SL_STAGE_DECODE || !s->wants_next || s->request->finish != SLUICE_RUNNING ||
            s->n + 1 >= s->request->n_limit)
            return 0;
    }
    return 1;
}

/* One row of each sequence stays, whatever the token behind it is. */
static sl_status commit(sluice_engine *e, sl_error *err) {
    sl_batch *b = &e->batch.view;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        e->path_begin[i] = i;
        e->path[i] = 0;
        e->next[i] = -1;
    }
    e->path_begin[b->n_seqs] = b->n_seqs;
    sl_commit c = {SL_SIZE(sl_commit), b, e->path_begin, e->path, e->next};
    SL_TRY(sli_network_commit(&e->target, &c, err));
    for (int32_t i = 0; i < b->n_seqs; i++)
        e->active[i]->n_kv++;
    e->committed = 1;
    return SL_OK;
}

sl_status sli_ahead_go(sluice_engine *e, const sli_flight *flight,
                       sli_cuda_draw (*draw)(const sluice_session *s, int64_t position), sl_error *err) {
    sli_ahead *a = e->ahead;
    sli_device_network *d = e->target.device;
    if (!may_go(e, flight))
        return SL_OK;
    SL_TRY(commit(e, err));
    sli_batch_clear(&e->work_batch, 0, a->step = ++e->target.step);
    for (int32_t i = 0; i < flight->n; i++) {
        sluice_session *s = e->active[i];
        sli_batch_add(&e->work_batch, s->id, s->n_kv, SL_STAGE_DECODE, NULL, 1, NULL,
                      sli_session_positions(e, s, s->n_kv, 1, NULL));
        a->of[i].seq = s->id;
        a->of[i].n_past = s->n_kv;
        a->of[i].request = s->request;
        d->rows[i] = i;
        if (draw != NULL)
            d->draw[i] = draw(s, s->n + 1);
    }
    SL_ERROR(later); /* what is wrong is said when the step is needed */
    sli_pass pass = {.batch = &e->work_batch.view, .n_prompt = e->n_prompt};
    if (sli_network_begin(&e->target, pass.batch, &later) < 0)
        return SL_OK;
    SL_TRY(sli_device_launch(&e->target, &pass, flight->n, draw != NULL ? SLI_ANSWER_TOKEN : SLI_ANSWER_BEST, 1,
                             &a->flight, err));
    a->n = flight->n;
    return SL_OK;
}
