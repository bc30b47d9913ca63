/* Files: whole, mapped, missing, too large, not regular; paths. */
#include "checkpoint.h"

#include "base/file.h"

static temp_dir dir;

static int make(void **state) {
    (void)state;
    temp_dir_make(&dir);
    temp_write(&dir, "ten", "0123456789", 10);
    temp_write(&dir, "empty", "", 0);
    return mkfifo(temp_path(&dir, "fifo"), 0600);
}

static int clean(void **state) {
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

static void reads_and_maps(void **state) {
    (void)state;
    SL_ERROR(err);
    char *data;
    size_t n;
    assert_int_equal(sli_file_read(temp_path(&dir, "ten"), 10, &data, &n, &err), SL_OK);
    assert_int_equal(n, 10);
    assert_string_equal(data, "0123456789");
    sli_free(data);
    assert_int_equal(sli_file_read(temp_path(&dir, "empty"), 10, &data, &n, &err), SL_OK);
    assert_int_equal(n, 0);
    assert_string_equal(data, "");
    sli_free(data);

    sli_map map;
    assert_int_equal(sli_file_map(temp_path(&dir, "ten"), &map, &err), SL_OK);
    assert_int_equal(map.size, 10);
    assert_memory_equal(map.data, "0123456789", 10);
    sli_file_unmap(&map);
    assert_null(map.data);
    sli_file_unmap(&map);
    assert_int_equal(sli_file_map(temp_path(&dir, "empty"), &map, &err), SL_OK);
    assert_int_equal(map.size, 0);
}

static void says_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *name, *says;
        sl_status status;
        size_t cap;
    } cases[] = {
        {"ten", "10 bytes, expected at most 9", SL_E_RANGE, 9},
        {"none", "No such file or directory", SL_E_NOT_FOUND, 10},
        {"ten/x", "Not a directory", SL_E_IO, 10},
        {"", "not a regular file but a directory", SL_E_IO, 10},
        {"fifo", "not a regular file", SL_E_IO, 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        char *data;
        size_t n;
        const char *path = temp_path(&dir, cases[i].name);
        assert_int_equal(sli_file_read(path, cases[i].cap, &data, &n, &err), cases[i].status);
        if (strstr(err.text, cases[i].says) == NULL || strncmp(err.text, path, strlen(path)) != 0)
            fail_msg("case %zu: %s", i, err.text);
    }
    SL_ERROR(err);
    sli_map map;
    assert_int_equal(sli_file_map(temp_path(&dir, "none"), &map, &err), SL_E_NOT_FOUND);
    assert_null(map.data);
    assert_int_equal(sli_file_map(temp_path(&dir, ""), &map, NULL), SL_E_IO);
}

static void joins_paths(void **state) {
    (void)state;
    static const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = sli_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        sli_free(path);
    }
    assert_true(sli_file_exists(temp_path(&dir, "ten")));
    assert_false(sli_file_exists(temp_path(&dir, "none")));
    assert_true(sli_is_dir(dir.path));
    assert_false(sli_is_dir(temp_path(&dir, "ten")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_maps),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(joins_paths),
    };
    return cmocka_run_group_tests_name("file", tests, make, clean);
}
