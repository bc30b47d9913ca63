/* See quest_meta.h. */
#include "quest_meta.h"

#include <stdlib.h>
#include <string.h>

#include "quest_score.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum { HEADER = 64, MAX_SPARE = 8, ROUND = 64 };

static int64_t element(const quest_meta *m, int32_t layer) { return sl_dtype_bits(m->dtype[layer]) / 8; }

/* Bounds of one head in one page: [2, D]. */
static int64_t head_bytes(const quest_meta *m, int32_t layer) {
    return 2 * m->model->layers[layer]->head_dim * element(m, layer);
}

static char *bounds_of(const quest_meta *m, int32_t seq, int32_t layer, int32_t head, int64_t page) {
    const quest_block *b = m->seqs[seq].blocks[page / QUEST_BLOCK_PAGES];
    int64_t K = m->model->layers[layer]->n_kv_heads;
    return (char *)(uintptr_t)b + HEADER + m->offset[layer] +
           ((page % QUEST_BLOCK_PAGES) * K + head) * head_bytes(m, layer);
}

static int64_t block_tokens(const quest_meta *m) { return m->page * QUEST_BLOCK_PAGES; }
static int64_t blocks_for(const quest_meta *m, int64_t tokens) {
    return (tokens + block_tokens(m) - 1) / block_tokens(m);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

void quest_meta_destroy(quest_meta *m) {
    for (int64_t i = 0; m->seqs != NULL && i < m->max_seqs; i++) {
        quest_meta_close(m, (int32_t)i);
        free(m->seqs[i].blocks);
        free(m->seqs[i].n);
    }
    while (m->spare != NULL) {
        quest_block *b = m->spare;
        m->spare = b->next;
        m->mem->release(m->host, SL_DEVICE_CPU, b);
    }
    free(m->seqs);
    free(m->offset);
    m->seqs = NULL;
    m->offset = NULL;
    m->n_spare = m->block_bytes = 0;
}

sl_status quest_meta_create(quest_meta *m) {
    m->max_blocks = blocks_for(m, m->max_tokens);
    m->block_bytes = 0;
    m->offset = calloc((size_t)m->model->n_layers, sizeof *m->offset);
    m->seqs = calloc((size_t)m->max_seqs, sizeof *m->seqs);
    int ok = m->offset != NULL && m->seqs != NULL;
    for (int64_t i = 0; ok && i < m->max_seqs; i++) {
        quest_seq *s = &m->seqs[i];
        s->blocks = calloc((size_t)m->max_blocks, sizeof(quest_block *));
        s->n = calloc((size_t)m->model->n_layers, sizeof *s->n);
        ok = s->blocks != NULL && s->n != NULL;
    }
    return ok ? SL_OK : SL_E_NO_MEMORY;
}

/* ---- blocks ---------------------------------------------------------------------------------------------------- */

static void lay_out(quest_meta *m) {
    int64_t bytes = 0;
    for (int32_t l = 0; l < m->model->n_layers; l++) {
        m->offset[l] = bytes;
        if (m->kept[l])
            bytes += (QUEST_BLOCK_PAGES * m->model->layers[l]->n_kv_heads * head_bytes(m, l) + 63) / 64 * 64;
    }
    m->block_bytes = bytes > 0 ? bytes : 64;
}

static quest_block *take_block(quest_meta *m) {
    quest_block *b = m->spare;
    if (m->block_bytes == 0)
        lay_out(m);
    if (b != NULL) {
        m->spare = b->next;
        m->n_spare--;
    } else
        b = m->mem->alloc(m->host, SL_DEVICE_CPU, HEADER + m->block_bytes, HEADER, SL_MEM_KV);
    if (b != NULL)
        b->refs = 1;
    return b;
}

static void drop_block(quest_meta *m, quest_block *b) {
    if (--b->refs > 0)
        return;
    if (m->n_spare >= MAX_SPARE) {
        m->mem->release(m->host, SL_DEVICE_CPU, b);
        return;
    }
    b->next = m->spare;
    m->spare = b;
    m->n_spare++;
}

/* Makes block i of the sequence its own. */
static sl_status own_block(quest_meta *m, quest_seq *s, int64_t i) {
    quest_block *old = s->blocks[i];
    if (old->refs == 1)
        return SL_OK;
    quest_block *b = take_block(m);
    if (b == NULL)
        return SL_E_NO_MEMORY;
    memcpy((char *)b + HEADER, (char *)old + HEADER, (size_t)m->block_bytes);
    drop_block(m, old);
    s->blocks[i] = b;
    return SL_OK;
}

/* ---- sequences ------------------------------------------------------------------------------------------------- */

static void cut_layer(const quest_meta *m, quest_seq *s, int32_t layer, int64_t n) {
    if (s->n[layer] > n)
        s->n[layer] = n / m->page * m->page;
}

static int64_t least_done(const quest_meta *m, const quest_seq *s) {
    int64_t n = INT64_MAX;
    for (int32_t l = 0; l < m->model->n_layers; l++)
        if (m->kept[l] && s->n[l] < n)
            n = s->n[l];
    return n == INT64_MAX ? 0 : n;
}

sl_status quest_meta_open(quest_meta *m, int32_t seq, int32_t parent, int64_t upto) {
    if (seq < 0 || seq >= m->max_seqs || parent >= m->max_seqs || m->seqs[seq].is_open ||
        (parent >= 0 && !m->seqs[parent].is_open))
        return SL_E_STATE;
    quest_seq *s = &m->seqs[seq];
    s->is_open = 1;
    s->n_blocks = 0;
    memset(s->n, 0, sizeof *s->n * (size_t)m->model->n_layers);
    if (parent < 0)
        return SL_OK;
    const quest_seq *p = &m->seqs[parent];
    int64_t n = blocks_for(m, upto);
    for (int64_t i = 0; i < n && i < p->n_blocks; i++) {
        s->blocks[s->n_blocks++] = p->blocks[i];
        p->blocks[i]->refs++;
    }
    for (int32_t l = 0; l < m->model->n_layers; l++) {
        s->n[l] = p->n[l];
        cut_layer(m, s, l, upto);
    }
    /* both go on writing into the last block, unless the fork is where it ends */
    sl_status status = upto % block_tokens(m) != 0 && s->n_blocks == n ? own_block(m, s, n - 1) : SL_OK;
    if (status < 0)
        quest_meta_close(m, seq);
    return status;
}

void quest_meta_close(quest_meta *m, int32_t seq) {
    if (seq < 0 || seq >= m->max_seqs || !m->seqs[seq].is_open)
        return;
    quest_seq *s = &m->seqs[seq];
    while (s->n_blocks > 0)
        drop_block(m, s->blocks[--s->n_blocks]);
    s->is_open = 0;
}

sl_status quest_meta_grow(quest_meta *m, int32_t seq, int64_t n_tokens) {
    quest_seq *s = &m->seqs[seq];
    int64_t want = blocks_for(m, n_tokens < m->max_tokens ? n_tokens : m->max_tokens), before = s->n_blocks;
    while (s->n_blocks > want) /* left by a cut */
        drop_block(m, s->blocks[--s->n_blocks]);
    for (int64_t i = least_done(m, s) / block_tokens(m); i < s->n_blocks; i++)
        SL_TRY(own_block(m, s, i));
    while (s->n_blocks < want) {
        if ((s->blocks[s->n_blocks] = take_block(m)) == NULL) {
            while (s->n_blocks > before)
                drop_block(m, s->blocks[--s->n_blocks]);
            return SL_E_NO_MEMORY;
        }
        s->n_blocks++;
    }
    return SL_OK;
}

void quest_meta_cut(quest_meta *m, int32_t seq, int32_t layer, int64_t n) {
    if (seq < 0 || seq >= m->max_seqs || !m->seqs[seq].is_open)
        return;
    for (int32_t l = 0; l < m->model->n_layers; l++)
        if (layer < 0 || l == layer)
            cut_layer(m, &m->seqs[seq], l, n);
}

int64_t quest_meta_room(const quest_meta *m, int32_t seq, int32_t layer, int64_t n) {
    const quest_seq *s = &m->seqs[seq];
    for (int64_t i = s->n[layer] / block_tokens(m); i * block_tokens(m) < n; i++)
        if (i >= s->n_blocks || s->blocks[i]->refs > 1)
            return i * block_tokens(m) > s->n[layer] ? i * block_tokens(m) : s->n[layer];
    return n;
}

/* ---- bounds ---------------------------------------------------------------------------------------------------- */

/* The next larger value in a 16-bit floating type, as bits. */
static uint16_t next_up(uint16_t bits) {
    if ((bits & 0x7fff) == 0)
        return 1; /* both zeros: the smallest positive value */
    return bits & 0x8000 ? (uint16_t)(bits - 1) : (uint16_t)(bits + 1);
}

static void round_half(const sl_ops *ops, sl_dtype dtype, int up, float *x, int64_t n) {
    uint16_t bits[ROUND];
    float back[ROUND];
    for (int64_t done = 0; done < n; done += ROUND) {
        int64_t some = n - done < ROUND ? n - done : ROUND;
        ops->convert(bits, dtype, x + done, SL_F32, some);
        ops->convert(back, SL_F32, bits, dtype, some);
        for (int64_t i = 0; i < some; i++)
            if (up ? back[i] < x[done + i] : back[i] > x[done + i]) /* the mirror image goes down */
                bits[i] = up ? next_up(bits[i]) : (uint16_t)(next_up(bits[i] ^ 0x8000) ^ 0x8000);
        ops->convert(x + done, SL_F32, bits, dtype, some);
    }
}

void quest_round_out(const sl_ops *ops, sl_dtype dtype, float *bounds, int64_t d) {
    if (dtype == SL_F32)
        return;
    round_half(ops, dtype, 1, bounds, d);
    round_half(ops, dtype, 0, bounds + d, d);
}

void quest_meta_add(const quest_meta *m, int32_t seq, int32_t layer, int32_t head, int64_t t, const float *key,
                    float *buffer) {
    int64_t D = m->model->layers[layer]->head_dim;
    char *at = bounds_of(m, seq, layer, head, t / m->page);
    int first = t % m->page == 0; /* nothing of an older page is inherited */
    if (!first)
        m->ops->convert(buffer, SL_F32, at, m->dtype[layer], 2 * D);
    quest_widen(buffer, key, D, first);
    quest_round_out(m->ops, m->dtype[layer], buffer, D);
    m->ops->convert(at, m->dtype[layer], buffer, SL_F32, 2 * D);
}

void quest_meta_read(const quest_meta *m, int32_t seq, int32_t layer, int32_t head, int64_t page, float *out) {
    int64_t D = m->model->layers[layer]->head_dim;
    m->ops->convert(out, SL_F32, bounds_of(m, seq, layer, head, page), m->dtype[layer], 2 * D);
}
