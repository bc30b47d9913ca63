/* sluice calibrate: what it prints, the file that the plugin takes, the picture, and what it refuses. */
#include "cli.h"

static const char *tiny, *text;

#define ARGS "-m", tiny, "--text", text, "--length", "400", "--prompts", "2", "--tokens", "6", "--needles", "4"
#define TIDAL "--set", "attention.plugin=tidaldecode", "--set", "attention.token_budget=32"

static int count(const char *in, const char *what) {
    int n = 0;
    for (const char *p = strstr(in, what); p != NULL; p = strstr(p + 1, what))
        n++;
    return n;
}

static void prints_writes_and_draws(void **state) {
    (void)state;
    char file[PATH_MAX], set[PATH_MAX + 64], svg_path[PATH_MAX + 8];
    size_t n;
    snprintf(file, sizeof file, "%s", e2e_temp("tidal.safetensors"));
    cli_result r =
        cli_good(CLI("calibrate", "tidaldecode", TIDAL, ARGS, "--check", "2", "--answers", "20", "-o", file), NULL);
    /* ten decode steps (the first token of each six comes from the prompt), four possible values, two of them tried */
    assert_non_null(strstr(r.out, "; sluice calibrate tidaldecode: 10 rows measured on 2 prompts of 400 tokens\n"));
    assert_int_equal(count(r.out, "; reselect_layers = "), 4);
    assert_int_equal(count(r.out, "answer tokens right"), 2);
    assert_int_equal(count(r.out, "[attention]\nplugin = tidaldecode\nreselect_layers = "), 1);
    const char *chosen = strstr(r.out, "\nreselect_layers = ") + strlen("\nreselect_layers = ");
    char value[8] = {chosen[0]};
    /* best first, and the one that was written is the one that was right most often */
    double last = 2, most = -1;
    char best = '?';
    for (const char *p = strstr(r.out, "; reselect_layers = "); p != NULL; p = strstr(p + 1, "; reselect_layers = ")) {
        const char *score = strstr(p, "tokens 0.");
        assert_non_null(score);
        double now = atof(score + 7), right = -1;
        assert_true(now <= last && now > 0);
        last = now;
        const char *end = strchr(p, '\n'), *comma = strchr(score, ',');
        if (comma != NULL && comma < end && (right = atof(comma + 1)) > most)
            most = right, best = p[strlen("; reselect_layers = ")];
    }
    assert_int_equal(value[0], best);
    cli_free(&r);
    /* the file: as the plugin wants it */
    char *bytes = e2e_read(file, &n), expect[64];
    snprintf(expect, sizeof expect, "\"reselect_layers\":\"%s\"", value);
    assert_non_null(strstr(bytes + 8, expect));
    assert_non_null(strstr(bytes + 8, "\"plugin\":\"tidaldecode\""));
    free(bytes);
    snprintf(set, sizeof set, "attention.calibration=%s", file);
    r = cli_good(CLI("config", "check", "-m", tiny, TIDAL, "--set", set), NULL);
    cli_free(&r);
    cli_result a =
        cli_good(CLI("run", "-m", tiny, TIDAL, "--set", set, "-f", text, "-n", "8", "-q", "-c", "2048"), NULL);
    snprintf(set, sizeof set, "attention.reselect_layers=%s", value);
    cli_result b =
        cli_good(CLI("run", "-m", tiny, TIDAL, "--set", set, "-f", text, "-n", "8", "-q", "-c", "2048"), NULL);
    assert_string_equal(a.out, b.out);
    cli_free(&a);
    cli_free(&b);
    /* the picture: without re-selection, and the three best */
    snprintf(svg_path, sizeof svg_path, "%s.svg", file);
    char *svg = e2e_read(svg_path, &n);
    assert_int_equal(strncmp(svg, "<svg ", 5), 0);
    assert_int_equal(count(svg, "<polyline"), 4);
    assert_int_equal(count(svg, "reselect_layers = none"), 1);
    assert_null(strstr(svg, "nan"));
    assert_non_null(strstr(svg, "</svg>\n"));
    free(svg);
}

static void what_it_refuses(void **state) {
    (void)state;
    char out[PATH_MAX], missing[PATH_MAX];
    snprintf(out, sizeof out, "%s", e2e_temp("refused.safetensors"));
    snprintf(missing, sizeof missing, "%s/x", e2e_temp("nowhere"));
    cli_refused(CLI("calibrate", "tidaldecode", ARGS, "-o", out), SETS("tidaldecode is not among the plugins"));
    cli_refused(CLI("calibrate", "dense", ARGS, "-o", out), SETS("dense has nothing to calibrate"));
    cli_refused(CLI("calibrate", "tidaldecode", TIDAL, "--text", "/nonexistent/book.txt", "-m", tiny, "-o", out),
                SETS("/nonexistent/book.txt"));
    cli_refused(CLI("calibrate", "tidaldecode", TIDAL, ARGS), SETS("-o FILE"));
    cli_refused(CLI("calibrate", "tidaldecode", TIDAL, ARGS, "--length", "20", "-o", out), SETS("--length must be in"));
    cli_refused(CLI("calibrate", "tidaldecode", TIDAL, "--set", "attention.min_context=500", ARGS, "-o", out),
                SETS("no token was decoded behind more than"));
    cli_refused(CLI("calibrate", "tidaldecode", TIDAL, ARGS, "--check", "0", "-o", missing), SETS("nowhere/x"));
    FILE *f = fopen(out, "rb");
    assert_null(f);
}

static int set_up(void **state) {
    (void)state;
    static char a[PATH_MAX], b[PATH_MAX];
    snprintf(a, sizeof a, "%s", e2e_path("models/tiny"));
    snprintf(b, sizeof b, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    tiny = a;
    text = b;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_writes_and_draws),
        cmocka_unit_test(what_it_refuses),
    };
    return cmocka_run_group_tests_name("calibrate", tests, set_up, NULL);
}
