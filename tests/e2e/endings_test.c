/* How a generation ends: limits, end-of-text tokens, stop strings, cancelling; and what is refused before it begins. Each
 * with and without drafts, in the middle of which an end may fall. */
#include "e2e.h"

static e2e_prompts prompts;
static const e2e_prompt *prose;
enum { N_ENGINES = 3, EOS = 1 };
static const char *const names[N_ENGINES] = {"plain", "prompt_lookup", "sps"};
static sluice_engine *engines[N_ENGINES];

static void run(sluice_engine *e, const e2e_prompt *p, const sluice_sampling *s, e2e_output *out) { e2e_continue(e, p, 1, 1, s, out); }

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static void test_max_tokens(void **state) {
    sluice_engine *e = *(sluice_engine **)*state;
    for (int32_t n = 0; n <= 12; n++) {
        e2e_output out;
        sluice_sampling greedy = e2e_greedy(n);
        sluice_reset_stats(e);
        run(e, prose, &greedy, &out);
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        for (int depth = n >= 2 ? n - 2 : 0; depth < SLUICE_MAX_DEPTH; depth++)
            assert_int_equal(stats.drafted_by_depth[depth], 0); /* nothing that could not be used is drafted */
        e2e_check_tokens("max_tokens", prose->greedy, n, out.tokens, out.n);
        assert_int_equal(out.finish, SLUICE_FINISH_LENGTH);
        assert_memory_equal(out.text, prose->greedy_text, out.length);
        e2e_outputs_free(&out, 1);
    }
}

/* max_tokens = -1 goes on to the last token that the context holds, drafts or not. */
static void test_full_context(void **state) {
    (void)state;
    for (int i = 0; i < N_ENGINES; i++) {
        char draft[PATH_MAX + 32], plugin[64];
        snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
        snprintf(plugin, sizeof plugin, "speculation.plugin=%s", i == 0 ? "none" : names[i]);
        sluice_engine *e = e2e_open("models/tiny", SETS("engine.max_context=50", plugin, i == 2 ? draft : "engine.threads=1"));
        sluice_error err = {0};
        sluice_info info;
        sluice_get_info(e, &info);
        assert_int_equal(info.max_context, 50);
        e2e_output out;
        sluice_sampling greedy = e2e_greedy(-1);
        run(e, prose, &greedy, &out);
        e2e_check_tokens(names[i], prose->greedy, 50 - prose->n_ids, out.tokens, out.n);
        assert_int_equal(out.finish, SLUICE_FINISH_LENGTH);
        e2e_outputs_free(&out, 1);
        greedy.max_tokens = 1000;
        run(e, prose, &greedy, &out);
        assert_int_equal(out.n, 50 - prose->n_ids);
        e2e_outputs_free(&out, 1);
        /* a prompt longer than the context, at once and in pieces */
        sluice_session *s = e2e_session(e, prose->ids, 23);
        assert_int_equal(sluice_session_append(s, prose->greedy, 28, &err), SLUICE_E_RANGE);
        assert_non_null(strstr(err.text, "50"));
        assert_int_equal(sluice_session_length(s), 23);
        assert_int_equal(sluice_session_append(s, prose->greedy, 27, &err), 0);
        assert_int_equal(sluice_session_append(s, prose->greedy, 1, &err), SLUICE_E_RANGE);
        float *logits = e2e_logits(e, s, 1);
        assert_true(logits[0] == logits[0]);
        free(logits);
        sluice_session_close(s);
        sluice_close(e);
    }
}

static void test_session_limit(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("tests/data/random_draft", SETS("engine.max_seqs=2"));
    sluice_session *a, *b, *c = NULL;
    sluice_error err = {0};
    assert_int_equal(sluice_session_open(e, &a, &err), 0);
    assert_int_equal(sluice_session_open(e, &b, &err), 0);
    assert_true(sluice_session_open(e, &c, &err) < 0);
    assert_non_null(strstr(err.text, "max_seqs"));
    assert_true(sluice_session_fork(a, -1, &c, &err) < 0);
    sluice_session_close(a);
    assert_int_equal(sluice_session_open(e, &c, &err), 0);
    /* sessions that are open are closed with the engine */
    sluice_close(e);
}

static void test_refused_requests(void **state) {
    (void)state;
    sluice_engine *e = engines[0];
    sluice_error err = {0};
    sluice_session *s;
    sluice_sampling greedy = e2e_greedy(4);
    assert_int_equal(sluice_session_open(e, &s, &err), 0);
    assert_true(sluice_generate(e, &s, 1, &greedy, 1, NULL, NULL, &err) < 0); /* nothing to continue from */
    assert_true(err.text[0] != '\0');
    const int32_t wild[] = {5, 4096}, negative[] = {-1};
    assert_int_equal(sluice_session_append(s, wild, 2, &err), SLUICE_E_RANGE);
    assert_non_null(strstr(err.text, "4096"));
    assert_int_equal(sluice_session_append(s, negative, 1, &err), SLUICE_E_RANGE);
    assert_int_equal(sluice_session_append(s, prose->ids, -1, &err), SLUICE_E_RANGE);
    assert_int_equal(sluice_session_length(s), 0);
    assert_int_equal(sluice_session_append(s, prose->ids, prose->n_ids, &err), 0);
    float logits[1];
    assert_true(sluice_logits(s, prose->n_ids + 1, logits, &err) < 0);
    assert_true(sluice_logits(s, 0, logits, &err) < 0);
    double logprob[1];
    assert_true(sluice_score(s, prose->n_ids, logprob, NULL, &err) < 0); /* nothing in front of the first */
    sluice_session *twice[] = {s, s};
    assert_true(sluice_generate(e, twice, 2, &greedy, 1, NULL, NULL, &err) < 0);
    assert_true(sluice_generate(e, twice, 0, &greedy, 1, NULL, NULL, &err) < 0);
    const int32_t bias_id[] = {4096};
    const float bias[] = {1};
    sluice_sampling biased = greedy;
    biased.bias_id = bias_id, biased.bias = bias, biased.n_bias = 1;
    assert_true(sluice_generate(e, &s, 1, &biased, 1, NULL, NULL, &err) < 0);
    assert_non_null(strstr(err.text, "4096"));
    /* after all that it still works */
    assert_int_equal(sluice_generate(e, &s, 1, &greedy, 1, NULL, NULL, &err), 0);
    e2e_check_tokens("after refusals", prose->greedy, 4, sluice_session_tokens(s) + prose->n_ids, sluice_session_length(s) - prose->n_ids);
    sluice_session_close(s);
}

/* ---- end-of-text tokens ------------------------------------------------------------------------------------------ */

static void test_eos(void **state) {
    sluice_engine *e = *(sluice_engine **)*state;
    const int32_t id[] = {EOS};
    const float bias[] = {1000};
    sluice_sampling s = e2e_greedy(10);
    s.bias_id = id, s.bias = bias, s.n_bias = 1;
    s.ignore_eos = 0;
    e2e_output out;
    run(e, prose, &s, &out);
    assert_int_equal(out.finish, SLUICE_FINISH_EOS);
    assert_int_equal(out.n, 1);
    assert_int_equal(out.tokens[0], EOS);
    assert_int_equal(out.length, 0); /* special tokens have no text */
    e2e_outputs_free(&out, 1);
    s.ignore_eos = 1;
    run(e, prose, &s, &out);
    assert_int_equal(out.finish, SLUICE_FINISH_LENGTH);
    assert_int_equal(out.n, 10);
    assert_int_equal(out.length, 0);
    e2e_outputs_free(&out, 1);
}

/* A text that ends, again and again: the model copies it, end-of-text included (with a little help: it was not trained on
 * that token), and so do the drafters. The session must end with that token although the draft went on, and then go on as
 * if it had been fed. */
static void test_eos_inside_a_draft(void **state) {
    (void)state;
    const int32_t sentence[] = {0, 1203, 335, 266, 1639, 288, 431, 18, EOS};
    enum { LENGTH = sizeof sentence / sizeof *sentence, TIMES = 12, N = LENGTH * TIMES + 4 };
    int32_t ids[N];
    for (int i = 0; i < N; i++)
        ids[i] = sentence[i % LENGTH];
    const e2e_prompt p = {.name = "repetition", .ids = ids, .n_ids = N};
    const int32_t id[] = {EOS};
    const float bias[] = {7};
    sluice_sampling greedy = e2e_greedy(30);
    greedy.ignore_eos = 0;
    greedy.bias_id = id, greedy.bias = bias, greedy.n_bias = 1;
    e2e_output plain;
    run(engines[0], &p, &greedy, &plain);
    assert_int_equal(plain.finish, SLUICE_FINISH_EOS);
    assert_true(plain.n > 2);
    for (int i = 0; i < N_ENGINES; i++) {
        sluice_session *s = e2e_session(engines[i], ids, N);
        e2e_output out;
        sluice_reset_stats(engines[i]);
        e2e_generate(engines[i], &s, 1, &greedy, 1, &out);
        sluice_stats stats;
        sluice_get_stats(engines[i], &stats);
        e2e_check_tokens(names[i], plain.tokens, plain.n, out.tokens, out.n);
        assert_int_equal(out.finish, SLUICE_FINISH_EOS);
        assert_string_equal(out.text, plain.text);
        assert_true(i == 0 || stats.accepted > 0);
        assert_int_equal(stats.emitted + 1, out.n); /* the first token comes out of the prompt's step */
        /* the cache holds no row of what the draft had behind the end */
        int64_t n = sluice_session_length(s);
        assert_int_equal(sluice_session_append(s, prose->ids, 5, NULL), 0);
        float *logits = e2e_logits(engines[i], s, 5), *fresh = e2e_logits_of(engines[0], sluice_session_tokens(s), n + 5);
        assert_memory_equal(logits, fresh + n * 4096, sizeof *logits * 5 * 4096);
        free(logits);
        free(fresh);
        e2e_outputs_free(&out, 1);
        sluice_session_close(s);
    }
    e2e_outputs_free(&plain, 1);
}

/* ---- stop strings ------------------------------------------------------------------------------------------------ */

static void test_stop(void **state) {
    sluice_engine *e = *(sluice_engine **)*state;
    /* in one token, across tokens, from inside a token to inside another, at the very start, several of which one comes
     * first, never */
    static const char *const stops[][3] = {{"winter"}, {"winter of 18"}, {"nter of 189"}, {" the"}, {"change", "awakened", "I was"},
                                           {"no such text"}, {" of 1897. I was awakened by the sudden change"}};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        sluice_sampling s = e2e_greedy(64);
        const char *end = prose->greedy_text + strlen(prose->greedy_text);
        for (s.n_stop = 0; s.n_stop < 3 && stops[i][s.n_stop] != NULL; s.n_stop++) {
            const char *at = strstr(prose->greedy_text, stops[i][s.n_stop]);
            end = at != NULL && at < end ? at : end;
        }
        s.stop = stops[i];
        e2e_output out;
        run(e, prose, &s, &out);
        int64_t expected = end - prose->greedy_text;
        if ((int64_t)out.length != expected || strncmp(out.text, prose->greedy_text, out.length) != 0)
            fail_msg("stop \"%s\": got \"%s\", expected %lld bytes of \"%s\"", stops[i][0], out.text, (long long)expected,
                     prose->greedy_text);
        assert_int_equal(out.finish, *end == '\0' ? SLUICE_FINISH_LENGTH : SLUICE_FINISH_STOP);
        e2e_check_tokens("before the stop", prose->greedy, out.n, out.tokens, out.n);
        e2e_outputs_free(&out, 1);
    }
}

/* ---- cancelling -------------------------------------------------------------------------------------------------- */

typedef struct canceller {
    int64_t tokens, limit;
    int in_prompt, calls;
} canceller;

static int cancel(void *user, const sluice_chunk *chunk) {
    canceller *c = user;
    c->calls++;
    c->tokens += chunk->n_tokens;
    return chunk->n_tokens == 0 && chunk->finish == SLUICE_RUNNING ? c->in_prompt : c->tokens >= c->limit;
}

static void test_cancel(void **state) {
    sluice_engine *e = *(sluice_engine **)*state;
    sluice_error err = {0};
    sluice_session *s = e2e_session(e, prose->ids, prose->n_ids);
    sluice_sampling greedy = e2e_greedy(64);
    canceller c = {.limit = 5};
    assert_int_equal(sluice_generate(e, &s, 1, &greedy, 1, cancel, &c, &err), 0);
    int64_t n = sluice_session_length(s) - prose->n_ids;
    assert_int_equal(n, c.tokens);
    assert_true(n >= 5 && n < 40);
    e2e_check_tokens("before cancelling", prose->greedy, n, sluice_session_tokens(s) + prose->n_ids, n);
    /* it goes on where it was cut off */
    greedy.max_tokens = (int32_t)(64 - n);
    e2e_output out;
    e2e_generate(e, &s, 1, &greedy, 1, &out);
    e2e_check_tokens("after cancelling", prose->greedy + n, 64 - n, out.tokens, out.n);
    e2e_outputs_free(&out, 1);
    sluice_session_close(s);
}

static void test_cancel_in_prompt(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.prefill_chunk=8"));
    sluice_session *s = e2e_session(e, prose->ids, prose->n_ids);
    sluice_sampling greedy = e2e_greedy(64);
    canceller c = {.limit = 1000, .in_prompt = 1};
    assert_int_equal(sluice_generate(e, &s, 1, &greedy, 1, cancel, &c, NULL), 0);
    assert_int_equal(sluice_session_length(s), prose->n_ids);
    assert_int_equal(c.tokens, 0);
    e2e_output out;
    e2e_generate(e, &s, 1, &greedy, 1, &out);
    e2e_check_tokens("after cancelling in the prompt", prose->greedy, 64, out.tokens, out.n);
    e2e_outputs_free(&out, 1);
    sluice_close(e);
}

/* One of three is cancelled; the others do not notice. */
typedef struct picky {
    int64_t tokens[3];
} picky;

static int cancel_second(void *user, const sluice_chunk *chunk) {
    picky *p = user;
    p->tokens[chunk->index] += chunk->n_tokens;
    return chunk->index == 1 && p->tokens[1] >= 3;
}

static void test_cancel_one_of_many(void **state) {
    (void)state;
    sluice_session *s[3];
    picky p = {{0}};
    sluice_sampling greedy = e2e_greedy(20);
    for (int i = 0; i < 3; i++)
        s[i] = e2e_session(engines[0], prompts.prompt[i].ids, prompts.prompt[i].n_ids);
    assert_int_equal(sluice_generate(engines[0], s, 3, &greedy, 1, cancel_second, &p, NULL), 0);
    assert_int_equal(p.tokens[1], 3);
    for (int i = 0; i < 3; i += 2)
        e2e_check_tokens("not cancelled", prompts.prompt[i].greedy, 20, sluice_session_tokens(s[i]) + prompts.prompt[i].n_ids, p.tokens[i]);
    for (int i = 0; i < 3; i++)
        sluice_session_close(s[i]);
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    (void)state;
    char draft[PATH_MAX + 32];
    snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    prose = &prompts.prompt[0];
    engines[0] = e2e_open("models/tiny", NO_SETS);
    engines[1] = e2e_open("models/tiny", SETS("speculation.plugin=prompt_lookup"));
    engines[2] = e2e_open("models/tiny", SETS("speculation.plugin=sps", "speculation.gamma=4", draft));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < N_ENGINES; i++)
        sluice_close(engines[i]);
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    static const struct {
        const char *name;
        CMUnitTestFunction test;
    } each[] = {{"max_tokens", test_max_tokens}, {"eos", test_eos}, {"stop", test_stop}, {"cancel", test_cancel}};
    enum { N_EACH = sizeof each / sizeof *each };
    static char labels[N_EACH * N_ENGINES][48];
    struct CMUnitTest tests[N_EACH * N_ENGINES + 6] = {
        cmocka_unit_test(test_full_context),       cmocka_unit_test(test_session_limit),    cmocka_unit_test(test_refused_requests),
        cmocka_unit_test(test_eos_inside_a_draft), cmocka_unit_test(test_cancel_in_prompt), cmocka_unit_test(test_cancel_one_of_many),
    };
    for (int i = 0; i < N_EACH * N_ENGINES; i++) {
        snprintf(labels[i], sizeof labels[i], "%s %s", each[i / N_ENGINES].name, names[i % N_ENGINES]);
        tests[6 + i] = (struct CMUnitTest){labels[i], each[i / N_ENGINES].test, NULL, NULL, &engines[i % N_ENGINES]};
    }
    return cmocka_run_group_tests_name("endings", tests, set_up, tear_down);
}
