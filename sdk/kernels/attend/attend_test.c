/* Attention: every variant against exact softmax, bit equality of rows whatever their company, slots or split. */
#include "kernels_test.h"

/* A store of one or two KV heads with pages in shuffled order, filled from logical rows; slot s holds row s. */
typedef struct store {
    float *rows; /* [n, heads * d], rounded to dtype */
    void *bytes; /* [pages, page_rows, heads * d] */
    const void **pages;
    int64_t n, page_rows, d, heads;
    uint32_t dtype;
} store;

static store make_store(uint64_t *rng, uint32_t dtype, int64_t n, int64_t page_rows, int64_t d, int64_t heads,
                        float scale) {
    store s = {.n = n, .page_rows = page_rows, .d = d, .heads = heads, .dtype = dtype};
    const int64_t pages = (n + page_rows - 1) / page_rows, width = heads * d, size = dtype == SL_F32 ? 4 : 2;
    s.rows = test_normals(rng, (size_t)(pages * page_rows * width), scale);
    char *flat = test_as_dtype(dtype, s.rows, (size_t)(pages * page_rows * width));
    s.bytes = test_alloc((size_t)(pages * page_rows * width * size));
    s.pages = test_alloc((size_t)pages * sizeof *s.pages);
    for (int64_t p = 0; p < pages; p++) {
        const int64_t at = (pages - 1 - p) * page_rows * width * size; /* last page first */
        memcpy((char *)s.bytes + at, flat + p * page_rows * width * size, (size_t)(page_rows * width * size));
        s.pages[p] = (char *)s.bytes + at;
    }
    free(flat);
    return s;
}

static void drop_store(store *s) { free(s->rows), free(s->bytes), free(s->pages); }

static slk_paged paged(const store *s, int64_t head) {
    return (slk_paged){.pages = s->pages, .offset = head * s->d, .ld = s->heads * s->d, .dtype = s->dtype};
}

static int32_t slot_at(const slk_visible *v, int64_t rank) {
    for (int i = 0; i < 2; i++) {
        const int64_t len = v->hi[i] > v->lo[i] ? v->hi[i] - v->lo[i] : 0;
        if (rank < len)
            return (int32_t)(v->lo[i] + rank);
        rank -= len;
    }
    return v->slots[rank];
}

/* The definition in double: o, lse and scores of one query. */
static double exact(const slk_visible *v, const store *k, const store *val, int64_t head, const float *q, float scale,
                    double *o, double *scores) {
    const int64_t n = slk_visible_count(v);
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *row = k->rows + (slot_at(v, i) * k->heads + head) * k->d;
        scores[i] = 0;
        for (int64_t d = 0; d < k->d; d++)
            scores[i] += (double)q[d] * row[d];
        scores[i] *= scale;
        max = fmax(max, scores[i]);
    }
    for (int64_t d = 0; d < val->d; d++)
        o[d] = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *row = val->rows + (slot_at(v, i) * val->heads + head) * val->d;
        const double e = exp(scores[i] - max);
        sum += e;
        for (int64_t d = 0; d < val->d; d++)
            o[d] += e * row[d];
    }
    for (int64_t d = 0; d < val->d && n > 0; d++)
        o[d] /= sum;
    return n > 0 ? max + log(sum) : -INFINITY;
}

typedef struct call {
    slk_attend p;
    store k, v;
    float *q, *o, *lse, *scores, *prob_sum;
    int64_t head, most;
} call;

static call make_call(uint64_t *rng, uint32_t dtype, int64_t slots, int64_t page_rows, int64_t group, int64_t d_k,
                      int64_t d_v, const slk_visible *rows, int64_t n_rows) {
    call c = {.head = 1};
    c.k = make_store(rng, dtype, slots, page_rows, d_k, 2, 1);
    c.v = make_store(rng, dtype, slots, page_rows, d_v, 2, 1);
    for (int64_t r = 0; r < n_rows; r++)
        c.most = slk_visible_count(&rows[r]) > c.most ? slk_visible_count(&rows[r]) : c.most;
    const int64_t queries = n_rows * group;
    c.q = test_normals(rng, (size_t)(queries * d_k), 1);
    c.o = test_normals(rng, (size_t)(queries * d_v), 1);
    c.lse = test_normals(rng, (size_t)queries, 1);
    c.scores = test_normals(rng, (size_t)(queries * c.most), 1);
    c.prob_sum = test_alloc((size_t)((slots + page_rows) * (int64_t)sizeof(float)));
    memset(c.prob_sum, 0, (size_t)(slots + page_rows) * sizeof(float));
    c.p = (slk_attend){.q = c.q,
                       .q_row = group * d_k,
                       .q_head = d_k,
                       .o = c.o,
                       .o_row = group * d_v,
                       .o_head = d_v,
                       .lse = c.lse,
                       .lse_row = group,
                       .k = paged(&c.k, 1),
                       .v = paged(&c.v, 1),
                       .page_rows = page_rows,
                       .rows = rows,
                       .n_rows = n_rows,
                       .group = group,
                       .d_k = d_k,
                       .d_v = d_v,
                       .scale = (float)(1.5 / sqrt((double)d_k)),
                       .scores = c.scores,
                       .scores_row = group * c.most,
                       .scores_head = c.most,
                       .prob_sum = c.prob_sum};
    c.p.scratch = aligned_alloc(64, (size_t)(slk_attend_scratch_bytes(group, d_k, d_v) + 63) / 64 * 64);
    assert_non_null(c.p.scratch);
    return c;
}

static void drop_call(call *c) {
    drop_store(&c->k), drop_store(&c->v);
    free(c->q), free(c->o), free(c->lse), free(c->scores), free(c->prob_sum), free(c->p.scratch);
}

/* f32 sums over D and over the keys: 2e-6 of the largest value holds for all sizes here (values are about 1). */
static void check_call(const char *name, const call *c) {
    const slk_attend *p = &c->p;
    double *o = test_alloc((size_t)p->d_v * sizeof *o), *scores = test_alloc((size_t)c->most * sizeof *scores);
    const int64_t n_slots = c->k.n + c->k.page_rows;
    double *sums = calloc((size_t)n_slots, sizeof *sums);
    assert_non_null(sums);
    for (int64_t r = 0; r < p->n_rows; r++)
        for (int64_t g = 0; g < p->group; g++) {
            const slk_visible *v = &p->rows[r];
            const double lse =
                exact(v, &c->k, &c->v, c->head, p->q + r * p->q_row + g * p->q_head, p->scale, o, scores);
            const float got = p->lse[r * p->lse_row + g];
            if (isinf(lse) ? got != -INFINITY : !(fabs(got - lse) < 4e-6))
                fail_msg("%s: lse of row %d head %d: %.9g, expected %.9g", name, (int)r, (int)g, (double)got, lse);
            for (int64_t d = 0; d < p->d_v; d++)
                if (!(fabs(p->o[r * p->o_row + g * p->o_head + d] - o[d]) < 4e-6))
                    fail_msg("%s: o[%d,%d,%d] = %.9g, expected %.9g", name, (int)r, (int)g, (int)d,
                             (double)p->o[r * p->o_row + g * p->o_head + d], o[d]);
            for (int64_t i = 0; i < slk_visible_count(v); i++) {
                if (!(fabs(p->scores[r * p->scores_row + g * p->scores_head + i] - scores[i]) < 4e-6))
                    fail_msg("%s: score of row %d, rank %d", name, (int)r, (int)i);
                sums[slot_at(v, i)] += exp(scores[i] - lse);
            }
        }
    for (int64_t s = 0; s < n_slots; s++)
        if (!(fabs(p->prob_sum[s] - sums[s]) <= 1e-5 * (1 + sums[s])))
            fail_msg("%s: probabilities of slot %d: %.9g, expected %.9g", name, (int)s, (double)p->prob_sum[s],
                     sums[s]);
    free(o), free(scores), free(sums);
}

/* Every row alone, every head alone, and in parts joined afterwards: the same bits. */
static void check_company(const slk_kernels *k, call *c, uint64_t *rng) {
    const slk_attend *p = &c->p;
    const int64_t n_o = p->n_rows * p->group * p->d_v, n_q = p->n_rows * p->group;
    float *o = test_alloc((size_t)n_o * sizeof *o), *lse = test_alloc((size_t)n_q * sizeof *lse);
    slk_attend one = *p;
    one.prob_sum = NULL, one.scores = NULL;
    for (int64_t r = 0, n; r < p->n_rows; r += n) {
        n = test_range(rng, 1, (int)(p->n_rows - r < 3 ? p->n_rows - r : 3));
        one.q = p->q + r * p->q_row, one.o = o + r * p->o_row, one.lse = lse + r * p->lse_row, one.rows = p->rows + r,
        one.n_rows = n;
        k->attend(&one);
    }
    check_bits("rows in other company", p->o, o, (size_t)n_o);
    check_bits("their lse", p->lse, lse, (size_t)n_q);
    one = *p;
    one.prob_sum = NULL, one.scores = NULL, one.group = 1;
    for (int64_t g = 0; g < p->group; g++) {
        one.q = p->q + g * p->q_head, one.o = o + g * p->o_head, one.lse = lse + g;
        k->attend(&one);
    }
    check_bits("heads alone", p->o, o, (size_t)n_o);

    const int64_t parts = slk_attend_parts(c->most) + 1,
                  width = 2 + p->d_v; /* one more than there is: it must be empty */
    float *all = test_alloc((size_t)(n_q * parts * width) * sizeof *all),
          *some = test_alloc((size_t)(n_q * parts * width) * sizeof *some);
    one = *p;
    one.prob_sum = NULL, one.scores = NULL;
    for (int64_t first = 0, n; first < parts; first += n) {
        n = test_range(rng, 1, (int)(parts - first));
        one.parts = some, one.first_part = first, one.n_parts = n;
        k->attend(&one);
        for (int64_t i = 0; i < n_q; i++)
            memcpy(all + (i * parts + first) * width, some + i * n * width, (size_t)(n * width) * sizeof *all);
    }
    for (int64_t i = 0; i < n_q; i++)
        k->attend_join(all + i * parts * width, parts, p->d_v, o + i * p->d_v, lse + i);
    check_bits("parts joined", p->o, o, (size_t)n_o);
    check_bits("lse of parts", p->lse, lse, (size_t)n_q);
    free(o), free(lse), free(all), free(some);
}

static void try_call(uint64_t *rng, uint32_t dtype, int64_t slots, int64_t page_rows, int64_t group, int64_t d_k,
                     int64_t d_v, const slk_visible *rows, int64_t n_rows) {
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    call c = make_call(rng, dtype, slots, page_rows, group, d_k, d_v, rows, n_rows);
    for (int i = 0; i < n_tables; i++) {
        if (i > 0 && tables[i]->attend == tables[i - 1]->attend)
            continue;
        memset(c.prob_sum, 0, (size_t)(c.k.n + c.k.page_rows) * sizeof(float));
        tables[i]->attend(&c.p);
        check_call(tables[i]->attend_name, &c);
        check_company(tables[i], &c, rng);
    }
    drop_call(&c);
}

static const uint32_t dtypes[] = {SL_F32, SL_F16, SL_BF16};

static void test_causal(void **state) {
    (void)state;
    uint64_t rng = 21;
    static const int dims[][2] = {{64, 64}, {96, 96}, {128, 128}, {256, 256}, {40, 40}, {17, 5}, {72, 64}, {1, 1}};
    for (unsigned i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int t = 0; t < 3; t++) {
            slk_visible rows[70] = {{{0}, {0}, NULL, 0}};
            const int past = test_range(&rng, 0, 90), n = test_range(&rng, 0, 20);
            for (int r = 0; r < n; r++)
                rows[r].hi[0] = past + r + 1;
            try_call(&rng, dtypes[t], 128, t == 1 ? 7 : 16, test_range(&rng, 1, 5), dims[i][0], dims[i][1], rows, n);
        }
    slk_visible rows[70] = {{{0}, {0}, NULL, 0}};
    for (int r = 0; r < 70; r++)
        rows[r].hi[0] = r + 1;
    try_call(&rng, SL_BF16, 80, 32, 1, 64, 64, rows, 70); /* more rows than a tile */
    try_call(&rng, SL_F16, 80, 16, 3, 32, 32, rows, 70);
    try_call(&rng, SL_F32, 80, 1000, 70, 16, 24, rows, 3); /* a group larger than a tile, one page */
    try_call(&rng, SL_F32, 80, 1, 2, 16, 16, rows, 5);     /* pages of one row */
}

static void test_long_rows(void **state) {
    (void)state;
    uint64_t rng = 23;
    slk_visible rows[3] = {{{0}, {2500}, NULL, 0}, {{0}, {1024}, NULL, 0}, {{0}, {1025}, NULL, 0}};
    for (int t = 0; t < 3; t++)
        try_call(&rng, dtypes[t], 2500, 64, 4, 64, 64, rows, 3);
}

static void test_programs(void **state) {
    (void)state;
    uint64_t rng = 25;
    int32_t lists[40][200];
    for (int t = 0; t < 12; t++) {
        slk_visible rows[40] = {{{0}, {0}, NULL, 0}};
        const int n = test_range(&rng, 1, 40);
        for (int r = 0; r < n; r++) {
            slk_visible *v = &rows[r];
            for (int i = 0; i < 200; i++)
                lists[r][i] = test_range(&rng, 0, 299);
            switch (test_range(&rng, 0, 4)) {
            case 0: v->lo[0] = 0, v->hi[0] = 4, v->lo[1] = 100 + r, v->hi[1] = 150 + r; break; /* sinks and a window */
            case 1: v->hi[0] = 90, v->slots = lists[r], v->n_slots = test_range(&rng, 0, 9); break; /* tree node */
            case 2: v->slots = lists[r], v->n_slots = test_range(&rng, 0, 200); break;              /* selection */
            case 3: v->slots = lists[0], v->n_slots = 77; break; /* the same for many */
            default: v->lo[0] = 5, v->hi[0] = 3; break;          /* nothing */
            }
        }
        try_call(&rng, dtypes[t % 3], 300, 16, test_range(&rng, 1, 9), 64, 32, rows, n);
    }
}

/* A tree node whose ancestors are scattered equals the plain row over the same keys in order. */
static void test_tree_equals_chain(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    enum { PREFIX = 45, PATH = 5, SLOTS = 128, D = 64, G = 4 };
    static const int32_t path[PATH] = {45, 47, 52, 60, 101};
    for (int t = 0; t < 3; t++) {
        uint64_t rng = 27;
        slk_visible tree[9] = {{{0}, {0}, NULL, 0}};
        for (int r = 0; r < 9; r++)
            tree[r].hi[0] = PREFIX, tree[r].slots = path, tree[r].n_slots = r < PATH ? r + 1 : 1;
        const slk_visible chain = {{0}, {PREFIX + PATH}, NULL, 0};
        call a = make_call(&rng, dtypes[t], SLOTS, 16, G, D, D, tree, 9);
        call b = make_call(&rng, dtypes[t], SLOTS, 7, G, D, D, &chain, 1);
        const int64_t size = dtypes[t] == SL_F32 ? 4 : 2, width = 2 * D * size;
        for (int i = 0; i < PREFIX + PATH; i++) { /* b's store: the path's rows in consecutive slots, other pages */
            const int from = i < PREFIX ? i : path[i - PREFIX];
            memcpy((char *)b.k.pages[i / 7] + i % 7 * width, (const char *)a.k.pages[from / 16] + from % 16 * width,
                   (size_t)width);
            memcpy((char *)b.v.pages[i / 7] + i % 7 * width, (const char *)a.v.pages[from / 16] + from % 16 * width,
                   (size_t)width);
        }
        memcpy(b.q, a.q + (PATH - 1) * G * D, G * D * sizeof *b.q);
        for (int i = 0; i < n_tables; i++) {
            tables[i]->attend(&a.p);
            tables[i]->attend(&b.p);
            check_bits("tree and chain", a.o + (PATH - 1) * G * D, b.o, G * D);
            check_bits("tree and chain, lse", a.lse + (PATH - 1) * G, b.lse, G);
        }
        drop_call(&a), drop_call(&b);
    }
}

/* Huge scores do not overflow; -inf scores hide a key; a row of nothing but -inf is empty. */
static void test_extremes(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 29;
    enum { D = 16, N = 40 };
    const slk_visible rows[2] = {{{0}, {N}, NULL, 0}, {{0}, {3}, NULL, 0}};
    for (int i = 0; i < n_tables; i++) {
        call c = make_call(&rng, SL_F32, N, 64, 1, D, D, rows, 2);
        float *k = (float *)(uintptr_t)c.k.pages[0], *v = (float *)(uintptr_t)c.v.pages[0];
        for (int s = 0; s < N; s++)
            for (int d = 0; d < D; d++)
                k[(s * 2 + 1) * D + d] = s < 3 ? -INFINITY : s == 20 ? 1e18f : -1e18f;
        for (int d = 0; d < 2 * D; d++)
            c.q[d] = 1e18f;
        tables[i]->attend(&c.p);
        for (int d = 0; d < D; d++) {
            assert_true(c.o[d] == v[(20 * 2 + 1) * D + d]);
            assert_true(c.o[D + d] == 0);
        }
        assert_true(c.lse[1] == -INFINITY && c.lse[0] > 1e36f);
        drop_call(&c);
    }
}

static void test_lse_merge(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 31;
    enum { D = 37, N = 100, CUT = 63 };
    const slk_visible whole[4] = {
        {{0}, {N}, NULL, 0}, {{0}, {CUT}, NULL, 0}, {{CUT}, {N}, NULL, 0}, {{0}, {0}, NULL, 0}};
    for (int i = 0; i < n_tables; i++) {
        call c = make_call(&rng, SL_F32, N, 16, 1, D, D, whole, 4);
        for (int r = 1; r < 4; r++)
            memcpy(c.q + r * D, c.q, D * sizeof *c.q);
        tables[i]->attend(&c.p);
        const float lse_b = c.lse[2];
        tables[i]->lse_merge(c.o + D, c.lse + 1, c.o + 2 * D, c.lse + 2, 1, D);
        check_close("merged", c.o, c.o + D, D, 1e-5, 1e-6);
        check_close("merged lse", c.lse, c.lse + 1, 1, 1e-6, 0);
        tables[i]->lse_merge(c.o + 2 * D, c.lse + 2, c.o + 3 * D, c.lse + 3, 1, D); /* with nothing: unchanged */
        assert_true(c.lse[2] == lse_b);
        tables[i]->lse_merge(c.o + 3 * D, c.lse + 3, c.o + 2 * D, c.lse + 2, 1, D); /* nothing with it: it */
        check_close("into nothing", c.o + 2 * D, c.o + 3 * D, D, 0, 0);
        assert_true(c.lse[3] == lse_b);
        drop_call(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_causal),   cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_programs), cmocka_unit_test(test_tree_equals_chain),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_lse_merge),
    };
    return cmocka_run_group_tests_name("attend", tests, NULL, NULL);
}
