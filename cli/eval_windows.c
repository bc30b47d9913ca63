/* See eval_windows.h. */
#include "eval_windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "sha256.h"

struct eval_protocol {
    const char *name;
    int64_t context, stride; /* defaults; context 0: the engine's */
    int special;             /* the text is encoded with the tokenizer's special tokens, once */
    int needs_bos;
    int64_t (*count)(const eval_windows *w);
    void (*span)(const eval_windows *w, int64_t i, eval_span *out);
};

/* A beginning-of-text token and context - 1 tokens of the text, all of them predicted. */
static int64_t bos_count(const eval_windows *w) { return w->n / (w->context - 1); }
static void bos_span(const eval_windows *w, int64_t i, eval_span *out) {
    int64_t n = w->context - 1;
    *out = (eval_span){.begin = i * n, .n = n, .scored = n, .bos_in_front = 1};
}

/* As GPTQ's and its followers' scripts: special tokens once in front of the whole text, windows beside one another. */
static int64_t whole_count(const eval_windows *w) { return w->n / w->context; }
static void gptq_span(const eval_windows *w, int64_t i, eval_span *out) {
    *out = (eval_span){.begin = i * w->context, .n = w->context, .scored = w->context - 1};
}

/* As llama.cpp: what stands in the second half of a window alone is predicted, so that all have something to look at.
 */
static void lcpp_span(const eval_windows *w, int64_t i, eval_span *out) {
    *out = (eval_span){.begin = i * w->context,
                       .n = w->context,
                       .scored = w->context - 1 - w->context / 2,
                       .bos_instead = w->adds_bos};
}

/* A window that slides on: what it has not yet shown is predicted, the rest tail of the text included. */
static int64_t strided_count(const eval_windows *w) {
    if (w->n < 2)
        return 0;
    return w->n <= w->context ? 1 : (w->n - w->context + w->stride - 1) / w->stride + 1;
}
static void strided_span(const eval_windows *w, int64_t i, eval_span *out) {
    int64_t begin = i * w->stride, end = begin + w->context < w->n ? begin + w->context : w->n;
    int64_t seen = i == 0 ? 0 : begin - w->stride + w->context, fresh = end - seen;
    *out = (eval_span){.begin = begin, .n = end - begin, .scored = fresh < end - begin ? fresh : end - begin - 1};
}

static const eval_protocol protocols[] = {
    {"bos", 0, 0, 0, 1, bos_count, bos_span},
    {"gptq", 2048, 0, 1, 0, whole_count, gptq_span}, /* named after the paper; no plugin */
    {"lcpp", 512, 0, 1, 0, whole_count, lcpp_span},
    {"strided", 0, 512, 1, 0, strided_count, strided_span},
};
const char *const eval_protocol_names = "bos, gptq, lcpp or strided";

static const eval_protocol *protocol_named(const char *name) {
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if (name == NULL || strcmp(protocols[i].name, name) == 0)
            return &protocols[i];
    return NULL;
}

static int32_t *encode(sluice_engine *e, const char *text, size_t length, int flags, int64_t *n, sluice_error *err) {
    *n = sluice_tokenize(e, text, length, flags, NULL, 0, err);
    int32_t *tokens = *n < 0 ? NULL : malloc(sizeof *tokens * (size_t)(*n + 1));
    if (tokens == NULL && *n >= 0)
        eval_no_memory(err);
    if (tokens != NULL)
        sluice_tokenize(e, text, length, flags, tokens, *n, err);
    return tokens;
}

#define REFUSE(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_RANGE)

/* Sizes that can be: of the context, the stride and the steps. */
static int sizes(eval_windows *w, const eval_cut *cut, int64_t most, sluice_error *err) {
    const eval_protocol *p = w->protocol;
    w->context = cut->context != 0 ? cut->context : p->context != 0 ? p->context : most;
    if (w->context > most && cut->context == 0)
        w->context = most;
    w->stride = cut->stride != 0 ? cut->stride : p->stride < w->context ? p->stride : w->context;
    w->steps = cut->steps;
    int64_t least = p->span == lcpp_span ? 4 : 2;
    if (w->context < least || w->context > most || w->steps < 0 || w->steps > w->context - 2)
        return REFUSE(err, "--context must be in [%lld, %lld], --steps in [0, context - 2]", (long long)least,
                      (long long)most);
    if (cut->stride != 0 && p->stride == 0)
        return REFUSE(err, "--stride: windows of protocol %s do not overlap", p->name);
    if (p->stride != 0 && (w->stride < 1 || w->stride > w->context))
        return REFUSE(err, "--stride must be in [1, %lld], the context", (long long)w->context);
    eval_span first;
    p->span(w, 0, &first);
    if (p->stride == 0 && w->steps > first.scored)
        return REFUSE(err, "--steps: protocol %s scores %lld tokens of a window", p->name, (long long)first.scored);
    return SLUICE_OK;
}

/* The same of tokens or of a text: what does not depend on them comes first. */
static int begin(sluice_engine *e, const eval_cut *cut, eval_windows *out, sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    *out = (eval_windows){.protocol = protocol_named(cut->protocol), .bos = info.bos};
    const eval_protocol *p = out->protocol;
    if (p == NULL)
        return REFUSE(err, "--protocol must be %s, not \"%s\"", eval_protocol_names, cut->protocol);
    int status = sizes(out, cut, info.max_context, err);
    if (status < 0)
        return status;
    if (p->needs_bos && info.bos < 0)
        return REFUSE(err, "the model has no beginning-of-text token: --protocol gptq, lcpp or strided");
    int32_t front = -1;
    out->adds_bos =
        info.bos >= 0 && sluice_tokenize(e, "", 0, SLUICE_ADD_SPECIAL, &front, 1, err) > 0 && front == info.bos;
    return SLUICE_OK;
}

static int count(const char *path, const eval_cut *cut, eval_windows *out, sluice_error *err) {
    out->n_windows = out->protocol->count(out);
    if (out->n_windows == 0)
        return REFUSE(err, "%s has %lld tokens, less than one window of %lld", path, (long long)out->n,
                      (long long)out->context);
    if (cut->windows > 0 && cut->windows < out->n_windows)
        out->n_windows = cut->windows;
    return SLUICE_OK;
}

int eval_windows_open(sluice_engine *e, const char *path, const char *text, size_t length, const eval_cut *cut,
                      eval_windows *out, sluice_error *err) {
    int status = begin(e, cut, out, err);
    if (status < 0)
        return status;
    out->tokens = encode(e, text, length, out->protocol->special ? SLUICE_ADD_SPECIAL : 0, &out->n, err);
    if (out->tokens == NULL)
        return SLUICE_E_DATA;
    sha256_hex(text, length, out->sha256);
    return count(path, cut, out, err);
}

int eval_windows_of_tokens(sluice_engine *e, const char *path, const int32_t *tokens, int64_t n, const eval_cut *cut,
                           eval_windows *out, sluice_error *err) {
    int status = begin(e, cut, out, err);
    if (status < 0)
        return status;
    out->tokens = malloc(sizeof *tokens * (size_t)n);
    if (out->tokens == NULL)
        return eval_no_memory(err);
    memcpy(out->tokens, tokens, sizeof *tokens * (size_t)n);
    out->n = n;
    return count(path, cut, out, err);
}

void eval_windows_free(eval_windows *w) {
    free(w->tokens);
    w->tokens = NULL;
}

void eval_windows_get(const eval_windows *w, int64_t i, int32_t *row, eval_span *span) {
    w->protocol->span(w, i, span);
    memcpy(row + span->bos_in_front, w->tokens + span->begin, sizeof *row * (size_t)span->n);
    if (span->bos_in_front || span->bos_instead)
        row[0] = w->bos;
    span->n += span->bos_in_front;
    if (w->steps > 0 && w->steps < span->scored)
        span->scored = w->steps;
}

void eval_windows_report(const eval_windows *w, json_t *report) {
    int32_t *row = malloc(sizeof *row * (size_t)w->context);
    json_t *first = json_array();
    eval_span span = {0};
    if (row != NULL)
        eval_windows_get(w, 0, row, &span);
    for (int64_t i = 0; i < 8 && i < span.n; i++)
        json_array_append_new(first, json_integer(row[i]));
    free(row);
    json_object_set_new(report, "protocol", json_string(w->protocol->name));
    json_object_set_new(report, "context", json_integer(w->context));
    json_object_set_new(report, "stride", w->protocol->stride != 0 ? json_integer(w->stride) : json_null());
    json_object_set_new(report, "steps", json_integer(w->steps));
    json_object_set_new(report, "windows", json_integer(w->n_windows));
    json_object_set_new(report, "text_tokens", json_integer(w->n));
    if (w->sha256[0] != '\0')
        json_object_set_new(report, "text_sha256", json_string(w->sha256));
    json_object_set_new(report, "first_tokens", first);
}
