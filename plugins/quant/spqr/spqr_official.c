/* The layout of github Vahe1994/SpQR (3 bits, tiles of 16 x 16): dense_weights (I64, a word for each row of a tile),
 * col_vals (I32), row_offsets (I32: CSR, or PTCSR, told apart by its length), in_perm (pairs of u16 in I32).
 *
 * Its decoder rounds each step to f16. Its packer means outliers to replace weights, its kernels add them to a base
 * that is not quite 0: files are read as the kernels see them (or, official_outliers = replace, as the packer meant
 * them), and ours are written so that adding gives the weight. */
#include "spqr.h"

#include <string.h>

#include "sl_bits.h"
#include "sl_error.h"
#include "sl_half.h"
#include "sl_tensor.h"

enum { SIDE = 16, MAX_COLUMNS = 32768 };

static float rounded(float x) { return sl_f32_of_f16(sl_f16_of_f32(x)); } /* one step of f16 arithmetic */

/* The base of a row as the official decoder computes it. */
static void decode_f16(const spqr_matrix *m, int64_t row, float *w) {
    for (int64_t g = 0; g < m->groups; g++) {
        const uint16_t *second = m->second + 4 * (row / SIDE * m->groups + g);
        uint8_t stat = m->stat[row * m->groups + g];
        float s = rounded(sl_f32_of_f16(second[0]) * rounded((float)(stat & 15) - sl_f32_of_f16(second[1])));
        float z = rounded(sl_f32_of_f16(second[2]) * rounded((float)(stat >> 4) - sl_f32_of_f16(second[3])));
        const uint8_t *codes = m->codes + (row * m->groups + g) * (SIDE * m->bits / 8);
        for (int64_t i = 0; i < SIDE; i++)
            w[g * SIDE + i] = rounded(s * rounded((float)sl_bits_get(codes, i, m->bits) - z));
    }
}

sl_status spqr_official_fits(const spqr_settings *s, const sl_linear *linear, sl_error *err) {
    int64_t n = linear->weight.shape[0], k = linear->weight.shape[1];
    if (s->bits != 3 || s->group != SIDE || s->tile != SIDE || s->scale_bits != 3 || s->zero_bits != 3)
        return sl_fail(err, SL_E_INVALID,
                       "the official layout has wbits, qq_scale_bits and qq_zero_bits of 3 and groups "
                       "of 16, the configuration says others");
    if (n % SIDE != 0 || k % SIDE != 0 || k > MAX_COLUMNS)
        return sl_fail(err, SL_E_INVALID,
                       "%s is [%lld, %lld]: the official layout holds multiples of 16 rows and columns, "
                       "at most %d columns",
                       linear->name, (long long)n, (long long)k, (int)MAX_COLUMNS);
    return SL_OK;
}

/* ---- dense part ----------------------------------------------------------------------------------------------------
 */

static int64_t word_at(const spqr_matrix *m, int64_t row, int64_t g) {
    return (row / SIDE * m->groups + g) * SIDE + row % SIDE;
}

/* Fields of the second-level record, ours and theirs: scale and zero of scales, scale and zero of zeros. */
static const int theirs[4] = {0, 2, 1, 3};

static void read_dense(spqr_matrix *m, const uint64_t *words) {
    uint8_t *codes = (uint8_t *)(uintptr_t)m->codes, *stat = (uint8_t *)(uintptr_t)m->stat;
    uint16_t *second = (uint16_t *)(uintptr_t)m->second;
    for (int64_t row = 0; row < m->n; row++)
        for (int64_t g = 0; g < m->groups; g++) {
            uint64_t word = words[word_at(m, row, g)], record = word >> 54 & 255;
            stat[row * m->groups + g] = (uint8_t)((word & 7) | (word >> 3 & 7) << 4);
            for (int i = 0; i < SIDE; i++)
                sl_bits_put(codes + (row * m->groups + g) * 6, i, 3, (uint32_t)(word >> (6 + 3 * i)) & 7);
            uint16_t *to = second + 4 * (row / SIDE * m->groups + g); /* byte r / 2 of the record, in both its rows */
            int byte = (int)(row % SIDE / 2), field = byte / 2;
            for (int f = 0; f < 4; f++)
                if (theirs[f] == field)
                    to[f] |= (uint16_t)(record << 8 * (byte % 2));
        }
}

static void write_dense(const spqr_matrix *m, uint64_t *words) {
    for (int64_t row = 0; row < m->n; row++)
        for (int64_t g = 0; g < m->groups; g++) {
            const uint16_t *from = m->second + 4 * (row / SIDE * m->groups + g);
            uint8_t stat = m->stat[row * m->groups + g];
            int byte = (int)(row % SIDE / 2);
            uint64_t word = (uint64_t)(stat & 7) | (uint64_t)(stat >> 4 & 7) << 3;
            for (int i = 0; i < SIDE; i++)
                word |= (uint64_t)sl_bits_get(m->codes + (row * m->groups + g) * 6, i, 3) << (6 + 3 * i);
            for (int f = 0; f < 4; f++)
                if (theirs[f] == byte / 2)
                    word |= (uint64_t)(from[f] >> 8 * (byte % 2) & 255) << 54;
            words[word_at(m, row, g)] = word;
        }
}

/* ---- sparse part ---------------------------------------------------------------------------------------------------
 */

typedef struct sparse {
    const uint32_t *words;
    const int32_t *offsets;
    int64_t n_words;
    int tiled; /* PTCSR */
} sparse;

/* Word e of a row; 0: there are no more. */
static uint32_t entry(const sparse *s, int64_t row, int64_t e) {
    int64_t begin = s->offsets[s->tiled ? row / SIDE : row], end = s->offsets[(s->tiled ? row / SIDE : row) + 1];
    int64_t at = s->tiled ? begin + SIDE * e + row % SIDE : begin + e;
    return at < end ? s->words[at] : 0;
}

/* A CSR row may hold a word 0 (value 0 of column 0), which changes nothing; PTCSR ends at it. */
static int64_t count_entries(const sparse *s, int64_t row) {
    int64_t n = 0;
    if (!s->tiled)
        return s->offsets[row + 1] - s->offsets[row];
    while (entry(s, row, n) != 0)
        n++;
    return n;
}

static sl_status find_sparse(const sl_packed_file *file, const sl_linear *linear, int64_t n, sparse *s, sl_error *err) {
    sl_tensor offsets, words;
    SL_TRY(sl_packed_file_get(file, linear->name, ".row_offsets", SL_I32, 1, (int64_t[]){-1}, &offsets, err));
    SL_TRY(sl_packed_file_find(file, linear->name, ".col_vals", &words));
    s->offsets = offsets.data;
    s->tiled = offsets.shape[0] == n / SIDE + 1;
    if (!s->tiled && offsets.shape[0] != n + 1)
        return sl_fail(err, SL_E_DATA, "%s.row_offsets has %lld elements, neither CSR (%lld) nor PTCSR (%lld)",
                       linear->name, (long long)offsets.shape[0], (long long)(n + 1), (long long)(n / SIDE + 1));
    sl_tensor_count(&words, &s->n_words);
    if (s->n_words > 0) /* an empty one may be of any dtype */
        SL_TRY(sl_packed_file_get(file, linear->name, ".col_vals", SL_I32, 1, (int64_t[]){-1}, &words, err));
    s->words = words.data;
    for (int64_t i = 0; i + 1 < offsets.shape[0]; i++)
        if (s->offsets[i] < 0 || s->offsets[i] > s->offsets[i + 1])
            return sl_fail(err, SL_E_DATA, "%s.row_offsets falls at %lld", linear->name, (long long)i);
    if (s->offsets[offsets.shape[0] - 1] > s->n_words)
        return sl_fail(err, SL_E_DATA, "%s.row_offsets reaches beyond its outliers", linear->name);
    return SL_OK;
}

static sl_status find_order(const sl_packed_file *file, const sl_linear *linear, int64_t k, const uint16_t **order,
                            sl_error *err) {
    sl_tensor t;
    int64_t n = 0;
    *order = NULL;
    if (sl_packed_file_find(file, linear->name, ".in_perm", &t) < 0 || sl_tensor_count(&t, &n) < 0 || n == 0)
        return SL_OK;
    SL_TRY(sl_packed_file_get(file, linear->name, ".in_perm", SL_I32, 1, (int64_t[]){k / 2}, &t, err));
    *order = t.data;
    return SL_OK;
}

/* Outliers of a row on the f32 base: added ones move over from the f16 base, replacing ones lose it. rows: 2 [k]. */
static void read_sparse(const spqr_settings *s, const sparse *from, spqr_matrix *m, int64_t row, int64_t at,
                        float *rows) {
    uint16_t *val = (uint16_t *)(uintptr_t)m->val;
    float *base = rows, *theirs16 = rows + m->k;
    spqr_decode_base(m, row, base);
    decode_f16(m, row, theirs16);
    for (int64_t e = 0, n = count_entries(from, row); e < n; e++, at++) {
        uint32_t word = entry(from, row, e);
        int64_t col = word & 0xffff;
        float v = sl_f32_of_f16((uint16_t)(word >> 16));
        spqr_set_column(m, at, col);
        val[at] = col < m->k ? sl_f16_of_f32(s->replaces ? v - base[col] : v + theirs16[col] - base[col]) : 0;
    }
}

sl_status spqr_official_read(const sl_pack_env *env, const spqr_settings *s, const sl_packed_file *file,
                             const sl_linear *linear, spqr_matrix *m, sl_error *err) {
    sl_tensor dense;
    sparse from;
    const uint16_t *order;
    SL_TRY(spqr_official_fits(s, linear, err));
    spqr_shape(m, linear->weight.shape[0], linear->weight.shape[1], s);
    SL_TRY(sl_packed_file_get(file, linear->name, ".dense_weights", SL_I64, 1,
                              (int64_t[]){m->n / SIDE * m->groups * SIDE}, &dense, err));
    SL_TRY(find_sparse(file, linear, m->n, &from, err));
    SL_TRY(find_order(file, linear, m->k, &order, err));
    for (int64_t r = 0; r < m->n; r++)
        m->nnz += count_entries(&from, r);
    m->owned = sl_pack_alloc(env, spqr_place(m, NULL, order != NULL));
    float *rows = sl_pack_alloc(env, 2 * m->k * (int64_t)sizeof *rows);
    if (m->owned == NULL || rows == NULL) {
        sl_pack_release(env, rows);
        spqr_free(env, m);
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to convert it", linear->name);
    }
    spqr_place(m, m->owned, order != NULL);
    read_dense(m, dense.data);
    uint32_t *rowptr = (uint32_t *)(uintptr_t)m->rowptr;
    for (int64_t r = 0; r < m->n; r++) {
        read_sparse(s, &from, m, r, rowptr[r], rows);
        rowptr[r + 1] = rowptr[r] + (uint32_t)count_entries(&from, r);
    }
    for (int64_t i = 0; order != NULL && i < m->k; i++)
        ((uint32_t *)(uintptr_t)m->order)[i] = order[i];
    sl_pack_release(env, rows);
    sl_status status = spqr_check(m, linear->name, err);
    if (status < 0)
        spqr_free(env, m);
    return status;
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

/* The words of a row into to[0], to[step] ...; to NULL: counts. A word of value 0 says nothing and is left out. */
static int64_t row_words(const spqr_matrix *m, int64_t row, uint32_t *to, int64_t step, float *rows) {
    float *base = rows, *theirs16 = rows + m->k;
    int64_t n = 0;
    spqr_decode_base(m, row, base);
    decode_f16(m, row, theirs16);
    for (int64_t i = m->rowptr[row]; i < m->rowptr[row + 1]; i++) {
        int64_t col = spqr_column(m, i);
        uint16_t v = sl_f16_of_f32(sl_f32_of_f16(m->val[i]) + base[col] - theirs16[col]);
        if ((v & 0x7fff) == 0)
            continue;
        if (to != NULL)
            to[n * step] = (uint32_t)v << 16 | (uint32_t)col;
        n++;
    }
    return n;
}

/* Offsets of CSR [n + 1] or PTCSR [n / 16 + 1]; returns the number of words. */
static int64_t offsets_of(const spqr_matrix *m, int tiled, int32_t *to, float *rows) {
    int64_t at = 0;
    for (int64_t r = 0; r < m->n; r += tiled ? SIDE : 1) {
        to[tiled ? r / SIDE : r] = (int32_t)at;
        int64_t longest = 0;
        for (int64_t i = r; i < r + (tiled ? SIDE : 1); i++) {
            int64_t n = row_words(m, i, NULL, 0, rows);
            longest = n > longest ? n : longest;
        }
        at += tiled ? SIDE * longest : longest;
    }
    to[tiled ? m->n / SIDE : m->n] = (int32_t)at;
    return at;
}

sl_status spqr_official_write(const sl_pack_env *env, const spqr_settings *s, const sl_linear *linear,
                              const spqr_matrix *m, spqr_tensors *out, sl_error *err) {
    *out = (spqr_tensors){.source = sl_packed_source(&linear->weight)};
    SL_TRY(spqr_official_fits(s, linear, err));
    int64_t n_dense = m->n * m->groups, n_csr, n_tiled, rows_bytes = 2 * m->k * (int64_t)sizeof(float);
    float *rows = sl_pack_alloc(env, rows_bytes);
    int32_t *offsets = sl_pack_alloc(env, (m->n + 1) * (int64_t)sizeof *offsets);
    char *block = NULL;
    if (rows != NULL && offsets != NULL) {
        n_csr = offsets_of(m, 0, offsets, rows);
        n_tiled = offsets_of(m, 1, offsets, rows);
        int tiled = s->sparse_layout == SPQR_PTCSR ||
                    (s->sparse_layout == SPQR_AUTO && n_tiled + m->n / SIDE + 1 < n_csr + m->n + 1);
        int64_t n_words = tiled ? n_tiled : n_csr, n_offsets = (tiled ? m->n / SIDE : m->n) + 1;
        block = sl_pack_alloc(env, 8 * n_dense + 4 * (n_words + n_offsets) + 2 * m->k);
        if (block != NULL) {
            uint64_t *dense = (uint64_t *)(void *)block;
            uint32_t *words = (uint32_t *)(dense + n_dense);
            int32_t *to = (int32_t *)(words + n_words);
            uint16_t *order = (uint16_t *)(to + n_offsets);
            write_dense(m, dense);
            offsets_of(m, tiled, to, rows);
            for (int64_t r = 0; r < m->n; r++)
                row_words(m, r, words + to[tiled ? r / SIDE : r] + (tiled ? r % SIDE : 0), tiled ? SIDE : 1, rows);
            for (int64_t i = 0; m->order != NULL && i < m->k; i++)
                order[i] = (uint16_t)m->order[i];
            const char *name = linear->name;
            spqr_add_tensor(out, name, ".dense_weights", dense, SL_I64, 1, n_dense, 0, 0);
            spqr_add_tensor(out, name, ".col_vals", words, SL_I32, 1, n_words, 0, 0);
            spqr_add_tensor(out, name, ".row_offsets", to, SL_I32, 1, n_offsets, 0, 0);
            if (m->order != NULL)
                spqr_add_tensor(out, name, ".in_perm", order, SL_I32, 1, m->k / 2, 0, 0);
            spqr_add_tensor(out, name, ".source", &out->source, SL_I64, 1, 1, 0, 0);
        }
    }
    out->owned = block;
    sl_pack_release(env, rows);
    sl_pack_release(env, offsets);
    return block != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to write it", linear->name);
}
