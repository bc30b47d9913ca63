/* Instruction sets: names, forcing a level, and what stands in the tables. */
#include "kernels_test.h"

static void test_parse(void **state) {
    (void)state;
    uint32_t isa = 99;
    assert_int_equal(slk_isa_parse("ref", &isa), 0);
    assert_int_equal(isa, SLK_ISA_REF);
    assert_int_equal(slk_isa_parse("auto", &isa), 0);
    assert_int_equal(isa, slk_isa_detect());
    assert_int_equal(slk_isa_parse("AVX2", &isa), -1);
    assert_int_equal(slk_isa_parse("avx2", &isa), slk_isa_detect() & SLK_ISA_AVX2 ? 0 : -2);
    assert_int_equal(isa, slk_isa_detect() & SLK_ISA_AVX2);
    assert_int_equal(slk_isa_parse("avx512", &isa), slk_isa_detect() & SLK_ISA_AVX512 ? 0 : -2);
    assert_string_equal(slk_isa_name(SLK_ISA_REF), "ref");
    assert_string_equal(slk_isa_name(SLK_ISA_AVX2), "avx2");
    assert_string_equal(slk_isa_name(SLK_ISA_AVX2 | SLK_ISA_AVX512 | SLK_ISA_AVX512BF16), "avx512-bf16");
}

static void test_tables_full(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n = test_tables(tables);
    assert_true(n >= 1);
    for (int i = 0; i < n; i++)
        for (int op = 0; op < SLK_KERNEL_COUNT; op++) {
            const char *name = slk_kernel_name(tables[i], op);
            assert_non_null(name);
            const char *level = tables[i]->isa & SLK_ISA_AVX512 ? "_avx512"
                                : tables[i]->isa & SLK_ISA_AVX2 ? "_avx2"
                                                                : "_ref";
            if (strstr(name, level) == NULL)
                fail_msg("table %s holds %s", slk_isa_name(tables[i]->isa), name);
        }
    assert_string_equal(slk_kernels_for(SLK_ISA_REF)->attend_name, "attend_ref");
    /* flags without those below them, and flags the machine lacks, are dropped */
    assert_int_equal(slk_kernels_for(SLK_ISA_AVX512)->isa, SLK_ISA_REF);
    assert_int_equal(slk_kernels_for(~0u)->isa, slk_isa_detect());
    assert_string_equal(slk_kernel_name(tables[0], SLK_KERNEL_COUNT), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_tables_full)};
    return cmocka_run_group_tests_name("isa", tests, NULL, NULL);
}
