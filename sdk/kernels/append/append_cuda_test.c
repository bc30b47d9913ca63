/* Rows of a step into a paged store on a device, against the same in f32 on the host: q, both pools, and that nothing
 * else was written. */
#include "testhost_rows.h"

#include "sluice/work.h"

enum { POSITIONS = 600, PAGE_ROWS = 16, PAGES = 8, MAX_SEQS = 5 };

typedef struct scene {
    int32_t heads, kv_heads, k_dim, v_dim, rope_dims;
    int32_t seqs, rows_each, padding;
    uint32_t interleaved, norms, overwrite, own_rows, head_tables, cut; /* own_rows: the store counts its rows itself;
                                                                          cut: fewer active rows than the step has */
    sl_dtype dtype;
    int32_t n_maps;
    slk_append_map map[3]; /* a, signs: host */
} scene;

static void apply_map(const slk_append_map *m, float *x, int32_t dim) {
    const int inverse = (m->flags & SLK_APPEND_INVERSE) != 0;
    double y[SLK_APPEND_MAX_DIM];
    for (int32_t i = 0; i < dim; i++) {
        const int32_t row = i % m->n, base = i - row;
        double sum = 0;
        for (int32_t j = 0; j < m->n; j++) {
            double a;
            if (m->kind == SL_MAP_DIAGONAL)
                a = j == row ? (inverse ? 1.0 / (double)m->a[j] : (double)m->a[j]) : 0;
            else if (m->kind == SL_MAP_DENSE)
                a = (double)(inverse ? m->a[j * m->n + row] : m->a[row * m->n + j]);
            else
                a = (__builtin_parity((unsigned)(j & row)) ? -1 : 1) / sqrt(m->n) *
                    (m->signs == NULL ? 1.0 : (double)m->signs[inverse ? row : j]);
            sum += a * (double)x[base + j];
        }
        y[i] = sum;
    }
    for (int32_t i = 0; i < dim; i++)
        x[i] = (float)y[i];
}

/* One head of q or k as it goes on. */
static void process(const scene *s, float *x, const float *norm, const float *c, const float *sn, uint32_t side) {
    if (norm != NULL) {
        double sum = 0;
        for (int32_t i = 0; i < s->k_dim; i++)
            sum += (double)x[i] * (double)x[i];
        const float inv = 1.0f / sqrtf((float)(sum / s->k_dim) + 1e-5f);
        for (int32_t i = 0; i < s->k_dim; i++)
            x[i] = norm[i] * (x[i] * inv);
    }
    const int32_t half = s->rope_dims / 2;
    for (int32_t i = 0; i < half; i++) {
        float *a = x + (s->interleaved ? 2 * i : i), *b = a + (s->interleaved ? 1 : half);
        const float u = *a, v = *b;
        *a = u * c[i] - v * sn[i];
        *b = v * c[i] + u * sn[i];
    }
    for (int32_t m = 0; m < s->n_maps; m++)
        if (s->map[m].flags & side)
            apply_map(&s->map[m], x, s->k_dim);
}

static void try_append(slt_host *h, const char *name, scene s) {
    const int32_t rows = s.seqs * s.rows_each + s.padding, half = s.rope_dims / 2,
                  tables = s.head_tables ? s.kv_heads : 1;
    const int64_t width = (int64_t)s.heads * s.k_dim + (int64_t)s.kv_heads * (s.k_dim + s.v_dim),
                  element = slt_element(s.dtype);
    float *x = slt_values(rows * width, 7, 2), *norms = slt_values(2 * s.k_dim, 8, 1);
    float *cosine = slt_alloc(POSITIONS * half + 1, 4), *sine = slt_alloc(POSITIONS * half + 1, 4);
    for (int64_t i = 0; i < (int64_t)POSITIONS * half; i++) {
        const double angle = (double)(i / half) * pow(10000, -(double)(i % half) / half);
        cosine[i] = (float)cos(angle), sine[i] = (float)sin(angle);
    }
    /* the step: sequence ids and lengths that differ, padding at the end */
    int32_t seq[MAX_SEQS], row_begin[MAX_SEQS + 1], n_past[MAX_SEQS];
    int32_t *row_seq = slt_alloc(rows, 4), *token_index = slt_alloc(rows, 4);
    float *position = slt_alloc(rows, 4);
    const int32_t n_pages = MAX_SEQS * tables * PAGES;
    int32_t *pages = slt_alloc(n_pages, 4), *n_rows = slt_alloc((int64_t)MAX_SEQS * s.kv_heads, 4);
    for (int32_t i = 0; i < n_pages; i++)
        pages[i] = (i * 7919 + 3) % n_pages;
    for (int32_t i = 0; i < MAX_SEQS * s.kv_heads; i++)
        n_rows[i] = i * 5 % 40;
    for (int32_t p = 0; p < s.seqs; p++) {
        seq[p] = (p * 3 + 1) % MAX_SEQS;
        row_begin[p] = p * s.rows_each;
        n_past[p] = (p * 29 + 13) % 60;
    }
    row_begin[s.seqs] = s.seqs * s.rows_each;
    for (int32_t r = 0; r < rows; r++) {
        row_seq[r] = r < s.seqs * s.rows_each ? r / s.rows_each : -1;
        const int32_t place = row_seq[r] < 0 ? 0 : row_seq[r];
        token_index[r] =
            s.overwrite ? (n_past[place] + 2 * (r - row_begin[place])) % 100 : n_past[place] + r - row_begin[place];
        position[r] = (float)((token_index[r] * 7 + 1) % POSITIONS);
    }
    const int32_t n_active = s.cut ? rows / 2 : rows;
    const int64_t k_row = (int64_t)s.kv_heads * s.k_dim * element, v_row = (int64_t)s.kv_heads * s.v_dim * element;
    const int64_t k_pool = n_pages * PAGE_ROWS * k_row, v_pool = n_pages * PAGE_ROWS * v_row;
    char *data = slt_upload_as(h, SL_BF16, x, rows * width);
    slk_append_params p = {.q = data,
                           .k = data + 2 * s.heads * s.k_dim,
                           .v = data + 2 * (s.heads + s.kv_heads) * s.k_dim,
                           .ldq = width,
                           .ldq_head = s.k_dim,
                           .ldk = width,
                           .ldk_head = s.k_dim,
                           .ldv = width,
                           .ldv_head = s.v_dim,
                           .cos = slt_upload(h, cosine, ((int64_t)POSITIONS * half + 1) * 4),
                           .sin = slt_upload(h, sine, ((int64_t)POSITIONS * half + 1) * 4),
                           .n_active = s.cut ? slt_upload(h, &n_active, 4) : NULL,
                           .row_seq = slt_upload(h, row_seq, rows * 4),
                           .seq = slt_upload(h, seq, s.seqs * 4),
                           .row_begin = slt_upload(h, row_begin, (s.seqs + 1) * 4),
                           .n_past = slt_upload(h, n_past, s.seqs * 4),
                           .token_index = slt_upload(h, token_index, rows * 4),
                           .position = slt_upload(h, position, rows * 4),
                           .k_pool = slt_device(h, k_pool),
                           .v_pool = slt_device(h, v_pool),
                           .pages = slt_upload(h, pages, n_pages * 4),
                           .n_rows = s.own_rows ? slt_upload(h, n_rows, (int64_t)MAX_SEQS * s.kv_heads * 4) : NULL,
                           .pages_stride = tables * PAGES,
                           .pages_head_stride = s.head_tables ? PAGES : 0,
                           .n_rows_stride = s.kv_heads,
                           .n_rows_head_stride = 1,
                           .k_page_stride = PAGE_ROWS * k_row,
                           .k_row_stride = k_row,
                           .k_head_stride = s.k_dim * element,
                           .v_page_stride = PAGE_ROWS * v_row,
                           .v_row_stride = v_row,
                           .v_head_stride = s.v_dim * element,
                           .heads = s.heads,
                           .kv_heads = s.kv_heads,
                           .k_dim = s.k_dim,
                           .v_dim = s.v_dim,
                           .rope_dims = s.rope_dims,
                           .n_positions = POSITIONS,
                           .page_rows = PAGE_ROWS,
                           .interleaved = s.interleaved,
                           .overwrite = s.overwrite,
                           .eps = 1e-5f,
                           .n_maps = s.n_maps};
    if (s.norms) {
        p.q_norm = slt_upload(h, norms, s.k_dim * 4);
        p.k_norm = slt_upload(h, norms + s.k_dim, s.k_dim * 4);
    }
    for (int32_t m = 0; m < s.n_maps; m++) {
        p.map[m] = s.map[m];
        if (s.map[m].a != NULL)
            p.map[m].a = slt_upload(h, s.map[m].a, 4 * s.map[m].n * (s.map[m].kind == SL_MAP_DENSE ? s.map[m].n : 1));
        if (s.map[m].signs != NULL)
            p.map[m].signs = slt_upload(h, s.map[m].signs, 4 * s.map[m].n);
    }
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, rows, s.dtype), SL_OK);

    /* what should be there now; NaN: the poison of slt_device */
    float *want_k = slt_alloc(k_pool / element, 4), *want_v = slt_alloc(v_pool / element, 4);
    for (int64_t i = 0; i < k_pool / element; i++)
        want_k[i] = NAN;
    for (int64_t i = 0; i < v_pool / element; i++)
        want_v[i] = NAN;
    for (int32_t r = 0; r < n_active; r++) {
        const int32_t place = row_seq[r];
        if (place < 0)
            continue;
        const float *c = cosine + (int64_t)position[r] * half, *sn = sine + (int64_t)position[r] * half;
        float *q = x + r * width, *k = q + s.heads * s.k_dim, *v = k + s.kv_heads * s.k_dim;
        for (int32_t head = 0; head < s.heads; head++)
            process(&s, q + head * s.k_dim, s.norms ? norms : NULL, c, sn, SLK_APPEND_ON_Q);
        for (int32_t i = 0; i < s.heads * s.k_dim; i++)
            q[i] = slt_rounded(SL_BF16, q[i]);
        for (int32_t head = 0; head < s.kv_heads; head++) {
            float key[SLK_APPEND_MAX_DIM];
            memcpy(key, k + head * s.k_dim, (size_t)s.k_dim * 4);
            process(&s, key, s.norms ? norms + s.k_dim : NULL, c, sn, SLK_APPEND_ON_K);
            for (int32_t i = 0; i < s.k_dim; i++)
                k[head * s.k_dim + i] = slt_rounded(SL_BF16, key[i]);
            const int32_t n = s.own_rows ? n_rows[seq[place] * s.kv_heads + head] : n_past[place];
            const int32_t slot = s.overwrite ? token_index[r] : n + r - row_begin[place];
            const int64_t page = pages[(seq[place] * tables + (s.head_tables ? head : 0)) * PAGES + slot / PAGE_ROWS];
            const int64_t at = (page * PAGE_ROWS + slot % PAGE_ROWS) * s.kv_heads + head;
            for (int32_t i = 0; i < s.k_dim; i++)
                want_k[at * s.k_dim + i] = slt_rounded(s.dtype, key[i]);
            for (int32_t i = 0; i < s.v_dim; i++)
                want_v[at * s.v_dim + i] = slt_rounded(s.dtype, v[head * s.v_dim + i]);
        }
    }
    char what[128];
    float *got = slt_download_as(h, SL_BF16, data, rows * width);
    snprintf(what, sizeof what, "%s, %s: q and k", name, slt_name(s.dtype));
    slt_close_to(what, x, got, rows * width, slt_tolerance(SL_BF16), 2e-5);
    free(got);
    got = slt_download_as(h, s.dtype, p.k_pool, k_pool / element);
    snprintf(what, sizeof what, "%s, %s: keys", name, slt_name(s.dtype));
    slt_close_to(what, want_k, got, k_pool / element, slt_tolerance(s.dtype), 2e-5);
    free(got);
    got = slt_download_as(h, s.dtype, p.v_pool, v_pool / element);
    snprintf(what, sizeof what, "%s, %s: values", name, slt_name(s.dtype));
    slt_close_to(what, want_v, got, v_pool / element, 0, 0);
    free(got), free(x), free(norms), free(cosine), free(sine), free(row_seq), free(token_index), free(position);
    free(pages), free(n_rows), free(want_k), free(want_v);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    const sl_dtype types[] = {SL_BF16, SL_F16, SL_F32};
    for (int t = 0; t < 3; t++) {
        scene s = {.heads = 32,
                   .kv_heads = 8,
                   .k_dim = 128,
                   .v_dim = 128,
                   .rope_dims = 128,
                   .seqs = 1,
                   .rows_each = 1,
                   .dtype = types[t]};
        try_append(h, "one row", s);
        s.padding = 3, s.seqs = 4, s.rows_each = 16;
        try_append(h, "four sequences of 16, padding", s);
        s.norms = 1;
        try_append(h, "with norms", s);
        s.interleaved = 1;
        try_append(h, "with norms, interleaved", s);
        s.own_rows = 1, s.head_tables = 1;
        try_append(h, "lengths and tables by head", s);
        s.own_rows = 0, s.overwrite = 1;
        try_append(h, "overwriting", s);
        s.overwrite = 0, s.cut = 1;
        try_append(h, "fewer active rows", s);
        s = (scene){.heads = 3,
                    .kv_heads = 1,
                    .k_dim = 80,
                    .v_dim = 36,
                    .rope_dims = 20,
                    .seqs = 2,
                    .rows_each = 5,
                    .padding = 1,
                    .norms = 1,
                    .dtype = types[t]};
        try_append(h, "a quarter rotates, narrow values", s);
        s.interleaved = 1;
        try_append(h, "a quarter rotates, interleaved", s);
        s.rope_dims = 0;
        try_append(h, "no RoPE", s);
        s = (scene){.heads = 4,
                    .kv_heads = 2,
                    .k_dim = 256,
                    .v_dim = 256,
                    .rope_dims = 64,
                    .seqs = 1,
                    .rows_each = 3,
                    .dtype = types[t]};
        try_append(h, "wide heads", s);
        s = (scene){.heads = 4,
                    .kv_heads = 2,
                    .k_dim = 8,
                    .v_dim = 8,
                    .rope_dims = 8,
                    .seqs = 3,
                    .rows_each = 2,
                    .dtype = types[t]};
        try_append(h, "narrow heads", s);
    }
}

static void test_maps(void **state) {
    slt_host *h = slt_get(state);
    enum { D = 128 };
    float *a = slt_values(D * D, 21, 0.2f), signs[D], diagonal[D];
    for (int i = 0; i < D; i++) {
        signs[i] = i * 7 % 3 == 0 ? -1 : 1;
        diagonal[i] = 0.5f + (float)(i % 11) / 8;
    }
    scene s = {.heads = 6,
               .kv_heads = 2,
               .k_dim = D,
               .v_dim = 64,
               .rope_dims = D,
               .seqs = 2,
               .rows_each = 3,
               .padding = 1,
               .dtype = SL_F32};
    const uint32_t both = SLK_APPEND_ON_Q | SLK_APPEND_ON_K;
    s.n_maps = 1;
    s.map[0] = (slk_append_map){.signs = signs, .n = D, .kind = SL_MAP_HADAMARD, .flags = both};
    try_append(h, "Hadamard", s);
    s.map[0].flags |= SLK_APPEND_INVERSE;
    try_append(h, "Hadamard, inverse", s);
    s.map[0] = (slk_append_map){.n = 32, .kind = SL_MAP_HADAMARD, .flags = SLK_APPEND_ON_Q};
    try_append(h, "Hadamard of a quarter, on q", s);
    s.map[0] = (slk_append_map){.a = a, .n = D, .kind = SL_MAP_DENSE, .flags = both};
    try_append(h, "dense", s);
    s.map[0].n = 64, s.map[0].flags = SLK_APPEND_ON_K | SLK_APPEND_INVERSE;
    try_append(h, "dense halves, inverse, on k", s);
    s.n_maps = 3;
    s.map[0] = (slk_append_map){.a = diagonal, .n = D, .kind = SL_MAP_DIAGONAL, .flags = SLK_APPEND_ON_K};
    s.map[1] =
        (slk_append_map){.a = diagonal, .n = D, .kind = SL_MAP_DIAGONAL, .flags = SLK_APPEND_ON_Q | SLK_APPEND_INVERSE};
    s.map[2] = (slk_append_map){.signs = signs, .n = D, .kind = SL_MAP_HADAMARD, .flags = both};
    try_append(h, "diagonals, then Hadamard", s);
    free(a);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    char *m = slt_device(h, 4096);
    const slk_append_params good = {.q = m,
                                    .k = m,
                                    .v = m,
                                    .k_pool = m,
                                    .v_pool = m,
                                    .heads = 1,
                                    .kv_heads = 1,
                                    .k_dim = 8,
                                    .v_dim = 8,
                                    .page_rows = 16};
    slk_append_params p = good;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 0, SL_BF16), SL_OK);
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_U8), SL_E_UNIMPLEMENTED);
    p.k_dim = 260;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_UNIMPLEMENTED);
    p = good, p.rope_dims = 6;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_UNIMPLEMENTED);
    p = good, p.n_maps = 1, p.map[0] = (slk_append_map){.a = (float *)m, .n = 8, .kind = SL_MAP_KRONECKER};
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_UNIMPLEMENTED);
    p = good, p.q = m + 2;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_INVALID);
    p = good, p.page_rows = 12;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_INVALID);
    p = good, p.v_row_stride = 4;
    assert_int_equal(slk_cuda_append(&h->k, h->lane, &p, 1, SL_BF16), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_maps),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("append_cuda", tests, slt_setup, slt_teardown);
}
