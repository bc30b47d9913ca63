/* shadow_tier.h - the second tier: runs of equal records that leave the device's memory and come back record by record.
 *
 * On this host's CPU lane the tier is host memory under a tag of its own (SL_MEM_KV_HOST), and a fetch is a copy on the
 * copy lane; where a device attends, the same calls move records over the link. With is_host = 0 records stay on the
 * device and are used where they lie. Every transfer is counted. */
#ifndef SHADOWKV_TIER_H
#define SHADOWKV_TIER_H

#include "sluice/exec.h"

typedef struct shadow_tier {
    const sl_host *host;
    const sl_mem *mem;
    const sl_exec *exec;
    const sl_lane *lane; /* of copies */
    sl_event_impl *done; /* passed when the copies so far are */
    int is_host;
    int64_t bytes;                 /* held now */
    int64_t bytes_out, bytes_back; /* moved to the tier, and back from it, since the tier was opened */
} shadow_tier;

typedef struct shadow_run {
    char *data;
    int64_t n, record_bytes;
} shadow_run;

sl_status shadow_tier_open(shadow_tier *tier, const sl_host *host, const sl_mem *mem, int is_host, sl_error *err);
void shadow_tier_close(shadow_tier *tier);

/* n records; SL_E_NO_MEMORY. [setup] */
sl_status shadow_run_open(shadow_tier *tier, shadow_run *run, int64_t n, int64_t record_bytes);
void shadow_run_close(shadow_tier *tier, shadow_run *run);
/* Moves a record out. [setup] */
sl_status shadow_run_put(shadow_tier *tier, const shadow_run *run, int64_t i, const void *src);
/* Begins to bring a record back. [setup] [step] */
sl_status shadow_run_fetch(shadow_tier *tier, const shadow_run *run, int64_t i, void *dst);
/* The lane's later work comes behind all fetches so far; NULL: the host waits. */
sl_status shadow_tier_wait(shadow_tier *tier, const sl_lane *lane);
/* Where the record can be used in place, or NULL. */
static inline const char *shadow_run_direct(const shadow_tier *tier, const shadow_run *run, int64_t i) {
    return tier->is_host ? NULL : run->data + i * run->record_bytes;
}

#endif
