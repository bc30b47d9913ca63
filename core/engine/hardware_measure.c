/* The ceilings of this machine's CPU, and what share of them the operations attain: `sluice roofline --calibrate`. Each
 * number is the best of several runs, since others use the machine too. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "engine.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum {
    STREAM_BYTES = 128 << 20,
    WIDTH = 2048, /* inputs of the products */
    OUT = 8192,   /* outputs: 32 MB of bf16 weights */
    ROWS = 256,   /* rows of a product that is bound by arithmetic */
    KEYS = 8192,  /* rows that are attended to */
    HEADS = 8,    /* KV heads of them, of 128 numbers: 64 MB with the values */
    GROUP = 4,
    HEAD = 128,
    REPEATS = 8,
    LAUNCHES = 400
};

typedef struct bench {
    sluice_engine *e;
    const sl_lane *lane;
    char *block;  /* [STREAM_BYTES] */
    float *x, *y; /* [ROWS, OUT] */
    uint64_t sums[SLI_MAX_WORKERS];
    sli_batch batch;
} bench;

/* ---- memory and launches ------------------------------------------------------------------------------------------
 */

static void sum_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    bench *b = user;
    const uint64_t *p = (const uint64_t *)(const void *)b->block;
    uint64_t s[4] = {0};
    for (int64_t i = begin; i + 4 <= end; i += 4)
        for (int k = 0; k < 4; k++)
            s[k] += p[i + k];
    b->sums[worker] += s[0] + s[1] + s[2] + s[3];
}

static void nothing(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)user, (void)begin, (void)end, (void)worker;
}

static sl_status stream(bench *b) {
    sli_pool_parallel_for(b->e->pool, STREAM_BYTES / 8, 512, sum_range, b);
    return SL_OK;
}

static sl_status launches(bench *b) {
    for (int i = 0; i < LAUNCHES; i++)
        sli_pool_parallel_for(b->e->pool, sli_pool_workers(b->e->pool), 1, nothing, NULL);
    return SL_OK;
}

/* ---- operations ---------------------------------------------------------------------------------------------------
 */

static sl_status product(bench *b, int64_t rows, int64_t out, sl_dtype dtype, uint32_t compute) {
    sl_tensor x, w, y;
    sl_tensor_make(&x, b->x, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){rows, WIDTH});
    sl_tensor_make(&w, b->block, dtype, SL_DEVICE_CPU, 2, (int64_t[]){out, WIDTH});
    sl_tensor_make(&y, b->y, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){rows, out});
    sl_op_gemm op = {
        .struct_size = SL_SIZE(sl_op_gemm), .lane = b->lane, .x = &x, .w = &w, .y = &y, .compute = compute};
    return sli_ops_cpu.gemm(b->e->core_host, &op);
}

static sl_status one_row(bench *b) { return product(b, 1, OUT, SL_BF16, SL_F32); }
static sl_status many_rows(bench *b) { return product(b, ROWS, WIDTH, SL_BF16, SL_F32); }
static sl_status many_rows_bf16(bench *b) { return product(b, ROWS, WIDTH, SL_BF16, SL_BF16); }

static sl_status attend(bench *b, int64_t keys, int32_t n) {
    const int64_t row = HEADS * HEAD * 4;
    const void *k_page[] = {b->block}, *v_page[] = {b->block + KEYS * row};
    sl_segment segment = {.struct_size = SL_SIZE(sl_segment),
                          .k_pages = k_page,
                          .v_pages = v_page,
                          .n_committed = keys,
                          .page_rows = KEYS,
                          .k_row_stride = row,
                          .k_head_stride = HEAD * 4,
                          .v_row_stride = row,
                          .v_head_stride = HEAD * 4,
                          .n_heads = HEADS,
                          .k_dtype = SL_F32,
                          .v_dtype = SL_F32,
                          .kind = SL_SEGMENT_ROWS,
                          .key_state = SL_KEYS_ROTATED};
    const sl_segment *segments[] = {&segment};
    sl_seq_view seq = {SL_SIZE(sl_seq_view), segments, keys, 1, 0};
    const sl_seq_view *seqs[] = {&seq};
    sl_view view = {.struct_size = SL_SIZE(sl_view), .seqs = seqs, .n_seqs = 1, .kinds = SL_SEGMENT_ROWS};
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .base = SL_MASK_CAUSAL};
    int32_t tokens[ROWS] = {0};
    sli_batch_clear(&b->batch, 0, 1);
    sli_batch_add(&b->batch, 0, keys, SL_STAGE_PREFILL, tokens, n, NULL, NULL);
    sl_rows rows = {SL_SIZE(sl_rows), &b->batch.view, NULL, NULL, n, 0};
    sl_attend args = {
        .struct_size = SL_SIZE(sl_attend), .lane = b->lane, .rows = &rows, .mask = &mask, .view = &view, .scale = 0.1};
    sl_tensor_make(&args.q, b->x, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, HEADS * GROUP, HEAD});
    sl_tensor_make(&args.o, b->y, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, HEADS * GROUP, HEAD});
    return sli_ops_cpu.attend(b->e->core_host, &args);
}

static sl_status attend_one(bench *b) { return attend(b, KEYS, 1); }
static sl_status attend_many(bench *b) { return attend(b, 1024, 64); }

static sl_status norms(bench *b) {
    sl_tensor x, w, y;
    sl_tensor_make(&x, b->block, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){STREAM_BYTES / 8 / OUT, 1, OUT});
    sl_tensor_make(&w, b->x, SL_F32, SL_DEVICE_CPU, 1, (int64_t[]){OUT});
    y = x; /* in place */
    sl_op_norm op = {SL_SIZE(sl_op_norm), b->lane, &x, &w, &y, 1e-5};
    return sli_ops_cpu.norm(b->e->core_host, &op);
}

/* ---- all of it ----------------------------------------------------------------------------------------------------
 */

/* Seconds of the fastest run. */
static sl_status fastest(bench *b, const char *what, sl_status (*run)(bench *b), double *seconds, sl_error *err) {
    *seconds = INFINITY;
    for (int i = 0; i < REPEATS; i++) {
        sli_pool_step_begin(b->e->pool);
        double begin = sli_now();
        sl_status s = run(b);
        *seconds = fmin(*seconds, sli_now() - begin);
        sli_pool_step_end(b->e->pool);
        if (s < 0)
            return sl_fail(err, s, "measuring %s: %s", what, sl_status_text(s));
    }
    return SL_OK;
}

static double last_cache(void) {
    double bytes = 0;
    for (int i = 0; i < 8; i++) {
        char path[96], unit = 0;
        double n;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *f = fopen(path, "r");
        if (f == NULL)
            continue;
        if (fscanf(f, "%lf%c", &n, &unit) >= 1) {
            n *= unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1;
            bytes = n > bytes ? n : bytes;
        }
        fclose(f);
    }
    return bytes;
}

static double share(double x) { return x > 1 ? 1 : x; }

static sl_status measure(bench *b, sluice_hardware *hw, sl_error *err) {
    double t_stream, t_launch, t_one, t_many, t_bf16, t_attend, t_prefill, t_norm, flops = 2.0 * ROWS * WIDTH * WIDTH;
    SL_TRY(fastest(b, "memory", stream, &t_stream, err));
    SL_TRY(fastest(b, "launches", launches, &t_launch, err));
    SL_TRY(fastest(b, "products of one row", one_row, &t_one, err));
    SL_TRY(fastest(b, "products", many_rows, &t_many, err));
    SL_TRY(fastest(b, "bf16 products", many_rows_bf16, &t_bf16, err));
    SL_TRY(fastest(b, "attention of one row", attend_one, &t_attend, err));
    SL_TRY(fastest(b, "attention", attend_many, &t_prefill, err));
    SL_TRY(fastest(b, "norms", norms, &t_norm, err));
    double attended = 64.0 * 1024 + 64 * 65 / 2.0, attend_flops = attended * HEADS * GROUP * (4 * HEAD + 5);
    hw->bandwidth = STREAM_BYTES / t_stream;
    hw->launch = t_launch / LAUNCHES;
    hw->cache = last_cache();
    hw->peak[SLUICE_PEAK_F32] = flops / t_many;
    hw->peak[SLUICE_PEAK_BF16] = flops / t_bf16;
    double one = 2.0 * OUT * WIDTH / t_one, rows = (double)KEYS * HEADS * HEAD * 8 / t_attend;
    /* products and attention may be faster than the plain loop that reads memory: then they are the ceiling */
    hw->bandwidth = fmax(hw->bandwidth, fmax(one, rows));
    hw->memory_share[SLUICE_CLASS_LINEAR] = share(one / hw->bandwidth);
    hw->memory_share[SLUICE_CLASS_ATTEND] = share(rows / hw->bandwidth);
    hw->memory_share[SLUICE_CLASS_REST] = share(STREAM_BYTES / t_norm / hw->bandwidth);
    hw->compute_share[SLUICE_CLASS_LINEAR] = 1;
    hw->compute_share[SLUICE_CLASS_ATTEND] = share(attend_flops / t_prefill / hw->peak[SLUICE_PEAK_F32]);
    hw->compute_share[SLUICE_CLASS_REST] = 1; /* not measured: their bytes bound them */
    return SL_OK;
}

static sl_status take(bench *b, sl_error *err) {
    b->block = sli_alloc(SLI_TAG_SCRATCH, STREAM_BYTES);
    b->x = sli_calloc(SLI_TAG_SCRATCH, (size_t)ROWS * OUT, sizeof *b->x);
    b->y = sli_calloc(SLI_TAG_SCRATCH, (size_t)ROWS * OUT, sizeof *b->y);
    if (b->block == NULL || b->x == NULL || b->y == NULL || sli_batch_create(&b->batch, 1, ROWS) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory to measure with");
    for (int64_t i = 0; i < STREAM_BYTES / 4; i++) /* small numbers, as f32 and as pairs of bf16 */
        ((uint32_t *)(void *)b->block)[i] = 0x3c003c00u + (uint32_t)(i & 0x7f);
    for (int64_t i = 0; i < (int64_t)ROWS * OUT; i++)
        b->x[i] = 1e-2f * (float)(i % 17);
    return SL_OK;
}

int sluice_hardware_measure(const sluice_options *options, sluice_hardware *out, sluice_error *error) {
    SLI_API(err, error);
    bench *b = calloc(1, sizeof *b);
    const sli_ops_shapes shapes = {
        .heads = HEADS * GROUP, .head_dim = HEAD, .group = GROUP, .keys = KEYS + ROWS, .rows = ROWS, .width = OUT};
    sl_status s = b != NULL ? sli_engine_open_bare(options, &shapes, &b->e, &err)
                            : sl_fail(&err, SL_E_NO_MEMORY, "no memory to measure with");
    if (s >= 0)
        s = take(b, &err);
    if (s >= 0) {
        const sl_exec *exec = b->e->core_host->query(b->e->core_host, SL_EXEC_ID);
        b->lane = exec->lane(b->e->core_host, SL_DEVICE_CPU, 0);
        *out = (sluice_hardware){.device = "cpu"};
        snprintf(out->name, sizeof out->name, "this-cpu");
        snprintf(out->source, sizeof out->source, "measured with %d threads, %s", sli_pool_workers(b->e->pool),
                 slk_isa_name(b->e->ops.kernels->isa));
        s = measure(b, out, &err);
    }
    if (b != NULL) {
        sli_free(b->block);
        sli_free(b->x);
        sli_free(b->y);
        sli_batch_destroy(&b->batch);
        sluice_close(b->e);
    }
    free(b);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}
