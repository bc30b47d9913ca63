/* What pre-tokenizers and normalizers search for: a literal, a regular expression, or a class of characters. */
#ifndef SLUICE_CORE_TOKENIZER_REGEX_H
#define SLUICE_CORE_TOKENIZER_REGEX_H

#include "tokenizer_text.h"

/* Exactly one of literal (length > 0), regex and is_member is set. */
typedef struct sli_pattern {
    char *literal;
    size_t literal_len;
    void *regex; /* pcre2_code */
    int (*is_member)(uint32_t c);
} sli_pattern;

/* Regular expressions are written for Oniguruma (Ruby syntax) in tokenizer.json; they are rewritten for PCRE2 so that
 * \s, \w, \h and script names mean the same. What cannot be rewritten is refused with SL_E_UNIMPLEMENTED. */
sl_status sli_pattern_regex(const char *source, size_t len, sli_pattern *out, sl_error *err);
sl_status sli_pattern_literal(const char *text, size_t len, sli_pattern *out, sl_error *err);
void sli_pattern_free(sli_pattern *p);

/* Consecutive parts of a text, matches and what lies between them. Zero-initialise; reuse; free. */
typedef struct sli_span {
    size_t start, end;
    int match;
} sli_span;
typedef struct sli_spans {
    sli_span *data;
    size_t n, cap;
    void *match_data; /* pcre2_match_data, kept between searches */
} sli_spans;
void sli_spans_free(sli_spans *spans);

/* Cuts the whole text (valid UTF-8) into spans, replacing what the list held. An empty text gives no span. */
sl_status sli_pattern_cut(const sli_pattern *p, const char *text, size_t len, sli_spans *spans, sl_error *err);

#endif
