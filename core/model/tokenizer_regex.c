/* See tokenizer_regex.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer_regex.h"

#include "base/ledger.h"

#include <pcre2.h>
#include <stdio.h>
#include <string.h>

static void *ledger_malloc(size_t n, void *unused) {
    (void)unused;
    return sli_alloc(SLI_TAG_MISC, n);
}
static void ledger_free(void *p, void *unused) {
    (void)unused;
    sli_free(p);
}

/* ---- from Oniguruma to PCRE2 ------------------------------------------------------------------------------------- *
 * With that, the classes agree on every code point of the Unicode version that PCRE2 was built with (14 in 10.42). */

/* White_Space: PCRE2's own \s has U+180E in addition. */
#define SPACE "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                                      \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"        \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* PCRE2's own \w has no marks; Oniguruma's has the superscripts and fractions of Latin-1. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEX "0-9a-fA-F"

/* Escapes that mean something else in PCRE2: inside a class, and outside. NULL: cannot be written. */
static const struct {
    char letter;
    const char *inside, *outside;
} escapes[] = {
    {'s', SPACE, "[" SPACE "]"}, {'S', NOT_SPACE, "[^" SPACE "]"},
    {'w', WORD, "[" WORD "]"},   {'W', NULL, "[^" WORD "]"},
    {'h', HEX, "[" HEX "]"},     {'H', NULL, "[^" HEX "]"},
    {'b', NULL, NULL},           {'B', NULL, NULL},
};

static sl_status refuse(const char *source, size_t len, const char *what, size_t at, sl_error *err) {
    return sl_fail(err, SL_E_UNIMPLEMENTED, "regular expression '%.*s': %s at byte %zu is not supported",
                   (int)(len < 200 ? len : 200), source, what, at);
}

static int compiles(const char *pattern) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    pcre2_code_free(re);
    return re != NULL;
}

/* \p{Han} means the Script property in Oniguruma and Script_Extensions in PCRE2, which has "sc:" for the former. */
static sl_status rewrite_property(const char *source, size_t len, size_t *i, sli_text *out, sl_error *err) {
    const char *open = source + *i + 2;
    const char *close = *i + 2 < len && *open == '{' ? memchr(open, '}', len - *i - 2) : NULL;
    if (close == NULL)
        return refuse(source, len, "a property without braces", *i, err);
    size_t name = (size_t)(close - open - 1);
    int negative = name > 0 && open[1] == '^';
    char script[80];
    int fits = snprintf(script, sizeof script, "\\%c{%ssc:%.*s}", source[*i + 1], negative ? "^" : "",
                        (int)(name < 60 ? name - (size_t)negative : 0), open + 1 + negative);
    const char *whole = source + *i;
    size_t whole_len = (size_t)(close - whole) + 1;
    *i += whole_len;
    if (name > 2 && fits > 0 && compiles(script))
        return sli_text_add(out, script, (size_t)fits);
    return sli_text_add(out, whole, whole_len);
}

static sl_status rewrite_escape(const char *source, size_t len, size_t *i, int in_class, sli_text *out, sl_error *err) {
    if (*i + 1 >= len)
        return refuse(source, len, "a backslash at the end", *i, err);
    char c = source[*i + 1];
    if (c == 'p' || c == 'P')
        return rewrite_property(source, len, i, out, err);
    for (size_t k = 0; k < sizeof escapes / sizeof *escapes; k++) {
        if (escapes[k].letter != c)
            continue;
        const char *text = in_class ? escapes[k].inside : escapes[k].outside;
        if (text == NULL)
            return refuse(source, len, in_class ? "an escape inside a class" : "a word boundary", *i, err);
        *i += 2;
        return sli_text_add(out, text, strlen(text));
    }
    *i += 2;
    return sli_text_add(out, source + *i - 2, 2);
}

/* A group's options: 'm' is "dot matches newline" in Ruby. */
static int has_option_m(const char *source, size_t len, size_t i) {
    for (; i < len && ((source[i] >= 'a' && source[i] <= 'z') || source[i] == '-'); i++)
        if (source[i] == 'm')
            return 1;
    return 0;
}

static sl_status rewrite(const char *source, size_t len, sli_text *out, sl_error *err) {
    int in_class = 0, after_braces = 0;
    for (size_t i = 0; i < len;) {
        char c = source[i];
        if (c == '\\') {
            SL_TRY(rewrite_escape(source, len, &i, in_class, out, err));
            after_braces = 0;
            continue;
        }
        if (in_class && c == '[')
            return refuse(source, len, "a class inside a class", i, err);
        if (in_class && c == '&' && i + 1 < len && source[i + 1] == '&')
            return refuse(source, len, "an intersection of classes", i, err);
        if (!in_class && c == '+' && after_braces)
            return refuse(source, len, "a quantifier after {n,m}", i, err);
        if (!in_class && c == '(' && i + 2 < len && source[i + 1] == '?' && has_option_m(source, len, i + 2))
            return refuse(source, len, "option m", i, err);
        after_braces = !in_class && c == '}';
        if (c == '[')
            in_class = 1;
        else if (c == ']')
            in_class = 0;
        SL_TRY(sli_text_add(out, source + i, 1));
        i++;
    }
    return SL_OK;
}

static pcre2_code *compile(const sli_text *pattern, pcre2_general_context *general, int *code, size_t *at) {
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    if (context == NULL) {
        *code = PCRE2_ERROR_NOMEMORY;
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C; /* no half characters */
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len, options, code, at, context);
    pcre2_compile_context_free(context);
    return re;
}

sl_status sli_pattern_regex(const char *source, size_t len, sli_pattern *out, sl_error *err) {
    *out = (sli_pattern){0};
    sli_text pattern = {0};
    pcre2_general_context *general = NULL;
    sl_status status = rewrite(source, len, &pattern, err);
    if (status == SL_OK && (general = pcre2_general_context_create(ledger_malloc, ledger_free, NULL)) == NULL)
        status = SL_E_NO_MEMORY;
    if (status == SL_OK) {
        int code;
        size_t at;
        pcre2_code *re = compile(&pattern, general, &code, &at);
        if (re == NULL && code == PCRE2_ERROR_NOMEMORY) {
            status = SL_E_NO_MEMORY;
        } else if (re == NULL) {
            char message[160] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
            status =
                sl_fail(err, SL_E_DATA, "regular expression '%.*s': %s", (int)(len < 200 ? len : 200), source, message);
        } else {
            pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
            out->regex = re;
        }
    }
    pcre2_general_context_free(general);
    sli_text_free(&pattern);
    return status;
}

sl_status sli_pattern_literal(const char *text, size_t len, sli_pattern *out, sl_error *err) {
    *out = (sli_pattern){0};
    if (len == 0)
        return sl_fail(err, SL_E_DATA, "the string to look for is empty");
    if ((out->literal = sli_alloc(SLI_TAG_MISC, len)) == NULL)
        return SL_E_NO_MEMORY;
    memcpy(out->literal, text, len);
    out->literal_len = len;
    return SL_OK;
}

void sli_pattern_free(sli_pattern *p) {
    sli_free(p->literal);
    pcre2_code_free(p->regex);
    *p = (sli_pattern){0};
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

void sli_spans_free(sli_spans *spans) {
    sli_free(spans->data);
    pcre2_match_data_free(spans->match_data);
    *spans = (sli_spans){0};
}

static sl_status add_span(sli_spans *spans, size_t start, size_t end, int match) {
    if (!sli_grow(&spans->data, spans->n, &spans->cap, sizeof *spans->data))
        return SL_E_NO_MEMORY;
    spans->data[spans->n++] = (sli_span){start, end, match};
    return SL_OK;
}

static sl_status cut_class(const sli_pattern *p, const char *text, size_t len, sli_spans *spans) {
    size_t done = 0;
    for (size_t i = 0, used; i < len; i += used) {
        uint32_t c;
        used = sli_utf8_next(text + i, len - i, &c);
        if (!p->is_member(c))
            continue;
        if (done < i)
            SL_TRY(add_span(spans, done, i, 0));
        SL_TRY(add_span(spans, i, i + used, 1));
        done = i + used;
    }
    return done < len ? add_span(spans, done, len, 0) : SL_OK;
}

static sl_status cut_literal(const sli_pattern *p, const char *text, size_t len, sli_spans *spans) {
    size_t done = 0;
    while (done < len) {
        const char *hit = memmem(text + done, len - done, p->literal, p->literal_len);
        if (hit == NULL)
            return add_span(spans, done, len, 0);
        size_t at = (size_t)(hit - text);
        if (done < at)
            SL_TRY(add_span(spans, done, at, 0));
        SL_TRY(add_span(spans, at, at + p->literal_len, 1));
        done = at + p->literal_len;
    }
    return SL_OK;
}

static sl_status cut_regex(const sli_pattern *p, const char *text, size_t len, sli_spans *spans, sl_error *err) {
    if (spans->match_data == NULL) {
        pcre2_general_context *general = pcre2_general_context_create(ledger_malloc, ledger_free, NULL);
        if (general == NULL || (spans->match_data = pcre2_match_data_create(1, general)) == NULL) {
            pcre2_general_context_free(general);
            return SL_E_NO_MEMORY;
        }
        pcre2_general_context_free(general);
    }
    /* done: up to where spans stand; from: where the search goes on. An empty match right behind the last one is not
     * taken, the search steps over a character instead. */
    size_t done = 0, from = 0;
    int any = 0;
    while (from <= len) {
        int rc = pcre2_match(p->regex, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, spans->match_data, NULL);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(p->regex, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                             spans->match_data, NULL);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc == PCRE2_ERROR_NOMEMORY)
            return SL_E_NO_MEMORY;
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(spans->match_data);
        if (rc < 0 || at[0] > at[1])
            return sl_fail(err, SL_E_DATA, "searching with the tokenizer's regular expression failed (PCRE2 code %d)",
                           rc);
        size_t start = at[0], end = at[1];
        if (start == end && any && start == done) {
            uint32_t c;
            from += from < len ? sli_utf8_next(text + from, len - from, &c) : 1;
            continue;
        }
        if (done < start)
            SL_TRY(add_span(spans, done, start, 0));
        SL_TRY(add_span(spans, start, end, 1));
        done = from = end;
        any = 1;
    }
    return done < len ? add_span(spans, done, len, 0) : SL_OK;
}

sl_status sli_pattern_cut(const sli_pattern *p, const char *text, size_t len, sli_spans *spans, sl_error *err) {
    spans->n = 0;
    if (len == 0)
        return SL_OK;
    if (p->is_member != NULL)
        return cut_class(p, text, len, spans);
    if (p->literal != NULL)
        return cut_literal(p, text, len, spans);
    return cut_regex(p, text, len, spans, err);
}
