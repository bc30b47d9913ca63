/* sl.exec/1. On a CPU lane work is done when the call returns, so events have always passed; device code is refused with
 * a reason; matrix products go through "sl.ops/1", which the engine provides. Lanes of a GPU are served by its module. */
#include "host_impl.h"

#include <assert.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_tensor.h"
#include "sluice/ops.h"

struct sl_event_impl {
    int unused;
};

/* The event of CPU lanes, which has always passed; every other one is the module's. */
static sl_event_impl passed;

struct sl_gemm_impl {
    const sl_host *host;
    const sl_ops *ops;
    sl_gemm_desc desc;
    sl_gemm_impl *device; /* the module's; NULL: this one is the CPU's */
};

static const sli_device *device_of(const sl_host *host) { return sli_host_of(host)->context->options.device; }

/* The module's table for a lane; NULL: a CPU lane. */
static const sl_exec *module_of(const sl_lane *on) {
    return on->device == SL_DEVICE_CUDA ? sli_device_module()->exec : NULL;
}

void sli_lanes_init(sli_host_context *c) {
    c->lane_impl.context = c;
    for (int i = 0; i < SLI_CPU_LANES; i++)
        c->lanes[i] = (sl_lane){.struct_size = SL_SIZE(sl_lane), .impl = &c->lane_impl, .device = SL_DEVICE_CPU};
}

static const sl_lane *lane(const sl_host *host, uint32_t device, int32_t number) {
    const sli_device *module = device_of(host);
    if (device == SL_DEVICE_CUDA)
        return module != NULL ? module->api->lane(module->cuda, number) : NULL;
    if (device != SL_DEVICE_CPU || number < 0 || number >= SLI_CPU_LANES)
        return NULL;
    return &sli_host_of(host)->context->lanes[number];
}

/* ---- device code ------------------------------------------------------------------------------------------------- */

static sl_status image_load(const sl_host *host, const sl_lane *on, const sl_image *image, sl_image_impl **out,
                            sl_error *err) {
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->image_load(host, on, image, out, err);
    return sl_fail(err, SL_E_UNIMPLEMENTED, "image %s: this lane is a CPU, which runs no device code",
                   image != NULL && image->name != NULL ? image->name : "?");
}

static sl_status function(const sl_host *host, sl_image_impl *image, const char *name, int64_t param_bytes,
                          uint32_t max_shared, uint32_t max_cluster, sl_function_impl **out, sl_error *err) {
    if (device_of(host) != NULL && image != NULL) /* images are the module's only */
        return device_of(host)->api->exec->function(host, image, name, param_bytes, max_shared, max_cluster, out, err);
    return sl_fail(err, SL_E_UNIMPLEMENTED, "function %s: this lane is a CPU, which runs no device code", name);
}

static sl_status launch(const sl_lane *on, sl_function_impl *f, const sl_launch *args) {
    return on->device == SL_DEVICE_CUDA ? module_of(on)->launch(on, f, args) : SL_E_UNIMPLEMENTED;
}

static sl_status tensor_map(const sl_host *host, const sl_lane *on, const sl_tensor *tensor, const uint32_t *box,
                            uint32_t swizzle, sl_tensor_map *out, sl_error *err) {
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->tensor_map(host, on, tensor, box, swizzle, out, err);
    return sl_fail(err, SL_E_UNIMPLEMENTED, "tensor maps: this lane is a CPU");
}

/* ---- copies, events ---------------------------------------------------------------------------------------------- */

static sl_status copy(const sl_lane *on, void *dst, const void *src, int64_t bytes) {
    if (bytes < 0 || (bytes > 0 && (dst == NULL || src == NULL)))
        return SL_E_INVALID;
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->copy(on, dst, src, bytes);
    if (bytes > 0)
        memmove(dst, src, (size_t)bytes);
    return SL_OK;
}

static sl_status fill(const sl_lane *on, void *dst, int32_t byte, int64_t bytes) {
    if (bytes < 0 || (bytes > 0 && dst == NULL))
        return SL_E_INVALID;
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->fill(on, dst, byte, bytes);
    if (bytes > 0)
        memset(dst, byte, (size_t)bytes);
    return SL_OK;
}

static sl_status event_create(const sl_host *host, const sl_lane *on, sl_event_impl **out) {
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->event_create(host, on, out);
    *out = &passed;
    return SL_OK;
}

static void event_destroy(const sl_host *host, sl_event_impl *event) {
    if (event != NULL && event != &passed && device_of(host) != NULL)
        device_of(host)->api->exec->event_destroy(host, event);
}

static sl_status record(const sl_lane *on, sl_event_impl *event) {
    if (event == NULL || (on->device == SL_DEVICE_CUDA) != (event != &passed))
        return SL_E_INVALID;
    return on->device == SL_DEVICE_CUDA ? module_of(on)->record(on, event) : SL_OK;
}

static sl_status wait(const sl_lane *on, sl_event_impl *event) {
    if (event == NULL)
        return SL_E_INVALID;
    if (event == &passed)
        return SL_OK;
    /* the host itself waits for a device by sync */
    return on->device == SL_DEVICE_CUDA ? module_of(on)->wait(on, event) : SL_E_UNIMPLEMENTED;
}

static sl_status sync(const sl_lane *on, sl_error *err) {
    return on->device == SL_DEVICE_CUDA ? module_of(on)->sync(on, err) : SL_OK;
}

/* ---- matrix products --------------------------------------------------------------------------------------------- */

static sl_status gemm_create(const sl_host *host, const sl_lane *on, const sl_gemm_desc *desc, sl_gemm_impl **out,
                             sl_error *err) {
    if (on->device == SL_DEVICE_CUDA) {
        sl_gemm_impl *gemm = sli_alloc(SLI_TAG_PLUGIN, sizeof *gemm);
        if (gemm == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "gemm: no memory");
        *gemm = (sl_gemm_impl){.host = host, .desc = *desc};
        sl_status s = module_of(on)->gemm_create(host, on, desc, &gemm->device, err);
        if (s < 0)
            sli_free(gemm);
        else
            *out = gemm;
        return s;
    }
    const sl_ops *ops = sl_host_service(host, SL_OPS_ID, SL_FIELD_END(sl_ops, gemm));
    if (ops == NULL || ops->gemm == NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "gemm: this host provides no %s", SL_OPS_ID);
    if (desc->x_dtype != SL_F32 || desc->y_dtype != SL_F32)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "gemm on a CPU: x is %s and y is %s, expected F32",
                       sl_dtype_name(desc->x_dtype), sl_dtype_name(desc->y_dtype));
    if (desc->w_dtype != SL_F32 && desc->w_dtype != SL_F16 && desc->w_dtype != SL_BF16)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "gemm on a CPU: w is %s, expected F32, F16 or BF16",
                       sl_dtype_name(desc->w_dtype));
    if (desc->epilogue & ~(uint32_t)(SL_EPILOGUE_BIAS | SL_EPILOGUE_RESIDUAL))
        return sl_fail(err, SL_E_UNIMPLEMENTED, "gemm on a CPU: epilogue 0x%x, expected bias or residual",
                       desc->epilogue);
    if (desc->n <= 0 || desc->k <= 0 || desc->max_rows <= 0)
        return sl_fail(err, SL_E_INVALID, "gemm: n %lld, k %lld, rows %lld, expected positive numbers",
                       (long long)desc->n, (long long)desc->k, (long long)desc->max_rows);
    sl_gemm_impl *gemm = sli_alloc(SLI_TAG_PLUGIN, sizeof *gemm);
    if (gemm == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "gemm: no memory");
    *gemm = (sl_gemm_impl){.host = host, .ops = ops, .desc = *desc};
    *out = gemm;
    return SL_OK;
}

static void gemm_destroy(const sl_host *host, sl_gemm_impl *gemm) {
    if (gemm != NULL && gemm->device != NULL)
        device_of(host)->api->exec->gemm_destroy(host, gemm->device);
    sli_free(gemm);
}

static sl_tensor matrix(const void *data, sl_dtype dtype, int64_t rows, int64_t columns, int64_t stride) {
    sl_tensor t = {.struct_size = SL_SIZE(sl_tensor)};
    const int64_t shape[2] = {rows, columns};
    sl_status s = sl_tensor_make(&t, (void *)(uintptr_t)data, dtype, SL_DEVICE_CPU, 2, shape);
    assert(s == SL_OK);
    (void)s;
    t.stride[0] = stride;
    return t;
}

static sl_status gemm_run(const sl_lane *on, sl_gemm_impl *gemm, const sl_gemm_run *run) {
    const sl_gemm_desc *d = &gemm->desc;
    if ((on->device == SL_DEVICE_CUDA) != (gemm->device != NULL))
        return SL_E_INVALID;
    if (gemm->device != NULL)
        return module_of(on)->gemm(on, gemm->device, run);
    if (run->rows < 0 || run->rows > d->max_rows || run->ldx < d->k || run->ldy < d->n)
        return SL_E_RANGE;
    int with_bias = (d->epilogue & SL_EPILOGUE_BIAS) != 0, with_residual = (d->epilogue & SL_EPILOGUE_RESIDUAL) != 0;
    if (with_bias != (run->bias != NULL) || with_residual != (run->residual != NULL) || run->row_scale != NULL)
        return SL_E_INVALID;
    if (run->rows == 0)
        return SL_OK;
    sl_tensor x = matrix(run->x, SL_F32, run->rows, d->k, run->ldx),
              y = matrix(run->y, SL_F32, run->rows, d->n, run->ldy);
    sl_tensor w = matrix(run->w, d->w_dtype, d->n, d->k, d->k);
    sl_tensor residual = matrix(run->residual, SL_F32, run->rows, d->n, run->ldy),
              bias = matrix(run->bias, SL_F32, 1, d->n, d->n);
    bias.ndim = 1;
    bias.shape[0] = d->n;
    bias.stride[0] = 1;
    sl_op_gemm args = {.struct_size = SL_SIZE(sl_op_gemm),
                       .lane = on,
                       .x = &x,
                       .w = &w,
                       .y = &y,
                       .bias = with_bias ? &bias : NULL,
                       .residual = with_residual ? &residual : NULL,
                       .compute = d->compute};
    return gemm->ops->gemm(gemm->host, &args);
}

/* What a lane's device is. On a CPU lane: the workers, nothing else. */
static sl_status device_info(const sl_lane *on, sl_device_info *out) {
    if (on->device == SL_DEVICE_CUDA)
        return module_of(on)->device_info(on, out);
    *out = (sl_device_info){.struct_size = SL_SIZE(sl_device_info),
                            .name = "cpu",
                            .n_processors = sli_pool_workers(on->impl->context->options.pool)};
    return SL_OK;
}

const sl_exec sli_exec_service = {
    .struct_size = SL_SIZE(sl_exec),
    .lane = lane,
    .image_load = image_load,
    .function = function,
    .launch = launch,
    .copy = copy,
    .fill = fill,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .record = record,
    .wait = wait,
    .sync = sync,
    .gemm_create = gemm_create,
    .gemm_destroy = gemm_destroy,
    .gemm = gemm_run,
    .tensor_map = tensor_map,
    .device_info = device_info,
};
