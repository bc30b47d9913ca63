/* eval_windows.h - how a text is cut into windows whose tokens are predicted: the protocols of `sluice eval ppl`. Their
 * perplexities are not comparable with one another; docs/eval.md defines them. */
#ifndef SLUICE_CLI_EVAL_WINDOWS_H
#define SLUICE_CLI_EVAL_WINDOWS_H

#include <jansson.h>

#include "libsluice.h"

/* Tokens [begin, begin + n) of the text; the last `scored` of the window are predicted. */
typedef struct eval_span {
    int64_t begin, n, scored;
    int bos_in_front, bos_instead; /* a beginning-of-text token is added, or takes the place of the first token */
} eval_span;

typedef struct eval_protocol eval_protocol;

typedef struct eval_windows {
    const eval_protocol *protocol;
    int32_t *tokens; /* [n] of the text */
    int64_t n;
    int64_t context, stride, n_windows; /* context: tokens of a window; stride 0: windows do not overlap */
    int64_t steps;                      /* > 0: of what a window scores, the last ones alone, as decode steps */
    int32_t bos;                        /* -1: none */
    int adds_bos;                       /* the tokenizer puts it in front of a text */
    char sha256[65];                    /* of the text's bytes; empty: there is no text */
} eval_windows;

/* What the user asked for; zero or NULL: the default. */
typedef struct eval_cut {
    const char *protocol;
    int64_t context, stride, windows, steps;
} eval_cut;

/* Names of the protocols, for help and errors. */
extern const char *const eval_protocol_names;

/* path: for errors. Freed by eval_windows_free, also after an error. */
int eval_windows_open(sluice_engine *e, const char *path, const char *text, size_t length, const eval_cut *cut,
                      eval_windows *out, sluice_error *err);
/* The same of tokens [n], which are copied; there is no sha256 then. */
int eval_windows_of_tokens(sluice_engine *e, const char *path, const int32_t *tokens, int64_t n, const eval_cut *cut,
                           eval_windows *out, sluice_error *err);
void eval_windows_free(eval_windows *w);

/* The tokens [context] of window i, with where they come from in *span; span->n counts a token in front. */
void eval_windows_get(const eval_windows *w, int64_t i, int32_t *row, eval_span *span);

/* Adds protocol, context, stride, steps, windows, text_tokens, text_sha256, first_tokens to a report. */
void eval_windows_report(const eval_windows *w, json_t *report);

#endif
