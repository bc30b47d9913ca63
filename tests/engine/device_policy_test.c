/* Policies on a device that is none (device_fake.h), or with REAL_DEVICE on a GPU: sums and rows kept are the CPU's up
 * to the rounding of bf16, and what is generated from the rows kept does not depend on graphs, company or drafts. */
#include "engine_run.h"

#include "engine/sums.h"

enum { MOST = 300, NEW = 24, CAP = 512, SESSIONS = 3 };

#define DEVICE "engine.device=cuda", "engine.max_rows=64"
#define CPU "engine.device=cpu", "engine.max_rows=64"
#define SNAPKV "kvcache.policy.plugin=snapkv", "kvcache.policy.budget=96", "kvcache.policy.window=16"
#define H2O "kvcache.policy.plugin=h2o", "kvcache.policy.budget=96"
#define STREAMING "kvcache.policy.plugin=streaming", "kvcache.policy.budget=64"

static int32_t text[MOST];
static int64_t n_text;

#ifdef REAL_DEVICE
enum { IS_FAKE = 0 };
static const char module[] = "core/device/cuda/sluice-cuda.so";
#else
enum { IS_FAKE = 1 };
static const char module[] = "tests/device_fake.so";
#endif
static int no_device;

static void need_device(void) {
    if (no_device)
        skip();
}

static int find_text(void **state) {
    (void)state;
    setenv("SLUICE_CUDA_MODULE", run_place("SLUICE_BUILD", module), IS_FAKE);
    sluice_engine *probe;
    sluice_error err = {0};
    no_device = run_try_open((const char *const[]){DEVICE, NULL}, &probe, &err) != SLUICE_OK;
    if (no_device)
        print_message("skipped: %s\n", err.text);
    else
        sluice_close(probe);
    assert_false(no_device && IS_FAKE);
    sluice_engine *e = run_open(CPU);
    n_text = run_tokens(e, text, MOST);
    sluice_close(e);
    return 0;
}

static sluice_session *computed(sluice_engine *e, int64_t n) {
    sluice_error err = {0};
    sluice_session *s = run_session(e, text, n);
    if (sluice_prefill(s, 0, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

/* ---- against the CPU --------------------------------------------------------------------------------------------- */

/* Part of the rows of both that only one of them keeps. */
static double apart(sluice_engine *a, const sluice_session *sa, sluice_engine *b, const sluice_session *sb,
                    int64_t most_rows) {
    int64_t common = 0, all = 0;
    for (int32_t l = 0; l < a->target.info->n_layers; l++)
        for (int32_t h = 0; h < a->target.info->layers[l]->n_kv_heads; h++) {
            int32_t x[CAP], y[CAP];
            int64_t n = run_held(a, sa, l, h, x), m = run_held(b, sb, l, h, y), i = 0, j = 0;
            assert_int_equal(n, m);
            assert_true(n <= most_rows);
            all += n;
            while (i < n && j < m) {
                common += x[i] == y[j];
                if (x[i] <= y[j])
                    i++;
                else
                    j++;
            }
        }
    return 1 - (double)common / (double)all;
}

static void rows_kept_are_those_of_the_cpu(void **state) {
    (void)state;
    need_device();
    static const struct {
        const char *name, *sets[5];
        int64_t rows; /* most of a head */
        double apart; /* at most */
    } cases[] = {
        {"streaming", {STREAMING, NULL}, 63, 0},
        {"snapkv", {SNAPKV, NULL}, 96, 0.05},
        {"snapkv, max", {SNAPKV, "kvcache.policy.group_agg=max", NULL}, 96, 0.05},
        {"h2o, once", {H2O, "kvcache.policy.decode_interval=0", NULL}, 96, 0.05},
        {"h2o", {H2O, "kvcache.policy.decode_interval=1", NULL}, 96, 0.05},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const char *const *x = cases[c].sets;
        sluice_engine *cpu = run_open(CPU, x[0], x[1], x[2], x[3]), *e = run_open(DEVICE, x[0], x[1], x[2], x[3]);
        sluice_session *a = computed(cpu, n_text), *b = computed(e, n_text);
        double prompt = apart(cpu, a, e, b, cases[c].rows);
        int64_t bytes = run_bytes_kv(e);
        for (int i = 0; i < 8; i++) { /* the same tokens for both, one by one */
            sluice_error err = {0};
            assert_true(sluice_session_append(a, text + i, 1, &err) >= 0 && sluice_prefill(a, 0, &err) >= 0);
            assert_true(sluice_session_append(b, text + i, 1, &err) >= 0 && sluice_prefill(b, 0, &err) >= 0);
        }
        double later = apart(cpu, a, e, b, cases[c].rows + 8);
        printf("%s: %.4f of the rows kept differ, %.4f after 8 more tokens; %lld bytes\n", cases[c].name, prompt, later,
               (long long)bytes);
        assert_true(prompt <= cases[c].apart);
        assert_true(later <= cases[c].apart);
        assert_string_equal(e->chosen.device != NULL ? "cuda" : "cpu", "cuda");
        sluice_close(cpu);
        sluice_close(e);
    }
}

/* All rows of a prompt count, and those of decoding; chunks, and company. */
static void sums_are_those_of_the_cpu(void **state) {
    (void)state;
    need_device();
    static const char *const sets[] = {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=400",
                                       "kvcache.policy.decode_interval=1"};
    sluice_engine *cpu = run_open(CPU, sets[0], sets[1], sets[2], "engine.prefill_chunk=7"),
                  *e = run_open(DEVICE, sets[0], sets[1], sets[2], "engine.prefill_chunk=7");
    sluice_session *a[2] = {run_session(cpu, text, 60), run_session(cpu, text + 20, 41)};
    sluice_session *b[2] = {run_session(e, text, 60), run_session(e, text + 20, 41)};
    run_generate(cpu, a, 2, 6);
    run_generate(e, b, 2, 6);
    double worst = 0;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(a[i]->n_kv, b[i]->n_kv);
        assert_memory_equal(sluice_session_tokens(a[i]), sluice_session_tokens(b[i]), 4 * (size_t)a[i]->n_kv);
        for (int32_t l = 0; l < e->target.info->n_layers; l++) {
            int32_t heads, heads_b;
            int64_t stride, stride_b, n = a[i]->n_kv;
            const float *x = sli_sums_of(&cpu->target, 0, l, a[i]->id, &heads, &stride);
            const float *y = sli_sums_of(&e->target, 0, l, b[i]->id, &heads_b, &stride_b);
            assert_non_null(x);
            assert_non_null(y);
            assert_int_equal(heads, heads_b);
            for (int32_t h = 0; h < heads; h++) {
                double sum = 0, expected = 0, most = 0;
                for (int64_t k = 0; k < n; k++) {
                    double d = fabs((double)x[h * stride + k] - (double)y[h * stride_b + k]);
                    worst = d > worst ? d : worst;
                    most = d > most ? d : most;
                    sum += (double)y[h * stride_b + k], expected += (double)x[h * stride + k];
                }
                for (int64_t k = n; k < stride_b; k++)
                    assert_true(y[h * stride_b + k] == 0);
                assert_true(fabs(sum - expected) < 1e-3 * expected); /* one a row and head */
                assert_true(most < 0.02 * expected);
            }
        }
    }
    printf("sums differ by %.4f at most\n", worst);
    sluice_close(cpu);
    sluice_close(e);
}

/* ---- against other steps of the same device ---------------------------------------------------------------------- */

static void generate(const char *const *sets, int together, int with_graphs, int32_t out[SESSIONS][NEW],
                     int64_t *graphs) {
    const char *all[16];
    int n = 0;
    while (sets[n] != NULL)
        all[n] = sets[n], n++;
    if (!IS_FAKE && !with_graphs)
        all[n++] = "engine.debug=device";
    all[n] = NULL;
    setenv("FAKE_NO_GRAPHS", with_graphs ? "0" : "1", 1);
    sluice_engine *e = run_open_list(all);
    sluice_session *s[SESSIONS];
    sluice_stats stats;
    for (int i = 0; i < SESSIONS; i++)
        s[i] = run_session(e, text + 10 * i, 200 + 30 * i);
    if (together)
        run_generate(e, s, SESSIONS, NEW);
    for (int i = 0; i < SESSIONS; i++) {
        if (!together)
            run_generate(e, &s[i], 1, NEW);
        memcpy(out[i], sluice_session_tokens(s[i]) + 200 + 30 * i, sizeof out[i]);
    }
    sluice_get_stats(e, &stats);
    assert_true(stats.allocs_in_steps == 0 || !IS_FAKE);
    *graphs = stats.graphs;
    sluice_close(e);
    unsetenv("FAKE_NO_GRAPHS");
}

#define BASE DEVICE, "engine.prefill_chunk=50"

static void steps_do_not_show(void **state) {
    (void)state;
    need_device();
    static const struct {
        const char *name, *sets[8];
        int together, graphs;
    } cases[] = {
        {"one by one", {BASE, SNAPKV, NULL}, 0, 1},
        {"drafts", {BASE, SNAPKV, "speculation.plugin=prompt_lookup", NULL}, 1, 1},
        {"trees", {BASE, SNAPKV, "speculation.plugin=token_recycling", NULL}, 0, 1},
        {"no graphs", {BASE, SNAPKV, NULL}, 1, 0},
        {"no graphs, trees", {BASE, SNAPKV, "speculation.plugin=token_recycling", NULL}, 1, 0},
    };
    int32_t expected[SESSIONS][NEW], dense[SESSIONS][NEW];
    int64_t graphs;
    generate((const char *const[]){BASE, SNAPKV, NULL}, 1, 1, expected, &graphs);
    assert_true(graphs > 0);
    generate((const char *const[]){BASE, NULL}, 1, 1, dense, &graphs);
    int same = memcmp(dense, expected, sizeof dense) == 0;
    printf("dense tokens are %s\n", same ? "the same" : "others");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t got[SESSIONS][NEW];
        generate(cases[c].sets, cases[c].together, cases[c].graphs, got, &graphs);
        assert_true(cases[c].graphs == (graphs > 0));
        for (int i = 0; i < SESSIONS; i++)
            for (int k = 0; k < NEW; k++)
                if (got[i][k] != expected[i][k])
                    fail_msg("%s: session %d, token %d: %d, expected %d", cases[c].name, i, k, got[i][k],
                             expected[i][k]);
    }
}

/* Dropping rows while decoding, with sums of every step (h2o) and without (streaming). */
static void dropping_while_decoding(void **state) {
    (void)state;
    need_device();
    int32_t a[SESSIONS][NEW], b[SESSIONS][NEW];
    int64_t graphs;
    generate((const char *const[]){BASE, H2O, "kvcache.policy.decode_interval=3", NULL}, 1, 1, a, &graphs);
    assert_int_equal(graphs, 0);
    generate((const char *const[]){BASE, H2O, "kvcache.policy.decode_interval=3", NULL}, 1, 1, b, &graphs);
    assert_memory_equal(a, b, sizeof a);
    generate((const char *const[]){BASE, STREAMING, "kvcache.policy.decode_interval=1", NULL}, 1, 1, a, &graphs);
    assert_true(graphs > 0);
    generate((const char *const[]){BASE, STREAMING, "kvcache.policy.decode_interval=1", NULL}, 0, 0, b, &graphs);
    assert_memory_equal(a, b, sizeof a);
}

/* Forks behind the cut share what is kept; pages go back. */
static void forks_and_turns(void **state) {
    (void)state;
    need_device();
    sluice_error err = {0};
    sluice_engine *e = run_open(DEVICE, SNAPKV);
    sluice_session *s = computed(e, 250), *child;
    int64_t after = run_bytes_kv(e);
    sluice_session *dense_like = run_session(e, text, 90); /* below the budget: nothing is dropped */
    assert_true(sluice_prefill(dense_like, 0, &err) >= 0);
    int64_t page = run_bytes_kv(e) - after;
    assert_int_equal(after, page); /* 96 and 90 rows: six pages of 16 each */
    assert_true(sluice_session_fork(s, 250, &child, &err) >= 0);
    assert_true(sluice_session_append(s, text + 5, 3, &err) >= 0);
    assert_true(sluice_session_append(child, text + 5, 3, &err) >= 0);
    sluice_session *both[] = {s, child};
    run_generate(e, both, 2, NEW);
    assert_memory_equal(sluice_session_tokens(s) + 253, sluice_session_tokens(child) + 253, 4 * NEW);
    assert_true(sluice_session_truncate(child, 200, &err) < 0);
    sluice_session_close(child);
    assert_true(sluice_session_append(s, text, 100, &err) >= 0); /* another turn, cut again */
    run_generate(e, &s, 1, NEW);
    int32_t held[CAP];
    assert_in_range(run_held(e, s, 0, 0, held), 96, 96 + NEW);
    sluice_close(e);
}

static void what_is_refused(void **state) {
    (void)state;
    need_device();
    run_refused("draft trees", DEVICE, H2O, "engine.deterministic=no", "speculation.plugin=prompt_lookup");
    run_refused("kernels of its own", DEVICE, SNAPKV, "attention.plugin=tidaldecode", "engine.deterministic=no");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_kept_are_those_of_the_cpu),
        cmocka_unit_test(sums_are_those_of_the_cpu),
        cmocka_unit_test(steps_do_not_show),
        cmocka_unit_test(dropping_while_decoding),
        cmocka_unit_test(forks_and_turns),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, find_text, NULL);
}
