/* Gates: which heads stream, files of all kinds, and config.json beside them. */
#include "duo_pattern.c"

#include "sl_test.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/duo_pattern_XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL;
}

static const char *path_of(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text) {
    FILE *f = fopen(path_of(name), "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path_of("gates.tsv"));
    unlink(path_of("config.json"));
    return rmdir(folder);
}

/* ---- which heads
 * ----------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* The reference: heads at or above the quantile (linear interpolation) are retrieval heads. */
static void sparsity_is_the_quantile_of_the_reference(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (int round = 0; round < 400; round++) {
        int32_t n = 1 + (int32_t)(test_next(&seed) % 60);
        double gate[64], sorted[64], sparsity = (double)(test_next(&seed) % 1000) / 1000;
        uint8_t streams[64];
        for (int32_t i = 0; i < n; i++)
            sorted[i] = gate[i] = (double)(test_next(&seed) % 1000003) / 1000003 + i * 1e-9; /* no ties */
        qsort(sorted, (size_t)n, sizeof *sorted, by_value);
        double at = sparsity * (n - 1);
        int32_t low = (int32_t)floor(at);
        double threshold = low + 1 < n ? sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]) : sorted[low];
        assert_int_equal(duo_pattern_by_sparsity(gate, n, sparsity, streams), SL_OK);
        for (int32_t i = 0; i < n; i++)
            if (fabs(gate[i] - threshold) > 1e-12)
                assert_int_equal(streams[i], gate[i] < threshold);
    }
}

static void ends_and_ties(void **state) {
    (void)state;
    const double gate[6] = {0.5, 1, 0.5, 0, 0.5, 1};
    uint8_t s[6];
    const struct {
        double sparsity;
        const char *streams;
    } cases[] = {{0, "000000"},   {1, "111111"},   {0.2, "000100"},  {0.4, "100100"},
                 {0.6, "101100"}, {0.8, "101110"}, {0.21, "100100"}, {0.999, "111110"}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        assert_int_equal(duo_pattern_by_sparsity(gate, 6, cases[c].sparsity, s), SL_OK);
        for (int i = 0; i < 6; i++)
            assert_int_equal(s[i], cases[c].streams[i] - '0');
    }
    duo_pattern_by_threshold(gate, 6, 0.5, s); /* at the threshold: retrieval */
    for (int i = 0; i < 6; i++)
        assert_int_equal(s[i], gate[i] < 0.5);
}

/* ---- files
 * ------------------------------------------------------------------------------------------------------------- */

static void a_file_of_gates(void **state) {
    (void)state;
    double gate[5];
    const int32_t n_heads[3] = {2, 1, 2};
    SL_ERROR(err);
    write_file("gates.tsv", "# learned\n1.000000000000000000e+00\t2.5\n\n-0.5\n0.25\t 1e-3\r\n");
    assert_int_equal(duo_pattern_read(path_of("gates.tsv"), n_heads, 3, gate, &err), SL_OK);
    const double expected[5] = {1, 1, 0, 0.25, 1e-3}; /* clipped */
    assert_memory_equal(gate, expected, sizeof gate);
    write_file("gates.tsv", "1\t1\n0\n0\t0"); /* no last line feed */
    assert_int_equal(duo_pattern_read(path_of("gates.tsv"), n_heads, 3, gate, &err), SL_OK);
}

static void wrong_files(void **state) {
    (void)state;
    const int32_t n_heads[2] = {2, 2};
    static const char *const cases[][2] = {
        {"1\t1\n1\n", "gates.tsv:2: layer 1 has 1 gates"},
        {"1\t1\n1\t1\t1\n", "gates.tsv:2: layer 1 has more gates"},
        {"1\t1\n", "gates of 1 layers"},
        {"1\t1\n1\t1\n1\t1\n", "gates.tsv:3: gates of more than"},
        {"1\tx\n1\t1\n", "gates.tsv:1: \"x"},
        {"1\tnan\n1\t1\n", "gates.tsv:1: \"nan"},
        {"1,1\n1,1\n", "gates.tsv:1: \"1,1"},
        {"", "gates of 0 layers"},
    };
    double gate[4];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        write_file("gates.tsv", cases[i][0]);
        assert_true(duo_pattern_read(path_of("gates.tsv"), n_heads, 2, gate, &err) < 0);
        if (strstr(err_text_, cases[i][1]) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err_text_, cases[i][1]);
    }
    SL_ERROR(err);
    assert_int_equal(duo_pattern_read(path_of("nothing.tsv"), n_heads, 2, gate, &err), SL_E_IO);
    assert_true(duo_pattern_read(folder, n_heads, 2, gate, &err) < 0); /* a folder */
}

static void the_window_beside_it(void **state) {
    (void)state;
    int64_t sink, recent;
    SL_ERROR(err);
    assert_int_equal(duo_pattern_window(path_of("gates.tsv"), &sink, &recent, &err), SL_OK); /* no config.json */
    assert_true(sink == -1 && recent == -1);
    write_file("config.json", "{\"sink_size\": 128, \"recent_size\" : 256}");
    assert_int_equal(duo_pattern_window(path_of("gates.tsv"), &sink, &recent, &err), SL_OK);
    assert_true(sink == 128 && recent == 256);
    write_file("config.json", "{\n  \"lr\": 0.02,\n  \"recent_size\":7\n}\n");
    assert_int_equal(duo_pattern_window(path_of("gates.tsv"), &sink, &recent, &err), SL_OK);
    assert_true(sink == -1 && recent == 7);
    static const char *const wrong[] = {"{\"sink_size\": -3}",
                                        "{\"sink_size\": 1.5}",
                                        "{\"recent_size\": \"many\"}",
                                        "{\"sink_size\" 3}",
                                        "{\"sink_size\": 99999999999999999999}",
                                        "{\"sink_size\": "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_file("config.json", wrong[i]);
        assert_int_equal(duo_pattern_window(path_of("gates.tsv"), &sink, &recent, &err), SL_E_DATA);
    }
    unlink(path_of("config.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparsity_is_the_quantile_of_the_reference),
        cmocka_unit_test(ends_and_ties),
        cmocka_unit_test(a_file_of_gates),
        cmocka_unit_test(wrong_files),
        cmocka_unit_test(the_window_beside_it),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
