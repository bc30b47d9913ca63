/* Heads that know the future: for rows of a known greedy text there are output matrices that name the right tokens.
 * With them every step emits as many tokens as the tree is deep, and one more: the rows that reach the heads are the
 * last accepted ones, behind the final norm. */
#include "engine_run.h"

#include <unistd.h>

#include "medusa_file.h"

enum { N_TEXT = 48, HEADS = 3 };

static sluice_engine *plain;
static int32_t text[600];
static int64_t n_prompt, n_all;
static float *rows; /* [n_all - n_prompt, hidden] from the prompt's last row on, behind the final norm */

/* Solves A x = b for n unknowns and m right-hand sides [n, m], in place. */
static void solve(double *a, double *b, int n, int64_t m) {
    for (int i = 0; i < n; i++) {
        int pivot = i;
        for (int r = i + 1; r < n; r++)
            pivot = fabs(a[r * n + i]) > fabs(a[pivot * n + i]) ? r : pivot;
        assert_true(fabs(a[pivot * n + i]) > 1e-9);
        for (int c = 0; c < n && pivot != i; c++) {
            double swap = a[i * n + c];
            a[i * n + c] = a[pivot * n + c], a[pivot * n + c] = swap;
        }
        for (int64_t c = 0; c < m && pivot != i; c++) {
            double swap = b[i * m + c];
            b[i * m + c] = b[pivot * m + c], b[pivot * m + c] = swap;
        }
        for (int r = 0; r < n; r++) {
            double f = r != i ? a[r * n + i] / a[i * n + i] : 0;
            for (int c = i; c < n && f != 0; c++)
                a[r * n + c] -= f * a[i * n + c];
            for (int64_t c = 0; c < m && f != 0; c++)
                b[r * m + c] -= f * b[i * m + c];
        }
    }
    for (int i = 0; i < n; i++)
        for (int64_t c = 0; c < m; c++)
            b[i * m + c] /= a[i * n + i];
}

/* The greedy text of an engine on that device, and its rows on the CPU. */
static void learn(const char *device) {
    SL_ERROR(err);
    sluice_engine *e = run_open("engine.threads=1", device);
    n_prompt = run_tokens(e, text, 60);
    run_once(e, text, n_prompt, N_TEXT, text + n_prompt);
    sluice_close(e);
    plain = run_open("engine.threads=1", "engine.device=cpu");
    int64_t E = plain->target.info->hidden;
    n_all = n_prompt + N_TEXT;
    sluice_session *s = run_session(plain, text, n_all);
    run_taps nothing = {{0}, {0}};
    run_rows(plain, s, (int32_t)n_all, SL_STAGE_PREFILL, &nothing);
    run_taps_free(&nothing);
    rows = malloc(sizeof *rows * (size_t)(N_TEXT * E));
    int32_t index[N_TEXT];
    for (int i = 0; i < N_TEXT; i++)
        index[i] = (int32_t)n_prompt - 1 + i;
    assert_non_null(rows);
    assert_int_equal(sli_network_final_norm(&plain->target, index, N_TEXT, rows, &err), SL_OK);
    sluice_session_close(s);
}

/* W2 with W2 row(j) = 1 for the token at offset k + 2 from row j, 0 for all others: rows of the dual basis, summed by
 * token. */
static void write_oracle(const char *path) {
    int64_t E = plain->target.info->hidden, V = plain->target.info->vocab;
    double *gram = malloc(sizeof *gram * N_TEXT * N_TEXT), *dual = malloc(sizeof *dual * (size_t)(N_TEXT * E));
    float *w2[HEADS];
    assert_non_null(gram);
    assert_non_null(dual);
    for (int i = 0; i < N_TEXT; i++)
        for (int j = 0; j < N_TEXT; j++) {
            gram[i * N_TEXT + j] = 0;
            for (int64_t c = 0; c < E; c++)
                gram[i * N_TEXT + j] += (double)rows[i * E + c] * rows[j * E + c];
        }
    for (int64_t i = 0; i < N_TEXT * E; i++)
        dual[i] = rows[i];
    solve(gram, dual, N_TEXT, E);
    for (int k = 0; k < HEADS; k++) {
        w2[k] = calloc((size_t)(V * E), sizeof *w2[k]);
        assert_non_null(w2[k]);
        for (int j = 0; j + k + 1 < N_TEXT; j++) /* row j is of token n_prompt - 1 + j */
            for (int64_t c = 0; c < E; c++)
                w2[k][text[n_prompt + 1 + j + k] * E + c] += (float)dual[j * E + c];
    }
    medusa_file m = {
        .heads = HEADS, .blocks = 1, .hidden = E, .vocab = V, .prefix = "", .own = 1, .w2 = (const float *const *)w2};
    medusa_file_write(path, &m);
    for (int k = 0; k < HEADS; k++)
        free(w2[k]);
    free(gram);
    free(dual);
}

static void check_full_steps(const char *device) {
    char path[64] = "/tmp/sluice-oracle-XXXXXX", heads[96];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    learn(device);
    write_oracle(path);
    sluice_close(plain);
    free(rows);
    snprintf(heads, sizeof heads, "speculation.heads=%s", path);
    static const char *const depth[] = {"speculation.num_heads=1", "speculation.num_heads=2",
                                        "speculation.num_heads=3"};
    for (int d = 1; d <= HEADS; d++)
        for (int chunk = 0; chunk < 2; chunk++) {
            sluice_engine *e = run_open("speculation.plugin=medusa", heads, depth[d - 1], "speculation.nodes=12",
                                        chunk ? "engine.prefill_chunk=7" : "engine.prefill_chunk=512", device);
            int n = 1 + 8 * (d + 1); /* one token behind the prompt, eight full steps */
            int32_t got[N_TEXT];
            assert_true(n + HEADS <= N_TEXT);
            run_once(e, text, n_prompt, n, got);
            assert_memory_equal(got, text + n_prompt, sizeof *got * (size_t)n);
            sluice_stats stats;
            sluice_get_stats(e, &stats);
            assert_int_equal(stats.steps, 8);
            assert_int_equal(stats.accepted, 8 * d);
            /* five together, at different places of the text */
            sluice_session *s[5];
            for (int i = 0; i < 5; i++)
                s[i] = run_session(e, text, n_prompt + i);
            sluice_reset_stats(e);
            run_generate(e, s, 5, n);
            sluice_get_stats(e, &stats);
            assert_in_range(stats.steps, 8, 8 + chunk); /* in chunks, shorter prompts begin to decode earlier */
            assert_int_equal(stats.accepted, 5 * 8 * d);
            for (int i = 0; i < 5; i++) {
                assert_memory_equal(sluice_session_tokens(s[i]), text, sizeof *text * (size_t)(n_prompt + i + n));
                sluice_session_close(s[i]);
            }
            sluice_close(e);
        }
    unlink(path);
}

static void every_step_is_full(void **state) {
    (void)state;
    check_full_steps("engine.device=cpu");
}

/* The same rows and heads on a device (device_fake.h): rounded to bf16 they still name the right tokens. */
static void every_step_is_full_on_a_device(void **state) {
    (void)state;
    check_full_steps("engine.device=cuda");
}

int main(void) {
    setenv("SLUICE_CUDA_MODULE", run_place("SLUICE_BUILD", "tests/device_fake.so"), 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_step_is_full),
                                       cmocka_unit_test(every_step_is_full_on_a_device)};
    return cmocka_run_group_tests_name("medusa_oracle", tests, NULL, NULL);
}
