/* What a tokenizer answers beside encoding and decoding, and what large inputs cost. */
#include "tokenizer_files.h"

#include <time.h>

static void tiny_answers(void **state) {
    (void)state;
    sli_tokenizer *tok = open_tokenizer("models/tiny");
    size_t len;
    int32_t n = sli_tokenizer_vocab_size(tok);
    assert_true(n > 4000);
    assert_string_equal(sli_tokenizer_piece(tok, 2, &len), "<|im_start|>");
    assert_int_equal(len, 12);
    assert_null(sli_tokenizer_piece(tok, n, &len));
    assert_null(sli_tokenizer_piece(tok, -1, &len));
    for (int32_t id = 0; id < n; id++) {
        const char *piece = sli_tokenizer_piece(tok, id, &len);
        assert_non_null(piece);
        assert_int_equal(sli_tokenizer_find(tok, piece, len), id);
        assert_int_equal(sli_tokenizer_is_special(tok, id), id < 5);
    }
    assert_int_equal(sli_tokenizer_find(tok, "no such token", 13), -1);
    assert_int_equal(sli_tokenizer_bos(tok), 0);
    assert_int_equal(sli_tokenizer_eos(tok), 1);
    assert_non_null(strstr(sli_tokenizer_chat_template(tok), "add_generation_prompt"));
    sli_tokenizer_close(tok);
}

static void config_in_all_shapes(void **state) {
    (void)state;
    static const char json[] = "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 7}, \"merges\": []}}";
    static const char config[] =
        "{\"bos_token\": {\"content\": \"b\"}, \"eos_token\": null, \"chat_template\": "
        "[{\"name\": \"tool\", \"template\": \"T\"}, {\"name\": \"default\", \"template\": \"D\"}]}";
    SL_ERROR(err);
    sli_tokenizer *tok;
    assert_int_equal(sli_tokenizer_open_memory("t", json, strlen(json), config, strlen(config), &tok, &err), SL_OK);
    assert_int_equal(sli_tokenizer_bos(tok), 7);
    assert_int_equal(sli_tokenizer_eos(tok), -1);
    assert_string_equal(sli_tokenizer_chat_template(tok), "D");
    size_t len;
    assert_int_equal(sli_tokenizer_vocab_size(tok), 8);
    assert_null(sli_tokenizer_piece(tok, 3, &len)); /* a hole */

    int32_t ids[] = {0, 3, -5, 1000, 7};
    char *text;
    assert_int_equal(sli_tokenizer_decode(tok, ids, 5, 0, &text, &len, &err), SL_OK);
    assert_string_equal(text, "a b");
    sli_free(text);
    sli_tokenizer_close(tok);
}

static void template_file_counts_more(void **state) {
    (void)state;
    char folder[] = "/tmp/sluice-tokenizer-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    static const char *const files[][2] = {
        {"tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}"},
        {"tokenizer_config.json", "{\"chat_template\": \"old\"}"},
        {"chat_template.jinja", "new {{ x }}\n"},
    };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(files[i][1], f);
        fclose(f);
    }
    SL_ERROR(err);
    for (int with_slash = 0; with_slash < 2; with_slash++) {
        snprintf(path, sizeof path, "%s%s", folder, with_slash ? "/" : "/tokenizer.json");
        sli_tokenizer *tok;
        assert_int_equal(sli_tokenizer_open(path, &tok, &err), SL_OK);
        assert_string_equal(sli_tokenizer_chat_template(tok), "new {{ x }}\n");
        sli_tokenizer_close(tok);
    }
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i][0]);
        remove(path);
    }
    assert_int_equal(remove(folder), 0);
}

static void same_and_different_vocabularies(void **state) {
    (void)state;
    SL_ERROR(err);
    json_t *file = read_json("tests/data/tokenizers/llama2/tokenizer.json");
    sli_tokenizer *a = open_json(file, &err), *b = open_json(file, &err);
    assert_int_equal(sli_tokenizer_same(a, b, &err), SL_OK);
    sli_tokenizer_close(b);

    json_t *vocab = json_object_get(json_object_get(file, "model"), "vocab");
    json_object_set_new(vocab, "<0x07>", json_integer(11)); /* swap two that no merge needs */
    json_object_set_new(vocab, "<0x08>", json_integer(10));
    b = open_json(file, &err);
    assert_non_null(b);
    assert_int_equal(sli_tokenizer_same(a, b, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "token 10 is '<0x07>' in memory"));
    assert_non_null(strstr(err.text, "and '<0x08>'"));
    sli_tokenizer_close(b);

    json_object_set_new(vocab, "<0x07>", json_integer(10));
    json_object_set_new(vocab, "<0x08>", json_integer(11));
    json_object_set_new(vocab, "one more", json_integer(sli_tokenizer_vocab_size(a)));
    b = open_json(file, &err);
    assert_int_equal(sli_tokenizer_same(a, b, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "token 800 is absent in memory (800 ids) and 'one more'"));
    sli_tokenizer_close(b);
    sli_tokenizer_close(a);
    json_decref(file);
}

/* "<both>" in a text is a token only when asked for; encoding appends. */
static void flags_and_appending(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_tokenizer *tok = open_tokenizer("models/tiny");
    sli_ids ids = {0};
    assert_int_equal(sli_tokenizer_encode(tok, "<|im_end|>", 10, SLI_PARSE_SPECIAL, &ids, &err), SL_OK);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.data[0], 3);
    assert_int_equal(sli_tokenizer_encode(tok, "<|im_end|>", 10, 0, &ids, &err), SL_OK);
    assert_true(ids.n > 3);
    size_t n = ids.n;
    assert_int_equal(sli_tokenizer_encode(tok, "", 0, SLI_ADD_SPECIAL, &ids, &err), SL_OK);
    assert_int_equal(ids.n, n + 1);
    assert_int_equal(ids.data[n], 0);
    sli_ids_free(&ids);
    sli_tokenizer_close(tok);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double time_of(const sli_tokenizer *tok, const char *text, size_t n) {
    SL_ERROR(err);
    sli_ids ids = {0};
    double start = seconds();
    assert_int_equal(sli_tokenizer_encode(tok, text, n, SLI_PARSE_SPECIAL, &ids, &err), SL_OK);
    double spent = seconds() - start;
    char *back;
    size_t len;
    assert_int_equal(sli_tokenizer_decode(tok, ids.data, ids.n, 0, &back, &len, &err), SL_OK);
    assert_int_equal(len, n);
    assert_memory_equal(back, text, n);
    sli_free(back);
    sli_ids_free(&ids);
    return spent;
}

/* Half a megabyte that is one word for the Llama-2 pipeline, and shapes that trouble regular expressions and merges: eight
 * times the text takes nowhere near sixty-four times as long. */
static void long_texts_take_linear_time(void **state) {
    (void)state;
    static const char *const names[] = {"tests/data/tokenizers/llama2", "tests/data/tokenizers/llama3",
                                        "tests/data/tokenizers/gpt2"};
    static const char *const units[] = {"The old boat left the harbour. ", " ", "a", "\n", "the", "<s", "\xe4\xbd\xa0"};
    size_t n = 1 << 19;
    char *text = malloc(n);
    assert_non_null(text);
    for (int k = 0; k < 3; k++) {
        sli_tokenizer *tok = open_tokenizer(names[k]);
        for (int u = 0; u < 7; u++) {
            size_t unit = strlen(units[u]), whole = (u == 0 ? n : n / 8) / unit * unit,
                   eighth = whole / unit / 8 * unit;
            for (size_t i = 0; i < whole; i++)
                text[i] = units[u][i % unit];
            double small = time_of(tok, text, eighth), large = time_of(tok, text, whole);
            if (large > 32 * small + 0.2)
                fail_msg("%s, '%s': %zu bytes took %.3f s, %zu bytes %.3f s", names[k], units[u], eighth, small, whole,
                         large);
        }
        sli_tokenizer_close(tok);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_answers),
        cmocka_unit_test(config_in_all_shapes),
        cmocka_unit_test(template_file_counts_more),
        cmocka_unit_test(same_and_different_vocabularies),
        cmocka_unit_test(flags_and_appending),
        cmocka_unit_test(long_texts_take_linear_time),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
