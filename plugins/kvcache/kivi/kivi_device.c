/* See kivi_device.h: life, pools, and the step. Kernels are the host's: sl_ops.append, .move and .quantise. */
#include "kivi_device.h"

#include <stdlib.h>
#include <string.h>

#include "sl_host_util.h"
#include "sl_lane_rows.h"
#include "sl_tensor.h"

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

static int is_coding(const sl_instance *self) {
    return self->bits[KEYS] < KIVI_PLAIN && self->limits.max_context > self->R;
}

sl_status kivi_device_check(const sl_instance *self, sl_error *err) {
    if ((self->bits[KEYS] == KIVI_PLAIN) != (self->bits[VALUES] == KIVI_PLAIN))
        return sl_fail(
            err, SL_E_UNIMPLEMENTED,
            "kivi: on a GPU both of bits_k and bits_v are 16, or neither: plain rows are kept by pages of both");
    for (int32_t l = 0; l < self->n_layers; l++) {
        const sl_layer_info *info = self->model->layers[l];
        if (info->n_kv_heads > 0 && (info->head_dim % 32 != 0 || info->v_head_dim % 32 != 0))
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "kivi: layer %d: on a GPU keys and values have multiples of 32 channels, not %d and %d", l,
                           info->head_dim, info->v_head_dim);
    }
    return SL_OK;
}

/* Places in a page: plain keys and values; codes of keys, their scales and minima, and those of values. */
static void lay_out(sl_instance *self, int32_t l) {
    kivi_device *d = self->device;
    kivi_place *p = &d->places[l];
    const kivi_layer *y = &self->layers[l];
    int64_t G = self->G, element = sl_dtype_bits(self->dtype) / 8;
    for (int side = KEYS; side <= VALUES; side++) {
        int64_t width = y->n_heads * y->shape->d[side], scales = 2 * width; /* a group a page; width / G of G rows */
        p->plain[side] = p->plain_bytes, p->plain_bytes += G * width * element;
        if (!is_coding(self))
            continue;
        p->codes[side] = p->coded_bytes, p->coded_bytes += G * width * self->bits[side] / 8;
        p->scales[side] = p->coded_bytes, p->coded_bytes += scales;
        p->minima[side] = p->coded_bytes, p->coded_bytes += scales;
    }
    d->plain_page += p->plain_bytes;
    d->coded_page += p->coded_bytes;
}

/* Everything but the pools. */
static void describe_layer(sl_instance *self, int32_t l) {
    kivi_device *d = self->device;
    const kivi_place *p = &d->places[l];
    const kivi_layer *y = &self->layers[l];
    int64_t G = self->G, K = y->n_heads, element = sl_dtype_bits(self->dtype) / 8, dk = y->shape->d[KEYS],
            dv = y->shape->d[VALUES];
    d->plain_views[l] = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                         .pages = d->plain_tables.pages,
                                         .pages_stride = d->max_pages,
                                         .k_page_stride = p->plain_bytes,
                                         .k_row_stride = K * dk * element,
                                         .k_head_stride = dk * element,
                                         .v_page_stride = p->plain_bytes,
                                         .v_row_stride = K * dv * element,
                                         .v_head_stride = dv * element,
                                         .page_rows = (int32_t)G,
                                         .n_heads = (int32_t)K,
                                         .k_dim = (int32_t)dk,
                                         .v_dim = (int32_t)dv,
                                         .k_dtype = self->dtype,
                                         .v_dtype = self->dtype,
                                         .settled = 1};
    d->plain_ptrs[l] = &d->plain_views[l];
    d->ptrs[l] = &d->views[l];
    d->views[l] = d->plain_views[l];
    if (!is_coding(self))
        return;
    int64_t k_row = dk * self->bits[KEYS] / 8, v_row = dv * self->bits[VALUES] / 8;
    d->views[l] = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                   .pages = d->coded_tables.pages,
                                   .pages_stride = d->max_pages,
                                   .k_page_stride = p->coded_bytes,
                                   .k_row_stride = K * k_row,
                                   .k_head_stride = k_row,
                                   .v_page_stride = p->coded_bytes,
                                   .v_row_stride = K * v_row,
                                   .v_head_stride = v_row,
                                   .page_rows = (int32_t)G,
                                   .n_heads = (int32_t)K,
                                   .k_dim = (int32_t)dk,
                                   .v_dim = (int32_t)dv,
                                   .k_dtype = SL_U8,
                                   .v_dtype = SL_U8,
                                   .scale_page_stride_k = p->coded_bytes,
                                   .scale_page_stride_v = p->coded_bytes,
                                   .scale_stride_k = K * dk * 2, /* one group a page */
                                   .scale_stride_v = K * dv / G * 2,
                                   .k_bits = self->bits[KEYS],
                                   .v_bits = self->bits[VALUES],
                                   .k_group = (int32_t)G,
                                   .v_group = (int32_t)G,
                                   .k_axis = SL_QUANT_PER_CHANNEL,
                                   .v_axis = SL_QUANT_PER_ROW,
                                   .plain = &d->plain_views[l],
                                   .n_coded = d->n_coded,
                                   .zero_is_min = 1};
}

sl_status kivi_device_activate(sl_instance *self, sl_error *err) {
    const sl_limits *limits = &self->limits;
    size_t layers = (size_t)self->n_layers, seqs = (size_t)limits->max_seqs;
    kivi_device *d = self->device = calloc(1, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: out of memory");
    d->exec = sl_host_service(self->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, device_info));
    d->lane = d->exec != NULL ? d->exec->lane(self->host, SL_DEVICE_CUDA, 0) : NULL;
    if (d->lane == NULL || !SL_HAS_FN(self->ops, sl_ops, append) || !SL_HAS_FN(self->ops, sl_ops, move) ||
        !SL_HAS_FN(self->ops, sl_ops, quantise))
        return sl_fail(err, SL_E_NOT_FOUND, "kivi: the host has no lane of the device, or no operations on it");
    int64_t burst = self->chunked ? limits->max_rows : limits->max_tree, moves = 1 + 3 * limits->max_rows, most;
    d->max_pages = kivi_parts(limits->max_context + limits->max_tree, self->G) + 1;
    d->tail_pages = kivi_parts(self->R + burst + self->G - 1, self->G);
    d->cap_noted = 2 * d->max_pages + 4 * limits->max_seqs;
    most = moves > 4 * KIVI_MAX_JOBS ? moves : 4 * KIVI_MAX_JOBS;
    most = most > d->max_pages ? most : d->max_pages;
    d->places = calloc(layers, sizeof *d->places);
    d->plain_pools = calloc(layers, sizeof *d->plain_pools);
    d->coded_pools = calloc(layers, sizeof *d->coded_pools);
    d->plain_views = calloc(layers, sizeof *d->plain_views);
    d->views = calloc(layers, sizeof *d->views);
    d->plain_ptrs = calloc(layers, sizeof *d->plain_ptrs);
    d->ptrs = calloc(layers, sizeof *d->ptrs);
    d->noted = calloc((size_t)d->cap_noted, sizeof *d->noted);
    d->seqs = calloc(seqs, sizeof *d->seqs);
    d->n_coded = self->mem->alloc(self->host, SL_DEVICE_CUDA, (int64_t)seqs * 8, 256, SL_MEM_PLUGIN);
    d->jobs = self->mem->alloc(self->host, SL_DEVICE_CUDA, 4 * KIVI_MAX_JOBS * 4, 256, SL_MEM_PLUGIN);
    d->moves = self->mem->alloc(self->host, SL_DEVICE_CUDA, moves * 4, 256, SL_MEM_PLUGIN);
    int ok = sl_lane_words_make(&d->words, self->host, self->mem, d->exec, d->lane, most) >= 0 &&
             sl_page_tables_open(&d->plain_tables, &d->words, limits->max_seqs, d->max_pages) >= 0 &&
             sl_page_tables_open(&d->coded_tables, &d->words, limits->max_seqs, d->max_pages) >= 0 && d->places &&
             d->plain_pools && d->coded_pools && d->plain_views && d->views && d->plain_ptrs && d->ptrs && d->noted &&
             d->seqs && d->n_coded && d->jobs && d->moves;
    for (size_t i = 0; ok && i < seqs; i++) {
        d->seqs[i].plain.id = calloc((size_t)d->max_pages, sizeof(int32_t));
        d->seqs[i].coded.id = calloc((size_t)d->max_pages, sizeof(int32_t));
        ok = d->seqs[i].plain.id != NULL && d->seqs[i].coded.id != NULL;
    }
    if (!ok)
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: no memory for the page tables on the device");
    for (int32_t l = 0; l < self->n_layers; l++) {
        lay_out(self, l);
        describe_layer(self, l);
    }
    return SL_OK;
}

static void release_pools(sl_instance *self) {
    kivi_device *d = self->device;
    for (int32_t l = 0; d->plain_pools != NULL && d->coded_pools != NULL && l < self->n_layers; l++) {
        self->mem->release(self->host, SL_DEVICE_CUDA, d->plain_pools[l]);
        self->mem->release(self->host, SL_DEVICE_CUDA, d->coded_pools[l]);
        d->plain_pools[l] = d->coded_pools[l] = NULL;
    }
}

void kivi_device_deactivate(sl_instance *self) {
    kivi_device *d = self->device;
    if (d == NULL)
        return;
    release_pools(self);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->n_coded);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->jobs);
    self->mem->release(self->host, SL_DEVICE_CUDA, d->moves);
    sl_page_tables_close(&d->plain_tables, &d->words);
    sl_page_tables_close(&d->coded_tables, &d->words);
    sl_lane_words_free(&d->words);
    for (int64_t i = 0; d->seqs != NULL && i < self->limits.max_seqs; i++) {
        free(d->seqs[i].plain.id);
        free(d->seqs[i].coded.id);
    }
    void *const owned[] = {d->places,
                           d->plain_pools,
                           d->coded_pools,
                           d->plain_views,
                           d->views,
                           (void *)(uintptr_t)d->plain_ptrs,
                           (void *)(uintptr_t)d->ptrs,
                           d->noted,
                           d->seqs};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    sl_blocks_finish(&d->plain);
    sl_blocks_finish(&d->coded);
    free(d);
    self->device = NULL;
}

/* ---- pools ---------------------------------------------------------------------------------------------------------
 */

static int take_pools(sl_instance *self, int64_t plain, int64_t coded) {
    kivi_device *d = self->device;
    for (int32_t l = 0; l < self->n_layers; l++) {
        const kivi_place *p = &d->places[l];
        if (p->plain_bytes == 0)
            continue;
        char *a = d->plain_pools[l] =
            self->mem->alloc(self->host, SL_DEVICE_CUDA, plain * p->plain_bytes, 256, SL_MEM_KV);
        char *b = coded * p->coded_bytes > 0
                      ? self->mem->alloc(self->host, SL_DEVICE_CUDA, coded * p->coded_bytes, 256, SL_MEM_KV)
                      : NULL;
        d->coded_pools[l] = b;
        if (a == NULL || (b == NULL && coded * p->coded_bytes > 0)) {
            release_pools(self);
            return 0;
        }
        sl_view_device *rows = &d->plain_views[l], *v = &d->views[l];
        rows->k_pool = a + p->plain[KEYS];
        rows->v_pool = a + p->plain[VALUES];
        v->k_pool = b != NULL ? b + p->codes[KEYS] : rows->k_pool;
        v->v_pool = b != NULL ? b + p->codes[VALUES] : rows->v_pool;
        if (b == NULL)
            continue;
        v->k_scale = b + p->scales[KEYS], v->k_zero = b + p->minima[KEYS];
        v->v_scale = b + p->scales[VALUES], v->v_zero = b + p->minima[VALUES];
    }
    return 1;
}

sl_status kivi_device_pools(sl_instance *self, sl_error *err) {
    kivi_device *d = self->device;
    if (d->ready)
        return SL_OK;
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    SL_TRY(d->exec->device_info(d->lane, &info));
    int64_t spare = info.memory / 32 + ((int64_t)64 << 20); /* graphs, libraries and others' needs */
    int64_t room = info.memory_free > spare ? info.memory_free - spare : 0, seqs = self->limits.max_seqs;
    if (self->limits.kv_bytes > 0 && room > self->limits.kv_bytes)
        room = self->limits.kv_bytes;
    int64_t tail = d->tail_pages < d->max_pages ? d->tail_pages : d->max_pages,
            plain = seqs * (d->coded_page > 0 && self->chunked ? tail : d->max_pages),
            coded = d->coded_page > 0 ? seqs * (self->limits.max_context / self->G) : 0;
    if (d->coded_page > 0 && self->prompt_rows > 0) { /* tails of all, and prompts in their turn */
        int64_t some = seqs * tail + kivi_parts(self->prompt_rows, self->G);
        plain = plain < some ? plain : some;
    }
    int64_t least = kivi_parts(self->limits.max_rows + self->limits.max_tree, self->G) + 1;
    least = least < tail ? tail : least;
    least = least < d->max_pages ? least : d->max_pages;
    int64_t least_coded = coded < least ? coded : least;
    /* where not everything fits, both kinds get alike; and less than what seemed free may be had: a cap, fragments */
    for (int had = 0; !had && plain >= least && coded >= least_coded;) {
        had = plain * d->plain_page + coded * d->coded_page <= room && take_pools(self, plain, coded);
        if (!had && coded * d->coded_page > plain * d->plain_page)
            coded -= coded / 16 + 1;
        else if (!had)
            plain -= plain / 16 + 1;
        d->ready = had;
    }
    if (!d->ready)
        return sl_fail(
            err, SL_E_NO_MEMORY,
            "kivi: the cache needs %lld pages of %lld bytes for plain rows and %lld of %lld bytes for coded "
            "ones at least; %lld bytes of the device are free, engine.kv_memory_mb allows %lld bytes (0: all)",
            (long long)least, (long long)d->plain_page, (long long)least_coded, (long long)d->coded_page,
            (long long)info.memory_free, (long long)self->limits.kv_bytes);
    if (sl_blocks_init_fixed(&d->plain, d->plain_page, plain) < 0 ||
        sl_blocks_init_fixed(&d->coded, d->coded_page, coded) < 0) {
        sl_blocks_finish(&d->plain);
        release_pools(self);
        d->ready = 0;
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: no memory for the books of %lld pages", (long long)(plain + coded));
    }
    return SL_OK;
}

/* ---- coding --------------------------------------------------------------------------------------------------------
 */

static sl_status send_tables(kivi_device *d, int32_t seq, sl_error *err) {
    const kivi_device_seq *s = &d->seqs[seq];
    SL_TRY(sl_page_tables_send(&d->plain_tables, &d->words, seq, s->plain.id, s->plain.end, err));
    return sl_page_tables_send(&d->coded_tables, &d->words, seq, s->coded.id, s->coded.end, err);
}

/* Jobs [first, first + n): as four arrays. */
static sl_status queue_jobs(sl_instance *self, int64_t first, int64_t n, sl_error *err) {
    kivi_device *d = self->device;
    int32_t *words;
    SL_TRY(sl_lane_words_take(&d->words, 4 * n, &words, err));
    for (int64_t i = 0; i < n; i++) {
        const kivi_job *j = &d->noted[first + i];
        words[i] = j->seq, words[n + i] = j->begin, words[2 * n + i] = j->end, words[3 * n + i] = j->side;
    }
    sl_op_quantise op = {.struct_size = SL_SIZE(sl_op_quantise),
                         .lane = d->lane,
                         .layers = d->ptrs,
                         .seq = d->jobs,
                         .begin = d->jobs + n,
                         .end = d->jobs + 2 * n,
                         .side = d->jobs + 3 * n,
                         .n_layers = self->n_layers,
                         .n_jobs = (int32_t)n};
    sl_status s = d->exec->copy(d->lane, d->jobs, words, 4 * n * (int64_t)sizeof *words);
    if (s >= 0)
        s = self->ops->quantise(self->host, &op);
    return s < 0 ? sl_fail(err, s, "kivi: rows could not be coded: %s", sl_status_text(s)) : SL_OK;
}

sl_status kivi_device_drain(sl_instance *self, sl_error *err) {
    kivi_device *d = self->device;
    for (int64_t i = 0; i < d->n_noted; i++)
        if (i == 0 || d->noted[i].seq != d->noted[i - 1].seq)
            SL_TRY(send_tables(d, d->noted[i].seq, err));
    for (int64_t i = 0, n; i < d->n_noted; i += n) {
        n = d->n_noted - i < KIVI_MAX_JOBS ? d->n_noted - i : KIVI_MAX_JOBS;
        SL_TRY(queue_jobs(self, i, n, err));
    }
    d->n_noted = 0;
    if (d->coded_begin < d->coded_end) {
        int32_t n = 2 * (d->coded_end - d->coded_begin), *words;
        SL_TRY(sl_lane_words_take(&d->words, n, &words, err));
        for (int32_t i = 0; i < n; i++)
            words[i] = (int32_t)d->seqs[d->coded_begin + i / 2].n_coded[i % 2];
        sl_status s = d->exec->copy(d->lane, d->n_coded + 2 * d->coded_begin, words, n * (int64_t)sizeof *words);
        if (s < 0)
            return sl_fail(err, s, "kivi: what is coded could not be told to the device");
    }
    d->coded_begin = d->coded_end = 0;
    return SL_OK;
}

/* ---- a step --------------------------------------------------------------------------------------------------------
 */

sl_status kivi_device_reserve(sl_instance *self, const sl_batch *batch, sl_error *err) {
    kivi_device *d = self->device;
    d->all_plain = 1;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        const kivi_device_seq *s = &d->seqs[batch->seq[i]];
        if (!s->is_open || batch->n_past[i] != s->n_tokens)
            return sl_fail(err, SL_E_STATE, "kivi: sequence %d has no place for rows behind %lld", batch->seq[i],
                           (long long)batch->n_past[i]);
        if (batch->stage[i] != SL_STAGE_PREFILL)
            kivi_device_flush(self, batch->seq[i]);
        d->all_plain &= s->n_coded[KEYS] == 0;
    }
    SL_TRY(kivi_device_drain(self, err));
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        int64_t n = batch->n_past[i] + batch->row_begin[i + 1] - batch->row_begin[i];
        sl_status status = kivi_device_cover(self, batch->seq[i], batch->n_past[i], n, err);
        if (status < 0) {
            while (i-- > 0)
                kivi_device_uncover(self, batch->seq[i]);
            return status;
        }
    }
    for (int32_t i = 0; i < batch->n_seqs; i++)
        SL_TRY(send_tables(d, batch->seq[i], err));
    return SL_OK;
}

sl_status kivi_device_append(sl_instance *self, const sl_kv_append *args) {
    return args->overwrite
               ? SL_E_UNIMPLEMENTED
               : sl_lane_append(self->host, self->ops, self->model, args, &self->device->plain_views[args->layer]);
}

sl_status kivi_device_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rowset *tokens,
                           const sl_view **out) {
    kivi_device *d = self->device;
    /* a graph is replayed when more is coded */
    const sl_view_device *v = d->all_plain && !lane->capturing ? &d->plain_views[layer] : &d->views[layer];
    if (tokens != NULL) {
        SL_TRY(sl_lane_list(&d->listed, v, tokens));
        v = &d->listed;
    }
    d->view = (sl_view){.struct_size = SL_SIZE(sl_view),
                        .kinds = v->k_bits > 0 ? SL_SEGMENT_QROWS | SL_SEGMENT_ROWS : SL_SEGMENT_ROWS,
                        .device = v};
    *out = &d->view;
    return SL_OK;
}

/* Accepted rows, which are plain, move down to the front of the staged ones. */
sl_status kivi_device_commit(sl_instance *self, const sl_commit *c, sl_error *err) {
    kivi_device *d = self->device;
    SL_TRY(sl_lane_close_ranks(&d->words, self->ops, d->plain_ptrs, self->n_layers, d->moves, self->limits.max_rows, c,
                               err));
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        d->seqs[c->batch->seq[i]].n_tokens += c->path_begin[i + 1] - c->path_begin[i];
    return SL_OK;
}
