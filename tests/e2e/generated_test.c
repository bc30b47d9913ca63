/* Generated contexts and the runner of their questions, from inside: what `sluice eval retrieval`, `ruler` and
 * `scbench` are made of. Generators need a tokenizer only; the runner's invariants are checked on the embedded model.
 */
#include "e2e.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gen_qa.h"
#include "gen_run.h"

static sluice_engine *engine; /* tiny, dense, paged */
static char *prose;
static size_t prose_bytes;
static gen_paragraphs *paragraphs;

static gen_source source_of(int64_t length, int turns, uint64_t seed, int64_t number) {
    return (gen_source){.text = prose,
                        .bytes = prose_bytes,
                        .paragraphs = paragraphs,
                        .turns = turns,
                        .seed = seed,
                        .number = number,
                        .length = length};
}

static gen_context make(const gen_task *task, const gen_source *source) {
    gen_context c;
    sluice_error err = {0};
    if (gen_make(engine, task, source, &c, &err) < 0)
        fail_msg("%s at %lld: %s", task->name, (long long)source->length, err.text);
    return c;
}

static const gen_task *task_named(const gen_task *table, const char *name) {
    while (table->name != NULL && strcmp(table->name, name) != 0)
        table++;
    assert_non_null(table->name);
    return table;
}

/* How often it stands in the first n bytes, and where first. */
static int occurrences(const char *text, size_t n, const char *what, size_t length, size_t *first) {
    int found = 0;
    for (size_t i = 0; i + length <= n; i++)
        if (memcmp(text + i, what, length) == 0 && found++ == 0)
            *first = i;
    return found;
}

/* ---- contexts ---------------------------------------------------------------------------------------------------- */

/* Pieces are tokenized apart; together they must be the tokens of the whole. */
static void check_tokens(const gen_task *task, const gen_context *c) {
    int32_t *whole = malloc(sizeof *whole * (c->length + 1));
    int64_t n = sluice_tokenize(engine, c->text, c->length, 0, whole, (int64_t)c->length, NULL);
    if (n + 1 != c->n_tokens || memcmp(whole, c->tokens + 1, sizeof *whole * (size_t)n) != 0)
        fail_msg("%s: %lld tokens, %lld of the text as a whole", task->name, (long long)c->n_tokens - 1, (long long)n);
    free(whole);
}

/* The answer stands once in front of the questions, where its depth says; references stand there, too. */
static void check_answers(const gen_task *task, const gen_context *c) {
    for (int i = 0; i < c->n_questions; i++) {
        const gen_question *q = &c->questions[i];
        const char *answer = c->text + q->text_answer;
        size_t n = q->text_end - q->text_answer, at = 0;
        assert_true(n > 0 && q->n > 0 && q->begin + q->n <= c->n_tokens);
        n -= *answer == ' ';
        answer += *answer == ' ';
        if (q->depth >= 0 && task->metric != GEN_ANY) {
            int found = occurrences(c->text, c->shared, answer, n, &at);
            if (found != 1)
                fail_msg("%s: \"%.*s\" stands %d times in the context", task->name, (int)n, answer, found);
            /* a sentence has something in front of its answer, and so has the context */
            if (fabs((double)at - q->depth * (double)c->shared) > 0.06 * (double)c->shared + 200)
                fail_msg("%s: the answer lies at %.3f, not %.3f", task->name, (double)at / (double)c->shared, q->depth);
        }
        for (int k = 0; k < q->n_refs; k++)
            if (occurrences(c->text, c->shared, q->refs[k], strlen(q->refs[k]), &at) == 0)
                fail_msg("%s: the reference \"%s\" is not in the context", task->name, q->refs[k]);
    }
}

static int same(const gen_context *a, const gen_context *b) {
    return a->n_tokens == b->n_tokens && memcmp(a->tokens, b->tokens, sizeof *a->tokens * (size_t)a->n_tokens) == 0;
}

static void check_task(const gen_task *task, int64_t length) {
    gen_source s = source_of(length, 4, 7, 3), other_seed = source_of(length, 4, 8, 3),
               other = source_of(length, 4, 7, 4);
    gen_context a = make(task, &s), b = make(task, &s), c = make(task, &other_seed), d = make(task, &other);
    assert_true(same(&a, &b));
    assert_false(same(&a, &c) || same(&a, &d));
    int64_t most = 0;
    for (int i = 0; i < a.n_questions; i++) {
        int64_t with = a.questions[i].begin + gen_answer_limit(task, &s, &a.questions[i]);
        most = with > most ? with : most;
    }
    most = a.n_tokens > most ? a.n_tokens : most;
    if (most > length || ((double)most < 0.85 * (double)length && !(task->needs & GEN_PARAGRAPHS)))
        fail_msg("%s: %lld tokens of %lld", task->name, (long long)most, (long long)length);
    check_tokens(task, &a);
    check_answers(task, &a);
    gen_context_free(&a);
    gen_context_free(&b);
    gen_context_free(&c);
    gen_context_free(&d);
}

static void test_contexts(void **state) {
    (void)state;
    static const gen_task *const tables[] = {gen_formats, gen_ruler, gen_scbench};
    static const int64_t lengths[] = {1024, 4096};
    for (int t = 0; t < 3; t++)
        for (const gen_task *task = tables[t]; task->name != NULL; task++)
            for (int l = 0; l < 2; l++)
                check_task(task, lengths[l]);
}

static void test_contexts_refused(void **state) {
    (void)state;
    gen_context c;
    sluice_error err = {0};
    gen_source s = source_of(200, 32, 1, 0); /* 32 needles and questions are longer */
    assert_int_equal(gen_make(engine, task_named(gen_formats, "needle"), &s, &c, &err), SLUICE_E_RANGE);
    assert_non_null(strstr(err.text, "200"));
    s = source_of(1024, 2, 1, 0);
    s.own_history = 1; /* two answers of 150 tokens, and what asks for them */
    gen_context own = make(task_named(gen_scbench, "kv"), &s);
    assert_true(own.n_shared + 2 * 150 + own.questions[0].begin - own.questions[0].question <= 1024);
    gen_context_free(&own);
}

/* The single answer of context i lies at another depth each time, and in all tenths after a while. */
static void test_depths(void **state) {
    (void)state;
    int seen[10] = {0}, n = 0;
    for (int i = 0; i < 20; i++) {
        gen_source s = source_of(512, 1, 1, i);
        gen_context c = make(task_named(gen_formats, "needle"), &s);
        int bin = (int)(c.questions[0].depth * 10);
        n += seen[bin < 10 ? bin : 9]++ == 0;
        gen_context_free(&c);
    }
    assert_true(n >= 9); /* the last sentence may end in front of the last tenth */
}

static void test_paragraphs(void **state) {
    (void)state;
    sluice_error err = {0};
    const char *dir = e2e_temp("paragraphs"), *path = e2e_temp("paragraphs/bad.jsonl");
    mkdir(dir, 0777);
    e2e_put_text(dir, "bad.jsonl", "{\"text\": \"Fine.\"}\n{\"question\": \"Of what?\"}\n");
    assert_null(gen_paragraphs_read(path, &err));
    assert_non_null(strstr(err.text, "line 2"));
    e2e_put_text(dir, "bad.jsonl", "{\"text\": \"Fine.\"\n");
    assert_null(gen_paragraphs_read(path, &err));
    assert_null(gen_paragraphs_read("/nonexistent/p.jsonl", &err));
    assert_true(gen_paragraphs_ask(paragraphs, 1) && gen_paragraphs_ask(paragraphs, 2));
    e2e_put_text(dir, "bad.jsonl", "{\"text\": \"Fine.\"}\n");
    gen_paragraphs *none = gen_paragraphs_read(path, &err);
    assert_non_null(none);
    assert_false(gen_paragraphs_ask(none, 1));
    gen_paragraphs_free(none);
}

static void test_points(void **state) {
    (void)state;
    static char text[] = "It is 1234567"; /* the answer begins at 6 */
    gen_context c = {.text = text, .length = sizeof text - 1};
    gen_question q = {.text_answer = 6, .text_end = 13, .n = 3, .refs = {"Alpha", "beta"}, .n_refs = 2};
    const struct {
        gen_metric metric;
        const char *output;
        int64_t right;
        double points;
    } cases[] = {
        {GEN_TOKENS, "", 3, 1},
        {GEN_TOKENS, "", 2, 0},
        {GEN_CONTAINS, "so 1234567.", 0, 1},
        {GEN_CONTAINS, "123456", 2, 0},
        {GEN_ALL, "the ALPHA of", 0, 0.5},
        {GEN_ALL, "BETA, alpha", 0, 1},
        {GEN_ALL, "alp", 0, 0},
        {GEN_ANY, "beta", 0, 1},
        {GEN_ANY, "gamma", 0, 0},
        {GEN_NUMBER, " 1234567, 2", 3, 1},
        {GEN_NUMBER, "12345678", 3, 0},
        {GEN_NUMBER, "2, 1234567", 0, 0},
        {GEN_NUMBER, "none", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gen_task task = {.name = "points", .metric = cases[i].metric};
        double points = gen_score(&task, &c, &q, cases[i].output, cases[i].right);
        if (points != cases[i].points)
            fail_msg("case %zu: %g points for \"%s\"", i, points, cases[i].output);
    }
}

/* ---- questions ------------------------------------------------------------------------------------------------------
 */

/* Rows of one context; free with json_decref. */
static json_t *rows_of(sluice_engine *e, prefill_cache *cache, gen_mode mode, const gen_task *task,
                       const gen_source *source, const gen_context *c) {
    gen_run r = {.engine = e, .cache = cache, .mode = mode, .rows = json_array()};
    sluice_error err = {0};
    if (gen_run_context(&r, task, source, c, &err) < 0)
        fail_msg("%s, %s: %s", task->name, gen_mode_names[mode], err.text);
    assert_int_equal(json_array_size(r.rows), c->n_questions);
    assert_true(mode == GEN_FORCED || (r.kv_prefill > 0 && r.kv_peak >= r.kv_prefill));
    return r.rows;
}

static json_t *got(json_t *rows, int i) { return json_object_get(json_array_get(rows, (size_t)i), "got"); }

/* A turn behind the right answers to those before is the continuation of one long prompt. */
static void test_golden_history(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_formats, "needle");
    gen_source s = source_of(600, 3, 1, 0);
    gen_context c = make(task, &s);
    json_t *rows = rows_of(engine, NULL, GEN_MULTI_TURN, task, &s, &c);
    for (int i = 0; i < c.n_questions; i++) {
        const gen_question *q = &c.questions[i];
        sluice_session *one = e2e_session(engine, c.tokens, q->begin);
        sluice_sampling greedy = e2e_greedy((int32_t)q->n);
        e2e_output out;
        e2e_generate(engine, &one, 1, &greedy, 1, &out);
        assert_int_equal(json_array_size(got(rows, i)), out.n);
        for (int64_t k = 0; k < out.n; k++)
            assert_int_equal(json_integer_value(json_array_get(got(rows, i), (size_t)k)), out.tokens[k]);
        e2e_outputs_free(&out, 1);
        sluice_session_close(one);
    }
    json_decref(rows);
    gen_context_free(&c);
}

/* What the model itself answered is what the next turn sees, where that is asked for. */
static void test_own_history(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_scbench, "niah_single");
    gen_source s = source_of(600, 2, 1, 0);
    s.own_history = 1;
    s.max_tokens = 12;
    gen_context c = make(task, &s);
    json_t *rows = rows_of(engine, NULL, GEN_MULTI_TURN, task, &s, &c);
    sluice_session *one = e2e_session(engine, c.tokens, c.questions[0].begin);
    for (int i = 0; i < 2; i++) {
        const gen_question *q = &c.questions[i];
        sluice_sampling greedy = e2e_greedy(12);
        e2e_output out;
        if (i > 0)
            assert_int_equal(sluice_session_append(one, c.tokens + q->question, q->begin - q->question, NULL), 0);
        e2e_generate(engine, &one, 1, &greedy, 1, &out);
        assert_int_equal(json_array_size(got(rows, i)), 12);
        for (int64_t k = 0; k < out.n; k++)
            assert_int_equal(json_integer_value(json_array_get(got(rows, i), (size_t)k)), out.tokens[k]);
        e2e_outputs_free(&out, 1);
    }
    sluice_session_close(one);
    json_decref(rows);
    gen_context_free(&c);
}

/* Questions of one context do not see each other: asked in another order, some at a time, they get the same answers. */
static void test_order(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_formats, "multi_value");
    gen_source s = source_of(600, 4, 2, 0);
    gen_context c = make(task, &s);
    sluice_engine *few = e2e_open("models/tiny", SETS("engine.max_seqs=3", "engine.max_context=1024"));
    json_t *before = rows_of(engine, NULL, GEN_MULTI_REQUEST, task, &s, &c);
    for (int i = 0; i < c.n_questions / 2; i++) {
        gen_question q = c.questions[i];
        c.questions[i] = c.questions[c.n_questions - 1 - i];
        c.questions[c.n_questions - 1 - i] = q;
    }
    json_t *after = rows_of(few, NULL, GEN_MULTI_REQUEST, task, &s, &c);
    for (int i = 0; i < c.n_questions; i++)
        assert_true(json_equal(got(before, i), got(after, c.n_questions - 1 - i)));
    assert_false(json_equal(got(before, 0), got(before, 1)));
    json_decref(before);
    json_decref(after);
    sluice_close(few);
    gen_context_free(&c);
}

/* A question is asked in a fork; when that is gone the context's cache is what it was, to the bit. */
static void test_fork_leaves_nothing(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_formats, "needle");
    gen_source s = source_of(500, 2, 3, 0);
    gen_context c = make(task, &s);
    const gen_question *q = &c.questions[0], *other = &c.questions[1];
    int64_t n = q->begin - q->question;
    float *logits[2];
    for (int asked = 0; asked < 2; asked++) {
        sluice_session *context = e2e_session(engine, c.tokens, c.n_shared), *fork;
        assert_int_equal(sluice_prefill(context, 0, NULL), 0);
        if (asked) {
            sluice_sampling greedy = e2e_greedy(8);
            e2e_output out;
            assert_int_equal(sluice_session_fork(context, -1, &fork, NULL), 0);
            assert_int_equal(
                sluice_session_append(fork, c.tokens + other->question, other->begin - other->question, NULL), 0);
            e2e_generate(engine, &fork, 1, &greedy, 1, &out);
            e2e_outputs_free(&out, 1);
            sluice_session_close(fork);
        }
        assert_int_equal(sluice_session_append(context, c.tokens + q->question, n, NULL), 0);
        logits[asked] = e2e_logits(engine, context, n);
        sluice_session_close(context);
    }
    sluice_info info;
    sluice_get_info(engine, &info);
    assert_memory_equal(logits[0], logits[1], sizeof **logits * (size_t)(n * info.vocab));
    free(logits[0]);
    free(logits[1]);
    gen_context_free(&c);
}

/* ---- contexts on disk -------------------------------------------------------------------------------------------- */

/* The only file in a folder with that ending; fails if there are others. */
static const char *only_file(const char *dir, const char *ending) {
    static char path[PATH_MAX];
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t length = strlen(e->d_name), tail = strlen(ending);
        if (length > tail && strcmp(e->d_name + length - tail, ending) == 0) {
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            n++;
        }
    }
    closedir(d);
    assert_int_equal(n, 1);
    return path;
}

typedef struct kept {
    json_t *rows;
    char *identity; /* NULL: not shared */
    int64_t hits, misses;
} kept;

/* Runs the context in an engine of its own with that cache. */
static kept with_cache(const char *dir, const char *const *sets, gen_mode mode, const gen_task *task,
                       const gen_source *s, const gen_context *c) {
    sluice_engine *e = e2e_open("models/tiny", sets);
    prefill_cache cache;
    sluice_error err = {0};
    if (prefill_cache_open(&cache, e, dir, &err) < 0)
        fail_msg("%s", err.text);
    kept k = {.rows = rows_of(e, &cache, mode, task, s, c)};
    k.hits = cache.hits;
    k.misses = cache.misses;
    k.identity = cache.identity != NULL ? strdup(cache.identity) : NULL;
    assert_true((cache.identity == NULL) == (cache.why[0] != '\0'));
    prefill_cache_close(&cache);
    sluice_close(e);
    return k;
}

static void drop(kept *k) {
    json_decref(k->rows);
    free(k->identity);
}

#define SELECTS "engine.max_context=1024", "attention.token_budget=48"
static const char *const dense[] = {"engine.max_context=1024", NULL};
static const char *const quest[] = {SELECTS, "attention.plugin=quest", NULL};
static const char *const tidal[] = {SELECTS, "attention.plugin=tidaldecode", NULL};

/* Configurations that differ in decoding alone leave the same bytes behind a prompt, and load each other's. */
static void test_prefill_is_shared(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_formats, "needle");
    gen_source s = source_of(700, 3, 5, 0);
    gen_context c = make(task, &s);
    static const char *const *const configurations[] = {dense, quest, tidal};
    const char *shared = e2e_temp("cache_shared");
    size_t bytes[3];
    char *files[3];
    for (int mode = GEN_MULTI_TURN; mode <= GEN_MULTI_REQUEST; mode++)
        for (int i = 0; i < 3; i++) {
            char name[64];
            snprintf(name, sizeof name, "cache_%d_%d", mode, i);
            const char *own = e2e_temp(name);
            kept alone = with_cache(own, configurations[i], (gen_mode)mode, task, &s, &c);
            kept both = with_cache(shared, configurations[i], (gen_mode)mode, task, &s, &c);
            assert_int_equal(alone.misses, 1);
            assert_int_equal(both.hits, i > 0);
            assert_true(json_equal(alone.rows, both.rows));
            files[i] = e2e_read(only_file(own, ".state"), &bytes[i]);
            assert_int_equal(bytes[i], bytes[0]);
            assert_memory_equal(files[i], files[0], bytes[0]);
            drop(&alone);
            drop(&both);
            if (i == 2)
                for (int k = 0; k < 3; k++)
                    free(files[k]);
        }
    gen_context_free(&c);
}

static const char *const *const others[] = {
    SETS("engine.max_context=1024", "engine.isa=ref"),          SETS("engine.max_context=1024", "engine.threads=2"),
    SETS("engine.max_context=1024", "engine.prefill_chunk=64"), SETS("engine.max_context=1024", "kvcache.page=32"),
    SETS("engine.max_context=1024", "quant.plugin=rtn"),
};
static const char *const *const refused[] = {
    SETS("engine.max_context=1024", "kvcache.policy.plugin=streaming", "kvcache.policy.sinks=4",
         "kvcache.policy.budget=128"),
    SETS("engine.max_context=1024", "kvcache.plugin=kivi"),
};

/* Nothing else hits; entries that are not what they say are not used; what cannot be shared is computed. */
static void test_prefill_is_not_shared(void **state) {
    (void)state;
    const gen_task *task = task_named(gen_formats, "needle");
    gen_source s = source_of(400, 2, 5, 0);
    gen_context c = make(task, &s);
    const char *dir = e2e_temp("cache_others");
    kept first = with_cache(dir, dense, GEN_MULTI_REQUEST, task, &s, &c);
    char id[PATH_MAX];
    snprintf(id, sizeof id, "%s", only_file(dir, ".id"));
    size_t n;
    char *text = e2e_read(id, &n);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        kept k = with_cache(dir, others[i], GEN_MULTI_REQUEST, task, &s, &c);
        assert_int_equal(k.hits, 0);
        assert_int_equal(k.misses, 1);
        assert_string_not_equal(k.identity, first.identity);
        drop(&k);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        kept k = with_cache(dir, refused[i], GEN_MULTI_REQUEST, task, &s, &c);
        assert_null(k.identity);
        assert_int_equal(k.hits + k.misses, 0);
        drop(&k);
    }
    /* the same name, another identity; then another context's tokens under it */
    text[n / 2] ^= 1;
    e2e_put(dir, strrchr(id, '/') + 1, text, n);
    kept k = with_cache(dir, dense, GEN_MULTI_REQUEST, task, &s, &c);
    assert_true(k.hits == 0 && k.misses == 1 && json_equal(k.rows, first.rows));
    drop(&k);
    gen_source s2 = source_of(400, 2, 6, 0);
    gen_context c2 = make(task, &s2);
    const char *dir2 = e2e_temp("cache_tokens");
    k = with_cache(dir2, dense, GEN_MULTI_REQUEST, task, &s2, &c2);
    drop(&k);
    char state_name[PATH_MAX];
    snprintf(state_name, sizeof state_name, "%.*s.state", (int)(strlen(strrchr(id, '/') + 1) - 3),
             strrchr(id, '/') + 1);
    char *wrong = e2e_read(only_file(dir2, ".state"), &n);
    e2e_put(dir, state_name, wrong, n);
    k = with_cache(dir, dense, GEN_MULTI_REQUEST, task, &s, &c);
    assert_true(k.hits == 0 && k.misses == 1 && json_equal(k.rows, first.rows));
    drop(&k);
    k = with_cache(dir, dense, GEN_MULTI_REQUEST, task, &s, &c); /* that one was written anew */
    assert_true(k.hits == 1 && json_equal(k.rows, first.rows));
    drop(&k);
    drop(&first);
    free(text);
    free(wrong);
    gen_context_free(&c);
    gen_context_free(&c2);
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* Running text in which no two sentences are equal. */
static char *write_prose(size_t *bytes) {
    enum { SENTENCES = 600, MOST = 160 };
    char *text = malloc(SENTENCES * MOST), words[6][GEN_KEY];
    gen_random r = {1};
    *bytes = 0;
    for (int i = 0; text != NULL && i < SENTENCES; i++) {
        gen_distinct(&r, gen_word, words, 6);
        *bytes += (size_t)snprintf(text + *bytes, MOST,
                                   "In the year %d the %s of the %s saw a %s%sand gave it to the %s.%s", 1000 + i,
                                   words[0], words[1], words[2], i % 2 ? "\n" : " ", words[3], i % 5 ? " " : "\n\n");
    }
    return text;
}

static int set_up(void **state) {
    (void)state;
    sluice_error err = {0};
    engine = e2e_open("models/tiny", NO_SETS);
    prose = write_prose(&prose_bytes);
    paragraphs = gen_paragraphs_read(e2e_path("tests/data/paragraphs.jsonl"), &err);
    if (paragraphs == NULL)
        fprintf(stderr, "%s\n", err.text);
    return prose != NULL && paragraphs != NULL ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    sluice_close(engine);
    free(prose);
    gen_paragraphs_free(paragraphs);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_contexts_refused),
        cmocka_unit_test(test_depths),
        cmocka_unit_test(test_paragraphs),
        cmocka_unit_test(test_points),
        cmocka_unit_test(test_golden_history),
        cmocka_unit_test(test_own_history),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_fork_leaves_nothing),
        cmocka_unit_test(test_prefill_is_shared),
        cmocka_unit_test(test_prefill_is_not_shared),
    };
    return cmocka_run_group_tests_name("generated", tests, set_up, tear_down);
}
