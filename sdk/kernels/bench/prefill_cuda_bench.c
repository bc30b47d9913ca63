/* Causal prompt attention, 32 query heads over 8, D 128, pages of 64 rows that lie anywhere: TFLOP/s of our kernels
 * and, given the CUDA module, of cuDNN in the same run. One JSON line a figure: {"metric", "value", "unit", ...}. FLOP
 * are those of visible pairs: 4 D (n + 1) / 2 a row and head.
 *
 *     prefill_cuda_bench [path of sluice-cuda.so]
 */
#include "testhost.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"

#include "sl_error.h"

enum { H = 32, K = 8, D = 128, PAGE_ROWS = 64, REPEATS = 9, NOISE = 1 << 20 };
enum { WIDTH = (H + 2 * K) * D };

static void must(int ok, const char *what, const char *why) {
    if (ok)
        return;
    fprintf(stderr, "prefill_cuda_bench: %s: %s\n", what, why);
    exit(1);
}

static double report(const char *kernel, int64_t n, double us, const char *card) {
    const double flop = 2.0 * H * D * (double)n * (double)(n + 1);
    printf("{\"metric\": \"prefill attention, %s, %lld rows causal\", \"value\": %.1f, \"unit\": \"TFLOP/s\", \"us\": "
           "%.1f, "
           "\"device\": \"%s\"}\n",
           kernel, (long long)n, flop / us / 1e6, us, card);
    fflush(stdout);
    return us;
}

static void report_share(const char *kernel, int64_t n, double own, double cudnn) {
    printf(
        "{\"metric\": \"prefill attention, %s, %lld rows causal, of cuDNN\", \"value\": %.3f, \"unit\": \"share\"}\n",
        kernel, (long long)n, cudnn / own);
    fflush(stdout);
}

/* n bf16 values, a megavalue of noise over and over. */
static uint16_t *values(int64_t n) {
    static float x[NOISE];
    static uint16_t y[NOISE];
    uint16_t *all = malloc((size_t)n * 2);
    must(all != NULL, "values", "no memory");
    if (y[0] == 0) {
        slt_random(x, NOISE, 1);
        for (int i = 0; i < NOISE; i++)
            y[i] = slt_bf16(1.7f * x[i]); /* about the spread of a normal distribution */
    }
    for (int64_t i = 0; i < n; i += NOISE)
        memcpy(all + i, y, (size_t)(n - i < NOISE ? n - i : NOISE) * 2);
    return all;
}

/* ---- our kernels ---------------------------------------------------------------------------------------------------
 */

typedef struct own {
    slt_host *h;
    sl_attend attend;
    int portable, failed;
} own;

static void run_own(void *user, int i) {
    own *b = user;
    (void)i;
    b->failed |= slk_cuda_attend_prefill(&b->h->k, &b->attend, b->portable) != SL_OK;
}

static sl_tensor heads_of(void *data, int64_t n, int64_t row) {
    return (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                       .data = data,
                       .shape = {n, H, D},
                       .stride = {row, D, 1},
                       .dtype = SL_BF16,
                       .ndim = 3,
                       .device = SL_DEVICE_CUDA};
}

static void bench_own(slt_host *h, int64_t n, const uint16_t *data, double us[2]) {
    const int32_t pages = (int32_t)(n / PAGE_ROWS), counts[2] = {(int32_t)n, 1}, begin[2] = {0, (int32_t)n}, zero = 0;
    int32_t *table = malloc((size_t)pages * sizeof *table);
    must(table != NULL, "page table", "no memory");
    for (int32_t i = 0; i < pages; i++)
        table[i] = (int32_t)((int64_t)i * 37 % pages); /* 37 is odd, pages a power of two: each once */
    const int64_t page = (int64_t)PAGE_ROWS * K * D * 2;
    const int32_t *c = slt_upload(h, counts, sizeof counts);
    const sl_step_device step = {.struct_size = SL_SIZE(sl_step_device),
                                 .n_rows = c,
                                 .n_seqs = c + 1,
                                 .seq = slt_upload(h, &zero, 4),
                                 .row_begin = slt_upload(h, begin, sizeof begin),
                                 .n_past = slt_upload(h, &zero, 4),
                                 .max_context = n,
                                 .max_rows = (int32_t)n,
                                 .max_seqs = 1,
                                 .max_seq_rows = (int32_t)n,
                                 .stages = SL_STAGE_PREFILL};
    const sl_batch batch = {.struct_size = SL_SIZE(sl_batch), .device = &step};
    const sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &batch, .n = (int32_t)n};
    const sl_mask mask = {.struct_size = SL_SIZE(sl_mask)};
    const sl_view_device device = {.struct_size = SL_SIZE(sl_view_device),
                                   .k_pool = slt_upload(h, data, pages * page),
                                   .v_pool = slt_upload(h, data, pages * page),
                                   .pages = slt_upload(h, table, pages * 4),
                                   .k_page_stride = page,
                                   .k_row_stride = K * D * 2,
                                   .k_head_stride = D * 2,
                                   .v_page_stride = page,
                                   .v_row_stride = K * D * 2,
                                   .v_head_stride = D * 2,
                                   .page_rows = PAGE_ROWS,
                                   .n_heads = K,
                                   .k_dim = D,
                                   .v_dim = D,
                                   .k_dtype = SL_BF16,
                                   .v_dtype = SL_BF16};
    const sl_view view = {.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = &device};
    own b = {.h = h,
             .attend = {.struct_size = SL_SIZE(sl_attend),
                        .lane = h->lane,
                        .rows = &rows,
                        .mask = &mask,
                        .view = &view,
                        .q = heads_of(slt_upload(h, data, n * WIDTH * 2), n, WIDTH),
                        .o = heads_of(slt_device(h, n * H * D * 2), n, H * D),
                        .scale = 1 / sqrt(D)}};
    const int hopper = h->k.function[SLK_CUDA_attend_prefill_hopper_128] != NULL;
    for (b.portable = 0; b.portable < 2; b.portable++) {
        us[b.portable] = slt_time_us(h, n > 8192 ? 2 : 8, REPEATS, run_own, &b);
        must(!b.failed, "our kernel", "refused, or not for this device");
        report(hopper && !b.portable ? "wgmma" : "mma.sync", n, us[b.portable], h->k.info.name);
    }
    free(table);
}

/* ---- cuDNN, through the module -------------------------------------------------------------------------------------
 */

static const sli_cuda_api *open_module(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *symbol = NULL;
    must(library != NULL, path, library == NULL ? dlerror() : "");
    symbol = dlsym(library, SLI_CUDA_SYMBOL);
    must(symbol != NULL, path, "is not the CUDA module");
    sli_cuda_module_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    return entry();
}

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Rows as the engine has them: q, k and v in one buffer. */
static double bench_cudnn(const sli_cuda_api *api, sli_cuda *cuda, const sl_sdpa *sdpa, int64_t n, const uint16_t *data,
                          const char *card) {
    const sl_lane *lane = api->lane(cuda, 0);
    const sl_sdpa_desc desc = {.struct_size = SL_SIZE(sl_sdpa_desc),
                               .n_q = n,
                               .n_kv = n,
                               .q_row = WIDTH,
                               .q_head = D,
                               .k_row = WIDTH,
                               .k_head = D,
                               .v_row = WIDTH,
                               .v_head = D,
                               .o_row = H * D,
                               .o_head = D,
                               .scale = 1 / sqrt(D),
                               .heads = H,
                               .kv_heads = K,
                               .head_dim = D,
                               .causal = 1};
    SL_ERROR(err);
    sl_sdpa_impl *plan = NULL;
    must(sdpa->create(NULL, lane, &desc, &plan, &err) == SL_OK, "cuDNN", err.text);
    const int64_t bytes = sdpa->workspace(plan);
    uint16_t *qkv = api->alloc(cuda, SL_DEVICE_CUDA, n * WIDTH * 2, 256, SL_MEM_PLUGIN);
    void *o = api->alloc(cuda, SL_DEVICE_CUDA, n * H * D * 2, 256, SL_MEM_PLUGIN);
    void *workspace = bytes > 0 ? api->alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN) : NULL;
    must(qkv != NULL && o != NULL && (bytes == 0 || workspace != NULL), "cuDNN", "no device memory");
    must(api->exec->copy(lane, qkv, data, n * WIDTH * 2) == SL_OK, "cuDNN", "a copy failed");
    const sl_sdpa_run run = {
        .struct_size = SL_SIZE(sl_sdpa_run), .q = qkv, .k = qkv + H * D, .v = qkv + (H + K) * D, .o = o};
    const int calls = n > 8192 ? 2 : 8;
    sli_cuda_graph *graph = NULL;
    must(sdpa->run(lane, plan, &run, workspace) == SL_OK, "cuDNN", "it did not run");
    must(api->exec->sync(lane, &err) == SL_OK, "cuDNN", err.text);
    must(api->capture_begin(cuda, &err) == SL_OK, "cuDNN", err.text);
    for (int i = 0; i < calls; i++)
        must(sdpa->run(lane, plan, &run, workspace) == SL_OK, "cuDNN", "it was not captured");
    must(api->capture_end(cuda, &graph, &err) == SL_OK, "cuDNN", err.text);
    sl_event_impl *begin = NULL, *end = NULL;
    must(api->exec->event_create(NULL, lane, &begin) == SL_OK && api->exec->event_create(NULL, lane, &end) == SL_OK,
         "cuDNN", "no events");
    float ms[REPEATS];
    for (int r = -2; r < REPEATS; r++) {
        must(api->exec->record(lane, begin) == SL_OK && api->graph_launch(cuda, graph, &err) == SL_OK &&
                 api->exec->record(lane, end) == SL_OK && api->exec->sync(lane, &err) == SL_OK,
             "cuDNN", err.text);
        must(api->elapsed(cuda, begin, end, &ms[r < 0 ? 0 : r]) == SL_OK, "cuDNN", "no time");
    }
    qsort(ms, REPEATS, sizeof *ms, by_value);
    api->exec->event_destroy(NULL, begin);
    api->exec->event_destroy(NULL, end);
    api->graph_destroy(cuda, graph);
    sdpa->destroy(NULL, plan);
    api->release(cuda, SL_DEVICE_CUDA, qkv);
    api->release(cuda, SL_DEVICE_CUDA, o);
    api->release(cuda, SL_DEVICE_CUDA, workspace);
    return report("cuDNN", n, (double)ms[REPEATS / 2] * 1000 / calls, card);
}

int main(int argc, char **argv) {
    static const int64_t sizes[] = {4096, 16384, 32768};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    double ours[SIZES][2];
    char why[512], card[256];
    slt_host h;
    if (slt_open(&h, why, sizeof why) != 0) {
        fprintf(stderr, "prefill_cuda_bench: %s\n", why);
        return 1;
    }
    snprintf(card, sizeof card, "%s", h.k.info.name);
    uint16_t *data = values(sizes[SIZES - 1] * WIDTH);
    for (int i = 0; i < SIZES; i++)
        bench_own(&h, sizes[i], data, ours[i]);
    slt_close(&h);
    if (argc > 1) {
        const sli_cuda_api *api = open_module(argv[1]);
        const sli_cuda_options options = {0};
        sli_cuda *cuda = NULL;
        SL_ERROR(err);
        must(api->open(&options, &cuda, &err) == SL_OK, "opening the device", err.text);
        const sl_sdpa *sdpa = api->sdpa != NULL ? api->sdpa(cuda, &err) : NULL;
        must(sdpa != NULL, "sl.sdpa/1", err.text[0] ? err.text : "this module has none");
        for (int i = 0; i < SIZES; i++) {
            const double cudnn = bench_cudnn(api, cuda, sdpa, sizes[i], data, card);
            report_share("ours", sizes[i], ours[i][0], cudnn);
        }
        api->close(cuda);
    }
    free(data);
    return 0;
}
