/* Linear layers of a model's shape through the module's operations in fast mode: batches and prompts, where the matrix
 * library serves; "bf16 library": the library's products alone, without what finishes a gated block. Usage:
 * linear_many_bench [--rows T,T,...] [--only SUBSTRING]
 *
 * Calls are captured and replayed over weights that rotate through a pool far larger than the L2. One JSON object a
 * line: microseconds a call, GB/s of weights, TFLOP/s.
 */
#include "cuda_module.h"

#include "sl_tensor.h"

typedef struct layer {
    const char *name;
    int64_t n, k; /* rows and columns of the weights */
    int act_mul, residual;
    sl_dtype y;
} layer;

/* Llama-3.1-8B. The last one comes once a step, the others once a layer. */
static const layer layers[] = {
    {"qkv", 6144, 4096, 0, 0, SL_BF16},  {"o", 4096, 4096, 0, 1, SL_F32},      {"gate_up", 28672, 4096, 1, 0, SL_BF16},
    {"down", 4096, 14336, 0, 1, SL_F32}, {"head", 128256, 4096, 0, 0, SL_F32},
};
enum { N_LAYERS = sizeof layers / sizeof *layers, N_BLOCKS = 32, WIDEST = 14336, MOST_ROWS = 4096, HEAD_ROWS = 256 };

static const struct form {
    const char *name;
    sl_q_format format; /* bits 0: plain bf16 */
    int library;
} forms[] = {
    {"bf16", {0}, 0},
    {"bf16 library", {0}, 1},
    {"int8 g128", {SL_SIZE(sl_q_format), 0, 0, 128, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}, 0},
    {"int4 g128", {SL_SIZE(sl_q_format), 0, 0, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}, 0},
    {"e4m3", {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_E4M3}, 0},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

static const sli_cuda_api *api;
static sli_cuda *cuda;
static char *pool, *x, *y;
static sl_gemm_impl *plans[N_LAYERS]; /* of the library alone */
static int64_t pool_bytes, next;

static void die(const char *what) {
    fprintf(stderr, "linear_many_bench: %s: %s\n", what,
            cuda != NULL && api->fault(cuda) != NULL ? api->fault(cuda) : "");
    exit(1);
}
static void must(sl_status s, const char *what) {
    if (s < 0)
        die(what);
}

static sl_tensor matrix(void *data, sl_dtype dtype, int64_t rows, int64_t width) {
    sl_tensor t;
    must(sl_tensor_make(&t, data, dtype, SL_DEVICE_CUDA, 2, (int64_t[]){rows, width}), "a tensor");
    return t;
}

static int64_t bytes_of(const struct form *f, const layer *l) {
    sl_q_format q = f->format;
    q.n = l->n, q.k = l->k;
    return q.bits == 0 ? l->n * l->k * 2 : api->ops->q_bytes(&q);
}

static void multiply_by_library(const layer *l, int64_t rows, const void *w) {
    sl_gemm_impl **plan = &plans[l - layers];
    const uint32_t epilogue = l->residual ? (uint32_t)SL_EPILOGUE_RESIDUAL : 0;
    const sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                               .n = l->n,
                               .k = l->k,
                               .max_rows = MOST_ROWS,
                               .x_dtype = SL_BF16,
                               .w_dtype = SL_BF16,
                               .y_dtype = l->y,
                               .compute = SL_F32,
                               .epilogue = epilogue};
    if (*plan == NULL)
        must(api->exec->gemm_create(NULL, api->lane(cuda, 0), &desc, plan, NULL), "a product of the library");
    const sl_gemm_run run = {.struct_size = SL_SIZE(sl_gemm_run),
                             .x = x,
                             .w = w,
                             .y = y,
                             .residual = l->residual ? y : NULL,
                             .rows = rows,
                             .ldx = l->k,
                             .ldy = l->n};
    must(api->exec->gemm(api->lane(cuda, 0), *plan, &run), l->name);
}

static void multiply(const struct form *f, const layer *l, int64_t rows) {
    const int64_t bytes = bytes_of(f, l), n = l->act_mul ? l->n / 2 : l->n;
    sl_q_format q = f->format;
    q.n = l->n, q.k = l->k;
    if (next + bytes > pool_bytes)
        next = 0;
    char *weights = pool + next;
    next += (bytes + 255) / 256 * 256;
    if (f->library) {
        multiply_by_library(l, rows, weights);
        return;
    }
    sl_tensor tx = matrix(x, SL_BF16, rows, l->k), ty = matrix(y, l->y, rows, n),
              tw = matrix(weights, SL_BF16, l->n, l->k);
    const sl_op_gemm plain = {.struct_size = SL_SIZE(sl_op_gemm),
                              .lane = api->lane(cuda, 0),
                              .x = &tx,
                              .w = &tw,
                              .y = &ty,
                              .residual = l->residual ? &ty : NULL,
                              .compute = SL_BF16,
                              .act_mul = (uint32_t)l->act_mul};
    const sl_op_qgemm packed = {.struct_size = SL_SIZE(sl_op_qgemm),
                                .lane = plain.lane,
                                .format = &q,
                                .blob = weights,
                                .x = &tx,
                                .y = &ty,
                                .residual = plain.residual,
                                .act_mul = plain.act_mul};
    must(q.bits == 0 ? api->ops->gemm(NULL, &plain) : api->ops->qgemm(NULL, &packed), l->name);
}

static int by_value(const void *a, const void *b) {
    const float u = *(const float *)a, v = *(const float *)b;
    return (u > v) - (u < v);
}

/* Median microseconds of a call. */
static double measure(const struct form *f, const layer *l, int64_t rows) {
    enum { REPEATS = 7 };
    const sl_lane *lane = api->lane(cuda, 0);
    const int64_t bytes = bytes_of(f, l);
    int calls = (int)(((int64_t)4 << 30) / bytes);
    calls = rows > HEAD_ROWS ? 8 : calls < 4 ? 4 : calls > 100 ? 100 : calls;
    SL_ERROR(err);
    sl_event_impl *events[2];
    sli_cuda_graph *graph = NULL;
    float ms[REPEATS];
    next = 0;
    multiply(f, l, rows); /* plans are made, and timed, outside of captures */
    must(api->exec->sync(lane, &err), err.text);
    must(api->capture_begin(cuda, &err), err.text);
    for (int i = 0; i < calls; i++)
        multiply(f, l, rows);
    must(api->capture_end(cuda, &graph, &err), err.text);
    for (int i = 0; i < 2; i++)
        must(api->exec->event_create(NULL, lane, &events[i]), "an event");
    must(api->graph_launch(cuda, graph, &err), err.text);
    for (int i = 0; i < REPEATS; i++) {
        must(api->exec->record(lane, events[0]), "recording");
        must(api->graph_launch(cuda, graph, &err), err.text);
        must(api->exec->record(lane, events[1]), "recording");
        must(api->exec->sync(lane, &err), err.text);
        must(api->elapsed(cuda, events[0], events[1], &ms[i]), "timing");
    }
    for (int i = 0; i < 2; i++)
        api->exec->event_destroy(NULL, events[i]);
    api->graph_destroy(cuda, graph);
    qsort(ms, REPEATS, sizeof *ms, by_value);
    return (double)ms[REPEATS / 2] * 1e3 / calls;
}

static void print(const char *form, const char *what, int64_t rows, double us, double bytes, double values) {
    printf("{\"metric\": \"many rows %s %s rows %d\", \"value\": %.2f, \"unit\": \"us\", \"gb_per_s\": %.0f, "
           "\"tflops\": %.1f}\n",
           form, what, (int)rows, us, bytes / us / 1e3, 2 * values * (double)rows / us / 1e6);
    fflush(stdout);
}

static void measure_all(const struct form *f, int64_t rows, const char *only) {
    double us = 0, bytes = 0, values = 0;
    if (only != NULL && strstr(f->name, only) == NULL)
        return;
    for (int i = 0; i < N_LAYERS; i++) {
        const layer *l = &layers[i];
        if (i + 1 == N_LAYERS && rows > HEAD_ROWS)
            break;
        const double took = measure(f, l, rows), of = (double)bytes_of(f, l), n = (double)l->n * (double)l->k;
        const int times = i + 1 < N_LAYERS ? N_BLOCKS : 1;
        print(f->name, l->name, rows, took, of, n);
        us += times * took, bytes += times * of, values += times * n;
    }
    print(f->name, "step", rows, us, bytes, values);
}

int main(int argc, char **argv) {
    const char *rows = "17,32,48,64,96,128,4096", *only = NULL;
    char why[512];
    ledger l;
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--rows") == 0)
            rows = argv[i + 1];
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else
            die("usage: linear_many_bench [--rows T,T,...] [--only SUBSTRING]");
    api = module_api();
    cuda = module_open(api, &l, 0, 0, why, sizeof why);
    if (cuda == NULL) {
        fprintf(stderr, "skipped: %s\n", why);
        return 77;
    }
    SL_ERROR(err);
    const sli_cuda_shapes shapes = {.max_rows = MOST_ROWS,
                                    .max_seqs = 64,
                                    .max_context = 4096,
                                    .heads = 32,
                                    .kv_heads = 8,
                                    .head_dim = 128,
                                    .n_layers = 32,
                                    .vocab = 128256,
                                    .width = WIDEST};
    must(api->ops_reserve(cuda, &shapes, &err), err.text);
    pool_bytes = (int64_t)8 << 30;
    pool = api->alloc(cuda, SL_DEVICE_CUDA, pool_bytes, 256, SL_MEM_PLUGIN);
    x = api->alloc(cuda, SL_DEVICE_CUDA, (int64_t)MOST_ROWS * WIDEST * 2, 256, SL_MEM_PLUGIN);
    y = api->alloc(cuda, SL_DEVICE_CUDA, (int64_t)MOST_ROWS * WIDEST * 4, 256, SL_MEM_PLUGIN); /* or HEAD_ROWS logits */
    if (pool == NULL || x == NULL || y == NULL)
        die("no memory");
    must(api->random(cuda, pool, SL_BF16, pool_bytes / 2, 1, 1.0f), "filling the pool");
    must(api->random(cuda, x, SL_BF16, (int64_t)MOST_ROWS * WIDEST, 2, 1.0f), "filling x");
    must(api->random(cuda, y, SL_F32, (int64_t)MOST_ROWS * WIDEST, 3, 1.0f), "filling y");
    for (int f = 0; f < N_FORMS; f++)
        for (const char *at = rows; *at != '\0';) {
            char *end;
            const long t = strtol(at, &end, 10);
            if (end == at || t < 1 || t > MOST_ROWS)
                die("--rows: numbers from 1 to 4096, separated by commas");
            measure_all(&forms[f], t, only);
            at = *end == ',' ? end + 1 : end;
        }
    for (int i = 0; i < N_LAYERS; i++)
        if (plans[i] != NULL)
            api->exec->gemm_destroy(NULL, plans[i]);
    api->close(cuda);
    return 0;
}
