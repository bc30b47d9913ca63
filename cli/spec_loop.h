/* spec_loop.h - when a generated text loops.
 *
 * Token i of a generated text (the prompt does not count) is *looping* when for some period p of 1 .. LOOP_PERIOD
 * tokens each of the last max(LOOP_TOKENS, p) tokens, i included, equals the token p before it: at least one whole
 * period, and at least LOOP_TOKENS tokens, came again. The first round of a loop is not looping, a text that stops
 * repeating is no longer looping at once. */
#ifndef SLUICE_CLI_SPEC_LOOP_H
#define SLUICE_CLI_SPEC_LOOP_H

#include <stdint.h>

enum { LOOP_TOKENS = 8, LOOP_PERIOD = 64 };

typedef struct spec_loop {
    int32_t last[LOOP_PERIOD];     /* the newest tokens, a ring */
    int64_t same[LOOP_PERIOD + 1]; /* how many of the last tokens in a row equal the token p before them */
    int64_t n;
} spec_loop;

void spec_loop_begin(spec_loop *l);
/* Adds the next token; 1: it is looping. */
int spec_loop_push(spec_loop *l, int32_t token);

#endif
