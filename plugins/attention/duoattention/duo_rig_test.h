/* duo_rig_test.h - models/tiny under duoattention, for its tests: a pattern of gates, engines with it, texts,
 * comparisons.
 */
#ifndef DUO_RIG_H
#define DUO_RIG_H

#include "engine_run.h"

#include <unistd.h>

enum { MOST = 300, NEW = 24, CAP = 700, LAYERS = 6, HEADS = 2 };

/* Mixed layers, one without streaming heads, one without retrieval heads. sparsity 0.5: those marked 0.x. */
static const double gates[LAYERS][HEADS] = {{0.9, 0.1},  {0.05, 0.8}, {0.7, 0.75},
                                            {0.2, 0.15}, {0.6, 0.3},  {0.25, 0.95}};

static char pattern[256];

static int write_pattern(void **state) {
    (void)state;
    snprintf(pattern, sizeof pattern, "/tmp/duo_test_%ld.tsv", (long)getpid());
    FILE *f = fopen(pattern, "w");
    assert_non_null(f);
    for (int l = 0; l < LAYERS; l++)
        fprintf(f, "%g\t%g\n", gates[l][0], gates[l][1]);
    return fclose(f);
}

static int remove_pattern(void **state) {
    (void)state;
    return remove(pattern);
}

static inline int streams(int32_t layer, int32_t head) { return gates[layer][head] < 0.5; }

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

static int try_open(const char *const *sets, sluice_engine **out, sluice_error *err) {
    char model[4200];
    const char *all[40] = {model,
                           "engine.max_context=640",
                           "engine.max_seqs=5",
                           "engine.validate=yes",
                           "engine.threads=2",
                           "sampling.temperature=0"};
    int n = 6;
    setenv("SLUICE_PLUGIN_PATH", run_place("SLUICE_BUILD", "plugins"), 1);
    snprintf(model, sizeof model, "model.path=%s", run_place("SLUICE_SOURCE", "models/tiny"));
    for (; *sets != NULL && n < 40; sets++)
        if ((*sets)[0] != '\0')
            all[n++] = *sets;
    sluice_options options = {.sets = all, .n_sets = n};
    return sluice_open(&options, out, err);
}

static inline sluice_engine *open_list(const char *const *sets) {
    sluice_engine *e = NULL;
    sluice_error err = {0};
    if (try_open(sets, &e, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    return e;
}
#define OPEN(...) open_list((const char *const[]){__VA_ARGS__, NULL})

#define REFUSED(word, ...)                                                                                             \
    do {                                                                                                               \
        sluice_engine *refused_ = NULL;                                                                                \
        sluice_error why_ = {0};                                                                                       \
        assert_true(try_open((const char *const[]){__VA_ARGS__, NULL}, &refused_, &why_) < 0);                         \
        if (strstr(why_.text, word) == NULL)                                                                           \
            fail_msg("\"%s\" does not say \"%s\"", why_.text, word);                                                   \
    } while (0)

/* The pattern with 4 sinks and 24 recent tokens. */
#define ATTENTION "attention.plugin=duoattention", file_set(), "attention.sink_size=4", "attention.recent_size=24"
#define STORE "kvcache.plugin=duoattention"
#define DUO ATTENTION, STORE

static inline const char *file_set(void) {
    static char set[300];
    snprintf(set, sizeof set, "attention.pattern_file=%s", pattern);
    return set;
}

static inline int64_t text(sluice_engine *e, int32_t *tokens, int64_t n) {
    int64_t have = run_tokens(e, tokens, MOST);
    assert_true(have >= 100);
    for (int64_t i = have; i < n; i++) /* longer than the text: again, from another place */
        tokens[i] = tokens[(i * 7 + 3) % have];
    return n;
}

/* Logits of the last n tokens, all of which are computed for it. */
static inline float *logits_of(sluice_engine *e, const int32_t *tokens, int64_t n_tokens, int64_t n) {
    float *out = malloc(sizeof *out * (size_t)(n * e->target.info->vocab));
    assert_non_null(out);
    sluice_session *s = run_session(e, tokens, n_tokens);
    assert_int_equal(sluice_logits(s, n, out, NULL), SLUICE_OK);
    sluice_session_close(s);
    return out;
}

static inline void same_logits(sluice_engine *a, sluice_engine *b, int64_t n_tokens, int64_t n) {
    int32_t tokens[CAP];
    text(a, tokens, n_tokens);
    float *x = logits_of(a, tokens, n_tokens, n), *y = logits_of(b, tokens, n_tokens, n);
    assert_memory_equal(x, y, sizeof *x * (size_t)(n * a->target.info->vocab));
    free(x);
    free(y);
}

/* NEW tokens behind each of five prompts of different lengths, computed in one go or each alone. */
static inline void generate_five(sluice_engine *e, int together, int32_t out[5][NEW]) {
    int32_t tokens[CAP];
    int64_t length[5] = {150, 97, 31, 5, 210};
    sluice_session *s[5];
    text(e, tokens, 300);
    for (int k = 0; k < 5; k++) {
        s[k] = run_session(e, tokens + 11 * k, length[k]);
        if (!together)
            run_generate(e, &s[k], 1, NEW);
    }
    if (together)
        run_generate(e, s, 5, NEW);
    for (int k = 0; k < 5; k++) {
        memcpy(out[k], sluice_session_tokens(s[k]) + length[k], sizeof out[k]);
        sluice_session_close(s[k]);
    }
}

static inline void same_five(sluice_engine *a, sluice_engine *b, int a_together, int b_together) {
    int32_t x[5][NEW], y[5][NEW];
    generate_five(a, a_together, x);
    generate_five(b, b_together, y);
    assert_memory_equal(x, y, sizeof x);
}

#endif
