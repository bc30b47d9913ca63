/* The host as plugins see it: one sl_host an instance, all of one engine sharing a context.
 *
 * Offered from here: sl.mem/1, sl.scratch/1, sl.threads/1, sl.cpu/1, sl.exec/1, sl.metrics/1. Where a GPU is in use,
 * memory, scratch and lanes of it come from its module (device/cuda/cuda_api.h). The engine
 * adds its own tables (model, ops, artifacts, rng, sample) with sli_host_provide.
 *
 * Misbehaviour of plugins - allocating in a step, leaking, overrunning a block, calling things in the wrong state - is
 * counted, logged once a kind and instance at SL_LOG_PLUGIN_MISBEHAVED, and survived where that is possible. A checking
 * host (`validate = yes`) looks for more: guard bytes behind every allocation, scratch poisoned before each call that
 * the engine announces with sli_host_before_call and whenever another plugin asks for it. */
#ifndef SLUICE_CORE_HOST_H
#define SLUICE_CORE_HOST_H

#include "device/cpu/pool.h"
#include "device/device.h"
#include "sl_error.h"
#include "sluice/exec.h"

typedef struct sli_host_context sli_host_context;

/* Receives finished lines. who: id of the plugin. level: SL_LOG_*. */
typedef void (*sli_log_fn)(void *user, uint32_t level, const char *who, const char *text);

typedef struct sli_host_options {
    sli_pool *pool;     /* borrowed, must outlive the context */
    const sli_device *device; /* the GPU in use, which must outlive the context; NULL: none */
    uint32_t isa;       /* set of SL_ISA_*: what engine.isa lets be used */
    int validate;       /* 1: checking host */
    int64_t kv_limit;   /* most bytes of SL_MEM_KV that all plugins together get; 0: no limit */
    uint32_t min_level; /* lines below it are dropped */
    sli_log_fn log;     /* NULL: stderr, as "sluice: warning: quest: text" */
    void *log_user;
    void *engine; /* handed back by sli_host_engine */
} sli_host_options;

/* Created: sli_host_context_destroy, after the last host of it. [setup] */
sl_status sli_host_context_create(const sli_host_options *options, sli_host_context **out, sl_error *err);
void sli_host_context_destroy(sli_host_context *context); /* NULL is legal */

/* Offers a service table (its first field is struct_size) under an id to every host of the context, created already or
 * not. Borrowed until the context is destroyed. SL_E_INVALID: the id is taken, or there are too many. [setup] */
sl_status sli_host_provide(sli_host_context *context, const char *id, const void *table, sl_error *err);

/* The host of one instance. id: the plugin's, copied, for log lines and metrics. user: handed back by sli_host_user.
 * Created: sli_host_destroy. [setup] */
sl_status sli_host_create(sli_host_context *context, const char *id, void *user, sl_host **out, sl_error *err);
/* Returns memory that was not released, after logging it. NULL is legal. [setup] */
void sli_host_destroy(sl_host *host);

/* For functions of services, which get a sl_host: whose is it? [any] */
void *sli_host_engine(const sl_host *host);
void *sli_host_user(const sl_host *host);
const char *sli_host_id(const sl_host *host);
sli_pool *sli_host_pool(const sl_host *host);
uint32_t sli_host_isa(const sl_host *host);

/* ---- states ------------------------------------------------------------------------------------------------------ */

/* A step begins and ends: the pool stays awake, allocation is a fault. Not nested. [setup] -> [step] -> [setup] */
void sli_host_step_begin(sli_host_context *context);
void sli_host_step_end(sli_host_context *context);
int sli_host_in_step(const sli_host_context *context);

/* An instance is inside activate: scratch may be reserved. Set by instance.c. */
void sli_host_set_activating(const sl_host *host, int yes);

/* Before a function of a plugin is called: a checking host poisons the scratch; otherwise this costs a comparison. */
void sli_host_before_call(sli_host_context *context);

/* ---- what was counted -------------------------------------------------------------------------------------------- */

typedef struct sli_host_faults {
    int64_t allocs_in_step;  /* sl.mem/1 in a step; the ledger counts the core's own */
    int64_t wrong_state;     /* scratch reserved outside of activate, nested parallel_for ... */
    int64_t overruns;        /* guard bytes that were written (checking host) */
    int64_t bad_pointers;    /* released what was not allocated here */
    int64_t leaks;           /* blocks left when the host was destroyed */
    int64_t metrics_dropped; /* counters that found no room */
} sli_host_faults;
void sli_host_read_faults(const sli_host_context *context, sli_host_faults *out);

/* Bytes that a plugin holds through sl.mem/1 now. */
int64_t sli_host_bytes(const sl_host *host);

/* Counters of sl.metrics/1, by index 0, 1, 2 ... : 0 at the end. who is the plugin's id; all are borrowed. */
int sli_host_metric(const sli_host_context *context, int index, const char **who, const char **name, double *value);
void sli_host_reset_metrics(sli_host_context *context); /* values to 0 */

#endif
