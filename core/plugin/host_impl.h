/* Inside of the host: what its services share. */
#ifndef SLUICE_CORE_HOST_IMPL_H
#define SLUICE_CORE_HOST_IMPL_H

#include <pthread.h>

#include "base/ledger.h"
#include "plugin_host.h"

enum { SLI_MAX_SERVICES = 48, SLI_MAX_METRICS = 256, SLI_CPU_LANES = 4, SLI_LOG_LEVELS = 6 };

/* Kinds of misbehaviour; each is logged once an instance. */
typedef enum sli_fault {
    SLI_FAULT_ALLOC_IN_STEP,
    SLI_FAULT_STATE,
    SLI_FAULT_OVERRUN,
    SLI_FAULT_POINTER,
    SLI_FAULT_LEAK,
    SLI_FAULT_METRICS,
    SLI_FAULTS
} sli_fault;

typedef struct sli_service {
    const char *id;
    const void *table;
} sli_service;

/* One block given out by sl.mem/1. */
typedef struct sli_block {
    struct sli_block *next;
    void *p, *base;
    int64_t bytes;
    uint32_t tag;    /* SL_MEM_* */
    uint32_t device; /* SL_DEVICE_*: where the module has it; CPU: here */
} sli_block;

typedef struct sli_host {
    sl_host pub; /* what the plugin sees */
    sli_host_context *context;
    const char *id; /* the context's */
    void *user;
    int activating;
    uint32_t logged; /* bits of sli_fault */
    int64_t bytes;
    sli_block **buckets; /* [n_buckets], a power of two */
    int64_t n_blocks, n_buckets;
} sli_host;

/* Ids of plugins that ever had a host: counters are read after their plugin is gone. */
typedef struct sli_host_id_node {
    struct sli_host_id_node *next;
    char text[];
} sli_host_id_node;

typedef struct sli_metric {
    const char *who; /* an id of the context's, which outlives the host */
    const char *name;
    double value;
} sli_metric;

struct sl_lane_impl {
    sli_host_context *context;
};

struct sli_host_context {
    int64_t kv_bytes; /* of SL_MEM_KV, given out now */
    sli_host_options options;
    pthread_mutex_t lock; /* sl.mem/1 */
    sli_service services[SLI_MAX_SERVICES];
    int n_services;
    sli_host_id_node *ids;
    int in_step;
    int64_t faults[SLI_FAULTS];
    unsigned char *scratch, *worker_scratch;
    int64_t scratch_bytes, worker_bytes; /* bytes of one worker */
    const sli_host *scratch_owner;       /* checking host: who asked for the shared block last */
    sl_lane lanes[SLI_CPU_LANES];
    sl_lane_impl lane_impl;
    sli_metric metrics[SLI_MAX_METRICS];
    int n_metrics;
};

/* Services by file. */
extern const sl_mem sli_mem_service;
extern const sl_scratch sli_scratch_service;
extern const sl_exec sli_exec_service;

static inline sli_host *sli_host_of(const sl_host *host) { return host->impl; }

/* Counts, and logs the first of its kind for this instance. */
void sli_host_fault(sli_host *host, sli_fault fault, const char *fmt, ...) SL_PRINTF(3, 4);

void sli_host_release_all(sli_host *host); /* blocks that are left */
void sli_scratch_poison(sli_host_context *context);
void sli_scratch_free(sli_host_context *context);
void sli_lanes_init(sli_host_context *context);

#endif
