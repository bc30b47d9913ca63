/* gemfilter on models/tiny: the sheet's invariants end to end, and what it is combined with. */
#include "engine_run.h"

#include "plugin/plugin_host.h"

enum { N = 300, NEW = 12, K = 48 };
#define GEM "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=48", "kvcache.prompt.filter_layer=3"

static int32_t tokens[2 * N];

static int read_tokens(void **state) {
    (void)state;
    sluice_engine *e = run_open("engine.threads=1");
    int64_t n = run_tokens(e, tokens, N);
    for (; n < 2 * N; n++)
        tokens[n] = tokens[n % 150 + 7];
    sluice_close(e);
    return 0;
}

/* What is left of a session's prompt. */
static int64_t kept_of(const sluice_session *s, const int32_t **kept, const int64_t **index) {
    int64_t n_prompt;
    sluice_session_computed(s, kept, index, &n_prompt);
    return n_prompt;
}

static void everything_stays_when_it_fits(void **state) {
    (void)state;
    int32_t plain[NEW], all[NEW];
    sluice_engine *dense = run_open("engine.threads=2"),
                  *e = run_open("engine.threads=2", "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=300");
    int64_t vocab = dense->target.info->vocab;
    run_once(dense, tokens, N, NEW, plain);
    run_once(e, tokens, N, NEW, all);
    assert_memory_equal(plain, all, sizeof plain);
    float *a = malloc(sizeof *a * (size_t)vocab), *b = malloc(sizeof *b * (size_t)vocab);
    sluice_session *s = run_session(dense, tokens, N), *t = run_session(e, tokens, N);
    assert_int_equal(sluice_logits(s, 1, a, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(t, 1, b, NULL), SLUICE_OK);
    assert_memory_equal(a, b, sizeof *a * (size_t)vocab);
    free(a);
    free(b);
    sluice_close(dense);
    sluice_close(e);
}

/* The kept tokens are the best of brute force over the queries and keys of a plain pass over the prompt. */
static void tokens_are_those_of_brute_force(void **state) {
    (void)state;
    static const int32_t layers[] = {0, 2, 5};
    sluice_engine *dense = run_open("engine.threads=2");
    run_taps taps = {0};
    sluice_session *s = run_session(dense, tokens, N);
    run_rows(dense, s, N, SL_STAGE_PREFILL, &taps);
    for (int i = 0; i < 3; i++) {
        const sl_layer_info *info = dense->target.info->layers[layers[i]];
        const float *q = taps.q[layers[i]] + (int64_t)(N - 1) * info->n_heads * info->head_dim, *k = taps.k[layers[i]];
        double score[N], pooled[N], most = 0;
        uint8_t chosen[N] = {0};
        for (int j = 0; j < N; j++) {
            score[j] = 0;
            for (int h = 0; h < info->n_heads; h++)
                for (int d = 0; d < info->head_dim; d++)
                    score[j] += (double)q[h * info->head_dim + d] *
                                k[(j * info->n_kv_heads + h / (info->n_heads / info->n_kv_heads)) * info->head_dim + d];
            most = fabs(score[j]) > most ? fabs(score[j]) : most;
        }
        for (int j = 0; j < N; j++) {
            pooled[j] = 0;
            for (int m = j - 2; m <= j + 2; m++)
                pooled[j] += m >= 0 && m < N ? score[m] / 5 : 0;
        }
        char layer[64];
        snprintf(layer, sizeof layer, "kvcache.prompt.filter_layer=%d", layers[i]);
        sluice_engine *e = run_open("engine.threads=2", "engine.prefill_chunk=64", GEM, layer);
        sluice_session *t = run_session(e, tokens, N);
        run_generate(e, &t, 1, 1);
        const int32_t *kept;
        const int64_t *index;
        assert_int_equal(kept_of(t, &kept, &index), K);
        for (int j = 0; j < K; j++) {
            chosen[index[j]] = 1;
            assert_int_equal(kept[j], tokens[index[j]]);
        }
        run_check_top(pooled, N, K, chosen, 1e-5 * most);
        sluice_close(e);
    }
    run_taps_free(&taps);
    sluice_close(dense);
}

/* Rows of the cache as copy_rows gives them; free it. */
static char *rows_of(sluice_engine *e, const sluice_session *s, int32_t layer, int64_t n, int64_t *bytes) {
    const sl_layer_info *info = e->target.info->layers[layer];
    const sli_store *store = e->target.layers[layer].store;
    *bytes = n * info->n_kv_heads * (info->head_dim + info->v_head_dim) * 4;
    char *buffer = malloc((size_t)*bytes);
    assert_non_null(buffer);
    sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                       .lane = e->target.lane,
                       .buffer = buffer,
                       .end = n,
                       .bytes = *bytes,
                       .layer = layer,
                       .seq = s->id,
                       .direction = SL_COPY_EXPORT,
                       .dtype = SL_F32};
    assert_int_equal(store->api->copy_rows(store->self, &copy, NULL), SL_OK);
    return buffer;
}

/* Cache and memory are those of a plain request whose prompt is what was kept. */
static void the_cache_is_that_of_a_short_prompt(void **state) {
    (void)state;
    sluice_engine *e = run_open("engine.threads=2", GEM);
    sluice_session *t = run_session(e, tokens, N);
    run_generate(e, &t, 1, NEW);
    const int32_t *kept;
    const int64_t *index;
    int64_t after_gem = run_bytes_kv(e);
    assert_int_equal(kept_of(t, &kept, &index), K);
    sluice_engine *dense = run_open("engine.threads=2");
    sluice_session *s = run_session(dense, kept, K);
    run_generate(dense, &s, 1, NEW);
    assert_memory_equal(sluice_session_tokens(t) + N, sluice_session_tokens(s) + K, sizeof *kept * NEW);
    for (int32_t l = 0; l < dense->target.info->n_layers; l++) {
        int64_t bytes;
        char *a = rows_of(dense, s, l, K + NEW - 1, &bytes), *b = rows_of(e, t, l, K + NEW - 1, &bytes);
        assert_memory_equal(a, b, (size_t)bytes);
        free(a);
        free(b);
    }
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    int64_t of_dense = run_bytes_kv(dense) - after_gem,
            spare = of_dense / (K + NEW) * 16 * 8;    /* the ledger is one for all */
    if (after_gem - of_dense > spare + of_dense / 50) /* the store may hold eight free pages back */
        fail_msg("%lld bytes of cache, a prompt of what was kept takes %lld", (long long)after_gem,
                 (long long)of_dense);
    assert_int_equal(stats.kept_tokens, K);
    assert_int_equal(stats.replaced_tokens, N);
    assert_int_equal(stats.prompt_tokens, K);
    assert_int_equal(stats.prompt_work_layers, 3 * N);
    assert_int_equal(stats.allocs_in_steps, 0);
    sluice_close(dense);
    sluice_close(e);
}

static void chunks_batches_and_threads_change_nothing(void **state) {
    (void)state;
    static const int64_t lengths[5] = {300, 49, 48, 211, 7};
    int32_t alone[5][NEW];
    sluice_engine *e = run_open("engine.threads=1", GEM);
    for (int i = 0; i < 5; i++)
        run_once(e, tokens + i, lengths[i], NEW, alone[i]);
    sluice_close(e);
    static const char *const chunks[] = {"engine.prefill_chunk=7", "engine.prefill_chunk=23",
                                         "engine.prefill_chunk=299"};
    for (int c = 0; c < 3; c++) {
        sluice_session *s[5];
        e = run_open("engine.threads=2", GEM, chunks[c]);
        for (int i = 0; i < 5; i++)
            s[i] = run_session(e, tokens + i, lengths[i]);
        run_generate(e, s, 5, NEW);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(sluice_session_length(s[i]), lengths[i] + NEW);
            assert_memory_equal(sluice_session_tokens(s[i]), tokens + i, sizeof *tokens * (size_t)lengths[i]);
            assert_memory_equal(sluice_session_tokens(s[i]) + lengths[i], alone[i], sizeof alone[i]);
        }
        sluice_close(e);
    }
}

/* A later turn chooses anew from the whole text, as a new session with that text does. */
static void check_turns(const char *reuse, const char *positions) {
    int32_t expected[NEW];
    sluice_engine *e =
        run_open("engine.threads=2", "engine.prefill_chunk=200", GEM, reuse, positions, "kvcache.prompt.keep_last=8");
    sluice_session *s = run_session(e, tokens, 200), *t, *u;
    run_generate(e, &s, 1, 9);
    int64_t page = 16 * 6 * 2 * 2 * 64 * 4, kept_pages = (K + 9 + 15) / 16 + 8, early_pages = 200 / 16;
    assert_true((run_bytes_kv(e) >= early_pages * page) == (strstr(reuse, "yes") != NULL));
    assert_true(run_bytes_kv(e) <= (kept_pages + (strstr(reuse, "yes") != NULL ? early_pages + 1 : 0)) * page);
    assert_int_equal(sluice_session_append(s, tokens + 220, 40, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_fork(s, -1, &t, NULL), SLUICE_OK);
    run_generate(e, &s, 1, NEW);
    u = run_session(e, sluice_session_tokens(s), 249);
    run_generate(e, &u, 1, NEW);
    memcpy(expected, sluice_session_tokens(u) + 249, sizeof expected);
    const int32_t *kept[2];
    const int64_t *index[2];
    assert_int_equal(kept_of(s, &kept[0], &index[0]), K);
    assert_int_equal(kept_of(u, &kept[1], &index[1]), K);
    assert_memory_equal(index[0], index[1], sizeof(int64_t) * K);
    assert_memory_equal(sluice_session_tokens(s) + 249, expected, sizeof expected);
    run_generate(e, &t, 1, NEW);
    assert_memory_equal(sluice_session_tokens(t) + 249, expected, sizeof expected);

    sluice_stats stats; /* the second turn of a session read what is new, and a row more */
    sluice_reset_stats(e);
    assert_int_equal(sluice_session_append(s, tokens, 5, NULL), SLUICE_OK);
    run_generate(e, &s, 1, 1);
    sluice_get_stats(e, &stats);
    int reused = strstr(reuse, "yes") != NULL;
    assert_int_equal(stats.prompt_work_layers, 3 * (reused ? NEW + 5 : 249 + NEW + 5));
    assert_int_equal(stats.replaced_tokens, 249 + NEW + 5);
    sluice_session_close(s);
    sluice_session_close(t);
    sluice_session_close(u);
    sluice_close(e);
}

static void turns_choose_anew(void **state) {
    (void)state;
    check_turns("kvcache.prompt.reuse_prefix=no", "kvcache.prompt.positions=fresh");
    check_turns("kvcache.prompt.reuse_prefix=no", "kvcache.prompt.positions=original");
    check_turns("kvcache.prompt.reuse_prefix=yes", "kvcache.prompt.positions=fresh");
    check_turns("kvcache.prompt.reuse_prefix=yes", "kvcache.prompt.positions=original");
}

/* Drafters see what was kept, and change nothing. */
static void drafts_change_nothing(void **state) {
    (void)state;
    static const int64_t lengths[5] = {300, 60, 30, 150, 90};
    static const char *const drafters[] = {"speculation.plugin=none", "speculation.plugin=prompt_lookup",
                                           "speculation.plugin=token_recycling", "speculation.plugin=sps"};
    static const char *const positions[] = {"kvcache.prompt.positions=fresh", "kvcache.prompt.positions=original"};
    char draft[4200];
    snprintf(draft, sizeof draft, "draft.model.path=%s", run_place("SLUICE_SOURCE", "models/tiny"));
    for (int p = 0; p < 2; p++) {
        int32_t expected[5][2 * NEW];
        for (int d = 0; d < 4; d++) {
            sluice_session *s[5];
            sluice_engine *e = d == 3 ? run_open("engine.threads=2", GEM, drafters[d], positions[p], draft)
                                      : run_open("engine.threads=2", GEM, drafters[d], positions[p]);
            for (int i = 0; i < 5; i++)
                s[i] = run_session(e, tokens + 2 * i, lengths[i]);
            run_generate(e, s, 5, NEW);
            for (int i = 0; i < 5; i++) /* a second turn: what drafters remembered is another text's */
                assert_int_equal(sluice_session_append(s[i], tokens + 100, 20, NULL), SLUICE_OK);
            run_generate(e, s, 5, NEW);
            for (int i = 0; i < 5; i++) {
                const int32_t *at = sluice_session_tokens(s[i]) + lengths[i];
                if (d == 0) {
                    memcpy(expected[i], at, sizeof *at * NEW);
                    memcpy(expected[i] + NEW, at + NEW + 20, sizeof *at * NEW);
                }
                assert_memory_equal(at, expected[i], sizeof *at * NEW);
                assert_memory_equal(at + NEW + 20, expected[i] + NEW, sizeof *at * NEW);
            }
            sluice_stats stats;
            sluice_get_stats(e, &stats);
            assert_true(d == 0 || stats.drafted > 0);
            if (d == 3) /* the same model, with the same text in the same places, drafts what is decided */
                assert_true(p == 1 || stats.accepted > stats.drafted * 3 / 4);
            sluice_close(e);
        }
    }
}

/* Beside quantised weights, selecting attention and policies the rest of the run is that of the kept tokens. */
static void others_work_on_what_was_kept(void **state) {
    (void)state;
    static const char *const sets[][3] = {
        {"quant.plugin=rtn", "quant.bits=8", "quant.group=32"},
        {"attention.plugin=tidaldecode", "attention.token_budget=32", "engine.threads=2"},
        {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=24", "engine.threads=2"},
        {"kvcache.policy.plugin=snapkv", "kvcache.policy.budget=40", "kvcache.policy.window=8"},
        {"kvcache.policy.plugin=streaming", "kvcache.policy.budget=20", "engine.threads=2"},
        {"kvcache.dtype=bf16", "engine.compute=bf16", "engine.threads=2"},
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        int32_t expected[NEW];
        sluice_engine *plain = run_open(sets[i][0], sets[i][1], sets[i][2]),
                      *e = run_open(sets[i][0], sets[i][1], sets[i][2], GEM, "engine.prefill_chunk=37");
        sluice_session *s = run_session(e, tokens, N);
        for (int again = 0; again < 2; again++) {
            run_generate(e, &s, 1, NEW);
            const int32_t *kept;
            const int64_t *index;
            int64_t n = sluice_session_length(s);
            assert_int_equal(kept_of(s, &kept, &index), K);
            run_once(plain, kept, K, NEW, expected);
            assert_memory_equal(sluice_session_tokens(s) + n - NEW, expected, sizeof expected);
            assert_int_equal(sluice_session_append(s, tokens, 11, NULL), SLUICE_OK);
        }
        sluice_close(plain);
        sluice_close(e);
    }
}

/* Scored tokens follow a prompt that was chosen without them. */
static void scores_follow_the_prompt(void **state) {
    (void)state;
    double a[20], b[20];
    int32_t best_a[20], best_b[20], text[K + 20];
    sluice_engine *dense = run_open("engine.threads=2"), *e = run_open("engine.threads=2", GEM);
    sluice_session *t = run_session(e, tokens, N);
    assert_int_equal(sluice_score(t, 20, a, best_a, NULL), SLUICE_OK);
    const int32_t *kept;
    const int64_t *index;
    assert_int_equal(kept_of(t, &kept, &index), K);
    assert_in_range(index[K - 1], 0, N - 21);
    memcpy(text, kept, sizeof *kept * K);
    memcpy(text + K, tokens + N - 20, sizeof *tokens * 20);
    sluice_session *s = run_session(dense, text, K + 20);
    assert_int_equal(sluice_score(s, 20, b, best_b, NULL), SLUICE_OK);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(best_a, best_b, sizeof best_a);
    assert_true(sluice_score(t, 1, a, NULL, NULL) < 0); /* nothing is pending */
    sluice_close(dense);
    sluice_close(e);
}

/* The checking host found nothing to say. */
static void plugins_behave(void **state) {
    (void)state;
    sluice_engine *e = run_open("engine.threads=2", GEM, "kvcache.prompt.reuse_prefix=yes");
    sluice_session *s = run_session(e, tokens, N), *t;
    run_generate(e, &s, 1, NEW);
    assert_int_equal(sluice_session_fork(s, 250, &t, NULL), SLUICE_OK);
    run_generate(e, (sluice_session *const[]){s, t}, 2, 3);
    sluice_session_close(t);
    sli_host_faults faults;
    sli_host_read_faults(e->hosts, &faults);
    assert_int_equal(faults.allocs_in_step + faults.wrong_state + faults.overruns + faults.bad_pointers + faults.leaks,
                     0);
    sluice_close(e);
}

static void refusals(void **state) {
    (void)state;
    char draft[4200];
    snprintf(draft, sizeof draft, "draft.model.path=%s", run_place("SLUICE_SOURCE", "models/tiny"));
    run_refused("layers 0 to 5", "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.filter_layer=6");
    run_refused("odd", "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.pool=2");
    run_refused("more than topk", "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=4",
                "kvcache.prompt.keep_last=5");
    run_refused("topk", "kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=0");
    run_refused("for the target", "speculation.plugin=sps", draft, "draft.kvcache.prompt.plugin=gemfilter");
    run_refused("role", "kvcache.prompt.plugin=h2o");
    run_refused("role", "kvcache.policy.plugin=gemfilter");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_stays_when_it_fits),
        cmocka_unit_test(tokens_are_those_of_brute_force),
        cmocka_unit_test(the_cache_is_that_of_a_short_prompt),
        cmocka_unit_test(chunks_batches_and_threads_change_nothing),
        cmocka_unit_test(turns_choose_anew),
        cmocka_unit_test(drafts_change_nothing),
        cmocka_unit_test(others_work_on_what_was_kept),
        cmocka_unit_test(scores_follow_the_prompt),
        cmocka_unit_test(plugins_behave),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("gemfilter", tests, read_tokens, NULL);
}
