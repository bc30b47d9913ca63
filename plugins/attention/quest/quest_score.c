/* See quest_score.h. */
#include "quest_score.h"

#include <string.h>

enum { LANES = 16 };

/* A channel in which q is 0 adds nothing, whatever its bounds are: 0 * inf is no number. */
static inline float term(float q, float most, float least) { return q > 0 ? q * most : q < 0 ? q * least : 0; }

float quest_bound(const float *q, const float *bounds, int64_t d) {
    const float *most = bounds, *least = bounds + d;
    float sum[LANES] = {0}, total = 0;
    int64_t c = 0;
    for (; c + LANES <= d; c += LANES)
        for (int i = 0; i < LANES; i++)
            sum[i] += term(q[c + i], most[c + i], least[c + i]);
    for (; c < d; c++)
        total += term(q[c], most[c], least[c]);
    for (int i = 0; i < LANES; i++)
        total += sum[i];
    return total;
}

void quest_widen(float *bounds, const float *key, int64_t d, int first) {
    float *most = bounds, *least = bounds + d;
    if (first) {
        memcpy(most, key, sizeof *most * (size_t)d);
        memcpy(least, key, sizeof *least * (size_t)d);
        return;
    }
    for (int64_t c = 0; c < d; c++) {
        most[c] = key[c] > most[c] ? key[c] : most[c];
        least[c] = key[c] < least[c] ? key[c] : least[c];
    }
}
