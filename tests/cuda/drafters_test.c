/* Drafters on a GPU, models/tiny: in deterministic mode tokens are those of plain decoding there, greedy and sampled,
 * alone and together, whatever the drafts; and there are drafts that hold. */
#include "e2e.h"

#include "tiny_heads.h"

enum { LONG = 48, SESSIONS = 6 };

static e2e_prompts prompts;
static medusa_heads heads;

/* NULL: there is no GPU; the test is skipped with the reason then. */
static sluice_engine *open_gpu(const char *const *more, int n_more) {
    char path[PATH_MAX + 16];
    const char *sets[12] = {path, "engine.device=cuda", "engine.max_context=512"};
    int n = 3;
    snprintf(path, sizeof path, "model.path=%s", e2e_path("models/tiny"));
    for (int i = 0; i < n_more && more[i] != NULL; i++)
        sets[n++] = more[i];
    sluice_options options = {.sets = sets, .n_sets = n};
    sluice_engine *e = NULL;
    sluice_error err = {0};
    if (sluice_open(&options, &e, &err) >= 0)
        return e;
    if (err.code == SLUICE_E_NOT_FOUND)
        skip_because("%.200s", err.text);
    fail_msg("%s", err.text);
    return NULL;
}

static void same_tokens(void **state) {
    (void)state;
    enum { MORE = 5 };
    static const struct {
        const char *name, *set[MORE];
        int accepts; /* 1: drafts hold now and then */
    } cases[] = {
        {"prompt_lookup", {"speculation.plugin=prompt_lookup"}, 1},
        {"token_recycling", {"speculation.plugin=token_recycling"}, 1},
        {"token_recycling, prompts too",
         {"speculation.plugin=token_recycling", "speculation.update_from_prompt=yes"},
         1},
        {"medusa", {"speculation.plugin=medusa", heads.shared}, 0},
        {"medusa, small trees",
         {"speculation.plugin=medusa", heads.near, "speculation.nodes=5", "speculation.topk=3"},
         1},
        {"medusa, heads of their own", {"speculation.plugin=medusa", heads.own, "speculation.nodes=16"}, 0},
        {"medusa, two blocks", {"speculation.plugin=medusa", heads.whole, "speculation.num_layers=2"}, 0},
        {"medusa, near", {"speculation.plugin=medusa", heads.near}, 1},
        {"medusa, packed", {"speculation.plugin=medusa", heads.near, "quant.plugin=rtn", "quant.bits=8"}, 1},
    };
    for (int sampled = 0; sampled < 2; sampled++) {
        sluice_sampling how = e2e_greedy(LONG);
        how.temperature = sampled ? 0.8 : 0;
        how.seed = 31;
        e2e_output plain[2][SESSIONS];
        for (int packed = 0; packed < 2; packed++) {
            static const char *const rtn[] = {"quant.plugin=rtn", "quant.bits=8"};
            sluice_engine *e = open_gpu(rtn, packed ? 2 : 0);
            e2e_continue(e, prompts.prompt, SESSIONS, 1, &how, plain[packed]);
            sluice_close(e);
        }
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            for (int together = 1; together <= SESSIONS; together += SESSIONS - 1) {
                sluice_engine *e = open_gpu(cases[c].set, MORE);
                const e2e_output *expected = plain[cases[c].set[2] != NULL && strstr(cases[c].set[2], "rtn") != NULL];
                e2e_output got[SESSIONS];
                sluice_stats stats;
                e2e_continue(e, prompts.prompt, SESSIONS, together, &how, got);
                sluice_get_stats(e, &stats);
                print_message("# %s, %s, %d together: %lld steps, %lld of %lld drafts, %lld graphs\n", cases[c].name,
                              sampled ? "sampled" : "greedy", together, (long long)stats.steps,
                              (long long)stats.accepted, (long long)stats.drafted, (long long)stats.graphs);
                for (int i = 0; i < SESSIONS; i++)
                    e2e_check_tokens(cases[c].name, expected[i].tokens, expected[i].n, got[i].tokens, got[i].n);
                assert_true(stats.drafted > 0);
                assert_true(stats.accepted > 0 || !cases[c].accepts);
                e2e_outputs_free(got, SESSIONS);
                sluice_close(e);
            }
        for (int packed = 0; packed < 2; packed++)
            e2e_outputs_free(plain[packed], SESSIONS);
    }
}

static int set_up(void **state) {
    (void)state;
    medusa_heads_write(&heads, NULL);
    e2e_prompts_read("tests/data/tiny/prompts40.json", &prompts);
    return prompts.n >= SESSIONS ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_tokens)};
    return cmocka_run_group_tests_name("cuda_drafters", tests, set_up, tear_down);
}
