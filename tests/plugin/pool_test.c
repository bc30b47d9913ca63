/* The thread pool: every index once, the same split for the same n, results visible, nested calls, more workers than
 * cores, sleeping workers. */
#include "sl_test.h"

#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/ledger.h"
#include "device/cpu/pool.h"
#include "sl_error.h"

enum { MOST = 5000 };

typedef struct seen {
    int count[MOST]; /* written by one worker an index */
    int32_t worker[MOST];
    _Atomic int ranges, bad;
    int64_t n, grain;
    int32_t n_workers;
} seen;

static void mark(void *user, int64_t begin, int64_t end, int32_t worker) {
    seen *s = user;
    atomic_fetch_add(&s->ranges, 1);
    if (begin >= end || begin < 0 || end > s->n || worker < 0 || worker >= s->n_workers || begin % s->grain != 0 ||
        (end != s->n && end % s->grain != 0)) {
        atomic_fetch_add(&s->bad, 1);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        s->count[i]++;
        s->worker[i] = worker;
    }
}

static void covers_every_index_once(void **state) {
    (void)state;
    static seen s, again;
    static const int32_t workers[] = {1, 2, 3, 4, 7};
    static const int64_t grains[] = {1, 3, 16, 100};
    for (size_t w = 0; w < sizeof workers / sizeof *workers; w++) {
        sli_pool *pool;
        assert_int_equal(sli_pool_create(workers[w], &pool, NULL), SL_OK);
        assert_int_equal(sli_pool_workers(pool), workers[w]);
        for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
            for (int64_t n = 0; n <= MOST; n += n < 70 ? 1 : 617) {
                memset(&s, 0, sizeof s);
                s.n = n, s.grain = grains[g], s.n_workers = workers[w];
                again = s;
                sli_pool_parallel_for(pool, n, grains[g], mark, &s);
                sli_pool_parallel_for(pool, n, grains[g], mark, &again);
                assert_int_equal(s.bad, 0);
                assert_true(s.ranges <= workers[w]);
                for (int64_t i = 0; i < n; i++) {
                    assert_int_equal(s.count[i], 1);
                    assert_int_equal(s.worker[i], again.worker[i]); /* the same split */
                    assert_true(i == 0 || s.worker[i] >= s.worker[i - 1]);
                }
                /* Nobody gets more than one unit above anybody else. */
                int64_t units = (n + grains[g] - 1) / grains[g];
                assert_int_equal(s.ranges, units < workers[w] ? units : workers[w]);
            }
        sli_pool_destroy(pool);
    }
}

/* A sum in two dependent passes: the second reads what other workers wrote in the first. */
typedef struct passes {
    int64_t *value, *sum;
    int64_t n;
} passes;

static void fill(void *user, int64_t begin, int64_t end, int32_t worker) {
    passes *p = user;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        p->value[i]++;
}

static void add_mirrored(void *user, int64_t begin, int64_t end, int32_t worker) {
    passes *p = user;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        p->sum[i] += p->value[p->n - 1 - i];
}

static void run_passes(int32_t workers, int rounds) {
    enum { N = 1000 };
    static int64_t value[N], sum[N];
    memset(value, 0, sizeof value), memset(sum, 0, sizeof sum);
    passes p = {value, sum, N};
    sli_pool *pool;
    assert_int_equal(sli_pool_create(workers, &pool, NULL), SL_OK);
    sli_pool_step_begin(pool);
    for (int r = 0; r < rounds; r++) {
        sli_pool_parallel_for(pool, N, 1, fill, &p);
        sli_pool_parallel_for(pool, N, 1, add_mirrored, &p);
    }
    sli_pool_step_end(pool);
    sli_pool_destroy(pool);
    for (int64_t i = 0; i < N; i++)
        assert_int_equal(sum[i], (int64_t)rounds * (rounds + 1) / 2);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sees_what_others_wrote(void **state) {
    (void)state;
    run_passes(2, 2000);
    run_passes(3, 500);
}

/* Sixteen workers for each core: spinning without ever giving way would take minutes. */
static void survives_too_many_workers(void **state) {
    (void)state;
    int32_t workers = (int32_t)sysconf(_SC_NPROCESSORS_ONLN) * 16;
    workers = workers > 64 ? 64 : workers;
    double begin = seconds();
    run_passes(workers, 100);
    assert_true(seconds() - begin < 15);
}

static void wakes_after_sleep(void **state) {
    (void)state;
    static seen s;
    sli_pool *pool;
    assert_int_equal(sli_pool_create(3, &pool, NULL), SL_OK);
    for (int round = 0; round < 20; round++) {
        usleep(round % 2 == 0 ? 3000 : 100); /* long enough to fall asleep, or just not */
        if (round % 3 == 0)
            sli_pool_step_begin(pool);
        memset(&s, 0, sizeof s);
        s.n = 100, s.grain = 1, s.n_workers = 3;
        sli_pool_parallel_for(pool, 100, 1, mark, &s);
        assert_int_equal(s.ranges, 3);
        if (round % 3 == 0)
            sli_pool_step_end(pool);
    }
    sli_pool_destroy(pool);
}

typedef struct outer {
    sli_pool *pool;
    _Atomic int64_t inner_items;
    _Atomic int wrong_worker;
    int32_t expected[4];
} outer;

typedef struct inner {
    outer *o;
    int32_t worker;
} inner;

static void count_inner(void *user, int64_t begin, int64_t end, int32_t worker) {
    inner *in = user;
    atomic_fetch_add(&in->o->inner_items, end - begin);
    if (worker != in->worker)
        atomic_fetch_add(&in->o->wrong_worker, 1);
}

static void call_inside(void *user, int64_t begin, int64_t end, int32_t worker) {
    outer *o = user;
    inner in = {o, worker};
    for (int64_t i = begin; i < end; i++)
        sli_pool_parallel_for(o->pool, 10, 1, count_inner, &in);
}

static void nested_calls_run_in_place(void **state) {
    (void)state;
    for (int32_t workers = 1; workers <= 4; workers += 3) {
        outer o = {.inner_items = 0};
        assert_int_equal(sli_pool_create(workers, &o.pool, NULL), SL_OK);
        sli_pool_parallel_for(o.pool, 8, 1, call_inside, &o);
        assert_int_equal(o.inner_items, 80);
        assert_int_equal(o.wrong_worker, 0);
        assert_int_equal(sli_pool_nested_calls(o.pool), 8);
        sli_pool_destroy(o.pool);
    }
}

static void calls_allocate_nothing(void **state) {
    (void)state;
    static seen s;
    sli_pool *pool;
    assert_int_equal(sli_pool_create(2, &pool, NULL), SL_OK);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    s.n = 64, s.grain = 1, s.n_workers = 2;
    for (int i = 0; i < 100; i++)
        sli_pool_parallel_for(pool, 64, 1, mark, &s);
    sli_ledger_read(&after);
    assert_int_equal(after.allocations, before.allocations);
    assert_int_equal(s.count[63], 100);
    sli_pool_destroy(pool);
}

static void refuses_nonsense(void **state) {
    (void)state;
    sli_pool *pool = NULL;
    SL_ERROR(err);
    assert_int_equal(sli_pool_create(0, &pool, &err), SL_E_RANGE);
    assert_non_null(strstr(err_text_, "expected 1 to 1024"));
    assert_int_equal(sli_pool_create(SLI_MAX_WORKERS + 1, &pool, &err), SL_E_RANGE);
    for (int after = 0; after < 2; after++) {
        sli_ledger_fail_after(after);
        assert_int_equal(sli_pool_create(4, &pool, &err), SL_E_NO_MEMORY);
    }
    sli_ledger_fail_after(-1);
    assert_null(pool);
    sli_pool_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covers_every_index_once),   cmocka_unit_test(sees_what_others_wrote),
        cmocka_unit_test(survives_too_many_workers), cmocka_unit_test(wakes_after_sleep),
        cmocka_unit_test(nested_calls_run_in_place), cmocka_unit_test(calls_allocate_nothing),
        cmocka_unit_test(refuses_nonsense),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
