/* See st_file.h. */
#include "st_file.h"

#include "e2e.h"

void st_read(const char *path, st_file *out) {
    size_t n;
    char *whole = e2e_read(path, &n);
    uint64_t header;
    assert_true(n >= 8);
    memcpy(&header, whole, 8);
    assert_true(header <= n - 8);
    out->header = json_loadb(whole + 8, header, 0, NULL);
    assert_non_null(out->header);
    out->bytes = n - 8 - header;
    out->data = malloc(out->bytes + 1);
    assert_non_null(out->data);
    memcpy(out->data, whole + 8 + header, out->bytes);
    free(whole);
}

void st_free(st_file *f) {
    json_decref(f->header);
    free(f->data);
}

void st_write(const st_file *f, const char *dir, const char *name) {
    char *text = json_dumps(f->header, JSON_COMPACT);
    assert_non_null(text);
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    unsigned char *whole = malloc(8 + padded + f->bytes);
    assert_non_null(whole);
    uint64_t header = padded;
    memcpy(whole, &header, 8);
    memset(whole + 8, ' ', padded);
    memcpy(whole + 8, text, length);
    if (f->bytes > 0) /* a file of metadata alone has no data */
        memcpy(whole + 8 + padded, f->data, f->bytes);
    e2e_put(dir, name, whole, 8 + padded + f->bytes);
    free(whole);
    free(text);
}

void *st_tensor(const st_file *f, const char *name, const char *dtype, int64_t *n) {
    json_t *entry = json_object_get(f->header, name), *offsets = json_object_get(entry, "data_offsets"), *dim;
    const char *found = json_string_value(json_object_get(entry, "dtype"));
    size_t i;
    if (found == NULL || strcmp(found, dtype) != 0)
        fail_msg("no tensor %s of dtype %s", name, dtype);
    *n = 1;
    json_array_foreach(json_object_get(entry, "shape"), i, dim) *n *= json_integer_value(dim);
    return f->data + json_integer_value(json_array_get(offsets, 0));
}
