/* See sources.h. */
#include "sources.h"

#include <string.h>

#include "base/ledger.h"
#include "profile.h"
#include "sl_error.h"
#include "transcript.h"

enum { MAX_ITEMS = 64, MAX_ROUNDS = 8 };

/* An item that was asked for and has not been answered. */
typedef struct item {
    const sl_work *work;
    int64_t n_done, n_rows; /* rows; n_rows shrinks with its sequence */
    int is_over;
    float *logits, *hidden; /* copies: the engine's buffers are used again */
} item;

typedef struct source {
    sli_source_fn fn;
    item items[MAX_ITEMS];
    sl_work_result results[MAX_ITEMS];
    const sl_work_result *given[MAX_ITEMS];
    int n_items;
} source;

struct sli_sources {
    source list[SLI_MAX_SOURCES];
    int n;
    int turn; /* whose background item is next */
};

sl_status sli_sources_create(const sli_source_fn *fns, int n, sli_sources **out, sl_error *err) {
    if (n == 0)
        return SL_OK;
    if (n > SLI_MAX_SOURCES)
        return sl_fail(err, SL_E_RANGE, "%d plugins ask for work of their own; %d can", n, SLI_MAX_SOURCES);
    if ((*out = sli_alloc(SLI_TAG_MISC, sizeof **out)) == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the work of plugins");
    (*out)->n = n;
    for (int i = 0; i < n; i++)
        (*out)->list[i].fn = fns[i];
    return SL_OK;
}

static void forget(source *s) {
    for (int i = 0; i < s->n_items; i++) {
        sli_free(s->items[i].logits);
        sli_free(s->items[i].hidden);
    }
    s->n_items = 0;
}

void sli_sources_destroy(sli_sources *s) {
    for (int i = 0; s != NULL && i < s->n; i++)
        forget(&s->list[i]);
    sli_free(s);
}

/* ---- overwriting ----------------------------------------------------------------------------------------------- */

/* Is it what can be recomputed: the committed rows' own tokens, through the whole model, into stores that replace? */
static sl_status check_overwrite(const sluice_engine *e, const sl_work *w) {
    const sluice_session *s = w->seq >= 0 && w->seq < e->max_sessions ? e->by_id[w->seq] : NULL;
    const sli_network *net = &e->target;
    if (s == NULL || w->model != 0 || w->rows_kind != SL_WORK_IDS || w->token == NULL || w->parent != NULL ||
        w->attn_layers != NULL || w->ffn_layers != NULL || w->enter_layer != 0 || w->exit_layer >= 0 ||
        w->logits != SL_WORK_LOGITS_NONE || w->position != NULL || w->branch != 0)
        return SL_E_INVALID;
    if (w->n_taps > 0 || net->n_policies > 0) /* a policy has judged those rows, or dropped them */
        return SL_E_UNIMPLEMENTED;
    for (int32_t l = 0; l < net->info->n_layers; l++)
        if (!(net->layers[l].layout.flags & SL_KV_OVERWRITES))
            return SL_E_UNIMPLEMENTED;
    if (w->n_rows < 1 || w->begin < 0 || w->begin + w->n_rows > s->n_kv)
        return SL_E_RANGE;
    return memcmp(w->token, s->tokens + w->begin, sizeof *w->token * (size_t)w->n_rows) == 0 ? SL_OK : SL_E_INVALID;
}

static sl_status overwrite_chunk(sluice_engine *e, item *it, sl_error *err) {
    const sl_work *w = it->work;
    sli_network *net = &e->target;
    int64_t most = e->prefill_chunk < e->limits.max_rows ? e->prefill_chunk : e->limits.max_rows;
    int64_t n = it->n_rows - it->n_done < most ? it->n_rows - it->n_done : most;
    sli_batch *b = &e->work_batch;
    sli_batch_clear(b, 0, ++net->step);
    sli_batch_add(b, w->seq, w->begin + it->n_done, SL_STAGE_PREFILL, w->token + it->n_done, (int32_t)n, NULL,
                  sli_session_positions(e, e->by_id[w->seq], w->begin + it->n_done, (int32_t)n, NULL));
    SL_TRY(sli_network_begin(net, &b->view, err));
    SL_TRY(sli_network_forward(net, &(sli_pass){.batch = &b->view, .overwrite = 1}, err));
    for (int32_t i = 0; i < n; i++)
        e->path[i] = i;
    e->path_begin[0] = 0;
    e->path_begin[1] = (int32_t)n;
    e->next[0] = -1;
    sl_commit commit = {SL_SIZE(sl_commit), &b->view, e->path_begin, e->path, e->next};
    SL_TRY(sli_network_commit(net, &commit, err));
    const sluice_session *s = e->by_id[w->seq];
    /* pages that were shared have become its own: what it was promised may be less now */
    SL_TRY(sli_network_seq_grow(net, w->seq, s->n_grown > s->n_kv ? s->n_grown : s->n_kv, err));
    it->n_done += n;
    it->is_over = it->n_done >= it->n_rows;
    return SL_OK;
}

/* ---- other items ----------------------------------------------------------------------------------------------- */

static float *copy_of(const float *x, int64_t n) {
    float *out = x != NULL ? sli_alloc(SLI_TAG_SCRATCH, sizeof *x * (size_t)n) : NULL;
    if (out != NULL)
        memcpy(out, x, sizeof *x * (size_t)n);
    return out;
}

static sl_status run_whole(sluice_engine *e, source *s, int i, sl_error *err) {
    item *it = &s->items[i];
    sl_work_result *r = &s->results[i];
    sl_work now = *it->work;
    const sl_work *one = &now;
    now.when = SL_WORK_IN_STEP;
    sli_profile *profile = e->target.profile;
    if (profile != NULL)
        sli_profile_mute(profile);
    sl_status status = sli_engine_work(e, &one, 1, r, err);
    if (profile != NULL)
        sli_profile_unmute(profile, SLI_SLOT_OTHER);
    SL_TRY(status);
    const sli_network *net = now.model == 0 ? &e->target : &e->draft;
    int64_t rows = now.logits == SL_WORK_LOGITS_LAST ? 1 : now.n_rows;
    it->logits = r->logits != NULL ? copy_of(r->logits, rows * net->info->vocab) : NULL;
    it->hidden = r->hidden != NULL ? copy_of(r->hidden, now.n_rows * (int64_t)net->info->hidden) : NULL;
    if ((r->logits != NULL && it->logits == NULL) || (r->hidden != NULL && it->hidden == NULL))
        r->status = SL_E_NO_MEMORY;
    r->work = it->work;
    r->logits = it->logits;
    r->hidden = it->hidden;
    it->is_over = 1;
    return SL_OK;
}

/* Runs a piece of an item: all of it, or a chunk. */
static sl_status run_piece(sluice_engine *e, source *s, int i, sl_error *err) {
    item *it = &s->items[i];
    return it->work->kv == SL_WORK_KV_OVERWRITE ? overwrite_chunk(e, it, err) : run_whole(e, s, i, err);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static int first_open(const source *s) {
    int i = 0;
    while (i < s->n_items && s->items[i].is_over)
        i++;
    return i;
}

/* Hands the results over and takes what comes next. */
static sl_status ask(sluice_engine *e, source *s, sl_error *err) {
    const sl_work *const *works = NULL;
    int32_t n = 0;
    for (int i = 0; i < s->n_items; i++)
        s->given[i] = &s->results[i];
    sl_status status = s->fn.work(s->fn.self, s->given, s->n_items, &works, &n);
    forget(s);
    if (status < 0)
        return sl_fail(err, status, "work of a plugin: %s", sl_status_text(status));
    if (n < 0 || n > MAX_ITEMS)
        return sl_fail(err, SL_E_RANGE, "work of a plugin: %d items at once, 0 to %d are possible", n, MAX_ITEMS);
    for (int i = 0; i < n; i++) {
        s->items[i] = (item){.work = works[i], .n_rows = works[i]->n_rows};
        s->results[i] = (sl_work_result){.struct_size = SL_SIZE(sl_work_result), .work = works[i]};
        if (works[i]->kv == SL_WORK_KV_OVERWRITE) {
            s->results[i].status = check_overwrite(e, works[i]);
            s->items[i].is_over = s->results[i].status < 0;
        }
    }
    s->n_items = n;
    return SL_OK;
}

static sl_status run_source(sluice_engine *e, source *s, sl_error *err) {
    for (int round = 0; round < MAX_ROUNDS && first_open(s) == s->n_items; round++) {
        SL_TRY(ask(e, s, err));
        if (s->n_items == 0)
            break;
        for (int i = 0; i < s->n_items; i++)
            while (!s->items[i].is_over && s->items[i].work->when == SL_WORK_IN_STEP)
                SL_TRY(run_piece(e, s, i, err));
    }
    return SL_OK;
}

sl_status sli_sources_run(sluice_engine *e, sl_error *err) {
    sli_sources *all = e->sources;
    if (all == NULL)
        return SL_OK;
    double begin = sli_now();
    for (int i = 0; i < all->n; i++)
        SL_TRY(run_source(e, &all->list[i], err));
    for (int i = 0; i < all->n; i++) {
        source *s = &all->list[(all->turn + i) % all->n];
        int open = first_open(s);
        if (open == s->n_items)
            continue;
        all->turn = (all->turn + i + 1) % all->n;
        SL_TRY(run_piece(e, s, open, err));
        break;
    }
    e->stats.decode_seconds += sli_now() - begin;
    return SL_OK;
}

void sli_sources_cut(sluice_engine *e, int32_t seq, int64_t n) {
    for (int i = 0; e->sources != NULL && i < e->sources->n; i++) {
        source *s = &e->sources->list[i];
        for (int k = 0; k < s->n_items; k++) {
            item *it = &s->items[k];
            const sl_work *w = it->work;
            if (it->is_over || w->seq != seq || w->branch != 0)
                continue;
            if (w->kv == SL_WORK_KV_OVERWRITE && w->begin + it->n_rows > n)
                it->n_rows = w->begin < n ? n - w->begin : 0;
            it->is_over = w->kv == SL_WORK_KV_OVERWRITE ? it->n_done >= it->n_rows : n == 0 || w->begin > n;
            if (it->is_over && it->n_done == 0)
                s->results[k].status = SL_E_STATE;
        }
    }
}
