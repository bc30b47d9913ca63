/* See transcript.h. */
#include "transcript.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_error.h"
#include "sources.h"

int64_t sli_shown_length(const sluice_session *s) { return s->shown != NULL ? s->shown->n : s->n; }
const int32_t *sli_shown_tokens(const sluice_session *s) { return s->shown != NULL ? s->shown->tokens : s->tokens; }

int64_t sli_shown_room(const sluice_session *s) {
    const sli_transcript *t = s->shown;
    int64_t most = s->n;
    if (t != NULL && t->n > most)
        most = t->n;
    if (t != NULL && (int64_t)ceilf(t->next) + s->n - t->n_new > most)
        most = (int64_t)ceilf(t->next) + s->n - t->n_new; /* positions have tables, too */
    return s->engine->limits.max_context > most ? s->engine->limits.max_context - most : 0;
}

void sli_session_push(sluice_session *s, int32_t token) {
    s->tokens[s->n++] = token;
    if (s->shown != NULL)
        s->shown->tokens[s->shown->n++] = token;
}

/* ---- positions ------------------------------------------------------------------------------------------------------
 */

static float position_of(const sli_transcript *t, int64_t i) {
    if (i >= t->n_new)
        return t->next + (float)(i - t->n_new);
    return t->position != NULL ? t->position[i] : (float)i;
}

const float *sli_session_positions(sluice_engine *e, const sluice_session *s, int64_t n_past, int32_t n_rows,
                                   const sl_tree *tree) {
    const sli_transcript *t = s->shown;
    if (t == NULL || (t->position == NULL && t->next == (float)t->n_new))
        return NULL;
    int32_t depth[SL_MAX_TREE_NODES];
    if (tree != NULL)
        sli_tree_depths(tree, depth);
    for (int32_t i = 0; i < n_rows; i++)
        e->row_position[i] = position_of(t, n_past + (tree != NULL ? depth[i] : i));
    return e->row_position;
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static void destroy(sli_transcript *t) {
    if (t == NULL)
        return;
    sli_free(t->tokens);
    sli_free(t->position);
    sli_free(t->index);
    sli_free(t);
}

void sli_transcript_free(sluice_session *s) {
    destroy(s->shown);
    s->shown = NULL;
}

/* Room for a transcript whose prompt stands for n_new tokens. */
static sli_transcript *create(const sluice_engine *e, int64_t n_new, int with_position, int with_index, sl_error *err) {
    sli_transcript *t = sli_alloc(SLI_TAG_MISC, sizeof *t);
    if (t != NULL) {
        t->n_new = n_new;
        t->next = (float)n_new;
        t->tokens = sli_calloc(SLI_TAG_MISC, (size_t)e->limits.max_context + 1, sizeof *t->tokens);
        t->position = with_position ? sli_calloc(SLI_TAG_MISC, (size_t)n_new, sizeof *t->position) : NULL;
        t->index = with_index ? sli_calloc(SLI_TAG_MISC, (size_t)n_new, sizeof *t->index) : NULL;
    }
    if (t != NULL && t->tokens != NULL && (!with_position || t->position != NULL) && (!with_index || t->index != NULL))
        return t;
    destroy(t);
    sl_fail(err, SL_E_NO_MEMORY, "no memory for a session's text");
    return NULL;
}

/* The cache of the target forgets the session, and what was promised to it is free again. */
static sl_status empty_cache(sluice_session *s, sl_error *err) {
    sluice_engine *e = s->engine;
    sli_network_seq_close(&e->target, s->id);
    s->n_kv = s->n_grown = s->n_promised = 0;
    SL_TRY(sli_network_seq_open(&e->target, s->id, -1, 0, err));
    sli_sources_cut(e, s->id, 0);
    sli_engine_event(e, SL_EVENT_TRUNCATE, s->id, -1, 0);
    return SL_OK;
}

sl_status sli_transcript_replace(sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err) {
    int64_t n_shown = sli_shown_length(s), n_tail = n_shown - n;
    sli_transcript *t = create(s->engine, io->n_new, io->new_position != NULL, io->new_index != NULL, err);
    if (t == NULL)
        return SL_E_NO_MEMORY;
    sl_status status = s->n_kv > 0 ? empty_cache(s, err) : SL_OK;
    if (status < 0) {
        destroy(t);
        return status;
    }
    t->n = n_shown;
    t->n_replaced = n;
    memcpy(t->tokens, sli_shown_tokens(s), sizeof *t->tokens * (size_t)n_shown);
    if (t->position != NULL) {
        memcpy(t->position, io->new_position, sizeof *t->position * (size_t)io->n_new);
        t->next = t->position[io->n_new - 1] + 1;
    }
    if (t->index != NULL)
        memcpy(t->index, io->new_index, sizeof *t->index * (size_t)io->n_new);
    if (io->next_position > 0)
        t->next = io->next_position;
    memmove(s->tokens, io->new_token, sizeof *s->tokens * (size_t)io->n_new);
    memcpy(s->tokens + io->n_new, t->tokens + n, sizeof *s->tokens * (size_t)n_tail);
    s->n = s->n_prompt = io->n_new + n_tail;
    destroy(s->shown);
    s->shown = t;
    return SL_OK;
}

sl_status sli_transcript_restart(sluice_session *s, int64_t n, sl_error *err) {
    SL_TRY(empty_cache(s, err));
    memmove(s->tokens, sli_shown_tokens(s), sizeof *s->tokens * (size_t)n);
    s->n = s->n_prompt = n;
    s->fresh = n > 0;
    sli_transcript_free(s);
    return SL_OK;
}

sl_status sli_transcript_fork(sluice_session *child, const sluice_session *parent, int64_t n, sl_error *err) {
    const sli_transcript *from = parent->shown;
    sli_transcript *t = create(child->engine, from->n_new, from->position != NULL, from->index != NULL, err);
    if (t == NULL)
        return SL_E_NO_MEMORY;
    t->n = n;
    t->n_replaced = from->n_replaced;
    t->next = from->next;
    memcpy(t->tokens, from->tokens, sizeof *t->tokens * (size_t)n);
    if (t->position != NULL)
        memcpy(t->position, from->position, sizeof *t->position * (size_t)t->n_new);
    if (t->index != NULL)
        memcpy(t->index, from->index, sizeof *t->index * (size_t)t->n_new);
    child->shown = t;
    return SL_OK;
}

/* ---- in a file ------------------------------------------------------------------------------------------------------
 */

typedef struct record {
    int64_t n, n_replaced, n_new;
    uint32_t has_position, has_index;
    float next;
    uint32_t reserved;
} record;

static int put(FILE *f, const void *data, size_t size, int64_t n) {
    return data == NULL || fwrite(data, size, (size_t)n, f) == (size_t)n;
}

sl_status sli_transcript_write(const sluice_session *s, FILE *f, sl_error *err) {
    const sli_transcript *t = s->shown;
    record r = {.n = t->n,
                .n_replaced = t->n_replaced,
                .n_new = t->n_new,
                .has_position = t->position != NULL,
                .has_index = t->index != NULL,
                .next = t->next};
    int ok = put(f, &r, sizeof r, 1) && put(f, t->tokens, sizeof *t->tokens, t->n) &&
             put(f, t->position, sizeof *t->position, t->n_new) && put(f, t->index, sizeof *t->index, t->n_new);
    return ok ? SL_OK : sl_fail(err, SL_E_IO, "%s", strerror(errno));
}

static int is_sound(const sli_transcript *t, const sluice_session *s) {
    const sluice_engine *e = s->engine;
    float last = (float)(e->limits.max_context - 1);
    for (int64_t i = 0; i < t->n; i++)
        if (t->tokens[i] < 0 || t->tokens[i] >= e->target.info->vocab)
            return 0;
    for (int64_t i = 0; i < t->n_new; i++)
        if ((t->position != NULL && !(t->position[i] >= 0 && t->position[i] <= last)) ||
            (t->index != NULL && (t->index[i] < -1 || t->index[i] >= t->n_replaced)))
            return 0;
    return t->next >= 0 && t->next + (float)(s->n - t->n_new) <= last + 1;
}

sl_status sli_transcript_read(sluice_session *s, FILE *f, sl_error *err) {
    record r;
    int64_t most = s->engine->limits.max_context;
    if (fread(&r, sizeof r, 1, f) != 1)
        return sl_fail(err, SL_E_DATA, "the file ends in front of its text");
    if (r.n < 1 || r.n > most || r.n_replaced < 1 || r.n_replaced > r.n || r.n_new < 1 || r.n_new > s->n ||
        s->n - r.n_new != r.n - r.n_replaced)
        return sl_fail(err, SL_E_DATA,
                       "a text of %" PRId64 " tokens, %" PRId64 " of them replaced by %" PRId64
                       ", does not fit %" PRId64 " computed tokens and a context of %" PRId64,
                       r.n, r.n_replaced, r.n_new, s->n, most);
    sli_transcript *t = create(s->engine, r.n_new, r.has_position != 0, r.has_index != 0, err);
    if (t == NULL)
        return SL_E_NO_MEMORY;
    t->n = r.n;
    t->n_replaced = r.n_replaced;
    t->next = r.next;
    sl_status status = SL_OK;
    if (fread(t->tokens, sizeof *t->tokens, (size_t)t->n, f) != (size_t)t->n ||
        (t->position != NULL && fread(t->position, sizeof *t->position, (size_t)t->n_new, f) != (size_t)t->n_new) ||
        (t->index != NULL && fread(t->index, sizeof *t->index, (size_t)t->n_new, f) != (size_t)t->n_new))
        status = sl_fail(err, SL_E_DATA, "the file ends inside its text");
    else if (!is_sound(t, s))
        status = sl_fail(err, SL_E_DATA, "the text has tokens or positions that this model does not know");
    if (status < 0) {
        destroy(t);
        return status;
    }
    s->shown = t;
    return SL_OK;
}
