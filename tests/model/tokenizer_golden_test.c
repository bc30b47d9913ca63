/* Ids, decoded text and streamed text equal those of the `tokenizers` library, for every pipeline of
 * recipes/tokenizers/make_golden.py, line by line and for the whole torture text. */
#include "tokenizer_files.h"

static json_t *texts; /* {"lines": [...], "damaged": [hexadecimal, ...]} */

static int load_texts(void **state) {
    (void)state;
    texts = read_json("tests/data/tokenizers/texts.json");
    return 0;
}

static int free_texts(void **state) {
    (void)state;
    json_decref(texts);
    return 0;
}

/* Decoding one token at a time hands out complete characters only, and the same text in the end. */
static void check_stream(const char *what, size_t k, const sli_tokenizer *tok, const json_t *ids, unsigned flags,
                         const json_t *expected) {
    SL_ERROR(err);
    sli_token_stream *stream;
    assert_int_equal(sli_token_stream_open(tok, flags, &stream, &err), SL_OK);
    for (int round = 0; round < 2; round++) { /* after a flush the stream starts anew */
        size_t used = 0, room = json_string_length(expected) + 4096;
        char *all = malloc(room);
        assert_non_null(all);
        for (size_t i = 0; i <= json_array_size(ids); i++) {
            const char *text;
            size_t len;
            sl_status status = i == json_array_size(ids)
                                   ? sli_token_stream_flush(stream, &text, &len, &err)
                                   : sli_token_stream_push(stream, (int32_t)json_integer_value(json_array_get(ids, i)),
                                                           &text, &len, &err);
            assert_int_equal(status, SL_OK);
            assert_true(len <= room - used);
            memcpy(all + used, text, len);
            used += len;
            json_t *whole = json_stringn(text, len); /* refuses what is not UTF-8 */
            assert_non_null(whole);
            json_decref(whole);
        }
        check_text(what, k, expected, all, used);
        free(all);
    }
    sli_token_stream_close(stream);
}

static void check_decode(const char *what, size_t k, const sli_tokenizer *tok, const json_t *golden) {
    const json_t *ids = json_object_get(golden, "ids"), *decoded = json_object_get(golden, "decoded");
    const json_t *skipped = json_object_get(golden, "skipped");
    size_t n = json_array_size(ids);
    int32_t *list = malloc((n + 1) * sizeof *list);
    assert_non_null(list);
    for (size_t i = 0; i < n; i++)
        list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    for (unsigned flags = 0; flags <= SLI_SKIP_SPECIAL; flags++) {
        SL_ERROR(err);
        const json_t *expected = flags && skipped != NULL ? skipped : decoded;
        char *text;
        size_t len;
        assert_int_equal(sli_tokenizer_decode(tok, list, n, flags, &text, &len, &err), SL_OK);
        check_text(what, k, expected, text, len);
        assert_int_equal(text[len], 0);
        sli_free(text);
        check_stream(what, k, tok, ids, flags, expected);
    }
    free(list);
}

static void check_encode(const char *what, size_t k, const sli_tokenizer *tok, const char *text, size_t len,
                         unsigned flags, const json_t *expected) {
    SL_ERROR(err);
    sli_ids ids = {0};
    if (sli_tokenizer_encode(tok, text, len, flags, &ids, &err) != SL_OK)
        fail_msg("%s %zu: %s", what, k, err.text);
    check_ids(what, k, expected, &ids);
    sli_ids_free(&ids);
}

static void check_line(const char *what, size_t k, const sli_tokenizer *tok, const json_t *text, const json_t *golden) {
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    const json_t *ids = json_object_get(golden, "ids"), *plain = json_object_get(golden, "plain");
    check_encode(what, k, tok, s, n, SLI_ADD_SPECIAL | SLI_PARSE_SPECIAL, ids);
    check_encode(what, k, tok, s, n, 0, plain == NULL ? ids : plain);
    check_decode(what, k, tok, golden);
}

static json_t *whole_text(void) {
    json_t *lines = json_object_get(texts, "lines");
    char *all = NULL;
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        size_t len = json_string_length(line);
        all = realloc(all, n + len + 1);
        assert_non_null(all);
        if (i > 0)
            all[n++] = '\n';
        memcpy(all + n, json_string_value(line), len);
        n += len;
    }
    json_t *text = json_stringn(all, n);
    free(all);
    return text;
}

static size_t from_hex(const char *hex, char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

static void check_golden(const char *tokenizer, const char *folder) {
    char path[256];
    snprintf(path, sizeof path, "tests/data/tokenizers/%s/golden.json", folder);
    json_t *golden = read_json(path);
    sli_tokenizer *tok = open_tokenizer(tokenizer);
    json_t *lines = json_object_get(texts, "lines"), *results = json_object_get(golden, "lines");
    assert_true(json_array_size(lines) > 50);
    assert_int_equal(json_array_size(lines), json_array_size(results));
    for (size_t i = 0; i < json_array_size(lines); i++)
        check_line("line", i, tok, json_array_get(lines, i), json_array_get(results, i));

    json_t *whole = whole_text();
    check_line("whole text", 0, tok, whole, json_object_get(golden, "whole"));
    json_decref(whole);

    json_t *damaged = json_object_get(texts, "damaged");
    assert_int_equal(json_array_size(damaged), json_array_size(json_object_get(golden, "damaged")));
    for (size_t i = 0; i < json_array_size(damaged); i++) {
        char bytes[64];
        size_t n = from_hex(json_string_value(json_array_get(damaged, i)), bytes);
        check_encode("damaged text", i, tok, bytes, n, SLI_PARSE_SPECIAL,
                     json_array_get(json_object_get(golden, "damaged"), i));
    }

    json_t *random = json_object_get(golden, "random");
    assert_true(json_array_size(random) > 0);
    for (size_t i = 0; i < json_array_size(random); i++)
        check_decode("random ids", i, tok, json_array_get(random, i));
    sli_tokenizer_close(tok);
    json_decref(golden);
}

#define PIPELINES(X)                                                                                                   \
    X(gpt2)                                                                                                            \
    X(gpt2_prefix) X(llama3) X(qwen2) X(deepseek) X(llama2) X(mistral) X(metaspace_first) X(metaspace_always)          \
        X(metaspace_never) X(no_fallback)

#define DEFINE(name)                                                                                                   \
    static void name(void **state) {                                                                                   \
        (void)state;                                                                                                   \
        check_golden("tests/data/tokenizers/" #name, #name);                                                           \
    }
PIPELINES(DEFINE)

static void tiny(void **state) {
    (void)state;
    check_golden("models/tiny", "tiny");
}

/* One component at a time, put into the file of metaspace_first. */
static void single_components(void **state) {
    (void)state;
    json_t *base = read_json("tests/data/tokenizers/metaspace_first/tokenizer.json");
    json_t *parts = read_json("tests/data/tokenizers/parts.json");
    json_t *picked = json_object_get(parts, "lines"), *variants = json_object_get(parts, "variants");
    assert_true(json_array_size(variants) > 40);
    for (size_t v = 0; v < json_array_size(variants); v++) {
        json_t *variant = json_array_get(variants, v), *file = json_copy(base);
        json_object_update(file, json_object_get(variant, "change"));
        SL_ERROR(err);
        sli_tokenizer *tok = open_json(file, &err);
        char *what = json_dumps(json_object_get(variant, "change"), JSON_COMPACT);
        if (tok == NULL)
            fail_msg("%s: %s", what, err.text);
        for (size_t i = 0; i < json_array_size(picked); i++) {
            size_t line = (size_t)json_integer_value(json_array_get(picked, i));
            const json_t *text = json_array_get(json_object_get(texts, "lines"), line);
            json_t *ids = json_array_get(json_object_get(variant, "ids"), i);
            const json_t *decoded = json_array_get(json_object_get(variant, "decoded"), i);
            check_encode(what, line, tok, json_string_value(text), json_string_length(text), SLI_PARSE_SPECIAL, ids);
            if (decoded != NULL && !json_is_null(decoded))
                check_stream(what, line, tok, ids, 0, decoded);
        }
        free(what);
        sli_tokenizer_close(tok);
        json_decref(file);
    }
    json_decref(parts);
    json_decref(base);
}

#define ENTRY(name) cmocka_unit_test(name),

int main(void) {
    const struct CMUnitTest tests[] = {PIPELINES(ENTRY) cmocka_unit_test(tiny), cmocka_unit_test(single_components)};
    return cmocka_run_group_tests_name("tokenizer_golden", tests, load_texts, free_texts);
}
