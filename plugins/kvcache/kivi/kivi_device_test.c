/* kivi on a device: random forks, steps, drafts, cuts and copies against a store that is nothing but arrays and the
 * rule of what is coded, on a lane that does its work late. Rows are read as kernels read them, through tables in
 * device memory, and codes are those of sl_minmax.c bit by bit. */
#include "kivi.c"
#include "kivi_cost.c"
#include "kivi_device.c"
#include "kivi_device_rows.c"
#include "kivi_device_seqs.c"
#include "kivi_edit.c"
#include "kivi_list.c"
#include "kivi_seqs.c"
#include "kivi_view.c"

#include "coded_rows.h"
#include "store_rig.h"
#include "test_lane.h"

enum { LAYERS = 3, MAX_SEQS = 5, MAX_CONTEXT = 300, MAX_STAGED = 40, MAX_ROWS = 3 * MAX_STAGED, WIDEST = 128, G = 32 };

/* Layers of different shapes: KV heads, key size, value size. */
static const int32_t shapes[LAYERS][3] = {{2, 32, 32}, {1, 64, 32}, {2, 32, 64}};

typedef struct plain_seq {
    int is_open;
    int64_t n, coded[2];
    int32_t row[MAX_CONTEXT + MAX_STAGED]; /* which row stands there; its content follows from the number */
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

/* ---- what should be there ------------------------------------------------------------------------------------------
 */

/* Numbers that bf16 holds, of several sizes. */
static float element_of(int32_t row, int layer, int side, int64_t e) {
    uint32_t h = store_hash(row, layer, side, e);
    uint32_t bits = (uint32_t)store_bf16(((float)(int32_t)(h % 20011) - 10005.0f) * (h % 3 == 0 ? 0.01f : 0.0007f))
                    << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void elements(int32_t row, int layer, int side, int64_t head, float *x) {
    for (int64_t d = 0, D = shapes[layer][1 + side]; d < D; d++)
        x[d] = element_of(row, layer, side, head * D + d);
}

/* Codes of a group of keys, made once for all of its rows: the last group of each head. */
typedef struct key_group {
    int32_t row[G];
    int layer, bits;
    uint8_t codes[G * WIDEST];
    uint16_t scales[WIDEST], minima[WIDEST];
} key_group;

static const key_group *group_of(const int32_t *row, int layer, int64_t head, int bits) {
    static key_group last[2];
    key_group *g = &last[head];
    if (g->bits == bits && g->layer == layer && memcmp(g->row, row, sizeof g->row) == 0)
        return g;
    int64_t D = shapes[layer][1];
    float x[G * WIDEST];
    for (int64_t i = 0; i < G; i++)
        elements(row[i], layer, KEYS, head, x + i * D);
    memcpy(g->row, row, sizeof g->row);
    g->layer = layer, g->bits = bits;
    sl_minmax_channels(x, G, D, bits, g->codes, g->scales, g->minima);
    return g;
}

/* Row `slot` as it is kept: plain, or the values of its codes. */
static void expected(const rig *r, const plain_seq *s, int layer, int side, int64_t head, int64_t slot, float *x) {
    int64_t D = shapes[layer][1 + side];
    int bits = r->base.self->bits[side];
    if (side == KEYS && slot < s->coded[KEYS]) {
        const key_group *g = group_of(s->row + slot / G * G, layer, head, bits);
        sl_minmax_values(g->codes + slot % G * D * bits / 8, g->scales, g->minima, D, 1, bits, x);
        return;
    }
    elements(s->row[slot], layer, side, head, x);
    if (slot >= s->coded[side])
        return;
    uint8_t codes[WIDEST];
    uint16_t scales[WIDEST], minima[WIDEST];
    sl_minmax_row(x, D, G, bits, codes, scales, minima);
    sl_minmax_values(codes, scales, minima, D, G, bits, x);
}

static void *where(const void *address, int64_t bytes) {
    (void)bytes;
    return (void *)(uintptr_t)address;
}

/* Rows [0, n + staged) of a sequence in all layers; rows behind n_coded are the model's. */
static void check_rows(const rig *r, int32_t seq, int64_t n) {
    const plain_seq *s = &r->plain[seq];
    const kivi_device *d = r->base.self->device;
    assert_int_equal(d->n_coded[2 * seq], s->coded[KEYS]);
    assert_int_equal(d->n_coded[2 * seq + 1], s->coded[VALUES]);
    for (int l = 0; l < LAYERS; l++)
        for (int side = KEYS; side <= VALUES; side++)
            for (int64_t h = 0; h < shapes[l][0]; h++)
                for (int64_t slot = 0; slot < n; slot++) {
                    float want[WIDEST], got[WIDEST];
                    expected(r, s, l, side, h, slot, want);
                    coded_read(&d->views[l], seq, h, slot, side, where, got);
                    if (memcmp(want, got, sizeof *want * (size_t)shapes[l][1 + side]) != 0)
                        fail_msg("layer %d, %s of slot %lld of sequence %d (%lld tokens, coded %lld, %lld), head %lld",
                                 l, side == KEYS ? "key" : "value", (long long)slot, seq, (long long)s->n,
                                 (long long)s->coded[KEYS], (long long)s->coded[VALUES], (long long)h);
                }
}

/* What an event codes. */
static void code(const rig *r, plain_seq *s) {
    int64_t R = r->base.self->R;
    s->coded[KEYS] += (s->n - s->coded[KEYS]) / R * R;
    int64_t values = s->n - R < s->coded[KEYS] ? s->n - R : s->coded[KEYS];
    s->coded[VALUES] = values > s->coded[VALUES] ? values : s->coded[VALUES];
}

static int may_cut(const plain_seq *s, int64_t n) { return n == 0 || n == s->n || n >= s->coded[KEYS] || n % G == 0; }

static void cut(plain_seq *s, int64_t n) {
    s->n = n;
    for (int side = KEYS; side <= VALUES; side++)
        s->coded[side] = s->coded[side] < n ? s->coded[side] : n;
}

/* Every page is held as often as the lists say, and what is promised is there. */
static void check_books(const rig *r) {
    const kivi_device *d = r->base.self->device;
    const sl_blocks *books[] = {&d->plain, &d->coded};
    for (int kind = 0; kind < 2; kind++) {
        int32_t *held = calloc((size_t)books[kind]->n_ids + 1, sizeof *held), free_ids = 0;
        for (int32_t i = 0; i < MAX_SEQS; i++) {
            const kivi_pages *p = kind == 0 ? &d->seqs[i].plain : &d->seqs[i].coded;
            for (int64_t k = p->begin; k < p->end; k++)
                held[p->id[k]]++;
        }
        for (int32_t i = 0; i < books[kind]->n_ids; i++) {
            assert_int_equal(books[kind]->refs[i], held[i]);
            free_ids += held[i] == 0;
        }
        assert_int_equal(books[kind]->n_free, free_ids);
        free(held);
    }
}

/* ---- acts ----------------------------------------------------------------------------------------------------------
 */

static int32_t pick(rig *r, int want_open) {
    return store_pick(&r->base, &r->plain[0].is_open, sizeof r->plain[0], MAX_SEQS, want_open);
}

static int64_t some_length(rig *r, const plain_seq *s) {
    int64_t n = draw(r, s->n + 1);
    return draw(r, 2) ? n / G * G : n;
}

static void act_open(rig *r) {
    int32_t id = pick(r, 0), parent = draw(r, 3) > 0 ? pick(r, 1) : -1;
    if (id < 0)
        return;
    int64_t upto = parent >= 0 ? some_length(r, &r->plain[parent]) : 0;
    int ok = parent < 0 || may_cut(&r->plain[parent], upto);
    assert_int_equal(store.open(r->base.self, id, parent, upto, NULL), ok ? SL_OK : SL_E_RANGE);
    if (!ok)
        return;
    if (parent >= 0)
        r->plain[id] = r->plain[parent];
    r->plain[id].is_open = 1;
    cut(&r->plain[id], upto);
}

static void act_close_or_cut(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    plain_seq *s = &r->plain[id];
    if (draw(r, 2)) {
        store.close(r->base.self, id);
        s->is_open = 0;
        return;
    }
    int64_t n = some_length(r, s), minimum = -1;
    assert_int_equal(store.truncate(r->base.self, id, n, &minimum), may_cut(s, n) ? SL_OK : SL_E_RANGE);
    if (!may_cut(s, n)) {
        assert_int_equal(minimum, s->coded[KEYS] % G == 0 ? s->coded[KEYS] : minimum);
        assert_true(minimum > n);
        return;
    }
    cut(s, n);
}

/* A step over 1 to 3 sequences: rows of a prompt (which stays plain), or of decoding. late: the lane does nothing
 * before the next act. */
static void act_step(rig *r, int late) {
    store_step now;
    int want = 1 + (int)draw(r, 3), first = (int)draw(r, MAX_SEQS);
    store_step_init(&now);
    for (int32_t i = 0; i < MAX_SEQS && now.batch.n_seqs < want; i++) {
        int32_t id = (first + i) % MAX_SEQS;
        plain_seq *s = &r->plain[id];
        int64_t room = MAX_CONTEXT - s->n;
        if (!s->is_open || room == 0)
            continue;
        uint32_t stage = draw(r, 3) == 0 ? SL_STAGE_PREFILL : SL_STAGE_VERIFY;
        if (stage != SL_STAGE_PREFILL)
            code(r, s); /* the step before had no event, or not the last */
        store_step_add(&r->base, &now, id, s->n, 1 + draw(r, room < MAX_STAGED ? room : MAX_STAGED), stage);
    }
    int32_t n_seqs = now.batch.n_seqs;
    if (n_seqs == 0)
        return;
    int64_t before = r->base.host.n_allocations;
    int any_coded = 0;
    assert_int_equal(store.reserve(r->base.self, &now.batch, NULL), SL_OK);
    for (int i = 0; i < n_seqs; i++)
        any_coded |= r->plain[now.seq[i]].coded[KEYS] > 0;
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *seen;
        sl_kv_append args = store_step_append(&now, &r->lane.lane, l, shapes[l], element_of);
        assert_int_equal(store.append(r->base.self, &args), SL_OK);
        assert_int_equal(store.view(r->base.self, &r->lane.lane, l, &now.rows, NULL, &seen), SL_OK);
        assert_null(seen->seqs);
        assert_int_equal(seen->device->plain != NULL, any_coded); /* prompts find plain rows alone */
        r->lane.lane.capturing = 1;
        assert_int_equal(store.view(r->base.self, &r->lane.lane, l, &now.rows, NULL, &seen), SL_OK);
        r->lane.lane.capturing = 0;
        assert_ptr_equal(seen->device, &r->base.self->device->views[l]);
    }
    for (int i = 0; i < n_seqs; i++) {
        plain_seq *p = &r->plain[now.seq[i]];
        store_step_keep_some(&r->base, &now, i);
        for (int32_t k = 0; k < store_step_kept(&now, i); k++)
            p->row[p->n++] = store_step_number(&now, i, k);
    }
    assert_int_equal(store.commit(r->base.self, &r->lane.lane, &now.commit, NULL), SL_OK);
    assert_int_equal(r->base.host.n_allocations, before);
    if (!late) {
        test_lane_run(&r->lane);
        for (int i = 0; i < n_seqs; i++)
            check_rows(r, now.seq[i], r->plain[now.seq[i]].n);
    }
    for (int i = 0; i < n_seqs; i++) {
        int is_over = draw(r, 2);
        sl_event what = {.struct_size = SL_SIZE(sl_event), .seq = now.seq[i], .other = -1, .n = r->plain[now.seq[i]].n};
        what.kind = now.stage[i] != SL_STAGE_PREFILL ? SL_EVENT_COMMIT
                    : is_over                        ? SL_EVENT_PREFILL_END
                                                     : SL_EVENT_CHUNK_END;
        if (now.stage[i] != SL_STAGE_PREFILL && draw(r, 4) == 0)
            continue; /* a network without events */
        plugin.event(r->base.self, &what, NULL);
        if (what.kind != SL_EVENT_CHUNK_END)
            code(r, &r->plain[now.seq[i]]);
    }
    check_books(r);
}

/* Exports a sequence and imports it into a new one, plain; in f32 codes come out as the values that they mean. */
static void act_copy(rig *r) {
    int32_t from = pick(r, 1), to = pick(r, 0);
    static float buffer[2 * MAX_CONTEXT * 2 * WIDEST];
    if (from < 0 || to < 0)
        return;
    const plain_seq *s = &r->plain[from];
    int was_coded = s->coded[KEYS] > 0;
    assert_int_equal(store.open(r->base.self, to, -1, 0, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .buffer = buffer,
                           .end = s->n,
                           .bytes = sizeof buffer,
                           .layer = l,
                           .seq = from,
                           .direction = SL_COPY_EXPORT,
                           .dtype = SL_F32};
        assert_int_equal(store.copy_rows(r->base.self, &copy, NULL), SL_OK);
        const float *at = buffer;
        for (int side = KEYS; side <= VALUES; side++)
            for (int64_t slot = 0; slot < s->n; slot++)
                for (int64_t h = 0; h < shapes[l][0]; h++, at += shapes[l][1 + side]) {
                    float want[WIDEST];
                    expected(r, s, l, side, h, slot, want);
                    assert_memory_equal(want, at, sizeof *want * (size_t)shapes[l][1 + side]);
                }
        copy.seq = to;
        copy.direction = SL_COPY_IMPORT;
        if (!was_coded)
            assert_int_equal(store.copy_rows(r->base.self, &copy, NULL), SL_OK);
    }
    if (was_coded) { /* the values of codes are no rows of the model's */
        store.close(r->base.self, to);
        return;
    }
    r->plain[to] = *s;
}

static void rows_are_what_the_rule_says(void **state) {
    (void)state;
    static const char *const sets[][4] = {{"bits=4", "residual=32", NULL},
                                          {"bits=2", "residual=64", NULL},
                                          {"bits_k=8", "bits_v=2", "residual=128", NULL}};
    for (int p = 0; p < 3; p++)
        for (int late = 0; late < 2; late++) {
            rig r;
            assert_int_equal(make(&r, sets[p], &ordinary, NULL), SL_OK);
            r.base.seed += (uint64_t)p;
            if (late) /* so that the ring comes round */
                r.base.self->device->words.n = 800;
            for (int i = 0; i < 500; i++) {
                int64_t what = draw(&r, 12);
                if (what < 1)
                    act_open(&r);
                else if (what < 2)
                    act_close_or_cut(&r);
                else if (what < 3)
                    act_copy(&r);
                else
                    act_step(&r, late && draw(&r, 8) > 0);
            }
            assert_true(!late || r.lane.n_syncs > 0);
            close_rig(&r);
        }
}

/* ---- memory --------------------------------------------------------------------------------------------------------
 */

static sl_kv_quote quote_of(const rig *r, int64_t n_seqs, int64_t n) {
    sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = n_seqs, .n_tokens = n};
    assert_int_equal(store.quote(r->base.self, &q), SL_OK);
    return q;
}

/* Steps of one sequence: rows of a prompt in chunks, its end, then rows one by one. */
static void run_sequence(rig *r, int32_t id, int64_t prompt, int64_t n) {
    for (int64_t at = 0, rows; at < n; at += rows) {
        int is_prompt = at < prompt;
        rows = !is_prompt ? 1 : prompt - at < MAX_ROWS ? prompt - at : MAX_ROWS;
        const int32_t ids[] = {id}, begin[] = {0, (int32_t)rows};
        const int64_t past[] = {at};
        const uint32_t stage[] = {is_prompt ? SL_STAGE_PREFILL : SL_STAGE_DECODE};
        int32_t path[MAX_ROWS];
        for (int32_t i = 0; i < MAX_ROWS; i++)
            path[i] = i;
        sl_batch b = {.struct_size = SL_SIZE(sl_batch),
                      .seq = ids,
                      .row_begin = begin,
                      .n_past = past,
                      .stage = stage,
                      .n_seqs = 1,
                      .n_rows = (int32_t)rows};
        sl_commit done = {.struct_size = SL_SIZE(sl_commit), .batch = &b, .path_begin = begin, .path = path};
        assert_int_equal(store.reserve(r->base.self, &b, NULL), SL_OK);
        assert_int_equal(store.commit(r->base.self, &r->lane.lane, &done, NULL), SL_OK);
        sl_event what = {.struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_COMMIT, .seq = id, .other = -1};
        if (is_prompt)
            what.kind = at + rows == prompt ? SL_EVENT_PREFILL_END : SL_EVENT_CHUNK_END;
        plugin.event(r->base.self, &what, NULL);
        test_lane_run(&r->lane);
    }
}

static void quotes_are_what_is_held(void **state) {
    (void)state;
    static const char *const sets[][4] = {
        {"bits=4", "residual=32", NULL}, {"bits=2", "chunked=yes", NULL}, {"bits=16", NULL}};
    sl_limits limits = ordinary;
    limits.max_context = 4096, limits.max_tree = 1;
    for (int p = 0; p < 3; p++)
        for (int64_t n = 100; n <= 4096; n += 444) {
            rig r;
            limits.max_context = n;
            assert_int_equal(make(&r, sets[p], &limits, NULL), SL_OK);
            int64_t tokens, bytes;
            int64_t before = r.base.host.bytes_live;
            assert_int_equal(store.open(r.base.self, 1, -1, 0, NULL), SL_OK);
            double ledger = (double)(r.base.host.bytes_live - before),
                   peak = (double)quote_of(&r, MAX_SEQS, n).bytes_peak;
            if (p != 1 && n > 3000) /* the pools hold every sequence at its longest, as the quote says */
                assert_true(ledger >= peak && ledger < 1.02 * peak);
            assert_int_equal(store.grow(r.base.self, 1, n, NULL), SL_OK);
            run_sequence(&r, 1, n - 60, n);
            assert_int_equal(store.length(r.base.self, 1, &tokens, &bytes), SL_OK);
            assert_int_equal(tokens, n);
            assert_int_equal(bytes, quote_of(&r, 1, n).bytes);
            close_rig(&r);
        }
    rig r;
    limits.max_context = 4096;
    assert_int_equal(make(&r, sets[0], &limits, NULL), SL_OK);
    /* the table of the README: bytes of a token of a head of 32 + 32 channels at 4 bits, f16 scales and minima */
    assert_int_equal(r.base.self->device->places[0].coded_bytes, G * 2 * (2 * 32 * 5 / 8));
    close_rig(&r);
}

static void promises_hold(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    const char *const sets[] = {"bits=4", "residual=32", "prompt_rows=320", NULL};
    sl_limits limits = ordinary;
    limits.max_tree = 1;
    assert_int_equal(make(&r, sets, &limits, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    const kivi_device *d = r.base.self->device;
    assert_int_equal(d->plain.n_ids, MAX_SEQS * d->tail_pages + 10);
    assert_int_equal(d->coded.n_ids, MAX_SEQS * (MAX_CONTEXT / G));
    /* three prompts have no room beside each other until the rows of one are coded */
    assert_int_equal(store.grow(r.base.self, 0, 300, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 1, -1, 0, NULL), SL_OK);
    assert_int_equal(store.grow(r.base.self, 1, 300, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 2, -1, 0, NULL), SL_OK);
    assert_int_equal(store.grow(r.base.self, 2, 250, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "plain rows"));
    run_sequence(&r, 0, 280, 281);
    assert_int_equal(store.grow(r.base.self, 2, 250, NULL), SL_OK);
    run_sequence(&r, 1, 290, 300);
    run_sequence(&r, 2, 250, 250);
    assert_int_equal(store.length(r.base.self, 0, &(int64_t){0}, &(int64_t){0}), SL_OK);
    close_rig(&r);
    /* engine.kv_memory_mb: both kinds of pages get alike */
    limits.kv_bytes = 400000;
    const char *const small[] = {"bits=4", "residual=32", NULL};
    assert_int_equal(make(&r, small, &limits, NULL), SL_OK);
    int64_t before = r.base.host.bytes_live;
    assert_int_equal(store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    assert_true(r.base.host.bytes_live - before <= limits.kv_bytes && r.base.host.bytes_live - before > 300000);
    close_rig(&r);
    limits.kv_bytes = 1000;
    assert_int_equal(make(&r, small, &limits, NULL), SL_OK);
    assert_int_equal(store.open(r.base.self, 0, -1, 0, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "at least"));
    close_rig(&r);
}

/* ---- what it does not serve ----------------------------------------------------------------------------------------
 */

static void refusals_say_why(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    const char *const half[] = {"bits_k=16", "bits_v=4", NULL};
    assert_int_equal(make(&r, half, &ordinary, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "bits_k and bits_v"));
    close_rig(&r);
    sl_limits limits = ordinary;
    limits.deterministic = 1;
    assert_int_equal(make(&r, NULL, &limits, &err), SL_E_UNIMPLEMENTED); /* drafts */
    assert_non_null(strstr(err.text, "speculation"));
    plugin.destroy(r.base.self);
    r.base.self = NULL;
    close_rig(&r);
    limits.max_tree = 1;
    const char *const chunks[] = {"chunked=yes", NULL};
    assert_int_equal(make(&r, chunks, &limits, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "prefill_chunk"));
    plugin.destroy(r.base.self);
    r.base.self = NULL;
    close_rig(&r);
    assert_int_equal(make(&r, NULL, &limits, NULL), SL_OK);
    sl_kv_layout layout = {.struct_size = SL_SIZE(sl_kv_layout)};
    assert_int_equal(store.layout(r.base.self, 0, &layout), SL_OK);
    assert_int_equal(layout.flags & (SL_KV_EDITS | SL_KV_PER_HEAD | SL_KV_TRUNCATES), 0);
    assert_int_not_equal(layout.flags & SL_KV_FUSES_ROPE, 0);
    sl_kv_edit change = {.struct_size = SL_SIZE(sl_kv_edit)};
    assert_int_equal(store.edit(r.base.self, &change), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

static void no_memory_leaves_nothing(void **state) {
    (void)state;
    rig r;
    for (int64_t budget = 0; budget < 600000; budget += 37000) {
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
        cmocka_unit_test(rows_are_what_the_rule_says),
        cmocka_unit_test(quotes_are_what_is_held),
        cmocka_unit_test(promises_hold),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(no_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
