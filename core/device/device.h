/* device.h - the GPU that an engine uses, if it uses one: the CUDA module, found, opened at run time, and one device of
 * it. Nothing of CUDA is linked; a machine without it runs the same program. */
#ifndef SLUICE_CORE_DEVICE_H
#define SLUICE_CORE_DEVICE_H

#include "device/cuda/cuda_api.h"
#include "sl_error.h"

typedef struct sli_device {
    const sli_cuda_api *api;
    sli_cuda *cuda;
    const sl_lane *lane, *copy_lane;
    sl_device_info info;
} sli_device;

/* Finds `sluice-cuda.so` - SLUICE_CUDA_MODULE (unless privileged), then in and beside each folder in which plugins are
 * looked for, and where a build tree has it - and opens a device of it. options->ledger NULL: the core's own ledger is
 * told; options->log NULL: silence. SL_E_NOT_FOUND: no module, no driver or no device; the text says which. [setup] */
sl_status sli_device_open(const sli_cuda_options *options, sli_device **out, sl_error *err);
void sli_device_close(sli_device *device); /* NULL is legal. After everything that holds memory of it */

/* The module, once one was opened in this process: it stays until exit. NULL: none. [any] */
const sli_cuda_api *sli_device_module(void);

/* "sl.ops/1" for all lanes: operations go to the lane's device, formats of packed weights to their target. */
extern const sl_ops sli_ops_any;

#endif
