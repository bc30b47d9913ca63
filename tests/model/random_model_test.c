/* Models of known shapes: values are those that a device would make, weights that are not made can be told apart, sizes are
 * the published ones, mistakes are named. */
#include "sl_test.h"

#include <math.h>

#include "base/ledger.h"
#include "device/cpu/pool.h"
#include "model/model.h"
#include "model/shapes.h"
#include "random/random_value.h"
#include "rows/half.h"

static sli_model *open_shape(const char *name, sl_dtype dtype, uint64_t seed, int made, sli_pool *pool) {
    SL_ERROR(err);
    sli_model *m;
    sli_model_shape shape = {name, dtype, seed, made, pool};
    if (sli_model_open_shape(&shape, &m, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

static float value_at(const sl_tensor *t, int64_t i) {
    switch (t->dtype) {
    case SL_BF16: return slk_f32_of_bf16(((const uint16_t *)t->data)[i]);
    case SL_F16: return slk_f32_of_f16(((const uint16_t *)t->data)[i]);
    default: return ((const float *)t->data)[i];
    }
}

static float rounded(sl_dtype dtype, float x) {
    return dtype == SL_BF16  ? slk_f32_of_bf16(slk_bf16_of_f32(x))
           : dtype == SL_F16 ? slk_f32_of_f16(slk_f16_of_f32(x))
                             : x;
}

/* Weights in host memory are what is told about weights that are not made. */
static void values_agree(void **state) {
    (void)state;
    static const sl_dtype dtypes[] = {SL_BF16, SL_F16, SL_F32};
    SL_ERROR(err);
    sli_pool *pool;
    assert_int_equal(sli_pool_create(2, &pool, &err), SL_OK);
    for (int d = 0; d < 3; d++) {
        sli_model *made = open_shape("tiny", dtypes[d], 7, 1, d == 0 ? NULL : pool);
        sli_model *told = open_shape("tiny", dtypes[d], 7, 0, NULL);
        const sli_model_desc *desc = sli_model_describe(told);
        int n_random = 0;
        for (int32_t layer = -1; layer < desc->n_layers; layer++)
            for (sli_weight_role role = 0; role < SLI_ROLE_COUNT; role++) {
                const sl_tensor *a = sli_model_weight(made, layer, role), *b = sli_model_weight(told, layer, role);
                assert_int_equal(a != NULL, b != NULL);
                uint64_t seed;
                float amplitude;
                if (a == NULL)
                    continue;
                assert_int_equal(sli_model_random(made, a, &seed, &amplitude), 0);
                sl_tensor copy = *b;
                assert_int_equal(sli_model_random(told, &copy, &seed, &amplitude), a->ndim == 2);
                assert_int_equal(a->dtype, a->ndim == 2 ? dtypes[d] : SL_F32);
                if (a->ndim == 1) {
                    assert_true(value_at(a, 0) == 1 && value_at(b, a->shape[0] - 1) == 1);
                    continue;
                }
                n_random++;
                int64_t n = a->shape[0] * a->shape[1];
                for (int64_t i = 0; i < n; i += i < 4096 ? 1 : 997)
                    if (value_at(a, i) != rounded(a->dtype, slk_random_value(seed, (uint64_t)i) * amplitude))
                        fail_msg("%s: element %lld", sli_model_weight_name(made, layer, role), (long long)i);
            }
        assert_int_equal(n_random, 2 + 7 * desc->n_layers); /* the tied head is told as well */
        assert_int_equal(sli_model_verify(made, NULL, NULL, &err), SL_OK);
        assert_int_equal(sli_model_verify(told, NULL, NULL, &err), SL_OK);
        sli_model_close(made);
        sli_model_close(told);
    }
    sli_pool_destroy(pool);
}

/* Other seeds and other names are other values; rows of a matrix have the length that products of unit rows keep. */
static void values_spread(void **state) {
    (void)state;
    sli_model *m = open_shape("tiny", SL_F32, 0, 1, NULL), *other = open_shape("tiny", SL_F32, 1, 1, NULL);
    const sl_tensor *q = sli_model_weight(m, 0, SLI_ROLE_Q), *k = sli_model_weight(m, 1, SLI_ROLE_Q),
                    *o = sli_model_weight(other, 0, SLI_ROLE_Q);
    double sum = 0, squares = 0;
    int64_t n = q->shape[0] * q->shape[1], same = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += value_at(q, i);
        squares += (double)value_at(q, i) * value_at(q, i);
        same += value_at(q, i) == value_at(k, i) || value_at(q, i) == value_at(o, i);
    }
    assert_true(fabs(squares / (double)q->shape[0] - 1) < 0.02);
    assert_true(fabs(sum / (double)n) < 3e-4 && same < 3);
    sli_model_close(m);
    sli_model_close(other);
}

static void memory_is_accounted(void **state) {
    (void)state;
    sli_ledger_report before, during, after;
    sli_ledger_read(&before);
    sli_model *m = open_shape("tiny", SL_BF16, 0, 1, NULL);
    sli_ledger_read(&during);
    int64_t made = during.now[SLI_TAG_WEIGHTS] - before.now[SLI_TAG_WEIGHTS];
    assert_int_equal(made, sli_model_bytes(m));
    assert_int_equal(sli_model_is_mapped(m), 0);
    assert_null(sli_model_find(m, "lm_head.weight"));
    sli_model_close(m);
    m = open_shape("llama-3.1-70b", SL_BF16, 0, 0, NULL);
    sli_ledger_read(&during);
    assert_true(during.now[SLI_TAG_WEIGHTS] - before.now[SLI_TAG_WEIGHTS] < 8 << 20);
    sli_model_close(m);
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
}

/* Numbers of parameters as their makers publish them (embeddings included, a tied head once). */
static void sizes_are_the_published_ones(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t params;
        uint32_t has;
    } cases[] = {
        {"llama-2-7b", 6738415616, SLI_HAS_HEAD},    {"llama-3.1-8b", 8030261248, SLI_HAS_HEAD},
        {"llama-3.1-70b", 70553706496, SLI_HAS_HEAD}, {"llama-3.2-1b", 1235814400, 0},
        {"llama-3.2-3b", 3212749824, 0},             {"mistral-7b", 7248023552, SLI_HAS_HEAD},
        {"qwen2.5-0.5b", 494032768, SLI_HAS_QKV_BIAS}, {"qwen2.5-7b", 7615616512, SLI_HAS_QKV_BIAS | SLI_HAS_HEAD},
        {"qwen3-0.6b", 596049920, SLI_HAS_QK_NORM},  {"tinyllama-1.1b", 1100048384, SLI_HAS_HEAD},
        {"smollm2-135m", 134515008, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sli_model *m = open_shape(cases[i].name, SL_BF16, 0, 0, NULL);
        if (sli_model_params(m) != cases[i].params || sli_model_describe(m)->has != cases[i].has)
            fail_msg("%s: %lld parameters", cases[i].name, (long long)sli_model_params(m));
        sli_model_close(m);
    }
    for (int i = 0; sli_shape_name(i) != NULL; i++)
        sli_model_close(open_shape(sli_shape_name(i), SL_BF16, 0, 0, NULL));
}

static void unknown_names_get_a_hint(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_model *m;
    sli_model_shape shape = {"llama-3.1-8", SL_BF16, 0, 0, NULL};
    assert_int_equal(sli_model_open_shape(&shape, &m, &err), SL_E_NOT_FOUND);
    assert_null(m);
    assert_non_null(strstr(err.text, "did you mean \"llama-3.1-8b\"?"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_agree),
        cmocka_unit_test(values_spread),
        cmocka_unit_test(memory_is_accounted),
        cmocka_unit_test(sizes_are_the_published_ones),
        cmocka_unit_test(unknown_names_get_a_hint),
    };
    return cmocka_run_group_tests_name("random_model", tests, NULL, NULL);
}
