/* See ledger.h. A header of 64 bytes in front of each block holds its size and tag. */
#include "ledger.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 64 };

typedef struct header {
    size_t bytes;
    sli_tag tag;
} header;
_Static_assert(sizeof(header) <= HEADER_BYTES, "header fits its place");

typedef struct counters {
    _Atomic int64_t now[SLI_TAG_COUNT], peak[SLI_TAG_COUNT], total, total_peak;
} counters;

static counters host_, places_[SLI_LEDGER_PLACES];
static _Atomic uint64_t allocations_;
static _Atomic int64_t fail_after_ = -1;

static void raise_peak(_Atomic int64_t *peak, int64_t value) {
    int64_t seen = atomic_load(peak);
    while (value > seen && !atomic_compare_exchange_weak(peak, &seen, value)) {}
}

static void note(counters *c, sli_tag tag, int64_t bytes) {
    raise_peak(&c->peak[tag], atomic_fetch_add(&c->now[tag], bytes) + bytes);
    raise_peak(&c->total_peak, atomic_fetch_add(&c->total, bytes) + bytes);
}

void sli_ledger_note(sli_tag tag, int64_t bytes) { note(&host_, tag, bytes); }
void sli_ledger_note_device(sli_ledger_place place, sli_tag tag, int64_t bytes) { note(&places_[place], tag, bytes); }

static int told_to_fail(void) {
    int64_t left = atomic_load(&fail_after_);
    if (left < 0)
        return 0;
    if (left == 0)
        return 1;
    atomic_fetch_sub(&fail_after_, 1);
    return 0;
}

void *sli_alloc(sli_tag tag, size_t bytes) {
    if (bytes > SIZE_MAX - 2 * HEADER_BYTES || told_to_fail())
        return NULL;
    size_t whole = HEADER_BYTES + (bytes + HEADER_BYTES - 1) / HEADER_BYTES * HEADER_BYTES;
    unsigned char *block = aligned_alloc(HEADER_BYTES, whole);
    if (block == NULL)
        return NULL;
    memset(block, 0, whole);
    header h = {bytes, tag};
    memcpy(block, &h, sizeof h);
    sli_ledger_note(tag, (int64_t)bytes);
    atomic_fetch_add(&allocations_, 1);
    return block + HEADER_BYTES;
}

static header header_of(const void *p) {
    header h;
    memcpy(&h, (const unsigned char *)p - HEADER_BYTES, sizeof h);
    return h;
}

void *sli_realloc(sli_tag tag, void *p, size_t bytes) {
    void *q = sli_alloc(tag, bytes);
    if (q == NULL || p == NULL)
        return q;
    size_t old = header_of(p).bytes;
    memcpy(q, p, old < bytes ? old : bytes);
    sli_free(p);
    return q;
}

void *sli_calloc(sli_tag tag, size_t n, size_t size) {
    if (size != 0 && n > SIZE_MAX / size)
        return NULL;
    return sli_alloc(tag, n * size);
}

char *sli_strdup(sli_tag tag, const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = sli_alloc(tag, n);
    if (copy != NULL)
        memcpy(copy, s, n);
    return copy;
}

void sli_free(void *p) {
    if (p == NULL)
        return;
    header h = header_of(p);
    sli_ledger_note(h.tag, -(int64_t)h.bytes);
    free((unsigned char *)p - HEADER_BYTES);
}

void sli_ledger_read(sli_ledger_report *out) {
    for (int t = 0; t < SLI_TAG_COUNT; t++) {
        out->now[t] = atomic_load(&host_.now[t]);
        out->peak[t] = atomic_load(&host_.peak[t]);
    }
    out->total = atomic_load(&host_.total);
    out->total_peak = atomic_load(&host_.total_peak);
    out->allocations = atomic_load(&allocations_);
}

void sli_ledger_read_device(sli_ledger_place place, sli_ledger_device_report *out) {
    counters *c = &places_[place];
    for (int t = 0; t < SLI_TAG_COUNT; t++) {
        out->now[t] = atomic_load(&c->now[t]);
        out->peak[t] = atomic_load(&c->peak[t]);
    }
    out->total = atomic_load(&c->total);
    out->total_peak = atomic_load(&c->total_peak);
}

static void restart_peaks(counters *c) {
    for (int t = 0; t < SLI_TAG_COUNT; t++)
        atomic_store(&c->peak[t], atomic_load(&c->now[t]));
    atomic_store(&c->total_peak, atomic_load(&c->total));
}

void sli_ledger_restart_peaks(void) {
    restart_peaks(&host_);
    for (int place = 0; place < SLI_LEDGER_PLACES; place++)
        restart_peaks(&places_[place]);
}

void sli_ledger_fail_after(int64_t n) { atomic_store(&fail_after_, n); }
