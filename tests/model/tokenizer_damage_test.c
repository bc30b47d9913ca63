/* Files that are damaged or hold what is not supported: one clear error each, never a crash, nothing leaked. */
#include "tokenizer_files.h"

static json_t *base; /* the file that each case changes */

static int load_base(void **state) {
    (void)state;
    base = read_json("tests/data/tokenizers/metaspace_first/tokenizer.json");
    return 0;
}

static int free_base(void **state) {
    (void)state;
    json_decref(base);
    return 0;
}

/* `path` is like "model.merges.0"; `value` is JSON, NULL removes the member. */
typedef struct damage {
    const char *path, *value;
    sl_status code;
    const char *message; /* part of it */
} damage;

static void apply(json_t *file, const char *path, const char *value) {
    json_t *at = file, *new_value = value == NULL ? NULL : json_loads(value, JSON_DECODE_ANY, NULL);
    assert_true(value == NULL || new_value != NULL);
    char key[64];
    for (;;) {
        const char *dot = strchr(path, '.');
        snprintf(key, sizeof key, "%.*s", (int)(dot == NULL ? strlen(path) : (size_t)(dot - path)), path);
        if (dot == NULL)
            break;
        at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
        assert_non_null(at);
        path = dot + 1;
    }
    if (value == NULL)
        assert_int_equal(json_object_del(at, key), 0);
    else if (json_is_array(at))
        assert_int_equal(json_array_set_new(at, (size_t)atoi(key), new_value), 0);
    else
        assert_int_equal(json_object_set_new(at, key, new_value), 0);
}

static const damage cases[] = {
    {"model", NULL, SL_E_DATA, "'model' is missing"},
    {"model", "[]", SL_E_DATA, "'model' is missing or not an object"},
    {"model.type", "\"Unigram\"", SL_E_UNIMPLEMENTED, "model.type 'Unigram'"},
    {"model.type", "7", SL_E_DATA, "model.type: expected a string"},
    {"model.vocab", NULL, SL_E_DATA, "model.vocab: expected an object"},
    {"model.vocab", "{}", SL_E_DATA, "model.merges[0]"},
    {"model.merges", NULL, SL_E_DATA, "model.merges: expected an array"},
    {"model.merges.3", "\"a\"", SL_E_DATA, "model.merges[3]: expected"},
    {"model.merges.3", "\"a b c\"", SL_E_DATA, "model.merges[3]: expected"},
    {"model.merges.3", "[\"a\"]", SL_E_DATA, "model.merges[3]: expected"},
    {"model.merges.3", "[\"a\", 1]", SL_E_DATA, "model.merges[3]: expected"},
    {"model.merges.3", "[\"zzz\", \"e\"]", SL_E_DATA, "model.merges[3]: 'zzz' is not in the vocabulary"},
    {"model.merges.3", "[\"<s>\", \"e\"]", SL_E_DATA, "model.merges[3]: '<s>e' is not in the vocabulary"},
    {"model.vocab.<s>", "0", SL_E_DATA, "id 0 belongs to both"},
    {"model.vocab.<s>", "-1", SL_E_DATA, "model.vocab['<s>']: expected an id"},
    {"model.vocab.<s>", "1.5", SL_E_DATA, "model.vocab['<s>']: expected an id"},
    {"model.vocab.<s>", "2147483647", SL_E_DATA, "model.vocab['<s>']: expected an id"},
    {"model.vocab.<s>", "99999999999999", SL_E_DATA, "model.vocab['<s>']: expected an id"},
    {"model.vocab.<s>", "\"1\"", SL_E_DATA, "model.vocab['<s>']: expected an id"},
    {"model.unk_token", "\"nobody\"", SL_E_DATA, "model.unk_token 'nobody' is not in the vocabulary"},
    {"model.byte_fallback", "1", SL_E_DATA, "model.byte_fallback: expected true or false"},
    {"model.dropout", "0.1", SL_E_UNIMPLEMENTED, "model.dropout"},
    {"model.end_of_word_suffix", "\"</w>\"", SL_E_UNIMPLEMENTED, "model.end_of_word_suffix '</w>'"},
    {"model.continuing_subword_prefix", "\"##\"", SL_E_UNIMPLEMENTED, "model.continuing_subword_prefix '##'"},
    {"added_tokens", "{}", SL_E_DATA, "added_tokens: expected an array"},
    {"added_tokens.0", "3", SL_E_DATA, "added_tokens[0].id: expected an id"},
    {"added_tokens.0.id", "1", SL_E_DATA, "added_tokens[0]: '<unk>' has id 1 here and 0 in model.vocab"},
    {"added_tokens.4.id", "5", SL_E_DATA, "id 5 belongs to both"},
    {"added_tokens.0.content", NULL, SL_E_DATA, "added_tokens[0].content is missing"},
    {"added_tokens.0.content", "\"\"", SL_E_DATA, "added_tokens[0].content is empty"},
    {"added_tokens.1.content", "\"<unk>\"", SL_E_DATA, "'<unk>'"},
    {"added_tokens.0.lstrip", "\"no\"", SL_E_DATA, "added_tokens[0].lstrip: expected true or false"},
    {"normalizer", "{\"type\": \"BertNormalizer\"}", SL_E_UNIMPLEMENTED,
     "normalizer: 'BertNormalizer' is not supported"},
    {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Precompiled\"}]}",
     SL_E_UNIMPLEMENTED, "normalizer.normalizers[1]: 'Precompiled'"},
    {"normalizer", "{\"type\": \"Sequence\"}", SL_E_DATA, "normalizer.normalizers: expected an array"},
    {"normalizer", "{\"type\": \"Prepend\"}", SL_E_DATA, "normalizer.prepend is missing"},
    {"normalizer", "{}", SL_E_DATA, "normalizer.type is missing"},
    {"normalizer", "true", SL_E_DATA, "normalizer: expected an object or null"},
    {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}", SL_E_DATA,
     "normalizer.pattern: regular expression '('"},
    {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"\"}", SL_E_DATA,
     "is empty"},
    {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}}", SL_E_DATA,
     "normalizer.content is missing"},
    {"pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}", SL_E_UNIMPLEMENTED, "pre_tokenizer: 'BertPreTokenizer'"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}}", SL_E_DATA,
     "pre_tokenizer.behavior is missing"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\"}", SL_E_DATA,
     "pre_tokenizer.pattern is missing"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": 4, \"behavior\": \"Isolated\"}", SL_E_DATA,
     "pre_tokenizer.pattern: expected"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Sideways\"}",
     SL_E_UNIMPLEMENTED, "pre_tokenizer.behavior: 'Sideways'"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&[^b]]\"}, \"behavior\": \"Isolated\"}",
     SL_E_UNIMPLEMENTED, "an intersection of classes at byte 2"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a[b]]\"}, \"behavior\": \"Isolated\"}",
     SL_E_UNIMPLEMENTED, "a class inside a class at byte 2"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a{1,3}+\"}, \"behavior\": \"Isolated\"}",
     SL_E_UNIMPLEMENTED, "a quantifier after {n,m} at byte 6"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?m:.)\"}, \"behavior\": \"Isolated\"}",
     SL_E_UNIMPLEMENTED, "option m at byte 0"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\\\\\"}, \"behavior\": \"Isolated\"}",
     SL_E_UNIMPLEMENTED, "a backslash at the end at byte 1"},
    {"pre_tokenizer", "{\"type\": \"Metaspace\"}", SL_E_DATA, "pre_tokenizer.replacement is missing"},
    {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}", SL_E_DATA,
     "replacement: expected one character"},
    {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"maybe\"}", SL_E_DATA,
     "expected first, always or never, found 'maybe'"},
    {"post_processor", "{\"type\": \"BertProcessing\"}", SL_E_UNIMPLEMENTED, "post_processor: 'BertProcessing'"},
    {"post_processor.single", NULL, SL_E_DATA, "post_processor.single: expected an array"},
    {"post_processor.single", "[]", SL_E_UNIMPLEMENTED, "stands in it 0 times"},
    {"post_processor.single.0", "{}", SL_E_DATA, "post_processor.single[0]: expected SpecialToken or Sequence"},
    {"post_processor.special_tokens", "{}", SL_E_DATA, "has no ids in special_tokens"},
    {"post_processor.special_tokens.<s>.ids", "[123456]", SL_E_DATA, "not in the vocabulary"},
    {"post_processor.special_tokens.<s>.ids", "[-1]", SL_E_DATA, "not in the vocabulary"},
    {"decoder", "{\"type\": \"WordPiece\"}", SL_E_UNIMPLEMENTED, "decoder: 'WordPiece'"},
    {"decoder", "{\"type\": \"Strip\", \"content\": \" \", \"start\": -1}", SL_E_DATA,
     "decoder.start: expected integer"},
    {"decoder", "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": \"ByteFallback\"}]}",
     SL_E_UNIMPLEMENTED, "decoder.decoders[1]: this step after Fuse"},
};

static void each_damage_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *file = json_deep_copy(base);
        apply(file, cases[i].path, cases[i].value);
        SL_ERROR(err);
        sli_tokenizer *tok = open_json(file, &err);
        if (tok != NULL)
            fail_msg("%s = %s was accepted", cases[i].path, cases[i].value);
        if (err.code != cases[i].code || strstr(err.text, cases[i].message) == NULL ||
            strncmp(err.text, "memory: ", 8) != 0)
            fail_msg("%s = %s: code %d, '%s', expected '%s'", cases[i].path, cases[i].value, err.code, err.text,
                     cases[i].message);
        json_decref(file);
    }
}

static sl_status open_text(const char *json, const char *config, sl_error *err) {
    sli_tokenizer *tok = NULL;
    sl_status status =
        sli_tokenizer_open_memory("t", json, strlen(json), config, config == NULL ? 0 : strlen(config), &tok, err);
    sli_tokenizer_close(tok);
    return status;
}

static void broken_json_is_located(void **state) {
    (void)state;
    SL_ERROR(err);
    static const char *const broken[] = {
        "", "{", "[1, 2", "{\"model\": }", "{\"a\": 1, \"a\": 2}", "{\"a\": \"\\ud800\"}", "{} {}", "\xff"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        assert_int_equal(open_text(broken[i], NULL, &err), SL_E_DATA);
        assert_non_null(strstr(err.text, "t: line 1, column "));
    }
    assert_int_equal(open_text("{\n\"model\":\n  nul}", NULL, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "line 3"));
    assert_int_equal(open_text("[]", NULL, &err), SL_E_DATA);

    const char *small = "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}";
    assert_int_equal(open_text(small, NULL, &err), SL_OK);
    assert_int_equal(open_text(small, "{}", &err), SL_OK);
    assert_int_equal(open_text(small, "{\"bos_token\": 1}", &err), SL_E_DATA);
    assert_string_equal(err.text, "t: tokenizer_config.json: bos_token: expected a string or an object with 'content'");
    assert_int_equal(open_text(small, "{\"bos_token\"", &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "t: tokenizer_config.json: line 1"));
    assert_int_equal(open_text("{\"model\": {\"vocab\": {}, \"merges\": []}}", NULL, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "model.vocab is empty"));
}

static void missing_files(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_tokenizer *tok = NULL;
    assert_int_equal(sli_tokenizer_open("/nonexistent/tokenizer.json", &tok, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/tokenizer.json"));
    assert_int_equal(sli_tokenizer_open(source_path("tests/data/tokenizers"), &tok, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "tests/data/tokenizers/tokenizer.json"));
    assert_int_equal(sli_tokenizer_open("", &tok, &err), SL_E_NOT_FOUND);
    assert_null(tok);
}

/* A file cut anywhere is refused. */
static void truncated_files(void **state) {
    (void)state;
    char *text = json_dumps(base, JSON_COMPACT);
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i += i < 200 || i + 200 > n ? 1 : 97) {
        SL_ERROR(err);
        sli_tokenizer *tok = NULL;
        assert_int_equal(sli_tokenizer_open_memory("t", text, i, NULL, 0, &tok, &err), SL_E_DATA);
        assert_null(tok);
    }
    free(text);
}

static int64_t held(void) {
    sli_ledger_report r;
    sli_ledger_read(&r);
    return r.total;
}

/* Every allocation in turn fails: SL_E_NO_MEMORY and nothing is left behind. */
static void no_memory(void **state) {
    (void)state;
    char *text = json_dumps(base, JSON_COMPACT);
    int64_t before = held();
    int64_t at = 0;
    sli_tokenizer *tok = NULL;
    for (sl_status status = SL_E_NO_MEMORY; status != SL_OK; at++) {
        SL_ERROR(err);
        sli_ledger_fail_after(at);
        status = sli_tokenizer_open_memory("t", text, strlen(text), "{\"chat_template\": \"x\"}", 22, &tok, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        assert_non_null(strstr(err.text, "no memory"));
        assert_int_equal(held(), before);
    }
    assert_true(at > 20);

    int64_t loaded = held();
    const char *line = "<s>word WORD caf\xc3\xa9 <both> \xf0\x9f\x98\x80 the thethe";
    sli_ids all = {0};
    for (at = 0;; at++) {
        sli_ids ids = {0};
        SL_ERROR(err);
        sli_ledger_fail_after(at);
        sl_status status =
            sli_tokenizer_encode(tok, line, strlen(line), SLI_ADD_SPECIAL | SLI_PARSE_SPECIAL, &ids, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK) {
            all = ids;
            break;
        }
        assert_int_equal(status, SL_E_NO_MEMORY);
        assert_int_equal(ids.n, 0);
        sli_ids_free(&ids);
        assert_int_equal(held(), loaded);
    }
    assert_true(at > 5 && all.n > 10);

    int64_t encoded = held();
    for (at = 0;; at++) {
        char *decoded;
        size_t len;
        SL_ERROR(err);
        sli_ledger_fail_after(at);
        sl_status status = sli_tokenizer_decode(tok, all.data, all.n, 0, &decoded, &len, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK) {
            sli_free(decoded);
            break;
        }
        assert_int_equal(status, SL_E_NO_MEMORY);
        assert_int_equal(held(), encoded);
    }
    assert_true(at > 2);
    sli_ids_free(&all);
    sli_tokenizer_close(tok);
    free(text);
    assert_int_equal(held(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_damage_is_named),
        cmocka_unit_test(broken_json_is_located),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(truncated_files),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests_name("tokenizer_damage", tests, load_base, free_base);
}
