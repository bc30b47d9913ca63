/* Policies drop rows. What is left keeps its values: rows of a group of coded keys move together inside the group's
 * block, under the scales they have; plain keys are packed anew; values, which have scales of their own, go along. Only
 * when two neighbouring groups have lost so many rows that both fit into one block their keys are coded again, so that
 * memory is really returned: a group is then at least half full, except a last one.
 *
 * The new list is built beside the old one, so that an error leaves everything as it was. */
#include "kivi.h"

#include <stdlib.h>
#include <string.h>

#include "sl_minmax.h"

enum { MAX_HEADS = 256 };

/* A row that stays: where it is now. */
typedef struct source {
    const kivi_block *block;
    int64_t row;
} source;

/* ---- one new block ------------------------------------------------------------------------------------------------
 */

static char *coded_scale(const kivi_shape *sh, char *base, int64_t row, int minima) {
    return base + (minima ? sh->minima[VALUES] : sh->scales[VALUES]) + row * sh->scale_row;
}

static void copy_value(const kivi_shape *sh, const source *from, kivi_block *to, int64_t row) {
    if (from->row >= from->block->nv) {
        memcpy(kivi_at(sh, KIVI_V, to->v) + row * sh->plain_row[VALUES],
               kivi_at(sh, KIVI_V, from->block->v) + from->row * sh->plain_row[VALUES], (size_t)sh->plain_row[VALUES]);
        return;
    }
    char *a = kivi_at(sh, KIVI_VQ, from->block->vq), *b = kivi_at(sh, KIVI_VQ, to->vq);
    memcpy(b + row * sh->coded_row[VALUES], a + from->row * sh->coded_row[VALUES], (size_t)sh->coded_row[VALUES]);
    for (int minima = 0; minima < 2; minima++)
        memcpy(coded_scale(sh, b, row, minima), coded_scale(sh, a, from->row, minima), (size_t)sh->scale_row);
}

static void copy_keys(sl_instance *self, const kivi_shape *sh, const source *from, int64_t n, kivi_block *to) {
    char *b = kivi_at(sh, to->coded ? KIVI_KQ : KIVI_K, to->k);
    int64_t bytes = to->coded ? sh->coded_row[KEYS] : sh->plain_row[KEYS];
    int one_group = 1;
    for (int64_t i = 1; i < n; i++)
        one_group &= from[i].block == from[0].block;
    if (to->coded && !one_group) {
        for (int64_t i = 0; i < n; i++)
            kivi_block_read(self, sh, from[i].block, KEYS, from[i].row, self->rows + i * sh->d[KEYS]);
        sl_minmax_channels(self->rows, n, sh->d[KEYS], self->bits[KEYS], (uint8_t *)b,
                               (uint16_t *)(void *)(b + sh->scales[KEYS]), (uint16_t *)(void *)(b + sh->minima[KEYS]));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(b + i * bytes, kivi_at(sh, to->coded ? KIVI_KQ : KIVI_K, from[i].block->k) + from[i].row * bytes,
               (size_t)bytes);
    if (to->coded)
        memcpy(b + sh->scales[KEYS], kivi_at(sh, KIVI_KQ, from[0].block->k) + sh->scales[KEYS],
               (size_t)(sh->pools[KIVI_KQ].bytes - sh->scales[KEYS]));
}

/* Rows from[0 .. n) as a block; one that nothing happened to is shared. 0: no memory. */
static int make_block(sl_instance *self, kivi_shape *sh, const source *from, int64_t n, kivi_block *out) {
    const kivi_block *b = from[0].block;
    if (b->n == n && from[n - 1].block == b) {
        *out = *b;
        sl_blocks_share(&sh->pools[b->coded ? KIVI_KQ : KIVI_K], b->k);
        sl_blocks_share(&sh->pools[KIVI_V], b->v);
        sl_blocks_share(&sh->pools[KIVI_VQ], b->vq);
        return 1;
    }
    *out = (kivi_block){-1, -1, -1, (uint8_t)n, 0, b->coded, 0};
    for (int64_t i = 0; i < n; i++)
        out->nv = (uint8_t)(out->nv + (from[i].row < from[i].block->nv));
    out->k = sl_blocks_get(&sh->pools[b->coded ? KIVI_KQ : KIVI_K]);
    out->v = out->nv < n ? sl_blocks_get(&sh->pools[KIVI_V]) : -1;
    out->vq = out->nv > 0 ? sl_blocks_get(&sh->pools[KIVI_VQ]) : -1;
    if (out->k < 0 || (out->nv < n && out->v < 0) || (out->nv > 0 && out->vq < 0)) {
        kivi_block_drop(sh, out);
        return 0;
    }
    copy_keys(self, sh, from, n, out);
    for (int64_t i = 0; i < n; i++)
        copy_value(sh, &from[i], out, i);
    return 1;
}

/* ---- one new list -------------------------------------------------------------------------------------------------
 */

/* How many of the rows from[0 .. n) the next block takes: of coded keys whole groups, as many as fit; of plain ones
 * all that fit. */
static int64_t next_block(const sl_instance *self, const source *from, int64_t n) {
    int64_t taken = 0;
    while (taken < n && taken < self->G && from[taken].block->coded == from[0].block->coded) {
        int64_t run = 1;
        while (from[0].block->coded && taken + run < n && from[taken + run].block == from[taken].block)
            run++;
        if (taken + run > self->G)
            break;
        taken += run;
    }
    return taken;
}

static sl_status build(sl_instance *self, kivi_shape *sh, const kivi_list *old, const int32_t *keep, int64_t n,
                       int64_t future, kivi_list *out) {
    *out = (kivi_list){.cap_blocks = old->cap_blocks, .cap_tokens = n + future + 1};
    out->blocks =
        self->mem->alloc(self->host, SL_DEVICE_CPU, out->cap_blocks * (int64_t)sizeof *out->blocks, 64, SL_MEM_PLUGIN);
    out->token =
        self->mem->alloc(self->host, SL_DEVICE_CPU, out->cap_tokens * (int64_t)sizeof *out->token, 64, SL_MEM_PLUGIN);
    source *from = malloc(sizeof *from * (size_t)(n + 1));
    sl_status status = out->blocks != NULL && out->token != NULL && from != NULL ? SL_OK : SL_E_NO_MEMORY;
    int64_t slot = 0, block = 0;
    for (int64_t i = 0; status >= 0 && i < n; i++) {
        while (keep[i] >= slot + old->blocks[block].n)
            slot += old->blocks[block++].n;
        from[i] = (source){&old->blocks[block], keep[i] - slot};
        out->token[i] = old->token != NULL ? old->token[keep[i]] : keep[i];
        out->n_coded += old->blocks[block].coded;
        out->n_coded_v += from[i].row < old->blocks[block].nv;
    }
    for (int64_t i = 0, k; status >= 0 && i < n; i += k) {
        k = next_block(self, from + i, n - i);
        if (!make_block(self, sh, from + i, k, &out->blocks[out->n_blocks]))
            status = SL_E_NO_MEMORY;
        else
            out->tail += out->blocks[out->n_blocks++].coded;
    }
    out->n = n;
    free(from);
    if (status < 0)
        kivi_list_free(self, sh, out);
    return status;
}

/* ---- the function -------------------------------------------------------------------------------------------------
 */

/* 0: the lists do not name rows, ascending. */
static int check(const kivi_list *lists, int32_t n_heads, const sl_kv_edit *e, int *drops) {
    *drops = 0;
    for (int32_t h = 0; h < n_heads; h++) {
        const int32_t *keep = e->keep + e->keep_begin[h];
        int64_t n = e->keep_begin[h + 1] - e->keep_begin[h];
        if (n < 0 || n > lists[h].n)
            return 0;
        for (int64_t i = 0; i < n; i++)
            if (keep[i] < (i > 0 ? keep[i - 1] + 1 : 0) || keep[i] >= lists[h].n)
                return 0;
        *drops |= n < lists[h].n;
    }
    return 1;
}

sl_status kivi_edit(sl_instance *self, const sl_kv_edit *e) {
    if (e->layer < 0 || e->layer >= self->n_layers || e->seq < 0 || e->seq >= self->limits.max_seqs)
        return SL_E_RANGE;
    if (e->merge_into != NULL)
        return SL_E_UNIMPLEMENTED;
    kivi_sequence *s = &self->seqs[e->seq];
    const kivi_layer *y = &self->layers[e->layer];
    kivi_list fresh[MAX_HEADS];
    int drops;
    if (s->lists == NULL)
        return SL_E_STATE;
    if (y->n_heads > MAX_HEADS)
        return SL_E_UNIMPLEMENTED;
    kivi_list *lists = &s->lists[y->first_list];
    if (!check(lists, y->n_heads, e, &drops))
        return SL_E_INVALID;
    if (!drops)
        return SL_OK;
    int64_t future = s->n_wanted > s->n_tokens ? s->n_wanted - s->n_tokens : 0;
    for (int32_t h = 0; h < y->n_heads; h++) {
        sl_status status = build(self, y->shape, &lists[h], e->keep + e->keep_begin[h],
                                 e->keep_begin[h + 1] - e->keep_begin[h], future, &fresh[h]);
        if (status < 0) {
            while (h-- > 0)
                kivi_list_free(self, y->shape, &fresh[h]);
            return status;
        }
    }
    for (int32_t h = 0; h < y->n_heads; h++) {
        kivi_list_free(self, y->shape, &lists[h]);
        lists[h] = fresh[h];
    }
    s->n_edited = s->n_tokens;
    s->edited = 1;
    kivi_trim(self);
    return SL_OK;
}
