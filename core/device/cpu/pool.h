/* The thread pool: static contiguous splits, workers that spin while a step runs and sleep otherwise.
 *
 * parallel_for cuts n items into one range a worker. The cut depends on n, grain and the number of workers alone, never
 * on timing; a worker gets the same range for the same n, so that its caches stay warm from layer to layer, unless the
 * caller has to stand in for it.
 * One thread at a time calls; it works too, as worker 0. Nothing is allocated by a call.
 *
 * Waiting is layered, since the machine may have fewer free cores than the pool has workers: a short stretch of pauses,
 * then yields, then sleep. Inside a step the first two are longer. */
#ifndef SLUICE_CORE_CPU_POOL_H
#define SLUICE_CORE_CPU_POOL_H

#include "sluice/host.h"

typedef struct sli_pool sli_pool;

enum { SLI_MAX_WORKERS = 1024 };

/* n workers, the caller included: n - 1 threads are made, with all signals blocked. SL_E_RANGE unless
 * 1 <= n <= SLI_MAX_WORKERS, SL_E_NO_MEMORY when threads or memory run out. Created: sli_pool_destroy. [setup] */
sl_status sli_pool_create(int32_t n, sli_pool **out, sl_error *err);
void sli_pool_destroy(sli_pool *pool); /* NULL is legal; not while a parallel_for runs */

int32_t sli_pool_workers(const sli_pool *pool);

/* Calls fn(user, begin, end, worker) for each range that is not empty and returns when all are done; everything the
 * workers wrote is then visible. Ranges are multiples of grain (>= 1) items, except for the last. n <= 0: nothing.
 * Called from inside fn (a mistake of the caller) it runs all items on that worker, and is counted. [setup] [step] */
void sli_pool_parallel_for(sli_pool *pool, int64_t n, int64_t grain, sl_range_fn fn, void *user);
/* How often parallel_for was called from inside parallel_for. */
int64_t sli_pool_nested_calls(const sli_pool *pool);

/* Between these the workers stay awake between calls; begin wakes those that sleep. */
void sli_pool_step_begin(sli_pool *pool);
void sli_pool_step_end(sli_pool *pool);

#endif
