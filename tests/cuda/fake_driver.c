/* A libcuda.so.1 for tests on machines without a device: memory of the host, streams that work at once, graphs that
 * keep copies, fills and launches, and one kernel it can run itself, slk_gather_f32. It stands in for the driver where
 * the code around it is tested - memory, ledgers, captures, refusals, faults - and says nothing about device code. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_driver.h"
#include "slk_cuda.h"

typedef struct op {
    int kind; /* 0 copy, 1 fill, 2 kernel */
    void *dst;
    const void *src;
    size_t bytes;
    int byte;
    slk_gather_params gather;
} op;
typedef struct list {
    op *ops;
    size_t n;
} list;
struct CUstream_st {
    int unused;
};
struct CUevent_st {
    double ms;
};
struct CUgraph_st {
    list list;
};
struct CUgraphExec_st {
    list list;
};
struct CUkern_st {
    char name[128];
    int64_t param_bytes; /* -1: none that is known */
};
struct CUlib_st {
    struct CUkern_st kernels[256];
    unsigned int n;
};

static CUresult lost; /* what an illegal access left behind */
static list *recording;
static CUstream recording_stream;

static const struct {
    const char *name;
    int64_t bytes;
} sizes[] = {
#define SIZE(kernel, params, shared, cluster, image) {"slk_" #kernel, sizeof(params)},
    SLK_CUDA_KERNELS(SIZE)
#undef SIZE
};

/* ---- work ------------------------------------------------------------------------------------------------------ */

static void run(const op *o) {
    if (lost != CUDA_SUCCESS)
        return;
    if (o->kind == 0)
        memcpy(o->dst, o->src, o->bytes);
    else if (o->kind == 1)
        memset(o->dst, o->byte, o->bytes);
    else if ((uintptr_t)o->gather.x < 65536)
        lost = CUDA_ERROR_ILLEGAL_ADDRESS;
    else
        for (int32_t i = 0; i < o->gather.n; i++)
            memcpy(o->gather.y + i * o->gather.ldy, o->gather.x + o->gather.row[i] * o->gather.ldx,
                   (size_t)o->gather.width * sizeof(float));
}

static CUresult queue(CUstream stream, const op *o) {
    if (lost != CUDA_SUCCESS)
        return lost;
    if (recording == NULL || stream != recording_stream) {
        run(o);
        return CUDA_SUCCESS;
    }
    op *ops = realloc(recording->ops, (recording->n + 1) * sizeof *ops);
    if (ops == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    recording->ops = ops;
    ops[recording->n++] = *o;
    return CUDA_SUCCESS;
}

static CUresult fake_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream) {
    const op o = {.kind = 0, .dst = (void *)(uintptr_t)dst, .src = (const void *)(uintptr_t)src, .bytes = bytes};
    return queue(stream, &o);
}
static CUresult fake_cuMemsetD8Async(CUdeviceptr dst, unsigned char byte, size_t bytes, CUstream stream) {
    const op o = {.kind = 1, .dst = (void *)(uintptr_t)dst, .byte = byte, .bytes = bytes};
    return queue(stream, &o);
}
static CUresult fake_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra) {
    const CUkernel kernel = (CUkernel)(void *)function;
    (void)extra;
    if (lost != CUDA_SUCCESS)
        return lost;
    if (config->gridDimX * config->gridDimY * config->gridDimZ == 0 ||
        config->blockDimX * config->blockDimY * config->blockDimZ > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    op o = {.kind = 2};
    if (strcmp(kernel->name, "slk_gather_f32") != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    memcpy(&o.gather, params[0], sizeof o.gather);
    return queue(config->hStream, &o);
}

/* ---- streams, events, graphs ----------------------------------------------------------------------------------- */

static CUresult fake_cuStreamCreateWithPriority(CUstream *out, unsigned int flags, int priority) {
    (void)flags, (void)priority;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuStreamDestroy(CUstream stream) {
    free(stream);
    return CUDA_SUCCESS;
}
static CUresult fake_cuStreamSynchronize(CUstream stream) {
    return stream == recording_stream && recording != NULL ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : lost;
}
static CUresult fake_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    (void)stream, (void)event, (void)flags;
    return lost;
}
static CUresult fake_cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    (void)mode;
    recording = calloc(1, sizeof *recording);
    recording_stream = stream;
    return recording != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuStreamEndCapture(CUstream stream, CUgraph *out) {
    if (recording == NULL || stream != recording_stream)
        return CUDA_ERROR_ILLEGAL_STATE;
    *out = calloc(1, sizeof **out);
    if (*out != NULL)
        (*out)->list = *recording;
    free(recording);
    recording = NULL;
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *n) {
    for (size_t i = 0; nodes != NULL && i < *n && i < graph->list.n; i++)
        nodes[i] = (CUgraphNode)(void *)&graph->list.ops[i];
    *n = graph->list.n;
    return CUDA_SUCCESS;
}
static CUresult fake_cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type) {
    int kind = ((const op *)(const void *)node)->kind;
    *type = kind == 0 ? CU_GRAPH_NODE_TYPE_MEMCPY : kind == 1 ? CU_GRAPH_NODE_TYPE_MEMSET : CU_GRAPH_NODE_TYPE_KERNEL;
    return CUDA_SUCCESS;
}
/* A chain, as one stream makes it. */
static CUresult fake_cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data,
                                     size_t *n) {
    size_t edges = graph->list.n > 0 ? graph->list.n - 1 : 0;
    for (size_t i = 0; from != NULL && i < *n && i < edges; i++) {
        from[i] = (CUgraphNode)(void *)&graph->list.ops[i];
        to[i] = (CUgraphNode)(void *)&graph->list.ops[i + 1];
        data[i] = (CUgraphEdgeData){0};
    }
    *n = edges;
    return CUDA_SUCCESS;
}
static CUresult fake_cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (*out)->list.ops = calloc(graph->list.n + 1, sizeof(op));
    (*out)->list.n = graph->list.n;
    if ((*out)->list.ops != NULL && graph->list.n > 0)
        memcpy((*out)->list.ops, graph->list.ops, graph->list.n * sizeof(op));
    return CUDA_SUCCESS;
}
static CUresult fake_cuGraphUpload(CUgraphExec exec, CUstream stream) {
    (void)exec, (void)stream;
    return lost;
}
static CUresult fake_cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    (void)stream;
    for (size_t i = 0; i < exec->list.n; i++)
        run(&exec->list.ops[i]);
    return lost;
}
static CUresult fake_cuGraphDestroy(CUgraph graph) {
    free(graph->list.ops);
    free(graph);
    return CUDA_SUCCESS;
}
static CUresult fake_cuGraphExecDestroy(CUgraphExec exec) {
    free(exec->list.ops);
    free(exec);
    return CUDA_SUCCESS;
}
static CUresult fake_cuEventCreate(CUevent *out, unsigned int flags) {
    (void)flags;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuEventDestroy(CUevent event) {
    free(event);
    return CUDA_SUCCESS;
}
static CUresult fake_cuEventRecord(CUevent event, CUstream stream) {
    struct timespec t;
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &t);
    event->ms = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
    return lost;
}
static CUresult fake_cuEventSynchronize(CUevent event) {
    (void)event;
    return lost;
}
static CUresult fake_cuEventElapsedTime(float *ms, CUevent begin, CUevent end) {
    *ms = (float)(end->ms - begin->ms);
    return lost;
}

/* ---- device ------------------------------------------------------------------------------------------------------ */

static CUresult fake_cuInit(unsigned int flags) {
    (void)flags;
    return getenv("FAKE_NO_DEVICE") != NULL ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}
static CUresult fake_cuDriverGetVersion(int *version) {
    *version = getenv("FAKE_OLD_DRIVER") != NULL ? 12080 : 13000;
    return CUDA_SUCCESS;
}
static CUresult fake_cuGetErrorName(CUresult result, const char **name) {
    *name = result == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OTHER";
    return CUDA_SUCCESS;
}
static CUresult fake_cuGetErrorString(CUresult result, const char **text) {
    (void)result;
    *text = "an error of the fake driver";
    return CUDA_SUCCESS;
}
static CUresult fake_cuDeviceGetCount(int *n) {
    *n = 1;
    return CUDA_SUCCESS;
}
static CUresult fake_cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
}
static CUresult fake_cuDeviceGetName(char *name, int bytes, CUdevice device) {
    (void)device;
    snprintf(name, (size_t)bytes, "a fake device");
    return CUDA_SUCCESS;
}
static CUresult fake_cuDeviceGetAttribute(int *value, CUdevice_attribute id, CUdevice device) {
    (void)device;
    *value = id == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR            ? 9
             : id == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT              ? 2
             : id == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 232448
             : id == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE                     ? 1 << 20
                                                                           : 0;
    return CUDA_SUCCESS;
}
static CUresult fake_cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    (void)device;
    *bytes = (size_t)1 << 30;
    return CUDA_SUCCESS;
}
static CUresult fake_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    static char one;
    (void)device;
    *context = (CUcontext)(void *)&one;
    return CUDA_SUCCESS;
}
static CUresult fake_cuDevicePrimaryCtxRelease(CUdevice device) {
    (void)device;
    return CUDA_SUCCESS;
}
static CUresult fake_cuCtxSetCurrent(CUcontext context) {
    (void)context;
    return CUDA_SUCCESS;
}
static CUresult fake_cuCtxSynchronize(void) { return lost; }
static CUresult fake_cuMemGetInfo(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = (size_t)1 << 30;
    return lost;
}
static CUresult fake_cuMemAlloc(CUdeviceptr *out, size_t bytes) {
    void *p = lost == CUDA_SUCCESS ? aligned_alloc(512, (bytes + 511) / 512 * 512) : NULL;
    *out = (CUdeviceptr)(uintptr_t)p;
    return p != NULL ? CUDA_SUCCESS : lost != CUDA_SUCCESS ? lost : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuMemFree(CUdeviceptr p) {
    free((void *)(uintptr_t)p);
    return lost;
}
static CUresult fake_cuMemHostAlloc(void **out, size_t bytes, unsigned int flags) {
    (void)flags;
    *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult fake_cuMemFreeHost(void *p) {
    free(p);
    return lost;
}

/* ---- images ------------------------------------------------------------------------------------------------------ */

/* Kernels are the sections ".text.slk_..." of machine code that is not compressed. */
static CUresult fake_cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *jit, void **jit_values,
                                       unsigned int n_jit, CUlibraryOption *options, void **values,
                                       unsigned int n_options) {
    static const char section[] = ".text.slk_";
    const unsigned char *bytes = code;
    uint64_t body;
    uint16_t head;
    (void)jit, (void)jit_values, (void)n_jit, (void)options, (void)values, (void)n_options;
    memcpy(&head, bytes + 6, sizeof head); /* a fatbin: magic, version, bytes of the header, bytes behind it */
    memcpy(&body, bytes + 8, sizeof body);
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    const unsigned char *end = bytes + head + body;
    for (const unsigned char *p = bytes; p < end && (*out)->n < 256; p++) {
        p = memmem(p, (size_t)(end - p), section, sizeof section - 1);
        if (p == NULL)
            break;
        struct CUkern_st *kernel = &(*out)->kernels[(*out)->n++];
        snprintf(kernel->name, sizeof kernel->name, "%s", (const char *)p + strlen(".text."));
        for (unsigned int i = 0; i + 1 < (*out)->n; i++)
            if (strcmp((*out)->kernels[i].name, kernel->name) == 0) {
                (*out)->n--;
                break;
            }
        kernel->param_bytes = -1;
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            if (strcmp(sizes[i].name, kernel->name) == 0)
                kernel->param_bytes = sizes[i].bytes;
    }
    return CUDA_SUCCESS;
}
static CUresult fake_cuLibraryUnload(CUlibrary library) {
    free(library);
    return CUDA_SUCCESS;
}
static CUresult fake_cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name) {
    for (unsigned int i = 0; i < library->n; i++)
        if (strcmp(library->kernels[i].name, name) == 0) {
            *out = &library->kernels[i];
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}
static CUresult fake_cuLibraryGetKernelCount(unsigned int *n, CUlibrary library) {
    *n = library->n;
    return CUDA_SUCCESS;
}
static CUresult fake_cuLibraryEnumerateKernels(CUkernel *out, unsigned int n, CUlibrary library) {
    for (unsigned int i = 0; i < n && i < library->n; i++)
        out[i] = &library->kernels[i];
    return CUDA_SUCCESS;
}
static CUresult fake_cuKernelGetName(const char **name, CUkernel kernel) {
    *name = kernel->name;
    return CUDA_SUCCESS;
}
static CUresult fake_cuKernelGetFunction(CUfunction *out, CUkernel kernel) {
    *out = (CUfunction)(void *)kernel;
    return CUDA_SUCCESS;
}
static CUresult fake_cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *bytes) {
    if (index > 0 || kernel->param_bytes < 0)
        return CUDA_ERROR_INVALID_VALUE;
    *offset = 0;
    *bytes = (size_t)kernel->param_bytes;
    return CUDA_SUCCESS;
}
static CUresult fake_cuKernelGetAttribute(int *value, CUfunction_attribute id, CUkernel kernel, CUdevice device) {
    (void)id, (void)kernel, (void)device;
    *value = 0;
    return CUDA_SUCCESS;
}
static CUresult fake_cuKernelSetAttribute(CUfunction_attribute id, int value, CUkernel kernel, CUdevice device) {
    (void)id, (void)value, (void)kernel, (void)device;
    return CUDA_SUCCESS;
}
static CUresult fake_cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                            const cuuint64_t *shape, const cuuint64_t *strides, const cuuint32_t *box,
                                            const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                            CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                            CUtensorMapFloatOOBfill fill) {
    (void)map, (void)type, (void)rank, (void)address, (void)shape, (void)strides, (void)box, (void)steps;
    (void)interleave, (void)swizzle, (void)promotion, (void)fill;
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* ---- look-up ----------------------------------------------------------------------------------------------------- */

CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result);
CUresult cuGetProcAddress_v2(const char *name, void **out, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result) {
    (void)version, (void)flags, (void)result;
    static slk_driver_api api;
    static const struct {
        const char *name;
        size_t offset;
    } functions[] = {
#define FUNCTION(name) {#name, offsetof(slk_driver_api, name)},
        SLK_DRIVER_FUNCTIONS(FUNCTION)
#undef FUNCTION
    };
#define SET(name) api.name = fake_##name;
    SLK_DRIVER_FUNCTIONS(SET)
#undef SET
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strcmp(functions[i].name, name) == 0) {
            memcpy(out, (const char *)&api + functions[i].offset, sizeof *out);
            return CUDA_SUCCESS;
        }
    *out = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
