/* swift through libsluice: tokens are those of plain decoding for any skip set and setting, greedy and sampled, alone
 * and together; plans from files; what cannot be is refused. */
#include "e2e.h"
#include "st_file.h"

enum { N_PROMPTS = 40, N_TOKENS = 16, TOGETHER = 5 };

#define SWIFT "speculation.plugin=swift", "engine.validate=yes"
#define PLAIN "speculation.plugin=none"

static e2e_prompts prompts;

static sluice_engine *opened(const char *const *sets) { return e2e_open("models/tiny", sets); }

static void check_lossless(sluice_engine *e, sluice_stats *stats) {
    sluice_get_stats(e, stats);
    assert_int_equal(stats->allocs_in_steps, 0);
    assert_int_equal(stats->lossless, 1);
    assert_true(stats->drafted > 0);
}

/* ---- the same tokens --------------------------------------------------------------------------------------------- */

static void greedy_is_plain(void **state) {
    (void)state;
    sluice_stats stats;
    for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
        sluice_engine *e = opened(SETS(SWIFT, "speculation.stop_threshold=0.3"));
        e2e_check_greedy("swift", e, prompts.prompt, N_PROMPTS, together);
        check_lossless(e, &stats);
        assert_true(stats.accepted > 0);
        print_message("# 40 prompts, %d together: %.2f tokens a step, %lld of %lld nodes accepted\n", together,
                      (double)stats.emitted / (double)stats.steps, (long long)stats.accepted, (long long)stats.drafted);
        sluice_close(e);
    }
}

/* Every set of sub-layers that can be skipped, or nearly: drawn at random, with all numbers of ones. */
static void any_set_is_plain(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (int i = 0; i < 12; i += 2) {
        char list[2][64] = {"speculation.skip_attention=", "speculation.skip_ffn="};
        for (int half = 0; half < 2; half++)
            for (int l = 1, n = 0; l <= 4; l++)
                if ((int)(test_next(&seed) % 12) < i + 1)
                    sprintf(list[half] + strlen(list[half]), "%s%d", n++ ? "," : "", l);
        sluice_engine *e = opened(SETS(SWIFT, list[0], list[1], "speculation.stop_threshold=0",
                                       "speculation.max_draft=6", "speculation.topk=3"));
        sluice_stats stats;
        e2e_check_greedy(list[0], e, prompts.prompt + i, TOGETHER, TOGETHER);
        e2e_check_greedy(list[0], e, prompts.prompt + i, 2, 1);
        check_lossless(e, &stats);
        sluice_close(e);
    }
}

/* What skips nothing is the target: the whole backbone is accepted, each step emits as many tokens as it can. */
static void nothing_skipped_accepts_everything(void **state) {
    (void)state;
    static const char *const how[] = {"speculation.skip_ratio=0", "speculation.skip_attention="};
    for (int i = 0; i < 2; i++)
        for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
            sluice_engine *e = opened(SETS(SWIFT, how[i], "speculation.stop_threshold=0", "speculation.max_draft=4",
                                           together == 1 ? "speculation.topk=10" : "speculation.topk=2"));
            sluice_stats stats;
            e2e_check_greedy(how[i], e, prompts.prompt, 10, together);
            check_lossless(e, &stats);
            /* 15 tokens behind the prompt's own: three steps of 5 */
            assert_int_equal(stats.steps, 3 * 10 / together);
            assert_int_equal(stats.accepted, 10 * 3 * 4);
            for (int d = 0; d < 4; d++)
                assert_int_equal(stats.accepted_by_depth[d], 30);
            assert_int_equal(e2e_metric(e, "swift.skipped_attention") + e2e_metric(e, "swift.skipped_ffn"), 0);
            sluice_close(e);
        }
}

static void every_setting_is_plain(void **state) {
    (void)state;
    static const struct {
        const char *name, *set[5];
    } settings[] = {
        {"skip_ratio = 1", {"speculation.skip_ratio=1"}},
        {"skip_ratio = 0.2",
         {"speculation.skip_ratio=0.2", "speculation.optimise=yes", "speculation.context_window=4"}},
        {"stop_threshold = 1", {"speculation.stop_threshold=1"}},
        {"stop_threshold = 0", {"speculation.stop_threshold=0", "speculation.topk=4"}},
        {"max_draft = 1", {"speculation.max_draft=1"}},
        {"max_draft = 127", {"speculation.max_draft=127", "speculation.stop_threshold=0", "speculation.topk=1"}},
        {"topk = 1", {"speculation.topk=1"}},
        {"topk = 64", {"speculation.topk=64"}},
        {"small steps", {"engine.max_rows=64", "engine.prefill_chunk=3", "speculation.stop_threshold=0"}},
        {"small chunks and a search",
         {"engine.prefill_chunk=3", "speculation.optimise=yes", "speculation.context_window=8"}},
        {"reference kernels", {"engine.isa=ref"}},
        {"a search with bayes",
         {"speculation.optimise=yes", "speculation.bayes=yes", "speculation.bayes_interval=3",
          "speculation.context_window=4"}},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const char *sets[8] = {SWIFT};
        for (int j = 0; j < 5 && settings[i].set[j] != NULL; j++)
            sets[j + 2] = settings[i].set[j];
        sluice_engine *e = opened(sets);
        sluice_stats stats;
        e2e_check_greedy(settings[i].name, e, prompts.prompt, TOGETHER, TOGETHER);
        e2e_check_greedy(settings[i].name, e, prompts.prompt, 1, 1);
        check_lossless(e, &stats);
        sluice_close(e);
    }
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

/* Drawn trees declared DET: the very tokens of plain sampling. */
static void det_sampling_is_plain(void **state) {
    (void)state;
    enum { N_SAMPLED = 15 };
    e2e_output plain[N_SAMPLED], got[N_SAMPLED];
    sluice_sampling how = {
        .temperature = 0.8, .top_p = 1, .repeat_penalty = 1, .max_tokens = N_TOKENS, .ignore_eos = 1, .seed = 11};
    sluice_engine *e = opened(SETS(PLAIN));
    e2e_continue(e, prompts.prompt, N_SAMPLED, TOGETHER, &how, plain);
    sluice_close(e);
    for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
        sluice_stats stats;
        e = opened(SETS(SWIFT, "speculation.verify=det", "speculation.stop_threshold=0.2"));
        e2e_continue(e, prompts.prompt, N_SAMPLED, together, &how, got);
        for (int i = 0; i < N_SAMPLED; i++)
            e2e_check_tokens(prompts.prompt[i].text, plain[i].tokens, plain[i].n, got[i].tokens, got[i].n);
        check_lossless(e, &stats);
        assert_true(stats.accepted > 0);
        e2e_outputs_free(got, N_SAMPLED);
        sluice_close(e);
    }
    e2e_outputs_free(plain, N_SAMPLED);
}

/* ---- plans and refusals ------------------------------------------------------------------------------------------ */

static const char *plan_file(const char *name, const char *const *metadata) {
    static char set[PATH_MAX + 32];
    const char *path = e2e_temp(name);
    st_file file = {.header = json_object()};
    json_t *values = json_object();
    for (; *metadata != NULL; metadata += 2)
        json_object_set_new(values, metadata[0], json_string(metadata[1]));
    json_object_set_new(file.header, "__metadata__", values);
    st_write(&file, e2e_temp(""), name);
    json_decref(file.header);
    snprintf(set, sizeof set, "speculation.plan=%s", path);
    return set;
}

static void plans_from_files(void **state) {
    (void)state;
    sluice_engine *e = opened(SETS(SWIFT, plan_file("a.safetensors", SETS("attention", "2, 4", "ffn", "3"))));
    assert_int_equal(e2e_metric(e, "swift.skipped_attention"), 2);
    assert_int_equal(e2e_metric(e, "swift.skipped_ffn"), 1);
    e2e_check_greedy("plan", e, prompts.prompt, 5, TOGETHER);
    sluice_stats of_file, of_list;
    check_lossless(e, &of_file);
    sluice_close(e);
    e = opened(SETS(SWIFT, "speculation.skip_attention=4,2", "speculation.skip_ffn=3"));
    e2e_check_greedy("lists", e, prompts.prompt, 5, TOGETHER);
    check_lossless(e, &of_list);
    assert_int_equal(of_file.drafted, of_list.drafted);
    assert_int_equal(of_file.accepted, of_list.accepted);
    sluice_close(e);
}

static void refusals(void **state) {
    (void)state;
    char files[5][PATH_MAX + 32];
    snprintf(files[0], sizeof files[0], "%s", plan_file("b.safetensors", SETS("attention", "1")));
    snprintf(files[1], sizeof files[1], "%s", plan_file("c.safetensors", SETS("attention", "1;2", "ffn", "")));
    snprintf(files[2], sizeof files[2], "%s", plan_file("d.safetensors", SETS("attention", "5", "ffn", "")));
    snprintf(files[3], sizeof files[3], "%s",
             plan_file("e.safetensors", SETS("attention", "1", "ffn", "1", "fingerprint", "0123456789abcdef")));
    snprintf(files[4], sizeof files[4], "%s", plan_file("f.safetensors", SETS("attention", "1", "ffn", "")));
    const struct {
        const char *set[3], *says;
    } bad[] = {
        {{"speculation.skip_attention=0"}, "layer 0 cannot be skipped, only 1 to 4 can"},
        {{"speculation.skip_ffn=2,5"}, "skip_ffn: layer 5 cannot be skipped"},
        {{"speculation.skip_ffn=2,2"}, "layer 2 stands twice"},
        {{"speculation.skip_ffn=2", "speculation.optimise=yes"}, "used as it is"},
        {{"speculation.skip_ffn=2", "speculation.skip_ratio=0.3"}, "used as it is"},
        {{"speculation.skip_ffn=2", files[4]}, "as plan or as skip_attention"},
        {{"speculation.bayes=yes"}, "without optimise = yes"},
        {{"speculation.bayes=yes", "speculation.optimise=yes", "speculation.max_opt_iter=5000"}, "4096 at most"},
        {{"speculation.skip_ratio=1.1"}, "skip_ratio"},
        {{"speculation.plan=nowhere.safetensors"}, "nowhere.safetensors"},
        {{files[0]}, "no metadata \"ffn\""},
        {{files[1]}, "expected layer ids with commas"},
        {{files[2]}, "layer 5 cannot be skipped"},
        {{files[3]}, "made for the model with fingerprint 0123456789abcdef"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sluice_error err;
        const char *sets[6] = {SWIFT};
        for (int j = 0; j < 3 && bad[i].set[j] != NULL; j++)
            sets[2 + j] = bad[i].set[j];
        e2e_open_refused("models/tiny", sets, &err);
        if (strstr(err.text, bad[i].says) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
    }
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/prompts40.json", &prompts);
    return prompts.n == N_PROMPTS && prompts.prompt[0].n_greedy == N_TOKENS ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_plain),
        cmocka_unit_test(any_set_is_plain),
        cmocka_unit_test(nothing_skipped_accepts_everything),
        cmocka_unit_test(every_setting_is_plain),
        cmocka_unit_test(det_sampling_is_plain),
        cmocka_unit_test(plans_from_files),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("swift", tests, set_up, tear_down);
}
