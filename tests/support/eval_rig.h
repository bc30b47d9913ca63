/* eval_rig.h - what the tests of eval's statistics share: a text as tokens, the windows of each protocol as
 * docs/eval.md words them, log probabilities in double out of the library's logits. */
#ifndef SLUICE_TEST_EVAL_RIG_H
#define SLUICE_TEST_EVAL_RIG_H

#include <unistd.h>

#include "cli.h"

enum { VOCAB = 4096, W = 128, STRIDE = 50, R = W - 1 - W / 2 };

static char tiny[PATH_MAX], text[PATH_MAX];
static int32_t *ids; /* [n_ids] of the text, beginning of text in front */
static int64_t n_ids;

static inline double of(json_t *result, const char *name) { return e2e_number(result, name); }

static inline void near(json_t *result, const char *name, double expected, double relative, double absolute) {
    double got = of(result, name);
    if (!(fabs(got - expected) <= relative * fabs(expected) + absolute))
        fail_msg("%s is %.10g, expected %.10g", name, got, expected);
}

static inline void log_softmax(const float *logits, double *out) {
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i]);
    for (int i = 0; i < VOCAB; i++)
        out[i] = logits[i] - log(sum);
}

/* Log probabilities [n, VOCAB] behind each token. */
static inline double *logprobs(sluice_engine *e, const int32_t *tokens, int64_t n) {
    float *logits = e2e_logits_of(e, tokens, n);
    double *lp = malloc(sizeof *lp * VOCAB * (size_t)n);
    assert_non_null(lp);
    for (int64_t i = 0; i < n; i++)
        log_softmax(logits + i * VOCAB, lp + i * VOCAB);
    free(logits);
    return lp;
}

/* Window i of a protocol, as docs/eval.md words it: tokens in row, how many in *n; returns how many are predicted, 0
 * behind the last. */
static inline int64_t window_of(const char *protocol, int64_t i, int32_t *row, int64_t *n) {
    int64_t begin = i * W, scored = W - 1;
    *n = W;
    if (strcmp(protocol, "bos") == 0) {
        begin = 1 + i * (W - 1); /* ids[0] is no part of the text */
        if (begin + W - 1 > n_ids)
            return 0;
        memcpy(row + 1, ids + begin, sizeof *row * (W - 1));
        row[0] = 0;
        return W - 1;
    }
    if (strcmp(protocol, "strided") == 0) {
        begin = i * STRIDE;
        int64_t before = i == 0 ? 1 : begin - STRIDE + W; /* tokens that are predicted already, or cannot be */
        if (before >= n_ids)
            return 0;
        *n = begin + W < n_ids ? W : n_ids - begin;
        scored = begin + *n - before;
    } else if (begin + W > n_ids)
        return 0;
    memcpy(row, ids + begin, sizeof *row * (size_t)*n);
    if (strcmp(protocol, "lcpp") == 0) {
        row[0] = 0;
        scored = R; /* positions W/2 .. W-2 predict */
    }
    return scored;
}

/* Reads the text; call it first. */
static inline void rig_begin(void) {
    snprintf(tiny, sizeof tiny, "%s", e2e_path("models/tiny"));
    snprintf(text, sizeof text, "%s", e2e_path("recipes/golden/prose_watson.txt"));
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    size_t n;
    char *bytes = e2e_read(text, &n);
    n_ids = sluice_tokenize(e, bytes, n, SLUICE_ADD_SPECIAL, NULL, 0, NULL);
    ids = malloc(sizeof *ids * (size_t)n_ids);
    assert_non_null(ids);
    sluice_tokenize(e, bytes, n, SLUICE_ADD_SPECIAL, ids, n_ids, NULL);
    free(bytes);
    sluice_close(e);
}

/* What recipes/golden/make_statistics.py wrote with transformers. */
static inline json_t *golden_statistics(void) {
    json_t *golden = e2e_json(e2e_path("tests/data/tiny/statistics.json"));
    assert_int_equal(of(golden, "context"), 256);
    assert_int_equal(of(golden, "stride"), 100);
    assert_int_equal(of(golden, "bits"), 2);
    return golden;
}

#endif
