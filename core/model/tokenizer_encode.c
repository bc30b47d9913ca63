/* Encoding: a text through all the parts.
 *
 *   clean UTF-8 -> cut at added tokens -> normalise each stretch -> cut at normalised added tokens
 *   -> pre-tokenizer -> BPE of each word -> tokens of the post-processor around it */
#include "tokenizer_parts.h"

#include "base/ledger.h"

sl_status sli_ids_add(sli_ids *ids, int32_t id) {
    if (!sli_grow(&ids->data, ids->n, &ids->cap, sizeof *ids->data))
        return SL_E_NO_MEMORY;
    ids->data[ids->n++] = id;
    return SL_OK;
}

void sli_ids_free(sli_ids *ids) {
    sli_free(ids->data);
    *ids = (sli_ids){0};
}

/* A text and its parts. */
typedef struct state {
    sli_text text;
    sli_parts parts;
} state;

static void free_state(state *s) {
    sli_text_free(&s->text);
    sli_free(s->parts.data);
}

/* Normalises one stretch and cuts it at the tokens that are looked for afterwards. */
static sl_status normalise_part(const sli_tokenizer *tok, int skip_special, const char *text, const sli_part *p,
                                state *to, sl_error *err) {
    sli_text stretch = {0};
    int stripped = 0;
    size_t at = to->text.len;
    sl_status status = sli_text_add(&stretch, text, p->len);
    if (status == SL_OK)
        status = sli_normalizer_run(&tok->normalizer, &stretch, &stripped, err);
    if (status == SL_OK)
        status = sli_text_add(&to->text, stretch.data, stretch.len);
    if (status == SL_OK)
        status = sli_added_cut(&tok->added, 1, skip_special, to->text.data, at, stretch.len, p->first && !stripped,
                               &to->parts);
    sli_text_free(&stretch);
    return status;
}

static sl_status normalise(const sli_tokenizer *tok, int skip_special, const state *from, state *to, sl_error *err) {
    for (size_t i = 0; i < from->parts.n; i++) {
        const sli_part *p = &from->parts.data[i];
        if (p->id >= 0)
            SL_TRY(sli_parts_add(&to->parts, to->text.len, 0, p->id, p->first));
        else
            SL_TRY(normalise_part(tok, skip_special, from->text.data + p->at, p, to, err));
    }
    return SL_OK;
}

static sl_status tokenize(const sli_tokenizer *tok, const state *s, sli_ids *ids) {
    sli_bpe_work work = {0};
    sl_status status = SL_OK;
    for (size_t i = 0; i < s->parts.n && status == SL_OK; i++) {
        const sli_part *p = &s->parts.data[i];
        status =
            p->id >= 0 ? sli_ids_add(ids, p->id) : sli_bpe_word(&tok->bpe, s->text.data + p->at, p->len, &work, ids);
    }
    sli_bpe_work_free(&work);
    return status;
}

static sl_status add_all(sli_ids *ids, const sli_ids *more) {
    for (size_t i = 0; i < more->n; i++)
        SL_TRY(sli_ids_add(ids, more->data[i]));
    return SL_OK;
}

static sl_status encode(const sli_tokenizer *tok, const char *text, size_t len, unsigned flags, state *raw, state *cut,
                        sli_ids *ids, sl_error *err) {
    int skip_special = (flags & SLI_PARSE_SPECIAL) == 0;
    SL_TRY(sli_utf8_clean(text, len, &raw->text));
    SL_TRY(sli_added_cut(&tok->added, 0, skip_special, raw->text.data, 0, raw->text.len, 1, &raw->parts));
    SL_TRY(normalise(tok, skip_special, raw, cut, err));
    SL_TRY(sli_pretokenizer_run(&tok->pretokenizer, &cut->text, &cut->parts, err));
    if (flags & SLI_ADD_SPECIAL)
        SL_TRY(add_all(ids, &tok->before));
    SL_TRY(tokenize(tok, cut, ids));
    return flags & SLI_ADD_SPECIAL ? add_all(ids, &tok->after) : SL_OK;
}

sl_status sli_tokenizer_encode(const sli_tokenizer *tok, const char *text, size_t len, unsigned flags, sli_ids *ids,
                               sl_error *err) {
    state raw = {0}, cut = {0};
    size_t before = ids->n;
    sl_status status = encode(tok, text, len, flags, &raw, &cut, ids, err);
    free_state(&raw);
    free_state(&cut);
    if (status < 0)
        ids->n = before;
    return status == SL_E_NO_MEMORY ? sl_fail(err, status, "no memory to tokenize %zu bytes", len) : status;
}
