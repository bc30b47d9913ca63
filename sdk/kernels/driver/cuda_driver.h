/* A CUDA device through its driver alone: libcuda.so.1 is opened at run time, functions are asked for by name; <cuda.h>
 * gives types, no library is linked. Images, functions, launches, copies and events are "sl.exec/1" entries
 * (slk_driver_exec) over the lanes of a driver; the device module of the core and the test host stand on it.
 *
 * A call that fails leaves what was being done and the driver's name of the error in `fault`. Work of a device fails
 * late: a fault that shows up at a wait may be that of any work before it, and the text says what was queued last. With
 * `debug` every launch is waited for, so that the fault is that of the kernel it names.
 *
 * One thread at a time. Structs are open for the files of the module; others see the header's functions only.
 */
#ifndef SLUICE_KERNELS_CUDA_DRIVER_H
#define SLUICE_KERNELS_CUDA_DRIVER_H

#include <cuda.h>

#include "sluice/exec.h"

#include "sl_error.h"

/* The least driver, and the version whose functions are asked for. */
#define SLK_DRIVER_VERSION 13000

#define SLK_DRIVER_FUNCTIONS(X)                                                                                        \
    X(cuInit)                                                                                                          \
    X(cuDriverGetVersion)                                                                                              \
    X(cuGetErrorName)                                                                                                  \
    X(cuGetErrorString)                                                                                                \
    X(cuDeviceGetCount)                                                                                                \
    X(cuDeviceGet)                                                                                                     \
    X(cuDeviceGetName)                                                                                                 \
    X(cuDeviceGetAttribute)                                                                                            \
    X(cuDeviceTotalMem)                                                                                                \
    X(cuDevicePrimaryCtxRetain)                                                                                        \
    X(cuDevicePrimaryCtxRelease)                                                                                       \
    X(cuCtxSetCurrent)                                                                                                 \
    X(cuCtxSynchronize)                                                                                                \
    X(cuMemGetInfo)                                                                                                    \
    X(cuMemAlloc)                                                                                                      \
    X(cuMemFree)                                                                                                       \
    X(cuMemHostAlloc)                                                                                                  \
    X(cuMemFreeHost)                                                                                                   \
    X(cuMemcpyAsync)                                                                                                   \
    X(cuMemsetD8Async)                                                                                                 \
    X(cuStreamCreateWithPriority)                                                                                      \
    X(cuStreamDestroy)                                                                                                 \
    X(cuStreamSynchronize)                                                                                             \
    X(cuStreamWaitEvent)                                                                                               \
    X(cuStreamBeginCapture)                                                                                            \
    X(cuStreamEndCapture)                                                                                              \
    X(cuEventCreate)                                                                                                   \
    X(cuEventDestroy)                                                                                                  \
    X(cuEventRecord)                                                                                                   \
    X(cuEventSynchronize)                                                                                              \
    X(cuEventElapsedTime)                                                                                              \
    X(cuGraphInstantiateWithFlags)                                                                                             \
    X(cuGraphUpload)                                                                                                   \
    X(cuGraphLaunch)                                                                                                   \
    X(cuGraphGetNodes)                                                                                                 \
    X(cuGraphGetEdges)                                                                                                 \
    X(cuGraphNodeGetType)                                                                                              \
    X(cuGraphDestroy)                                                                                                  \
    X(cuGraphExecDestroy)                                                                                              \
    X(cuLibraryLoadData)                                                                                               \
    X(cuLibraryUnload)                                                                                                 \
    X(cuLibraryGetKernel)                                                                                              \
    X(cuLibraryGetKernelCount)                                                                                         \
    X(cuLibraryEnumerateKernels)                                                                                       \
    X(cuKernelGetName)                                                                                                 \
    X(cuKernelGetFunction)                                                                                             \
    X(cuKernelGetParamInfo)                                                                                            \
    X(cuKernelGetAttribute)                                                                                            \
    X(cuKernelSetAttribute)                                                                                            \
    X(cuLaunchKernelEx)                                                                                                \
    X(cuTensorMapEncodeTiled)

typedef struct slk_driver_api {
#define SLK_DRIVER_MEMBER_(name) __typeof__(&name) name;
    SLK_DRIVER_FUNCTIONS(SLK_DRIVER_MEMBER_)
#undef SLK_DRIVER_MEMBER_
} slk_driver_api;

typedef struct slk_driver slk_driver;

struct sl_lane_impl {
    slk_driver *driver;
    CUstream stream;
    const char *last; /* what was queued last, for faults: static, or as long-lived as the driver */
    void *owner;      /* of who made the driver: slk_driver.owner */
    sl_lane lane;     /* as others see it */
};

enum { SLK_DRIVER_LANES = 2 }; /* 0 computes, 1 copies */

struct slk_driver {
    slk_driver_api cu;
    CUdevice device;
    CUcontext context;
    struct sl_lane_impl lanes[SLK_DRIVER_LANES];
    sl_image_impl *images; /* all that were loaded */
    sl_device_info info;
    uint32_t debug;
    uint32_t fault_lasts; /* 1: the context is lost, later failures are only its echo */
    char name[256];       /* of the device */
    char fault[768];      /* "": none */
};

struct sl_event_impl {
    slk_driver *driver;
    CUevent event;
};

/* Opens the driver and the device; the struct is the caller's and must not move. SL_E_NOT_FOUND: no libcuda.so.1, or no
 * such device; SL_E_VERSION: the driver is older than SLK_DRIVER_VERSION; SL_E_DEVICE. On failure nothing is held.
 * owner: whatever the caller wants to find from a lane. */
sl_status slk_driver_open(slk_driver *d, int32_t ordinal, uint32_t debug, void *owner, sl_error *err);
/* Waits, unloads all images, gives the context back. */
void slk_driver_close(slk_driver *d);

/* Entries over lanes of a driver: all but `lane` and the matrix products, which are NULL. */
extern const sl_exec slk_driver_exec;

/* Makes the context current in this thread. */
void slk_driver_enter(slk_driver *d);
/* Keeps the failure of what the text names as the fault and in err; returns its status. CUDA_SUCCESS: SL_OK. */
sl_status slk_driver_check(struct sl_lane_impl *lane, CUresult result, sl_error *err, const char *fmt, ...)
    SL_PRINTF(4, 5);
/* A failure that is not the driver's: kept as the fault likewise. */
sl_status slk_driver_refuse(slk_driver *d, sl_status status, sl_error *err, const char *fmt, ...) SL_PRINTF(4, 5);

/* Memory of the device, 256-byte aligned, or pinned memory of the host; contents undefined. Never in a capture. */
sl_status slk_driver_alloc(slk_driver *d, int64_t bytes, void **out, sl_error *err);
sl_status slk_driver_alloc_pinned(slk_driver *d, int64_t bytes, void **out, sl_error *err);
void slk_driver_free(slk_driver *d, void *p);
void slk_driver_free_pinned(slk_driver *d, void *p);
/* Waits for everything on the device. */
sl_status slk_driver_wait(slk_driver *d, sl_error *err);

/* Work of lane 0 between begin and end is recorded. SL_E_UNIMPLEMENTED in debug mode, where every launch is waited for.
 */
typedef struct slk_driver_graph {
    CUgraph graph;
    CUgraphExec exec;
    int64_t nodes, others;    /* all; those that are no kernels */
    int64_t edges, dependent; /* all; those that let a kernel start while its predecessor still works */
} slk_driver_graph;
sl_status slk_driver_capture_begin(slk_driver *d, sl_error *err);
sl_status slk_driver_capture_end(slk_driver *d, slk_driver_graph *out, sl_error *err);
void slk_driver_capture_abort(slk_driver *d);
sl_status slk_driver_graph_launch(slk_driver *d, const slk_driver_graph *graph, sl_error *err);
void slk_driver_graph_destroy(slk_driver *d, slk_driver_graph *graph);
/* Milliseconds between two recorded events that have passed. */
/* Waits until a recorded event has passed, and not for what is queued behind it. */
sl_status slk_driver_passed(slk_driver *d, sl_event_impl *event, sl_error *err);
sl_status slk_driver_elapsed(slk_driver *d, sl_event_impl *begin, sl_event_impl *end, float *ms);

/* Entries of the table that stand in files of their own. */
sl_status slk_driver_image_load(const sl_host *host, const sl_lane *lane, const sl_image *image, sl_image_impl **out,
                                sl_error *err);
sl_status slk_driver_function(const sl_host *host, sl_image_impl *image, const char *name, int64_t param_bytes,
                              uint32_t max_shared, uint32_t max_cluster, sl_function_impl **out, sl_error *err);
sl_status slk_driver_launch(const sl_lane *lane, sl_function_impl *function, const sl_launch *launch);
void slk_driver_unload(slk_driver *d); /* all images */
sl_status slk_driver_tensor_map(const sl_host *host, const sl_lane *lane, const sl_tensor *tensor, const uint32_t *box,
                                uint32_t swizzle, sl_tensor_map *out, sl_error *err);

#endif
