/* What needles are hidden in; see gen.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "gen.h"

void gen_say(gen_needle *needle, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(needle->sentence, sizeof needle->sentence, fmt, ap);
    va_end(ap);
}

void gen_chains(gen_random *r, const int32_t *chain_of, int n, char (*names)[GEN_KEY], char (*numbers)[GEN_KEY],
                gen_needle *needles) {
    for (int i = 0; i < n; i++) {
        int before = i - 1;
        while (before >= 0 && chain_of[before] != chain_of[i])
            before--;
        needles[i].depth = gen_depth(r, i, n);
        gen_say(&needles[i], "VAR %s = %s%s.", names[i], before < 0 ? "" : "VAR ",
                before < 0 ? numbers[chain_of[i]] : names[before]);
    }
}

/* The end of the sentence that begins at or after `at`: behind its full stop. */
static size_t sentence_end(const char *text, size_t bytes, size_t at) {
    while (at + 1 < bytes && !(text[at] == '.' && isspace((unsigned char)text[at + 1])))
        at++;
    return at + 1 < bytes ? at + 1 : bytes;
}

void gen_around(gen_context *c, const gen_source *s, size_t at, size_t n) {
    while (n > 0) {
        size_t from = at % s->bytes, part = n < s->bytes - from ? n : s->bytes - from;
        gen_bytes(c, s->text + from, part);
        at += part;
        n -= part;
    }
}

static void essay(gen_context *c, const gen_source *s, gen_random *r, size_t size, gen_needle *needles, int n) {
    size_t first = sentence_end(s->text, s->bytes, gen_draw(r, s->bytes)), at = 0, begin = c->length;
    first += first < s->bytes && s->text[first] == ' ';
    for (int i = 0; i < n; i++) {
        size_t place = (size_t)(needles[i].depth * (double)size), stop = place > at ? place : at;
        size_t from = (first + stop) % s->bytes, end = sentence_end(s->text, s->bytes, from);
        stop += end - from;
        stop = stop < size ? stop : size;
        stop = stop > at ? stop : at;
        gen_around(c, s, first + at, stop - at);
        at = stop;
        needles[i].depth = (double)(c->length - begin);
        gen_text(c, " %s", needles[i].sentence);
    }
    gen_around(c, s, first + at, size - at);
    for (int i = 0; i < n; i++)
        needles[i].depth /= (double)(c->length - begin + 1);
}

static void lines(gen_context *c, gen_random *r, int64_t size, gen_needle *needles, int n,
                  void (*line)(gen_random *r, char *out, size_t cap)) {
    char text[192] = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
    int next = 0;
    size_t begin = c->length;
    for (int64_t i = 0; i <= size; i++) {
        for (; next < n && (needles[next].depth * (double)size <= (double)i || i == size); next++) {
            needles[next].depth = (double)(c->length - begin);
            gen_text(c, "%s\n", needles[next].sentence);
        }
        if (line != NULL && i < size)
            line(r, text, sizeof text);
        if (i < size)
            gen_text(c, "%s\n", text);
    }
    for (int i = 0; i < n; i++)
        needles[i].depth /= (double)(c->length - begin + 1);
}

void gen_hay(gen_context *c, const gen_source *source, gen_random *r, gen_hay_kind kind, int64_t size,
             gen_needle *needles, int n, void (*line)(gen_random *r, char *out, size_t cap)) {
    if (kind == GEN_ESSAY)
        essay(c, source, r, (size_t)size, needles, n);
    else
        lines(c, r, size, needles, n, kind == GEN_LINES ? line : NULL);
}
