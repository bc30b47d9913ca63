/* See kivi_pool.h. */
#include "kivi_pool.h"

#include <assert.h>
#include <stdlib.h>

void kivi_pool_init(kivi_pool *pool, const sl_host *host, const sl_mem *mem, int64_t bytes) {
    *pool = (kivi_pool){.host = host, .mem = mem, .bytes = bytes};
}

void kivi_pool_finish(kivi_pool *pool) {
    for (int32_t i = 0; i < pool->n_ids; i++)
        pool->mem->release(pool->host, SL_DEVICE_CPU, pool->base[i]);
    free(pool->base);
    free(pool->refs);
    free(pool->free_list);
    free(pool->idle);
    *pool = (kivi_pool){0};
}

static int widen_array(void *array, int64_t n, size_t size) {
    void *wider = realloc(*(void **)array, (size_t)n * size);
    if (wider == NULL)
        return 0;
    *(void **)array = wider;
    return 1;
}

static int add_ids(kivi_pool *pool, int64_t n) {
    int64_t total = pool->n_ids + n;
    if (total > INT32_MAX || !widen_array(&pool->base, total, sizeof *pool->base) ||
        !widen_array(&pool->refs, total, sizeof *pool->refs) ||
        !widen_array(&pool->free_list, total, sizeof *pool->free_list) ||
        !widen_array(&pool->idle, total, sizeof *pool->idle))
        return 0;
    for (int32_t id = (int32_t)total - 1; id >= pool->n_ids; id--) {
        pool->base[id] = NULL;
        pool->refs[id] = 0;
        pool->idle[pool->n_idle++] = id;
    }
    pool->n_ids = (int32_t)total;
    return 1;
}

sl_status kivi_pool_add(kivi_pool *pool, int64_t n) {
    if (n > pool->n_idle && !add_ids(pool, n - pool->n_idle))
        return SL_E_NO_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        char *memory = pool->mem->alloc(pool->host, SL_DEVICE_CPU, pool->bytes, 64, SL_MEM_KV);
        if (memory == NULL) {
            kivi_pool_trim(pool, pool->n_free - i);
            return SL_E_NO_MEMORY;
        }
        int32_t id = pool->idle[--pool->n_idle];
        pool->base[id] = memory;
        pool->free_list[pool->n_free++] = id;
    }
    return SL_OK;
}

void kivi_pool_trim(kivi_pool *pool, int64_t keep) {
    while (pool->n_free > keep) {
        int32_t id = pool->free_list[--pool->n_free];
        pool->mem->release(pool->host, SL_DEVICE_CPU, pool->base[id]);
        pool->base[id] = NULL;
        pool->idle[pool->n_idle++] = id;
    }
}

int32_t kivi_pool_take(kivi_pool *pool) {
    if (pool->n_free == 0)
        return -1;
    int32_t id = pool->free_list[--pool->n_free];
    assert(pool->refs[id] == 0);
    pool->refs[id] = 1;
    return id;
}

int32_t kivi_pool_get(kivi_pool *pool) {
    if (pool->n_free == 0 && kivi_pool_add(pool, 1) < 0)
        return -1;
    return kivi_pool_take(pool);
}

void kivi_pool_drop(kivi_pool *pool, int32_t id) {
    if (id < 0)
        return;
    assert(pool->refs[id] > 0);
    if (--pool->refs[id] == 0)
        pool->free_list[pool->n_free++] = id;
}
