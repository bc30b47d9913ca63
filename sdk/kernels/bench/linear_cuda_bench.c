/* Linear layers of a model's shape on a device, a few rows at a time, beside a plain read of memory.
 * Usage: linear_cuda_bench [--only SUBSTRING] [--rows T,T,...] [--pool GIB] [--repeats N]
 *
 * Weights rotate through a pool far larger than the L2. Prints one JSON object a line: microseconds a call, what the
 * weights' bytes would take at the speed of the plain read of this run (floor), GB/s and share of that speed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linear_pack.h"
#include "testhost.h"

typedef struct layer {
    const char *name;
    int64_t n, k; /* rows and columns of the weights */
    int act_mul, residual, y_bf16;
} layer;

/* Llama-3.1-8B. The last one comes once a step, the others once a layer. */
static const layer layers[] = {
    {"qkv", 6144, 4096, 0, 0, 1},   {"o", 4096, 4096, 0, 1, 0},      {"gate_up", 28672, 4096, 1, 0, 1},
    {"down", 4096, 14336, 0, 1, 0}, {"head", 128256, 4096, 0, 0, 0},
};
enum { N_LAYERS = sizeof layers / sizeof *layers, N_BLOCKS = 32, WIDEST = 14336, MOST_ROWS = 256, NORMED = 4096 };

typedef struct form {
    const char *name;
    int kind;
    sl_q_format format; /* bits 0: plain bf16 */
} form;

enum { BATCH = 100, ONE }; /* bf16 by the kernel of batches, integers by that of one row */
static const form forms[] = {
    {"bf16", SLK_LINEAR_BF16, {0}},
    {"bf16 batch", BATCH, {0}},
    {"int8 row", SLK_LINEAR_INT8, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"int8 g128", SLK_LINEAR_INT8, {SL_SIZE(sl_q_format), 0, 0, 128, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"int4 g128", SLK_LINEAR_INT4, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"int4 g128 one", ONE, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"int4 g128 asym", SLK_LINEAR_INT4, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 1, SL_Q_CUDA, SL_Q_INTEGER}},
    {"int4 g64", SLK_LINEAR_INT4, {SL_SIZE(sl_q_format), 0, 0, 64, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"e4m3", SLK_LINEAR_E4M3, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_E4M3}},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

typedef struct bench {
    slt_host h;
    char *pool;
    int64_t pool_bytes;
    void *x, *y, *x8;
    float *x_scale;
    const form *form;
    const layer *layer; /* NULL: a whole step */
    int norms;          /* of a step: the norms between its products too, as a model has them */
    int32_t rows;
    int64_t next;   /* where in the pool the next weights stand */
    double ceiling; /* bytes a microsecond */
    const char *only;
    int repeats;
} bench;

static void die(const char *what) {
    fprintf(stderr, "linear_cuda_bench: %s\n", what);
    exit(1);
}

static void must(sl_status s, const char *what) {
    if (s < 0)
        die(what);
}

static sl_q_format format_of(const form *f, const layer *l) {
    sl_q_format q = f->format;
    q.n = l->n;
    q.k = l->k;
    return q;
}

static int64_t bytes_of(const form *f, const layer *l) {
    const sl_q_format q = format_of(f, l);
    return f->format.bits == 0 ? l->n * l->k * 2 : slk_linear_pack_bytes(&q);
}

/* The next matrix of the pool, which is read over and over. */
static void multiply(bench *b, const layer *l) {
    const int64_t bytes = bytes_of(b->form, l);
    if (b->next + bytes > b->pool_bytes)
        b->next = 0;
    const char *w = b->pool + b->next;
    b->next += (bytes + 255) / 256 * 256;
    const sl_q_format q = format_of(b->form, l);
    slk_linear_params p = {.x = b->x,
                           .w = w,
                           .y = b->y,
                           .residual = l->residual ? b->y : NULL,
                           .ldx = l->k,
                           .ldw = l->k,
                           .t = b->rows,
                           .n = (int32_t)(l->act_mul ? l->n / 2 : l->n),
                           .k = (int32_t)l->k,
                           .y_bf16 = (uint32_t)l->y_bf16,
                           .act_mul = (uint32_t)l->act_mul};
    p.ldy = p.ldr = p.n;
    if (q.bits != 0) {
        p.scale = w + slk_linear_scales_at(&q);
        p.group = (int32_t)slk_linear_group(&q);
        p.asym = q.asymmetric;
    }
    if (b->form->kind == SLK_LINEAR_E4M3) {
        const slk_e4m3_rows_params r = {
            .x = b->x, .y = b->x8, .scale = b->x_scale, .ldx = l->k, .ldy = l->k, .t = b->rows, .k = (int32_t)l->k};
        must(slk_cuda_e4m3_rows(&b->h.k, b->h.lane, &r), "rounding rows to e4m3");
        p.x = b->x8;
        p.x_scale = b->x_scale;
    }
    must(b->form->kind == BATCH ? slk_cuda_linear_batch(&b->h.k, b->h.lane, &p)
         : b->form->kind == ONE ? slk_cuda_linear_one(&b->h.k, b->h.lane, SLK_LINEAR_INT4, &p)
                                : slk_cuda_linear(&b->h.k, b->h.lane, b->form->kind, &p),
         "a product");
}

/* x of the products from what they left. */
static void normalise(bench *b) {
    const slk_norm_params p = {.x = b->y,
                               .w = b->pool,
                               .y = b->x,
                               .ldx = NORMED,
                               .ldy = NORMED,
                               .heads = 1,
                               .n = NORMED,
                               .eps = 1e-5f,
                               .w_is_bf16 = 1};
    must(slk_cuda_norm(&b->h.k, b->h.lane, &p, b->rows, SL_F32, SL_BF16), "a norm");
}

static void run(void *user, int i) {
    bench *b = user;
    (void)i;
    if (b->layer != NULL) {
        multiply(b, b->layer);
        return;
    }
    for (int block = 0; block < N_BLOCKS; block++)
        for (int j = 0; j + 1 < N_LAYERS; j++) {
            if (b->norms && layers[j].residual == 0)
                normalise(b);
            multiply(b, &layers[j]);
        }
    if (b->norms)
        normalise(b);
    multiply(b, &layers[N_LAYERS - 1]);
}

static void run_read(void *user, int i) {
    bench *b = user;
    (void)i;
    const slk_stream_params p = {.x = b->pool, .out = b->y, .bytes = (int64_t)8 << 30, .never = 0x9e3779b9};
    must(slk_cuda_stream_read(&b->h.k, b->h.lane, &p), "reading");
}

static void print(const bench *b, const char *what, double us, int64_t bytes) {
    printf("{\"metric\": \"linear %s %s rows %d\", \"value\": %.2f, \"unit\": \"us\", \"floor\": %.2f, "
           "\"gb_per_s\": %.0f, \"share\": %.3f, \"bytes\": %lld, \"device\": \"%s\"}\n",
           b->form->name, what, b->rows, us, (double)bytes / b->ceiling, (double)bytes / us / 1e3,
           (double)bytes / b->ceiling / us, (long long)bytes, b->h.k.info.name);
    fflush(stdout);
}

static void measure(bench *b, const form *f, const layer *l, int32_t rows, int norms) {
    const char *what = l != NULL ? l->name : norms ? "step with norms" : "step";
    char name[128];
    snprintf(name, sizeof name, "%s %s", f->name, what);
    if (b->only != NULL && strstr(name, b->only) == NULL)
        return;
    b->form = f, b->layer = l, b->rows = rows, b->next = 0, b->norms = norms;
    int64_t bytes = 0, calls = 1;
    if (l != NULL) {
        bytes = bytes_of(f, l);
        calls = ((int64_t)4 << 30) / bytes; /* 4 GiB of weights a replay */
        calls = calls < 4 ? 4 : calls > 200 ? 200 : calls;
    } else {
        for (int j = 0; j < N_LAYERS; j++)
            bytes += bytes_of(f, &layers[j]) * (j + 1 < N_LAYERS ? N_BLOCKS : 1);
    }
    print(b, what, slt_time_us(&b->h, (int)calls, b->repeats, run, b), bytes);
}

/* Random bf16 values everywhere, so that memory and tensor cores have bits to turn; no scale is a NaN for long. */
static void fill_pool(bench *b) {
    const int64_t n = 16 << 20;
    float *values = malloc((size_t)n * 4);
    uint16_t *bits = malloc((size_t)n * 2);
    if (values == NULL || bits == NULL)
        die("no memory");
    slt_random(values, n, 1);
    for (int64_t i = 0; i < n; i++)
        bits[i] = slt_bf16(values[i]);
    slt_write(&b->h, b->pool, bits, n * 2);
    for (int64_t done = n * 2; done < b->pool_bytes; done *= 2)
        must(b->h.exec->copy(b->h.lane, b->pool + done, b->pool,
                             done < b->pool_bytes - done ? done : b->pool_bytes - done),
             "filling the pool");
    slt_write(&b->h, b->x, bits, (int64_t)MOST_ROWS * WIDEST * 2);
    free(values), free(bits);
}

int main(int argc, char **argv) {
    bench b = {.repeats = 11};
    const char *rows = "1,4,8,16,32,64";
    double gib = 16;
    char why[512];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            b.only = argv[++i];
        else if (strcmp(argv[i], "--rows") == 0 && i + 1 < argc)
            rows = argv[++i];
        else if (strcmp(argv[i], "--pool") == 0 && i + 1 < argc)
            gib = atof(argv[++i]);
        else if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc)
            b.repeats = atoi(argv[++i]);
        else
            die("usage: linear_cuda_bench [--only SUBSTRING] [--rows T,T,...] [--pool GIB] [--repeats N]");
    }
    if (gib < 8 || b.repeats < 1)
        die("the pool has at least 8 GiB, repeats are at least 1");
    if (slt_open(&b.h, why, sizeof why) != 0) {
        fprintf(stderr, "skipped: %s\n", why);
        return 77;
    }
    b.pool_bytes = (int64_t)(gib * (double)(1 << 30));
    b.pool = slt_device(&b.h, b.pool_bytes);
    b.x = slt_device(&b.h, (int64_t)MOST_ROWS * WIDEST * 2);
    b.y = slt_device(&b.h, (int64_t)MOST_ROWS * 128256 * 4);
    b.x8 = slt_device(&b.h, (int64_t)MOST_ROWS * WIDEST);
    b.x_scale = slt_device(&b.h, MOST_ROWS * 4);
    fill_pool(&b);

    const double us = slt_time_us(&b.h, 1, b.repeats, run_read, &b);
    b.ceiling = (double)((int64_t)8 << 30) / us;
    printf("{\"metric\": \"stream read 8 GiB\", \"value\": %.0f, \"unit\": \"GB/s\", \"device\": \"%s\"}\n",
           b.ceiling / 1e3, b.h.k.info.name);
    for (int f = 0; f < N_FORMS; f++) {
        if ((forms[f].kind == SLK_LINEAR_E4M3 && b.h.k.info.arch < 890) ||
            (forms[f].kind == BATCH && b.h.k.function[SLK_CUDA_linear_batch] == NULL))
            continue;
        for (const char *at = rows; *at != '\0';) {
            char *end;
            const long t = strtol(at, &end, 10);
            if (end == at || t < 1 || t > MOST_ROWS)
                die("--rows: numbers from 1 to 256, separated by commas");
            at = *end == ',' ? end + 1 : end;
            if ((forms[f].kind == BATCH && t > SLK_LINEAR_BATCH_ROWS) || (forms[f].kind == ONE && t > 1))
                continue;
            for (int l = 0; l < N_LAYERS; l++)
                measure(&b, &forms[f], &layers[l], (int32_t)t, 0);
            measure(&b, &forms[f], NULL, (int32_t)t, 0);
            measure(&b, &forms[f], NULL, (int32_t)t, 1);
        }
    }
    slt_close(&b.h);
    return 0;
}
