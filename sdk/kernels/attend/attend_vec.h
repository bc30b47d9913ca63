/* Attention over vectors.
 *
 * Query rows go in tiles of about 64 (row, head) pairs. Rows whose block of 32 ranks names the same slots meet it
 * together: with more than four queries the block's keys and values are first widened to f32 in scratch, else they are
 * read in place; quantised rows are widened always. What a query gets never depends on its company:
 *
 *     score    one chain of FMA over d in VL lanes, then v_sums; any tile shape sums alike
 *     output   element d is one chain over ranks: decay * o, then fma(p[rank], v[rank][d], o)
 */
#include "attend_scratch.h"
#include "attend_slots.h"

enum { BLOCK = SLK_ATTEND_BLOCK, SEGMENT = SLK_ATTEND_SEGMENT, BLOCK_VECS = BLOCK / VL };

static int kind_of(uint32_t dtype) { return dtype == SL_F32 ? KIND_F32 : dtype == SL_F16 ? KIND_F16 : KIND_BF16; }

/* ---- scores ---------------------------------------------------------------------------------------------------- */

/* Lane i * nr + j: q[i] . k[j]. */
V_INLINE vf dots(int kind, int mr, int nr, const float *const *q, const void *const *k, int64_t n) {
    vf acc[VL], in[VL];
    V_UNROLL
    for (int i = 0; i < VL; i++)
        acc[i] = v_zero();
    int64_t d = 0;
    for (; d + VL <= n; d += VL) {
        vf qv[4];
        V_UNROLL
        for (int i = 0; i < mr; i++)
            qv[i] = v_load(q[i] + d);
        V_UNROLL
        for (int j = 0; j < nr; j++) {
            const vf kv = v_load_kind(kind, k[j], d);
            V_UNROLL
            for (int i = 0; i < mr; i++)
                acc[i * nr + j] = v_fma(qv[i], kv, acc[i * nr + j]);
        }
    }
    if (d < n) {
        V_UNROLL
        for (int j = 0; j < nr; j++) {
            const vf kv = v_load_kind_n(kind, k[j], d, n - d);
            V_UNROLL
            for (int i = 0; i < mr; i++)
                acc[i * nr + j] = v_fma(v_load_n(q[i] + d, n - d), kv, acc[i * nr + j]);
        }
    }
    V_UNROLL
    for (int lane = 0; lane < VL; lane++)
        in[V_SUMS_INDEX(lane)] = acc[lane];
    return v_sums(in);
}

/* Unscaled scores of mr queries and `count` keys; k has BLOCK entries, filled up with valid addresses. */
V_INLINE void score_rows(int kind, int mr, const float *const *q, const void *const *k, int64_t count, int64_t d_k,
                         float *out) {
    const int nr = mr == 1 ? VL : mr == 2 ? VL / 2 : VL / 4;
    for (int64_t j = 0; j < count; j += nr) {
        float sum[VL];
        v_store(sum, dots(kind, mr, nr, q, k + j, d_k));
        V_UNROLL
        for (int i = 0; i < mr; i++)
            memcpy(out + i * BLOCK + j, sum + i * nr, (size_t)nr * sizeof *out);
    }
}

V_INLINE void score_kind(int kind, const slk_attend *p, const float *const *q, int64_t n_q, const void *const *k,
                         int64_t count, float *out) {
    for (; n_q > 0; n_q -= 4, q += 4, out += 4 * BLOCK)
        switch (n_q) {
        case 1: score_rows(kind, 1, q, k, count, p->d_k, out); break;
        case 2: score_rows(kind, 2, q, k, count, p->d_k, out); break;
        case 3: score_rows(kind, 3, q, k, count, p->d_k, out); break;
        default: score_rows(kind, 4, q, k, count, p->d_k, out); break;
        }
}

static void score(int kind, const slk_attend *p, const float *const *q, int64_t n_q, const void *const *k,
                  int64_t count, float *out) {
    switch (kind) {
    case KIND_F32: score_kind(KIND_F32, p, q, n_q, k, count, out); break;
    case KIND_F16: score_kind(KIND_F16, p, q, n_q, k, count, out); break;
    default: score_kind(KIND_BF16, p, q, n_q, k, count, out); break;
    }
}

/* ---- weighted sums of values ----------------------------------------------------------------------------------- */

/* o[i][d .. d + nv * VL) += sum of p[i][j] v[j] for j in [j0, j1); valid: elements of the last vector that exist in v.
 */
V_INLINE void values_tile(int kind, int mr, int nv, float *o, int64_t ld_o, const float *p, const void *const *v,
                          int64_t j0, int64_t j1, int64_t d, int64_t valid) {
    vf acc[4 * 4 > VL ? 4 * 4 : VL];
    V_UNROLL
    for (int i = 0; i < mr; i++) {
        V_UNROLL
        for (int c = 0; c < nv; c++)
            acc[i * nv + c] = v_load(o + i * ld_o + d + c * VL);
    }
    for (int64_t j = j0; j < j1; j++) {
        vf vv[8];
        V_UNROLL
        for (int c = 0; c < nv; c++)
            vv[c] = c == nv - 1 && valid < VL ? v_load_kind_n(kind, v[j], d + c * VL, valid)
                                              : v_load_kind(kind, v[j], d + c * VL);
        V_UNROLL
        for (int i = 0; i < mr; i++) {
            const vf w = v_set1(p[i * BLOCK + j]);
            V_UNROLL
            for (int c = 0; c < nv; c++)
                acc[i * nv + c] = v_fma(w, vv[c], acc[i * nv + c]);
        }
    }
    V_UNROLL
    for (int i = 0; i < mr; i++) {
        V_UNROLL
        for (int c = 0; c < nv; c++)
            v_store(o + i * ld_o + d + c * VL, acc[i * nv + c]);
    }
}

/* All of d_v for mr queries. */
V_INLINE void values_rows(int kind, int mr, float *o, int64_t ld_o, const float *p, const void *const *v, int64_t j0,
                          int64_t j1, int64_t d_v) {
    const int nv = mr == 1 ? 8 : VL / 4;
    int64_t d = 0;
    for (; d + nv * VL <= d_v; d += nv * VL)
        values_tile(kind, mr, nv, o, ld_o, p, v, j0, j1, d, VL);
    for (; d + VL <= d_v; d += VL)
        values_tile(kind, mr, 1, o, ld_o, p, v, j0, j1, d, VL);
    if (d < d_v)
        values_tile(kind, mr, 1, o, ld_o, p, v, j0, j1, d, d_v - d);
}

/* counts[i]: keys of query i. Queries of a tile go together as far as all of them have keys, then one by one. */
V_INLINE void values_kind(int kind, const slk_attend *p, float *o, int64_t ld_o, const float *w, int64_t n_q,
                          const void *const *v, const int32_t *counts) {
    for (int64_t q = 0; q < n_q; q += 4) {
        const int64_t mr = n_q - q < 4 ? n_q - q : 4;
        float *oq = o + q * ld_o;
        const float *wq = w + q * BLOCK;
        int64_t common = counts[q];
        for (int64_t i = 1; i < mr; i++)
            common = counts[q + i] < common ? counts[q + i] : common;
        switch (mr) {
        case 1: values_rows(kind, 1, oq, ld_o, wq, v, 0, common, p->d_v); break;
        case 2: values_rows(kind, 2, oq, ld_o, wq, v, 0, common, p->d_v); break;
        case 3: values_rows(kind, 3, oq, ld_o, wq, v, 0, common, p->d_v); break;
        default: values_rows(kind, 4, oq, ld_o, wq, v, 0, common, p->d_v); break;
        }
        for (int64_t i = 0; i < mr; i++)
            if (counts[q + i] > common)
                values_rows(kind, 1, oq + i * ld_o, ld_o, wq + i * BLOCK, v, common, counts[q + i], p->d_v);
    }
}

static void values(int kind, const slk_attend *p, float *o, int64_t ld_o, const float *w, int64_t n_q,
                   const void *const *v, const int32_t *counts) {
    switch (kind) {
    case KIND_F32: values_kind(KIND_F32, p, o, ld_o, w, n_q, v, counts); break;
    case KIND_F16: values_kind(KIND_F16, p, o, ld_o, w, n_q, v, counts); break;
    default: values_kind(KIND_BF16, p, o, ld_o, w, n_q, v, counts); break;
    }
}

/* ---- one block ------------------------------------------------------------------------------------------------- */

/* Rows of a block -> f32, padded with zeros to ld; `rows` then names the copies. */
static void widen_block(int kind, const void **rows, int64_t count, int64_t n, float *out, int64_t ld) {
    for (int64_t j = 0; j < count; j++, out += ld) {
        int64_t d = 0;
        for (; d + VL <= n; d += VL)
            v_store(out + d, kind == KIND_F32   ? v_load_kind(KIND_F32, rows[j], d)
                             : kind == KIND_F16 ? v_load_kind(KIND_F16, rows[j], d)
                                                : v_load_kind(KIND_BF16, rows[j], d));
        if (d < n)
            v_store(out + d, kind == KIND_F32   ? v_load_kind_n(KIND_F32, rows[j], d, n - d)
                             : kind == KIND_F16 ? v_load_kind_n(KIND_F16, rows[j], d, n - d)
                                                : v_load_kind_n(KIND_BF16, rows[j], d, n - d));
        rows[j] = out;
    }
}

/* A row of codes -> f32, padded with zeros to whole vectors. Vectors of codes whose scales a plain load or one number
 * gives go fast, the rest channel by channel. */
V_INLINE void values_of_codes(int bits, int kind, const attend_row *row, int64_t n, float *out) {
    const slk_quant *q = row->quant;
    const uint8_t *codes = row->at;
    const vf middle = v_set1((float)(1u << (bits - 1)));
    int64_t d = 0;
    for (; d + VL <= n; d += VL) {
        vf scale, zero = middle;
        if (q->per_channel) {
            scale = v_load_kind(kind, row->scale, q->first + d);
            if (row->zero != NULL)
                zero = v_load_kind(kind, row->zero, q->first + d);
        } else if (q->group % VL == 0 && q->first % VL == 0) {
            const int64_t i = (q->first + d) / q->group;
            scale = v_set1(attend_number(row->scale, q->scale_dtype, i));
            if (row->zero != NULL)
                zero = v_set1(attend_number(row->zero, q->scale_dtype, i));
        } else
            break;
        const vf code = v_codes(bits, codes + d * bits / 8);
        v_store(out + d, q->zero_is_min ? v_add(v_mul(scale, code), zero) : v_mul(scale, v_sub(code, zero)));
    }
    for (; d < n; d++)
        out[d] = attend_value(row, d);
    for (; d % VL != 0; d++)
        out[d] = 0;
}

V_INLINE void values_of_bits(int bits, const attend_row *row, int64_t n, float *out) {
    switch (row->quant->scale_dtype) {
    case SL_F32: values_of_codes(bits, KIND_F32, row, n, out); break;
    case SL_F16: values_of_codes(bits, KIND_F16, row, n, out); break;
    default: values_of_codes(bits, KIND_BF16, row, n, out); break;
    }
}

static void values_of_row(const attend_row *row, int64_t n, float *out) {
    switch (row->quant->bits) {
    case 2: values_of_bits(2, row, n, out); break;
    case 4: values_of_bits(4, row, n, out); break;
    case 8: values_of_bits(8, row, n, out); break;
    default:
        for (int64_t d = 0; d < (n + VL - 1) / VL * VL; d++)
            out[d] = d < n ? attend_value(row, d) : 0;
    }
}

/* Addresses of the keys or values of a block of slots in a store of pieces, and their kind. Plain rows of one piece
 * stay where they are, unless all are wanted as f32 or forms meet in the block: then they go to `out` [count, ld]. */
static int fetch_block(const slk_attend *p, int is_v, const int32_t *slots, int64_t count, int widen, float *out,
                       int64_t ld, const void **rows) {
    const slk_piece *piece = attend_piece(p, slots[0], NULL);
    const slk_paged *side = is_v ? &piece->v : &piece->k;
    const int64_t n = is_v ? p->d_v : p->d_k;
    int32_t own[BLOCK];
    int64_t same = 0;
    for (; side->quant == NULL && same < count && slots[same] >= piece->begin && slots[same] < piece->end; same++)
        own[same] = (int32_t)(slots[same] - piece->begin);
    if (same == count) {
        attend_addresses(side, piece->page_rows, own, count, rows);
        if (!widen)
            return kind_of(side->dtype);
        widen_block(kind_of(side->dtype), rows, count, n, out, ld);
        return KIND_F32;
    }
    for (int64_t i = 0; i < count; i++, out += ld) {
        piece = attend_piece(p, slots[i], piece);
        const attend_row row = attend_row_of(is_v ? &piece->v : &piece->k, piece->page_rows, slots[i] - piece->begin);
        rows[i] = row.at;
        if (row.quant != NULL)
            values_of_row(&row, n, out), rows[i] = out;
        else
            widen_block(kind_of(row.dtype), &rows[i], 1, n, out, ld);
    }
    return KIND_F32;
}

/* Scores -> exponentials against the new largest score; o and sum of what came before decay. keep[i]: where the scaled
 * scores of query i go, or NULL. */
static void soften(const slk_attend *p, const attend_scratch *s, int64_t q0, int64_t n_q, const int32_t *counts,
                   float *const *keep) {
    float *max = s->max + q0, *sum = s->sum + q0, *base = s->base + q0, *decay = s->decay + q0;
    float largest[ATTEND_TILE];
    for (int64_t i = 0; i < n_q; i++) {
        float *w = s->p + i * BLOCK;
        vf top = v_set1(max[i]);
        for (int c = 0; c < BLOCK_VECS; c++) {
            const int64_t left = counts[i] - c * VL, n = left < 0 ? 0 : left < VL ? left : VL;
            const vf a = v_fill_from(v_mul(v_load(w + c * VL), v_set1(p->scale)), n, -INFINITY);
            v_store(w + c * VL, a);
            if (keep[i])
                v_store_n(keep[i] + c * VL, a, n);
            top = v_max(a, top);
        }
        largest[i] = v_largest(top);
        base[i] = largest[i] > -INFINITY ? largest[i] : 0; /* nothing but -inf so far: exp(-inf - 0), not NaN */
    }
    for (int64_t i = 0; i < n_q; i += VL) {
        const int64_t n = n_q - i < VL ? n_q - i : VL;
        v_store_n(decay + i, v_exp(v_sub(v_load_n(max + i, n), v_load_n(base + i, n))), n);
    }
    for (int64_t i = 0; i < n_q; i++) {
        float *w = s->p + i * BLOCK, *o = s->o + (q0 + i) * s->ld_v;
        vf total = v_zero();
        for (int c = 0; c < BLOCK_VECS; c++) {
            const vf e = v_exp(v_sub(v_load(w + c * VL), v_set1(base[i])));
            v_store(w + c * VL, e);
            total = v_add(total, e);
        }
        max[i] = largest[i];
        sum[i] = sum[i] * decay[i] + v_sum(total);
        for (int64_t d = 0; d < s->ld_v && decay[i] != 1.0f; d += VL)
            v_store(o + d, v_mul(v_load(o + d), v_set1(decay[i])));
    }
}

/* Rows [r0, r1) of the tile that begins at row `tile`; they see prefixes of the same `count` slots, at ranks from
 * `first`. */
static void block_of_rows(const slk_attend *p, const attend_scratch *s, int64_t tile, int64_t r0, int64_t r1,
                          int64_t first, const int32_t *slots, int64_t count, const int32_t *row_counts) {
    const void *k[BLOCK], *v[BLOCK];
    const int64_t n_q = (r1 - r0) * p->group;
    int kind_k, kind_v;
    if (p->n_pieces > 0) {
        kind_k = fetch_block(p, 0, slots, count, n_q > 4, s->k, s->ld_k, k);
        kind_v = fetch_block(p, 1, slots, count, n_q > 4, s->v, s->ld_v, v);
    } else {
        kind_k = kind_of(p->k.dtype), kind_v = kind_of(p->v.dtype);
        attend_addresses(&p->k, p->page_rows, slots, count, k);
        attend_addresses(&p->v, p->page_rows, slots, count, v);
    }
    if (p->n_pieces == 0 && n_q > 4) {
        widen_block(kind_k, k, count, p->d_k, s->k, s->ld_k);
        widen_block(kind_v, v, count, p->d_v, s->v, s->ld_v);
        kind_k = kind_v = KIND_F32;
    }
    for (int64_t j = count; j < BLOCK; j++)
        k[j] = k[count - 1];
    for (int64_t done = 0; done < n_q; done += ATTEND_TILE) { /* more than once only when a group exceeds the tile */
        const int64_t m = n_q - done < ATTEND_TILE ? n_q - done : ATTEND_TILE, q0 = (r0 - tile) * p->group + done;
        const float *q[ATTEND_TILE];
        float *keep[ATTEND_TILE];
        int32_t counts[ATTEND_TILE];
        for (int64_t i = 0; i < m; i++) {
            const int64_t r = r0 + (done + i) / p->group, g = (done + i) % p->group;
            q[i] = p->q + r * p->q_row + g * p->q_head;
            keep[i] = p->scores ? p->scores + r * p->scores_row + g * p->scores_head + first : NULL;
            counts[i] = row_counts[r - tile];
        }
        score(kind_k, p, q, m, k, count, s->p);
        soften(p, s, q0, m, counts, keep);
        values(kind_v, p, s->o + q0 * s->ld_v, s->ld_v, s->p, m, v, counts);
    }
}

/* The block at ranks from `first`: rows in a sequence that name the same slots go together. */
static void block_of_tile(const slk_attend *p, const attend_scratch *s, int64_t tile, int64_t end, int64_t first) {
    int32_t counts[ATTEND_TILE], slots[2][BLOCK];
    for (int64_t r = tile; r < end; r++)
        counts[r - tile] = (int32_t)attend_count(slk_visible_count(&p->rows[r]), first, BLOCK);
    for (int64_t r = tile, next; r < end; r = next) {
        int32_t *longest = slots[0], *other = slots[1];
        int64_t n = counts[r - tile];
        attend_slots(&p->rows[r], first, n, longest);
        for (next = r + 1; next < end; next++) {
            const int64_t m = counts[next - tile], both = m < n ? m : n;
            attend_slots(&p->rows[next], first, m, other);
            if (m == 0 || memcmp(longest, other, (size_t)both * sizeof *other) != 0)
                break;
            if (m > n) {
                int32_t *swap = longest;
                longest = other, other = swap, n = m;
            }
        }
        if (n > 0)
            block_of_rows(p, s, tile, r, next, first, longest, n, counts);
    }
}

/* ---- parts ----------------------------------------------------------------------------------------------------- */

/* The running result (max, sum, o) takes in a part. */
V_INLINE void join_part(float *max, float *sum, float *o, float part_max, float part_sum, const float *part_o,
                        int64_t d_v) {
    if (part_max == -INFINITY)
        return;
    const float top = *max > part_max ? *max : part_max, a = v_exp1(*max - top), b = v_exp1(part_max - top);
    *max = top, *sum = *sum * a + part_sum * b;
    for (int64_t d = 0; d < d_v; d += VL) {
        const int64_t n = d_v - d < VL ? d_v - d : VL;
        const vf old = v_mul(v_load_n(o + d, n), v_set1(a)), add = v_mul(v_load_n(part_o + d, n), v_set1(b));
        v_store_n(o + d, v_add(old, add), n);
    }
}

/* Normalises; returns the lse. */
V_INLINE float join_end(float max, float sum, float *o, int64_t d_v) {
    if (max == -INFINITY)
        return -INFINITY;
    const vf inv = v_set1(1.0f / sum);
    for (int64_t d = 0; d < d_v; d += VL) {
        const int64_t n = d_v - d < VL ? d_v - d : VL;
        v_store_n(o + d, v_mul(v_load_n(o + d, n), inv), n);
    }
    return max + logf(sum);
}

static void V_SUFFIX(attend_join)(const float *parts, int64_t n, int64_t d_v, float *o, float *lse) {
    float max = -INFINITY, sum = 0;
    for (int64_t d = 0; d < d_v; d++)
        o[d] = 0;
    for (int64_t i = 0; i < n; i++, parts += 2 + d_v)
        join_part(&max, &sum, o, parts[0], parts[1], parts + 2, d_v);
    const float l = join_end(max, sum, o, d_v);
    if (lse)
        *lse = l;
}

/* ---- the operation --------------------------------------------------------------------------------------------- */

static void part_of_tile(const slk_attend *p, const attend_scratch *s, int64_t tile, int64_t end, int64_t part,
                         int64_t most) {
    const int64_t n_q = (end - tile) * p->group;
    for (int64_t i = 0; i < n_q; i++)
        s->max[i] = -INFINITY, s->sum[i] = 0;
    memset(s->o, 0, (size_t)(n_q * s->ld_v) * sizeof *s->o);
    for (int64_t first = part * SEGMENT; first < most && first < (part + 1) * SEGMENT; first += BLOCK)
        block_of_tile(p, s, tile, end, first);
}

static void add_probs(const slk_attend *p, const slk_visible *v, const float *scores, float lse) {
    float probs[BLOCK];
    for (int64_t n, first = 0; (n = attend_count(slk_visible_count(v), first, BLOCK)) > 0; first += n) {
        for (int64_t i = 0; i < n; i += VL) {
            const int64_t m = n - i < VL ? n - i : VL;
            v_store(probs + i, v_exp(v_sub(v_load_n(scores + first + i, m), v_set1(lse))));
        }
        attend_add_probs(p->prob_sum, v, first, n, probs);
    }
}

static void tile_to_parts(const slk_attend *p, const attend_scratch *s, int64_t tile, int64_t end, int64_t most) {
    for (int64_t part = 0; part < p->n_parts; part++) {
        part_of_tile(p, s, tile, end, p->first_part + part, most);
        for (int64_t i = 0; i < (end - tile) * p->group; i++) {
            float *out = p->parts + ((tile * p->group + i) * p->n_parts + part) * (2 + p->d_v);
            out[0] = s->max[i], out[1] = s->sum[i];
            memcpy(out + 2, s->o + i * s->ld_v, (size_t)p->d_v * sizeof *out);
        }
    }
}

static void tile_to_output(const slk_attend *p, const attend_scratch *s, int64_t tile, int64_t end, int64_t most) {
    const int64_t n_q = (end - tile) * p->group;
    for (int64_t i = 0; i < n_q; i++) {
        s->all_max[i] = -INFINITY, s->all_sum[i] = 0;
        memset(p->o + (tile + i / p->group) * p->o_row + i % p->group * p->o_head, 0, (size_t)p->d_v * sizeof *p->o);
    }
    for (int64_t part = 0; part * SEGMENT < most; part++) {
        part_of_tile(p, s, tile, end, part, most);
        for (int64_t i = 0; i < n_q; i++)
            join_part(&s->all_max[i], &s->all_sum[i],
                      p->o + (tile + i / p->group) * p->o_row + i % p->group * p->o_head, s->max[i], s->sum[i],
                      s->o + i * s->ld_v, p->d_v);
    }
    for (int64_t i = 0; i < n_q; i++) {
        const int64_t r = tile + i / p->group, g = i % p->group;
        const float lse = join_end(s->all_max[i], s->all_sum[i], p->o + r * p->o_row + g * p->o_head, p->d_v);
        if (p->lse)
            p->lse[r * p->lse_row + g] = lse;
        if (p->prob_sum && lse > -INFINITY)
            add_probs(p, &p->rows[r], p->scores + r * p->scores_row + g * p->scores_head, lse);
    }
}

static void V_SUFFIX(attend)(const slk_attend *p) {
    const attend_scratch s = attend_scratch_split(p->scratch, p->group, p->d_k, p->d_v);
    const int64_t step = attend_tile_rows(p->group);
    for (int64_t tile = 0; tile < p->n_rows; tile += step) {
        const int64_t end = p->n_rows - tile < step ? p->n_rows : tile + step;
        int64_t most = 0;
        for (int64_t r = tile; r < end; r++)
            most = slk_visible_count(&p->rows[r]) > most ? slk_visible_count(&p->rows[r]) : most;
        if (p->parts)
            tile_to_parts(p, &s, tile, end, most);
        else
            tile_to_output(p, &s, tile, end, most);
    }
}

static void V_SUFFIX(lse_merge)(float *o_a, float *lse_a, const float *o_b, const float *lse_b, int64_t n, int64_t d) {
    for (int64_t r = 0; r < n; r++, o_a += d, o_b += d) {
        const float top = lse_a[r] > lse_b[r] ? lse_a[r] : lse_b[r];
        if (top == -INFINITY)
            continue; /* both empty: zeros stay */
        const float a = v_exp1(lse_a[r] - top), b = v_exp1(lse_b[r] - top);
        const vf wa = v_set1(a / (a + b)), wb = v_set1(b / (a + b));
        for (int64_t i = 0; i < d; i += VL) {
            const int64_t m = d - i < VL ? d - i : VL;
            v_store_n(o_a + i, v_add(v_mul(v_load_n(o_a + i, m), wa), v_mul(v_load_n(o_b + i, m), wb)), m);
        }
        lse_a[r] = top + logf(a + b);
    }
}

void V_FILL(attend)(slk_kernels *k) {
    SLK_SET(k, attend, V_SUFFIX(attend));
    SLK_SET(k, attend_join, V_SUFFIX(attend_join));
    SLK_SET(k, lse_merge, V_SUFFIX(lse_merge));
}
