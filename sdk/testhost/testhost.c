/* See testhost.h. SLT_DEBUG=1 in the environment: a wait behind every launch, so that a fault names its kernel. */
#include "testhost.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver.h"

/* Poison: as f32, f16, bf16 and e4m3 a NaN, as an integer -1. Zones of it lie around every allocation: what reads there
 * gets NaN, what writes there is found at the end. */
enum { POISON = 0xff, ZONE = 1024 };

typedef struct block {
    unsigned char *base; /* zone, the caller's bytes, zone */
    int64_t bytes;
} block;

struct slt_host_impl {
    slk_driver driver;
    sl_exec exec;
    sl_event_impl *begin, *end;
    block *blocks;
    int64_t n_blocks, cap;
};

SL_PRINTF(1, 2) _Noreturn static void die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fputs("test host: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void must(slt_host *h, sl_status status, const sl_error *err, const char *what) {
    if (status < 0)
        die("%s: %s", what, err != NULL && err->text[0] != '\0' ? err->text : h->impl->driver.fault);
}

/* ---- the host -------------------------------------------------------------------------------------------------- */

static const void *query(const sl_host *base, const char *id) {
    const slt_host *h = base->impl;
    return strcmp(id, SL_EXEC_ID) == 0 ? h->exec : NULL;
}
static void print_line(const sl_host *base, uint32_t level, const char *text) {
    (void)base;
    (void)level;
    fprintf(stderr, "%s\n", text);
}
static const sl_lane *lane_by_number(const sl_host *base, uint32_t device, int32_t number) {
    slt_host *h = base->impl;
    return device == SL_DEVICE_CUDA && number >= 0 && number < SLK_DRIVER_LANES ? &h->impl->driver.lanes[number].lane
                                                                                : NULL;
}

int slt_open(slt_host *h, char *why, size_t why_bytes) {
    SL_ERROR(err);
    memset(h, 0, sizeof *h);
    struct slt_host_impl *m = calloc(1, sizeof *m);
    if (m == NULL)
        die("no memory");
    const char *debug = getenv("SLT_DEBUG");
    const sl_status status = slk_driver_open(&m->driver, 0, debug != NULL && debug[0] == '1', h, &err);
    if (status == SL_E_NOT_FOUND) {
        snprintf(why, why_bytes, "%s", err.text);
        free(m);
        return -1;
    }
    if (status < 0)
        die("%s", err.text);
    m->exec = slk_driver_exec;
    m->exec.lane = lane_by_number;
    h->impl = m;
    h->exec = &m->exec;
    h->lane = &m->driver.lanes[0].lane;
    h->base = (sl_host){.struct_size = SL_SIZE(sl_host),
                        .name = "testhost",
                        .version = "0",
                        .abi_major = SL_ABI_MAJOR,
                        .abi_minor = SL_ABI_MINOR,
                        .impl = h,
                        .query = query,
                        .log = print_line};
    must(h, slk_cuda_open(&h->k, &h->base, h->exec, h->lane, &err), &err, "loading the shared kernels");
    h->k.deterministic = 1;
    must(h, h->exec->event_create(&h->base, h->lane, &m->begin), NULL, "an event");
    must(h, h->exec->event_create(&h->base, h->lane, &m->end), NULL, "an event");
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static int poisoned(slt_host *h, const unsigned char *zone) {
    unsigned char bytes[ZONE];
    slt_download(h, bytes, zone, ZONE);
    for (int i = 0; i < ZONE; i++)
        if (bytes[i] != POISON)
            return 0;
    return 1;
}

void *slt_device(slt_host *h, int64_t bytes) {
    struct slt_host_impl *m = h->impl;
    SL_ERROR(err);
    if (bytes <= 0)
        die("%lld bytes of device memory were asked for", (long long)bytes);
    if (m->n_blocks == m->cap) {
        m->cap = m->cap > 0 ? 2 * m->cap : 64;
        m->blocks = realloc(m->blocks, (size_t)m->cap * sizeof *m->blocks);
        if (m->blocks == NULL)
            die("no memory");
    }
    void *base = NULL;
    must(h, slk_driver_alloc(&m->driver, bytes + 2 * ZONE, &base, &err), &err, "device memory");
    must(h, h->exec->fill(h->lane, base, POISON, bytes + 2 * ZONE), NULL, "poison");
    m->blocks[m->n_blocks++] = (block){base, bytes};
    return (unsigned char *)base + ZONE;
}

void *slt_upload(slt_host *h, const void *data, int64_t bytes) {
    void *p = slt_device(h, bytes);
    slt_write(h, p, data, bytes);
    return p;
}

void slt_write(slt_host *h, void *device, const void *data, int64_t bytes) {
    must(h, h->exec->copy(h->lane, device, data, bytes), NULL, "a copy to the device");
    slt_sync(h);
}

void slt_download(slt_host *h, void *data, const void *device, int64_t bytes) {
    slt_sync(h);
    must(h, h->exec->copy(h->lane, data, device, bytes), NULL, "a copy from the device");
    slt_sync(h);
}

void slt_sync(slt_host *h) {
    SL_ERROR(err);
    must(h, slk_driver_wait(&h->impl->driver, &err), &err, "waiting");
}

void slt_close(slt_host *h) {
    struct slt_host_impl *m = h->impl;
    if (m == NULL)
        return;
    for (int64_t i = 0; i < m->n_blocks; i++) {
        const block *b = &m->blocks[i];
        if (!poisoned(h, b->base))
            die("something was written in front of allocation %lld (%lld bytes)", (long long)i, (long long)b->bytes);
        if (!poisoned(h, b->base + ZONE + b->bytes))
            die("something was written behind allocation %lld (%lld bytes)", (long long)i, (long long)b->bytes);
        slk_driver_free(&m->driver, b->base);
    }
    h->exec->event_destroy(&h->base, m->begin);
    h->exec->event_destroy(&h->base, m->end);
    slk_driver_close(&m->driver);
    free(m->blocks);
    free(m);
    memset(h, 0, sizeof *h);
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double slt_time_us(slt_host *h, int calls, int repeats, void (*run)(void *user, int i), void *user) {
    struct slt_host_impl *m = h->impl;
    SL_ERROR(err);
    slk_driver_graph graph = {0};
    const int with_graph = !m->driver.debug; /* else the launches themselves are timed, waits included */
    if (calls < 1 || repeats < 1)
        die("timing %d calls %d times", calls, repeats);
    run(user, 0); /* what loads or plans at a first call does it here */
    slt_sync(h);
    if (with_graph) {
        must(h, slk_driver_capture_begin(&m->driver, &err), &err, "timing");
        for (int i = 0; i < calls; i++)
            run(user, i);
        must(h, slk_driver_capture_end(&m->driver, &graph, &err), &err, "timing");
        if (graph.nodes < 1)
            die("timing: the calls queued nothing");
    }
    float *ms = malloc((size_t)repeats * sizeof *ms);
    if (ms == NULL)
        die("no memory");
    for (int r = -3; r < repeats; r++) { /* three to warm up */
        must(h, h->exec->record(h->lane, m->begin), NULL, "timing");
        if (with_graph)
            must(h, slk_driver_graph_launch(&m->driver, &graph, &err), &err, "timing");
        for (int i = 0; !with_graph && i < calls; i++)
            run(user, i);
        must(h, h->exec->record(h->lane, m->end), NULL, "timing");
        slt_sync(h);
        float one = 0;
        must(h, slk_driver_elapsed(&m->driver, m->begin, m->end, &one), NULL, "timing");
        ms[r < 0 ? 0 : r] = one;
    }
    qsort(ms, (size_t)repeats, sizeof *ms, by_value);
    const double median = repeats % 2 == 1 ? ms[repeats / 2] : 0.5 * ((double)ms[repeats / 2 - 1] + ms[repeats / 2]);
    free(ms);
    slk_driver_graph_destroy(&m->driver, &graph);
    return median * 1000 / calls;
}

/* ---- data ------------------------------------------------------------------------------------------------------ */

void slt_random(float *x, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t z = seed * 0x9e3779b97f4a7c15ull + (uint64_t)i; /* splitmix64's mixer over a counter */
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull + 0x94d049bb133111ebull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        x[i] = (float)((int32_t)(z >> 40) - (1 << 23)) * (1.0f / 8388608.0f);
    }
}

uint16_t slt_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float slt_float(uint16_t bf16) {
    const uint32_t u = (uint32_t)bf16 << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
