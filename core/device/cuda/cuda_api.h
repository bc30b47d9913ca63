/* The CUDA module as the core sees it: a shared object of its own, opened at run time. It alone loads the driver
 * (libcuda.so.1), cuBLASLt and cuDNN, each when first needed; the core holds no CUDA type.
 *
 * One lane computes (number 0), one copies (number 1). All calls come from the engine's thread.
 */
#ifndef SLUICE_CORE_CUDA_API_H
#define SLUICE_CORE_CUDA_API_H

#include "sluice/exec.h"
#include "sluice/host.h"
#include "sluice/ops.h"

typedef struct sli_cuda sli_cuda;             /* a device in use */
typedef struct sli_cuda_graph sli_cuda_graph; /* captured work, ready to be launched again */

typedef struct sli_cuda_options {
    int32_t ordinal;
    uint32_t debug;      /* 1: engine.debug = device: an allocation a tensor with red zones, poisoned scratch, no graphs,
                            a wait behind every launch, so that a fault names its kernel */
    int64_t memory_cap;  /* bytes that may be allocated on the device; 0: what is free */
    /* Told about every change of memory: device SL_DEVICE_CUDA or SL_DEVICE_HOST_PINNED, tag SL_MEM_*. */
    void (*ledger)(void *user, uint32_t device, uint32_t tag, int64_t bytes);
    void (*log)(void *user, uint32_t level, const char *text);
    void *user;
} sli_cuda_options;

/* Bounds of what the operations will be asked for: the module makes its workspace by them, once. */
typedef struct sli_cuda_shapes {
    int64_t max_rows, max_seqs, max_context, max_tree;
    int32_t heads, kv_heads, head_dim, n_layers; /* largest of any layer */
    int32_t vocab;
    int64_t width;         /* widest input or output of a linear */
    uint32_t deterministic;
    uint32_t reserved0;
} sli_cuda_shapes;

/* How a row's token is drawn, in device memory: as struct slk_sample_row of the kernels has it. */
typedef struct sli_cuda_draw {
    double temperature;  /* 0: the largest logit */
    double top_p, min_p; /* top_p outside of (0, 1), min_p 0: not used */
    double u;            /* in [0, 1): what decides */
    int32_t top_k;       /* 0: not used */
    uint32_t reserved0;
} sli_cuda_draw;

typedef struct sli_cuda_api {
    uint64_t struct_size;
    /* Takes the device's primary context. SL_E_NOT_FOUND: no driver or no device, the text says which;
     * SL_E_VERSION: the driver is too old; SL_E_DEVICE. */
    sl_status (*open)(const sli_cuda_options *options, sli_cuda **out, sl_error *err);
    void (*close)(sli_cuda *cuda);
    const sl_lane *(*lane)(sli_cuda *cuda, int32_t number); /* NULL: none */

    /* Zeroed memory on the device, or pinned on the host (device: SL_DEVICE_CUDA, SL_DEVICE_HOST_PINNED). NULL: there is
     * none, or the cap is reached. Never in a capture. */
    void *(*alloc)(sli_cuda *cuda, uint32_t device, int64_t bytes, int64_t align, uint32_t tag);
    void (*release)(sli_cuda *cuda, uint32_t device, void *p); /* NULL is legal; waits for the device where it must */
    /* Shared scratch on the device, grown to the largest need; get: its address, NULL when nothing was reserved. */
    sl_status (*scratch_reserve)(sli_cuda *cuda, int64_t bytes);
    void *(*scratch)(sli_cuda *cuda);

    /* Entries for lanes of this module; `lane` itself is NULL: the core's table asks (*lane) above. */
    const sl_exec *exec;
    /* Operations on lanes of this module; q_bytes, q_pack ... serve formats whose target is SL_Q_CUDA. */
    const sl_ops *ops;
    sl_status (*ops_reserve)(sli_cuda *cuda, const sli_cuda_shapes *shapes, sl_error *err);

    /* Work of the compute lane between begin and end is recorded instead of run: a graph to be launched any number of times.
     * abort: leaves a capture that failed. */
    sl_status (*capture_begin)(sli_cuda *cuda, sl_error *err);
    sl_status (*capture_end)(sli_cuda *cuda, sli_cuda_graph **out, sl_error *err);
    void (*capture_abort)(sli_cuda *cuda);
    sl_status (*graph_launch)(sli_cuda *cuda, sli_cuda_graph *graph, sl_error *err);
    int64_t (*graph_nodes)(const sli_cuda_graph *graph);
    /* Nodes that are no kernels; edges between nodes, and those that let a kernel start before its predecessor ends. */
    void (*graph_form)(const sli_cuda_graph *graph, int64_t *others, int64_t *edges, int64_t *dependent);
    void (*graph_destroy)(sli_cuda *cuda, sli_cuda_graph *graph);

    /* Waits until an event that was recorded has passed, and not for what is queued behind it. Never in a capture. */
    sl_status (*passed)(sli_cuda *cuda, sl_event_impl *event, sl_error *err);
    /* Milliseconds between two events that were recorded and have passed. */
    sl_status (*elapsed)(sli_cuda *cuda, sl_event_impl *begin, sl_event_impl *end, float *ms);
    /* n seeded values: slk_random_value(seed, i) * amplitude, rounded to dtype (F32, F16, BF16). */
    sl_status (*random)(sli_cuda *cuda, void *dst, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude);
    /* token[i] of logits [rows, n] f32, without gaps: temperature, top-k, top-p, min-p and the draw, queued on the
     * compute lane; -1: a row with a NaN or +inf, or nothing but -inf. Memory of the device or pinned. Can be captured. */
    sl_status (*sample)(sli_cuda *cuda, const float *logits, const sli_cuda_draw *how, int32_t *token, int64_t rows,
                        int32_t n);
    /* What the device's last error was, and which kernel or copy it is laid to; NULL: none. [session] */
    const char *(*fault)(sli_cuda *cuda);

    /* "sl.sdpa/1" (sluice/ops.h), or NULL with a reason where cuDNN cannot be loaded. */
    const void *(*sdpa)(sli_cuda *cuda, sl_error *err);
} sli_cuda_api;

/* The module's one exported function. */
#define SLI_CUDA_SYMBOL "sli_cuda_module_0"
typedef const sli_cuda_api *(*sli_cuda_module_fn)(void);

#endif
