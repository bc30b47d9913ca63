/* device.h - the accelerator that an engine computes on: the CUDA module, opened at run time. */
#ifndef SLUICE_CORE_DEVICE_H
#define SLUICE_CORE_DEVICE_H

#include "cuda/cuda_api.h"

typedef struct sli_device {
    const sli_cuda_api *api;
    sli_cuda *cuda;
    const sl_lane *lane, *copy_lane;
    sl_device_info info;
} sli_device;

sl_status sli_device_open(const sli_cuda_options *options, sli_device **out, sl_error *err);
void sli_device_close(sli_device *device);

#endif
