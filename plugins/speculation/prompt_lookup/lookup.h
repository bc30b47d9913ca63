/* lookup.h - where did the last tokens occur before? The n-gram search of prompt lookup, on plain arrays. */
#ifndef PROMPT_LOOKUP_LOOKUP_H
#define PROMPT_LOOKUP_LOOKUP_H

#include <stdint.h>

enum { LOOKUP_EARLIEST = 0, LOOKUP_LATEST = 1 };

/* Looks for the last g tokens (g = ngram_max down to ngram_min) in token[0 .. n). A match at i counts if i + g < n - g
 * (it does not overlap the end), and with full_window only if n_pred tokens follow it. Returns how many tokens follow
 * the match (at most n_pred) and where they begin, or 0. */
int64_t lookup_find(const int32_t *token, int64_t n, int ngram_max, int ngram_min, int64_t n_pred, int which,
                    int full_window, int64_t *begin);

#endif
