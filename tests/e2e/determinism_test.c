/* Deterministic mode: the logits of a token are the same bits whatever the chunks of the prompt, the number of threads,
 * the company in the batch, and whether its predecessors were computed in a prompt, decoded, or verified. */
#include "e2e.h"

static e2e_prompts prompts;
static int32_t ids[300]; /* the needle prompt's beginning */
enum { N = 300, TAIL = 40 };
static float *expected; /* [TAIL, vocab] */
static int64_t vocab;

static void check(const char *what, const float *got) {
    for (int64_t i = 0; i < TAIL * vocab; i++)
        if (memcmp(&expected[i], &got[i], sizeof *got) != 0)
            fail_msg("%s: logit %lld behind token %lld is %.9g, expected %.9g", what, (long long)(i % vocab),
                     (long long)(N - TAIL + i / vocab), (double)got[i], (double)expected[i]);
}

static void tail_of(const char *what, sluice_engine *e) {
    sluice_session *s = e2e_session(e, ids, N);
    float *logits = e2e_logits(e, s, TAIL);
    check(what, logits);
    free(logits);
    sluice_session_close(s);
}

static void test_chunks_and_threads(void **state) {
    const char *const *sets = *state;
    sluice_engine *e = e2e_open("models/tiny", sets);
    tail_of(sets[0], e);
    sluice_close(e);
}

/* Greedy continuation of the first `from` tokens, in company; then the cache that the steps left behind is looked at
 * through the logits of tokens behind it, and compared with a fresh session fed with the same tokens. */
static void decode_and_look(const char *what, sluice_engine *e, int company) {
    sluice_session *s[5];
    for (int i = 0; i <= company; i++)
        s[i] = e2e_session(e, prompts.prompt[i].ids, prompts.prompt[i].n_ids);
    sluice_sampling greedy = e2e_greedy(50);
    sluice_error err = {0};
    if (sluice_generate(e, s, company + 1, &greedy, 1, NULL, NULL, &err) < 0)
        fail_msg("%s: %s", what, err.text);
    for (int i = 0; i <= company; i++) {
        int64_t n = sluice_session_length(s[i]);
        assert_int_equal(n, prompts.prompt[i].n_ids + 50);
        assert_int_equal(sluice_session_append(s[i], ids, 4, NULL), 0);
        float *after = e2e_logits(e, s[i], 5); /* the last token that was decided is pending, too */
        sluice_session *fresh = e2e_session(e, sluice_session_tokens(s[i]), n + 4);
        float *prompt = e2e_logits(e, fresh, 5);
        if (memcmp(after, prompt, sizeof *after * (size_t)(5 * vocab)) != 0)
            fail_msg("%s, prompt %s: logits behind generated tokens differ from those behind the same tokens as a prompt", what,
                     prompts.prompt[i].name);
        free(after);
        free(prompt);
        sluice_session_close(fresh);
        sluice_session_close(s[i]);
    }
}

static void test_decode(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.threads=2"));
    decode_and_look("decode", e, 0);
    decode_and_look("decode, five together", e, 4);
    sluice_close(e);
}

static void test_verify(void **state) {
    (void)state;
    char draft[PATH_MAX + 32];
    snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
    sluice_engine *e = e2e_open("models/tiny", SETS("speculation.plugin=prompt_lookup"));
    decode_and_look("verify prompt_lookup", e, 0);
    decode_and_look("verify prompt_lookup, five together", e, 4);
    sluice_close(e);
    e = e2e_open("models/tiny", SETS("speculation.plugin=token_recycling", "speculation.cut=16")); /* trees */
    decode_and_look("verify token_recycling", e, 4);
    sluice_close(e);
    e = e2e_open("models/tiny", SETS("speculation.plugin=sps", "speculation.gamma=5", draft));
    decode_and_look("verify sps", e, 4);
    sluice_close(e);
}

/* A prompt that is computed while others decode. */
static void test_prompt_in_company(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.prefill_chunk=16", "engine.max_rows=24"));
    sluice_session *s[3];
    sluice_sampling sampling[3];
    for (int i = 0; i < 3; i++) {
        sampling[i] = e2e_greedy(i == 2 ? 1 : 30);
        s[i] = i == 2 ? e2e_session(e, ids, N - TAIL) : e2e_session(e, prompts.prompt[i].ids, prompts.prompt[i].n_ids);
    }
    assert_int_equal(sluice_generate(e, s, 3, sampling, 0, NULL, NULL, NULL), 0);
    assert_int_equal(sluice_session_truncate(s[2], N - TAIL, NULL), 0);
    assert_int_equal(sluice_session_append(s[2], ids + N - TAIL, TAIL, NULL), 0);
    float *logits = e2e_logits(e, s[2], TAIL);
    check("computed while others decoded", logits);
    free(logits);
    sluice_close(e);
}

/* Log probabilities of teacher forcing are those of the logits. */
static void test_score(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.prefill_chunk=19"));
    sluice_session *s = e2e_session(e, ids, N);
    double logprob[TAIL - 1];
    int32_t best[TAIL - 1];
    sluice_error err = {0};
    if (sluice_score(s, TAIL - 1, logprob, best, &err) < 0)
        fail_msg("score: %s", err.text);
    for (int64_t t = 0; t < TAIL - 1; t++) {
        const float *row = expected + t * vocab;
        double sum = 0;
        int32_t top = 0;
        for (int32_t i = 0; i < vocab; i++) {
            sum += exp((double)row[i] - row[0]);
            top = row[i] > row[top] ? i : top;
        }
        double want = (double)row[ids[N - TAIL + 1 + t]] - row[0] - log(sum);
        if (!(fabs(want - logprob[t]) < 1e-9))
            fail_msg("token %lld: log probability %.12g, expected %.12g", (long long)t, logprob[t], want);
        assert_int_equal(best[t], top);
    }
    sluice_close(e);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    for (int i = 0; i < prompts.n; i++)
        if (strcmp(prompts.prompt[i].name, "needle") == 0)
            memcpy(ids, prompts.prompt[i].ids, sizeof ids);
    assert_int_equal(ids[0], 0);
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    sluice_info info;
    sluice_get_info(e, &info);
    vocab = info.vocab;
    sluice_session *s = e2e_session(e, ids, N);
    expected = e2e_logits(e, s, TAIL);
    sluice_close(e);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(expected);
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    static const char *const settings[][4] = {
        {"engine.prefill_chunk=1"},   {"engine.prefill_chunk=7"}, {"engine.prefill_chunk=64"}, {"engine.max_rows=33"},
        {"engine.threads=2"},         {"engine.threads=3"},       {"kvcache.page=7"},          {"kvcache.page=1"},
        {"engine.prefill_chunk=100", "engine.threads=3"},
    };
    enum { N_SETTINGS = sizeof settings / sizeof *settings };
    struct CMUnitTest tests[N_SETTINGS + 4] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_prompt_in_company),
        cmocka_unit_test(test_score),
    };
    for (int i = 0; i < N_SETTINGS; i++)
        tests[4 + i] = (struct CMUnitTest){settings[i][0], test_chunks_and_threads, NULL, NULL, (void *)(uintptr_t)settings[i]};
    return cmocka_run_group_tests_name("determinism", tests, set_up, tear_down);
}
