/* sluice eval kld: its figures against logits of the library, worked out here in double, and against transformers;
 * files of logits read and written by hand; what must be zero is, what is lossy shows; refusals. */
#include "eval_rig.h"

/* The command's own file, compiled into this program. */
#include "../../cli/sha256.c"

static char exact[PATH_MAX], coded[PATH_MAX];

/* tiny with two bits of mantissa left, rounded to nearest even: what recipes/golden/make_statistics.py makes. */
static const char *rounded_model(void) {
    static char folder[PATH_MAX];
    size_t n;
    char *file = e2e_read(e2e_path("models/tiny/model.safetensors"), &n);
    uint64_t header;
    memcpy(&header, file, sizeof header);
    for (size_t at = 8 + header; at < n; at += 2) {
        uint16_t u;
        memcpy(&u, file + at, 2);
        u = (uint16_t)((u + (u >> 5 & 1) + 15) >> 5 << 5);
        memcpy(file + at, &u, 2);
    }
    snprintf(folder, sizeof folder, "%s", e2e_linked_model("models/tiny"));
    e2e_put(folder, "model.safetensors", file, n);
    free(file);
    return folder;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double *v, int n, double share) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    double at = share * (n - 1);
    int i = (int)floor(at);
    return i + 1 < n ? v[i] * (1 - (at - i)) + v[i + 1] * (at - i) : v[n - 1];
}

typedef struct sums {
    double mean, rms, pm;
} sums;

static sums sums_of(const double *v, int n) {
    sums s = {0};
    for (int i = 0; i < n; i++)
        s.mean += v[i] / n;
    for (int i = 0; i < n; i++)
        s.rms += v[i] * v[i] / n, s.pm += (v[i] - s.mean) * (v[i] - s.mean) / n;
    s.rms = sqrt(s.rms);
    s.pm = sqrt(s.pm / (n - 1));
    return s;
}

static void divergence(void **state) {
    (void)state;
    enum { CHUNKS = 3, N = CHUNKS * R };
    const char *other = rounded_model();
    json_t *json = cli_report(CLI("eval", "kld", "-m", other, "--base", exact, "--text", text, "--windows", "3"));
    sluice_engine *e[2] = {e2e_open("models/tiny", NO_SETS), e2e_open(other, NO_SETS)};
    double kld[N], dp[N], ratio[N], nll[2] = {0};
    int n = 0, same = 0;
    for (int c = 0; c < CHUNKS; c++) {
        int32_t row[W];
        int64_t length;
        assert_int_equal(window_of("lcpp", c, row, &length), R);
        double *lp[2] = {logprobs(e[0], row, W), logprobs(e[1], row, W)}, sum = 0;
        for (int t = W / 2; t < W - 1; t++, n++) {
            const double *b = lp[0] + t * VOCAB, *q = lp[1] + t * VOCAB;
            int top[2] = {0, 0};
            kld[n] = 0;
            for (int v = 0; v < VOCAB; v++) {
                kld[n] += b[v] > -16 ? exp(b[v]) * (b[v] - q[v]) : 0;
                top[0] = b[v] > b[top[0]] ? v : top[0];
                top[1] = q[v] > q[top[1]] ? v : top[1];
            }
            same += top[0] == top[1];
            dp[n] = exp(q[row[t + 1]]) - exp(b[row[t + 1]]);
            ratio[n] = b[row[t + 1]] - q[row[t + 1]];
            nll[0] -= b[row[t + 1]], nll[1] -= q[row[t + 1]];
            sum += kld[n];
        }
        double got = json_number_value(json_array_get(json_object_get(json, "kld_by_window"), (size_t)c));
        assert_true(fabs(got - sum / R) < 1e-6 * sum / R);
        free(lp[0]), free(lp[1]);
    }
    sluice_close(e[0]);
    sluice_close(e[1]);
    assert_int_equal(of(json, "tokens"), N);
    sums k = sums_of(kld, N), p = sums_of(dp, N), r = sums_of(ratio, N);
    near(json, "kld_mean", k.mean, 1e-6, 0);
    near(json, "kld_mean_pm", k.pm, 1e-6, 0);
    near(json, "kld_median", quantile(kld, N, .5), 1e-5, 0);
    near(json, "kld_p99", quantile(kld, N, .99), 1e-5, 0);
    near(json, "kld_p999", quantile(kld, N, .999), 1e-5, 0);
    near(json, "kld_max", kld[N - 1], 1e-5, 0);
    near(json, "same_top", (double)same / N, 1e-9, 0);
    near(json, "same_top_pm", sqrt((double)same / N * (1 - (double)same / N) / (N - 1)), 1e-9, 0);
    near(json, "dp_mean", p.mean, 1e-5, 1e-9);
    near(json, "dp_rms", p.rms, 1e-5, 0);
    near(json, "dp_min", quantile(dp, N, 0), 1e-5, 0);
    near(json, "dp_max", dp[N - 1], 1e-5, 0);
    near(json, "ppl", exp(nll[1] / N), 1e-6, 0);
    near(json, "ppl_base", exp(nll[0] / N), 1e-6, 0);
    near(json, "ln_ppl_ratio", r.mean, 1e-5, 0);
    near(json, "ln_ppl_ratio_pm", r.pm, 1e-5, 0);
    assert_true(k.mean > 0.05 && same < N && of(json, "kld_half_width_95") > 0);
    json_decref(json);
}

/* What transformers makes of the same two models. */
static void transformers(void **state) {
    (void)state;
    static const char *const kld_keys[] = {"kld_mean", "kld_mean_pm", "kld_median", "kld_p90",      "kld_p95",
                                           "kld_p99",  "kld_p999",    "kld_max",    "same_top",     "same_top_pm",
                                           "dp_mean",  "dp_mean_pm",  "dp_rms",     "dp_min",       "dp_median",
                                           "dp_max",   "ppl",         "ppl_base",   "ln_ppl_ratio", "ln_ppl_ratio_pm"};
    json_t *golden = golden_statistics();
    char base[PATH_MAX];
    snprintf(base, sizeof base, "%s", e2e_temp("golden.base"));
    json_decref(
        cli_report(CLI("eval", "kld", "-m", tiny, "--text", text, "--context", "256", "--save", base, "--exact")));
    const char *other = rounded_model();
    size_t n;
    char hex[65], file[PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/model.safetensors", other);
    char *bytes = e2e_read(file, &n);
    sha256_hex(bytes, n, hex);
    free(bytes);
    assert_string_equal(hex, json_string_value(json_object_get(golden, "rounded_sha256")));
    json_t *json = cli_report(CLI("eval", "kld", "-m", other, "--base", base)), *want = json_object_get(golden, "kld");
    assert_int_equal(of(json, "tokens"), of(want, "tokens"));
    for (size_t i = 0; i < sizeof kld_keys / sizeof *kld_keys; i++)
        near(json, kld_keys[i], of(want, kld_keys[i]), 2e-4, 1e-7);
    json_decref(json);
    json_decref(golden);
}

/* The same run against itself, and what is lossy against it. */
static void zero_and_lossy(void **state) {
    (void)state;
    json_t *json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", exact, "--text", text));
    static const char *const zero[] = {"kld_mean", "kld_max", "dp_rms", "ln_ppl_ratio", "coding_floor.kld_max"};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        assert_true(of(json, zero[i]) == 0);
    assert_true(of(json, "same_top") == 1);
    json_decref(json);
    /* in codes: what is left is what saving them measured */
    json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", coded));
    assert_true(fabs(of(json, "kld_mean") - of(json, "coding_floor.kld_mean")) < 1e-12);
    assert_true(of(json, "coding_floor.kld_max") > 0 && of(json, "coding_floor.kld_max") < 1e-3);
    assert_true(fabs(of(json, "kld_mean")) < 1e-5 &&
                fabs(of(json, "kld_max")) <= of(json, "coding_floor.kld_max") + 1e-12);
    json_decref(json);
    /* weights of 4 bits */
    cli_result r = cli_good(CLI("eval", "kld", "-m", tiny, "--base", coded, "--set", "quant.plugin=rtn"), NULL);
    e2e_put_text(e2e_temp(""), "rtn.json", r.out);
    json = json_loads(r.out, 0, NULL);
    cli_free(&r);
    double kld = of(json, "kld_mean");
    assert_true(kld > 0.05 && of(json, "same_top") < 0.95 && of(json, "kld_p999") > of(json, "kld_median"));
    json_decref(json);
    /* 8 bits lose less, on the same tokens */
    char earlier[PATH_MAX];
    snprintf(earlier, sizeof earlier, "%s", e2e_temp("rtn.json"));
    json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", coded, "--set", "quant.plugin=rtn", "--set",
                          "quant.bits=8", "--against", earlier));
    near(json, "against.mean_difference", of(json, "kld_mean") - kld, 1e-6, 1e-12);
    assert_true(of(json, "against.mean_difference") + of(json, "against.half_width_95") < 0);
    json_decref(json);
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", coded, "--windows", "2", "--against", earlier),
                SETS("rtn.json", "windows"));
    /* A policy shows in decode steps alone; what it does not touch is the base's to the last bit. */
    static const char *const budgets[] = {"kvcache.policy.budget=256", "kvcache.policy.budget=24"};
    for (int i = 0; i < 2; i++) {
        json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", exact, "--windows", "2", "--steps", "20", "--set",
                              "kvcache.policy.plugin=streaming", "--set", budgets[i]));
        assert_int_equal(of(json, "tokens"), 40);
        assert_int_equal(of(json, "steps"), 20);
        assert_true(i == 0 ? of(json, "kld_max") == 0 : of(json, "kld_mean") > 0.02);
        json_decref(json);
    }
}

/* Files of llama.cpp's layout, read and written here. */
static void layout(void **state) {
    (void)state;
    size_t n;
    char *file = e2e_read(coded, &n);
    const int32_t *head = (const int32_t *)(file + 8);
    int64_t chunks = n_ids / W, row = 2 * (2 * ((VOCAB + 1) / 2) + 4);
    assert_memory_equal(file, "_logits_", 8);
    assert_int_equal(head[0], W);
    assert_int_equal(head[1], VOCAB);
    assert_int_equal(head[2], chunks);
    assert_memory_equal(head + 3, ids, sizeof *ids * (size_t)(chunks * W)); /* before they were replaced */
    char *rows = file + 20 + 4 * chunks * W;
    assert_true((int64_t)n > rows - file + chunks * R * row);
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    int32_t tokens[W];
    memcpy(tokens, ids + W, sizeof tokens); /* chunk 1 */
    tokens[0] = 0;
    double *lp = logprobs(e, tokens, W);
    sluice_close(e);
    for (int t = W / 2; t < W - 1; t++) {
        float two[2];
        const char *r = rows + (R + t - W / 2) * row;
        memcpy(two, r, 8);
        double most = -1e9;
        for (int v = 0; v < VOCAB; v++)
            most = fmax(most, lp[t * VOCAB + v]);
        for (int v = 0; v < VOCAB; v++) {
            uint16_t code;
            memcpy(&code, r + 8 + 2 * v, 2);
            double want = fmax(lp[t * VOCAB + v], most - 16);
            assert_true(fabs(two[0] * code + two[1] - want) < 0.51 * two[0] + 1e-5);
        }
    }
    free(lp);
    /* without what we put behind the rows it is what llama.cpp writes; nothing says then what the coding lost */
    e2e_put(e2e_temp(""), "foreign.base", file, (size_t)(rows - file + chunks * R * row));
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", e2e_temp("foreign.base"));
    json_t *json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", path, "--windows", "2"));
    assert_true(json_is_null(json_object_get(json, "coding_floor")) &&
                json_is_null(json_object_get(json, "base_model")));
    assert_true(fabs(of(json, "kld_mean")) < 1e-5);
    assert_int_equal(of(json, "tokens"), 2 * R);
    json_decref(json);
    /* damage */
    static const char *const names[] = {"short", "long", "token", "vocabulary", "magic"};
    char bad[5][PATH_MAX];
    for (int i = 0; i < 5; i++) {
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, file, n);
        size_t length = (size_t)(rows - file + chunks * R * row);
        length = i == 0 ? length - 1 : i == 1 ? length + 1 : n;
        if (i == 2)
            ((int32_t *)(copy + 8))[3 + 7] = VOCAB;
        if (i == 3)
            ((int32_t *)(copy + 8))[1] = VOCAB + 2;
        if (i == 4)
            copy[0] = '-';
        e2e_put(e2e_temp(""), names[i], copy, length);
        snprintf(bad[i], sizeof bad[i], "%s", e2e_temp(names[i]));
        free(copy);
    }
    static const char *const says[] = {"not whole", "not whole", "token 7 is 4096", "not whole", "no file of logits"};
    for (int i = 0; i < 5; i++)
        cli_refused(CLI("eval", "kld", "-m", tiny, "--base", bad[i]), SETS(names[i], says[i]));
    free(file);
}

static void refusals(void **state) {
    (void)state;
    char draft[PATH_MAX], other[PATH_MAX], path[PATH_MAX];
    snprintf(draft, sizeof draft, "%s", e2e_path("tests/data/random_draft"));
    e2e_put_text(e2e_temp(""), "other.txt",
                 "Another text, which is far too short to be the one that was saved. It says nothing of Watson, "
                 "and so its tokens are others from the first one on. To be longer than a window of the base "
                 "it goes on and on: one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, "
                 "thirteen, fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty, and so on, and "
                 "that is quite enough of it by now, one should think, for a window of a hundred and "
                 "twenty-eight tokens.");
    snprintf(other, sizeof other, "%s", e2e_temp("other.txt"));
    snprintf(path, sizeof path, "%s", e2e_temp("unsaved"));
    cli_refused(CLI("eval", "kld", "-m", draft, "--base", exact), SETS("another model", "6 layers"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", exact, "--text", other), SETS("not a base of", "token 1 "));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", exact, "--context", "64"), SETS("--context 64", "128"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", exact, "--steps", "64"), SETS("--steps 64", "63 rows"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", exact, "-c", "64"), SETS("context"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--base", "/nonexistent"), SETS("/nonexistent"));
    cli_refused(CLI("eval", "kld", "-m", tiny), SETS("--save", "--base"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--save", path), SETS("--text"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--save", path, "--base", exact, "--text", text),
                SETS("--save", "--base"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--save", path, "--text", text, "--context", "128", "--steps", "5"),
                SETS("--exact"));
    cli_refused(CLI("eval", "kld", "-m", tiny, "--save", "/nonexistent/base", "--text", text),
                SETS("/nonexistent/base"));
    assert_int_not_equal(access(path, F_OK), 0); /* nothing is left of what was not finished */
    /* fewer rows, computed as steps: the last ones */
    json_t *json = cli_report(CLI("eval", "kld", "-m", tiny, "--save", path, "--text", text, "--context", "128",
                                  "--windows", "2", "--exact", "--steps", "5"));
    assert_int_equal(of(json, "tokens"), 10);
    json_decref(json);
    json = cli_report(CLI("eval", "kld", "-m", tiny, "--base", path, "--steps", "3"));
    assert_int_equal(of(json, "tokens"), 6);
    assert_true(of(json, "kld_max") == 0);
    json_decref(json);
}

static int set_up(void **state) {
    (void)state;
    rig_begin();
    snprintf(exact, sizeof exact, "%s", e2e_temp("exact.base"));
    snprintf(coded, sizeof coded, "%s", e2e_temp("coded.base"));
    json_decref(
        cli_report(CLI("eval", "kld", "-m", tiny, "--text", text, "--context", "128", "--save", exact, "--exact")));
    json_decref(cli_report(CLI("eval", "kld", "-m", tiny, "--text", text, "--context", "128", "--save", coded)));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(ids);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence), cmocka_unit_test(transformers), cmocka_unit_test(zero_and_lossy),
        cmocka_unit_test(layout),     cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("eval_kld", tests, set_up, tear_down);
}
