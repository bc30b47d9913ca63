/* Attention of few rows over a paged cache on a device, beside a plain read of memory.
 * Usage: attend_cuda_bench [--only SUBSTRING] [--pool GIB] [--repeats N]
 *
 * 32 query heads, 8 KV heads of 128 channels, bf16, pages of 64 rows. Calls rotate through layers whose pages are
 * scattered over a pool far larger than the L2; a case that does not fit in the pool is left out, and says so. Prints
 * one JSON object a line: microseconds a call in a replayed graph, what the bytes of keys and values would take at the
 * speed of the plain read of this run (floor), GB/s and share of that speed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "testhost.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, PAGE = 64, MOST_LAYERS = 64, MOST_CALLS = 64 };

typedef struct work {
    const char *name;
    int64_t seqs, context; /* staged rows included */
    int32_t rows;          /* of a sequence */
    int32_t tree, list;    /* list: rows a KV head */
    int32_t bits;
    int32_t fast;
    int32_t mixed; /* heads of a row beside one another, rather than the rows of a head */
} work;

static const work works[] = {
    {"decode", 1, 512, 1, 0, 0, 0, 0, 0},
    {"decode, fast", 1, 512, 1, 0, 0, 0, 1, 0},
    {"decode", 1, 4096, 1, 0, 0, 0, 0, 0},
    {"decode", 1, 32768, 1, 0, 0, 0, 0, 0},
    {"decode", 1, 131072, 1, 0, 0, 0, 0, 0},
    {"decode", 8, 4096, 1, 0, 0, 0, 0, 0},
    {"decode", 8, 32768, 1, 0, 0, 0, 0, 0},
    {"decode", 8, 131072, 1, 0, 0, 0, 0, 0},
    {"decode", 64, 1024, 1, 0, 0, 0, 0, 0},
    {"decode, fast", 1, 4096, 1, 0, 0, 0, 1, 0},
    {"decode, fast", 1, 32768, 1, 0, 0, 0, 1, 0},
    {"decode, fast", 1, 131072, 1, 0, 0, 0, 1, 0},
    {"decode, fast", 8, 32768, 1, 0, 0, 0, 1, 0},
    {"decode, fast", 8, 131072, 1, 0, 0, 0, 1, 0},
    {"decode, fast", 64, 1024, 1, 0, 0, 0, 1, 0},
    {"decode, fast, heads mixed", 1, 131072, 1, 0, 0, 0, 1, 1},
    {"decode, fast, heads mixed", 8, 131072, 1, 0, 0, 0, 1, 1},
    {"list of 4096", 1, 32768, 1, 0, 4096, 0, 0, 0},
    {"list of 4096", 8, 32768, 1, 0, 4096, 0, 0, 0},
    {"list of 256", 1, 102400, 1, 0, 256, 0, 0, 0},
    {"tree of 64", 1, 4096, 64, 1, 0, 0, 0, 0},
    {"tree of 64, fast", 1, 4096, 64, 1, 0, 0, 1, 0},
    {"tree of 64", 1, 32768, 64, 1, 0, 0, 0, 0},
    {"tree of 64, fast", 1, 32768, 64, 1, 0, 0, 1, 0},
    {"chain of 4", 1, 4096, 4, 0, 0, 0, 0, 0},
    {"int8 rows", 1, 32768, 1, 0, 0, 8, 0, 0},
    {"int4 rows", 1, 32768, 1, 0, 0, 4, 0, 0},
    {"int4 rows", 8, 32768, 1, 0, 0, 4, 0, 0},
    {"int4 rows, fast", 1, 32768, 1, 0, 0, 4, 1, 0},
    {"int2 rows, fast", 1, 32768, 1, 0, 0, 2, 1, 0},
    {"prompt of 2048", 1, 2048, 2048, 0, 0, 0, 0, 0},
};

typedef struct bench {
    slt_host h;
    char *pool, *scales;
    int64_t pool_bytes;
    void *q, *o, *workspace;
    int64_t workspace_bytes;
    sl_step_device step;
    sl_view_device view[MOST_LAYERS];
    int32_t n_layers;
    double ceiling; /* bytes a microsecond */
} bench;

static void die(const char *what) {
    fprintf(stderr, "attend_cuda_bench: %s\n", what);
    exit(1);
}

static void *need(size_t bytes) {
    void *p = calloc(bytes > 0 ? bytes : 1, 1);
    if (p == NULL)
        die("no memory");
    return p;
}

static uint64_t draws = 1;
static uint64_t draw(void) {
    draws = draws * 6364136223846793005u + 1442695040888963407u;
    return draws >> 33;
}

static void run_read(void *user, int i) {
    bench *b = user;
    (void)i;
    const slk_stream_params p = {.x = b->pool, .out = b->o, .bytes = b->pool_bytes, .never = 0x9e3779b9};
    if (slk_cuda_stream_read(&b->h.k, b->h.lane, &p) != SL_OK)
        die("reading");
}

static void run_attend(void *user, int i) {
    bench *b = user;
    sl_batch batch = {
        .struct_size = SL_SIZE(sl_batch), .n_seqs = b->step.max_seqs, .n_rows = b->step.max_rows, .device = &b->step};
    sl_rows rows = {
        .struct_size = SL_SIZE(sl_rows), .batch = &batch, .device_n = b->step.n_rows, .n = b->step.max_rows};
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .base = SL_MASK_CAUSAL};
    sl_view view = {.struct_size = SL_SIZE(sl_view), .device = &b->view[i % b->n_layers]};
    sl_tensor q = {.struct_size = SL_SIZE(sl_tensor),
                   .data = b->q,
                   .shape = {b->step.max_rows, HEADS, DIM},
                   .stride = {(HEADS + 2 * KV_HEADS) * DIM, DIM, 1},
                   .dtype = SL_BF16,
                   .ndim = 3};
    sl_tensor o = {.struct_size = SL_SIZE(sl_tensor),
                   .data = b->o,
                   .shape = {b->step.max_rows, HEADS, DIM},
                   .stride = {HEADS * DIM, DIM, 1},
                   .dtype = SL_BF16,
                   .ndim = 3};
    sl_attend a = {.struct_size = SL_SIZE(sl_attend),
                   .lane = b->h.lane,
                   .rows = &rows,
                   .mask = &mask,
                   .view = &view,
                   .q = q,
                   .o = o,
                   .scale = 1.0 / sqrt(DIM)};
    if (slk_cuda_attend_few(&b->h.k, b->h.lane, &a, b->workspace, b->workspace_bytes) != SL_OK)
        die("attending");
}

/* The step of the work in device memory. */
static void make_step(bench *b, const work *w) {
    const int32_t seqs = (int32_t)w->seqs, rows = seqs * w->rows;
    int32_t *seq = need(4 * (size_t)seqs), *begin = need(4 * ((size_t)seqs + 1)), *past = need(4 * (size_t)seqs),
            *tree = need(4 * (size_t)seqs), *row_seq = need(4 * (size_t)rows);
    uint32_t *bits = need(16 * (size_t)rows);
    for (int32_t s = 0; s < seqs; s++) {
        seq[s] = s;
        begin[s + 1] = (s + 1) * w->rows;
        past[s] = (int32_t)w->context - w->rows;
        tree[s] = w->tree;
        for (int32_t i = 0; i < w->rows; i++) {
            row_seq[s * w->rows + i] = s;
            for (int32_t node = i; w->tree; node = (node - 1) / 3) { /* three children each */
                bits[(s * w->rows + i) * 4 + node / 32] |= 1u << (node % 32);
                if (node == 0)
                    break;
            }
        }
    }
    b->step = (sl_step_device){.struct_size = SL_SIZE(sl_step_device),
                               .n_rows = slt_upload(&b->h, &rows, 4),
                               .n_seqs = slt_upload(&b->h, &seqs, 4),
                               .seq = slt_upload(&b->h, seq, 4 * (int64_t)seqs),
                               .row_begin = slt_upload(&b->h, begin, 4 * ((int64_t)seqs + 1)),
                               .n_past = slt_upload(&b->h, past, 4 * (int64_t)seqs),
                               .is_tree = slt_upload(&b->h, tree, 4 * (int64_t)seqs),
                               .row_seq = slt_upload(&b->h, row_seq, 4 * (int64_t)rows),
                               .ancestors = slt_upload(&b->h, bits, 16 * (int64_t)rows),
                               .max_context = w->context,
                               .max_rows = rows,
                               .max_seqs = seqs,
                               .max_seq_rows = w->rows,
                               .stages = w->tree ? SL_STAGE_VERIFY : SL_STAGE_DECODE};
    free(seq), free(begin), free(past), free(tree), free(row_seq), free(bits);
}

/* Ascending slots, w->list of them for each KV head, spread over the context. */
static void make_list(bench *b, const work *w, sl_view_device *v) {
    const int64_t lists = w->seqs * KV_HEADS, past = w->context - w->rows;
    int32_t *list = need(4 * (size_t)(lists * w->list)), *n = need(4 * (size_t)lists);
    for (int64_t l = 0; l < lists; l++) {
        n[l] = w->list;
        for (int32_t i = 0; i < w->list; i++) {
            const int64_t lo = past * i / w->list, hi = past * (i + 1) / w->list;
            list[l * w->list + i] = (int32_t)(lo + (int64_t)(draw() % (uint64_t)(hi - lo)));
        }
    }
    v->list = slt_upload(&b->h, list, 4 * lists * w->list);
    v->list_n = slt_upload(&b->h, n, 4 * lists);
    v->list_stride = w->list;
    v->n_groups = KV_HEADS;
    free(list), free(n);
}

/* Views of as many layers as the pool holds; 0: not even one. */
static int make_views(bench *b, const work *w) {
    const int64_t row = w->bits > 0 ? DIM * w->bits / 8 : DIM * 2, page_bytes = row * KV_HEADS * PAGE;
    const int64_t table = (w->context + PAGE - 1) / PAGE, layer_pages = table * w->seqs;
    const int64_t pages = b->pool_bytes / 2 / page_bytes; /* keys in one half, values in the other */
    b->n_layers = (int32_t)(pages / layer_pages < MOST_LAYERS ? pages / layer_pages : MOST_LAYERS);
    if (b->n_layers < 1)
        return 0;
    const int64_t used = layer_pages * b->n_layers;
    int32_t *page = need(4 * (size_t)used);
    for (int64_t i = 0; i < used; i++)
        page[i] = (int32_t)i;
    for (int64_t i = used - 1; i > 0; i--) {
        const int64_t j = (int64_t)(draw() % (uint64_t)(i + 1));
        const int32_t t = page[i];
        page[i] = page[j], page[j] = t;
    }
    const int32_t *device = slt_upload(&b->h, page, 4 * used);
    for (int32_t i = 0; i < b->n_layers; i++) {
        sl_view_device v = {.struct_size = SL_SIZE(sl_view_device),
                            .k_pool = b->pool,
                            .v_pool = b->pool + b->pool_bytes / 2,
                            .pages = device + i * layer_pages,
                            .pages_stride = table,
                            .k_page_stride = page_bytes,
                            .k_row_stride = w->mixed ? row * KV_HEADS : row,
                            .k_head_stride = w->mixed ? row : row * PAGE,
                            .v_page_stride = page_bytes,
                            .v_row_stride = w->mixed ? row * KV_HEADS : row,
                            .v_head_stride = w->mixed ? row : row * PAGE,
                            .page_rows = PAGE,
                            .n_heads = KV_HEADS,
                            .k_dim = DIM,
                            .v_dim = DIM,
                            .k_dtype = w->bits > 0 ? SL_U8 : SL_BF16,
                            .v_dtype = w->bits > 0 ? SL_U8 : SL_BF16,
                            .settled = 1};
        if (w->bits > 0) { /* a scale for 64 channels; pages share theirs round robin */
            v.k_bits = v.v_bits = w->bits;
            v.k_group = v.v_group = 64;
            v.k_scale = v.v_scale = b->scales;
            v.scale_stride_k = v.scale_stride_v = KV_HEADS * (DIM / 64) * 2;
            v.scale_page_stride_k = v.scale_page_stride_v = v.scale_stride_k * PAGE;
        }
        if (w->list > 0)
            make_list(b, w, &v);
        b->view[i] = v;
    }
    free(page);
    return 1;
}

int main(int argc, char **argv) {
    const char *only = "";
    int64_t gib = 9;
    int repeats = 9;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--pool") == 0 && i + 1 < argc)
            gib = atoi(argv[++i]);
        else if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc)
            repeats = atoi(argv[++i]);
        else
            die("usage: attend_cuda_bench [--only SUBSTRING] [--pool GIB] [--repeats N]");
    }
    if (gib < 1 || repeats < 1)
        die("--pool and --repeats take numbers from 1 on");
    static bench b;
    char why[512];
    if (slt_open(&b.h, why, sizeof why) != 0) {
        fprintf(stderr, "attend_cuda_bench: %s\n", why);
        return 77;
    }
    b.pool_bytes = gib << 30;
    b.pool = slt_device(&b.h, b.pool_bytes);
    const int64_t piece = (int64_t)64 << 20;
    uint16_t *random = need((size_t)piece);
    for (int64_t i = 0; i < piece / 2; i++)
        random[i] = slt_bf16((float)draw() * 0x1p-30f - 1.0f);
    slt_write(&b.h, b.pool, random, piece);
    for (int64_t at = piece; at < b.pool_bytes; at += piece)
        if (b.h.exec->copy(b.h.lane, b.pool + at, b.pool, piece) != SL_OK)
            die("copying");
    b.q = slt_upload(&b.h, random, (int64_t)2048 * (HEADS + 2 * KV_HEADS) * DIM * 2);
    b.o = slt_device(&b.h, (int64_t)2048 * HEADS * DIM * 2);
    for (int64_t i = 0; i < piece / 2; i++)
        random[i] = 0x2000; /* f16 0.0078 */
    /* scales of all pages that the pool could hold at 4 bits, both sides by one array */
    const int64_t scale_bytes = b.pool_bytes / 2 / (DIM / 2 * KV_HEADS * PAGE) * (KV_HEADS * (DIM / 64) * 2 * PAGE);
    b.scales = slt_device(&b.h, scale_bytes);
    for (int64_t at = 0; at < scale_bytes; at += piece)
        slt_write(&b.h, b.scales + at, random, scale_bytes - at < piece ? scale_bytes - at : piece);
    free(random);
    b.workspace_bytes = slk_cuda_attend_few_workspace(2048, 131072, HEADS, DIM);
    b.workspace = slt_device(&b.h, b.workspace_bytes);

    double us = slt_time_us(&b.h, 1, repeats, run_read, &b);
    b.ceiling = (double)b.pool_bytes / us;
    printf("{\"metric\": \"stream read %d GiB\", \"value\": %.0f, \"unit\": \"GB/s\", \"device\": \"%s\"}\n", (int)gib,
           b.ceiling / 1e3, b.h.k.info.name);
    for (size_t k = 0; k < sizeof works / sizeof *works; k++) {
        const work *w = &works[k];
        char what[160];
        snprintf(what, sizeof what, "attend %s B=%d S=%d", w->name, (int)w->seqs, (int)w->context);
        if (strstr(what, only) == NULL)
            continue;
        if (!make_views(&b, w)) {
            fprintf(stderr, "%s: left out, a layer does not fit in the pool\n", what);
            continue;
        }
        make_step(&b, w);
        b.h.k.deterministic = !w->fast;
        const int64_t keys = w->list > 0 ? w->list + w->rows : w->context;
        const double row = w->bits > 0 ? DIM * w->bits / 8.0 + DIM / 64 * 2.0 : DIM * 2.0;
        const double bytes = 2.0 * row * KV_HEADS * (double)(w->seqs * keys);
        /* every layer's bytes pass before the first ones come again */
        int calls = bytes * MOST_CALLS < 4e9 ? MOST_CALLS : (int)(4e9 / bytes) + 2;
        us = slt_time_us(&b.h, calls, repeats, run_attend, &b);
        const double floor_us = bytes / b.ceiling;
        printf(
            "{\"metric\": \"%s\", \"value\": %.2f, \"unit\": \"us\", \"floor\": %.2f, \"gb_per_s\": %.0f, \"share\": "
            "%.3f, \"layers\": %d, \"bytes\": %.0f, \"device\": \"%s\"}\n",
            what, us, floor_us, bytes / us / 1e3, floor_us / us, b.n_layers, bytes, b.h.k.info.name);
        fflush(stdout);
    }
    slt_close(&b.h);
    return 0;
}
