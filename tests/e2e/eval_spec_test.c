/* sluice eval spec: when text loops, against the definition read literally; the report's numbers against each other and
 * against what the library says; categories, batches, several drafters; the check of greedy output; refusals. */
#include "cli.h"

/* The command's own file, compiled into this program. */
#include "../../cli/spec_loop.c"

/* ---- looping text ------------------------------------------------------------------------------------------------ */

/* The definition, literally. */
static int is_looping(const int32_t *t, int64_t i) {
    for (int64_t p = 1; p <= LOOP_PERIOD; p++) {
        int64_t n = p > LOOP_TOKENS ? p : LOOP_TOKENS, same = 0;
        while (same < n && i - same - p >= 0 && t[i - same] == t[i - same - p])
            same++;
        if (same == n)
            return 1;
    }
    return 0;
}

static void loops(void **state) {
    (void)state;
    enum { N = 400 };
    int32_t t[N];
    uint64_t seed = 3;
    int64_t found[2] = {0};
    for (int round = 0; round < 200; round++) {
        int64_t period = 1 + (int64_t)(test_next(&seed) % 80);
        for (int64_t i = 0; i < N; i++) /* loops that are broken now and then, and noise of two tokens */
            t[i] = round % 4 == 0                             ? (int32_t)(test_next(&seed) % 2)
                   : i < period || test_next(&seed) % 97 == 0 ? (int32_t)(test_next(&seed) % 1000)
                                                              : t[i - period];
        spec_loop l;
        spec_loop_begin(&l);
        for (int64_t i = 0; i < N; i++) {
            int got = spec_loop_push(&l, t[i]);
            assert_int_equal(got, is_looping(t, i));
            found[got]++;
        }
    }
    assert_true(found[0] > 1000 && found[1] > 1000);
    /* "abc" again and again: looping from the eighth repeated token on, not any longer once it stops */
    spec_loop l;
    spec_loop_begin(&l);
    for (int i = 0; i < 30; i++)
        assert_int_equal(spec_loop_push(&l, i % 3), i >= 3 + 7);
    assert_int_equal(spec_loop_push(&l, 77), 0);
    /* one token: the ninth */
    spec_loop_begin(&l);
    for (int i = 0; i < 12; i++)
        assert_int_equal(spec_loop_push(&l, 5), i >= 8);
}

/* ---- reports ----------------------------------------------------------------------------------------------------- */

static const char *tiny;
static char lines[PATH_MAX], objects[PATH_MAX];

static double of(json_t *result, const char *dotted) { return e2e_number(result, dotted); }

static int64_t sum(json_t *list) {
    int64_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        n += json_integer_value(json_array_get(list, i));
    return n;
}

/* What must hold in every result. */
static void check_result(json_t *r, int64_t max_tokens) {
    int64_t prompts = (int64_t)of(r, "prompts");
    assert_int_equal(of(r, "tokens"), prompts * max_tokens);
    assert_int_equal(of(r, "all.tokens"), prompts * (max_tokens - 1)); /* the first one is the prompt's */
    assert_int_equal(of(r, "all.tokens"), of(r, "fresh.tokens") + of(r, "looping.tokens"));
    assert_int_equal(of(r, "all.steps"), of(r, "fresh.steps") + of(r, "looping.steps"));
    assert_true(fabs(of(r, "all.tokens_per_step") - of(r, "all.tokens") / of(r, "all.steps")) < 1e-9);
    assert_int_equal(of(r, "all.tokens"), of(r, "all.steps") + of(r, "accepted"));
    assert_int_equal(sum(json_object_get(r, "accepted_by_depth")), of(r, "accepted"));
    assert_true(of(r, "drafted") >= of(r, "accepted"));
    json_t *shares = json_object_get(r, "acceptance_by_depth");
    for (size_t i = 0; i < json_array_size(shares); i++)
        assert_in_range((int64_t)(1e6 * json_real_value(json_array_get(shares, i))), 0, 1000000);
    assert_true(of(r, "speed_up") > 0 && of(r, "tokens_per_second") > 0 && of(r, "plain_tokens_per_second") > 0);
    assert_true(fabs(of(r, "speed_up") - of(r, "tokens_per_second") / of(r, "plain_tokens_per_second")) < 1e-9);
    assert_int_equal(of(r, "compared"), prompts);
    json_t *quartiles = json_object_get(r, "speed_up_quartiles");
    double median = of(r, "speed_up_median"), low = json_real_value(json_array_get(quartiles, 0)),
           high = json_real_value(json_array_get(quartiles, 1));
    assert_true(low > 0 && low <= median && median <= high);
    assert_true(of(r, "ms_per_token") > 0 && of(r, "plain_ms_per_token") > 0);
    if (of(r, "pairs") == 1) { /* then all of them are one ratio */
        assert_true(low == high && fabs(median - of(r, "plain_ms_per_token") / of(r, "ms_per_token")) < 1e-9);
        assert_true(fabs(median - of(r, "speed_up")) < 1e-9);
    }
}

static void numbers_agree(void **state) {
    (void)state;
    enum { N = 80 };
    json_t *json =
        cli_report(CLI("eval", "spec", "-m", tiny, "--prompts", lines, "--json", "-n", "80", "--set",
                       "speculation.plugin=token_recycling", "--set", "speculation.cut=16", "-c", "512", "-t", "1"));
    json_t *run = json_array_get(json_object_get(json, "runs"), 0), *results = json_object_get(run, "results");
    assert_string_equal(json_string_value(json_object_get(run, "drafter")), "token_recycling");
    assert_true(json_is_true(json_object_get(run, "lossless")) && json_is_true(json_object_get(run, "checked")));
    assert_true(json_is_true(json_object_get(run, "in_turns")));
    assert_int_equal(json_array_size(results), 2); /* temperatures 0 and 0.8; one category */
    for (int k = 0; k < 2; k++) {
        json_t *r = json_array_get(results, (size_t)k);
        check_result(r, N);
        assert_int_equal(of(r, "prompts"), 3);
        assert_int_equal(of(r, "pairs"), 3);
        assert_int_equal(of(r, "identical"), 3); /* drafts without a distribution: sampled, too */
        assert_true(of(r, "temperature") == (k ? 0.8 : 0));
        assert_string_equal(json_string_value(json_object_get(r, "category")), "all");
    }
    json_t *greedy = json_array_get(results, 0);
    assert_true(of(greedy, "looping.steps") > 0 && of(greedy, "fresh.steps") > 0);
    assert_true(of(greedy, "looping.tokens_per_step") > of(greedy, "fresh.tokens_per_step"));

    /* the share of looping text, counted by hand on what the library generates */
    static const char *const text[] = {"The old house stood", "Once upon a time there was", "It was a dark night"};
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.max_context=512"));
    int64_t looping = 0;
    for (int i = 0; i < 3; i++) {
        int32_t ids[64];
        int64_t n = sluice_tokenize(e, text[i], strlen(text[i]), SLUICE_ADD_SPECIAL, ids, 64, NULL);
        sluice_session *s = e2e_session(e, ids, n);
        sluice_sampling how = e2e_greedy(N);
        e2e_output o;
        e2e_generate(e, &s, 1, &how, 1, &o);
        for (int64_t j = 0; j < o.n; j++)
            looping += is_looping(o.tokens, j);
        e2e_outputs_free(&o, 1);
        sluice_session_close(s);
    }
    sluice_close(e);
    assert_true(fabs(of(greedy, "looping_share") - (double)looping / (3.0 * N)) < 1e-9);
    json_decref(json);
}

/* Categories in their order, `all` behind them; a limit for each; batches change no token. */
static void categories_and_batches(void **state) {
    (void)state;
    for (int batch = 1; batch <= 3; batch += 2) {
        json_t *json = cli_report(CLI("eval", "spec", "-m", tiny, "--prompts", objects, "--json", "-n", "24", "--limit",
                                      "3", "--temperatures", "0", "--batch", batch == 1 ? "1" : "3", "--warm-up", "0",
                                      "--set", "speculation.plugin=swift", "--set", "speculation.stop_threshold=0.3",
                                      "-c", "256", "-t", "1"));
        json_t *results = json_object_get(json_array_get(json_object_get(json, "runs"), 0), "results");
        static const char *const name[] = {"tales", "code", "all"};
        static const int n[] = {3, 1, 4};
        int64_t emitted = 0;
        assert_int_equal(json_array_size(results), 3);
        for (size_t i = 0; i < 3; i++) {
            json_t *r = json_array_get(results, i);
            assert_string_equal(json_string_value(json_object_get(r, "category")), name[i]);
            assert_int_equal(of(r, "prompts"), n[i]);
            assert_int_equal(of(r, "identical"), n[i]);
            assert_int_equal(of(r, "pairs"), batch == 1 ? n[i] : i < 2 ? 1 : 2);
            check_result(r, 24);
            emitted += i < 2 ? (int64_t)of(r, "all.tokens") : -(int64_t)of(r, "all.tokens");
        }
        assert_int_equal(emitted, 0);
        json_decref(json);
    }
}

/* Drafters as INI files; a table a drafter. */
static void several_drafters(void **state) {
    (void)state;
    char one[PATH_MAX], two[PATH_MAX], text[PATH_MAX + 200];
    snprintf(text, sizeof text,
             "[model]\npath = %s\n[engine]\nmax_context = 256\nthreads = 1\n[speculation]\nplugin = prompt_lookup\n",
             tiny);
    e2e_put_text(e2e_temp(""), "one.ini", text);
    snprintf(text, sizeof text,
             "[model]\npath = %s\n[engine]\nmax_context = 256\nthreads = 1\n[speculation]\nplugin = swift\nskip_ratio "
             "= 0\nstop_threshold = 0\n"
             "max_draft = 3\n",
             tiny);
    e2e_put_text(e2e_temp(""), "two.ini", text);
    snprintf(one, sizeof one, "%s", e2e_temp("one.ini"));
    snprintf(two, sizeof two, "%s", e2e_temp("two.ini"));
    json_t *json = cli_report(
        CLI("eval", "spec", "--prompts", lines, "--json", "-n", "13", "--temperatures", "0", "--apart", one, two));
    json_t *runs = json_object_get(json, "runs");
    assert_int_equal(json_array_size(runs), 2);
    json_t *a = json_array_get(runs, 0), *b = json_array_get(runs, 1);
    assert_string_equal(json_string_value(json_object_get(a, "config")), one);
    assert_string_equal(json_string_value(json_object_get(a, "drafter")), "prompt_lookup");
    assert_string_equal(json_string_value(json_object_get(b, "drafter")), "swift");
    assert_true(json_is_false(json_object_get(a, "in_turns")) && json_is_false(json_object_get(b, "in_turns")));
    b = json_array_get(json_object_get(b, "results"), 0);
    assert_true(of(b, "all.tokens_per_step") == 4); /* nothing is skipped, three are drafted, all accepted */
    for (int d = 0; d < 3; d++)
        assert_true(json_real_value(json_array_get(json_object_get(b, "acceptance_by_depth"), (size_t)d)) == 1);
    json_decref(json);
    cli_result r = cli_good(CLI("eval", "spec", "--prompts", lines, "-n", "13", "--temperatures", "0", one, two), NULL);
    assert_non_null(strstr(r.out, "| 0 | all | 3 | 39 | 4.00 |"));
    assert_non_null(strstr(r.out, "prompt_lookup, "));
    assert_non_null(strstr(r.out, "acceptance by depth at temperature 0: 1.00 1.00 1.00"));
    cli_free(&r);
}

/* A policy that drops rows between steps makes tokens depend on speculation; that is what the check is for. */
static void check_finds_differences(void **state) {
    (void)state;
#define POLICY                                                                                                         \
    "eval", "spec", "-m", tiny, "--prompts", lines, "-n", "64", "--temperatures", "0", "-c", "256", "-t", "1",         \
        "--set", "speculation.plugin=swift", "--set", "speculation.skip_ratio=0", "--set",                             \
        "speculation.stop_threshold=0", "--set", "kvcache.policy.plugin=streaming", "--set",                           \
        "kvcache.policy.budget=8", "--set", "engine.deterministic=no"
    cli_result r = cli_run(CLI(POLICY), NULL);
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "swift: greedy output differs from plain decoding: prompt "));
    assert_non_null(strstr(r.out, "| 0 | all |")); /* the report is there all the same */
    cli_free(&r);
    json_t *json = cli_report(CLI(POLICY, "--no-check", "--json"));
    json_t *run = json_array_get(json_object_get(json, "runs"), 0),
           *result = json_array_get(json_object_get(run, "results"), 0);
    assert_true(json_is_false(json_object_get(run, "checked")));
    assert_true(of(result, "identical") < of(result, "compared"));
    assert_true(of(result, "first_difference.token") > 0);
    json_decref(json);
}

static void refusals(void **state) {
    (void)state;
    char bad[3][PATH_MAX];
    static const char *const text[] = {"a line\n{\"category\": \"x\"}\n", "\n\n", "a line\n{\"prompt\": \n"};
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "bad%d", i);
        e2e_put_text(e2e_temp(""), name, text[i]);
        snprintf(bad[i], sizeof bad[i], "%s", e2e_temp(name));
    }
    cli_refused(CLI("eval", "spec", "-m", tiny, "--set", "speculation.plugin=swift"), SETS("--prompts"));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", lines), SETS("no drafter is configured"));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", bad[0], "--set", "speculation.plugin=swift"),
                SETS("bad0:2", "\"prompt\""));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", bad[1], "--set", "speculation.plugin=swift"),
                SETS("no prompts"));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", bad[2], "--set", "speculation.plugin=swift"),
                SETS("bad2:2"));
    cli_refused(
        CLI("eval", "spec", "-m", tiny, "--prompts", lines, "--batch", "9", "--set", "speculation.plugin=swift"),
        SETS("--batch 9", "engine.max_seqs = 8"));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", lines, "--temperatures", "0,hot"), SETS("temperatures"));
    cli_refused(CLI("eval", "spec", "-m", tiny, "--prompts", lines, "--set", "speculation.plugin=swift", "--set",
                    "speculation.topk=0"),
                SETS("topk"));
    /* a prompt that does not fit is left out and said */
    json_t *json = cli_report(CLI("eval", "spec", "-m", tiny, "--prompts", lines, "--json", "-n", "27",
                                  "--temperatures", "0", "-c", "32", "--set", "speculation.plugin=prompt_lookup"));
    json_t *r = json_array_get(json_object_get(json_array_get(json_object_get(json, "runs"), 0), "results"), 0);
    assert_true(of(r, "too_long") > 0 && of(r, "too_long") + of(r, "compared") == 3);
    json_decref(json);
}

static int set_up(void **state) {
    (void)state;
    tiny = strdup(e2e_path("models/tiny"));
    e2e_put_text(e2e_temp(""), "lines.txt", "The old house stood\nOnce upon a time there was\n\nIt was a dark night\n");
    e2e_put_text(e2e_temp(""), "objects.jsonl",
                 "{\"prompt\": \"The old house stood\", \"category\": \"tales\"}\n"
                 "{\"turns\": [\"def main(\", \"And again\"], \"category\": \"code\"}\n"
                 "{\"text\": \"Once upon a time\", \"category\": \"tales\"}\r\n"
                 "{\"prompt\": \"It was a dark night\", \"category\": \"tales\", \"question_id\": 7}\n"
                 "{\"prompt\": \"too many\", \"category\": \"tales\"}");
    snprintf(lines, sizeof lines, "%s", e2e_temp("lines.txt"));
    snprintf(objects, sizeof objects, "%s", e2e_temp("objects.jsonl"));
    return tiny != NULL ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops),
        cmocka_unit_test(numbers_agree),
        cmocka_unit_test(categories_and_batches),
        cmocka_unit_test(several_drafters),
        cmocka_unit_test(check_finds_differences),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("eval_spec", tests, set_up, NULL);
}
