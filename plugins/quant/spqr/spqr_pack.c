/* `spqr_pack` 1 in memory: where its parts lie, and what a row of them stands for. */
#include "spqr.h"

#include <math.h>

#include "sl_bits.h"
#include "sl_error.h"
#include "sl_half.h"

void spqr_shape(spqr_matrix *m, int64_t n, int64_t k, const spqr_settings *s) {
    *m = (spqr_matrix){.n = n,
                       .k = k,
                       .group = s->group,
                       .tile = s->tile,
                       .groups = (k + s->group - 1) / s->group,
                       .tiles = (n + s->tile - 1) / s->tile,
                       .bits = s->bits,
                       .scale_bits = s->scale_bits,
                       .zero_bits = s->zero_bits};
}

void spqr_part_bytes(const spqr_matrix *m, int64_t bytes[SPQR_PARTS]) {
    int two = m->scale_bits < 16;
    bytes[SPQR_CODES] = m->n * m->groups * (m->group * m->bits / 8);
    bytes[SPQR_STAT] = m->n * m->groups * (two ? 1 : 4);
    bytes[SPQR_SECOND] = two ? m->tiles * m->groups * 8 : 0;
    bytes[SPQR_ROWPTR] = (m->n + 1) * 4;
    bytes[SPQR_COL] = m->nnz * (m->k > 65536 ? 4 : 2);
    bytes[SPQR_VAL] = m->nnz * 2;
    bytes[SPQR_ORDER] = m->k * 4;
}

int64_t spqr_place(spqr_matrix *m, void *block, int has_order) {
    int64_t bytes[SPQR_PARTS], at[SPQR_PARTS], end = 0;
    spqr_part_bytes(m, bytes);
    bytes[SPQR_ORDER] = has_order ? bytes[SPQR_ORDER] : 0;
    for (int i = 0; i < SPQR_PARTS; i++) {
        at[i] = end;
        end += (bytes[i] + 3) / 4 * 4;
    }
    const char *p = block;
    if (p != NULL) {
        m->codes = (const uint8_t *)p + at[SPQR_CODES];
        m->stat = (const uint8_t *)p + at[SPQR_STAT];
        m->second = bytes[SPQR_SECOND] > 0 ? (const void *)(p + at[SPQR_SECOND]) : NULL;
        m->rowptr = (const void *)(p + at[SPQR_ROWPTR]);
        m->col = p + at[SPQR_COL];
        m->val = (const void *)(p + at[SPQR_VAL]);
        if (has_order)
            m->order = (const void *)(p + at[SPQR_ORDER]);
    }
    return end;
}

void spqr_free(const sl_pack_env *env, spqr_matrix *m) {
    sl_pack_release(env, m->owned);
    *m = (spqr_matrix){0};
}

void spqr_statistics(const spqr_matrix *m, int64_t row, int64_t g, float *scale, float *zero) {
    int64_t at = row * m->groups + g;
    if (m->second == NULL) {
        const uint8_t *p = m->stat + 4 * at;
        *scale = sl_f32_of_f16((uint16_t)(p[0] | p[1] << 8));
        *zero = sl_f32_of_f16((uint16_t)(p[2] | p[3] << 8));
        return;
    }
    const uint16_t *second = m->second + 4 * (row / m->tile * m->groups + g);
    float cs = (float)(m->stat[at] & 15), cz = (float)(m->stat[at] >> 4);
    *scale = sl_f32_of_f16(second[0]) * (cs - sl_f32_of_f16(second[1]));
    *zero = sl_f32_of_f16(second[2]) * (cz - sl_f32_of_f16(second[3]));
}

void spqr_decode_base(const spqr_matrix *m, int64_t row, float *w) {
    int64_t bytes = m->group * m->bits / 8;
    const uint8_t *codes = m->codes + row * m->groups * bytes;
    for (int64_t g = 0; g < m->groups; g++, codes += bytes) {
        float scale, zero;
        spqr_statistics(m, row, g, &scale, &zero);
        for (int64_t i = 0; i < m->group && g * m->group + i < m->k; i++)
            w[g * m->group + i] = scale * ((float)sl_bits_get(codes, i, m->bits) - zero);
    }
}

void spqr_decode_row(const void *matrix, int64_t row, float *w) {
    const spqr_matrix *m = matrix;
    spqr_decode_base(m, row, w);
    for (int64_t i = m->rowptr[row]; i < m->rowptr[row + 1]; i++)
        w[spqr_column(m, i)] += sl_f32_of_f16(m->val[i]);
}

sl_status spqr_check(const spqr_matrix *m, const char *name, sl_error *err) {
    if (m->rowptr[0] != 0 || m->rowptr[m->n] != (uint64_t)m->nnz)
        return sl_fail(err, SL_E_DATA, "%s: rowptr does not span its %lld outliers", name, (long long)m->nnz);
    for (int64_t r = 0; r < m->n; r++) {
        if (m->rowptr[r] > m->rowptr[r + 1])
            return sl_fail(err, SL_E_DATA, "%s: rowptr falls at row %lld", name, (long long)r);
        for (int64_t i = m->rowptr[r], last = -1; i < m->rowptr[r + 1] && i < m->nnz; i++) {
            int64_t col = spqr_column(m, i);
            if (col <= last || col >= m->k)
                return sl_fail(err, SL_E_DATA, "%s: column %lld of row %lld is out of range or order", name,
                               (long long)col, (long long)r);
            last = col;
        }
    }
    for (int64_t i = 0; m->order != NULL && i < m->k; i++)
        if (m->order[i] >= m->k)
            return sl_fail(err, SL_E_DATA, "%s: input %u of its order is outside of %lld", name, m->order[i],
                           (long long)m->k);
    return SL_OK;
}
