/* sluice eval ppl: each protocol against logits of the library, worked out here in double, and against transformers;
 * the interval of windows that are not alike; refusals. */
#include "eval_rig.h"

/* The command's own file, compiled into this program. */
#include "../../cli/sha256.c"

static void digest(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[65];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        sha256_hex(known[i].text, strlen(known[i].text), hex);
        assert_string_equal(hex, known[i].hex);
    }
}

/* Negative log-likelihoods of the last `scored` of n tokens. */
static double window_nll(sluice_engine *e, const int32_t *row, int64_t n, int64_t scored, double *squares) {
    double *lp = logprobs(e, row, n), sum = 0;
    for (int64_t t = n - scored; t < n; t++) {
        double nll = -lp[(t - 1) * VOCAB + row[t]];
        sum += nll;
        *squares += nll * nll;
    }
    free(lp);
    return sum;
}

static void protocols(void **state) {
    (void)state;
    static const char *const names[] = {"bos", "gptq", "lcpp", "strided"};
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    for (int p = 0; p < 4; p++) {
        json_t *json =
            p < 3
                ? cli_report(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "128", "--protocol", names[p]))
                : cli_report(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "128", "--protocol", names[p],
                                 "--stride", "50"));
        json_t *windows = json_object_get(json, "nll_by_window");
        int32_t row[W];
        int64_t n, scored, i = 0, all = 0;
        double sum = 0, squares = 0;
        for (; (scored = window_of(names[p], i, row, &n)) > 0; i++) {
            double nll = window_nll(e, row, n, scored, &squares),
                   got = json_number_value(json_array_get(windows, (size_t)i));
            if (!(fabs(got - nll) < 1e-6 * nll))
                fail_msg("%s: window %d is %.9f, expected %.9f", names[p], (int)i, got, nll);
            sum += nll;
            all += scored;
        }
        assert_int_equal(json_array_size(windows), i);
        assert_int_equal(of(json, "windows"), i);
        assert_int_equal(of(json, "n_tokens"), all);
        double mean = sum / (double)all;
        near(json, "mean_nll", mean, 1e-6, 0);
        near(json, "ppl", exp(mean), 1e-5, 0);
        near(json, "ppl_pm", exp(mean) * sqrt((squares / (double)all - mean * mean) / (double)(all - 1)), 1e-4, 0);
        assert_string_equal(json_string_value(json_object_get(json, "protocol")), names[p]);
        assert_string_equal(json_string_value(json_object_get(json, "text_sha256")),
                            "9344e5dde26256428c2c3a7302ca3bbe2ecb4662bce607cd5699fa4c7983502f");
        json_t *first = json_object_get(json, "first_tokens");
        assert_int_equal(json_array_size(first), 8);
        for (size_t j = 0; j < 8; j++)
            assert_int_equal(json_integer_value(json_array_get(first, j)), ids[j]);
        if (p == 3)
            assert_int_equal(all, n_ids - 1); /* every token once, the tail included */
        json_decref(json);
    }
    sluice_close(e);
}

/* What transformers makes of the same windows. */
static void transformers(void **state) {
    (void)state;
    static const char *const names[] = {"bos", "gptq", "lcpp", "strided"};
    static const char *const ppl_keys[] = {"ppl", "mean_nll", "ppl_pm"};
    json_t *golden = golden_statistics();
    for (int p = 0; p < 4; p++) {
        json_t *want = json_object_get(json_object_get(golden, "protocols"), names[p]);
        json_t *json =
            p < 3
                ? cli_report(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "256", "--protocol", names[p]))
                : cli_report(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "256", "--protocol", names[p],
                                 "--stride", "100"));
        assert_int_equal(of(json, "n_tokens"), of(want, "n_tokens"));
        assert_int_equal(of(json, "windows"), of(want, "windows"));
        for (size_t i = 0; i < sizeof ppl_keys / sizeof *ppl_keys; i++)
            near(json, ppl_keys[i], of(want, ppl_keys[i]), 1e-4, 0);
        json_decref(json);
    }
    json_decref(golden);
}

/* Windows of unequal size: the difference is that of all tokens, its interval that of a ratio of sums. */
static void unequal_windows(void **state) {
    (void)state;
    cli_result r = cli_good(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "128", "--protocol", "strided",
                                "--stride", "128", "--windows", "5"),
                            NULL);
    e2e_put_text(e2e_temp(""), "dense.json", r.out);
    json_t *dense = json_loads(r.out, 0, NULL);
    cli_free(&r);
    char earlier[PATH_MAX];
    snprintf(earlier, sizeof earlier, "%s", e2e_temp("dense.json"));
    json_t *json =
        cli_report(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "128", "--protocol", "strided",
                       "--stride", "128", "--windows", "5", "--set", "quant.plugin=rtn", "--against", earlier));
    double d[5], n[5], sum = 0, all = 0, squares = 0;
    for (int i = 0; i < 5; i++) {
        d[i] = json_number_value(json_array_get(json_object_get(json, "nll_by_window"), (size_t)i)) -
               json_number_value(json_array_get(json_object_get(dense, "nll_by_window"), (size_t)i));
        n[i] = W - 1; /* the first token of a window that overlaps nothing is not predicted */
        sum += d[i];
        all += n[i];
    }
    for (int i = 0; i < 5; i++)
        squares += (d[i] - sum / all * n[i]) * (d[i] - sum / all * n[i]);
    near(json, "against.mean_difference", sum / all, 1e-6, 0);
    near(json, "against.half_width_95", 2.776 * sqrt(squares * 5 / 4) / all, 1e-6, 0);
    near(json, "against.ppl_ratio", exp(sum / all), 1e-6, 0);
    json_decref(json);
    json_decref(dense);
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "128", "--against", earlier),
                SETS("protocol"));
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", text, "--protocol", "mine"),
                SETS("--protocol", "strided", "\"mine\""));
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", text, "--protocol", "gptq", "--stride", "3"),
                SETS("--stride", "gptq"));
    cli_refused(
        CLI("eval", "ppl", "-m", tiny, "--text", text, "--protocol", "strided", "--context", "64", "--stride", "65"),
        SETS("--stride", "64"));
    cli_refused(
        CLI("eval", "ppl", "-m", tiny, "--text", text, "--protocol", "lcpp", "--context", "64", "--steps", "32"),
        SETS("--steps", "31"));
}

static int set_up(void **state) {
    (void)state;
    rig_begin();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(ids);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digest),
        cmocka_unit_test(protocols),
        cmocka_unit_test(transformers),
        cmocka_unit_test(unequal_windows),
    };
    return cmocka_run_group_tests_name("eval_ppl", tests, set_up, tear_down);
}
