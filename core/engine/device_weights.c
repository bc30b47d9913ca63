/* Weights on their way to the device: streamed through a pinned ring, the linears of a group one behind the other. */
#include "device_network.h"

#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "model_info.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum { SLOT_BYTES = 32 << 20 };

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void *sli_device_take(sli_device_network *d, int64_t bytes, uint32_t tag) {
    if (d->n_owned == d->cap_owned) {
        int32_t cap = d->cap_owned > 0 ? 2 * d->cap_owned : 64;
        void **wider = sli_realloc(SLI_TAG_MISC, d->owned, sizeof *d->owned * (size_t)cap);
        if (wider == NULL)
            return NULL;
        d->owned = wider;
        d->cap_owned = cap;
    }
    void *p = d->device->api->alloc(d->device->cuda, SL_DEVICE_CUDA, bytes > 0 ? bytes : 256, 256, tag);
    if (p != NULL)
        d->owned[d->n_owned++] = p;
    return p;
}

static sl_status no_room(const char *what, int64_t bytes, sl_error *err) {
    return sl_fail(err, SL_E_NO_MEMORY, "%s: no device memory for %" PRId64 " bytes of weights", what, bytes);
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

/* While weights are loaded nothing is computed: the compute lane carries every other slot. */
static const sl_lane *lane_of(const sli_device_network *d, int turn) {
    return turn == 0 || d->device->copy_lane == NULL ? d->lane : d->device->copy_lane;
}

static sl_status make_ring(sli_device_network *d) {
    for (int i = 0; i < 2; i++) {
        d->ring.slot[i] =
            d->device->api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, SLOT_BYTES, 4096, SL_MEM_SCRATCH);
        if (d->ring.slot[i] == NULL)
            return SL_E_NO_MEMORY;
    }
    return SL_OK;
}

/* The bytes are in a slot, or on the device, when this returns: src may go. */
sl_status sli_device_send(sli_device_network *d, void *dst, const void *src, int64_t bytes) {
    sli_device_ring *r = &d->ring;
    if (r->slot[1] == NULL)
        SL_TRY(make_ring(d));
    for (int64_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < SLOT_BYTES ? bytes - done : SLOT_BYTES;
        r->turn = !r->turn;
        if (r->in_flight[r->turn])
            SL_TRY(d->exec->sync(lane_of(d, r->turn), NULL));
        memcpy(r->slot[r->turn], (const char *)src + done, (size_t)n);
        r->in_flight[r->turn] = 1;
        SL_TRY(d->exec->copy(lane_of(d, r->turn), (char *)dst + done, r->slot[r->turn], n));
    }
    return SL_OK;
}

sl_status sli_device_send_end(sli_device_network *d, sl_error *err) {
    sl_status status = d->exec->sync(d->lane, err);
    if (status >= 0)
        status = d->exec->sync(lane_of(d, 1), err);
    d->device->api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->ring.slot[0]);
    d->device->api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->ring.slot[1]);
    d->ring = (sli_device_ring){{NULL, NULL}, {0, 0}, 0};
    return status;
}

static sl_status sent(sl_status status, const char *what, sl_error *err) {
    return status < 0 ? sl_fail(err, status, "%s: sending it to the device: %s", what, sl_status_text(status)) : SL_OK;
}

/* ---- vectors, embedding, rotary tables --------------------------------------------------------------------------- */

sl_status sli_device_vector(sli_network *net, sl_tensor *t, sl_error *err) {
    if (t->data == NULL)
        return SL_OK;
    int64_t bytes = 4 * t->shape[0];
    void *host = t->data, *p = sli_device_take(net->device, bytes, SL_MEM_WEIGHTS);
    sl_status status = p != NULL ? sent(sli_device_send(net->device, p, host, bytes), "a norm or bias", err)
                                 : no_room("a norm or bias", bytes, err);
    sli_free(host);
    t->data = NULL;
    if (status >= 0)
        status = sl_tensor_make(t, p, SL_F32, SL_DEVICE_CUDA, 1, (int64_t[]){t->shape[0]});
    return status;
}

/* Rows of w with zeros behind them, `in` elements each. */
static sl_status place_widened(sli_network *net, const sl_tensor *w, int64_t in, void *dst, const char *name,
                               sl_error *err) {
    int64_t element = sl_dtype_bits(w->dtype) / 8, row = w->shape[1] * element, bytes = w->shape[0] * in * element;
    char *wide = sli_alloc(SLI_TAG_SCRATCH, (size_t)bytes);
    if (wide == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to widen its rows", name);
    for (int64_t i = 0; i < w->shape[0]; i++)
        memcpy(wide + i * in * element, (const char *)w->data + i * row, (size_t)row);
    sl_status status = sent(sli_device_send(net->device, dst, wide, bytes), name, err);
    sli_free(wide);
    return status;
}

/* The matrix to device memory, by copying or by making it up. */
static sl_status place_matrix(sli_network *net, const sl_tensor *w, void *dst, const char *name, sl_error *err) {
    const sli_device *device = net->device->device;
    int64_t bytes, n = w->shape[0] * w->shape[1];
    uint64_t seed;
    float amplitude;
    SL_TRY(sl_tensor_bytes(w, &bytes));
    if (sli_model_random(net->model, w, &seed, &amplitude))
        return sent(device->api->random(device->cuda, dst, w->dtype, n, seed, amplitude), name, err);
    if (w->data == NULL)
        return sl_fail(err, SL_E_INVALID, "%s is packed already: only a checkpoint of plain weights can be sent", name);
    return sent(sli_device_send(net->device, dst, w->data, bytes), name, err);
}

sl_status sli_device_embed(sli_network *net, sl_error *err) {
    int64_t bytes;
    SL_TRY(sl_tensor_bytes(&net->embed, &bytes));
    void *p = sli_device_take(net->device, bytes, SL_MEM_WEIGHTS);
    if (p == NULL)
        return no_room("the embedding", bytes, err);
    SL_TRY(place_matrix(net, &net->embed, p, sli_model_weight_name(net->model, -1, SLI_ROLE_EMBED), err));
    net->embed.data = p;
    net->embed.device = SL_DEVICE_CUDA;
    net->embed.align = 256;
    return SL_OK;
}

sl_status sli_device_ropes(sli_network *net, sl_error *err) {
    for (int32_t t = 0; t < net->info->n_ropes; t++) {
        const sl_rope *r = net->info->ropes[t];
        int64_t bytes = 4 * r->n_positions * (r->dims / 2);
        float *cosines = sli_device_take(net->device, bytes, SL_MEM_WEIGHTS);
        float *sines = sli_device_take(net->device, bytes, SL_MEM_WEIGHTS);
        if (cosines == NULL || sines == NULL)
            return no_room("rotary tables", 2 * bytes, err);
        SL_TRY(sent(sli_device_send(net->device, cosines, r->cos, bytes), "rotary tables", err));
        SL_TRY(sent(sli_device_send(net->device, sines, r->sin, bytes), "rotary tables", err));
        sli_model_info_rope_device(net->info, t, cosines, sines);
    }
    return SL_OK;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

/* Biases of all linears of the group as one vector, zero where a linear has none. */
static sl_status join_biases(sli_network *net, sli_group *g, sl_error *err) {
    int64_t total = 0, at = 0;
    int any = 0;
    for (int32_t i = 0; i < g->desc.n; i++) {
        total += g->linear[i].weight.shape[0];
        any |= g->bias[i].data != NULL;
    }
    if (!any)
        return SL_OK;
    float *all = sli_calloc(SLI_TAG_WEIGHTS, (size_t)total, sizeof *all);
    if (all == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for biases", g->linear[0].name);
    for (int32_t i = 0; i < g->desc.n; at += g->linear[i++].weight.shape[0]) {
        if (g->bias[i].data != NULL)
            memcpy(all + at, g->bias[i].data, sizeof *all * (size_t)g->bias[i].shape[0]);
        sli_free(g->bias[i].data);
        g->bias[i].data = NULL;
    }
    sl_tensor_make(&g->bias_all, all, SL_F32, SL_DEVICE_CPU, 1, &total);
    SL_TRY(sli_device_vector(net, &g->bias_all, err));
    at = 0;
    for (int32_t i = 0; i < g->desc.n; at += g->linear[i++].weight.shape[0])
        if (g->linear[i].bias != NULL)
            SL_TRY(sl_tensor_make(&g->bias[i], (float *)g->bias_all.data + at, SL_F32, SL_DEVICE_CUDA, 1,
                                  g->linear[i].weight.shape));
    return SL_OK;
}

/* The weights stay as they are: one matrix [sum of out, in] where their dtypes agree. A tied head is the embedding. */
static sl_status place_group(sli_network *net, sli_group *g, sl_error *err) {
    uint64_t seed;
    float amplitude;
    const sl_tensor *embed = sli_model_weight(net->model, -1, SLI_ROLE_EMBED);
    if (strcmp(g->desc.name, "head") == 0 && g->source[0].data == embed->data && net->info->tied) {
        g->linear[0].weight = net->embed;
        return SL_OK;
    }
    int64_t total = 0, in = sli_device_width(g->desc.in);
    for (int32_t i = 0; i < g->desc.n; i++)
        total += g->source[i].shape[0] * in * (sl_dtype_bits(g->source[i].dtype) / 8);
    char *p = sli_device_take(net->device, total, SL_MEM_WEIGHTS);
    if (p == NULL)
        return no_room(g->linear[0].name, total, err);
    for (int32_t i = 0; i < g->desc.n; i++) {
        sl_tensor *w = &g->linear[i].weight;
        if (in != g->desc.in && g->source[i].data != NULL &&
            !sli_model_random(net->model, &g->source[i], &seed, &amplitude))
            SL_TRY(place_widened(net, &g->source[i], in, p, g->linear[i].name, err));
        else if (in == g->desc.in)
            SL_TRY(place_matrix(net, &g->source[i], p, g->linear[i].name, err));
        else
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "%s: %" PRId64 " inputs are no multiple of 8, as random weights on a device need",
                           g->linear[i].name, g->desc.in);
        SL_TRY(sl_tensor_make(w, p, w->dtype, SL_DEVICE_CUDA, 2, (int64_t[]){w->shape[0], in}));
        p += w->shape[0] * in * (sl_dtype_bits(w->dtype) / 8);
    }
    return SL_OK;
}

typedef struct made_up {
    char *data;
    sl_dtype dtype;
    uint64_t seed;
    float amplitude;
} made_up;

static void make_up_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const made_up *m = user;
    (void)worker;
    sli_random_values(m->data + begin * (sl_dtype_bits(m->dtype) / 8), m->dtype, begin, end - begin, m->seed,
                      m->amplitude);
}

/* Random weights for somebody who packs: the values that the device would make. */
static sl_status make_up(const sli_network *net, sli_group *g, int32_t i, sl_error *err) {
    sl_tensor *w = &g->linear[i].weight;
    uint64_t seed;
    float amplitude;
    if (!sli_model_random(net->model, &g->source[i], &seed, &amplitude))
        return SL_OK;
    int64_t n = w->shape[0] * w->shape[1], bytes;
    SL_TRY(sl_tensor_bytes(w, &bytes));
    w->data = g->rewritten[i] = sli_alloc(SLI_TAG_WEIGHTS, (size_t)bytes);
    w->device = SL_DEVICE_CPU;
    if (w->data == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %" PRId64 " random values", g->linear[i].name, n);
    made_up m = {w->data, w->dtype, seed, amplitude};
    const sl_threads *threads = net->host->query(net->host, SL_THREADS_ID);
    threads->parallel_for(net->host, n, 1 << 16, make_up_range, &m);
    return SL_OK;
}

/* Packed on the host, sent as one blob. */
static sl_status send_packed(sli_network *net, sli_group *g, int64_t bytes, void **blob, sl_error *err) {
    void *host = sli_alloc(SLI_TAG_WEIGHTS, (size_t)bytes);
    *blob = sli_device_take(net->device, bytes, SL_MEM_WEIGHTS);
    sl_status status = host != NULL && *blob != NULL ? SL_OK : no_room(g->linear[0].name, bytes, err);
    for (int32_t i = 0; status >= 0 && i < g->desc.n; i++)
        status = make_up(net, g, i, err);
    if (status >= 0)
        status = g->quantizer->api->pack_into(g->quantizer->self, &g->desc, host, err);
    if (status >= 0)
        status = sent(sli_device_send(net->device, *blob, host, bytes), g->linear[0].name, err);
    sli_free(host);
    for (int32_t i = 0; i < g->desc.n; i++) {
        if (g->rewritten[i] != NULL)
            g->linear[i].weight.data = NULL; /* the blob stands for it */
        sli_free(g->rewritten[i]);
        g->rewritten[i] = NULL;
    }
    return status;
}

static sl_status check_claim(const sli_network *net, const sli_group *g, sl_error *err) {
    const char *name = g->linear[0].name;
    if (g->claim.x_dtype != SL_BF16 || (g->claim.flags & SL_QUANT_FUSES_NORM))
        return sl_fail(
            err, SL_E_UNIMPLEMENTED, "%s: on a device this engine gives normed bf16 inputs, the quantiser wants %s%s",
            name, g->claim.flags & SL_QUANT_FUSES_NORM ? "residual rows in " : "", sl_dtype_name(g->claim.x_dtype));
    if (g->claim.max_rows > 0 && g->claim.max_rows < net->limits.max_rows)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "%s: the quantiser multiplies %" PRId64 " rows at once, engine.max_rows = %" PRId64
                       " on a device must not be more",
                       name, g->claim.max_rows, net->limits.max_rows);
    if (g->claim.flags & SL_QUANT_OWNS_FFN)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: blocks of a quantiser's own are not served on the device yet",
                       name);
    return SL_OK;
}

sl_status sli_device_pack(sli_network *net, sli_group *g, sl_error *err) {
    const sl_quant *api = g->quantizer->api;
    sl_instance *self = g->quantizer->self;
    uint64_t seed;
    float amplitude;
    for (int32_t i = 0; i < g->desc.n; i++)
        if (sli_model_random(net->model, &g->source[i], &seed, &amplitude))
            g->linear[i].weight.device = SL_DEVICE_CUDA; /* where its values will be made */
    g->claim = (sl_quant_claim){.struct_size = SL_SIZE(sl_quant_claim)};
    SL_TRY(api->claim(self, &g->desc, &g->claim, err));
    SL_TRY(check_claim(net, g, err));
    SL_TRY(join_biases(net, g, err));
    int64_t bytes = 0;
    void *blob = NULL;
    SL_TRY(api->pack_size(self, &g->desc, &bytes, err));
    SL_TRY(bytes > 0 ? send_packed(net, g, bytes, &blob, err) : place_group(net, g, err));
    return api->bind(self, &g->desc, blob, &g->handle, err);
}
