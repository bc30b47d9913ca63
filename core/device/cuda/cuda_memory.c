/* Memory of a device in use: allocations with a cap and a ledger, red zones in debug mode, scratch. */
#include "cuda_state.h"

#include <stdlib.h>
#include <string.h>

enum {
    BASE_ALIGN = 256, /* what the driver gives at least */
    ZONE = 1024,      /* bytes in front of and behind an allocation in debug mode */
    POISON = 0xff     /* a NaN in every float format */
};

struct sli_cuda_block {
    sli_cuda_block *next;
    unsigned char *base, *user;
    int64_t bytes, zone;
    uint32_t device, tag;
};

static void tell(const sli_cuda *cuda, const sli_cuda_block *b, int64_t bytes) {
    if (cuda->options.ledger != NULL)
        cuda->options.ledger(cuda->options.user, b->device, b->tag, bytes);
}

static void free_base(sli_cuda *cuda, const sli_cuda_block *b) {
    if (b->device == SL_DEVICE_CUDA)
        slk_driver_free(&cuda->state->driver, b->base);
    else
        slk_driver_free_pinned(&cuda->state->driver, b->base);
}

/* Zeroes what the caller gets and poisons the zones. */
static sl_status prepare(sli_cuda *cuda, const sli_cuda_block *b) {
    if (b->device != SL_DEVICE_CUDA) {
        memset(b->base, POISON, (size_t)(b->user - b->base));
        memset(b->user, 0, (size_t)b->bytes);
        memset(b->user + b->bytes, POISON, (size_t)b->zone);
        return SL_OK;
    }
    const sl_exec *exec = cuda->k.exec;
    if (b->zone > 0) {
        SL_TRY(exec->fill(cuda->lanes[0], b->user - b->zone, POISON, b->zone));
        SL_TRY(exec->fill(cuda->lanes[0], b->user + b->bytes, POISON, b->zone));
    }
    SL_TRY(exec->fill(cuda->lanes[0], b->user, 0, b->bytes));
    return exec->sync(cuda->lanes[0], NULL);
}

void *sli_cuda_alloc(sli_cuda *cuda, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    struct sli_cuda_state *s = cuda->state;
    if (bytes < 0 || bytes > INT64_MAX / 2 || align < 0 || align > 4096 || (align & (align - 1)) != 0 ||
        (device != SL_DEVICE_CUDA && device != SL_DEVICE_HOST_PINNED))
        return NULL;
    if (bytes == 0)
        bytes = 1; /* an address of its own */
    if (device == SL_DEVICE_CUDA && cuda->options.memory_cap > 0 &&
        s->device_bytes + bytes > cuda->options.memory_cap) {
        sli_cuda_log(cuda, SL_LOG_DEBUG, "%lld bytes of device memory refused: %lld of %lld are in use",
                     (long long)bytes, (long long)s->device_bytes, (long long)cuda->options.memory_cap);
        return NULL;
    }
    sli_cuda_block *b = calloc(1, sizeof *b);
    if (b == NULL)
        return NULL;
    const int64_t slack = align > BASE_ALIGN ? align : 0, zone = cuda->options.debug ? ZONE : 0;
    void *base = NULL;
    SL_ERROR(err);
    const sl_status status = device == SL_DEVICE_CUDA
                                 ? slk_driver_alloc(&s->driver, bytes + slack + 2 * zone, &base, &err)
                                 : slk_driver_alloc_pinned(&s->driver, bytes + slack + 2 * zone, &base, &err);
    if (status < 0) {
        sli_cuda_log(cuda, SL_LOG_DEBUG, "%s", err.text);
        free(b);
        return NULL;
    }
    const uintptr_t mask = (uintptr_t)(align > 0 ? align - 1 : 0);
    *b = (sli_cuda_block){.base = base, .bytes = bytes, .zone = zone, .device = device, .tag = tag};
    b->user = b->base + ((((uintptr_t)base + (uintptr_t)zone + mask) & ~mask) - (uintptr_t)base);
    if (prepare(cuda, b) < 0) {
        free_base(cuda, b);
        free(b);
        return NULL;
    }
    b->next = s->blocks;
    s->blocks = b;
    if (device == SL_DEVICE_CUDA)
        s->device_bytes += bytes;
    tell(cuda, b, bytes);
    return b->user;
}

/* ---- release --------------------------------------------------------------------------------------------------- */

static void check_zone(sli_cuda *cuda, const sli_cuda_block *b, const unsigned char *zone, const char *where) {
    unsigned char bytes[ZONE];
    if (cuda->k.exec->copy(cuda->lanes[0], bytes, zone, b->zone) < 0 || cuda->k.exec->sync(cuda->lanes[0], NULL) < 0)
        return; /* the fault has its own text */
    for (int64_t i = 0; i < b->zone; i++)
        if (bytes[i] != POISON) {
            slk_driver_refuse(&cuda->state->driver, SL_E_DEVICE, NULL,
                              "something was written %s an allocation of %lld bytes (device %u, tag %u)", where,
                              (long long)b->bytes, b->device, b->tag);
            sli_cuda_log(cuda, SL_LOG_ERROR, "%s", cuda->state->driver.fault);
            return;
        }
}

static void drop(sli_cuda *cuda, sli_cuda_block *b) {
    if (b->zone > 0) {
        check_zone(cuda, b, b->user - b->zone, "in front of");
        check_zone(cuda, b, b->user + b->bytes, "behind");
    }
    free_base(cuda, b);
    if (b->device == SL_DEVICE_CUDA)
        cuda->state->device_bytes -= b->bytes;
    tell(cuda, b, -b->bytes);
    free(b);
}

void sli_cuda_release(sli_cuda *cuda, uint32_t device, void *p) {
    if (p == NULL)
        return;
    if (cuda->lanes[0]->capturing) { /* kept until close: freeing it would break the capture */
        slk_driver_refuse(&cuda->state->driver, SL_E_STATE, NULL, "memory was released in a capture");
        return;
    }
    for (sli_cuda_block **at = &cuda->state->blocks; *at != NULL; at = &(*at)->next)
        if ((*at)->user == p && (*at)->device == device) {
            sli_cuda_block *b = *at;
            slk_driver_wait(&cuda->state->driver, NULL);
            *at = b->next;
            drop(cuda, b);
            return;
        }
    sli_cuda_log(cuda, SL_LOG_ERROR, "released %p, which is no memory of device %u", p, device);
}

void sli_cuda_release_all(sli_cuda *cuda) {
    slk_driver_wait(&cuda->state->driver, NULL);
    while (cuda->state->blocks != NULL) {
        sli_cuda_block *b = cuda->state->blocks;
        cuda->state->blocks = b->next;
        drop(cuda, b);
    }
}

/* ---- scratch --------------------------------------------------------------------------------------------------- */

sl_status sli_cuda_scratch_reserve(sli_cuda *cuda, int64_t bytes) {
    struct sli_cuda_state *s = cuda->state;
    if (bytes < 0)
        return SL_E_INVALID;
    if (bytes <= s->scratch_bytes)
        return SL_OK;
    sli_cuda_release(cuda, SL_DEVICE_CUDA, s->scratch);
    s->scratch_bytes = 0;
    s->scratch = sli_cuda_alloc(cuda, SL_DEVICE_CUDA, bytes, BASE_ALIGN, SL_MEM_SCRATCH);
    if (s->scratch == NULL)
        return SL_E_NO_MEMORY;
    s->scratch_bytes = bytes;
    return SL_OK;
}

/* In debug mode whoever asks finds poison: nothing may live there from one call to the next. */
void *sli_cuda_scratch(sli_cuda *cuda) {
    struct sli_cuda_state *s = cuda->state;
    if (s->scratch != NULL && cuda->options.debug)
        cuda->k.exec->fill(cuda->lanes[0], s->scratch, POISON, s->scratch_bytes);
    return s->scratch;
}
