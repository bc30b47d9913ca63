/* See kivi_device.h: rows from and to dense buffers of the host, a page at a time. Codes leave as the values that they
 * mean; rows come back plain. */
#include "kivi_device.h"

#include <stdlib.h>

#include "sl_minmax.h"
#include "sl_tensor.h"

/* One layer of a page on the host. */
typedef struct image {
    char *plain, *coded;
} image;

static sl_status move_bytes(const sl_instance *self, void *to, const void *from, int64_t bytes, sl_error *err) {
    const kivi_device *d = self->device;
    sl_status s = d->exec->copy(d->lane, to, from, bytes);
    return s < 0 ? sl_fail(err, s, "kivi: a page could not be copied") : d->exec->sync(d->lane, err);
}

/* One head of a row as floats. */
static void read_row(const sl_instance *self, int32_t layer, const image *m, int side, int is_coded, int64_t r,
                     int64_t h, float *out) {
    const kivi_place *p = &self->device->places[layer];
    int64_t K = self->layers[layer].n_heads, D = self->layers[layer].shape->d[side], G = self->G,
            element = sl_dtype_bits(self->dtype) / 8;
    if (!is_coded) {
        self->ops->convert(out, SL_F32, m->plain + p->plain[side] + (r * K + h) * D * element, self->dtype, D);
        return;
    }
    int64_t scales = side == KEYS ? h * D : (r * K + h) * (D / G);
    sl_minmax_values((const uint8_t *)m->coded + p->codes[side] + (r * K + h) * D * self->bits[side] / 8,
                     (const uint16_t *)(const void *)(m->coded + p->scales[side]) + scales,
                     (const uint16_t *)(const void *)(m->coded + p->minima[side]) + scales, D, side == KEYS ? 1 : G,
                     self->bits[side], out);
}

/* Rows [begin, end) of page i. */
static sl_status copy_page_rows(sl_instance *self, const kivi_device_seq *s, const sl_kv_copy *c, const image *m,
                                int64_t i, int64_t begin, int64_t end, sl_error *err) {
    const kivi_device *d = self->device;
    const kivi_layer *y = &self->layers[c->layer];
    const kivi_place *p = &d->places[c->layer];
    int64_t K = y->n_heads, n = c->end - c->begin, element = sl_dtype_bits(c->dtype) / 8,
            own = sl_dtype_bits(self->dtype) / 8;
    int is_import = c->direction == SL_COPY_IMPORT, has_plain = i >= s->plain.begin && i < s->plain.end;
    char *pool = has_plain ? d->plain_pools[c->layer] + s->plain.id[i] * p->plain_bytes : NULL, *to = c->buffer;
    if (has_plain)
        SL_TRY(move_bytes(self, m->plain, pool, p->plain_bytes, err));
    if (i < s->coded.end)
        SL_TRY(move_bytes(self, m->coded, d->coded_pools[c->layer] + s->coded.id[i] * p->coded_bytes, p->coded_bytes,
                          err));
    for (int side = KEYS; side <= VALUES; to += n * K * y->shape->d[side++] * element)
        for (int64_t r = begin; r < end; r++)
            for (int64_t h = 0; h < K; h++) {
                int64_t slot = i * self->G + r, D = y->shape->d[side];
                char *dense = to + ((slot - c->begin) * K + h) * D * element;
                if (is_import) {
                    SL_TRY(self->ops->convert(m->plain + p->plain[side] + (r * K + h) * D * own, self->dtype, dense,
                                              c->dtype, D));
                    continue;
                }
                read_row(self, c->layer, m, side, slot < s->n_coded[side], r, h, self->rows);
                SL_TRY(self->ops->convert(dense, c->dtype, self->rows, SL_F32, D));
            }
    return is_import ? move_bytes(self, pool, m->plain, p->plain_bytes, err) : SL_OK;
}

sl_status kivi_device_copy_rows(sl_instance *self, const sl_kv_copy *c, sl_error *err) {
    kivi_device *d = self->device;
    if (c->layer < 0 || c->layer >= self->n_layers || c->seq < 0 || c->seq >= self->limits.max_seqs ||
        !d->seqs[c->seq].is_open)
        return sl_fail(err, SL_E_RANGE, "kivi: no layer %d or sequence %d", c->layer, c->seq);
    kivi_device_seq *s = &d->seqs[c->seq];
    const kivi_layer *y = &self->layers[c->layer];
    int64_t n = c->end - c->begin, G = self->G, have = s->n_tokens;
    int64_t row = y->n_heads * (y->shape->d[KEYS] + y->shape->d[VALUES]) * (sl_dtype_bits(c->dtype) / 8);
    int is_import = c->direction == SL_COPY_IMPORT;
    if (c->begin < 0 || n < 0 || c->begin > have || (is_import ? c->end < have : c->end > have) || c->bytes < n * row ||
        (is_import && c->begin < s->n_coded[KEYS] && !kivi_device_may_cut(self, s, c->begin)))
        return sl_fail(err, SL_E_RANGE,
                       "kivi: rows [%lld, %lld) of the %lld of sequence %d cannot be %s through %lld bytes",
                       (long long)c->begin, (long long)c->end, (long long)have, c->seq,
                       is_import ? "replaced" : "copied", (long long)c->bytes);
    SL_TRY(kivi_device_drain(self, err));
    if (is_import) {
        if (c->begin < s->n_coded[KEYS]) /* else rows are replaced where they are: layers come one after the other */
            kivi_device_cut(self, c->seq, c->begin);
        SL_TRY(kivi_device_cover(self, c->seq, c->begin, c->end, err));
    }
    image m = {malloc((size_t)d->places[c->layer].plain_bytes + 1),
               malloc((size_t)d->places[c->layer].coded_bytes + 1)};
    sl_status status = m.plain != NULL && m.coded != NULL
                           ? SL_OK
                           : sl_fail(err, SL_E_NO_MEMORY, "kivi: no memory to copy %lld rows", (long long)n);
    for (int64_t slot = c->begin; status >= 0 && slot < c->end; slot = (slot / G + 1) * G) {
        int64_t end = (slot / G + 1) * G < c->end ? (slot / G + 1) * G : c->end;
        status = copy_page_rows(self, s, c, &m, slot / G, slot % G, end - slot / G * G, err);
    }
    free(m.plain);
    free(m.coded);
    if (status >= 0 && is_import)
        s->n_tokens = c->end;
    return status;
}
