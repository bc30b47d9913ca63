/* See stop.h. What is held back is the longest beginning of a stop string that the text ends with, so the strings
 * themselves are the buffer. */
#include "stop.h"

#include <assert.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_error.h"

typedef struct pattern {
    char *text;
    size_t length;
    size_t *border; /* [length] longest proper prefix of text[0..i] that is also its suffix */
    size_t matched; /* how much of text the input ends with, < length */
} pattern;

struct sli_stop {
    pattern *patterns;
    int32_t n, hit;
    size_t longest;
};

static size_t advance(const pattern *p, size_t matched, char byte) {
    while (matched > 0 && p->text[matched] != byte)
        matched = p->border[matched - 1];
    return matched + (p->text[matched] == byte);
}

static sl_status prepare(pattern *p, const char *text, sl_error *err) {
    p->length = strlen(text);
    if (p->length == 0)
        return sl_fail(err, SL_E_INVALID, "a stop string is empty");
    p->text = sli_strdup(SLI_TAG_MISC, text);
    p->border = sli_calloc(SLI_TAG_MISC, p->length, sizeof *p->border);
    if (p->text == NULL || p->border == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a stop string of %zu bytes", p->length);
    for (size_t i = 1; i < p->length; i++)
        p->border[i] = advance(p, p->border[i - 1], p->text[i]);
    return SL_OK;
}

sl_status sli_stop_create(const char *const *strings, int32_t n, sli_stop **out, sl_error *err) {
    *out = NULL;
    sli_stop *s = sli_alloc(SLI_TAG_MISC, sizeof *s);
    pattern *patterns = sli_calloc(SLI_TAG_MISC, (size_t)(n > 0 ? n : 0), sizeof *patterns);
    if (s == NULL || patterns == NULL) {
        sli_free(s);
        sli_free(patterns);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %d stop strings", n);
    }
    *s = (sli_stop){patterns, n > 0 ? n : 0, -1, 0};
    for (int32_t i = 0; i < n; i++) {
        sl_status status = prepare(&s->patterns[i], strings[i], err);
        if (status < 0) {
            sli_stop_destroy(s);
            return status;
        }
        if (s->patterns[i].length > s->longest)
            s->longest = s->patterns[i].length;
    }
    *out = s;
    return SL_OK;
}

void sli_stop_destroy(sli_stop *s) {
    if (s == NULL)
        return;
    for (int32_t i = 0; i < s->n; i++) {
        sli_free(s->patterns[i].text);
        sli_free(s->patterns[i].border);
    }
    sli_free(s->patterns);
    sli_free(s);
}

void sli_stop_reset(sli_stop *s) {
    for (int32_t i = 0; i < s->n; i++)
        s->patterns[i].matched = 0;
    s->hit = -1;
}

size_t sli_stop_max_held(const sli_stop *s) { return s->longest > 0 ? s->longest - 1 : 0; }

/* The beginning of a stop string that is held back: the longest one that the text ends with. */
static size_t held(const sli_stop *s, const char **text) {
    size_t most = 0;
    for (int32_t i = 0; i < s->n; i++)
        if (s->patterns[i].matched > most) {
            most = s->patterns[i].matched;
            *text = s->patterns[i].text;
        }
    return most;
}

/* Advances all strings by a byte; returns how many bytes of the text the hit (if any) covers. */
static size_t advance_all(sli_stop *s, char byte) {
    size_t covered = 0;
    for (int32_t i = 0; i < s->n; i++) {
        pattern *p = &s->patterns[i];
        p->matched = advance(p, p->matched, byte);
        if (p->matched < p->length)
            continue;
        if (p->length > covered) {
            covered = p->length;
            s->hit = i;
        }
        p->matched = p->border[p->length - 1]; /* stays below length; of no use after the hit */
    }
    return covered;
}

size_t sli_stop_push(sli_stop *s, const char *bytes, size_t n, char *out) {
    if (s->hit >= 0)
        return 0;
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        const char *before = NULL, *after = NULL;
        size_t had = held(s, &before), covered = advance_all(s, bytes[i]);
        size_t kept = covered > 0 ? covered : held(s, &after);
        /* The held text and the new byte, without the end that is still (or for good) held back. */
        assert(kept <= had + 1);
        size_t released = had + 1 - kept, from_held = released < had ? released : had;
        if (from_held > 0)
            memcpy(out + written, before, from_held);
        written += from_held;
        if (released > had)
            out[written++] = bytes[i];
        if (covered > 0)
            return written;
    }
    return written;
}

size_t sli_stop_flush(sli_stop *s, char *out) {
    const char *text = NULL;
    size_t n = s->hit >= 0 ? 0 : held(s, &text);
    if (n > 0)
        memcpy(out, text, n);
    for (int32_t i = 0; i < s->n; i++)
        s->patterns[i].matched = 0;
    return n;
}

int32_t sli_stop_hit(const sli_stop *s) { return s->hit; }
