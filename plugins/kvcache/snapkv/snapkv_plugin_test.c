/* snapkv on models/tiny: the sheet's invariants, and the choice against brute force from the queries and keys. */
#include "engine_run.h"

enum { MOST = 400, NEW = 24, CAP = 512 };

static void a_capacity_of_the_prompt_equals_dense(void **state) {
    (void)state;
    int32_t tokens[MOST], plain[NEW], cut[NEW];
    sluice_engine *dense = run_open("engine.threads=2"), *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=120");
    int64_t n = run_tokens(dense, tokens, 120), vocab = dense->target.info->vocab;
    assert_int_equal(n, 120);
    run_once(dense, tokens, n, NEW, plain);
    run_once(e, tokens, n, NEW, cut);
    assert_memory_equal(plain, cut, sizeof plain);
    float *a = malloc(sizeof *a * (size_t)(n * vocab)), *b = malloc(sizeof *b * (size_t)(n * vocab));
    sluice_session *s = run_session(dense, tokens, n), *t = run_session(e, tokens, n);
    assert_int_equal(sluice_logits(s, n, a, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(t, n, b, NULL), SLUICE_OK);
    assert_memory_equal(a, b, sizeof *a * (size_t)(n * vocab));
    free(a);
    free(b);
    sluice_close(dense);
    sluice_close(e);
}

/* ---- brute force ----------------------------------------------------------------------------------------------------------- */

typedef struct variant {
    const char *agg, *pooling, *kernel;
    int max_of_group, max_of_pool, half;
} variant;

static const variant variants[] = {
    {"group_agg=mean", "pooling=avg", "kernel=5", 0, 0, 2},
    {"group_agg=sum", "pooling=max", "kernel=7", 0, 1, 3},
    {"group_agg=max", "pooling=max", "kernel=3", 1, 1, 1},
    {"group_agg=max", "pooling=avg", "kernel=1", 1, 0, 0},
};

/* Scores of the keys in front of the window, for one KV head: observe, reduce over the group, pool. */
static void score(const sl_layer_info *info, int32_t head, const float *q, const float *k, int64_t n, int64_t window, const variant *v,
                  double *pooled) {
    static double own[CAP], all[CAP];
    const float *keys[CAP];
    int32_t G = info->n_heads / info->n_kv_heads;
    int64_t D = info->head_dim, before = n - window;
    for (int64_t i = 0; i < n; i++)
        keys[i] = k + (i * info->n_kv_heads + head) * D;
    memset(all, 0, sizeof all);
    for (int32_t g = 0; g < G; g++) {
        memset(own, 0, sizeof own);
        for (int64_t i = before; i < n; i++)
            run_softmax(q + (i * info->n_heads + head * G + g) * D, keys, i + 1, D, info->attn_scale, own);
        for (int64_t i = 0; i < before; i++)
            all[i] = v->max_of_group ? fmax(all[i], own[i]) : all[i] + own[i];
    }
    for (int64_t i = 0; i < before; i++) {
        pooled[i] = 0;
        for (int64_t j = i - v->half; j <= i + v->half; j++)
            if (j >= 0 && j < before)
                pooled[i] = v->max_of_pool ? fmax(pooled[i], all[j]) : pooled[i] + all[j];
    }
}

static void rows_are_those_of_brute_force(void **state) {
    (void)state;
    enum { WINDOW = 12, BUDGET = 50 };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const variant *v = &variants[i];
        char agg[64], pooling[64], kernel[64];
        int32_t tokens[MOST], held[CAP];
        double pooled[CAP];
        run_taps taps = {0};
        snprintf(agg, sizeof agg, "kvcache.policy.%s", v->agg);
        snprintf(pooling, sizeof pooling, "kvcache.policy.%s", v->pooling);
        snprintf(kernel, sizeof kernel, "kvcache.policy.%s", v->kernel);
        sluice_engine *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=50", "kvcache.policy.window=12", agg, pooling, kernel);
        int64_t n = run_tokens(e, tokens, 120);
        sluice_session *s = run_session(e, tokens, n);
        run_rows(e, s, (int32_t)n, SL_STAGE_PREFILL, &taps);
        for (int32_t l = 0; l < e->target.info->n_layers; l++)
            for (int32_t h = 0; h < e->target.info->layers[l]->n_kv_heads; h++) {
                uint8_t stays[CAP] = {0};
                assert_int_equal(run_held(e, s, l, h, held), BUDGET);
                for (int64_t k = 0; k < BUDGET; k++)
                    stays[held[k]] = 1;
                for (int64_t k = n - WINDOW; k < n; k++)
                    assert_true(stays[k]);
                score(e->target.info->layers[l], h, taps.q[l], taps.k[l], n, WINDOW, v, pooled);
                run_check_top(pooled, n - WINDOW, BUDGET - WINDOW, stays, 1e-5);
            }
        run_taps_free(&taps);
        sluice_close(e);
    }
}

/* ---- how the prompt came ------------------------------------------------------------------------------------------------------- */

/* A window of 20 spans three chunks of 7. Batches of five, draft trees and threads are no reason to choose otherwise. */
static void chunks_batches_and_drafts_change_nothing(void **state) {
    (void)state;
    static const char *const ways[][3] = {
        {"engine.prefill_chunk=512", "engine.threads=1", "speculation.plugin=none"},
        {"engine.prefill_chunk=7", "engine.threads=2", "speculation.plugin=none"},
        {"engine.prefill_chunk=7", "engine.threads=2", "speculation.plugin=prompt_lookup"},
    };
    static int32_t held[3][8192], text[3][64];
    int32_t tokens[MOST];
    for (int i = 0; i < 3; i++) {
        sluice_engine *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=40", "kvcache.policy.window=20", ways[i][0], ways[i][1],
                                    ways[i][2]);
        int64_t n = run_tokens(e, tokens, 120);
        sluice_session *s[5];
        for (int k = 0; k < 5; k++)
            s[k] = run_session(e, tokens + (k > 0 ? 3 * k : 0), n - (k > 0 ? 7 * k : 0));
        run_generate(e, s, i == 0 ? 1 : 5, 64);
        assert_int_equal(run_held_all(e, s[0], held[i]), (40 + s[0]->n_kv - n) * e->target.info->n_layers * e->target.info->layers[0]->n_kv_heads);
        memcpy(text[i], sluice_session_tokens(s[0]) + n, sizeof text[i]);
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        assert_int_equal(stats.accepted > 0, i == 2);
        sluice_close(e);
    }
    for (int i = 1; i < 3; i++) {
        assert_memory_equal(held[0], held[i], sizeof held[0]);
        assert_memory_equal(text[0], text[i], sizeof text[0]);
    }
}

static void memory_falls_to_what_is_kept(void **state) {
    (void)state;
    int32_t tokens[MOST];
    int64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        sluice_engine *e = i == 0 ? run_open("engine.max_seqs=1") : run_open("engine.max_seqs=1", "kvcache.policy.plugin=snapkv", "kvcache.policy.budget=0.25",
                                                                            "kvcache.policy.window=8");
        int64_t n = run_tokens(e, tokens, 112), row = 0;
        for (int32_t l = 0; l < e->target.info->n_layers; l++)
            row += 2 * 4 * (int64_t)e->target.info->layers[l]->n_kv_heads * e->target.info->layers[l]->head_dim;
        sluice_session *s = run_session(e, tokens, n);
        run_generate(e, &s, 1, 2);
        bytes[i] = run_bytes_kv(e);
        int64_t rows = i == 0 ? 112 + 2 + 1 : 28 + 2 + 1; /* and the one that a draft tree of one node may need */
        int64_t need = (rows + 15) / 16 * 16 * row;
        assert_in_range(bytes[i], need, need * 102 / 100);
        sluice_close(e);
    }
    assert_true(bytes[1] * 3 < bytes[0]);
}

static void turns_are_cut_one_after_the_other(void **state) {
    (void)state;
    int32_t tokens[MOST], held[CAP];
    sluice_engine *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=40", "kvcache.policy.window=8");
    run_tokens(e, tokens, 120);
    sluice_session *s = run_session(e, tokens, 80);
    run_generate(e, &s, 1, 10);
    assert_int_equal(run_held(e, s, 0, 0, held), 49);
    assert_int_equal(sluice_session_append(s, tokens + 80, 20, NULL), SLUICE_OK);
    run_generate(e, &s, 1, 5); /* 49 + 21 rows at the end of the second prompt */
    assert_int_equal(run_held(e, s, 0, 0, held), 44);
    for (int i = 0; i < 12; i++) /* the window and what was decoded behind it */
        assert_int_equal(held[32 + i], s->n_kv - 12 + i);
    assert_int_equal(sluice_session_truncate(s, 110, NULL), SLUICE_OK);
    assert_int_equal(run_held(e, s, 0, 0, held), 40);
    assert_true(sluice_session_truncate(s, 109, NULL) < 0);
    sluice_close(e);
}

static void refusals(void **state) {
    (void)state;
    run_refused("odd", "kvcache.policy.plugin=snapkv", "kvcache.policy.kernel=4");
    run_refused("leaves no row", "kvcache.policy.plugin=snapkv", "kvcache.policy.budget=32");
    run_refused("decode_interval", "kvcache.policy.plugin=snapkv", "kvcache.policy.decode_interval=8", "speculation.plugin=prompt_lookup");
    run_refused("query_aware", "kvcache.policy.plugin=snapkv", "kvcache.policy.query_aware=no");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_capacity_of_the_prompt_equals_dense),
        cmocka_unit_test(rows_are_those_of_brute_force),
        cmocka_unit_test(chunks_batches_and_drafts_change_nothing),
        cmocka_unit_test(memory_falls_to_what_is_kept),
        cmocka_unit_test(turns_are_cut_one_after_the_other),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
