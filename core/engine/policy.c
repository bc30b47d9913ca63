/* After a step: policies drop rows of the sequences that took part, then everybody is told what happened to them. */
#include "engine.h"

#include <inttypes.h>

#include "device_network.h"
#include "profile.h"
#include "sl_error.h"
#include "sums.h"

enum { MAX_HEADS = 256 };

/* ---- one choice
 * --------------------------------------------------------------------------------------------------------- */

/* Do the lists name rows of each head, ascending? */
static int is_sound(const sl_kv_edit *e, const sl_kv_scores *scores, int32_t n_heads, const int64_t *n_rows) {
    if (e->layer != scores->layer || e->seq != scores->seq || e->keep_begin == NULL || e->keep == NULL)
        return 0;
    for (int32_t h = 0; h < n_heads; h++)
        for (int64_t i = e->keep_begin[h]; i < e->keep_begin[h + 1]; i++)
            if (e->keep[i] >= n_rows[h] || e->keep[i] < (i > e->keep_begin[h] ? e->keep[i - 1] + 1 : 0))
                return 0;
    return e->keep_begin[0] == 0;
}

/* Rows of the sequence as they stand, no new ones. */
static sl_status view_of(sluice_engine *e, int32_t layer, int32_t seq, int64_t n, const sl_seq_view **out) {
    sli_network *net = &e->target;
    const sl_view *view;
    sli_batch_clear(&e->work_batch, 0, net->step);
    sli_batch_add(&e->work_batch, seq, n, SL_STAGE_DECODE, NULL, 0, NULL, NULL);
    sl_rows none = {SL_SIZE(sl_rows), &e->work_batch.view, NULL, NULL, 0, 0};
    const sli_store *store = net->layers[layer].store;
    SL_TRY(store->api->view(store->self, net->lane, layer, &none, NULL, &view));
    *out = view->seqs[0];
    return SL_OK;
}

static sl_status choose(sluice_engine *e, int32_t p, int32_t layer, const sluice_session *s, int64_t n_prompt,
                        sl_error *err) {
    sli_network *net = &e->target;
    const sli_policy *policy = &net->policies[p];
    const sli_store *store = net->layers[layer].store;
    int32_t K = net->info->layers[layer]->n_kv_heads;
    int64_t n_rows[MAX_HEADS];
    if (K > MAX_HEADS)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "policies: layer %d has more than %d KV heads", layer, MAX_HEADS);
    sl_kv_scores scores = {.struct_size = SL_SIZE(sl_kv_scores), .n_prompt = n_prompt, .layer = layer, .seq = s->id};
    SL_TRY(sli_network_rows(net, layer, s->id, n_rows));
    SL_TRY(view_of(e, layer, s->id, s->n_kv, &scores.view));
    for (int32_t h = 0; h < K; h++)
        scores.n = n_rows[h] > scores.n ? n_rows[h] : scores.n;
    if (scores.view->n_segments == 1)
        scores.token_index = scores.view->segments[0]->token_index;
    scores.colsum = sli_sums_of(net, p, layer, s->id, &scores.colsum_heads, &scores.stride);
    const sl_kv_edit *edit = NULL;
    sl_status status = policy->api->choose(policy->self, &scores, &edit);
    if (status == SL_E_STATE && scores.colsum == NULL)
        return sl_fail(
            err, status,
            "policies: session %d lacks column sums of some of its tokens (it was cut below tokens that had been "
            "counted, or loaded from a file), and the policy cannot choose rows without them",
            s->id);
    if (status < 0 || status == SL_SKIPPED)
        return status < 0 ? sl_fail(err, status, "policies: layer %d: choose: %s", layer, sl_status_text(status))
                          : SL_OK;
    if (edit == NULL || !is_sound(edit, &scores, K, n_rows))
        return sl_fail(err, SL_E_INVALID, "policies: layer %d: the rows to keep are not ascending slots of each head",
                       layer);
    status = store->api->edit(store->self, edit);
    if (status < 0)
        return sl_fail(err, status, "policies: layer %d: the KV store cannot drop rows: %s", layer,
                       sl_status_text(status));
    if (net->device != NULL)
        net->device->edited = 1;
    sli_sums_edit(net, edit, n_rows);
    return SL_OK;
}

/* ---- all of a step
 * --------------------------------------------------------------------------------------------------------- */

static sl_status run_policies(sluice_engine *e, const sluice_session *s, const sl_event *event, sl_error *err) {
    sli_network *net = &e->target;
    int acted = 0;
    for (int32_t p = 0; p < net->n_policies; p++) {
        if (net->policies[p].api->schedule(net->policies[p].self, event) != 1)
            continue;
        acted = 1;
        for (int32_t l = 0; l < net->info->n_layers; l++)
            SL_TRY(choose(e, p, l, s, event->kind == SL_EVENT_CHUNK_END ? event->n : sli_prompt_end(s), err));
        sli_sums_chosen(net, p, s->id);
        sli_lap(net, SLI_SLOT_POLICY);
    }
    /* no step may find a page missing */
    return acted && event->kind != SL_EVENT_CHUNK_END ? sli_network_seq_grow(net, s->id, s->n_grown, err) : SL_OK;
}

static sl_status settle(sluice_engine *e, const sluice_session *s, uint32_t kind, int64_t n, sl_error *err) {
    sl_event event = {.struct_size = SL_SIZE(sl_event), .kind = kind, .seq = s->id, .other = -1, .n = n};
    SL_TRY(run_policies(e, s, &event, err));
    sli_engine_event(e, kind, s->id, -1, n);
    sli_lap(&e->target, SLI_SLOT_SETTLE);
    return SL_OK;
}

sl_status sli_session_grow(sluice_session *s, int64_t n, sl_error *err) {
    sli_network *net = &s->engine->target;
    int64_t end = s->n_kv + net->chunk_most, prompt = sli_prompt_end(s);
    s->n_promised = n;
    s->n_grown = net->drops_chunks && end < n && end < prompt ? end : n;
    return sli_network_seq_grow(net, s->id, s->n_grown, err);
}

sl_status sli_engine_settle(sluice_engine *e, sl_error *err) {
    const sl_batch *b = &e->batch.view;
    double begin = sli_now();
    int n_decoding = 0;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const sluice_session *s = e->by_id[b->seq[i]];
        if (b->stage[i] != SL_STAGE_PREFILL) {
            n_decoding++;
            SL_TRY(settle(e, s, SL_EVENT_COMMIT, s->n_kv, err));
            continue;
        }
        SL_TRY(settle(e, s, SL_EVENT_CHUNK_END, s->n_kv, err));
        if (e->target.drops_chunks)
            SL_TRY(sli_session_grow(e->by_id[b->seq[i]], s->n_promised, err));
        if (s->n_kv >= sli_prompt_end(s))
            SL_TRY(settle(e, s, SL_EVENT_PREFILL_END, sli_prompt_end(s), err));
    }
    if (e->target.n_policies > 0)
        *(n_decoding > 0 ? &e->stats.decode_seconds : &e->stats.prompt_seconds) += sli_now() - begin;
    return SL_OK;
}
