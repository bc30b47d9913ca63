/* bench_list.h - lists of numbers as benchmarks take them: "512,1024", "128-1024+128", "64-1024*2". */
#ifndef SLUICE_CLI_BENCH_LIST_H
#define SLUICE_CLI_BENCH_LIST_H

#include <stdint.h>

#include "options.h"

enum { BENCH_MAX_VALUES = 1024, BENCH_MAX_NUMBER = 999999999 };

typedef struct bench_list {
    int64_t v[BENCH_MAX_VALUES];
    int n;
} bench_list;

/* Appends the values of a text: numbers 0 .. BENCH_MAX_NUMBER and ranges, separated by commas. A range is FIRST-LAST
 * (every number), FIRST-LAST+STEP or FIRST-LAST*FACTOR, and ends at or before LAST. 0; -1: `why` says what was
 * expected. */
int bench_list_parse(const char *text, bench_list *out, char *why, size_t why_bytes);

/* Appends pairs as neighbours: "512,128" or "512,128;1024,64". */
int bench_pairs_parse(const char *text, bench_list *out, char *why, size_t why_bytes);

/* The values of an option that may be repeated, or of `otherwise` when it was not given. -1 after printing one error.
 */
int bench_list_of(const char *name, const text_list *given, const char *otherwise,
                  int (*parse)(const char *, bench_list *, char *, size_t), bench_list *out);

#endif
