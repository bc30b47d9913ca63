/* sl.scratch/1: one shared block and one block a worker, grown by reserve to the largest need, the same for all plugins
 * of a context: nothing in it survives a call. */
#include "host_impl.h"

#include <string.h>

enum { LINE = 64 };
/* All ones: NaN as f32, f16 and bf16, -1 as an integer, never a legal pointer. */
enum { POISON = 0xFF };

static int64_t round_up(int64_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

/* Replaces *block when it is too small. The old contents need not be kept. */
static int grow(unsigned char **block, int64_t *have, int64_t want, int64_t copies) {
    if (want <= *have)
        return 1;
    if (want > INT64_MAX / copies)
        return 0;
    unsigned char *larger = sli_alloc(SLI_TAG_SCRATCH, (size_t)(want * copies));
    if (larger == NULL)
        return 0;
    sli_free(*block);
    *block = larger;
    *have = want;
    return 1;
}

static sl_status reserve(const sl_host *pub, uint32_t device, int64_t bytes, int64_t bytes_per_worker) {
    sli_host *host = sli_host_of(pub);
    sli_host_context *c = host->context;
    const sli_device *module = c->options.device;
    if (device == SL_DEVICE_CUDA && module == NULL)
        return SL_E_UNIMPLEMENTED;
    if (c->in_step || !host->activating) {
        sli_host_fault(host, SLI_FAULT_STATE, "sl.scratch/1 reserve was called outside of activate");
        return SL_E_STATE;
    }
    if (bytes < 0 || bytes_per_worker < 0 || bytes > INT64_MAX - LINE || bytes_per_worker > INT64_MAX - LINE)
        return SL_E_INVALID;
    if (device == SL_DEVICE_CUDA)
        return bytes_per_worker == 0 ? module->api->scratch_reserve(module->cuda, bytes) : SL_E_INVALID;
    int ok = grow(&c->scratch, &c->scratch_bytes, round_up(bytes), 1) &&
             grow(&c->worker_scratch, &c->worker_bytes, round_up(bytes_per_worker), sli_pool_workers(c->options.pool));
    return ok ? SL_OK : SL_E_NO_MEMORY;
}

static void *get(const sl_host *pub, uint32_t device) {
    sli_host_context *c = sli_host_of(pub)->context;
    if (device == SL_DEVICE_CUDA)
        return c->options.device != NULL ? c->options.device->api->scratch(c->options.device->cuda) : NULL;
    if (c->options.validate &&
        c->scratch_owner != sli_host_of(pub)) { /* another plugin's turn: nothing is left for it */
        c->scratch_owner = sli_host_of(pub);
        sli_scratch_poison(c);
    }
    return c->scratch;
}

static void *worker_block(const sl_host *pub, int32_t worker) {
    const sli_host_context *c = sli_host_of(pub)->context;
    if (worker < 0 || worker >= sli_pool_workers(c->options.pool) || c->worker_scratch == NULL)
        return NULL;
    return c->worker_scratch + (int64_t)worker * c->worker_bytes;
}

const sl_scratch sli_scratch_service = {SL_SIZE(sl_scratch), reserve, get, worker_block};

void sli_scratch_poison(sli_host_context *c) {
    if (c->scratch != NULL)
        memset(c->scratch, POISON, (size_t)c->scratch_bytes);
    if (c->worker_scratch != NULL)
        memset(c->worker_scratch, POISON, (size_t)(c->worker_bytes * sli_pool_workers(c->options.pool)));
}

void sli_scratch_free(sli_host_context *c) {
    sli_free(c->scratch);
    sli_free(c->worker_scratch);
    c->scratch = c->worker_scratch = NULL;
    c->scratch_bytes = c->worker_bytes = 0;
}
