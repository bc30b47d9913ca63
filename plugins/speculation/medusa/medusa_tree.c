/* See medusa_tree.h. */
#include "medusa_tree.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rank_path {
    int32_t n;
    int32_t place; /* in the list; then by importance */
    unsigned char rank[MEDUSA_MAX_HEADS];
} rank_path;

static int by_level(const void *a, const void *b) {
    const rank_path *p = a, *q = b;
    return p->n != q->n ? p->n - q->n : memcmp(p->rank, q->rank, (size_t)p->n);
}

static int by_place(const void *a, const void *b) {
    const rank_path *p = a, *q = b;
    return p->place - q->place;
}

static void write_path(const rank_path *p, char *out, size_t cap) {
    size_t used = 0;
    out[0] = '\0';
    for (int32_t i = 0; i < p->n && used + 5 < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%d", i > 0 ? "," : "", p->rank[i]);
}

/* The path without its last rank, among paths [0, n); -1: it is not there. The root is the path of no ranks. */
static int32_t find_parent(const rank_path *paths, int32_t n, const rank_path *p) {
    for (int32_t i = 0; i < n; i++)
        if (paths[i].n == p->n - 1 && memcmp(paths[i].rank, p->rank, (size_t)paths[i].n) == 0)
            return i;
    return -1;
}

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

/* One word; digits: one digit a rank, without commas. */
static sl_status parse_path(const char *word, size_t length, int digits, rank_path *out, sl_error *err) {
    const char *p = word, *end = word + length;
    out->n = 0;
    while (p < end) {
        int32_t rank = 0, n_digits = 0;
        for (; p < end && isdigit((unsigned char)*p) && n_digits < (digits ? 1 : 3); n_digits++)
            rank = 10 * rank + (*p++ - '0');
        if (n_digits == 0 || rank >= MEDUSA_MAX_TOPK || (!digits && p < end && (*p != ',' || p + 1 == end)))
            return sl_fail(
                err, SL_E_INVALID,
                "tree: path \"%.*s\": expected ranks from 0 to %d separated by commas, auto, or the name of a "
                "tree",
                (int)(length < 40 ? length : 40), word, MEDUSA_MAX_TOPK - 1);
        if (out->n == MEDUSA_MAX_HEADS)
            return sl_fail(err, SL_E_RANGE, "tree: path \"%.*s\" has more than %d ranks",
                           (int)(length < 40 ? length : 40), word, MEDUSA_MAX_HEADS);
        out->rank[out->n++] = (unsigned char)rank;
        p += !digits && p < end;
    }
    return SL_OK;
}

static sl_status check(const rank_path *paths, int32_t n, sl_error *err) {
    char text[64];
    for (int32_t i = 1; i < n; i++) {
        write_path(&paths[i], text, sizeof text);
        for (int32_t j = 1; j < i; j++)
            if (paths[j].n == paths[i].n && memcmp(paths[j].rank, paths[i].rank, (size_t)paths[i].n) == 0)
                return sl_fail(err, SL_E_INVALID, "tree: path \"%s\" stands there twice", text);
        if (find_parent(paths, n, &paths[i]) < 0)
            return sl_fail(err, SL_E_INVALID, "tree: path \"%s\" is there, but not the path to its parent", text);
    }
    return SL_OK;
}

/* ---- building -----------------------------------------------------------------------------------------------------
 */

static int32_t drop_paths(rank_path *paths, int32_t n, int32_t n_heads, int32_t topk) {
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        int good = paths[i].n <= n_heads;
        for (int32_t j = 0; j < paths[i].n; j++)
            good = good && paths[i].rank[j] < topk;
        if (good)
            paths[kept++] = paths[i];
    }
    return kept;
}

/* Gives the node its place, its ancestors in front of it where a list names them later. */
static void place_node(rank_path *paths, int32_t n, int32_t i, int32_t *next) {
    if (paths[i].place >= 0)
        return;
    if (paths[i].n > 0)
        place_node(paths, n, find_parent(paths, n, &paths[i]), next);
    paths[i].place = (*next)++;
}

/* paths: the root, then the list, closed under front parts, within heads and ranks. */
static void build(rank_path *paths, int32_t n, int32_t nodes, medusa_tree *out) {
    int32_t next = 0;
    for (int32_t i = 0; i < n; i++)
        paths[i].place = -1;
    for (int32_t i = 0; i < n; i++)
        place_node(paths, n, i, &next);
    qsort(paths, (size_t)n, sizeof *paths, by_place);
    n = n < nodes ? n : nodes;
    qsort(paths, (size_t)n, sizeof *paths, by_level);
    *out = (medusa_tree){.n = n};
    for (int32_t i = 0; i < n; i++) {
        out->parent[i] = i > 0 ? find_parent(paths, i, &paths[i]) : -1;
        out->rank[i] = i > 0 ? paths[i].rank[paths[i].n - 1] : 0;
        out->depth[i] = paths[i].n;
        out->place[i] = paths[i].place;
    }
}

sl_status medusa_tree_parse(const char *text, int32_t n_heads, int32_t topk, int32_t nodes, medusa_tree *out,
                            sl_error *err) {
    rank_path paths[MEDUSA_MAX_NODES];
    const char *named = medusa_tree_named(text);
    int32_t n = 1;
    paths[0] = (rank_path){0}; /* the root */
    if (named != NULL)
        text = named;
    for (text += strspn(text, " \t"); *text != '\0'; text += strspn(text, " \t")) {
        size_t length = strcspn(text, " \t");
        if (n == MEDUSA_MAX_NODES)
            return sl_fail(err, SL_E_RANGE, "tree: more than %d paths", MEDUSA_MAX_NODES - 1);
        paths[n] = (rank_path){0};
        SL_TRY(parse_path(text, length, named != NULL, &paths[n++], err));
        text += length;
    }
    if (n == 1)
        return sl_fail(err, SL_E_INVALID, "tree: expected a name, auto or paths, found nothing");
    SL_TRY(check(paths, n, err));
    n = drop_paths(paths, n, n_heads, topk);
    if (n == 1)
        return sl_fail(err, SL_E_INVALID, "tree: no path is left within %d heads and %d candidates", n_heads, topk);
    build(paths, n, nodes, out);
    return SL_OK;
}

/* Expected gain of a path: the chance that all of its tokens are right, heads taken as independent. */
static double promise(const double *accuracy, int32_t topk, const rank_path *p) {
    double product = 1;
    for (int32_t i = 0; i < p->n; i++)
        product *= accuracy[i * topk + p->rank[i]];
    return product;
}

void medusa_tree_grow(const double *accuracy, int32_t n_heads, int32_t topk, int32_t nodes, medusa_tree *out) {
    rank_path paths[MEDUSA_MAX_NODES], frontier[2 * MEDUSA_MAX_NODES];
    int32_t n = 1, n_frontier = 1;
    paths[0] = (rank_path){0};
    frontier[0] = (rank_path){.n = 1};
    while (n < nodes && n_frontier > 0) {
        int32_t best = 0;
        for (int32_t i = 1; i < n_frontier; i++) {
            double a = promise(accuracy, topk, &frontier[i]), b = promise(accuracy, topk, &frontier[best]);
            if (a > b || (a == b && by_level(&frontier[i], &frontier[best]) < 0))
                best = i;
        }
        rank_path p = paths[n++] = frontier[best];
        frontier[best] = frontier[--n_frontier];
        if (p.rank[p.n - 1] + 1 < topk) { /* the next sibling */
            frontier[n_frontier] = p;
            frontier[n_frontier++].rank[p.n - 1]++;
        }
        if (p.n < n_heads) { /* the first child */
            p.rank[p.n++] = 0;
            frontier[n_frontier++] = p;
        }
    }
    build(paths, n, nodes, out);
}

void medusa_tree_fill(const medusa_tree *t, const int32_t *candidates, int32_t topk, int32_t root, int32_t max_nodes,
                      int32_t max_depth, medusa_draft *out) {
    int32_t at[MEDUSA_MAX_NODES]; /* the draft's node of each node of the tree; -1: not in it */
    out->token[0] = root;
    out->parent[0] = -1;
    out->n = 1;
    at[0] = 0;
    for (int32_t i = 1; i < t->n; i++) {
        at[i] = -1;
        if (t->place[i] >= max_nodes || t->depth[i] > max_depth || at[t->parent[i]] < 0)
            continue;
        at[i] = out->n;
        out->token[out->n] = candidates[(t->depth[i] - 1) * topk + t->rank[i]];
        out->parent[out->n++] = at[t->parent[i]];
    }
}
