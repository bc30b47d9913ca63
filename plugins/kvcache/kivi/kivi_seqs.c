/* Sequences: promises of place, beginning, forking, cutting, and what they cost. */
#include "kivi.h"

#include <string.h>

/* ---- promises ------------------------------------------------------------------------------------------------------
 */

static int64_t to_come(const kivi_sequence *s) { return s->n_wanted > s->n_tokens ? s->n_wanted - s->n_tokens : 0; }

/* Free blocks that all sequences may still ask for, of one shape. */
static void promised(const sl_instance *self, const kivi_shape *sh, int64_t *need) {
    memset(need, 0, sizeof *need * KIVI_POOLS);
    for (int64_t i = 0; i < self->limits.max_seqs; i++) {
        const kivi_sequence *s = &self->seqs[i];
        for (int32_t k = 0; s->lists != NULL && k < self->n_lists; k++)
            if (self->shape_of_list[k] == sh)
                kivi_list_need(self, sh, &s->lists[k], to_come(s), s->decoding, need);
    }
}

void kivi_trim(sl_instance *self) {
    for (int32_t i = 0; i < self->n_shapes; i++) {
        int64_t need[KIVI_POOLS];
        promised(self, &self->shapes[i], need);
        for (int p = 0; p < KIVI_POOLS; p++)
            sl_blocks_trim(&self->shapes[i].pools[p], need[p]);
    }
}

static sl_status have_free(sl_instance *self, sl_error *err) {
    for (int32_t i = 0; i < self->n_shapes; i++) {
        int64_t need[KIVI_POOLS];
        promised(self, &self->shapes[i], need);
        for (int p = 0; p < KIVI_POOLS; p++) {
            sl_blocks *pool = &self->shapes[i].pools[p];
            if (need[p] > pool->n_free && sl_blocks_add(pool, need[p] - pool->n_free) < 0)
                return sl_fail(err, SL_E_NO_MEMORY,
                               "kivi: the cache does not fit: %lld more blocks of %lld bytes are needed, %lld bytes of "
                               "such blocks are held",
                               (long long)(need[p] - pool->n_free), (long long)pool->bytes,
                               (long long)sl_blocks_bytes(pool));
        }
    }
    return SL_OK;
}

/* ---- sequences -----------------------------------------------------------------------------------------------------
 */

static int64_t rows_below(const kivi_list *l, int64_t token) {
    if (l->token == NULL)
        return l->n < token ? l->n : token;
    int64_t n = l->n;
    while (n > 0 && l->token[n - 1] >= token)
        n--;
    return n;
}

void kivi_close(sl_instance *self, int32_t seq) {
    if (seq < 0 || seq >= self->limits.max_seqs || self->seqs[seq].lists == NULL)
        return;
    kivi_sequence *s = &self->seqs[seq];
    for (int32_t i = 0; i < self->n_lists; i++)
        kivi_list_free(self, self->shape_of_list[i], &s->lists[i]);
    self->mem->release(self->host, SL_DEVICE_CPU, s->lists);
    *s = (kivi_sequence){0};
}

/* The shortest length besides 0 that the sequence can be cut to and shared at. */
static int64_t minimum_of(const sl_instance *self, const kivi_sequence *s) {
    if (s->n_edited > 0)
        return s->n_edited;
    if (!self->exact_cuts)
        return 0;
    for (int64_t n = s->n_tokens; n > 0; n--) { /* nothing is coded that would not be at that length */
        const kivi_list *l = &s->lists[0];
        if (l->n_coded > n / self->R * self->R || l->n_coded_v > (n > self->R ? n - self->R : 0))
            return n < s->n_tokens ? n + 1 : n;
    }
    return 0;
}

sl_status kivi_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "kivi: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    kivi_sequence *s = &self->seqs[seq];
    const kivi_sequence *p = parent >= 0 ? &self->seqs[parent] : NULL;
    if (s->lists != NULL || (p != NULL && (p->lists == NULL || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "kivi: sequence %d cannot be opened from %d at %lld tokens", seq, parent,
                       (long long)upto);
    if (p != NULL && upto > 0 && upto < minimum_of(self, p))
        return sl_fail(err, SL_E_RANGE, "kivi: the first %lld of %lld tokens cannot be shared: %s", (long long)upto,
                       (long long)p->n_tokens,
                       p->n_edited > 0 ? "rows were dropped later" : "more is coded than would be (truncate = exact)");
    s->lists =
        self->mem->alloc(self->host, SL_DEVICE_CPU, self->n_lists * (int64_t)sizeof *s->lists, 64, SL_MEM_PLUGIN);
    if (s->lists == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: no memory for the lists of sequence %d", seq);
    memset(s->lists, 0, sizeof *s->lists * (size_t)self->n_lists);
    sl_status status = SL_OK;
    for (int32_t i = 0; p != NULL && upto > 0 && status >= 0 && i < self->n_lists; i++) {
        const kivi_list *from = &p->lists[i];
        kivi_list *l = &s->lists[i];
        if (from->token != NULL) {
            l->token = self->mem->alloc(self->host, SL_DEVICE_CPU, (from->n + 1) * (int64_t)sizeof *l->token, 64,
                                        SL_MEM_PLUGIN);
            if (l->token == NULL)
                status = SL_E_NO_MEMORY;
            else
                memcpy(l->token, from->token, (size_t)from->n * sizeof *l->token);
            l->cap_tokens = from->n + 1;
        }
        if (status >= 0)
            status = kivi_list_room(self, l, from->n_blocks, 0);
        if (status < 0)
            break;
        kivi_list_share(self->shape_of_list[i], l, from);
        kivi_list_cut(self, self->shape_of_list[i], l, rows_below(from, upto));
        if (kivi_list_coded_parts(self, l) > self->max_coded_parts)
            status = SL_E_RANGE;
    }
    if (status >= 0)
        status = kivi_tables_grow(self);
    if (status < 0) {
        kivi_close(self, seq);
        return sl_fail(err, status,
                       status == SL_E_RANGE ? "kivi: too many cuts inside coded groups"
                                            : "kivi: no memory for the lists of a fork");
    }
    if (p != NULL && upto > 0) {
        s->n_tokens = upto;
        s->n_edited = p->n_edited;
    }
    return SL_OK;
}

sl_status kivi_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    kivi_sequence *s = &self->seqs[seq];
    const kivi_sequence before = *s;
    if (n_tokens > self->limits.max_context + self->limits.max_tree + self->G)
        return sl_fail(err, SL_E_RANGE, "kivi: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->limits.max_context + self->limits.max_tree));
    s->n_wanted = n_tokens > s->n_wanted ? n_tokens : s->n_wanted;
    s->decoding = s->decoding && s->edited; /* the call that follows an edit; else a prompt may come */
    s->edited = 0;
    sl_status status = SL_OK;
    for (int32_t i = 0; status >= 0 && i < self->n_lists; i++) {
        kivi_list *l = &s->lists[i];
        int64_t blocks = l->tail + kivi_parts(l->n - l->n_coded + to_come(s), self->G);
        status = kivi_list_room(self, l, blocks > l->n_blocks ? blocks : l->n_blocks, l->n + to_come(s));
    }
    if (status >= 0)
        status = kivi_tables_grow(self);
    if (status < 0)
        sl_fail(err, status, "kivi: no memory for the lists of sequence %d", seq);
    else
        status = have_free(self, err);
    if (status < 0) {
        s->n_wanted = before.n_wanted;
        s->decoding = before.decoding;
        s->edited = before.edited;
        kivi_trim(self);
    }
    return status;
}

sl_status kivi_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    kivi_sequence *s = &self->seqs[seq];
    int64_t least = minimum_of(self, s);
    if (minimum != NULL)
        *minimum = least;
    if (n < 0 || n > s->n_tokens || (n > 0 && n < least))
        return SL_E_RANGE;
    for (int32_t i = 0; i < self->n_lists; i++)
        if (kivi_list_coded_parts(self, &s->lists[i]) >= self->max_coded_parts && n > 0 && n < s->n_tokens) {
            if (minimum != NULL)
                *minimum = s->n_tokens;
            return SL_E_RANGE; /* cut after cut inside of groups: their blocks would not be full enough */
        }
    for (int32_t i = 0; i < self->n_lists; i++)
        kivi_list_cut(self, self->shape_of_list[i], &s->lists[i], rows_below(&s->lists[i], n));
    s->n_tokens = n;
    if (n == 0) {
        for (int32_t i = 0; i < self->n_lists; i++) {
            self->mem->release(self->host, SL_DEVICE_CPU, s->lists[i].token);
            s->lists[i].token = NULL;
            s->lists[i].cap_tokens = 0;
        }
        s->n_edited = 0;
        s->decoding = 0;
    }
    return SL_OK;
}

static int64_t list_bytes(const kivi_shape *sh, const kivi_list *l) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < l->n_blocks; i++) {
        const kivi_block *b = &l->blocks[i];
        bytes += sh->pools[b->coded ? KIVI_KQ : KIVI_K].bytes + (b->v >= 0 ? sh->pools[KIVI_V].bytes : 0) +
                 (b->vq >= 0 ? sh->pools[KIVI_VQ].bytes : 0);
    }
    return bytes;
}

sl_status kivi_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    if (seq < 0 || seq >= self->limits.max_seqs || self->seqs[seq].lists == NULL)
        return SL_E_NOT_FOUND;
    *n_tokens = self->seqs[seq].n_tokens;
    *bytes = 0;
    for (int32_t i = 0; i < self->n_lists; i++)
        *bytes += list_bytes(self->shape_of_list[i], &self->seqs[seq].lists[i]);
    return SL_OK;
}

sl_status kivi_rows(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    if (layer < 0 || layer >= self->n_layers || seq < 0 || seq >= self->limits.max_seqs ||
        self->seqs[seq].lists == NULL)
        return SL_E_NOT_FOUND;
    for (int32_t h = 0; h < self->layers[layer].n_heads; h++)
        n_rows[h] = self->seqs[seq].lists[self->layers[layer].first_list + h].n;
    return SL_OK;
}

/* Blocks of one head that holds n rows of which nothing was dropped. */
static int64_t blocks_at(const sl_instance *self, const kivi_shape *sh, int64_t n, int is_coded) {
    int64_t G = self->G, R = self->R, keys = is_coded && self->bits[0] < KIVI_PLAIN ? n / R * R : 0,
            values = is_coded && self->bits[1] < KIVI_PLAIN && n > R ? n - R : 0;
    return keys / G * sh->pools[KIVI_KQ].bytes + kivi_parts(n - keys, G) * sh->pools[KIVI_K].bytes +
           kivi_parts(values, G) * sh->pools[KIVI_VQ].bytes + (kivi_parts(n, G) - values / G) * sh->pools[KIVI_V].bytes;
}

sl_status kivi_quote(sl_instance *self, sl_kv_quote *io) {
    io->bytes = io->bytes_peak = io->bytes_host = io->bytes_next = 0;
    for (int32_t i = 0; i < self->n_lists; i++) {
        const kivi_shape *sh = self->shape_of_list[i];
        int64_t held = blocks_at(self, sh, io->n_tokens, 1), codes = 0;
        if (self->bits[0] < KIVI_PLAIN)
            codes += io->n_tokens / self->R * self->R / self->G * sh->pools[KIVI_KQ].bytes;
        if (self->bits[1] < KIVI_PLAIN && io->n_tokens > self->R)
            codes += kivi_parts(io->n_tokens - self->R, self->G) * sh->pools[KIVI_VQ].bytes;
        int64_t burst = self->chunked ? self->limits.max_rows : io->n_tokens; /* plain rows before they are coded */
        burst = burst < io->n_tokens ? burst : io->n_tokens;
        int64_t plain = self->chunked ? blocks_at(self, sh, io->n_tokens, 1) - codes + blocks_at(self, sh, burst, 0)
                                      : blocks_at(self, sh, io->n_tokens, 0);
        int64_t peak = plain + codes;
        io->bytes += held;
        io->bytes_peak += peak > held ? peak : held;
        for (int side = 0; side < 2; side++)
            io->bytes_next += self->bits[side] < KIVI_PLAIN ? sh->pools[2 * side + 1].bytes / self->G
                                                            : sh->pools[2 * side].bytes / self->G;
    }
    io->bytes *= io->n_seqs;
    io->bytes_peak *= io->n_seqs;
    return SL_OK;
}
