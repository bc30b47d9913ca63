/* See dist.h. */
#include "dist.h"

#include <math.h>
#include <stddef.h>

#include "rng.h"

static int32_t id_at(const int32_t *id, int64_t i) { return id != NULL ? id[i] : (int32_t)i; }

double sli_dist_sum(const int32_t *id, const double *weight, int64_t n) {
    double total = 0, run = 0;
    int32_t block = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t b = id_at(id, i) / SLI_SUM_BLOCK;
        if (b != block) {
            total += run;
            run = 0;
            block = b;
        }
        run += weight[i];
    }
    return total + run;
}

int64_t sli_dist_find(const int32_t *id, int64_t n, int32_t token) {
    if (id == NULL)
        return token >= 0 && token < n ? token : -1;
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (id[mid] < token)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && id[lo] == token ? lo : -1;
}

/* The prefix sums are those of sli_dist_sum at the same place, so the last one is exactly d->sum. */
int32_t sli_dist_draw(const sli_dist *d, double u) {
    double bound = u * d->sum, total = 0, run = 0;
    int32_t block = 0;
    for (int64_t i = 0; i < d->n; i++) {
        int32_t b = id_at(d->id, i) / SLI_SUM_BLOCK;
        if (b != block) {
            total += run;
            run = 0;
            block = b;
        }
        run += d->weight[i];
        if (bound < total + run)
            return id_at(d->id, i);
    }
    int64_t last = d->n - 1;
    while (last > 0 && !(d->weight[last] > 0))
        last--;
    return id_at(d->id, last);
}

int32_t sli_dist_race(const sli_dist *d, uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose) {
    int32_t winner = -1;
    double best = INFINITY;
    for (int64_t i = 0; i < d->n; i++) {
        if (!(d->weight[i] > 0))
            continue;
        int32_t v = id_at(d->id, i);
        double arrival = -log(1 - sli_rng_uniform(seed, sample, position, purpose, (uint32_t)v)) / d->weight[i];
        if (winner < 0 || arrival < best) {
            winner = v;
            best = arrival;
        }
    }
    return winner;
}
