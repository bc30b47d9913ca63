/* For tests of the CUDA module: the module of this build (or SLUICE_CUDA_MODULE), a device, a ledger that is counted.
 */
#ifndef SLUICE_TEST_CUDA_MODULE_H
#define SLUICE_TEST_CUDA_MODULE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dlfcn.h>

#include "cuda_api.h"

#include "sl_error.h"

typedef struct ledger {
    int64_t now[3], calls; /* by SL_DEVICE_* */
    char log[1024];        /* the last line of level error */
} ledger;

static inline void count_bytes(void *user, uint32_t device, uint32_t tag, int64_t bytes) {
    ledger *l = user;
    (void)tag;
    assert_true(device == SL_DEVICE_CUDA || device == SL_DEVICE_HOST_PINNED);
    l->now[device] += bytes;
    l->calls++;
}
static inline void keep_line(void *user, uint32_t level, const char *text) {
    ledger *l = user;
    if (level == SL_LOG_ERROR)
        snprintf(l->log, sizeof l->log, "%s", text);
}

static inline const sli_cuda_api *module_api(void) {
    char path[1024];
    const char *named = getenv("SLUICE_CUDA_MODULE"), *build = getenv("SLUICE_BUILD");
    if (named != NULL)
        snprintf(path, sizeof path, "%s", named);
    else
        snprintf(path, sizeof path, "%s/core/device/cuda/sluice-cuda.so", build != NULL ? build : ".");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    void *symbol = dlsym(library, SLI_CUDA_SYMBOL);
    if (symbol == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    sli_cuda_module_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    return entry();
}

/* NULL: there is no device, `why` says why; any other failure ends the program. */
static inline sli_cuda *module_open(const sli_cuda_api *api, ledger *l, uint32_t debug, int64_t cap, char *why,
                                    size_t why_bytes) {
    sli_cuda_options options = {.debug = debug, .memory_cap = cap, .ledger = count_bytes, .log = keep_line, .user = l};
    sli_cuda *cuda = NULL;
    SL_ERROR(err);
    memset(l, 0, sizeof *l);
    const sl_status status = api->open(&options, &cuda, &err);
    if (status == SL_OK)
        return cuda;
    assert_null(cuda);
    snprintf(why, why_bytes, "%s", err.text);
    if (status != SL_E_NOT_FOUND) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return NULL;
}

/* The device, or the test is skipped with the reason. */
#define OPEN_OR_SKIP(cuda, api, ledger, debug, cap)                                                                    \
    char cuda##_why[512];                                                                                              \
    sli_cuda *cuda = module_open(api, ledger, debug, cap, cuda##_why, sizeof cuda##_why);                              \
    if (cuda == NULL) {                                                                                                \
        print_message("skipped: %s\n", cuda##_why);                                                                    \
        skip();                                                                                                        \
    }

#endif
