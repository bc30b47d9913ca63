/* Added tokens: found in the text before anything else cuts it, leftmost first and the longest of those.
 *
 * Tokens are sorted by their bytes; at each place of the text the range of tokens that begin with what stands there is
 * narrowed byte by byte. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <stdlib.h>
#include <string.h>

sl_status sli_parts_add(sli_parts *parts, size_t at, size_t len, int32_t id, int first) {
    if (len == 0 && id < 0)
        return SL_OK;
    if (!sli_grow(&parts->data, parts->n, &parts->cap, sizeof *parts->data))
        return SL_E_NO_MEMORY;
    parts->data[parts->n++] = (sli_part){at, len, id, first};
    return SL_OK;
}

static int by_text(const void *a, const void *b, void *tokens) {
    const sli_added_token *x = (const sli_added_token *)tokens + *(const int32_t *)a;
    const sli_added_token *y = (const sli_added_token *)tokens + *(const int32_t *)b;
    int c = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    return c != 0 ? c : (x->len > y->len) - (x->len < y->len);
}

sl_status sli_added_sort(sli_added *a) {
    for (int set = 0; set < 2; set++) {
        if ((a->sorted[set] = sli_calloc(SLI_TAG_MISC, a->n, sizeof **a->sorted)) == NULL)
            return SL_E_NO_MEMORY;
        for (size_t i = 0; i < a->n; i++)
            if (a->tokens[i].normalized == set && a->tokens[i].len > 0)
                a->sorted[set][a->count[set]++] = (int32_t)i;
        qsort_r(a->sorted[set], a->count[set], sizeof **a->sorted, by_text, a->tokens);
    }
    return SL_OK;
}

/* The first token in [low, high) whose byte at `depth` is not below `byte` (ends sort first). */
static size_t lower(const sli_added *a, const int32_t *sorted, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const sli_added_token *t = &a->tokens[sorted[middle]];
        if ((t->len > depth ? (unsigned char)t->text[depth] : -1) < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token of a set that stands at s; NULL when there is none. */
static const sli_added_token *longest(const sli_added *a, int set, const char *s, size_t n) {
    const int32_t *sorted = a->sorted[set];
    const sli_added_token *best = NULL;
    size_t low = 0, high = a->count[set];
    for (size_t depth = 0; low < high; depth++) {
        const sli_added_token *t = &a->tokens[sorted[low]];
        if (depth > 0 && t->len == depth)
            best = t;
        if (depth == n)
            break;
        int byte = (unsigned char)s[depth];
        low = lower(a, sorted, low, high, depth, byte);
        high = lower(a, sorted, low, high, depth, byte + 1);
    }
    return best;
}

static size_t before(const char *s, size_t end) { /* where the character that ends at `end` begins */
    do
        end--;
    while (end > 0 && ((unsigned char)s[end] & 0xc0) == 0x80);
    return end;
}

static uint32_t char_at(const char *s, size_t n, size_t i) {
    uint32_t c;
    sli_utf8_next(s + i, n - i, &c);
    return c;
}

/* A single_word token must not touch a letter or digit. */
static int is_alone(const char *s, size_t n, size_t start, size_t end) {
    return (start == 0 || !sli_is_word(char_at(s, n, before(s, start)))) &&
           (end == n || !sli_is_word(char_at(s, n, end)));
}

sl_status sli_added_cut(const sli_added *a, int normalized, int skip_special, const char *text, size_t at, size_t len,
                        int first, sli_parts *parts) {
    const char *s = text + at;
    size_t done = 0;
    for (size_t i = 0; a->count[normalized] > 0 && i < len;) {
        const sli_added_token *t = longest(a, normalized, s + i, len - i);
        if (t == NULL) {
            i++; /* tokens are whole characters: none can match inside one */
            continue;
        }
        size_t start = i, end = i + t->len;
        i = end;
        if ((skip_special && t->special) || (t->single_word && !is_alone(s, len, start, end)))
            continue;
        if (t->lstrip) {
            while (start > 0 && sli_is_space(char_at(s, len, before(s, start))))
                start = before(s, start);
            if (start < done) /* the token before already took those spaces */
                start = done;
        }
        if (t->rstrip)
            for (uint32_t c; end < len && sli_is_space(c = char_at(s, len, end));)
                end += sli_utf8_next(s + end, len - end, &c);
        if (done < start)
            SL_TRY(sli_parts_add(parts, at + done, start - done, -1, first && done == 0));
        SL_TRY(sli_parts_add(parts, at + start, end - start, t->id, first && start == 0));
        done = end;
    }
    return done < len ? sli_parts_add(parts, at + done, len - done, -1, first && done == 0) : SL_OK;
}

void sli_added_free(sli_added *a) {
    for (size_t i = 0; i < a->n; i++)
        sli_free(a->tokens[i].text);
    sli_free(a->tokens);
    for (int set = 0; set < 2; set++)
        sli_free(a->sorted[set]);
    *a = (sli_added){0};
}
