/* See lookup.h. */
#include "lookup.h"

#include <string.h>

static int64_t find_gram(const int32_t *token, int64_t n, int g, int64_t n_pred, int which, int full_window) {
    const int32_t *gram = token + n - g;
    int64_t last = n - 2 * (int64_t)g - 1; /* i + g < n - g */
    if (full_window && n - g - n_pred < last)
        last = n - g - n_pred;
    int64_t found = -1;
    for (int64_t i = 0; i <= last; i++)
        if (token[i] == gram[0] && memcmp(token + i, gram, sizeof *token * (size_t)g) == 0) {
            found = i;
            if (which == LOOKUP_EARLIEST)
                break;
        }
    return found;
}

int64_t lookup_find(const int32_t *token, int64_t n, int ngram_max, int ngram_min, int64_t n_pred, int which,
                    int full_window, int64_t *begin) {
    for (int g = ngram_max; g >= ngram_min; g--) {
        int64_t i = find_gram(token, n, g, n_pred, which, full_window);
        if (i < 0)
            continue;
        *begin = i + g;
        return n - *begin < n_pred ? n - *begin : n_pred;
    }
    return 0;
}
