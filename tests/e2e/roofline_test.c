/* What `sluice roofline` predicts: laws that hold for any machine, the account of every technique, and what it finds
 * out when it measures. */
#include <math.h>

#include "../combining/techniques.h"
#include "cli.h"

static const char *const phases[] = {"prefill", "decode"};

#define assert_near(a, b, most) near_(a, b, most, #a, __LINE__)
static void near_(double a, double b, double most, const char *what, int line) {
    if (!(fabs(a - b) <= most))
        fail_msg("line %d: %s is %.15g, expected %.15g", line, what, a, b);
}

/* ---- asking -------------------------------------------------------------------------------------------------------
 */

typedef struct text {
    char *data;
    size_t n;
} text;

static void keep(void *user, const char *data, size_t n) {
    text *t = user;
    t->data = realloc(t->data, t->n + n + 1);
    memcpy(t->data + t->n, data, n);
    t->n += n;
    t->data[t->n] = '\0';
}

/* sets, then more, both NULL-terminated. */
static json_t *ask(const char *machine, int64_t prompt, int64_t gen, int64_t batch, const char *const *sets,
                   const char *const *more) {
    const char *all[64];
    int n = 0;
    sluice_hardware hw;
    sluice_error err = {0};
    text t = {0};
    for (; *sets != NULL; sets++)
        all[n++] = *sets;
    for (; *more != NULL; more++)
        all[n++] = *more;
    sluice_options options = {.sets = all, .n_sets = n};
    if (sluice_hardware_find(machine, &hw, &err) < 0)
        fail_msg("%s: %s", machine, err.text);
    sluice_roofline_request request = {&hw, prompt, gen, batch, 0.6};
    if (sluice_roofline_json(&options, &request, keep, &t, &err) < 0)
        fail_msg("%s", err.text);
    json_t *out = json_loads(t.data, 0, NULL);
    assert_non_null(out);
    free(t.data);
    return out;
}

static json_t *ask_shape(const char *machine, const char *shape, int64_t prompt, int64_t gen, int64_t batch,
                         const char *const *more) {
    char model[96];
    snprintf(model, sizeof model, "model.shape=%s", shape);
    return ask(machine, prompt, gen, batch, SETS(model), more);
}

static json_t *ask_tiny(int64_t prompt, int64_t gen, const char *const *sets) {
    char model[PATH_MAX + 32];
    snprintf(model, sizeof model, "model.path=%s", e2e_path("models/tiny"));
    return ask("i9-13900k", prompt, gen, 1, SETS(model, "engine.deterministic=no"), sets);
}

static double number(const json_t *of, const char *key) {
    const json_t *x = json_object_get(of, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static double of_kind(const json_t *report, const char *phase, const char *kind) {
    return number(json_object_get(json_object_get(report, phase), "by_kind"), kind);
}

static const json_t *row_of(const json_t *phase, const char *name) {
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(phase, "rows"), i,
                       row) if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0) return row;
    fail_msg("no row %s", name);
    return NULL;
}

/* ---- laws ---------------------------------------------------------------------------------------------------------
 */

/* Llama-2-7B in bf16 at a context of 2048 on an H200: 13.2 GB of weights and 1.07 GB of keys and values. */
static void test_known_point(void **state) {
    (void)state;
    json_t *r = ask_shape("h200", "llama-2-7b", 2047, 2, 1, NO_SETS);
    assert_near(of_kind(r, "decode", "kv_read"), 2.0 * 32 * 4096 * 2 * 2048, 0.5);
    assert_near(of_kind(r, "decode", "weights") / 13.2e9, 1, 0.005);
    assert_near(number(r, "tpot_seconds") / 2.98e-3, 1, 0.005);
    assert_true(number(r, "tokens_per_second") < 336);
    json_decref(r);
}

/* Bytes of weights in a step of decoding are those of all tensors but the embedding, of which one row is read. */
static void test_weight_bytes(void **state) {
    (void)state;
    static const struct {
        const char *shape;
        double hidden, vocab;
        int tied;
    } shapes[] = {{"llama-2-7b", 4096, 32000, 0}, {"llama-3.2-1b", 2048, 128256, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        json_t *r = ask_shape("h200", shapes[i].shape, 64, 2, 1, NO_SETS);
        double embed = 2 * shapes[i].hidden * shapes[i].vocab, row = 2 * shapes[i].hidden;
        double expected = number(r, "model_bytes") - (shapes[i].tied ? 0 : embed) + row;
        assert_near(of_kind(r, "decode", "weights"), expected, 0.5);
        assert_near(number(json_object_get(r, "memory"), "weights"), number(r, "model_bytes"), 0.5);
        json_decref(r);
    }
}

/* Two operations a weight and row, attention apart. */
static void test_flops(void **state) {
    (void)state;
    json_t *r = ask_shape("h200", "llama-2-7b", 256, 2, 1, NO_SETS);
    double table = 4096.0 * 32000, layers = number(r, "parameters") - 2 * table;
    const json_t *prefill = json_object_get(r, "prefill");
    double flops = number(prefill, "flops") - number(row_of(prefill, "attend"), "flops");
    assert_near(flops / (2 * layers * 256 + 2 * table), 1, 0.01);
    json_decref(r);
}

/* Pairs of a prompt do not depend on its chunks, weights are read once a chunk. */
static void test_chunks(void **state) {
    (void)state;
    json_t *whole = ask_shape("h200", "llama-3.2-1b", 1000, 2, 1, SETS("engine.prefill_chunk=1024"));
    json_t *cut = ask_shape("h200", "llama-3.2-1b", 1000, 2, 1, SETS("engine.prefill_chunk=100"));
    const json_t *a = json_object_get(whole, "prefill"), *b = json_object_get(cut, "prefill");
    double pairs = 1000.0 * 1001 / 2 * 16 * 32 * (4 * 64 + 5);
    assert_near(number(row_of(a, "attend"), "flops") / pairs, 1, 1e-12);
    assert_near(number(row_of(b, "attend"), "flops") / pairs, 1, 1e-12);
    double qkv = number(json_object_get(row_of(a, "attn.qkv"), "by_kind"), "weights");
    assert_near(number(json_object_get(row_of(b, "attn.qkv"), "by_kind"), "weights"), 10 * qkv, 0.5);
    json_decref(whole);
    json_decref(cut);
}

static void test_monotone(void **state) {
    (void)state;
    double last = INFINITY;
    for (int64_t batch = 1; batch <= 8; batch *= 2) {
        json_t *r = ask_shape("h200", "llama-3.1-8b", 1024, 16, batch, NO_SETS);
        double each = 1 / number(r, "tokens_per_second");
        assert_true(each < last);
        last = each;
        json_decref(r);
    }
    static const char *const fewer[][4] = {
        {NULL}, {"quant.plugin=rtn", "quant.bits=8", NULL}, {"quant.plugin=rtn", "quant.bits=4", NULL}};
    static const char *const cache[][4] = {
        {NULL}, {"kvcache.plugin=kivi", "kvcache.bits=8", NULL}, {"kvcache.plugin=kivi", "kvcache.bits=4", NULL}};
    double weights = INFINITY, rows = INFINITY;
    for (int i = 0; i < 3; i++) {
        json_t *w = ask_shape("h200", "llama-3.1-8b", 4096, 4, 1, fewer[i]);
        json_t *k = ask_shape("h200", "llama-3.1-8b", 4096, 4, 1, cache[i]);
        assert_true(of_kind(w, "decode", "weights") < weights);
        assert_true(of_kind(k, "decode", "kv_read") < rows);
        weights = of_kind(w, "decode", "weights");
        rows = of_kind(k, "decode", "kv_read");
        json_decref(w);
        json_decref(k);
    }
}

/* ---- every technique ----------------------------------------------------------------------------------------------
 */

static void check_known(const json_t *report, const char *name) {
    for (int p = 0; p < 2; p++) {
        size_t i;
        const json_t *row;
        json_array_foreach(json_object_get(json_object_get(report, phases[p]), "rows"), i, row) {
            const char *unknown = json_string_value(json_object_get(row, "unknown"));
            if (unknown != NULL)
                fail_msg("%s, %s: %s", name, phases[p], unknown);
        }
    }
    assert_true(number(report, "ttft_seconds") > 0 && number(report, "tpot_seconds") > 0);
}

/* Rows of the core are those of the dense account, bit by bit. A store that keeps keys before RoPE as well writes more.
 */
static void check_dense(const json_t *report, const char *name) {
    const json_t *dense = json_object_get(report, "baseline"), *row;
    for (int p = 0; p < 2; p++) {
        size_t i;
        json_array_foreach(json_object_get(json_object_get(report, phases[p]), "rows"), i, row) {
            const char *what = json_string_value(json_object_get(row, "name"));
            if (json_string_value(json_object_get(row, "plugin"))[0] != '\0' ||
                (strcmp(name, "shadowkv") == 0 && strcmp(what, "append") == 0))
                continue;
            if (!json_equal(row, row_of(json_object_get(dense, phases[p]), what)))
                fail_msg("%s covers everything, and %s of %s is not dense", name, what, phases[p]);
        }
    }
}

static void test_techniques(void **state) {
    (void)state;
    for (slot s = 0; s < N_SLOTS; s++) {
        int n;
        const technique *t = techniques_of(s, &n);
        for (int i = 0; i < n; i++) {
            json_t *r = ask_tiny(300, 32, t[i].sets);
            check_known(r, t[i].name);
            if (i == 0) {
                check_dense(r, t[i].name);
                assert_true(json_equal(json_object_get(r, "decode"),
                                       json_object_get(json_object_get(r, "baseline"), "decode")));
            }
            json_decref(r);
            if (s == DRAFTER || t[i].cover[0] == NULL)
                continue;
            r = ask_tiny(300, 32, t[i].cover);
            check_known(r, t[i].name);
            check_dense(r, t[i].name);
            json_decref(r);
        }
    }
}

/* What a technique is for shows, by as much as its parameters say. */
static void test_terms(void **state) {
    (void)state;
    json_t *r = ask_shape("h200", "llama-3.1-8b", 32768, 2, 1,
                          SETS("attention.plugin=duoattention", "kvcache.plugin=duoattention", "attention.sparsity=1",
                               "attention.sink_size=64", "attention.recent_size=256"));
    assert_near(of_kind(r, "decode", "kv_read"), 32.0 * 8 * 256 * 2 * (64 + 256 + 1), 0.5);
    assert_true(number(json_object_get(r, "speedup"), "tpot") > 1.2);
    json_decref(r);
    r = ask_tiny(300, 33, SETS("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=64", "kvcache.policy.window=16"));
    /* 64 rows, and those decoded since: in the mean 15.5, and the new one */
    assert_near(of_kind(r, "decode", "kv_read"), 32 * 6.0 * 2 * 128 * 4 * (64 + 15.5 + 1), 0.5);
    json_decref(r);
    /* 40 rows in front of each chunk but the first */
    r = ask_tiny(300, 33,
                 SETS("kvcache.policy.plugin=streaming", "kvcache.policy.budget=41", "kvcache.policy.chunked=yes",
                      "engine.prefill_chunk=100"));
    assert_near(number(row_of(json_object_get(r, "prefill"), "attend"), "flops"),
                6 * 4 * (4 * 64 + 5) * (3 * 100.0 * 101 / 2 + 2 * 100 * 40), 0.5);
    json_decref(r);
    r = ask_tiny(300, 33,
                 SETS("attention.plugin=quest", "attention.token_budget=48", "attention.page_size=8",
                      "attention.dense_layers=1"));
    /* one dense layer; five with 5 whole pages, what is in the last one, and the new row */
    double dense = 0, sparse = 0;
    for (int64_t past = 300; past < 332; past++)
        dense += (double)(past + 1), sparse += (double)(40 + past % 8 + 1);
    assert_near(of_kind(r, "decode", "kv_read"), 2 * 128 * 4 * (dense + 5 * sparse), 0.5);
    json_decref(r);
    r = ask_tiny(300, 33, SETS("speculation.plugin=prompt_lookup", "speculation.num_pred=4"));
    const json_t *decode = json_object_get(r, "decode");
    assert_near(number(decode, "tokens_of_a_step"), 1 + 0.6 + 0.36 + 0.216 + 0.1296, 1e-9);
    assert_near(number(decode, "steps") * number(decode, "tokens_of_a_step"), 32, 1e-6);
    json_decref(r);
}

/* ---- plugins that are not what they say ---------------------------------------------------------------------------
 */

static void test_silent(void **state) {
    (void)state;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "plugins.path=%s", e2e_built("tests/planted"));
    json_t *r = ask_tiny(64, 4, SETS(path, "attention.plugin=silent"));
    const json_t *decode = json_object_get(r, "decode");
    const char *why = json_string_value(json_object_get(row_of(decode, "attend"), "unknown"));
    assert_non_null(why);
    assert_non_null(strstr(why, "silent"));
    assert_true(json_is_null(json_object_get(row_of(decode, "attend"), "seconds")));
    assert_true(json_is_null(json_object_get(decode, "seconds")));
    assert_true(json_is_null(json_object_get(r, "tpot_seconds")));
    assert_true(number(json_object_get(r, "baseline"), "tpot_seconds") > 0);
    json_decref(r);
}

/* A layer's rows are 32 MB: they do not wait in a cache for the second read. */
enum { SEQUENCES = 8, DEPTH = 4000 };

/* Of one step that decodes; INFINITY: it was a prompt. */
static double attend_seconds(sluice_engine *e, sluice_session *const *s) {
    sluice_op_time act[64];
    sluice_sampling how;
    sluice_error err = {0};
    int64_t steps[2];
    sluice_default_sampling(e, &how);
    how.max_tokens = 1;
    how.ignore_eos = 1;
    if (sluice_profile(e, 1, &err) < 0 || sluice_generate(e, s, SEQUENCES, &how, 1, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    int n = sluice_profile_read(e, act, 64, steps);
    for (int i = 0; i < n && i < 64; i++)
        if (strcmp(act[i].name, "attend") == 0) {
            assert_int_equal(act[i].calls[1], steps[1] * 6);
            return steps[1] > 0 ? act[i].seconds[1] : INFINITY;
        }
    fail_msg("no act named attend");
    return 0;
}

static void at_depth(sluice_engine *e, sluice_session **s) {
    const int32_t token = 5;
    sluice_error err = {0};
    for (int i = 0; i < SEQUENCES; i++)
        if (sluice_session_open(e, &s[i], &err) < 0 || sluice_session_fill(s[i], DEPTH, 1, &err) < 0 ||
            sluice_session_append(s[i], &token, 1, &err) < 0)
            fail_msg("%s", err.text);
}

/* Both plugins say that they are dense: what one of them measures stands out against what was predicted. */
static void test_double_read(void **state) {
    (void)state;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "plugins.path=%s", e2e_built("tests/planted"));
    const char *const *sets[] = {SETS("attention.plugin=dense"), SETS(path, "attention.plugin=twice")};
    double seconds[2], predicted[2];
    sluice_engine *e[2];
    sluice_session *s[2][SEQUENCES];
    for (int i = 0; i < 2; i++) {
        json_t *r = ask_tiny(DEPTH, 2, sets[i]);
        predicted[i] = number(row_of(json_object_get(r, "decode"), "attend"), "seconds");
        json_decref(r);
        e[i] = e2e_open("models/tiny", sets[i]);
        at_depth(e[i], s[i]);
        seconds[i] = INFINITY;
    }
    /* By turns, since the machine does other things too, and the fastest of each counts: more turns only help. */
    for (int turn = 0; turn < 60; turn++) {
        for (int i = 0; i < 2; i++)
            seconds[i] = fmin(seconds[i], attend_seconds(e[i], s[i]) / SEQUENCES);
        if (turn >= 8 && seconds[1] / predicted[1] > 1.5 * seconds[0] / predicted[0])
            break;
    }
    double ratio[2] = {seconds[0] / predicted[0], seconds[1] / predicted[1]};
    if (!(ratio[1] > 1.35 * ratio[0]))
        fail_msg("measured over predicted: %g where rows are read once, %g where they are read twice", ratio[0],
                 ratio[1]);
    for (int i = 0; i < 2; i++)
        sluice_close(e[i]);
}

/* ---- the command --------------------------------------------------------------------------------------------------
 */

static void test_command(void **state) {
    (void)state;
    char tiny[PATH_MAX], hw[PATH_MAX];
    snprintf(tiny, sizeof tiny, "%s", e2e_path("models/tiny"));
    snprintf(hw, sizeof hw, "%s", e2e_temp("mine.ini"));
    e2e_put_text(e2e_temp(""), "mine.ini", "[mine]\ndevice = cpu\nbandwidth_gbs = 20\nf32_tflops = 0.2\n");
    cli_result r = cli_good(
        CLI("roofline", "-m", tiny, "--hw", hw, "-p", "40", "-n", "4", "-r", "1", "--measure", "-o", "json"), NULL);
    json_t *report = json_loads(r.out, 0, NULL);
    assert_non_null(report);
    for (int p = 0; p < 2; p++) {
        const json_t *phase = json_object_get(report, phases[p]), *acts = json_object_get(phase, "measured"), *act;
        const char *name;
        double sum = 0;
        json_object_foreach((json_t *)(uintptr_t)acts, name, act) {
            sum += number(act, "seconds_of_a_step");
            assert_true(number(act, "ratio") > 0 || json_is_true(json_object_get(act, "not_predicted")));
        }
        assert_true(json_object_get(acts, "attend") != NULL && json_object_get(acts, "ffn.down") != NULL);
        assert_near(sum / number(json_object_get(phase, "measured_total"), "seconds_of_a_step"), 1, 1e-9);
    }
    assert_true(number(json_object_get(report, "measured"), "tpot_seconds") > 0);
    json_decref(report);
    cli_free(&r);
    r = cli_good(CLI("roofline", "--shape", "llama-3.1-70b", "--hw", "h200", "-p", "4096", "-b", "2"), NULL);
    assert_non_null(strstr(r.out, "Speed-up versus dense"));
    cli_free(&r);
    r = cli_good(CLI("roofline", "-m", tiny, "--hw", "h100", "-o", "csv"), NULL);
    assert_int_equal(strncmp(r.out, "phase,act,", 10), 0);
    cli_free(&r);
    cli_refused(CLI("roofline", "-m", tiny, "--hw", "cray-1"), CLI("cray-1", "h200"));
    cli_refused(CLI("roofline", "-m", tiny, "--hw", "h200", "-p", "0"), CLI("at least one token"));
    cli_refused(CLI("roofline", "-m", tiny, "--hw", "h200", "--accept", "1.5"), CLI("acceptance"));
    cli_refused(CLI("roofline", "-m", tiny, "--hw", "h200", "-p", "100000"), CLI("context of 4096"));
    cli_refused(CLI("roofline", "-m", tiny, "--hw", "h200", "-n", "4", "--measure", "--set", "engine.device=cpu"),
                CLI("cuda", "nothing to compare"));
    e2e_put_text(e2e_temp(""), "bad.ini", "[bad]\ndevice = cpu\nbandwidth_gbs = fast\nf32_tflops = 1\n");
    cli_refused(CLI("roofline", "-m", tiny, "--hw", e2e_temp("bad.ini")), CLI("bad.ini:3", "bandwidth_gbs", "fast"));
}

/* What is measured is a machine that can be named afterwards. */
static void test_calibrate(void **state) {
    (void)state;
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s", e2e_temp("measured.ini"));
    cli_result r = cli_good(
        CLI("roofline", "-m", e2e_path("models/tiny"), "--calibrate", "--hw", file, "-p", "8", "-n", "2"), NULL);
    cli_free(&r);
    sluice_hardware hw;
    sluice_error err = {0};
    if (sluice_hardware_find(file, &hw, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(hw.device, "cpu");
    assert_true(hw.bandwidth > 1e7 && hw.bandwidth < 1e13 && hw.peak[SLUICE_PEAK_F32] > 1e7);
    for (int c = 0; c < SLUICE_CLASSES; c++)
        assert_true(hw.memory_share[c] > 0 && hw.memory_share[c] <= 1 && hw.compute_share[c] > 0 &&
                    hw.compute_share[c] <= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_point), cmocka_unit_test(test_weight_bytes), cmocka_unit_test(test_flops),
        cmocka_unit_test(test_chunks),      cmocka_unit_test(test_monotone),     cmocka_unit_test(test_techniques),
        cmocka_unit_test(test_terms),       cmocka_unit_test(test_silent),       cmocka_unit_test(test_double_read),
        cmocka_unit_test(test_command),     cmocka_unit_test(test_calibrate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
