/* Contexts: their text, their tokens, and how much fits; see gen.h. */
#include "gen.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gen_no_memory(sluice_error *err) {
    snprintf(err->text, sizeof err->text, "out of memory");
    return SLUICE_E_NO_MEMORY;
}

/* ---- text ------------------------------------------------------------------------------------------------------ */

void gen_bytes(gen_context *c, const char *bytes, size_t n) {
    if (c->length + n + 1 > c->cap) {
        size_t cap = 2 * (c->length + n) + 1024;
        char *wider = realloc(c->text, cap);
        if (wider == NULL) {
            c->failed = 1;
            return;
        }
        c->text = wider;
        c->cap = cap;
    }
    memcpy(c->text + c->length, bytes, n);
    c->length += n;
    c->text[c->length] = '\0';
}

static void add(gen_context *c, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void add(gen_context *c, const char *fmt, va_list ap) {
    char *text = NULL;
    int n = vasprintf(&text, fmt, ap);
    if (n < 0) {
        c->failed = 1;
        return;
    }
    gen_bytes(c, text, (size_t)n);
    free(text);
}

void gen_text(gen_context *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add(c, fmt, ap);
    va_end(ap);
}

void gen_end(gen_context *c, const char *tail) {
    size_t n = strlen(tail);
    while (c->length > 0 && isspace((unsigned char)c->text[c->length - 1]))
        c->length--;
    int ends = c->length >= n && memcmp(c->text + c->length - n, tail, n) == 0;
    c->length -= ends ? n : 0;
    if (strcmp(tail, ".") == 0) { /* running text, cut anywhere */
        while (c->length > 0 &&
               (ispunct((unsigned char)c->text[c->length - 1]) || isspace((unsigned char)c->text[c->length - 1])))
            c->length--;
        ends = 1;
    }
    c->tail = ends ? tail : "";
    c->shared = c->length;
}

void gen_ask(gen_context *c, double depth, const char *after, const char *fmt, ...) {
    if (c->n_questions == GEN_MAX_QUESTIONS) {
        c->failed = 1;
        return;
    }
    gen_question *q = &c->questions[c->n_questions++];
    *q = (gen_question){.text_question = c->length, .depth = depth};
    gen_text(c, "%s", c->n_questions == 1 ? c->tail : after);
    va_list ap;
    va_start(ap, fmt);
    add(c, fmt, ap);
    va_end(ap);
    q->text_answer = q->text_end = c->length;
}

void gen_answer(gen_context *c, const char *fmt, ...) {
    gen_question *q = &c->questions[c->n_questions - 1];
    size_t begin = c->length;
    va_list ap;
    va_start(ap, fmt);
    add(c, fmt, ap);
    va_end(ap);
    if (c->failed)
        return;
    if (begin > 0 && c->text[begin - 1] == ' ' && isalpha((unsigned char)c->text[begin]))
        begin--;
    q->text_answer = begin;
    q->text_end = c->length;
}

void gen_ref(gen_context *c, const char *ref) {
    gen_question *q = &c->questions[c->n_questions - 1];
    if (q->n_refs == GEN_MAX_REFS || (q->refs[q->n_refs] = strdup(ref)) == NULL)
        c->failed = 1;
    else
        q->n_refs++;
}

void gen_list(char *answer, const char *more) {
    strcat(answer, answer[0] == '\0' ? "" : ", ");
    strcat(answer, more);
}

static void empty(gen_context *c) {
    for (int i = 0; i < c->n_questions; i++)
        for (int k = 0; k < c->questions[i].n_refs; k++)
            free(c->questions[i].refs[k]);
    c->length = c->shared = 0;
    c->n_tokens = c->n_shared = 0;
    c->n_questions = 0;
}

void gen_context_free(gen_context *c) {
    empty(c);
    free(c->text);
    free(c->tokens);
    *c = (gen_context){0};
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static int piece(sluice_engine *engine, gen_context *c, size_t from, size_t to, sluice_error *err) {
    int64_t room = (int64_t)(c->length + 1) - c->n_tokens;
    int64_t n = sluice_tokenize(engine, c->text + from, to - from, 0, c->tokens + c->n_tokens, room, err);
    if (n > room) {
        snprintf(err->text, sizeof err->text, "%zu bytes became %lld tokens", to - from, (long long)n);
        return SLUICE_E_RANGE;
    }
    c->n_tokens += n > 0 ? n : 0;
    return n < 0 ? (int)n : SLUICE_OK;
}

/* Piece by piece, so that questions and answers begin with tokens of their own. */
static int tokens_of(sluice_engine *engine, gen_context *c, sluice_error *err) {
    sluice_info info;
    sluice_get_info(engine, &info);
    int32_t *wider = realloc(c->tokens, sizeof *wider * (c->length + 2)); /* a token has a byte at least */
    if (wider == NULL || c->failed) {
        c->tokens = wider != NULL ? wider : c->tokens;
        return gen_no_memory(err);
    }
    c->tokens = wider;
    c->n_tokens = 0;
    if (info.bos >= 0)
        c->tokens[c->n_tokens++] = info.bos;
    int status = piece(engine, c, 0, c->shared, err);
    c->n_shared = c->n_tokens;
    for (int i = 0; status >= 0 && i < c->n_questions; i++) {
        gen_question *q = &c->questions[i];
        q->question = c->n_tokens;
        status = piece(engine, c, q->text_question, q->text_answer, err);
        q->begin = c->n_tokens;
        if (status >= 0)
            status = piece(engine, c, q->text_answer, q->text_end, err);
        q->n = c->n_tokens - q->begin;
        if (status >= 0 && q->n == 0) {
            snprintf(err->text, sizeof err->text, "an answer has no tokens: is there text to cut it from?");
            status = SLUICE_E_DATA;
        }
    }
    return status;
}

/* ---- how much fits --------------------------------------------------------------------------------------------- */

int64_t gen_answer_limit(const gen_task *task, const gen_source *source, const gen_question *q) {
    if (task->max_tokens == 0)
        return q->n;
    return source->max_tokens > 0 ? source->max_tokens : task->max_tokens;
}

/* Tokens of the longest prompt that is made of a context, its answer included. */
static int64_t needed(const gen_task *task, const gen_source *source, const gen_context *c) {
    int64_t most = c->n_tokens, own = c->n_shared;
    for (int i = 0; i < c->n_questions; i++) {
        const gen_question *q = &c->questions[i];
        int64_t limit = gen_answer_limit(task, source, q), with = q->begin + limit;
        own += q->begin - q->question + limit;
        most = with > most ? with : most;
    }
    return source->own_history && own > most ? own : most;
}

static uint64_t begin_random(const gen_task *task, const gen_source *source) {
    gen_random r = {0xcbf29ce484222325u};
    for (const char *p = task->name; *p != '\0'; p++)
        r.state = (r.state ^ (unsigned char)*p) * 0x100000001b3u;
    const uint64_t numbers[] = {source->seed, (uint64_t)source->number, (uint64_t)source->length};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        r.state += gen_draw(&r, UINT64_MAX) ^ (numbers[i] + 1) * 0x9e3779b97f4a7c15u;
    return r.state;
}

static int try_size(sluice_engine *engine, const gen_task *task, const gen_source *source, uint64_t state, int64_t size,
                    gen_context *c, int64_t *n, sluice_error *err) {
    gen_random r = {state};
    empty(c);
    c->size = size;
    task->build(task, source, &r, size, c);
    int status = tokens_of(engine, c, err);
    *n = needed(task, source, c);
    return status;
}

int gen_make(sluice_engine *engine, const gen_task *task, const gen_source *source, gen_context *out,
             sluice_error *err) {
    *out = (gen_context){0};
    int64_t length = source->length;
    uint64_t state = begin_random(task, source);
    int64_t fits = 0, fits_n = 0, over = 0, n = 0, last = 0; /* sizes that are known to fit and not to */
    int64_t size = length * 3 / task->unit;
    int status = SLUICE_OK, no_more = 0;
    for (int attempt = 0; status >= 0 && attempt < 24; attempt++) {
        size = size > task->least ? size : task->least;
        status = try_size(engine, task, source, state, last = size, out, &n, err);
        if (status < 0)
            break;
        if (n > length && size == task->least) {
            snprintf(err->text, sizeof err->text, "%s: the smallest context has %lld tokens, more than %lld",
                     task->name, (long long)n, (long long)length);
            status = SLUICE_E_RANGE;
        } else if (n > length) {
            over = over == 0 || size < over ? size : over;
        } else if (size > fits) {
            no_more = fits > 0 && n <= fits_n && size - fits > fits / 10; /* the task has no more to say */
            fits = size;
            fits_n = n;
        }
        /* close enough, or nothing between */
        if (fits > 0 && (no_more || fits_n > length - length / 64 || (over > 0 && over - fits <= 1)))
            break;
        int64_t guess = (int64_t)((double)size * (double)(length - length / 256) / (double)(n > 0 ? n : 1));
        if (over > 0 && (guess >= over || attempt > 8))
            guess = fits + (over - fits) / 2;
        if (fits > 0 && guess <= fits)
            guess = over > 0 ? fits + (over - fits) / 2 : fits + fits / 8 + 1;
        size = guess;
    }
    if (status >= 0 && fits == 0) {
        snprintf(err->text, sizeof err->text, "%s: no context of at most %lld tokens was found", task->name,
                 (long long)length);
        status = SLUICE_E_RANGE;
    }
    if (status >= 0 && last != fits)
        status = try_size(engine, task, source, state, fits, out, &n, err);
    if (status < 0)
        gen_context_free(out);
    return status;
}
