/* See swift_search.h. */
#include "swift_search.h"

#include <string.h>

/* Candidates that the acquisition function is looked at for, at random; the best of them then climbs, a coordinate at a
 * time, with these steps. (The reference: 10000 candidates, L-BFGS-B from 10 more.) */
enum { CANDIDATES = 1000 };
static const double climb_steps[] = {0.5, 0.25, 0.1, 0.05};

/* Purposes of random numbers. */
enum { PURPOSE_SUBSET = SL_RNG_PLUGIN, PURPOSE_ACQUIRE = SL_RNG_PLUGIN + 1 };

static int64_t n_points(const swift_rules *r) { return r->bayes ? r->max_opt_iter + 1 : 0; }

int64_t swift_search_bytes(const swift_rules *r) {
    int64_t dim = swift_dim(r->n_layers);
    return (int64_t)sizeof(double) * (2 * dim + swift_gp_size((int32_t)dim, n_points(r))) +
           (int64_t)sizeof(int32_t) * dim + 2 * dim;
}

void swift_search_place(swift_search *s, const swift_rules *rules, void *memory) {
    int32_t dim = swift_dim(rules->n_layers);
    double *p = memory;
    *s = (swift_search){.rules = *rules, .dim = dim, .uniform = s->uniform};
    s->point = p, p += dim;
    s->other = p, p += dim;
    swift_gp_place(&s->gp, dim, n_points(rules), p);
    p += swift_gp_size(dim, n_points(rules));
    s->order = (int32_t *)p;
    s->z = (uint8_t *)(s->order + dim);
    s->tried = s->z + dim;
    for (int32_t i = 0; i < dim && rules->n_skipped > 0; i++)
        s->z[i] = (i % (dim / 2)) % 2 == 0; /* coordinate i of a half is layer i + 1 */
    s->done = rules->n_skipped <= 0 || rules->n_skipped >= dim;
    if (rules->n_skipped >= dim)
        memset(s->z, 1, (size_t)dim);
}

static double draw(const swift_search *s, uint32_t purpose, uint32_t child) {
    return s->uniform(s->rules.seed, 0, (uint32_t)s->opt_iter, purpose, child);
}

/* The S largest coordinates are skipped, ties the lower one. */
static void largest(const swift_search *s, const double *x, uint8_t *z) {
    memset(z, 0, (size_t)s->dim);
    for (int32_t k = 0; k < s->rules.n_skipped; k++) {
        int32_t best = -1;
        for (int32_t i = 0; i < s->dim; i++)
            if (!z[i] && (best < 0 || x[i] > x[best]))
                best = i;
        z[best] = 1;
    }
}

/* Uniform among the sets of S: the first S of a shuffle. */
static void random_set(swift_search *s) {
    for (int32_t i = 0; i < s->dim; i++)
        s->order[i] = i;
    memset(s->tried, 0, (size_t)s->dim);
    for (int32_t i = 0; i < s->rules.n_skipped; i++) {
        int32_t j = i + (int32_t)(draw(s, PURPOSE_SUBSET, (uint32_t)i) * (s->dim - i)), chosen = s->order[j];
        s->order[j] = s->order[i];
        s->order[i] = chosen;
        s->tried[chosen] = 1;
    }
    for (int32_t i = 0; i < s->dim; i++)
        s->point[i] = s->tried[i];
}

/* The point whose upper confidence bound is largest. */
static void acquire(swift_search *s) {
    uint32_t n_drawn = 0;
    double best = 0;
    if (s->gp.n > 0)
        swift_gp_fit(&s->gp);
    for (int k = 0; k < (s->gp.n > 0 ? CANDIDATES : 1); k++) {
        for (int32_t i = 0; i < s->dim; i++)
            s->other[i] = draw(s, PURPOSE_ACQUIRE, n_drawn++);
        double bound = s->gp.n > 0 ? swift_gp_bound(&s->gp, s->other) : 0;
        if (k == 0 || bound > best) {
            best = bound;
            memcpy(s->point, s->other, sizeof *s->point * (size_t)s->dim);
        }
    }
    for (size_t k = 0; s->gp.n > 0 && k < sizeof climb_steps / sizeof *climb_steps; k++)
        for (int32_t i = 0; i < 2 * s->dim; i++) {
            double *x = &s->point[i / 2], before = *x, step = i % 2 ? -climb_steps[k] : climb_steps[k];
            *x = before + step < 0 ? 0 : before + step > 1 ? 1 : before + step;
            double bound = swift_gp_bound(&s->gp, s->point);
            if (bound > best)
                best = bound;
            else
                *x = before;
        }
    largest(s, s->point, s->tried);
}

void swift_search_propose(swift_search *s) {
    if (s->rules.bayes && (s->opt_iter + 1) % s->rules.bayes_interval == 0) {
        s->n_bayes++;
        acquire(s);
    } else {
        random_set(s);
    }
}

int swift_search_tell(swift_search *s, double score) {
    int better = score > s->best;
    if (s->rules.bayes)
        swift_gp_tell(&s->gp, s->point, score);
    if (better) {
        memcpy(s->z, s->tried, (size_t)s->dim);
        s->best = score;
        s->tolerance = 0;
        s->n_kept++;
    } else {
        s->tolerance++;
    }
    s->opt_iter++;
    if ((better && score > s->rules.max_score) || s->tolerance > s->rules.max_tolerance_iter ||
        s->opt_iter > s->rules.max_opt_iter)
        s->done = 1;
    return better;
}

void swift_masks(const uint8_t *z, int32_t n_layers, uint32_t *attn, uint32_t *ffn) {
    int32_t half = swift_dim(n_layers) / 2;
    for (int32_t l = 0; l < n_layers; l++) {
        int inner = l >= 1 && l <= half;
        attn[l] = !(inner && z[l - 1]);
        ffn[l] = !(inner && z[half + l - 1]);
    }
}

/* ---- as bytes ---------------------------------------------------------------------------------------------------- */

/* Then z [dim], and of the Gaussian process x [n, dim] and y [n]. */
typedef struct head {
    char magic[8];
    double best;
    int64_t opt_iter, tolerance, n_bayes, n_kept, n_points;
    int32_t n_layers, n_skipped, dim, done;
} head;
static const char magic[8] = "swift01";

int64_t swift_search_save(const swift_search *s, void *out, int64_t bytes) {
    int64_t x = (int64_t)sizeof(double) * s->gp.n * s->dim, y = (int64_t)sizeof(double) * s->gp.n;
    int64_t need = (int64_t)sizeof(head) + x + y + s->dim;
    if (out == NULL || bytes < need)
        return need;
    head h = {.best = s->best,
              .opt_iter = s->opt_iter,
              .tolerance = s->tolerance,
              .n_bayes = s->n_bayes,
              .n_kept = s->n_kept,
              .n_points = s->gp.n,
              .n_layers = s->rules.n_layers,
              .n_skipped = s->rules.n_skipped,
              .dim = s->dim,
              .done = s->done};
    memcpy(h.magic, magic, sizeof magic);
    char *p = out;
    memcpy(p, &h, sizeof h), p += sizeof h;
    memcpy(p, s->gp.x, (size_t)x), p += x;
    memcpy(p, s->gp.y, (size_t)y), p += y;
    memcpy(p, s->z, (size_t)s->dim);
    return need;
}

int swift_search_load(swift_search *s, const void *in, int64_t bytes) {
    head h;
    if (bytes < (int64_t)sizeof h)
        return 0;
    memcpy(&h, in, sizeof h);
    const char *p = (const char *)in + sizeof h, *sets;
    if (memcmp(h.magic, magic, sizeof magic) != 0 || h.n_layers != s->rules.n_layers ||
        h.n_skipped != s->rules.n_skipped || h.dim != s->dim || h.n_points < 0 || h.n_points > h.opt_iter ||
        h.opt_iter < 0 || h.tolerance < 0 ||
        h.n_points > (bytes - (int64_t)sizeof h) / ((int64_t)sizeof(double) * (h.dim + 1)) ||
        bytes != (int64_t)sizeof h + h.n_points * (int64_t)sizeof(double) * (h.dim + 1) + h.dim)
        return 0;
    sets = p + h.n_points * (int64_t)sizeof(double) * (h.dim + 1);
    for (int32_t i = 0; i < h.dim; i++)
        if (sets[i] != 0 && sets[i] != 1)
            return 0;
    int64_t n = h.n_points < s->gp.cap ? h.n_points : s->gp.cap;
    memcpy(s->gp.x, p, sizeof(double) * (size_t)(n * s->dim));
    memcpy(s->gp.y, p + h.n_points * (int64_t)sizeof(double) * h.dim, sizeof(double) * (size_t)n);
    s->gp.n = n;
    memcpy(s->z, sets, (size_t)s->dim);
    s->best = h.best;
    s->opt_iter = h.opt_iter;
    s->tolerance = h.tolerance;
    s->n_bayes = h.n_bayes;
    s->n_kept = h.n_kept;
    s->done = h.done || s->opt_iter > s->rules.max_opt_iter || s->tolerance > s->rules.max_tolerance_iter;
    return 1;
}
