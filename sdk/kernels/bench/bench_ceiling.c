/* See bench_ceiling.h. */
#include "bench_ceiling.h"

#include <stdatomic.h>
#include <stddef.h>

#include "bench_row.h"
#include "isa.h"

static const slk_ceiling *const loops[] = {
    &slk_ceiling_ref,
#ifdef SLK_HAVE_AVX2
    &slk_ceiling_avx2,
#endif
#ifdef SLK_HAVE_AVX512
    &slk_ceiling_avx512,
#endif
#ifdef SLK_HAVE_AVX512BF16
    &slk_ceiling_avx512bf16,
#endif
};
enum { N_LOOPS = sizeof loops / sizeof *loops };

enum { PIECE = 32 << 20 }; /* of the pool, for one turn: short ones are rarely disturbed */

/* One loop of one kind, run by all threads. */
typedef struct effort {
    const slk_ceiling *c;
    const char *data;
    int64_t bytes, pool_bytes; /* that a turn reads, of so many; 0: it computes */
    int64_t at;                /* where the turn begins */
    int64_t times;             /* reads of them, or rounds */
    int dot;
    _Atomic double done; /* bytes or operations of a thread */
    _Atomic uint64_t sink;
} effort;

static void run_part(void *user, int part, int n) {
    effort *e = user;
    if (e->bytes > 0) {
        const int64_t share = e->bytes / n / 1024 * 1024;
        uint64_t sum = 0;
        for (int64_t i = 0; i < e->times; i++)
            sum += e->c->read(e->data + e->at + part * share, share);
        atomic_fetch_xor(&e->sink, sum);
        if (part == 0)
            atomic_store(&e->done, (double)share * (double)e->times);
        return;
    }
    float last = 0;
    const double operations = (e->dot ? e->c->dot : e->c->fma)(e->times, &last);
    atomic_fetch_xor(&e->sink, last > 0);
    if (part == 0)
        atomic_store(&e->done, operations);
}

static double turn(slk_team *team, int n, effort *e) {
    const double begin = slk_bench_now();
    slk_team_run(team, n, run_part, e);
    const double seconds = slk_bench_now() - begin;
    e->at += e->bytes;
    if (e->at + e->bytes > e->pool_bytes)
        e->at = 0;
    return seconds;
}

/* What n threads reach in a second: the best of many turns. */
static double rate_of(slk_team *team, int n, double seconds, effort *e) {
    double best = 0;
    double least = 0;
    for (e->times = 1; least < 2e-4; e->times *= 2) { /* starting the threads is not seen then */
        least = turn(team, n, e);
        for (int i = 0; i < 3; i++) { /* somebody else may have had the core */
            const double again = turn(team, n, e);
            least = again < least ? again : least;
        }
    }
    const double begin = slk_bench_now();
    for (int i = 0; i < 8 || slk_bench_now() - begin < seconds; i++) {
        const double took = turn(team, n, e), rate = atomic_load(&e->done) * n / took;
        best = rate > best ? rate : best;
    }
    return best;
}

static void take(double rate, const char *name, double *best, const char **best_name) {
    if (rate > *best)
        *best = rate, *best_name = name;
}

void slk_ceilings_measure(slk_team *team, int n, double seconds, const void *pool, int64_t pool_bytes,
                          slk_ceilings *out) {
    *out = (slk_ceilings){0};
    for (int i = 0; i < N_LOOPS; i++) {
        const slk_ceiling *c = loops[i];
        if ((slk_isa_detect() & c->isa) != c->isa)
            continue;
        effort memory = {.c = c, .data = pool, .bytes = PIECE, .pool_bytes = pool_bytes},
               cache = {.c = c, .data = pool, .bytes = SLK_CACHE_BYTES};
        effort fma = {.c = c}, dot = {.c = c, .dot = 1};
        if (c->read != NULL) {
            take(rate_of(team, n, seconds, &memory), c->name, &out->memory, &out->memory_name);
            take(rate_of(team, n, seconds, &cache), c->name, &out->cache, &out->cache_name);
        }
        if (c->fma != NULL)
            take(rate_of(team, n, seconds, &fma), c->name, &out->fma, &out->fma_name);
        if (c->dot != NULL)
            take(rate_of(team, n, seconds, &dot), c->name, &out->dot, &out->dot_name);
    }
}
