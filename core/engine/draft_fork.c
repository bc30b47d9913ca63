/* See draft_fork.h. */
#include "draft_fork.h"

#include "base/ledger.h"
#include "engine.h"
#include "sl_error.h"

typedef struct fork {
    int64_t n;       /* rows */
    int64_t own;     /* the first that is no committed row of the session */
    int64_t n_grown; /* rows that there is place for */
    uint32_t *has;   /* [n_layers] 1: the layer holds all rows of its own */
    int is_open;
} fork;

struct sli_draft_forks {
    fork *list; /* [max_sessions] by sequence id of the session */
    uint32_t *has;
    int32_t n, n_layers;
    int ahead; /* opened before the step */
};

sl_status sli_draft_forks_create(sluice_engine *e) {
    if (e->drafter.self == NULL)
        return SL_OK;
    sli_draft_forks *f = e->forks = sli_alloc(SLI_TAG_MISC, sizeof *f);
    if (f == NULL)
        return SL_E_NO_MEMORY;
    *f = (sli_draft_forks){.n = e->max_sessions, .n_layers = e->target.info->n_layers};
    f->ahead = sli_binding_drafter_asks(e->target_plugins, "sl.work.draft/1");
    f->list = sli_calloc(SLI_TAG_MISC, (size_t)f->n, sizeof *f->list);
    f->has = sli_calloc(SLI_TAG_MISC, (size_t)f->n * (size_t)f->n_layers, sizeof *f->has);
    if (f->list == NULL || f->has == NULL)
        return SL_E_NO_MEMORY;
    for (int32_t i = 0; i < f->n; i++)
        f->list[i].has = f->has + (int64_t)i * f->n_layers;
    return SL_OK;
}

void sli_draft_forks_destroy(sli_draft_forks *f) {
    if (f == NULL)
        return;
    sli_free(f->list);
    sli_free(f->has);
    sli_free(f);
}

static sl_status open_fork(sluice_engine *e, int32_t seq, int64_t begin, sl_error *err) {
    fork *f = &e->forks->list[seq];
    SL_TRY(sli_network_seq_open(&e->target, sli_fork_id(e->max_sessions, seq), seq, begin, err));
    *f = (fork){.n = begin, .own = begin, .has = f->has, .is_open = 1};
    return SL_OK;
}

static void close_fork(sluice_engine *e, int32_t seq) {
    fork *f = &e->forks->list[seq];
    if (f->is_open)
        sli_network_seq_close(&e->target, sli_fork_id(e->max_sessions, seq));
    f->is_open = 0;
}

/* Rows that a store takes memory for at once, as its quote shows: pages. */
static int64_t rows_at_once(const sli_store *store) {
    sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = 1, .stage = SL_STAGE_DECODE};
    return store->api->quote(store->self, &q) >= 0 && q.bytes_next > 0 ? q.bytes / q.bytes_next : 1;
}

/* A scratch fork is opened inside the step, where it can only use what the stores have free. It may begin and end
 * inside of a page, and makes its parent need one more. */
static sl_status keep_room(sluice_engine *e, sl_error *err) {
    int64_t rows = e->drafter.caps.scratch_rows, most = 1;
    if (rows <= 0)
        return SL_OK;
    for (int32_t i = 0; i < e->target.n_stores; i++)
        most = rows_at_once(&e->target.stores[i]) > most ? rows_at_once(&e->target.stores[i]) : most;
    int32_t id = sli_scratch_id(e->max_sessions);
    rows = rows + 2 * most < e->limits.max_context ? rows + 2 * most : e->limits.max_context;
    SL_TRY(sli_network_seq_open(&e->target, id, -1, 0, err));
    sl_status status = sli_network_seq_grow(&e->target, id, rows, err);
    sli_network_seq_close(&e->target, id);
    return status;
}

sl_status sli_draft_forks_open(sluice_engine *e, sluice_session *const *sessions, int n, sl_error *err) {
    if (e->forks == NULL || !e->forks->ahead)
        return SL_OK;
    double begin = sli_now();
    for (int i = 0; i < n; i++) {
        const sluice_session *s = sessions[i];
        if (s->n != s->n_kv + 1 || s->n <= s->n_prompt)
            continue;
        sl_status status = open_fork(e, s->id, s->n_kv, err);
        if (status == SL_E_RANGE) /* its item will be answered so */
            continue;
        fork *f = &e->forks->list[s->id];
        f->n_grown = s->n_kv + e->limits.max_tree;
        if (status >= 0)
            status = sli_network_seq_grow(&e->target, sli_fork_id(e->max_sessions, s->id), f->n_grown, err);
        if (status < 0) {
            sli_draft_forks_close(e);
            return sl_fail_within(err, status, "fork for the draft of session %d", s->id);
        }
    }
    sl_status status = keep_room(e, err);
    if (status < 0) {
        sli_draft_forks_close(e);
        return sl_fail_within(err, status, "room for the drafter's work");
    }
    e->stats.decode_seconds += sli_now() - begin;
    return SL_OK;
}

void sli_draft_forks_close(sluice_engine *e) {
    for (int32_t i = 0; e->forks != NULL && i < e->forks->n; i++)
        close_fork(e, i);
}

sl_status sli_draft_fork_enter(sluice_engine *e, const sl_work *w, int32_t *id, sl_error *err) {
    if (e->forks == NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "work item: without a drafter there are no draft forks");
    fork *f = &e->forks->list[w->seq];
    *id = sli_fork_id(e->max_sessions, w->seq);
    if (w->begin > (f->is_open ? f->n : e->by_id[w->seq]->n_kv))
        return sl_fail(err, SL_E_RANGE, "work item: the draft fork of sequence %d has no rows up to %lld", w->seq,
                       (long long)w->begin);
    if (!f->is_open)
        SL_TRY(open_fork(e, w->seq, w->begin, err));
    if (w->begin < f->n)
        SL_TRY(sli_network_seq_truncate(&e->target, *id, w->begin, err));
    f->own = w->begin < f->own ? w->begin : f->own;
    for (int32_t l = 0; l < e->forks->n_layers; l++) {
        uint32_t runs = w->attn_layers == NULL || w->attn_layers[l];
        int covered = l >= w->enter_layer && (w->exit_layer < 0 || l < w->exit_layer);
        if (w->begin == f->own)
            f->has[l] = covered && runs;
        else if (covered && runs && !f->has[l])
            return sl_fail(err, SL_E_INVALID, "work item: layer %d lacks rows of the draft fork of sequence %d", l,
                           w->seq);
        else
            f->has[l] = f->has[l] && covered && runs;
    }
    if (w->begin + w->n_rows > f->n_grown) {
        f->n_grown = w->begin + w->n_rows;
        SL_TRY(sli_network_seq_grow(&e->target, *id, f->n_grown, err));
    }
    f->n = w->begin + w->n_rows;
    return SL_OK;
}
