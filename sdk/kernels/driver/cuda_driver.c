/* See cuda_driver.h: the library, the context, faults, memory. */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local CUcontext current; /* what this thread was given last */

/* ---- faults ---------------------------------------------------------------------------------------------------- */

static const char *error_name(const slk_driver *d, CUresult result) {
    const char *name = NULL;
    return d->cu.cuGetErrorName != NULL && d->cu.cuGetErrorName(result, &name) == CUDA_SUCCESS && name != NULL
               ? name
               : "unknown CUDA error";
}
static const char *error_text(const slk_driver *d, CUresult result) {
    const char *text = NULL;
    return d->cu.cuGetErrorString != NULL && d->cu.cuGetErrorString(result, &text) == CUDA_SUCCESS && text != NULL
               ? text
               : "no description";
}

static sl_status status_of(CUresult result) {
    switch ((int)result) {
    case CUDA_SUCCESS: return SL_OK;
    case CUDA_ERROR_INVALID_VALUE: return SL_E_INVALID;
    case CUDA_ERROR_OUT_OF_MEMORY: return SL_E_NO_MEMORY;
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_NOT_FOUND: return SL_E_NOT_FOUND;
    case CUDA_ERROR_NOT_SUPPORTED: return SL_E_UNIMPLEMENTED;
    default: return SL_E_DEVICE;
    }
}

/* The context is lost with these; every call from then on returns the same. */
static int lasts(CUresult result) {
    switch ((int)result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED: return 1;
    default: return 0;
    }
}

static void keep(slk_driver *d, int last, const char *text) {
    if (d->fault_lasts)
        return;
    snprintf(d->fault, sizeof d->fault, "%s", text);
    d->fault_lasts = (uint32_t)last;
}

sl_status slk_driver_check(struct sl_lane_impl *lane, CUresult result, sl_error *err, const char *fmt, ...) {
    if (result == CUDA_SUCCESS)
        return SL_OK;
    slk_driver *d = lane->driver;
    char what[256], text[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    int n = snprintf(text, sizeof text, "%s: %s (%s)", what, error_name(d, result), error_text(d, result));
    if (lasts(result) && !d->debug && n > 0 && n < (int)sizeof text)
        snprintf(text + n, sizeof text - (size_t)n,
                 "; the fault is that of work queued before, the last was %s; debug = device names the kernel",
                 lane->last != NULL ? lane->last : "nothing");
    const int echo = (int)d->fault_lasts;
    keep(d, lasts(result), text);
    return sl_fail(err, status_of(result), "%s%s%s", text, echo ? "; before it: " : "", echo ? d->fault : "");
}

sl_status slk_driver_refuse(slk_driver *d, sl_status status, sl_error *err, const char *fmt, ...) {
    char text[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    keep(d, 0, text);
    return sl_fail(err, status, "%s", text);
}

/* ---- library --------------------------------------------------------------------------------------------------- */

#define LIBRARY "libcuda.so.1"

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define FUNCTION(name) {#name, offsetof(slk_driver_api, name)},
    SLK_DRIVER_FUNCTIONS(FUNCTION)
#undef FUNCTION
};

static sl_status load_functions(slk_driver *d, sl_error *err) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* stays: the driver cannot be unloaded */
    if (library == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "no CUDA driver: %s", dlerror());
    void *symbol = dlsym(library, "cuGetProcAddress_v2");
    if (symbol == NULL)
        return sl_fail(err, SL_E_VERSION,
                       "the CUDA driver is too old: " LIBRARY " lacks cuGetProcAddress_v2, needed is %d.%d",
                       SLK_DRIVER_VERSION / 1000, SLK_DRIVER_VERSION % 1000 / 10);
    CUresult (*get)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
    memcpy(&get, &symbol, sizeof get);
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *p = NULL;
        const CUresult result = get(functions[i].name, &p, SLK_DRIVER_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, NULL);
        if (result != CUDA_SUCCESS || p == NULL)
            return sl_fail(err, SL_E_VERSION, "the CUDA driver is too old: it has no %s, needed is %d.%d",
                           functions[i].name, SLK_DRIVER_VERSION / 1000, SLK_DRIVER_VERSION % 1000 / 10);
        memcpy((char *)&d->cu + functions[i].offset, &p, sizeof p);
    }
    return SL_OK;
}

/* ---- device ---------------------------------------------------------------------------------------------------- */

static sl_status find_device(slk_driver *d, int32_t ordinal, sl_error *err) {
    CUresult result = d->cu.cuInit(0);
    if (result == CUDA_ERROR_NO_DEVICE)
        return sl_fail(err, SL_E_NOT_FOUND, "no CUDA device: the driver finds none (%s)", error_name(d, result));
    if (result != CUDA_SUCCESS)
        return sl_fail(err, SL_E_DEVICE, "the CUDA driver does not start: cuInit: %s (%s)", error_name(d, result),
                       error_text(d, result));
    int version = 0, count = 0;
    struct sl_lane_impl *lane = &d->lanes[0];
    SL_TRY(slk_driver_check(lane, d->cu.cuDriverGetVersion(&version), err, "asking for the driver's version"));
    if (version < SLK_DRIVER_VERSION)
        return sl_fail(err, SL_E_VERSION, "the CUDA driver is too old: it is %d.%d, needed is %d.%d", version / 1000,
                       version % 1000 / 10, SLK_DRIVER_VERSION / 1000, SLK_DRIVER_VERSION % 1000 / 10);
    d->info.driver = version;
    SL_TRY(slk_driver_check(lane, d->cu.cuDeviceGetCount(&count), err, "counting devices"));
    if (count == 0)
        return sl_fail(err, SL_E_NOT_FOUND, "no CUDA device: the driver finds none");
    if (ordinal < 0 || ordinal >= count)
        return sl_fail(err, SL_E_NOT_FOUND, "no CUDA device %d: the driver finds %d, numbered from 0", ordinal, count);
    return slk_driver_check(lane, d->cu.cuDeviceGet(&d->device, ordinal), err, "CUDA device %d", ordinal);
}

static sl_status read_info(slk_driver *d, sl_error *err) {
    struct sl_lane_impl *lane = &d->lanes[0];
    int major = 0, minor = 0, value = 0;
    size_t bytes = 0;
    SL_TRY(slk_driver_check(lane, d->cu.cuDeviceGetName(d->name, (int)sizeof d->name, d->device), err,
                            "the device's name"));
#define ATTRIBUTE(to, id)                                                                                              \
    SL_TRY(slk_driver_check(lane, d->cu.cuDeviceGetAttribute(&(to), id, d->device), err, "asking the device for " #id))
    ATTRIBUTE(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    ATTRIBUTE(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    d->info.arch = major * 100 + minor * 10;
    ATTRIBUTE(value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    d->info.n_processors = value;
    ATTRIBUTE(value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    d->info.max_shared = value;
    ATTRIBUTE(value, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    d->info.l2_bytes = value;
#undef ATTRIBUTE
    SL_TRY(slk_driver_check(lane, d->cu.cuDeviceTotalMem(&bytes, d->device), err, "asking the device for its memory"));
    d->info.memory = (int64_t)bytes;
    d->info.name = d->name;
    return SL_OK;
}

static sl_status open_device(slk_driver *d, int32_t ordinal, sl_error *err) {
    SL_TRY(load_functions(d, err));
    SL_TRY(find_device(d, ordinal, err));
    SL_TRY(read_info(d, err));
    SL_TRY(slk_driver_check(&d->lanes[0], d->cu.cuDevicePrimaryCtxRetain(&d->context, d->device), err,
                            "taking the primary context of %s", d->name));
    SL_TRY(slk_driver_check(&d->lanes[0], d->cu.cuCtxSetCurrent(d->context), err, "making the context current"));
    current = d->context;
    for (int i = 0; i < SLK_DRIVER_LANES; i++)
        SL_TRY(slk_driver_check(&d->lanes[i],
                                d->cu.cuStreamCreateWithPriority(&d->lanes[i].stream, CU_STREAM_NON_BLOCKING, 0), err,
                                "making a stream"));
    return SL_OK;
}

sl_status slk_driver_open(slk_driver *d, int32_t ordinal, uint32_t debug, void *owner, sl_error *err) {
    memset(d, 0, sizeof *d);
    d->debug = debug;
    d->info.struct_size = SL_SIZE(sl_device_info);
    for (int i = 0; i < SLK_DRIVER_LANES; i++) {
        struct sl_lane_impl *lane = &d->lanes[i];
        lane->driver = d;
        lane->owner = owner;
        lane->lane =
            (sl_lane){.struct_size = SL_SIZE(sl_lane), .impl = lane, .device = SL_DEVICE_CUDA, .index = ordinal};
    }
    const sl_status status = open_device(d, ordinal, err);
    if (status < 0)
        slk_driver_close(d);
    return status;
}

void slk_driver_close(slk_driver *d) {
    if (d->context == NULL)
        return;
    slk_driver_enter(d);
    slk_driver_capture_abort(d);
    d->cu.cuCtxSynchronize();
    slk_driver_unload(d);
    for (int i = 0; i < SLK_DRIVER_LANES; i++)
        if (d->lanes[i].stream != NULL)
            d->cu.cuStreamDestroy(d->lanes[i].stream);
    current = NULL;
    d->cu.cuDevicePrimaryCtxRelease(d->device);
    d->context = NULL;
}

void slk_driver_enter(slk_driver *d) {
    if (current != d->context && d->cu.cuCtxSetCurrent(d->context) == CUDA_SUCCESS)
        current = d->context;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static sl_status may_allocate(slk_driver *d, int64_t bytes, sl_error *err) {
    if (bytes <= 0)
        return slk_driver_refuse(d, SL_E_INVALID, err, "allocating %lld bytes: expected more than 0", (long long)bytes);
    if (d->lanes[0].lane.capturing)
        return slk_driver_refuse(d, SL_E_STATE, err, "allocating %lld bytes in a capture", (long long)bytes);
    slk_driver_enter(d);
    return SL_OK;
}

sl_status slk_driver_alloc(slk_driver *d, int64_t bytes, void **out, sl_error *err) {
    *out = NULL;
    SL_TRY(may_allocate(d, bytes, err));
    CUdeviceptr p = 0;
    SL_TRY(slk_driver_check(&d->lanes[0], d->cu.cuMemAlloc(&p, (size_t)bytes), err, "allocating %lld bytes on %s",
                            (long long)bytes, d->name));
    *out = (void *)(uintptr_t)p;
    return SL_OK;
}

sl_status slk_driver_alloc_pinned(slk_driver *d, int64_t bytes, void **out, sl_error *err) {
    *out = NULL;
    SL_TRY(may_allocate(d, bytes, err));
    return slk_driver_check(&d->lanes[0], d->cu.cuMemHostAlloc(out, (size_t)bytes, CU_MEMHOSTALLOC_PORTABLE), err,
                            "allocating %lld pinned bytes", (long long)bytes);
}

void slk_driver_free(slk_driver *d, void *p) {
    slk_driver_enter(d);
    if (p != NULL)
        slk_driver_check(&d->lanes[0], d->cu.cuMemFree((CUdeviceptr)(uintptr_t)p), NULL, "releasing device memory");
}

void slk_driver_free_pinned(slk_driver *d, void *p) {
    slk_driver_enter(d);
    if (p != NULL)
        slk_driver_check(&d->lanes[0], d->cu.cuMemFreeHost(p), NULL, "releasing pinned memory");
}

sl_status slk_driver_wait(slk_driver *d, sl_error *err) {
    for (int i = 0; i < SLK_DRIVER_LANES; i++)
        SL_TRY(slk_driver_exec.sync(&d->lanes[i].lane, err));
    return SL_OK;
}
