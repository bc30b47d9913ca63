/* The trained model `small` and its draft, against transformers: perplexity of a held-out book, retrieval, speculation.
 * Needs the folder of models and texts (./check --with-shared DIR); skipped without it. Runs the command, as a user
 * would. */
#include "sl_test.h"

#include <jansson.h>
#include <unistd.h>

static char book[64] = "/tmp/sluice_book_XXXXXX";

static const char *environment(const char *name) {
    const char *value = getenv(name);
    assert_non_null(value);
    return value;
}

/* Output of `sluice ARGUMENTS`, which must succeed. Caller frees. */
static char *run_command(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *run_command(const char *fmt, ...) {
    char arguments[2048], command[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(arguments, sizeof arguments, fmt, ap);
    va_end(ap);
    snprintf(command, sizeof command, "%s/sluice %s", environment("SLUICE_BUILD"), arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t cap = 1 << 20;
    char *out = malloc(cap);
    assert_non_null(out);
    size_t n = fread(out, 1, cap - 1, f);
    out[n] = '\0';
    if (pclose(f) != 0)
        fail_msg("failed: %s", command);
    return out;
}

static json_t *run_json(const char *arguments) {
    char *text = run_command("%s", arguments);
    json_error_t e;
    json_t *root = json_loads(text, 0, &e);
    if (root == NULL)
        fail_msg("not JSON: %s\n%s", e.text, text);
    free(text);
    return root;
}

static double number(const json_t *root, const char *key) {
    json_t *v = json_object_get(root, key);
    if (!json_is_number(v))
        fail_msg("no number \"%s\"", key);
    return json_number_value(v);
}

/* Writes the book of that title from the JSON lines of held-out texts to a file of its own. */
static int write_book(void **state) {
    (void)state;
    const char *dir = getenv("SLUICE_SHARED");
    if (dir == NULL || dir[0] == '\0')
        return 0;
    char path[1024];
    snprintf(path, sizeof path, "%s/data/heldout_a/books_and_code.jsonl", dir);
    FILE *in = fopen(path, "r");
    int fd = mkstemp(book);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    char *line = NULL;
    size_t cap = 0;
    int found = 0;
    while (in != NULL && out != NULL && !found && getline(&line, &cap, in) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        const char *title = json_string_value(json_object_get(row, "title")),
                   *text = json_string_value(json_object_get(row, "text"));
        if (title != NULL && text != NULL && strcmp(title, "Heart of Darkness") == 0)
            found = fputs(text, out) >= 0;
        json_decref(row);
    }
    free(line);
    if (in != NULL)
        fclose(in);
    if (out == NULL || fclose(out) != 0 || !found) {
        fprintf(stderr, "no book in %s\n", path);
        return -1;
    }
    return 0;
}

static int remove_book(void **state) {
    (void)state;
    unlink(book);
    return 0;
}

/* Windows of 2048 tokens against the same windows by transformers in fp32: within 0.5 %. */
static void perplexity_equals_transformers(void **state) {
    (void)state;
    static const int windows[] = {1, 4, 25};
    char path[1024], arguments[2048];
    snprintf(path, sizeof path, "%s/recipes/golden/reference/ppl_small.json", environment("SLUICE_SOURCE"));
    const char *shared = test_shared_dir();
    int n = windows[test_length()];
    json_t *reference = json_load_file(path, 0, NULL);
    assert_non_null(reference);
    json_t *rows = json_object_get(json_array_get(json_object_get(reference, "files"), 0), "nll_by_window");
    if (rows == NULL)
        rows = json_object_get(reference, "nll_by_window");
    double expected = 0;
    for (int i = 0; i < n; i++)
        expected += json_number_value(json_array_get(rows, (size_t)i));
    expected = exp(expected / (n * 2047.0));
    snprintf(arguments, sizeof arguments, "eval ppl -m %s/models/small --text %s --context 2048 --windows %d", shared,
             book, n);
    json_t *got = run_json(arguments);
    double ppl = number(got, "ppl");
    printf("# perplexity %.6f, transformers %.6f, %d windows\n", ppl, expected, n);
    assert_true(fabs(ppl / expected - 1) < 0.005);
    json_decref(got);
    json_decref(reference);
}

/* Answer tokens right at 4096 tokens, teacher forcing: 0.94 or more. */
static void retrieval_works(void **state) {
    (void)state;
    static const int questions[] = {20, 60, 580};
    char arguments[2048];
    snprintf(arguments, sizeof arguments,
             "eval retrieval -m %s/models/small --text %s --length 4096 --needles 20 --questions %d --mode forced", test_shared_dir(),
             book, questions[test_length()]);
    json_t *got = run_json(arguments);
    printf("# retrieval: %.0f of %.0f answer tokens right\n", number(got, "tokens_right"), number(got, "tokens"));
    assert_true(number(got, "answers") >= questions[test_length()]);
    assert_true(number(got, "token_accuracy") >= 0.94);
    json_decref(got);
}

/* The distilled draft model is accepted often, and changes nothing. */
static void draft_changes_nothing(void **state) {
    (void)state;
    const char *shared = test_shared_dir();
    char stats[] = "/tmp/sluice_stats_XXXXXX";
    int fd = mkstemp(stats);
    assert_true(fd >= 0);
    close(fd);
    const char *prompt = "The captain looked at the sea for a long time before he spoke";
    char *plain = run_command("run -m %s/models/small -p '%s' -n 48 -q", shared, prompt);
    char *drafted = run_command(
        "run -m %s/models/small -p '%s' -n 48 -q --set speculation.plugin=sps --set draft.model.path=%s/models/draft "
        "--stats %s",
        shared, prompt, shared, stats);
    assert_string_equal(plain, drafted);
    json_t *s = json_load_file(stats, 0, NULL);
    assert_non_null(s);
    printf("# draft: %.0f of %.0f accepted, %.0f tokens in %.0f steps\n", number(s, "accepted"), number(s, "drafted"),
           number(s, "emitted"), number(s, "steps"));
    assert_true(number(s, "accepted") > 0);
    assert_true(number(s, "steps") < number(s, "emitted"));
    json_decref(s);
    unlink(stats);
    free(plain);
    free(drafted);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_equals_transformers),
        cmocka_unit_test(retrieval_works),
        cmocka_unit_test(draft_changes_nothing),
    };
    return cmocka_run_group_tests_name("small", tests, write_book, remove_book);
}
