/* `sluice bench`: every format says the same, with the keys that docs/bench.md promises; what is asked for is measured;
 * what is wrong is refused; a slow plugin shows up as slow. */
#include "cli.h"

#include <math.h>

static const char *tiny;

static json_t *bench_json(const char *const *args) {
    cli_result r = cli_good(args, NULL);
    json_t *all = json_loads(r.out, 0, NULL);
    if (all == NULL)
        fail_msg("not JSON: %s", r.out);
    cli_free(&r);
    return all;
}
#define BENCH(...) bench_json(CLI("bench", "-m", tiny, "-o", "json", __VA_ARGS__))

/* ---- what is measured ----------------------------------------------------------------------------------------------
 */

static void test_numbers(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1", "-p", "16,32", "-n", "8", "-d", "0,20", "-r", "2"), *one;
    size_t i;
    assert_int_equal(json_array_size(all), 6);
    static const int64_t expected[6][3] = {{16, 0, 0}, {32, 0, 0}, {0, 8, 0}, {16, 0, 20}, {32, 0, 20}, {0, 8, 20}};
    json_array_foreach(all, i, one) {
        assert_int_equal(e2e_number(one, "n_prompt"), expected[i][0]);
        assert_int_equal(e2e_number(one, "n_gen"), expected[i][1]);
        assert_int_equal(e2e_number(one, "n_depth"), expected[i][2]);
        assert_int_equal(e2e_number(one, "n_threads"), 1);
        assert_int_equal(e2e_number(one, "model_n_params"), 5180672);
        assert_int_equal(json_array_size(json_object_get(one, "samples_ns")), 2);
        assert_int_equal(json_array_size(json_object_get(one, "samples_ts")), 2);
        double tokens = e2e_number(one, "n_prompt") + e2e_number(one, "n_gen");
        for (size_t j = 0; j < 2; j++) {
            double ns = json_number_value(json_array_get(json_object_get(one, "samples_ns"), j));
            double ts = json_number_value(json_array_get(json_object_get(one, "samples_ts"), j));
            assert_true(fabs(ts * ns / 1e9 - tokens) < 1e-3 * tokens);
        }
        if (e2e_number(one, "n_prompt") > 0)
            assert_true(e2e_number(one, "ttft_ms") > 0);
        else
            assert_true(json_is_null(json_object_get(one, "ttft_ms")));
    }
    json_decref(all);
}

static void test_words(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1", "--tests", "pp8 tg4@16x2,ts4", "--fill", "synthetic", "-r", "3"), *one;
    assert_int_equal(json_array_size(all), 3);
    one = json_array_get(all, 1);
    assert_int_equal(e2e_number(one, "n_depth"), 16);
    assert_int_equal(e2e_number(one, "n_sequences"), 2);
    assert_int_equal(e2e_number(one, "tokens_step"), 2); /* of two sessions */
    assert_true(fabs(e2e_number(one, "ms_step") * 4 * 1e6 - e2e_number(one, "avg_ns")) <
                0.01 * e2e_number(one, "avg_ns"));
    assert_true(json_is_true(json_object_get(json_array_get(all, 2), "sampled")));
    json_decref(all);
}

/* Ranges, several numbers of workers (an engine each), prompts with an answer. */
static void test_lists(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1,2", "-p", "4-16*2", "-p", "3", "-n", "0", "-pg", "8,3;9,2", "-r", "1"), *one;
    static const int expected[6][2] = {{4, 0}, {8, 0}, {16, 0}, {3, 0}, {8, 3}, {9, 2}};
    size_t i;
    assert_int_equal(json_array_size(all), 12);
    json_array_foreach(all, i, one) {
        assert_int_equal(e2e_number(one, "n_threads"), i < 6 ? 1 : 2);
        assert_int_equal(e2e_number(one, "n_prompt"), expected[i % 6][0]);
        assert_int_equal(e2e_number(one, "n_gen"), expected[i % 6][1]);
        if (expected[i % 6][1] == 0)
            continue;
        assert_int_equal(e2e_number(one, "steps"), expected[i % 6][1]);
        assert_true(e2e_number(one, "ttft_ms") * 1e6 < e2e_number(one, "avg_ns")); /* the answer comes behind it */
    }
    json_decref(all);
}

/* A prompt that fills the context has no first token behind it. */
static void test_full_context(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1", "-c", "64", "-p", "64", "-n", "0", "-r", "1");
    assert_true(json_is_null(json_object_get(json_array_get(all, 0), "ttft_ms")));
    assert_true(e2e_number(json_array_get(all, 0), "avg_ts") > 0);
    json_decref(all);
}

static void test_drafts(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1", "-p", "0", "-n", "48", "-r", "2", "--set", "speculation.plugin=prompt_lookup"),
           *one = json_array_get(all, 0);
    json_t *shares = json_object_get(one, "acceptance_by_depth"), *share;
    size_t i;
    assert_true(e2e_number(one, "drafts") > 0); /* greedy text of the small model repeats itself */
    assert_true(e2e_number(one, "draft_nodes") >= e2e_number(one, "drafts"));
    assert_true(e2e_number(one, "accepted") <= e2e_number(one, "draft_nodes"));
    assert_true(json_array_size(shares) > 0);
    json_array_foreach(shares, i, share) {
        assert_true(json_is_real(share) && json_real_value(share) >= 0 && json_real_value(share) <= 1);
    }
    /* each step gives its own token and the accepted ones, unless the end of the test cuts the last */
    double steps = e2e_number(one, "steps"), tokens = e2e_number(one, "tokens_step") * steps;
    assert_true(tokens <= steps + e2e_number(one, "accepted") + 0.5 && tokens >= 2 * 47);
    assert_true(json_is_true(json_object_get(one, "lossless")));
    json_decref(all);
}

/* Peaks are of each test, not of those before it. */
static void test_memory(void **state) {
    (void)state;
    json_t *all = BENCH("-t", "1", "--tests", "tg2@1500x2,tg2", "--fill", "synthetic", "-r", "1"),
           *deep = json_array_get(all, 0), *flat = json_array_get(all, 1);
    /* 6 layers, 2 KV heads of 64 channels, 2 bytes each or more */
    assert_true(e2e_number(deep, "ledger.kv.peak") >= 2 * 1500 * 6 * 2 * 2 * 64 * 2);
    assert_true(e2e_number(deep, "ledger.kv.peak") > 2 * e2e_number(flat, "ledger.kv.peak"));
    for (size_t i = 0; i < 2; i++) {
        json_t *one = json_array_get(all, i), *ledger = json_object_get(one, "ledger"), *row;
        const char *tag;
        double bytes = 0;
        assert_true(e2e_number(one, "ledger.weights.bytes") >= e2e_number(one, "model_size") / 2);
        json_object_foreach(ledger, tag, row) {
            assert_true(e2e_number(row, "peak") >= e2e_number(row, "bytes"));
            bytes += strcmp(tag, "total") != 0 ? e2e_number(row, "bytes") : 0;
        }
        assert_int_equal(bytes, e2e_number(one, "ledger.total.bytes"));
        assert_true(e2e_number(one, "bytes_peak") >= e2e_number(one, "ledger.total.peak"));
        assert_true(e2e_number(one, "bytes_resident") > 1e6);
        assert_true(e2e_number(one, "bytes_resident") >= e2e_number(one, "bytes_mapped"));
    }
    json_decref(all);
}

/* ---- formats --------------------------------------------------------------------------------------------------------
 */

enum { TEXT, INTEGER, REAL, REAL_OR_NULL, LIST, OBJECT, BOOLEAN };
static const struct {
    const char *key;
    int type;
} promised[] = {
    {"build_commit", TEXT},
    {"build_version", TEXT},
    {"model_filename", TEXT},
    {"model_type", TEXT},
    {"model_size", INTEGER},
    {"model_n_params", INTEGER},
    {"n_batch", INTEGER},
    {"n_ubatch", INTEGER},
    {"type_k", TEXT},
    {"type_v", TEXT},
    {"n_threads", INTEGER},
    {"isa", TEXT},
    {"load_ns", INTEGER},
    {"device", TEXT},
    {"plugins", LIST},
    {"test", TEXT},
    {"n_prompt", INTEGER},
    {"n_gen", INTEGER},
    {"n_depth", INTEGER},
    {"n_sequences", INTEGER},
    {"fill", TEXT},
    {"avg_ns", INTEGER},
    {"stddev_ns", INTEGER},
    {"avg_ts", REAL},
    {"stddev_ts", REAL},
    {"median_ts", REAL},
    {"ttft_ms", REAL_OR_NULL},
    {"samples_ns", LIST},
    {"samples_ts", LIST},
    {"samples_ttft_ms", LIST},
    {"tokens_step", REAL_OR_NULL},
    {"steps", INTEGER},
    {"lossless", BOOLEAN},
    {"drafts", INTEGER},
    {"draft_nodes", INTEGER},
    {"accepted", INTEGER},
    {"acceptance_by_depth", LIST},
    {"bytes_kv", INTEGER},
    {"bytes_weights", INTEGER},
    {"bytes_peak", INTEGER},
    {"bytes_resident", INTEGER},
    {"bytes_mapped", INTEGER},
    {"ledger", OBJECT},
    {"allocs_in_steps", INTEGER},
};

static int is_of(const json_t *v, int type) {
    switch (type) {
    case TEXT: return json_is_string(v);
    case INTEGER: return json_is_integer(v);
    case REAL: return json_is_real(v);
    case REAL_OR_NULL: return json_is_real(v) || json_is_null(v);
    case LIST: return json_is_array(v);
    case OBJECT: return json_is_object(v);
    default: return json_is_boolean(v);
    }
}

/* One record of CSV into cells (RFC 4180), in place; returns where the next one begins. */
static char *csv_record(char *p, char **cell, int cap, int *n) {
    for (*n = 0;; p++) {
        assert_true(*n < cap);
        char *to = p;
        cell[(*n)++] = p;
        if (*p == '"') {
            cell[*n - 1] = to = ++p;
            for (; *p != '"' || p[1] == '"'; p++) {
                assert_true(*p != '\0');
                p += *p == '"';
                *to++ = *p;
            }
            p++;
        } else {
            p += strcspn(p, ",\n\"");
            to = p;
        }
        const char end = *p;
        *to = '\0';
        assert_true(end == ',' || end == '\n');
        if (end == '\n')
            return p + 1;
    }
}

#define SAME_TESTS "-m", tiny, "-t", "1", "-p", "8", "-n", "4", "-d", "0,12", "-r", "2"

static void test_json(void **state) {
    (void)state;
    cli_result array = cli_good(CLI("bench", SAME_TESTS, "-o", "json"), NULL),
               lines = cli_good(CLI("bench", SAME_TESTS, "-o", "jsonl"), NULL);
    json_t *all = json_loads(array.out, 0, NULL);
    assert_int_equal(json_array_size(all), 4);
    const char *line = lines.out;
    for (size_t i = 0; i < 4; i++) {
        json_t *one = json_array_get(all, i), *same = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(same);
        assert_string_equal(json_string_value(json_object_get(one, "test")),
                            json_string_value(json_object_get(same, "test")));
        for (size_t k = 0; k < sizeof promised / sizeof *promised; k++) {
            json_t *const v[2] = {json_object_get(one, promised[k].key), json_object_get(same, promised[k].key)};
            if (v[0] == NULL || v[1] == NULL || !is_of(v[0], promised[k].type) || !is_of(v[1], promised[k].type))
                fail_msg("%s is missing, or of another type", promised[k].key);
        }
        line = strchr(line, '\n') + 1;
        json_decref(same);
    }
    assert_int_equal(*line, '\0');
    json_decref(all);
    cli_free(&array);
    cli_free(&lines);
}

static void test_csv(void **state) {
    (void)state;
    enum { MOST = 128 };
    cli_result r = cli_good(CLI("bench", SAME_TESTS, "-o", "csv"), NULL);
    json_t *all = BENCH("-t", "1", "-p", "8", "-n", "4", "-d", "0,12", "-r", "2"), *one, *value;
    char *head[MOST], *cell[MOST];
    int n_head, n;
    size_t i;
    char *next = csv_record(r.out, head, MOST, &n_head);
    json_array_foreach(all, i, one) {
        const char *key;
        next = csv_record(next, cell, MOST, &n);
        assert_int_equal(n, n_head);
        json_object_foreach(one, key, value) {
            int at = 0;
            while (at < n && strcmp(head[at], key) != 0)
                at++;
            if (at == n)
                fail_msg("CSV has no column %s", key);
            if (json_is_null(value)) {
                assert_string_equal(cell[at], "");
                continue;
            }
            /* times differ from run to run; what was asked for does not */
            json_t *said = json_is_string(value) ? json_string(cell[at]) : json_loads(cell[at], JSON_DECODE_ANY, NULL);
            if (said == NULL || json_typeof(said) != json_typeof(value))
                fail_msg("column %s has \"%s\"", key, cell[at]);
            static const char *const fixed[] = {"model_filename", "plugins", "test",        "n_prompt",
                                                "n_gen",          "n_depth", "n_sequences", "model_size"};
            for (size_t k = 0; k < sizeof fixed / sizeof *fixed; k++)
                if (strcmp(key, fixed[k]) == 0 && !json_equal(said, value))
                    fail_msg("column %s has \"%s\"", key, cell[at]);
            json_decref(said);
        }
    }
    assert_int_equal(*next, '\0');
    for (int a = 0; a < n_head; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(head[a], head[b]);
    json_decref(all);
    cli_free(&r);
}

static int count(const char *text, size_t n, char c) {
    int found = 0;
    for (size_t i = 0; i < n; i++)
        found += text[i] == c;
    return found;
}

static void test_table(void **state) {
    (void)state;
    cli_result r = cli_good(CLI("bench", SAME_TESTS), NULL);
    int lines = 0;
    size_t first = strcspn(r.out, "\n");
    for (const char *p = r.out; *p != '\0'; p += strcspn(p, "\n") + 1, lines++)
        assert_int_equal(count(p, strcspn(p, "\n"), '|'), count(r.out, first, '|'));
    assert_int_equal(lines, 6);
    static const char *const cells[] = {"| threads |", "| ttft ms |",   "| kv MB |",     "| pp8 |",
                                        "| tg4 |",     "| pp8 @ d12 |", "| tg4 @ d12 |", " ± "};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        if (strstr(r.out, cells[i]) == NULL)
            fail_msg("no \"%s\" in %s", cells[i], r.out);
    assert_null(strstr(r.out, "tokens/step")); /* nothing is drafted */
    assert_string_equal(r.err, "");
    cli_free(&r);
    r = cli_good(CLI("bench", "-m", tiny, "-t", "1", "-p", "0", "-n", "4", "-r", "1", "--progress", "--set",
                     "speculation.plugin=prompt_lookup"),
                 NULL);
    assert_null(strstr(r.out, "ttft")); /* there is no prompt */
    assert_non_null(strstr(r.out, "| tokens/step | accepted |"));
    assert_non_null(strstr(r.err, "test 1 of 1, tg4: repetition 1 of 1"));
    cli_free(&r);
}

/* ---- errors ---------------------------------------------------------------------------------------------------------
 */

static void test_refusals(void **state) {
    (void)state;
#define REFUSED(words, ...) cli_refused(CLI("bench", "-m", tiny, __VA_ARGS__), words)
    REFUSED(SETS("-p"), "-p", "8,x");
    REFUSED(SETS("-p", "\"9-8\""), "-p", "9-8");
    REFUSED(SETS("-n"), "-n", "-5");
    REFUSED(SETS("-d"), "-d", "1-4*1");
    REFUSED(SETS("-pg"), "-pg", "512");
    REFUSED(SETS("-t"), "-t", "two");
    REFUSED(SETS("-b", "1 to 256"), "-b", "0");
    REFUSED(SETS("-b"), "-b", "1,257");
    REFUSED(SETS("-o", "csv", "\"sql\""), "-o", "sql");
    REFUSED(SETS("-r"), "-r", "0");
    REFUSED(SETS("--fill", "\"sand\""), "--fill", "sand");
    REFUSED(SETS("--tests", "\"tg0\""), "--tests", "pp8,tg0");
    REFUSED(SETS("--tests"), "--tests", "pp8x0");
    REFUSED(SETS("1024"), "-p", "1-100000");
    REFUSED(SETS("tests"), "-p", "1-1000", "-d", "1-10"); /* too many */
    REFUSED(SETS("context"), "-c", "64", "-p", "128", "-n", "0", "-r", "1", "-o", "jsonl");
    REFUSED(SETS("context"), "-c", "64", "-p", "128", "-n", "0", "-r", "1");
    REFUSED(SETS("'nosuch'"), "-t", "1,2", "--set", "attention.plugin=nosuch"); /* once, not for each */
#undef REFUSED
}

/* ---- a slow plugin --------------------------------------------------------------------------------------------------
 */

static double least(json_t *record, const char *key) {
    double v = INFINITY;
    json_t *one;
    size_t i;
    json_array_foreach(json_object_get(record, key), i, one) v = fmin(v, json_number_value(one));
    return v;
}

static void test_slow_plugin(void **state) {
    (void)state;
    enum { MS = 4, LAYERS = 6, TOKENS = 3 };
    char where[PATH_MAX + 32];
    snprintf(where, sizeof where, "plugins.path=%s", e2e_built("tests/probe"));
    json_t *plain = BENCH("-t", "1", "-p", "4", "-n", "3", "-r", "2");
    json_t *slow = BENCH("-t", "1", "-p", "4", "-n", "3", "-r", "2", "--set", where, "--set", "attention.plugin=slow",
                         "--set", "attention.milliseconds=4");
    json_t *pp = json_array_get(slow, 0), *tg = json_array_get(slow, 1);
    /* sleeping never takes less */
    assert_true(least(pp, "samples_ns") >= 1e6 * MS * LAYERS);
    assert_true(least(tg, "samples_ns") >= 1e6 * MS * LAYERS * TOKENS);
    assert_true(e2e_number(tg, "ms_step") >= MS * LAYERS);
    assert_true(least(pp, "samples_ttft_ms") >= MS * LAYERS);
    /* and the host's own kernel does not take that long */
    assert_true(least(json_array_get(plain, 1), "samples_ns") < least(tg, "samples_ns"));
    assert_true(e2e_number(tg, "avg_ts") <= 1e3 / (MS * LAYERS));
    json_decref(plain);
    json_decref(slow);
}

int main(void) {
    tiny = strdup(e2e_path("models/tiny"));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),      cmocka_unit_test(test_words),       cmocka_unit_test(test_lists),
        cmocka_unit_test(test_full_context), cmocka_unit_test(test_drafts),      cmocka_unit_test(test_memory),
        cmocka_unit_test(test_json),         cmocka_unit_test(test_csv),         cmocka_unit_test(test_table),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_slow_plugin),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
