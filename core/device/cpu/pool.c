/* The thread pool; see pool.h.
 *
 * One call is one epoch: the caller writes the job, sets `pending` and advances `epoch` (release); workers that see the
 * new epoch (acquire) claim their range, do it and count `pending` down (release), which the caller waits for (acquire).
 * A range that its worker has not begun when the caller is through with its own is claimed by the caller: on a machine
 * where others compute too, a call need not wait for a thread that has no core. Every range is claimed once an epoch, so
 * a claim for epoch e moves `claimed` from e - 1 to e, and a worker that comes late finds it moved. A worker
 * that goes to sleep first announces itself in `sleepers` and then looks at `epoch` once more; the caller advances
 * `epoch` first and then looks at `sleepers`. Both in sequentially consistent order, so one of them sees the other. */
#include "pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "base/ledger.h"
#include "cpuinfo.h"
#include "sl_error.h"

enum {
    CACHE_LINE = 64,
    PAUSES_STEP = 500,  /* 10 to 25 us: the gaps between the calls of a step. Longer pauses starve the worker that is
                           waited for when somebody else computes, too: 4000 cost 30 times as much a call on a machine
                           with five jobs a core */
    YIELDS_STEP = 1500, /* about 1 ms; on a core that nobody else wants a yield is a longer pause */
    PAUSES_IDLE = 200,
    YIELDS_IDLE = 4,
    PAUSES_CROWDED = 40, /* fewer cores than workers: who spins keeps another worker from running */
    YIELDS_CALLER = 2000 /* then the caller naps between looks: ranges that take milliseconds */
};

typedef struct worker {
    _Alignas(CACHE_LINE) _Atomic uint32_t claimed; /* the last epoch in which somebody took this worker's range */
    sli_pool *pool;
    pthread_t thread;
    int32_t index;
} worker;

struct sli_pool {
    _Alignas(CACHE_LINE) _Atomic uint32_t epoch;  /* what workers spin on */
    _Alignas(CACHE_LINE) _Atomic int32_t pending; /* workers that have not finished this epoch */
    _Alignas(CACHE_LINE) _Atomic int32_t sleepers;
    _Atomic int32_t in_step;
    _Atomic int32_t stop;
    _Atomic int64_t nested;
    _Alignas(CACHE_LINE) struct { /* written by the caller between epochs, read by workers within one */
        sl_range_fn fn;
        void *user;
        int64_t n, grain;
    } job;
    int32_t n_workers, n_threads;
    int32_t crowded;
    pthread_mutex_t lock; /* for sleeping only */
    pthread_cond_t wake;
    uint32_t wakes; /* under lock: counts step_begin */
    worker *workers;
};

/* Which range this thread is working on: tells a nested call. */
static _Thread_local const sli_pool *inside;
static _Thread_local int32_t inside_worker;

static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run(const sli_pool *pool, sl_range_fn fn, void *user, int64_t begin, int64_t end, int32_t w) {
    const sli_pool *outer = inside;
    int32_t outer_worker = inside_worker;
    inside = pool;
    inside_worker = w;
    fn(user, begin, end, w);
    inside = outer;
    inside_worker = outer_worker;
}

/* The share of one worker: units of grain items, the first units % workers get one more. */
static void run_share(sli_pool *pool, int32_t w) {
    int64_t grain = pool->job.grain, n = pool->job.n, units = n / grain + (n % grain != 0);
    int64_t each = units / pool->n_workers, more = units % pool->n_workers;
    int64_t first = each * w + (w < more ? w : more), last = first + each + (w < more);
    if (first >= last)
        return;
    run(pool, pool->job.fn, pool->job.user, first * grain, last == units ? n : last * grain, w);
}

/* Does the range of workers[i] in this epoch unless somebody has begun it. */
static void claim_share(sli_pool *pool, int32_t i, uint32_t epoch) {
    uint32_t before = epoch - 1;
    if (!atomic_compare_exchange_strong_explicit(&pool->workers[i].claimed, &before, epoch, memory_order_acq_rel, memory_order_relaxed))
        return;
    run_share(pool, pool->workers[i].index);
    atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_release);
}

/* Sleeps until the epoch moves, a step begins or the pool ends. */
static void sleep_until_called(sli_pool *pool, uint32_t seen) {
    pthread_mutex_lock(&pool->lock);
    uint32_t wakes = pool->wakes;
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->epoch) == seen && pool->wakes == wakes && !atomic_load(&pool->stop))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Returns the epoch that follows `seen`; the same one when the pool ends. */
static uint32_t wait_for_call(sli_pool *pool, uint32_t seen) {
    for (;;) {
        int step = atomic_load_explicit(&pool->in_step, memory_order_relaxed);
        int pauses = pool->crowded ? PAUSES_CROWDED : step ? PAUSES_STEP : PAUSES_IDLE;
        int yields = step ? YIELDS_STEP : YIELDS_IDLE;
        for (int i = 0; i < pauses + yields; i++) {
            uint32_t now = atomic_load_explicit(&pool->epoch, memory_order_acquire);
            if (now != seen || atomic_load_explicit(&pool->stop, memory_order_relaxed))
                return now;
            if (i < pauses)
                cpu_pause();
            else
                sched_yield();
        }
        sleep_until_called(pool, seen);
    }
}

static void *work(void *arg) {
    worker *self = arg;
    sli_pool *pool = self->pool;
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = wait_for_call(pool, seen);
        if (now == seen)
            return NULL;
        seen = now;
        claim_share(pool, self->index - 1, now);
    }
}

static void wake_all(sli_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void sli_pool_destroy(sli_pool *pool) {
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, 1);
    wake_all(pool);
    for (int32_t i = 0; i < pool->n_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    sli_free(pool->workers);
    sli_free(pool);
}

/* Signals are for the program's own threads. */
static int start_threads(sli_pool *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int32_t i = 0; i < pool->n_workers - 1 && !failed; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i + 1;
        failed = pthread_create(&w->thread, NULL, work, w) != 0;
        pool->n_threads += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

sl_status sli_pool_create(int32_t n, sli_pool **out, sl_error *err) {
    if (n < 1 || n > SLI_MAX_WORKERS)
        return sl_fail(err, SL_E_RANGE, "threads: %d is out of range, expected 1 to %d", n, SLI_MAX_WORKERS);
    _Static_assert(_Alignof(sli_pool) <= 64, "sli_alloc gives 64-byte alignment");
    sli_pool *pool = sli_alloc(SLI_TAG_MISC, sizeof *pool);
    worker *workers = sli_calloc(SLI_TAG_MISC, (size_t)n, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        sli_free(pool);
        sli_free(workers);
        return sl_fail(err, SL_E_NO_MEMORY, "threads: no memory for a pool of %d", n);
    }
    sli_cpuinfo cpu;
    sli_cpuinfo_read(&cpu);
    pool->workers = workers;
    pool->n_workers = n;
    pool->crowded = n > cpu.cores;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    if (!start_threads(pool)) {
        int made = pool->n_threads;
        sli_pool_destroy(pool);
        return sl_fail(err, SL_E_NO_MEMORY, "threads: the system gave %d of %d threads", made + 1, n);
    }
    *out = pool;
    return SL_OK;
}

int32_t sli_pool_workers(const sli_pool *pool) { return pool->n_workers; }
int64_t sli_pool_nested_calls(const sli_pool *pool) { return atomic_load(&pool->nested); }

static void wait_for_workers(sli_pool *pool) {
    int pauses = pool->crowded ? PAUSES_CROWDED : PAUSES_STEP;
    for (int i = 0; atomic_load_explicit(&pool->pending, memory_order_acquire) != 0; i += i < pauses + YIELDS_CALLER) {
        const struct timespec nap = {0, 20000};
        if (i < pauses)
            cpu_pause();
        else if (i < pauses + YIELDS_CALLER)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

void sli_pool_parallel_for(sli_pool *pool, int64_t n, int64_t grain, sl_range_fn fn, void *user) {
    if (n <= 0)
        return;
    grain = grain < 1 ? 1 : grain;
    if (inside == pool) {
        atomic_fetch_add_explicit(&pool->nested, 1, memory_order_relaxed);
        fn(user, 0, n, inside_worker);
        return;
    }
    if (pool->n_workers == 1 || n <= grain) { /* all of it is worker 0's anyway */
        run(pool, fn, user, 0, n, 0);
        return;
    }
    assert(atomic_load(&pool->pending) == 0 && "one caller at a time");
    pool->job.fn = fn;
    pool->job.user = user;
    pool->job.n = n;
    pool->job.grain = grain;
    atomic_store_explicit(&pool->pending, pool->n_workers - 1, memory_order_relaxed);
    uint32_t epoch = atomic_fetch_add(&pool->epoch, 1) + 1;
    if (atomic_load(&pool->sleepers) != 0)
        wake_all(pool);
    run_share(pool, 0);
    for (int32_t i = 0; i < pool->n_workers - 1; i++)
        claim_share(pool, i, epoch);
    wait_for_workers(pool);
}

void sli_pool_step_begin(sli_pool *pool) {
    atomic_store(&pool->in_step, 1);
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->wakes++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void sli_pool_step_end(sli_pool *pool) { atomic_store(&pool->in_step, 0); }
