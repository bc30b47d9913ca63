/* What every test file includes first: cmocka in its required order, and helpers for comparing numbers. */
#ifndef SLUICE_TEST_H
#define SLUICE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Skips the running test and says why; ./check shows the reason. */
#define skip_because(...)                                                                                              \
    do {                                                                                                               \
        char reason_[256];                                                                                             \
        snprintf(reason_, sizeof reason_, __VA_ARGS__);                                                                \
        print_message("# skipped: %s\n", reason_);                                                                     \
        skip();                                                                                                        \
    } while (0)

/* The directory of models and texts that are too large for the repository (./check --with-shared DIR); skips the test
 * when there is none. Tests that ask for it belong to the suite `shared`. */
static inline const char *test_shared_dir(void) {
    const char *dir = getenv("SLUICE_SHARED");
    if (dir == NULL || *dir == '\0')
        skip_because("needs ./check --with-shared DIR");
    return dir;
}

/* How much a test of many cases should do: 0 short, 1 as usual, 2 long (./check --short, --long). */
static inline int test_length(void) {
    const char *text = getenv("SLUICE_TEST_LENGTH");
    return text == NULL ? 1 : strcmp(text, "short") == 0 ? 0 : strcmp(text, "long") == 0 ? 2 : 1;
}

/* A small deterministic generator (xorshift64*), uniform in [0,1) and roughly normal. */
static inline uint64_t test_next(uint64_t *s) {
    *s ^= *s >> 12, *s ^= *s << 25, *s ^= *s >> 27;
    return *s * 2685821657736338717ull;
}
static inline double test_uniform(uint64_t *s) { return (double)(test_next(s) >> 11) * 0x1p-53; }
static inline float test_normal(uint64_t *s) {
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += test_uniform(s);
    return (float)(sum - 6);
}

/* |got - ref| <= atol + rtol |ref| everywhere; prints the worst element and how many are off. NaN never passes. */
static inline void check_close(const char *what, const float *ref, const float *got, size_t n, double rtol, double atol) {
    size_t bad = 0, worst = 0;
    double worst_excess = -1;
    for (size_t i = 0; i < n; i++) {
        double excess = fabs((double)got[i] - ref[i]) - (atol + rtol * fabs((double)ref[i]));
        if (!(excess <= 0))
            bad++;
        if (!(excess <= worst_excess))
            worst_excess = excess, worst = i;
    }
    if (bad > 0)
        fail_msg("%s: %zu of %zu off, worst at %zu: expected %.9g, got %.9g", what, bad, n, worst, (double)ref[worst],
                 (double)got[worst]);
}

#endif
