/* Sessions: what is forked, cut, appended in pieces, saved and loaded goes on exactly like a session that was fed the same
 * tokens at once. Logits are compared bit by bit. */
#include "e2e.h"

static e2e_prompts prompts;
static sluice_engine *engine;
static int64_t vocab;
static const e2e_prompt *text; /* 109 tokens */
static float *fresh;           /* [n_ids, vocab] */

static void check_bits(const char *what, const float *got, int64_t first, int64_t n) {
    const float *expected = fresh + first * vocab;
    for (int64_t i = 0; i < n * vocab; i++)
        if (memcmp(&expected[i], &got[i], sizeof *got) != 0)
            fail_msg("%s: logit %lld behind token %lld is %.9g, in a fresh session %.9g", what, (long long)(i % vocab),
                     (long long)(first + i / vocab), (double)got[i], (double)expected[i]);
}

/* The session holds text->ids[0 .. length): feeds the rest and compares. */
static void check_rest(const char *what, sluice_session *s) {
    int64_t n = sluice_session_length(s), rest = text->n_ids - n;
    sluice_error err = {0};
    e2e_check_tokens(what, text->ids, n, sluice_session_tokens(s), n);
    if (sluice_session_append(s, text->ids + n, rest, &err) < 0)
        fail_msg("%s: %s", what, err.text);
    float *logits = e2e_logits(engine, s, rest);
    check_bits(what, logits, n, rest);
    free(logits);
}

static sluice_session *computed(int64_t n) {
    sluice_session *s = e2e_session(engine, text->ids, n);
    free(e2e_logits(engine, s, 1));
    return s;
}

static void test_chunked_appends(void **state) {
    (void)state;
    sluice_session *s = e2e_session(engine, text->ids, 1);
    float *all = e2e_logits(engine, s, 1);
    check_bits("one token", all, 0, 1);
    free(all);
    for (int64_t n = 1, step = 1; n < text->n_ids; n += step, step = step % 13 + 1) {
        int64_t more = text->n_ids - n < step ? text->n_ids - n : step;
        assert_int_equal(sluice_session_append(s, text->ids + n, more, NULL), 0);
        float *logits = e2e_logits(engine, s, more);
        check_bits("appended in pieces", logits, n, more);
        free(logits);
    }
    sluice_session_close(s);
}

static void test_fork(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_session *a = computed(70), *b, *c, *d;
    assert_int_equal(sluice_session_fork(a, -1, &b, &err), 0);
    assert_int_equal(sluice_session_length(b), 70);
    assert_int_equal(sluice_session_fork(b, 33, &c, &err), 0);
    assert_int_equal(sluice_session_fork(c, 32, &d, &err), 0); /* a fork of a fork */
    /* what one writes the others do not see */
    const int32_t noise[] = {7, 99, 1000, 5};
    assert_int_equal(sluice_session_append(c, noise, 4, &err), 0);
    free(e2e_logits(engine, c, 4));
    check_rest("the parent", a);
    check_rest("a fork", b);
    assert_int_equal(sluice_session_truncate(c, 33, &err), 0);
    check_rest("a fork that was cut", c);
    sluice_session_close(a);
    sluice_session_close(b);
    check_rest("a fork whose parents are closed", d);
    sluice_session_close(c);
    sluice_session_close(d);
}

static void test_fork_of_pending(void **state) {
    (void)state;
    sluice_session *a = e2e_session(engine, text->ids, 40), *b;
    assert_int_equal(sluice_session_fork(a, 20, &b, NULL), 0);
    float *logits = e2e_logits(engine, b, 20);
    check_bits("a fork of a session not computed yet", logits, 0, 20);
    free(logits);
    check_rest("the fork", b);
    sluice_session_close(a);
    sluice_session_close(b);
    sluice_error err = {0};
    sluice_session *c = computed(10);
    assert_int_equal(sluice_session_fork(c, 11, &b, &err), SLUICE_E_RANGE);
    assert_true(err.text[0] != '\0');
    sluice_session_close(c);
}

static void test_truncate(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_session *s = computed(90);
    static const int64_t cuts[] = {89, 64, 63, 17, 1, 0};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        assert_int_equal(sluice_session_truncate(s, cuts[i], &err), 0);
        assert_int_equal(sluice_session_length(s), cuts[i]);
    }
    check_rest("cut to nothing", s);
    assert_int_equal(sluice_session_truncate(s, 50, &err), 0);
    check_rest("cut to 50", s);
    assert_int_equal(sluice_session_truncate(s, text->n_ids + 1, &err), SLUICE_E_RANGE);
    assert_int_equal(sluice_session_truncate(s, -1, &err), SLUICE_E_RANGE);
    sluice_session_close(s);
    /* tokens that were never computed are cut, too */
    s = e2e_session(engine, text->ids, 60);
    assert_int_equal(sluice_session_truncate(s, 30, &err), 0);
    float *logits = e2e_logits(engine, s, 30);
    check_bits("cut before it was computed", logits, 0, 30);
    free(logits);
    sluice_session_close(s);
}

/* A session that generated is like one that was given the tokens: the rows of decode steps are those of a prompt. */
static void test_continue_generation(void **state) {
    (void)state;
    const e2e_prompt *p = &prompts.prompt[0];
    sluice_session *s = e2e_session(engine, p->ids, p->n_ids);
    e2e_output out;
    for (int64_t n = 0; n < p->n_greedy; n += 16) {
        sluice_sampling greedy = e2e_greedy(16);
        e2e_generate(engine, &s, 1, &greedy, 1, &out);
        e2e_check_tokens("sixteen more", p->greedy + n, 16, out.tokens, out.n);
        e2e_outputs_free(&out, 1);
    }
    /* append behind generated text, then compare with a fresh session of the same tokens */
    assert_int_equal(sluice_session_append(s, text->ids, 20, NULL), 0);
    int64_t total = sluice_session_length(s);
    assert_int_equal(total, p->n_ids + p->n_greedy + 20);
    float *logits = e2e_logits(engine, s, 20), *other = e2e_logits_of(engine, sluice_session_tokens(s), total);
    assert_memory_equal(logits, other + (total - 20) * vocab, sizeof *logits * (size_t)(20 * vocab));
    free(logits);
    free(other);
    sluice_session_close(s);
}

static void test_save_and_load(void **state) {
    (void)state;
    sluice_error err = {0};
    const char *path = e2e_temp("session");
    sluice_session *s = computed(77), *t;
    assert_int_equal(sluice_session_append(s, text->ids + 77, 5, &err), 0); /* pending tokens are saved too */
    if (sluice_session_save(s, path, &err) < 0)
        fail_msg("save: %s", err.text);
    /* into another engine, whose pages have another size */
    sluice_engine *other = e2e_open("models/tiny", SETS("kvcache.page=7"));
    assert_int_equal(sluice_session_open(other, &t, &err), 0);
    if (sluice_session_load(t, path, &err) < 0)
        fail_msg("load: %s", err.text);
    assert_int_equal(sluice_session_length(t), 82);
    float *logits = e2e_logits(other, t, 5);
    check_bits("tokens that were pending when saved", logits, 77, 5);
    free(logits);
    check_rest("loaded", t);
    assert_int_equal(sluice_session_load(t, path, &err) < 0, 1); /* only an empty session can be loaded into */
    assert_non_null(strstr(err.text, "empty"));
    sluice_close(other);
    check_rest("the one that was saved", s);
    sluice_session_close(s);
}

/* A damaged file is refused with its name, and the session stays usable. */
static void refuse_load(const char *what, const void *bytes, size_t n) {
    sluice_error err = {0};
    sluice_session *s;
    e2e_put(e2e_temp(""), "damaged", bytes, n);
    assert_int_equal(sluice_session_open(engine, &s, &err), 0);
    if (sluice_session_load(s, e2e_temp("damaged"), &err) >= 0)
        fail_msg("%s: loaded", what);
    if (strstr(err.text, "damaged") == NULL || strchr(err.text, '\n') != NULL)
        fail_msg("%s: poor message: %s", what, err.text);
    assert_int_equal(sluice_session_length(s), 0);
    check_rest(what, s);
    sluice_session_close(s);
}

static void test_damaged_files(void **state) {
    (void)state;
    sluice_error err = {0};
    sluice_session *s = computed(20);
    assert_int_equal(sluice_session_save(s, e2e_temp("good"), &err), 0);
    sluice_session_close(s);
    size_t n;
    char *bytes = e2e_read(e2e_temp("good"), &n), *copy = malloc(n + 8);
    assert_non_null(copy);
    const size_t cuts[] = {0, 1, 7, 8, 31, 60, 100, n / 3, n / 2, n - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        char what[48];
        snprintf(what, sizeof what, "cut to %zu bytes", cuts[i]);
        refuse_load(what, bytes, cuts[i]);
    }
    /* every byte of the header set to 0xff in turn: magic, model, counts, dtype, layers */
    for (size_t i = 0; i < 48; i++) {
        char what[48];
        memcpy(copy, bytes, n);
        copy[i] = (char)0xff;
        snprintf(what, sizeof what, "byte %zu is ff", i);
        refuse_load(what, copy, n);
    }
    memcpy(copy, bytes, n);
    memset(copy + n, 0, 8);
    refuse_load("eight bytes too many", copy, n + 8);
    int32_t huge = 1 << 30;
    memcpy(copy, bytes, n);
    memcpy(copy + 48 + 8, &huge, 4); /* the third token; the header has 48 bytes */
    refuse_load("a token outside of the vocabulary", copy, n);
    free(copy);
    free(bytes);
    /* of another model; no such file; a folder that does not exist */
    sluice_engine *other = e2e_open("tests/data/random_draft", NO_SETS);
    assert_int_equal(sluice_session_open(other, &s, &err), 0);
    assert_true(sluice_session_load(s, e2e_temp("good"), &err) < 0);
    assert_non_null(strstr(err.text, "model"));
    assert_int_equal(sluice_session_load(s, e2e_temp("nowhere"), &err), SLUICE_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "nowhere"));
    assert_true(sluice_session_save(s, e2e_temp("no/such/folder"), &err) < 0);
    assert_non_null(strstr(err.text, "no/such/folder"));
    sluice_close(other);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    for (int i = 0; i < prompts.n; i++)
        if (strcmp(prompts.prompt[i].name, "unicode") == 0)
            text = &prompts.prompt[i];
    assert_non_null(text);
    engine = e2e_open("models/tiny", SETS("kvcache.page=16"));
    sluice_info info;
    sluice_get_info(engine, &info);
    vocab = info.vocab;
    fresh = e2e_logits_of(engine, text->ids, text->n_ids);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sluice_close(engine);
    free(fresh);
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunked_appends), cmocka_unit_test(test_fork),          cmocka_unit_test(test_fork_of_pending),
        cmocka_unit_test(test_truncate),        cmocka_unit_test(test_continue_generation),
        cmocka_unit_test(test_save_and_load),   cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests_name("session", tests, set_up, tear_down);
}
