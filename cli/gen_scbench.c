/* Several questions about one context, as SCBench asks them (arXiv 2412.10319): strings that cannot be compressed,
 * numbers, chains, words; see docs/eval-generated.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gen_niah.h"

enum { TURNS = 16 };

static int n_turns(const gen_source *s, int64_t most) {
    int n = s->turns < TURNS ? s->turns : TURNS;
    return n < most ? n : (int)most;
}

/* Which of n things the turns ask for: one in each part of the whole, in any order. */
static void choose(const gen_source *s, gen_random *r, int turns, int64_t n, int64_t *asked) {
    int32_t order[TURNS];
    for (int i = 0; i < turns; i++)
        order[i] = i;
    gen_shuffle(r, order, turns);
    for (int i = 0; i < turns; i++)
        asked[i] = (int64_t)((turns == 1 ? gen_depth_of(s) : gen_depth(r, order[i], turns)) * (double)n);
}

/* size: pairs. */
static void kv(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    int64_t asked[TURNS];
    int turns = n_turns(s, size);
    char keys[TURNS][GEN_KEY], values[TURNS][GEN_KEY], key[GEN_KEY], value[GEN_KEY];
    choose(s, r, turns, size, asked);
    gen_text(c, "\nJSON data:\n{");
    for (int64_t i = 0; i < size; i++) {
        gen_uuid(r, key);
        gen_uuid(r, value);
        gen_text(c, "%s\"%s\": \"%s\"", i > 0 ? ", " : "", key, value);
        for (int k = 0; k < turns; k++)
            if (asked[k] == i) {
                memcpy(keys[k], key, sizeof key);
                memcpy(values[k], value, sizeof value);
            }
    }
    gen_text(c, "}");
    gen_end(c, "\"}");
    for (int k = 0; k < turns; k++) {
        gen_ask(c, (double)asked[k] / (double)size, "\".",
                "\n        \nThe value of the key \"%s\" in the JSON data is \"", keys[k]);
        gen_answer(c, "%s", values[k]);
    }
}

/* size: strings of 65 to 122 letters and digits. */
static void prefix_suffix(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    enum { SHORTEST = 65, LONGEST = 122, PART = 8 };
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (void)task;
    int64_t asked[TURNS];
    int turns = n_turns(s, size);
    char wanted[TURNS][LONGEST + 1], text[LONGEST + 1];
    choose(s, r, turns, size, asked);
    gen_text(c, "Below is a list of strings.\n");
    for (int64_t i = 0; i < size; i++) {
        size_t n = SHORTEST + gen_draw(r, LONGEST - SHORTEST + 1);
        for (size_t k = 0; k < n; k++)
            text[k] = letters[gen_draw(r, sizeof letters - 1)];
        text[n] = '\0';
        gen_text(c, "\"%s\"\n", text);
        for (int k = 0; k < turns; k++)
            if (asked[k] == i)
                memcpy(wanted[k], text, sizeof text);
    }
    gen_end(c, "\"");
    for (int k = 0; k < turns; k++) {
        gen_ask(c, (double)asked[k] / (double)size, "\".",
                "\nThe string that begins with \"%.*s\" and ends with \"%s\" is \"", PART, wanted[k],
                wanted[k] + strlen(wanted[k]) - PART);
        gen_answer(c, "%s", wanted[k]);
    }
}

/* size: numbers of three digits. Those that are asked for are the only ones of 900 and more, and below 200. */
static void math_find(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    static const char *const which[] = {"largest",         "smallest",      "second largest",
                                        "second smallest", "third largest", "third smallest"};
    enum { TARGETS = sizeof which / sizeof *which };
    (void)task;
    int64_t asked[TARGETS];
    int turns = n_turns(s, TARGETS), value[TARGETS];
    int32_t *list = malloc(sizeof *list * (size_t)size);
    if (list == NULL) {
        c->failed = 1;
        return;
    }
    for (int64_t i = 0; i < size; i++)
        list[i] = 200 + (int32_t)gen_draw(r, 700);
    choose(s, r, turns, size, asked);
    for (int k = 0; k < turns; k++) { /* the next one lies nearer to the middle */
        int step = 1 + (int)gen_draw(r, 30);
        value[k] = k < 2 ? (k == 0 ? 1000 - step : 99 + step) : value[k - 2] + (k % 2 == 0 ? -step : step);
        list[asked[k]] = value[k];
    }
    gen_text(c, "Below is a list of numbers.\n[");
    for (int64_t i = 0; i < size; i++)
        gen_text(c, "%s%d", i > 0 ? ", " : "", list[i]);
    gen_text(c, "]");
    gen_end(c, "]");
    for (int k = 0; k < turns; k++) {
        gen_ask(c, (double)asked[k] / (double)size, ".", "\nThe %s number in the list is ", which[k]);
        gen_answer(c, "%d", value[k]);
    }
    free(list);
}

/* size: bytes of running text (repeated sentences without one) between pairs and needles. Turns ask for both in turn.
 */
static void mix(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    enum { THINGS = 2 * TURNS };
    (void)task;
    gen_needle things[THINGS];
    char keys[THINGS][GEN_KEY], values[THINGS][GEN_KEY], words[TURNS][GEN_KEY];
    int64_t asked[TURNS];
    int turns = n_turns(s, TURNS), n = 2 * turns;
    gen_distinct(r, gen_words, words, turns);
    for (int i = 0; i < n; i++) { /* pair, needle, pair, needle ... */
        if (i % 2 == 0)
            gen_uuid(r, keys[i]);
        else
            memcpy(keys[i], words[i / 2], sizeof keys[i]);
        (i % 2 == 0 ? gen_uuid : gen_number)(r, values[i]);
    }
    for (int i = 0; i < n; i++) {
        things[i].depth = gen_depth(r, i, n);
        if (i % 2 == 0)
            gen_say(&things[i], "{\"%s\": \"%s\"}.", keys[i], values[i]);
        else
            gen_say(&things[i], "One of the special magic numbers for %s is: %s.", keys[i], values[i]);
    }
    choose(s, r, turns, turns, asked);
    gen_hay(c, s, r, s->text != NULL ? GEN_ESSAY : GEN_NOISE, s->text != NULL ? size : size / 90, things, n, NULL);
    gen_end(c, ".");
    for (int k = 0; k < turns; k++) {
        int i = 2 * (int)asked[k] + k % 2;
        const char *after = k % 2 == 0 ? "." : "\".";
        if (k % 2 == 0)
            gen_ask(c, things[i].depth, after, "\nThe value of the key \"%s\" in the JSON data is \"", keys[i]);
        else
            gen_ask(
                c, things[i].depth, after,
                "\nWhat is the special magic number for %s mentioned in the provided text? The special magic number "
                "for %s mentioned in the provided text is ",
                keys[i], keys[i]);
        gen_answer(c, "%s", values[i]);
    }
}

static const niah_how single = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 0, 1, 1, 0},
                      multikey = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 0, 1, 1, 3},
                      multivalue = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 0, 1, 4, 0},
                      multiquery = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 0, 3, 1, 0};
static const vt_how two_hops = {0, 2};
static const int each_rank = 1;

const gen_task gen_scbench[] = {
    {"kv", "UUIDs by UUID, as JSON", kv, GEN_CONTAINS, 150, 80, 1, 0, NULL},
    {"prefix_suffix", "the string with that beginning and that end", prefix_suffix, GEN_CONTAINS, 150, 97, 1, 0, NULL},
    {"vt", "chains of three variables, one a turn", vt_build, GEN_ALL, 30, 90, 1, 0, &two_hops},
    {"niah_single", "a number for each key", niah_build, GEN_CONTAINS, 32, 1, 90, 0, &single},
    {"niah_multikey", "... among three times as many that nobody asks for", niah_build, GEN_CONTAINS, 32, 1, 90, 0,
     &multikey},
    {"niah_multivalue", "four numbers for each key", niah_build, GEN_ALL, 64, 1, 90, 0, &multivalue},
    {"niah_multiquery", "numbers of three keys in one question", niah_build, GEN_ALL, 64, 1, 90, 0, &multiquery},
    {"mf", "the largest number of a list, the smallest ...", math_find, GEN_NUMBER, 5, 5, 16, 0, NULL},
    {"cwe", "the ten most common words of a list; one turn", cwe_build, GEN_ALL, 120, 16, 2, 0, NULL},
    {"fwe", "the most frequent coded word, the second, the third", fwe_build, GEN_CONTAINS, 10, 7, 80, 0, &each_rank},
    {"mix_kv_niah", "pairs of UUIDs and numbers of keys in one text, in turn", mix, GEN_CONTAINS, 150, 1, 90, 0, NULL},
    {0},
};
