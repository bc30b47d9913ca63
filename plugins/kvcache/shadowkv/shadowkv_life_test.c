/* shadowkv's sequences: short prompts, later ones, forks, cuts; memory, by tag and when there is none; what is refused.
 */
#include "shadow_block.c"
#include "shadow_cost.c"
#include "shadow_factor.c"
#include "shadow_pool.c"
#include "shadow_select.c"
#include "shadow_seq.c"
#include "shadow_tier.c"
#include "shadow_view.c"
#include "shadowkv.c"

#include "test_host.h"

#include "shadow_rig.h"

/* ---- short prompts, later prompts, forks, cuts
 * ----------------------------------------------------------------------------------- */

static void test_short(void **state) {
    (void)state;
    static rig r;
    static step t;
    static row_data d;
    open_rig(&r, SETS("min_prompt=100", "sparse_budget=32", "outlier_chunks=5"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 100);
    assert_int_equal(r.self->seqs[0].n_blocks, 0); /* at most min_prompt */
    make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
    assert_int_equal(store.grow(r.self, 0, 101, NULL), SL_OK);
    assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_rowset *set;
        append_rows(&r, &t, l, &d);
        const sl_view *v = look(&r, &t, l, &d, &set);
        assert_null(set);
        assert_int_equal(v->seqs[0]->n_segments, 1);
        assert_int_equal(segment_of(v, 0)->n_committed, 100);
        check_content(&r, v, 0, l, 0, 0); /* exact */
    }
    commit_rows(&r, &t, NULL, 1);
    end_prompt(&r, 0);
    assert_int_equal(r.self->seqs[0].n_blocks, 1);
    close_rig(&r);
    /* no more chunks than outliers and local ones */
    open_rig(&r, SETS("min_prompt=0", "sparse_budget=32", "outlier_chunks=5"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 9 * 8 + 7);
    assert_int_equal(r.self->seqs[0].n_blocks, 0);
    feed_prompt(&r, 0, 1);
    assert_int_equal(r.self->seqs[0].n_blocks, 1);
    close_rig(&r);
}

/* A second prompt after decoding: its end factors what is exact by then; both blocks are chosen from. */
static void test_later_prompts(void **state) {
    (void)state;
    for (int refactor = 0; refactor < 2; refactor++) {
        static rig r;
        static step t;
        static row_data d;
        open_rig(&r, SETS("min_prompt=60", "rank=64", "sparse_budget=160", "outlier_chunks=2",
                          refactor ? "refactor=yes" : "refactor=no"));
        open_seq(&r, 0, -1, 0);
        feed_prompt(&r, 0, 203);
        assert_int_equal(r.self->seqs[0].n_factored, 21 * 8);
        for (int i = 0; i < 9; i++)
            feed(&r, 0, 1, SL_STAGE_DECODE);
        feed_prompt(&r, 0, 10); /* 54 exact rows: too few */
        assert_int_equal(r.self->seqs[0].n_factored, 21 * 8);
        feed_prompt(&r, 0, 100);
        assert_int_equal(r.self->seqs[0].n_blocks, 1 + refactor);
        assert_int_equal(r.self->seqs[0].n_factored, refactor ? 36 * 8 : 21 * 8);
        make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
        assert_int_equal(store.grow(r.self, 0, t.past[0] + 1, NULL), SL_OK);
        assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
        int in_second = 0;
        for (int l = 0; l < LAYERS; l++) {
            const sl_rowset *set;
            append_rows(&r, &t, l, &d);
            const sl_view *v = look(&r, &t, l, &d, &set);
            check_content(&r, v, 0, l, 1e-3, 0);
            for (int32_t h = 0; h < shapes[l][1]; h++)
                for (int64_t i = 0; i < segment_of(v, h)->n_committed; i++)
                    in_second += token_of(segment_of(v, h), i) >= 21 * 8 && token_of(segment_of(v, h), i) < 36 * 8;
            assert_int_equal(store.view(r.self, &r.lane, l, &t.rows, NULL, &v), SL_OK);
            assert_int_equal(segment_of(v, 0)->n_committed, 322);
            check_content(&r, v, 0, l, 1e-3, 0);
        }
        assert_true(in_second > 0);
        close_rig(&r);
    }
}

static void check_all(rig *r, int32_t seq, int64_t n) {
    static step t;
    static row_data d;
    int64_t tokens, bytes;
    assert_int_equal(store.length(r->self, seq, &tokens, &bytes), SL_OK);
    assert_int_equal(tokens, n);
    make_step(r, &t, seq, 1, SL_STAGE_DECODE);
    assert_int_equal(store.grow(r->self, seq, n + 1, NULL), SL_OK);
    assert_int_equal(store.reserve(r->self, &t.b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *v;
        append_rows(r, &t, l, &d);
        assert_int_equal(store.view(r->self, &r->lane, l, &t.rows, NULL, &v), SL_OK);
        assert_int_equal(segment_of(v, 0)->n_committed, n);
        check_content(r, v, seq, l, 1e-3, 0);
    }
    commit_rows(r, &t, NULL, 0); /* rejected */
}

static void test_forks(void **state) {
    (void)state;
    static rig r;
    SL_ERROR(err);
    open_rig(&r, SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=2"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    int64_t F = r.self->seqs[0].n_factored, before = r.by_tag[SL_MEM_KV], tier = r.by_tag[SL_MEM_KV_HOST];
    open_seq(&r, 1, 0, 300);
    assert_ptr_equal(r.self->seqs[1].blocks[0], r.self->seqs[0].blocks[0]);
    assert_int_equal(r.by_tag[SL_MEM_KV_HOST], tier); /* children share factors, landmarks and values */
    assert_true(r.by_tag[SL_MEM_KV] - before <= r.self->pool.page_bytes);
    feed(&r, 1, 5, SL_STAGE_DECODE);
    feed(&r, 0, 7, SL_STAGE_DECODE);
    check_all(&r, 0, 307);
    check_all(&r, 1, 305);
    /* inside of the factors nothing can begin or end */
    int64_t minimum = -1;
    assert_int_equal(store.open(r.self, 2, 0, F - 1, &err), SL_E_RANGE);
    assert_non_null(strstr(err.text, "factored"));
    assert_int_equal(store.truncate(r.self, 1, F - 1, &minimum), SL_E_RANGE);
    assert_int_equal(minimum, F);
    check_all(&r, 1, 305);
    open_seq(&r, 2, 0, F + 3);
    check_all(&r, 2, F + 3);
    feed(&r, 2, 20, SL_STAGE_PREFILL);
    check_all(&r, 2, F + 23);
    /* a cut into shared exact rows, and other rows there */
    assert_int_equal(store.truncate(r.self, 1, F + 11, &minimum), SL_OK);
    r.plain[1].n = F + 11;
    feed(&r, 1, 9, SL_STAGE_DECODE);
    check_all(&r, 1, F + 20);
    check_all(&r, 0, 307);
    /* the parent may go */
    store.close(r.self, 0);
    check_all(&r, 1, F + 20);
    /* back to nothing, and anew */
    assert_int_equal(store.truncate(r.self, 1, 0, &minimum), SL_OK);
    r.plain[1].n = 0;
    feed_prompt(&r, 1, 150);
    check_all(&r, 1, 150);
    check_all(&r, 2, F + 23);
    store.close(r.self, 1);
    store.close(r.self, 2);
    assert_int_equal(r.by_tag[SL_MEM_KV] + r.by_tag[SL_MEM_KV_HOST], 0);
    close_rig(&r);
}

/* A cut to where a later block begins brings back what was before it. */
static void test_cut_between_blocks(void **state) {
    (void)state;
    static rig r;
    open_rig(&r, SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=1"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 120);
    feed_prompt(&r, 0, 120);
    assert_int_equal(r.self->seqs[0].n_blocks, 2);
    int64_t between = r.self->seqs[0].blocks[1]->begin;
    open_seq(&r, 1, 0, between);
    assert_int_equal(r.self->seqs[1].n_blocks, 1);
    check_all(&r, 1, between);
    assert_int_equal(store.truncate(r.self, 0, between, NULL), SL_OK);
    r.plain[0].n = between;
    assert_int_equal(r.self->seqs[0].n_blocks, 1);
    feed_prompt(&r, 0, 70);
    check_all(&r, 0, between + 70);
    close_rig(&r);
}

/* ---- memory
 * -----------------------------------------------------------------------------------------------------------------------
 */

static void check_near(int64_t claimed, int64_t real) {
    if (!(fabs((double)(claimed - real)) <= 0.02 * (double)real))
        fail_msg("%lld bytes claimed, %lld held", (long long)claimed, (long long)real);
}

static void check_memory(const char *const *sets, int64_t max_tree) {
    static rig r;
    open_rig_for(&r, sets, SL_F32, max_tree);
    sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 2, .n_tokens = 584, .stage = SL_STAGE_PREFILL};
    for (int i = 0; i < 2; i++) {
        open_seq(&r, i, -1, 0);
        feed(&r, i, 584, SL_STAGE_PREFILL);
    }
    assert_int_equal(store.quote(r.self, &q), SL_OK);
    check_near(q.bytes, r.by_tag[SL_MEM_KV]);
    assert_int_equal(q.bytes_host, r.by_tag[SL_MEM_KV_HOST]);
    q.n_seqs = 1;
    assert_int_equal(store.quote(r.self, &q), SL_OK);
    int64_t other = r.by_tag[SL_MEM_KV] / 2, tokens = 0, bytes = 0, sum = 0;
    r.most_by_tag[SL_MEM_KV] = r.by_tag[SL_MEM_KV];
    end_prompt(&r, 0);
    check_near(q.bytes_peak, r.most_by_tag[SL_MEM_KV] - other);
    end_prompt(&r, 1);
    q.n_seqs = 2;
    q.stage = SL_STAGE_DECODE;
    assert_int_equal(store.quote(r.self, &q), SL_OK);
    check_near(q.bytes, r.by_tag[SL_MEM_KV]);
    assert_int_equal(q.bytes_host, r.by_tag[SL_MEM_KV_HOST]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store.length(r.self, i, &tokens, &bytes), SL_OK);
        sum += bytes;
    }
    check_near(sum + r.self->wide.bytes, r.by_tag[SL_MEM_KV]);
    close_rig(&r);
}

static void test_memory(void **state) {
    (void)state;
    check_memory(SETS("min_prompt=0", "rank=4", "sparse_budget=32", "outlier_chunks=2"), 1);
    check_memory(SETS("min_prompt=0", "rank=4", "sparse_budget=32", "outlier_chunks=2", "host_values=no"), 1);
    check_memory(SETS("min_prompt=0", "rank=4", "sparse_budget=32", "outlier_chunks=2"), MAX_TREE);
    check_memory(SETS("min_prompt=4096", "sparse_budget=32"), 1);
}

/* Device bytes that a factored token costs: rank, landmark, position and the lists of chunks; whatever the budget is.
 */
static void test_bytes_of_a_token(void **state) {
    (void)state;
    static rig r;
    int64_t bytes[2], tokens;
    open_rig(&r, SETS("min_prompt=0", "rank=4", "sparse_budget=32", "outlier_chunks=2"));
    for (int i = 0; i < 2; i++) {
        open_seq(&r, i, -1, 0);
        feed_prompt(&r, i, 160 + i * 400);
        assert_int_equal(store.length(r.self, i, &tokens, &bytes[i]), SL_OK);
    }
    double claimed = 4;
    for (int l = 0; l < LAYERS; l++)
        claimed += 4 * 4 + shapes[l][1] * (shapes[l][2] * 4 + 4) / 8.0;
    assert_true(fabs((double)(bytes[1] - bytes[0]) / 400 - claimed) < 0.02 * claimed);
    close_rig(&r);
}

/* With any amount of memory: what cannot be had is said, a prompt that cannot be factored stays exact, nothing leaks.
 */
static void test_no_memory(void **state) {
    (void)state;
    static rig r;
    int factored = 0, exact = 0, refused = 0;
    prepare_rig(&r);
    assert_int_equal(try_create(&r, SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=1"), NULL),
                     SL_OK);
    sl_limits limits = limits_of(SL_F32, 1);
    assert_int_equal(plugin.activate(r.self, &limits, NULL), SL_OK);
    int64_t base = r.host.bytes_live;
    for (int64_t more_bytes = 0; factored < 3; more_bytes += 3989) {
        r.host.budget = base + more_bytes;
        r.self->is_warned = 1;
        open_seq(&r, 0, -1, 0);
        if (store.grow(r.self, 0, 130, NULL) < 0) {
            refused++;
            store.close(r.self, 0);
            assert_int_equal(r.host.bytes_live, base);
            continue;
        }
        feed_prompt(&r, 0, 130);
        int is_factored = r.self->seqs[0].n_blocks == 1;
        factored += is_factored;
        exact += !is_factored;
        int64_t held = r.host.bytes_live;
        r.host.budget = -1;
        assert_true(held <= base + more_bytes);
        check_all(&r, 0, 130);
        open_seq(&r, 1, 0, 130);
        r.host.budget = r.host.bytes_live; /* a child whose buffers cannot be had stays as it was */
        if (is_factored)
            assert_int_equal(store.grow(r.self, 1, 135, NULL), SL_E_NO_MEMORY);
        r.host.budget = -1;
        check_all(&r, 1, 130);
        store.close(r.self, 0);
        store.close(r.self, 1);
        assert_int_equal(r.host.bytes_live, base);
    }
    assert_true(exact > 3 && refused > 3);
    close_rig(&r);
}

/* ---- what is refused
 * ---------------------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    static rig r;
    SL_ERROR(err);
    prepare_rig(&r);
    assert_int_equal(try_create(&r, SETS("sparse_budget=100"), &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "multiple"));
    r.layers[1].block = "mla";
    assert_int_equal(try_create(&r, SETS("sparse_budget=64"), &err), SL_E_UNIMPLEMENTED);
    r.layers[1].block = "gqa";
    sl_limits limits = limits_of(SL_F32, MAX_TREE);
    assert_int_equal(try_create(&r, SETS("warm=yes"), &err), SL_OK);
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "warm"));
    plugin.destroy(r.self);
    limits.deterministic = 0;
    assert_int_equal(try_create(&r, SETS("verify_select=shared", "row_block=4"), &err), SL_OK);
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "row_block"));
    plugin.destroy(r.self);
    assert_int_equal(r.host.n_live, 0);
    /* a host that lacks something */
    r.host.more = NULL;
    assert_int_equal(try_create(&r, SETS("sparse_budget=64"), &err), SL_E_NOT_FOUND);
    free(r.scratch_block);
    open_rig(&r, SETS("min_prompt=0", "sparse_budget=64", "outlier_chunks=1"));
    open_seq(&r, 0, -1, 0);
    static step t;
    make_step(&r, &t, 0, 1, SL_STAGE_PREFILL);
    t.b.n_axes = 3;
    assert_int_equal(store.reserve(r.self, &t.b, &err), SL_E_UNIMPLEMENTED);
    t.b.n_axes = 1;
    t.past[0] = 4;
    assert_int_equal(store.reserve(r.self, &t.b, &err), SL_E_STATE);
    sl_state_io io = {.struct_size = SL_SIZE(sl_state_io)};
    assert_int_equal(plugin.state(r.self, &io, &err), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_short),     cmocka_unit_test(test_later_prompts),
                                       cmocka_unit_test(test_forks),     cmocka_unit_test(test_cut_between_blocks),
                                       cmocka_unit_test(test_memory),    cmocka_unit_test(test_bytes_of_a_token),
                                       cmocka_unit_test(test_no_memory), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
