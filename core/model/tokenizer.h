/* Tokenizers read from a Hugging Face tokenizer.json: text to token ids and back.
 *
 * BPE models only: byte-level (GPT-2, Llama 3, Qwen) and SentencePiece-style with byte fallback (Llama 2, Mistral).
 * Ids are those of the `tokenizers` library; whatever component of a file is not known here is refused by name. Known
 * differences: character classes and normal forms are those of the Unicode versions of PCRE2 and utf8proc; special
 * tokens with "normalized" are skipped in decoding like all others (0.23 leaves them in); truncation, padding and
 * dropout are not applied. A tokenizer is immutable once open: any number of threads may encode and decode with it. */
#ifndef SLUICE_CORE_TOKENIZER_H
#define SLUICE_CORE_TOKENIZER_H

#include "sl_error.h"

typedef struct sli_tokenizer sli_tokenizer;

/* A growing list of token ids. Zero-initialise; sli_ids_free when done. */
typedef struct sli_ids {
    int32_t *data;
    size_t n, cap;
} sli_ids;
sl_status sli_ids_add(sli_ids *ids, int32_t id); /* SL_E_NO_MEMORY leaves the list as it was */
void sli_ids_free(sli_ids *ids);

/* `path` is a tokenizer.json or a directory that holds one. tokenizer_config.json and chat_template.jinja beside it are
 * read when they exist. Errors: SL_E_NOT_FOUND, SL_E_IO, SL_E_DATA (damaged; line and column of broken JSON, the name
 * of the entry otherwise), SL_E_UNIMPLEMENTED (a component that is not known). *out is created only on SL_OK. */
sl_status sli_tokenizer_open(const char *path, sli_tokenizer **out, sl_error *err);

/* The same from memory: the text of tokenizer.json, and of tokenizer_config.json or NULL. `name` stands in messages. */
sl_status sli_tokenizer_open_memory(const char *name, const char *json, size_t len, const char *config,
                                    size_t config_len, sli_tokenizer **out, sl_error *err);
void sli_tokenizer_close(sli_tokenizer *tok); /* NULL is legal */

enum {
    SLI_ADD_SPECIAL = 1u << 0,  /* encode: put the tokens of the post-processor around the text (usually bos) */
    SLI_PARSE_SPECIAL = 1u << 1 /* encode: special tokens spelled in the text become ids; without it they are text */
};

/* Appends the ids of `len` bytes of text. NUL bytes are text like any other; bytes that are not UTF-8 count as U+FFFD,
 * one for each maximal invalid part. The list is unchanged on failure. */
sl_status sli_tokenizer_encode(const sli_tokenizer *tok, const char *text, size_t len, unsigned flags, sli_ids *ids,
                               sl_error *err);

enum { SLI_SKIP_SPECIAL = 1u << 0 }; /* decode: leave special tokens out */

/* The text of n ids as created, NUL-terminated, always valid UTF-8 (free with sli_free); *len does not count the NUL.
 * Ids without a token (padding of the embedding) give nothing. */
sl_status sli_tokenizer_decode(const sli_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, char **text,
                               size_t *len, sl_error *err);

/* Decoding as tokens arrive. What push and flush hand out, put together, is exactly what decode gives for all ids;
 * bytes whose meaning a later token may change (a split code point, a run of byte tokens, a space that may be stripped)
 * are held back until it is known. */
typedef struct sli_token_stream sli_token_stream;
sl_status sli_token_stream_open(const sli_tokenizer *tok, unsigned flags, sli_token_stream **out, sl_error *err);
/* *text is borrowed until the next call on this stream; complete UTF-8, may be empty. */
sl_status sli_token_stream_push(sli_token_stream *s, int32_t id, const char **text, size_t *len, sl_error *err);
/* Hands out what was held back; the stream then starts anew. */
sl_status sli_token_stream_flush(sli_token_stream *s, const char **text, size_t *len, sl_error *err);
void sli_token_stream_close(sli_token_stream *s); /* NULL is legal */

int32_t sli_tokenizer_vocab_size(const sli_tokenizer *tok); /* largest id + 1 */
/* The token as spelled in the file (not decoded), borrowed from the tokenizer; NULL when there is no such id. */
const char *sli_tokenizer_piece(const sli_tokenizer *tok, int32_t id, size_t *len);
int32_t sli_tokenizer_find(const sli_tokenizer *tok, const char *piece, size_t len); /* -1: none */
int sli_tokenizer_is_special(const sli_tokenizer *tok, int32_t id);
int32_t sli_tokenizer_bos(const sli_tokenizer *tok); /* of tokenizer_config.json; -1: none */
int32_t sli_tokenizer_eos(const sli_tokenizer *tok);
const char *sli_tokenizer_chat_template(const sli_tokenizer *tok); /* Jinja source, borrowed; NULL: none */

/* SL_OK when both have the same tokens with the same ids; SL_E_DATA with the first difference otherwise. */
sl_status sli_tokenizer_same(const sli_tokenizer *a, const sli_tokenizer *b, sl_error *err);

#endif
