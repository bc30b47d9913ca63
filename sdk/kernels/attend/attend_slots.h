/* From rank to slot to address: shared by all variants of attention. */
#ifndef SLUICE_KERNELS_ATTEND_SLOTS_H
#define SLUICE_KERNELS_ATTEND_SLOTS_H

#include "attend.h"
#include "half.h"

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

static inline int attend_elem_bytes(uint32_t dtype) { return dtype == SL_F32 ? 4 : dtype == SL_U8 ? 1 : 2; }

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

/* ---- pieces and codes ---- */

/* The piece that holds a slot; the one that held the last slot is tried first. */
static inline const slk_piece *attend_piece(const slk_attend *p, int64_t slot, const slk_piece *last) {
    if (last != NULL && slot >= last->begin && slot < last->end)
        return last;
    int64_t lo = 0, hi = p->n_pieces - 1;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (slot < p->pieces[mid].end)
            hi = mid;
        else
            lo = mid + 1;
    }
    return &p->pieces[lo];
}

/* One row of codes, or of plain elements. */
typedef struct attend_row {
    const void *at;           /* the row itself */
    const slk_quant *quant;   /* NULL: plain */
    const char *scale, *zero; /* scales that the row uses; zero NULL: none are stored */
    uint32_t dtype;
} attend_row;

static inline attend_row attend_row_of(const slk_paged *s, int64_t page_rows, int64_t slot) {
    const int64_t page = slot / page_rows, r = slot % page_rows, size = attend_elem_bytes(s->dtype);
    attend_row row = {(const char *)s->pages[page] + (s->offset + r * s->ld) * size, s->quant, NULL, NULL, s->dtype};
    if (s->quant != NULL) {
        const int64_t at = (s->quant->per_channel ? r / s->quant->group : r) * s->quant->scale_ld;
        row.scale = (const char *)s->quant->scale_pages[page] + at;
        row.zero = s->quant->zero_pages != NULL ? (const char *)s->quant->zero_pages[page] + at : NULL;
    }
    return row;
}

static inline float attend_number(const char *p, uint32_t dtype, int64_t i) {
    if (dtype == SL_F32)
        return ((const float *)(const void *)p)[i];
    const uint16_t bits = ((const uint16_t *)(const void *)p)[i];
    return dtype == SL_F16 ? slk_f32_of_f16(bits) : slk_f32_of_bf16(bits);
}

/* Value of channel d: the definition. */
static inline float attend_value(const attend_row *row, int64_t d) {
    const slk_quant *q = row->quant;
    const int64_t bit = d * q->bits, i = q->per_channel ? q->first + d : (q->first + d) / q->group;
    const float code = (float)(((const uint8_t *)row->at)[bit / 8] >> bit % 8 & ((1u << q->bits) - 1));
    const float scale = attend_number(row->scale, q->scale_dtype, i);
    const float zero = row->zero != NULL ? attend_number(row->zero, q->scale_dtype, i) : (float)(1u << (q->bits - 1));
    if (q->zero_is_min) {
        const float product = scale * code; /* exact for scales of 16 bits */
        return product + zero;
    }
    return scale * (code - zero);
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
