/* The engine's device path on a device that is none (device_fake.h): its logits are the CPU's up to the rounding of
 * bf16, and do not depend on chunks, company, drafts or graphs, bit by bit. */
#include "e2e.h"

#include <math.h>
#include <stdlib.h>

static e2e_prompts prompts;
enum { N = 150, TAIL = 24 };
static int32_t ids[N];

#define ON_DEVICE "engine.device=cuda", "engine.max_context=512", "engine.max_rows=64"

/* ---- logits against the CPU -------------------------------------------------------------------------------------- */

static float *tail_of(const char *const *sets, int64_t *vocab) {
    sluice_engine *e = e2e_open("models/tiny", sets);
    sluice_info info;
    sluice_get_info(e, &info);
    *vocab = info.vocab;
    sluice_session *s = e2e_session(e, ids, N);
    float *logits = e2e_logits(e, s, TAIL);
    sluice_close(e);
    return logits;
}

/* Largest difference by the largest logit of the row. */
static double distance(const float *a, const float *b, int64_t vocab) {
    double worst = 0;
    for (int64_t i = 0; i < TAIL; i++) {
        double most = 0, far = 0;
        for (int64_t k = 0; k < vocab; k++) {
            most = fmax(most, fabs((double)a[i * vocab + k]));
            far = fmax(far, fabs((double)a[i * vocab + k] - b[i * vocab + k]));
        }
        worst = fmax(worst, far / most);
    }
    return worst;
}

static void test_logits(void **state) {
    (void)state;
    static const struct {
        const char *name, *set;
    } variants[] = {
        {"none", "quant.plugin=none"}, {"chunks of 7", "engine.prefill_chunk=7"}, {"page 4", "kvcache.page=4"}};
    int64_t vocab;
    float *cpu = tail_of(SETS("engine.device=cpu", "engine.max_context=512"), &vocab);
    float *packed = tail_of(SETS(ON_DEVICE, "quant.plugin=rtn", "quant.bits=8"), &vocab);
    double rounding = distance(cpu, packed, vocab);
    printf("rtn, 8 bits: logits differ by %.5f of the largest\n", rounding);
    assert_true(rounding > 0 && rounding < 0.05);
    free(packed);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        float *device = tail_of(SETS(ON_DEVICE, variants[v].set), &vocab);
        double d = distance(cpu, device, vocab);
        printf("%s: logits differ by %.5f of the largest\n", variants[v].name, d);
        assert_true(d < 0.02);
        free(device);
    }
    free(cpu);
}

/* ---- tokens against other steps of the same device --------------------------------------------------------------- */

enum { LONG = 40, SESSIONS = 4 };

/* Greedy continuations of the first prompts, together or one by one. */
static void continue_all(sluice_engine *e, int together, e2e_output *out) {
    sluice_sampling greedy = e2e_greedy(LONG);
    e2e_prompt some[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) {
        some[i] = prompts.prompt[i];
        some[i].n_ids = some[i].n_ids < 100 ? some[i].n_ids : 100;
    }
    e2e_continue(e, some, SESSIONS, together, &greedy, out);
}

static void check_same(const char *what, const e2e_output *expected, const e2e_output *got) {
    for (int i = 0; i < SESSIONS; i++)
        e2e_check_tokens(what, expected[i].tokens, expected[i].n, got[i].tokens, got[i].n);
}

static void one_variant(const char *what, const e2e_output *expected, const char *const *sets, int together) {
    sluice_engine *e = e2e_open("models/tiny", sets);
    e2e_output got[SESSIONS];
    sluice_stats stats;
    continue_all(e, together, got);
    sluice_get_stats(e, &stats);
    printf("%s: %lld steps, %lld tokens, %lld graphs of %lld nodes, %lld of %lld drafts, %.3f s of device\n", what,
           (long long)stats.steps, (long long)stats.tokens, (long long)stats.graphs, (long long)stats.graph_nodes,
           (long long)stats.accepted, (long long)stats.drafted, stats.device_seconds);
    check_same(what, expected, got);
    assert_int_equal(stats.allocs_in_steps, 0);
    if (getenv("FAKE_NO_GRAPHS") == NULL) {
        assert_true(stats.graphs > 0);
        assert_true(stats.graphs < stats.steps);
    } else
        assert_int_equal(stats.graphs, 0);
    assert_true(stats.device_seconds > 0);
    e2e_outputs_free(got, SESSIONS);
    sluice_close(e);
}

static void test_tokens(void **state) {
    (void)state;
    e2e_output one_by_one[SESSIONS];
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    continue_all(e, 1, one_by_one);
    sluice_close(e);
    one_variant("together", one_by_one, SETS(ON_DEVICE), SESSIONS);
    one_variant("two together", one_by_one, SETS(ON_DEVICE, "engine.prefill_chunk=16"), 2);
    one_variant("two attention instances", one_by_one, SETS(ON_DEVICE, "attention.prefill.plugin=dense"), SESSIONS);
    one_variant("prompt_lookup", one_by_one, SETS(ON_DEVICE, "speculation.plugin=prompt_lookup"), SESSIONS);
    one_variant("token_recycling", one_by_one, SETS(ON_DEVICE, "speculation.plugin=token_recycling"), SESSIONS);
    one_variant("token_recycling, prompts too", one_by_one,
                SETS(ON_DEVICE, "speculation.plugin=token_recycling", "speculation.update_from_prompt=yes"), 2);
    setenv("FAKE_NO_GRAPHS", "1", 1);
    one_variant("no graphs", one_by_one, SETS(ON_DEVICE), SESSIONS);
    one_variant("no graphs, token_recycling", one_by_one, SETS(ON_DEVICE, "speculation.plugin=token_recycling"), 2);
    unsetenv("FAKE_NO_GRAPHS");
    e2e_outputs_free(one_by_one, SESSIONS);
}

/* Sampling takes logits off the device; drafts must not change what is drawn. */
static void test_sampled(void **state) {
    (void)state;
    sluice_sampling how = e2e_greedy(LONG);
    how.temperature = 0.8;
    how.seed = 7;
    e2e_output plain[2], drafted[2];
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    e2e_continue(e, prompts.prompt, 2, 2, &how, plain);
    sluice_close(e);
    e = e2e_open("models/tiny", SETS(ON_DEVICE, "speculation.plugin=prompt_lookup"));
    e2e_continue(e, prompts.prompt, 2, 1, &how, drafted);
    sluice_close(e);
    for (int i = 0; i < 2; i++)
        e2e_check_tokens("sampled", plain[i].tokens, plain[i].n, drafted[i].tokens, drafted[i].n);
    e2e_outputs_free(plain, 2);
    e2e_outputs_free(drafted, 2);
}

/* ---- scores, forks, files, refusals ------------------------------------------------------------------------------ */

static void test_scores(void **state) {
    (void)state;
    double prompt[TAIL], steps[TAIL], cpu[TAIL];
    sluice_error err = {0};
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    sluice_session *a = e2e_session(e, ids, N), *b = e2e_session(e, ids, N);
    if (sluice_score(a, TAIL, prompt, NULL, &err) < 0 || sluice_score_steps(b, TAIL, steps, NULL, &err) < 0)
        fail_msg("%s", err.text);
    sluice_close(e);
    e = e2e_open("models/tiny", SETS("engine.device=cpu", "engine.max_context=512"));
    a = e2e_session(e, ids, N);
    assert_true(sluice_score(a, TAIL, cpu, NULL, &err) >= 0);
    sluice_close(e);
    for (int i = 0; i < TAIL; i++) {
        assert_true(prompt[i] == steps[i]);
        assert_true(fabs(prompt[i] - cpu[i]) < 0.25);
    }
}

/* The cache as a file, from the device and back to it. */
static void test_files(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    sluice_session *s = e2e_session(e, ids, 70), *loaded;
    assert_true(sluice_prefill(s, 0, &err) >= 0);
    if (sluice_session_save(s, e2e_temp("device.cache"), &err) < 0)
        fail_msg("save: %s", err.text);
    assert_true(sluice_session_open(e, &loaded, &err) >= 0);
    if (sluice_session_load(loaded, e2e_temp("device.cache"), &err) < 0)
        fail_msg("load: %s", err.text);
    sluice_info info;
    sluice_get_info(e, &info);
    assert_true(sluice_session_append(s, ids + 70, 5, &err) >= 0);
    assert_true(sluice_session_append(loaded, ids + 70, 5, &err) >= 0);
    float *a = e2e_logits(e, s, 5), *b = e2e_logits(e, loaded, 5);
    assert_memory_equal(a, b, sizeof *a * 5 * (size_t)info.vocab);
    free(a);
    free(b);
    sluice_close(e);
}

static void test_forks(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    sluice_info info;
    sluice_get_info(e, &info);
    assert_string_equal(info.device, "cuda");
    sluice_session *s = e2e_session(e, ids, 90), *child;
    assert_true(sluice_prefill(s, 0, &err) >= 0);
    assert_true(sluice_session_fork(s, 61, &child, &err) >= 0);
    assert_true(sluice_session_append(child, ids + 61, 30, &err) >= 0);
    assert_true(sluice_session_truncate(s, 50, &err) >= 0);
    assert_true(sluice_session_append(s, ids + 50, 41, &err) >= 0);
    float *fresh = e2e_logits_of(e, ids, 91), *forked = e2e_logits(e, child, 4), *cut = e2e_logits(e, s, 4);
    size_t bytes = sizeof *fresh * 4 * (size_t)info.vocab;
    assert_memory_equal(fresh + 87 * (int64_t)info.vocab, forked, bytes);
    assert_memory_equal(fresh + 87 * (int64_t)info.vocab, cut, bytes);
    free(fresh);
    free(forked);
    free(cut);
    sluice_close(e);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *set, *says;
    } cases[] = {
        {"quant.rewrite.plugin=hadamard", "hadamard"},
        {"kvcache.policy.plugin=h2o", "h2o"},
        {"engine.compute=f32", "bf16"},
        {"kvcache.plugin=streaming", "streaming"},
        {"speculation.plugin=swift", "swift runs on the CPU only"},
        {"engine.gpu_memory=1", "device memory"},  /* the embedding alone is larger */
        {"engine.gpu_memory=8", "device memory"},  /* in the middle of the layers */
        {"engine.gpu_memory=10", "device memory"}, /* behind the last weights */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sluice_error err = {0};
        e2e_open_refused("models/tiny", SETS(ON_DEVICE, cases[i].set), &err);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: refused with \"%s\", which does not name %s", cases[i].set, err.text, cases[i].says);
    }
}

int main(void) {
    char module[PATH_MAX];
    snprintf(module, sizeof module, "%s", e2e_built("tests/device_fake.so"));
    setenv("SLUICE_CUDA_MODULE", module, 1);
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    for (int i = 0; i < prompts.n; i++)
        if (prompts.prompt[i].n_ids >= N)
            memcpy(ids, prompts.prompt[i].ids, sizeof ids);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),   cmocka_unit_test(test_tokens), cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_scores),   cmocka_unit_test(test_forks),  cmocka_unit_test(test_files),
        cmocka_unit_test(test_refusals),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    e2e_prompts_free(&prompts);
    return failed;
}
