/* Attention: the host's kernel with two rules, one for the query groups of retrieval heads and one for those of
 * streaming heads.
 *
 * Query i of a streaming head sees j < sink, and j >= from:
 *   decoding, draft trees, window = exact    from = i - recent
 *   a prompt, window = chunk                 from = begin of its chunk - recent
 * The rule speaks token indices, hence it does not matter which store keeps the rows: over duoattention's own the
 * others are gone, over a store that keeps everything they are passed over. */
#include "duo_device.h"

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    const duo_layer *l = &self->layers[layer];
    out->flags = SL_ATTN_TREE | (self->on_device ? 0 : SL_ATTN_COLSUM);
    if (l->n_streaming == 0)
        out->flags |= SL_ATTN_EXACT;
    else if (self->window == DUO_WINDOW_CHUNK && self->prefill_chunk == 0)
        out->flags |= SL_ATTN_CHUNKED;
    if (l->n_streaming > 0 && self->window == DUO_WINDOW_CHUNK)
        out->chunk_align = self->prefill_chunk;
    out->segment_kinds = SL_SEGMENT_ROWS;
    out->key_states = 1u << SL_KEYS_ROTATED;
    return SL_OK;
}

/* First token behind the sinks that row r sees on a streaming head. Chunks are the engine's, or end at multiples of
 * prefill_chunk: then the engine's end there too, but one of them may be several of ours. */
static int64_t first_seen(const sl_instance *self, const sl_batch *b, int32_t at, int32_t r) {
    int64_t i = b->token_index[r], begin = b->n_past[at], size = self->prefill_chunk;
    int exact = b->stage[at] != SL_STAGE_PREFILL || self->window == DUO_WINDOW_EXACT;
    if (!exact && size > 0)
        begin = duo_max(begin, i - i % size);
    if (begin == 0 && self->first_chunk == DUO_FIRST_STREAMING)
        exact = 1;
    return (exact ? i : begin) - self->recent;
}

/* Fills the intervals of the active rows; returns whether they hide anything. */
static int restrict_rows(sl_instance *self, const sl_rows *rows) {
    const sl_batch *b = rows->batch;
    int hides = 0;
    for (int32_t k = 0; k < rows->n; k++) {
        int32_t r = rows->index != NULL ? rows->index[k] : k, at = b->row_seq[r];
        int64_t *interval = self->interval + 4 * (int64_t)r;
        if (at < 0)
            continue;
        int64_t i = b->token_index[r], from = first_seen(self, b, at, r);
        hides |= from > self->sink;
        interval[0] = 0, interval[1] = self->sink;
        interval[2] = duo_max(from, self->sink), interval[3] = i + 1;
    }
    return hides;
}

static sl_status attend(sl_instance *self, const sl_attend *args) {
    const duo_layer *l = &self->layers[args->layer];
    if (self->on_device)
        return duo_device_attend(self, args);
    if (l->n_streaming == 0)
        return self->ops->attend(self->host, args);
    if (args->mask->interval != NULL || args->mask->n_spans > 0 || args->mask->base != SL_MASK_CAUSAL ||
        args->head_masks != NULL)
        return SL_E_UNIMPLEMENTED;
    if (!restrict_rows(self, args->rows))
        return self->ops->attend(self->host, args);
    sl_mask streaming = *args->mask;
    streaming.interval = self->interval;
    for (int32_t h = 0; h < l->n_heads; h++)
        self->head_masks[h] = l->streams[h] ? &streaming : args->mask;
    sl_attend both = *args;
    both.head_masks = self->head_masks;
    return self->ops->attend(self->host, &both);
}

const sl_attention duo_attention = {.struct_size = SL_SIZE(sl_attention), .caps = caps, .attend = attend};
