/* Sessions: opening, forking, cutting, and their cache as a file. */
#include "engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "api.h"
#include "base/ledger.h"
#include "branch.h"
#include "prompt.h"
#include "sl_error.h"
#include "sources.h"
#include "sl_tensor.h"
#include "sums.h"
#include "transcript.h"

/* ---- life
 * -------------------------------------------------------------------------------------------------------------- */

static void free_session(sluice_session *s) {
    if (s == NULL)
        return;
    sli_transcript_free(s);
    sli_prompt_free(s);
    sli_free(s->tokens);
    sli_free(s->draft);
    sli_free(s);
}

static sl_status new_session(sluice_engine *e, sluice_session **out, sl_error *err) {
    int32_t id = 0;
    while (id < e->max_sessions && e->by_id[id] != NULL)
        id++;
    if (id == e->max_sessions)
        return sl_fail(err, SL_E_RANGE, "all %d sessions are in use (engine.max_seqs)", e->max_sessions);
    sluice_session *s = sli_alloc(SLI_TAG_MISC, sizeof *s);
    if (s != NULL) {
        s->tokens = sli_calloc(SLI_TAG_MISC, (size_t)e->limits.max_context + 1, sizeof *s->tokens);
        s->draft = sli_alloc(SLI_TAG_MISC, sizeof *s->draft);
    }
    if (s == NULL || s->tokens == NULL || s->draft == NULL) {
        free_session(s);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a session");
    }
    s->engine = e;
    s->id = id;
    s->n_branch = -1;
    *out = s;
    return SL_OK;
}

static void adopt(sluice_engine *e, sluice_session *s) {
    e->by_id[s->id] = s;
    s->next = e->sessions;
    e->sessions = s;
}

static sl_status open_caches(sluice_engine *e, sluice_session *s, int32_t parent, int64_t n, int64_t n_draft,
                             sl_error *err) {
    SL_TRY(sli_network_seq_open(&e->target, s->id, parent, n, err));
    if (e->draft.model == NULL)
        return SL_OK;
    sl_status status = sli_network_seq_open(&e->draft, s->id, parent, n_draft, err);
    if (status < 0)
        sli_network_seq_close(&e->target, s->id);
    return status;
}

int sluice_session_open(sluice_engine *e, sluice_session **out, sluice_error *error) {
    SLI_API(err, error);
    sluice_session *s;
    sl_status status = new_session(e, &s, &err);
    if (status >= 0 && (status = open_caches(e, s, -1, 0, 0, &err)) < 0)
        free_session(s);
    if (status < 0)
        return sli_api_fail(&err, status, error);
    adopt(e, s);
    sli_engine_event(e, SL_EVENT_BEGIN, s->id, -1, 0);
    *out = s;
    return SLUICE_OK;
}

void sluice_session_close(sluice_session *s) {
    if (s == NULL)
        return;
    sluice_engine *e = s->engine;
    sli_sources_cut(e, s->id, 0);
    sli_engine_event(e, SL_EVENT_FINISH, s->id, -1, s->n_kv);
    sli_network_seq_close(&e->target, s->id);
    if (e->draft.model != NULL)
        sli_network_seq_close(&e->draft, s->id);
    sli_branch_close(e, s);
    e->by_id[s->id] = NULL;
    for (sluice_session **p = &e->sessions; *p != NULL; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    free_session(s);
}

/* The tokens of a child, as many of the parent's rows as it shares, and what goes with them. */
static sl_status share(sluice_session *s, const sluice_session *from, int64_t n, sl_error *err) {
    int64_t kept = sli_shown_length(from) - from->n; /* shown tokens that no token of the session stands for */
    int whole = from->shown == NULL || n >= from->shown->n_replaced;
    if (!whole) { /* cut inside of what was replaced: all of it is to be computed again */
        memcpy(s->tokens, sli_shown_tokens(from), sizeof *s->tokens * (size_t)n);
        s->n = s->n_prompt = n;
        s->fresh = n > 0;
        return open_caches(s->engine, s, -1, 0, 0, err);
    }
    s->n = n - kept;
    s->n_kv = from->n_kv < s->n ? from->n_kv : s->n;
    s->n_draft = from->n_draft < s->n ? from->n_draft : s->n;
    s->n_prompt = from->n_prompt < s->n ? from->n_prompt : s->n;
    s->fresh = from->fresh || from->n_split > 0;
    memcpy(s->tokens, from->tokens, sizeof *s->tokens * (size_t)s->n);
    if (from->shown != NULL)
        SL_TRY(sli_transcript_fork(s, from, n, err));
    return open_caches(s->engine, s, from->id, s->n_kv, s->n_draft, err);
}

int sluice_session_fork(sluice_session *from, int64_t n, sluice_session **out, sluice_error *error) {
    SLI_API(err, error);
    sluice_engine *e = from->engine;
    sluice_session *s;
    n = n < 0 ? sli_shown_length(from) : n;
    if (n > sli_shown_length(from))
        return sli_api_fail(&err,
                            sl_fail(&err, SL_E_RANGE, "a session of %" PRId64 " tokens has no first %" PRId64,
                                    sli_shown_length(from), n),
                            error);
    sl_status status = new_session(e, &s, &err);
    if (status >= 0 && (status = share(s, from, n, &err)) < 0)
        free_session(s);
    if (status < 0)
        return sli_api_fail(&err, status, error);
    sli_branch_fork(e, s, from);
    adopt(e, s);
    sli_engine_event(e, SL_EVENT_FORK, s->id, from->id, s->n_kv);
    *out = s;
    return SLUICE_OK;
}

/* n: tokens of the session, not of what is shown. */
static sl_status cut(sluice_session *s, int64_t n, sl_error *err) {
    sluice_engine *e = s->engine;
    if (n < s->n_kv) {
        SL_TRY(sli_network_seq_truncate(&e->target, s->id, n, err));
        s->n_kv = n;
        sli_sources_cut(e, s->id, n);
        sli_engine_event(e, SL_EVENT_TRUNCATE, s->id, -1, n);
    }
    s->n = n;
    s->n_prompt = s->n_prompt < n ? s->n_prompt : n;
    return SL_OK;
}

int sluice_session_truncate(sluice_session *s, int64_t n, sluice_error *error) {
    SLI_API(err, error);
    int64_t length = sli_shown_length(s);
    sl_status status = SL_OK;
    if (n < 0 || n > length)
        status =
            sl_fail(&err, SL_E_RANGE, "a session of %" PRId64 " tokens cannot be cut to %" PRId64, length, n);
    else if (s->shown != NULL && n < s->shown->n_replaced)
        status = sli_transcript_restart(s, n, &err);
    else if ((status = cut(s, s->n - (length - n), &err)) >= 0 && s->shown != NULL)
        s->shown->n = n;
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}

int sluice_session_append(sluice_session *s, const int32_t *tokens, int64_t n, sluice_error *error) {
    SLI_API(err, error);
    const sluice_engine *e = s->engine;
    if (n < 0 || n > sli_shown_room(s))
        return sli_api_fail(&err,
                            sl_fail(&err, SL_E_RANGE,
                                    "%" PRId64 " tokens are longer than the context of %" PRId64 " tokens",
                                    sli_shown_length(s) + n, e->limits.max_context),
                            error);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= e->target.info->vocab)
            return sli_api_fail(&err,
                                sl_fail(&err, SL_E_RANGE, "token id %d is outside of the vocabulary [0, %d)", tokens[i],
                                        e->target.info->vocab),
                                error);
    for (int64_t i = 0; i < n; i++)
        sli_session_push(s, tokens[i]);
    s->n_prompt = s->n;
    s->fresh |= n > 0;
    return SLUICE_OK;
}

int64_t sluice_session_length(const sluice_session *s) { return sli_shown_length(s); }
const int32_t *sluice_session_tokens(const sluice_session *s) { return sli_shown_tokens(s); }

int64_t sluice_session_computed(const sluice_session *s, const int32_t **tokens, const int64_t **index,
                                int64_t *n_prompt) {
    *tokens = s->tokens;
    *index = s->shown != NULL ? s->shown->index : NULL;
    *n_prompt = s->shown != NULL ? s->shown->n_new : s->n_prompt;
    return s->n;
}

/* ---- the cache as a file
 * --------------------------------------------------------------------------------------------------- */

/* header, n tokens (i32), the transcript where the prompt was replaced, then for each layer the rows of copy_rows:
 * [2, n_kv, K, D] in the store's dtype. */
typedef struct file_header {
    char magic[8];
    uint64_t fingerprint;
    int64_t n, n_kv, n_prompt;
    uint32_t dtype;
    uint32_t n_layers;
} file_header;
static const char magic[8] = "slkv 01", magic_replaced[8] = "slkv 02";

static int64_t layer_bytes(const sli_network *net, int32_t l, int64_t n) {
    const sl_layer_info *info = net->info->layers[l];
    return n * info->n_kv_heads * (info->head_dim + info->v_head_dim) *
           (sl_dtype_bits(net->layers[l].layout.dtype) / 8);
}

static sl_status can_export(const sli_network *net, sl_error *err) {
    for (int32_t l = 0; l < net->info->n_layers; l++)
        if (!(net->layers[l].layout.flags & SL_KV_EXPORTS) ||
            net->layers[l].layout.dtype != net->layers[0].layout.dtype)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "the KV store of layer %d does not export its rows", l);
    return SL_OK;
}

/* Moves the rows of all layers through one buffer, to or from the file. */
static sl_status transfer(sluice_session *s, FILE *f, int64_t n, uint32_t direction, sl_error *err) {
    sli_network *net = &s->engine->target;
    int64_t most = 0;
    for (int32_t l = 0; l < net->info->n_layers; l++)
        most = layer_bytes(net, l, n) > most ? layer_bytes(net, l, n) : most;
    void *buffer = sli_alloc(SLI_TAG_MISC, (size_t)most);
    if (buffer == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %" PRId64 " bytes of rows", most);
    sl_status status = SL_OK;
    for (int32_t l = 0; status >= 0 && l < net->info->n_layers; l++) {
        const sli_store *store = net->layers[l].store;
        size_t bytes = (size_t)layer_bytes(net, l, n);
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .lane = net->lane,
                           .buffer = buffer,
                           .end = n,
                           .bytes = (int64_t)bytes,
                           .layer = l,
                           .seq = s->id,
                           .direction = direction,
                           .dtype = net->layers[l].layout.dtype};
        if (direction == SL_COPY_IMPORT && fread(buffer, 1, bytes, f) != bytes)
            status = sl_fail(err, SL_E_DATA, "the file ends inside the rows of layer %d", l);
        if (status >= 0)
            status = store->api->copy_rows(store->self, &copy, err);
        if (status >= 0 && direction == SL_COPY_EXPORT && fwrite(buffer, 1, bytes, f) != bytes)
            status = sl_fail(err, SL_E_IO, "%s", strerror(errno));
    }
    sli_free(buffer);
    return status;
}

int sluice_session_save(sluice_session *s, const char *path, sluice_error *error) {
    SLI_API(err, error);
    const sli_network *net = &s->engine->target;
    sl_status status = can_export(net, &err);
    FILE *f = status >= 0 ? fopen(path, "wb") : NULL;
    if (status >= 0 && f == NULL)
        status = sl_fail(&err, SL_E_IO, "%s", strerror(errno));
    file_header h = {.fingerprint = net->info->fingerprint,
                     .n = s->n,
                     .n_kv = s->n_kv,
                     .n_prompt = s->n_prompt,
                     .dtype = net->layers[0].layout.dtype,
                     .n_layers = (uint32_t)net->info->n_layers};
    memcpy(h.magic, s->shown != NULL ? magic_replaced : magic, sizeof h.magic);
    if (status >= 0 &&
        (fwrite(&h, sizeof h, 1, f) != 1 || fwrite(s->tokens, sizeof *s->tokens, (size_t)s->n, f) != (size_t)s->n))
        status = sl_fail(&err, SL_E_IO, "%s", strerror(errno));
    if (status >= 0 && s->shown != NULL)
        status = sli_transcript_write(s, f, &err);
    if (status >= 0)
        status = transfer(s, f, s->n_kv, SL_COPY_EXPORT, &err);
    if (f != NULL && fclose(f) != 0 && status >= 0)
        status = sl_fail(&err, SL_E_IO, "%s", strerror(errno));
    struct stat what;
    if (status < 0 && f != NULL && stat(path, &what) == 0 &&
        S_ISREG(what.st_mode)) /* half a file helps nobody; a device stays */
        remove(path);
    return status < 0 ? sli_api_fail(&err, sl_fail_within(&err, status, "%s", path), error) : SLUICE_OK;
}

static sl_status check_header(const sluice_session *s, const file_header *h, sl_error *err) {
    const sli_network *net = &s->engine->target;
    if (memcmp(h->magic, magic, sizeof magic) != 0 && memcmp(h->magic, magic_replaced, sizeof magic) != 0)
        return sl_fail(err, SL_E_DATA, "not a saved session of this version");
    if (h->fingerprint != net->info->fingerprint || h->n_layers != (uint32_t)net->info->n_layers)
        return sl_fail(err, SL_E_DATA, "saved with another model");
    if (h->dtype != net->layers[0].layout.dtype)
        return sl_fail(err, SL_E_DATA, "saved with rows of %s, this store keeps %s", sl_dtype_name(h->dtype),
                       sl_dtype_name(net->layers[0].layout.dtype));
    if (h->n < 0 || h->n > s->engine->limits.max_context || h->n_kv < 0 || h->n_kv > h->n || h->n_prompt < 0 ||
        h->n_prompt > h->n)
        return sl_fail(err, SL_E_DATA,
                       "%" PRId64 " tokens, %" PRId64 " of them cached, do not fit a context of %" PRId64, h->n,
                       h->n_kv, s->engine->limits.max_context);
    return SL_OK;
}

int sluice_session_load(sluice_session *s, const char *path, sluice_error *error) {
    SLI_API(err, error);
    sluice_engine *e = s->engine;
    file_header h;
    sl_status status = s->n == 0 ? can_export(&e->target, &err) : sl_fail(&err, SL_E_STATE, "the session is not empty");
    FILE *f = status >= 0 ? fopen(path, "rb") : NULL;
    if (status >= 0 && f == NULL)
        status = sl_fail(&err, SL_E_NOT_FOUND, "%s", strerror(errno));
    if (status >= 0 && fread(&h, sizeof h, 1, f) != 1)
        status = sl_fail(&err, SL_E_DATA, "the file ends inside its header");
    if (status >= 0)
        status = check_header(s, &h, &err);
    if (status >= 0 && fread(s->tokens, sizeof *s->tokens, (size_t)h.n, f) != (size_t)h.n)
        status = sl_fail(&err, SL_E_DATA, "the file ends inside its tokens");
    for (int64_t i = 0; status >= 0 && i < h.n; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= e->target.info->vocab)
            status = sl_fail(&err, SL_E_DATA, "token %" PRId64 " has the id %d", i, s->tokens[i]);
    if (status >= 0 && memcmp(h.magic, magic_replaced, sizeof magic) == 0) {
        s->n = h.n;
        status = sli_transcript_read(s, f, &err);
        s->n = 0;
    }
    if (status >= 0)
        status = transfer(s, f, h.n_kv, SL_COPY_IMPORT, &err);
    if (status >= 0 && fgetc(f) != EOF)
        status = sl_fail(&err, SL_E_DATA, "the file goes on behind the last row");
    if (status >= 0) {
        s->n = h.n;
        s->n_kv = h.n_kv;
        s->n_prompt = h.n_prompt;
        if (h.n_kv > 0)
            sli_sums_imported(&e->target, s->id);
    } else if (f != NULL) {
        sli_transcript_free(s);
        sli_network_seq_truncate(&e->target, s->id, 0, NULL);
    }
    if (f != NULL)
        fclose(f);
    return status < 0 ? sli_api_fail(&err, sl_fail_within(&err, status, "%s", path), error) : SLUICE_OK;
}
