/* See shadow_tier.h. */
#include "shadow_tier.h"

#include "sl_host_util.h"

sl_status shadow_tier_open(shadow_tier *tier, const sl_host *host, const sl_mem *mem, int is_host, sl_error *err) {
    *tier = (shadow_tier){.host = host, .mem = mem, .is_host = is_host};
    const void *exec;
    SL_TRY(sl_host_require(host, "shadowkv", SL_EXEC_ID, SL_FIELD_END(sl_exec, sync), &exec, err));
    tier->exec = exec;
    tier->lane = tier->exec->lane(host, SL_DEVICE_CPU, 1); /* copies run beside the step's own lane */
    if (tier->lane == NULL)
        tier->lane = tier->exec->lane(host, SL_DEVICE_CPU, 0);
    if (tier->lane == NULL || tier->exec->event_create(host, tier->lane, &tier->done) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: the host has no lane for copies between memories");
    return SL_OK;
}

void shadow_tier_close(shadow_tier *tier) {
    if (tier->done != NULL)
        tier->exec->event_destroy(tier->host, tier->done);
    *tier = (shadow_tier){0};
}

static uint32_t device_of(const shadow_tier *tier) { return tier->is_host ? SL_DEVICE_HOST_PINNED : SL_DEVICE_CPU; }

sl_status shadow_run_open(shadow_tier *tier, shadow_run *run, int64_t n, int64_t record_bytes) {
    run->data =
        tier->mem->alloc(tier->host, device_of(tier), n * record_bytes, 64, tier->is_host ? SL_MEM_KV_HOST : SL_MEM_KV);
    if (run->data == NULL)
        return SL_E_NO_MEMORY;
    run->n = n;
    run->record_bytes = record_bytes;
    tier->bytes += n * record_bytes;
    return SL_OK;
}

void shadow_run_close(shadow_tier *tier, shadow_run *run) {
    if (run->data == NULL)
        return;
    tier->mem->release(tier->host, device_of(tier), run->data);
    tier->bytes -= run->n * run->record_bytes;
    *run = (shadow_run){0};
}

sl_status shadow_run_put(shadow_tier *tier, const shadow_run *run, int64_t i, const void *src) {
    tier->bytes_out += tier->is_host ? run->record_bytes : 0;
    return tier->exec->copy(tier->lane, run->data + i * run->record_bytes, src, run->record_bytes);
}

sl_status shadow_run_fetch(shadow_tier *tier, const shadow_run *run, int64_t i, void *dst) {
    tier->bytes_back += tier->is_host ? run->record_bytes : 0;
    return tier->exec->copy(tier->lane, dst, run->data + i * run->record_bytes, run->record_bytes);
}

sl_status shadow_tier_wait(shadow_tier *tier, const sl_lane *lane) {
    if (lane == NULL)
        return tier->exec->sync(tier->lane, NULL);
    SL_TRY(tier->exec->record(tier->lane, tier->done));
    return tier->exec->wait(lane, tier->done);
}
