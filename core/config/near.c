/* Optimal string alignment distance, three rows of the table at a time; see near.h. */
#include "config/near.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST = 64 };

static int min2(int a, int b) { return a < b ? a : b; }

int sli_edit_distance(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    if (na > LONGEST || nb > LONGEST)
        return LONGEST;
    int rows[3][LONGEST + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= nb; j++)
        last[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = min2(best, min2(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = min2(best, before[j - 2] + 1);
            row[j] = best;
        }
        int *oldest = before;
        before = last, last = row, row = oldest;
    }
    return last[nb];
}

sli_near sli_near_to(const char *word) { return (sli_near){word, NULL, LONGEST}; }

void sli_near_offer(sli_near *near, const char *candidate) {
    size_t n = strlen(near->word);
    int d = sli_edit_distance(near->word, candidate);
    int enough = n < 6 ? 1 + (n > 3) : (int)(n / 3);
    /* "budget" for "budget_tokens", "policy" for "kvcache.policy": a beginning or an end is worth a hint, but less. */
    size_t nc = strlen(candidate);
    if (d > enough && n >= 3 && nc > n &&
        (strncmp(candidate, near->word, n) == 0 || strcmp(candidate + nc - n, near->word) == 0))
        d = enough;
    if (d <= enough && d < near->distance) {
        near->best = candidate;
        near->distance = d;
    }
}

const char *sli_near_hint(const sli_near *near, char *text, size_t bytes) {
    text[0] = 0;
    if (near->best != NULL)
        snprintf(text, bytes, "; did you mean \"%.64s\"?", near->best);
    return text;
}
