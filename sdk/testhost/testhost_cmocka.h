/* What a cmocka test of a kernel begins with: one host for the whole group, tests skipped where there is no device.
 *
 *   static void test_x(void **state) { slt_host *h = slt_get(state); ... }
 *   int main(void) {
 *       const struct CMUnitTest tests[] = {cmocka_unit_test(test_x)};
 *       return cmocka_run_group_tests_name("x", tests, slt_setup, slt_teardown);
 *   }
 */
#ifndef SLUICE_TESTHOST_CMOCKA_H
#define SLUICE_TESTHOST_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "testhost.h"

static slt_host slt_one;
static char slt_why[512];

static int slt_setup(void **state) {
    *state = slt_open(&slt_one, slt_why, sizeof slt_why) == 0 ? &slt_one : NULL;
    if (*state == NULL)
        print_message("skipped: %s\n", slt_why);
    return 0;
}
static int slt_teardown(void **state) {
    if (*state != NULL)
        slt_close(*state);
    return 0;
}
/* The host; without a device the test is skipped here. */
static inline slt_host *slt_get(void **state) {
    if (*state == NULL)
        skip();
    return *state;
}

#endif
