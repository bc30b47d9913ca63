/* See tree_template.h. */
#include "tree_template.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Token Recycling's template 2.2.2: 80 paths, levels of 8, 21, 25, 15, 8 and 3 nodes. */
static const char paper_222[] =
    "0 1 2 3 4 5 6 7 "
    "0,0 0,1 0,2 0,3 0,4 0,5 0,6 0,7 1,0 1,1 1,2 1,3 2,0 2,1 2,2 3,0 3,1 4,0 5,0 6,0 7,0 "
    "0,0,0 0,0,1 0,0,2 0,0,3 0,0,4 0,0,5 0,0,6 0,0,7 0,1,0 0,1,1 0,1,2 0,2,0 0,2,1 0,3,0 0,4,0 0,5,0 0,6,0 0,7,0 "
    "1,0,0 1,0,1 1,1,0 2,0,0 3,0,0 4,0,0 5,0,0 "
    "0,0,0,0 0,0,0,1 0,0,0,2 0,0,0,3 0,0,0,4 0,0,1,0 0,0,1,1 0,0,2,0 0,0,3,0 0,0,4,0 0,1,0,0 0,2,0,0 1,0,0,0 2,0,0,0 "
    "3,0,0,0 "
    "0,0,0,0,0 0,0,0,0,1 0,0,0,0,2 0,0,0,1,0 0,0,0,2,0 0,0,1,0,0 0,1,0,0,0 1,0,0,0,0 "
    "0,0,0,0,0,0 0,0,0,0,0,1 0,0,0,1,0,0";

typedef struct rank_path {
    int32_t n, sum; /* ranks; sum of (rank + 1) */
    unsigned char rank[TEMPLATE_MAX_NODES];
} rank_path;

static int lexicographic(const rank_path *a, const rank_path *b) {
    int order = memcmp(a->rank, b->rank, (size_t)(a->n < b->n ? a->n : b->n));
    return order != 0 ? order : a->n - b->n;
}

static int by_level(const void *a, const void *b) {
    const rank_path *p = a, *q = b;
    return p->n != q->n ? p->n - q->n : lexicographic(p, q);
}

static int by_importance(const void *a, const void *b) {
    const rank_path *p = a, *q = b;
    return p->sum != q->sum ? p->sum - q->sum : by_level(a, b);
}

/* One path at *text, which stands behind it afterwards. */
static sl_status parse_path(const char **text, rank_path *out, sl_error *err) {
    const char *begin = *text, *p = begin;
    size_t length = strcspn(begin, " \t");
    *out = (rank_path){0};
    for (;;) {
        int32_t rank = 0, digits = 0;
        for (; isdigit((unsigned char)*p) && digits < 3; digits++)
            rank = 10 * rank + (*p++ - '0');
        if (digits == 0 || rank >= SUCCESSORS_MAX || (*p != ',' && p != begin + length))
            return sl_fail(err, SL_E_INVALID,
                           "template: path \"%.*s\": expected ranks from 0 to %d separated by commas",
                           (int)(length < 40 ? length : 40), begin, SUCCESSORS_MAX - 1);
        if (out->n == TEMPLATE_MAX_NODES - 1)
            return sl_fail(err, SL_E_RANGE, "template: a path of more than %d ranks", TEMPLATE_MAX_NODES - 1);
        out->rank[out->n++] = (unsigned char)rank;
        out->sum += rank + 1;
        if (*p++ != ',')
            break;
    }
    *text = begin + length;
    return SL_OK;
}

/* The path without its last rank, among paths [0, n) in order of levels; -1: it is not there. */
static int32_t find_parent(const rank_path *paths, int32_t n, const rank_path *p) {
    for (int32_t i = 0; i < n; i++)
        if (paths[i].n == p->n - 1 && memcmp(paths[i].rank, p->rank, (size_t)paths[i].n) == 0)
            return i;
    return -1;
}

static void write_path(const rank_path *p, char *out, size_t cap) {
    size_t used = 0;
    out[0] = '\0';
    for (int32_t i = 0; i < p->n && used + 4 < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%d", i > 0 ? "," : "", p->rank[i]);
}

static sl_status check(const rank_path *paths, int32_t n, sl_error *err) {
    char text[64];
    for (int32_t i = 1; i < n; i++) {
        write_path(&paths[i], text, sizeof text);
        if (by_level(&paths[i - 1], &paths[i]) == 0)
            return sl_fail(err, SL_E_INVALID, "template: path \"%s\" stands there twice", text);
        if (find_parent(paths, i, &paths[i]) < 0)
            return sl_fail(err, SL_E_INVALID, "template: path \"%s\" is there, but not the path to its parent", text);
    }
    return SL_OK;
}

static int32_t drop_ranks(rank_path *paths, int32_t n, int32_t topk) {
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        int good = 1;
        for (int32_t j = 0; j < paths[i].n; j++)
            good = good && paths[i].rank[j] < topk;
        if (good)
            paths[kept++] = paths[i];
    }
    return kept;
}

static sl_status build(rank_path *paths, int32_t n, int32_t topk, int32_t cut, tree_template *out, sl_error *err) {
    qsort(paths, (size_t)n, sizeof *paths, by_level);
    SL_TRY(check(paths, n, err));
    n = drop_ranks(paths, n, topk);
    qsort(paths, (size_t)n, sizeof *paths, by_importance); /* a parent's sum is smaller than its children's */
    n = n < cut ? n : cut;
    qsort(paths, (size_t)n, sizeof *paths, by_level);
    *out = (tree_template){.n = n};
    for (int32_t i = 0; i < n; i++) {
        out->parent[i] = i > 0 ? find_parent(paths, i, &paths[i]) : -1;
        out->rank[i] = i > 0 ? paths[i].rank[paths[i].n - 1] : 0;
        out->depth[i] = paths[i].n;
        for (int32_t j = 0; j < n; j++)
            out->place[i] += by_importance(&paths[j], &paths[i]) < 0;
    }
    return SL_OK;
}

sl_status template_parse(const char *text, int32_t topk, int32_t cut, tree_template *out, sl_error *err) {
    rank_path paths[TEMPLATE_MAX_NODES];
    int32_t n = 1;
    paths[0] = (rank_path){0}; /* the root */
    if (strcmp(text, "2.2.2") == 0)
        text = paper_222;
    for (text += strspn(text, " \t"); *text != '\0'; text += strspn(text, " \t")) {
        if (n == TEMPLATE_MAX_NODES)
            return sl_fail(err, SL_E_RANGE, "template: more than %d paths", TEMPLATE_MAX_NODES - 1);
        SL_TRY(parse_path(&text, &paths[n++], err));
    }
    if (n == 1)
        return sl_fail(err, SL_E_INVALID, "template: expected 2.2.2 or paths, found nothing");
    return build(paths, n, topk, cut, out, err);
}

void template_fill(const tree_template *t, const successors *m, int32_t root, int32_t max_nodes, int32_t max_depth,
                   int fill_empty, template_draft *out) {
    int32_t at[TEMPLATE_MAX_NODES]; /* the draft's node of each node of the template; -1: not in it */
    out->token[0] = root;
    out->parent[0] = -1;
    out->n = 1;
    out->n_dead = 0;
    at[0] = 0;
    for (int32_t i = 1; i < t->n; i++) {
        int32_t parent = at[t->parent[i]];
        at[i] = -1;
        if (t->place[i] >= max_nodes || t->depth[i] > max_depth)
            continue;
        int32_t token = parent < 0 ? -1 : successors_of(m, out->token[parent])[t->rank[i]];
        if (token < 0 && fill_empty)
            token = 0;
        if (token < 0) {
            out->n_dead++;
            continue;
        }
        at[i] = out->n;
        out->token[out->n] = token;
        out->parent[out->n++] = parent;
    }
}
