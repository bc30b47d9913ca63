/* `sluice bench kernels`: a row for each kernel, with figures that agree with each other, in every format; what is
 * wrong is refused. */
#include "cli.h"

#include <math.h>

#define KERNELS(...) CLI("bench", "kernels", "--device", "cpu", "--ms", "1", "--pool", "64", __VA_ARGS__)

static double value(json_t *row, const char *key) {
    json_t *v = json_object_get(row, key);
    if (!json_is_number(v))
        fail_msg("%s of %s is no number", key, json_string_value(json_object_get(row, "kernel")));
    return json_number_value(v);
}

static const char *text(json_t *row, const char *key) {
    const char *t = json_string_value(json_object_get(row, key));
    assert_non_null(t);
    return t;
}

/* What a row says: rates are amounts by time, and the floor is what the ceilings of its number of threads leave. */
static void check_row(json_t *all, json_t *row) {
    double us = value(row, "median_us"), bytes = value(row, "bytes"), flops = value(row, "flops"),
           threads = value(row, "threads");
    assert_true(us > 0 && bytes > 0 && flops > 0 && value(row, "min_us") <= us && value(row, "spread_us") >= 0 &&
                value(row, "samples") >= 3);
    assert_true(fabs(value(row, "gb_s") - bytes / us / 1e3) <= 0.01 * bytes / us / 1e3 + 0.001);
    assert_true(fabs(value(row, "gflop_s") - flops / us / 1e3) <= 0.01 * flops / us / 1e3 + 0.001);
    double most_bytes = 0, most_flops = 0;
    json_t *other;
    size_t i;
    char name[64];
    snprintf(name, sizeof name, "ceiling: read %s", text(row, "from"));
    json_array_foreach(all, i, other) {
        if (strncmp(text(other, "kernel"), "ceiling", 7) != 0 || value(other, "threads") != threads)
            continue;
        if (strcmp(text(other, "kernel"), name) == 0)
            most_bytes = value(other, "gb_s");
        if (strcmp(text(other, "kernel"), "ceiling: f32 multiply-add") == 0 ||
            (strcmp(text(other, "kernel"), "ceiling: bf16 dot") == 0 &&
             strstr(text(row, "kernel"), "bf16_bf16") != NULL))
            most_flops = fmax(most_flops, value(other, "gflop_s"));
    }
    assert_true(most_bytes > 0 && most_flops > 0);
    double floor_us = fmax(bytes / most_bytes, flops / most_flops) / 1e3;
    assert_true(fabs(value(row, "floor_us") - floor_us) <= 0.01 * floor_us + 0.001);
    assert_true(fabs(value(row, "share") - floor_us / us) <= 0.01 * floor_us / us + 0.001);
}

/* Plain C has one row of each operation at least; kernels_bench itself refuses to leave one out. */
static void test_each_kernel(void **state) {
    (void)state;
    cli_result r = cli_good(KERNELS("--isa", "ref", "-t", "1", "-o", "json"), NULL);
    json_t *all = json_loads(r.out, 0, NULL), *row;
    size_t i;
    int ceilings = 0;
    static const char *const some[] = {"gemm_f32_ref",    "gemm_q4_ref", "rope_ref",      "attend_ref",
                                       "attend_join_ref", "topk_ref",    "f32_of_f16_ref"};
    for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
        int found = 0;
        json_array_foreach(all, i, row) found |= strcmp(text(row, "kernel"), some[k]) == 0;
        if (!found)
            fail_msg("no row of %s", some[k]);
    }
    json_array_foreach(all, i, row) {
        assert_string_equal(text(row, "device"), "cpu");
        assert_int_equal(value(row, "threads"), 1);
        if (strncmp(text(row, "kernel"), "ceiling", 7) == 0) {
            ceilings++;
            continue;
        }
        assert_string_equal(text(row, "isa"), "ref");
        check_row(all, row);
    }
    assert_true(ceilings >= 3);
    json_decref(all);
    cli_free(&r);
}

/* Two numbers of threads, all instruction sets, the shapes that match. */
static void test_pattern(void **state) {
    (void)state;
    cli_result r = cli_good(KERNELS("softmax", "-t", "1-2", "-o", "jsonl"), NULL);
    json_t *all = json_array(), *row;
    for (const char *p = r.out; *p != '\0'; p = strchr(p, '\n') + 1) {
        json_array_append_new(all, row = json_loads(p, JSON_DISABLE_EOF_CHECK, NULL));
        assert_non_null(row);
    }
    size_t i;
    int rows = 0, both = 0;
    json_array_foreach(all, i, row) if (strncmp(text(row, "kernel"), "softmax", 7) == 0) {
        both |= 1 << (int)value(row, "threads");
        check_row(all, row);
        rows++;
    }
    else assert_int_equal(strncmp(text(row, "kernel"), "ceiling", 7), 0);
    assert_int_equal(both, 1 << 1 | 1 << 2);
    int isas = 1 + e2e_has_isa("avx2") + e2e_has_isa("avx512");
    assert_int_equal(rows, 2 * isas);
    json_decref(all);
    cli_free(&r);
}

static int commas(const char *line) {
    int n = 0;
    for (; *line != '\n' && *line != '\0'; line++)
        n += *line == ',';
    return n;
}

static void test_formats(void **state) {
    (void)state;
    cli_result r = cli_good(KERNELS("dot_ref", "-t", "1", "-o", "csv"), NULL);
    assert_int_equal(strncmp(r.out,
                             "kernel,shape,isa,device,threads,median_us,spread_us,min_us,samples,bytes,flops,gb_s,"
                             "gflop_s,from,floor_us,share\n",
                             112),
                     0);
    for (const char *p = r.out; *p != '\0'; p = strchr(p, '\n') + 1)
        assert_int_equal(commas(p), 15); /* nothing in these rows has a comma of its own */
    assert_non_null(strstr(r.out, "\ndot_ref,16 x 2048,ref,cpu,1,"));
    cli_free(&r);
    r = cli_good(KERNELS("dot_ref", "-t", "1"), NULL);
    assert_non_null(strstr(r.out, "| kernel | shape |"));
    assert_non_null(strstr(r.out, "| dot_ref | 16 x 2048 | ref | cpu | 1 |"));
    cli_free(&r);
}

static void test_refusals(void **state) {
    (void)state;
    cli_refused(KERNELS("nosuchkernel"), SETS("\"nosuchkernel\""));
    cli_refused(KERNELS("-t", "0"), SETS("-t"));
    cli_refused(KERNELS("-t", "1,x"), SETS("-t"));
    cli_refused(KERNELS("--isa", "avx3"), SETS("--isa", "avx2"));
    cli_refused(KERNELS("-o", "xml"), SETS("-o", "csv"));
    cli_refused(KERNELS("--ms", "0"), SETS("--ms"));
    cli_refused(KERNELS("--pool", "1"), SETS("--pool"));
    cli_refused(KERNELS("-m", "models/tiny"), SETS("-m")); /* there is no model in it */
    cli_refused(CLI("bench", "kernels", "--device", "tpu"), SETS("--device"));
    if (!e2e_has_isa("avx512"))
        cli_refused(KERNELS("--isa", "avx512"), SETS("avx512"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_kernel), cmocka_unit_test(test_pattern),
                                       cmocka_unit_test(test_formats), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("bench_kernels", tests, NULL, NULL);
}
