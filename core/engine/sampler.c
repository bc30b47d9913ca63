/* See sampler.h. Selection works by thresholds: find the last token that stays, then filter in ascending order; nothing
 * is sorted as a whole. */
#include "sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "sluice/host.h"

#include "base/ledger.h"
#include "sl_error.h"

struct sli_sampler {
    int32_t vocab;
    float *z;       /* [vocab] the row after penalties and bias */
    int32_t *id;    /* [vocab] kept tokens */
    double *weight; /* [vocab] theirs */
    double *by_id;  /* [vocab] the same by token; only what the selection at hand has set */
    int32_t *count; /* [vocab] occurrences in the window of the penalties; all zero between calls */
    int32_t *list;  /* [vocab] tokens with a count; tokens that a selection looks at */
};

sl_status sli_sampler_create(int32_t vocab, sli_sampler **out, sl_error *err) {
    assert(vocab > 0);
    *out = NULL;
    sli_sampler *s = sli_alloc(SLI_TAG_SCRATCH, sizeof *s);
    if (s != NULL) {
        s->vocab = vocab;
        s->z = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->z);
        s->id = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->id);
        s->weight = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->weight);
        s->by_id = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->by_id);
        s->count = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->count);
        s->list = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *s->list);
        if (s->z && s->id && s->weight && s->by_id && s->count && s->list) {
            *out = s;
            return SL_OK;
        }
    }
    sli_sampler_destroy(s);
    return sl_fail(err, SL_E_NO_MEMORY, "no memory for a sampler of %d tokens", vocab);
}

void sli_sampler_destroy(sli_sampler *s) {
    if (s == NULL)
        return;
    sli_free(s->z);
    sli_free(s->id);
    sli_free(s->weight);
    sli_free(s->by_id);
    sli_free(s->count);
    sli_free(s->list);
    sli_free(s);
}

/* ---- the row ----------------------------------------------------------------------------------------------------- */

/* Independent lanes, so that the compiler may use vectors without assuming away NaN. */
enum { LANES = 16 };

static float largest(const float *z, int32_t n, int *has_nan) {
    float best[LANES];
    int nan[LANES] = {0}, any = 0;
    for (int l = 0; l < LANES; l++)
        best[l] = -INFINITY;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float v = z[i + l];
            best[l] = v > best[l] ? v : best[l];
            nan[l] |= v != v;
        }
    for (; i < n; i++) {
        best[0] = z[i] > best[0] ? z[i] : best[0];
        nan[0] |= z[i] != z[i];
    }
    for (int l = 0; l < LANES; l++) {
        best[0] = best[l] > best[0] ? best[l] : best[0];
        any |= nan[l];
    }
    *has_nan = any;
    return best[0];
}

static int32_t first_equal(const float *z, float value) {
    int32_t i = 0;
    while (z[i] != value)
        i++;
    return i;
}

static sl_status check_row(const sli_row *row, int32_t vocab, float *zmax, sl_error *err) {
    int has_nan;
    *zmax = largest(row->logits, vocab, &has_nan);
    if (!has_nan && *zmax < INFINITY)
        return SL_OK;
    for (int32_t i = 0; i < vocab; i++)
        if (isnan(row->logits[i]) || row->logits[i] == INFINITY)
            return sl_fail(err, SL_E_DATA, "logits row %d: token %d has the value %g", row->number, i,
                           (double)row->logits[i]);
    assert(0);
    return SL_E_INTERNAL;
}

/* ---- penalties and bias ------------------------------------------------------------------------------------------ */

static int has_penalty(const sli_sampling *how) {
    return how->penalty_last_n != 0 && ((how->repeat_penalty != 0 && how->repeat_penalty != 1) ||
                                        how->presence_penalty != 0 || how->frequency_penalty != 0);
}

/* Huge values stay finite; -inf stays what it is. */
static float narrowed(double z) {
    if (z == -INFINITY)
        return -INFINITY;
    return (float)fmin(fmax(z, -FLT_MAX), FLT_MAX);
}

/* The last `window` of n tokens. */
static int32_t count_tokens(sli_sampler *s, int32_t n_listed, const int32_t *tokens, int64_t n, int64_t window) {
    for (int64_t i = n < window ? 0 : n - window; i < n; i++)
        if (tokens[i] >= 0 && tokens[i] < s->vocab && s->count[tokens[i]]++ == 0)
            s->list[n_listed++] = tokens[i];
    return n_listed;
}

static void penalise(sli_sampler *s, const sli_sampling *how, const sli_history *h) {
    int64_t window = how->penalty_last_n < 0 ? INT64_MAX : how->penalty_last_n;
    int32_t n = count_tokens(s, 0, h->path, h->n_path, window);
    n = count_tokens(s, n, h->committed, h->n_committed, h->n_path < window ? window - h->n_path : 0);
    double repeat = how->repeat_penalty == 0 ? 1 : how->repeat_penalty;
    for (int32_t i = 0; i < n; i++) {
        int32_t t = s->list[i];
        double z = s->z[t];
        z = z > 0 ? z / repeat : z * repeat;
        z -= how->presence_penalty + how->frequency_penalty * s->count[t];
        s->z[t] = narrowed(z);
        s->count[t] = 0;
    }
}

/* The row as the rest of the pipeline sees it: the caller's own, or a changed copy. */
static const float *adjusted(sli_sampler *s, const sli_sampling *how, const sli_row *row, float *zmax) {
    if (!has_penalty(how) && how->n_bias == 0)
        return row->logits;
    memcpy(s->z, row->logits, (size_t)s->vocab * sizeof *s->z);
    if (has_penalty(how))
        penalise(s, how, &row->history);
    for (int32_t i = 0; i < how->n_bias; i++)
        s->z[how->bias_id[i]] = narrowed((double)s->z[how->bias_id[i]] + how->bias[i]);
    int has_nan;
    *zmax = largest(s->z, s->vocab, &has_nan);
    assert(!has_nan);
    return s->z;
}

/* ---- selection --------------------------------------------------------------------------------------------------- */

/* The order of the selections: larger logit first, then lower id. */
static int precedes(const float *z, int32_t a, int32_t b) { return z[a] > z[b] || (z[a] == z[b] && a < b); }

/* A heap of token ids whose root is preceded by all others. */
static void sift_down(int32_t *heap, int32_t n, int32_t at, const float *z) {
    int32_t moved = heap[at];
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && precedes(z, heap[child], heap[child + 1]))
            child++;
        if (!precedes(z, moved, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* The last of the k tokens that precede all others, for small k. 0 < k < vocab. */
static int32_t last_of_few(const float *z, int32_t vocab, int32_t k, int32_t *heap) {
    for (int32_t i = 0; i < k; i++)
        heap[i] = i;
    for (int32_t i = k / 2; i-- > 0;)
        sift_down(heap, k, i, z);
    for (int32_t i = k; i < vocab; i++)
        if (z[i] > z[heap[0]]) { /* of equal ones the lower id, which is already there, stays */
            heap[0] = i;
            sift_down(heap, k, 0, z);
        }
    return heap[0];
}

/* Puts the median of the first, middle and last of list[lo .. hi] into the middle and returns it. */
static int32_t pivot_of(const float *z, int32_t *list, int32_t lo, int32_t hi) {
    int32_t at[3] = {lo, lo + (hi - lo) / 2, hi};
    for (int i = 0; i < 3; i++) {
        int32_t *x = &list[at[i == 1 ? 1 : 0]], *y = &list[at[i == 1 ? 2 : 1]];
        if (precedes(z, *y, *x)) {
            int32_t t = *x;
            *x = *y;
            *y = t;
        }
    }
    return list[at[1]];
}

/* The token at which the mass of the list, summed in the order of the selections, reaches what is wanted; -1: nowhere.
 * Quickselect. weight is by token id; NULL: 1 each. The list is reordered. */
static int32_t where_mass_reaches(const float *z, const double *weight, int32_t *list, int32_t n, double wanted) {
    double before = 0; /* mass of what precedes list[lo] */
    int32_t lo = 0, hi = n - 1;
    while (lo <= hi) {
        int32_t pivot = pivot_of(z, list, lo, hi), i = lo, j = hi;
        while (i <= j) {
            while (precedes(z, list[i], pivot))
                i++;
            while (precedes(z, pivot, list[j]))
                j--;
            if (i <= j) {
                int32_t t = list[i];
                list[i++] = list[j];
                list[j--] = t;
            }
        }
        /* list[lo .. j] <= list[j + 1 .. i - 1] (at most the pivot) <= list[i .. hi] */
        double left = 0;
        for (int32_t k = lo; k <= j; k++)
            left += weight != NULL ? weight[list[k]] : 1;
        if (j >= lo && before + left >= wanted) {
            if (lo == j)
                return list[lo];
            hi = j;
            continue;
        }
        before += left;
        lo = j + 1;
        if (i - lo == 1) {
            before += weight != NULL ? weight[list[lo]] : 1;
            if (before >= wanted)
                return list[lo];
            lo = i;
        }
    }
    return -1;
}

enum { FEW = 1024 };

static int32_t last_of_top_k(const float *z, int32_t vocab, int32_t k, int32_t *list) {
    if (k <= FEW)
        return last_of_few(z, vocab, k, list);
    for (int32_t i = 0; i < vocab; i++)
        list[i] = i;
    return where_mass_reaches(z, NULL, list, vocab, k);
}

/* The last token of the shortest prefix with the wanted share of the mass; -1: all of them. Tokens so light that all of
 * them together cannot fill half of what top_p leaves over are never looked at, so the list is short. */
static int32_t last_of_top_p(const sli_sampler *s, const float *z, int32_t n, double top_p, int32_t *list) {
    double sum = sli_dist_sum(s->id, s->weight, n);
    double light = 0.5 * (1 - top_p) * sum / n;
    int32_t left = 0;
    for (int32_t i = 0; i < n; i++)
        if (s->weight[i] >= light) {
            list[left++] = s->id[i];
            s->by_id[s->id[i]] = s->weight[i];
        }
    return where_mass_reaches(z, s->by_id, list, left, top_p * sum);
}

/* The tokens up to and including `last` in the order of the selections, and their weights, in ascending id. */
static int32_t weigh(sli_sampler *s, const float *z, int32_t last, float zmax, double temperature) {
    float bound = last < 0 ? -INFINITY : z[last];
    int32_t n = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        if (z[i] < bound || z[i] == -INFINITY || (z[i] == bound && i > last))
            continue;
        s->id[n] = i;
        s->weight[n++] = exp(((double)z[i] - zmax) / temperature);
    }
    return n;
}

/* Drops what comes behind `last` (-1: nothing), is lighter than min_p of the best, or has no weight at all. */
static int32_t filter(sli_sampler *s, const float *z, int32_t n, int32_t last, double min_p) {
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t t = s->id[i];
        double w = s->weight[i];
        if (!(w > 0) || w < min_p || (last >= 0 && t != last && !precedes(z, t, last)))
            continue;
        s->id[kept] = t;
        s->weight[kept++] = w;
    }
    return kept;
}

sl_status sli_sampler_dist(sli_sampler *s, const sli_sampling *how, const sli_row *row, sli_dist *out, sl_error *err) {
    SL_TRY(sli_sampling_check(how, s->vocab, err));
    float zmax;
    SL_TRY(check_row(row, s->vocab, &zmax, err));
    const float *z = adjusted(s, how, row, &zmax);
    if (zmax == -INFINITY)
        return sl_fail(err, SL_E_DATA, "logits row %d: all of the %d tokens are -inf", row->number, s->vocab);
    int32_t n = 1;
    if (how->temperature == 0) {
        s->id[0] = first_equal(z, zmax);
        s->weight[0] = 1;
    } else {
        int cut_k = how->top_k > 0 && how->top_k<s->vocab, cut_p = how->top_p> 0 && how->top_p < 1;
        n = weigh(s, z, cut_k ? last_of_top_k(z, s->vocab, how->top_k, s->list) : -1, zmax, how->temperature);
        n = filter(s, z, n, cut_p ? last_of_top_p(s, z, n, how->top_p, s->list) : -1, how->min_p);
    }
    *out = (sli_dist){s->id, s->weight, n, sli_dist_sum(s->id, s->weight, n)};
    return SL_OK;
}

sl_status sli_sampler_next(sli_sampler *s, const sli_sampling *how, const sli_row *row, const sli_random *random,
                           int32_t *token, sl_error *err) {
    sli_dist p;
    SL_TRY(sli_sampler_dist(s, how, row, &p, err));
    uint32_t position = (uint32_t)(row->history.n_committed + row->history.n_path);
    *token = random->draw(random->ctx, SL_RNG_TARGET, position, 0, &p);
    return SL_OK;
}

/* ---- log probabilities ------------------------------------------------------------------------------------------- */

sl_status sli_sampler_logprobs(sli_sampler *s, const sli_sampling *how, const sli_row *row, sli_logprob *chosen,
                               sli_logprob *top, int32_t n_top, int32_t *n_found, sl_error *err) {
    sli_sampling shown = *how;
    if (how->temperature == 0) {
        shown.temperature = 1;
        shown.top_k = 0;
        shown.top_p = shown.min_p = 0;
    }
    sli_dist p;
    SL_TRY(sli_sampler_dist(s, &shown, row, &p, err));
    double log_sum = log(p.sum);
    int64_t at = sli_dist_find(p.id, p.n, chosen->token);
    chosen->logprob = at < 0 ? -INFINITY : log(p.weight[at]) - log_sum;
    int32_t n = 0;
    for (int64_t i = 0; i < p.n; i++) { /* insertion; weights for the time being, lower ids come first */
        int32_t place = n;
        while (place > 0 && top[place - 1].logprob < p.weight[i])
            place--;
        if (place == n_top)
            continue;
        n += n < n_top;
        memmove(top + place + 1, top + place, (size_t)(n - 1 - place) * sizeof *top);
        top[place] = (sli_logprob){p.id[i], p.weight[i]};
    }
    for (int32_t i = 0; i < n; i++)
        top[i].logprob = log(top[i].logprob) - log_sum;
    *n_found = n;
    return SL_OK;
}
