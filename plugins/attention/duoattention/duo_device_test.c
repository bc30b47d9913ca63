/* duoattention on a device that is none (tests/engine/device_fake.h): logits are the CPU's up to the rounding of bf16;
 * chunks, company, drafts, cuts and forks change no bit; memory is what was quoted. */
#include "duo_rig_test.h"

#include <math.h>

enum { TAIL = 40, SHORT = 150 };

#define ON_DEVICE "engine.device=cuda", "engine.max_rows=64"
#define ON_CPU "engine.device=cpu", "engine.max_rows=64"

/* Largest difference by the largest logit of the row. */
static double distance(const float *a, const float *b, int64_t vocab) {
    double worst = 0;
    for (int64_t i = 0; i < TAIL; i++) {
        double most = 0, far = 0;
        for (int64_t k = 0; k < vocab; k++) {
            most = fmax(most, fabs((double)a[i * vocab + k]));
            far = fmax(far, fabs((double)a[i * vocab + k] - b[i * vocab + k]));
        }
        worst = fmax(worst, far / most);
    }
    return worst;
}

static float *tail(sluice_engine *e, int64_t *vocab) {
    int32_t tokens[CAP];
    text(e, tokens, SHORT);
    *vocab = e->target.info->vocab;
    float *out = logits_of(e, tokens, SHORT, TAIL);
    sluice_close(e);
    return out;
}

static void logits_are_those_of_the_cpu(void **state) {
    (void)state;
    static const char *const variants[][3] = {
        {"attention.window=exact", "", ""},
        {"attention.window=exact", "attention.page=16", "attention.slack=1"},
        {"attention.window=exact", "attention.page=1", ""},
        {"attention.window=chunk", "engine.prefill_chunk=32", ""},
        {"attention.window=chunk", "engine.prefill_chunk=64", "attention.prefill_chunk=24"},
        {"attention.window=chunk", "engine.prefill_chunk=32", "attention.first_chunk=streaming"},
        {"attention.window=exact", "attention.sparsity=1", ""},
        {"attention.window=exact", "attention.sparsity=1", "attention.sink_size=0"},
        {"attention.window=chunk", "engine.prefill_chunk=16", "attention.sink_size=40"},
    };
    int64_t vocab;
    float *dense = tail(OPEN(ON_CPU), &vocab);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const char *const *v = variants[i];
        float *cpu = tail(OPEN(ON_CPU, DUO, v[0], v[1], v[2]), &vocab);
        float *device = tail(OPEN(ON_DEVICE, DUO, v[0], v[1], v[2]), &vocab);
        double d = distance(cpu, device, vocab), lossy = distance(cpu, dense, vocab);
        printf("%s %s %s: logits differ by %.5f of the largest; from dense attention by %.5f\n", v[0], v[1], v[2], d,
               lossy);
        assert_true(d < 0.02);
        assert_true(lossy > 0.05);
        free(cpu);
        free(device);
    }
    free(dense);
    /* nothing streams: dense attention of the device, bit by bit */
    sluice_engine *a = OPEN(ON_DEVICE, DUO, "attention.sparsity=0"), *b = OPEN(ON_DEVICE);
    same_logits(a, b, SHORT, TAIL);
    sluice_close(a);
    sluice_close(b);
}

static void chunks_and_company_change_nothing(void **state) {
    (void)state;
    sluice_engine *a = OPEN(ON_DEVICE, DUO, "attention.window=exact", "engine.prefill_chunk=64"),
                  *b = OPEN(ON_DEVICE, DUO, "attention.window=exact", "engine.prefill_chunk=7", "attention.page=4");
    same_logits(a, b, SHORT, TAIL);
    same_five(a, b, 1, 0);
    same_five(b, b, 1, 0);
    sluice_close(b);
    b = OPEN(ON_DEVICE, DUO, "attention.window=chunk", "engine.prefill_chunk=32");
    same_five(b, b, 1, 0);
    sluice_close(a);
    sluice_close(b);
}

static void drafts_change_nothing(void **state) {
    (void)state;
    static const char *const windows[] = {"attention.window=exact", "attention.window=chunk"};
    static const char *const drafters[] = {"speculation.plugin=prompt_lookup", "speculation.plugin=token_recycling"};
    for (int w = 0; w < 2; w++) {
        sluice_engine *plain = OPEN(ON_DEVICE, DUO, windows[w]);
        for (int d = 0; d < 2; d++) {
            sluice_engine *e = OPEN(ON_DEVICE, DUO, windows[w], drafters[d], "attention.slack=1", "attention.page=8");
            sluice_stats stats;
            same_five(plain, e, 1, 1);
            sluice_get_stats(e, &stats);
            printf("%s, %s: %lld of %lld drafts accepted\n", windows[w], drafters[d], (long long)stats.accepted,
                   (long long)stats.drafted);
            assert_true(stats.drafted > 0);
            assert_int_equal(stats.allocs_in_steps, 0);
            sluice_close(e);
        }
        sluice_close(plain);
    }
}

static void cuts_and_forks(void **state) {
    (void)state;
    int32_t tokens[CAP], plain[60];
    sluice_error err = {0};
    sluice_engine *e = OPEN(ON_DEVICE, DUO, "attention.page=8", "attention.window=exact", "attention.slack=9");
    int64_t n = text(e, tokens, 120);
    run_once(e, tokens, n, 60, plain);
    sluice_session *parent = run_session(e, tokens, n), *fork[3], *early;
    run_generate(e, &parent, 1, 20);
    assert_int_equal(sluice_session_fork(parent, -1, &fork[0], &err), SLUICE_OK);
    assert_int_equal(sluice_session_fork(parent, 134, &fork[1], &err), SLUICE_OK);
    assert_int_equal(sluice_session_fork(fork[0], -1, &fork[2], &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(fork[2], tokens, 7, &err), SLUICE_OK);
    run_generate(e, &fork[2], 1, 10); /* writes into what it shared */
    assert_int_equal(sluice_session_truncate(parent, 131, &err), SLUICE_OK);
    sluice_session *all[] = {parent, fork[0], fork[1]};
    run_generate(e, all, 3, 20);
    assert_memory_equal(sluice_session_tokens(parent) + n, plain, 31 * sizeof *plain);
    assert_memory_equal(sluice_session_tokens(fork[0]) + n, plain, 40 * sizeof *plain);
    assert_memory_equal(sluice_session_tokens(fork[1]) + n, plain, 34 * sizeof *plain);
    assert_true(sluice_session_fork(parent, 60, &early, &err) < 0);
    assert_non_null(strstr(err.text, "streaming heads"));
    sluice_session_close(fork[0]);
    sluice_session_close(fork[1]);
    assert_int_equal(sluice_session_fork(parent, 4, &early, &err), SLUICE_OK); /* nothing but sinks */
    assert_int_equal(sluice_session_append(early, tokens + 4, n - 4, &err), SLUICE_OK);
    run_generate(e, &early, 1, 20);
    assert_memory_equal(sluice_session_tokens(early) + n, plain, 20 * sizeof *plain);
    assert_true(sluice_session_truncate(parent, 60, &err) < 0);
    assert_int_equal(sluice_session_truncate(parent, 3, &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(parent, tokens + 3, n - 3, &err), SLUICE_OK);
    run_generate(e, &parent, 1, 20);
    assert_memory_equal(sluice_session_tokens(parent) + n, plain, 20 * sizeof *plain);
    sluice_close(e);
}

static void memory_is_what_was_quoted(void **state) {
    (void)state;
    int32_t tokens[CAP];
    sluice_engine *e = OPEN(ON_DEVICE, DUO, "attention.page=4", "engine.max_seqs=2");
    const sli_store *store = &e->target.stores[0];
    text(e, tokens, 400);
    for (int64_t n = 40; n <= 400; n += 120) {
        sluice_session *s = run_session(e, tokens, n);
        run_generate(e, &s, 1, 10);
        int64_t held_tokens, bytes;
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = n + 10};
        assert_int_equal(store->api->quote(store->self, &q), SL_OK);
        assert_int_equal(store->api->length(store->self, 0, &held_tokens, &bytes), SL_OK);
        printf("%lld tokens: %lld bytes, quoted %lld\n", (long long)n, (long long)bytes, (long long)q.bytes);
        assert_int_equal(bytes, q.bytes);
        sluice_session_close(s);
    }
    sluice_close(e);
}

static void refused_with_the_reason(void **state) {
    (void)state;
    REFUSED("kvcache", ON_DEVICE, ATTENTION);
    REFUSED("power of two", ON_DEVICE, DUO, "attention.page=12");
    REFUSED("bf16", ON_DEVICE, DUO, "attention.dtype=f16");
    REFUSED("streaming heads", ON_DEVICE, DUO, "engine.kv_memory_mb=1", "engine.max_seqs=64", "attention.page=64");
}

int main(void) {
    char module[4200];
    snprintf(module, sizeof module, "%s", run_place("SLUICE_BUILD", "tests/device_fake.so"));
    setenv("SLUICE_CUDA_MODULE", module, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_cpu), cmocka_unit_test(chunks_and_company_change_nothing),
        cmocka_unit_test(drafts_change_nothing),       cmocka_unit_test(cuts_and_forks),
        cmocka_unit_test(memory_is_what_was_quoted),   cmocka_unit_test(refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, write_pattern, remove_pattern);
}
