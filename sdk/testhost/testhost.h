/* A host of some hundred lines for tests and benches of kernels: one device, its lane, memory with red zones, the shared
 * kernels - through the same "sl.exec/1" as in the product, without the core. */
#ifndef SLUICE_TESTHOST_H
#define SLUICE_TESTHOST_H

#include "slk_cuda.h"

typedef struct slt_host {
    sl_host base;
    const sl_exec *exec;
    const sl_lane *lane;
    slk_cuda k;      /* all shared kernels */
    struct slt_host_impl *impl;
} slt_host;

/* 0: there is a device. Else `why` says why not ("no CUDA driver: libcuda.so.1 ..."): tests skip with it. Any other
 * failure ends the program with a message: a device that is there and does not work is no reason to skip. */
int slt_open(slt_host *h, char *why, size_t why_bytes);
void slt_close(slt_host *h); /* checks all red zones, releases everything; ends the program if one was written */

/* Device memory, filled with a poison that is a NaN in every format; freed by slt_close. bytes > 0. */
void *slt_device(slt_host *h, int64_t bytes);
/* Device memory with these contents. */
void *slt_upload(slt_host *h, const void *data, int64_t bytes);
void slt_write(slt_host *h, void *device, const void *data, int64_t bytes);
/* Waits, then copies back. */
void slt_download(slt_host *h, void *data, const void *device, int64_t bytes);
/* Waits; ends the program with the driver's message and the kernel's name when something failed. */
void slt_sync(slt_host *h);

/* Median microseconds of one call of run, in a replayed graph of `calls` calls, over `repeats` replays; run(user, i) gets
 * i = 0 .. calls - 1 so that it can rotate buffers beyond the L2. */
double slt_time_us(slt_host *h, int calls, int repeats, void (*run)(void *user, int i), void *user);

/* Deterministic data: uniform in [-1, 1). */
void slt_random(float *x, int64_t n, uint64_t seed);
uint16_t slt_bf16(float x); /* nearest even */
float slt_float(uint16_t bf16);

#endif
