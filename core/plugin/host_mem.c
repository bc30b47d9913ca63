/* sl.mem/1: lasting memory, counted by the ledger under the plugin's tag, remembered block by block. A checking host
 * puts guard bytes behind each block of the host and looks at them when it is released. Blocks on a GPU, and pinned ones,
 * come from its module. */
#include "host_impl.h"

#include <string.h>

enum { GUARD_BYTES = 64, GUARD = 0xA5, MAX_ALIGN = 4096, LEDGER_ALIGN = 64 };

static int64_t guard_bytes(const sli_host *host) { return host->context->options.validate ? GUARD_BYTES : 0; }

/* ---- the table of blocks: a hash table by address ---------------------------------------------------------------- */

static int64_t bucket_of(const sli_host *host, const void *p) {
    uint64_t h = ((uint64_t)(uintptr_t)p >> 6) * 0x9e3779b97f4a7c15ull;
    return (int64_t)(h >> 32) & (host->n_buckets - 1);
}

static int widen(sli_host *host) {
    int64_t n = host->n_buckets > 0 ? 2 * host->n_buckets : 32;
    sli_block **wider = sli_calloc(SLI_TAG_MISC, (size_t)n, sizeof *wider), **old = host->buckets;
    if (wider == NULL)
        return 0;
    int64_t n_old = host->n_buckets;
    host->buckets = wider;
    host->n_buckets = n;
    for (int64_t i = 0; i < n_old; i++)
        for (sli_block *b = old[i], *next; b != NULL; b = next) {
            next = b->next;
            b->next = wider[bucket_of(host, b->p)];
            wider[bucket_of(host, b->p)] = b;
        }
    sli_free(old);
    return 1;
}

static sli_block **find(sli_host *host, const void *p) {
    if (host->n_buckets == 0)
        return NULL;
    sli_block **link = &host->buckets[bucket_of(host, p)];
    while (*link != NULL && (*link)->p != p)
        link = &(*link)->next;
    return *link != NULL ? link : NULL;
}

/* ---- the service ------------------------------------------------------------------------------------------------- */

static const sli_tag ledger_tag[] = {[SL_MEM_PLUGIN] = SLI_TAG_PLUGIN,
                                     [SL_MEM_KV] = SLI_TAG_KV,
                                     [SL_MEM_WEIGHTS] = SLI_TAG_WEIGHTS,
                                     [SL_MEM_SCRATCH] = SLI_TAG_SCRATCH,
                                     [SL_MEM_KV_HOST] = SLI_TAG_KV_HOST};

/* Memory of the module, which fills and counts it; no guard: engine.debug = device has red zones. */
static int is_of_device(const sli_host *host, uint32_t device) {
    return device == SL_DEVICE_CUDA || (device == SL_DEVICE_HOST_PINNED && host->context->options.device != NULL);
}

static void *take(sli_host *host, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    const sli_device *module = is_of_device(host, device) ? host->context->options.device : NULL;
    int64_t guard = module == NULL ? guard_bytes(host) : 0,
            slack = module == NULL && align > LEDGER_ALIGN ? align - LEDGER_ALIGN : 0;
    int64_t limit = host->context->options.kv_limit;
    if (tag == SL_MEM_KV && limit > 0 && bytes > limit - host->context->kv_bytes)
        return NULL;
    if (bytes > INT64_MAX - guard - slack || (host->n_blocks >= host->n_buckets && !widen(host)))
        return NULL;
    sli_block *b = sli_alloc(SLI_TAG_MISC, sizeof *b);
    unsigned char *base = b == NULL        ? NULL
                          : module != NULL ? module->api->alloc(module->cuda, device, bytes, align, tag)
                                           : sli_alloc(ledger_tag[tag], (size_t)(bytes + guard + slack));
    if (base == NULL) {
        sli_free(b);
        return NULL;
    }
    unsigned char *p = base + (slack > 0 ? -(uintptr_t)base & (uintptr_t)(align - 1) : 0);
    if (guard > 0)
        memset(p + bytes, GUARD, (size_t)guard);
    *b = (sli_block){
        host->buckets[bucket_of(host, p)], p, base, bytes, tag, module != NULL ? device : SL_DEVICE_CPU};
    host->context->kv_bytes += tag == SL_MEM_KV ? bytes : 0;
    host->buckets[bucket_of(host, p)] = b;
    host->n_blocks++;
    host->bytes += bytes;
    return p;
}

static void *mem_alloc(const sl_host *pub, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    sli_host *host = sli_host_of(pub);
    sli_host_context *c = host->context;
    align = align < LEDGER_ALIGN ? LEDGER_ALIGN : align;
    if (device > SL_DEVICE_HOST_PINNED || (device == SL_DEVICE_CUDA && c->options.device == NULL))
        return NULL; /* pinned memory is plain memory where there is no GPU to pin it for */
    if (bytes < 0 || (align & (align - 1)) != 0 || align > MAX_ALIGN || tag >= sizeof ledger_tag / sizeof *ledger_tag) {
        sli_host_fault(host, SLI_FAULT_STATE, "sl.mem/1 alloc: %lld bytes, alignment %lld, tag %u are not legal",
                       (long long)bytes, (long long)align, tag);
        return NULL;
    }
    if (c->in_step)
        sli_host_fault(host, SLI_FAULT_ALLOC_IN_STEP, "allocated %lld bytes inside of a step", (long long)bytes);
    pthread_mutex_lock(&c->lock);
    void *p = take(host, device, bytes, align, tag);
    pthread_mutex_unlock(&c->lock);
    return p;
}

static void check_guard(sli_host *host, const sli_block *b) {
    const unsigned char *guard = (const unsigned char *)b->p + b->bytes;
    for (int64_t i = 0; i < guard_bytes(host); i++)
        if (guard[i] != GUARD) {
            sli_host_fault(host, SLI_FAULT_OVERRUN, "wrote %lld bytes behind a block of %lld bytes", (long long)i + 1,
                           (long long)b->bytes);
            return;
        }
}

static void give_back(sli_host *host, sli_block **link) {
    sli_block *b = *link;
    *link = b->next;
    host->n_blocks--;
    host->bytes -= b->bytes;
    host->context->kv_bytes -= b->tag == SL_MEM_KV ? b->bytes : 0;
    if (b->device != SL_DEVICE_CPU) {
        const sli_device *module = host->context->options.device;
        module->api->release(module->cuda, b->device, b->base);
    } else {
        check_guard(host, b);
        sli_free(b->base);
    }
    sli_free(b);
}

static void mem_release(const sl_host *pub, uint32_t device, void *p) {
    sli_host *host = sli_host_of(pub);
    (void)device;
    if (p == NULL)
        return;
    pthread_mutex_lock(&host->context->lock);
    sli_block **link = find(host, p);
    if (link != NULL)
        give_back(host, link);
    else
        sli_host_fault(host, SLI_FAULT_POINTER, "released %p, which it did not allocate or released before", p);
    pthread_mutex_unlock(&host->context->lock);
}

const sl_mem sli_mem_service = {SL_SIZE(sl_mem), mem_alloc, mem_release};

void sli_host_release_all(sli_host *host) {
    if (host->n_blocks > 0)
        sli_host_fault(host, SLI_FAULT_LEAK, "left %lld blocks with %lld bytes behind", (long long)host->n_blocks,
                       (long long)host->bytes);
    for (int64_t i = 0; i < host->n_buckets; i++)
        while (host->buckets[i] != NULL)
            give_back(host, &host->buckets[i]);
    sli_free(host->buckets);
    host->buckets = NULL;
    host->n_buckets = 0;
}
