/* What the engine does with a prompt transformer's answers, with transformers made here in place of a plugin's. */
#include "engine_run.h"

#include <unistd.h>

enum { N = 60, NEW = 12 };

static sluice_engine *engine;
static int32_t tokens[N];

/* What the transformer answers, and what it was asked. */
static struct script {
    sl_prompt answer; /* of every question but those that ask for work */
    sl_status status;
    const sl_work *const *works;
    int32_t n_works, rounds; /* questions answered by work first */
    int asked;
    int64_t n;
    int32_t seen[512];
    sl_status work_status;
} script;

static sl_status begin(sl_instance *self, sl_prompt *io, sl_error *err) {
    (void)self;
    if (io->n_results == 0) {
        script.asked++;
        script.n = io->n;
        memcpy(script.seen, io->token, sizeof *io->token * (size_t)io->n);
    } else
        script.work_status = io->results[0]->status;
    if (script.rounds > 0) {
        script.rounds--;
        io->works = script.works;
        io->n_works = script.n_works;
        io->answer = SL_PROMPT_WORK;
        return SL_OK;
    }
    io->answer = script.answer.answer;
    io->new_token = script.answer.new_token;
    io->new_position = script.answer.new_position;
    io->next_position = script.answer.next_position;
    io->new_index = script.answer.new_index;
    io->split = script.answer.split;
    io->n_new = script.answer.n_new;
    return script.status < 0 ? sl_fail(err, script.status, "it has had enough") : SL_OK;
}

static const sl_kv_prompt api = {SL_SIZE(sl_kv_prompt), begin};

static int open_engine(void **state) {
    (void)state;
    engine = run_open("speculation.plugin=prompt_lookup"); /* so that there is room for logits of work */
    engine->prompter = (sli_prompter){(sl_instance *)&script, &api};
    run_tokens(engine, tokens, N);
    return 0;
}

static int close_engine(void **state) {
    (void)state;
    sluice_close(engine);
    return 0;
}

static int forget(void **state) {
    (void)state;
    script = (struct script){0};
    return 0;
}

/* Tokens generated behind a prompt that is computed as it stands. */
static void plainly(const int32_t *prompt, int64_t n, int32_t *out) {
    sli_prompter saved = engine->prompter;
    engine->prompter.self = NULL;
    run_once(engine, prompt, n, NEW, out);
    engine->prompter = saved;
}

static void the_transformer_sees_each_turn_once(void **state) {
    (void)state;
    int32_t expected[NEW];
    sluice_session *s = run_session(engine, tokens, 40);
    run_generate(engine, &s, 1, 4);
    assert_int_equal(script.asked, 1);
    assert_int_equal(script.n, 40);
    assert_memory_equal(script.seen, tokens, sizeof *tokens * 40);
    run_generate(engine, &s, 1, 3); /* nothing was appended */
    assert_int_equal(script.asked, 1);
    assert_int_equal(sluice_session_append(s, tokens + 40, 5, NULL), SLUICE_OK);
    run_generate(engine, &s, 1, 2);
    assert_int_equal(script.asked, 2);
    assert_int_equal(script.n, 52);
    assert_memory_equal(script.seen + 47, tokens + 40, sizeof *tokens * 5);
    sluice_session_close(s);
    plainly(tokens, 40, expected);
    s = run_session(engine, tokens, 40);
    run_generate(engine, &s, 1, NEW);
    assert_memory_equal(sluice_session_tokens(s) + 40, expected, sizeof expected);
    sluice_session_close(s);
}

/* The answer replaces the prompt for everybody but the user. */
static void a_prompt_is_replaced(void **state) {
    (void)state;
    static const int64_t index[] = {2, 5, -1, 9};
    int32_t instead[] = {tokens[2], tokens[5], 77, tokens[9]}, expected[NEW];
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE, .new_token = instead, .n_new = 4, .new_index = index};
    plainly(instead, 4, expected);
    sluice_reset_stats(engine);
    sluice_session *s = run_session(engine, tokens, N);
    run_generate(engine, &s, 1, NEW);
    assert_int_equal(sluice_session_length(s), N + NEW);
    assert_memory_equal(sluice_session_tokens(s), tokens, sizeof tokens);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    const int32_t *computed;
    const int64_t *where;
    int64_t n_prompt;
    assert_int_equal(sluice_session_computed(s, &computed, &where, &n_prompt), 4 + NEW);
    assert_int_equal(n_prompt, 4);
    assert_memory_equal(computed, instead, sizeof instead);
    assert_memory_equal(computed + 4, expected, sizeof expected);
    assert_memory_equal(where, index, sizeof index);
    sluice_stats stats;
    sluice_get_stats(engine, &stats);
    assert_int_equal(stats.replaced_tokens, N);
    assert_int_equal(stats.kept_tokens, 4);
    assert_int_equal(stats.prompt_tokens, 4);

    /* the next turn replaces all of it again, with the whole text to choose from */
    int32_t second[] = {5, 6, 7};
    assert_int_equal(sluice_session_append(s, tokens, 2, NULL), SLUICE_OK);
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE, .new_token = second, .n_new = 3};
    plainly(second, 3, expected);
    run_generate(engine, &s, 1, NEW);
    assert_int_equal(script.n, N + NEW + 2);
    assert_memory_equal(script.seen, tokens, sizeof tokens);
    assert_memory_equal(sluice_session_tokens(s) + N + NEW + 2, expected, sizeof expected);
    assert_null((sluice_session_computed(s, &computed, &where, &n_prompt), where));
    sluice_session_close(s);
}

/* A piece of the prompt itself may be the answer. */
static void an_answer_may_point_into_the_prompt(void **state) {
    (void)state;
    int32_t expected[NEW];
    sluice_session *s = run_session(engine, tokens, N);
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE, .new_token = s->tokens + 10, .n_new = 30};
    plainly(tokens + 10, 30, expected);
    run_generate(engine, &s, 1, NEW);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    sluice_session_close(s);
}

/* Logits behind given positions equal those of a work item with the same, of the prompt and of what follows it. */
static void positions_are_those_of_the_answer(void **state) {
    (void)state;
    enum { K = 5, TAIL = 4, ALL = K + TAIL - 1 };
    static const float position[ALL] = {0, 3, 4, 17, 30, 40, 41, 42};
    int64_t V = engine->target.info->vocab;
    float *logits = malloc(sizeof *logits * (size_t)(TAIL * V));
    int32_t computed[ALL];
    assert_non_null(logits);
    memcpy(computed, tokens, sizeof *tokens * K);
    memcpy(computed + K, tokens + 40, sizeof *tokens * (TAIL - 1));
    for (int given = 0; given < 2; given++) { /* next_position, or behind the last one */
        script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE,
                                    .new_token = tokens,
                                    .new_position = position,
                                    .n_new = K,
                                    .next_position = given ? 40 : 0};
        float own[ALL];
        memcpy(own, position, sizeof own);
        for (int i = K; i < ALL && !given; i++)
            own[i] = position[K - 1] + (float)(i - K + 1);
        sluice_session *s = run_session(engine, tokens, 40 + TAIL - 1), *other = run_session(engine, tokens, 1);
        assert_int_equal(sluice_logits(s, TAIL, logits, NULL), SLUICE_OK);
        assert_int_equal(script.n, 40);
        sl_work w = {.struct_size = SL_SIZE(sl_work),
                     .token = computed,
                     .position = own,
                     .n_rows = ALL,
                     .seq = other->id,
                     .exit_layer = -1,
                     .kv = SL_WORK_KV_SCRATCH,
                     .logits = SL_WORK_LOGITS_ALL};
        const sl_work *works[] = {&w};
        sl_work_result r;
        assert_int_equal(sli_engine_work(engine, works, 1, &r, NULL), SL_OK);
        assert_int_equal(r.status, SL_OK);
        assert_memory_equal(logits, r.logits + (K - 1) * V, sizeof *logits * (size_t)(TAIL * V));
        sluice_session_close(s);
        sluice_session_close(other);
    }
    free(logits);
}

/* ---- chunks
 * ------------------------------------------------------------------------------------------------------------ */

static int64_t done[32];
static int n_done;
static int note_done(void *user, const sluice_chunk *chunk) {
    (void)user;
    if (chunk->n_tokens == 0 && chunk->finish == SLUICE_RUNNING && n_done < 32)
        done[n_done++] = chunk->prompt_done;
    return 0;
}

static void splits_end_chunks(void **state) {
    (void)state;
    static const int64_t split[] = {7, 20, 33, 60}, later[] = {N + NEW + 1, N + NEW + 4};
    int32_t expected[NEW];
    plainly(tokens, N, expected);
    script.answer = (sl_prompt){.answer = SL_PROMPT_SPLIT, .split = split, .n_new = 4};
    sluice_sampling p;
    sluice_default_sampling(engine, &p);
    p.max_tokens = NEW, p.ignore_eos = 1;
    sluice_session *s = run_session(engine, tokens, N);
    n_done = 0;
    assert_int_equal(sluice_generate(engine, &s, 1, &p, 1, note_done, NULL, NULL), SLUICE_OK);
    assert_int_equal(n_done, 4);
    assert_memory_equal(done, split, sizeof split);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    script.answer = (sl_prompt){.answer = SL_PROMPT_SPLIT, .split = later, .n_new = 2};
    assert_int_equal(sluice_session_append(s, tokens, 6, NULL), SLUICE_OK);
    n_done = 0;
    assert_int_equal(sluice_generate(engine, &s, 1, &p, 1, note_done, NULL, NULL), SLUICE_OK);
    assert_int_equal(n_done, 3);
    assert_int_equal(done[0], N + NEW + 1);
    assert_int_equal(done[1], N + NEW + 4);
    assert_int_equal(done[2], N + NEW + 6);
    sluice_session_close(s);
}

/* ---- work
 * -------------------------------------------------------------------------------------------------------------- */

static sl_work item(const sluice_session *s) {
    return (sl_work){.struct_size = SL_SIZE(sl_work),
                     .token = tokens,
                     .n_rows = 30,
                     .seq = s->id,
                     .exit_layer = 2,
                     .kv = SL_WORK_KV_SCRATCH};
}

static void work_runs_as_often_as_it_is_asked_for(void **state) {
    (void)state;
    int32_t expected[NEW];
    plainly(tokens, N, expected);
    sluice_session *s = run_session(engine, tokens, N);
    sl_work w = item(s);
    const sl_work *works[] = {&w, &w};
    script.works = works, script.n_works = 2, script.rounds = 3;
    sluice_reset_stats(engine);
    run_generate(engine, &s, 1, NEW);
    assert_int_equal(script.work_status, SL_OK);
    assert_int_equal(script.asked, 1);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    sluice_stats stats;
    sluice_get_stats(engine, &stats);
    assert_int_equal(stats.prompt_work_layers, 3 * 2 * 30 * 2);
    assert_true(stats.prompt_work_seconds > 0 && stats.prompt_work_seconds < stats.prompt_seconds);
    assert_int_equal(stats.replaced_tokens, 0);
    sluice_session_close(s);
}

/* ---- what is wrong is told, and the session stays as it was
 * ------------------------------------------------------------------ */

static void check_refused(sluice_session *s, const char *word) {
    sluice_sampling p;
    sluice_error err = {0};
    sluice_default_sampling(engine, &p);
    p.max_tokens = 2;
    assert_true(sluice_generate(engine, &s, 1, &p, 1, NULL, NULL, &err) < 0);
    if (strstr(err.text, word) == NULL || strstr(err.text, "prompt transformer") == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
    assert_int_equal(sluice_session_length(s), N);
}

static void faults_end_the_request_alone(void **state) {
    (void)state;
    static const int32_t negative[] = {3, -1}, large[] = {3, 1 << 20};
    static const float outside[] = {0, 512}, nothing[] = {0, NAN};
    static const int64_t falling[] = {4, 4}, beyond[] = {4, N}, zero[] = {0, 4}, longer[] = {4, N + 1};
    const struct {
        sl_prompt answer;
        const char *word;
    } bad[] = {
        {{.answer = 9}, "answer 9 is unknown"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 0}, "replaced by 0"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 600}, "replaced by 600"},
        {{.answer = SL_PROMPT_REPLACE, .n_new = 2}, "missing"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = negative, .n_new = 2}, "token id -1"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = large, .n_new = 2}, "vocabulary"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 2, .new_position = outside}, "position 512"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 2, .new_position = nothing}, "position"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 2, .next_position = 600}, "position 600"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 2, .new_index = falling}, "ascending"},
        {{.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 2, .new_index = beyond}, "index 60"},
        {{.answer = SL_PROMPT_SPLIT, .n_new = 2}, "missing"},
        {{.answer = SL_PROMPT_SPLIT, .split = zero, .n_new = 2}, "end at 0"},
        {{.answer = SL_PROMPT_SPLIT, .split = longer, .n_new = 2}, "end at 61"},
    };
    int32_t expected[NEW];
    plainly(tokens, N, expected);
    sluice_session *s = run_session(engine, tokens, N);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        script.answer = bad[i].answer;
        check_refused(s, bad[i].word);
    }
    script = (struct script){.status = SL_E_DATA};
    check_refused(s, "had enough");
    sl_work w = item(s);
    const sl_work *works[] = {&w};
    script = (struct script){.works = works, .n_works = 1, .rounds = 1000};
    check_refused(s, "256 times");
    script = (struct script){.works = works, .rounds = 1};
    check_refused(s, "0 work items");
    w.seq = s->id + 1;
    script = (struct script){.works = works, .n_works = 1, .rounds = 1};
    check_refused(s, "on sequence");
    script = (struct script){0};
    run_generate(engine, &s, 1, NEW);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    sluice_session_close(s);
}

/* Work that cannot be run comes back with its status, and does no harm. */
static void refused_work_comes_back(void **state) {
    (void)state;
    sluice_session *s = run_session(engine, tokens, N);
    sl_work w = item(s);
    const sl_work *works[] = {&w};
    w.exit_layer = 99;
    script = (struct script){.works = works, .n_works = 1, .rounds = 1};
    run_generate(engine, &s, 1, 2);
    assert_int_equal(script.work_status, SL_E_RANGE);
    sluice_session_close(s);
}

/* ---- cutting, forking, saving
 * --------------------------------------------------------------------------------------------- */

static void a_replaced_prompt_is_cut_forked_and_saved(void **state) {
    (void)state;
    static const float position[] = {1, 5, 8};
    static const int64_t index[] = {1, 5, 8};
    int32_t instead[] = {tokens[1], tokens[5], tokens[8]}, expected[2 * NEW], got[2 * NEW];
    char path[] = "/tmp/prompt_test_XXXXXX";
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE,
                                .new_token = instead,
                                .n_new = 3,
                                .new_position = position,
                                .new_index = index,
                                .next_position = N};
    sluice_session *s = run_session(engine, tokens, N), *t;
    run_generate(engine, &s, 1, 2 * NEW);
    memcpy(expected, sluice_session_tokens(s) + N, sizeof expected);

    /* a fork, and a cut behind the prompt, go on as if nothing had been there */
    assert_int_equal(sluice_session_fork(s, N + NEW, &t, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_truncate(s, N + NEW + 1, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_length(s), N + NEW + 1);
    run_generate(engine, (sluice_session *const[]){s, t}, 2, NEW - 1);
    assert_memory_equal(sluice_session_tokens(s) + N, expected, sizeof expected);
    assert_memory_equal(sluice_session_tokens(t) + N, expected, sizeof *expected * (2 * NEW - 1));
    assert_int_equal(script.asked, 1);
    sluice_session_close(t);

    /* ... and so does a copy from a file */
    int f = mkstemp(path);
    assert_true(f >= 0);
    close(f);
    assert_int_equal(sluice_session_truncate(s, N + NEW, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_save(s, path, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_open(engine, &t, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_load(t, path, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_length(t), N + NEW);
    assert_memory_equal(sluice_session_tokens(t), tokens, sizeof tokens);
    run_generate(engine, &t, 1, NEW);
    memcpy(got, sluice_session_tokens(t) + N, sizeof got);
    assert_memory_equal(got, expected, sizeof expected);
    sluice_session_close(t);
    for (long cut = 40; cut < 700; cut += 61) { /* damaged files are refused */
        sluice_error err = {0};
        assert_int_equal(sluice_session_save(s, path, NULL), SLUICE_OK);
        assert_int_equal(truncate(path, cut), 0);
        assert_int_equal(sluice_session_open(engine, &t, NULL), SLUICE_OK);
        assert_true(sluice_session_load(t, path, &err) < 0);
        assert_non_null(strstr(err.text, "ends"));
        assert_int_equal(sluice_session_length(t), 0);
        sluice_session_close(t);
    }
    remove(path);

    /* a cut inside of the prompt makes it a new one */
    script.answer.answer = SL_PROMPT_CONTINUE;
    plainly(tokens, 40, expected);
    assert_int_equal(sluice_session_fork(s, 40, &t, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_truncate(s, 40, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_length(t), 40);
    run_generate(engine, (sluice_session *const[]){s, t}, 2, NEW);
    assert_int_equal(script.asked, 3);
    assert_int_equal(script.n, 40);
    assert_memory_equal(sluice_session_tokens(s) + 40, expected, sizeof *expected * NEW);
    assert_memory_equal(sluice_session_tokens(t) + 40, expected, sizeof *expected * NEW);
    sluice_session_close(s);
    sluice_session_close(t);
}

/* Both texts, and the positions, end with the context. */
static void the_context_is_that_of_the_longer_text(void **state) {
    (void)state;
    int32_t many[512];
    for (int i = 0; i < 512; i++)
        many[i] = tokens[i % N];
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 3};
    sluice_session *s = run_session(engine, many, 505);
    run_generate(engine, &s, 1, 100);
    assert_int_equal(sluice_session_length(s), 512);
    assert_true(sluice_session_append(s, tokens, 1, NULL) < 0);
    sluice_session_close(s);
    script.answer = (sl_prompt){.answer = SL_PROMPT_REPLACE, .new_token = tokens, .n_new = 3, .next_position = 500};
    s = run_session(engine, many, 20);
    run_generate(engine, &s, 1, 100);
    assert_int_equal(sluice_session_length(s), 20 + 12);
    sluice_session_close(s);
}

#define TEST(f) cmocka_unit_test_setup(f, forget)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_transformer_sees_each_turn_once),
        TEST(a_prompt_is_replaced),
        TEST(an_answer_may_point_into_the_prompt),
        TEST(positions_are_those_of_the_answer),
        TEST(splits_end_chunks),
        TEST(work_runs_as_often_as_it_is_asked_for),
        TEST(faults_end_the_request_alone),
        TEST(refused_work_comes_back),
        TEST(a_replaced_prompt_is_cut_forked_and_saved),
        TEST(the_context_is_that_of_the_longer_text),
    };
    return cmocka_run_group_tests_name("prompt", tests, open_engine, close_engine);
}
