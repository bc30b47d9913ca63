/* Prompt attention on a device against plain sums in double: ragged batches over paged rows. What no row may read -
 * slots and pages beyond a sequence, rows of the step beyond the last - is NaN, and page numbers there point nowhere.
 */
#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SEQS = 5, SPARE_ROWS = 3 };

typedef struct shape {
    int32_t d, heads, kv_heads, page_rows, window;
    float softcap;
    int32_t n_seqs, past[MAX_SEQS], rows[MAX_SEQS];
} shape;

/* What shapes say besides: zeros, unless a test sets it. */
static struct {
    int32_t sinks, chunk, first; /* of sl_mask */
    int32_t apart;               /* 1: heads in places of their own, every second one windowed, the others not */
} rule;

/* First slot that the window of a row has. */
static int32_t window_of(const shape *s, int seq, int32_t slot, int32_t kv) {
    int32_t end = slot;
    if (s->window == 0 || (rule.apart && kv % 2 == 0))
        return 0;
    if (rule.chunk > 0) {
        end = slot - slot % rule.chunk > s->past[seq] ? slot - slot % rule.chunk : s->past[seq];
        end = end == 0 && rule.first ? slot : end;
    }
    return end - s->window + 1 > 0 ? end - s->window + 1 : 0;
}

/* A batch in host and device memory. */
typedef struct rig {
    slt_host *h;
    shape s;
    int32_t n_rows, pages_stride, id[MAX_SEQS], row_begin[MAX_SEQS + 1];
    uint16_t *q; /* [n_rows + SPARE_ROWS, heads + 2 kv_heads, d]: the keys' and values' columns are NaN */
    uint16_t *k[MAX_SEQS], *v[MAX_SEQS]; /* [past + rows, kv_heads, d] */
    int64_t q_stride;
    sl_step_device step;
    sl_batch batch;
    sl_rows rows;
    sl_mask mask;
    sl_view_device device;
    sl_view view;
    sl_attend attend;
} rig;

static void *need(size_t bytes) {
    void *p = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(p);
    return p;
}

static uint16_t *noise(int64_t n, float amplitude, uint64_t seed) {
    float *x = need((size_t)n * sizeof *x);
    uint16_t *y = need((size_t)n * sizeof *y);
    slt_random(x, n, seed);
    for (int64_t i = 0; i < n; i++)
        y[i] = slt_bf16(amplitude * x[i]);
    free(x);
    return y;
}

static void rig_tensor(sl_tensor *t, void *data, int64_t n, int64_t heads, int64_t d, int64_t stride) {
    *t = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                     .data = data,
                     .shape = {n, heads, d},
                     .stride = {stride, d, 1},
                     .align = 16,
                     .dtype = SL_BF16,
                     .ndim = 3,
                     .device = SL_DEVICE_CUDA};
}

static void rig_open(rig *r, slt_host *h, const shape *s, uint64_t seed) {
    memset(r, 0, sizeof *r);
    r->h = h;
    r->s = *s;
    int32_t max_slots = 0, max_rows = 0, n_pages = 0, past[MAX_SEQS] = {0};
    for (int i = 0; i < s->n_seqs; i++) {
        const int32_t slots = s->past[i] + s->rows[i];
        past[i] = s->past[i];
        r->row_begin[i + 1] = r->row_begin[i] + s->rows[i];
        r->id[i] = (i * 3 + 2) % 7; /* ids are not places */
        max_slots = slots > max_slots ? slots : max_slots;
        max_rows = s->rows[i] > max_rows ? s->rows[i] : max_rows;
        n_pages += (slots + s->page_rows - 1) / s->page_rows;
    }
    r->n_rows = r->row_begin[s->n_seqs];
    r->pages_stride = (max_slots + s->page_rows - 1) / s->page_rows + 2;

    const int64_t width = (int64_t)s->kv_heads * s->d, page = s->page_rows * width;
    const int64_t pool = (n_pages + 1) * page;
    uint16_t *k_pool = need((size_t)pool * 2), *v_pool = need((size_t)pool * 2);
    memset(k_pool, 0xff, (size_t)pool * 2);
    memset(v_pool, 0xff, (size_t)pool * 2);
    const int32_t table = 7 * r->pages_stride;
    int32_t *pages = need(2 * (size_t)table * sizeof *pages);
    for (int i = 0; i < 2 * table; i++)
        pages[i] = INT32_MAX / 2; /* far outside of the pool */
    int32_t next = 0;
    for (int i = 0; i < s->n_seqs; i++) {
        const int32_t slots = s->past[i] + s->rows[i];
        r->k[i] = noise(slots * width, 1, seed + 10 + (uint64_t)i);
        r->v[i] = noise(slots * width, 1, seed + 20 + (uint64_t)i);
        for (int32_t at = 0; at < slots; at++) {
            int32_t *number = &pages[r->id[i] * r->pages_stride + at / s->page_rows];
            if (at % s->page_rows == 0) {
                *number = n_pages - next++; /* backwards, page 0 holds nothing */
                const int32_t last = at + s->page_rows - 1, low = window_of(s, i, s->past[i], 1);
                number[table] = last < low && at >= rule.sinks ? n_pages : *number; /* another's rows */
            }
            const int64_t to = *number * page + at % s->page_rows * width;
            memcpy(k_pool + to, r->k[i] + at * width, (size_t)width * 2);
            memcpy(v_pool + to, r->v[i] + at * width, (size_t)width * 2);
        }
    }
    r->q_stride = (int64_t)(s->heads + 2 * s->kv_heads) * s->d;
    const int64_t q_count = (r->n_rows + SPARE_ROWS) * r->q_stride;
    r->q = noise(q_count, 6, seed);
    for (int64_t i = 0; i < q_count; i++)
        if (i >= r->n_rows * r->q_stride || i % r->q_stride >= (int64_t)s->heads * s->d)
            r->q[i] = 0xffff;

    const int32_t counts[2] = {r->n_rows, s->n_seqs};
    const int32_t *c = slt_upload(h, counts, sizeof counts);
    r->step = (sl_step_device){.struct_size = SL_SIZE(sl_step_device),
                               .n_rows = c,
                               .n_seqs = c + 1,
                               .seq = slt_upload(h, r->id, sizeof r->id),
                               .row_begin = slt_upload(h, r->row_begin, sizeof r->row_begin),
                               .n_past = slt_upload(h, past, sizeof past),
                               .max_context = max_slots + 5,
                               .max_rows = r->n_rows + SPARE_ROWS,
                               .max_seqs = MAX_SEQS,
                               .max_seq_rows = max_rows + 150, /* tiles that nobody has */
                               .stages = SL_STAGE_PREFILL | SL_STAGE_DECODE};
    r->batch = (sl_batch){.struct_size = SL_SIZE(sl_batch), .device = &r->step};
    r->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &r->batch, .device_n = c, .n = r->step.max_rows};
    r->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask),
                        .window = s->window,
                        .sinks = rule.sinks,
                        .window_chunk = rule.chunk,
                        .window_first = (uint32_t)rule.first};
    int64_t places[16][SL_HEAD_FIELDS];
    for (int i = 0; i < s->kv_heads; i++) {
        places[i][SL_HEAD_K] = places[i][SL_HEAD_V] = i * (int64_t)s->d * 2;
        places[i][SL_HEAD_PAGES] = i % 2 * table;
        places[i][SL_HEAD_WINDOWED] = i % 2;
    }
    r->device = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                 .k_pool = slt_upload(h, k_pool, pool * 2),
                                 .v_pool = slt_upload(h, v_pool, pool * 2),
                                 .pages = slt_upload(h, pages, 2 * table * 4),
                                 .pages_stride = r->pages_stride,
                                 .k_page_stride = page * 2,
                                 .k_row_stride = width * 2,
                                 .k_head_stride = s->d * 2,
                                 .v_page_stride = page * 2,
                                 .v_row_stride = width * 2,
                                 .v_head_stride = s->d * 2,
                                 .heads = rule.apart ? slt_upload(h, places, sizeof places) : NULL,
                                 .page_rows = s->page_rows,
                                 .n_heads = s->kv_heads,
                                 .k_dim = s->d,
                                 .v_dim = s->d,
                                 .k_dtype = SL_BF16,
                                 .v_dtype = SL_BF16};
    r->view = (sl_view){.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = &r->device};
    const int64_t n = r->n_rows + SPARE_ROWS;
    r->attend = (sl_attend){.struct_size = SL_SIZE(sl_attend),
                            .lane = h->lane,
                            .rows = &r->rows,
                            .mask = &r->mask,
                            .view = &r->view,
                            .lse = slt_device(h, n * s->heads * 4),
                            .scale = 1 / sqrt(s->d),
                            .softcap = s->softcap,
                            .want = SL_WANT_LSE};
    rig_tensor(&r->attend.q, slt_upload(h, r->q, q_count * 2), n, s->heads, s->d, r->q_stride);
    rig_tensor(&r->attend.o, slt_device(h, n * s->heads * s->d * 2), n, s->heads, s->d, (int64_t)s->heads * s->d);
    free(k_pool), free(v_pool), free(pages);
}

static void rig_close(rig *r) {
    for (int i = 0; i < r->s.n_seqs; i++)
        free(r->k[i]), free(r->v[i]);
    free(r->q);
}

/* One row and head, as the definition says it. */
static double reference(const rig *r, int seq, int32_t row, int32_t head, double *o) {
    const shape *s = &r->s;
    const int32_t slot = s->past[seq] + row, kv = head / (s->heads / s->kv_heads);
    const int32_t low = window_of(s, seq, slot, kv);
    int32_t begin = low;
    if (low > 0 && rule.sinks > 0)
        begin = 0;
    const uint16_t *q = r->q + (r->row_begin[seq] + row) * r->q_stride + (int64_t)head * s->d;
    double *score = need((size_t)(slot + 1) * sizeof *score), top = -INFINITY, sum = 0;
    for (int32_t j = begin; j <= slot; j++) {
        score[j] = -INFINITY;
        if (j < low && j >= rule.sinks)
            continue;
        const uint16_t *k = r->k[seq] + ((int64_t)j * s->kv_heads + kv) * s->d;
        double dot = 0;
        for (int32_t d = 0; d < s->d; d++)
            dot += (double)slt_float(q[d]) * (double)slt_float(k[d]);
        dot *= r->attend.scale;
        if (s->softcap > 0)
            dot = (double)s->softcap * tanh(dot / (double)s->softcap);
        score[j] = dot;
        top = dot > top ? dot : top;
    }
    memset(o, 0, (size_t)s->d * sizeof *o);
    for (int32_t j = begin; j <= slot; j++) {
        const uint16_t *v = r->v[seq] + ((int64_t)j * s->kv_heads + kv) * s->d;
        const double weight = exp(score[j] - top);
        sum += weight;
        for (int32_t d = 0; d < s->d; d++)
            o[d] += weight * (double)slt_float(v[d]);
    }
    for (int32_t d = 0; d < s->d; d++)
        o[d] /= sum;
    free(score);
    return top + log(sum);
}

static const char *name_of(const shape *s, int portable) {
    static char text[300];
    int n = snprintf(text, sizeof text, "%s: D %d, %d of %d heads, pages of %d, window %d, cap %g, past+rows",
                     portable ? "portable" : "best", s->d, s->heads, s->kv_heads, s->page_rows, s->window,
                     (double)s->softcap);
    for (int i = 0; i < s->n_seqs; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, " %d+%d", s->past[i], s->rows[i]);
    return text;
}

/* Values are in [-1, 1): weights rounded to bf16 cost up to 2^-9 of them, the output's own rounding as much. */
static void compare(rig *r, int portable) {
    const shape *s = &r->s;
    const int64_t n = r->n_rows + SPARE_ROWS, count = n * s->heads * s->d;
    uint16_t *o = need((size_t)count * 2);
    float *lse = need((size_t)(n * s->heads) * 4);
    double *want = need((size_t)s->d * sizeof *want), worst = 0, worst_lse = 0;
    slt_download(r->h, o, r->attend.o.data, count * 2);
    slt_download(r->h, lse, r->attend.lse, n * s->heads * 4);
    for (int i = 0; i < s->n_seqs; i++)
        for (int32_t row = 0; row < s->rows[i]; row++)
            for (int32_t head = 0; head < s->heads; head++) {
                const int64_t at = (int64_t)(r->row_begin[i] + row) * s->heads + head;
                const double want_lse = reference(r, i, row, head, want);
                const double off = fabs((double)lse[at] - want_lse);
                worst_lse = off > worst_lse ? off : worst_lse;
                if (!(off < 2e-3))
                    fail_msg("%s: sequence %d, row %d, head %d: lse %g, expected %g", name_of(s, portable), i, row,
                             head, (double)lse[at], want_lse);
                for (int32_t d = 0; d < s->d; d++) {
                    const double got = (double)slt_float(o[at * s->d + d]), error = fabs(got - want[d]);
                    worst = error > worst ? error : worst;
                    if (!(error < 6e-3))
                        fail_msg("%s: sequence %d, row %d, head %d, element %d: %g, expected %g", name_of(s, portable),
                                 i, row, head, d, got, want[d]);
                }
            }
    for (int64_t i = (int64_t)r->n_rows * s->heads * s->d; i < count; i++)
        if (o[i] != 0xffff)
            fail_msg("%s: wrote to a row behind the last: element %d", name_of(s, portable), (int)i);
    print_message("%s: largest error %.2e, of lse %.2e\n", name_of(s, portable), worst, worst_lse);
    free(o), free(lse), free(want);
}

static const shape shapes[] = {
    {128, 4, 1, 16, 0, 0, 5, {0, 1, 63, 64, 200}, {1, 64, 300, 128, 65}},
    {128, 8, 8, 64, 0, 0, 2, {0, 200}, {300, 129}},
    {128, 7, 1, 256, 0, 0, 3, {0, 127, 128}, {257, 1, 2}},
    {128, 4, 2, 32, 100, 0, 4, {0, 63, 200, 1}, {300, 130, 64, 17}}, /* a window that begins within tiles */
    {128, 2, 1, 64, 1, 0, 2, {0, 130}, {70, 140}},                   /* each row sees itself alone */
    {128, 2, 2, 64, 0, 5, 2, {0, 64}, {150, 100}},
    {64, 4, 1, 16, 0, 0, 5, {0, 1, 63, 64, 200}, {1, 64, 300, 128, 65}},
    {64, 7, 1, 32, 65, 0, 2, {200, 0}, {129, 300}},
    {96, 4, 4, 64, 0, 0, 3, {0, 63, 200}, {300, 2, 127}},
    {96, 6, 2, 16, 31, 2, 2, {64, 0}, {200, 65}},
    {256, 4, 1, 16, 0, 0, 4, {0, 1, 64, 200}, {130, 63, 65, 33}},
    {256, 2, 2, 128, 90, 0, 2, {0, 100}, {200, 64}},
};

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int portable = 0; portable < 2; portable++) {
            if (portable && shapes[i].d != 128)
                continue; /* there is but one kernel */
            rig r;
            rig_open(&r, h, &shapes[i], 100 * i + 1);
            assert_int_equal(slk_cuda_attend_prefill(&h->k, &r.attend, portable), SL_OK);
            compare(&r, portable);
            rig_close(&r);
        }
}

/* Sinks beside windows, windows of chunks, heads in places of their own. */
static void test_sinks(void **state) {
    slt_host *h = slt_get(state);
    static const shape some[] = {
        {128, 8, 4, 16, 60, 0, 4, {0, 400, 1000, 129}, {300, 130, 70, 257}},
        {128, 4, 2, 64, 300, 0, 3, {0, 900, 64}, {600, 129, 200}},
        {64, 8, 2, 32, 60, 0, 4, {0, 400, 1000, 129}, {300, 130, 70, 257}},
        {96, 4, 4, 16, 33, 0, 2, {0, 500}, {200, 127}},
        {256, 4, 2, 16, 100, 0, 3, {0, 10, 700}, {150, 65, 33}},
    };
    static const int32_t sinks[] = {4, 64, 0, 130, 1}, chunks[] = {0, INT32_MAX, 48};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++)
        for (int n = 0; n < 12; n++) {
            const int portable = n % 2;
            rig r;
            rule.sinks = sinks[(i + (size_t)n) % 5];
            rule.chunk = chunks[n / 2 % 3];
            rule.first = n == 10;
            rule.apart = n >= 4;
            rig_open(&r, h, &some[i], 700 + 10 * i);
            assert_int_equal(slk_cuda_attend_prefill(&h->k, &r.attend, portable), SL_OK);
            print_message("sinks %d, chunk %d, apart %d, ", rule.sinks, rule.chunk, rule.apart);
            compare(&r, portable);
            rig_close(&r);
        }
    memset(&rule, 0, sizeof rule);
}

/* Committed rows may be fewer than tokens went by: the store says how many. */
static void test_own_counts(void **state) {
    slt_host *h = slt_get(state);
    shape s = {128, 4, 2, 16, 0, 0, 2, {40, 100}, {130, 5}};
    rig r;
    rig_open(&r, h, &s, 7);
    int32_t counts[7] = {0}, wrong[MAX_SEQS] = {1000, 2000};
    for (int i = 0; i < s.n_seqs; i++)
        counts[r.id[i]] = s.past[i];
    r.device.n_rows = slt_upload(h, counts, sizeof counts);
    r.device.n_rows_stride = 1;
    slt_write(h, (void *)(uintptr_t)r.step.n_past, wrong, sizeof wrong);
    assert_int_equal(slk_cuda_attend_prefill(&h->k, &r.attend, 0), SL_OK);
    compare(&r, 0);
    rig_close(&r);
}

/* A prompt in one piece, and its end as a chunk of its own beside another sequence: the same bits. */
static void test_chunks(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t sizes[] = {64, 128, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int portable = 0; portable < 2; portable++) {
            enum { ALL = 333, PAST = 101, HEADS = 2 };
            const int32_t d = sizes[i];
            shape whole = {d, HEADS, 1, 32, 0, 0, 1, {0}, {ALL}};
            shape part = {d, HEADS, 1, 32, 0, 0, 2, {PAST, 9}, {ALL - PAST, 3}};
            rig a, b;
            rig_open(&a, h, &whole, 50);
            rig_open(&b, h, &part, 50);
            /* the same keys, values (by their seeds) and queries */
            assert_memory_equal(a.k[0], b.k[0], (size_t)ALL * (size_t)d * 2);
            slt_write(h, b.attend.q.data, a.q + PAST * a.q_stride, (ALL - PAST) * a.q_stride * 2);
            assert_int_equal(slk_cuda_attend_prefill(&h->k, &a.attend, portable), SL_OK);
            assert_int_equal(slk_cuda_attend_prefill(&h->k, &b.attend, portable), SL_OK);
            const int64_t row = HEADS * d, n = (ALL - PAST) * row;
            uint16_t *x = need((size_t)n * 2), *y = need((size_t)n * 2);
            slt_download(h, x, (uint16_t *)a.attend.o.data + PAST * row, n * 2);
            slt_download(h, y, b.attend.o.data, n * 2);
            for (int64_t j = 0; j < n; j++)
                if (x[j] != y[j])
                    fail_msg("%s: row %d, element %d: %04x in one piece, %04x in chunks", name_of(&part, portable),
                             (int)(j / row), (int)(j % row), x[j], y[j]);
            free(x), free(y);
            rig_close(&a), rig_close(&b);
        }
}

/* What belongs to other kernels is refused before anything is queued; needs no device. */
static void test_refusals(void **state) {
    (void)state;
    slk_cuda k = {0};
    int32_t number = 0;
    const sl_step_device step = {.max_seq_rows = 4, .max_context = 4, .stages = SL_STAGE_PREFILL}; /* no sequences */
    const sl_batch batch = {.device = &step};
    const sl_rows rows = {.batch = &batch, .n = 4};
    const sl_mask mask = {.struct_size = SL_SIZE(sl_mask)};
    const sl_view_device device = {
        .page_rows = 16, .n_heads = 1, .k_dim = 128, .v_dim = 128, .k_dtype = SL_BF16, .v_dtype = SL_BF16};
    const sl_view view = {.device = &device};
    sl_attend good = {.rows = &rows, .mask = &mask, .view = &view, .scale = 1};
    rig_tensor(&good.q, NULL, 4, 2, 128, 512);
    rig_tensor(&good.o, NULL, 4, 2, 128, 256);
    assert_int_equal(slk_cuda_attend_prefill(&k, &good, 0), SL_OK);

#define REFUSED(type, field, value)                                                                                    \
    do {                                                                                                               \
        type changed = type##_of_good;                                                                                 \
        changed.field = value;                                                                                         \
        sl_attend a = good;                                                                                            \
        type##_into(&a, &changed);                                                                                     \
        if (slk_cuda_attend_prefill(&k, &a, 0) != SL_E_UNIMPLEMENTED)                                                  \
            fail_msg("%s = %s was taken", #field, #value);                                                             \
    } while (0)
#define sl_attend_of_good good
#define sl_attend_into(a, changed) (*(a) = *(changed))
#define sl_mask_of_good mask
#define sl_mask_into(a, changed) ((a)->mask = (changed))
#define sl_rows_of_good rows
#define sl_rows_into(a, changed) ((a)->rows = (changed))
#define sl_view_device_of_good device
#define sl_view_device_into(a, changed)                                                                                \
    sl_view other = view;                                                                                              \
    other.device = (changed);                                                                                          \
    (a)->view = &other
    REFUSED(sl_attend, want, SL_WANT_COLSUM);
    REFUSED(sl_attend, row_scale, (const float *)&step);
    REFUSED(sl_attend, q.dtype, SL_F32);
    REFUSED(sl_attend, q.stride[0], 260);
    REFUSED(sl_attend, o.shape[2], 64);
    REFUSED(sl_mask, base, SL_MASK_FULL);
    REFUSED(sl_mask, n_spans, 1);
    REFUSED(sl_rows, index, &number);
    REFUSED(sl_rows, device_n, &number);
    REFUSED(sl_view_device, list, &number);
    REFUSED(sl_view_device, k_bits, 8);
    REFUSED(sl_view_device, v_dtype, SL_F16);
    REFUSED(sl_view_device, page_rows, 8);
    REFUSED(sl_view_device, page_rows, 48);
    REFUSED(sl_view_device, k_row_stride, 8);
    REFUSED(sl_view_device, v_dim, 64);
    sl_step_device verify = step;
    verify.stages |= SL_STAGE_VERIFY;
    sl_batch trees = {.device = &verify};
    REFUSED(sl_rows, batch, &trees);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals), cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_sinks), cmocka_unit_test(test_own_counts),
                                       cmocka_unit_test(test_chunks)};
    return cmocka_run_group_tests_name("attend_prefill_cuda", tests, slt_setup, slt_teardown);
}
