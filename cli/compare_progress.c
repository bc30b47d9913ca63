/* How far a comparison is: a bar on a terminal, a line for each piece of work elsewhere. */
#include <string.h>
#include <unistd.h>

#include "compare.h"

enum { BAR = 24 };

static void draw(const comparison *c, const char *label) {
    double took = now() - c->begin;
    int full = c->n_all > 0 ? (int)(BAR * c->n_done / c->n_all) : BAR;
    fprintf(stderr, "\r[%.*s%.*s] %lld/%lld", full, "########################", BAR - full, "........................",
            (long long)c->n_done, (long long)c->n_all);
    if (c->n_ran > 0) { /* what was there already took no time and is not counted */
        double left = took / (double)c->n_ran * (double)(c->n_all - c->n_done);
        fprintf(stderr, " %d:%02d left", (int)left / 60, (int)left % 60);
    }
    fprintf(stderr, "  %.60s\033[K", label);
    fflush(stderr);
}

void compare_progress_begin(const comparison *c, const char *label) {
    if (isatty(STDERR_FILENO))
        draw(c, label);
}

void compare_progress(comparison *c, const char *label, const char *outcome, double seconds) {
    c->n_done++;
    if (label == NULL)
        return;
    if (isatty(STDERR_FILENO)) {
        if (outcome[0] != '\0')
            fprintf(stderr, "\r%s: %s\033[K\n", label, outcome);
        draw(c, label);
    } else
        fprintf(stderr, "%lld/%lld %s: %s%s%.1f s\n", (long long)c->n_done, (long long)c->n_all, label, outcome,
                outcome[0] != '\0' ? ", " : "", seconds);
}

void compare_progress_end(void) {
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
}
