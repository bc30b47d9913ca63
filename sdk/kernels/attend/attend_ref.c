/* Attention in plain C: two passes over the keys of each part, then the parts are joined. */
#include "attend_scratch.h"
#include "attend_slots.h"
#include "half.h"
#include "kernels_fill.h"

#include <math.h>

enum { SEG = SLK_ATTEND_SEGMENT };

static float elem(const void *row, uint32_t dtype, int64_t i) {
    if (dtype == SL_F32)
        return ((const float *)row)[i];
    const uint16_t bits = ((const uint16_t *)row)[i];
    return dtype == SL_F16 ? slk_f32_of_f16(bits) : slk_f32_of_bf16(bits);
}

/* The row of a slot as floats, in `out` unless they stand in the store. */
static void fetch_row(const slk_attend *p, int is_v, int64_t slot, float *out) {
    const slk_piece *piece = attend_piece(p, slot, NULL);
    const attend_row row = attend_row_of(is_v ? &piece->v : &piece->k, piece->page_rows, slot - piece->begin);
    for (int64_t d = 0; d < (is_v ? p->d_v : p->d_k); d++)
        out[d] = row.quant != NULL ? attend_value(&row, d) : elem(row.at, row.dtype, d);
}

/* One part: part[0] largest score, part[1] sum of exponentials, part[2..] weighted sum of values. */
static void compute_part(const slk_attend *p, const slk_visible *v, const float *q, int64_t first, int64_t n,
                         float *scores, float *part, float *one) {
    int32_t slots[SEG];
    const void *rows[SEG];
    const int in_pieces = p->n_pieces > 0;
    const uint32_t k_dtype = in_pieces ? SL_F32 : p->k.dtype, v_dtype = in_pieces ? SL_F32 : p->v.dtype;
    float score[SEG], max = -INFINITY, *o = part + 2;
    attend_slots(v, first, n, slots);
    if (!in_pieces)
        attend_addresses(&p->k, p->page_rows, slots, n, rows);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        if (in_pieces)
            fetch_row(p, 0, slots[i], one), rows[i] = one;
        for (int64_t d = 0; d < p->d_k; d++)
            sum += (double)q[d] * elem(rows[i], k_dtype, d);
        score[i] = (float)sum * p->scale;
        max = score[i] > max ? score[i] : max;
        if (scores)
            scores[first + i] = score[i];
    }
    if (!in_pieces)
        attend_addresses(&p->v, p->page_rows, slots, n, rows);
    double sum = 0;
    for (int64_t d = 0; d < p->d_v; d++)
        o[d] = 0;
    for (int64_t i = 0; i < n && max > -INFINITY; i++) {
        const float e = expf(score[i] - max);
        sum += e;
        if (in_pieces)
            fetch_row(p, 1, slots[i], one), rows[i] = one;
        for (int64_t d = 0; d < p->d_v; d++)
            o[d] += e * elem(rows[i], v_dtype, d);
    }
    part[0] = max, part[1] = (float)sum;
}

/* The running result (max, sum, o) takes in a part. */
static void join_part(float *max, float *sum, float *o, const float *part, int64_t d_v) {
    if (part[0] == -INFINITY)
        return;
    const float top = *max > part[0] ? *max : part[0], a = expf(*max - top), b = expf(part[0] - top);
    *max = top, *sum = *sum * a + part[1] * b;
    for (int64_t d = 0; d < d_v; d++)
        o[d] = o[d] * a + part[2 + d] * b;
}

static float join_end(float max, float sum, float *o, int64_t d_v) {
    for (int64_t d = 0; d < d_v && max > -INFINITY; d++)
        o[d] = o[d] / sum;
    return max > -INFINITY ? max + logf(sum) : -INFINITY;
}

static void attend_join_ref(const float *parts, int64_t n, int64_t d_v, float *o, float *lse) {
    float max = -INFINITY, sum = 0;
    for (int64_t d = 0; d < d_v; d++)
        o[d] = 0;
    for (int64_t i = 0; i < n; i++)
        join_part(&max, &sum, o, parts + i * (2 + d_v), d_v);
    const float l = join_end(max, sum, o, d_v);
    if (lse)
        *lse = l;
}

static void add_probs(const slk_attend *p, const slk_visible *v, const float *scores, float lse) {
    float probs[SLK_ATTEND_BLOCK];
    for (int64_t n, first = 0; (n = attend_count(slk_visible_count(v), first, SLK_ATTEND_BLOCK)) > 0; first += n) {
        for (int64_t i = 0; i < n; i++)
            probs[i] = expf(scores[first + i] - lse);
        attend_add_probs(p->prob_sum, v, first, n, probs);
    }
}

static void attend_ref(const slk_attend *p) {
    float *one = (float *)p->scratch + attend_pad(2 + p->d_v); /* a row that is not read in place */
    for (int64_t r = 0; r < p->n_rows; r++)
        for (int64_t g = 0; g < p->group; g++) {
            const slk_visible *v = &p->rows[r];
            const int64_t n_keys = slk_visible_count(v);
            const float *q = p->q + r * p->q_row + g * p->q_head;
            float *scores = p->scores ? p->scores + r * p->scores_row + g * p->scores_head : NULL;
            if (p->parts) {
                float *part = p->parts + (r * p->group + g) * p->n_parts * (2 + p->d_v);
                for (int64_t i = p->first_part; i < p->first_part + p->n_parts; i++, part += 2 + p->d_v)
                    compute_part(p, v, q, i * SEG, attend_count(n_keys, i * SEG, SEG), scores, part, one);
                continue;
            }
            float max = -INFINITY, sum = 0, *part = p->scratch, *o = p->o + r * p->o_row + g * p->o_head;
            for (int64_t d = 0; d < p->d_v; d++)
                o[d] = 0;
            for (int64_t i = 0; i < slk_attend_parts(n_keys); i++) {
                compute_part(p, v, q, i * SEG, attend_count(n_keys, i * SEG, SEG), scores, part, one);
                join_part(&max, &sum, o, part, p->d_v);
            }
            const float lse = join_end(max, sum, o, p->d_v);
            if (p->lse)
                p->lse[r * p->lse_row + g] = lse;
            if (p->prob_sum && lse > -INFINITY)
                add_probs(p, v, scores, lse);
        }
}

static void lse_merge_ref(float *o_a, float *lse_a, const float *o_b, const float *lse_b, int64_t n, int64_t d) {
    for (int64_t r = 0; r < n; r++) {
        const float top = lse_a[r] > lse_b[r] ? lse_a[r] : lse_b[r];
        if (top == -INFINITY)
            continue; /* both empty: zeros stay */
        const float a = expf(lse_a[r] - top), b = expf(lse_b[r] - top), inv = 1.0f / (a + b);
        for (int64_t i = 0; i < d; i++)
            o_a[r * d + i] = o_a[r * d + i] * (a * inv) + o_b[r * d + i] * (b * inv);
        lse_a[r] = top + logf(a + b);
    }
}

void slk_attend_fill_ref(slk_kernels *k) {
    SLK_SET(k, attend, attend_ref);
    SLK_SET(k, attend_join, attend_join_ref);
    SLK_SET(k, lse_merge, lse_merge_ref);
}
