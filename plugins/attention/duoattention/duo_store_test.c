/* duoattention's cache against plain arrays: random prompts, trees, cuts and forks, rows compared bit by bit through
 * the public view; scarce memory; steps that fail. */
#include "duo_store_rig_test.h"

enum { MAX_CONTEXT = 90, MAX_K = 5, SINK = 3, RECENT = 8, SPARE = MAX_TREE + SLACK };

typedef struct plain_seq {
    int is_open;
    int64_t n, oldest; /* oldest: first token >= SINK that may still be there, by the sheet's rule */
    int32_t row[MAX_CONTEXT + MAX_ROWS];
} plain_seq;

typedef struct rig {
    store_rig base;
    plain_seq plain[MAX_SEQS];
} rig;

static void open_rig(rig *r, const char *const *more, uint32_t compute) {
    const char *sets[9] = {"sink_size=3", "recent_size=8", "page=4"};
    for (int i = 3; more != NULL && *more != NULL; i++)
        sets[i] = *more++;
    memset(r, 0, sizeof *r);
    store_model(&r->base, shapes, LAYERS, 2, 11);
    make_duo(&r->base, SL_DEVICE_CPU, sets, MAX_CONTEXT, compute);
}

static void close_rig(rig *r) { store_close(&r->base); }

static int64_t draw(rig *r, int64_t n) { return store_draw(&r->base, n); }

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static void add_rows(rig *r, store_step *s, int32_t seq, int32_t n, uint32_t stage) {
    store_step_add(&r->base, s, seq, r->plain[seq].n, n, stage);
}

static float read_element(const char *p, sl_dtype type) {
    float x;
    uint16_t half;
    if (type == SL_F32) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    memcpy(&half, p, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Slot `slot` of head h holds row `id`, which is token `token` (-1: staged). */
static void check_row(const sl_segment *g, int layer, int32_t h, int64_t slot, int32_t id, int64_t token) {
    if (token >= 0)
        assert_int_equal(g->token_index != NULL ? g->token_index[slot] : g->token_base + slot, token);
    int64_t size = sl_dtype_bits(g->k_dtype) / 8;
    for (int which = 0; which < 2; which++) {
        const void *const *pages = which == 0 ? g->k_pages : g->v_pages;
        const char *p = (const char *)pages[slot / g->page_rows] +
                        slot % g->page_rows * (which == 0 ? g->k_row_stride : g->v_row_stride) +
                        (h - g->head_begin) * (which == 0 ? g->k_head_stride : g->v_head_stride);
        for (int32_t d = 0; d < shapes[layer][1 + which]; d++) {
            float want = store_element(id, layer, which, h * shapes[layer][1 + which] + d),
                  got = read_element(p + d * size, g->k_dtype);
            if (!(got == want))
                fail_msg("layer %d head %d slot %d: %g, expected %g", layer, h, (int)slot, (double)got, (double)want);
        }
    }
}

/* All heads of all sequences of the step: the window of those that stream, everything of the others, then staged rows.
 */
static void check_view(rig *r, const store_step *s, int layer) {
    const sl_view *v;
    assert_int_equal(duo_store.view(r->base.self, NULL, layer, &s->rows, NULL, &v), SL_OK);
    for (int32_t at = 0; at < s->batch.n_seqs; at++) {
        const plain_seq *p = &r->plain[s->seq[at]];
        int32_t n_heads = 0;
        for (int32_t i = 0; i < v->seqs[at]->n_segments; i++) {
            const sl_segment *g = v->seqs[at]->segments[i];
            for (int32_t h = g->head_begin; h < g->head_begin + g->n_heads; h++, n_heads++) {
                int streams = classes[layer][h] == 's';
                int64_t first = streams && p->n - RECENT > SINK ? p->n - RECENT : 0, slot = 0;
                assert_int_equal(g->n_committed, first == 0 ? p->n : SINK + p->n - first);
                for (int64_t t = 0; first > 0 && t < SINK; t++)
                    check_row(g, layer, h, slot++, p->row[t], t);
                for (int64_t t = first; t < p->n; t++)
                    check_row(g, layer, h, slot++, p->row[t], t);
                assert_int_equal(g->n_staged, s->begin[at + 1] - s->begin[at]);
                for (int32_t k = s->begin[at]; k < s->begin[at + 1]; k++)
                    check_row(g, layer, h, slot++, s->number[k], -1);
            }
        }
        assert_int_equal(n_heads, shapes[layer][0]);
    }
}

/* Every layer: append, look, settle (in two parts where there are two sequences). */
static void run_layers(rig *r, const store_step *s, int32_t n_layers) {
    for (int layer = 0; layer < n_layers; layer++) {
        sl_kv_append a = store_step_append(s, NULL, layer, shapes[layer], store_element);
        assert_int_equal(duo_store.append(r->base.self, &a), SL_OK);
        check_view(r, s, layer);
        int32_t index[MAX_ROWS], half = s->begin[1] < s->batch.n_rows ? s->begin[1] : s->batch.n_rows / 2;
        for (int32_t i = 0; i < s->batch.n_rows; i++)
            index[i] = i;
        for (int part = 0; part < 2; part++) {
            sl_rows some = {SL_SIZE(sl_rows),
                            &s->batch,
                            index + (part > 0 ? half : 0),
                            NULL,
                            part > 0 ? s->batch.n_rows - half : half,
                            0};
            sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = &some, .layer = layer};
            assert_int_equal(duo_store.settle(r->base.self, &side), SL_OK);
        }
    }
}

/* The plain arrays keep the same rows. */
static void keep(rig *r, const store_step *s, int32_t at) {
    plain_seq *p = &r->plain[s->seq[at]];
    int64_t end = p->n + store_step_rows(s, at), oldest = end - (RECENT + SPARE);
    p->oldest = oldest > p->oldest ? oldest : p->oldest;
    for (int32_t i = 0; i < store_step_kept(s, at); i++)
        p->row[p->n++] = store_step_number(s, at, i);
}

static void run_step(rig *r, store_step *s) {
    SL_ERROR(err);
    if (duo_store.reserve(r->base.self, &s->batch, &err) < 0)
        fail_msg("%s", err_text_);
    run_layers(r, s, LAYERS);
    for (int32_t at = 0; at < s->batch.n_seqs; at++) {
        int32_t n = store_step_rows(s, at);
        s->path_begin[at + 1] = s->path_begin[at];
        for (int32_t i = 0; i < n; i++)
            if (s->stage[at] == SL_STAGE_PREFILL ? i + 1 < n || draw(r, 4) > 0 : i == 0 || draw(r, 2) == 0)
                store_step_keep(s, at, i); /* a prompt's last row may be cancelled; of a tree anything is kept */
        keep(r, s, at);
    }
    if (duo_store.commit(r->base.self, NULL, &s->commit, &err) < 0)
        fail_msg("%s", err_text_);
}

static void check_sequence(rig *r, int32_t seq) {
    store_step s;
    store_step_init(&s);
    int64_t n_tokens, bytes, n_rows[MAX_K];
    add_rows(r, &s, seq, 0, SL_STAGE_DECODE);
    for (int layer = 0; layer < LAYERS; layer++) {
        check_view(r, &s, layer);
        assert_int_equal(duo_store.rows(r->base.self, layer, seq, n_rows), SL_OK);
        for (int h = 0; h < shapes[layer][0]; h++)
            assert_int_equal(n_rows[h], classes[layer][h] == 's' && r->plain[seq].n > SINK + RECENT ? SINK + RECENT
                                                                                                    : r->plain[seq].n);
    }
    assert_int_equal(duo_store.length(r->base.self, seq, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, r->plain[seq].n);
}

/* Does the cache still have what a sequence of n tokens sees? */
static int is_there(const plain_seq *p, int64_t n) {
    int64_t recent = n - RECENT > SINK ? n - RECENT : SINK;
    return n <= SINK || recent >= (p->oldest > SINK ? p->oldest : SINK);
}

/* ---- random life
 * -------------------------------------------------------------------------------------------------------- */

static void grow_to(rig *r, int32_t seq, int64_t n) {
    SL_ERROR(err);
    if (duo_store.grow(r->base.self, seq, n, &err) < 0)
        fail_msg("%s", err_text_);
}

static void some_rows(rig *r) {
    store_step s;
    store_step_init(&s);
    int32_t room = MAX_ROWS;
    for (int32_t seq = 0; seq < MAX_SEQS; seq++) {
        plain_seq *p = &r->plain[seq];
        int64_t left = MAX_CONTEXT - p->n;
        if (!p->is_open || left < 1 || draw(r, 3) == 0)
            continue;
        uint32_t stage = draw(r, 3) == 0 ? SL_STAGE_PREFILL : draw(r, 2) == 0 ? SL_STAGE_DECODE : SL_STAGE_VERIFY;
        int64_t n = stage == SL_STAGE_PREFILL ? 1 + draw(r, 40) : stage == SL_STAGE_DECODE ? 1 : 1 + draw(r, MAX_TREE);
        n = n < left ? n : left;
        if (n > room)
            continue;
        grow_to(r, seq, p->n + n + (draw(r, 3) == 0 ? draw(r, left - n + 1) : 0));
        add_rows(r, &s, seq, (int32_t)n, stage);
        room -= (int32_t)n;
    }
    if (s.batch.n_seqs > 0)
        run_step(r, &s);
}

static void a_cut(rig *r, int32_t seq) {
    plain_seq *p = &r->plain[seq];
    int64_t n = p->n - draw(r, p->n < 12 ? p->n + 1 : 12), minimum = -1;
    n = draw(r, 8) == 0 ? draw(r, SINK + 1) : n;
    n = n > p->n ? p->n : n;
    sl_status status = duo_store.truncate(r->base.self, seq, n, &minimum);
    assert_int_equal(status, is_there(p, n) ? SL_OK : SL_E_RANGE);
    if (status < 0) {
        assert_true(minimum > n && is_there(p, minimum) && !is_there(p, minimum - 1));
        return;
    }
    p->n = n;
    if (n <= SINK)
        p->oldest = 0;
}

static void a_fork(rig *r, int32_t child, int32_t parent) {
    const plain_seq *p = &r->plain[parent];
    int64_t upto = p->n - draw(r, p->n < 12 ? p->n + 1 : 12);
    SL_ERROR(err);
    sl_status status = duo_store.open(r->base.self, child, parent, upto, &err);
    assert_int_equal(status, is_there(p, upto) ? SL_OK : SL_E_RANGE);
    if (status < 0)
        return;
    r->plain[child] = *p;
    r->plain[child].n = upto;
    if (upto <= SINK)
        r->plain[child].oldest = 0;
    /* its ring is as long as it needs, so rows beyond a fork may be missing sooner; what it sees is there */
    int64_t oldest = r->base.self->seqs[child].ring.oldest;
    assert_true(oldest <= (upto - RECENT > SINK ? upto - RECENT : SINK));
    r->plain[child].oldest = oldest;
}

static void live(rig *r, int rounds) {
    for (int round = 0; round < rounds; round++) {
        int32_t seq = (int32_t)draw(r, MAX_SEQS), other = (int32_t)draw(r, MAX_SEQS);
        plain_seq *p = &r->plain[seq];
        if (!p->is_open && r->plain[other].is_open)
            a_fork(r, seq, other);
        else if (!p->is_open) {
            assert_int_equal(duo_store.open(r->base.self, seq, -1, 0, NULL), SL_OK);
            *p = (plain_seq){.is_open = 1};
        } else if (draw(r, 4) == 0)
            a_cut(r, seq);
        else if (draw(r, 12) == 0) {
            duo_store.close(r->base.self, seq);
            p->is_open = 0;
        } else
            some_rows(r);
        for (int32_t i = 0; i < MAX_SEQS; i++)
            if (r->plain[i].is_open)
                check_sequence(r, i);
    }
}

static void random_life(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        rig r;
        open_rig(&r, i == 2 ? (const char *const[]){"dtype=bf16", NULL} : NULL, i == 1 ? SL_BF16 : SL_F32);
        live(&r, 1200);
        close_rig(&r);
    }
}

/* ---- memory
 * ----------------------------------------------------------------------------------------------------------------- */

static int64_t live_bytes(const rig *r) { return r->base.host.bytes_live; }

static void bytes_follow_the_quote(void **state) {
    (void)state;
    rig r;
    open_rig(&r, NULL, SL_F32);
    int64_t idle = live_bytes(&r), n_tokens, bytes = 0;
    for (int64_t n = 1; n <= MAX_CONTEXT; n += 7) {
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 2, .n_tokens = n};
        assert_int_equal(duo_store.quote(r.base.self, &q), SL_OK);
        for (int32_t seq = 0; seq < 2; seq++) {
            assert_int_equal(duo_store.open(r.base.self, seq, -1, 0, NULL), SL_OK);
            grow_to(&r, seq, n);
        }
        assert_int_equal(duo_store.length(r.base.self, 0, &n_tokens, &bytes), SL_OK);
        assert_int_equal(live_bytes(&r) - idle, q.bytes);
        assert_int_equal(2 * bytes, q.bytes);
        duo_store.close(r.base.self, 0);
        duo_store.close(r.base.self, 1);
        assert_int_equal(live_bytes(&r), idle);
    }
    close_rig(&r);
}

static void scarce_memory_changes_nothing(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    assert_int_equal(duo_store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    r.plain[0] = (plain_seq){.is_open = 1};
    grow_to(&r, 0, 30);
    store_step s;
    store_step_init(&s);
    add_rows(&r, &s, 0, 30, SL_STAGE_PREFILL);
    run_step(&r, &s);
    int64_t before = live_bytes(&r);
    for (int64_t more = 0; more < 4000; more += 100) { /* fails in a page, in the ring */
        r.base.host.budget = before + more;
        sl_status status = duo_store.grow(r.base.self, 0, 60, &err);
        if (status >= 0)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        assert_int_equal(live_bytes(&r), before);
        status = duo_store.open(r.base.self, 1, 0, r.plain[0].n, &err);
        if (status < 0) {
            assert_int_equal(status, SL_E_NO_MEMORY);
            assert_int_equal(live_bytes(&r), before);
        } else
            duo_store.close(r.base.self, 1);
        check_sequence(&r, 0);
    }
    r.base.host.budget = -1;
    close_rig(&r);
}

/* ---- what must not happen
 * --------------------------------------------------------------------------------------------------- */

/* A chunk that pushed rows out of some layers before the step failed: the sequence says so and can begin again. */
static void a_step_that_fails(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    assert_int_equal(duo_store.open(r.base.self, 0, -1, 0, NULL), SL_OK);
    r.plain[0] = (plain_seq){.is_open = 1};
    grow_to(&r, 0, MAX_CONTEXT);
    store_step s;
    store_step_init(&s);
    add_rows(&r, &s, 0, 20, SL_STAGE_PREFILL);
    run_step(&r, &s);
    int64_t n = r.plain[0].n;
    store_step few;
    store_step_init(&few); /* rows that the ring has room for: nothing is lost */
    add_rows(&r, &few, 0, SPARE, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.base.self, &few.batch, &err), SL_OK);
    run_layers(&r, &few, 2);
    check_sequence(&r, 0);
    store_step many;
    store_step_init(&many);
    add_rows(&r, &many, 0, 40, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.base.self, &many.batch, &err), SL_OK);
    run_layers(&r, &many, 1);
    assert_int_equal(duo_store.reserve(r.base.self, &many.batch, &err), SL_E_STATE);
    assert_non_null(strstr(err_text_, "step that failed"));
    assert_int_equal(duo_store.open(r.base.self, 1, 0, n, &err), SL_E_RANGE);
    assert_int_equal(duo_store.truncate(r.base.self, 0, n - 1, NULL), SL_E_RANGE);
    assert_int_equal(duo_store.truncate(r.base.self, 0, SINK, NULL), SL_OK);
    r.plain[0].n = SINK;
    r.plain[0].oldest = 0;
    check_sequence(&r, 0);
    store_step again;
    store_step_init(&again);
    add_rows(&r, &again, 0, 40, SL_STAGE_PREFILL);
    run_step(&r, &again);
    check_sequence(&r, 0);
    close_rig(&r);
}

static void calls_out_of_place(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    int64_t n, bytes;
    open_rig(&r, NULL, SL_F32);
    assert_true(duo_store.open(r.base.self, MAX_SEQS, -1, 0, &err) < 0);
    assert_true(duo_store.open(r.base.self, 0, 1, 0, &err) < 0); /* no such parent */
    assert_true(duo_store.grow(r.base.self, 0, 5, &err) < 0);
    assert_true(duo_store.length(r.base.self, 0, &n, &bytes) < 0);
    assert_true(duo_store.truncate(r.base.self, 0, 0, NULL) < 0);
    assert_int_equal(duo_store.open(r.base.self, 0, -1, 0, &err), SL_OK);
    assert_true(duo_store.open(r.base.self, 0, -1, 0, &err) < 0); /* twice */
    assert_true(duo_store.grow(r.base.self, 0, 10 * MAX_CONTEXT, &err) < 0);
    r.plain[0].is_open = 1;
    store_step s;
    store_step_init(&s);
    add_rows(&r, &s, 0, 5, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.base.self, &s.batch, &err), SL_E_STATE); /* nobody grew it */
    grow_to(&r, 0, MAX_CONTEXT);
    run_step(&r, &s);
    store_step wide;
    store_step_init(&wide);
    add_rows(&r, &wide, 0, 40, SL_STAGE_PREFILL);
    run_step(&r, &wide);
    store_step drafts;
    store_step_init(&drafts);
    add_rows(&r, &drafts, 0, SPARE + 1, SL_STAGE_VERIFY); /* more than was announced */
    assert_int_equal(duo_store.reserve(r.base.self, &drafts.batch, &err), SL_E_STATE);
    sl_rows rows = {SL_SIZE(sl_rows), &wide.batch, NULL, NULL, 0, 0};
    sl_rowset set = {.struct_size = SL_SIZE(sl_rowset)};
    const sl_view *v;
    assert_int_equal(duo_store.view(r.base.self, NULL, 0, &rows, &set, &v), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

/* Scopes: its cache and its attention belong together in every layer and stage. */
static void scopes(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    uint32_t all[LAYERS] = {7, 7, 7, 7}, some[LAYERS] = {7, 0, 7, 7}, decode[LAYERS] = {2, 2, 2, 2};
    sl_scope store = {SL_SIZE(sl_scope), all, LAYERS, SL_DEVICE_CPU, "kvcache.store", "kvcache", NULL};
    sl_scope attention = {SL_SIZE(sl_scope), all, LAYERS, SL_DEVICE_CPU, "attention", "attention", NULL};
    assert_int_equal(plugin.accepts(&r.base.model, NULL, &attention, &err), SL_OK);
    assert_true(plugin.accepts(&r.base.model, NULL, &store, &err) < 0);
    store.also = &attention; /* in either order */
    assert_int_equal(plugin.accepts(&r.base.model, NULL, &store, &err), SL_OK);
    store.also = NULL, attention.also = &store;
    attention.layer_stages = some;
    assert_true(plugin.accepts(&r.base.model, NULL, &attention, &err) < 0);
    assert_non_null(strstr(err_text_, "layer 1"));
    attention.layer_stages = decode;
    assert_true(plugin.accepts(&r.base.model, NULL, &attention, &err) < 0);
    attention.also = NULL;
    assert_int_equal(plugin.accepts(&r.base.model, NULL, &attention, &err), SL_OK); /* over another cache */
    r.base.layers[2].attn_softcap = 30;
    assert_true(plugin.accepts(&r.base.model, NULL, &attention, &err) < 0);
    r.base.layers[2].attn_softcap = 0, r.base.layers[2].block = "mla";
    assert_true(plugin.accepts(&r.base.model, NULL, &attention, &err) < 0);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_life),
        cmocka_unit_test(bytes_follow_the_quote),
        cmocka_unit_test(scarce_memory_changes_nothing),
        cmocka_unit_test(a_step_that_fails),
        cmocka_unit_test(calls_out_of_place),
        cmocka_unit_test(scopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
