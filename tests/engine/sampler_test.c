/* The sampler against a naive version of its pipeline: sort everything, then cut. */
#include "sl_test.h"

#include <float.h>

#include "base/ledger.h"
#include "engine/sampler.h"
#include "sl_error.h"

enum { MAX_V = 4096 };

/* ---- the naive version ------------------------------------------------------------------------------------------- */

static float naive_z[MAX_V];

static int by_logit(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (naive_z[x] != naive_z[y])
        return naive_z[x] > naive_z[y] ? -1 : 1;
    return x - y;
}

static float clamp_float(double z) {
    return z == -INFINITY ? -INFINITY : z > FLT_MAX ? FLT_MAX : z < -FLT_MAX ? -FLT_MAX : (float)z;
}

/* p over the whole vocabulary, weight 0 for what is not kept. */
static void naive(int32_t vocab, const sli_sampling *how, const float *logits, const int32_t *history,
                  int64_t n_history, double *weight) {
    static int32_t order[MAX_V];
    int64_t from = how->penalty_last_n < 0 || how->penalty_last_n > n_history ? 0 : n_history - how->penalty_last_n;
    for (int32_t t = 0; t < vocab; t++) {
        int count = 0;
        for (int64_t i = from; i < n_history; i++)
            count += history[i] == t;
        double z = logits[t];
        if (count > 0) {
            double r = how->repeat_penalty == 0 ? 1 : how->repeat_penalty;
            z = z > 0 ? z / r : z * r;
            z = clamp_float(z - (how->presence_penalty + count * how->frequency_penalty));
        }
        for (int i = 0; i < how->n_bias; i++)
            if (how->bias_id[i] == t)
                z = clamp_float(z + how->bias[i]);
        naive_z[t] = (float)z;
        order[t] = t;
        weight[t] = 0;
    }
    qsort(order, (size_t)vocab, sizeof *order, by_logit);
    if (how->temperature == 0) {
        weight[order[0]] = 1;
        return;
    }
    int32_t n = how->top_k > 0 && how->top_k < vocab ? how->top_k : vocab;
    double zmax = naive_z[order[0]], sum = 0, mass = 0;
    for (int32_t i = 0; i < n; i++)
        sum += exp((naive_z[order[i]] - zmax) / how->temperature);
    for (int32_t i = 0; i < n; i++) {
        double w = exp((naive_z[order[i]] - zmax) / how->temperature);
        if (w >= how->min_p)
            weight[order[i]] = w;
        mass += w;
        if (how->top_p > 0 && how->top_p < 1 && mass >= how->top_p * sum)
            break;
    }
}

static void compare(sli_sampler *s, int32_t vocab, const sli_sampling *how, const float *logits, const sli_history *h) {
    static double expected[MAX_V];
    static int32_t whole[1024];
    SL_ERROR(err);
    memcpy(whole, h->committed, (size_t)h->n_committed * sizeof *whole);
    if (h->n_path > 0)
        memcpy(whole + h->n_committed, h->path, (size_t)h->n_path * sizeof *whole);
    naive(vocab, how, logits, whole, h->n_committed + h->n_path, expected);
    sli_dist d;
    sli_row row = {logits, 0, *h};
    if (sli_sampler_dist(s, how, &row, &d, &err) < 0)
        fail_msg("%s", err.text);
    int64_t at = 0;
    double sum = 0;
    for (int32_t t = 0; t < vocab; t++) {
        double w = at < d.n && d.id[at] == t ? d.weight[at++] : 0;
        if (w != expected[t])
            fail_msg("token %d of %d: weight %g, expected %g (T %g, k %d, p %g, min_p %g)", t, vocab, w, expected[t],
                     how->temperature, how->top_k, how->top_p, how->min_p);
        sum += w;
    }
    assert_int_equal(at, d.n);
    assert_true(d.n >= 1 && fabs(d.sum / sum - 1) < 1e-13);
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

/* Logits of several temperaments: smooth, full of ties, with -inf, with huge values. */
static void fill(float *z, int32_t vocab, int temper, uint64_t *seed) {
    for (int32_t i = 0; i < vocab; i++) {
        float v = test_normal(seed) * 3;
        z[i] = temper == 1   ? (float)(int)v
               : temper == 2 ? (test_uniform(seed) < 0.6 ? -INFINITY : v)
               : temper == 3 ? v * 1e37f
               : temper == 4 ? 0
                             : v;
    }
    z[(int32_t)(test_uniform(seed) * vocab)] = 1; /* not all -inf */
}

static void agrees_with_the_naive_pipeline(void **state) {
    (void)state;
    static float z[MAX_V];
    static const int32_t vocabs[] = {1, 2, 3, 8, 17, 100, 1024, 1025, 3000, 4096};
    static const double temperatures[] = {0, 1e-300, 0.1, 0.7, 1, 5}, top_ps[] = {0, 1e-9, 0.3, 0.9, 0.999, 1},
                        min_ps[] = {0, 0.05, 1};
    uint64_t seed = 17;
    SL_ERROR(err);
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        int32_t vocab = vocabs[v];
        sli_sampler *s;
        assert_int_equal(sli_sampler_create(vocab, &s, &err), SL_OK);
        for (int round = 0; round < (vocab > 500 ? 150 : 1500); round++) {
            int32_t committed[60], path[5], bias_id[3];
            float bias[3];
            fill(z, vocab, round % 5, &seed);
            sli_sampling how = {.temperature = temperatures[(int)(test_uniform(&seed) * 6)],
                                .top_p = top_ps[(int)(test_uniform(&seed) * 6)],
                                .min_p = test_uniform(&seed) < 0.5 ? 0 : min_ps[(int)(test_uniform(&seed) * 3)],
                                .bias_id = bias_id,
                                .bias = bias};
            how.top_k = test_uniform(&seed) < 0.4 ? 0 : (int32_t)(test_uniform(&seed) * (vocab + 3));
            if (test_uniform(&seed) < 0.5) {
                how.repeat_penalty = 0.5 + test_uniform(&seed);
                how.presence_penalty = test_normal(&seed);
                how.frequency_penalty = test_normal(&seed);
                how.penalty_last_n = (int32_t)(test_uniform(&seed) * 70) - 1;
                how.n_bias = (int32_t)(test_uniform(&seed) * 4);
            }
            sli_history h = {committed, (int64_t)(test_uniform(&seed) * 60), path, (int64_t)(test_uniform(&seed) * 6)};
            for (int i = 0; i < 60; i++)
                committed[i] = (int32_t)(test_uniform(&seed) * (vocab + 2)) - 1; /* some are no tokens */
            for (int i = 0; i < 5; i++)
                path[i] = (int32_t)(test_uniform(&seed) * vocab);
            for (int i = 0; i < 3; i++) {
                bias_id[i] = (int32_t)(test_uniform(&seed) * vocab);
                bias[i] = i == 2 && vocab > 3 ? -INFINITY : 10 * test_normal(&seed);
            }
            int left = 0; /* a bias may ban the only token that there was */
            for (int32_t t = 0; t < vocab; t++)
                left += z[t] > -INFINITY && !(how.n_bias == 3 && bias[2] == -INFINITY && bias_id[2] == t);
            if (left > 0)
                compare(s, vocab, &how, z, &h);
        }
        sli_sampler_destroy(s);
    }
}

static int64_t kept(sli_sampler *s, const float *z, sli_sampling how, int32_t *first) {
    SL_ERROR(err);
    sli_dist d;
    sli_row row = {z, 0, {NULL, 0, NULL, 0}};
    if (sli_sampler_dist(s, &how, &row, &d, &err) < 0)
        fail_msg("%s", err.text);
    *first = d.id[0];
    return d.n;
}

static void edges_go_to_the_lower_id(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_sampler *s;
    assert_int_equal(sli_sampler_create(8, &s, &err), SL_OK);
    const float equal[8] = {0}, tie[8] = {0, 3, 1, 3, 1, 1, -INFINITY, 0};
    int32_t first;
    assert_int_equal(kept(s, equal, (sli_sampling){0}, &first), 1);
    assert_int_equal(first, 0);
    assert_int_equal(kept(s, tie, (sli_sampling){0}, &first), 1);
    assert_int_equal(first, 1);
    assert_int_equal(kept(s, equal, (sli_sampling){.temperature = 1, .top_p = 0.5}, &first),
                     4); /* exactly half: enough */
    assert_int_equal(kept(s, equal, (sli_sampling){.temperature = 1, .top_p = 0.500001}, &first), 5);
    assert_int_equal(kept(s, equal, (sli_sampling){.temperature = 1, .top_p = 1e-12}, &first), 1);
    assert_int_equal(kept(s, equal, (sli_sampling){.temperature = 1, .top_k = 4, .top_p = 0.5}, &first),
                     2); /* of top-k's mass */
    assert_int_equal(kept(s, tie, (sli_sampling){.temperature = 1, .top_k = 3}, &first),
                     3); /* 1, 3 and of the ones 2 */
    assert_int_equal(kept(s, tie, (sli_sampling){.temperature = 1, .top_k = 8}, &first), 7); /* never a banned one */
    assert_int_equal(kept(s, tie, (sli_sampling){.temperature = 1, .min_p = 1}, &first), 2);
    assert_int_equal(kept(s, equal, (sli_sampling){.temperature = 1, .top_p = 1}, &first), 8);
    sli_sampler_destroy(s);
}

static void names_what_is_wrong(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_sampler *s;
    sli_dist d;
    assert_int_equal(sli_sampler_create(40, &s, &err), SL_OK);
    float z[40] = {0};
    sli_row row = {z, 7, {NULL, 0, NULL, 0}};
    const sli_sampling greedy = {0}, hot = {.temperature = 1};
    static const struct {
        float value;
        const char *text;
    } bad[] = {{NAN, "logits row 7: token 37 has the value nan"},
               {INFINITY, "logits row 7: token 37 has the value inf"}};
    for (int i = 0; i < 2; i++) {
        z[37] = bad[i].value;
        assert_int_equal(sli_sampler_dist(s, &greedy, &row, &d, &err), SL_E_DATA);
        assert_string_equal(err.text, bad[i].text);
        assert_int_equal(sli_sampler_dist(s, &hot, &row, &d, &err), SL_E_DATA);
    }
    for (int i = 0; i < 40; i++)
        z[i] = -INFINITY;
    assert_int_equal(sli_sampler_dist(s, &hot, &row, &d, &err), SL_E_DATA);
    assert_string_equal(err.text, "logits row 7: all of the 40 tokens are -inf");
    const int32_t id = 40, inside = 3;
    const float one = 1, nan = NAN;
    const sli_sampling wrong[] = {
        {.temperature = -1},
        {.temperature = NAN},
        {.top_p = 1.5},
        {.min_p = -0.1},
        {.repeat_penalty = -1},
        {.top_k = -1},
        {.presence_penalty = INFINITY},
        {.frequency_penalty = NAN},
        {.penalty_last_n = -2},
        {.n_bias = 1},
        {.n_bias = 1, .bias_id = &id, .bias = &one},
        {.n_bias = 1, .bias_id = &inside, .bias = &nan},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_true(sli_sampling_check(&wrong[i], 40, &err) < 0);
    assert_int_equal(sli_sampling_check(&hot, 40, &err), SL_OK);
    sli_sampler_destroy(s);
}

static void logprobs_are_those_of_p(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_sampler *s;
    assert_int_equal(sli_sampler_create(6, &s, &err), SL_OK);
    const float z[6] = {1, 4, 2, 4, 3, -INFINITY};
    sli_row row = {z, 0, {NULL, 0, NULL, 0}};
    sli_logprob chosen = {2, 0}, top[4];
    int32_t n;
    const sli_sampling how = {.temperature = 0.5, .top_k = 3}, greedy = {.top_k = 1};
    assert_int_equal(sli_sampler_logprobs(s, &how, &row, &chosen, top, 4, &n, &err), SL_OK);
    double sum = 2 + exp(-2);
    assert_true(chosen.logprob == -INFINITY);
    assert_int_equal(n, 3);
    assert_int_equal(top[0].token, 1);
    assert_int_equal(top[1].token, 3);
    assert_int_equal(top[2].token, 4);
    assert_true(fabs(top[1].logprob + log(sum)) < 1e-15 && fabs(top[2].logprob + 2 + log(sum)) < 1e-15);
    assert_int_equal(sli_sampler_logprobs(s, &greedy, &row, &chosen, top, 2, &n, &err), SL_OK);
    sum = 2 + exp(-1) + exp(-2) + exp(-3);
    assert_int_equal(n, 2);
    assert_true(fabs(chosen.logprob + 2 + log(sum)) < 1e-15 && fabs(top[0].logprob + log(sum)) < 1e-15);
    assert_int_equal(sli_sampler_logprobs(s, &greedy, &row, &chosen, top, 0, &n, &err), SL_OK);
    assert_int_equal(n, 0);
    sli_sampler_destroy(s);
}

static void allocates_only_when_created(void **state) {
    (void)state;
    enum { V = 4000 };
    static float z[V];
    uint64_t seed = 23;
    SL_ERROR(err);
    sli_sampler *s;
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (int n = 0;; n++) {
        sli_ledger_fail_after(n);
        sl_status status = sli_sampler_create(V, &s, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        sli_ledger_read(&after);
        assert_int_equal(after.total, before.total);
        assert_true(n < 20);
    }
    sli_ledger_read(&before);
    const int32_t history[3] = {1, 2, 3};
    const sli_sampling how = {
        .temperature = 1, .top_k = 3000, .top_p = 0.95, .min_p = 1e-4, .repeat_penalty = 1.1, .penalty_last_n = -1};
    for (int i = 0; i < 20; i++) {
        fill(z, V, 0, &seed);
        sli_row row = {z, 0, {history, 3, NULL, 0}};
        sli_random r = sli_random_seeded(&how.seed);
        int32_t token;
        assert_int_equal(sli_sampler_next(s, &how, &row, &r, &token, &err), SL_OK);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.allocations, before.allocations);
    sli_sampler_destroy(s);
    sli_sampler_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_naive_pipeline),
        cmocka_unit_test(edges_go_to_the_lower_id),
        cmocka_unit_test(names_what_is_wrong),
        cmocka_unit_test(logprobs_are_those_of_p),
        cmocka_unit_test(allocates_only_when_created),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
