/* sluice compare on the embedded model: eight combinations with all tasks, what the report says of them, a second run
 * that runs nothing, one that was killed, what cannot run, and refusals. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* The base first. The third last cannot do all of it; the last two are refused. */
static const struct {
    const char *name, *sections, *family;
} all[] = {
    {"base", "", "base"},
    {"window", "[kvcache.policy]\nplugin = streaming\nbudget = 48\ndecode_interval = 0\n", "cache"},
    {"two_bits", "[kvcache]\nplugin = kivi\nbits = 2\nresidual = 32\n", "cache"},
    {"pages", "[attention]\nplugin = quest\ntoken_budget = 64\ndense_layers = 1\n", "attention"},
    {"copies", "[speculation]\nplugin = prompt_lookup\n", "drafting"},
    {"packed", "[quant]\nplugin = rtn\nbits = 4\n", "weights"},
    {"both", "[quant]\nplugin = rtn\nbits = 8\n[speculation]\nplugin = token_recycling\ncut = 8\n", "combination"},
    {"chunks", "[engine]\nprefill_chunk = 32\n", "settings"},
    {"short", "[engine]\nmax_context = 64\n", "settings"},
    {"refused", "[attention]\nplugin = quest\n[kvcache]\nplugin = kivi\n", "failed"},
    {"unpacked", "[quant]\nplugin = gptq\n", "failed"},
};
enum { N = sizeof all / sizeof *all, RUN = N - 3 };

#define TESTS "--tests 'pp16 tg6 tg4@96'"
static const char *const how[] = {"--tasks",     "bench,ppl,retrieval,spec",
                                  "--text",      NULL,
                                  "--prompts",   "prompts.txt",
                                  "-t",          "1",
                                  "-o",          "out",
                                  "--pairs",     "2",
                                  "--bench",     TESTS,
                                  "--ppl",       "--context 96 --windows 3 --steps 16",
                                  "--retrieval", "--length 256 --needles 2 --questions 4 --mode multi_request",
                                  "--spec",      "-n 12 --temperatures 0",
                                  NULL};

static const char *args[64];
static char files[N][64];

static int set_up(void **state) {
    (void)state;
    char text[1024];
    int n = 0;
    args[n++] = "compare";
    for (int i = 0; i < N; i++) {
        snprintf(files[i], sizeof files[i], "%s.ini", all[i].name);
        snprintf(text, sizeof text, "; Technique <%s> & \"its\" price.\n[model]\npath = %s\n%s", all[i].name,
                 e2e_path("models/tiny"), all[i].sections);
        e2e_put_text(e2e_temp(""), files[i], text);
        args[n++] = files[i];
    }
    e2e_put_text(e2e_temp(""), "prompts.txt", "One two three one two three one two\nThe old house\n");
    static char book[PATH_MAX];
    snprintf(book, sizeof book, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    for (size_t i = 0; i + 1 < sizeof how / sizeof *how; i++)
        args[n++] = how[i] != NULL ? how[i] : book;
    args[n] = NULL;
    return 0;
}

static json_t *report(void) { return e2e_json(e2e_temp("out/report.json")); }

static json_t *row_of(json_t *r, const char *name) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(r, "rows"), i, row) {
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0)
            return row;
    }
    fail_msg("no row is named %s", name);
    return NULL;
}

static double cell(json_t *row, const char *dotted) { return e2e_number(json_object_get(row, "cells"), dotted); }

static int lines_with(const char *text, const char *word) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

/* ---- eight combinations --------------------------------------------------------------------------------------------
 */

static void check_speed(json_t *row, int is_base) {
    static const char *const columns[] = {"prompt", "decode", "deep"};
    char path[64];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s.value", columns[i]);
        assert_true(cell(row, path) > 0);
        snprintf(path, sizeof path, "%s.n", columns[i]);
        assert_float_equal(cell(row, path), 2, 0);
        json_t *ratio = json_object_get(json_object_get(json_object_get(row, "cells"), columns[i]), "ratio");
        assert_int_equal(json_is_number(ratio), !is_base);
    }
    assert_true(cell(row, "weights.value") > 1);
}

static void eight_combinations(void **state) {
    (void)state;
    cli_result r = cli_good(args, NULL);
    assert_int_equal(lines_with(r.out, "report."), 3);
    assert_non_null(strstr(r.err, "refused: refused: [attention] quest needs"));
    cli_free(&r);
    json_t *j = report();
    assert_int_equal(json_array_size(json_object_get(j, "rows")), N);
    for (int i = 0; i < N; i++) {
        json_t *row = json_array_get(json_object_get(j, "rows"), (size_t)i);
        assert_string_equal(json_string_value(json_object_get(row, "name")), all[i].name);
        assert_string_equal(json_string_value(json_object_get(row, "family")), all[i].family);
        if (i >= RUN) {
            assert_false(json_is_null(json_object_get(row, "failed")));
            assert_int_equal(json_object_size(json_object_get(row, "cells")) == 0, i > RUN);
            continue;
        }
        assert_true(json_is_null(json_object_get(row, "failed")));
        check_speed(row, i == 0);
        assert_true(cell(row, "ppl.value") > 1 && cell(row, "ppl.value") < 10000);
        assert_float_equal(cell(row, "ppl.n"), 3, 0);
        double right = cell(row, "retrieval.value");
        assert_true(right >= 0 && right <= 100);
        assert_float_equal(cell(row, "retrieval.n"), 4, 0);
    }
    /* What techniques do shows: a window that dropped the numbers, packed weights, exact ones, drafts. */
    double base = cell(row_of(j, "base"), "ppl.value");
    assert_float_equal(cell(row_of(j, "copies"), "ppl.ratio"), 1, 0);
    assert_float_equal(cell(row_of(j, "chunks"), "ppl.ratio"), 1, 0);
    json_t *packed = row_of(j, "packed");
    assert_float_equal(cell(packed, "ppl.value") / base, cell(packed, "ppl.ratio"), 1e-6);
    assert_true(cell(packed, "ppl.ratio_low") < cell(packed, "ppl.ratio") && cell(packed, "ppl.ratio") > 1.005);
    assert_true(cell(packed, "weights.ratio") < 0.7);
    assert_float_equal(cell(row_of(j, "base"), "retrieval.value"), 100, 0);
    assert_true(cell(row_of(j, "window"), "retrieval.value") < 60);
    assert_float_equal(cell(row_of(j, "window"), "retrieval.difference"),
                       cell(row_of(j, "window"), "retrieval.value") - 100, 1e-9);
    assert_true(cell(row_of(j, "copies"), "tokens_step.value") >= 1);
    assert_null(json_object_get(json_object_get(row_of(j, "packed"), "cells"), "tokens_step"));
    json_decref(j);
}

/* A row with its reason, in all three reports. */
static void failures_are_rows(void **state) {
    (void)state;
    static const char *const pages[] = {"report.md", "report.html"};
    json_t *j = report();
    assert_non_null(strstr(json_string_value(json_object_get(row_of(j, "refused"), "failed")), "quest needs"));
    const char *reason = json_string_value(json_object_get(row_of(j, "unpacked"), "failed"));
    assert_non_null(strstr(reason, "gptq packs with data"));
    assert_non_null(strstr(json_string_value(json_object_get(row_of(j, "short"), "failed")), "--context must be"));
    assert_true(cell(row_of(j, "short"), "decode.value") > 0); /* what fits was measured */
    for (int i = 0; i < 2; i++) {
        char path[32];
        snprintf(path, sizeof path, "out/%s", pages[i]);
        char *page = e2e_read(e2e_temp(path), NULL);
        assert_non_null(strstr(page, "quest needs"));
        assert_non_null(strstr(page, "gptq packs with data"));
        assert_null(strstr(page, "nan"));
        if (i == 1) { /* text of users is escaped */
            assert_null(strstr(page, "<base>"));
            assert_non_null(strstr(page, "Technique &lt;base&gt; &amp; &quot;its&quot; price"));
        }
        free(page);
    }
    json_decref(j);
}

/* ---- again ---------------------------------------------------------------------------------------------------------
 */

static void nothing_runs_twice(void **state) {
    (void)state;
    json_t *before = report();
    cli_result r = cli_good(args, NULL);
    assert_int_equal(lines_with(r.err, " s\n"), 0); /* a line with its seconds for each piece of work */
    cli_free(&r);
    json_t *after = report();
    assert_true(json_equal(json_object_get(before, "rows"), json_object_get(after, "rows")));
    json_decref(after);
    /* Another argument is another result, of that task alone; another INI another one of that configuration. */
    char text[1024];
    snprintf(text, sizeof text, "[model]\npath = %s\n[engine]\nprefill_chunk = 64\n", e2e_path("models/tiny"));
    e2e_put_text(e2e_temp(""), "chunks.ini", text);
    r = cli_good(args, NULL);
    assert_int_equal(lines_with(r.err, " s\n"), 4);
    assert_int_equal(lines_with(r.err, "chunks "), 4);
    cli_free(&r);
    json_decref(before);
}

/* Every file of the folder is whole JSON. */
static int whole_files(const char *folder) {
    int n = 0;
    DIR *d = opendir(e2e_temp(folder));
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[PATH_MAX];
        if (e->d_name[0] == '.' || strstr(e->d_name, ".part") != NULL) /* on its way to being one */
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        assert_non_null(strstr(e->d_name, ".json"));
        json_t *j = json_load_file(e2e_temp(path), 0, NULL);
        if (j == NULL)
            fail_msg("%s is not whole", path);
        json_decref(j);
        n++;
    }
    if (d != NULL)
        closedir(d);
    return n;
}

static void a_killed_run_goes_on(void **state) {
    (void)state;
    static const char *const some[] = {"compare", "base.ini", "packed.ini", "--tasks", "bench",   "--pairs", "4",
                                       "-t",      "1",        "-o",         "killed",  "--bench", TESTS,     NULL};
    const char *program = e2e_built("sluice"), *argv[32] = {program};
    for (int i = 0; some[i] != NULL; i++)
        argv[i + 1] = some[i];
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int nothing = open("/dev/null", O_WRONLY);
        if (nothing < 0 || dup2(nothing, 1) < 0 || dup2(nothing, 2) < 0 || chdir(e2e_temp("")) != 0)
            _exit(126);
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_true(child > 0);
    for (int i = 0; i < 2000 && whole_files("killed/results") < 3; i++)
        usleep(10000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    int n = whole_files("killed/results");
    assert_true(n >= 3 && n < 8);
    cli_result r = cli_good(some, NULL);
    assert_int_equal(lines_with(r.err, " s\n"), 8 - n);
    cli_free(&r);
    assert_int_equal(whole_files("killed/results"), 8);
    assert_int_equal(access(e2e_temp("killed/report.html"), R_OK), 0);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------
 */

static void refusals(void **state) {
    (void)state;
    cli_refused(CLI("compare"), (const char *const[]){"INI files as words", NULL});
    cli_refused(CLI("compare", "base.ini", "--tasks", "speed"),
                (const char *const[]){"no task \"speed\"", "retrieval", NULL});
    cli_refused(CLI("compare", "base.ini", "--tasks", "ppl"), (const char *const[]){"ppl", "--text FILE", NULL});
    cli_refused(CLI("compare", "base.ini", "--tasks", "spec"), (const char *const[]){"spec", "--prompts FILE", NULL});
    cli_refused(CLI("compare", "base.ini", "--pairs", "0"), (const char *const[]){"--pairs", NULL});
    cli_refused(CLI("compare", "none.ini", "-o", "elsewhere"), (const char *const[]){"none.ini", NULL});
    cli_refused(CLI("compare", "base.ini", "--text", "none.txt", "-o", "elsewhere"),
                (const char *const[]){"none.txt", NULL});
    cli_refused(CLI("compare", "base.ini", "-o", "base.ini"), (const char *const[]){"base.ini", NULL});
    /* Too little time is a reason, too; --retry asks again. */
    cli_result r = cli_good(CLI("compare", "base.ini", "--tasks", "bench", "--pairs", "1", "-o", "late", "--timeout",
                                "0.5", "--bench", "--tests tg2000 -r 5"),
                            NULL);
    assert_non_null(strstr(r.err, "stopped after 0.5 s"));
    cli_free(&r);
    r = cli_good(CLI("compare", "base.ini", "--tasks", "bench", "--pairs", "1", "-o", "late", "--timeout", "0.5",
                     "--bench", "--tests tg2000 -r 5"),
                 NULL);
    assert_int_equal(lines_with(r.err, "stopped"), 0);
    cli_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_combinations), cmocka_unit_test(failures_are_rows),
        cmocka_unit_test(nothing_runs_twice), cmocka_unit_test(a_killed_run_goes_on),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("compare_cmd", tests, set_up, NULL);
}
