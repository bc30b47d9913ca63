/* See test_lane.h. */
#include "test_lane.h"

#include "coded_rows.h"

static test_lane *of(const sl_lane *lane) { return (test_lane *)(void *)lane->impl; }

void test_lane_queue(const sl_lane *on, void (*run)(const void *args), const void *args, size_t bytes) {
    test_lane *t = of(on);
    if (t->n_work == t->cap) {
        t->cap = t->cap > 0 ? 2 * t->cap : 64;
        t->work = realloc(t->work, (size_t)t->cap * sizeof *t->work);
    }
    void *copy = malloc(bytes);
    memcpy(copy, args, bytes);
    t->work[t->n_work++] = (test_work){run, copy};
}

void test_lane_run(test_lane *t) {
    for (int64_t i = 0; i < t->n_work; i++) {
        t->work[i].run(t->work[i].args);
        free(t->work[i].args);
    }
    t->n_work = 0;
}

/* ---- sl.exec/1 --------------------------------------------------------------------------------------------------- */

typedef struct copy_args {
    void *dst;
    const void *src;
    size_t bytes;
} copy_args;

static void run_copy(const void *args) {
    const copy_args *c = args;
    memmove(c->dst, c->src, c->bytes);
}

static sl_status copy(const sl_lane *on, void *dst, const void *src, int64_t bytes) {
    copy_args args = {dst, src, (size_t)bytes};
    of(on)->n_copies++;
    test_lane_queue(on, run_copy, &args, sizeof args);
    return SL_OK;
}

typedef struct fill_args {
    void *dst;
    int32_t byte;
    size_t bytes;
} fill_args;

static void run_fill(const void *args) {
    const fill_args *f = args;
    memset(f->dst, f->byte, f->bytes);
}

static sl_status fill(const sl_lane *on, void *dst, int32_t byte, int64_t bytes) {
    fill_args args = {dst, byte, (size_t)bytes};
    test_lane_queue(on, run_fill, &args, sizeof args);
    return SL_OK;
}

static sl_status sync(const sl_lane *on, sl_error *err) {
    (void)err;
    of(on)->n_syncs++;
    test_lane_run(of(on));
    return SL_OK;
}

static const sl_lane *lane(const sl_host *host, uint32_t device, int32_t number) {
    test_host *t = host->impl;
    return device == SL_DEVICE_CUDA && number == 0 ? &((test_lane *)t->user)->lane : NULL;
}

static sl_status device_info(const sl_lane *on, sl_device_info *out) {
    *out = (sl_device_info){.struct_size = SL_SIZE(sl_device_info),
                            .name = "made of host memory",
                            .arch = 900,
                            .memory = of(on)->memory_free,
                            .memory_free = of(on)->memory_free};
    return SL_OK;
}

static const void *more(test_host *host, const char *id) {
    return strcmp(id, SL_EXEC_ID) == 0 ? &((test_lane *)host->user)->exec : NULL;
}

/* ---- operations on rows ------------------------------------------------------------------------------------------ */

static char *row_at(const sl_view_device *v, int is_value, int32_t seq, int32_t head, int64_t slot) {
    const int64_t *place = v->heads != NULL ? v->heads + head * SL_HEAD_FIELDS : NULL;
    int64_t table = place != NULL ? place[SL_HEAD_PAGES] : head * v->pages_head_stride;
    int64_t page = v->pages[seq * v->pages_stride + table + slot / v->page_rows];
    char *pool = is_value ? v->v_pool : v->k_pool;
    pool += place != NULL ? place[is_value] : head * (is_value ? v->v_head_stride : v->k_head_stride);
    return pool + page * (is_value ? v->v_page_stride : v->k_page_stride) +
           slot % v->page_rows * (is_value ? v->v_row_stride : v->k_row_stride);
}

static size_t head_bytes(const sl_view_device *v, int is_value) { return 2 * (size_t)(is_value ? v->v_dim : v->k_dim); }

/* Committed rows of a head, where the view counts them; else `past`. */
static int64_t committed(const sl_view_device *v, int32_t seq, int32_t head, int64_t past) {
    return v->n_rows != NULL ? v->n_rows[seq * v->n_rows_stride + head * v->n_rows_head_stride] : past;
}

typedef struct row_args {
    sl_view_device into;
    int32_t seq, is_value;
    int64_t past, row;
    char data[512];
} row_args;

static void run_row(const void *args) {
    const row_args *r = args;
    size_t bytes = head_bytes(&r->into, r->is_value);
    for (int32_t h = 0; h < r->into.n_heads; h++)
        memcpy(row_at(&r->into, r->is_value, r->seq, h, committed(&r->into, r->seq, h, r->past) + r->row),
               r->data + (size_t)h * bytes, bytes);
}

/* Rows of k and v are taken when they are queued, places when the work is done. */
static sl_status append(const sl_host *host, const sl_op_append *a) {
    (void)host;
    const sl_batch *b = a->rows->batch;
    for (int32_t i = 0; i < a->rows->n; i++) {
        int32_t row = a->rows->index != NULL ? a->rows->index[i] : i, at = b->row_seq[row];
        for (int side = 0; at >= 0 && side < 2; side++) {
            const sl_tensor *from = side == 0 ? a->k : a->v;
            row_args args = {.into = *a->into,
                             .seq = b->seq[at],
                             .is_value = side,
                             .past = b->n_past[at],
                             .row = row - b->row_begin[at]};
            size_t bytes = (size_t)a->into->n_heads * head_bytes(a->into, side);
            if (from->dtype != SL_BF16 || bytes > sizeof args.data)
                return SL_E_INVALID;
            memcpy(args.data, (const uint16_t *)from->data + i * from->stride[0], bytes);
            test_lane_queue(a->lane, run_row, &args, sizeof args);
        }
    }
    return SL_OK;
}

typedef struct move_args {
    const sl_view_device *layers[16];
    int32_t n_layers, max_moves;
    uint32_t staged;
    const int32_t *n_moves, *seq, *from, *to;
} move_args;

static void run_move(const void *args) {
    const move_args *m = args;
    assert_true(*m->n_moves <= m->max_moves);
    for (int32_t l = 0; l < m->n_layers; l++)
        for (int32_t i = 0; i < *m->n_moves; i++)
            for (int side = 0; side < 2; side++) {
                const sl_view_device *v = m->layers[l];
                assert_true(m->to[i] < m->from[i]);
                assert_true(!m->staged || v->n_rows != NULL);
                for (int32_t h = 0; h < v->n_heads; h++) {
                    int64_t first = m->staged ? committed(v, m->seq[i], h, 0) : 0;
                    memmove(row_at(v, side, m->seq[i], h, first + m->to[i]),
                            row_at(v, side, m->seq[i], h, first + m->from[i]), head_bytes(v, side));
                }
            }
}

static sl_status move(const sl_host *host, const sl_op_move *a) {
    (void)host;
    move_args args = {.n_layers = a->n_layers,
                      .max_moves = a->max_moves,
                      .staged = a->staged,
                      .n_moves = a->n_moves,
                      .seq = a->seq,
                      .from = a->from,
                      .to = a->to};
    if (a->n_layers > 16)
        return SL_E_INVALID;
    for (int32_t l = 0; l < a->n_layers; l++)
        args.layers[l] = a->layers[l];
    test_lane_queue(a->lane, run_move, &args, sizeof args);
    return SL_OK;
}

static void run_keep(const void *args) {
    const sl_op_keep *k = args;
    const sl_view_device *v = k->layer;
    for (int32_t h = 0; h < v->n_heads; h++)
        for (int32_t i = 0; i < k->keep_begin[h + 1] - k->keep_begin[h]; i++)
            for (int side = 0; side < 2; side++) {
                int32_t from = k->keep[k->keep_begin[h] + i];
                assert_true(from >= i);
                memmove(row_at(v, side, k->seq, h, i), row_at(v, side, k->seq, h, from), head_bytes(v, side));
            }
}

static sl_status keep(const sl_host *host, const sl_op_keep *a) {
    (void)host;
    test_lane_queue(a->lane, run_keep, a, sizeof *a);
    return SL_OK;
}

typedef struct quantise_args {
    const sl_view_device *layers[16];
    int32_t n_layers, n_jobs;
    const int32_t *seq, *begin, *end, *side;
} quantise_args;

static void *where_it_is(const void *address, int64_t bytes) {
    (void)bytes;
    return (void *)(uintptr_t)address;
}

static void run_quantise(const void *args) {
    const quantise_args *q = args;
    for (int32_t l = 0; l < q->n_layers; l++)
        for (int32_t j = 0; j < q->n_jobs; j++) {
            const sl_view_device *v = q->layers[l];
            assert_int_equal(q->begin[j] / v->page_rows, (q->end[j] - 1) / v->page_rows);
            coded_write(v, q->seq[j], q->begin[j], q->end[j], q->side[j], where_it_is);
        }
}

static sl_status quantise(const sl_host *host, const sl_op_quantise *a) {
    (void)host;
    quantise_args args = {
        .n_layers = a->n_layers, .n_jobs = a->n_jobs, .seq = a->seq, .begin = a->begin, .end = a->end, .side = a->side};
    if (a->n_layers > 16)
        return SL_E_INVALID;
    for (int32_t l = 0; l < a->n_layers; l++)
        args.layers[l] = a->layers[l];
    test_lane_queue(a->lane, run_quantise, &args, sizeof args);
    return SL_OK;
}

void test_lane_init(test_lane *t, test_host *host) {
    memset(t, 0, sizeof *t);
    t->lane = (sl_lane){.struct_size = SL_SIZE(sl_lane), .impl = (sl_lane_impl *)(void *)t, .device = SL_DEVICE_CUDA};
    t->exec = (sl_exec){.struct_size = SL_SIZE(sl_exec),
                        .lane = lane,
                        .copy = copy,
                        .fill = fill,
                        .sync = sync,
                        .device_info = device_info};
    t->memory_free = (int64_t)1 << 32;
    host->has_device = 1;
    host->more = more;
    host->user = t;
    host->ops.append = append;
    host->ops.move = move;
    host->ops.keep = keep;
    host->ops.quantise = quantise;
}

void test_lane_finish(test_lane *t) {
    test_lane_run(t);
    free(t->work);
}
