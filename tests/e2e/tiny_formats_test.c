/* The embedded model with other number formats: packed weights, half-width caches, bf16 products. Tokens may differ from
 * the golden ones here; how much is bounded, and 4 bits must show. */
#include "e2e.h"

static e2e_prompts prompts;
static float *exact; /* [n, vocab] logits of the prompt in f32 */

enum { PROMPT = 0 };

/* Largest difference of logits from the f32 ones, as a part of their range. */
static double logit_error(sluice_engine *engine) {
    const e2e_prompt *p = &prompts.prompt[PROMPT];
    sluice_info info;
    sluice_get_info(engine, &info);
    int64_t n = p->n_ids * info.vocab;
    float *logits = e2e_logits_of(engine, p->ids, p->n_ids), low = exact[0], high = exact[0];
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double off = fabs((double)logits[i] - exact[i]);
        worst = off > worst || !(off == off) ? off : worst;
        low = exact[i] < low ? exact[i] : low;
        high = exact[i] > high ? exact[i] : high;
    }
    free(logits);
    return worst / ((double)high - low);
}

/* Greedy tokens that agree with the golden ones, position by position up to the first difference, of all prompts. */
static double agreement(sluice_engine *engine) {
    e2e_output outputs[8];
    int64_t same = 0, total = 0;
    sluice_sampling greedy = e2e_greedy((int32_t)prompts.prompt[0].n_greedy);
    assert_true(prompts.n <= 8);
    e2e_continue(engine, prompts.prompt, prompts.n, prompts.n, &greedy, outputs);
    for (int i = 0; i < prompts.n; i++) {
        const e2e_prompt *p = &prompts.prompt[i];
        assert_int_equal(outputs[i].n, p->n_greedy);
        int64_t k = 0;
        while (k < p->n_greedy && p->greedy[k] == outputs[i].tokens[k])
            k++;
        same += k;
        total += p->n_greedy;
    }
    e2e_outputs_free(outputs, prompts.n);
    return (double)same / (double)total;
}

typedef struct format {
    const char *name;
    const char *sets[4];
    double min_error, max_error; /* of logits; the least says that the format is really in use */
    double min_agreement, max_agreement;
} format;

static const format formats[] = {
    {"quant none", {"quant.plugin=none"}, 0, 0, 1, 1},
    {"rtn 8 bits", {"quant.plugin=rtn", "quant.bits=8"}, 1e-6, 0.02, 0.5, 1},
    {"rtn 4 bits", {"quant.plugin=rtn", "quant.bits=4"}, 0.005, 0.5, 0, 0.9},
    {"rtn 4 bits asymmetric", {"quant.plugin=rtn", "quant.bits=4", "quant.scheme=asymmetric"}, 0.005, 0.5, 0, 0.99},
    {"kv f16", {"kvcache.dtype=f16"}, 1e-7, 0.002, 0.8, 1},
    {"kv bf16", {"kvcache.dtype=bf16"}, 1e-6, 0.02, 0.5, 1},
    {"compute bf16", {"engine.compute=bf16"}, 1e-6, 0.03, 0.5, 1},
};

static void test_format(void **state) {
    const format *f = *state;
    sluice_engine *engine = e2e_open("models/tiny", f->sets);
    double error = logit_error(engine), same = agreement(engine);
    print_message("# %s: logits within %.2g of their range, %.0f %% of the tokens before a difference\n", f->name, error, 100 * same);
    sluice_close(engine);
    if (!(error >= f->min_error && error <= f->max_error))
        fail_msg("%s: error of logits %.3g, expected %g to %g", f->name, error, f->min_error, f->max_error);
    if (!(same >= f->min_agreement && same <= f->max_agreement))
        fail_msg("%s: %.3f of the tokens agree, expected %g to %g", f->name, same, f->min_agreement, f->max_agreement);
}

/* Packed weights are smaller than the checkpoint's. */
static void test_packed_is_smaller(void **state) {
    (void)state;
    int64_t bytes[2];
    const char *const bits[] = {"quant.bits=8", "quant.bits=4"};
    for (int i = 0; i < 2; i++) {
        sluice_engine *engine = e2e_open("models/tiny", SETS("quant.plugin=rtn", bits[i]));
        sluice_stats s;
        sluice_get_stats(engine, &s);
        bytes[i] = s.bytes_weights;
        sluice_close(engine);
    }
    assert_true(bytes[1] > 0 && bytes[1] < bytes[0]);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    sluice_engine *engine = e2e_open("models/tiny", NO_SETS);
    exact = e2e_logits_of(engine, prompts.prompt[PROMPT].ids, prompts.prompt[PROMPT].n_ids);
    sluice_close(engine);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    free(exact);
    return 0;
}

int main(void) {
    enum { N = sizeof formats / sizeof *formats };
    static struct CMUnitTest tests[N + 1];
    for (int i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){formats[i].name, test_format, NULL, NULL, (void *)(uintptr_t)&formats[i]};
    tests[N] = (struct CMUnitTest)cmocka_unit_test(test_packed_is_smaller);
    return cmocka_run_group_tests_name("tiny_formats", tests, set_up, tear_down);
}
