/* The shared CUDA kernels, loaded on one device through "sl.exec/1": what the core's device module, plugins' tests and
 * benches launch. Nothing here links CUDA.
 *
 *   <op>/<op>.cu       device code; one extern "C" kernel a line of the op's list, one struct by value as its parameter
 *   <op>/<op>_cuda.h   that struct, shared by host and device; the list of kernels; the launcher
 *   <op>/<op>_cuda.c   the launcher: checks, grid, launch. Nothing waits, nothing allocates: [step] [capture]
 */
#ifndef SLUICE_KERNELS_CUDA_H
#define SLUICE_KERNELS_CUDA_H

#include "sluice/exec.h"

#include "cuda_list.h"

/* X(kernel, parameter struct, most dynamic shared bytes, most blocks of a cluster, image) */
#define SLK_CUDA_ENUM_(kernel, params, shared, cluster, image) SLK_CUDA_##kernel,
enum { SLK_CUDA_KERNELS(SLK_CUDA_ENUM_) SLK_CUDA_KERNEL_COUNT };
#undef SLK_CUDA_ENUM_

#define SLK_CUDA_IMAGE_(image, arch) SLK_IMAGE_##image,
enum { SLK_CUDA_IMAGES(SLK_CUDA_IMAGE_) SLK_CUDA_IMAGE_COUNT };
#undef SLK_CUDA_IMAGE_

typedef struct slk_cuda {
    const sl_host *host;
    const sl_exec *exec;
    sl_device_info info;
    sl_image_impl *image[SLK_CUDA_IMAGE_COUNT];      /* NULL: not for this architecture */
    sl_function_impl *function[SLK_CUDA_KERNEL_COUNT]; /* NULL: likewise */
    int32_t deterministic; /* 1: one order of sums for a row, whatever is in the batch */
} slk_cuda;

/* Loads all images that this device can run and looks up their kernels. The struct is the caller's. [setup] */
sl_status slk_cuda_open(slk_cuda *k, const sl_host *host, const sl_exec *exec, const sl_lane *lane, sl_error *err);

/* Shape of a launch. */
typedef struct slk_cuda_grid {
    uint32_t x, y, z;   /* blocks; 0 in any: nothing is launched */
    uint32_t threads;
    uint32_t shared;    /* dynamic bytes */
    uint32_t dependent; /* 1: programmatic dependent launch: the kernel executes griddepcontrol.wait in every block */
    uint32_t cluster;   /* blocks along x; 0: none */
} slk_cuda_grid;

sl_status slk_cuda_launch(const slk_cuda *k, const sl_lane *lane, int kernel, const void *params, int64_t param_bytes,
                          slk_cuda_grid grid);

#endif
