/* See lists.h. */
#include "config/lists.h"

#include <stdlib.h>
#include <string.h>

static sl_status no_memory(sl_error *err) { return sl_fail(err, SL_E_NO_MEMORY, "no memory for the configuration"); }

/* Number at *at made of the given bytes and ended by one of `ends` or the end of the text. */
static int number(const char **at, const char *bytes, const char *ends, double *out) {
    *at += strspn(*at, " \t");
    size_t n = strspn(*at, bytes);
    char *end;
    *out = strtod(*at, &end);
    int ok = n > 0 && end == *at + n;
    *at += n;
    *at += strspn(*at, " \t");
    return ok && (**at == 0 || strchr(ends, **at) != NULL);
}

sl_status sli_parse_biases(sli_arena *pool, const char *text, const sli_bias **out, int *n, sl_error *err) {
    *out = NULL, *n = 0;
    if (text == NULL || text[strspn(text, " \t")] == 0)
        return SL_OK;
    int count = 1;
    for (const char *c = text; *c != 0; c++)
        count += *c == ',';
    sli_bias *list = sli_arena_alloc(pool, (size_t)count * sizeof *list);
    if (list == NULL)
        return no_memory(err);
    for (int i = 0; i < count; i++) {
        double token, bias;
        if (!number(&text, "0123456789", ":", &token) || *text++ != ':' || token > INT32_MAX)
            return sl_fail(err, SL_E_INVALID, "element %d: expected token:bias with a token id of 0 or more", i + 1);
        if (!number(&text, "+-.eE0123456789", ",", &bias) || !(bias >= -100 && bias <= 100))
            return sl_fail(err, SL_E_INVALID, "element %d: expected token:bias with a bias of -100 to 100", i + 1);
        text += *text == ',';
        list[i] = (sli_bias){(int32_t)token, (float)bias};
        for (int k = 0; k < i; k++)
            if (list[k].token == list[i].token)
                return sl_fail(err, SL_E_INVALID, "element %d: token %d has a bias already", i + 1, (int)list[i].token);
    }
    *out = list, *n = count;
    return SL_OK;
}

static int hex(char c) {
    const char *digits = "0123456789abcdef", *at = c != 0 ? strchr(digits, c | 0x20) : NULL;
    return at == NULL ? -1 : (int)(at - digits);
}

/* One escape behind the backslash at *at, or -1. */
static int escape(const char **at) {
    static const char from[] = "ntr\\|", to[] = "\n\t\r\\|";
    char c = *(*at)++;
    const char *plain = c != 0 ? strchr(from, c) : NULL;
    if (plain != NULL)
        return to[plain - from];
    if (c != 'x' || hex((*at)[0]) < 0 || hex((*at)[1]) < 0)
        return -1;
    int byte = hex((*at)[0]) * 16 + hex((*at)[1]);
    *at += 2;
    return byte > 0 ? byte : -1;
}

sl_status sli_parse_stops(sli_arena *pool, const char *text, const char *const **out, int *n, sl_error *err) {
    *out = NULL, *n = 0;
    if (text == NULL || text[0] == 0)
        return SL_OK;
    size_t most = 1; /* separators that are escaped count too: an upper bound */
    for (const char *c = text; *c != 0; c++)
        most += *c == '|';
    const char **list = sli_arena_alloc(pool, most * sizeof *list);
    char *write = sli_arena_alloc(pool, strlen(text) + 1);
    if (list == NULL || write == NULL)
        return no_memory(err);
    for (int i = 0;; i++) {
        list[i] = write;
        while (*text != 0 && *text != '|') {
            int c = (unsigned char)*text++;
            if (c == '\\' && (c = escape(&text)) < 0)
                return sl_fail(err, SL_E_INVALID,
                               "stop string %d: unknown escape; there are \\n \\t \\r \\\\ \\| and \\xHH", i + 1);
            *write++ = (char)c;
        }
        if (write == list[i])
            return sl_fail(err, SL_E_INVALID, "stop string %d is empty (\"|\" separates, \"\\|\" is a bar)", i + 1);
        *write++ = 0;
        *n = i + 1;
        if (*text++ == 0)
            break;
    }
    *out = list;
    return SL_OK;
}
