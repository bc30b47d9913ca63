/* The ledger counts what it gives out, by tag, and fails on request. */
#include "sl_test.h"

#include "base/ledger.h"

static void counts_by_tag(void **state) {
    (void)state;
    sli_ledger_report before, during, after;
    sli_ledger_read(&before);
    char *p = sli_alloc(SLI_TAG_KV, 1000);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(p[i], 0);
    sli_ledger_read(&during);
    assert_int_equal(during.now[SLI_TAG_KV] - before.now[SLI_TAG_KV], 1000);
    assert_int_equal(during.allocations - before.allocations, 1);
    p[999] = 7;
    p = sli_realloc(SLI_TAG_KV, p, 3000);
    assert_int_equal(p[999], 7);
    sli_free(p);
    sli_ledger_read(&after);
    assert_int_equal(after.now[SLI_TAG_KV], before.now[SLI_TAG_KV]);
    assert_true(after.peak[SLI_TAG_KV] >= before.now[SLI_TAG_KV] + 3000);
    sli_ledger_note_device(SLI_LEDGER_DEVICE, SLI_TAG_KV, 500);
    sli_ledger_note_device(SLI_LEDGER_DEVICE, SLI_TAG_KV, -400);
    sli_ledger_restart_peaks();
    sli_ledger_device_report device;
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &device);
    assert_int_equal(device.peak[SLI_TAG_KV], 100);
    assert_int_equal(device.total_peak, 100);
    sli_ledger_read(&after);
    for (int t = 0; t < SLI_TAG_COUNT; t++)
        assert_int_equal(after.peak[t], after.now[t]);
    assert_int_equal(after.total_peak, after.total);
    sli_ledger_note_device(SLI_LEDGER_DEVICE, SLI_TAG_KV, -100);
}

static void refuses_overflow_and_fails_on_request(void **state) {
    (void)state;
    assert_null(sli_calloc(SLI_TAG_MISC, SIZE_MAX / 2, 3));
    assert_null(sli_alloc(SLI_TAG_MISC, SIZE_MAX - 10));
    sli_ledger_fail_after(1);
    void *p = sli_alloc(SLI_TAG_MISC, 1);
    assert_non_null(p);
    assert_null(sli_alloc(SLI_TAG_MISC, 1));
    assert_null(sli_strdup(SLI_TAG_MISC, "x"));
    sli_ledger_fail_after(-1);
    sli_free(p);
    sli_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_by_tag),
        cmocka_unit_test(refuses_overflow_and_fails_on_request),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
