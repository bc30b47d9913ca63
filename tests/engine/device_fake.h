/* device_fake.h - a CUDA module without a GPU, for tests of the engine's device path.
 *
 * Device memory has addresses that the host cannot touch: a page that nobody may read or write stands there, and
 * kernels translate (fake_at). Kernels that are given host memory end the process with their name. Work is queued, and
 * runs when somebody waits: whoever overwrites pinned memory too early, or reads results too early, sees wrong values.
 * Captured work is replayed with the arguments that it was captured with: whatever changes from step to step and is no
 * data in device memory is stale.
 */
#ifndef SLUICE_TEST_DEVICE_FAKE_H
#define SLUICE_TEST_DEVICE_FAKE_H

#include "device/cuda/cuda_api.h"

/* A kernel: arguments by value, run later. */
typedef void (*fake_kernel)(const void *args);

/* Queues or records a kernel; args are copied. */
sl_status fake_launch(const sl_lane *lane, fake_kernel kernel, const void *args, size_t bytes);

/* Where a device address really is; n bytes of it are used. who: for the message. */
void *fake_at(const void *device, int64_t bytes, const char *who);

/* The same for what a kernel writes: pinned memory of the host has one address for both. */
void *fake_out(void *p, int64_t bytes, const char *who);

extern const sl_ops fake_ops;
sl_status fake_append(const sl_host *host, const sl_op_append *op);
sl_status fake_attend(const sl_host *host, const sl_attend *op);
sl_status fake_move(const sl_host *host, const sl_op_move *op);
sl_status fake_keep(const sl_host *host, const sl_op_keep *op);
sl_status fake_quantise(const sl_host *host, const sl_op_quantise *op);
sl_status fake_random(sli_cuda *cuda, void *dst, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude);
sl_status fake_sample(sli_cuda *cuda, const float *logits, const sli_cuda_draw *how, int32_t *token, int64_t rows,
                      int32_t n);
const sl_lane *fake_lane(sli_cuda *cuda, int32_t number);

#endif
