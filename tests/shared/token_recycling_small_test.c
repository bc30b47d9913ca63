/* token_recycling with the trained model `small`: tokens a step on questions of Spec-Bench and on books that it was not
 * trained on, greedy and sampled, with steps inside of a repetition counted apart. Output is compared with plain
 * decoding. The matrix is empty at the start and shared by all prompts. Figures are printed; the plugin's README quotes
 * them. */
#include "e2e.h"

enum { MOST_PROMPTS = 40, N_TOKENS = 96, MOST_CONTEXT = 1024, LOOP_GRAM = 8 };

typedef struct prompt {
    int32_t tokens[MOST_CONTEXT]; /* prompt, then output */
    int64_t n_prompt, n;
    int32_t plain[N_TOKENS];
    int is_book;
} prompt;

static prompt prompts[MOST_PROMPTS];
static int n_prompts;
static char model[PATH_MAX];

/* Steps and tokens: [0] of fresh text, [1] inside of a repetition. */
typedef struct figures {
    int64_t steps[2], tokens[2];
} figures;

/* Do the last tokens before `at` and the token there stand earlier in the text, too? */
static int repeats(const int32_t *token, int64_t at) {
    for (int64_t i = LOOP_GRAM; i < at; i++)
        if (token[i] == token[at] &&
            memcmp(token + i - LOOP_GRAM, token + at - LOOP_GRAM, LOOP_GRAM * sizeof *token) == 0)
            return 1;
    return 0;
}

typedef struct listener {
    prompt *p;
    figures *f;
} listener;

static int listen(void *user, const sluice_chunk *chunk) {
    listener *l = user;
    prompt *p = l->p;
    if (chunk->n_tokens == 0)
        return 0;
    int64_t at = p->n;
    for (int32_t i = 0; i < chunk->n_tokens; i++)
        p->tokens[p->n++] = chunk->tokens[i];
    if (at == p->n_prompt) /* the prompt's own step gives the first token */
        return 0;
    int looping = at > LOOP_GRAM && repeats(p->tokens, at);
    l->f->steps[looping]++;
    l->f->tokens[looping] += chunk->n_tokens;
    return 0;
}

/* cut NULL: plain decoding. */
static sluice_engine *opened(const char *cut) {
    char nodes[64];
    if (cut == NULL)
        return e2e_open(model, SETS("speculation.plugin=none", "engine.threads=2", "engine.max_context=1024"));
    snprintf(nodes, sizeof nodes, "speculation.cut=%s", cut);
    return e2e_open(model,
                    SETS("speculation.plugin=token_recycling", nodes, "engine.threads=2", "engine.max_context=1024"));
}

static void run(sluice_engine *e, double temperature, figures f[2]) {
    sluice_sampling how = {.temperature = temperature,
                           .top_p = 1,
                           .repeat_penalty = 1,
                           .max_tokens = N_TOKENS,
                           .ignore_eos = 1,
                           .seed = 7};
    for (int i = 0; i < n_prompts; i++) {
        prompt *p = &prompts[i];
        listener l = {p, &f[p->is_book]};
        p->n = p->n_prompt;
        sluice_session *s = e2e_session(e, p->tokens, p->n_prompt);
        assert_int_equal(sluice_generate(e, &s, 1, &how, 1, listen, &l, NULL), SLUICE_OK);
        sluice_session_close(s);
        assert_int_equal(p->n, p->n_prompt + N_TOKENS);
    }
}

static double ratio(int64_t a, int64_t b) { return b > 0 ? (double)a / (double)b : 0; }

static void tokens_a_step(void **state) {
    (void)state;
    static const double temperatures[] = {0, 0.8};
    static const char *const cuts[] = {"16", "81"};
    int n = test_length() == 0 ? 1 : 2; /* the short form: greedy, the small tree */
    for (int t = 0; t < n; t++) {
        sluice_engine *e = opened(NULL);
        figures plain[2] = {{{0}, {0}}, {{0}, {0}}};
        run(e, temperatures[t], plain);
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        double plain_ms = 1e3 * stats.decode_seconds / (double)stats.steps;
        sluice_close(e);
        for (int i = 0; i < n_prompts; i++)
            memcpy(prompts[i].plain, prompts[i].tokens + prompts[i].n_prompt, sizeof prompts[i].plain);
        for (int c = 0; c < n; c++) {
            figures f[2] = {{{0}, {0}}, {{0}, {0}}};
            e = opened(cuts[c]);
            run(e, temperatures[t], f);
            for (int i = 0; i < n_prompts; i++)
                e2e_check_tokens("token_recycling", prompts[i].plain, N_TOKENS, prompts[i].tokens + prompts[i].n_prompt,
                                 N_TOKENS);
            sluice_get_stats(e, &stats);
            assert_int_equal(stats.allocs_in_steps, 0);
            assert_true(stats.emitted > stats.steps);
            static const char *const of[] = {"questions", "books"};
            for (int b = 0; b < 2; b++)
                print_message("# temperature %.1f, cut %s, %s: %.2f tokens a step (%lld in %lld); fresh text %.2f "
                              "(%lld in %lld), looping "
                              "%.2f (%lld in %lld)\n",
                              temperatures[t], cuts[c], of[b],
                              ratio(f[b].tokens[0] + f[b].tokens[1], f[b].steps[0] + f[b].steps[1]),
                              (long long)(f[b].tokens[0] + f[b].tokens[1]), (long long)(f[b].steps[0] + f[b].steps[1]),
                              ratio(f[b].tokens[0], f[b].steps[0]), (long long)f[b].tokens[0], (long long)f[b].steps[0],
                              ratio(f[b].tokens[1], f[b].steps[1]), (long long)f[b].tokens[1],
                              (long long)f[b].steps[1]);
            print_message("# temperature %.1f, cut %s: %lld of %lld nodes accepted; a step %.1f ms, plain %.1f ms\n",
                          temperatures[t], cuts[c], (long long)stats.accepted, (long long)stats.drafted,
                          1e3 * stats.decode_seconds / (double)stats.steps, plain_ms);
            sluice_close(e);
        }
    }
}

static void add(sluice_engine *e, const char *text, size_t length, int is_book) {
    prompt *p = &prompts[n_prompts++];
    p->is_book = is_book;
    p->n_prompt = sluice_tokenize(e, text, length, SLUICE_ADD_SPECIAL, p->tokens, MOST_CONTEXT, NULL);
    assert_true(p->n_prompt > 0);
    if (p->n_prompt > MOST_CONTEXT - N_TOKENS)
        p->n_prompt = MOST_CONTEXT - N_TOKENS;
}

/* First turns of questions spread over the categories, and stretches from the middle of books. */
static int set_up(void **state) {
    (void)state;
    static const int counts[] = {4, 12, MOST_PROMPTS};
    const char *dir = getenv("SLUICE_SHARED");
    if (dir == NULL || dir[0] == '\0')
        return 0;
    int n = counts[test_length()];
    char path[PATH_MAX], *line = NULL;
    size_t cap = 0;
    snprintf(model, sizeof model, "%s/models/small", dir);
    sluice_engine *e = opened(NULL);
    snprintf(path, sizeof path, "%s/data/prompts/spec_bench_question.jsonl", dir);
    FILE *f = fopen(path, "r");
    for (int i = 0; f != NULL && n_prompts < n / 2 && getline(&line, &cap, f) > 0; i++) {
        json_t *row = i % (480 / (n / 2)) == 0 ? json_loads(line, 0, NULL) : NULL;
        const char *text = json_string_value(json_array_get(json_object_get(row, "turns"), 0));
        if (text != NULL)
            add(e, text, strlen(text), 0);
        json_decref(row);
    }
    if (f != NULL)
        fclose(f);
    snprintf(path, sizeof path, "%s/data/heldout_a/books_and_code.jsonl", dir);
    f = fopen(path, "r");
    for (int i = 0; f != NULL && i < 5 && getline(&line, &cap, f) > 0; i++) {
        json_t *row = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(row, "text"));
        for (size_t at = 20000; text != NULL && n_prompts < n / 2 + (i + 1) * (n / 2) / 5 && at + 800 < strlen(text);
             at += 15000) {
            const char *begin = strchr(text + at, ' '); /* not inside of a character */
            add(e, begin, strcspn(begin + 600, " ") + 600, 1);
        }
        json_decref(row);
    }
    if (f != NULL)
        fclose(f);
    free(line);
    sluice_close(e);
    return n_prompts == n ? 0 : -1;
}

static void on_small(void **state) {
    test_shared_dir();
    tokens_a_step(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(on_small)};
    return cmocka_run_group_tests_name("token_recycling_small", tests, set_up, NULL);
}
