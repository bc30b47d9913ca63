/* shadow_rig.h - the store in a host of its own, for its tests: three layers of different shapes and rotations, rows
 * whose content follows from their number, memory counted by tag. */
#ifndef SHADOW_RIG_H
#define SHADOW_RIG_H

enum { LAYERS = 3, MAX_SEQS = 4, MAX_CONTEXT = 600, MAX_TREE = 8, MAX_WIDTH = 48, SCRATCH_BYTES = 1 << 20 };

/* H, K, D, Dv, rotated dimensions (0: no RoPE), style. */
static const int32_t shapes[LAYERS][6] = {
    {4, 2, 8, 8, 8, SL_ROPE_HALF}, {2, 2, 4, 6, 0, 0}, {3, 1, 16, 4, 8, SL_ROPE_INTERLEAVED}};

typedef struct plain_seq {
    int is_open;
    int64_t n;
    int32_t row[MAX_CONTEXT + 64]; /* which row stands there */
} plain_seq;

typedef struct rig {
    test_host host;
    sl_layer_info layers[LAYERS];
    const sl_layer_info *layer_ptrs[LAYERS];
    sl_rope ropes[LAYERS];
    const sl_rope *rope_ptrs[LAYERS];
    float cosine[LAYERS][1024 * 8], sine[LAYERS][1024 * 8];
    sl_model_info model;
    sl_scratch scratch;
    sl_mem mem;
    sl_exec exec;
    sl_lane lane;
    int64_t by_tag[8];      /* bytes alive */
    int64_t most_by_tag[8]; /* at once, since a test set it */
    char *scratch_block;
    sl_instance *self;
    plain_seq plain[MAX_SEQS];
    int32_t next_row;
    int64_t position_shift; /* position = token index + shift */
} rig;

/* ---- content
 * --------------------------------------------------------------------------------------------------------- */

/* Neighbours look alike, as tokens of a text do; every 37th row stands out. */
static inline float element_of(int32_t row, int layer, int which, int64_t e) {
    uint64_t s = (uint64_t)row * 2654435761u + (uint64_t)(layer * 40503 + which * 7919) + (uint64_t)e * 104729u +
                 88172645463325252ull;
    for (int i = 0; i < 3; i++)
        test_next(&s);
    double noise = test_uniform(&s) * 2 - 1;
    double wave = sin(0.013 * row * (double)(e % 5 + 1) + (double)e + layer);
    return (float)(which == 2 ? noise : which == 1 ? noise : 0.5 * noise + wave + (row % 37 == 5 ? 4 * noise : 0));
}

static inline void rotate(const rig *r, int layer, float position, float *x) {
    int64_t half = shapes[layer][4] / 2, at = (int64_t)position * half;
    int interleaved = shapes[layer][5] == SL_ROPE_INTERLEAVED;
    for (int64_t i = 0; i < half; i++) {
        int64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        float c = r->cosine[layer][at + i], s = r->sine[layer][at + i], xa = x[a], xb = x[b];
        x[a] = xa * c - xb * s;
        x[b] = xb * c + xa * s;
    }
}

/* Row `row` at a token index: raw and rotated keys [K D], values [K Dv], rotated queries [H D]. */
static inline void make_row(const rig *r, int layer, int32_t row, int64_t token, float *raw, float *k, float *v,
                            float *q) {
    const int32_t *s = shapes[layer];
    float position = (float)(token + r->position_shift);
    for (int64_t e = 0; e < s[1] * s[2]; e++)
        raw[e] = k[e] = element_of(row, layer, 0, e);
    for (int64_t e = 0; e < s[1] * s[3]; e++)
        v[e] = element_of(row, layer, 1, e);
    for (int64_t e = 0; e < s[0] * s[2]; e++)
        q[e] = 2 * element_of(row, layer, 2, e);
    for (int32_t h = 0; h < s[1]; h++)
        rotate(r, layer, position, k + h * s[2]);
    for (int32_t h = 0; h < s[0]; h++)
        rotate(r, layer, position, q + h * s[2]);
}

/* ---- services
 * -------------------------------------------------------------------------------------------------------- */

static inline rig *rig_of(const sl_host *host) { return ((test_host *)host->impl)->user; }

static inline void *tagged_alloc(const sl_host *host, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    rig *r = rig_of(host);
    assert_true(tag < 8 && (tag == SL_MEM_KV_HOST) == (device == SL_DEVICE_HOST_PINNED));
    int64_t *p = r->host.mem.alloc(host, device, bytes + 64, align, tag);
    if (p == NULL)
        return NULL;
    p[0] = bytes;
    p[1] = tag;
    r->by_tag[tag] += bytes;
    if (r->by_tag[tag] > r->most_by_tag[tag])
        r->most_by_tag[tag] = r->by_tag[tag];
    return p + 8;
}

static inline void tagged_release(const sl_host *host, uint32_t device, void *p) {
    if (p == NULL)
        return;
    int64_t *block = (int64_t *)p - 8;
    rig_of(host)->by_tag[block[1]] -= block[0];
    memset(p, 0xFF, (size_t)block[0]); /* whoever still reads it will notice */
    rig_of(host)->host.mem.release(host, device, block);
}

static inline sl_status scratch_reserve(const sl_host *host, uint32_t device, int64_t bytes, int64_t per_worker) {
    (void)host, (void)device;
    return bytes <= SCRATCH_BYTES && per_worker <= SCRATCH_BYTES ? SL_OK : SL_E_NO_MEMORY;
}
static inline void *scratch_get(const sl_host *host, uint32_t device) {
    (void)device;
    return memset(rig_of(host)->scratch_block, 0xFF, SCRATCH_BYTES);
}
static inline void *scratch_worker(const sl_host *host, int32_t worker) {
    (void)worker;
    return memset(rig_of(host)->scratch_block + SCRATCH_BYTES, 0xFF, SCRATCH_BYTES);
}

static inline const sl_lane *lane_of(const sl_host *host, uint32_t device, int32_t number) {
    return device == SL_DEVICE_CPU && number < 2 ? &rig_of(host)->lane : NULL;
}
static inline sl_status lane_copy(const sl_lane *lane, void *dst, const void *src, int64_t bytes) {
    (void)lane;
    memcpy(dst, src, (size_t)bytes);
    return SL_OK;
}
static inline sl_status new_event(const sl_host *host, const sl_lane *lane, sl_event_impl **out) {
    (void)lane;
    *out = (sl_event_impl *)(void *)rig_of(host);
    return SL_OK;
}
static inline void drop_event(const sl_host *host, sl_event_impl *event) { (void)host, (void)event; }
static inline sl_status pass_event(const sl_lane *lane, sl_event_impl *event) {
    (void)lane;
    return event != NULL ? SL_OK : SL_E_INVALID;
}
static inline sl_status sync_lane(const sl_lane *lane, sl_error *err) {
    (void)lane, (void)err;
    return SL_OK;
}

static inline float weight_of(const sl_tensor *t, int64_t i) {
    if (t->dtype == SL_F32)
        return ((const float *)t->data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)t->data)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline sl_status plain_gemm(const sl_host *host, const sl_op_gemm *a) {
    (void)host;
    for (int64_t i = 0; i < a->x->shape[0]; i++)
        for (int64_t j = 0; j < a->w->shape[0]; j++) {
            float sum = 0;
            for (int64_t k = 0; k < a->x->shape[1]; k++)
                sum += ((const float *)a->x->data)[i * a->x->shape[1] + k] * weight_of(a->w, j * a->w->shape[1] + k);
            ((float *)a->y->data)[i * a->w->shape[0] + j] = sum;
        }
    return SL_OK;
}
static inline sl_status plain_rope(const sl_host *host, const sl_op_rope *a) {
    const rig *r = rig_of(host);
    int layer = 0;
    while (&r->ropes[layer] != a->rope)
        layer++;
    int64_t heads = a->x->shape[1], dim = a->x->shape[2];
    for (int64_t i = 0; i < a->x->shape[0] * heads; i++)
        rotate(r, layer, a->position[i / heads], (float *)a->x->data + i * dim);
    return SL_OK;
}

static inline const void *more(test_host *host, const char *id) {
    rig *r = host->user;
    return strcmp(id, SL_MEM_ID) == 0       ? (const void *)&r->mem
           : strcmp(id, SL_SCRATCH_ID) == 0 ? (const void *)&r->scratch
           : strcmp(id, SL_EXEC_ID) == 0    ? (const void *)&r->exec
                                            : NULL;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------- */

static inline sl_limits limits_of(uint32_t compute, int64_t max_tree) {
    return (sl_limits){.struct_size = SL_SIZE(sl_limits),
                       .max_context = MAX_CONTEXT,
                       .max_rows = 512,
                       .max_seqs = MAX_SEQS,
                       .max_tree = max_tree,
                       .n_workers = 1,
                       .compute = compute,
                       .deterministic = 1};
}

static inline void prepare_rig(rig *r) {
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    r->host.user = r;
    r->host.more = more;
    r->host.ops.gemm = plain_gemm;
    r->host.ops.rope = plain_rope;
    r->mem = (sl_mem){SL_SIZE(sl_mem), tagged_alloc, tagged_release};
    r->scratch = (sl_scratch){SL_SIZE(sl_scratch), scratch_reserve, scratch_get, scratch_worker};
    r->lane = (sl_lane){.struct_size = SL_SIZE(sl_lane)};
    r->exec = (sl_exec){.struct_size = SL_SIZE(sl_exec),
                        .lane = lane_of,
                        .copy = lane_copy,
                        .event_create = new_event,
                        .event_destroy = drop_event,
                        .record = pass_event,
                        .wait = pass_event,
                        .sync = sync_lane};
    r->scratch_block = malloc(2 * SCRATCH_BYTES);
    assert_non_null(r->scratch_block);
    for (int l = 0; l < LAYERS; l++) {
        const int32_t *s = shapes[l];
        for (int64_t at = 0; at < 1024; at++)
            for (int64_t i = 0; i < s[4] / 2; i++) {
                double angle = (double)at * pow(100.0, -2.0 * (double)i / s[4]);
                r->cosine[l][at * (s[4] / 2) + i] = (float)cos(angle);
                r->sine[l][at * (s[4] / 2) + i] = (float)sin(angle);
            }
        r->ropes[l] = (sl_rope){.struct_size = SL_SIZE(sl_rope),
                                .cos = r->cosine[l],
                                .sin = r->sine[l],
                                .n_positions = 1024,
                                .dims = s[4],
                                .style = (uint32_t)s[5]};
        r->rope_ptrs[l] = &r->ropes[l];
        r->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                       .block = "gqa",
                                       .n_heads = s[0],
                                       .n_kv_heads = s[1],
                                       .head_dim = s[2],
                                       .v_head_dim = s[3],
                                       .rope = s[4] > 0 ? l : -1,
                                       .attn_scale = 1 / sqrt((double)s[2])};
        r->layer_ptrs[l] = &r->layers[l];
    }
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info),
                               .layers = r->layer_ptrs,
                               .ropes = r->rope_ptrs,
                               .n_layers = LAYERS,
                               .n_ropes = LAYERS};
}

static inline sl_status try_create(rig *r, const char *const *sets, sl_error *err) {
    sl_params *values = test_params(&plugin, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .model = &r->model, .params = values};
    sl_status s = plugin.create(&args, &r->self, err);
    test_params_free(values);
    return s;
}

static inline void open_rig_for(rig *r, const char *const *sets, uint32_t compute, int64_t max_tree) {
    SL_ERROR(err);
    prepare_rig(r);
    sl_limits limits = limits_of(compute, max_tree);
    if (try_create(r, sets, &err) < 0 || plugin.activate(r->self, &limits, &err) < 0)
        fail_msg("%s", err.text);
}

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})
static inline void open_rig(rig *r, const char *const *sets) { open_rig_for(r, sets, SL_F32, 1); }

static inline void close_rig(rig *r) {
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
    free(r->scratch_block);
}

static inline void open_seq(rig *r, int32_t seq, int32_t parent, int64_t upto) {
    assert_int_equal(store.open(r->self, seq, parent, upto, NULL), SL_OK);
    if (parent >= 0)
        memcpy(r->plain[seq].row, r->plain[parent].row, sizeof r->plain[seq].row);
    r->plain[seq].n = parent >= 0 ? upto : 0;
    r->plain[seq].is_open = 1;
}

static inline void end_prompt(rig *r, int32_t seq) {
    sl_event e = {
        .struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_PREFILL_END, .seq = seq, .other = -1, .n = r->plain[seq].n};
    assert_int_equal(plugin.event(r->self, &e, NULL), SL_OK);
}

/* ---- a step
 * ------------------------------------------------------------------------------------------------------------ */

enum { STEP_ROWS = 600 };

typedef struct step {
    sl_batch b;
    sl_rows rows;
    int32_t seq[1], begin[2], row_seq[STEP_ROWS], number[STEP_ROWS];
    int64_t past[1], index[STEP_ROWS];
    uint32_t stage[1], type[STEP_ROWS];
    float position[STEP_ROWS];
    const sl_tree *tree[1];
} step;

/* Rows with new numbers behind the committed ones; in a tree all of them at the same depth (which nobody here asks
 * about). */
static inline void make_step(rig *r, step *t, int32_t seq, int32_t n, uint32_t stage) {
    memset(t, 0, sizeof *t);
    t->seq[0] = seq, t->begin[1] = n, t->past[0] = r->plain[seq].n, t->stage[0] = stage;
    for (int32_t i = 0; i < n; i++) {
        t->index[i] = t->past[0] + i;
        t->position[i] = (float)(t->index[i] + r->position_shift);
        t->number[i] = r->next_row++;
    }
    t->b = (sl_batch){.struct_size = SL_SIZE(sl_batch),
                      .seq = t->seq,
                      .row_begin = t->begin,
                      .n_past = t->past,
                      .stage = t->stage,
                      .tree = t->tree,
                      .row_seq = t->row_seq,
                      .token_index = t->index,
                      .position = t->position,
                      .row_type = t->type,
                      .n_seqs = 1,
                      .n_rows = n,
                      .n_axes = 1};
    t->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &t->b, .n = n};
}

/* [n, ...] tensors of one layer's rows. */
typedef struct row_data {
    float raw[STEP_ROWS * MAX_WIDTH], k[STEP_ROWS * MAX_WIDTH], v[STEP_ROWS * MAX_WIDTH], q[STEP_ROWS * MAX_WIDTH];
} row_data;

static inline void make_data(const rig *r, const step *t, int layer, row_data *d) {
    const int32_t *s = shapes[layer];
    for (int32_t i = 0; i < t->begin[1]; i++)
        make_row(r, layer, t->number[i], t->index[i], d->raw + i * s[1] * s[2], d->k + i * s[1] * s[2],
                 d->v + i * s[1] * s[3], d->q + i * s[0] * s[2]);
}

static inline sl_tensor tensor3(float *data, int64_t n, int64_t heads, int64_t width) {
    sl_tensor t;
    assert_int_equal(sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, heads, width}), SL_OK);
    return t;
}

static inline void append_rows(rig *r, step *t, int layer, row_data *d) {
    const int32_t *s = shapes[layer];
    int64_t n = t->begin[1];
    make_data(r, t, layer, d);
    sl_kv_append a = {.struct_size = SL_SIZE(sl_kv_append),
                      .rows = &t->rows,
                      .k = tensor3(d->k, n, s[1], s[2]),
                      .v = tensor3(d->v, n, s[1], s[3]),
                      .k_raw = tensor3(d->raw, n, s[1], s[2]),
                      .q = tensor3(d->q, n, s[0], s[2]),
                      .layer = layer};
    assert_int_equal(store.append(r->self, &a), SL_OK);
}

/* Row set (NULL: everything) and view of rows of the step that were appended. */
static inline const sl_view *look(rig *r, step *t, int layer, row_data *d, const sl_rowset **set) {
    const int32_t *s = shapes[layer];
    const sl_view *v;
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .window = r->layers[layer].window};
    sl_select args = {.struct_size = SL_SIZE(sl_select),
                      .rows = &t->rows,
                      .mask = &mask,
                      .q = tensor3(d->q, t->rows.n, s[0], s[2]),
                      .layer = layer};
    sl_status status = selector.select(r->self, &args, set);
    assert_true(status == SL_OK || status == SL_SKIPPED);
    if (status == SL_SKIPPED)
        *set = NULL;
    assert_int_equal(store.view(r->self, &r->lane, layer, &t->rows, *set, &v), SL_OK);
    return v;
}

static inline void commit_rows(rig *r, step *t, const int32_t *path, int32_t n_path) {
    int32_t all[STEP_ROWS], begin[2] = {0, n_path}, next = -1;
    for (int32_t i = 0; i < n_path; i++)
        all[i] = path != NULL ? path[i] : i;
    sl_commit c = {SL_SIZE(sl_commit), &t->b, begin, all, &next};
    assert_int_equal(store.commit(r->self, NULL, &c, NULL), SL_OK);
    plain_seq *p = &r->plain[t->seq[0]];
    for (int32_t i = 0; i < n_path; i++)
        p->row[p->n++] = t->number[all[i]];
}

/* n rows, looked at by nobody. */
static inline void feed(rig *r, int32_t seq, int32_t n, uint32_t stage) {
    static step t;
    static row_data d;
    SL_ERROR(err);
    make_step(r, &t, seq, n, stage);
    if (store.grow(r->self, seq, t.past[0] + n, &err) < 0 || store.reserve(r->self, &t.b, &err) < 0)
        fail_msg("%s", err.text);
    for (int l = 0; l < LAYERS; l++)
        append_rows(r, &t, l, &d);
    commit_rows(r, &t, NULL, n);
}

static inline void feed_prompt(rig *r, int32_t seq, int32_t n) {
    feed(r, seq, n, SL_STAGE_PREFILL);
    end_prompt(r, seq);
}

/* ---- reading a view
 * ------------------------------------------------------------------------------------------------------- */

static inline const sl_segment *segment_of(const sl_view *v, int32_t head) {
    const sl_segment *found = NULL;
    for (int32_t i = 0; i < v->seqs[0]->n_segments; i++) {
        const sl_segment *g = v->seqs[0]->segments[i];
        if (head < g->head_begin || head >= g->head_begin + g->n_heads)
            continue;
        assert_null(found);
        found = g;
    }
    assert_non_null(found);
    return found;
}

static inline int64_t token_of(const sl_segment *g, int64_t slot) {
    return g->token_index != NULL ? g->token_index[slot] : g->token_base + slot;
}

static inline void read_row(const sl_segment *g, int32_t head, int64_t slot, int64_t d, int values, float *out) {
    const char *p = (const char *)(values ? g->v_pages : g->k_pages)[slot / g->page_rows] +
                    slot % g->page_rows * (values ? g->v_row_stride : g->k_row_stride) +
                    (head - g->head_begin) * (values ? g->v_head_stride : g->k_head_stride);
    sl_tensor t = {.data = (void *)(uintptr_t)p, .dtype = values ? g->v_dtype : g->k_dtype};
    for (int64_t i = 0; i < d; i++)
        out[i] = weight_of(&t, i);
}

/* Committed rows of the view are the true rows: keys within a tolerance, values exactly (f32). */
static inline void check_content(const rig *r, const sl_view *v, int32_t seq, int layer, double tolerance,
                                 double v_tolerance) {
    const int32_t *s = shapes[layer];
    float raw[MAX_WIDTH], k[MAX_WIDTH], val[MAX_WIDTH], q[MAX_WIDTH], got[MAX_WIDTH];
    for (int32_t h = 0; h < s[1]; h++) {
        const sl_segment *g = segment_of(v, h);
        for (int64_t i = 0; i < g->n_committed; i++) {
            int64_t token = token_of(g, i);
            assert_true(i == 0 || token > token_of(g, i - 1));
            make_row(r, layer, r->plain[seq].row[token], token, raw, k, val, q);
            read_row(g, h, i, s[2], 0, got);
            for (int32_t d = 0; d < s[2]; d++)
                if (!(fabs((double)got[d] - k[h * s[2] + d]) <= tolerance))
                    fail_msg("layer %d head %d token %lld: key[%d] %g, expected %g", layer, h, (long long)token, d,
                             (double)got[d], (double)k[h * s[2] + d]);
            read_row(g, h, i, s[3], 1, got);
            for (int32_t d = 0; d < s[3]; d++)
                if (!(fabs((double)got[d] - val[h * s[3] + d]) <= v_tolerance))
                    fail_msg("layer %d head %d token %lld: value[%d] %g, expected %g", layer, h, (long long)token, d,
                             (double)got[d], (double)val[h * s[3] + d]);
        }
    }
}

#endif
