/* medusa on a device that is none (device_fake.h): tokens are those of plain decoding there, whatever the layout of the
 * heads, greedy and sampled, alone, together, with graphs and without; what is accepted is what the CPU accepts; ids
 * that are fetched too early, or memory of the host that a kernel is given, end the test. */
#include "e2e.h"

#include <stdlib.h>

#include "tiny_heads.h"

static e2e_prompts prompts;
static medusa_heads heads;

enum { LONG = 20, SESSIONS = 4, TOGETHER = 3 };

#define ON_DEVICE "engine.device=cuda", "engine.max_context=512", "engine.max_rows=128"
#define MEDUSA "speculation.plugin=medusa", "engine.validate=yes", "speculation.nodes=10"

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static void continue_with(const char *const *sets, const sluice_sampling *how, int together, e2e_output *out,
                          sluice_stats *stats) {
    sluice_engine *e = e2e_open("models/tiny", sets);
    e2e_prompt some[SESSIONS];
    for (int i = 0; i < SESSIONS; i++) {
        some[i] = prompts.prompt[i];
        some[i].n_ids = some[i].n_ids < 60 ? some[i].n_ids : 60;
    }
    e2e_continue(e, some, SESSIONS, together, how, out);
    sluice_get_stats(e, stats);
    sluice_close(e);
}

/* The tokens must be those that are expected. Returns what the drafts came to. */
static sluice_stats check(const char *what, const e2e_output *expected, const char *const *sets,
                          const sluice_sampling *how, int together) {
    e2e_output got[SESSIONS];
    sluice_stats stats;
    continue_with(sets, how, together, got, &stats);
    printf("%s: %lld steps, %lld of %lld drafts\n", what, (long long)stats.steps, (long long)stats.accepted,
           (long long)stats.drafted);
    for (int i = 0; i < SESSIONS; i++)
        e2e_check_tokens(what, expected[i].tokens, expected[i].n, got[i].tokens, got[i].n);
    e2e_outputs_free(got, SESSIONS);
    assert_int_equal(stats.allocs_in_steps, 0);
    assert_true(stats.drafted > 0);
    return stats;
}

static void greedy_is_plain(void **state) {
    (void)state;
    e2e_output plain[SESSIONS];
    sluice_stats stats;
    sluice_sampling greedy = e2e_greedy(LONG);
    continue_with(SETS(ON_DEVICE), &greedy, 1, plain, &stats);
    check("shared", plain, SETS(ON_DEVICE, MEDUSA, heads.shared), &greedy, 1);
    check("own", plain, SETS(ON_DEVICE, MEDUSA, heads.own), &greedy, TOGETHER);
    check("two blocks", plain, SETS(ON_DEVICE, MEDUSA, heads.whole, "speculation.num_layers=2"), &greedy, TOGETHER);
    check("two heads of three, small steps", plain,
          SETS(ON_DEVICE, MEDUSA, heads.own, "speculation.num_heads=2", "engine.prefill_chunk=7"), &greedy, SESSIONS);
    sluice_stats alone = check("near", plain, SETS(ON_DEVICE, MEDUSA, heads.near), &greedy, 1);
    sluice_stats many = check("near, together", plain, SETS(ON_DEVICE, MEDUSA, heads.near), &greedy, SESSIONS);
    assert_true(alone.accepted > 0);
    assert_int_equal(alone.accepted, many.accepted); /* a row's candidates do not depend on its company */
    setenv("FAKE_NO_GRAPHS", "1", 1);
    check("near, no graphs", plain, SETS(ON_DEVICE, MEDUSA, heads.near), &greedy, TOGETHER);
    unsetenv("FAKE_NO_GRAPHS");
    e2e_outputs_free(plain, SESSIONS);
}

/* Heads and rows of f32 on the CPU, of bf16 on the device: the same tokens, and the same drafts that hold. */
static void accepted_is_what_the_cpu_accepts(void **state) {
    (void)state;
    sluice_sampling greedy = e2e_greedy(LONG);
    e2e_output cpu[SESSIONS];
    sluice_stats expected;
    continue_with(SETS("engine.device=cpu", "engine.max_context=512", "engine.max_rows=128", MEDUSA, heads.near),
                  &greedy, TOGETHER, cpu, &expected);
    sluice_stats got = check("near", cpu, SETS(ON_DEVICE, MEDUSA, heads.near), &greedy, TOGETHER);
    assert_int_equal(got.drafted, expected.drafted);
    assert_int_equal(got.accepted, expected.accepted);
    assert_int_equal(got.steps, expected.steps);
    e2e_outputs_free(cpu, SESSIONS);
}

static void sampled_is_plain(void **state) {
    (void)state;
    e2e_output plain[SESSIONS];
    sluice_stats stats;
    sluice_sampling how = e2e_greedy(LONG);
    how.temperature = 0.8;
    how.seed = 9;
    continue_with(SETS(ON_DEVICE), &how, 1, plain, &stats);
    check("sampled", plain, SETS(ON_DEVICE, MEDUSA, heads.near), &how, TOGETHER);
    e2e_outputs_free(plain, SESSIONS);
}

static void packed_is_plain(void **state) {
    (void)state;
    e2e_output plain[SESSIONS];
    sluice_stats stats;
    sluice_sampling greedy = e2e_greedy(LONG);
    continue_with(SETS(ON_DEVICE, "quant.plugin=rtn", "quant.bits=8"), &greedy, 1, plain, &stats);
    check("rtn", plain, SETS(ON_DEVICE, MEDUSA, heads.near, "quant.plugin=rtn", "quant.bits=8"), &greedy, TOGETHER);
    e2e_outputs_free(plain, SESSIONS);
}

/* Typical acceptance that finds nothing likely enough but the best: greedy tokens again, decided from logits. */
static void typical_at_its_end(void **state) {
    (void)state;
    e2e_output plain[SESSIONS];
    sluice_stats stats;
    sluice_sampling greedy = e2e_greedy(LONG);
    continue_with(SETS(ON_DEVICE), &greedy, 1, plain, &stats);
    stats = check("typical", plain,
                  SETS(ON_DEVICE, MEDUSA, heads.near, "speculation.acceptance=typical", "engine.deterministic=no"),
                  &greedy, TOGETHER);
    assert_int_equal(stats.lossless, 0);
    e2e_outputs_free(plain, SESSIONS);
}

/* A fork takes candidates that are still being made; cut and other tokens: none. */
static void forks_and_cuts(void **state) {
    (void)state;
    e2e_output out[2][4]; /* the session, then it and its fork, then what was cut and goes on */
    for (int i = 0; i < 2; i++) {
        sluice_engine *e = i == 0 ? e2e_open("models/tiny", SETS(ON_DEVICE, "engine.max_seqs=4"))
                                  : e2e_open("models/tiny", SETS(ON_DEVICE, MEDUSA, heads.near, "engine.max_seqs=4"));
        sluice_sampling greedy = e2e_greedy(12);
        sluice_error err;
        sluice_session *s = e2e_session(e, prompts.prompt[3].ids, prompts.prompt[3].n_ids), *fork = NULL;
        e2e_generate(e, &s, 1, &greedy, 1, &out[i][0]);
        assert_int_equal(sluice_session_fork(s, -1, &fork, &err), SLUICE_OK);
        sluice_session *both[] = {s, fork};
        e2e_generate(e, both, 2, &greedy, 1, &out[i][1]);
        sluice_session_close(fork);
        assert_int_equal(sluice_session_truncate(s, prompts.prompt[3].n_ids + 5, &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(s, prompts.prompt[2].ids + 1, 3, &err), SLUICE_OK);
        e2e_generate(e, &s, 1, &greedy, 1, &out[i][3]);
        sluice_close(e);
    }
    for (int j = 0; j < 4; j++)
        e2e_check_tokens("forks and cuts", out[0][j].tokens, out[0][j].n, out[1][j].tokens, out[1][j].n);
    e2e_outputs_free(out[0], 4);
    e2e_outputs_free(out[1], 4);
}

/* ---- set up ------------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    (void)state;
    medusa_heads_write(&heads, NULL);
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    return prompts.n >= SESSIONS ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    char module[PATH_MAX];
    snprintf(module, sizeof module, "%s", e2e_built("tests/device_fake.so"));
    setenv("SLUICE_CUDA_MODULE", module, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_plain),    cmocka_unit_test(accepted_is_what_the_cpu_accepts),
        cmocka_unit_test(sampled_is_plain),   cmocka_unit_test(packed_is_plain),
        cmocka_unit_test(typical_at_its_end), cmocka_unit_test(forks_and_cuts),
    };
    return cmocka_run_group_tests_name("device_medusa", tests, set_up, tear_down);
}
