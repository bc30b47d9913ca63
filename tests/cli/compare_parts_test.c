/* The parts of `sluice compare` one by one: children, medians and intervals, paths into results, numbers, names beside
 * points. */
#include "compare.h" /* in front: cmocka has a macro fail() */
#include "compare_child.h"
#include "compare_labels.h"

#include "sl_test.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- children: this program, told by its first word what to do -----------------------------------------------------
 */

static int behave(const char *how) {
    if (strcmp(how, "crash") == 0)
        abort();
    if (strcmp(how, "sleep") == 0)
        sleep(60);
    if (strcmp(how, "refuse") == 0)
        fprintf(stderr, "something else\nsluice: first\nsluice: the reason\nmore\n");
    if (strcmp(how, "much") == 0)
        for (int i = 0; i < 300000; i++) {
            printf("%07d\n", i);
            fprintf(stderr, "%07d\n", i);
        }
    return strcmp(how, "refuse") == 0 ? 3 : 0;
}

static void children(void **state) {
    (void)state;
    char reason[256] = "untouched";
    child_result r;
    assert_int_equal(child_run((const char *[]){"much", NULL}, 30, &r, reason, sizeof reason), 0);
    assert_string_equal(reason, "untouched");
    assert_int_equal(r.n_out, 300000 * 8);
    assert_memory_equal(r.out + r.n_out - 8, "0299999\n", 8);
    assert_true(r.n_err < 100000); /* its end */
    assert_memory_equal(r.err + r.n_err - 8, "0299999\n", 8);
    child_free(&r);
    assert_int_equal(child_run((const char *[]){"refuse", NULL}, 30, &r, reason, sizeof reason), -1);
    assert_string_equal(reason, "the reason");
    assert_int_equal(r.status, 3);
    child_free(&r);
    assert_int_equal(child_run((const char *[]){"crash", NULL}, 30, &r, reason, sizeof reason), -1);
    assert_non_null(strstr(reason, "ended by signal 6"));
    child_free(&r);
    assert_int_equal(child_run((const char *[]){"sleep", NULL}, 0.3, &r, reason, sizeof reason), -1);
    assert_string_equal(reason, "stopped after 0.3 s");
    assert_true(r.timed_out && r.seconds < 20);
    child_free(&r);
}

/* ---- speed ---------------------------------------------------------------------------------------------------------
 */

static json_t *run_of(double rate, double kv) {
    return json_pack("[{s:i, s:i, s:i, s:i, s:f}, {s:i, s:i, s:i, s:i, s:f, s:i, s:{s:{s:f}}}]", "n_prompt", 64,
                     "n_gen", 0, "n_depth", 0, "n_sequences", 1, "median_ts", 1000.0, "n_prompt", 0, "n_gen", 8,
                     "n_depth", 256, "n_sequences", 1, "median_ts", rate, "bytes_weights", 7, "ledger", "kv", "bytes",
                     kv);
}

/* Pairs drift together; the ratio of each is exact. */
static json_t *rounds_of(const double *ratio, int n) {
    json_t *rounds = json_array();
    for (int i = 0; i < n; i++) {
        double base = 100 + 50 * i;
        json_array_append_new(rounds,
                              json_pack("{s:o, s:o}", "own", run_of(ratio[i] * base, 500), "base", run_of(base, 1000)));
    }
    return rounds;
}

static double in(json_t *result, const char *path) {
    json_t *v = compare_member(result, path);
    if (!json_is_number(v))
        fail_msg("no number at %s", path);
    return json_number_value(v);
}

static void medians_of_pairs(void **state) {
    (void)state;
    static const double ratio[9] = {2.0, 1.5, 1.9, 1.6, 1.7, 1.8, 1.4, 1.2, 9.0};
    json_t *rounds = rounds_of(ratio, 7), *result = compare_bench(rounds);
    assert_float_equal(in(result, "decode.ratio"), 1.7, 1e-9);
    assert_float_equal(in(result, "decode.ratio_low"), 1.4, 1e-9); /* seven pairs: the extremes hold 98 % */
    assert_float_equal(in(result, "decode.ratio_high"), 2.0, 1e-9);
    assert_float_equal(in(result, "decode.ts"), 1.7 * 300, 200);
    assert_int_equal(in(result, "decode.rounds"), 7);
    assert_string_equal(json_string_value(compare_member(result, "decode.name")), "tg8 @ d256");
    assert_float_equal(in(result, "prompt.ratio"), 1, 1e-12);
    assert_float_equal(in(result, "bytes_kv"), 500, 0);
    assert_float_equal(in(result, "kv_ratio"), 0.5, 1e-12);
    assert_float_equal(in(result, "bytes_weights"), 7, 0);
    assert_null(compare_member(result, "deep"));
    json_decref(result);
    json_decref(rounds);
    rounds = rounds_of(ratio, 9); /* nine: the second from each end, so that an outlier does not count */
    result = compare_bench(rounds);
    assert_float_equal(in(result, "decode.ratio_low"), 1.4, 1e-9);
    assert_float_equal(in(result, "decode.ratio_high"), 2.0, 1e-9);
    json_decref(result);
    json_decref(rounds);
    rounds = rounds_of(ratio, 5); /* five pairs cannot give 95 % */
    result = compare_bench(rounds);
    assert_float_equal(in(result, "decode.ratio"), 1.7, 1e-9);
    assert_null(compare_member(result, "decode.ratio_low"));
    json_decref(result);
    json_decref(rounds);
}

/* ---- words and numbers ---------------------------------------------------------------------------------------------
 */

static void members(void **state) {
    (void)state;
    json_t *j =
        json_loads("{\"a\":{\"b\":[1,{\"name\":\"x\",\"v\":5},{\"name\":\"all\",\"v\":7,\"n\":null}]}}", 0, NULL);
    assert_float_equal(in(j, "a.b.0"), 1, 0);
    assert_float_equal(in(j, "a.b.name=all.v"), 7, 0);
    assert_null(compare_member(j, "a.b.name=all.n"));
    assert_null(compare_member(j, "a.b.name=other.v"));
    assert_float_equal(in(j, "a.x.y|a.b.0"), 1, 0);
    assert_float_equal(in(j, "a.b.name=all.v|a.b.0"), 7, 0);
    assert_null(compare_member(j, "a.c.d"));
    assert_null(compare_member(j, "a.b.9"));
    assert_null(compare_member(NULL, "a"));
    assert_null(compare_member(j, NULL));
    json_decref(j);
}

static void numbers(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *text;
    } all[] = {{0, "0"},       {1234.56, "1235"},     {99.44, "99.4"},   {1.005, "1.00"},
               {0.5, "0.500"}, {0.001234, "0.00123"}, {-0.75, "−0.750"}, {100, "100"}};
    char text[64];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        compare_number(text, sizeof text, all[i].v);
        assert_string_equal(text, all[i].text);
    }
    json_t *cell = json_pack("{s:f, s:f, s:f, s:f, s:i, s:s}", "value", 3.0, "ratio", 1.516, "ratio_low", 1.4,
                             "ratio_high", 1.62, "n", 7, "n_unit", "runs");
    compare_beside(text, sizeof text, cell);
    assert_string_equal(text, "1.52× (1.40–1.62)");
    compare_count(text, sizeof text, cell);
    assert_string_equal(text, "median of 7 runs");
    json_decref(cell);
    cell = json_pack("{s:f, s:f, s:f, s:i, s:s}", "value", 3.0, "difference", -12.5, "half_width", 3.25, "n", 1,
                     "n_unit", "questions");
    compare_beside(text, sizeof text, cell);
    assert_string_equal(text, "−12.5 ± 3.25");
    compare_count(text, sizeof text, cell);
    assert_string_equal(text, "1 question");
    json_decref(cell);
}

/* ---- names beside points -------------------------------------------------------------------------------------------
 */

static void names_keep_apart(void **state) {
    (void)state;
    static const char *const words[] = {"dense", "snapkv_eighth", "kivi2", "tidaldecode_256", "rtn", "h2o"};
    uint64_t seed = 11;
    label_box frame = {48, 24, 552, 380}, corner = {480, 24, 552, 44};
    for (int round = 0; round < 30; round++) {
        enum { N = 26 };
        label l[N] = {{0}};
        for (int i = 0; i < N; i++) { /* most of them in one heap */
            double spread = i % 3 == 0 ? 400 : 12;
            l[i].x = 100 + spread * (double)(test_next(&seed) % 1000) / 1000;
            l[i].y = 60 + spread * 0.7 * (double)(test_next(&seed) % 1000) / 1000;
            l[i].text = words[i % 6];
        }
        int left_out = labels_place(l, N, 12, frame, &corner, 1), missing = 0;
        for (int i = 0; i < N; i++) {
            missing += !l[i].placed;
            if (!l[i].placed)
                continue;
            label_box a = l[i].box;
            assert_true(a.x0 >= frame.x0 && a.x1 <= frame.x1 && a.y0 >= frame.y0 && a.y1 <= frame.y1);
            assert_true(a.x1 - a.x0 >= 12 * 0.5 * (double)strlen(l[i].text));
            for (int k = 0; k < N; k++) {
                label_box b = l[k].box;
                if (k != i && l[k].placed && a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1)
                    fail_msg("round %d: %s covers %s", round, l[i].text, l[k].text);
                if (l[k].x > a.x0 && l[k].x < a.x1 && l[k].y > a.y0 && l[k].y < a.y1)
                    fail_msg("round %d: %s covers a point", round, l[i].text);
            }
            assert_true(a.x1 <= corner.x0 || a.y0 >= corner.y1);
        }
        assert_int_equal(left_out, missing);
        assert_true(left_out <= 3);
    }
}

int main(int argc, char **argv) {
    if (argc > 1)
        return behave(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children), cmocka_unit_test(medians_of_pairs), cmocka_unit_test(members),
        cmocka_unit_test(numbers),  cmocka_unit_test(names_keep_apart),
    };
    return cmocka_run_group_tests_name("compare_parts", tests, NULL, NULL);
}
