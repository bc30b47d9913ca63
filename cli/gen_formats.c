/* The retrieval formats that the project's models were trained on, word for word; see docs/eval.md. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gen.h"

enum { CHAIN = 5, VALUES = 2, MAX_NEEDLES = GEN_MAX_QUESTIONS * CHAIN };

static int clamp(int turns, int most) { return turns < most ? turns : most; }

/* The order in which n things are asked for. */
static void order_of(gen_random *r, int n, int32_t *order) {
    for (int i = 0; i < n; i++)
        order[i] = i;
    gen_shuffle(r, order, n);
}

static void needle(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    gen_needle needles[GEN_MAX_QUESTIONS];
    char keys[GEN_MAX_QUESTIONS][GEN_KEY], numbers[GEN_MAX_QUESTIONS][GEN_KEY];
    int32_t order[GEN_MAX_QUESTIONS];
    int n = clamp(s->turns, GEN_MAX_QUESTIONS);
    gen_distinct(r, gen_words, keys, n);
    gen_distinct(r, gen_number, numbers, n);
    order_of(r, n, order);
    for (int i = 0; i < n; i++) {
        needles[i].depth = n == 1 ? gen_depth_of(s) : gen_depth(r, i, n);
        gen_say(&needles[i], "One of the special magic numbers for %s is: %s.", keys[i], numbers[i]);
    }
    gen_hay(c, s, r, GEN_ESSAY, size, needles, n, NULL);
    gen_end(c, ".");
    for (int i = 0; i < n; i++) {
        int k = order[i];
        gen_ask(
            c, needles[k].depth, ".",
            "\nWhat is the special magic number for %s mentioned in the provided text? The special magic number for "
            "%s mentioned in the provided text is ",
            keys[k], keys[k]);
        gen_answer(c, "%s", numbers[k]);
    }
}

/* Several numbers for each key, told in the order of the text. */
static void multi_value(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    gen_needle needles[GEN_MAX_QUESTIONS * VALUES];
    char keys[GEN_MAX_QUESTIONS][GEN_KEY], numbers[GEN_MAX_QUESTIONS * VALUES][GEN_KEY];
    int32_t key_of[GEN_MAX_QUESTIONS * VALUES], order[GEN_MAX_QUESTIONS];
    int n = clamp(s->turns, GEN_MAX_QUESTIONS), all = n * VALUES;
    gen_distinct(r, gen_words, keys, n);
    gen_distinct(r, gen_number, numbers, all);
    for (int i = 0; i < all; i++)
        key_of[i] = i % n;
    gen_shuffle(r, key_of, all);
    order_of(r, n, order);
    for (int i = 0; i < all; i++) {
        needles[i].depth = gen_depth(r, i, all);
        gen_say(&needles[i], "One of the special magic numbers for %s is: %s.", keys[key_of[i]], numbers[i]);
    }
    gen_hay(c, s, r, GEN_ESSAY, size, needles, all, NULL);
    gen_end(c, ".");
    for (int i = 0; i < n; i++) {
        const char *key = keys[order[i]];
        char answer[VALUES * (GEN_KEY + 2)] = "";
        gen_ask(c, -1, ".",
                "\nWhat are all the special magic numbers for %s mentioned in the provided text? The special magic "
                "numbers for %s mentioned in the provided text are ",
                key, key);
        for (int k = 0; k < all; k++)
            if (key_of[k] == order[i]) {
                gen_list(answer, numbers[k]);
            }
        gen_answer(c, "%s", answer);
    }
}

/* size: pairs. */
static void key_value(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    int32_t order[GEN_MAX_QUESTIONS], *key = malloc(sizeof *key * 2 * (size_t)size);
    int64_t asked[GEN_MAX_QUESTIONS];
    int n = size < s->turns ? (int)size : clamp(s->turns, GEN_MAX_QUESTIONS);
    if (key == NULL) {
        c->failed = 1;
        return;
    }
    for (int64_t i = 0; i < 2 * size; i++)
        key[i] = 1000000 + (int32_t)gen_draw(r, 9000000);
    for (int i = 0; i < n; i++) {
        asked[i] = (int64_t)((n == 1 ? gen_depth_of(s) : gen_depth(r, i, n)) * (double)size);
        for (int64_t k = 0; k < 2 * size; k++) /* what is asked for stands there once */
            if (k != asked[i] && key[k] == key[asked[i]]) {
                key[asked[i]] = 1000000 + (int32_t)gen_draw(r, 9000000);
                k = -1;
            }
    }
    order_of(r, n, order);
    gen_text(c, "\nJSON data:\n{");
    for (int64_t i = 0; i < size; i++)
        gen_text(c, "%s\"%d\": \"%d\"", i > 0 ? ", " : "", key[i], key[size + i]);
    gen_text(c, "}");
    gen_end(c, "\"}");
    for (int i = 0; i < n; i++) {
        int64_t k = asked[order[i]];
        gen_ask(c, (double)k / (double)size, "\".", "\n        \nThe value of the key \"%d\" in the JSON data is \"",
                key[k]);
        gen_answer(c, "%d", key[size + k]);
    }
    free(key);
}

static void variable_name(gen_random *r, char *out) {
    snprintf(out, GEN_KEY, "%c%c%c%c", "ABCDEFGHK"[gen_draw(r, 9)], "LMNPQRST"[gen_draw(r, 8)],
             "UVWXYZ"[gen_draw(r, 6)], (char)('1' + gen_draw(r, 3)));
}

static void variables(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    gen_needle needles[MAX_NEEDLES];
    char names[MAX_NEEDLES][GEN_KEY], numbers[GEN_MAX_QUESTIONS][GEN_KEY];
    int32_t chain_of[MAX_NEEDLES], order[GEN_MAX_QUESTIONS];
    int n = clamp(s->turns, GEN_MAX_QUESTIONS), all = n * CHAIN;
    gen_distinct(r, variable_name, names, all);
    gen_distinct(r, gen_number, numbers, n);
    for (int i = 0; i < all; i++)
        chain_of[i] = i % n;
    gen_shuffle(r, chain_of, all);
    order_of(r, n, order);
    gen_chains(r, chain_of, all, names, numbers, needles);
    gen_hay(c, s, r, GEN_ESSAY, size, needles, all, NULL);
    gen_end(c, ".");
    for (int i = 0; i < n; i++) {
        char answer[CHAIN * (GEN_KEY + 2)] = "";
        gen_ask(c, -1, ".",
                "\nFind all variables that are assigned the value %s in the text above. They are: ", numbers[order[i]]);
        for (int k = 0; k < all; k++)
            if (chain_of[k] == order[i]) {
                gen_list(answer, names[k]);
            }
        gen_answer(c, "%s", answer);
    }
}

/* size: bytes of other text. The passage is about 64 tokens long and lies at the context's depth; the other text is
 * what follows it where it was cut from, once around at most: so it stands there once. */
static void passage(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    enum { BYTES = 256 };
    (void)task;
    char text[2 * BYTES];
    size_t from = gen_draw(r, s->bytes), n = 0, most = (size_t)size;
    while (from < s->bytes && s->text[from] != ' ') /* it begins behind a blank */
        from++;
    from++;
    while (n < BYTES || (n + 1 < sizeof text && !isspace((unsigned char)s->text[(from + n) % s->bytes]))) {
        text[n] = s->text[(from + n) % s->bytes];
        n++;
    }
    most = most + n < s->bytes ? most : s->bytes > n ? s->bytes - n : 0;
    size_t before = (size_t)(gen_depth_of(s) * (double)most), at = from + n;
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        n--;
    gen_around(c, s, at, before);
    gen_text(c, "\nPassage:\n");
    size_t begin = c->length;
    gen_text(c, "%.*s\n", (int)n, text);
    gen_around(c, s, at + before, most - before);
    gen_end(c, ".");
    gen_ask(c, (double)begin / (double)(c->shared + 1), "", "\nRepeat the passage:\n");
    gen_answer(c, "%.*s", (int)n, text);
}

const gen_task gen_formats[] = {
    {"needle", "a number for each of several keys, in sentences of their own", needle, GEN_TOKENS, 0, 1, 64, GEN_TEXT,
     NULL},
    {"multi_value", "two numbers for each key, both asked for", multi_value, GEN_TOKENS, 0, 1, 64, GEN_TEXT, NULL},
    {"key_value", "pairs of numbers as JSON", key_value, GEN_TOKENS, 0, 22, 2, 0, NULL},
    {"variables", "chains of five variables, each assigned the one before", variables, GEN_TOKENS, 0, 1, 64, GEN_TEXT,
     NULL},
    {"passage", "a passage of some 60 tokens, to be repeated", passage, GEN_TOKENS, 0, 1, 64, GEN_TEXT, NULL},
    {0},
};
