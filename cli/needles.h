/* needles.h - contexts for the retrieval task: sentences with numbers hidden in running text, questions at the end. */
#ifndef SLUICE_CLI_NEEDLES_H
#define SLUICE_CLI_NEEDLES_H

#include "libsluice.h"

enum { NEEDLES_MAX = 64 };

typedef struct needles_answer {
    int64_t question; /* where the tokens of its question begin */
    int64_t begin, n; /* tokens of the answer */
} needles_answer;

typedef struct needles_context {
    int32_t *tokens; /* [n_tokens] text, then question, answer, question, answer ... */
    int64_t n_tokens;
    int64_t n_shared; /* tokens before the first question */
    needles_answer answers[NEEDLES_MAX];
    int n_answers;
} needles_context;

/* A context of at most `length` tokens made of `text`, with n needles; a function of its arguments alone. */
int needles_make(sluice_engine *engine, const char *text, size_t bytes, int64_t length, int n, uint64_t seed,
                 needles_context *out, sluice_error *err);
void needles_free(needles_context *context);

#endif
