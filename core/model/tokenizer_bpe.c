/* Byte pair encoding of one word: characters to symbols, then the merge of lowest rank (leftmost first) until none is
 * left.
 *
 * Symbols form a linked list; candidate merges wait in a binary heap, so that a text of a megabyte that is one word
 * (the Llama-2 pipeline has no pre-tokenizer) takes n log n. Candidates are not removed when their symbols change: a
 * candidate counts if, when its turn comes, the pair at its place still merges to the same token. That is how the
 * reference does it, and ids depend on it where two pairs merge to one token. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <stdio.h>
#include <string.h>

typedef struct sli_bpe_symbol {
    int32_t id;
    int32_t dead;      /* swallowed by its left neighbour */
    size_t prev, next; /* NONE at the ends */
} symbol;

typedef struct sli_bpe_entry {
    uint32_t rank;
    int32_t id; /* the merged token */
    size_t at;  /* the left symbol */
} entry;

#define NONE SIZE_MAX

static int before(const entry *a, const entry *b) { return a->rank != b->rank ? a->rank < b->rank : a->at < b->at; }

static sl_status heap_push(sli_bpe_work *w, entry e) {
    if (!sli_grow(&w->heap, w->heap_n, &w->heap_cap, sizeof *w->heap))
        return SL_E_NO_MEMORY;
    size_t i = w->heap_n++;
    for (; i > 0 && before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
    return SL_OK;
}

static entry heap_pop(sli_bpe_work *w) {
    entry top = w->heap[0], last = w->heap[--w->heap_n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->heap_n; i = child) {
        if (child + 1 < w->heap_n && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return top;
}

static sl_status add_symbol(sli_bpe_work *w, int32_t id) {
    if (!sli_grow(&w->symbols, w->n, &w->symbol_cap, sizeof *w->symbols))
        return SL_E_NO_MEMORY;
    w->symbols[w->n] = (symbol){.id = id, .prev = w->n == 0 ? NONE : w->n - 1, .next = NONE};
    if (w->n > 0)
        w->symbols[w->n - 1].next = w->n;
    w->n++;
    return SL_OK;
}

static sl_status propose(const sli_bpe *bpe, sli_bpe_work *w, size_t left) {
    size_t right = w->symbols[left].next;
    if (right == NONE)
        return SL_OK;
    const sli_merge *m = sli_merges_get(&bpe->merges, w->symbols[left].id, w->symbols[right].id);
    return m == NULL ? SL_OK : heap_push(w, (entry){m->rank, m->id, left});
}

/* Added tokens that are not in the model's vocabulary are none of its business. */
static int32_t find(const sli_bpe *bpe, const char *text, size_t len) {
    int32_t id = sli_vocab_find(&bpe->vocab, text, len);
    return id >= 0 && bpe->vocab.pieces[id].in_model ? id : -1;
}

void sli_bpe_index_chars(sli_bpe *bpe) {
    for (uint32_t c = 0; c < 512; c++) {
        char text[8];
        bpe->char_id[c] = find(bpe, text, sli_utf8_write(c, text));
        if (c < 256)
            bpe->byte_id[c] = find(bpe, text, (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)c));
    }
}

/* A character without a token becomes its bytes if all of them have tokens, the unknown token otherwise. */
static int has_byte_tokens(const sli_bpe *bpe, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bpe->byte_id[(unsigned char)s[i]] < 0)
            return 0;
    return 1;
}

static sl_status add_characters(const sli_bpe *bpe, const char *word, size_t len, sli_bpe_work *w) {
    int pending = 0; /* an unknown token waits: the next one may fuse with it */
    for (size_t i = 0, used; i < len; i += used) {
        uint32_t c;
        used = sli_utf8_next(word + i, len - i, &c);
        int32_t id = c < 512 ? bpe->char_id[c] : find(bpe, word + i, used);
        if (id >= 0) {
            if (pending)
                SL_TRY(add_symbol(w, bpe->unk));
            pending = 0;
            SL_TRY(add_symbol(w, id));
        } else if (bpe->byte_fallback && has_byte_tokens(bpe, word + i, used)) {
            for (size_t k = 0; k < used; k++)
                SL_TRY(add_symbol(w, bpe->byte_id[(unsigned char)word[i + k]]));
        } else if (bpe->unk >= 0) {
            if (pending && !bpe->fuse_unk)
                SL_TRY(add_symbol(w, bpe->unk));
            pending = 1;
        }
    }
    return pending ? add_symbol(w, bpe->unk) : SL_OK;
}

sl_status sli_bpe_word(const sli_bpe *bpe, const char *word, size_t len, sli_bpe_work *w, sli_ids *out) {
    if (bpe->ignore_merges) {
        int32_t id = find(bpe, word, len);
        if (id >= 0)
            return sli_ids_add(out, id);
    }
    w->n = w->heap_n = 0;
    SL_TRY(add_characters(bpe, word, len, w));
    for (size_t i = 0; i + 1 < w->n; i++)
        SL_TRY(propose(bpe, w, i));
    while (w->heap_n > 0) {
        entry top = heap_pop(w);
        symbol *left = &w->symbols[top.at];
        if (left->dead || left->next == NONE)
            continue;
        symbol *right = &w->symbols[left->next];
        const sli_merge *m = sli_merges_get(&bpe->merges, left->id, right->id);
        if (m == NULL || m->id != top.id)
            continue;
        left->id = top.id;
        left->next = right->next;
        right->dead = 1;
        if (left->next != NONE)
            w->symbols[left->next].prev = top.at;
        if (left->prev != NONE)
            SL_TRY(propose(bpe, w, left->prev));
        SL_TRY(propose(bpe, w, top.at));
    }
    for (size_t i = w->n == 0 ? NONE : 0; i != NONE; i = w->symbols[i].next)
        SL_TRY(sli_ids_add(out, w->symbols[i].id));
    return SL_OK;
}

void sli_bpe_work_free(sli_bpe_work *w) {
    sli_free(w->symbols);
    sli_free(w->heap);
    *w = (sli_bpe_work){0};
}
