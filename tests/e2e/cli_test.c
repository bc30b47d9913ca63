/* The command as its users see it: what goes to stdout, what to stderr, exit statuses, and the JSON it writes. */
#include <unistd.h>

#include "cli.h"

static e2e_prompts prompts;
static const char *tiny;

/* stdout is the beginning of that text, and a line feed. */
static void check_text(const char *got, const char *text) {
    size_t n = strlen(got);
    assert_true(n > 0 && got[n - 1] == '\n');
    if (strncmp(got, text, n - 1) != 0 || n - 1 > strlen(text))
        fail_msg("stdout is \"%s\", expected the beginning of \"%s\"", got, text);
}

/* ---- run --------------------------------------------------------------------------------------------------------- */

static void test_run(void **state) {
    (void)state;
    const e2e_prompt *p = &prompts.prompt[0];
    cli_result r = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "64"), NULL);
    assert_int_equal(strlen(r.out), strlen(p->greedy_text) + 1);
    check_text(r.out, p->greedy_text);
    assert_non_null(strstr(r.err, "tokens/s")); /* the summary */
    cli_free(&r);
    r = cli_good(CLI("run", "-m", tiny, "--prompt", p->text, "--n-predict=8", "--quiet"), NULL);
    check_text(r.out, p->greedy_text);
    assert_string_equal(r.err, "");
    cli_free(&r);
    /* from a file, from stdin */
    e2e_put_text(e2e_temp(""), "prompt.txt", p->text);
    r = cli_good(CLI("run", "-m", tiny, "-f", e2e_temp("prompt.txt"), "-n", "64", "-q"), NULL);
    assert_int_equal(strlen(r.out), strlen(p->greedy_text) + 1);
    check_text(r.out, p->greedy_text);
    cli_free(&r);
    r = cli_good(CLI("run", "-m", tiny, "-n", "64", "-q"), p->text);
    check_text(r.out, p->greedy_text);
    assert_int_equal(strlen(r.out), strlen(p->greedy_text) + 1);
    cli_free(&r);
    r = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "8", "-q", "--echo"), NULL);
    assert_memory_equal(r.out, p->text, strlen(p->text));
    check_text(r.out + strlen(p->text), p->greedy_text);
    cli_free(&r);
    /* a seed makes sampled text repeatable, and the seed that was drawn is told */
    cli_result a = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "24", "--temp", "0.9", "-s", "7", "-q"), NULL);
    cli_result b = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "24", "--temp", "0.9", "-s", "7", "-q"), NULL);
    cli_result c = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "24", "--temp", "0.9", "-s", "8"), NULL);
    assert_string_equal(a.out, b.out);
    assert_string_not_equal(a.out, c.out);
    assert_non_null(strstr(c.err, "seed: 8\n"));
    cli_free(&a);
    cli_free(&b);
    cli_free(&c);
}

/* The INI of a run, and what --set lays over it. */
static void test_run_config(void **state) {
    (void)state;
    const e2e_prompt *p = &prompts.prompt[0];
    char ini[PATH_MAX + 256];
    snprintf(ini, sizeof ini, "[model]\npath = %s\n[sampling]\nmax_tokens = 5\nstop = winter|1897\n[speculation]\nplugin = prompt_lookup\n", tiny);
    e2e_put_text(e2e_temp(""), "run.ini", ini);
    const char *config = e2e_temp("run.ini");
    cli_result r = cli_good(CLI("run", "--config", config, "-p", p->text, "-q"), NULL);
    check_text(r.out, p->greedy_text);
    assert_true(strlen(r.out) < 40);
    cli_free(&r);
    r = cli_good(CLI("run", "--config", config, "--set", "sampling.max_tokens=64", "-p", p->text, "-q"), NULL);
    assert_string_equal(r.out, " the sight of the \n"); /* up to the stop string */
    cli_free(&r);
}

/* A host that checks every call finds nothing to say about our plugins. */
static void test_validate(void **state) {
    (void)state;
    static const char *const drafters[] = {"speculation.plugin=none", "speculation.plugin=prompt_lookup", "speculation.plugin=sps"};
    char draft[PATH_MAX + 32];
    snprintf(draft, sizeof draft, "draft.model.path=%s", tiny);
    for (size_t i = 0; i < sizeof drafters / sizeof *drafters; i++) {
        cli_result r = cli_good(CLI("run", "-m", tiny, "-p", prompts.prompt[0].text, "-n", "40", "-q", "--set", "engine.validate=yes", "--set",
                                    drafters[i], "--set", draft), NULL);
        check_text(r.out, prompts.prompt[0].greedy_text);
        assert_string_equal(r.err, "");
        cli_free(&r);
    }
}

static void test_stats(void **state) {
    (void)state;
    const e2e_prompt *p = &prompts.prompt[0];
    const char *path = e2e_temp("stats.json");
    cli_result r = cli_good(CLI("run", "-m", tiny, "-p", p->text, "-n", "64", "--set", "speculation.plugin=prompt_lookup", "--stats", path), NULL);
    check_text(r.out, p->greedy_text);
    cli_free(&r);
    json_t *stats = e2e_json(path);
    static const char *const numbers[] = {"tokens", "prompt_tps", "decode_tps", "steps", "emitted", "drafted", "accepted",
                                          "allocs_in_steps", "bytes.weights", "bytes.kv", "bytes.scratch", "bytes.plugin",
                                          "bytes.peak"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_true(e2e_number(stats, numbers[i]) >= 0);
    assert_int_equal(e2e_number(stats, "tokens"), 64);
    assert_int_equal(e2e_number(stats, "emitted"), 63);
    assert_int_equal(e2e_number(stats, "allocs_in_steps"), 0);
    assert_true(e2e_number(stats, "accepted") > 0 && e2e_number(stats, "accepted") < e2e_number(stats, "drafted"));
    assert_int_equal(e2e_number(stats, "steps") + e2e_number(stats, "accepted"), 63);
    assert_true(e2e_number(stats, "prompt_tps") > 0 && e2e_number(stats, "decode_tps") > 0);
    json_t *depths = json_object_get(stats, "accepted_by_depth"), *one;
    size_t i;
    int64_t sum = 0;
    assert_true(json_is_array(depths));
    json_array_foreach(depths, i, one) sum += json_integer_value(one);
    assert_int_equal(sum, e2e_number(stats, "accepted"));
    assert_true(json_is_string(json_object_get(stats, "isa")));
    json_t *plugins = json_object_get(stats, "plugins");
    char *text = json_dumps(plugins, 0);
    assert_non_null(text);
    static const char *const used[] = {"dense", "paged", "prompt_lookup"};
    for (size_t j = 0; j < sizeof used / sizeof *used; j++)
        assert_non_null(strstr(text, used[j]));
    free(text);
    json_decref(stats);
    /* a file that cannot be written */
    r = cli_run(CLI("run", "-m", tiny, "-p", p->text, "-n", "2", "-q", "--stats", "/nonexistent/stats.json"), NULL);
    assert_true(r.status >= 1 && r.status <= 123);
    assert_non_null(strstr(r.err, "/nonexistent/stats.json"));
    cli_free(&r);
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

static void test_help(void **state) {
    (void)state;
    static const struct {
        const char *args[4], *word;
    } cases[] = {
        {{"--help"}, "run"},           {{"-h"}, "bench"},           {{"run", "--help"}, "--stats"}, {{"run", "-h"}, "--top-k"},
        {{"bench", "--help"}, "-r"},   {{"eval", "--help"}, "ppl"}, {{"eval", "ppl", "--help"}, "--text"},
        {{"eval", "retrieval", "--help"}, "--mode"},                {{"eval", "ruler", "--help"}, "niah_multikey_3"},
        {{"eval", "scbench", "--help"}, "--turns"},                {{"plugins", "--help"}, "describe"},
        {{"eval", "kld", "--help"}, "--base"},                      {{"eval", "choice", "--help"}, "--shots"},
        {{"config", "--help"}, "check"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cli_result r = cli_good(cases[i].args, NULL);
        if (strstr(r.out, cases[i].word) == NULL || r.err[0] != '\0')
            fail_msg("sluice %s ...: no %s in: %s%s", cases[i].args[0], cases[i].word, r.out, r.err);
        cli_free(&r);
    }
    cli_result r = cli_good(CLI("--version"), NULL);
    char *version = e2e_read(e2e_path("VERSION"), NULL), expected[64];
    snprintf(expected, sizeof expected, "sluice %s", version);
    assert_string_equal(r.out, expected);
    free(version);
    cli_free(&r);
    static const char *const wrong[][3] = {{NULL}, {"walk"}, {"eval"}, {"eval", "speed"}, {"config"}, {"plugins"}, {"config", "mend"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        r = cli_run(wrong[i], NULL);
        assert_true(r.status >= 1 && r.status <= 123);
        assert_int_equal(r.n_out, 0);
        assert_true(r.err[0] != '\0');
        cli_free(&r);
    }
}

/* ---- config ------------------------------------------------------------------------------------------------------ */

static void test_config_show(void **state) {
    (void)state;
    /* what is shown is an INI that gives the same when it is read again */
    cli_result r = cli_good(CLI("config", "show", "-m", tiny, "--set", "kvcache.page=32", "--set", "speculation.plugin=prompt_lookup",
                                "--set", "sampling.stop=a|b\\n", "-t", "1"), NULL);
    assert_non_null(strstr(r.out, "[kvcache]"));
    assert_non_null(strstr(r.out, "ngram_max"));
    e2e_put(e2e_temp(""), "shown.ini", r.out, r.n_out);
    cli_result again = cli_good(CLI("config", "show", "--config", e2e_temp("shown.ini")), NULL);
    /* remarks say where a value came from, and that differs */
    const char *a = r.out, *b = again.out;
    while (*a != '\0' || *b != '\0') {
        size_t na = strcspn(a, ";\n"), nb = strcspn(b, ";\n"), ka = na, kb = nb;
        while (ka > 0 && a[ka - 1] == ' ')
            ka--;
        while (kb > 0 && b[kb - 1] == ' ')
            kb--;
        if (ka != kb || memcmp(a, b, ka) != 0)
            fail_msg("shown again, \"%.*s\" became \"%.*s\"", (int)ka, a, (int)kb, b);
        a += strcspn(a, "\n"), b += strcspn(b, "\n");
        a += *a == '\n', b += *b == '\n';
    }
    cli_free(&r);
    cli_free(&again);
    /* and it runs */
    r = cli_good(CLI("run", "--config", e2e_temp("shown.ini"), "-p", prompts.prompt[0].text, "-n", "6", "-q"), NULL);
    check_text(r.out, prompts.prompt[0].greedy_text);
    cli_free(&r);
}

static void test_config_check(void **state) {
    (void)state;
    char ini[PATH_MAX + 256];
    snprintf(ini, sizeof ini, "[model]\npath = %s\n[quant]\nplugin = rtn\nbits = 8\n", tiny);
    e2e_put_text(e2e_temp(""), "good.ini", ini);
    cli_result r = cli_good(CLI("config", "check", "--config", e2e_temp("good.ini")), NULL);
    assert_string_equal(r.err, "");
    cli_free(&r);
    r = cli_good(CLI("config", "check", "--config", e2e_path("demo.ini")), NULL);
    cli_free(&r);
    cli_refused(CLI("config", "check", "--config", e2e_temp("good.ini"), "--set", "speculation.plugin=sps"), SETS("draft.model"));
    cli_refused(CLI("config", "check", "--config", e2e_temp("good.ini"), "--set", "quant.bits=3"), SETS("bits"));
    cli_refused(CLI("config", "check", "--config", e2e_temp("good.ini"), "--set", "attention.plugin=nothere"), SETS("nothere"));
}

/* ---- plugins ----------------------------------------------------------------------------------------------------- */

static void test_plugins(void **state) {
    (void)state;
    static const char *const ids[] = {"dense", "paged", "prompt_lookup", "sps", "none", "rtn"};
    cli_result r = cli_good(CLI("plugins", "list"), NULL);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        assert_non_null(strstr(r.out, ids[i]));
    assert_string_equal(r.err, "");
    cli_free(&r);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        r = cli_good(CLI("plugins", "describe", ids[i], "--json"), NULL);
        json_t *all = json_loads(r.out, 0, NULL), *one = json_array_get(all, 0);
        assert_int_equal(json_array_size(all), 1);
        assert_string_equal(json_string_value(json_object_get(one, "id")), ids[i]);
        assert_true(json_is_array(json_object_get(one, "params")) && json_is_array(json_object_get(one, "roles")));
        json_decref(all);
        cli_free(&r);
    }
    r = cli_good(CLI("plugins", "describe", "paged"), NULL);
    static const char *const words[] = {"page", "1 .. 4096", "64", "dtype", "auto", "bf16", "PagedAttention", "kvcache.store"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(r.out, words[i]) == NULL)
            fail_msg("plugins describe paged does not say \"%s\": %s", words[i], r.out);
    cli_free(&r);
}

/* ---- bench and eval ---------------------------------------------------------------------------------------------- */

static void test_bench(void **state) {
    (void)state;
    cli_result r = cli_good(CLI("bench", "-m", tiny, "-t", "1", "-p", "16,32", "-n", "8", "-d", "0,20", "-r", "2", "-o", "json"), NULL);
    json_t *all = json_loads(r.out, 0, NULL), *one;
    size_t i;
    assert_int_equal(json_array_size(all), 6);
    static const char *const numbers[] = {"model_size", "model_n_params", "n_threads", "n_prompt", "n_gen", "n_depth", "avg_ns",
                                          "stddev_ns", "avg_ts", "stddev_ts"};
    static const int64_t expected[6][3] = {{16, 0, 0}, {32, 0, 0}, {0, 8, 0}, {16, 0, 20}, {32, 0, 20}, {0, 8, 20}};
    json_array_foreach(all, i, one) {
        for (size_t j = 0; j < sizeof numbers / sizeof *numbers; j++)
            assert_true(e2e_number(one, numbers[j]) >= 0);
        assert_int_equal(e2e_number(one, "n_prompt"), expected[i][0]);
        assert_int_equal(e2e_number(one, "n_gen"), expected[i][1]);
        assert_int_equal(e2e_number(one, "n_depth"), expected[i][2]);
        assert_int_equal(e2e_number(one, "n_threads"), 1);
        assert_int_equal(e2e_number(one, "model_n_params"), 5180672);
        assert_int_equal(json_array_size(json_object_get(one, "samples_ns")), 2);
        assert_int_equal(json_array_size(json_object_get(one, "samples_ts")), 2);
        assert_true(json_is_string(json_object_get(one, "model_filename")) && json_is_string(json_object_get(one, "model_type")));
        double tokens = e2e_number(one, "n_prompt") + e2e_number(one, "n_gen");
        for (size_t j = 0; j < 2; j++) {
            double ns = json_number_value(json_array_get(json_object_get(one, "samples_ns"), j));
            double ts = json_number_value(json_array_get(json_object_get(one, "samples_ts"), j));
            assert_true(fabs(ts * ns / 1e9 - tokens) < 1e-3 * tokens);
        }
    }
    json_decref(all);
    cli_free(&r);
    r = cli_good(CLI("bench", "-m", tiny, "-t", "1", "-p", "8", "-n", "4", "-r", "1"), NULL);
    assert_non_null(strstr(r.out, "| pp8 |"));
    assert_non_null(strstr(r.out, "| tg4 |"));
    cli_free(&r);
    r = cli_good(CLI("bench", "-m", tiny, "-t", "1", "-p", "8", "-n", "0", "-r", "1", "-o", "jsonl"), NULL);
    one = json_loads(r.out, 0, NULL);
    assert_int_equal(e2e_number(one, "n_prompt"), 8);
    json_decref(one);
    cli_free(&r);
    r = cli_good(CLI("bench", "-m", tiny, "-t", "1", "--tests", "pp8 tg4@16x2,ts4", "--fill", "synthetic", "-r", "3", "-o", "json"), NULL);
    all = json_loads(r.out, 0, NULL);
    assert_int_equal(json_array_size(all), 3);
    one = json_array_get(all, 1);
    assert_int_equal(e2e_number(one, "n_depth"), 16);
    assert_int_equal(e2e_number(one, "n_sequences"), 2);
    assert_int_equal(e2e_number(one, "tokens_step"), 2); /* of two sessions */
    assert_true(fabs(e2e_number(one, "ms_step") * 4 * 1e6 - e2e_number(one, "avg_ns")) < 0.01 * e2e_number(one, "avg_ns"));
    assert_true(json_is_true(json_object_get(json_array_get(all, 2), "sampled")));
    json_decref(all);
    cli_free(&r);
    cli_refused(CLI("bench", "-m", tiny, "-p", "8,x"), SETS("-p"));
    cli_refused(CLI("bench", "-m", tiny, "-b", "0"), SETS("-b"));
    cli_refused(CLI("bench", "-m", tiny, "--tests", "pp8,tg0"), SETS("--tests", "\"tg0\""));
    cli_refused(CLI("bench", "-m", tiny, "-c", "64", "-p", "128", "-n", "0", "-r", "1", "-o", "jsonl"), SETS("context"));
}

static void test_perplexity(void **state) {
    (void)state;
    json_t *golden = e2e_json(e2e_path("tests/data/tiny/ppl.json"));
    cli_result r = cli_good(CLI("eval", "ppl", "-m", tiny, "--text", e2e_path("recipes/golden/prose_watson.txt"), "--context", "256"), NULL);
    json_t *got = json_loads(r.out, 0, NULL);
    assert_int_equal(e2e_number(got, "n_tokens"), e2e_number(golden, "n_tokens"));
    assert_int_equal(e2e_number(got, "windows"), e2e_number(golden, "windows"));
    double expected = e2e_number(golden, "ppl"), ppl = e2e_number(got, "ppl");
    if (!(fabs(ppl - expected) < 1e-4 * expected))
        fail_msg("perplexity %.8f, expected %.8f", ppl, expected);
    json_t *windows = json_object_get(json_array_get(json_object_get(golden, "files"), 0), "nll_by_window");
    assert_int_equal(json_array_size(json_object_get(got, "nll_by_window")), json_array_size(windows));
    for (size_t i = 0; i < json_array_size(windows); i++) {
        double want = json_number_value(json_array_get(windows, i)), has = json_number_value(json_array_get(json_object_get(got, "nll_by_window"), i));
        assert_true(fabs(want - has) < 1e-4 * want);
    }
    json_decref(golden);
    json_decref(got);
    char earlier[] = "/tmp/sluice_cli_ppl.XXXXXX";
    int file = mkstemp(earlier);
    assert_true(file >= 0);
    close(file);
    FILE *f = fopen(earlier, "w");
    fputs(r.out, f);
    fclose(f);
    cli_free(&r);
    /* weights of 4 bits are worse, window by window */
    r = cli_good(CLI("eval", "ppl", "-m", tiny, "--text", e2e_path("recipes/golden/prose_watson.txt"), "--context", "256", "--set",
                     "quant.plugin=rtn", "--set", "quant.rtn.bits=4", "--against", earlier), NULL);
    got = json_loads(r.out, 0, NULL);
    json_t *against = json_object_get(got, "against");
    assert_true(e2e_number(against, "mean_difference") > 0);
    assert_true(fabs(e2e_number(against, "ppl_ratio") - e2e_number(got, "ppl") / ppl) < 1e-6);
    assert_true(e2e_number(against, "half_width_95") > 0 && e2e_number(against, "half_width_95") < 1);
    json_decref(got);
    cli_free(&r);
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", e2e_path("recipes/golden/prose_watson.txt"), "--context", "128", "--against",
                    earlier), SETS("context"));
    /* Decode steps behind a prompt predict what the prompt pass predicts; a selector shows in them alone. */
    char text[PATH_MAX]; /* e2e_path's own is soon overwritten */
    snprintf(text, sizeof text, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    static const char *const plugins[] = {"attention.plugin=dense", "attention.plugin=tidaldecode"};
    double steps[2];
    for (int i = 0; i < 2; i++) {
        r = cli_good(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "256", "--windows", "2", "--steps", "254", "--set",
                         plugins[i], i == 0 ? NULL : "--set", "attention.token_budget=32"), NULL);
        got = json_loads(r.out, 0, NULL);
        steps[i] = e2e_number(got, "nll_sum");
        assert_int_equal(e2e_number(got, "n_tokens"), 2 * 254);
        json_decref(got);
        cli_free(&r);
    }
    r = cli_good(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "256", "--windows", "2", "--set", plugins[1], "--set",
                     "attention.token_budget=32"), NULL);
    got = json_loads(r.out, 0, NULL);
    double whole = e2e_number(got, "nll_sum"), first = whole - steps[0]; /* of the first token of both windows */
    if (!(first > 0 && first < 2 * 12 && fabs(steps[1] - steps[0]) > 1e-3))
        fail_msg("prompt pass %.6f, decode steps %.6f, with a selector %.6f", whole, steps[0], steps[1]);
    json_decref(got);
    cli_free(&r);
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", text, "--context", "256", "--steps", "255"), SETS("--steps"));
    remove(earlier);
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", "/nonexistent/book.txt", "--context", "256"), SETS("/nonexistent/book.txt"));
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", e2e_path("VERSION"), "--context", "256"), SETS("256"));
    cli_refused(CLI("eval", "ppl", "-m", tiny, "--text", e2e_path("VERSION"), "--context", "99999"), SETS("4096"));
}

/* The embedded model retrieves numbers from short contexts; in every mode the answers are counted over the same text, and
 * a run compared with itself differs by nothing. */
static void test_retrieval(void **state) {
    (void)state;
    char text[PATH_MAX]; /* e2e_path's own is soon overwritten */
    snprintf(text, sizeof text, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    static const char *const modes[] = {"forced", "single", "multi_turn", "multi_request"};
    char earlier[] = "/tmp/sluice_cli_retrieval.XXXXXX";
    int file = mkstemp(earlier);
    assert_true(file >= 0);
    close(file);
    json_t *generated = NULL;
    for (int i = 0; i < 4; i++)
        for (int again = 0; again < 2; again++) {
            cli_result r = again == 0 ? cli_good(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "900", "--needles", "4",
                                                     "--questions", "8", "--mode", modes[i]), NULL)
                                      : cli_good(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "900", "--needles", "4",
                                                     "--questions", "8", "--mode", modes[i], "--against", earlier), NULL);
            json_t *got = json_loads(r.out, 0, NULL), *difference = json_object_get(got, "against");
            assert_string_equal(json_string_value(json_object_get(got, "mode")), modes[i]);
            assert_int_equal(e2e_number(got, "length"), 900);
            assert_int_equal(e2e_number(got, "answers"), 8);
            assert_int_equal(e2e_number(got, "contexts"), 2);
            assert_int_equal(json_array_size(json_object_get(got, "by_question")), 8);
            double p = e2e_number(got, "tokens_right") / e2e_number(got, "tokens");
            assert_true(fabs(p - e2e_number(got, "token_accuracy")) < 1e-12);
            if (!(p >= 0.5))
                fail_msg("%s: %.3f of the answer tokens are right; chance is 0.1", modes[i], p);
            if (again == 0) {
                assert_null(difference);
                assert_int_equal(json_dump_file(got, earlier, 0), 0);
                /* without a policy it is all the same how the prompt is cut; later turns see earlier answers */
                if (strcmp(modes[i], "single") == 0)
                    generated = json_incref(json_object_get(got, "by_question"));
                if (strcmp(modes[i], "multi_request") == 0)
                    assert_true(json_equal(generated, json_object_get(got, "by_question")));
            } else {
                assert_true(e2e_number(difference, "mean_difference") == 0 && e2e_number(difference, "half_width_95") == 0);
                assert_true(e2e_number(difference, "same_answer") == 1);
                assert_int_equal(e2e_number(difference, "clusters"), 2);
            }
            json_decref(got);
            cli_free(&r);
        }
    json_decref(generated);
    cli_refused(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "900", "--needles", "4", "--questions", "4", "--mode",
                    "multi_request", "--against", earlier), SETS("contexts"));
    cli_refused(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "900", "--needles", "4", "--questions", "4", "--set",
                    "engine.max_seqs=1", "--mode", "single"), SETS("max_seqs"));
    remove(earlier);
}

/* Accuracy by depth: a window of 400 tokens knows nothing of the first half of 1000, and the dense cache does. */
static void test_window_forgets(void **state) {
    (void)state;
    char text[PATH_MAX];
    snprintf(text, sizeof text, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    for (int window = 0; window < 2; window++) {
        cli_result r = window ? cli_good(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "1000", "--needles", "8",
                                             "--questions", "8", "--mode", "multi_request", "--set", "kvcache.policy.plugin=streaming",
                                             "--set", "kvcache.policy.budget=400"), NULL)
                              : cli_good(CLI("eval", "retrieval", "-m", tiny, "--text", text, "--length", "1000", "--needles", "8",
                                             "--questions", "8", "--mode", "multi_request"), NULL);
        json_t *got = json_loads(r.out, 0, NULL), *bins = json_object_get(got, "by_depth");
        double early = 0, n_early = 0, late = 0, n_late = 0;
        for (size_t i = 0; i < json_array_size(bins); i++) {
            json_t *bin = json_array_get(bins, i);
            double from = e2e_number(bin, "from"), right = e2e_number(bin, "answers_right"), n = e2e_number(bin, "answers");
            if (from < 0.4)
                early += right, n_early += n;
            if (from > 0.75)
                late += right, n_late += n;
        }
        if (!(n_early >= 2 && n_late >= 1 && (window ? early == 0 && late >= 1 : early >= 0.7 * n_early)))
            fail_msg("%s: %g of %g early answers right, %g of %g late ones", window ? "window" : "dense", early, n_early, late,
                     n_late);
        json_decref(got);
        cli_free(&r);
    }
}

/* The other suites of generated contexts: lists of tasks and lengths, contexts on disk, differences; and what is refused. */
static void test_generated(void **state) {
    (void)state;
    char text[PATH_MAX], paragraphs[PATH_MAX], cache[PATH_MAX], earlier[PATH_MAX];
    snprintf(text, sizeof text, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    snprintf(paragraphs, sizeof paragraphs, "%s", e2e_path("tests/data/paragraphs.jsonl"));
    snprintf(cache, sizeof cache, "%s", e2e_temp("contexts"));
    snprintf(earlier, sizeof earlier, "%s", e2e_temp("scbench.json"));
    for (int again = 0; again < 2; again++) {
        cli_result r = again == 0 ? cli_good(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv,mf", "--length", "500,700", "--turns", "2",
                                                 "--questions", "2", "--max-tokens", "4", "--golden", "--prefill-cache", cache), NULL)
                                  : cli_good(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv,mf", "--length", "500,700", "--turns", "2",
                                                 "--questions", "2", "--max-tokens", "4", "--golden", "--prefill-cache", cache,
                                                 "--set", "attention.plugin=quest", "--against", earlier), NULL);
        json_t *got = json_loads(r.out, 0, NULL), *rows = json_object_get(got, "by_task");
        assert_int_equal(json_array_size(rows), 4);
        assert_int_equal(json_array_size(json_object_get(json_array_get(rows, 0), "by_turn")), 2);
        assert_int_equal(e2e_number(got, "answers"), 8);
        assert_int_equal(e2e_number(got, again ? "prefill_cache.hits" : "prefill_cache.misses"), 4);
        assert_true(e2e_number(got, "kv_bytes.prefill") > 0 && e2e_number(got, "ttft_seconds") > 0);
        assert_true(e2e_number(got, "golden_nll_per_token") > 0);
        if (again == 0)
            assert_int_equal(json_dump_file(got, earlier, 0), 0);
        else { /* a budget that covers everything */
            assert_true(e2e_number(got, "against.same_answer") == 1);
            assert_true(fabs(e2e_number(got, "against.golden_nll_difference")) < 1e-4);
            assert_int_equal(json_array_size(json_object_get(json_object_get(got, "against"), "by_task")), 4);
        }
        json_decref(got);
        cli_free(&r);
    }
    cli_result r = cli_good(CLI("eval", "ruler", "-m", tiny, "--tasks", "qa_1,qa_2,niah_multikey_2", "--length", "600", "--questions", "1",
                                "--max-tokens", "4", "--paragraphs", paragraphs), NULL);
    json_t *got = json_loads(r.out, 0, NULL);
    assert_int_equal(e2e_number(got, "answers"), 3);
    json_decref(got);
    cli_free(&r);
    cli_refused(CLI("eval", "ruler", "-m", tiny, "--tasks", "qa_1"), SETS("qa_1", "--paragraphs"));
    cli_refused(CLI("eval", "ruler", "-m", tiny, "--tasks", "niah_single_2"), SETS("niah_single_2", "--text"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv,nonsense"), SETS("nonsense", "prefix_suffix"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv", "--length", "99999"), SETS("99999", "4096"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv", "--length", "100"), SETS("kv", "100"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--tasks", "kv", "--length", "4k"), SETS("--length", "4k"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--mode", "single", "--own-history"), SETS("multi_turn"));
    cli_refused(CLI("eval", "scbench", "-m", tiny, "--turns", "0"), SETS("1 to 64"));
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    (void)state;
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", e2e_path("models/tiny"));
    tiny = path;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),          cmocka_unit_test(test_run_config), cmocka_unit_test(test_stats),
        cmocka_unit_test(test_validate),
        cmocka_unit_test(test_help),         cmocka_unit_test(test_config_show), cmocka_unit_test(test_config_check),
        cmocka_unit_test(test_plugins),      cmocka_unit_test(test_bench),      cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_retrieval),    cmocka_unit_test(test_window_forgets), cmocka_unit_test(test_generated),
    };
    return cmocka_run_group_tests_name("cli", tests, set_up, tear_down);
}
