/* Lists in which some words are more frequent than others; see gen_niah.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gen_niah.h"

enum { COMMON = 10, SHORT = 2048, MIDDLE = 4096, LONG = 8192 }; /* tokens of a context */

/* The list of n words, of which the first COMMON stand there `often` times, the others `seldom` times. words: [n] as
 * first word * all words + second word. */
static void word_list(gen_random *r, const int32_t *words, int64_t n, int often, int seldom, gen_context *c) {
    int64_t all = COMMON * often + (n - COMMON) * seldom, at = 0;
    int32_t *list = malloc(sizeof *list * (size_t)all);
    if (list == NULL) {
        c->failed = 1;
        return;
    }
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < (i < COMMON ? often : seldom); k++)
            list[at++] = words[i];
    gen_shuffle(r, list, all);
    for (int64_t i = 0; i < all; i++)
        gen_text(c, "%s%lld. %s-%s", i > 0 ? " " : "", (long long)i + 1, gen_nth_word(list[i] / gen_n_words()),
                 gen_nth_word(list[i] % gen_n_words()));
    gen_text(c, "\n");
    free(list);
}

static void join(const int32_t *words, char *out, size_t cap) {
    size_t used = 0;
    for (int i = 0; i < COMMON; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s-%s", i > 0 ? ", " : "",
                                 gen_nth_word(words[i] / gen_n_words()), gen_nth_word(words[i] % gen_n_words()));
}

#define ASK_CWE "The ten words that appear most often in the list above are: "

/* size: words beside the common ones. Below 4096 tokens words stand there less often; the example is short below 8192
 * and missing below 2048. */
void cwe_build(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    (void)task;
    int is_long = s->length >= LONG, many = s->length >= MIDDLE;
    int32_t all = gen_n_words() * gen_n_words(), *words = malloc(sizeof *words * (size_t)all);
    int64_t example = is_long ? 40 : 20, n = COMMON + size < all - example ? COMMON + size : all - example;
    char answer[COMMON * (GEN_KEY + 2)];
    if (words == NULL) {
        c->failed = 1;
        return;
    }
    for (int32_t i = 0; i < all; i++)
        words[i] = i;
    gen_shuffle(r, words, all);
    gen_text(c, "Below are lists of words. Some words appear more often than others.\n");
    if (s->length >= SHORT) {
        word_list(r, words + n, example, is_long ? 10 : 3, is_long ? 3 : 1, c);
        join(words + n, answer, sizeof answer);
        gen_text(c, ASK_CWE "%s.\n\n", answer);
    }
    word_list(r, words, n, many ? 30 : 6, many ? 3 : 1, c);
    gen_end(c, "");
    gen_ask(c, -1, "", "\n" ASK_CWE);
    join(words, answer, sizeof answer);
    for (int i = 0; i < COMMON; i++) {
        char word[2 * GEN_KEY];
        snprintf(word, sizeof word, "%s-%s", gen_nth_word(words[i] / gen_n_words()),
                 gen_nth_word(words[i] % gen_n_words()));
        gen_ref(c, word);
    }
    gen_answer(c, "%s", answer);
    free(words);
}

/* ---- coded words ------------------------------------------------------------------------------------------------ */

enum { ASKED = 3, MOST = 4096 };

static void six_letters(gen_random *r, char *out) { gen_letters(r, 'a', 6, out); }

/* size: words. The one of rank k stands there size / zeta(2) / k^2 times; that of rank 1 is dots. */
void fwe_build(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    const double zeta = 1.6449340668482264;
    int64_t n = s->length / 50 < 8 ? 8 : s->length / 50 < MOST ? s->length / 50 : MOST, at = 0;
    char(*words)[GEN_KEY] = malloc(sizeof *words * (size_t)n);
    int32_t *list = malloc(sizeof *list * (size_t)(size + 1));
    if (words == NULL || list == NULL) {
        c->failed = 1;
        free(words);
        free(list);
        return;
    }
    gen_distinct(r, six_letters, words, (int)n);
    snprintf(words[0], sizeof words[0], "...");
    for (int64_t k = 1; k <= n; k++)
        for (int64_t i = (int64_t)((double)size / zeta / (double)(k * k)); i > 0 && at < size; i--)
            list[at++] = (int32_t)k - 1;
    gen_shuffle(r, list, at);
    gen_text(c, "The following is a coded text. Count how often each coded word appears; dots do not count.\n");
    for (int64_t i = 0; i < at; i++)
        gen_text(c, " %s", words[list[i]]);
    gen_text(c, "\n");
    gen_end(c, " ...");
    if (task->how == NULL) {
        gen_ask(c, -1, "", "\nThe three most frequent words of the coded text above are: ");
        for (int i = 1; i <= ASKED; i++)
            gen_ref(c, words[i]);
        gen_answer(c, "%s, %s, %s", words[1], words[2], words[3]);
    } else {
        static const char *const rank[] = {"most", "second most", "third most"};
        for (int i = 0; i < ASKED && i < s->turns; i++) {
            gen_ask(c, -1, ".", "\nThe %s frequent word of the coded text above is: ", rank[i]);
            gen_answer(c, "%s", words[i + 1]);
        }
    }
    free(words);
    free(list);
}
