/* test_host.h - a host for tests of single plugins: memory that is counted and can be made scarce, threads that are none,
 * conversion between f32 and bf16. Everything else is absent, unless the test adds a table. */
#ifndef SLUICE_TEST_HOST_H
#define SLUICE_TEST_HOST_H

#include "sl_test.h"

#include "sluice/ops.h"
#include "sluice/plugin.h"

typedef struct test_host {
    sl_host host;           /* host.impl points back to this */
    int64_t n_allocations;  /* ever */
    int64_t n_live, bytes_live;
    int64_t budget;         /* bytes that may be live at once; -1: no limit */
    int has_device;         /* 1: memory of a device may be had too (test_lane.h) */
    sl_ops ops;             /* convert is there; a test may add others */
    sl_threads threads;
    sl_mem mem;
    const void *(*more)(struct test_host *host, const char *id); /* services of the test's own, asked first; or NULL */
    void *user;
} test_host;

void test_host_init(test_host *t);

/* Parameters of a plugin: the table's defaults, with "key=value" over them (NULL-terminated; NULL: none). Texts that are
 * out of range fail the test. test_params_free. */
sl_params *test_params(const sl_plugin *plugin, const char *const *sets);
void test_params_free(sl_params *params);

#endif
