/* See contracts.h. */
#include "contracts.h"

#include <math.h>

#include "e2e.h"

static const int64_t lengths[N_TEXTS] = {9, 50, 150};

static int32_t *text_tokens(sluice_engine *engine, int64_t *n) {
    size_t bytes;
    char *text = e2e_read(e2e_path("recipes/golden/prose_watson.txt"), &bytes);
    bytes = bytes < 4000 ? bytes : 4000;
    int32_t *tokens = malloc(sizeof *tokens * (bytes + 1));
    assert_non_null(tokens);
    *n = sluice_tokenize(engine, text, bytes, 0, tokens, (int64_t)bytes, NULL);
    free(text);
    return tokens;
}

static void must(const char *what, int status, const sluice_error *err) {
    if (status < 0)
        fail_msg("%s: %s", what, err->text);
}

/* Greedy tokens of all sessions, in one call. */
static void greedy(const char *what, sluice_engine *engine, sluice_session *const *sessions, int n_sessions, int n,
                   int32_t *out) {
    sluice_sampling sampling = e2e_greedy(n);
    sluice_error err = {0};
    must(what, sluice_generate(engine, sessions, n_sessions, &sampling, 1, NULL, NULL, &err), &err);
    for (int i = 0; i < n_sessions; i++)
        memcpy(out + i * n, sluice_session_tokens(sessions[i]) + sluice_session_length(sessions[i]) - n,
               sizeof *out * (size_t)n);
}

static sluice_session *begin(const char *what, sluice_engine *engine, const int32_t *tokens, int64_t n) {
    sluice_session *s = NULL;
    sluice_error err = {0};
    must(what, sluice_session_open(engine, &s, &err), &err);
    int32_t bos = 0;
    must(what, sluice_session_append(s, &bos, 1, &err), &err);
    must(what, sluice_session_append(s, tokens, n, &err), &err);
    return s;
}

static void check_logits(const char *what, sluice_engine *engine, const int32_t *tokens) {
    sluice_info info;
    sluice_get_info(engine, &info);
    sluice_session *s = begin(what, engine, tokens, lengths[1]);
    float *logits = malloc(sizeof *logits * (size_t)info.vocab);
    sluice_error err = {0};
    must(what, sluice_logits(s, 1, logits, &err), &err);
    for (int32_t i = 0; i < info.vocab; i++)
        if (!isfinite(logits[i]))
            fail_msg("%s: logit %d is %f", what, i, (double)logits[i]);
    free(logits);
    sluice_session_close(s);
}

static void check_fork(const char *what, sluice_engine *engine, sluice_session *s, const int32_t *turn) {
    sluice_session *both[2] = {s, NULL};
    sluice_error err = {0};
    int32_t out[2][N_SECOND];
    must(what, sluice_session_fork(s, -1, &both[1], &err), &err);
    for (int i = 0; i < 2; i++)
        must(what, sluice_session_append(both[i], turn, 5, &err), &err);
    greedy(what, engine, both, 2, N_SECOND, out[0]);
    if (memcmp(out[0], out[1], sizeof out[0]) != 0)
        fail_msg("%s: a fork went on with other tokens than its parent", what);
    sluice_session_close(both[1]);
}

static void check_cut(const char *what, sluice_engine *engine, sluice_session *s, const int32_t *turn) {
    sluice_error err = {0};
    int32_t out[N_SECOND];
    int status = sluice_session_truncate(s, sluice_session_length(s) - 20, &err);
    if (status < 0 && err.text[0] == '\0')
        fail_msg("%s: a cut was refused without a reason", what);
    must(what, sluice_session_append(s, turn, 3, &err), &err);
    greedy(what, engine, &s, 1, N_SECOND, out);
}

/* The first line, without folders of this machine. */
static void keep_reason(const char *text, char *out, size_t size) {
    static const char *const roots[] = {"SLUICE_BUILD", "SLUICE_SOURCE"};
    snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
    for (int i = 0; i < 2; i++) {
        const char *root = getenv(roots[i]);
        for (char *at; root != NULL && (at = strstr(out, root)) != NULL;)
            memmove(at, at + strlen(root) + 1, strlen(at + strlen(root)));
    }
}

void contracts_run(const char *what, const char *const *a, const char *const *b, outcome *out) {
    const char *sets[32];
    int n = 0;
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "model.path=%s", e2e_path("models/tiny"));
    sets[n++] = path;
    sets[n++] = "engine.threads=1";
    sets[n++] = "engine.max_context=512";
    for (int i = 0; a[i] != NULL; i++)
        sets[n++] = a[i];
    for (int i = 0; b[i] != NULL; i++)
        sets[n++] = b[i];
    *out = (outcome){0};
    sluice_options options = {.sets = sets, .n_sets = n};
    sluice_engine *engine = NULL;
    sluice_error err = {0};
    if (sluice_open(&options, &engine, &err) < 0) {
        if (err.text[0] == '\0')
            fail_msg("%s: refused without a reason", what);
        out->refused = 1;
        keep_reason(err.text, out->reason, sizeof out->reason);
        return;
    }
    int64_t n_text;
    int32_t *text = text_tokens(engine, &n_text);
    assert_true(n_text > lengths[N_TEXTS - 1] + 400);
    const int32_t *turn = text + lengths[N_TEXTS - 1] + 100;

    check_logits(what, engine, text);
    sluice_session *s[N_TEXTS];
    for (int i = 0; i < N_TEXTS; i++)
        s[i] = begin(what, engine, text + 10 * i, lengths[i]);
    sluice_reset_stats(engine);
    greedy(what, engine, s, N_TEXTS, N_FIRST, out->first[0]);
    sluice_stats stats;
    sluice_get_stats(engine, &stats);
    if (stats.allocs_in_steps != 0)
        fail_msg("%s: %lld allocations in decode steps", what, (long long)stats.allocs_in_steps);
    for (int i = 0; i < N_TEXTS; i++)
        must(what, sluice_session_append(s[i], turn, 30, &err), &err);
    greedy(what, engine, s, N_TEXTS, N_SECOND, out->second[0]);
    check_fork(what, engine, s[2], turn + 40);
    check_cut(what, engine, s[2], turn + 60);
    for (int i = 0; i < N_TEXTS; i++)
        sluice_session_close(s[i]);

    for (int i = N_TEXTS - 1; i < N_TEXTS; i++) {
        int32_t alone[N_FIRST];
        s[i] = begin(what, engine, text + 10 * i, lengths[i]);
        greedy(what, engine, &s[i], 1, N_FIRST, alone);
        if (memcmp(alone, out->first[i], sizeof alone) != 0)
            fail_msg("%s: text %d alone has other tokens than beside others", what, i);
        sluice_session_close(s[i]);
    }
    free(text);
    sluice_close(engine);
}

void contracts_equal(const char *what, const outcome *expected, const outcome *got) {
    for (int i = 0; i < N_TEXTS; i++) {
        if (memcmp(expected->first[i], got->first[i], sizeof got->first[i]) != 0)
            fail_msg("%s: the tokens of text %d differ", what, i);
        if (memcmp(expected->second[i], got->second[i], sizeof got->second[i]) != 0)
            fail_msg("%s: the tokens of text %d differ in the second turn", what, i);
    }
}
