/* See tidal_correct.h. */
#include "tidal_correct.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

/* ---- life ------------------------------------------------------------------------------------------------------ */

sl_status tidal_correct_create(tidal_corrector *c) {
    c->seqs = calloc((size_t)c->max_seqs, sizeof *c->seqs);
    c->token =
        c->mem->alloc(c->host, SL_DEVICE_CPU, TIDAL_ITEMS * c->chunk * (int64_t)sizeof *c->token, 64, SL_MEM_PLUGIN);
    return c->seqs != NULL && c->token != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void tidal_correct_destroy(tidal_corrector *c) {
    for (int64_t i = 0; c->seqs != NULL && i < c->max_seqs; i++)
        tidal_correct_close(c, (int32_t)i);
    free(c->seqs);
    if (c->token != NULL)
        c->mem->release(c->host, SL_DEVICE_CPU, c->token);
    c->seqs = NULL;
    c->token = NULL;
}

sl_status tidal_correct_open(tidal_corrector *c, int32_t seq, int32_t parent, int64_t upto) {
    if (seq < 0 || seq >= c->max_seqs || parent >= c->max_seqs || c->seqs[seq].is_open)
        return SL_E_STATE;
    tidal_history *h = &c->seqs[seq];
    *h = (tidal_history){.first = -1, .goal = -1, .life = ++c->lives, .is_open = 1};
    if (parent < 0)
        return SL_OK;
    const tidal_history *p = &c->seqs[parent];
    h->n = upto;
    h->is_blind = p->is_blind;
    h->steps = p->steps;
    if (p->first < 0 || p->first >= upto)
        return SL_OK;
    sl_status s = tidal_correct_grow(c, seq, upto);
    if (s < 0) {
        h->is_open = 0;
        return s;
    }
    h->first = p->first;
    memcpy(h->token + h->first, p->token + h->first, sizeof *h->token * (size_t)(upto - h->first));
    return SL_OK;
}

void tidal_correct_close(tidal_corrector *c, int32_t seq) {
    if (seq < 0 || seq >= c->max_seqs || !c->seqs[seq].is_open)
        return;
    if (c->seqs[seq].token != NULL)
        c->mem->release(c->host, SL_DEVICE_CPU, c->seqs[seq].token);
    c->seqs[seq] = (tidal_history){.first = -1};
}

sl_status tidal_correct_grow(tidal_corrector *c, int32_t seq, int64_t n_tokens) {
    tidal_history *h = &c->seqs[seq];
    if (n_tokens <= h->cap)
        return SL_OK;
    int32_t *wider = c->mem->alloc(c->host, SL_DEVICE_CPU, n_tokens * (int64_t)sizeof *wider, 64, SL_MEM_PLUGIN);
    if (wider == NULL)
        return SL_E_NO_MEMORY;
    if (h->token != NULL) {
        memcpy(wider, h->token, sizeof *wider * (size_t)(h->n < h->cap ? h->n : h->cap));
        c->mem->release(c->host, SL_DEVICE_CPU, h->token);
    }
    h->token = wider;
    h->cap = n_tokens;
    return SL_OK;
}

void tidal_correct_cut(tidal_corrector *c, int32_t seq, int64_t n) {
    if (seq < 0 || seq >= c->max_seqs || !c->seqs[seq].is_open)
        return;
    tidal_history *h = &c->seqs[seq];
    h->n = h->n < n ? h->n : n;
    h->first = h->first < n ? h->first : -1;
    h->goal = h->goal < n ? h->goal : n;
    for (int i = 0; i < c->n_items; i++)
        if (c->items[i].life == h->life && c->items[i].end > n)
            c->items[i].end = n;
}

/* ---- noting ---------------------------------------------------------------------------------------------------- */

void tidal_correct_note(tidal_corrector *c, const sl_commit *commit) {
    const sl_batch *b = commit->batch;
    for (int32_t at = 0; at < b->n_seqs; at++) {
        tidal_history *h = &c->seqs[b->seq[at]];
        int64_t n = b->n_past[at];
        if (n < h->n) /* rows that are written again */
            continue;
        for (int32_t i = commit->path_begin[at]; i < commit->path_begin[at + 1]; i++, n++) {
            int32_t token = b->token[b->row_begin[at] + commit->path[i]];
            if (h->first < 0 && b->stage[at] != SL_STAGE_PREFILL && n + 1 > c->min_context)
                h->first = n;
            if (h->first >= 0 && (token < 0 || n >= h->cap))
                h->is_blind = 1;
            if (n < h->cap)
                h->token[n] = token;
        }
        h->n = n;
        h->steps += b->stage[at] != SL_STAGE_PREFILL && h->first >= 0;
    }
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static void take_result(tidal_corrector *c, const sl_work_result *r, int64_t *n_done) {
    const tidal_item *item = r->work->user;
    tidal_history *h = &c->seqs[item->work.seq];
    if (!h->is_open || h->life != item->life || r->status == SL_E_STATE)
        return;
    if (r->status < 0) {
        h->is_blind = 1;
        return;
    }
    if (h->first != item->work.begin || item->end <= h->first)
        return; /* it was cut in front of these rows, and they are others now */
    *n_done += item->end - h->first;
    h->first = item->end < h->n ? item->end : -1;
}

/* Items for what is left of a sequence's correction. */
static void add_items(tidal_corrector *c, int32_t seq) {
    tidal_history *h = &c->seqs[seq];
    for (int64_t begin = h->first; begin < h->goal && c->n_items < TIDAL_ITEMS; begin += c->chunk) {
        int64_t n = begin + c->chunk < h->goal ? c->chunk : h->goal - begin;
        tidal_item *item = &c->items[c->n_items];
        int32_t *token = c->token + c->n_items * c->chunk;
        memcpy(token, h->token + begin, sizeof *token * (size_t)n);
        *item = (tidal_item){.work = {.struct_size = SL_SIZE(sl_work),
                                      .token = token,
                                      .begin = begin,
                                      .user = item,
                                      .n_rows = (int32_t)n,
                                      .seq = seq,
                                      .exit_layer = -1,
                                      .rows_kind = SL_WORK_IDS,
                                      .kv = SL_WORK_KV_OVERWRITE,
                                      .when = SL_WORK_BACKGROUND,
                                      .logits = SL_WORK_LOGITS_NONE},
                             .life = h->life,
                             .end = begin + n};
        c->works[c->n_items++] = &item->work;
    }
}

void tidal_correct_work(tidal_corrector *c, const sl_work_result *const *results, int32_t n_results,
                        const sl_work *const **works, int32_t *n_works, int64_t *n_done) {
    *n_done = 0;
    for (int32_t i = 0; i < n_results; i++)
        take_result(c, results[i], n_done);
    c->n_items = 0;
    for (int64_t seq = 0; seq < c->max_seqs; seq++) {
        tidal_history *h = &c->seqs[seq];
        if (!h->is_open || h->is_blind)
            continue;
        if (h->first < 0 || h->first >= h->goal)
            h->goal = -1;
        if (h->goal < 0 && h->first >= 0 && h->steps >= c->period) {
            h->goal = h->n;
            h->steps = 0;
        }
        if (h->goal >= 0)
            add_items(c, (int32_t)seq);
    }
    *works = c->works;
    *n_works = c->n_items;
}
