/* See slk_cuda.h. */
#include "slk_cuda.h"

#include <string.h>

#include "sl_error.h"

#define IMAGE(name, arch) extern const unsigned char slk_image_##name[], slk_image_##name##_end[];
SLK_CUDA_IMAGES(IMAGE)
#undef IMAGE

static const struct {
    const char *name;
    const unsigned char *begin, *end;
    uint32_t arch;
} images[] = {
#define IMAGE(name, arch) {#name, slk_image_##name, slk_image_##name##_end, arch},
    SLK_CUDA_IMAGES(IMAGE)
#undef IMAGE
};

static const struct {
    const char *name;
    int64_t param_bytes;
    uint32_t shared, cluster;
    int image;
} kernels[] = {
#define KERNEL(name, params, shared, cluster, image) {"slk_" #name, sizeof(params), shared, cluster, SLK_IMAGE_##image},
    SLK_CUDA_KERNELS(KERNEL)
#undef KERNEL
};

static sl_status load(slk_cuda *k, const sl_lane *lane, int i, sl_error *err) {
    const char *names[SLK_CUDA_KERNEL_COUNT + 1];
    int n = 0;
    for (int j = 0; j < SLK_CUDA_KERNEL_COUNT; j++)
        if (kernels[j].image == i)
            names[n++] = kernels[j].name;
    names[n] = NULL;
    sl_image image = {.struct_size = SL_SIZE(sl_image),
                      .data = images[i].begin,
                      .bytes = images[i].end - images[i].begin,
                      .name = images[i].name,
                      .kernels = names,
                      .arch = images[i].arch};
    SL_TRY(k->exec->image_load(k->host, lane, &image, &k->image[i], err));
    for (int j = 0; j < SLK_CUDA_KERNEL_COUNT; j++)
        if (kernels[j].image == i)
            SL_TRY(k->exec->function(k->host, k->image[i], kernels[j].name, kernels[j].param_bytes, kernels[j].shared,
                                     kernels[j].cluster, &k->function[j], err));
    return SL_OK;
}

sl_status slk_cuda_open(slk_cuda *k, const sl_host *host, const sl_exec *exec, const sl_lane *lane, sl_error *err) {
    memset(k, 0, sizeof *k);
    k->host = host;
    k->exec = exec;
    k->info.struct_size = SL_SIZE(sl_device_info);
    SL_TRY(exec->device_info(lane, &k->info));
    for (int i = 0; i < SLK_CUDA_IMAGE_COUNT; i++)
        if (images[i].arch == 0 || images[i].arch == (uint32_t)k->info.arch)
            SL_TRY(load(k, lane, i, err));
    return SL_OK;
}

sl_status slk_cuda_launch(const slk_cuda *k, const sl_lane *lane, int kernel, const void *params, int64_t param_bytes,
                          slk_cuda_grid grid) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return SL_OK;
    if (k->function[kernel] == NULL)
        return SL_E_UNIMPLEMENTED;
    sl_launch_attr dependent = {SL_SIZE(sl_launch_attr), SL_ATTR_DEPENDENT, 1, 0, 0};
    sl_launch_attr cluster = {SL_SIZE(sl_launch_attr), SL_ATTR_CLUSTER, grid.cluster, 1, 1};
    const sl_launch_attr *attrs[2];
    sl_launch launch = {.struct_size = SL_SIZE(sl_launch),
                        .params = params,
                        .param_bytes = param_bytes,
                        .attrs = attrs,
                        .grid = {grid.x, grid.y, grid.z},
                        .block = {grid.threads, 1, 1},
                        .shared_bytes = grid.shared};
    if (grid.dependent)
        attrs[launch.n_attrs++] = &dependent;
    if (grid.cluster > 1)
        attrs[launch.n_attrs++] = &cluster;
    return k->exec->launch(lane, k->function[kernel], &launch);
}
