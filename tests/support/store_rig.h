/* store_rig.h - what tests of single stores do alike: a small model whose layers have different shapes, an instance, a
 * stream of random acts, rows whose content follows from a number, and steps over some sequences. What should be there
 * is the test's own, in plain arrays. */
#ifndef SLUICE_TEST_STORE_RIG_H
#define SLUICE_TEST_STORE_RIG_H

#include "test_host.h"

enum { STORE_LAYERS = 4, STORE_SEQS = 8, STORE_ROWS = 128, STORE_WIDTH = 128 };

typedef struct store_rig {
    test_host host;
    sl_layer_info layers[STORE_LAYERS];
    const sl_layer_info *layer_ptrs[STORE_LAYERS];
    uint32_t stages[STORE_LAYERS];
    sl_model_info model;
    const sl_plugin *plugin;
    sl_instance *self;
    int32_t next_row; /* rows are numbered through */
    uint64_t seed;
} store_rig;

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* A host, and a model of n layers of shapes {KV heads, key size, value size} with that many query heads a KV head. */
static inline void store_model(store_rig *r, const int32_t (*shapes)[3], int n, int32_t group, uint64_t seed) {
    *r = (store_rig){.seed = seed};
    test_host_init(&r->host);
    for (int l = 0; l < n; l++) {
        r->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                       .block = "gqa",
                                       .n_heads = group * shapes[l][0],
                                       .n_kv_heads = shapes[l][0],
                                       .head_dim = shapes[l][1],
                                       .v_head_dim = shapes[l][2],
                                       .rope = -1};
        r->layer_ptrs[l] = &r->layers[l];
        r->stages[l] = SL_STAGE_ALL;
    }
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layer_ptrs, .n_layers = n};
}

/* The place of a store of the model, that of an attention over it is made of it. */
static inline sl_scope store_scope(const store_rig *r, uint32_t device) {
    return (sl_scope){.struct_size = SL_SIZE(sl_scope),
                      .layer_stages = r->stages,
                      .n_layers = r->model.n_layers,
                      .device = device,
                      .role = "kvcache.store",
                      .section = "kvcache"};
}

static inline sl_status store_make(store_rig *r, const sl_plugin *made, const char *const *sets, const sl_scope *scope,
                                   const sl_limits *limits, sl_error *err) {
    sl_params *values = test_params(made, sets);
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args),
                           .host = &r->host.host,
                           .model = &r->model,
                           .params = values,
                           .scope = scope};
    r->plugin = made;
    sl_status s = made->accepts != NULL ? made->accepts(&r->model, values, scope, err) : SL_OK;
    if (s == SL_OK)
        s = made->create(&args, &r->self, err);
    if (s == SL_OK)
        s = made->activate(r->self, limits, err);
    test_params_free(values);
    return s;
}

static inline void store_close(store_rig *r) {
    if (r->self != NULL) {
        r->plugin->deactivate(r->self);
        r->plugin->destroy(r->self);
    }
    assert_int_equal(r->host.n_live, 0);
}

/* ---- random acts and rows ---------------------------------------------------------------------------------------- */

static inline int64_t store_draw(store_rig *r, int64_t n) { return (int64_t)(test_next(&r->seed) % (uint64_t)n); }

/* One of n sequences that are open, or are not; -1: there is none. is_open: of the first, stride bytes apart. */
static inline int32_t store_pick(store_rig *r, const int *is_open, size_t stride, int32_t n, int want_open) {
    int32_t found[STORE_SEQS], n_found = 0;
    for (int32_t i = 0; i < n; i++)
        if (*(const int *)(const void *)((const char *)is_open + (size_t)i * stride) == want_open)
            found[n_found++] = i;
    return n_found > 0 ? found[store_draw(r, n_found)] : -1;
}

static inline uint32_t store_hash(int32_t row, int layer, int side, int64_t e) {
    uint32_t h = (uint32_t)row * 2654435761u + (uint32_t)(layer * 40503 + side * 7919 + (int)e * 104729);
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
    return h;
}

/* Element e of the keys (side = 0) or values (1) of a row: small whole numbers, exact in every dtype. */
static inline float store_element(int32_t row, int layer, int side, int64_t e) {
    return (float)(int32_t)(store_hash(row, layer, side, e) % 255) - 127.0f;
}

/* Cut, not rounded: what is exact stays so. */
static inline uint16_t store_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

typedef struct store_step {
    sl_batch batch;
    sl_rows rows; /* all of the batch */
    sl_commit commit;
    int32_t seq[STORE_SEQS], begin[STORE_SEQS + 1], row_seq[STORE_ROWS];
    int64_t past[STORE_SEQS];
    uint32_t stage[STORE_SEQS];
    int32_t number[STORE_ROWS]; /* which rows they are */
    int32_t path[STORE_ROWS], path_begin[STORE_SEQS + 1];
} store_step;

static inline void store_step_init(store_step *s) {
    *s = (store_step){.batch = {.struct_size = SL_SIZE(sl_batch)}};
    s->batch.seq = s->seq, s->batch.row_begin = s->begin, s->batch.n_past = s->past, s->batch.stage = s->stage;
    s->batch.row_seq = s->row_seq;
    s->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &s->batch};
    s->commit = (sl_commit){
        .struct_size = SL_SIZE(sl_commit), .batch = &s->batch, .path_begin = s->path_begin, .path = s->path};
}

/* n new rows of a sequence that has `past`. */
static inline void store_step_add(store_rig *r, store_step *s, int32_t seq, int64_t past, int64_t n, uint32_t stage) {
    int32_t at = s->batch.n_seqs++;
    s->seq[at] = seq;
    s->past[at] = past;
    s->stage[at] = stage;
    for (int64_t i = 0; i < n; i++) {
        s->row_seq[s->batch.n_rows] = at;
        s->number[s->batch.n_rows++] = r->next_row++;
    }
    s->begin[at + 1] = s->rows.n = s->batch.n_rows;
}

static inline int32_t store_step_rows(const store_step *s, int32_t at) { return s->begin[at + 1] - s->begin[at]; }

/* What the next sequence of the step keeps: a row of it. In order of sequences and rows. */
static inline void store_step_keep(store_step *s, int32_t at, int32_t row) { s->path[s->path_begin[at + 1]++] = row; }

/* Everything, a beginning, or some rows of a tree. */
static inline void store_step_keep_some(store_rig *r, store_step *s, int32_t at) {
    int32_t n = store_step_rows(s, at), kept = store_draw(r, 2) ? n : (int32_t)store_draw(r, n + 1);
    int holes = (int)store_draw(r, 2);
    s->path_begin[at + 1] = s->path_begin[at];
    for (int32_t k = 0; k < kept; k++)
        if (k == 0 || !holes || store_draw(r, 2))
            store_step_keep(s, at, k);
}

/* Number of the i-th row that a sequence of the step keeps; there are store_step_kept of them. */
static inline int32_t store_step_kept(const store_step *s, int32_t at) {
    return s->path_begin[at + 1] - s->path_begin[at];
}
static inline int32_t store_step_number(const store_step *s, int32_t at, int32_t i) {
    return s->number[s->begin[at] + s->path[s->path_begin[at] + i]];
}

/* The rows of a layer of shape {heads, key size, value size}: f32 of the host, or with a lane bf16 as on a device. The
 * arrays are used again by the next call. */
typedef float store_element_of(int32_t row, int layer, int side, int64_t e);
static inline sl_kv_append store_step_append(const store_step *s, const sl_lane *lane, int layer,
                                             const int32_t shape[3], store_element_of *element_of) {
    static float x[2][STORE_ROWS * STORE_WIDTH];
    static uint16_t half[2][STORE_ROWS * STORE_WIDTH];
    sl_tensor t[2];
    for (int side = 0; side < 2; side++) {
        int64_t width = (int64_t)shape[0] * shape[1 + side], n = s->batch.n_rows;
        assert_true(n <= STORE_ROWS && width <= STORE_WIDTH);
        for (int64_t i = 0; i < n * width; i++) {
            x[side][i] = element_of(s->number[i / width], layer, side, i % width);
            half[side][i] = store_bf16(x[side][i]);
        }
        t[side] = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                              .data = lane != NULL ? (void *)half[side] : (void *)x[side],
                              .dtype = lane != NULL ? SL_BF16 : SL_F32,
                              .ndim = 3,
                              .shape = {n, shape[0], shape[1 + side]},
                              .stride = {width, shape[1 + side], 1}};
    }
    return (sl_kv_append){
        .struct_size = SL_SIZE(sl_kv_append), .lane = lane, .rows = &s->rows, .k = t[0], .v = t[1], .layer = layer};
}

#endif
