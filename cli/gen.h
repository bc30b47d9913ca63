/* gen.h - tasks whose contexts are generated: a long text in which something is hidden, and questions about it behind
 * it.
 *
 * A context is text first, then tokens. It is a function of (task, seed, number, length) and of what the caller gives
 * to hide things in; the model's tokenizer says how much fits. Questions and right answers follow one another, so the
 * tokens read as one long prompt ("golden history"); the runner (gen_run.h) cuts prompts out of it. */
#ifndef SLUICE_CLI_GEN_H
#define SLUICE_CLI_GEN_H

#include <stdarg.h>

#include "libsluice.h"

enum { GEN_MAX_QUESTIONS = 64, GEN_MAX_REFS = 16 };

/* ---- contexts -------------------------------------------------------------------------------------------------- */

typedef struct gen_question {
    size_t text_question, text_answer, text_end; /* byte offsets: the question, the right answer, behind it */
    int64_t question, begin, n; /* tokens: the question begins, its answer begins, tokens of the answer */
    double depth;               /* where in the context the answer lies, 0 .. 1; < 0: all over it */
    char *refs[GEN_MAX_REFS];   /* what the answer must contain; none: the right answer itself */
    int n_refs;
} gen_question;

typedef struct gen_context {
    char *text; /* everything, NUL-terminated */
    size_t length, cap;
    size_t shared;    /* bytes in front of the first question */
    const char *tail; /* what gen_end took away; static */
    int32_t *tokens;  /* [n_tokens] of the text, behind a beginning-of-text token */
    int64_t n_tokens, n_shared;
    gen_question questions[GEN_MAX_QUESTIONS];
    int n_questions;
    int64_t size; /* what was asked of build: how much there is to hide things in, in units of the task */
    int failed;   /* memory ran out */
} gen_context;
void gen_context_free(gen_context *c);
/* Writes "out of memory" and returns its code. */
int gen_no_memory(sluice_error *err);

/* ---- tasks ----------------------------------------------------------------------------------------------------- */

typedef enum {
    GEN_TOKENS,   /* the tokens of the right answer */
    GEN_CONTAINS, /* the right answer is part of the output */
    GEN_ALL,      /* share of the references that the output contains, in any case of letters */
    GEN_ANY,      /* it contains one of them */
    GEN_NUMBER    /* the first number in the output is that of the right answer */
} gen_metric;

typedef struct gen_random {
    uint64_t state;
} gen_random;

/* What the caller gives. */
typedef struct gen_source {
    const char *text; /* [bytes] running text; NULL: none */
    size_t bytes;
    const struct gen_paragraphs *paragraphs; /* gen_qa.h; NULL: none */
    int turns;                               /* questions of a context, where the task leaves it open */
    uint64_t seed;
    int64_t number;     /* of the context */
    int64_t length;     /* tokens it may have, answers included */
    int own_history;    /* make room for answers of the longest length instead of the right ones */
    int32_t max_tokens; /* of an answer; 0: the task's */
} gen_source;

typedef struct gen_task {
    const char *name, *what;
    /* Writes a context with `size` units (of text, lines, pairs ...) to hide things in. The same draws for the same r.
     */
    void (*build)(const struct gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);
    gen_metric metric;
    int32_t max_tokens; /* of an answer; 0: as many as the right one has */
    int32_t unit;       /* about how many bytes a unit is */
    int64_t least;      /* smallest size that makes sense */
    uint32_t needs;     /* GEN_TEXT, GEN_PARAGRAPHS */
    const void *how;    /* build's own; NULL */
} gen_task;
enum { GEN_TEXT = 1, GEN_PARAGRAPHS = 2 };

/* Tables ended by a row without a name. */
extern const gen_task gen_formats[], gen_ruler[], gen_scbench[];

/* Makes the longest context that fits. SLUICE_E_RANGE: not even the smallest does. */
int gen_make(sluice_engine *engine, const gen_task *task, const gen_source *source, gen_context *out,
             sluice_error *err);
/* Tokens of a question's answer that may be generated. */
int64_t gen_answer_limit(const gen_task *task, const gen_source *source, const gen_question *q);

/* ---- for the tasks: writing text ------------------------------------------------------------------------------- */

void gen_bytes(gen_context *c, const char *bytes, size_t n);
void gen_text(gen_context *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The context ends: questions follow. Blanks behind it go, and `tail` moves to the first question, which begins with a
 * line feed: tokenizers make one word of both. ".": that ends the text, whatever stood there. */
void gen_end(gen_context *c, const char *tail);
/* A question, in front of the answer; a blank between them belongs to the answer if that begins with a letter. after:
 * what ends the answer to the question before. */
void gen_ask(gen_context *c, double depth, const char *after, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void gen_answer(gen_context *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void gen_ref(gen_context *c, const char *ref); /* of the last question */
/* Adds one more to an answer that lists some: "a, b". The caller has made it long enough. */
void gen_list(char *answer, const char *more);

/* ---- for the tasks: drawing ------------------------------------------------------------------------------------ */

uint64_t gen_draw(gen_random *r, uint64_t n);                  /* a number in [0, n) */
enum { GEN_KEY = 48 };                                         /* bytes of a drawn key, its end included */
void gen_word(gen_random *r, char *out);                       /* a common English word of 4 to 9 letters */
void gen_words(gen_random *r, char *out);                      /* word-word */
void gen_number(gen_random *r, char *out);                     /* 7 digits */
void gen_uuid(gen_random *r, char *out);                       /* 36 bytes, version 4 */
void gen_letters(gen_random *r, char first, int n, char *out); /* n letters of the 26 from `first` on */
void gen_shuffle(gen_random *r, int32_t *list, int64_t n);
/* Fills n keys that differ from one another. */
void gen_distinct(gen_random *r, void (*draw)(gen_random *r, char *out), char (*keys)[GEN_KEY], int n);
/* How many words gen_word knows; the i-th. */
int gen_n_words(void);
const char *gen_nth_word(int i);

/* ---- for the tasks: something to hide things in ------------------------------------------------------------------ */

typedef struct gen_needle {
    char sentence[192];
    double depth; /* 0 .. 1, ascending; where it came to lie when the hay is written */
} gen_needle;

/* Needles [n] that assign variables names[i] along chains: the first of chain k = chain_of[i] the number numbers[k],
 * each later one the variable before it. */
void gen_chains(gen_random *r, const int32_t *chain_of, int n, char (*names)[GEN_KEY], char (*numbers)[GEN_KEY],
                gen_needle *needles);
/* Writes the sentence of a needle. */
void gen_say(gen_needle *needle, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

typedef enum {
    GEN_ESSAY, /* running text: needles at ends of sentences; size in bytes */
    GEN_NOISE, /* one group of sentences again and again, one a line; size in lines */
    GEN_LINES  /* other needles; size in lines */
} gen_hay_kind;

/* line: writes a distractor (GEN_LINES). */
void gen_hay(gen_context *c, const gen_source *source, gen_random *r, gen_hay_kind kind, int64_t size,
             gen_needle *needles, int n, void (*line)(gen_random *r, char *out, size_t cap));
/* Bytes [at, at + n) of the text, which begins anew behind its end. */
void gen_around(gen_context *c, const gen_source *s, size_t at, size_t n);
/* Depth of the i-th of n things, somewhere in its n-th of the whole. */
double gen_depth(gen_random *r, int i, int n);
/* Depth of the only thing of the numbered context: contexts go through all of them evenly. */
double gen_depth_of(const gen_source *source);

#endif
