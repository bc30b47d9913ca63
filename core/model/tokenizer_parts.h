/* The parts of a tokenizer, in the order in which text meets them. Only tokenizer_*.c include this file. */
#ifndef SLUICE_CORE_TOKENIZER_PARTS_H
#define SLUICE_CORE_TOKENIZER_PARTS_H

#include "tokenizer.h"
#include "tokenizer_json.h"
#include "tokenizer_regex.h"

/* ---- tokenizer_vocab.c: tokens by id and by spelling, merges by pair -------------------------------------------- */

typedef struct sli_piece {
    size_t at; /* in vocab.text; each spelling has a NUL behind it */
    uint32_t len;
    uint8_t present, special, in_model;
    int32_t added; /* index in added.tokens, -1 for a token of the model alone */
} sli_piece;

typedef struct sli_vocab {
    sli_text text;
    sli_piece *pieces; /* by id; holes are not present */
    int32_t size;      /* largest id + 1 */
    int32_t *slots;    /* open addressing: id + 1, 0 = free */
    size_t slot_mask;
} sli_vocab;

/* Room for ids below `size` and `entries` spellings. */
sl_status sli_vocab_init(sli_vocab *v, int32_t size, size_t entries);
/* Both spelling and id must be new: SL_E_DATA otherwise. 0 <= id < size. */
sl_status sli_vocab_add(sli_vocab *v, const char *text, size_t len, int32_t id, sl_error *err);
int32_t sli_vocab_find(const sli_vocab *v, const char *text, size_t len); /* -1: none */
void sli_vocab_free(sli_vocab *v);

typedef struct sli_merge {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    int32_t id; /* of the merged token, -1 = free slot */
} sli_merge;

typedef struct sli_merges {
    sli_merge *slots;
    size_t slot_mask;
} sli_merges;

sl_status sli_merges_init(sli_merges *m, size_t n);
void sli_merges_put(sli_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id); /* a later rank replaces */
const sli_merge *sli_merges_get(const sli_merges *m, int32_t left, int32_t right);          /* NULL: no such merge */
void sli_merges_free(sli_merges *m);

/* ---- tokenizer_added.c: tokens that are found in the text before anything else cuts it -------------------------- */

typedef struct sli_added_token {
    char *text; /* what is looked for, and what decoding starts from: the normalised spelling of a normalized token */
    size_t len;
    int32_t id;
    uint8_t special, single_word, lstrip, rstrip, normalized;
} sli_added_token;

typedef struct sli_added {
    sli_added_token *tokens;
    size_t n;
    /* Indices sorted by text, for tokens looked for before ([0]) and after ([1]) normalisation. */
    int32_t *sorted[2];
    size_t count[2];
} sli_added;

/* A stretch of text on its way: id < 0 is text still to be cut. */
typedef struct sli_part {
    size_t at, len;
    int32_t id;
    int first; /* it begins at the first byte of the original text */
} sli_part;
typedef struct sli_parts {
    sli_part *data;
    size_t n, cap;
} sli_parts;
sl_status sli_parts_add(sli_parts *parts, size_t at, size_t len, int32_t id, int first);

sl_status sli_added_sort(sli_added *a);
/* Cuts text[at, at+len) at the tokens of one set and appends the parts. skip_special: special tokens are plain text. */
sl_status sli_added_cut(const sli_added *a, int normalized, int skip_special, const char *text, size_t at, size_t len,
                        int first, sli_parts *parts);
void sli_added_free(sli_added *a);

/* ---- tokenizer_normalize.c -------------------------------------------------------------------------------------- */

typedef struct sli_normal_step sli_normal_step;
typedef struct sli_normalizer {
    sli_normal_step *steps;
    size_t n, cap;
} sli_normalizer;

sl_status sli_normalizer_read(sli_normalizer *z, const json_t *value, sl_error *err);
/* Normalises text in place. *stripped: what now stands first does not come from the first character. */
sl_status sli_normalizer_run(const sli_normalizer *z, sli_text *text, int *stripped, sl_error *err);
void sli_normalizer_free(sli_normalizer *z);

/* ---- tokenizer_pretokenize.c ------------------------------------------------------------------------------------ */

typedef struct sli_cut_step sli_cut_step;
typedef struct sli_pretokenizer {
    sli_cut_step *steps;
    size_t n, cap;
} sli_pretokenizer;

sl_status sli_pretokenizer_read(sli_pretokenizer *p, const json_t *value, sl_error *err);
/* Cuts and rewrites the parts that are still text. */
sl_status sli_pretokenizer_run(const sli_pretokenizer *p, sli_text *text, sli_parts *parts, sl_error *err);
void sli_pretokenizer_free(sli_pretokenizer *p);

/* ---- tokenizer_bpe.c: words to tokens --------------------------------------------------------------------------- */

typedef struct sli_bpe {
    sli_vocab vocab;
    sli_merges merges;
    int32_t unk; /* -1: unknown characters vanish */
    int fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_id[256]; /* of "<0x00>" ...; -1 = not in the vocabulary */
    int32_t char_id[512]; /* of the first code points, so that most characters need no search */
} sli_bpe;

typedef struct sli_bpe_work {
    struct sli_bpe_symbol *symbols;
    size_t n, symbol_cap;
    struct sli_bpe_entry *heap;
    size_t heap_n, heap_cap;
} sli_bpe_work;

void sli_bpe_index_chars(sli_bpe *bpe); /* fills byte_id and char_id from the model's vocabulary */
/* Appends the tokens of one word. Linear but for a logarithm, whatever the length. */
sl_status sli_bpe_word(const sli_bpe *bpe, const char *word, size_t len, sli_bpe_work *work, sli_ids *out);
void sli_bpe_work_free(sli_bpe_work *work);

/* ---- tokenizer_decode.c ----------------------------------------------------------------------------------------- */

typedef struct sli_decode_step sli_decode_step;
typedef struct sli_decoder {
    sli_decode_step *steps;
    size_t n, cap;
} sli_decoder;

sl_status sli_decoder_read(sli_decoder *d, const json_t *value, sl_error *err);
void sli_decoder_free(sli_decoder *d);

/* ---- the whole -------------------------------------------------------------------------------------------------- */

struct sli_tokenizer {
    char *name; /* for messages */
    sli_added added;
    sli_normalizer normalizer;
    sli_pretokenizer pretokenizer;
    sli_bpe bpe;
    sli_ids before, after; /* what the post-processor puts around a text */
    sli_decoder decoder;
    int32_t bos, eos;
    char *chat_template;
};

#endif
