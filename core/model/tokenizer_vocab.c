/* Tokens by id and by spelling, and merges by pair: two hash tables with open addressing. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <assert.h>
#include <string.h>

static uint64_t mix(uint64_t h) {
    h ^= h >> 32, h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static uint64_t hash_text(const char *s, size_t len) {
    uint64_t h = 1469598103934665603u + len;
    for (; len >= 8; s += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, s, 8);
        h = mix(h ^ word) * 1099511628211u;
    }
    for (; len > 0; s++, len--)
        h = (h ^ (unsigned char)*s) * 1099511628211u;
    return mix(h);
}

/* Twice the entries, rounded up to a power of two; 0 on overflow. */
static size_t slots_for(size_t entries) {
    size_t n = 16;
    while (n / 2 < entries) {
        if (n > SIZE_MAX / 64)
            return 0;
        n *= 2;
    }
    return n;
}

sl_status sli_vocab_init(sli_vocab *v, int32_t size, size_t entries) {
    size_t slots = slots_for(entries);
    if (slots == 0 || (v->slots = sli_calloc(SLI_TAG_MISC, slots, sizeof *v->slots)) == NULL ||
        (v->pieces = sli_calloc(SLI_TAG_MISC, (size_t)size, sizeof *v->pieces)) == NULL)
        return SL_E_NO_MEMORY;
    v->slot_mask = slots - 1;
    v->size = size;
    return SL_OK;
}

/* The slot of a spelling: its own, or the free one where it belongs. */
static size_t slot_of(const sli_vocab *v, const char *text, size_t len) {
    size_t i = hash_text(text, len) & v->slot_mask;
    for (; v->slots[i] != 0; i = (i + 1) & v->slot_mask) {
        const sli_piece *p = &v->pieces[v->slots[i] - 1];
        if (p->len == len && memcmp(v->text.data + p->at, text, len) == 0)
            break;
    }
    return i;
}

sl_status sli_vocab_add(sli_vocab *v, const char *text, size_t len, int32_t id, sl_error *err) {
    assert(id >= 0 && id < v->size);
    int shown = (int)(len < 100 ? len : 100);
    if (len > UINT32_MAX)
        return sl_fail(err, SL_E_DATA, "token %d is longer than 4 GiB", id);
    if (v->pieces[id].present)
        return sl_fail(err, SL_E_DATA, "id %d belongs to both '%.100s' and '%.*s'", id, v->text.data + v->pieces[id].at,
                       shown, text);
    size_t slot = slot_of(v, text, len);
    if (v->slots[slot] != 0)
        return sl_fail(err, SL_E_DATA, "token '%.*s' has both id %d and id %d", shown, text, v->slots[slot] - 1, id);
    sli_piece piece = {.at = v->text.len, .len = (uint32_t)len, .present = 1, .added = -1};
    SL_TRY(sli_text_add(&v->text, text, len));
    SL_TRY(sli_text_add(&v->text, "", 1));
    v->pieces[id] = piece;
    v->slots[slot] = id + 1;
    return SL_OK;
}

int32_t sli_vocab_find(const sli_vocab *v, const char *text, size_t len) {
    return v->slots == NULL ? -1 : v->slots[slot_of(v, text, len)] - 1;
}

void sli_vocab_free(sli_vocab *v) {
    sli_text_free(&v->text);
    sli_free(v->pieces);
    sli_free(v->slots);
    *v = (sli_vocab){0};
}

sl_status sli_merges_init(sli_merges *m, size_t n) {
    size_t slots = slots_for(n);
    if (slots == 0 || (m->slots = sli_calloc(SLI_TAG_MISC, slots, sizeof *m->slots)) == NULL)
        return SL_E_NO_MEMORY;
    m->slot_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        m->slots[i].id = -1;
    return SL_OK;
}

static sli_merge *merge_slot(const sli_merges *m, uint64_t pair) {
    size_t i = mix(pair * 0x9e3779b97f4a7c15u) & m->slot_mask;
    while (m->slots[i].id >= 0 && m->slots[i].pair != pair)
        i = (i + 1) & m->slot_mask;
    return &m->slots[i];
}

static uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

void sli_merges_put(sli_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint64_t pair = pair_of(left, right);
    *merge_slot(m, pair) = (sli_merge){pair, rank, id};
}

const sli_merge *sli_merges_get(const sli_merges *m, int32_t left, int32_t right) {
    const sli_merge *slot = merge_slot(m, pair_of(left, right));
    return slot->id < 0 ? NULL : slot;
}

void sli_merges_free(sli_merges *m) {
    sli_free(m->slots);
    *m = (sli_merges){0};
}
