/* compare_child.h - this program run again as a child process, and what it said. */
#ifndef SLUICE_CLI_COMPARE_CHILD_H
#define SLUICE_CLI_COMPARE_CHILD_H

#include <stddef.h>

typedef struct child_result {
    char *out, *err; /* all of stdout; the end of stderr; NUL-terminated, never NULL after child_run */
    size_t n_out, n_err;
    int status; /* exit status; 128 + signal when one ended it; -1: it could not be started */
    int timed_out;
    double seconds;
} child_result;

/* argv: the words behind the program's name, ended by NULL; no shell reads them. timeout in seconds, 0: none. Ends the
 * child when this process ends. Returns 0 when the child ended with status 0, else -1 with *reason (cap bytes) filled:
 * the child's own error where it printed one. */
int child_run(const char *const *argv, double timeout, child_result *out, char *reason, size_t cap);
void child_free(child_result *r);

#endif
