/* A CUDA module without CUDA, for tests of what stands around it: device memory is host memory, work is done at once,
 * an operation writes down that it was called. FAKE_CUDA=none: there is no device; FAKE_CUDA=small: of 1 MiB. */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda_api.h"
#include "sl_error.h"

struct sli_cuda {
    sli_cuda_options options;
    sl_lane lanes[2];
    int64_t held, scratch_bytes;
    void *scratch;
};

struct sl_event_impl {
    int recorded;
};

struct sl_gemm_impl {
    int64_t n;
};

typedef struct block {
    int64_t bytes;
    uint32_t device, tag;
    char pad[48];
} block;
_Static_assert(sizeof(block) == 64, "blocks behind it stay aligned");

static sl_status fake_open(const sli_cuda_options *options, sli_cuda **out, sl_error *err) {
    const char *mode = getenv("FAKE_CUDA");
    if (mode != NULL && strcmp(mode, "none") == 0)
        return sl_fail(err, SL_E_NOT_FOUND, "no GPU is in this machine (fake)");
    sli_cuda *c = calloc(1, sizeof *c);
    c->options = *options;
    if (mode != NULL && strcmp(mode, "small") == 0)
        c->options.memory_cap = 1 << 20;
    for (int i = 0; i < 2; i++)
        c->lanes[i] = (sl_lane){.struct_size = SL_SIZE(sl_lane),
                                .impl = (sl_lane_impl *)(void *)c,
                                .device = SL_DEVICE_CUDA,
                                .index = options->ordinal};
    *out = c;
    return SL_OK;
}

static void *fake_alloc(sli_cuda *c, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    if (align > 4096 ||
        (c->options.memory_cap > 0 && device == SL_DEVICE_CUDA && c->held + bytes > c->options.memory_cap))
        return NULL;
    char *base = aligned_alloc(4096, 8192 + ((size_t)bytes + 4095) / 4096 * 4096), *p = base + 4096;
    block b = {.bytes = bytes, .device = device, .tag = tag};
    memset(p, 0, (size_t)bytes);
    memcpy(p - sizeof b, &b, sizeof b);
    c->held += device == SL_DEVICE_CUDA ? bytes : 0;
    c->options.ledger(c->options.user, device, tag, bytes);
    return p;
}

static void fake_release(sli_cuda *c, uint32_t device, void *p) {
    block b;
    if (p == NULL)
        return;
    memcpy(&b, (char *)p - sizeof b, sizeof b);
    if (b.device != device)
        abort();
    c->held -= device == SL_DEVICE_CUDA ? b.bytes : 0;
    c->options.ledger(c->options.user, device, b.tag, -b.bytes);
    free((char *)p - 4096);
}

static void fake_close(sli_cuda *c) {
    fake_release(c, SL_DEVICE_CUDA, c->scratch);
    if (c->held != 0)
        abort(); /* the host closes it last */
    free(c);
}

static const sl_lane *fake_lane(sli_cuda *c, int32_t number) {
    return number >= 0 && number < 2 ? &c->lanes[number] : NULL;
}

static sl_status fake_reserve(sli_cuda *c, int64_t bytes) {
    if (bytes > c->scratch_bytes) {
        fake_release(c, SL_DEVICE_CUDA, c->scratch);
        c->scratch = fake_alloc(c, SL_DEVICE_CUDA, bytes, 256, SL_MEM_SCRATCH);
        c->scratch_bytes = bytes;
    }
    return c->scratch != NULL ? SL_OK : SL_E_NO_MEMORY;
}

static void *fake_scratch(sli_cuda *c) { return c->scratch; }

/* ---- sl.exec/1 --------------------------------------------------------------------------------------------------- */

static sl_status fake_copy(const sl_lane *lane, void *dst, const void *src, int64_t bytes) {
    (void)lane;
    memmove(dst, src, (size_t)bytes);
    return SL_OK;
}

static sl_status fake_fill(const sl_lane *lane, void *dst, int32_t byte, int64_t bytes) {
    (void)lane;
    memset(dst, byte, (size_t)bytes);
    return SL_OK;
}

static sl_status fake_event_create(const sl_host *host, const sl_lane *lane, sl_event_impl **out) {
    (void)host, (void)lane;
    *out = calloc(1, sizeof **out);
    return SL_OK;
}

static void fake_event_destroy(const sl_host *host, sl_event_impl *event) {
    (void)host;
    free(event);
}

static sl_status fake_record(const sl_lane *lane, sl_event_impl *event) {
    (void)lane;
    event->recorded = 1;
    return SL_OK;
}

static sl_status fake_wait(const sl_lane *lane, sl_event_impl *event) {
    (void)lane;
    return event->recorded ? SL_OK : SL_E_STATE;
}

static sl_status fake_sync(const sl_lane *lane, sl_error *err) {
    (void)lane, (void)err;
    return SL_OK;
}

static sl_status fake_gemm_create(const sl_host *host, const sl_lane *lane, const sl_gemm_desc *desc,
                                  sl_gemm_impl **out, sl_error *err) {
    (void)host, (void)lane;
    if (desc->n == 0)
        return sl_fail(err, SL_E_INVALID, "fake: no columns");
    *out = calloc(1, sizeof **out);
    (*out)->n = desc->n;
    return SL_OK;
}

static void fake_gemm_destroy(const sl_host *host, sl_gemm_impl *gemm) {
    (void)host;
    free(gemm);
}

static sl_status fake_gemm(const sl_lane *lane, sl_gemm_impl *gemm, const sl_gemm_run *run) {
    (void)lane;
    *(float *)run->y = (float)gemm->n;
    return SL_OK;
}

static sl_status fake_launch(const sl_lane *lane, sl_function_impl *function, const sl_launch *launch) {
    (void)lane, (void)function, (void)launch;
    return SL_E_DEVICE;
}

static sl_status fake_device_info(const sl_lane *lane, sl_device_info *out) {
    *out = (sl_device_info){.struct_size = SL_SIZE(sl_device_info),
                            .name = "Fake GPU",
                            .memory = 1 << 30,
                            .memory_free = 1 << 29,
                            .n_processors = lane->index,
                            .arch = 900};
    return SL_OK;
}

static const sl_exec exec = {
    .struct_size = SL_SIZE(sl_exec),
    .launch = fake_launch,
    .copy = fake_copy,
    .fill = fake_fill,
    .event_create = fake_event_create,
    .event_destroy = fake_event_destroy,
    .record = fake_record,
    .wait = fake_wait,
    .sync = fake_sync,
    .gemm_create = fake_gemm_create,
    .gemm_destroy = fake_gemm_destroy,
    .gemm = fake_gemm,
    .device_info = fake_device_info,
};

/* ---- sl.ops/1 ---------------------------------------------------------------------------------------------------- */

/* Says that it was here, by a status that no operation of the host gives. */
#define HERE(name, type)                                                                                               \
    static sl_status fake_##name(const sl_host *host, const type *args) {                                              \
        (void)host, (void)args;                                                                                        \
        return SL_E_CANCELLED;                                                                                         \
    }
HERE(norm, sl_op_norm)
HERE(gather, sl_op_gather)
HERE(attend, sl_attend)

static int64_t fake_q_bytes(const sl_q_format *format) { return 4242 + format->n; }

static const sl_ops ops = {.struct_size = SL_SIZE(sl_ops),
                           .norm = fake_norm,
                           .gather = fake_gather,
                           .attend = fake_attend,
                           .q_bytes = fake_q_bytes};

static const void *fake_sdpa(sli_cuda *c, sl_error *err) {
    (void)c;
    sl_fail(err, SL_E_NOT_FOUND, "fake: libcudnn.so.9 is not here");
    return NULL;
}

SL_EXPORT const sli_cuda_api *sli_cuda_module_0(void);
const sli_cuda_api *sli_cuda_module_0(void) {
    static const sli_cuda_api api = {.struct_size = sizeof api,
                                     .open = fake_open,
                                     .close = fake_close,
                                     .lane = fake_lane,
                                     .alloc = fake_alloc,
                                     .release = fake_release,
                                     .scratch_reserve = fake_reserve,
                                     .scratch = fake_scratch,
                                     .exec = &exec,
                                     .ops = &ops,
                                     .sdpa = fake_sdpa};
    return &api;
}
