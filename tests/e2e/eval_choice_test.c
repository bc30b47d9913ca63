/* sluice eval choice: picks and probabilities against the library's logits and scores, prompts written out here;
 * examples in front that are computed once; pairs of runs; refusals. */
#include "cli.h"

static char tiny[PATH_MAX], sample[PATH_MAX];

static double of(json_t *result, const char *dotted) { return e2e_number(result, dotted); }
static double at(json_t *result, const char *list, int i) {
    return json_number_value(json_array_get(json_object_get(result, list), (size_t)i));
}

static int64_t encode(sluice_engine *e, const char *text, int32_t *ids, int64_t cap) {
    int64_t n = sluice_tokenize(e, text, strlen(text), SLUICE_ADD_SPECIAL, ids, cap, NULL);
    assert_in_range(n, 1, cap);
    return n;
}

/* Share of e^score of one among n. */
static double share(const double *score, int n, int which) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(score[i] - score[which]);
    return 1 / sum;
}

static int best(const double *score, int n) {
    int b = 0;
    for (int i = 0; i < n; i++)
        b = score[i] > score[b] ? i : b;
    return b;
}

/* What the letters score behind a prompt: ids of " A", " B" ... */
static void letters(sluice_engine *e, const char *prompt, int n, double *score) {
    int32_t ids[1024], with[1024];
    char text[4096];
    int64_t length = encode(e, prompt, ids, 1024);
    float *logits = e2e_logits_of(e, ids, length);
    sluice_info info;
    sluice_get_info(e, &info);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%s %c", prompt, 'A' + i);
        assert_int_equal(encode(e, text, with, 1024), length + 1);
        score[i] = logits[(length - 1) * info.vocab + with[length]];
    }
    free(logits);
}

static double likelihood(sluice_engine *e, const char *prompt, const char *choice) {
    int32_t ids[1024];
    char text[4096];
    int64_t first = encode(e, prompt, ids, 1024);
    snprintf(text, sizeof text, "%s %s", prompt, choice);
    int64_t n = encode(e, text, ids, 1024);
    double logprob[64], sum = 0;
    assert_in_range(n - first, 1, 64);
    sluice_session *s = e2e_session(e, ids, n);
    assert_int_equal(sluice_score(s, n - first, logprob, NULL, NULL), SLUICE_OK);
    sluice_session_close(s);
    for (int64_t i = 0; i < n - first; i++)
        sum += logprob[i];
    return sum;
}

#define LEGS "Question: How many legs has a horse?\n"
#define COLOUR "Question: Which of these is a colour?\n"

static void by_labels(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    double score[4];
    json_t *json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", sample));
    letters(e, LEGS "A. two\nB. six\nC. eight\nD. four\nAnswer:", 4, score);
    assert_int_equal(at(json, "picked", 3), best(score, 4));
    assert_true(fabs(at(json, "p_right_by_question", 3) - share(score, 4, 3)) < 1e-5);
    assert_int_equal(of(json, "questions"), 10);
    assert_true(fabs(of(json, "chance") - (6 / 4. + 4 / 3.) / 10) < 1e-9); /* four have three choices */
    json_decref(json);
    /* an example in front */
    json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--shots", "1", "--limit", "3"));
    letters(e,
            COLOUR "A. green\nB. seven\nC. table\nD. walking\nAnswer: A\n\n" LEGS
                   "A. two\nB. six\nC. eight\nD. four\nAnswer:",
            4, score);
    assert_int_equal(of(json, "questions"), 3);
    assert_int_equal(at(json, "picked", 2), best(score, 4));
    assert_true(fabs(at(json, "p_right_by_question", 2) - share(score, 4, 3)) < 1e-5);
    json_decref(json);
    sluice_close(e);
}

static void by_likelihood(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    json_t *json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "likelihood"));
    static const char *const legs[] = {"two", "six", "eight", "four"};
    double sum[4], mean[4];
    for (int i = 0; i < 4; i++) {
        sum[i] = likelihood(e, LEGS "Answer:", legs[i]);
        mean[i] = sum[i] / (double)strlen(legs[i]);
    }
    assert_int_equal(at(json, "picked", 3), best(mean, 4));
    assert_true(fabs(at(json, "p_right_by_question", 3) - share(sum, 4, 3)) < 1e-5);
    /* What tiny can do is to copy: all of those are right, and the interval is Wilson's. */
    json_t *copy = json_array_get(json_object_get(json, "by_category"), 1);
    assert_string_equal(json_string_value(json_object_get(copy, "category")), "copy");
    assert_int_equal(of(copy, "questions"), 4);
    assert_true(of(copy, "accuracy") == 1 && of(copy, "high_95") == 1);
    assert_true(fabs(of(copy, "low_95") - 0.510110) < 1e-5);
    assert_true(of(json, "accuracy") >= 0.6 && of(json, "low_95") < of(json, "accuracy"));
    int right = 0;
    static const int answers[] = {0, 1, 2, 3, 0, 1, 2, 0, 1, 3};
    for (int i = 0; i < 10; i++)
        right += at(json, "picked", i) == answers[i];
    assert_int_equal(of(json, "right"), right);
    assert_true(fabs(of(json, "accuracy") - right / 10.) < 1e-12);
    /* Steps behind the prompt are the same sums. */
    json_t *steps =
        cli_report(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "likelihood", "--steps"));
    for (int i = 0; i < 10; i++)
        assert_true(fabs(at(steps, "p_right_by_question", i) - at(json, "p_right_by_question", i)) < 1e-5);
    json_decref(steps);
    json_decref(json);
    sluice_close(e);
}

/* Examples long enough to be computed once: the same as whole prompts of their own. */
static void shared_front(void **state) {
    (void)state;
    size_t n;
    char *book = e2e_read(e2e_path("recipes/golden/prose_watson.txt"), &n);
    char front[2000], prompt[4096];
    snprintf(front, sizeof front, "%.1600s", book);
    for (char *p = front; *p != '\0'; p++)
        *p = *p == '\n' || *p == '"' || *p == '\\' ? ' ' : *p;
    free(book);
    json_t *line[3] = {
        json_pack("{s:s, s:[s, s], s:i}", "question", front, "choices", "yes", "no", "answer", 1),
        json_pack("{s:s, s:[s, s], s:s}", "question", "Who was wounded?", "choices", "the doctor", "the horse",
                  "answer", "a"),
        json_pack("{s:s, s:[s, s], s:i}", "question", "Where was he?", "choices", "in India", "at sea", "answer", 0)};
    char file[8192] = "";
    for (int i = 0; i < 3; i++) {
        char *text = json_dumps(line[i], JSON_COMPACT);
        strcat(strcat(file, text), "\n");
        free(text);
        json_decref(line[i]);
    }
    e2e_put_text(e2e_temp(""), "long.jsonl", file);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", e2e_temp("long.jsonl"));
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    double score[2];
    json_t *json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", path, "--shots", "1"));
    snprintf(
        prompt, sizeof prompt,
        "Question: %s\nA. yes\nB. no\nAnswer: B\n\nQuestion: Where was he?\nA. in India\nB. at sea\nAnswer:", front);
    int32_t ids[1024];
    assert_true(encode(e, prompt, ids, 1024) > 256 + 128); /* a good part of it is shared */
    letters(e, prompt, 2, score);
    assert_true(fabs(at(json, "p_right_by_question", 1) - share(score, 2, 0)) < 1e-5);
    json_decref(json);
    json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", path, "--shots", "1", "--by", "likelihood"));
    snprintf(prompt, sizeof prompt, "Question: %s\nAnswer: no\n\nQuestion: Where was he?\nAnswer:", front);
    score[0] = likelihood(e, prompt, "in India");
    score[1] = likelihood(e, prompt, "at sea");
    assert_true(fabs(at(json, "p_right_by_question", 1) - share(score, 2, 0)) < 1e-5);
    json_decref(json);
    sluice_close(e);
    /* a question that does not fit is left out and said */
    json = cli_report(CLI("eval", "choice", "-m", tiny, "--questions", path, "-c", "64"));
    assert_int_equal(of(json, "too_long"), 1);
    assert_int_equal(of(json, "questions"), 2);
    assert_true(at(json, "picked", 0) == -1);
    json_decref(json);
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", path, "--shots", "1", "-c", "64"),
                SETS("no question fits", "64"));
}

/* A cache that forgets the prompt picks at random; the pair of runs says so. */
static void against(void **state) {
    (void)state;
    cli_result r =
        cli_good(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "likelihood", "--steps"), NULL);
    e2e_put_text(e2e_temp(""), "dense.json", r.out);
    json_t *dense = json_loads(r.out, 0, NULL);
    cli_free(&r);
    char earlier[PATH_MAX];
    snprintf(earlier, sizeof earlier, "%s", e2e_temp("dense.json"));
    json_t *json =
        cli_report(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "likelihood", "--steps", "--set",
                       "kvcache.policy.plugin=streaming", "--set", "kvcache.policy.budget=8", "--against", earlier));
    int same = 0;
    for (int i = 0; i < 10; i++)
        same += at(json, "picked", i) == at(dense, "picked", i);
    assert_true(fabs(of(json, "against.mean_difference") - (of(json, "accuracy") - of(dense, "accuracy"))) < 1e-9);
    assert_true(fabs(of(json, "against.same_pick") - same / 10.) < 1e-9);
    assert_true(of(json, "p_right") < of(dense, "p_right") - 0.05);
    assert_int_equal(of(json, "against.clusters"), 10);
    json_decref(json);
    json_decref(dense);
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--against", earlier), SETS("\"by\""));
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "likelihood", "--steps", "--shots",
                    "1", "--against", earlier),
                SETS("\"shots\""));
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"question\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n", ":1: expected \"answer\""},
        {"\n{\"question\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": \"C\"}\n", ":2: expected \"answer\""},
        {"{\"question\": \"x\", \"choices\": [\"a\"], \"answer\": 0}\n", "2 to 26"},
        {"{\"question\": \"x\", \"choices\": [\"a\", 7], \"answer\": 0}\n", "2 to 26"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": 0}\n", "\"question\""},
        {"{\"question\": \"x\", \"prompt\": \"y\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n",
         "\"question\" or \"prompt\""},
        {"not JSON\n", ":1: "},
        {"\n \n", "no questions"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[PATH_MAX];
        e2e_put_text(e2e_temp(""), "bad.jsonl", bad[i].text);
        snprintf(path, sizeof path, "%s", e2e_temp("bad.jsonl"));
        cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", path), SETS("bad.jsonl", bad[i].says));
    }
    cli_refused(CLI("eval", "choice", "-m", tiny), SETS("--questions"));
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--by", "luck"), SETS("labels or likelihood"));
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--steps"), SETS("--steps"));
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--shots", "10"), SETS("--shots 10"));
    cli_refused(CLI("eval", "choice", "-m", tiny, "--questions", sample, "--set", "engine.max_seqs=2"),
                SETS("engine.max_seqs"));
}

static int set_up(void **state) {
    (void)state;
    snprintf(tiny, sizeof tiny, "%s", e2e_path("models/tiny"));
    snprintf(sample, sizeof sample, "%s", e2e_path("tests/data/choice/sample.jsonl"));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_labels), cmocka_unit_test(by_likelihood), cmocka_unit_test(shared_front),
        cmocka_unit_test(against),   cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("eval_choice", tests, set_up, NULL);
}
