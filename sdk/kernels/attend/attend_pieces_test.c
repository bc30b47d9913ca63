/* Attention over stores of pieces: codes of every form, plain rows beside them, against plain f32 rows that hold the
 * same values. Equal bit by bit, in every variant, whatever the company of a row. */
#include "kernels_test.h"

#include "half.h"

enum { SLOTS = 330, HEADS = 2, HEAD = 1, MAX_PIECES = 7, MAX_PAGES = 128 };

static float number_of(uint32_t dtype, const void *p, int64_t i) {
    if (dtype == SL_F32)
        return ((const float *)p)[i];
    const uint16_t bits = ((const uint16_t *)p)[i];
    return dtype == SL_F16 ? slk_f32_of_f16(bits) : slk_f32_of_bf16(bits);
}

/* One side (keys or values) of a piece, made of random numbers. */
typedef struct side {
    slk_quant quant;
    void *pages[MAX_PAGES], *scales[MAX_PAGES], *zeros[MAX_PAGES];
} side;

static void *random_numbers(uint64_t *rng, uint32_t dtype, int64_t n, float low, float high) {
    float *x = test_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = low + (high - low) * (float)test_uniform(rng);
    void *out = test_as_dtype(dtype, x, (size_t)n);
    free(x);
    return out;
}

/* Fills slots [0, n) of one side of a piece; value[slot * d + c]: what channel c of head HEAD is, by kv.h's words. */
static slk_paged make_side(uint64_t *rng, side *s, int64_t n, int64_t page_rows, int64_t d, int form, float *value) {
    static const uint32_t dtypes[] = {SL_F32, SL_F16, SL_BF16};
    static const uint32_t bits[] = {2, 4, 8, 1};
    const int64_t n_pages = (n + page_rows - 1) / page_rows, width = HEADS * d;
    *s = (side){.quant = {0}};
    if (form < 3) {
        for (int64_t p = 0; p < n_pages; p++)
            s->pages[p] = random_numbers(rng, dtypes[form], page_rows * width, -1, 1);
        for (int64_t i = 0; i < n * d; i++)
            value[i] =
                number_of(dtypes[form], s->pages[i / d / page_rows], i / d % page_rows * width + HEAD * d + i % d);
        return (slk_paged){(const void *const *)s->pages, HEAD * d, width, dtypes[form], NULL};
    }
    slk_quant *q = &s->quant;
    *q = (slk_quant){.scale_pages = (const void *const *)s->scales,
                     .zero_pages = (const void *const *)s->zeros,
                     .first = HEAD * d,
                     .bits = bits[test_range(rng, 0, 3)],
                     .scale_dtype = dtypes[test_range(rng, 0, 2)],
                     .per_channel = (uint32_t)test_range(rng, 0, 1),
                     .zero_is_min = (uint32_t)test_range(rng, 0, 1)};
    if (d * q->bits % 8 != 0)
        q->bits = 8;
    q->group = q->per_channel               ? (int32_t)(page_rows % 2 ? page_rows : page_rows / 2)
               : test_range(rng, 0, 2) == 0 ? 3
               : d % 32 == 0                ? 32
                                            : (int32_t)d;
    const int64_t row_bytes = width * q->bits / 8, size = q->scale_dtype == SL_F32 ? 4 : 2;
    const int64_t n_scales = q->per_channel ? width : (width + q->group - 1) / q->group;
    const int64_t n_rows = q->per_channel ? page_rows / q->group : page_rows;
    const int has_zero = test_range(rng, 0, 3) > 0;
    q->scale_ld = n_scales * size;
    if (!has_zero)
        q->zero_pages = NULL;
    const float unit = 2.0f / (float)(1u << q->bits);
    for (int64_t p = 0; p < n_pages; p++) {
        uint8_t *codes = s->pages[p] = test_alloc((size_t)(page_rows * row_bytes));
        for (int64_t i = 0; i < page_rows * row_bytes; i++)
            codes[i] = (uint8_t)test_next(rng);
        s->scales[p] = random_numbers(rng, q->scale_dtype, n_scales * n_rows, unit / 2, unit);
        s->zeros[p] = random_numbers(rng, q->scale_dtype, n_scales * n_rows, q->zero_is_min ? -1 : 0,
                                     q->zero_is_min ? 0 : (float)(1u << q->bits));
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < d; c++) {
            const int64_t page = i / page_rows, r = i % page_rows, e = HEAD * d + c, bit = c * q->bits;
            const uint8_t *codes = (const uint8_t *)s->pages[page] + r * row_bytes + HEAD * d * q->bits / 8;
            const int code = codes[bit / 8] >> bit % 8 & ((1 << q->bits) - 1);
            const int64_t at = q->per_channel ? r / q->group * n_scales + e : r * n_scales + e / q->group;
            const float scale = number_of(q->scale_dtype, s->scales[page], at);
            const float zero = has_zero ? number_of(q->scale_dtype, s->zeros[page], at) : (float)(1 << (q->bits - 1));
            float v = q->zero_is_min ? scale * (float)code : scale * ((float)code - zero);
            if (q->zero_is_min)
                v = v + zero;
            value[i * d + c] = v;
        }
    return (slk_paged){(const void *const *)s->pages, HEAD * d * q->bits / 8, row_bytes, SL_U8, q};
}

static void drop_side(side *s) {
    for (int i = 0; i < MAX_PAGES; i++)
        free(s->pages[i]), free(s->scales[i]), free(s->zeros[i]);
}

static void try_store(uint64_t *rng, int64_t d_k, int64_t d_v, int64_t group, const slk_visible *rows, int64_t n_rows) {
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    static side sides[MAX_PIECES][2];
    slk_piece pieces[MAX_PIECES];
    float *k = test_alloc((size_t)(SLOTS * d_k) * sizeof *k), *v = test_alloc((size_t)(SLOTS * d_v) * sizeof *v);
    const int n_pieces = test_range(rng, 1, MAX_PIECES);
    int64_t begin = 0;
    for (int i = 0; i < n_pieces; i++) {
        const int64_t left = SLOTS - begin, n = i == n_pieces - 1 ? left : test_range(rng, 1, (int)(left / 2));
        const int64_t page_rows = test_range(rng, 3, 40);
        pieces[i] = (slk_piece){.begin = begin, .end = begin + n, .page_rows = page_rows};
        pieces[i].k = make_side(rng, &sides[i][0], n, page_rows, d_k, test_range(rng, 0, 6), k + begin * d_k);
        pieces[i].v = make_side(rng, &sides[i][1], n, page_rows, d_v, test_range(rng, 0, 6), v + begin * d_v);
        begin += n;
    }
    const int64_t n_q = n_rows * group;
    float *q = test_normals(rng, (size_t)(n_q * d_k), 1);
    float *o[2], *lse[2], *scores[2], *sums[2];
    for (int i = 0; i < 2; i++) {
        o[i] = test_alloc((size_t)(n_q * d_v) * sizeof *o[i]);
        lse[i] = test_alloc((size_t)n_q * sizeof *lse[i]);
        scores[i] = test_alloc((size_t)(n_q * SLOTS) * sizeof *scores[i]);
        sums[i] = test_alloc(SLOTS * sizeof *sums[i]);
    }
    const void *const k_page[] = {k}, *const v_page[] = {v};
    slk_attend p[2] = {{.q = q,
                        .q_row = group * d_k,
                        .q_head = d_k,
                        .o_row = group * d_v,
                        .o_head = d_v,
                        .lse_row = group,
                        .k = {k_page, 0, d_k, SL_F32, NULL},
                        .v = {v_page, 0, d_v, SL_F32, NULL},
                        .page_rows = SLOTS,
                        .rows = rows,
                        .n_rows = n_rows,
                        .group = group,
                        .d_k = d_k,
                        .d_v = d_v,
                        .scale = (float)(1 / sqrt((double)d_k)),
                        .scores_row = group * SLOTS,
                        .scores_head = SLOTS}};
    p[0].scratch = aligned_alloc(64, (size_t)(slk_attend_scratch_bytes(group, d_k, d_v) + 63) / 64 * 64);
    assert_non_null(p[0].scratch);
    p[1] = p[0];
    p[1].k = p[1].v = (slk_paged){0};
    p[1].pieces = pieces, p[1].n_pieces = n_pieces;
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < 2; i++) {
            memset(sums[i], 0, SLOTS * sizeof *sums[i]);
            memset(scores[i], 0, (size_t)(n_q * SLOTS) * sizeof *scores[i]);
            p[i].o = o[i], p[i].lse = lse[i], p[i].scores = scores[i], p[i].prob_sum = sums[i];
            tables[t]->attend(&p[i]);
        }
        check_bits("o", o[0], o[1], (size_t)(n_q * d_v));
        check_bits("lse", lse[0], lse[1], (size_t)n_q);
        check_bits("scores", scores[0], scores[1], (size_t)(n_q * SLOTS));
        check_bits("column sums", sums[0], sums[1], SLOTS);
        for (int64_t r = 0; r < n_rows; r++) { /* alone, where rows are read in place */
            slk_attend one = p[1];
            one.rows = rows + r, one.n_rows = 1;
            one.q = q + r * group * d_k;
            one.scores = NULL, one.prob_sum = NULL, one.o = o[0], one.lse = NULL;
            tables[t]->attend(&one);
            check_bits("o of a row alone", o[0], o[1] + r * group * d_v, (size_t)(group * d_v));
        }
    }
    for (int i = 0; i < n_pieces; i++)
        drop_side(&sides[i][0]), drop_side(&sides[i][1]);
    for (int i = 0; i < 2; i++)
        free(o[i]), free(lse[i]), free(scores[i]), free(sums[i]);
    free(k), free(v), free(q), free(p[0].scratch);
}

static void rows_of_codes_equal_rows_of_values(void **state) {
    (void)state;
    uint64_t rng = 41;
    static const int dims[][2] = {{64, 64}, {128, 128}, {40, 24}, {72, 8}, {17, 5}, {96, 32}};
    int32_t lists[20][60];
    for (int t = 0; t < 60; t++) {
        slk_visible rows[20] = {{{0}, {0}, NULL, 0}};
        const int n = test_range(&rng, 1, 20);
        for (int r = 0; r < n; r++) {
            for (int i = 0; i < 60; i++)
                lists[r][i] = test_range(&rng, 0, SLOTS - 1);
            switch (test_range(&rng, 0, 3)) {
            case 0: rows[r].hi[0] = SLOTS - n + r + 1; break;
            case 1: rows[r].lo[0] = 0, rows[r].hi[0] = 4, rows[r].lo[1] = 100 + r, rows[r].hi[1] = 150 + r; break;
            case 2: rows[r].hi[0] = 90, rows[r].slots = lists[r], rows[r].n_slots = test_range(&rng, 0, 9); break;
            default: rows[r].slots = lists[r], rows[r].n_slots = test_range(&rng, 0, 60);
            }
        }
        try_store(&rng, dims[t % 6][0], dims[t % 6][1], test_range(&rng, 1, 6), rows, n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_of_codes_equal_rows_of_values)};
    return cmocka_run_group_tests_name("attend_pieces", tests, NULL, NULL);
}
