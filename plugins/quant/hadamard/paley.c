/* See paley.h. */
#include "paley.h"

#include <stdlib.h>
#include <string.h>

/* ---- finite fields of q = p^k elements -----------------------------------------------------------------------------
 */

typedef struct field {
    int32_t p, k, q;
    int32_t modulus[3]; /* low coefficients of the monic polynomial of degree k */
} field;

static int is_prime(int32_t n) {
    for (int32_t d = 2; d * d <= n; d++)
        if (n % d == 0)
            return 0;
    return n >= 2;
}

/* p and k of a prime power, k <= 3; 0: it is none. */
static int prime_power(int32_t q, int32_t *p, int32_t *k) {
    for (*k = 1; *k <= 3; ++*k)
        for (*p = 2; *p <= q; ++*p) {
            int32_t power = *p;
            for (int32_t i = 1; i < *k; i++)
                power *= *p;
            if (power > q)
                break;
            if (power == q && is_prime(*p))
                return 1;
        }
    return 0;
}

static int has_root(const field *f) {
    for (int32_t x = 0; x < f->p; x++) {
        int32_t value = 1;
        for (int32_t i = f->k - 1; i >= 0; i--)
            value = (value * x + f->modulus[i]) % f->p;
        if (value == 0)
            return 1;
    }
    return 0;
}

/* The first monic polynomial without a root, which of degree 2 and 3 is irreducible; the constant varies slowest. */
static void find_modulus(field *f) {
    memset(f->modulus, 0, sizeof f->modulus);
    for (int32_t number = 0; f->k > 1 && number < f->q; number++) {
        int32_t rest = number;
        for (int32_t i = f->k - 1; i >= 0; i--) {
            f->modulus[i] = rest % f->p;
            rest /= f->p;
        }
        if (!has_root(f))
            return;
    }
}

/* Elements are numbered by their base-p digits, the lowest power first. */
static void digits_of(const field *f, int32_t x, int32_t d[3]) {
    for (int32_t i = 0; i < 3; i++) {
        d[i] = i < f->k ? x % f->p : 0;
        x /= f->p;
    }
}

static int32_t number_of(const field *f, const int32_t d[3]) {
    int32_t x = 0;
    for (int32_t i = f->k - 1; i >= 0; i--)
        x = x * f->p + d[i];
    return x;
}

static int32_t square(const field *f, int32_t x) {
    int32_t d[3], product[5] = {0};
    digits_of(f, x, d);
    for (int32_t i = 0; i < f->k; i++)
        for (int32_t j = 0; j < f->k; j++)
            product[i + j] = (product[i + j] + d[i] * d[j]) % f->p;
    for (int32_t i = 2 * f->k - 2; i >= f->k; i--) /* x^k = -modulus */
        for (int32_t j = 0; j < f->k; j++)
            product[i - f->k + j] = (product[i - f->k + j] + (f->p - f->modulus[j]) * product[i]) % f->p;
    return number_of(f, product);
}

static int32_t minus(const field *f, int32_t a, int32_t b) {
    int32_t x[3], y[3];
    digits_of(f, a, x);
    digits_of(f, b, y);
    for (int32_t i = 0; i < f->k; i++)
        x[i] = (x[i] + f->p - y[i]) % f->p;
    return number_of(f, x);
}

/* ---- the constructions ----------------------------------------------------------------------------------------------
 */

enum { NONE, FIRST, SECOND };

/* Which construction an order has, and its q. */
static int construction(int32_t order, field *f) {
    for (int with_powers = 0; with_powers < 2; with_powers++)
        for (int c = FIRST; c <= SECOND; c++) {
            if (order < 4 || order > PALEY_MAX_ORDER || (c == SECOND && order % 2 != 0))
                continue;
            f->q = c == FIRST ? order - 1 : order / 2 - 1;
            if (f->q % 4 != (c == FIRST ? 3 : 1) || !prime_power(f->q, &f->p, &f->k) || (f->k > 1) != with_powers)
                continue;
            return c;
        }
    return NONE;
}

int paley_exists(int32_t order) {
    field f;
    return construction(order, &f) != NONE;
}

int paley_fill(int32_t order, float *a) {
    field f;
    int which = construction(order, &f);
    signed char *chi = which != NONE ? malloc((size_t)f.q) : NULL;
    if (chi == NULL)
        return 0;
    find_modulus(&f);
    memset(chi, -1, (size_t)f.q);
    for (int32_t x = 1; x < f.q; x++)
        chi[square(&f, x)] = 1;
    chi[0] = 0;
    /* [[0, 1^T], [+-1, Q]], Q[i][j] = chi(i - j): antisymmetric in the first construction, symmetric in the second */
    int32_t n = f.q + 1;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) {
            int c = i == 0 && j == 0 ? 0
                    : i == 0         ? 1
                    : j == 0         ? (which == FIRST ? -1 : 1)
                                     : chi[minus(&f, i - 1, j - 1)];
            int same = i == j;
            if (which == FIRST) {
                a[i * n + j] = (float)(c + same);
                continue;
            }
            static const int outer[2][2] = {{1, 1}, {1, -1}}, inner[2][2] = {{1, -1}, {-1, -1}};
            for (int u = 0; u < 2; u++)
                for (int v = 0; v < 2; v++)
                    a[(2 * i + u) * 2 * n + 2 * j + v] = (float)(c * outer[u][v] + same * inner[u][v]);
        }
    free(chi);
    return 1;
}

/* ---- splitting a size -----------------------------------------------------------------------------------------------
 */

typedef struct split {
    int32_t orders[PALEY_MAX_FACTORS];
    int n;
    int64_t sum;
} split;

static int is_better(const split *a, const split *b) {
    if (b->n < 0 || a->sum != b->sum)
        return b->n < 0 || a->sum < b->sum;
    if (a->n != b->n)
        return a->n < b->n;
    for (int i = 0; i < a->n; i++)
        if (a->orders[i] != b->orders[i])
            return a->orders[i] < b->orders[i];
    return 0;
}

/* Orders ascend; odd and twos: what is left of n. */
static void search(int64_t odd, int twos, int32_t extra, split *now, split *best) {
    if (odd == 1) {
        if (is_better(now, best))
            *best = *now;
        return;
    }
    for (int32_t k = now->n > 0 ? now->orders[now->n - 1] : 3; k <= PALEY_MAX_ORDER && now->n < PALEY_MAX_FACTORS;
         k++) {
        int32_t part = k;
        int used = 0;
        for (; part % 2 == 0; part /= 2)
            used++;
        if (part == 1 || odd % part != 0 || used > twos || (k != extra && (used < 2 || !paley_exists(k))))
            continue;
        now->orders[now->n++] = k;
        now->sum += k;
        search(odd / part, twos - used, extra, now, best);
        now->sum -= k;
        now->n--;
    }
}

int paley_split(int64_t n, int32_t extra, int32_t orders[PALEY_MAX_FACTORS + 1]) {
    int64_t odd = n;
    int twos = 0;
    for (; odd % 2 == 0; odd /= 2)
        twos++;
    split now = {.n = 0}, best = {.n = -1};
    search(odd, twos, extra, &now, &best);
    for (int i = 0; i < best.n; i++)
        orders[i] = best.orders[i];
    orders[best.n > 0 ? best.n : 0] = 0;
    return best.n >= 0;
}
