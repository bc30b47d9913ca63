/* streaming on models/tiny: the sheet's invariants. */
#include "engine_run.h"

enum { MOST = 400, NEW = 24 };

static void a_budget_that_covers_everything_equals_dense(void **state) {
    (void)state;
    int32_t tokens[MOST], plain[NEW], cut[NEW];
    sluice_engine *dense = run_open("engine.threads=2"), *e = run_open("kvcache.policy.plugin=streaming", "kvcache.policy.budget=400");
    int64_t n = run_tokens(dense, tokens, 120), vocab = dense->target.info->vocab;
    run_once(dense, tokens, n, NEW, plain);
    run_once(e, tokens, n, NEW, cut);
    assert_memory_equal(plain, cut, sizeof plain);
    float *a = malloc(sizeof *a * (size_t)vocab), *b = malloc(sizeof *b * (size_t)vocab);
    sluice_session *s = run_session(dense, tokens, n), *t = run_session(e, tokens, n);
    assert_int_equal(sluice_logits(s, 1, a, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(t, 1, b, NULL), SLUICE_OK);
    assert_memory_equal(a, b, sizeof *a * (size_t)vocab);
    free(a);
    free(b);
    sluice_close(dense);
    sluice_close(e);
}

/* Sinks and the newest rows, the same everywhere, budget - 1 of them between steps. */
static void check_rows(sluice_engine *e, const sluice_session *s, int64_t budget, int64_t sinks) {
    int32_t held[512];
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        for (int32_t h = 0; h < e->target.info->layers[l]->n_kv_heads; h++) {
            int64_t n = run_held(e, s, l, h, held);
            assert_int_equal(n, s->n_kv < budget ? s->n_kv : budget - 1);
            for (int64_t i = 0; i < n; i++)
                assert_int_equal(held[i], i < sinks || s->n_kv < budget ? i : s->n_kv - n + i);
        }
}

static void rows_are_sinks_and_the_newest(void **state) {
    (void)state;
    int32_t tokens[MOST];
    run_taps taps = {0};
    sluice_engine *e = run_open("kvcache.policy.plugin=streaming", "kvcache.policy.budget=33", "kvcache.policy.sinks=3");
    int64_t n = run_tokens(e, tokens, 100);
    sluice_session *s = run_session(e, tokens, 30);
    run_rows(e, s, 30, SL_STAGE_PREFILL, &taps); /* too short to be cut */
    check_rows(e, s, 33, 3);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(sluice_session_append(s, tokens + 30 + i, 1, NULL), SLUICE_OK);
        run_rows(e, s, 1, SL_STAGE_DECODE, &taps);
        check_rows(e, s, 33, 3);
    }
    sluice_session_close(s);
    s = run_session(e, tokens, n); /* dense prefill, then the cut */
    run_rows(e, s, 50, SL_STAGE_PREFILL, &taps);
    run_rows(e, s, (int32_t)n - 50, SL_STAGE_PREFILL, &taps);
    check_rows(e, s, 33, 3);
    run_taps_free(&taps);
    sluice_close(e);
}

/* Keys and queries of layer 0 depend on token and position alone: the same as with a whole cache. */
static void positions_count_tokens_not_rows(void **state) {
    (void)state;
    int32_t tokens[MOST];
    run_taps whole = {0}, cut = {0};
    sluice_engine *dense = run_open("engine.threads=1"), *e = run_open("kvcache.policy.plugin=streaming", "kvcache.policy.budget=20");
    int64_t n = run_tokens(e, tokens, 100);
    sluice_session *s = run_session(dense, tokens, n), *t = run_session(e, tokens, n);
    run_rows(dense, s, (int32_t)n, SL_STAGE_PREFILL, &whole);
    run_rows(e, t, (int32_t)n, SL_STAGE_PREFILL, &cut);
    sluice_session_append(s, tokens, 1, NULL);
    sluice_session_append(t, tokens, 1, NULL);
    run_rows(dense, s, 1, SL_STAGE_DECODE, &whole);
    run_rows(e, t, 1, SL_STAGE_DECODE, &cut);
    const sl_layer_info *info = e->target.info->layers[0];
    assert_memory_equal(whole.q[0], cut.q[0], sizeof(float) * (size_t)(info->n_heads * info->head_dim));
    assert_memory_equal(whole.k[0], cut.k[0], sizeof(float) * (size_t)(info->n_kv_heads * info->head_dim));
    run_taps_free(&whole);
    run_taps_free(&cut);
    sluice_close(dense);
    sluice_close(e);
}

static void memory_stays_what_the_rows_need(void **state) {
    (void)state;
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.policy.plugin=streaming", "kvcache.policy.budget=30", "engine.max_seqs=1");
    int64_t n = run_tokens(e, tokens, 120), bytes, n_tokens, page = 16;
    sluice_session *s = run_session(e, tokens, n);
    const sli_store *store = e->target.layers[0].store;
    int64_t row = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        row += 2 * 4 * (int64_t)e->target.info->layers[l]->n_kv_heads * e->target.info->layers[l]->head_dim;
    for (int i = 0; i < 4; i++) {
        run_generate(e, &s, 1, 10);
        assert_int_equal(store->api->length(store->self, s->id, &n_tokens, &bytes), SL_OK);
        assert_int_equal(n_tokens, s->n_kv);
        assert_int_equal(bytes, 2 * page * row); /* 29 rows, and up to 31 are promised */
        assert_in_range(run_bytes_kv(e), 2 * page * row, 2 * page * row * 102 / 100);
    }
    sluice_close(e);
}

static void refusals(void **state) {
    (void)state;
    run_refused("decode_interval", "kvcache.policy.plugin=streaming", "speculation.plugin=prompt_lookup");
    run_refused("leaves no recent row", "kvcache.policy.plugin=streaming", "kvcache.policy.budget=5");
    run_refused("positions", "kvcache.policy.plugin=streaming", "kvcache.policy.positions=cache");
    run_refused("draft", "draft.kvcache.policy.plugin=streaming", "draft.model.path=models/tiny");
    run_refused("selects tokens", "kvcache.policy.plugin=streaming", "attention.plugin=tidaldecode");
    sluice_close(run_open("kvcache.policy.plugin=streaming", "speculation.plugin=prompt_lookup", "engine.deterministic=no"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_that_covers_everything_equals_dense),
        cmocka_unit_test(rows_are_sinks_and_the_newest),
        cmocka_unit_test(positions_count_tokens_not_rows),
        cmocka_unit_test(memory_stays_what_the_rows_need),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
