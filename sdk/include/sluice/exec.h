/* exec.h - where work runs: lanes, images, launches, copies, typed matrix products.
 *
 * Device code is data. A package embeds fatbins and launches them through the host; it links no CUDA library, so the
 * same file loads on a machine without a GPU. On the CPU lane everything here that is not device code works: copies,
 * events (already passed), matrix products.
 */
#ifndef SLUICE_EXEC_H
#define SLUICE_EXEC_H

#include "host.h"

SL_BEGIN

typedef struct sl_lane_impl sl_lane_impl;
typedef struct sl_image_impl sl_image_impl;
typedef struct sl_function_impl sl_function_impl;
typedef struct sl_event_impl sl_event_impl;
typedef struct sl_gemm_impl sl_gemm_impl;

/* A queue of work on one device. Work of one lane runs in order. */
typedef struct sl_lane {
    uint64_t struct_size;
    sl_lane_impl *impl;
    uint32_t device;    /* SL_DEVICE_CPU or SL_DEVICE_CUDA */
    int32_t index;      /* ordinal of the device */
    uint32_t capturing; /* 1: calls are being recorded into a graph: no sync, no allocation, no host decision */
    uint32_t reserved0;
} sl_lane;
SL_ABI_STRUCT(sl_lane, reserved0);

/* One fatbin of a package, and the kernels it must contain. [static] */
typedef struct sl_image {
    uint64_t struct_size;
    const void *data;
    int64_t bytes;
    const char *name;
    const char *const *kernels; /* NULL-terminated; compared with the image when it is loaded */
    int32_t min_driver;         /* 13000: 13.0 */
    uint32_t arch;              /* 0: portable; 900: this architecture only, used before portable ones */
} sl_image;
SL_ABI_STRUCT(sl_image, arch);

enum {
    SL_ATTR_CLUSTER = 1,     /* x, y, z blocks */
    SL_ATTR_DEPENDENT = 2,   /* programmatic dependent launch: every block executes the wait */
    SL_ATTR_COOPERATIVE = 3,
    SL_ATTR_PRIORITY = 4,
    SL_ATTR_CARVEOUT = 5     /* x: percent of shared memory */
};

typedef struct sl_launch_attr {
    uint64_t struct_size;
    uint32_t id; /* SL_ATTR_*; unknown ones are refused */
    uint32_t x, y, z;
} sl_launch_attr;
SL_ABI_STRUCT(sl_launch_attr, z);

typedef struct sl_launch {
    uint64_t struct_size;
    const void *params;                   /* the kernel's one parameter, a struct passed by value */
    int64_t param_bytes;
    const sl_launch_attr *const *attrs;   /* [n_attrs] */
    uint32_t grid[3], block[3];
    uint32_t shared_bytes;
    uint32_t n_attrs;
} sl_launch;
SL_ABI_STRUCT(sl_launch, n_attrs);

enum { SL_EPILOGUE_NONE = 0, SL_EPILOGUE_BIAS = 1u << 0, SL_EPILOGUE_RESIDUAL = 1u << 1, SL_EPILOGUE_SCALE_ROWS = 1u << 2 };

/* y[T, N] = x[T, K] w[N, K]^T, planned once for up to max_rows rows. */
typedef struct sl_gemm_desc {
    uint64_t struct_size;
    int64_t n, k;
    int64_t max_rows;
    sl_dtype x_dtype, w_dtype, y_dtype, compute;
    uint32_t epilogue; /* set of SL_EPILOGUE_* */
    uint32_t reserved0;
} sl_gemm_desc;
SL_ABI_STRUCT(sl_gemm_desc, reserved0);

typedef struct sl_gemm_run {
    uint64_t struct_size;
    const void *x, *w;
    void *y;
    const void *bias;      /* [n], y_dtype */
    const void *residual;  /* [T, n], y_dtype, added; y itself, or without gaps */
    const float *row_scale; /* [T] */
    int64_t rows;          /* T */
    int64_t ldx, ldy;      /* row strides in elements */
    const float *column_scale; /* [n], with row_scale */
} sl_gemm_run;
SL_ABI_STRUCT(sl_gemm_run, column_scale);

/* Tensor map for bulk copies: 128 bytes, encoded by the host over pools that never move. */
typedef struct sl_tensor_map {
    uint64_t struct_size;
    uint64_t reserved[7];
    uint64_t opaque[16];
} sl_tensor_map;
SL_ABI_STRUCT(sl_tensor_map, opaque);

/* What a lane's device is. Bytes; an architecture of 900 is compute capability 9.0. */
typedef struct sl_device_info {
    uint64_t struct_size;
    const char *name; /* [session] */
    int64_t memory, memory_free;
    int64_t l2_bytes;
    int32_t n_processors;       /* multiprocessors; of a CPU: workers */
    int32_t arch;               /* 0: a CPU */
    int32_t max_shared;         /* most dynamic shared memory of a block */
    int32_t driver;             /* 13000: 13.0; 0: a CPU */
} sl_device_info;
SL_ABI_STRUCT(sl_device_info, driver);

/* "sl.exec/1" - always; entries that a device cannot serve return SL_E_UNIMPLEMENTED with a reason. */
#define SL_EXEC_ID "sl.exec/1"
typedef struct sl_exec {
    uint64_t struct_size;
    /* Lane by device and number (0: the step's own, 1 ..: copies). NULL: none. [setup] */
    const sl_lane *(*lane)(const sl_host *host, uint32_t device, int32_t number);
    /* Loads an image and checks its kernel list. [setup, in activate] */
    sl_status (*image_load)(const sl_host *host, const sl_lane *lane, const sl_image *image, sl_image_impl **out,
                            sl_error *err);
    /* Kernel by name, forced loaded, with the largest dynamic shared memory and cluster it will use. [setup] */
    sl_status (*function)(const sl_host *host, sl_image_impl *image, const char *name, int64_t param_bytes,
                          uint32_t max_shared, uint32_t max_cluster, sl_function_impl **out, sl_error *err);
    /* [step] */
    sl_status (*launch)(const sl_lane *lane, sl_function_impl *function, const sl_launch *launch);
    /* Copies between host, pinned and device memory in the order of the lane. [step] [setup] */
    sl_status (*copy)(const sl_lane *lane, void *dst, const void *src, int64_t bytes);
    sl_status (*fill)(const sl_lane *lane, void *dst, int32_t byte, int64_t bytes);
    sl_status (*event_create)(const sl_host *host, const sl_lane *lane, sl_event_impl **out);
    void (*event_destroy)(const sl_host *host, sl_event_impl *event);
    sl_status (*record)(const sl_lane *lane, sl_event_impl *event);
    sl_status (*wait)(const sl_lane *lane, sl_event_impl *event);
    /* Waits for all work of the lane. Never in a capture. [setup] */
    sl_status (*sync)(const sl_lane *lane, sl_error *err);
    /* Typed matrix products. [setup] create, destroy; [step] run */
    sl_status (*gemm_create)(const sl_host *host, const sl_lane *lane, const sl_gemm_desc *desc, sl_gemm_impl **out,
                             sl_error *err);
    void (*gemm_destroy)(const sl_host *host, sl_gemm_impl *gemm);
    sl_status (*gemm)(const sl_lane *lane, sl_gemm_impl *gemm, const sl_gemm_run *run);
    /* [setup] */
    sl_status (*tensor_map)(const sl_host *host, const sl_lane *lane, const sl_tensor *tensor, const uint32_t *box,
                            uint32_t swizzle, sl_tensor_map *out, sl_error *err);
    /* [any] */
    sl_status (*device_info)(const sl_lane *lane, sl_device_info *out);
} sl_exec;
SL_ABI_STRUCT(sl_exec, device_info);

SL_END
#endif
