/* Images, kernels, launches. See cuda_driver.h. */
#include "cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sl_function_impl {
    sl_function_impl *next;
    sl_image_impl *image;
    CUfunction function;
    int64_t param_bytes;
    uint32_t max_shared, max_cluster;
    const char *name; /* without "kernel " */
    char label[];     /* "kernel <name>" */
};

struct sl_image_impl {
    sl_image_impl *next;
    struct sl_lane_impl *lane;
    CUlibrary library;
    sl_function_impl *functions;
    char name[]; /* for messages */
};

/* ---- images ---------------------------------------------------------------------------------------------------- */

static int listed(const char *const *names, const char *name) {
    for (int i = 0; names[i] != NULL; i++)
        if (strcmp(names[i], name) == 0)
            return 1;
    return 0;
}

/* Every kernel of the list is in the image: an image without code for this device loads all the same, empty. And every
 * kernel of the image is in the list: else host and device code are not of one build. */
static sl_status check_kernels(sl_image_impl *m, const char *const *names, sl_error *err) {
    slk_driver *d = m->lane->driver;
    unsigned int n = 0;
    for (int i = 0; names[i] != NULL; i++) {
        CUkernel kernel = NULL;
        const CUresult result = d->cu.cuLibraryGetKernel(&kernel, m->library, names[i]);
        if (result == CUDA_ERROR_NOT_FOUND)
            return slk_driver_refuse(d, SL_E_NOT_FOUND, err,
                                     "image %s has no kernel %s for this device (%s, compute capability %d.%d)",
                                     m->name, names[i], d->name, d->info.arch / 100, d->info.arch % 100 / 10);
        SL_TRY(slk_driver_check(m->lane, result, err, "image %s: kernel %s", m->name, names[i]));
    }
    SL_TRY(slk_driver_check(m->lane, d->cu.cuLibraryGetKernelCount(&n, m->library), err, "image %s: counting kernels",
                            m->name));
    if (n == 0)
        return SL_OK;
    CUkernel *kernels = calloc(n, sizeof *kernels);
    if (kernels == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "image %s: no memory for a list of %u kernels", m->name, n);
    sl_status status = slk_driver_check(m->lane, d->cu.cuLibraryEnumerateKernels(kernels, n, m->library), err,
                                        "image %s: listing kernels", m->name);
    for (unsigned int i = 0; i < n && status == SL_OK; i++) {
        const char *name = "";
        status = slk_driver_check(m->lane, d->cu.cuKernelGetName(&name, kernels[i]), err, "image %s: name of kernel %u",
                                  m->name, i);
        if (status == SL_OK && !listed(names, name))
            status = slk_driver_refuse(d, SL_E_DATA, err, "image %s has a kernel %s that its list does not name",
                                       m->name, name);
    }
    free(kernels);
    return status;
}

sl_status slk_driver_image_load(const sl_host *host, const sl_lane *lane, const sl_image *image, sl_image_impl **out,
                                sl_error *err) {
    (void)host;
    *out = NULL;
    slk_driver *d = lane->impl->driver;
    const char *name = image->name != NULL ? image->name : "without name";
    slk_driver_enter(d);
    if (image->data == NULL || image->bytes <= 0 || image->kernels == NULL)
        return slk_driver_refuse(d, SL_E_INVALID, err, "image %s: data, bytes and kernels are needed", name);
    if (image->arch != 0 && image->arch != (uint32_t)d->info.arch)
        return slk_driver_refuse(d, SL_E_UNIMPLEMENTED, err, "image %s is for architecture %u, the device is %d", name,
                                 image->arch, d->info.arch);
    if (image->min_driver > d->info.driver)
        return slk_driver_refuse(d, SL_E_VERSION, err, "image %s needs driver %d.%d, this one is %d.%d", name,
                                 image->min_driver / 1000, image->min_driver % 1000 / 10, d->info.driver / 1000,
                                 d->info.driver % 1000 / 10);
    sl_image_impl *m = calloc(1, sizeof *m + strlen(name) + 1);
    if (m == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "image %s: no memory", name);
    m->lane = &d->lanes[0];
    strcpy(m->name, name);
    sl_status status =
        slk_driver_check(m->lane, d->cu.cuLibraryLoadData(&m->library, image->data, NULL, NULL, 0, NULL, NULL, 0), err,
                         "loading image %s (%lld bytes)", name, (long long)image->bytes);
    if (status == SL_OK)
        status = check_kernels(m, image->kernels, err);
    if (status < 0) {
        if (m->library != NULL)
            d->cu.cuLibraryUnload(m->library);
        free(m);
        return status;
    }
    m->next = d->images;
    d->images = *out = m;
    return SL_OK;
}

void slk_driver_unload(slk_driver *d) {
    while (d->images != NULL) {
        sl_image_impl *m = d->images;
        d->images = m->next;
        while (m->functions != NULL) {
            sl_function_impl *f = m->functions;
            m->functions = f->next;
            free(f);
        }
        d->cu.cuLibraryUnload(m->library);
        free(m);
    }
}

/* ---- functions ------------------------------------------------------------------------------------------------- */

static sl_status check_params(sl_image_impl *m, CUkernel kernel, const char *name, int64_t param_bytes, sl_error *err) {
    slk_driver *d = m->lane->driver;
    size_t offset = 0, bytes = 0, more = 0;
    if (d->cu.cuKernelGetParamInfo(kernel, 0, &offset, &bytes) != CUDA_SUCCESS)
        bytes = 0;
    if ((int64_t)bytes != param_bytes) /* aligned ones do not begin at 0; the driver knows where */
        return slk_driver_refuse(d, SL_E_INVALID, err,
                                 "image %s: kernel %s: expected one parameter of %lld bytes, it has %zu", m->name, name,
                                 (long long)param_bytes, bytes);
    if (d->cu.cuKernelGetParamInfo(kernel, 1, &offset, &more) == CUDA_SUCCESS)
        return slk_driver_refuse(d, SL_E_INVALID, err, "image %s: kernel %s: expected one parameter, it has more",
                                 m->name, name);
    return SL_OK;
}

static sl_status set_limits(sl_image_impl *m, CUkernel kernel, const char *name, uint32_t shared, uint32_t cluster,
                            sl_error *err) {
    slk_driver *d = m->lane->driver;
    int fixed = 0;
    SL_TRY(slk_driver_check(m->lane,
                            d->cu.cuKernelGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel, d->device),
                            err, "kernel %s: its shared memory", name));
    if ((int64_t)shared + fixed > d->info.max_shared)
        return slk_driver_refuse(d, SL_E_UNIMPLEMENTED, err,
                                 "kernel %s: %u dynamic and %d static bytes of shared memory, the device has %d", name,
                                 shared, fixed, d->info.max_shared);
    if ((int64_t)shared + fixed > 48 * 1024)
        SL_TRY(slk_driver_check(
            m->lane,
            d->cu.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared, kernel, d->device),
            err, "kernel %s: %u bytes of shared memory", name, shared));
    if (cluster > 8)
        SL_TRY(slk_driver_check(
            m->lane,
            d->cu.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1, kernel, d->device), err,
            "kernel %s: clusters of %u blocks", name, cluster));
    return SL_OK;
}

sl_status slk_driver_function(const sl_host *host, sl_image_impl *image, const char *name, int64_t param_bytes,
                              uint32_t max_shared, uint32_t max_cluster, sl_function_impl **out, sl_error *err) {
    (void)host;
    *out = NULL;
    slk_driver *d = image->lane->driver;
    slk_driver_enter(d);
    CUkernel kernel = NULL;
    CUfunction function = NULL;
    const CUresult result = d->cu.cuLibraryGetKernel(&kernel, image->library, name);
    if (result == CUDA_ERROR_NOT_FOUND)
        return slk_driver_refuse(d, SL_E_NOT_FOUND, err, "image %s has no kernel %s", image->name, name);
    SL_TRY(slk_driver_check(image->lane, result, err, "image %s: kernel %s", image->name, name));
    SL_TRY(check_params(image, kernel, name, param_bytes, err));
    SL_TRY(set_limits(image, kernel, name, max_shared, max_cluster, err));
    /* Loads the code now: a first launch in a capture must not. */
    SL_TRY(slk_driver_check(image->lane, d->cu.cuKernelGetFunction(&function, kernel), err, "loading kernel %s", name));
    static const char prefix[] = "kernel ";
    sl_function_impl *f = calloc(1, sizeof *f + sizeof prefix + strlen(name));
    if (f == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "kernel %s: no memory", name);
    f->image = image;
    f->function = function;
    f->param_bytes = param_bytes;
    f->max_shared = max_shared;
    f->max_cluster = max_cluster > 0 ? max_cluster : 1;
    strcpy(f->label, prefix);
    strcat(f->label, name);
    f->name = f->label + sizeof prefix - 1;
    f->next = image->functions;
    image->functions = *out = f;
    return SL_OK;
}

/* ---- launch ---------------------------------------------------------------------------------------------------- */

enum { MAX_ATTRS = 8 };

static sl_status translate(slk_driver *d, const sl_function_impl *f, const sl_launch *launch, CUlaunchAttribute *to,
                           unsigned int *n) {
    *n = 0;
    if (launch->n_attrs > MAX_ATTRS)
        return slk_driver_refuse(d, SL_E_INVALID, NULL, "%s: %u launch attributes, at most %d", f->label,
                                 launch->n_attrs, MAX_ATTRS);
    for (uint32_t i = 0; i < launch->n_attrs; i++) {
        const sl_launch_attr *a = launch->attrs[i];
        CUlaunchAttribute *t = &to[*n];
        memset(t, 0, sizeof *t);
        switch (a->id) {
        case SL_ATTR_CLUSTER:
            if ((int64_t)a->x * a->y * a->z > f->max_cluster)
                return slk_driver_refuse(d, SL_E_INVALID, NULL, "%s: a cluster of %ux%ux%u blocks, announced were %u",
                                         f->label, a->x, a->y, a->z, f->max_cluster);
            t->id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            t->value.clusterDim.x = a->x;
            t->value.clusterDim.y = a->y;
            t->value.clusterDim.z = a->z;
            break;
        case SL_ATTR_DEPENDENT:
            if (d->info.arch < 900) /* without it the kernel simply starts behind its predecessor */
                continue;
            t->id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            t->value.programmaticStreamSerializationAllowed = 1;
            break;
        case SL_ATTR_COOPERATIVE:
            t->id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
            t->value.cooperative = 1;
            break;
        case SL_ATTR_PRIORITY:
            t->id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
            t->value.priority = (int)a->x;
            break;
        case SL_ATTR_CARVEOUT:
            t->id = CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            t->value.sharedMemCarveout = a->x;
            break;
        default:
            return slk_driver_refuse(d, SL_E_UNIMPLEMENTED, NULL, "%s: unknown launch attribute %u", f->label, a->id);
        }
        ++*n;
    }
    return SL_OK;
}

sl_status slk_driver_launch(const sl_lane *lane, sl_function_impl *f, const sl_launch *launch) {
    struct sl_lane_impl *l = lane->impl;
    slk_driver *d = l->driver;
    CUlaunchAttribute attrs[MAX_ATTRS];
    unsigned int n = 0;
    slk_driver_enter(d);
    if (launch->param_bytes != f->param_bytes || launch->params == NULL)
        return slk_driver_refuse(d, SL_E_INVALID, NULL, "%s: %lld bytes of parameters, it takes %lld", f->label,
                                 (long long)launch->param_bytes, (long long)f->param_bytes);
    if (launch->shared_bytes > f->max_shared)
        return slk_driver_refuse(d, SL_E_INVALID, NULL, "%s: %u bytes of shared memory, announced were %u", f->label,
                                 launch->shared_bytes, f->max_shared);
    SL_TRY(translate(d, f, launch, attrs, &n));
    const CUlaunchConfig config = {.gridDimX = launch->grid[0],
                                   .gridDimY = launch->grid[1],
                                   .gridDimZ = launch->grid[2],
                                   .blockDimX = launch->block[0],
                                   .blockDimY = launch->block[1],
                                   .blockDimZ = launch->block[2],
                                   .sharedMemBytes = launch->shared_bytes,
                                   .hStream = l->stream,
                                   .attrs = attrs,
                                   .numAttrs = n};
    void *params[1];
    memcpy(params, &launch->params, sizeof params[0]); /* read only; the driver's type lacks the const */
    CUresult result = d->cu.cuLaunchKernelEx(&config, f->function, params, NULL);
    if (result == CUDA_SUCCESS) {
        l->last = f->label;
        if (d->debug)
            result = d->cu.cuStreamSynchronize(l->stream);
    }
    return slk_driver_check(l, result, NULL, "%s, grid %ux%ux%u of %ux%ux%u threads, %u dynamic shared bytes", f->label,
                            launch->grid[0], launch->grid[1], launch->grid[2], launch->block[0], launch->block[1],
                            launch->block[2], launch->shared_bytes);
}
