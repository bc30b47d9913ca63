/* cli.h - runs the `sluice` that was built (SLUICE_BUILD/sluice) and keeps what it said. */
#ifndef SLUICE_TEST_CLI_H
#define SLUICE_TEST_CLI_H

#include "e2e.h"

typedef struct cli_result {
    int status; /* exit status; 128 + signal when it was killed */
    char *out;  /* stdout, NUL-terminated */
    size_t n_out;
    char *err; /* stderr */
} cli_result;

/* Arguments behind the program's name, NULL-terminated: CLI("run", "-p", "hello"). */
#define CLI(...) ((const char *const[]){__VA_ARGS__, NULL})

/* input: what it reads from stdin; NULL: nothing. Everything runs in a scratch folder. */
cli_result cli_run(const char *const *args, const char *input);
void cli_free(cli_result *r);
/* Runs it and fails unless it ends with exit status 0; prints what it said to stderr then. */
cli_result cli_good(const char *const *args, const char *input);
/* The JSON that a good run prints. */
json_t *cli_report(const char *const *args);
/* Fails unless it ends with a status in 1 .. 123, says nothing on stdout, and one error on stderr that begins with
 * "sluice: " and contains all words (NULL-terminated). An error is one line; a list that belongs to it is indented. */
void cli_refused(const char *const *args, const char *const *words);

#endif
