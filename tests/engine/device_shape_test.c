/* Models of a shape on a device that is none (device_fake.h): the device makes the values that the CPU makes, packed
 * ones too, and caches can be filled with seeded rows there. */
#include "e2e.h"

#include <math.h>
#include <stdlib.h>

#define SHAPE "model.shape=tiny", "engine.threads=2", "engine.max_context=1024"

static sluice_engine *open_sets(const char *const *sets) {
    int n = 0;
    while (sets[n] != NULL)
        n++;
    sluice_options options = {.sets = sets, .n_sets = n};
    sluice_engine *e = NULL;
    sluice_error err;
    if (sluice_open(&options, &e, &err) < 0)
        fail_msg("%s", err.text);
    return e;
}

enum { N = 30 };

static float *logits_of(const char *const *sets, double *most) {
    int32_t ids[N];
    for (int i = 0; i < N; i++)
        ids[i] = (i * 997 + 13) % 4096;
    sluice_engine *e = open_sets(sets);
    float *logits = e2e_logits_of(e, ids, N);
    *most = 0;
    for (int64_t i = 0; i < N * 4096; i++) {
        assert_true(isfinite(logits[i]));
        *most = fmax(*most, fabs((double)logits[i]));
    }
    sluice_close(e);
    return logits;
}

static void values_are_those_of_the_cpu(void **state) {
    (void)state;
    static const char *const variants[][2] = {
        {"model.shape_seed=0", "quant.plugin=none"},    {"model.shape_seed=5", "quant.plugin=none"},
        {"model.shape_dtype=f16", "quant.plugin=none"}, {"model.shape_dtype=f32", "quant.plugin=none"},
        {"model.shape_seed=0", "quant.plugin=rtn"},
    };
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        const char *a = variants[v][0], *b = variants[v][1];
        double most, far = 0, other;
        float *cpu = logits_of(SETS(SHAPE, a, b, "engine.device=cpu"), &most);
        float *device = logits_of(SETS(SHAPE, a, b, "engine.device=cuda"), &other);
        for (int64_t i = 0; i < N * 4096; i++)
            far = fmax(far, fabs((double)cpu[i] - device[i]));
        printf("%s, %s: logits differ by %.5f of the largest\n", a, b, far / most);
        if (!(far < 0.03 * most))
            fail_msg("%s, %s: %g of %g", a, b, far, most);
        free(cpu);
        free(device);
    }
}

static void caches_are_filled(void **state) {
    (void)state;
    sluice_engine *e = open_sets(SETS(SHAPE, "engine.device=cuda", "engine.max_rows=96", "engine.prefill_chunk=80"));
    int32_t tokens[3][8];
    for (int r = 0; r < 3; r++) {
        sluice_session *s;
        sluice_error err;
        sluice_stats stats;
        const int32_t next = 77;
        assert_int_equal(sluice_session_open(e, &s, &err), SLUICE_OK);
        if (sluice_session_fill(s, 500, r == 2 ? 9 : 5, &err) < 0 || sluice_session_append(s, &next, 1, &err) < 0)
            fail_msg("%s", err.text);
        sluice_sampling greedy = e2e_greedy(8);
        e2e_output out;
        e2e_generate(e, &s, 1, &greedy, 1, &out);
        assert_int_equal(out.n, 8);
        memcpy(tokens[r], out.tokens, sizeof tokens[r]);
        e2e_outputs_free(&out, 1);
        sluice_get_stats(e, &stats);
        assert_int_equal(stats.allocs_in_steps, 0);
        assert_true(stats.bytes_weights >= 0 && stats.gpu_bytes_weights >= 10000000);
        assert_true(stats.gpu_bytes_kv > 0 || stats.bytes_kv > 0);
        sluice_session_close(s);
    }
    assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
    assert_memory_not_equal(tokens[0], tokens[2], sizeof tokens[0]);
    sluice_close(e);
}

int main(void) {
    char module[PATH_MAX];
    snprintf(module, sizeof module, "%s", e2e_built("tests/device_fake.so"));
    setenv("SLUICE_CUDA_MODULE", module, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_cpu),
        cmocka_unit_test(caches_are_filled),
    };
    return cmocka_run_group_tests_name("device_shape", tests, NULL, NULL);
}
