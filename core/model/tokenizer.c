/* What a loaded tokenizer answers without encoding or decoding; see tokenizer.h. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <string.h>

void sli_tokenizer_close(sli_tokenizer *tok) {
    if (tok == NULL)
        return;
    sli_added_free(&tok->added);
    sli_normalizer_free(&tok->normalizer);
    sli_pretokenizer_free(&tok->pretokenizer);
    sli_vocab_free(&tok->bpe.vocab);
    sli_merges_free(&tok->bpe.merges);
    sli_ids_free(&tok->before);
    sli_ids_free(&tok->after);
    sli_decoder_free(&tok->decoder);
    sli_free(tok->name);
    sli_free(tok->chat_template);
    sli_free(tok);
}

int32_t sli_tokenizer_vocab_size(const sli_tokenizer *tok) { return tok->bpe.vocab.size; }

static const sli_piece *piece_of(const sli_tokenizer *tok, int32_t id) {
    const sli_vocab *v = &tok->bpe.vocab;
    return id >= 0 && id < v->size && v->pieces[id].present ? &v->pieces[id] : NULL;
}

const char *sli_tokenizer_piece(const sli_tokenizer *tok, int32_t id, size_t *len) {
    const sli_piece *p = piece_of(tok, id);
    *len = p == NULL ? 0 : p->len;
    return p == NULL ? NULL : tok->bpe.vocab.text.data + p->at;
}

int32_t sli_tokenizer_find(const sli_tokenizer *tok, const char *piece, size_t len) {
    return sli_vocab_find(&tok->bpe.vocab, piece, len);
}

int sli_tokenizer_is_special(const sli_tokenizer *tok, int32_t id) {
    const sli_piece *p = piece_of(tok, id);
    return p != NULL && p->special;
}

int32_t sli_tokenizer_bos(const sli_tokenizer *tok) { return tok->bos; }
int32_t sli_tokenizer_eos(const sli_tokenizer *tok) { return tok->eos; }
const char *sli_tokenizer_chat_template(const sli_tokenizer *tok) { return tok->chat_template; }

sl_status sli_tokenizer_same(const sli_tokenizer *a, const sli_tokenizer *b, sl_error *err) {
    int32_t size_a = a->bpe.vocab.size, size_b = b->bpe.vocab.size;
    for (int32_t id = 0; id < size_a || id < size_b; id++) {
        size_t len_a, len_b;
        const char *x = sli_tokenizer_piece(a, id, &len_a), *y = sli_tokenizer_piece(b, id, &len_b);
        if ((x == NULL) == (y == NULL) && len_a == len_b && (x == NULL || memcmp(x, y, len_a) == 0))
            continue;
        return sl_fail(err, SL_E_DATA,
                       "the tokenizers differ: token %d is %s%.60s%s in %s (%d ids) and %s%.60s%s in %s (%d "
                       "ids)",
                       id, x == NULL ? "" : "'", x == NULL ? "absent" : x, x == NULL ? "" : "'", a->name, size_a,
                       y == NULL ? "" : "'", y == NULL ? "absent" : y, y == NULL ? "" : "'", b->name, size_b);
    }
    return SL_OK;
}
