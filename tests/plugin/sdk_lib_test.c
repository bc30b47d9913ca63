/* Helpers of plugin authors: parameters by name, tensors and their counts. */
#include "sl_test.h"

#include "sl_params.h"
#include "sl_tensor.h"

static void reads_parameters(void **state) {
    (void)state;
    const double list[] = {1, 2, 3};
#define VALUE(...)                                                                                                     \
    &(const sl_param_value) { .struct_size = SL_SIZE(sl_param_value), __VA_ARGS__ }
    const sl_param_value *const values[] = {
        VALUE(.name = "bits", .integer = 4, .real = 4, .is_set = 1),
        VALUE(.name = "ratio", .real = 0.25, .is_set = 1),
        VALUE(.name = "head", .integer = 1, .is_set = 1),
        VALUE(.name = "scheme", .integer = 2, .text = "asym", .is_set = 1),
        VALUE(.name = "layers", .list = list, .n = 3, .is_set = 1),
        VALUE(.name = "artifact"),
        VALUE(.name = "unset_choice", .integer = -1),
    };
    const sl_params params = {SL_SIZE(sl_params), values, 7};
    int64_t n;
    assert_int_equal(sl_param_int(&params, "bits"), 4);
    assert_true(sl_param_real(&params, "bits") == 4 && sl_param_real(&params, "ratio") == 0.25);
    assert_int_equal(sl_param_bool(&params, "head"), 1);
    assert_int_equal(sl_param_index(&params, "scheme"), 2);
    assert_int_equal(sl_param_int(&params, "scheme"), 2);
    assert_string_equal(sl_param_text(&params, "scheme"), "asym");
    assert_ptr_equal(sl_param_list(&params, "layers", &n), list);
    assert_int_equal(n, 3);
    assert_null(sl_param_list(&params, "bits", &n));
    assert_int_equal(n, 0);
    assert_null(sl_param_text(&params, "artifact"));
    assert_int_equal(sl_param_is_set(&params, "artifact"), 0);
    assert_int_equal(sl_param_index(&params, "unset_choice"), -1);
    assert_int_equal(sl_param_bool(&params, "unset_choice"), 0);
    assert_null(sl_param_find(&params, "nope"));
    assert_null(sl_param_find(NULL, "bits"));
}

static void knows_dtypes(void **state) {
    (void)state;
    assert_int_equal(sl_dtype_bits(SL_F32), 32);
    assert_int_equal(sl_dtype_bits(SL_BF16), 16);
    assert_int_equal(sl_dtype_bits(SL_U2), 2);
    assert_int_equal(sl_dtype_bits(SL_DTYPE_NONE), 0);
    assert_int_equal(sl_dtype_bits(9999), 0);
    assert_string_equal(sl_dtype_name(SL_F8_E4M3), "F8_E4M3");
    assert_string_equal(sl_dtype_name(9999), "?");
    assert_string_equal(sl_dtype_name(SL_DTYPE_NONE), "?");
    for (sl_dtype d = 1; d < SL_DTYPE_END_; d++)
        assert_int_equal(sl_dtype_from_name(sl_dtype_name(d)), d);
    assert_int_equal(sl_dtype_from_name("F31"), SL_DTYPE_NONE);
}

static void makes_views(void **state) {
    (void)state;
    _Alignas(64) static float data[64];
    sl_tensor t;
    const int64_t shape[] = {2, 3, 4};
    assert_int_equal(sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 3, shape), SL_OK);
    assert_int_equal(t.stride[0], 12);
    assert_int_equal(t.stride[1], 4);
    assert_int_equal(t.stride[2], 1);
    assert_true(t.align >= 64 && (uintptr_t)data % t.align == 0);
    assert_true(sl_tensor_is_contiguous(&t));
    int64_t n, bytes;
    assert_int_equal(sl_tensor_count(&t, &n), SL_OK);
    assert_int_equal(n, 24);
    assert_int_equal(sl_tensor_bytes(&t, &bytes), SL_OK);
    assert_int_equal(bytes, 96);
    t.stride[0] = 20;
    assert_false(sl_tensor_is_contiguous(&t));
    t.shape[0] = 1; /* the stride of one row does not matter */
    assert_true(sl_tensor_is_contiguous(&t));
    assert_int_equal(sl_tensor_make(&t, data + 1, SL_F32, SL_DEVICE_CPU, 0, shape), SL_OK);
    assert_int_equal(t.align, 4);
    assert_int_equal(sl_tensor_count(&t, &n), SL_OK);
    assert_int_equal(n, 1);
    const int64_t odd[] = {3};
    assert_int_equal(sl_tensor_make(&t, data, SL_I4, SL_DEVICE_CPU, 1, odd), SL_OK);
    assert_int_equal(sl_tensor_bytes(&t, &bytes), SL_OK);
    assert_int_equal(bytes, 2);
    assert_true(t.flags & SL_TENSOR_PACKED);
}

static void refuses_what_cannot_be_counted(void **state) {
    (void)state;
    sl_tensor t;
    const int64_t huge[] = {INT64_C(1) << 40, INT64_C(1) << 40}, empty[] = {0, INT64_C(1) << 40, INT64_C(1) << 40};
    const int64_t negative[] = {4, -1}, bits[] = {INT64_MAX / 16};
    const int64_t five[] = {1, 1, 1, 1, 1};
    int64_t out = 7;
    assert_int_equal(sl_tensor_make(&t, NULL, SL_F32, SL_DEVICE_CPU, 2, huge), SL_E_RANGE);
    assert_int_equal(sl_tensor_make(&t, NULL, SL_F32, SL_DEVICE_CPU, 3, empty), SL_E_RANGE);
    assert_int_equal(sl_tensor_make(&t, NULL, SL_F32, SL_DEVICE_CPU, 1, bits), SL_E_RANGE);
    assert_int_equal(sl_tensor_make(&t, NULL, SL_F32, SL_DEVICE_CPU, 2, negative), SL_E_INVALID);
    assert_int_equal(sl_tensor_make(&t, NULL, SL_F32, SL_DEVICE_CPU, 5, five), SL_E_INVALID);
    assert_int_equal(sl_tensor_make(&t, NULL, 77, SL_DEVICE_CPU, 1, five), SL_E_INVALID);
    assert_int_equal(sl_mul_ok(INT64_MAX, 2, &out), 0);
    assert_int_equal(sl_mul_ok(-1, 2, &out), 0);
    assert_int_equal(sl_add_ok(INT64_MAX, 1, &out), 0);
    assert_int_equal(out, 7);
    assert_int_equal(sl_mul_ok(INT64_MAX, 1, &out), 1);
    assert_true(out == INT64_MAX);
    assert_int_equal(sl_mul_ok(INT64_MAX, 0, &out), 1);
    assert_int_equal(out, 0);
    assert_int_equal(sl_add_ok(INT64_MAX, 0, &out), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_parameters),
        cmocka_unit_test(knows_dtypes),
        cmocka_unit_test(makes_views),
        cmocka_unit_test(refuses_what_cannot_be_counted),
    };
    return cmocka_run_group_tests_name("sdk_lib", tests, NULL, NULL);
}
