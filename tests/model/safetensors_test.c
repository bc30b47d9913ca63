/* Safetensors: what is read is what was written; everything damaged is refused with the file's and tensor's name. */
#include "checkpoint.h"

#include "base/ledger.h"
#include "model/safetensors.h"

static void refused(sl_status got, const sli_safetensors *st, const char *text, const char *says, const char *what) {
    if (got >= 0 || st != NULL || strstr(text, says) == NULL)
        fail_msg("%s: status %d, \"%s\", expected \"%s\"", what, got, text, says);
}

/* b [2,3] f32, a [4] bf16, c scalar f32, empty [0, 5] f32, in this order in the file. */
static void make_file(st_file *f, size_t skew) {
    float b[6] = {1, 2, 3, 4, 5, 6}, c = 7;
    uint16_t a[4] = {0x3f80, 0x4000, 0x4040, 0x4080};
    memset(f, 0, sizeof *f);
    st_add(f, "b", "F32", "[2,3]", b, sizeof b);
    st_add(f, "a", "BF16", "[4]", a, sizeof a);
    st_add(f, "empty", "F32", "[0,5]", "", 0);
    st_add(f, "c", "F32", "[]", &c, sizeof c);
    st_header(f, ",\"__metadata__\":{\"format\":\"pt\"}");
    st_finish(f, skew);
}

static void check_file(const sli_safetensors *st) {
    assert_int_equal(sli_safetensors_count(st), 4);
    assert_string_equal(sli_safetensors_at(st, 0)->name, "a");
    assert_string_equal(sli_safetensors_at(st, 3)->name, "empty");
    const sli_named_tensor *b = sli_safetensors_find(st, "b");
    assert_non_null(b);
    assert_int_equal(b->tensor.dtype, SL_F32);
    assert_int_equal(b->tensor.ndim, 2);
    assert_int_equal(b->tensor.shape[0], 2);
    assert_int_equal(b->tensor.shape[1], 3);
    assert_int_equal(b->tensor.stride[0], 3);
    assert_int_equal(b->tensor.stride[1], 1);
    assert_int_equal(b->bytes, 24);
    assert_true((b->tensor.flags & SL_TENSOR_READ_ONLY) != 0);
    assert_true(((const float *)b->tensor.data)[5] == 6);
    const sli_named_tensor *a = sli_safetensors_find(st, "a"), *c = sli_safetensors_find(st, "c");
    assert_int_equal(((const uint16_t *)a->tensor.data)[3], 0x4080);
    assert_int_equal(c->tensor.ndim, 0);
    assert_true(*(const float *)c->tensor.data == 7);
    assert_null(sli_safetensors_find(st, "d"));
    assert_null(sli_safetensors_find(st, "__metadata__"));
    for (size_t i = 0; i < 3; i++) {
        const sl_tensor *t = &sli_safetensors_at(st, i)->tensor;
        assert_int_equal((uintptr_t)t->data % t->align, 0);
        assert_true(t->align >= (t->dtype == SL_F32 ? 4u : 2u));
    }
}

static void reads_a_file_at_every_alignment(void **state) {
    (void)state;
    temp_dir dir;
    temp_dir_make(&dir);
    sli_ledger_report before, during, after;
    sli_ledger_read(&before);
    for (size_t skew = 0; skew < 9; skew++) {
        SL_ERROR(err);
        st_file f;
        make_file(&f, skew);
        temp_write(&dir, "x.safetensors", f.bytes, f.n);
        sli_safetensors *st;
        if (sli_safetensors_open(temp_path(&dir, "x.safetensors"), &st, &err) < 0)
            fail_msg("skew %zu: %s", skew, err.text);
        check_file(st);
        sli_ledger_read(&during);
        int64_t held = during.now[SLI_TAG_WEIGHTS] - before.now[SLI_TAG_WEIGHTS];
        if (skew % 4 == 0) /* in place: nothing but the mapping */
            assert_int_equal(held, f.n);
        else
            assert_true(held > (int64_t)f.n);
        sli_safetensors_close(st);
        st_free(&f);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
    temp_dir_remove(&dir);
}

/* Not only an error but one that names the file; past the header, one that names a tensor. */
static void refuses_a_file_cut_anywhere(void **state) {
    (void)state;
    temp_dir dir;
    temp_dir_make(&dir);
    st_file f;
    make_file(&f, 0);
    for (size_t n = 0; n < f.n; n++) {
        SL_ERROR(err);
        sli_safetensors *st;
        temp_write(&dir, "x.safetensors", f.bytes, n);
        sl_status s = sli_safetensors_open(temp_path(&dir, "x.safetensors"), &st, &err);
        refused(s, st, err.text, "x.safetensors", "cut");
        assert_int_equal(s, SL_E_DATA);
        if (n >= f.n - f.data_bytes)
            refused(s, st, err.text, "tensor \"", "cut in the data");
        /* The exact bytes on the heap, for the address sanitizer to guard. */
        unsigned char *copy = malloc(n > 0 ? n : 1);
        memcpy(copy, f.bytes, n);
        SL_ERROR(err2);
        s = sli_safetensors_parse("memory", copy, n, &st, &err2);
        refused(s, st, err2.text, "memory", "cut in memory");
        free(copy);
    }
    st_free(&f);
    temp_dir_remove(&dir);
}

/* Every byte changed in turn to some others: any answer but a crash, and an error has text. */
static void survives_any_damaged_byte(void **state) {
    (void)state;
    st_file f;
    make_file(&f, 0);
    static const unsigned char values[] = {0, 1, ' ', '"', '-', '9', '[', '{', '}', 0x7f, 0x80, 0xff};
    int refusals = 0;
    for (size_t i = 0; i < f.n; i++)
        for (size_t v = 0; v < sizeof values; v++) {
            SL_ERROR(err);
            unsigned char was = f.bytes[i];
            f.bytes[i] = values[v];
            sli_safetensors *st;
            if (sli_safetensors_parse("memory", f.bytes, f.n, &st, &err) < 0) {
                assert_true(strncmp(err.text, "memory: ", 8) == 0);
                refusals++;
            }
            sli_safetensors_close(st);
            f.bytes[i] = was;
        }
    assert_true(refusals > 1000);
    st_free(&f);
}

static void refuses_damaged_headers(void **state) {
    (void)state;
    static const struct {
        const char *header, *says;
    } cases[] = {
        /* over 16 bytes of data */
        {"", "expected"},
        {"{", "header:1:1"},
        {"[]", "expected an object"},
        {"{}", "16 bytes of data, but the tensors end at 0"},
        {"{\"a\":1}", "tensor \"a\": not an object"},
        {"{\"a\":{}}", "tensor \"a\": \"dtype\" is not a string"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[4],\"data_offsets\":[0,16]}}", "tensor \"a\": unknown dtype \"F33\""},
        {"{\"a\":{\"dtype\":\"I4\",\"shape\":[32],\"data_offsets\":[0,16]}}", "unknown dtype \"I4\""},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}", "\"shape\" is not an array"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-4],\"data_offsets\":[0,16]}}", "dimension 0 of \"shape\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4.0],\"data_offsets\":[0,16]}}", "dimension 0 of \"shape\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,4],\"data_offsets\":[0,16]}}",
         "5 dimensions, expected at most 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,16]}}", "more elements than"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "more elements than"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,16]}}", "more bytes than"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,16]}}", "too big integer"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "\"data_offsets\" is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]}}", "\"data_offsets\" is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]}}", "\"data_offsets\" is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-16,0]}}", "\"data_offsets\" is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}}", "bytes 0 to 32 of the data"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]}}",
         "need 12 bytes, \"data_offsets\" give 16"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", "tensor \"a\": starts at byte 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "the tensors end at 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "tensor \"b\": starts at byte 4 of the data, expected 16: it overlaps"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
         "tensor \"b\": starts at byte 12 of the data, expected 8: there is a gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
         "duplicate object key near '\"a\"'"},
        {"{\"__metadata__\":1}", "\"__metadata__\" is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", "\"__metadata__\": \"k\" is not a string"},
        {"{\"\\u001b[31m\":1}", "tensor \"?[31m\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        st_file f = {.data = calloc(1, 16), .data_bytes = 16};
        st_join(&f, cases[i].header, strlen(cases[i].header), 0);
        sli_safetensors *st;
        sl_status s = sli_safetensors_parse("x.safetensors", f.bytes, f.n, &st, &err);
        refused(s, st, err.text, cases[i].says, cases[i].header);
        assert_non_null(strstr(err.text, "x.safetensors"));
        st_free(&f);
    }
    /* Lengths of headers that no file has. */
    static const uint64_t lengths[] = {9, 100000001, 1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        SL_ERROR(err);
        unsigned char bytes[16] = "........{}";
        for (int k = 0; k < 8; k++)
            bytes[k] = (unsigned char)(lengths[i] >> (8 * k));
        sli_safetensors *st;
        sl_status s = sli_safetensors_parse("x.safetensors", bytes, sizeof bytes, &st, &err);
        refused(s, st, err.text, "x.safetensors: header of ", "absurd length");
    }
}

/* Two shards; each test writes the index that it wants. */
static void make_shards(const temp_dir *dir) {
    float x[2] = {1, 2}, y[1] = {3}, z[1] = {4};
    st_file one = {0}, two = {0};
    st_add(&one, "x", "F32", "[2]", x, sizeof x);
    st_add(&one, "z", "F32", "[1]", z, sizeof z);
    st_add(&two, "y", "F32", "[1]", y, sizeof y);
    st_finish(&one, 0);
    st_finish(&two, 0);
    temp_write(dir, "one.safetensors", one.bytes, one.n);
    temp_write(dir, "two.safetensors", two.bytes, two.n);
    st_free(&one);
    st_free(&two);
}

static void reads_shards_and_refuses_broken_indices(void **state) {
    (void)state;
    static const struct {
        const char *index, *says; /* says NULL: fine */
    } cases[] = {
        {"{\"metadata\":{\"total_size\":12},\"weight_map\":{\"y\":\"two.safetensors\",\"x\":\"one.safetensors\"}}",
         NULL},
        {"{\"weight_map\":{\"x\":\"one.safetensors\",\"y\":\"three.safetensors\"}}", "three.safetensors: cannot open"},
        {"{\"weight_map\":{\"x\":\"two.safetensors\"}}", "two.safetensors: tensor \"x\" is not there"},
        {"{\"weight_map\":{\"x\":\"../one.safetensors\"}}", "\"weight_map.x\": expected the name of a file beside"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "expected the name of a file beside"},
        {"{\"weight_map\":{\"x\":7}}", "expected the name of a file beside the index, found 7"},
        {"{\"weight_map\":{\"x\":\"\"}}", "expected the name of a file beside"},
        {"{\"weight_map\":{}}", "names no tensor"},
        {"{\"weight_map\":[]}", "\"weight_map\": expected an object, found an array"},
        {"{}", "\"weight_map\": expected an object, found nothing"},
        {"{\"weight_map\":{\"x\":\"one.safetensors\",\"x\":\"two.safetensors\"}}", "duplicate object key"},
        {"{\"weight_map\":", "model.safetensors.index.json:1:"},
        {"{\"weight_map\":{\"x\":\"model.safetensors.index.json\"}}", "not a safetensors file"},
    };
    temp_dir dir;
    temp_dir_make(&dir);
    make_shards(&dir);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        sli_safetensors *st;
        temp_write(&dir, "model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        sl_status s = sli_safetensors_open_dir(dir.path, &st, &err);
        if (cases[i].says != NULL) {
            refused(s, st, err.text, cases[i].says, cases[i].index);
            continue;
        }
        assert_int_equal(s, SL_OK);
        assert_int_equal(sli_safetensors_count(st), 2); /* z is not in the index */
        assert_true(*(const float *)sli_safetensors_find(st, "x")->tensor.data == 1);
        assert_true(*(const float *)sli_safetensors_find(st, "y")->tensor.data == 3);
        assert_non_null(strstr(sli_safetensors_find(st, "y")->file, "two.safetensors"));
        sli_safetensors_close(st);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
    temp_dir_remove(&dir);

    SL_ERROR(err);
    sli_safetensors *st;
    temp_dir_make(&dir);
    sl_status s = sli_safetensors_open_dir(dir.path, &st, &err);
    refused(s, st, err.text, "neither model.safetensors nor model.safetensors.index.json", "empty directory");
    temp_dir_remove(&dir);
}

/* Each allocation fails in turn: a clean error, nothing kept. */
static void survives_lack_of_memory(void **state) {
    (void)state;
    temp_dir dir;
    temp_dir_make(&dir);
    make_shards(&dir);
    const char *index = "{\"weight_map\":{\"y\":\"two.safetensors\",\"x\":\"one.safetensors\"}}";
    temp_write(&dir, "model.safetensors.index.json", index, strlen(index));
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    int failures = 0;
    for (sl_status s = SL_E_NO_MEMORY; s < 0; failures++) {
        SL_ERROR(err);
        sli_safetensors *st;
        sli_ledger_fail_after(failures);
        s = sli_safetensors_open_dir(dir.path, &st, &err);
        sli_ledger_fail_after(-1);
        assert_true(s == SL_OK || s == SL_E_NO_MEMORY);
        assert_true((s == SL_OK) == (st != NULL));
        sli_safetensors_close(st);
        sli_ledger_read(&after);
        assert_int_equal(after.total, before.total);
    }
    assert_true(failures > 8);
    temp_dir_remove(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_file_at_every_alignment),
        cmocka_unit_test(refuses_a_file_cut_anywhere),
        cmocka_unit_test(survives_any_damaged_byte),
        cmocka_unit_test(refuses_damaged_headers),
        cmocka_unit_test(reads_shards_and_refuses_broken_indices),
        cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
