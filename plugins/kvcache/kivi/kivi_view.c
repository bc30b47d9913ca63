/* How others see the rows: segments for attention, plain rows for export. */
#include "kivi.h"

#include <stdlib.h>
#include <string.h>

enum { POINTERS = 3 };

/* What the last view points into. A block makes one entry of each array of pointers, the one in which coded values end
 * two; segments begin where a block is not full or its form is another one. */
typedef struct kivi_tables {
    const void **pointer[2][POINTERS]; /* keys, values: codes or rows, scales, minima; [cap] */
    sl_segment *segments;              /* [cap] */
    const sl_segment **segment_ptrs;   /* [cap] */
    sl_qrows *quants;                  /* [cap, 2] */
    int64_t cap, n, n_segments;
    sl_seq_view *seqs; /* [max_seqs] */
    const sl_seq_view **seq_ptrs;
    sl_view view;
} kivi_tables;

void kivi_tables_free(sl_instance *self) {
    kivi_tables *t = self->tables;
    if (t == NULL)
        return;
    for (int i = 0; i < 2 * POINTERS; i++)
        free(t->pointer[i / POINTERS][i % POINTERS]);
    free(t->segments);
    free(t->segment_ptrs);
    free(t->quants);
    free(t->seqs);
    free(t->seq_ptrs);
    free(t);
    self->tables = NULL;
}

static int widen_table(void *array, int64_t n, size_t size) {
    void *wider = realloc(*(void **)array, (size_t)n * size);
    if (wider != NULL)
        *(void **)array = wider;
    return wider != NULL;
}

sl_status kivi_tables_grow(sl_instance *self) {
    kivi_tables *t = self->tables;
    if (t == NULL) {
        t = self->tables = calloc(1, sizeof *t);
        if (t == NULL)
            return SL_E_NO_MEMORY;
        t->seqs = calloc((size_t)self->limits.max_seqs, sizeof *t->seqs);
        t->seq_ptrs = calloc((size_t)self->limits.max_seqs, sizeof *t->seq_ptrs);
        if (t->seqs == NULL || t->seq_ptrs == NULL)
            return SL_E_NO_MEMORY;
    }
    int64_t wanted = 0;
    for (int64_t i = 0; i < self->limits.max_seqs; i++) {
        const kivi_sequence *s = &self->seqs[i];
        int64_t most = 0;
        for (int32_t k = 0; s->lists != NULL && k < self->n_lists; k++)
            most = s->lists[k].cap_blocks > most ? s->lists[k].cap_blocks : most;
        wanted += self->max_heads * (most + 2);
    }
    if (wanted <= t->cap)
        return SL_OK;
    int ok = widen_table(&t->segments, wanted, sizeof *t->segments) &&
             widen_table(&t->segment_ptrs, wanted, sizeof *t->segment_ptrs) &&
             widen_table(&t->quants, 2 * wanted, sizeof *t->quants);
    for (int i = 0; i < 2 * POINTERS; i++)
        ok = ok && widen_table(&t->pointer[i / POINTERS][i % POINTERS], wanted, sizeof(void *));
    if (!ok)
        return SL_E_NO_MEMORY;
    t->cap = wanted;
    return SL_OK;
}

/* ---- views ----------------------------------------------------------------------------------------------------- */

/* Rows [begin, end) of a block, all of one form. */
typedef struct part {
    const kivi_block *block;
    int64_t begin, end, n_committed;
    int coded[2];
} part;

static void point(const sl_instance *self, const kivi_shape *sh, kivi_tables *t, const part *p, int side) {
    static const int kinds[2][2] = {{KIVI_K, KIVI_KQ}, {KIVI_V, KIVI_VQ}};
    const kivi_block *b = p->block;
    int is_coded = p->coded[side];
    const char *base = kivi_at(sh, kinds[side][is_coded], side == KEYS ? b->k : is_coded ? b->vq : b->v);
    (void)self;
    t->pointer[side][0][t->n] = base + p->begin * (is_coded ? sh->coded_row[side] : sh->plain_row[side]);
    int64_t at = side == VALUES ? p->begin * sh->scale_row : 0;
    t->pointer[side][1][t->n] = is_coded ? base + sh->scales[side] + at : NULL;
    t->pointer[side][2][t->n] = is_coded ? base + sh->minima[side] + at : NULL;
}

static const sl_qrows *describe(const sl_instance *self, const kivi_shape *sh, kivi_tables *t, int side) {
    sl_qrows *q = &t->quants[2 * t->n_segments + side];
    *q = (sl_qrows){.struct_size = SL_SIZE(sl_qrows),
                    .scale_pages = &t->pointer[side][1][t->n],
                    .zero_pages = &t->pointer[side][2][t->n],
                    .scale_stride = side == VALUES ? sh->scale_row : 0, /* a block of keys is one group */
                    .group = (int32_t)self->G,
                    .axis = side == KEYS ? SL_QUANT_PER_CHANNEL : SL_QUANT_PER_ROW,
                    .scale_dtype = SL_F16,
                    .bits = (uint32_t)self->bits[side],
                    .zero_is_min = 1};
    return q;
}

static sl_segment *begin_segment(const sl_instance *self, const kivi_shape *sh, kivi_tables *t, const kivi_list *l,
                                 int32_t head, int64_t slot, const part *p) {
    sl_segment *s = &t->segments[t->n_segments];
    *s = (sl_segment){
        .struct_size = SL_SIZE(sl_segment),
        .k_pages = &t->pointer[KEYS][0][t->n],
        .v_pages = &t->pointer[VALUES][0][t->n],
        .token_index = l->token != NULL ? l->token + slot : NULL,
        .k_quant = p->coded[KEYS] ? describe(self, sh, t, KEYS) : NULL,
        .v_quant = p->coded[VALUES] ? describe(self, sh, t, VALUES) : NULL,
        .token_base = l->token != NULL ? 0 : slot,
        .page_rows = self->G,
        .k_row_stride = p->coded[KEYS] ? sh->coded_row[KEYS] : sh->plain_row[KEYS],
        .v_row_stride = p->coded[VALUES] ? sh->coded_row[VALUES] : sh->plain_row[VALUES],
        .head_begin = head,
        .n_heads = 1,
        .k_dtype = p->coded[KEYS] ? SL_U8 : self->dtype,
        .v_dtype = p->coded[VALUES] ? SL_U8 : self->dtype,
        .kind = p->coded[KEYS] || p->coded[VALUES] ? SL_SEGMENT_QROWS : SL_SEGMENT_ROWS,
        .key_state = SL_KEYS_ROTATED,
    };
    t->segment_ptrs[t->n_segments++] = s;
    return s;
}

/* Segments of one head. n_staged: rows of the step, behind the committed ones. Returns the rows. */
static int64_t view_list(const sl_instance *self, const kivi_shape *sh, kivi_tables *t, const kivi_list *l,
                         int32_t head, int64_t n_staged, uint32_t *kinds) {
    sl_segment *s = NULL;
    part last = {0};
    int64_t slot = 0, all = l->n + n_staged, first = t->n_segments;
    for (int64_t i = 0; i < l->n_blocks && slot < all; i++) {
        const kivi_block *b = &l->blocks[i];
        int64_t held = i < l->tail ? b->n : all - slot < self->G ? all - slot : self->G;
        for (int64_t begin = 0, end; begin < held; begin = end) {
            end = begin < b->nv ? b->nv : held;
            int64_t committed = (end < b->n ? end : b->n) - begin;
            part p = {b, begin, end, committed > 0 ? committed : 0, {b->coded, begin < b->nv}};
            if (s == NULL || begin > 0 || last.begin > 0 || last.end < self->G || last.coded[KEYS] != p.coded[KEYS] ||
                last.coded[VALUES] != p.coded[VALUES])
                s = begin_segment(self, sh, t, l, head, slot, &p);
            point(self, sh, t, &p, KEYS);
            point(self, sh, t, &p, VALUES);
            t->n++;
            s->n_committed += p.n_committed;
            s->n_staged += end - begin - p.n_committed;
            slot += end - begin;
            last = p;
        }
    }
    if (s == NULL) { /* a head without rows */
        part none = {.coded = {0, 0}};
        begin_segment(self, sh, t, l, head, 0, &none);
    }
    for (int64_t i = first; i < t->n_segments; i++)
        *kinds |= t->segments[i].kind;
    return all;
}

sl_status kivi_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows, const sl_rowset *tokens,
                    const sl_view **out) {
    (void)lane;
    const sl_batch *b = rows->batch;
    const kivi_layer *y = &self->layers[layer];
    kivi_tables *t = self->tables;
    uint32_t kinds = 0;
    t->n = t->n_segments = 0;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const kivi_sequence *s = &self->seqs[b->seq[i]];
        int64_t n_staged = b->row_begin[i + 1] - b->row_begin[i], first = t->n_segments, most = 0;
        if (tokens != NULL && s->n_edited > 0) /* a token then has another slot in each head */
            return SL_E_UNIMPLEMENTED;
        for (int32_t h = 0; h < y->n_heads; h++) {
            int64_t n = view_list(self, y->shape, t, &s->lists[y->first_list + h], h, n_staged, &kinds);
            most = n > most ? n : most;
        }
        t->seqs[i] = (sl_seq_view){SL_SIZE(sl_seq_view), t->segment_ptrs + first, most,
                                   (int32_t)(t->n_segments - first), b->seq[i]};
        t->seq_ptrs[i] = &t->seqs[i];
    }
    /* slot = token index, and n_committed + row for staged rows: row sets need no translation */
    t->view = (sl_view){
        .struct_size = SL_SIZE(sl_view), .seqs = t->seq_ptrs, .slots = tokens, .n_seqs = b->n_seqs, .kinds = kinds};
    *out = &t->view;
    return SL_OK;
}

/* ---- export and import ---------------------------------------------------------------------------------------------
 */

static sl_status export_list(const sl_instance *self, const kivi_shape *sh, const kivi_list *l, const sl_kv_copy *c,
                             char *const *to, const int64_t *row_bytes) {
    int64_t slot = 0;
    for (int64_t i = 0; i < l->n_blocks; slot += l->blocks[i++].n)
        for (int64_t r = 0; r < l->blocks[i].n; r++)
            for (int side = KEYS; slot + r >= c->begin && slot + r < c->end && side <= VALUES; side++) {
                kivi_block_read(self, sh, &l->blocks[i], side, r, self->rows);
                SL_TRY(self->ops->convert(to[side] + (slot + r - c->begin) * row_bytes[side], c->dtype, self->rows,
                                          SL_F32, sh->d[side]));
            }
    return SL_OK;
}

/* Rows go to the tail, plain; they are coded when a step's end or the next step codes. */
static sl_status import_list(sl_instance *self, kivi_shape *sh, kivi_list *l, const sl_kv_copy *c, char *const *from,
                             const int64_t *row_bytes) {
    int64_t n = c->end - c->begin;
    kivi_list_cut(self, sh, l, c->begin);
    SL_TRY(kivi_list_room(self, l, l->tail + kivi_parts(l->n - l->n_coded + n, self->G), l->n + n));
    sl_status status = kivi_list_cover(self, sh, l, n);
    float *k = self->rows, *v = self->rows + sh->d[KEYS];
    for (int64_t i = 0; status >= 0 && i < n; i++) {
        status = self->ops->convert(k, SL_F32, from[KEYS] + i * row_bytes[KEYS], c->dtype, sh->d[KEYS]);
        if (status >= 0)
            status = self->ops->convert(v, SL_F32, from[VALUES] + i * row_bytes[VALUES], c->dtype, sh->d[VALUES]);
        if (status >= 0)
            kivi_list_put(self, sh, l, i, k, v);
    }
    if (status < 0) {
        kivi_list_uncover(self, sh, l);
        return status;
    }
    for (int64_t i = 0; i < n; i++)
        l->blocks[l->tail + (l->n - l->n_coded + i) / self->G].n++;
    l->n += n;
    return SL_OK;
}

sl_status kivi_copy_rows(sl_instance *self, const sl_kv_copy *c, sl_error *err) {
    if (c->layer < 0 || c->layer >= self->n_layers || c->seq < 0 || c->seq >= self->limits.max_seqs ||
        self->seqs[c->seq].lists == NULL)
        return sl_fail(err, SL_E_RANGE, "kivi: no layer %d or sequence %d", c->layer, c->seq);
    kivi_sequence *s = &self->seqs[c->seq];
    const kivi_layer *y = &self->layers[c->layer];
    const kivi_shape *sh = y->shape;
    int64_t n = c->end - c->begin, element = c->dtype == SL_F32 ? 4 : 2, have = s->lists[y->first_list].n;
    int64_t width[2] = {y->n_heads * sh->d[KEYS] * element, y->n_heads * sh->d[VALUES] * element};
    int is_import = c->direction == SL_COPY_IMPORT;
    if (s->n_edited > 0)
        return sl_fail(err, SL_E_RANGE,
                       "kivi: rows of sequence %d were dropped by a policy; what is left is no range of tokens",
                       c->seq);
    if (c->begin < 0 || n < 0 || c->begin > have || (is_import ? c->end < have : c->end > have) ||
        c->bytes < n * (width[KEYS] + width[VALUES]))
        return sl_fail(err, SL_E_RANGE,
                       "kivi: rows [%lld, %lld) of the %lld of sequence %d cannot be %s through %lld bytes",
                       (long long)c->begin, (long long)c->end, (long long)have, c->seq,
                       is_import ? "replaced" : "copied", (long long)c->bytes);
    sl_status status = SL_OK;
    for (int32_t h = 0; status >= 0 && h < y->n_heads; h++) {
        char *at[2] = {(char *)c->buffer + h * sh->d[KEYS] * element,
                       (char *)c->buffer + n * width[KEYS] + h * sh->d[VALUES] * element};
        kivi_list *l = &s->lists[y->first_list + h];
        status = is_import ? import_list(self, y->shape, l, c, at, width) : export_list(self, sh, l, c, at, width);
    }
    if (status >= 0 && is_import) {
        s->n_tokens = c->end > s->n_tokens ? c->end : s->n_tokens;
        status = kivi_tables_grow(self);
    }
    return status < 0 ? sl_fail(err, status, "kivi: rows of layer %d of sequence %d: %s", c->layer, c->seq,
                                status == SL_E_NO_MEMORY ? "no memory" : "they cannot be converted")
                      : SL_OK;
}
