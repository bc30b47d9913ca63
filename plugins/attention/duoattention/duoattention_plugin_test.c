/* duoattention on models/tiny: cuts, forks, drafts, memory, and what is refused. */
#include "duo_rig_test.h"

/* ---- cuts and forks
 * --------------------------------------------------------------------------------------------------- */

static void cut_and_redone(void **state) {
    (void)state;
    int32_t tokens[CAP];
    sluice_error err = {0};
    sluice_engine *e = OPEN(DUO, "attention.window=exact", "attention.slack=9");
    int64_t vocab = e->target.info->vocab, size = (int64_t)sizeof(float) * vocab;
    text(e, tokens, 200);
    float *once = logits_of(e, tokens, 160, 1), *again = malloc((size_t)size);
    sluice_session *s = run_session(e, tokens, 160);
    for (int64_t k = 0; k <= 9; k++) {
        if (k > 0) {
            assert_int_equal(sluice_session_truncate(s, 160 - k, &err), SLUICE_OK);
            assert_int_equal(sluice_session_append(s, tokens + 160 - k, k, &err), SLUICE_OK);
        }
        assert_int_equal(sluice_logits(s, 1, again, NULL), SLUICE_OK);
        assert_memory_equal(once, again, (size_t)size);
    }
    /* further than the slack: refused, and nothing happened */
    assert_true(sluice_session_truncate(s, 100, &err) < 0);
    assert_non_null(strstr(err.text, "shortest"));
    assert_int_equal(sluice_session_append(s, tokens + 160, 20, &err), SLUICE_OK);
    assert_int_equal(sluice_logits(s, 1, again, NULL), SLUICE_OK);
    float *longer = logits_of(e, tokens, 180, 1);
    assert_memory_equal(longer, again, (size_t)size);
    /* as far as the sinks: those never go */
    assert_int_equal(sluice_session_truncate(s, 3, &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(s, tokens + 3, 157, &err), SLUICE_OK);
    assert_int_equal(sluice_logits(s, 1, again, NULL), SLUICE_OK);
    assert_memory_equal(once, again, (size_t)size);
    assert_int_equal(sluice_session_truncate(s, 0, &err), SLUICE_OK);
    free(once);
    free(again);
    free(longer);
    sluice_close(e);
}

static void forks_go_their_own_ways(void **state) {
    (void)state;
    int32_t tokens[CAP], plain[60];
    sluice_error err = {0};
    sluice_engine *e = OPEN(DUO, "attention.page=16", "attention.window=exact");
    int64_t n = text(e, tokens, 120);
    run_once(e, tokens, n, 60, plain);
    sluice_session *parent = run_session(e, tokens, n), *fork[3], *early;
    run_generate(e, &parent, 1, 20);
    assert_int_equal(sluice_session_fork(parent, -1, &fork[0], &err), SLUICE_OK);
    assert_int_equal(sluice_session_fork(parent, 134, &fork[1], &err),
                     SLUICE_OK); /* before its end, within the slack */
    assert_int_equal(sluice_session_fork(fork[0], -1, &fork[2], &err), SLUICE_OK); /* a fork of a fork */
    assert_int_equal(sluice_session_append(fork[2], tokens, 7, &err), SLUICE_OK);
    run_generate(e, &fork[2], 1, 10); /* writes into what it shared */
    assert_int_equal(sluice_session_truncate(parent, 130, &err), SLUICE_OK);
    sluice_session *all[] = {parent, fork[0], fork[1]};
    run_generate(e, all, 3, 20);
    assert_memory_equal(sluice_session_tokens(parent) + n, plain, 30 * sizeof *plain);
    assert_memory_equal(sluice_session_tokens(fork[0]) + n, plain, 40 * sizeof *plain);
    assert_memory_equal(sluice_session_tokens(fork[1]) + n, plain, 34 * sizeof *plain);
    assert_true(sluice_session_fork(parent, 60, &early, &err) < 0);
    assert_non_null(strstr(err.text, "streaming heads"));
    assert_int_equal(sluice_session_fork(parent, 4, &early, &err), SLUICE_OK); /* nothing but sinks */
    assert_int_equal(sluice_session_append(early, tokens + 4, n - 4, &err), SLUICE_OK);
    run_generate(e, &early, 1, 20);
    assert_memory_equal(sluice_session_tokens(early) + n, plain, 20 * sizeof *plain);
    sluice_close(e);
}

/* ---- drafts
 * ------------------------------------------------------------------------------------------------------------ */

static void drafts_change_nothing(void **state) {
    (void)state;
    static const char *const windows[] = {"attention.window=exact", "attention.window=chunk"};
    char draft[4200], draft_file[300];
    snprintf(draft, sizeof draft, "draft.model.path=%s", run_place("SLUICE_SOURCE", "models/tiny"));
    snprintf(draft_file, sizeof draft_file, "draft.attention.pattern_file=%s", pattern);
    for (int w = 0; w < 2; w++) {
        sluice_engine *plain = OPEN(DUO, windows[w], "engine.prefill_chunk=64");
        const char *const drafters[][7] = {
            {"speculation.plugin=prompt_lookup"},
            {"speculation.plugin=token_recycling"},
            {"speculation.plugin=sps", draft},
            {"speculation.plugin=sps", draft, "draft.attention.plugin=duoattention", draft_file,
             "draft.attention.recent_size=8", "draft.kvcache.plugin=duoattention"},
        };
        for (size_t d = 0; d < sizeof drafters / sizeof *drafters; d++) {
            const char *sets[16] = {DUO, windows[w], "engine.prefill_chunk=64"};
            int n = 7;
            for (int k = 0; k < 7 && drafters[d][k] != NULL; k++)
                sets[n++] = drafters[d][k];
            sluice_engine *e = open_list(sets);
            same_five(plain, e, 1, 1);
            same_five(plain, e, 1, 0);
            sluice_stats stats;
            sluice_get_stats(e, &stats);
            assert_true(stats.drafted > 0);
            if (d == 3) /* the target itself, all but for its window */
                assert_true(stats.accepted > 0);
            sluice_close(e);
        }
        sluice_close(plain);
    }
}

/* ---- memory
 * ------------------------------------------------------------------------------------------------------------ */

static void memory_is_what_was_quoted(void **state) {
    (void)state;
    int32_t tokens[CAP];
    sluice_engine *e = OPEN(DUO, "attention.page=16"),
                  *all = OPEN("attention.plugin=duoattention", "attention.sparsity=1", "attention.sink_size=4",
                              "attention.recent_size=24", STORE);
    int64_t n_tokens, bytes, row = 2 * 4 * 64; /* k and v of one head, f32 */
    text(e, tokens, 500);
    sluice_engine *engines[] = {e, all};
    for (int i = 0; i < 2; i++) {
        const sli_store *store = engines[i]->target.layers[0].store;
        assert_int_equal(run_bytes_kv(engines[i]), 0);
        for (int64_t n = 20; n <= 500; n += 120) {
            sluice_session *s = run_session(engines[i], tokens, n);
            run_generate(engines[i], &s, 1, 10);
            sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = n + 10 + 1};
            assert_int_equal(store->api->quote(store->self, &q), SL_OK);
            assert_int_equal(store->api->length(store->self, s->id, &n_tokens, &bytes), SL_OK);
            assert_int_equal(bytes, q.bytes);
            assert_in_range(run_bytes_kv(engines[i]), q.bytes, q.bytes * 102 / 100);
            int64_t pages = (n + 11 + 15) / 16 * 16, ring = n + 11 < 28 + 17 ? n + 11 : 28 + 17;
            int64_t real = i == 0 ? 6 * row * pages + 6 * row * ring : 12 * row * ring;
            assert_in_range(bytes, real, real * 102 / 100);
            assert_int_equal(q.bytes_next, (i == 0 ? 6 * row : 0) + (n + 11 < 28 + 17 ? (i == 0 ? 6 : 12) * row : 0));
            sluice_session_close(s);
            assert_int_equal(run_bytes_kv(engines[i]), 0); /* really returned */
        }
        sluice_stats stats;
        sluice_get_stats(engines[i], &stats);
        assert_int_equal(stats.allocs_in_steps, 0);
    }
    sluice_close(e);
    sluice_close(all);
}

/* ---- which sections go together
 * ------------------------------------------------------------------------------------------ */

static void layers_may_be_divided(void **state) {
    (void)state;
    /* two objects, each with its layers, are what one is */
    char low[320], high[320];
    snprintf(low, sizeof low, "attention.layers 0-2.pattern_file=%s", pattern);
    snprintf(high, sizeof high, "attention.layers 3-5.pattern_file=%s", pattern);
    sluice_engine *one = OPEN(ATTENTION),
                  *two = OPEN("attention.layers 0-2.plugin=duoattention", low, "attention.layers 0-2.sink_size=4",
                              "attention.layers 0-2.recent_size=24", "attention.layers 3-5.plugin=duoattention", high,
                              "attention.layers 3-5.sink_size=4", "attention.layers 3-5.recent_size=24");
    same_logits(one, two, 200, 200);
    same_five(one, two, 1, 1);
    sluice_close(one);
    sluice_close(two);
    /* some layers dense, and prompts dense everywhere: not the whole, nor nothing */
    sluice_engine *dense = OPEN(""),
                  *decode = OPEN("attention.decode.plugin=duoattention", "attention.decode.sparsity=1",
                                 "attention.decode.recent_size=8", "attention.decode.sink_size=1");
    same_logits(dense, decode, 200, 200);
    int32_t x[5][NEW], y[5][NEW];
    generate_five(dense, 1, x);
    generate_five(decode, 1, y);
    assert_true(memcmp(x, y, sizeof x) != 0);
    sluice_close(dense);
    sluice_close(decode);
}

static void refusals(void **state) {
    (void)state;
    REFUSED("pattern_file", "attention.plugin=duoattention", STORE);
    REFUSED("give one", DUO, "attention.sparsity=0.5", "attention.threshold=0.5");
    REFUSED("contradicts", DUO, "attention.window=exact", "attention.first_chunk=dense");
    REFUSED("contradicts", DUO, "attention.window=exact", "attention.prefill_chunk=64");
    REFUSED("prefill_chunk", DUO, "attention.prefill_chunk=4096");
    REFUSED("one object with that of [attention]", DUO, "kvcache.page=16");
    /* its cache under another attention, in some layers or stages */
    REFUSED("layer 0", STORE, "kvcache.sparsity=0");
    REFUSED("layer 2", DUO, "attention.layers 2-3.plugin=dense");
    REFUSED("every stage", DUO, "attention.prefill.plugin=dense");
    REFUSED("layer", STORE, "kvcache.sparsity=0", "attention.plugin=tidaldecode");
    /* policies drop rows of a store that can */
    REFUSED("sl.kv.edit/1", DUO, "kvcache.policy.plugin=snapkv");
    REFUSED("sl.kv.edit/1", DUO, "kvcache.policy.plugin=streaming");
    /* two attention plugins in one layer are two sections for it */
    REFUSED("range", DUO, "attention.sparsity=1.5");
    REFUSED("No such file", "attention.plugin=duoattention", "attention.pattern_file=no_such_gates.tsv", STORE);
    sluice_close(OPEN(DUO, "attention.threshold=0.5"));
    /* a policy over a cache that keeps all rows, under the mask */
    sluice_close(OPEN(ATTENTION, "kvcache.policy.plugin=snapkv", "kvcache.policy.budget=64"));
}

/* The cache cannot be written to a file as ranges of tokens, and says so. */
static void a_session_is_not_saved(void **state) {
    (void)state;
    int32_t tokens[CAP];
    sluice_error err = {0};
    sluice_engine *e = OPEN(DUO);
    text(e, tokens, 50);
    sluice_session *s = run_session(e, tokens, 50);
    run_generate(e, &s, 1, 4);
    assert_true(sluice_session_save(s, "/tmp/duo_test_session", &err) < 0);
    assert_non_null(strstr(err.text, "does not export"));
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_and_redone),         cmocka_unit_test(forks_go_their_own_ways),
        cmocka_unit_test(drafts_change_nothing),  cmocka_unit_test(memory_is_what_was_quoted),
        cmocka_unit_test(layers_may_be_divided),  cmocka_unit_test(refusals),
        cmocka_unit_test(a_session_is_not_saved),
    };
    return cmocka_run_group_tests(tests, write_pattern, remove_pattern);
}
