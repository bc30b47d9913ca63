/* config.json: defaults, both generations of keys, windows by architecture, and what is refused, with the key's name.
 */
#include "sl_test.h"

#include "base/file.h"
#include "base/ledger.h"
#include "model/arch.h"
#include "model/hf_config.h"

#define SIZES                                                                                                          \
    "\"hidden_size\":32,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                  \
    "\"intermediate_size\":48,\"vocab_size\":100"
#define OF(type) "{\"model_type\":\"" type "\"," SIZES

static sl_status parse(const char *text, const char *generation, sli_model_desc *d, sl_error *err) {
    return sli_hf_config_parse("config.json", text, strlen(text), "generation_config.json", generation,
                               generation != NULL ? strlen(generation) : 0, d, err);
}

static sli_model_desc must(const char *text) {
    SL_ERROR(err);
    sli_model_desc d;
    if (parse(text, NULL, &d, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return d;
}

static void defaults_are_those_of_the_reference(void **state) {
    (void)state;
    static const struct {
        const char *type;
        uint32_t has;
        sli_qk_norm qk_norm;
        int32_t head_dim, positions, window, bos, eos;
    } cases[] = {
        {"llama", SLI_HAS_HEAD, SLI_QK_NORM_NONE, 8, 2048, 0, 1, 2},
        {"mistral", SLI_HAS_HEAD, SLI_QK_NORM_NONE, 8, 131072, 4096, 1, 2},
        {"qwen2", SLI_HAS_HEAD | SLI_HAS_QKV_BIAS, SLI_QK_NORM_NONE, 8, 32768, 0, -1, -1},
        {"qwen3", SLI_HAS_HEAD | SLI_HAS_QK_NORM, SLI_QK_NORM_HEAD, 128, 32768, 0, -1, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SIZES "}", cases[i].type);
        sli_model_desc d = must(text);
        assert_string_equal(d.arch->model_type, cases[i].type);
        assert_int_equal(d.has, cases[i].has);
        assert_int_equal(d.qk_norm, cases[i].qk_norm);
        assert_int_equal(d.head_dim, cases[i].head_dim);
        assert_true(d.attn_scale == 1 / sqrt((double)cases[i].head_dim));
        assert_int_equal(d.max_positions, cases[i].positions);
        assert_int_equal(d.bos, cases[i].bos);
        assert_int_equal(d.n_eos, cases[i].eos >= 0);
        assert_true(d.n_eos == 0 || d.eos[0] == cases[i].eos);
        assert_true(d.norm_eps == 1e-6f && d.act == SLI_ACT_SILU && !d.tied && d.dtype == SL_DTYPE_NONE);
        assert_true(d.n_rope == 1 && d.rope[0].theta == 10000 && d.rope[0].dim == d.head_dim);
        for (int l = 0; l < 4; l++) {
            assert_int_equal(d.n_q[l], 4);
            assert_int_equal(d.n_kv[l], 2);
            assert_int_equal(d.ffn[l], 48);
            assert_int_equal(d.window[l], cases[i].window);
            assert_int_equal(d.rope_table[l], 0);
        }
        sli_model_desc_free(&d);
    }
}

/* Windows of the four layers. */
static void windows_follow_the_architecture(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int32_t window[4];
    } cases[] = {
        {OF("llama") ",\"sliding_window\":16}", {0, 0, 0, 0}}, /* the reference does not look at it either */
        {OF("mistral") ",\"sliding_window\":16}", {16, 16, 16, 16}},
        {OF("mistral") ",\"sliding_window\":null}", {0, 0, 0, 0}},
        {OF("qwen2") ",\"sliding_window\":16}", {0, 0, 0, 0}},
        {OF("qwen2") ",\"sliding_window\":16,\"use_sliding_window\":false,\"max_window_layers\":0}", {0, 0, 0, 0}},
        {OF("qwen2") ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":3}", {0, 0, 0, 16}},
        {OF("qwen2") ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":4}", {0, 0, 0, 0}},
        {OF("qwen2") ",\"sliding_window\":16,\"use_sliding_window\":true}", {0, 0, 0, 0}}, /* from layer 28 on */
        {OF("qwen2") ",\"use_sliding_window\":true,\"max_window_layers\":1}", {0, 4096, 4096, 4096}},
        {OF("qwen3") ",\"sliding_window\":null,\"use_sliding_window\":true,\"max_window_layers\":0}", {0, 0, 0, 0}},
        {OF("qwen3") ",\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":2,"
                     "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\","
                     "\"sliding_attention\"]}",
         {16, 0, 0, 16}},
        {OF("llama") ",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]}",
         {0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sli_model_desc d = must(cases[i].text);
        for (int l = 0; l < 4; l++)
            if (d.window[l] != cases[i].window[l])
                fail_msg("%s: layer %d: window %d, expected %d", cases[i].text, l, d.window[l], cases[i].window[l]);
        sli_model_desc_free(&d);
    }
}

static void switches_are_read(void **state) {
    (void)state;
    sli_model_desc d =
        must(OF("llama") ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true,"
                         "\"hidden_act\":\"gelu_pytorch_tanh\",\"rms_norm_eps\":1e-5,\"head_dim\":null,"
                         "\"torch_dtype\":\"bfloat16\",\"max_position_embeddings\":77,\"bos_token_id\":9,"
                         "\"eos_token_id\":[5,6],\"quantization_config\":null,\"num_experts\":null}");
    assert_int_equal(d.has, SLI_HAS_ATTN_BIAS | SLI_HAS_MLP_BIAS);
    assert_true(d.tied && d.act == SLI_ACT_GELU_TANH && d.norm_eps == 1e-5f && d.head_dim == 8);
    assert_int_equal(d.dtype, SL_BF16);
    assert_int_equal(d.max_positions, 77);
    assert_true(d.bos == 9 && d.n_eos == 2 && d.eos[0] == 5 && d.eos[1] == 6);
    sli_model_desc_free(&d);

    d = must(OF("qwen3") ",\"dtype\":\"float16\",\"torch_dtype\":\"float32\",\"attention_bias\":true,\"head_dim\":null,"
                         "\"bos_token_id\":null,\"eos_token_id\":null}");
    assert_int_equal(d.dtype, SL_F16);
    assert_int_equal(d.has, SLI_HAS_HEAD | SLI_HAS_QK_NORM | SLI_HAS_ATTN_BIAS);
    assert_int_equal(d.head_dim, 8);
    assert_true(d.bos == -1 && d.n_eos == 0);
    sli_model_desc_free(&d);

    /* A key-value head count left out: the class default of qwen2 is 32, of llama as many as query heads. */
    const char *text = "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
                       "\"intermediate_size\":8,\"vocab_size\":2}";
    d = must(text);
    assert_int_equal(d.n_kv[0], 4);
    assert_true(d.bos == 1 && d.n_eos == 0); /* class default 2 is outside this vocabulary */
    sli_model_desc_free(&d);
}

static void rope_keys_of_both_generations(void **state) {
    (void)state;
    static const struct {
        const char *keys;
        double theta, factor;
        sli_rope_scaling scaling;
        double original;
    } cases[] = {
        {",\"rope_theta\":5e5", 5e5, 1, SLI_ROPE_PLAIN, 2048},
        {",\"rope_theta\":5e5,\"rope_scaling\":null", 5e5, 1, SLI_ROPE_PLAIN, 2048},
        {",\"rope_theta\":1000000,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", 1e6, 2, SLI_ROPE_LINEAR, 2048},
        {",\"rope_parameters\":{\"rope_theta\":7e4,\"rope_type\":\"default\"}", 7e4, 1, SLI_ROPE_PLAIN, 2048},
        {",\"rope_theta\":5e5,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4}", 5e5, 4, SLI_ROPE_LINEAR,
         2048},
        {",\"rope_parameters\":{\"rope_theta\":7e4,\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4}",
         7e4, 8, SLI_ROPE_LLAMA3, 2048},
        {",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":512}", 1e4, 4,
         SLI_ROPE_YARN, 512},
        {",\"original_max_position_embeddings\":256,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}", 1e4, 4,
         SLI_ROPE_YARN, 256},
        {",\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":7e4}", 7e4, 1, SLI_ROPE_PLAIN, 2048},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text, OF("llama") "%s}", cases[i].keys);
        sli_model_desc d = must(text);
        const sli_rope *r = &d.rope[0];
        if (r->theta != cases[i].theta || r->factor != cases[i].factor || r->scaling != cases[i].scaling ||
            r->original_max != cases[i].original)
            fail_msg("%s: theta %g factor %g scaling %d original %g", text, r->theta, r->factor, (int)r->scaling,
                     r->original_max);
        sli_model_desc_free(&d);
    }
}

static void generation_config_overrides(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_model_desc d;
    const char *config = OF("llama") ",\"bos_token_id\":3,\"eos_token_id\":4}";
    assert_int_equal(parse(config, NULL, &d, &err), SL_OK);
    assert_true(d.bos == 3 && d.eos[0] == 4 && d.generation.do_sample == -1 && d.generation.top_k == -1);
    assert_true(isnan(d.generation.temperature) && isnan(d.generation.top_p));
    sli_model_desc_free(&d);
    assert_int_equal(
        parse(config,
              "{\"eos_token_id\":[7,8,9],\"do_sample\":true,\"temperature\":0.6,\"top_k\":20,\"top_p\":0.9,"
              "\"min_p\":0,\"repetition_penalty\":1.05,\"bos_token_id\":null}",
              &d, &err),
        SL_OK);
    assert_true(d.bos == 3 && d.n_eos == 3 && d.eos[2] == 9);
    const sli_generation *g = &d.generation;
    assert_true(g->do_sample == 1 && g->temperature == 0.6 && g->top_k == 20 && g->top_p == 0.9 && g->min_p == 0 &&
                g->repetition_penalty == 1.05);
    sli_model_desc_free(&d);
    static const char *const bad[][2] = {
        {"{\"eos_token_id\":100}",
         "generation_config.json: \"eos_token_id\": expected a token id from 0 to 99, found 100"},
        {"{\"temperature\":-1}", "\"temperature\": expected number from 0 to 1000000, found -1"},
        {"{\"top_p\":1.5}", "\"top_p\": expected number from 0 to 1, found 1.5"},
        {"{\"top_k\":0.5}", "\"top_k\": expected integer from 0 to"},
        {"[]", "generation_config.json:1:1: expected an object"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse(config, bad[i][0], &d, &err), SL_E_DATA);
        if (strstr(err.text, bad[i][1]) == NULL)
            fail_msg("%s: %s", bad[i][0], err.text);
        assert_null(d.n_q);
    }
}

/* Each case is a config.json of llama with one thing wrong; `drop` is a key of SIZES that is left out. */
static void refuses_by_key(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{", "config.json:1:1:"},
        {"{}", "\"model_type\": expected a string, found nothing"},
        {"{\"model_type\":\"mamba\"}", "\"model_type\": expected one of llama, mistral, qwen2, qwen3, found \"mamba\""},
        {"{\"model_type\":\"llama\"}", "\"num_hidden_layers\": expected integer from 1 to 4096, found nothing"},
        {OF("llama") ",\"hidden_size\":\"x\"}", "\"hidden_size\": expected integer from 1 to 16777216, found \"x\""},
        {OF("llama") ",\"hidden_size\":0}", "\"hidden_size\""},
        {OF("llama") ",\"hidden_size\":30}", "\"hidden_size\": expected a multiple of num_attention_heads (4)"},
        {OF("llama") ",\"hidden_size\":12}", "heads of 3 dimensions, expected an even number"},
        {OF("llama") ",\"head_dim\":7}", "heads of 7 dimensions"},
        {OF("llama") ",\"head_dim\":-1}", "\"head_dim\": expected integer from 1"},
        {OF("llama") ",\"num_hidden_layers\":1000000000}", "\"num_hidden_layers\": expected integer from 1 to 4096"},
        {OF("llama") ",\"num_attention_heads\":0}", "\"num_attention_heads\""},
        {OF("llama") ",\"num_key_value_heads\":3}",
         "\"num_attention_heads\": expected a multiple of num_key_value_heads"},
        {OF("llama") ",\"intermediate_size\":null}",
         "\"intermediate_size\": expected integer from 1 to 16777216, found null"},
        {OF("llama") ",\"vocab_size\":4294967296}", "\"vocab_size\""},
        {OF("llama") ",\"max_position_embeddings\":0}", "\"max_position_embeddings\""},
        {OF("llama") ",\"rms_norm_eps\":-1}", "\"rms_norm_eps\""},
        {OF("llama") ",\"hidden_act\":\"relu\"}", "\"hidden_act\": expected silu or gelu_pytorch_tanh, found \"relu\""},
        {OF("llama") ",\"tie_word_embeddings\":1}", "\"tie_word_embeddings\": expected true or false, found 1"},
        {OF("llama") ",\"torch_dtype\":\"float64\"}", "\"torch_dtype\": expected float32, float16 or bfloat16"},
        {OF("llama") ",\"dtype\":\"int8\"}", "\"dtype\": expected float32, float16 or bfloat16, found \"int8\""},
        {OF("mistral") ",\"attention_bias\":true}",
         "\"attention_bias\": expected false for this model_type, found true"},
        {OF("qwen3") ",\"mlp_bias\":true}", "\"mlp_bias\": expected false for this model_type, found true"},
        {OF("llama") ",\"num_local_experts\":8}", "\"num_local_experts\": expected nothing, found 8"},
        {OF("llama") ",\"final_logit_softcapping\":30.0}", "\"final_logit_softcapping\""},
        {OF("llama") ",\"text_config\":{}}", "\"text_config\""},
        {OF("llama") ",\"partial_rotary_factor\":0.5}", "\"partial_rotary_factor\": expected 1, found 0.5"},
        {OF("llama") ",\"rope_theta\":0}", "\"rope_theta\": expected number > 0"},
        {OF("llama") ",\"rope_scaling\":7}", "\"rope_scaling\": expected an object, found 7"},
        {OF("llama") ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
         "RoPE scaling that is not supported: config.json: \"rope_scaling.type\": expected one of default, linear, "
         "llama3, "
         "yarn, found \"dynamic\""},
        {OF("llama") ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "\"rope_scaling.rope_type\": expected one of"},
        {OF("llama") ",\"rope_scaling\":{\"factor\":2}}", "\"rope_scaling.type\": expected a string, found nothing"},
        {OF("llama") ",\"rope_scaling\":{\"type\":\"linear\"}}", "\"rope_scaling.factor\": expected number"},
        {OF("llama") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}",
         "\"rope_scaling.factor\": expected number"},
        {OF("llama") ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
                     "\"high_freq_factor\":4}}",
         "\"rope_scaling.high_freq_factor\": expected more than low_freq_factor (4), found 4"},
        {OF("llama") ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "\"rope_scaling.low_freq_factor\""},
        {OF("llama") ",\"rope_theta\":1,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8}}",
         "\"rope_scaling.rope_theta\""},
        {OF("llama") ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"beta_slow\":33}}",
         "\"rope_scaling.beta_fast\""},
        {OF("llama") ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}}", "RoPE by layer type"},
        {OF("qwen2") ",\"sliding_window\":0,\"use_sliding_window\":true}",
         "\"sliding_window\": expected integer from 1"},
        {OF("qwen2") ",\"layer_types\":[\"full_attention\"]}", "\"layer_types\": expected 4 items"},
        {OF("qwen2") ",\"layer_types\":[1,2,3,4]}",
         "\"layer_types\": expected full_attention and sliding_attention only"},
        {OF("qwen2") ",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"chunked_attention\"]"
                     "}",
         "\"layer_types\": expected full_attention and sliding_attention only"},
        {OF("qwen2") ",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"]"
                     "}",
         "item 3 is sliding_attention"},
        {OF("mistral") ",\"sliding_window\":16,\"layer_types\":[\"full_attention\",\"full_attention\",\"full_"
                       "attention\","
                       "\"sliding_attention\"]}",
         "item 0 is full_attention"},
        {OF("llama") ",\"bos_token_id\":-1}", "\"bos_token_id\": expected a token id from 0 to 99, found -1"},
        {OF("llama") ",\"eos_token_id\":\"</s>\"}", "\"eos_token_id\": expected a token id"},
        {OF("llama") ",\"eos_token_id\":[1,100]}", "\"eos_token_id\": expected a token id from 0 to 99, found 100"},
        {OF("llama") ",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
         "\"eos_token_id\": expected at most 32 token ids"},
    };
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        sli_model_desc d;
        sl_status s = parse(cases[i].text, NULL, &d, &err);
        if (s >= 0 || strstr(err.text, cases[i].says) == NULL || strstr(err.text, "config.json") == NULL)
            fail_msg("%s: status %d, \"%s\", expected \"%s\"", cases[i].text, s, err.text, cases[i].says);
        assert_int_equal(s, err.code);
        assert_null(d.n_q);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
}

/* A configuration written by transformers 5 and the same one as older releases wrote it are the same model. */
static void old_and_new_files_agree(void **state) {
    (void)state;
    static const char *const names[] = {"llama2", "llama31", "llama_linear", "mistral", "qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sli_model_desc d[2];
        for (int old = 0; old < 2; old++) {
            SL_ERROR(err);
            char path[640];
            char *text;
            size_t n;
            snprintf(path, sizeof path, "%s/tests/data/arch/%s/config%s.json", getenv("SLUICE_SOURCE"), names[i],
                     old ? "_old" : "");
            if (sli_file_read(path, 1 << 20, &text, &n, &err) < 0 ||
                sli_hf_config_parse(path, text, n, NULL, NULL, 0, &d[old], &err) < 0)
                fail_msg("%s", err.text);
            sli_free(text);
        }
        assert_int_equal(d[0].n_layers, d[1].n_layers);
        assert_int_equal(d[0].has, d[1].has);
        assert_int_equal(d[0].head_dim, d[1].head_dim);
        assert_int_equal(d[0].dtype, d[1].dtype);
        assert_int_equal(d[0].max_positions, d[1].max_positions);
        assert_memory_equal(d[0].n_q, d[1].n_q, 5 * sizeof(int32_t) * (size_t)d[0].n_layers);
        assert_int_equal(d[0].rope[0].scaling, d[1].rope[0].scaling);
        assert_memory_equal(d[0].rope[0].inv_freq, d[1].rope[0].inv_freq, (size_t)d[0].rope[0].dim / 2 * sizeof(float));
        sli_model_desc_free(&d[0]);
        sli_model_desc_free(&d[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_reference),
        cmocka_unit_test(windows_follow_the_architecture),
        cmocka_unit_test(switches_are_read),
        cmocka_unit_test(rope_keys_of_both_generations),
        cmocka_unit_test(generation_config_overrides),
        cmocka_unit_test(refuses_by_key),
        cmocka_unit_test(old_and_new_files_agree),
    };
    return cmocka_run_group_tests_name("hf_config", tests, NULL, NULL);
}
