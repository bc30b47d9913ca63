/* Damaged and unsuitable checkpoints: each is refused with one line that names what is wrong, by the library and by the
 * command, and nothing crashes. The checkpoint that is damaged is the small random draft model. */
#include "cli.h"
#include "st_file.h"

static st_file good;

typedef struct damage {
    const char *name;
    void (*apply)(const char *dir, const struct damage *d);
    const char *words[4];   /* that the message must contain */
    const char *text;       /* for apply: a file's text, a tensor's name ... */
    const char *more;
    int64_t number;
} damage;

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static void cut(const char *dir, const damage *d) {
    size_t n;
    char *bytes = e2e_read(e2e_path("tests/data/random_draft/model.safetensors"), &n);
    uint64_t header;
    memcpy(&header, bytes, 8);
    int64_t at = d->number >= 0 ? d->number : (int64_t)n + d->number;
    if (d->text != NULL) /* counted from the end of the header */
        at = (int64_t)header + 8 + d->number;
    e2e_put(dir, "model.safetensors", bytes, (size_t)at);
    free(bytes);
}

static void absurd_header(const char *dir, const damage *d) {
    size_t n;
    char *bytes = e2e_read(e2e_path("tests/data/random_draft/model.safetensors"), &n);
    uint64_t header = (uint64_t)d->number;
    memcpy(bytes, &header, 8);
    e2e_put(dir, "model.safetensors", bytes, n);
    free(bytes);
}

static void raw_header(const char *dir, const damage *d) {
    unsigned char bytes[512] = {0};
    uint64_t n = strlen(d->text);
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, d->text, n);
    e2e_put(dir, "model.safetensors", bytes, 8 + n);
}

/* Sets one field of one tensor's entry to a JSON value; text: tensor, more: "field=value". */
static void edit_entry(const char *dir, const damage *d) {
    st_file f = {json_deep_copy(good.header), good.data, good.bytes};
    char field[32];
    const char *equals = strchr(d->more, '=');
    snprintf(field, sizeof field, "%.*s", (int)(equals - d->more), d->more);
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL), *entry = json_object_get(f.header, d->text);
    assert_non_null(value);
    assert_non_null(entry);
    json_object_set_new(entry, field, value);
    st_write(&f, dir, "model.safetensors");
    json_decref(f.header);
}

/* A whole file without that tensor: what lay behind it moves up. */
static void drop_tensor(const char *dir, const damage *d) {
    st_file f = {json_deep_copy(good.header), malloc(good.bytes), good.bytes};
    const char *key;
    json_t *entry, *offsets = json_object_get(json_object_get(good.header, d->text), "data_offsets");
    json_int_t begin = json_integer_value(json_array_get(offsets, 0)), end = json_integer_value(json_array_get(offsets, 1));
    assert_non_null(f.data);
    assert_int_equal(json_object_del(f.header, d->text), 0);
    json_object_foreach(f.header, key, entry) {
        json_t *pair = json_object_get(entry, "data_offsets");
        for (size_t i = 0; i < json_array_size(pair); i++) {
            json_int_t at = json_integer_value(json_array_get(pair, i));
            if (at >= end)
                json_array_set_new(pair, i, json_integer(at - (end - begin)));
        }
    }
    memcpy(f.data, good.data, (size_t)begin);
    memcpy(f.data + begin, good.data + end, good.bytes - (size_t)end);
    f.bytes -= (size_t)(end - begin);
    st_write(&f, dir, "model.safetensors");
    st_free(&f);
}

#define EMBED "model.embed_tokens.weight"
#define DOWN "model.layers.0.mlp.down_proj.weight"

static const damage damages[] = {
    {"cut to 0 bytes", cut, {"model.safetensors"}, NULL, NULL, 0},
    {"cut to 4 bytes", cut, {"model.safetensors"}, NULL, NULL, 4},
    {"cut to 8 bytes", cut, {"model.safetensors"}, NULL, NULL, 8},
    {"cut in the header", cut, {"model.safetensors"}, NULL, NULL, 100},
    {"cut before the header's end", cut, {"model.safetensors"}, "header", NULL, -1},
    {"cut behind the header", cut, {"model.safetensors"}, "header", NULL, 0},
    {"cut in the data", cut, {"model.safetensors"}, "header", NULL, 1000},
    {"cut by one byte", cut, {"model.safetensors"}, NULL, NULL, -1},
    {"header of 0 bytes", absurd_header, {"model.safetensors"}, NULL, NULL, 0},
    {"header longer than the file", absurd_header, {"model.safetensors"}, NULL, NULL, 1 << 20},
    {"header of 2^62 bytes", absurd_header, {"model.safetensors"}, NULL, NULL, INT64_C(1) << 62},
    {"header of 2^64 - 1 bytes", absurd_header, {"model.safetensors"}, NULL, NULL, -1},
    {"header of 2^64 - 8 bytes", absurd_header, {"model.safetensors"}, NULL, NULL, -8},
    {"header that is no JSON", raw_header, {"model.safetensors"}, "{\"a\": {", NULL, 0},
    {"header that is an array", raw_header, {"model.safetensors"}, "[1, 2, 3]", NULL, 0},
    {"header without tensors", raw_header, {EMBED}, "{}", NULL, 0},
    {"header of another language", raw_header, {"model.safetensors"}, "<?xml version='1.0'?>", NULL, 0},
    {"offsets behind the end", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=[0, 999999999]", 0},
    {"offsets reversed", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=[262144, 0]", 0},
    {"offsets negative", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=[-262144, 0]", 0},
    {"offsets missing", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=null", 0},
    {"three offsets", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=[0, 1, 2]", 0},
    {"offsets as text", edit_entry, {"model.safetensors", EMBED}, EMBED, "data_offsets=[\"0\", \"8\"]", 0},
    {"shape that does not match the bytes", edit_entry, {"model.safetensors", EMBED}, EMBED, "shape=[4096, 33]", 0},
    {"shape that overflows", edit_entry, {"model.safetensors", EMBED}, EMBED, "shape=[4611686018427387904, 8]", 0},
    {"shape that is negative", edit_entry, {"model.safetensors", EMBED}, EMBED, "shape=[-4096, -32]", 0},
    {"shape that is a number", edit_entry, {"model.safetensors", EMBED}, EMBED, "shape=131072", 0},
    {"shape of nine dimensions", edit_entry, {"model.safetensors", EMBED}, EMBED, "shape=[4096, 32, 1, 1, 1, 1, 1, 1, 1]", 0},
    {"shape transposed", edit_entry, {DOWN, "32", "64"}, DOWN, "shape=[64, 32]", 0},
    {"shape of one dimension", edit_entry, {DOWN}, DOWN, "shape=[2048]", 0},
    {"unknown dtype", edit_entry, {"model.safetensors", EMBED, "BF17"}, EMBED, "dtype=\"BF17\"", 0},
    {"dtype as a number", edit_entry, {"model.safetensors", EMBED}, EMBED, "dtype=16", 0},
    {"unsupported dtype", edit_entry, {EMBED, "I16"}, EMBED, "dtype=\"I16\"", 0},
    {"missing embedding", drop_tensor, {EMBED}, EMBED, NULL, 0},
    {"missing matrix", drop_tensor, {DOWN}, DOWN, NULL, 0},
    {"missing norm", drop_tensor, {"model.norm.weight"}, "model.norm.weight", NULL, 0},
};

/* ---- configuration and tokenizer --------------------------------------------------------------------------------- */

static void replace(const char *dir, const damage *d) { e2e_put_text(dir, d->more, d->text); }
static void remove_file(const char *dir, const damage *d) { e2e_drop(dir, d->more); }

/* text: a JSON object that is laid over config.json; null removes a key. */
static void edit_config(const char *dir, const damage *d) {
    json_t *config = e2e_json(e2e_path("tests/data/random_draft/config.json")), *changes = json_loads(d->text, 0, NULL), *value;
    const char *key;
    assert_non_null(changes);
    json_object_foreach(changes, key, value) {
        if (json_is_null(value))
            json_object_del(config, key);
        else
            json_object_set(config, key, value);
    }
    char *text = json_dumps(config, JSON_INDENT(1));
    e2e_put_text(dir, "config.json", text);
    free(text);
    json_decref(config);
    json_decref(changes);
}

static void halve(const char *dir, const damage *d) {
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "tests/data/random_draft/%s", d->more);
    char *bytes = e2e_read(e2e_path(path), &n);
    e2e_put(dir, d->more, bytes, n / 2);
    free(bytes);
}

static const damage config_damages[] = {
    {"no config.json", remove_file, {"config.json"}, NULL, "config.json", 0},
    {"no model.safetensors", remove_file, {"model.safetensors"}, NULL, "model.safetensors", 0},
    {"config.json empty", replace, {"config.json"}, "", "config.json", 0},
    {"config.json broken", replace, {"config.json", "2"}, "{\n \"model_type\": \"llama\",\n", "config.json", 0},
    {"config.json an array", replace, {"config.json"}, "[]", "config.json", 0},
    {"config.json an empty object", replace, {"config.json"}, "{}", "config.json", 0},
    {"config.json deep", replace, {"config.json"},
     "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "config.json", 0},
    {"unknown model_type", edit_config, {"config.json", "mamba", "llama"}, "{\"model_type\": \"mamba\"}", NULL, 0},
    {"model_type a number", edit_config, {"config.json", "model_type"}, "{\"model_type\": 7}", NULL, 0},
    {"no hidden_size", edit_config, {"config.json", "hidden_size"}, "{\"hidden_size\": null}", NULL, 0},
    {"hidden_size a text", edit_config, {"config.json", "hidden_size"}, "{\"hidden_size\": \"wide\"}", NULL, 0},
    {"hidden_size negative", edit_config, {"config.json", "hidden_size"}, "{\"hidden_size\": -32}", NULL, 0},
    {"hidden_size another", edit_config, {"32"}, "{\"hidden_size\": 64}", NULL, 0},
    {"no layers", edit_config, {"config.json", "num_hidden_layers"}, "{\"num_hidden_layers\": 0}", NULL, 0},
    {"two layers", edit_config, {"model.layers.1."}, "{\"num_hidden_layers\": 2}", NULL, 0},
    {"a billion layers", edit_config, {"num_hidden_layers"}, "{\"num_hidden_layers\": 1000000000}", NULL, 0},
    {"no heads", edit_config, {"config.json", "num_attention_heads"}, "{\"num_attention_heads\": 0}", NULL, 0},
    {"heads that do not divide", edit_config, {"num_key_value_heads"}, "{\"num_attention_heads\": 3}", NULL, 0},
    {"another vocabulary", edit_config, {EMBED, "4096"}, "{\"vocab_size\": 5000}", NULL, 0},
    {"a huge vocabulary", edit_config, {"vocab_size"}, "{\"vocab_size\": 4611686018427387904}", NULL, 0},
    {"unknown activation", edit_config, {"config.json", "relu6"}, "{\"hidden_act\": \"relu6\"}", NULL, 0},
    {"unknown RoPE scaling", edit_config, {"config.json", "spiral"},
     "{\"rope_scaling\": {\"rope_type\": \"spiral\", \"factor\": 2}}", NULL, 0},
    {"tokenizer.json empty", replace, {"tokenizer.json"}, "", "tokenizer.json", 0},
    {"tokenizer.json an empty object", replace, {"tokenizer.json"}, "{}", "tokenizer.json", 0},
    {"tokenizer.json cut", halve, {"tokenizer.json"}, NULL, "tokenizer.json", 0},
    {"tokenizer.json of another kind", replace, {"tokenizer.json", "Unigram"},
     "{\"version\": \"1.0\", \"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "tokenizer.json", 0},
};

static void test_refused(void **state) {
    const damage *d = *state;
    const char *dir = e2e_linked_model("tests/data/random_draft");
    d->apply(dir, d);
    sluice_error err;
    e2e_open_refused(dir, NO_SETS, &err);
    if (strchr(err.text, '\n') != NULL)
        fail_msg("more than one line: %s", err.text);
    for (int i = 0; i < 4 && d->words[i] != NULL; i++)
        if (strstr(err.text, d->words[i]) == NULL)
            fail_msg("the error does not say \"%s\": %s", d->words[i], err.text);
    cli_refused(CLI("run", "-m", dir, "-p", "hello", "-n", "1"), d->words);
}

/* ---- shards, folders --------------------------------------------------------------------------------------------- */

static void test_shards(void **state) {
    (void)state;
    sluice_error err;
    const char *dir = e2e_linked_model("tests/data/arch/llama31");
    e2e_drop(dir, "model-00003-of-00004.safetensors");
    e2e_open_refused(dir, NO_SETS, &err);
    assert_non_null(strstr(err.text, "model-00003-of-00004.safetensors"));
    dir = e2e_linked_model("tests/data/arch/llama31");
    e2e_put_text(dir, "model.safetensors.index.json", "{\"weight_map\": 7}");
    e2e_open_refused(dir, NO_SETS, &err);
    assert_non_null(strstr(err.text, "model.safetensors.index.json"));
    /* the index must not lead out of the folder */
    dir = e2e_linked_model("tests/data/arch/llama31");
    e2e_put_text(dir, "model.safetensors.index.json", "{\"weight_map\": {\"model.norm.weight\": \"../../etc/passwd\"}}");
    e2e_open_refused(dir, NO_SETS, &err);
    assert_non_null(strstr(err.text, "../../etc/passwd"));
    /* a tensor stands in another shard than the index says */
    dir = e2e_linked_model("tests/data/arch/llama31");
    json_t *index = e2e_json(e2e_path("tests/data/arch/llama31/model.safetensors.index.json")), *map, *shard;
    map = json_object_get(index, "weight_map");
    shard = json_object_get(map, "model.norm.weight");
    int is_first = strcmp(json_string_value(shard), "model-00001-of-00004.safetensors") == 0;
    json_object_set_new(map, "model.norm.weight", json_string(is_first ? "model-00002-of-00004.safetensors" : "model-00001-of-00004.safetensors"));
    char *text = json_dumps(index, 0);
    e2e_put_text(dir, "model.safetensors.index.json", text);
    free(text);
    json_decref(index);
    e2e_open_refused(dir, NO_SETS, &err);
    assert_non_null(strstr(err.text, "model.norm.weight"));
}

static void test_folders(void **state) {
    (void)state;
    sluice_error err;
    e2e_open_refused("no/such/folder", NO_SETS, &err);
    assert_non_null(strstr(err.text, "no/such/folder"));
    e2e_open_refused("README.md", NO_SETS, &err);
    assert_non_null(strstr(err.text, "README.md"));
    cli_refused(CLI("run", "-m", "/nonexistent/folder", "-p", "x"), SETS("/nonexistent/folder"));
    sluice_options options = {0};
    sluice_engine *e = NULL;
    assert_true(sluice_open(&options, &e, &err) < 0);
    assert_null(e);
    assert_non_null(strstr(err.text, "model"));
}

/* ---- NaN and Inf ------------------------------------------------------------------------------------------------- */

static void test_not_a_number(void **state) {
    (void)state;
    static const struct {
        const char *tensor, *kind;
        uint16_t bits;
        int64_t index;
    } cases[] = {{DOWN, "NaN", 0x7fc1, 1037}, {"model.norm.weight", "Inf", 0xff80, 31}, {EMBED, "NaN", 0xffff, 131071}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *dir = e2e_linked_model("tests/data/random_draft");
        int64_t n;
        uint16_t *x = st_tensor(&good, cases[i].tensor, "BF16", &n), before = x[cases[i].index];
        assert_true(cases[i].index < n);
        x[cases[i].index] = cases[i].bits;
        st_write(&good, dir, "model.safetensors");
        x[cases[i].index] = before;
        sluice_engine *e = e2e_open(dir, NO_SETS);
        sluice_error err = {0};
        assert_true(sluice_verify_weights(e, &err) < 0);
        assert_non_null(strstr(err.text, cases[i].tensor));
        sluice_close(e);
        cli_refused(CLI("run", "-m", dir, "--verify", "-p", "hello", "-n", "1"), SETS(cases[i].tensor));
    }
    sluice_engine *e = e2e_open("tests/data/random_draft", NO_SETS);
    sluice_error err = {0};
    assert_int_equal(sluice_verify_weights(e, &err), 0);
    sluice_close(e);
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    (void)state;
    st_read(e2e_path("tests/data/random_draft/model.safetensors"), &good);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    st_free(&good);
    return 0;
}

int main(void) {
    enum { N = sizeof damages / sizeof *damages, M = sizeof config_damages / sizeof *config_damages };
    struct CMUnitTest tests[N + M + 3] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_not_a_number),
    };
    for (int i = 0; i < N + M; i++) {
        const damage *d = i < N ? &damages[i] : &config_damages[i - N];
        tests[3 + i] = (struct CMUnitTest){d->name, test_refused, NULL, NULL, (void *)(uintptr_t)d};
    }
    return cmocka_run_group_tests_name("bad_model", tests, set_up, tear_down);
}
