/* Models: real checkpoints open; a missing, mis-shaped, wrongly typed or not finite weight is named. */
#include "checkpoint.h"

#include "base/dtype.h"
#include "base/ledger.h"
#include "model/model.h"

static const char *source(const char *path) {
    static char buf[640];
    snprintf(buf, sizeof buf, "%s/%s", getenv("SLUICE_SOURCE"), path);
    return buf;
}

static void opens_tiny(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_model *m;
    sli_ledger_report before, during, after;
    sli_ledger_read(&before);
    if (sli_model_open(source("models/tiny"), &m, &err) < 0)
        fail_msg("%s", err.text);
    const sli_model_desc *d = sli_model_describe(m);
    assert_true(d->n_layers == 6 && d->hidden == 256 && d->vocab == 4096 && d->head_dim == 64 && d->tied);
    assert_true(d->bos == 0 && d->n_eos == 2 && d->eos[0] == 1 && d->eos[1] == 3);
    const sl_tensor *down = sli_model_weight(m, 3, SLI_ROLE_DOWN);
    assert_string_equal(sli_model_weight_name(m, 3, SLI_ROLE_DOWN), "model.layers.3.mlp.down_proj.weight");
    assert_true(down->dtype == SL_BF16 && down->shape[0] == 256 && down->shape[1] == 640 && down->stride[0] == 640);
    assert_true(down->align >= 2 && (uintptr_t)down->data % down->align == 0);
    assert_ptr_equal(sli_model_weight(m, -1, SLI_ROLE_HEAD), sli_model_weight(m, -1, SLI_ROLE_EMBED));
    assert_null(sli_model_weight(m, 0, SLI_ROLE_Q_BIAS));
    assert_null(sli_model_weight_name(m, 0, SLI_ROLE_Q_NORM));
    int64_t layer = 2 * 256 + 2 * 256 * 256 + 2 * 128 * 256 + 3 * 640 * 256;
    assert_int_equal(sli_model_params(m), 4096 * 256 + 256 + 6 * layer);
    assert_int_equal(sli_model_bytes(m), 2 * sli_model_params(m));
    assert_int_equal(sli_model_unused_tensors(m), 0);
    if (sli_model_verify(m, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
    sli_ledger_read(&during);
    assert_true(during.now[SLI_TAG_WEIGHTS] - before.now[SLI_TAG_WEIGHTS] >= sli_model_bytes(m));
    sli_model_close(m);
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
}

static void opens_every_architecture(void **state) {
    (void)state;
    static const struct {
        const char *name;
        sl_dtype dtype;
        uint32_t has; /* of which these bits */
        int32_t tied;
    } cases[] = {
        {"llama2", SL_F16, SLI_HAS_HEAD, 0},
        {"llama3", SL_BF16, 0, 1},
        {"llama31", SL_F32, SLI_HAS_HEAD, 0},
        {"llama_bias", SL_F32, SLI_HAS_ATTN_BIAS | SLI_HAS_MLP_BIAS | SLI_HAS_HEAD, 0},
        {"llama_linear", SL_F32, SLI_HAS_HEAD, 0},
        {"llama_yarn", SL_BF16, SLI_HAS_HEAD, 0},
        {"mistral", SL_F32, SLI_HAS_HEAD, 0},
        {"qwen2", SL_F32, SLI_HAS_QKV_BIAS | SLI_HAS_HEAD, 0},
        {"qwen2_full", SL_F32, SLI_HAS_QKV_BIAS, 1},
        {"qwen3", SL_F32, SLI_HAS_QK_NORM, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        char path[128];
        sli_model *m;
        snprintf(path, sizeof path, "tests/data/arch/%s", cases[i].name);
        if (sli_model_open(source(path), &m, &err) < 0)
            fail_msg("%s", err.text);
        const sli_model_desc *d = sli_model_describe(m);
        assert_int_equal(d->has, cases[i].has);
        assert_int_equal(d->tied, cases[i].tied);
        assert_int_equal(d->dtype, cases[i].dtype);
        assert_int_equal(sli_model_unused_tensors(m), 0);
        assert_int_equal(sli_model_weight(m, 0, SLI_ROLE_Q)->dtype, cases[i].dtype);
        assert_int_equal(sli_model_weight(m, 0, SLI_ROLE_K_BIAS) != NULL, (cases[i].has & SLI_HAS_K_BIAS) != 0);
        assert_int_equal(sli_model_weight(m, 0, SLI_ROLE_Q_NORM) != NULL, (cases[i].has & SLI_HAS_QK_NORM) != 0);
        assert_int_equal(sli_model_weight(m, 1, SLI_ROLE_DOWN_BIAS) != NULL, (cases[i].has & SLI_HAS_MLP_BIAS) != 0);
        assert_int_equal(sli_model_verify(m, NULL, NULL, &err), SL_OK);
        sli_model_close(m);
    }
}

/* ---- a small checkpoint with one thing wrong ------------------------------------------------------------------- */

#define KEYS                                                                                                           \
    "\"hidden_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":6,"    \
    "\"intermediate_size\":10,\"vocab_size\":16"

static const struct {
    const char *name, *shape;
    int64_t n;
    int of_layer;
} weights[] = {
    {"model.embed_tokens.weight", "[16,8]", 128, 0},
    {"lm_head.weight", "[16,8]", 128, 0},
    {"model.norm.weight", "[8]", 8, 0},
    {"input_layernorm.weight", "[8]", 8, 1},
    {"post_attention_layernorm.weight", "[8]", 8, 1},
    {"self_attn.q_proj.weight", "[12,8]", 96, 1},
    {"self_attn.k_proj.weight", "[6,8]", 48, 1},
    {"self_attn.v_proj.weight", "[6,8]", 48, 1},
    {"self_attn.o_proj.weight", "[8,12]", 96, 1},
    {"mlp.gate_proj.weight", "[10,8]", 80, 1},
    {"mlp.up_proj.weight", "[10,8]", 80, 1},
    {"mlp.down_proj.weight", "[8,10]", 80, 1},
};

/* What is different from a good checkpoint: the tensor `name` is left out, or has another shape or dtype, or an element
 * of other bits. */
typedef struct flaw {
    const char *name;
    const char *shape; /* NULL: as it should be */
    const char *dtype; /* NULL: F32 */
    int drop;
    int64_t at; /* -1: no element is changed */
    uint32_t bits;
} flaw;

static void add_weight(st_file *f, size_t i, int layer, const flaw *w) {
    char name[128];
    float data[128] = {0};
    if (weights[i].of_layer)
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, weights[i].name);
    else
        snprintf(name, sizeof name, "%s", weights[i].name);
    for (int64_t k = 0; k < weights[i].n; k++)
        data[k] = (float)k / 100;
    if (w == NULL || strcmp(w->name, name) != 0) {
        st_add(f, name, "F32", weights[i].shape, data, (size_t)weights[i].n * 4);
        return;
    }
    if (w->drop)
        return;
    if (w->at >= 0 && w->dtype == NULL)
        memcpy(&data[w->at], &w->bits, 4);
    else if (w->at >= 0)
        memcpy((unsigned char *)data + 2 * w->at, &w->bits, 2);
    size_t element = w->dtype == NULL ? 4 : (size_t)sli_dtype_bits(sli_dtype_find(w->dtype)) / 8;
    st_add(f, name, w->dtype != NULL ? w->dtype : "F32", w->shape != NULL ? w->shape : weights[i].shape, data,
           (size_t)weights[i].n * element);
}

static void make_checkpoint(const temp_dir *dir, const char *config, const flaw *w) {
    st_file f = {0};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        for (int layer = 0; layer < (weights[i].of_layer ? 2 : 1); layer++)
            add_weight(&f, i, layer, w);
    float extra = 1;
    st_add(&f, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[1]", &extra, sizeof extra);
    st_finish(&f, 0);
    temp_write(dir, "model.safetensors", f.bytes, f.n);
    temp_write(dir, "config.json", config, strlen(config));
    st_free(&f);
}

static const char good_config[] = "{\"model_type\":\"llama\"," KEYS "}";

static void names_missing_and_wrong_weights(void **state) {
    (void)state;
    static const struct {
        const char *config;
        flaw flaw;
        const char *says;
    } cases[] = {
        {good_config,
         {.name = "lm_head.weight", .drop = 1},
         "no tensor \"lm_head.weight\" of shape [16, 8] in the checkpoint, and \"tie_word_embeddings\" is not true"},
        {good_config,
         {.name = "model.layers.1.mlp.up_proj.weight", .drop = 1},
         "no tensor \"model.layers.1.mlp.up_proj.weight\" of shape [10, 8]"},
        {good_config, {.name = "model.norm.weight", .drop = 1}, "no tensor \"model.norm.weight\" of shape [8]"},
        {good_config,
         {.name = "model.layers.0.self_attn.o_proj.weight", .shape = "[12,8]", .at = -1},
         "model.safetensors: tensor \"model.layers.0.self_attn.o_proj.weight\": expected shape [8, 12] (hidden_size, "
         "num_attention_heads * head_dim), found [12, 8]"},
        {good_config,
         {.name = "model.layers.1.self_attn.k_proj.weight", .shape = "[48]", .at = -1},
         "tensor \"model.layers.1.self_attn.k_proj.weight\": expected shape [6, 8] (num_key_value_heads * head_dim, "
         "hidden_size), found [48]"},
        {good_config,
         {.name = "model.norm.weight", .shape = "[8,1]", .at = -1},
         "expected shape [8] (hidden_size), found [8, 1]"},
        {good_config,
         {.name = "model.embed_tokens.weight", .dtype = "I8", .at = -1},
         "tensor \"model.embed_tokens.weight\": expected dtype F32, F16 or BF16, found I8"},
        {good_config, {.name = "model.layers.0.mlp.gate_proj.weight", .dtype = "F8_E4M3", .at = -1}, "found F8_E4M3"},
        {"{\"model_type\":\"qwen2\"," KEYS "}",
         {.name = ""},
         "no tensor \"model.layers.0.self_attn.q_proj.bias\" of shape [12]"},
        {"{\"model_type\":\"qwen3\"," KEYS "}",
         {.name = ""},
         "no tensor \"model.layers.0.self_attn.q_norm.weight\" of shape [6]"},
        {"{\"model_type\":\"llama\",\"mlp_bias\":true," KEYS "}",
         {.name = ""},
         "no tensor \"model.layers.0.mlp.gate_proj.bias\" of shape [10]"},
        {"{\"model_type\":\"llama\"," KEYS ",\"num_hidden_layers\":3}",
         {.name = ""},
         "no tensor \"model.layers.2.input_layernorm.weight\""},
        {"{\"model_type\":\"gpt2\"," KEYS "}", {.name = ""}, "config.json: \"model_type\": expected one of"},
    };
    temp_dir dir;
    temp_dir_make(&dir);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        sli_model *m;
        make_checkpoint(&dir, cases[i].config, &cases[i].flaw);
        sl_status s = sli_model_open(dir.path, &m, &err);
        if (s >= 0 || m != NULL || strstr(err.text, cases[i].says) == NULL || strstr(err.text, dir.path) == NULL)
            fail_msg("case %zu: status %d, \"%s\", expected \"%s\"", i, s, err.text, cases[i].says);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
    temp_dir_remove(&dir);

    SL_ERROR(err);
    sli_model *m;
    assert_int_equal(sli_model_open("/nonexistent/model", &m, &err), SL_E_NOT_FOUND);
    assert_string_equal(err.text, "/nonexistent/model: no such directory, expected a checkpoint with config.json");
    assert_int_equal(sli_model_open(source("VERSION"), &m, &err), SL_E_IO);
    assert_non_null(strstr(err.text, "not a directory"));
    assert_int_equal(sli_model_open(source("core"), &m, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "core/config.json: cannot open: No such file or directory"));
}

static void opens_the_small_one(void **state) {
    (void)state;
    temp_dir dir;
    temp_dir_make(&dir);
    SL_ERROR(err);
    sli_model *m;
    make_checkpoint(&dir, good_config, NULL);
    if (sli_model_open(dir.path, &m, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sli_model_unused_tensors(m), 1);
    assert_true(sli_model_weight(m, -1, SLI_ROLE_HEAD) != sli_model_weight(m, -1, SLI_ROLE_EMBED));
    sli_model_close(m);
    /* Tied: the head of its own is left alone. */
    make_checkpoint(&dir, "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," KEYS "}", NULL);
    if (sli_model_open(dir.path, &m, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sli_model_unused_tensors(m), 2);
    assert_ptr_equal(sli_model_weight(m, -1, SLI_ROLE_HEAD), sli_model_weight(m, -1, SLI_ROLE_EMBED));
    sli_model_close(m);
    temp_dir_remove(&dir);
}

static void note_bad(void *user, const sli_bad_weight *bad) {
    char *text = user;
    size_t used = strlen(text);
    snprintf(text + used, 512 - used, "%s:%lld:%lld;", bad->name, (long long)bad->index, (long long)bad->count);
}

static void names_weights_that_are_not_finite(void **state) {
    (void)state;
    static const struct {
        flaw flaw;
        const char *found; /* "" when the value is finite */
    } cases[] = {
        {{.name = "model.layers.1.mlp.down_proj.weight", .at = 79, .bits = 0x7fc00000},
         "model.layers.1.mlp.down_proj.weight:79:1;"},
        {{.name = "model.norm.weight", .at = 0, .bits = 0xff800000}, "model.norm.weight:0:1;"},
        {{.name = "model.norm.weight", .at = 0, .bits = 0x7f7fffff}, ""}, /* the largest number */
        {{.name = "lm_head.weight", .dtype = "BF16", .at = 5, .bits = 0x7f81}, "lm_head.weight:5:1;"},
        {{.name = "lm_head.weight", .dtype = "BF16", .at = 127, .bits = 0xff7f}, ""},
        {{.name = "model.layers.0.self_attn.q_proj.weight", .dtype = "F16", .at = 95, .bits = 0x7c00},
         "model.layers.0.self_attn.q_proj.weight:95:1;"},
        {{.name = "model.layers.0.self_attn.q_proj.weight", .dtype = "F16", .at = 95, .bits = 0x7bff}, ""},
    };
    temp_dir dir;
    temp_dir_make(&dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        sli_model *m;
        make_checkpoint(&dir, good_config, &cases[i].flaw);
        if (sli_model_open(dir.path, &m, &err) < 0)
            fail_msg("%s", err.text);
        char seen[512] = "";
        sl_status s = sli_model_verify(m, note_bad, seen, &err);
        assert_string_equal(seen, cases[i].found);
        assert_int_equal(s, seen[0] != '\0' ? SL_E_DATA : SL_OK);
        if (seen[0] != '\0') {
            char says[256];
            snprintf(says, sizeof says, "tensor \"%s\": NaN or Inf at element %lld", cases[i].flaw.name,
                     (long long)cases[i].flaw.at);
            assert_non_null(strstr(err.text, says));
        }
        sli_model_close(m);
    }
    temp_dir_remove(&dir);
}

static void survives_lack_of_memory(void **state) {
    (void)state;
    temp_dir dir;
    temp_dir_make(&dir);
    make_checkpoint(&dir, good_config, NULL);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    int failures = 0;
    for (sl_status s = SL_E_NO_MEMORY; s < 0; failures++) {
        SL_ERROR(err);
        sli_model *m;
        sli_ledger_fail_after(failures);
        s = sli_model_open(dir.path, &m, &err);
        sli_ledger_fail_after(-1);
        assert_true(s == SL_OK || s == SL_E_NO_MEMORY);
        assert_true((s == SL_OK) == (m != NULL));
        sli_model_close(m);
        sli_ledger_read(&after);
        assert_int_equal(after.total, before.total);
    }
    assert_true(failures > 12);
    temp_dir_remove(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_tiny),
        cmocka_unit_test(opens_every_architecture),
        cmocka_unit_test(opens_the_small_one),
        cmocka_unit_test(names_missing_and_wrong_weights),
        cmocka_unit_test(names_weights_that_are_not_finite),
        cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
