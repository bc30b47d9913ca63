/* Needles in a haystack; see gen_niah.h. */
#include "gen_niah.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"number", "word", "uuid"};
static void (*const draws[])(gen_random *, char *) = {gen_number, gen_words, gen_uuid};

enum { DEPTHS = 40, QUERIES = 8 };

/* Depths of n needles, ascending: out of 40 evenly spaced ones, none twice; more needles: one in each n-th. */
static void depths(gen_random *r, gen_needle *needles, int n) {
    int32_t place[DEPTHS];
    int chosen[DEPTHS] = {0}, at = 0;
    for (int i = 0; i < DEPTHS; i++)
        place[i] = i;
    gen_shuffle(r, place, DEPTHS);
    for (int i = 0; i < n && n <= DEPTHS; i++)
        chosen[place[i]] = 1;
    for (int i = 0; i < DEPTHS && n <= DEPTHS; i++)
        if (chosen[i])
            needles[at++].depth = (double)i / (DEPTHS - 1);
    for (int i = 0; i < n && n > DEPTHS; i++)
        needles[i].depth = gen_depth(r, i, n);
}

static void numbers_line(gen_random *r, char *out, size_t cap) {
    char key[GEN_KEY], value[GEN_KEY];
    gen_words(r, key);
    gen_number(r, value);
    snprintf(out, cap, "One of the special magic numbers for %s is: %s.", key, value);
}

static void uuids_line(gen_random *r, char *out, size_t cap) {
    char key[GEN_KEY], value[GEN_KEY];
    gen_uuid(r, key);
    gen_uuid(r, value);
    snprintf(out, cap, "One of the special magic uuids for %s is: %s.", key, value);
}

/* "a", "a and b", "a, b, and c" */
static void list_keys(char *out, size_t cap, char (*keys)[GEN_KEY], const int32_t *which, int n) {
    size_t used = 0;
    for (int i = 0; i < n && used < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s",
                                 i == 0      ? ""
                                 : i + 1 < n ? ", "
                                 : n == 2    ? " and "
                                             : ", and ",
                                 keys[which[i]]);
}

void niah_build(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    const niah_how *how = task->how;
    const char *name = kinds[how->value];
    int turns = how->turns > 0 ? how->turns : s->turns < 16 ? s->turns : 16;
    int n_keys = turns * (how->queries + how->others), n = n_keys * how->values;
    gen_hay_kind hay = how->hay == GEN_ESSAY && s->text == NULL ? GEN_NOISE : how->hay;
    gen_needle *needles = calloc((size_t)n, sizeof *needles);
    char(*keys)[GEN_KEY] = calloc((size_t)n_keys, sizeof *keys), (*values)[GEN_KEY] = calloc((size_t)n, sizeof *values);
    int32_t *key_of = calloc((size_t)n, sizeof *key_of);
    if (needles == NULL || keys == NULL || values == NULL || key_of == NULL) {
        c->failed = 1;
        goto done;
    }
    gen_distinct(r, draws[how->key], keys, n_keys);
    gen_distinct(r, draws[how->value], values, n);
    for (int i = 0; i < n; i++)
        key_of[i] = i % n_keys;
    gen_shuffle(r, key_of, n);
    depths(r, needles, n);
    if (n == 1)
        needles[0].depth = gen_depth_of(s);
    for (int i = 0; i < n; i++)
        gen_say(&needles[i], "One of the special magic %ss for %s is: %s.", name, keys[key_of[i]], values[i]);
    gen_text(c, "Special magic %ss are hidden in the following text. Remember them: you will be asked for them.\n",
             name);
    gen_hay(c, s, r, hay, hay == GEN_ESSAY || how->hay != GEN_ESSAY ? size : size / 90, needles, n,
            how->value == NIAH_UUIDS ? uuids_line : numbers_line);
    gen_end(c, ".");
    for (int i = 0; i < turns; i++) {
        int32_t which[QUERIES];
        char asked[QUERIES * (GEN_KEY + 8)], answer[16 * (GEN_KEY + 2)] = "";
        int many = how->queries > 1 || how->values > 1, first = -1;
        for (int k = 0; k < how->queries; k++)
            which[k] = i * how->queries + k;
        list_keys(asked, sizeof asked, keys, which, how->queries);
        for (int k = 0; k < n && first < 0; k++)
            first = key_of[k] == which[0] ? k : -1;
        gen_ask(c, many ? -1 : needles[first].depth, ".",
                "\nWhat %s special magic %s%s for %s mentioned in the provided text? The special magic %s%s for %s "
                "mentioned in the provided text %s ",
                many ? "are all the" : "is the", name, many ? "s" : "", asked, name, many ? "s" : "", asked,
                many ? "are" : "is");
        for (int q = 0; q < how->queries; q++)
            for (int k = 0; k < n; k++)
                if (key_of[k] == which[q]) {
                    gen_list(answer, values[k]);
                    gen_ref(c, values[k]);
                }
        gen_answer(c, "%s", answer);
    }
done:
    free(needles);
    free(keys);
    free(values);
    free(key_of);
}

/* ---- chains of variables ----------------------------------------------------------------------------------------- */

enum { CHAINS = 16, HOPS = 8 };
#define FIND "Find all variables that are assigned the value %s in the text above. They are: "

static void five_letters(gen_random *r, char *out) { gen_letters(r, 'A', 5, out); }
static void three_letters(gen_random *r, char *out) { gen_letters(r, 'A', 3, out); }

/* One text with n chains in it, and a question for each; an example's are answered in its text. */
static void chains(const gen_source *s, gen_random *r, int n, int hops, int64_t size,
                   void (*name)(gen_random *r, char *out), int is_example, gen_context *c) {
    gen_needle needles[CHAINS * (HOPS + 1)];
    char names[CHAINS * (HOPS + 1)][GEN_KEY], numbers[CHAINS][GEN_KEY];
    int32_t chain_of[CHAINS * (HOPS + 1)];
    int all = n * (hops + 1);
    gen_distinct(r, name, names, all);
    gen_distinct(r, gen_number, numbers, n);
    for (int i = 0; i < all; i++)
        chain_of[i] = i % n;
    gen_shuffle(r, chain_of, all);
    gen_chains(r, chain_of, all, names, numbers, needles);
    gen_hay(c, s, r, GEN_NOISE, size, needles, all, NULL);
    if (!is_example)
        gen_end(c, ".");
    for (int i = 0; i < n; i++) {
        char answer[(HOPS + 1) * (GEN_KEY + 2)] = "";
        if (!is_example)
            gen_ask(c, -1, ".", "\n" FIND, numbers[i]);
        for (int k = 0; k < all; k++)
            if (chain_of[k] == i) {
                gen_list(answer, names[k]);
                if (!is_example)
                    gen_ref(c, names[k]);
            }
        if (is_example)
            gen_text(c, FIND "%s.\n\n", numbers[i], answer);
        else
            gen_answer(c, "%s", answer);
    }
}

void vt_build(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    const vt_how *how = task->how;
    int n = how->chains > 0 ? how->chains : s->turns < CHAINS ? s->turns : CHAINS;
    gen_text(c, "Variables are assigned in the following text. Keep track of the assignments.\n");
    chains(s, r, 1, how->hops, 2, three_letters, 1, c);
    chains(s, r, n, how->hops, size, five_letters, 0, c);
}
