/* Drawing keys, numbers, words; see gen.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "gen.h"

static const char *const words[] = {
    "able",    "acid",   "actor",   "angle",  "apple",  "autumn", "bacon",  "badge",   "bamboo", "basket", "beach",
    "bench",   "bishop", "blanket", "bottle", "branch", "bridge", "bronze", "butter",  "cabin",  "camera", "candle",
    "carbon",  "castle", "cattle",  "chain",  "cherry", "circle", "clock",  "cloud",   "copper", "corner", "cotton",
    "cousin",  "daisy",  "desert",  "doctor", "dragon", "eagle",  "engine", "estate",  "fabric", "falcon", "farmer",
    "feather", "forest", "fossil",  "garden", "ginger", "glass",  "grape",  "guitar",  "hammer", "harbor", "helmet",
    "honey",   "island", "ivory",   "jacket", "jungle", "kettle", "ladder", "lantern", "lemon",  "letter", "lizard",
    "magnet",  "maple",  "marble",  "meadow", "mirror", "monkey", "museum", "needle",  "ocean",  "olive",  "orange",
    "oyster",  "palace", "pencil",  "pepper", "planet", "pocket", "prince", "quartz",  "rabbit", "river",  "rocket",
    "saddle",  "salmon", "school",  "shadow", "silver", "spider", "summer", "temple",
};
enum { N_WORDS = sizeof words / sizeof *words };

int gen_n_words(void) { return N_WORDS; }
const char *gen_nth_word(int i) { return words[i]; }

/* splitmix64 */
uint64_t gen_draw(gen_random *r, uint64_t n) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

void gen_word(gen_random *r, char *out) { snprintf(out, GEN_KEY, "%s", words[gen_draw(r, N_WORDS)]); }

void gen_words(gen_random *r, char *out) {
    const char *first = words[gen_draw(r, N_WORDS)];
    snprintf(out, GEN_KEY, "%s-%s", first, words[gen_draw(r, N_WORDS)]);
}

void gen_number(gen_random *r, char *out) {
    snprintf(out, GEN_KEY, "%llu", (unsigned long long)(1000000 + gen_draw(r, 9000000)));
}

void gen_uuid(gen_random *r, char *out) {
    static const char form[] = "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx", hex[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof form; i++)
        out[i] = form[i] == 'x' ? hex[gen_draw(r, 16)] : form[i] == 'y' ? hex[8 + gen_draw(r, 4)] : form[i];
}

void gen_letters(gen_random *r, char first, int n, char *out) {
    for (int i = 0; i < n; i++)
        out[i] = (char)(first + (char)gen_draw(r, 26));
    out[n] = '\0';
}

void gen_shuffle(gen_random *r, int32_t *list, int64_t n) {
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)gen_draw(r, (uint64_t)i + 1);
        int32_t t = list[i];
        list[i] = list[j];
        list[j] = t;
    }
}

void gen_distinct(gen_random *r, void (*draw)(gen_random *r, char *out), char (*keys)[GEN_KEY], int n) {
    for (int i = 0; i < n; i++)
        for (int again = 1; again;) {
            draw(r, keys[i]);
            again = 0;
            for (int j = 0; j < i; j++)
                again |= strcmp(keys[i], keys[j]) == 0;
        }
}

double gen_depth(gen_random *r, int i, int n) { return (i + (double)gen_draw(r, 1 << 20) / (1 << 20)) / n; }

double gen_depth_of(const gen_source *source) {
    double x = 0.5 + (double)source->number * 0.61803398874989485;
    return x - (double)(int64_t)x;
}
