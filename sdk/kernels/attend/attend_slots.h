/* From rank to slot to address: shared by all variants of attention. */
#ifndef SLUICE_KERNELS_ATTEND_SLOTS_H
#define SLUICE_KERNELS_ATTEND_SLOTS_H

#include "attend.h"

/* slots[0..n) of ranks [first, first + n) of a row; all ranks exist. */
static inline void attend_slots(const slk_visible *v, int64_t first, int64_t n, int32_t *slots) {
    int64_t done = 0;
    for (int i = 0; i < 2 && done < n; i++) {
        const int64_t len = v->hi[i] > v->lo[i] ? (int64_t)v->hi[i] - v->lo[i] : 0;
        for (; first < len && done < n; first++)
            slots[done++] = (int32_t)(v->lo[i] + first);
        first -= len; /* >= 0 here, or everything is done */
    }
    for (; done < n; first++)
        slots[done++] = v->slots[first];
}

static inline int attend_elem_bytes(uint32_t dtype) { return dtype == SL_F32 ? 4 : 2; }

/* Addresses of the rows of n slots; consecutive slots of a page are stepped, not divided. */
static inline void attend_addresses(const slk_paged *s, int64_t page_rows, const int32_t *slots, int64_t n,
                                    const void **rows) {
    const int64_t step = s->ld * attend_elem_bytes(s->dtype), base = s->offset * attend_elem_bytes(s->dtype);
    for (int64_t i = 0; i < n;) {
        const int64_t page = slots[i] / page_rows, at = slots[i] % page_rows;
        const char *row = (const char *)s->pages[page] + base + at * step;
        int64_t run = 1;
        while (i + run < n && at + run < page_rows && slots[i + run] == slots[i] + run)
            run++;
        for (; run > 0; run--, row += step)
            rows[i++] = row;
    }
}

/* Adds the probabilities of ranks [first, first + n), n <= SLK_ATTEND_BLOCK, to the sums of their slots. */
static inline void attend_add_probs(float *prob_sum, const slk_visible *v, int64_t first, int64_t n,
                                    const float *probs) {
    int32_t slots[SLK_ATTEND_BLOCK];
    attend_slots(v, first, n, slots);
    for (int64_t i = 0; i < n; i++)
        prob_sum[slots[i]] += probs[i];
}

/* How many of a row's keys stand in [first, first + size). */
static inline int64_t attend_count(int64_t n_keys, int64_t first, int64_t size) {
    return n_keys <= first ? 0 : n_keys - first < size ? n_keys - first : size;
}

#endif
