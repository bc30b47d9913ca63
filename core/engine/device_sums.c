/* See device_sums.h. */
#include "device_network.h"

#include <inttypes.h>

#include "base/ledger.h"
#include "sl_error.h"
#include "sums.h"

enum { ROOM = 16 << 20 }; /* floats of pinned memory, if a layer needs no more and all layers as much */

static int64_t longest(const sli_network *net) { return (net->limits.max_context + SL_MAX_TREE_NODES + 63) / 64 * 64; }

sl_status sli_device_sums_create(sli_network *net, sl_error *err) {
    sli_device_network *d = net->device;
    const sli_cuda_api *api = d->device->api;
    sli_device_sums *s = &d->sums;
    int64_t heads = 0, all = 0;
    SL_TRY(sli_sums_check_device(net, err));
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        heads = net->layers[l].sum_heads > heads ? net->layers[l].sum_heads : heads;
        all += net->layers[l].sum_heads;
    }
    int64_t layer = net->limits.max_seqs * heads * longest(net);
    s->room = net->limits.max_seqs * all * longest(net);
    s->room = s->room < ROOM ? s->room : layer > ROOM ? layer : ROOM;
    s->waiting = sli_calloc(SLI_TAG_SCRATCH, (size_t)net->info->n_layers, sizeof *s->waiting);
    s->colsum = sli_device_take(d, 4 * layer, SL_MEM_SCRATCH);
    s->weight = sli_device_take(d, 4 * net->limits.max_rows, SL_MEM_SCRATCH);
    s->host = api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, 4 * s->room, 256, SL_MEM_SCRATCH);
    s->host_weight = api->alloc(d->device->cuda, SL_DEVICE_HOST_PINNED, 4 * net->limits.max_rows, 256, SL_MEM_SCRATCH);
    return s->waiting != NULL && s->colsum != NULL && s->weight != NULL && s->host != NULL && s->host_weight != NULL
               ? SL_OK
               : sl_fail(err, SL_E_NO_MEMORY, "no device memory for column sums of %" PRId64 " bytes a layer",
                         4 * layer);
}

void sli_device_sums_destroy(sli_device_network *d) {
    const sli_cuda_api *api = d->device->api;
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->sums.host);
    api->release(d->device->cuda, SL_DEVICE_HOST_PINNED, d->sums.host_weight);
    sli_free(d->sums.waiting);
    d->sums = (sli_device_sums){0};
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

static int wanted(const sli_network *net, const sli_pass *pass, int32_t row) {
    for (int32_t l = 0; l < net->info->n_layers; l++)
        if (net->layers[l].sum_heads > 0) /* all layers want the same rows */
            return sli_sums_want(net, pass, l, row);
    return 0;
}

sl_status sli_device_sums_begin(sli_network *net, const sli_pass *pass, const sli_step_bounds *bounds, sl_error *err) {
    sli_device_network *d = net->device;
    sli_device_sums *s = &d->sums;
    const sl_batch *b = pass->batch;
    int32_t last = -1;
    s->counting = 0;
    if (s->colsum == NULL || pass->n_prompt == NULL)
        return SL_OK;
    for (int32_t i = 0; i < b->n_rows;
         i++) { /* the last step that counted was waited for: nobody reads this any more */
        int is_wanted = wanted(net, pass, i);
        s->host_weight[i] = is_wanted ? 1.0f : 0.0f;
        if (!is_wanted)
            continue;
        if (!s->counting)
            s->first = b->row_seq[i];
        s->counting = 1;
        last = b->row_seq[i];
    }
    if (!s->counting)
        return SL_OK;
    s->pass = pass;
    s->n_seqs = last + 1 - s->first;
    s->stride = (bounds->context + 63) / 64 * 64;
    s->used = s->n_waiting = 0;
    sl_status status = d->exec->copy(d->lane, s->weight, s->host_weight, 4 * (int64_t)b->n_rows);
    return status < 0 ? sl_fail(err, status, "sending rows that policies want: %s", sl_status_text(status)) : SL_OK;
}

void sli_device_sums_ask(const sli_network *net, sl_attend *args) {
    const sli_device_sums *s = &net->device->sums;
    if (!s->counting)
        return;
    args->want |= SL_WANT_COLSUM;
    args->colsum = s->colsum;
    args->colsum_weight = s->weight;
    args->colsum_heads = net->layers[args->layer].sum_heads;
    args->score_stride = s->stride;
}

static void take(sli_network *net) {
    sli_device_sums *s = &net->device->sums;
    const float *from = s->host;
    for (int32_t i = 0; i < s->n_waiting; i++)
        for (int32_t at = s->first; at < s->first + s->n_seqs; at++) {
            sli_sums_add(net, s->pass, at, s->waiting[i], from, s->stride);
            from += net->layers[s->waiting[i]].sum_heads * s->stride;
        }
    s->used = s->n_waiting = 0;
}

sl_status sli_device_sums_fetch(sli_network *net, int32_t layer) {
    sli_device_network *d = net->device;
    sli_device_sums *s = &d->sums;
    int64_t one = net->layers[layer].sum_heads * s->stride, n = s->n_seqs * one;
    if (s->used + n > s->room) {
        SL_TRY(d->exec->sync(d->lane, NULL));
        take(net);
    }
    SL_TRY(d->exec->copy(d->lane, s->host + s->used, s->colsum + s->first * one, 4 * n));
    s->used += n;
    s->waiting[s->n_waiting++] = layer;
    return SL_OK;
}

sl_status sli_device_sums_end(sli_network *net, sl_error *err) {
    sli_device_sums *s = &net->device->sums;
    if (!s->counting)
        return SL_OK;
    SL_TRY(net->device->exec->sync(net->device->lane, err));
    take(net);
    s->counting = 0;
    s->pass = NULL;
    return SL_OK;
}
