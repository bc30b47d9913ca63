/* Files that are written are read again, and nothing is left of those that are not finished. */
#include "model/safetensors_write.h"

#include <sys/stat.h>
#include <unistd.h>

#include "model/safetensors.h"
#include "sl_tensor.h"
#include "sl_test.h"

static char dir[] = "/tmp/sluice_write_XXXXXX";
static char path[64], tmp[80], data_tmp[80];

static int exists(const char *p) {
    struct stat s;
    return stat(p, &s) == 0;
}

static sl_tensor tensor(void *data, sl_dtype dtype, int64_t n, int64_t m) {
    sl_tensor t;
    sl_tensor_make(&t, data, dtype, SL_DEVICE_CPU, m > 0 ? 2 : 1, (int64_t[]){n, m});
    return t;
}

static void test_round_trip(void **state) {
    (void)state;
    uint8_t bytes[] = {1, 2, 3};
    uint16_t halves[] = {4, 5, 6};
    int64_t wide[] = {-7};
    float matrix[] = {1, 2, 3, 4, 5, 6};
    sli_st_writer *w;
    int64_t size;
    SL_ERROR(err);
    assert_int_equal(sli_st_writer_open(path, &w, &err), SL_OK);
    assert_int_equal(sli_st_writer_text(w, "made.by", "a \"test\"", &err), SL_OK);
    sl_tensor t[] = {tensor(bytes, SL_U8, 3, 0), tensor(halves, SL_F16, 3, 0), tensor(wide, SL_I64, 1, 0),
                     tensor(matrix, SL_F32, 2, 3), tensor(bytes, SL_U16, 0, 0)};
    static const char *const names[] = {"a.bytes", "b.halves", "c.wide", "d.matrix", "e.none"};
    for (int i = 0; i < 5; i++)
        assert_int_equal(sli_st_writer_add(w, names[i], &t[i], &err), SL_OK);
    assert_int_equal(sli_st_writer_add(w, "a.bytes", &t[0], &err), SL_E_INVALID);
    sl_tensor odd = t[3];
    odd.stride[0] = 5;
    assert_int_equal(sli_st_writer_add(w, "f", &odd, &err), SL_E_INVALID);
    assert_false(exists(path));
    assert_int_equal(sli_st_writer_finish(w, &size, &err), SL_OK);
    sli_st_writer_close(w);
    assert_true(exists(path) && !exists(tmp) && !exists(data_tmp));
    sli_safetensors *file;
    if (sli_safetensors_open(path, &file, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sli_safetensors_count(file), 5);
    assert_string_equal(sli_safetensors_metadata(file, "made.by"), "a \"test\"");
    for (int i = 0; i < 5; i++) {
        const sli_named_tensor *got = sli_safetensors_find(file, names[i]);
        assert_non_null(got);
        int64_t n;
        sl_tensor_bytes(&t[i], &n);
        assert_true(got->tensor.dtype == t[i].dtype && got->tensor.ndim == t[i].ndim && got->bytes == n);
        assert_memory_equal(got->tensor.data, t[i].data, (size_t)n);
    }
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_size, size);
    sli_safetensors_close(file);
}

static void test_unfinished(void **state) {
    (void)state;
    sli_st_writer *w;
    uint8_t byte = 1;
    char missing[96];
    snprintf(missing, sizeof missing, "%s/no/such/folder", dir);
    SL_ERROR(err);
    unlink(path);
    assert_int_equal(sli_st_writer_open(path, &w, &err), SL_OK);
    sl_tensor t = tensor(&byte, SL_U8, 1, 0);
    assert_int_equal(sli_st_writer_add(w, "x", &t, &err), SL_OK);
    sli_st_writer_close(w);
    assert_true(!exists(path) && !exists(tmp) && !exists(data_tmp));
    assert_int_equal(sli_st_writer_open(missing, &w, &err), SL_E_IO);
    assert_non_null(strstr(err.text, missing));
    sli_st_writer_close(NULL);
}

int main(void) {
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/x.safetensors", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    snprintf(data_tmp, sizeof data_tmp, "%s.data.tmp", path);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_unfinished)};
    int status = cmocka_run_group_tests_name("safetensors_write", tests, NULL, NULL);
    unlink(path);
    rmdir(dir);
    return status;
}
