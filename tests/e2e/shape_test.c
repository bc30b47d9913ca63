/* Engines of a shape: they compute finite numbers, the same ones each time; a cache can be filled with seeded rows, and what
 * stands in the way is said. */
#include "e2e.h"

#include <math.h>

static sluice_engine *open_shape(const char *const *more) {
    const char *sets[16] = {"model.shape=tiny", "engine.threads=2", "engine.max_context=1024"};
    int n = 3;
    for (; more[n - 3] != NULL; n++)
        sets[n] = more[n - 3];
    sluice_options options = {.sets = sets, .n_sets = n};
    sluice_engine *e = NULL;
    sluice_error err;
    if (sluice_open(&options, &e, &err) < 0)
        fail_msg("%s", err.text);
    return e;
}

static void refused(const char *const *sets, int n, const char *why) {
    sluice_options options = {.sets = sets, .n_sets = n};
    sluice_error err = {0};
    sluice_engine *e = NULL;
    assert_true(sluice_open(&options, &e, &err) < 0);
    if (strstr(err.text, why) == NULL)
        fail_msg("expected \"%s\" in: %s", why, err.text);
}

static void logits_are_finite_and_seeded(void **state) {
    (void)state;
    static const char *const sets[][3] = {{NULL}, {"model.shape_seed=3", NULL}, {"model.shape_dtype=f16", NULL},
                                          {"quant.plugin=rtn", NULL}, {"quant.rewrite.plugin=hadamard", NULL}};
    int32_t ids[40];
    for (int i = 0; i < 40; i++)
        ids[i] = (i * 997 + 13) % 4096;
    float *first = NULL;
    for (size_t c = 0; c < sizeof sets / sizeof *sets; c++) {
        float *again = NULL;
        for (int r = 0; r < 2; r++) {
            sluice_engine *e = open_shape(sets[c]);
            float *logits = e2e_logits_of(e, ids, 40);
            double squares = 0;
            for (int64_t i = 0; i < 40 * 4096; i++) {
                assert_true(isfinite(logits[i]));
                squares += (double)logits[i] * logits[i];
            }
            double spread = sqrt(squares / (40 * 4096));
            if (spread < 0.02 || spread > 20)
                fail_msg("%s: logits have a spread of %g", sets[c][0] != NULL ? sets[c][0] : "plain", spread);
            if (again != NULL)
                assert_memory_equal(again, logits, sizeof *logits * 40 * 4096);
            free(again);
            again = logits;
            sluice_close(e);
        }
        if (c == 1) /* another seed, another model */
            assert_memory_not_equal(first, again, sizeof *again * 4096);
        if (c == 0)
            first = again;
        else
            free(again);
    }
    free(first);
}

static void caches_are_filled(void **state) {
    (void)state;
    static const char *const sets[][4] = {
        {NULL},
        {"attention.plugin=quest", NULL},
        {"attention.plugin=tidaldecode", NULL},
        {"kvcache.plugin=kivi", NULL},
        {"kvcache.plugin=shadowkv", NULL},
        {"kvcache.policy.plugin=streaming", "engine.deterministic=no", NULL},
        {"engine.prefill_chunk=48", "speculation.plugin=token_recycling", NULL},
    };
    for (size_t c = 0; c < sizeof sets / sizeof *sets; c++) {
        sluice_engine *e = open_shape(sets[c]);
        int32_t tokens[2][8];
        for (int r = 0; r < 3; r++) { /* the same rows, the same tokens; other rows, others */
            sluice_session *s;
            sluice_error err;
            sluice_stats before, after;
            assert_int_equal(sluice_session_open(e, &s, &err), SLUICE_OK);
            sluice_get_stats(e, &before);
            if (sluice_session_fill(s, 500, r == 2 ? 9 : 5, &err) < 0)
                fail_msg("%s: %s", sets[c][0], err.text);
            sluice_get_stats(e, &after);
            assert_int_equal(sluice_session_length(s), 500);
            assert_int_equal(after.prompt_tokens, before.prompt_tokens);
            assert_true(after.bytes_kv > 0);
            assert_int_equal(after.allocs_in_steps, 0);
            const int32_t next = 77;
            assert_int_equal(sluice_session_append(s, &next, 1, &err), SLUICE_OK);
            sluice_sampling greedy = e2e_greedy(8);
            e2e_output out;
            e2e_generate(e, &s, 1, &greedy, 1, &out);
            assert_int_equal(out.n, 8);
            if (r == 1)
                e2e_check_tokens(sets[c][0], tokens[0], 8, out.tokens, 8);
            memcpy(tokens[r != 0], out.tokens, sizeof tokens[0]);
            e2e_outputs_free(&out, 1);
            assert_true(sluice_session_fill(s, 600, 5, &err) < 0); /* longer than the context, or pending */
            sluice_session_close(s);
        }
        assert_memory_not_equal(tokens[0], tokens[1], sizeof tokens[0]);
        sluice_close(e);
    }
}

static void mistakes_are_named(void **state) {
    (void)state;
    const char *const both[] = {"model.shape=tiny", "model.path=/tmp"}, *const dtype[] = {"model.shape_dtype=f16"},
          *const unknown[] = {"model.shape=lama-2-7b"}, *const word[] = {"model.shape=tiny", "model.shape_dtype=int8"};
    refused(both, 2, "one or the other");
    refused(dtype, 1, "goes with \"shape\"");
    refused(unknown, 1, "did you mean \"llama-2-7b\"");
    refused(word, 2, "int8");
    sluice_engine *e = open_shape(NO_SETS);
    sluice_session *s;
    sluice_error err = {0};
    const int32_t id = 5;
    assert_int_equal(sluice_session_open(e, &s, &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(s, &id, 1, &err), SLUICE_OK);
    assert_true(sluice_session_fill(s, 8, 0, &err) < 0);
    assert_non_null(strstr(err.text, "pending"));
    assert_int_equal(sluice_session_length(s), 1);
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_finite_and_seeded),
        cmocka_unit_test(caches_are_filled),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests_name("shape", tests, NULL, NULL);
}
