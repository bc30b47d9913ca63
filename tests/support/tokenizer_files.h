/* Golden data of the tokenizer tests: reading files below tests/data, JSON, and saying where two results part. */
#ifndef SLUICE_TEST_TOKENIZER_FILES_H
#define SLUICE_TEST_TOKENIZER_FILES_H

#include "sl_test.h"

#include "base/ledger.h"
#include "model/tokenizer.h"

#include <jansson.h>

/* A path below the source root, in one of a few buffers that are used in turn. */
static inline const char *source_path(const char *relative) {
    static char paths[4][1024];
    static int turn;
    const char *root = getenv("SLUICE_SOURCE");
    assert_non_null(root);
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, relative);
    return path;
}

static inline json_t *read_json(const char *relative) {
    json_error_t e;
    json_t *value = json_load_file(source_path(relative), JSON_ALLOW_NUL, &e);
    if (value == NULL)
        fail_msg("%s:%d: %s", relative, e.line, e.text);
    return value;
}

static inline sli_tokenizer *open_tokenizer(const char *relative) {
    SL_ERROR(err);
    sli_tokenizer *tok = NULL;
    if (sli_tokenizer_open(source_path(relative), &tok, &err) != SL_OK)
        fail_msg("%s", err.text);
    return tok;
}

/* A tokenizer from a JSON value, which stays the caller's; NULL with the error in err. */
static inline sli_tokenizer *open_json(const json_t *value, sl_error *err) {
    char *text = json_dumps(value, JSON_COMPACT);
    assert_non_null(text);
    sli_tokenizer *tok = NULL;
    sl_status status = sli_tokenizer_open_memory("memory", text, strlen(text), NULL, 0, &tok, err);
    assert_true((status == SL_OK) == (tok != NULL));
    free(text);
    return tok;
}

static inline void check_ids(const char *what, size_t k, const json_t *expected, const sli_ids *got) {
    size_t n = json_array_size(expected);
    for (size_t i = 0; i < n || i < got->n; i++) {
        long long want = i < n ? json_integer_value(json_array_get(expected, i)) : -1;
        long long have = i < got->n ? got->data[i] : -1;
        if (want != have)
            fail_msg("%s %zu: token %zu of %zu is %lld, expected %lld (of %zu)", what, k, i, got->n, have, want, n);
    }
}

static inline void check_text(const char *what, size_t k, const json_t *expected, const char *text, size_t len) {
    const char *want = json_string_value(expected);
    assert_non_null(want);
    if (len != json_string_length(expected) || memcmp(text, want, len) != 0)
        fail_msg("%s %zu: got '%.*s' (%zu bytes), expected '%s' (%zu bytes)", what, k, (int)len, text, len, want,
                 json_string_length(expected));
}

#endif
