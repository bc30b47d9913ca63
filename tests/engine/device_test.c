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

/* Ends a request at its k-th token. */
typedef struct ending {
    int32_t tokens[LONG], n, end;
} ending;

static int end_at(void *user, const sluice_chunk *chunk) {
    ending *x = user;
    for (int32_t i = 0; i < chunk->n_tokens && x->n < LONG; i++)
        x->tokens[x->n++] = chunk->tokens[i];
    return x->n >= x->end;
}

/* Steps that were launched before a request's end was known leave nothing behind: requests that are cut and go on
 * decide the tokens of one that is not. */
static void test_ahead(void **state) {
    (void)state;
    static const double temperatures[] = {0, 0.9};
    for (size_t t = 0; t < 2; t++) {
        ending whole = {.end = LONG}, cut = {.end = 0};
        sluice_error err = {0};
        sluice_stats stats;
        sluice_sampling how = e2e_greedy(LONG);
        how.temperature = temperatures[t];
        how.seed = 11;
        sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
        sluice_session *a = e2e_session(e, ids, 60), *b = e2e_session(e, ids, 60), *other = e2e_session(e, ids, 20);
        assert_true(sluice_generate(e, &a, 1, &how, 1, end_at, &whole, &err) >= 0);
        sluice_get_stats(e, &stats);
        printf("temperature %g: %lld steps, %lld of them launched ahead\n", how.temperature, (long long)stats.steps,
               (long long)stats.device_ahead);
        assert_true(stats.device_ahead >= stats.steps - 3 && stats.steps == LONG - 1);
        for (int32_t round = 1; cut.n < LONG; round++) {
            cut.end = cut.n + round;
            if (sluice_generate(e, &b, 1, &how, 1, end_at, &cut, &err) < 0)
                fail_msg("%s", err.text);
            ending ignored = {.end = 1 + round % 3}; /* somebody else's rows in between */
            assert_true(sluice_generate(e, &other, 1, &how, 1, end_at, &ignored, &err) >= 0);
        }
        e2e_check_tokens("cut", whole.tokens, whole.n, cut.tokens, cut.n);
        sluice_get_stats(e, &stats);
        assert_int_equal(stats.allocs_in_steps, 0);
        sluice_close(e);
    }
}

static void sample_two(const char *const *sets, int together, const sluice_sampling *how, int answer, e2e_output *out) {
    sluice_engine *e = e2e_open("models/tiny", sets);
    sluice_stats stats;
    e2e_continue(e, prompts.prompt, 2, together, how, out);
    sluice_get_stats(e, &stats);
    printf("temperature %g: %lld steps by logits, %lld by best ids, %lld drawn\n", how->temperature,
           (long long)stats.device_answers[0], (long long)stats.device_answers[1], (long long)stats.device_answers[2]);
    for (int i = 0; i < 3; i++)
        assert_true(i == answer ? stats.device_answers[i] > 0 : stats.device_answers[i] == 0);
    sluice_close(e);
}

/* What the device draws is what the host draws out of its logits, and drafts do not change it. */
static void test_sampled(void **state) {
    (void)state;
    static const struct {
        double temperature, top_p, min_p;
        int top_k;
    } ways[] = {{0.8, 0, 0, 0}, {1.3, 0.9, 0, 40}, {0.7, 0, 0.05, 0}, {2, 0.5, 0.01, 5}};
    static const int32_t some_id = 3;
    static const float nothing = 0; /* a bias that changes nothing, and is the host's business */
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        sluice_sampling how = e2e_greedy(LONG);
        how.temperature = ways[w].temperature;
        how.top_p = ways[w].top_p;
        how.min_p = ways[w].min_p;
        how.top_k = ways[w].top_k;
        how.seed = 7;
        e2e_output device[2], host[2], drafted[2], alone[2];
        sample_two(SETS(ON_DEVICE), 2, &how, 2, device);
        sample_two(SETS(ON_DEVICE), 1, &how, 2, alone);
        sample_two(SETS(ON_DEVICE, "speculation.plugin=prompt_lookup"), 1, &how, 0, drafted);
        how.bias_id = &some_id;
        how.bias = &nothing;
        how.n_bias = 1;
        sample_two(SETS(ON_DEVICE), 2, &how, 0, host);
        for (int i = 0; i < 2; i++) {
            e2e_check_tokens("by the host", device[i].tokens, device[i].n, host[i].tokens, host[i].n);
            e2e_check_tokens("alone", device[i].tokens, device[i].n, alone[i].tokens, alone[i].n);
            e2e_check_tokens("with drafts", device[i].tokens, device[i].n, drafted[i].tokens, drafted[i].n);
        }
        e2e_outputs_free(device, 2);
        e2e_outputs_free(host, 2);
        e2e_outputs_free(drafted, 2);
        e2e_outputs_free(alone, 2);
    }
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

/* ---- a store that codes its rows --------------------------------------------------------------------------------- */

#define KIVI ON_DEVICE, "kvcache.plugin=kivi", "kvcache.bits=4", "kvcache.residual=32"

static void score_steps(const char *const *sets, double *out) {
    sluice_error err = {0};
    sluice_engine *e = e2e_open("models/tiny", sets);
    if (sluice_score_steps(e2e_session(e, ids, N), TAIL, out, NULL, &err) < 0)
        fail_msg("%s", err.text);
    sluice_close(e);
}

/* Codes are a function of the rows held: steps, company, chunks and graphs change no token; and rows of codes are read
 * where the CPU's store reads them. */
static void test_kivi(void **state) {
    (void)state;
    e2e_output one_by_one[SESSIONS];
    sluice_engine *e = e2e_open("models/tiny", SETS(KIVI));
    continue_all(e, 1, one_by_one);
    sluice_close(e);
    one_variant("kivi, together", one_by_one, SETS(KIVI), SESSIONS);
    one_variant("kivi, two together, chunks of 16", one_by_one, SETS(KIVI, "engine.prefill_chunk=16"), 2);
    one_variant("kivi, prompts in their turn", one_by_one, SETS(KIVI, "kvcache.prompt_rows=512"), 2);
    setenv("FAKE_NO_GRAPHS", "1", 1);
    one_variant("kivi, no graphs", one_by_one, SETS(KIVI), SESSIONS);
    unsetenv("FAKE_NO_GRAPHS");
    e2e_outputs_free(one_by_one, SESSIONS);

    double device[TAIL], two_bits[TAIL], dense[TAIL], cpu[TAIL], far = 0, worst = 0, lost = 0;
    score_steps(SETS(KIVI), device);
    score_steps(SETS(KIVI, "kvcache.bits=2"), two_bits);
    score_steps(SETS(ON_DEVICE), dense);
    score_steps(SETS("engine.device=cpu", "engine.compute=bf16", "engine.max_context=512", "kvcache.plugin=kivi",
                     "kvcache.bits=4", "kvcache.residual=32"),
                cpu);
    for (int i = 0; i < TAIL; i++) {
        far += fabs(device[i] - cpu[i]);
        worst = fmax(worst, fabs(device[i] - cpu[i]));
        lost += fabs(two_bits[i] - dense[i]);
    }
    printf("kivi: scores of steps differ from the CPU's by %.4f on average, %.4f at most; 2 bits from plain rows by "
           "%.4f\n",
           far / TAIL, worst, lost / TAIL);
    assert_true(far / TAIL < 0.1 && worst < 0.5);
    assert_true(lost > 0); /* what is attended to is coded */
}

/* Drafts may be accepted beside codes where nobody asks for the same tokens. */
static void test_kivi_drafts(void **state) {
    (void)state;
    sluice_engine *e =
        e2e_open("models/tiny", SETS(KIVI, "speculation.plugin=token_recycling", "engine.deterministic=no"));
    e2e_output got[SESSIONS];
    sluice_stats stats;
    continue_all(e, 2, got);
    sluice_get_stats(e, &stats);
    assert_true(stats.accepted > 0);
    assert_int_equal(stats.allocs_in_steps, 0);
    e2e_outputs_free(got, SESSIONS);
    sluice_close(e);
}

/* A saved cache holds the values of codes; a fork and a cut end where no group is torn. */
static void test_kivi_sequences(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_engine *e = e2e_open("models/tiny", SETS(KIVI));
    sluice_info info;
    sluice_get_info(e, &info);
    sluice_session *s = e2e_session(e, ids, 90), *child, *loaded;
    assert_true(sluice_prefill(s, 0, &err) >= 0); /* 64 keys and 58 values are coded */
    assert_true(sluice_session_fork(s, 80, &child, &err) >= 0);
    assert_true(sluice_session_append(child, ids + 80, 5, &err) >= 0);
    if (sluice_session_save(s, e2e_temp("kivi.cache"), &err) < 0)
        fail_msg("save: %s", err.text);
    assert_true(sluice_session_open(e, &loaded, &err) >= 0);
    if (sluice_session_load(loaded, e2e_temp("kivi.cache"), &err) < 0)
        fail_msg("load: %s", err.text);
    assert_true(sluice_session_truncate(s, 50, &err) < 0);
    assert_non_null(strstr(err.text, "shortest: 64"));
    assert_true(sluice_session_truncate(s, 80, &err) >= 0);
    assert_true(sluice_session_append(s, ids + 80, 5, &err) >= 0);
    assert_true(sluice_session_truncate(loaded, 80, &err) >= 0);
    assert_true(sluice_session_append(loaded, ids + 80, 5, &err) >= 0);
    float *a = e2e_logits(e, s, 5), *b = e2e_logits(e, child, 5), *c = e2e_logits(e, loaded, 5);
    assert_memory_equal(a, b, sizeof *a * 5 * (size_t)info.vocab);
    double worst = 0;
    for (int64_t i = 0; i < 5 * (int64_t)info.vocab; i++)
        worst = fmax(worst, fabs((double)a[i] - c[i]));
    printf("kivi: logits over a cache that was saved differ by %.4f\n", worst);
    assert_true(worst < 0.5); /* plain rows of bf16 in the place of codes */
    free(a);
    free(b);
    free(c);
    sluice_close(e);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *set, *says;
    } cases[] = {
        {"quant.rewrite.plugin=hadamard", "hadamard"},
        {"kvcache.prompt.plugin=gemfilter", "gemfilter"},
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

/* With times taken, steps run launch by launch and bring the same tokens; each act of each layer is there. */
static void test_profile(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS(ON_DEVICE));
    sluice_sampling greedy = e2e_greedy(LONG);
    sluice_error err = {0};
    sluice_op_time act[64];
    int64_t steps[2];
    sluice_session *s[2];
    int seen = 0;
    for (int i = 0; i < 2; i++) {
        s[i] = e2e_session(e, ids, N);
        assert_int_equal(sluice_profile(e, i, &err), SLUICE_OK);
        assert_int_equal(sluice_generate(e, &s[i], 1, &greedy, 1, NULL, NULL, &err), SLUICE_OK);
    }
    assert_int_equal(sluice_session_length(s[0]), N + LONG);
    assert_memory_equal(sluice_session_tokens(s[0]), sluice_session_tokens(s[1]), sizeof(int32_t) * (N + LONG));
    int n = sluice_profile_read(e, act, 64, steps);
    assert_int_equal(steps[1], LONG - 1);
    for (int i = 0; i < n; i++) {
        int is_layer = strcmp(act[i].name, "attend") == 0 || strcmp(act[i].name, "ffn.down") == 0;
        seen += is_layer;
        if (is_layer)
            assert_int_equal(act[i].calls[1], 6 * (LONG - 1));
    }
    assert_int_equal(seen, 2);
    sluice_close(e);
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
        cmocka_unit_test(test_logits),         cmocka_unit_test(test_tokens),   cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_ahead),          cmocka_unit_test(test_scores),   cmocka_unit_test(test_forks),
        cmocka_unit_test(test_files),          cmocka_unit_test(test_kivi),     cmocka_unit_test(test_kivi_drafts),
        cmocka_unit_test(test_kivi_sequences), cmocka_unit_test(test_refusals), cmocka_unit_test(test_profile),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    e2e_prompts_free(&prompts);
    return failed;
}
