/* paged: random appends, forks, cuts, copies and failures against a store that is nothing but arrays, its rows compared
 * bit by bit through the public view; and the page pool's books after every operation. */
#include "paged.c"
#include "paged_device.c"
#include "paged_heads.c"

#include "store_rig.h"

enum { LAYERS = 3, MAX_SEQS = 8, MAX_CONTEXT = 40, MAX_STAGED = 8, MAX_ROWS = 4 * MAX_STAGED, MAX_WIDTH = 24 };

/* Layers of different shapes: KV heads, key size, value size. */
static const int32_t shapes[LAYERS][3] = {{2, 4, 4}, {1, 8, 3}, {3, 2, 8}};

/* ---- the store under test
 * -------------------------------------------------------------------------------------------- */

typedef struct plain_seq {
    int is_open;
    int64_t n;
    int32_t row[MAX_CONTEXT + MAX_STAGED]; /* which row stands there; its content follows from the number */
} plain_seq;

typedef struct rig {
    store_rig base;
    plain_seq plain[MAX_SEQS];
} rig;

static void open_rig(rig *r, const char *const *sets, uint32_t compute) {
    memset(r, 0, sizeof *r);
    store_model(&r->base, shapes, LAYERS, 1, 77);
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = MAX_CONTEXT,
                        .max_rows = MAX_ROWS,
                        .max_seqs = MAX_SEQS,
                        .max_tree = MAX_STAGED,
                        .n_workers = 1,
                        .compute = compute};
    assert_int_equal(store_make(&r->base, &plugin, sets, NULL, &limits, NULL), SL_OK);
}

static void close_rig(rig *r) {
    store_close(&r->base);
    assert_int_equal(r->base.host.bytes_live, 0);
}

static int64_t draw(rig *r, int64_t n) { return store_draw(&r->base, n); }

/* ---- looking
 * --------------------------------------------------------------------------------------------------------- */

static float read_element(const char *p, sl_dtype type) {
    float x;
    uint32_t bits;
    uint16_t half;
    if (type == SL_F32) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    memcpy(&half, p, sizeof half);
    bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Rows [0, n) of the place-th sequence of the step, staged ones included, through the addresses that kv.h promises. */
static void check_rows(const rig *r, const sl_view *v, int place_in_step, int layer, const int32_t *expected,
                       int64_t n) {
    const sl_segment *s = v->seqs[place_in_step]->segments[0];
    assert_int_equal(s->n_committed + s->n_staged, n);
    assert_int_equal(s->n_heads, shapes[layer][0]);
    int64_t size = sl_dtype_bits(s->k_dtype) / 8;
    for (int64_t slot = 0; slot < n; slot++)
        for (int which = 0; which < 2; which++) {
            const void *const *pages = which == 0 ? s->k_pages : s->v_pages;
            int64_t row_stride = which == 0 ? s->k_row_stride : s->v_row_stride,
                    head_stride = which == 0 ? s->k_head_stride : s->v_head_stride;
            int32_t width = shapes[layer][1 + which];
            for (int32_t h = 0; h < s->n_heads; h++)
                for (int32_t d = 0; d < width; d++) {
                    const char *p = (const char *)pages[slot / s->page_rows] + slot % s->page_rows * row_stride +
                                    h * head_stride + d * size;
                    float got = read_element(p, s->k_dtype),
                          want = store_element(expected[slot], layer, which, h * width + d);
                    if (!(got == want))
                        fail_msg("layer %d, %s of slot %lld, head %d, element %d: %g, expected %g", layer,
                                 which == 0 ? "key" : "value", (long long)slot, h, d, (double)got, (double)want);
                }
        }
    (void)r;
}

static void check_sequence(rig *r, int32_t id) {
    const int32_t ids[] = {id}, begin[] = {0, 0};
    const int64_t past[] = {r->plain[id].n};
    sl_batch b = {.struct_size = SL_SIZE(sl_batch), .seq = ids, .row_begin = begin, .n_past = past, .n_seqs = 1};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &b};
    int64_t n_tokens, bytes;
    assert_int_equal(store.length(r->base.self, id, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, r->plain[id].n);
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *v;
        assert_int_equal(store.view(r->base.self, NULL, l, &rows, NULL, &v), SL_OK);
        check_rows(r, v, 0, l, r->plain[id].row, r->plain[id].n);
    }
}

/* Every reference is one entry of an open sequence's table; every other page is free, once. */
static void check_books(const rig *r) {
    const sl_blocks *pool = &r->base.self->pool;
    int32_t seen[4096] = {0};
    assert_true(pool->n_ids <= 4096);
    for (int i = 0; i < MAX_SEQS; i++) {
        const paged_sequence *s = &r->base.self->seqs[i];
        assert_int_equal(s->is_open, r->plain[i].is_open);
        assert_true(s->is_open || s->n_pages == 0);
        assert_true(s->n_pages >= paged_pages_for(r->base.self, s->n_tokens));
        for (int64_t j = 0; j < s->n_pages; j++)
            seen[s->pages[j]]++;
    }
    int32_t n_free = 0;
    for (int32_t i = 0; i < pool->n_ids; i++) {
        assert_int_equal(seen[i], pool->refs[i]);
        n_free += pool->refs[i] == 0 && pool->base[i] != NULL;
    }
    assert_int_equal(n_free, pool->n_free);
    for (int32_t i = 0; i < pool->n_free; i++)
        assert_int_equal(seen[pool->free_list[i]]--, 0); /* -1 afterwards: listed twice would show */
    assert_int_equal(r->base.host.bytes_live, sl_blocks_bytes(pool));
}

/* ---- acting
 * ---------------------------------------------------------------------------------------------------------- */

static int32_t pick(rig *r, int want_open) {
    return store_pick(&r->base, &r->plain[0].is_open, sizeof r->plain[0], MAX_SEQS, want_open);
}

static void act_open(rig *r) {
    int32_t id = pick(r, 0), parent = draw(r, 3) > 0 ? pick(r, 1) : -1;
    if (id < 0)
        return;
    int64_t upto = parent >= 0 ? draw(r, r->plain[parent].n + 1) : 0;
    assert_int_equal(store.open(r->base.self, id, parent, upto, NULL), SL_OK);
    if (parent >= 0)
        r->plain[id] = r->plain[parent];
    r->plain[id].is_open = 1;
    r->plain[id].n = upto;
}

static void act_close(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    store.close(r->base.self, id);
    r->plain[id].is_open = 0;
}

static void act_truncate(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    int64_t n = draw(r, r->plain[id].n + 1), minimum = -1;
    assert_int_equal(store.truncate(r->base.self, id, n, &minimum), SL_OK);
    r->plain[id].n = n;
    assert_int_equal(store.truncate(r->base.self, id, n + 1, &minimum), SL_E_RANGE);
}

/* One of the next operations finds no memory, half of the time. */
static void make_scarce(rig *r, int scarce) {
    r->base.host.budget = scarce ? r->base.host.bytes_live + draw(r, 3) * r->base.self->page_bytes : -1;
}

static void act_grow(rig *r, int scarce) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    make_scarce(r, scarce);
    sl_status s = store.grow(r->base.self, id, r->plain[id].n + draw(r, MAX_CONTEXT - r->plain[id].n + 1), NULL);
    assert_true(s == SL_OK || (scarce && s == SL_E_NO_MEMORY));
    make_scarce(r, 0);
}

/* A step over 1 to 4 sequences: reserve, append to all layers, look, commit a part. */
static void act_step(rig *r, int scarce, int grown) {
    store_step now;
    int32_t index[MAX_ROWS];
    int want = 1 + (int)draw(r, 4), first = (int)draw(r, MAX_SEQS);
    store_step_init(&now);
    for (int32_t i = 0; i < MAX_SEQS && now.batch.n_seqs < want; i++) {
        int32_t id = (first + i) % MAX_SEQS;
        int64_t room = MAX_CONTEXT - r->plain[id].n;
        if (r->plain[id].is_open && room > 0)
            store_step_add(&r->base, &now, id, r->plain[id].n, 1 + draw(r, room < MAX_STAGED ? room : MAX_STAGED),
                           SL_STAGE_VERIFY);
    }
    const sl_batch *b = &now.batch;
    if (b->n_seqs == 0)
        return;
    for (int32_t i = 0; i < b->n_rows; i++)
        index[i] = i;
    now.rows.index = draw(r, 2) ? index : NULL;
    for (int i = 0; grown && i < b->n_seqs; i++)
        assert_int_equal(store.grow(r->base.self, now.seq[i], now.past[i] + store_step_rows(&now, i), NULL), SL_OK);
    int64_t before = r->base.host.n_allocations;
    make_scarce(r, scarce);
    sl_status s = store.reserve(r->base.self, b, NULL);
    make_scarce(r, 0);
    assert_true(s == SL_OK || (scarce && s == SL_E_NO_MEMORY));
    if (s < 0)
        return;
    assert_true(!grown || r->base.host.n_allocations == before);
    before = r->base.host.n_allocations;
    for (int l = 0; l < LAYERS; l++) {
        sl_kv_append args = store_step_append(&now, NULL, l, shapes[l], store_element);
        assert_int_equal(store.append(r->base.self, &args), SL_OK);
    }
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *seen;
        assert_int_equal(store.view(r->base.self, NULL, l, &now.rows, NULL, &seen), SL_OK);
        for (int i = 0; i < b->n_seqs; i++) {
            plain_seq *p = &r->plain[now.seq[i]];
            memcpy(p->row + p->n, now.number + now.begin[i], sizeof *p->row * (size_t)store_step_rows(&now, i));
            check_rows(r, seen, i, l, p->row, p->n + store_step_rows(&now, i));
        }
    }
    for (int i = 0; i < b->n_seqs; i++) {
        plain_seq *p = &r->plain[now.seq[i]];
        store_step_keep_some(&r->base, &now, i);
        for (int32_t k = 0; k < store_step_kept(&now, i); k++)
            p->row[p->n++] = store_step_number(&now, i, k);
    }
    assert_int_equal(store.commit(r->base.self, NULL, &now.commit, NULL), SL_OK);
    assert_int_equal(r->base.host.n_allocations, before);
}

/* Exports a sequence and imports it into a new one, in another dtype at times. */
static void act_copy(rig *r, int scarce) {
    int32_t from = pick(r, 1), to = pick(r, 0);
    if (from < 0 || to < 0)
        return;
    int64_t n = r->plain[from].n;
    sl_dtype type = draw(r, 2) ? SL_F32 : SL_BF16;
    assert_int_equal(store.open(r->base.self, to, -1, 0, NULL), SL_OK);
    r->plain[to].is_open = 1;
    r->plain[to].n = 0;
    static char buffer[MAX_CONTEXT * 2 * MAX_WIDTH * 4];
    sl_status s = SL_OK;
    for (int l = 0; l < LAYERS && s == SL_OK; l++) {
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .buffer = buffer,
                           .end = n,
                           .bytes = sizeof buffer,
                           .layer = l,
                           .seq = from,
                           .direction = SL_COPY_EXPORT,
                           .dtype = type};
        memset(buffer, 0x55, sizeof buffer);
        assert_int_equal(store.copy_rows(r->base.self, &copy, NULL), SL_OK);
        copy.seq = to;
        copy.direction = SL_COPY_IMPORT;
        make_scarce(r, scarce);
        s = store.copy_rows(r->base.self, &copy, NULL);
        make_scarce(r, 0);
        assert_true(s == SL_OK || (scarce && s == SL_E_NO_MEMORY));
    }
    if (s == SL_OK) {
        memcpy(r->plain[to].row, r->plain[from].row, sizeof r->plain[to].row);
        r->plain[to].n = n;
    } else {
        store.close(r->base.self, to);
        r->plain[to].is_open = 0;
    }
}

static void run_random(const char *const *sets, uint32_t compute, int rounds) {
    rig r;
    open_rig(&r, sets, compute);
    for (int i = 0; i < rounds; i++) {
        int64_t what = draw(&r, 100);
        int scarce = draw(&r, 10) == 0;
        if (what < 15)
            act_open(&r);
        else if (what < 22)
            act_close(&r);
        else if (what < 32)
            act_truncate(&r);
        else if (what < 40)
            act_grow(&r, scarce);
        else if (what < 45)
            act_copy(&r, scarce);
        else
            act_step(&r, scarce, !scarce && draw(&r, 2));
        check_books(&r);
        int32_t id = (int32_t)draw(&r, MAX_SEQS);
        if (r.plain[id].is_open)
            check_sequence(&r, id);
        if (i % 64 == 0)
            for (id = 0; id < MAX_SEQS; id++)
                if (r.plain[id].is_open)
                    check_sequence(&r, id);
    }
    for (int32_t id = 0; id < MAX_SEQS; id++) {
        if (r.plain[id].is_open)
            store.close(r.base.self, id);
        r.plain[id].is_open = 0;
    }
    check_books(&r);
    assert_int_equal(r.base.self->pool.n_free, r.base.self->pool.n_ids - r.base.self->pool.n_idle);
    close_rig(&r);
}

/* ---- the tests
 * ------------------------------------------------------------------------------------------------------- */

static int rounds(void) { return test_length() == 0 ? 2500 : test_length() == 1 ? 25000 : 100000; }

static void test_random_page_1(void **state) {
    (void)state;
    run_random((const char *const[]){"page=1", NULL}, SL_F32, rounds());
}
static void test_random_page_4(void **state) {
    (void)state;
    run_random((const char *const[]){"page=4", "dtype=f32", NULL}, SL_BF16, rounds());
}
static void test_random_page_7(void **state) {
    (void)state;
    run_random((const char *const[]){"page=7", "dtype=bf16", NULL}, SL_F32, rounds());
}
static void test_random_page_64(void **state) {
    (void)state;
    run_random((const char *const[]){"page=64", NULL}, SL_BF16, rounds());
}

/* dtype = auto follows engine.compute; the quote is what the pages of such sequences take. */
static void test_layout_and_quote(void **state) {
    (void)state;
    rig r;
    static const sl_dtype types[] = {SL_F32, SL_BF16};
    for (int i = 0; i < 2; i++) {
        open_rig(&r, (const char *const[]){"page=16", NULL}, types[i]);
        sl_kv_layout how = {.struct_size = SL_SIZE(sl_kv_layout)};
        assert_int_equal(store.layout(r.base.self, 1, &how), SL_OK);
        assert_int_equal(how.dtype, types[i]);
        assert_int_equal(how.kinds, SL_SEGMENT_ROWS);
        assert_true(how.flags & SL_KV_FORKS && how.flags & SL_KV_TRUNCATES && how.flags & SL_KV_EXPORTS);
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 2, .n_tokens = 17};
        assert_int_equal(store.quote(r.base.self, &q), SL_OK);
        for (int32_t id = 0; id < 2; id++) {
            assert_int_equal(store.open(r.base.self, id, -1, 0, NULL), SL_OK);
            assert_int_equal(store.grow(r.base.self, id, 17, NULL), SL_OK);
        }
        assert_int_equal(r.base.host.bytes_live, q.bytes);
        close_rig(&r);
    }
}

/* What grow refuses it has not taken, and it says how much was missing. */
static void test_no_memory(void **state) {
    (void)state;
    rig r;
    open_rig(&r, (const char *const[]){"page=4", NULL}, SL_F32);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    r.base.host.budget = 3 * r.base.self->page_bytes;
    SL_ERROR(err);
    assert_int_equal(store.grow(r.base.self, 0, 13, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "does not fit"));
    assert_int_equal(r.base.host.bytes_live, 0);
    assert_int_equal(store.grow(r.base.self, 0, 12, &err), SL_OK);
    assert_int_equal(r.base.host.bytes_live, 3 * r.base.self->page_bytes);
    /* a second sequence gets none of the pages that were promised to the first */
    assert_int_equal(store.open(r.base.self, 1, -1, 0, NULL), SL_OK);
    assert_int_equal(store.grow(r.base.self, 1, 1, &err), SL_E_NO_MEMORY);
    store.close(r.base.self, 0);
    assert_int_equal(store.grow(r.base.self, 1, 12, &err), SL_OK);
    assert_int_equal(store.grow(r.base.self, 1, MAX_CONTEXT * 2, &err), SL_E_RANGE);
    store.close(r.base.self, 1);
    close_rig(&r);
}

/* A fork asked to grow can write although its parent is there, and the parent, asked again, can write although forked.
 */
static void test_grow_counts_shared_pages(void **state) {
    (void)state;
    rig r;
    open_rig(&r, (const char *const[]){"page=8", NULL}, SL_F32);
    r.plain[0].is_open = 1;
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    while (r.plain[0].n < 3)
        act_step(&r, 0, 1);
    assert_int_equal(store.grow(r.base.self, 0, MAX_CONTEXT, NULL), SL_OK);
    for (int32_t id = 1; id < 4; id++) {
        assert_int_equal(store.open(r.base.self, id, 0, r.plain[0].n, NULL), SL_OK);
        r.plain[id] = r.plain[0];
    }
    for (int i = 0; i < 40; i++) {
        act_step(&r, 0, 1); /* fails when reserve allocates */
        check_books(&r);
    }
    for (int32_t id = 0; id < 4; id++)
        check_sequence(&r, id);
    close_rig(&r);
}

static void test_refused(void **state) {
    (void)state;
    rig r;
    open_rig(&r, (const char *const[]){"page=4", NULL}, SL_F32);
    int64_t n, bytes;
    SL_ERROR(err);
    assert_int_equal(store.open(r.base.self, MAX_SEQS, -1, 0, &err), SL_E_RANGE);
    assert_int_equal(store.open(r.base.self, -1, -1, 0, &err), SL_E_RANGE);
    assert_int_equal(store.open(r.base.self, 1, 0, 0, &err), SL_E_STATE); /* the parent is not open */
    assert_int_equal(store.open(r.base.self, 0, -1, 0, &err), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, &err), SL_E_STATE);
    assert_int_equal(store.open(r.base.self, 1, 0, 1, &err), SL_E_STATE); /* more than the parent has */
    assert_int_equal(store.length(r.base.self, 1, &n, &bytes), SL_E_NOT_FOUND);
    float buffer[64] = {0};
    sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                       .buffer = buffer,
                       .end = 1,
                       .bytes = 4,
                       .direction = SL_COPY_IMPORT,
                       .dtype = SL_F32};
    assert_int_equal(store.copy_rows(r.base.self, &copy, &err), SL_E_RANGE); /* the buffer is too small */
    copy.bytes = sizeof buffer;
    copy.layer = LAYERS;
    assert_int_equal(store.copy_rows(r.base.self, &copy, &err), SL_E_RANGE);
    copy.layer = 0;
    copy.begin = 1, copy.end = 2;
    assert_int_equal(store.copy_rows(r.base.self, &copy, &err), SL_E_RANGE); /* leaves a gap */
    const int32_t ids[] = {0}, begin[] = {0, 1};
    const int64_t past[] = {5};
    sl_batch b = {
        .struct_size = SL_SIZE(sl_batch), .seq = ids, .row_begin = begin, .n_past = past, .n_seqs = 1, .n_rows = 1};
    assert_int_equal(store.reserve(r.base.self, &b, &err), SL_E_STATE); /* behind what is there */
    store.close(r.base.self, 0);
    store.close(r.base.self, 0); /* once is enough, twice is no harm */
    assert_null(plugin.query(r.base.self, "sl.kv.store/9"));
    close_rig(&r);
    plugin.destroy(NULL);
}

static void test_page_pool(void **state) {
    (void)state;
    test_host host;
    test_host_init(&host);
    sl_blocks pool;
    sl_blocks_init(&pool, &host.host, &host.mem, 128);
    assert_int_equal(sl_blocks_take(&pool), -1);
    assert_int_equal(sl_blocks_add(&pool, 0), SL_OK);
    host.budget = 128 * 5;
    assert_int_equal(sl_blocks_add(&pool, 3), SL_OK);
    assert_int_equal(sl_blocks_add(&pool, 3), SL_E_NO_MEMORY);
    assert_int_equal(pool.n_ids - pool.n_idle, 3);
    assert_int_equal(pool.n_free, 3);
    assert_int_equal(sl_blocks_add(&pool, INT64_MAX / 64), SL_E_NO_MEMORY);
    int32_t a = sl_blocks_take(&pool), b = sl_blocks_take(&pool), c = sl_blocks_take(&pool);
    assert_true(a >= 0 && b >= 0 && c >= 0 && a != b && b != c && a != c);
    assert_int_equal(sl_blocks_take(&pool), -1);
    sl_blocks_share(&pool, b);
    sl_blocks_drop(&pool, b);
    assert_int_equal(sl_blocks_take(&pool), -1);
    sl_blocks_drop(&pool, b);
    assert_int_equal(sl_blocks_take(&pool), b);
    char *kept = pool.base[a];
    assert_int_equal(sl_blocks_add(&pool, 2), SL_OK);
    assert_ptr_equal(kept, pool.base[a]); /* pages never move */
    for (int32_t i = 0; i < 5; i++)
        assert_int_equal((uintptr_t)pool.base[i] % 64, 0);
    sl_blocks_finish(&pool);
    assert_int_equal(host.n_live, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_pool),      cmocka_unit_test(test_random_page_1),
        cmocka_unit_test(test_random_page_4),  cmocka_unit_test(test_random_page_7),
        cmocka_unit_test(test_random_page_64), cmocka_unit_test(test_layout_and_quote),
        cmocka_unit_test(test_no_memory),      cmocka_unit_test(test_grow_counts_shared_pages),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("paged_plugin", tests, NULL, NULL);
}
