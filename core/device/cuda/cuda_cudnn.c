/* "sl.sdpa/1": attention by cuDNN, planned for a shape. The library is opened when first asked for, and stays.
 *
 * One handle a device, on the compute lane's stream; plans are shared by all who ask for the same shape (a model's
 * layers have one) and live as long as somebody holds them. All calls come from the engine's thread.
 */
#include "cuda_impl.h"

#include "sl_error.h"

#if __has_include(<cudnn_graph.h>)

#include "cuda_cudnn.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct device {
    sli_cuda *cuda;
    cudnnHandle_t handle;
    sl_sdpa_impl *plans;
    struct device *next;
} device;

struct sl_sdpa_impl {
    device *owner;
    sl_sdpa_impl *next;
    sl_sdpa_desc desc;
    cudnnBackendDescriptor_t plan;
    int64_t workspace;
    int32_t users;
    float scale, hidden;
    int32_t n_q, n_kv;
};

static sli_cudnn dnn;
static int loaded;
static device *devices;

sl_status sli_cudnn_fail(const sli_cudnn *lib, sl_error *err, const char *what, cudnnStatus_t status) {
    char more[512] = "";
    lib->cudnnGetLastErrorString(more, sizeof more);
    sl_status code =
        status >= CUDNN_STATUS_NOT_SUPPORTED && status < CUDNN_STATUS_INTERNAL_ERROR ? SL_E_UNIMPLEMENTED : SL_E_DEVICE;
    return sl_fail(err, code, "cuDNN: %s: %s%s%s", what, lib->cudnnGetErrorString(status), more[0] ? ": " : "", more);
}

static sl_status load(sl_error *err) {
    if (loaded)
        return SL_OK;
    static const char *const names[] = {"libcudnn.so.9", "/usr/local/cuda/lib64/libcudnn.so.9"};
    void *library = NULL;
    for (size_t i = 0; library == NULL && i < sizeof names / sizeof *names; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL); /* its parts load one another */
        if (library == NULL && i == 0)
            sl_fail(err, SL_E_NOT_FOUND, "attention by a library needs cuDNN 9: %s", dlerror());
    }
    if (library == NULL)
        return SL_E_NOT_FOUND;
    const char *missing = NULL;
    sli_cudnn got;
#define LOOK_UP(name, result, arguments)                                                                               \
    {                                                                                                                  \
        void *symbol = dlsym(library, #name);                                                                          \
        if (symbol == NULL && missing == NULL)                                                                         \
            missing = #name;                                                                                           \
        memcpy(&got.name, &symbol, sizeof symbol); /* C has no cast from data to function pointers */                  \
    }
    SLI_CUDNN_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    if (missing != NULL) {
        dlclose(library);
        return sl_fail(err, SL_E_VERSION, "libcudnn.so.9 has no %s", missing);
    }
    dnn = got;
    loaded = 1;
    return SL_OK;
}

static sl_status open_device(sli_cuda *cuda, const sl_lane *lane, device **out, sl_error *err) {
    for (device *d = devices; d != NULL; d = d->next)
        if (d->cuda == cuda) {
            *out = d;
            return SL_OK;
        }
    device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "cuDNN: out of memory");
    d->cuda = cuda;
    cudnnStatus_t status = dnn.cudnnCreate(&d->handle);
    if (status != CUDNN_STATUS_SUCCESS) {
        free(d);
        return sli_cudnn_fail(&dnn, err, "making a handle", status);
    }
    status = dnn.cudnnSetStream(d->handle, (cudaStream_t)sli_cuda_stream(lane));
    if (status != CUDNN_STATUS_SUCCESS) {
        dnn.cudnnDestroy(d->handle);
        free(d);
        return sli_cudnn_fail(&dnn, err, "taking the lane's stream", status);
    }
    d->next = devices;
    devices = d;
    *out = d;
    return SL_OK;
}

/* Nobody holds a plan of it: the handle goes, before the device may. */
static void close_unused(device *d) {
    if (d->plans != NULL)
        return;
    device **at = &devices;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    dnn.cudnnDestroy(d->handle);
    free(d);
}

static int same(const sl_sdpa_desc *a, const sl_sdpa_desc *b) {
    return a->n_q == b->n_q && a->n_kv == b->n_kv && a->q_row == b->q_row && a->q_head == b->q_head &&
           a->k_row == b->k_row && a->k_head == b->k_head && a->v_row == b->v_row && a->v_head == b->v_head &&
           a->o_row == b->o_row && a->o_head == b->o_head && a->scale == b->scale && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && !a->causal == !b->causal &&
           !a->want_lse == !b->want_lse;
}

static sl_status create(const sl_host *host, const sl_lane *lane, const sl_sdpa_desc *desc, sl_sdpa_impl **out,
                        sl_error *err) {
    (void)host;
    if (desc->n_q < 1 || desc->n_kv < 1 || desc->heads < 1 || desc->kv_heads < 1 || desc->heads % desc->kv_heads != 0 ||
        desc->head_dim < 1 || desc->n_kv > INT32_MAX || desc->n_q > INT32_MAX ||
        (desc->causal && desc->n_kv < desc->n_q))
        return sl_fail(err, SL_E_INVALID,
                       "sl.sdpa: expected query rows, at least as many keys, and heads that are a "
                       "multiple of KV heads; got %lld rows, %lld keys, %d and %d heads of %d",
                       (long long)desc->n_q, (long long)desc->n_kv, desc->heads, desc->kv_heads, desc->head_dim);
    if ((desc->q_row | desc->q_head | desc->k_row | desc->k_head | desc->v_row | desc->v_head | desc->o_row |
         desc->o_head) %
            8 !=
        0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "sl.sdpa: strides that are no multiple of 8 elements");
    SL_TRY(load(err));
    device *d = NULL;
    SL_TRY(open_device(sli_cuda_of(lane), lane, &d, err));
    for (sl_sdpa_impl *i = d->plans; i != NULL; i = i->next)
        if (same(&i->desc, desc)) {
            i->users++;
            *out = i;
            return SL_OK;
        }
    sl_sdpa_impl *made = calloc(1, sizeof *made);
    sl_status status = made != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "sl.sdpa: out of memory");
    if (status == SL_OK)
        status = sli_cudnn_sdpa_plan(&dnn, d->handle, desc, &made->plan, &made->workspace, err);
    if (status != SL_OK) {
        free(made);
        close_unused(d);
        return status;
    }
    made->owner = d;
    made->desc = *desc;
    made->users = 1;
    made->scale = (float)desc->scale;
    made->hidden = -INFINITY;
    made->n_q = (int32_t)desc->n_q;
    made->n_kv = (int32_t)desc->n_kv;
    made->next = d->plans;
    d->plans = made;
    *out = made;
    return SL_OK;
}

static void destroy(const sl_host *host, sl_sdpa_impl *sdpa) {
    (void)host;
    if (sdpa == NULL || --sdpa->users > 0)
        return;
    device *d = sdpa->owner;
    sl_sdpa_impl **at = &d->plans;
    while (*at != sdpa)
        at = &(*at)->next;
    *at = sdpa->next;
    dnn.cudnnBackendDestroyDescriptor(sdpa->plan);
    free(sdpa);
    close_unused(d);
}

static int64_t workspace(const sl_sdpa_impl *sdpa) { return sdpa->workspace; }

static sl_status run(const sl_lane *lane, sl_sdpa_impl *sdpa, const sl_sdpa_run *args, void *memory) {
    if ((sdpa->workspace > 0 && memory == NULL) || (sdpa->desc.want_lse && args->lse == NULL) ||
        sli_cuda_of(lane) != sdpa->owner->cuda)
        return SL_E_INVALID;
    int64_t name[9];
    const void *data[9];
    int64_t n = 0;
    name[n] = SLI_SDPA_Q, data[n++] = args->q;
    name[n] = SLI_SDPA_K, data[n++] = args->k;
    name[n] = SLI_SDPA_V, data[n++] = args->v;
    name[n] = SLI_SDPA_O, data[n++] = args->o;
    name[n] = SLI_SDPA_SCALE, data[n++] = &sdpa->scale;
    if (sdpa->desc.want_lse)
        name[n] = SLI_SDPA_LSE, data[n++] = args->lse;
    if (sdpa->desc.causal) {
        name[n] = SLI_SDPA_HIDDEN, data[n++] = &sdpa->hidden;
        if (sdpa->n_q != sdpa->n_kv) {
            name[n] = SLI_SDPA_N_Q, data[n++] = &sdpa->n_q;
            name[n] = SLI_SDPA_N_KV, data[n++] = &sdpa->n_kv;
        }
    }
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t status = dnn.cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, name);
    if (status == CUDNN_STATUS_SUCCESS)
        status =
            dnn.cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, data);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &memory);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.cudnnBackendFinalize(pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.cudnnBackendExecute(sdpa->owner->handle, sdpa->plan, pack);
    if (pack != NULL)
        dnn.cudnnBackendDestroyDescriptor(pack);
    if (status == CUDNN_STATUS_SUCCESS)
        return SL_OK;
    SL_ERROR(err);
    sl_status code = sli_cudnn_fail(&dnn, &err, "running attention", status);
    const sli_cuda_options *options = &sdpa->owner->cuda->options;
    if (options->log != NULL)
        options->log(options->user, SL_LOG_ERROR, err_text_);
    return code;
}

static const sl_sdpa table = {
    .struct_size = SL_SIZE(sl_sdpa), .create = create, .destroy = destroy, .workspace = workspace, .run = run};

const void *sli_cuda_sdpa(sli_cuda *cuda, sl_error *err) {
    (void)cuda;
    return load(err) == SL_OK ? &table : NULL;
}

#else

const void *sli_cuda_sdpa(sli_cuda *cuda, sl_error *err) {
    (void)cuda;
    sl_fail(err, SL_E_UNIMPLEMENTED, "built without cuDNN's headers (cudnn_graph.h)");
    return NULL;
}

#endif
