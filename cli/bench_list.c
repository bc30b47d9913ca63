/* See bench_list.h. */
#include "bench_list.h"

#include <stdio.h>
#include <string.h>

static const char expected[] =
    "expected numbers from 0 to 999999999 or ranges such as 128-1024+128 or 64-1024*2, separated by commas";

/* Reads digits; NULL where there are none, or too many. */
static const char *number(const char *p, int64_t *out) {
    const char *begin = p;
    for (*out = 0; *p >= '0' && *p <= '9' && p - begin < 10; p++)
        *out = *out * 10 + (*p - '0');
    return p > begin && *out <= BENCH_MAX_NUMBER ? p : NULL;
}

static int complain(const char *what, const char *found, char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "%s, found \"%s\"", what, found);
    return -1;
}

static int push(int64_t value, bench_list *out, char *why, size_t why_bytes) {
    if (out->n == BENCH_MAX_VALUES) {
        snprintf(why, why_bytes, "more than %d values", BENCH_MAX_VALUES);
        return -1;
    }
    out->v[out->n++] = value;
    return 0;
}

/* One number or range; *end is where it ends. */
static int parse_item(const char *p, const char **end, bench_list *out, char *why, size_t why_bytes) {
    int64_t first, last, by = 1;
    const char *q = number(p, &first);
    if (q == NULL)
        return complain(expected, p, why, why_bytes);
    char how = '+';
    last = first;
    if (*q == '-') {
        if ((q = number(q + 1, &last)) == NULL)
            return complain(expected, p, why, why_bytes);
        if (*q == '+' || *q == '*') {
            how = *q;
            if ((q = number(q + 1, &by)) == NULL)
                return complain(expected, p, why, why_bytes);
        }
        if (last < first)
            return complain("expected a range that ascends", p, why, why_bytes);
        if (how == '+' ? by < 1 : by < 2 || first < 1)
            return complain("expected a step from 1 on, or a factor from 2 on and a first number from 1 on", p, why,
                            why_bytes);
    }
    *end = q;
    for (int64_t v = first; v <= last; v = how == '+' ? v + by : v * by)
        if (push(v, out, why, why_bytes) < 0)
            return -1;
    return 0;
}

int bench_list_parse(const char *text, bench_list *out, char *why, size_t why_bytes) {
    for (const char *p = text;; p++) {
        if (parse_item(p, &p, out, why, why_bytes) < 0)
            return -1;
        if (*p == '\0')
            return 0;
        if (*p != ',')
            return complain(expected, p, why, why_bytes);
    }
}

int bench_pairs_parse(const char *text, bench_list *out, char *why, size_t why_bytes) {
    static const char pairs[] = "expected pairs such as 512,128;1024,64, of numbers from 1 on";
    for (const char *p = text;; p++) {
        int64_t a, b;
        const char *q = number(p, &a);
        if (q == NULL || *q != ',' || (q = number(q + 1, &b)) == NULL || a < 1 || b < 1 || (*q != ';' && *q != '\0'))
            return complain(pairs, p, why, why_bytes);
        if (push(a, out, why, why_bytes) < 0 || push(b, out, why, why_bytes) < 0)
            return -1;
        if (*(p = q) == '\0')
            return 0;
    }
}

int bench_list_of(const char *name, const text_list *given, const char *otherwise,
                  int (*parse)(const char *, bench_list *, char *, size_t), bench_list *out) {
    char why[256];
    out->n = 0;
    for (int i = 0; i < given->n; i++)
        if (parse(given->text[i], out, why, sizeof why) < 0) {
            fprintf(stderr, "sluice: %s: %s\n", name, why);
            return -1;
        }
    return given->n > 0 || otherwise == NULL ? 0 : parse(otherwise, out, why, sizeof why);
}
