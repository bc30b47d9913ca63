/* See glob.h. Matching remembers only the last star: an earlier one never needs to be tried again. */
#include "config/glob.h"

#include <stddef.h>

/* End of the set that starts at p = "[", past its "]"; NULL when there is none. A "]" right at the start belongs to it.
 */
static const char *set_end(const char *p) {
    p++;
    if (*p == '!')
        p++;
    if (*p == ']')
        p++;
    while (*p != 0 && *p != ']')
        p++;
    return *p == ']' ? p + 1 : NULL;
}

static int in_set(const char *p, const char *end, unsigned char c) {
    int negated = *++p == '!', found = 0;
    p += negated;
    for (; p < end - 1; p++) {
        unsigned char low = (unsigned char)*p, high = low;
        if (p[1] == '-' && p + 2 < end - 1)
            p += 2, high = (unsigned char)*p;
        found |= c >= low && c <= high;
    }
    return found != negated;
}

/* One pattern element against one byte: the rest of the pattern, or NULL. */
static const char *match_one(const char *p, char c) {
    if (*p == '?')
        return p + 1;
    const char *end = *p == '[' ? set_end(p) : NULL;
    if (end != NULL)
        return in_set(p, end, (unsigned char)c) ? end : NULL;
    return *p == c ? p + 1 : NULL;
}

int sli_glob_match(const char *pattern, const char *text) {
    const char *star = NULL, *retry = NULL;
    while (*text != 0) {
        const char *next;
        if (*pattern == '*') {
            star = ++pattern;
            retry = text;
        } else if (*pattern != 0 && (next = match_one(pattern, *text)) != NULL) {
            pattern = next;
            text++;
        } else if (star != NULL) {
            pattern = star;
            text = ++retry;
        } else {
            return 0;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == 0;
}

const char *sli_glob_wrong(const char *pattern) {
    if (*pattern == 0)
        return "the pattern is empty";
    for (const char *p = pattern; *p != 0;) {
        if (*p != '[')
            p++;
        else if ((p = set_end(p)) == NULL)
            return "\"[\" has no \"]\"";
    }
    return NULL;
}

int sli_glob_literals(const char *pattern) {
    int n = 0;
    for (const char *p = pattern; *p != 0;) {
        const char *end = *p == '[' ? set_end(p) : NULL;
        n += end == NULL && *p != '*' && *p != '?';
        p = end != NULL ? end : p + 1;
    }
    return n;
}
