/* See tokenizer_text.h. */
#include "tokenizer_text.h"

#include "base/ledger.h"

#include <string.h>
#include <utf8proc.h>

int sli_grow(void *data, size_t n, size_t *cap, size_t size) {
    if (n < *cap)
        return 1;
    size_t want = *cap < 16 ? 16 : *cap;
    if (want > SIZE_MAX / 2 / size)
        return 0;
    want *= 2;
    void *old;
    memcpy(&old, data, sizeof old);
    void *grown = sli_realloc(SLI_TAG_MISC, old, want * size);
    if (grown == NULL)
        return 0;
    memcpy(data, &grown, sizeof grown);
    *cap = want;
    return 1;
}

sl_status sli_text_add(sli_text *t, const char *bytes, size_t n) {
    if (n > t->cap - t->len || t->data == NULL) { /* never NULL afterwards, even for nothing */
        size_t want = t->cap < 64 ? 64 : t->cap;
        while (want - t->len < n) {
            if (want > SIZE_MAX / 2)
                return SL_E_NO_MEMORY;
            want *= 2;
        }
        char *grown = sli_realloc(SLI_TAG_MISC, t->data, want);
        if (grown == NULL)
            return SL_E_NO_MEMORY;
        t->data = grown;
        t->cap = want;
    }
    if (n > 0)
        memcpy(t->data + t->len, bytes, n);
    t->len += n;
    return SL_OK;
}

sl_status sli_text_add_char(sli_text *t, uint32_t c) {
    char bytes[4];
    return sli_text_add(t, bytes, sli_utf8_write(c, bytes));
}

void sli_text_free(sli_text *t) {
    sli_free(t->data);
    *t = (sli_text){0};
}

/* Table 3-7 of the Unicode standard: lead byte, its length, and the range of the second byte. */
static int lead(unsigned b, unsigned *low, unsigned *high) {
    *low = 0x80, *high = 0xbf;
    if (b >= 0xc2 && b <= 0xdf)
        return 2;
    if (b >= 0xe0 && b <= 0xef) {
        *low = b == 0xe0 ? 0xa0 : 0x80;
        *high = b == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    if (b >= 0xf0 && b <= 0xf4) {
        *low = b == 0xf0 ? 0x90 : 0x80;
        *high = b == 0xf4 ? 0x8f : 0xbf;
        return 4;
    }
    return 0;
}

int sli_utf8_read(const char *s, size_t n, uint32_t *c, size_t *used) {
    unsigned b = (unsigned char)s[0], low, high;
    *used = 1;
    if (b < 0x80) {
        *c = b;
        return 1;
    }
    int length = lead(b, &low, &high);
    if (length == 0)
        return 0;
    uint32_t value = b & (0x7fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n) {
            *used = n;
            return -1;
        }
        unsigned next = (unsigned char)s[i];
        if (next < low || next > high) {
            *used = (size_t)i;
            return 0;
        }
        value = value << 6 | (next & 0x3f);
        low = 0x80, high = 0xbf;
    }
    *used = (size_t)length;
    *c = value;
    return 1;
}

size_t sli_utf8_next(const char *s, size_t n, uint32_t *c) {
    size_t used;
    if (sli_utf8_read(s, n, c, &used) != 1)
        *c = 0xfffd;
    return used;
}

size_t sli_utf8_write(uint32_t c, char out[4]) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

int sli_utf8_valid(const char *s, size_t n) {
    uint32_t c;
    for (size_t i = 0, used; i < n; i += used)
        if (sli_utf8_read(s + i, n - i, &c, &used) != 1)
            return 0;
    return 1;
}

sl_status sli_utf8_clean(const char *s, size_t n, sli_text *out) {
    size_t clean = 0; /* s[clean, i) is valid and not yet copied */
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t c;
        if (sli_utf8_read(s + i, n - i, &c, &used) == 1)
            continue;
        SL_TRY(sli_text_add(out, s + clean, i - clean));
        SL_TRY(sli_text_add(out, SLI_REPLACEMENT, 3));
        clean = i + used;
    }
    return sli_text_add(out, s + clean, n - clean);
}

int sli_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

enum { CLASS_LETTER = 1, CLASS_MARK = 2, CLASS_DIGIT = 4, CLASS_NUMBER = 8, CLASS_CONNECTOR = 16, CLASS_PUNCT = 32 };

static const unsigned char classes[] = {
    [UTF8PROC_CATEGORY_LU] = CLASS_LETTER,
    [UTF8PROC_CATEGORY_LL] = CLASS_LETTER,
    [UTF8PROC_CATEGORY_LT] = CLASS_LETTER,
    [UTF8PROC_CATEGORY_LM] = CLASS_LETTER,
    [UTF8PROC_CATEGORY_LO] = CLASS_LETTER,
    [UTF8PROC_CATEGORY_MN] = CLASS_MARK,
    [UTF8PROC_CATEGORY_MC] = CLASS_MARK,
    [UTF8PROC_CATEGORY_ME] = CLASS_MARK,
    [UTF8PROC_CATEGORY_ND] = CLASS_DIGIT | CLASS_NUMBER,
    [UTF8PROC_CATEGORY_NL] = CLASS_LETTER | CLASS_NUMBER, /* Nl is Alphabetic */
    [UTF8PROC_CATEGORY_NO] = CLASS_NUMBER,
    [UTF8PROC_CATEGORY_PC] = CLASS_CONNECTOR | CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PD] = CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PS] = CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PE] = CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PI] = CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PF] = CLASS_PUNCT,
    [UTF8PROC_CATEGORY_PO] = CLASS_PUNCT,
};

static unsigned class_of(uint32_t c) {
    unsigned category = (unsigned)utf8proc_category((utf8proc_int32_t)c);
    return category < sizeof classes ? classes[category] : 0;
}

int sli_is_numeric(uint32_t c) { return (class_of(c) & CLASS_NUMBER) != 0; }

int sli_is_punct(uint32_t c) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126) ||
           (class_of(c) & CLASS_PUNCT) != 0;
}

int sli_is_word(uint32_t c) {
    return (class_of(c) & (CLASS_LETTER | CLASS_MARK | CLASS_DIGIT | CLASS_CONNECTOR)) != 0 || c == 0x200c ||
           c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || /* Other_Alphabetic: circled and squared letters */
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* Bytes that stand for themselves; the others take 256, 257, ... in order. */
static int is_plain(unsigned b) { return (b >= 33 && b <= 126) || (b >= 0xa1 && b != 0xad); }

uint32_t sli_byte_char(unsigned byte) {
    if (is_plain(byte))
        return byte;
    if (byte <= 32)
        return 256 + byte;
    return byte == 0xad ? 256 + 67 : 256 + 33 + byte - 127; /* 127..160, then the soft hyphen */
}

int sli_char_byte(uint32_t c) {
    if (c < 256)
        return is_plain(c) ? (int)c : -1;
    if (c <= 256 + 32)
        return (int)c - 256;
    if (c < 256 + 67)
        return (int)c - 256 - 33 + 127;
    return c == 256 + 67 ? 0xad : -1;
}
