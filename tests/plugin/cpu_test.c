/* CPU detection agrees with what the compiler's run-time library finds. */
#include "sl_test.h"

#include <sched.h>

#include "device/cpu/cpuinfo.h"

static void finds_instruction_sets(void **state) {
    (void)state;
    sli_cpuinfo cpu;
    sli_cpuinfo_read(&cpu);
    assert_true(cpu.brand[0] != '\0' && strlen(cpu.brand) < sizeof cpu.brand);
#if defined(__x86_64__)
    __builtin_cpu_init(); /* this one asks the operating system too */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); /* every CPU with AVX2 has F16C */
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    assert_int_equal((cpu.isa & SL_ISA_AVX2) != 0, avx2);
    assert_int_equal((cpu.isa & SL_ISA_AVX512) != 0, avx512);
    assert_int_equal((cpu.isa & SL_ISA_AVX512_VNNI) != 0, avx512 && __builtin_cpu_supports("avx512vnni"));
    assert_int_equal((cpu.isa & SL_ISA_AVX512_BF16) != 0, avx512 && __builtin_cpu_supports("avx512bf16"));
#else
    assert_int_equal(cpu.isa, 0);
#endif
}

static void counts_the_cores_of_the_affinity_mask(void **state) {
    (void)state;
    cpu_set_t before, one;
    sli_cpuinfo cpu;
    if (sched_getaffinity(0, sizeof before, &before) != 0)
        skip();
    sli_cpuinfo_read(&cpu);
    assert_int_equal(cpu.cores, CPU_COUNT(&before));
    int first = 0;
    while (!CPU_ISSET(first, &before))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        skip();
    sli_cpuinfo_read(&cpu);
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(cpu.cores, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_instruction_sets),
        cmocka_unit_test(counts_the_cores_of_the_affinity_mask),
    };
    return cmocka_run_group_tests_name("cpu", tests, NULL, NULL);
}
