/* Seeded values of a device: the bits that the host computes. */
#include "testhost_rows.h"

#include "random_value.h"

static void try_fill(slt_host *h, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude) {
    const int64_t element = slt_element(dtype);
    char *want = slt_alloc(n, (size_t)element), *got = slt_alloc(n, (size_t)element);
    for (int64_t i = 0; i < n; i++) {
        const float x = slk_random_value(seed, (uint64_t)i) * amplitude;
        const uint16_t narrow = slt_narrow(dtype, x);
        memcpy(want + i * element, dtype == SL_F32 ? (const void *)&x : &narrow, (size_t)element);
    }
    const slk_random_params p = {.y = slt_device(h, n * element), .n = n, .seed = seed, .amplitude = amplitude};
    assert_int_equal(slk_cuda_random(&h->k, h->lane, &p, dtype), SL_OK);
    slt_download(h, got, p.y, n * element);
    char what[96];
    snprintf(what, sizeof what, "%lld values of %s, seed %llu", (long long)n, slt_name(dtype),
             (unsigned long long)seed);
    slt_same_bytes(what, want, got, n * element);
    free(want), free(got);
}

static void test_values(void **state) {
    slt_host *h = slt_get(state);
    const sl_dtype types[] = {SL_F32, SL_F16, SL_BF16};
    for (int t = 0; t < 3; t++) {
        try_fill(h, types[t], 1, 0, 1);
        try_fill(h, types[t], 7, 1, 0.02f);
        try_fill(h, types[t], 8, 2, 1);
        try_fill(h, types[t], 2049, 3, 0.013f);
        try_fill(h, types[t], 5000003, 0xfedcba9876543210u, 0.02f); /* more than one turn of the grid */
    }
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    slk_random_params p = {.y = slt_device(h, 64), .n = 8, .amplitude = 1};
    assert_int_equal(slk_cuda_random(&h->k, h->lane, &p, SL_I8), SL_E_UNIMPLEMENTED);
    p.y = (char *)p.y + 2;
    assert_int_equal(slk_cuda_random(&h->k, h->lane, &p, SL_BF16), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("random_cuda", tests, slt_setup, slt_teardown);
}
