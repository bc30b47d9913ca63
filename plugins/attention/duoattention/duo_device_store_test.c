/* The cache on a device against plain arrays: random prompts, trees, cuts and forks on a lane that does its work late;
 * rows are read as kernels read them, by tables and head places in device memory. */
#include "duo_attend.c"
#include "duo_cost.c"
#include "duo_device.c"
#include "duo_device_pages.c"
#include "duo_device_store.c"
#include "duo_pattern.c"
#include "duo_ring.c"
#include "duo_store.c"
#include "duo_view.c"
#include "duoattention.c"

#include "test_lane.h"

#include <unistd.h>

enum { LAYERS = 4, MAX_SEQS = 5, MAX_CONTEXT = 120, MAX_ROWS = 60, MAX_TREE = 6, SINK = 5, RECENT = 11, SLACK = 4 };

/* KV heads, key size, value size; and which heads stream ('s'). */
static const int32_t shapes[LAYERS][3] = {{5, 4, 4}, {2, 8, 3}, {3, 2, 8}, {1, 4, 4}};
static const char *const classes[LAYERS] = {"sffsf", "ss", "fff", "s"};

typedef struct plain_seq {
    int is_open;
    int64_t n, low; /* low: first token behind the sinks that must still be there */
    int32_t row[MAX_CONTEXT + MAX_ROWS];
} plain_seq;

typedef struct rig {
    test_host host;
    test_lane lane;
    sl_layer_info layers[LAYERS];
    const sl_layer_info *layer_ptrs[LAYERS];
    sl_model_info model;
    sl_instance *self;
    plain_seq plain[MAX_SEQS];
    int32_t next_row;
    uint64_t seed;
} rig;

static void open_rig(rig *r, const char *page) {
    char name[64], file[96];
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    test_lane_init(&r->lane, &r->host);
    snprintf(name, sizeof name, "/tmp/duo_device_store_%ld.tsv", (long)getpid());
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    for (int l = 0; l < LAYERS; l++) {
        r->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                       .block = "gqa",
                                       .n_heads = 2 * shapes[l][0],
                                       .n_kv_heads = shapes[l][0],
                                       .head_dim = shapes[l][1],
                                       .v_head_dim = shapes[l][2],
                                       .rope = -1};
        r->layer_ptrs[l] = &r->layers[l];
        for (int h = 0; h < shapes[l][0]; h++)
            fprintf(f, "%d%c", classes[l][h] == 'f', h + 1 < shapes[l][0] ? '\t' : '\n');
    }
    fclose(f);
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layer_ptrs, .n_layers = LAYERS};
    snprintf(file, sizeof file, "pattern_file=%s", name);
    const char *sets[] = {file, "threshold=0.5", "sink_size=5", "recent_size=11", "slack=4", page, NULL};
    sl_params *values = test_params(&plugin, sets);
    uint32_t stages[LAYERS] = {7, 7, 7, 7};
    sl_scope store = {SL_SIZE(sl_scope), stages, LAYERS, SL_DEVICE_CUDA, "kvcache.store", "kvcache", NULL};
    sl_scope scope = {SL_SIZE(sl_scope), stages, LAYERS, SL_DEVICE_CUDA, "attention", "attention", &store};
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args),
                           .host = &r->host.host,
                           .model = &r->model,
                           .params = values,
                           .scope = &scope};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = MAX_CONTEXT,
                        .max_rows = MAX_ROWS,
                        .max_seqs = MAX_SEQS,
                        .max_tree = MAX_TREE,
                        .n_workers = 1,
                        .compute = SL_BF16};
    SL_ERROR(err);
    if (plugin.accepts(&r->model, values, &scope, &err) < 0 || plugin.create(&args, &r->self, &err) < 0 ||
        plugin.activate(r->self, &limits, &err) < 0)
        fail_msg("%s", err_text_);
    test_params_free(values);
    unlink(name);
    r->seed = 23;
}

static void close_rig(rig *r) {
    test_lane_finish(&r->lane);
    for (int32_t i = 0; i < MAX_SEQS; i++)
        duo_device_store.close(r->self, i);
    for (int c = 0; c < CLASSES; c++) /* whatever was shared, cut and dropped: every page came back once */
        assert_int_equal(r->self->device->pool[c].n_free, r->self->device->pool[c].n_ids);
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
}

static int64_t draw(rig *r, int64_t n) { return (int64_t)(test_next(&r->seed) % (uint64_t)n); }

static uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Small whole numbers, exact in bf16. */
static uint16_t element_of(int32_t row, int layer, int which, int64_t e) {
    uint32_t h = (uint32_t)row * 2654435761u + (uint32_t)(layer * 40503 + which * 7919 + (int)e * 104729);
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
    return bf16_of((float)(int32_t)(h % 255) - 127.0f);
}

/* ---- what is there ----------------------------------------------------------------------------------------------- */

static void check_row(rig *r, int32_t seq, int layer, int32_t h, int64_t slot) {
    const sl_view_device *v = &r->self->device->views[layer];
    const int64_t *place = v->heads + h * SL_HEAD_FIELDS;
    int64_t page = v->pages[seq * v->pages_stride + place[SL_HEAD_PAGES] + slot / v->page_rows];
    for (int which = 0; which < 2; which++) {
        const char *p = which == 0 ? (char *)v->k_pool + place[SL_HEAD_K] + page * v->k_page_stride +
                                         slot % v->page_rows * v->k_row_stride
                                   : (char *)v->v_pool + place[SL_HEAD_V] + page * v->v_page_stride +
                                         slot % v->page_rows * v->v_row_stride;
        for (int32_t d = 0; d < shapes[layer][1 + which]; d++) {
            uint16_t got, want = element_of(r->plain[seq].row[slot], layer, which, h * shapes[layer][1 + which] + d);
            memcpy(&got, p + 2 * d, sizeof got);
            if (got != want)
                fail_msg("layer %d, head %d, %s of slot %d of sequence %d: %04x, expected %04x", layer, h,
                         which == 0 ? "key" : "value", (int)slot, seq, got, want);
        }
    }
}

/* Everything that a row behind n tokens sees. */
static void check_sequence(rig *r, int32_t seq) {
    const plain_seq *p = &r->plain[seq];
    int64_t low = p->n - RECENT, n_tokens, bytes, n_rows[8];
    for (int l = 0; l < LAYERS; l++) {
        assert_int_equal(duo_device_store.rows(r->self, l, seq, n_rows), SL_OK);
        for (int32_t h = 0; h < shapes[l][0]; h++) {
            int streams = classes[l][h] == 's';
            const int64_t *place = r->self->device->views[l].heads + h * SL_HEAD_FIELDS;
            assert_int_equal(place[SL_HEAD_WINDOWED], streams || l == 2);
            assert_int_equal(n_rows[h], streams && p->n > SINK + RECENT ? SINK + RECENT : p->n);
            for (int64_t slot = 0; slot < p->n; slot++)
                if (!streams || slot < SINK || slot >= low)
                    check_row(r, seq, l, h, slot);
        }
    }
    assert_int_equal(duo_device_store.length(r->self, seq, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, p->n);
    assert_true(duo_held_count(r->self, &r->self->device->seqs[seq].of[STREAMING]) <= r->self->device->quota);
}

/* ---- random life ------------------------------------------------------------------------------------------------- */

static void append_layer(rig *r, const sl_batch *b, int l, const int32_t *id) {
    uint16_t k[MAX_ROWS * 64], v[MAX_ROWS * 64];
    int64_t kw = shapes[l][0] * shapes[l][1], vw = shapes[l][0] * shapes[l][2];
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = b, .n = b->n_rows};
    sl_kv_append args = {.struct_size = SL_SIZE(sl_kv_append), .lane = &r->lane.lane, .rows = &rows, .layer = l};
    for (int32_t i = 0; i < b->n_rows; i++) {
        for (int64_t e = 0; e < kw; e++)
            k[i * kw + e] = element_of(id[i], l, 0, e);
        for (int64_t e = 0; e < vw; e++)
            v[i * vw + e] = element_of(id[i], l, 1, e);
    }
    args.k = (sl_tensor){.struct_size = SL_SIZE(sl_tensor), .data = k, .dtype = SL_BF16, .stride = {kw}};
    args.v = (sl_tensor){.struct_size = SL_SIZE(sl_tensor), .data = v, .dtype = SL_BF16, .stride = {vw}};
    assert_int_equal(duo_device_store.append(r->self, &args), SL_OK);
}

static void a_step(rig *r) {
    SL_ERROR(err);
    int32_t seq[MAX_SEQS], begin[MAX_SEQS + 1] = {0}, path_begin[MAX_SEQS + 1] = {0}, row_seq[MAX_ROWS], id[MAX_ROWS],
                                            path[MAX_ROWS], n_path = 0;
    int64_t past[MAX_SEQS], before = r->host.n_allocations;
    uint32_t stage[MAX_SEQS];
    sl_batch b = {.struct_size = SL_SIZE(sl_batch),
                  .seq = seq,
                  .row_begin = begin,
                  .n_past = past,
                  .stage = stage,
                  .row_seq = row_seq};
    for (int32_t i = 0; i < MAX_SEQS; i++) {
        plain_seq *p = &r->plain[i];
        int64_t left = MAX_CONTEXT - p->n, n = draw(r, 3) == 0 ? 1 + draw(r, 40) : 1 + draw(r, MAX_TREE);
        n = n < left ? n : left;
        if (!p->is_open || n < 1 || n > MAX_ROWS - b.n_rows || draw(r, 3) == 0)
            continue;
        if (duo_device_store.grow(r->self, i, p->n + n, &err) < 0)
            fail_msg("%s", err_text_);
        seq[b.n_seqs] = i;
        past[b.n_seqs] = p->n;
        stage[b.n_seqs] = n > MAX_TREE ? SL_STAGE_PREFILL : SL_STAGE_VERIFY;
        for (; n > 0; n--) {
            row_seq[b.n_rows] = b.n_seqs;
            id[b.n_rows++] = r->next_row++;
        }
        begin[++b.n_seqs] = b.n_rows;
    }
    if (b.n_seqs == 0)
        return;
    before = r->host.n_allocations;
    if (duo_device_store.reserve(r->self, &b, &err) < 0)
        fail_msg("%s", err_text_);
    for (int l = 0; l < LAYERS; l++)
        append_layer(r, &b, l, id);
    if (draw(r, 10) == 0) /* the step fails: nothing was kept */
        return;
    for (int32_t at = 0; at < b.n_seqs; at++) {
        plain_seq *p = &r->plain[seq[at]];
        for (int32_t i = 0; i < begin[at + 1] - begin[at]; i++)
            if (i == 0 || stage[at] == SL_STAGE_PREFILL || draw(r, 2) == 0) {
                p->row[p->n++] = id[begin[at] + i];
                path[n_path++] = i;
            }
        path_begin[at + 1] = n_path;
        int64_t low = p->n - RECENT - SLACK;
        p->low = low > p->low ? low : p->low;
    }
    sl_commit c = {.struct_size = SL_SIZE(sl_commit), .batch = &b, .path_begin = path_begin, .path = path};
    if (duo_device_store.commit(r->self, &r->lane.lane, &c, &err) < 0)
        fail_msg("%s", err_text_);
    assert_int_equal(r->host.n_allocations, before);
}

/* Lengths that must be possible: those whose window begins where rows were not let go of. */
static int must_do(const plain_seq *p, int64_t n) { return n <= SINK || n - RECENT >= p->low || p->low <= SINK; }

static void a_cut(rig *r, int32_t seq) {
    plain_seq *p = &r->plain[seq];
    int64_t n = draw(r, 4) == 0 ? draw(r, p->n + 1) : p->n - draw(r, p->n < 12 ? p->n + 1 : 12), minimum = -1;
    sl_status status = duo_device_store.truncate(r->self, seq, n, &minimum);
    assert_true(status == SL_OK || (status == SL_E_RANGE && !must_do(p, n) && minimum > n && minimum <= p->n));
    if (status < 0)
        return;
    p->n = n;
    p->low = n <= SINK ? 0 : p->low;
}

static void a_fork(rig *r, int32_t child, int32_t parent) {
    const plain_seq *p = &r->plain[parent];
    int64_t upto = draw(r, 4) == 0 ? draw(r, p->n + 1) : p->n - draw(r, p->n < 12 ? p->n + 1 : 12);
    SL_ERROR(err);
    sl_status status = duo_device_store.open(r->self, child, parent, upto, &err);
    assert_true(status == SL_OK || (status == SL_E_RANGE && !must_do(p, upto)));
    if (status < 0)
        return;
    r->plain[child] = *p;
    r->plain[child].n = upto;
    int64_t low = upto - RECENT - SLACK;
    r->plain[child].low = upto <= SINK ? 0 : low > p->low ? low : p->low;
}

static void random_life(void **state) {
    (void)state;
    static const char *const pages[] = {"page=1", "page=4", "page=16"};
    for (int i = 0; i < 6; i++) {
        rig r;
        open_rig(&r, pages[i % 3]);
        r.seed += (uint64_t)i;
        for (int round = 0; round < 2500; round++) {
            int32_t seq = (int32_t)draw(&r, MAX_SEQS), other = (int32_t)draw(&r, MAX_SEQS);
            plain_seq *p = &r.plain[seq];
            if (!p->is_open && r.plain[other].is_open)
                a_fork(&r, seq, other);
            else if (!p->is_open) {
                assert_int_equal(duo_device_store.open(r.self, seq, -1, 0, NULL), SL_OK);
                *p = (plain_seq){.is_open = 1};
            } else if (draw(&r, 4) == 0)
                a_cut(&r, seq);
            else if (draw(&r, 12) == 0) {
                duo_device_store.close(r.self, seq);
                p->is_open = 0;
            } else
                a_step(&r);
            if (i >= 3 && draw(&r, 6) > 0) /* late: the lane looks at nothing before more was queued */
                continue;
            /* tables follow with the next step of a sequence: a step of no rows for all */
            sl_batch b = {.struct_size = SL_SIZE(sl_batch)};
            int32_t all[MAX_SEQS], begin[MAX_SEQS + 1] = {0};
            int64_t past[MAX_SEQS];
            for (int32_t k = 0; k < MAX_SEQS; k++)
                if (r.plain[k].is_open) {
                    all[b.n_seqs] = k;
                    past[b.n_seqs++] = r.plain[k].n;
                }
            b.seq = all, b.row_begin = begin, b.n_past = past;
            assert_int_equal(duo_device_store.reserve(r.self, &b, NULL), SL_OK);
            test_lane_run(&r.lane);
            for (int32_t k = 0; k < MAX_SEQS; k++)
                if (r.plain[k].is_open)
                    check_sequence(&r, k);
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
