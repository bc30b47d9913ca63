/* contracts.h - runs a combination, checks what holds for every one of them, and keeps what it said. */
#ifndef SLUICE_TEST_CONTRACTS_H
#define SLUICE_TEST_CONTRACTS_H

#include <stdint.h>

enum { N_TEXTS = 3, N_FIRST = 9, N_SECOND = 5 };

typedef struct outcome {
    int refused;
    char reason[512];                  /* why; one line without paths */
    int32_t first[N_TEXTS][N_FIRST];   /* greedy tokens behind each text */
    int32_t second[N_TEXTS][N_SECOND]; /* ... behind a second turn */
} outcome;

/* Opens `models/tiny` with both lists of overrides. Refused: an error at the start, with a reason. Otherwise fails the
 * running test unless
 *   - sequences of different lengths give the same tokens together and alone,
 *   - the logits of a prompt are finite,
 *   - a fork goes on like its parent,
 *   - a cut is done or refused with a reason, and the session goes on behind it,
 *   - nothing was allocated while a decode step ran.
 * what: for messages. */
void contracts_run(const char *what, const char *const *a, const char *const *b, outcome *out);

/* Fails unless both gave the same tokens. */
void contracts_equal(const char *what, const outcome *expected, const outcome *got);

#endif
