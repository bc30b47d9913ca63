/* RoPE tables against transformers (tests/data/rope.json) and against the closed forms. */
#include "sl_test.h"

#include "base/json.h"
#include "model/hf_config.h"
#include "model/rope_table.h"

static sli_json golden;

static int load(void **state) {
    (void)state;
    SL_ERROR(err);
    char path[640];
    snprintf(path, sizeof path, "%s/tests/data/rope.json", getenv("SLUICE_SOURCE"));
    if (sli_json_load(path, 1 << 20, 0, &golden, &err) == SL_OK)
        return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}

static int unload(void **state) {
    (void)state;
    sli_json_free(&golden);
    return 0;
}

static sli_model_desc desc_of(const char *text, size_t n) {
    SL_ERROR(err);
    sli_model_desc d;
    if (sli_hf_config_parse("config.json", text, n, NULL, NULL, 0, &d, &err) < 0)
        fail_msg("%s", err.text);
    return d;
}

/* The frequency's last bit may differ (see rope_table.c); where it does not, angles are the same fp32 numbers. */
static void agrees_with_transformers(void **state) {
    (void)state;
    json_t *positions = json_object_get(golden.value, "positions");
    int32_t step = (int32_t)json_integer_value(json_object_get(golden.value, "step"));
    json_t *list = json_object_get(golden.value, "cases"), *c;
    size_t k, inexact = 0, all = 0;
    assert_int_equal(json_array_size(list), 10);
    json_array_foreach(list, k, c) {
        const char *name = json_string_value(json_object_get(c, "name"));
        char *text = json_dumps(json_object_get(c, "config"), 0);
        sli_model_desc d = desc_of(text, strlen(text));
        free(text);
        const sli_rope *r = &d.rope[0];
        json_t *bits = json_object_get(c, "inv_freq_bits");
        assert_int_equal(json_array_size(bits), r->dim / 2);
        int exact[256];
        for (int32_t i = 0; i < r->dim / 2; i++) {
            int32_t got;
            memcpy(&got, &r->inv_freq[i], 4);
            int32_t off = abs(got - (int32_t)json_integer_value(json_array_get(bits, (size_t)i)));
            if (off > 2)
                fail_msg("%s: frequency %d is off by %d last bits", name, i, off);
            exact[i] = off == 0;
            inexact += off != 0;
            all++;
        }
        for (size_t p = 0; p < json_array_size(positions); p++) {
            float co[256], si[256];
            sli_rope_fill(&d, 0, json_integer_value(json_array_get(positions, p)), 1, co, si);
            for (int32_t i = 0; i < r->dim / 2; i += step) {
                size_t at = (size_t)(i / step);
                double ref_cos = json_number_value(json_array_get(json_array_get(json_object_get(c, "cos"), p), at));
                double ref_sin = json_number_value(json_array_get(json_array_get(json_object_get(c, "sin"), p), at));
                if (exact[i] && !(fabs((double)co[i] - ref_cos) <= 2e-7 && fabs((double)si[i] - ref_sin) <= 2e-7))
                    fail_msg("%s: pair %d at position index %zu: %.9g %.9g, expected %.9g %.9g", name, i, p,
                             (double)co[i], (double)si[i], ref_cos, ref_sin);
            }
        }
        sli_model_desc_free(&d);
    }
    assert_true(all > 400 && inexact * 50 < all); /* last bits differ in less than 2 of 100 */
}

/* llama3: the three regions and the continuity at their borders, in double. */
static void llama3_has_three_regions(void **state) {
    (void)state;
    const char *text =
        "{\"model_type\":\"llama\",\"hidden_size\":256,\"num_attention_heads\":2,\"num_hidden_layers\":1,"
        "\"intermediate_size\":8,\"vocab_size\":8,\"head_dim\":128,\"rope_theta\":500000.0,"
        "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}";
    sli_model_desc d = desc_of(text, strlen(text));
    int kept = 0, mixed = 0, stretched = 0;
    for (int i = 0; i < 64; i++) {
        double f = pow(500000.0, -2.0 * i / 128), wave = 2 * acos(-1.0) / f, want = f;
        double smooth = (8192 / wave - 1) / (4 - 1);
        if (wave < 8192.0 / 4)
            kept++;
        else if (wave > 8192.0)
            want = f / 8, stretched++;
        else
            want = (1 - smooth) * f / 8 + smooth * f, mixed++;
        float got = d.rope[0].inv_freq[i], ref = (float)want;
        check_close("inv_freq", &ref, &got, 1, 1e-6, 0);
        if (wave < 8192.0 / 4) { /* untouched, to the last bit */
            float plain = 1.0f / (float)pow(500000.0, (double)((float)(2 * i) / 128.0f));
            assert_true(got == plain);
        }
    }
    assert_true(kept > 20 && mixed > 3 && stretched > 20);
    sli_model_desc_free(&d);
}

/* A wave exactly on a border belongs to the mix, whose value there is that of the neighbouring region. */
static void llama3_borders_are_continuous(void **state) {
    (void)state;
    float f[1];
    for (int side = 0; side < 2; side++) {
        sli_rope r = {.scaling = SLI_ROPE_LLAMA3, .dim = 2, .theta = 10000, .factor = 8, .inv_freq = f};
        r.low_freq_factor = 1;
        r.high_freq_factor = 4;
        /* The only frequency is 1, its wave 2 pi: make that original_max/high (side 0) or original_max/low (side 1). */
        double wave = 2 * acos(-1.0), nudges[] = {-1e-5, 0, 1e-5};
        for (int k = 0; k < 3; k++) {
            r.original_max = wave * (side == 0 ? 4 : 1) * (1 + nudges[k]);
            sli_rope_frequencies(&r);
            float want = side == 0 ? 1.0f : 0.125f;
            check_close("border", &want, f, 1, 1e-4, 0);
        }
    }
}

static void fills_rows_by_position(void **state) {
    (void)state;
    const char *text = "{\"model_type\":\"qwen2\",\"hidden_size\":16,\"num_attention_heads\":2,\"num_hidden_layers\":1,"
                       "\"num_key_value_heads\":1,\"intermediate_size\":8,\"vocab_size\":8,\"rope_theta\":100}";
    sli_model_desc d = desc_of(text, strlen(text));
    assert_int_equal(d.rope[0].dim, 8);
    float co[5 * 4], si[5 * 4], one_co[4], one_si[4];
    sli_rope_fill(&d, 0, 10, 5, co, si);
    for (int t = 0; t < 5; t++) {
        sli_rope_fill(&d, 0, 10 + t, 1, one_co, one_si);
        assert_memory_equal(one_co, co + 4 * t, sizeof one_co);
        assert_memory_equal(one_si, si + 4 * t, sizeof one_si);
        for (int i = 0; i < 4; i++) {
            float want = (float)cos((10 + t) * pow(100, -i / 4.0));
            check_close("cos", &want, &one_co[i], 1, 0, 1e-5);
        }
    }
    sli_model_desc_free(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers),
        cmocka_unit_test(llama3_has_three_regions),
        cmocka_unit_test(llama3_borders_are_continuous),
        cmocka_unit_test(fills_rows_by_position),
    };
    return cmocka_run_group_tests_name("rope", tests, load, unload);
}
