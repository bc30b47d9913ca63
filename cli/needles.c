/* See needles.h. The sentences are those that the project's models were trained on. */
#include "needles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[] = {
    "able",    "acid",   "actor",   "angle",  "apple",  "autumn", "bacon",  "badge",   "bamboo", "basket", "beach",
    "bench",   "bishop", "blanket", "bottle", "branch", "bridge", "bronze", "butter",  "cabin",  "camera", "candle",
    "carbon",  "castle", "cattle",  "chain",  "cherry", "circle", "clock",  "cloud",   "copper", "corner", "cotton",
    "cousin",  "daisy",  "desert",  "doctor", "dragon", "eagle",  "engine", "estate",  "fabric", "falcon", "farmer",
    "feather", "forest", "fossil",  "garden", "ginger", "glass",  "grape",  "guitar",  "hammer", "harbor", "helmet",
    "honey",   "island", "ivory",   "jacket", "jungle", "kettle", "ladder", "lantern", "lemon",  "letter", "lizard",
    "magnet",  "maple",  "marble",  "meadow", "mirror", "monkey", "museum", "needle",  "ocean",  "olive",  "orange",
    "oyster",  "palace", "pencil",  "pepper", "planet", "pocket", "prince", "quartz",  "rabbit", "river",  "rocket",
    "saddle",  "salmon", "school",  "shadow", "silver", "spider", "summer", "temple",
};
enum { N_WORDS = sizeof words / sizeof *words };

typedef struct builder {
    sluice_engine *engine;
    needles_context *out;
    int64_t cap;
    sluice_error *err;
    int status;
} builder;

/* A number in [0, n), by splitmix64. */
static uint64_t draw(uint64_t *state, uint64_t n) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

/* Room for n more tokens; 0 after an error. */
static int room(builder *b, int64_t n) {
    if (b->out->n_tokens + n <= b->cap)
        return 1;
    int64_t cap = 2 * (b->out->n_tokens + n) + 1024;
    int32_t *wider = realloc(b->out->tokens, sizeof *wider * (size_t)cap);
    if (wider == NULL) {
        snprintf(b->err->text, sizeof b->err->text, "out of memory");
        b->status = SLUICE_E_NO_MEMORY;
        return 0;
    }
    b->out->tokens = wider;
    b->cap = cap;
    return 1;
}

/* Tokenizes a piece behind what is there. Pieces end where the tokenizer's own words end, so that the pieces' tokens
 * are those of the whole text. */
static void add(builder *b, const char *text, size_t length) {
    if (b->status < 0)
        return;
    int64_t n = sluice_tokenize(b->engine, text, length, 0, NULL, 0, b->err);
    if (n >= 0 && !room(b, n))
        return;
    if (n >= 0)
        n = sluice_tokenize(b->engine, text, length, 0, b->out->tokens + b->out->n_tokens, n, b->err);
    if (n < 0)
        b->status = (int)n;
    else
        b->out->n_tokens += n;
}

/* The end of the sentence that begins at or after `at`: behind ". " it is the blank. */
static size_t sentence_end(const char *text, size_t bytes, size_t at) {
    while (at + 1 < bytes && !(text[at] == '.' && text[at + 1] == ' '))
        at++;
    return at + 1 < bytes ? at + 1 : bytes;
}

typedef struct needle {
    char key[32], number[8];
    size_t place; /* after which byte of the hay */
    int asked;    /* which needle the question at this place is about: the questions come in another order */
} needle;

static void choose(needle *needles, int n, size_t hay, uint64_t *state) {
    for (int i = 0; i < n; i++) {
        int again = 1;
        while (again) {
            snprintf(needles[i].key, sizeof needles[i].key, "%s-%s", words[draw(state, N_WORDS)],
                     words[draw(state, N_WORDS)]);
            again = 0;
            for (int j = 0; j < i; j++)
                again |= strcmp(needles[i].key, needles[j].key) == 0;
        }
        snprintf(needles[i].number, sizeof needles[i].number, "%llu",
                 (unsigned long long)(1000000 + draw(state, 9000000)));
        needles[i].place = hay * (size_t)(i + 1) / (size_t)(n + 1) + draw(state, hay / (size_t)(n + 1) + 1) / 2;
        int j = (int)draw(state, (uint64_t)i + 1);
        needles[i].asked = needles[j].asked;
        needles[j].asked = i;
    }
}

/* Builds the context with `hay` bytes of running text. */
static void build(builder *b, const char *text, size_t bytes, size_t begin, size_t hay, const needle *needles, int n,
                  int32_t bos, char *scratch, size_t scratch_bytes) {
    b->out->n_tokens = 0;
    b->out->n_answers = 0;
    if (bos >= 0 && room(b, 1))
        b->out->tokens[b->out->n_tokens++] = bos;
    size_t used = 0, at = begin, end = begin + hay < bytes ? begin + hay : bytes;
    for (int i = 0; i < n; i++) {
        size_t stop = sentence_end(text, end, begin + needles[i].place > at ? begin + needles[i].place : at);
        memcpy(scratch + used, text + at, stop - at);
        used += stop - at;
        used += (size_t)snprintf(scratch + used, scratch_bytes - used,
                                 " One of the special magic numbers for %s is: %s.", needles[i].key, needles[i].number);
        at = stop;
    }
    size_t stop = sentence_end(text, end, at);
    memcpy(scratch + used, text + at, stop - at);
    used += stop - at;
    /* the last full stop goes with the line feed of the first question: it is one word to the tokenizer */
    while (used > 0 && (scratch[used - 1] == '.' || scratch[used - 1] == ' ' || scratch[used - 1] == '\n'))
        used--;
    add(b, scratch, used);
    b->out->n_shared = b->out->n_tokens;
    for (int i = 0; i < n && b->status >= 0; i++) {
        const needle *k = &needles[needles[i].asked];
        needles_answer *a = &b->out->answers[b->out->n_answers++];
        a->question = b->out->n_tokens;
        int length =
            snprintf(scratch, scratch_bytes,
                     ".\nWhat is the special magic number for %s mentioned in the provided text? The special magic "
                     "number for %s mentioned in the provided text is ",
                     k->key, k->key);
        add(b, scratch, (size_t)length);
        a->begin = b->out->n_tokens;
        add(b, k->number, strlen(k->number));
        a->n = b->out->n_tokens - a->begin;
    }
    add(b, ".", 1);
}

int needles_make(sluice_engine *engine, const char *text, size_t bytes, int64_t length, int n, uint64_t seed,
                 needles_context *out, sluice_error *err) {
    *out = (needles_context){0};
    builder b = {engine, out, 0, err, SLUICE_OK};
    uint64_t state = seed;
    size_t scratch_bytes = bytes + (size_t)n * 128 + 1024;
    char *scratch = malloc(scratch_bytes);
    sluice_info info;
    sluice_get_info(engine, &info);
    if (scratch == NULL) {
        snprintf(err->text, sizeof err->text, "out of memory");
        return SLUICE_E_NO_MEMORY;
    }
    /* as much running text as fits: start from four bytes a token and shrink until the tokens fit */
    size_t hay = (size_t)length * 6 < bytes ? (size_t)length * 6 : bytes;
    size_t from = bytes > hay ? sentence_end(text, bytes, draw(&state, bytes - hay)) : 0;
    needle needles[NEEDLES_MAX];
    uint64_t fixed = state;
    for (int attempt = 0; attempt < 64 && b.status >= 0; attempt++) {
        state = fixed;
        choose(needles, n, hay, &state);
        build(&b, text, bytes, from, hay, needles, n, info.bos, scratch, scratch_bytes);
        int64_t over = out->n_tokens - length;
        if (b.status < 0 || over <= 0)
            break;
        size_t less = hay * (size_t)over / (size_t)out->n_tokens + 64;
        if (less >= hay) {
            snprintf(err->text, sizeof err->text, "%d needles and their questions do not fit in %lld tokens", n,
                     (long long)length);
            b.status = SLUICE_E_RANGE;
        } else
            hay -= less;
    }
    free(scratch);
    if (b.status >= 0 && out->n_tokens > length) {
        snprintf(err->text, sizeof err->text, "no context of at most %lld tokens could be made of this text",
                 (long long)length);
        b.status = SLUICE_E_RANGE;
    }
    if (b.status < 0)
        needles_free(out);
    return b.status;
}

void needles_free(needles_context *context) {
    free(context->tokens);
    *context = (needles_context){0};
}
