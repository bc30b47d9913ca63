/* Causal prompt attention, 32 query heads over 8, D 128, pages of 64 rows that lie anywhere: TFLOP/s of our kernels
 * and, given the CUDA module, of cuDNN, in turns: each figure is the median of seven rounds, a share that of two
 * medians. One JSON line a figure: {"metric", "value", "unit", ...}. FLOP are those of visible pairs: 4 D (n + 1) / 2 a
 * row and head.
 *
 *     prefill_cuda_bench [path of sluice-cuda.so]        else SLUICE_CUDA_MODULE; neither: no cuDNN
 */
#include "testhost.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"

#include "sl_error.h"

enum { H = 32, K = 8, D = 128, PAGE_ROWS = 64, ROUNDS = 7, NOISE = 1 << 20 };
enum { WIDTH = (H + 2 * K) * D };

static void must(int ok, const char *what, const char *why) {
    if (ok)
        return;
    fprintf(stderr, "prefill_cuda_bench: %s: %s\n", what, why);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints the median of ROUNDS times, and returns it. */
static double report(const char *kernel, int64_t n, double *us, const char *card) {
    const double flop = 2.0 * H * D * (double)n * (double)(n + 1);
    qsort(us, ROUNDS, sizeof *us, by_value);
    const double median = us[ROUNDS / 2];
    printf("{\"metric\": \"prefill attention, %s, %lld rows causal\", \"value\": %.1f, \"unit\": \"TFLOP/s\", \"us\": "
           "%.1f, \"device\": \"%s\"}\n",
           kernel, (long long)n, flop / median / 1e6, median, card);
    fflush(stdout);
    return median;
}

static int calls_of(int64_t n) { return n > 8192 ? 2 : 8; }

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

/* What describes a prompt to a kernel; the rest lies in device memory, which the host takes back at its end. */
typedef struct prompt {
    sl_step_device step;
    sl_batch batch;
    sl_rows rows;
    sl_mask mask;
    sl_view_device device;
    sl_view view;
} prompt;

static own own_of(slt_host *h, int64_t n, const uint16_t *data, prompt *p) {
    const int32_t pages = (int32_t)(n / PAGE_ROWS), counts[2] = {(int32_t)n, 1}, begin[2] = {0, (int32_t)n}, zero = 0;
    int32_t *table = malloc((size_t)pages * sizeof *table);
    must(table != NULL, "page table", "no memory");
    for (int32_t i = 0; i < pages; i++)
        table[i] = (int32_t)((int64_t)i * 37 % pages); /* 37 is odd, pages a power of two: each once */
    const int64_t page = (int64_t)PAGE_ROWS * K * D * 2;
    const int32_t *c = slt_upload(h, counts, sizeof counts);
    p->step = (sl_step_device){.struct_size = SL_SIZE(sl_step_device),
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
    p->batch = (sl_batch){.struct_size = SL_SIZE(sl_batch), .device = &p->step};
    p->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &p->batch, .n = (int32_t)n};
    p->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask)};
    p->device = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
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
    p->view = (sl_view){.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = &p->device};
    free(table);
    return (own){.h = h,
                 .attend = {.struct_size = SL_SIZE(sl_attend),
                            .lane = h->lane,
                            .rows = &p->rows,
                            .mask = &p->mask,
                            .view = &p->view,
                            .q = heads_of(slt_upload(h, data, n * WIDTH * 2), n, WIDTH),
                            .o = heads_of(slt_device(h, n * H * D * 2), n, H * D),
                            .scale = 1 / sqrt(D)}};
}

static double time_own(own *b, int portable, int64_t n) {
    b->portable = portable;
    const double us = slt_time_us(b->h, calls_of(n), 1, run_own, b);
    must(!b->failed, "our kernel", "refused, or not for this device");
    return us;
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

/* cuDNN on rows as the engine has them: q, k and v in one buffer. */
typedef struct peer {
    const sli_cuda_api *api;
    sli_cuda *cuda;
    const sl_sdpa *sdpa;
    const sl_lane *lane;
    sl_sdpa_impl *plan;
    sli_cuda_graph *graph;
    sl_event_impl *begin, *end;
    void *qkv, *o, *workspace;
} peer;

static void make_graph(peer *c, int64_t n, const uint16_t *data) {
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
    must(c->sdpa->create(NULL, c->lane, &desc, &c->plan, &err) == SL_OK, "cuDNN", err.text);
    const int64_t bytes = c->sdpa->workspace(c->plan);
    c->qkv = c->api->alloc(c->cuda, SL_DEVICE_CUDA, n * WIDTH * 2, 256, SL_MEM_PLUGIN);
    c->o = c->api->alloc(c->cuda, SL_DEVICE_CUDA, n * H * D * 2, 256, SL_MEM_PLUGIN);
    c->workspace = bytes > 0 ? c->api->alloc(c->cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN) : NULL;
    must(c->qkv != NULL && c->o != NULL && (bytes == 0 || c->workspace != NULL), "cuDNN", "no device memory");
    must(c->api->exec->copy(c->lane, c->qkv, data, n * WIDTH * 2) == SL_OK, "cuDNN", "a copy failed");
    const uint16_t *qkv = c->qkv;
    const sl_sdpa_run run = {
        .struct_size = SL_SIZE(sl_sdpa_run), .q = qkv, .k = qkv + H * D, .v = qkv + (H + K) * D, .o = c->o};
    must(c->sdpa->run(c->lane, c->plan, &run, c->workspace) == SL_OK, "cuDNN", "it did not run");
    must(c->api->exec->sync(c->lane, &err) == SL_OK, "cuDNN", err.text);
    must(c->api->capture_begin(c->cuda, &err) == SL_OK, "cuDNN", err.text);
    for (int i = 0; i < calls_of(n); i++)
        must(c->sdpa->run(c->lane, c->plan, &run, c->workspace) == SL_OK, "cuDNN", "it was not captured");
    must(c->api->capture_end(c->cuda, &c->graph, &err) == SL_OK, "cuDNN", err.text);
    must(c->api->exec->event_create(NULL, c->lane, &c->begin) == SL_OK &&
             c->api->exec->event_create(NULL, c->lane, &c->end) == SL_OK,
         "cuDNN", "no events");
}

/* As slt_time_us: three launches to warm up, one that is timed. */
static double time_peer(peer *c, int64_t n) {
    float ms = 0;
    SL_ERROR(err);
    for (int r = 0; r < 4; r++)
        must(c->api->exec->record(c->lane, c->begin) == SL_OK &&
                 c->api->graph_launch(c->cuda, c->graph, &err) == SL_OK &&
                 c->api->exec->record(c->lane, c->end) == SL_OK && c->api->exec->sync(c->lane, &err) == SL_OK,
             "cuDNN", err.text);
    must(c->api->elapsed(c->cuda, c->begin, c->end, &ms) == SL_OK, "cuDNN", "no time");
    return (double)ms * 1000 / calls_of(n);
}

static void drop_graph(peer *c) {
    c->api->exec->event_destroy(NULL, c->begin);
    c->api->exec->event_destroy(NULL, c->end);
    c->api->graph_destroy(c->cuda, c->graph);
    c->sdpa->destroy(NULL, c->plan);
    c->api->release(c->cuda, SL_DEVICE_CUDA, c->qkv);
    c->api->release(c->cuda, SL_DEVICE_CUDA, c->o);
    c->api->release(c->cuda, SL_DEVICE_CUDA, c->workspace);
}

static void open_peer(peer *c, const char *path) {
    const sli_cuda_options options = {0};
    SL_ERROR(err);
    c->api = open_module(path);
    must(c->api->open(&options, &c->cuda, &err) == SL_OK, "opening the device", err.text);
    c->lane = c->api->lane(c->cuda, 0);
    c->sdpa = c->api->sdpa != NULL ? c->api->sdpa(c->cuda, &err) : NULL;
    if (c->sdpa == NULL)
        fprintf(stderr, "prefill_cuda_bench: no cuDNN to compare with: %s\n",
                err.text[0] ? err.text : "this module has none");
}

/* ---- a length ------------------------------------------------------------------------------------------------------
 */

static void bench(slt_host *h, peer *cudnn, int64_t n, const uint16_t *data) {
    double us[3][ROUNDS]; /* ours, ours without wgmma, cuDNN's */
    prompt p;
    own ours = own_of(h, n, data, &p);
    const int hopper = h->k.function[SLK_CUDA_attend_prefill_hopper_128] != NULL;
    if (cudnn->sdpa != NULL)
        make_graph(cudnn, n, data);
    for (int r = 0; r < ROUNDS; r++) {
        us[0][r] = time_own(&ours, 0, n);
        us[2][r] = cudnn->sdpa != NULL ? time_peer(cudnn, n) : 0;
        us[1][r] = time_own(&ours, 1, n);
    }
    const double best = report(hopper ? "wgmma" : "mma.sync", n, us[0], h->k.info.name);
    if (hopper)
        report("mma.sync", n, us[1], h->k.info.name);
    if (cudnn->sdpa == NULL)
        return;
    const double theirs = report("cuDNN", n, us[2], h->k.info.name);
    printf("{\"metric\": \"prefill attention, ours, %lld rows causal, of cuDNN\", \"value\": %.3f, \"unit\": "
           "\"share\", \"rounds\": %d}\n",
           (long long)n, theirs / best, ROUNDS);
    fflush(stdout);
    drop_graph(cudnn);
}

int main(int argc, char **argv) {
    static const int64_t sizes[] = {4096, 16384, 32768};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    const char *module = argc > 1 ? argv[1] : getenv("SLUICE_CUDA_MODULE");
    char why[512];
    slt_host h;
    peer cudnn = {0};
    if (slt_open(&h, why, sizeof why) != 0) {
        fprintf(stderr, "prefill_cuda_bench: %s\n", why);
        return 1;
    }
    if (module != NULL)
        open_peer(&cudnn, module);
    uint16_t *data = values(sizes[SIZES - 1] * WIDTH);
    for (int i = 0; i < SIZES; i++)
        bench(&h, &cudnn, sizes[i], data);
    if (cudnn.api != NULL)
        cudnn.api->close(cudnn.cuda);
    slt_close(&h);
    free(data);
    return 0;
}
