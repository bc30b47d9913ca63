/* See tidal_select.h. */
#include "tidal_select.h"

#include <math.h>
#include <string.h>

tidal_split tidal_split_of(const tidal_rule *rule) {
    int64_t b = rule->budget;
    tidal_split s = {0, b - rule->force_current, rule->force_current};
    if (rule->heads != TIDAL_LAYER)
        return s;
    int64_t middle = (int64_t)floor((double)b * rule->middle_ratio);
    if (middle >= b)
        return s;
    s.middle = middle;
    s.sinks = b - middle >= rule->n_sink ? rule->n_sink : 0;
    s.recents = b - middle - s.sinks;
    if (s.recents == 0 && rule->force_current) { /* the sinks took the rest: the row itself comes first */
        if (s.middle > 0)
            s.middle--;
        else
            s.sinks--;
        s.recents = 1;
    }
    return s;
}

/* ---- top-k ----------------------------------------------------------------------------------------------------- */

/* Unsigned integers in the order of the floats; NaN at the bottom, the two zeros equal. */
static inline uint32_t order_of(float x) {
    uint32_t u;
    x += 0.0f;
    memcpy(&u, &x, sizeof u);
    uint32_t key = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
    return x == x ? key : 0;
}

/* The k-th largest key by counting, eleven bits at a time: after each pass `prefix` holds the leading bits of that key
 * and `left` how many keys with this prefix belong to the k. Stops as soon as all of them do. */
int64_t tidal_topk(const float *x, int64_t n, int64_t k, uint32_t *bins, int32_t *out) {
    static const int shifts[] = {21, 10, 0}, widths[] = {11, 11, 10};
    if (k >= n) {
        for (int64_t i = 0; i < n; i++)
            out[i] = (int32_t)i;
        return n > 0 ? n : 0;
    }
    if (k <= 0)
        return 0;
    uint32_t prefix = 0, mask = 0;
    int64_t left = k;
    for (int pass = 0; pass < 3; pass++) {
        uint32_t last = (1u << widths[pass]) - 1, bin = last;
        memset(bins, 0, sizeof *bins * TIDAL_BINS);
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = order_of(x[i]);
            if ((key & mask) == prefix)
                bins[key >> shifts[pass] & last]++;
        }
        while (bins[bin] < left)
            left -= bins[bin--];
        prefix |= bin << shifts[pass];
        mask |= last << shifts[pass];
        if (bins[bin] == left)
            break;
    }
    int64_t found = 0;
    for (int64_t i = 0; i < n && found < k; i++) {
        uint32_t key = order_of(x[i]) & mask;
        if (key < prefix || (key == prefix && left == 0))
            continue;
        left -= key == prefix;
        out[found++] = (int32_t)i;
    }
    return found;
}

/* ---- several heads --------------------------------------------------------------------------------------------- */

void tidal_max(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = y[i] > x[i] ? y[i] : x[i];
}

void tidal_add_softmax(float *y, const float *x, float lse, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] += expf(x[i] - lse);
}

void tidal_round_half(const sl_ops *ops, float *x, int64_t n) {
    enum { SOME = 256 };
    uint16_t half[SOME];
    for (int64_t i = 0; i < n; i += SOME) {
        int64_t some = n - i < SOME ? n - i : SOME;
        ops->convert(half, SL_F16, x + i, SL_F32, some);
        ops->convert(x + i, SL_F32, half, SL_F16, some);
    }
}

int64_t tidal_interleave(const int32_t *best, int64_t n_heads, int64_t k, int64_t stride, int64_t n, int32_t add,
                         uint8_t *marks, int32_t *out) {
    int64_t found = 0;
    memset(marks, 0, (size_t)n);
    for (int64_t rank = 0; rank < k && found < k; rank++)
        for (int64_t h = 0; h < n_heads && found < k; h++) {
            uint8_t *mark = &marks[best[h * stride + rank]];
            found += !*mark;
            *mark = 1;
        }
    int64_t written = 0;
    for (int64_t i = 0; i < n && written < found; i++)
        if (marks[i])
            out[written++] = (int32_t)i + add;
    return found;
}
