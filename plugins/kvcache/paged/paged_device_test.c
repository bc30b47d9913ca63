/* paged on a device: random forks, appends, cuts, copies and accepted paths against a store that is nothing but arrays,
 * what policies drop included, on a lane that does its work late. Rows are read as kernels read them: through tables in
 * device memory. */
#include "paged.c"
#include "paged_device.c"
#include "paged_heads.c"

#include "store_rig.h"
#include "test_lane.h"

enum {
    LAYERS = 3,
    MAX_SEQS = 6,
    MAX_CONTEXT = 40,
    MAX_STAGED = 8,
    MAX_ROWS = 4 * MAX_STAGED,
    MAX_WIDTH = 24,
    MAX_KV = 3
};

/* Layers of different shapes: KV heads, key size, value size. */
static const int32_t shapes[LAYERS][3] = {{2, 4, 4}, {1, 8, 3}, {3, 2, 8}};

/* Which rows a head of a layer holds; their content follows from the number. */
typedef struct plain_head {
    int64_t n;
    int32_t row[MAX_CONTEXT + MAX_STAGED];
} plain_head;

typedef struct plain_seq {
    int is_open;
    int64_t n, n_edited; /* tokens, and how many there were when rows were dropped last */
    plain_head head[LAYERS][MAX_KV];
    int64_t token[LAYERS][MAX_KV][MAX_CONTEXT + MAX_STAGED];
} plain_seq;

typedef struct rig {
    store_rig base;
    test_lane lane;
    plain_seq plain[MAX_SEQS];
} rig;

static const sl_limits ordinary = {.struct_size = SL_SIZE(sl_limits),
                                   .max_context = MAX_CONTEXT,
                                   .max_rows = MAX_ROWS,
                                   .max_seqs = MAX_SEQS,
                                   .max_tree = MAX_STAGED,
                                   .n_workers = 1,
                                   .compute = SL_BF16};

static sl_status make(rig *r, const char *const *sets, const sl_limits *limits, sl_error *err) {
    memset(r, 0, sizeof *r);
    store_model(&r->base, shapes, LAYERS, 1, 4711);
    test_lane_init(&r->lane, &r->base.host);
    sl_scope scope = store_scope(&r->base, SL_DEVICE_CUDA);
    return store_make(&r->base, &plugin, sets, &scope, limits, err);
}

static void close_rig(rig *r) {
    test_lane_finish(&r->lane);
    store_close(&r->base);
}

static int64_t draw(rig *r, int64_t n) { return store_draw(&r->base, n); }

/* Rows of a sequence in one layer, by the addresses that sl_view_device promises. */
static void check_rows(const sl_view_device *v, int32_t seq, int layer, const plain_seq *expected) {
    assert_int_equal(v->n_heads, shapes[layer][0]);
    for (int32_t h = 0; h < v->n_heads; h++)
        for (int64_t slot = 0; slot < expected->head[layer][h].n; slot++) {
            int64_t at = v->pages[seq * v->pages_stride + slot / v->page_rows], r = slot % v->page_rows;
            for (int which = 0; which < 2; which++) {
                int32_t width = shapes[layer][1 + which];
                const char *p =
                    which == 0 ? (char *)v->k_pool + at * v->k_page_stride + r * v->k_row_stride + h * v->k_head_stride
                               : (char *)v->v_pool + at * v->v_page_stride + r * v->v_row_stride + h * v->v_head_stride;
                for (int32_t d = 0; d < width; d++) {
                    uint16_t got,
                        want =
                            store_bf16(store_element(expected->head[layer][h].row[slot], layer, which, h * width + d));
                    memcpy(&got, p + 2 * d, sizeof got);
                    if (got != want)
                        fail_msg("layer %d, %s of slot %lld of sequence %d, head %d, element %d: %04x, expected %04x",
                                 layer, which == 0 ? "key" : "value", (long long)slot, seq, h, d, got, want);
                }
            }
        }
}

/* What the host is told: rows and token indices by head. */
static void check_told(rig *r, int32_t seq) {
    const plain_seq *p = &r->plain[seq];
    const int32_t ids[] = {seq}, begin[] = {0, 0};
    const int64_t past[] = {p->n};
    sl_batch b = {.struct_size = SL_SIZE(sl_batch), .seq = ids, .row_begin = begin, .n_past = past, .n_seqs = 1};
    sl_rows none = {.struct_size = SL_SIZE(sl_rows), .batch = &b};
    sl_lane cpu = {.struct_size = SL_SIZE(sl_lane), .device = SL_DEVICE_CPU};
    for (int l = 0; l < LAYERS; l++) {
        int64_t n_rows[MAX_KV], seen = 0;
        const sl_view *v;
        assert_int_equal(store.rows(r->base.self, l, seq, n_rows), SL_OK);
        assert_int_equal(store.view(r->base.self, &cpu, l, &none, NULL, &v), SL_OK);
        assert_null(v->device);
        for (int32_t i = 0; i < v->seqs[0]->n_segments; i++) {
            const sl_segment *g = v->seqs[0]->segments[i];
            assert_null(g->k_pages);
            for (int32_t h = g->head_begin; h < g->head_begin + g->n_heads; h++, seen++) {
                assert_int_equal(g->n_committed, p->head[l][h].n);
                assert_int_equal(n_rows[h], p->head[l][h].n);
                for (int64_t k = 0; k < g->n_committed; k++)
                    assert_int_equal(g->token_index != NULL ? g->token_index[k] : k, p->token[l][h][k]);
            }
        }
        assert_int_equal(seen, shapes[l][0]);
    }
}

static void cut(plain_seq *p, int64_t n) {
    p->n = n;
    for (int l = 0; l < LAYERS; l++)
        for (int32_t h = 0; h < shapes[l][0]; h++)
            while (p->head[l][h].n > 0 && p->token[l][h][p->head[l][h].n - 1] >= n)
                p->head[l][h].n--;
    if (n == 0)
        p->n_edited = 0;
}

static int32_t pick(rig *r, int want_open) {
    return store_pick(&r->base, &r->plain[0].is_open, sizeof r->plain[0], MAX_SEQS, want_open);
}

static void act_open(rig *r) {
    int32_t id = pick(r, 0), parent = draw(r, 3) > 0 ? pick(r, 1) : -1;
    if (id < 0)
        return;
    int64_t upto = parent >= 0 ? draw(r, r->plain[parent].n + 1) : 0;
    if (parent >= 0 && upto > 0 && upto < r->plain[parent].n_edited) {
        assert_int_equal(store.open(r->base.self, id, parent, upto, NULL), SL_E_RANGE);
        return;
    }
    assert_int_equal(store.open(r->base.self, id, parent, upto, NULL), SL_OK);
    r->plain[id] = parent >= 0 ? r->plain[parent] : (plain_seq){0};
    r->plain[id].is_open = 1;
    cut(&r->plain[id], upto);
}

static void act_close_or_cut(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    if (draw(r, 2)) {
        store.close(r->base.self, id);
        r->plain[id].is_open = 0;
        return;
    }
    int64_t n = draw(r, r->plain[id].n + 1);
    if (n > 0 && n < r->plain[id].n_edited) {
        int64_t least = 0;
        assert_int_equal(store.truncate(r->base.self, id, n, &least), SL_E_RANGE);
        assert_int_equal(least, r->plain[id].n_edited);
        return;
    }
    assert_int_equal(store.truncate(r->base.self, id, n, NULL), SL_OK);
    cut(&r->plain[id], n);
}

/* A policy drops rows of one layer: by head, or in none. */
static void act_edit(rig *r) {
    int32_t id = pick(r, 1), l = (int32_t)draw(r, LAYERS), keep[MAX_KV * MAX_CONTEXT], pages = 0;
    int64_t begin[MAX_KV + 1] = {0}, longest = 0;
    if (id < 0)
        return;
    plain_seq *p = &r->plain[id];
    int drops = 0;
    for (int32_t h = 0; h < shapes[l][0]; h++) {
        plain_head *now = &p->head[l][h];
        int64_t n = 0, share = draw(r, 5);
        for (int64_t k = 0; k < now->n; k++)
            if (draw(r, 4) < share) {
                keep[begin[h] + n] = (int32_t)k;
                n++;
            }
        begin[h + 1] = begin[h] + n;
        drops |= n < now->n;
        for (int64_t k = 0; k < n; k++) {
            now->row[k] = now->row[keep[begin[h] + k]];
            p->token[l][h][k] = p->token[l][h][keep[begin[h] + k]];
        }
        now->n = n;
    }
    sl_kv_edit edit = {.struct_size = SL_SIZE(sl_kv_edit), .keep_begin = begin, .keep = keep, .layer = l, .seq = id};
    assert_int_equal(store.edit(r->base.self, &edit), SL_OK);
    memset(keep, 0x7f, sizeof keep); /* the store may not look at it again */
    if (!drops)
        return;
    p->n_edited = p->n;
    for (int k = 0; k < LAYERS; k++)
        for (int32_t h = 0; h < shapes[k][0]; h++)
            longest = p->head[k][h].n > longest ? p->head[k][h].n : longest;
    pages = (int32_t)((longest + r->base.self->page_rows - 1) / r->base.self->page_rows);
    assert_int_equal(r->base.self->seqs[id].n_pages, pages);
    check_told(r, id);
}

/* A step over 1 to 4 sequences. late: the lane does nothing before the next step was queued too. */
static void act_step(rig *r, int late) {
    store_step now;
    int want = 1 + (int)draw(r, 4), first = (int)draw(r, MAX_SEQS);
    store_step_init(&now);
    for (int32_t i = 0; i < MAX_SEQS && now.batch.n_seqs < want; i++) {
        int32_t id = (first + i) % MAX_SEQS;
        int64_t room = MAX_CONTEXT - r->plain[id].n;
        if (r->plain[id].is_open && room > 0)
            store_step_add(&r->base, &now, id, r->plain[id].n, 1 + draw(r, room < MAX_STAGED ? room : MAX_STAGED),
                           SL_STAGE_VERIFY);
    }
    int32_t n_seqs = now.batch.n_seqs;
    if (n_seqs == 0)
        return;
    for (int i = 0; i < n_seqs; i++)
        assert_int_equal(store.grow(r->base.self, now.seq[i], now.past[i] + store_step_rows(&now, i), NULL), SL_OK);
    int64_t before = r->base.host.n_allocations;
    assert_int_equal(store.reserve(r->base.self, &now.batch, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *seen;
        sl_kv_append args = store_step_append(&now, &r->lane.lane, l, shapes[l], store_element);
        assert_int_equal(store.append(r->base.self, &args), SL_OK);
        assert_int_equal(store.view(r->base.self, &r->lane.lane, l, &now.rows, NULL, &seen), SL_OK);
        assert_null(seen->seqs);
        assert_ptr_equal(seen->device->pages, r->base.self->device->tables.pages);
    }
    for (int i = 0; i < n_seqs; i++) {
        plain_seq *p = &r->plain[now.seq[i]];
        store_step_keep_some(&r->base, &now, i);
        for (int32_t k = 0; k < store_step_kept(&now, i); k++, p->n++)
            for (int l = 0; l < LAYERS; l++)
                for (int32_t h = 0; h < shapes[l][0]; h++) {
                    plain_head *to = &p->head[l][h];
                    p->token[l][h][to->n] = p->n;
                    to->row[to->n++] = store_step_number(&now, i, k);
                }
    }
    assert_int_equal(store.commit(r->base.self, &r->lane.lane, &now.commit, NULL), SL_OK);
    assert_int_equal(r->base.host.n_allocations, before);
    if (late)
        return;
    test_lane_run(&r->lane);
    for (int i = 0; i < n_seqs; i++)
        for (int l = 0; l < LAYERS; l++)
            check_rows(&r->base.self->device->views[l], now.seq[i], l, &r->plain[now.seq[i]]);
}

/* Exports a sequence and imports it into a new one. */
static void act_copy(rig *r) {
    int32_t from = pick(r, 1), to = pick(r, 0);
    static char buffer[MAX_CONTEXT * 2 * MAX_WIDTH * 4];
    if (from < 0 || to < 0 || r->plain[from].n_edited > 0)
        return;
    assert_int_equal(store.open(r->base.self, to, -1, 0, NULL), SL_OK);
    sl_dtype type = draw(r, 2) ? SL_F32 : SL_BF16;
    for (int l = 0; l < LAYERS; l++) {
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .buffer = buffer,
                           .end = r->plain[from].n,
                           .bytes = sizeof buffer,
                           .layer = l,
                           .seq = from,
                           .direction = SL_COPY_EXPORT,
                           .dtype = type};
        memset(buffer, 0x55, sizeof buffer);
        assert_int_equal(store.copy_rows(r->base.self, &copy, NULL), SL_OK);
        copy.seq = to;
        copy.direction = SL_COPY_IMPORT;
        assert_int_equal(store.copy_rows(r->base.self, &copy, NULL), SL_OK);
    }
    r->plain[to] = r->plain[from];
}

static void rows_are_where_the_tables_say(void **state) {
    (void)state;
    static const char *const pages[] = {"page=1", "page=4", "page=16"};
    for (int p = 0; p < 3; p++)
        for (int how = 0; how < 4; how++) {
            rig r;
            int late = how % 2, edits = how / 2;
            const char *const sets[] = {pages[p], NULL};
            assert_int_equal(make(&r, sets, &ordinary, NULL), SL_OK);
            r.base.seed += (uint64_t)p;
            if (late) /* so that the ring comes round */
                r.base.self->device->words.n = 160;
            for (int i = 0; i < 1500; i++) {
                int64_t what = draw(&r, 10);
                if (what < 2)
                    act_open(&r);
                else if (what < 3)
                    act_close_or_cut(&r);
                else if (what < 4)
                    act_copy(&r);
                else if (what < 6 && edits)
                    act_edit(&r);
                else
                    act_step(&r, late && draw(&r, 8) > 0);
            }
            assert_true(!late || r.lane.n_syncs > 0);
            close_rig(&r);
        }
}

/* Only entries that changed travel: one copy a page of a sequence that grows row by row. */
static void decoding_copies_a_word_a_page(void **state) {
    (void)state;
    rig r;
    const char *const sets[] = {"page=8", NULL};
    assert_int_equal(make(&r, sets, &ordinary, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 2, -1, 0, NULL), SL_OK);
    for (int64_t n = 0; n < 32; n++) {
        const int32_t ids[] = {2}, begin[] = {0, 1}, row_seq[] = {0}, path_begin[] = {0, 1}, path[] = {0};
        const int64_t past[] = {n};
        sl_batch b = {.struct_size = SL_SIZE(sl_batch),
                      .seq = ids,
                      .row_begin = begin,
                      .n_past = past,
                      .row_seq = row_seq,
                      .n_seqs = 1,
                      .n_rows = 1};
        sl_commit done = {.struct_size = SL_SIZE(sl_commit), .batch = &b, .path_begin = path_begin, .path = path};
        assert_int_equal(store.reserve(r.base.self, &b, NULL), SL_OK);
        assert_int_equal(store.commit(r.base.self, &r.lane.lane, &done, NULL), SL_OK);
    }
    assert_int_equal(r.lane.n_copies, 4);
    assert_int_equal(r.lane.n_syncs, 0);
    close_rig(&r);
}

static int64_t pool_bytes(const rig *r) { return r->base.self->pool.n_ids * r->base.self->page_bytes; }

static void pools_keep_within_their_limits(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    const char *const sets[] = {"page=4", NULL};
    sl_limits limits = ordinary;
    limits.max_rows = 8, limits.max_tree = 1;
    /* nothing is short: every sequence at its longest */
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    assert_int_equal(r.base.self->pool.n_ids, limits.max_seqs * r.base.self->max_pages);
    int64_t one = r.base.self->page_bytes;
    close_rig(&r);
    /* engine.kv_memory_mb, and the books when it is used up */
    limits.kv_bytes = 7 * one + one / 2;
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    assert_int_equal(pool_bytes(&r), 7 * one);
    assert_int_equal(store.grow(r.base.self, 0, 28, NULL), SL_OK);
    assert_int_equal(store.grow(r.base.self, 0, 29, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "the cache does not fit"));
    assert_int_equal(store.open(r.base.self, 1, -1, 0, NULL), SL_OK);
    assert_int_equal(store.grow(r.base.self, 1, 1, &err), SL_E_NO_MEMORY);
    store.close(r.base.self, 0);
    assert_int_equal(store.grow(r.base.self, 1, 1, NULL), SL_OK);
    close_rig(&r);
    /* another store has two of three layers: this one takes its part */
    limits.kv_bytes = 8 * one;
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    plugin.deactivate(r.base.self);
    r.base.self->served[0] = r.base.self->served[2] = 0;
    assert_int_equal(plugin.activate(r.base.self, &limits, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    assert_int_equal(r.base.self->pool.n_ids, 8);
    assert_true(r.base.self->page_bytes < one);
    assert_int_equal(r.base.self->device->n_served, 1);
    close_rig(&r);
    /* what is free is less, and what can be had still less */
    limits.kv_bytes = 0;
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    r.lane.memory_free = ((int64_t)64 << 20) + 64 * one;
    r.lane.memory_free += r.lane.memory_free / 31;
    r.base.host.budget = r.base.host.bytes_live + 20 * one;
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    assert_in_range(r.base.self->pool.n_ids, 12, 20);
    close_rig(&r);
    /* too little to work with is said before anything runs */
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    r.base.host.budget = r.base.host.bytes_live + one;
    assert_int_equal(store.open(r.base.self, 0, -1, 0, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "needs 3 pages"));
    r.base.host.budget = -1;
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    close_rig(&r);
}

static void lists_reach_the_view(void **state) {
    (void)state;
    rig r;
    assert_int_equal(make(&r, NULL, &ordinary, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    static const int32_t slots[8], n[2];
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows)};
    sl_rowset set = {.struct_size = SL_SIZE(sl_rowset),
                     .n_units = 1,
                     .n_groups = 2,
                     .device_token = slots,
                     .device_n = n,
                     .device_stride = 4};
    const sl_view *v = NULL, *whole = NULL;
    assert_int_equal(store.view(r.base.self, &r.lane.lane, 0, &rows, &set, &v), SL_OK);
    assert_ptr_equal(v->device->list, slots);
    assert_ptr_equal(v->device->list_n, n);
    assert_int_equal(v->device->list_stride, 4);
    assert_int_equal(v->device->n_groups, 2);
    assert_int_equal(store.view(r.base.self, &r.lane.lane, 0, &rows, NULL, &whole), SL_OK);
    assert_null(whole->device->list);
    set.n_groups = 3;
    assert_int_equal(store.view(r.base.self, &r.lane.lane, 0, &rows, &set, &v), SL_E_UNIMPLEMENTED);
    set.n_groups = 2, set.device_token = NULL;
    assert_int_equal(store.view(r.base.self, &r.lane.lane, 0, &rows, &set, &v), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

static void what_it_does_not_serve(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    const char *const odd[] = {"page=48", NULL};
    assert_int_equal(make(&r, odd, &ordinary, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "power of two"));
    close_rig(&r);
    assert_int_equal(make(&r, NULL, &ordinary, NULL), SL_OK);
    sl_kv_layout layout = {.struct_size = SL_SIZE(sl_kv_layout)};
    assert_int_equal(store.layout(r.base.self, 0, &layout), SL_OK);
    assert_int_not_equal(layout.flags & SL_KV_FUSES_ROPE, 0);
    int32_t merged = -1;
    sl_kv_edit edit = {.struct_size = SL_SIZE(sl_kv_edit), .merge_into = &merged};
    assert_int_equal(store.edit(r.base.self, &edit), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

static void no_memory_leaves_nothing(void **state) {
    (void)state;
    for (int64_t budget = 0; budget < 4096; budget += 512) {
        rig r;
        memset(&r, 0, sizeof r);
        assert_int_equal(make(&r, NULL, &ordinary, NULL), SL_OK);
        plugin.deactivate(r.base.self);
        assert_int_equal(r.base.host.n_live, 0);
        r.base.host.budget = budget;
        sl_status s = plugin.activate(r.base.self, &ordinary, NULL);
        assert_true(s == SL_OK || s == SL_E_NO_MEMORY);
        if (s < 0) {
            plugin.destroy(r.base.self);
            r.base.self = NULL;
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_where_the_tables_say),  cmocka_unit_test(decoding_copies_a_word_a_page),
        cmocka_unit_test(pools_keep_within_their_limits), cmocka_unit_test(lists_reach_the_view),
        cmocka_unit_test(what_it_does_not_serve),         cmocka_unit_test(no_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
