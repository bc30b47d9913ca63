/* A cache full of seeded rows, to measure speed at a depth without the prompt pass that would lead there. The rows go
 * the way of all rows - begin, append layer by layer, commit - so that pages, side structures of selectors and whatever
 * a store makes of its rows are what they would be; only the values mean nothing.
 *
 * Keys and values have a variance of 1, as those of a random model: one block of rows is made and used for every chunk
 * and layer, since making 128K rows for 32 layers would take longer than computing some. */
#include <inttypes.h>

#include "api.h"
#include "chunk.h"
#include "device_network.h"
#include "engine.h"
#include "random/random_value.h"
#include "sl_error.h"
#include "sl_tensor.h"
#include "sums.h"

static const float AMPLITUDE = 1.7320508f; /* sqrt(3): variance 1 */

typedef struct fill_rows {
    float *data;
    uint64_t seed;
} fill_rows;

static void fill_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const fill_rows *f = user;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        f->data[i] = slk_random_value(f->seed, (uint64_t)i) * AMPLITUDE;
}

static sl_tensor rows3(float *data, int64_t n, int64_t heads, int64_t width) {
    sl_tensor t;
    sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){n, heads, width});
    return t;
}

/* The network's own buffers of q, k and v hold the rows. */
static void make_rows(sluice_engine *e, int64_t n, uint64_t seed) {
    sli_network *net = &e->target;
    int64_t k = 0, v = 0, q = 0;
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sl_layer_info *i = net->info->layers[l];
        int64_t wk = (int64_t)i->n_kv_heads * i->head_dim, wv = (int64_t)i->n_kv_heads * i->v_head_dim,
                wq = (int64_t)i->n_heads * i->head_dim;
        k = wk > k ? wk : k, v = wv > v ? wv : v, q = wq > q ? wq : q;
    }
    const struct {
        float *data;
        int64_t width;
    } buffers[] = {{net->k, k}, {net->k_raw, k}, {net->v, v}, {net->q, q}};
    static const uint64_t stream[] = {0, 0, 1, 2}; /* keys before and after RoPE are the same here */
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        fill_rows f = {buffers[i].data, seed * 4 + stream[i]};
        sli_pool_parallel_for(e->pool, n * buffers[i].width, 1 << 12, fill_range, &f);
    }
}

/* What forward.c does between projections and attention, and what it tells afterwards. */
static sl_status append_layer(sli_network *net, const sl_batch *b, int32_t l, int32_t begin, int32_t end) {
    sli_net_layer *layer = &net->layers[l];
    const sl_layer_info *info = layer->info;
    const sli_attender *attender = layer->attender[0];
    int64_t n = end - begin, H = info->n_heads, K = info->n_kv_heads, D = info->head_dim, Dv = info->v_head_dim;
    sl_rows rows = {SL_SIZE(sl_rows), b, n < b->n_rows ? net->row_index + begin : NULL, NULL, (int32_t)n, 0};
    sl_kv_append args = {.struct_size = SL_SIZE(sl_kv_append),
                         .lane = net->lane,
                         .rows = &rows,
                         .k = rows3(net->k + begin * K * D, n, K, D),
                         .v = rows3(net->v + begin * K * Dv, n, K, Dv),
                         .q = rows3(net->q + begin * H * D, n, H, D),
                         .layer = l,
                         .norm_eps = net->info->norm_eps};
    if (layer->layout.flags & SL_KV_WANTS_RAW)
        args.k_raw = rows3(net->k_raw + begin * K * D, n, K, D);
    SL_TRY(layer->store->api->append(layer->store->self, &args));
    if ((layer->caps[0].flags & SL_ATTN_NOTES_ROWS) && attender->api->note_rows != NULL) {
        sl_note note = {.struct_size = SL_SIZE(sl_note),
                        .lane = net->lane,
                        .rows = &rows,
                        .q = args.q,
                        .k = args.k,
                        .v = args.v,
                        .layer = l};
        if (layer->caps[0].flags & SL_ATTN_NOTES_RAW)
            note.q_raw = args.q, note.k_raw = rows3(net->k_raw + begin * K * D, n, K, D);
        SL_TRY(attender->api->note_rows(attender->self, &note));
    }
    if (layer->store->api->settle == NULL)
        return SL_OK;
    sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = &rows, .q = &args.q, .layer = l};
    return layer->store->api->settle(layer->store->self, &side);
}

/* Blocks that store or attention cap, as in a forward pass. */
static int64_t block_of(const sli_net_layer *layer, int64_t n) {
    int64_t block = layer->layout.row_block > 0 ? layer->layout.row_block : n;
    return layer->caps[0].row_block > 0 && layer->caps[0].row_block < block ? layer->caps[0].row_block : block;
}

static sl_status append_all(sli_network *net, const sl_batch *b, sl_error *err) {
    if (net->device != NULL)
        return sli_device_fill(net, b, err);
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        int32_t n = b->n_rows, block = (int32_t)block_of(&net->layers[l], n);
        for (int32_t at = 0; at < n; at += block) {
            sl_status status = append_layer(net, b, l, at, at + block < n ? at + block : n);
            if (status < 0)
                return sl_fail(err, status, "layer %d: its store took no seeded rows", l);
        }
    }
    return SL_OK;
}

static sl_status fill_chunk(sluice_engine *e, sluice_session *s, int64_t n_rows, sl_error *err) {
    sli_network *net = &e->target;
    sli_batch_clear(&e->batch, 0, ++net->step);
    sli_batch_add(&e->batch, s->id, s->n_kv, SL_STAGE_PREFILL, s->tokens + s->n_kv, (int32_t)n_rows, NULL, NULL);
    const sl_batch *b = &e->batch.view;
    SL_TRY(sli_network_begin(net, b, err));
    SL_TRY(append_all(net, b, err));
    for (int32_t i = 0; i < n_rows; i++)
        e->path[i] = i;
    e->path_begin[0] = 0;
    e->path_begin[1] = (int32_t)n_rows;
    e->next[0] = -1;
    e->n_prompt[0] = s->n;
    sl_commit commit = {SL_SIZE(sl_commit), b, e->path_begin, e->path, e->next};
    SL_TRY(sli_network_commit(net, &commit, err));
    s->n_kv += n_rows;
    return SL_OK;
}

static sl_status fill(sluice_session *s, int64_t n, uint64_t seed, sl_error *err) {
    sluice_engine *e = s->engine;
    if (e->prompter.self != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "seeded rows are no prompt that [kvcache.prompt] could transform");
    if (s->n_kv != s->n || s->shown != NULL)
        return sl_fail(err, SL_E_STATE, "%" PRId64 " tokens are pending: seeded rows go behind computed ones",
                       s->n - s->n_kv);
    if (n < 0 || n > e->limits.max_context - s->n)
        return sl_fail(err, SL_E_RANGE, "%" PRId64 " tokens are longer than the context of %" PRId64 " tokens",
                       s->n + n, e->limits.max_context);
    for (int64_t i = 0; i < n; i++) {
        double u = 0.5 + 0.5 * (double)slk_random_value(seed, (uint64_t)i);
        s->tokens[s->n + i] = (int32_t)(u * e->target.info->vocab);
    }
    int64_t before = s->n;
    s->n = s->n_prompt = s->n_grown = s->n_promised = before + n;
    sl_status status = sli_network_seq_grow(&e->target, s->id, s->n, err);
    if (e->target.device == NULL)
        make_rows(e, n < e->limits.max_rows ? n : e->limits.max_rows, seed);
    else if (status >= 0)
        status = sli_device_random_rows(&e->target, seed, AMPLITUDE, err);
    while (status >= 0 && s->n_kv < s->n) {
        int64_t rows = sli_chunk_rows(&e->target, s->n_kv, s->n - s->n_kv, e->limits.max_rows);
        sli_engine_step_begin(e);
        status = fill_chunk(e, s, rows, err);
        sli_engine_step_end(e);
        if (status >= 0)
            status = sli_engine_settle(e, err);
    }
    if (status >= 0)
        status = sli_network_wait(&e->target, err); /* nothing of it is left to what comes next */
    sli_sums_imported(&e->target, s->id);
    if (status < 0)
        s->n = s->n_prompt = s->n_kv;
    return status;
}

int sluice_session_fill(sluice_session *s, int64_t n, uint64_t seed, sluice_error *error) {
    SLI_API(err, error);
    sl_status status = fill(s, n, seed, &err);
    return status < 0 ? sli_api_fail(&err, status, error) : SLUICE_OK;
}
