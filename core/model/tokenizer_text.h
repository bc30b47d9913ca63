/* Text as the tokenizer needs it: growing buffers, UTF-8, character classes, the byte alphabet of byte-level BPE. */
#ifndef SLUICE_CORE_TOKENIZER_TEXT_H
#define SLUICE_CORE_TOKENIZER_TEXT_H

#include "sl_error.h"

/* A growing run of bytes; zero-initialise. */
typedef struct sli_text {
    char *data;
    size_t len, cap;
} sli_text;
sl_status sli_text_add(sli_text *t, const char *bytes, size_t n);
sl_status sli_text_add_char(sli_text *t, uint32_t c);
void sli_text_free(sli_text *t);

/* Makes room for one more element of `size` bytes in an array of *cap elements that holds n; 0 when there is no memory.
 * The array is at *data. */
int sli_grow(void *data, size_t n, size_t *cap, size_t size);

/* Reads one code point at s (n > 0 bytes left) and sets *used.
 * 1: valid, *c is set. 0: invalid, *used covers the maximal part that is replaced by one U+FFFD.
 * -1: the n bytes are the beginning of a code point and more are needed; *used = n. */
int sli_utf8_read(const char *s, size_t n, uint32_t *c, size_t *used);
/* The same for text that is known to be valid; returns the bytes used. */
size_t sli_utf8_next(const char *s, size_t n, uint32_t *c);
size_t sli_utf8_write(uint32_t c, char out[4]);
int sli_utf8_valid(const char *s, size_t n);
/* Appends s with every invalid part replaced by U+FFFD. */
sl_status sli_utf8_clean(const char *s, size_t n, sli_text *out);
#define SLI_REPLACEMENT "\xef\xbf\xbd"

/* Classes as the `tokenizers` library has them (those of Rust's char). */
int sli_is_space(uint32_t c);   /* White_Space */
int sli_is_numeric(uint32_t c); /* Nd, Nl, No */
int sli_is_punct(uint32_t c);   /* P* and ASCII punctuation */
int sli_is_word(uint32_t c);    /* \w: Alphabetic, M, Nd, Pc, Join_Control */

/* The byte alphabet: every byte has a printable code point below 512. */
uint32_t sli_byte_char(unsigned byte);
int sli_char_byte(uint32_t c); /* -1: not in the alphabet */

#endif
