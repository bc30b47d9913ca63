/* What a device's tensor cores do in a product as large as a library likes it: 8192 x 8192 x 8192 of bf16, by cuBLASLt
 * through the device module, which must be found. Values are random: zeros would draw less power, and run faster. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_api.h"
#include "gpu_row_bench.h"

#include "sl_error.h"

enum { SIDE = 8192, CALLS = 4, ROUNDS = 9 };

/* Named by SLUICE_CUDA_MODULE, beside this program (tests/cuda/run.sh), where a build has it, or installed. */
static const sli_cuda_api *find_module(void) {
    static const char *const places[] = {"/sluice-cuda.so", "/../../core/device/cuda/sluice-cuda.so"};
    char path[PATH_MAX + 64], self[PATH_MAX];
    const char *named = getenv("SLUICE_CUDA_MODULE");
    void *library = named != NULL ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : NULL;
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? (self[n] = '\0', strrchr(self, '/')) : NULL;
    for (size_t i = 0; named == NULL && slash != NULL && library == NULL && i < sizeof places / sizeof *places; i++) {
        *slash = '\0';
        snprintf(path, sizeof path, "%s%s", self, places[i]);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    if (named == NULL && library == NULL)
        library = dlopen(SLUICE_MODULE, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library != NULL ? dlsym(library, SLI_CUDA_SYMBOL) : NULL;
    if (symbol == NULL)
        return NULL;
    sli_cuda_module_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    const sli_cuda_api *api = entry();
    return api != NULL && api->struct_size == sizeof *api ? api : NULL;
}

/* Microseconds of a product, the best round; < 0: *err says why. */
static double time_product(const sli_cuda_api *api, sli_cuda *cuda, const sl_gemm_run *run, sl_gemm_impl *gemm,
                           sl_error *err) {
    const sl_lane *lane = api->lane(cuda, 0);
    sl_event_impl *begin = NULL, *end = NULL;
    sli_cuda_graph *graph = NULL;
    double best = -1;
    int good = api->exec->gemm(lane, gemm, run) == SL_OK && api->exec->sync(lane, err) == SL_OK &&
               api->capture_begin(cuda, err) == SL_OK;
    for (int i = 0; good && i < CALLS; i++)
        good = api->exec->gemm(lane, gemm, run) == SL_OK;
    good = good && api->capture_end(cuda, &graph, err) == SL_OK &&
           api->exec->event_create(NULL, lane, &begin) == SL_OK && api->exec->event_create(NULL, lane, &end) == SL_OK;
    for (int i = 0; good && i < ROUNDS; i++) {
        float ms = 0;
        good = api->exec->record(lane, begin) == SL_OK && api->graph_launch(cuda, graph, err) == SL_OK &&
               api->exec->record(lane, end) == SL_OK && api->exec->sync(lane, err) == SL_OK &&
               api->elapsed(cuda, begin, end, &ms) == SL_OK;
        const double us = 1e3 * (double)ms / CALLS;
        best = i > 1 && good && (best < 0 || us < best) ? us : best; /* two to warm up */
    }
    api->exec->event_destroy(NULL, begin);
    api->exec->event_destroy(NULL, end);
    if (graph != NULL)
        api->graph_destroy(cuda, graph);
    return best;
}

double slk_gpu_gemm_ceiling(slk_gpu_bench *b, char *why, size_t why_bytes) {
    const sli_cuda_api *api = find_module();
    const sli_cuda_options options = {0};
    sli_cuda *cuda = NULL;
    SL_ERROR(err);
    snprintf(why, why_bytes, "no sluice-cuda.so was found, or one of another version");
    if (api == NULL || api->open(&options, &cuda, &err) != SL_OK)
        return 0;
    const sli_cuda_shapes shapes = {.max_rows = SIDE,
                                    .max_seqs = 1,
                                    .max_context = 128,
                                    .heads = 4,
                                    .kv_heads = 4,
                                    .head_dim = 64,
                                    .n_layers = 1,
                                    .vocab = 128,
                                    .width = SIDE};
    const sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                               .n = SIDE,
                               .k = SIDE,
                               .max_rows = SIDE,
                               .x_dtype = SL_BF16,
                               .w_dtype = SL_BF16,
                               .y_dtype = SL_BF16,
                               .compute = SL_F32};
    const int64_t bytes = (int64_t)SIDE * SIDE * 2;
    sl_gemm_impl *gemm = NULL;
    double us = -1;
    void *y = api->alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN);
    const sl_gemm_run run = {.struct_size = SL_SIZE(sl_gemm_run),
                             .x = b->pool,
                             .w = b->pool + bytes,
                             .y = y,
                             .rows = SIDE,
                             .ldx = SIDE,
                             .ldy = SIDE};
    if (y != NULL && api->ops_reserve(cuda, &shapes, &err) == SL_OK &&
        api->exec->gemm_create(NULL, api->lane(cuda, 0), &desc, &gemm, &err) == SL_OK) {
        us = time_product(api, cuda, &run, gemm, &err);
        api->exec->gemm_destroy(NULL, gemm);
    }
    snprintf(why, why_bytes, "%s", err.text[0] != '\0' ? err.text : "the product of the ceiling did not run");
    api->release(cuda, SL_DEVICE_CUDA, y);
    api->close(cuda);
    return us > 0 ? 2.0 * SIDE * SIDE * SIDE / us : 0;
}
