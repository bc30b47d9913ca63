/* One head's list of blocks: growing, writing, coding, cutting. */
#include "kivi.h"

#include <string.h>

#include "sl_minmax.h"

/* ---- blocks ---------------------------------------------------------------------------------------------------- */

void kivi_block_drop(kivi_shape *sh, kivi_block *b) {
    sl_blocks_drop(&sh->pools[b->coded ? KIVI_KQ : KIVI_K], b->k);
    sl_blocks_drop(&sh->pools[KIVI_V], b->v);
    sl_blocks_drop(&sh->pools[KIVI_VQ], b->vq);
    *b = (kivi_block){-1, -1, -1, 0, 0, 0, 0};
}

static void drop_side(kivi_shape *sh, int kind, int32_t *id) {
    sl_blocks_drop(&sh->pools[kind], *id);
    *id = -1;
}

void kivi_block_read(const sl_instance *self, const kivi_shape *sh, const kivi_block *b, int side, int64_t r,
                     float *out) {
    int is_coded = side == KEYS ? b->coded : r < b->nv;
    if (!is_coded) {
        const char *row =
            kivi_at(sh, side == KEYS ? KIVI_K : KIVI_V, side == KEYS ? b->k : b->v) + r * sh->plain_row[side];
        self->ops->convert(out, SL_F32, row, self->dtype, sh->d[side]);
        return;
    }
    const char *codes = kivi_at(sh, side == KEYS ? KIVI_KQ : KIVI_VQ, side == KEYS ? b->k : b->vq);
    int64_t at = side == KEYS ? 0 : r * sh->scale_row;
    sl_minmax_values((const uint8_t *)codes + r * sh->coded_row[side],
                       (const uint16_t *)(const void *)(codes + sh->scales[side] + at),
                       (const uint16_t *)(const void *)(codes + sh->minima[side] + at), sh->d[side],
                       side == KEYS ? 1 : self->G, self->bits[side], out);
}

/* Makes a block the list's own. 0: there is no memory. */
static int own(sl_blocks *pool, int32_t *id) {
    if (pool->refs[*id] == 1)
        return 1;
    int32_t mine = sl_blocks_get(pool);
    if (mine < 0)
        return 0;
    memcpy(pool->base[mine], pool->base[*id], (size_t)pool->bytes);
    sl_blocks_drop(pool, *id);
    *id = mine;
    return 1;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

void kivi_list_free(sl_instance *self, kivi_shape *sh, kivi_list *l) {
    for (int64_t i = 0; i < l->n_blocks; i++)
        kivi_block_drop(sh, &l->blocks[i]);
    self->mem->release(self->host, SL_DEVICE_CPU, l->blocks);
    self->mem->release(self->host, SL_DEVICE_CPU, l->token);
    *l = (kivi_list){0};
}

static sl_status widen_list(const sl_instance *self, void **array, int64_t n, int64_t *cap, int64_t wanted,
                            int64_t size) {
    if (*cap >= wanted)
        return SL_OK;
    void *wider = self->mem->alloc(self->host, SL_DEVICE_CPU, wanted * size, 64, SL_MEM_PLUGIN);
    if (wider == NULL)
        return SL_E_NO_MEMORY;
    if (n > 0)
        memcpy(wider, *array, (size_t)(n * size));
    self->mem->release(self->host, SL_DEVICE_CPU, *array);
    *array = wider;
    *cap = wanted;
    return SL_OK;
}

sl_status kivi_list_room(sl_instance *self, kivi_list *l, int64_t blocks, int64_t rows) {
    void *b = l->blocks, *t = l->token;
    sl_status s = widen_list(self, &b, l->n_blocks, &l->cap_blocks, blocks, sizeof *l->blocks);
    if (s >= 0 && l->token != NULL)
        s = widen_list(self, &t, l->n, &l->cap_tokens, rows, sizeof *l->token);
    l->blocks = b;
    l->token = t;
    return s;
}

void kivi_list_share(kivi_shape *sh, kivi_list *l, const kivi_list *from) {
    for (int64_t i = 0; i < from->n_blocks; i++) {
        const kivi_block *b = &from->blocks[i];
        sl_blocks_share(&sh->pools[b->coded ? KIVI_KQ : KIVI_K], b->k);
        sl_blocks_share(&sh->pools[KIVI_V], b->v);
        sl_blocks_share(&sh->pools[KIVI_VQ], b->vq);
        l->blocks[i] = *b;
    }
    l->n_blocks = from->n_blocks;
    l->tail = from->tail;
    l->n = from->n;
    l->n_coded = from->n_coded;
    l->n_coded_v = from->n_coded_v;
}

void kivi_list_cut(const sl_instance *self, kivi_shape *sh, kivi_list *l, int64_t n) {
    (void)self;
    int64_t slot = l->n;
    while (l->n_blocks > 0) {
        kivi_block *b = &l->blocks[l->n_blocks - 1];
        slot -= b->n;
        if (slot >= n) {
            kivi_block_drop(sh, b);
            l->n_blocks--;
            continue;
        }
        b->n = (uint8_t)(n - slot);
        b->nv = b->nv < b->n ? b->nv : b->n;
        if (b->nv == b->n)
            drop_side(sh, KIVI_V, &b->v);
        break;
    }
    l->n = n;
    l->n_coded = l->n_coded < n ? l->n_coded : n;
    l->n_coded_v = l->n_coded_v < n ? l->n_coded_v : n;
    l->tail = l->tail < l->n_blocks ? l->tail : l->n_blocks;
}

int64_t kivi_list_coded_parts(const sl_instance *self, const kivi_list *l) {
    int64_t parts = 0;
    for (int64_t i = 0; i < l->tail; i++)
        parts += l->blocks[i].n < self->G;
    return parts;
}

/* ---- new rows -------------------------------------------------------------------------------------------------- */

sl_status kivi_list_cover(const sl_instance *self, kivi_shape *sh, kivi_list *l, int64_t n) {
    int64_t rows = l->n - l->n_coded, blocks = l->tail + kivi_parts(rows + n, self->G);
    if (n > 0 && rows % self->G != 0) { /* the last block goes on */
        kivi_block *b = &l->blocks[l->tail + rows / self->G];
        if (b->v < 0 && (b->v = sl_blocks_get(&sh->pools[KIVI_V])) < 0)
            return SL_E_NO_MEMORY;
        if (!own(&sh->pools[KIVI_K], &b->k) || !own(&sh->pools[KIVI_V], &b->v))
            return SL_E_NO_MEMORY;
    }
    if (blocks > l->cap_blocks)
        return SL_E_RANGE;
    while (l->n_blocks < blocks) {
        kivi_block b = {sl_blocks_get(&sh->pools[KIVI_K]), sl_blocks_get(&sh->pools[KIVI_V]), -1, 0, 0, 0, 0};
        if (b.k < 0 || b.v < 0) {
            kivi_block_drop(sh, &b);
            return SL_E_NO_MEMORY;
        }
        l->blocks[l->n_blocks++] = b;
    }
    return SL_OK;
}

void kivi_list_uncover(const sl_instance *self, kivi_shape *sh, kivi_list *l) {
    int64_t blocks = l->tail + kivi_parts(l->n - l->n_coded, self->G);
    while (l->n_blocks > blocks)
        kivi_block_drop(sh, &l->blocks[--l->n_blocks]);
}

/* Where row i of the tail stands. */
static char *tail_row(const sl_instance *self, const kivi_shape *sh, const kivi_list *l, int64_t i, int side) {
    const kivi_block *b = &l->blocks[l->tail + i / self->G];
    return kivi_at(sh, side == KEYS ? KIVI_K : KIVI_V, side == KEYS ? b->k : b->v) + i % self->G * sh->plain_row[side];
}

void kivi_list_put(const sl_instance *self, kivi_shape *sh, const kivi_list *l, int64_t i, const float *k,
                   const float *v) {
    int64_t row = l->n - l->n_coded + i;
    self->ops->convert(tail_row(self, sh, l, row, KEYS), self->dtype, k, SL_F32, sh->d[KEYS]);
    self->ops->convert(tail_row(self, sh, l, row, VALUES), self->dtype, v, SL_F32, sh->d[VALUES]);
}

void kivi_list_commit(const sl_instance *self, kivi_shape *sh, kivi_list *l, const int32_t *path, int64_t n_path,
                      int64_t token) {
    int64_t first = l->n - l->n_coded;
    for (int64_t i = 0; i < n_path; i++) {
        for (int side = KEYS; path[i] != i && side <= VALUES;
             side++) /* sources ascend and lie behind their destination */
            memcpy(tail_row(self, sh, l, first + i, side), tail_row(self, sh, l, first + path[i], side),
                   (size_t)sh->plain_row[side]);
        l->blocks[l->tail + (first + i) / self->G].n++;
        if (l->token != NULL)
            l->token[l->n + i] = token + i;
    }
    l->n += n_path;
    kivi_list_uncover(self, sh, l);
}

/* ---- coding ---------------------------------------------------------------------------------------------------- */

/* The keys of the first block of the tail become one group. 0: there is no memory, and they stay plain. */
static int code_keys(sl_instance *self, kivi_shape *sh, kivi_list *l) {
    kivi_block *b = &l->blocks[l->tail];
    int32_t id = sl_blocks_get(&sh->pools[KIVI_KQ]);
    if (id < 0)
        return 0;
    for (int64_t r = 0; r < b->n; r++)
        kivi_block_read(self, sh, b, KEYS, r, self->rows + r * sh->d[KEYS]);
    char *to = kivi_at(sh, KIVI_KQ, id);
    sl_minmax_channels(self->rows, b->n, sh->d[KEYS], self->bits[KEYS], (uint8_t *)to,
                           (uint16_t *)(void *)(to + sh->scales[KEYS]), (uint16_t *)(void *)(to + sh->minima[KEYS]));
    sl_blocks_drop(&sh->pools[KIVI_K], b->k);
    b->k = id;
    b->coded = 1;
    l->tail++;
    l->n_coded += b->n;
    return 1;
}

/* The oldest row with plain values, in block *at, gets coded ones. */
static int code_values(sl_instance *self, kivi_shape *sh, kivi_list *l, int64_t *at) {
    while (l->blocks[*at].nv == l->blocks[*at].n)
        ++*at;
    kivi_block *b = &l->blocks[*at];
    sl_blocks *pool = &sh->pools[KIVI_VQ];
    if (b->vq < 0 && (b->vq = sl_blocks_get(pool)) < 0)
        return 0;
    if (!own(pool, &b->vq))
        return 0;
    int64_t r = b->nv;
    kivi_block_read(self, sh, b, VALUES, r, self->rows);
    char *to = pool->base[b->vq];
    sl_minmax_row(self->rows, sh->d[VALUES], self->G, self->bits[VALUES], (uint8_t *)to + r * sh->coded_row[VALUES],
                      (uint16_t *)(void *)(to + sh->scales[VALUES] + r * sh->scale_row),
                      (uint16_t *)(void *)(to + sh->minima[VALUES] + r * sh->scale_row));
    b->nv++;
    l->n_coded_v++;
    if (b->nv == b->n)
        drop_side(sh, KIVI_V, &b->v);
    return 1;
}

int kivi_list_flush(sl_instance *self, kivi_shape *sh, kivi_list *l) {
    int64_t blocks = self->bits[KEYS] < KIVI_PLAIN ? (l->n - l->n_coded) / self->R * (self->R / self->G) : 0;
    int keys = blocks > 0;
    while (blocks-- > 0)
        if (!code_keys(self, sh, l))
            break;
    int64_t wanted = self->bits[VALUES] < KIVI_PLAIN ? l->n - self->R : 0, at = l->n_blocks, slot = l->n;
    while (slot > l->n_coded_v) /* to the block of the oldest row with plain values */
        slot -= l->blocks[--at].n;
    while (l->n_coded_v < wanted && code_values(self, sh, l, &at)) {
    }
    return keys;
}

/* ---- what may still be needed ---------------------------------------------------------------------------------- */

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

void kivi_list_need(const sl_instance *self, const kivi_shape *sh, const kivi_list *l, int64_t future, int decoding,
                    int64_t *need) {
    int64_t G = self->G, R = self->R, tail = l->n - l->n_coded;
    /* plain rows at most at once: those that stay, those of a step, and what nobody has coded yet */
    int64_t burst = decoding ? self->limits.max_tree : self->chunked ? self->limits.max_rows : future;
    int64_t most_k = (tail < R && burst < future ? R - 1 : tail) + burst, plain_v = l->n - l->n_coded_v,
            most_v = at_least(plain_v, R) + burst;
    int64_t more = l->tail + kivi_parts(tail + future, G) - l->n_blocks; /* blocks, were none coded on the way */
    more = at_least(more, 0);
    /* plain blocks that are its own come back when they are coded; those that a fork shares may not */
    int64_t own_k = 0, own_v = 0, parts = 0, copy_k = 0, copy_v = 0, at = l->n_blocks;
    for (int64_t i = l->n_blocks - 1; i >= 0 && (i >= l->tail || l->blocks[i].v >= 0); i--) {
        const kivi_block *b = &l->blocks[i];
        own_k += i >= l->tail && sh->pools[KIVI_K].refs[b->k] == 1;
        own_v += b->v >= 0 && sh->pools[KIVI_V].refs[b->v] == 1;
        parts += i < l->tail && b->n < G;
        if (i >= l->tail && b->n < G && future > 0) {
            copy_k = sh->pools[KIVI_K].refs[b->k] > 1;
            copy_v = b->v < 0 || sh->pools[KIVI_V].refs[b->v] > 1;
        }
    }
    int64_t k = more + copy_k, v = more + copy_v;
    if (self->bits[KEYS] < KIVI_PLAIN) {
        k = at_most(k, at_least(kivi_parts(most_k, G) - own_k, 0));
        need[KIVI_KQ] += (tail + future) / R * (R / G);
    }
    need[KIVI_K] += k;
    if (self->bits[VALUES] == KIVI_PLAIN) {
        need[KIVI_V] += v;
        return;
    }
    need[KIVI_V] += at_most(v, at_least(kivi_parts(G - 1 + most_v, G) + parts - own_v, 0));
    int64_t end = l->n + future - R, slot = l->n, coded = 0; /* rows [0, end) will have coded values */
    if (end <= l->n_coded_v)
        return;
    while (at > 0 && slot > l->n_coded_v) {
        const kivi_block *b = &l->blocks[--at];
        slot -= b->n;
        if (slot < end)
            coded += b->vq < 0 || sh->pools[KIVI_VQ].refs[b->vq] > 1;
    }
    int64_t room = l->n + (tail % G != 0 ? G - tail % G : 0);
    need[KIVI_VQ] += coded + kivi_parts(at_least(end - room, 0), G);
}
