/* Rounds of `sluice bench` in one result: medians of rates, medians of ratios to the base's neighbouring runs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "quantile.h"

enum { MAX_ROUNDS = 1000 };

/* The interval of a median out of order statistics: v[k] .. v[n - 1 - k] holds it with a chance of 1 minus twice the
 * chance of at most k heads of n; the largest k that leaves 95 %. -1: too few values for any. */
static int order_of_interval(int n) {
    double term = pow(0.5, n), tail = 0;
    int k = -1;
    for (int i = 0; i < n / 2; i++) {
        tail += term;
        term = term * (n - i) / (i + 1);
        if (2 * tail > 0.05)
            break;
        k = i;
    }
    return k;
}

static json_t *same_test(json_t *all, json_t *test) {
    static const char *const what[] = {"n_prompt", "n_gen", "n_depth", "n_sequences"};
    size_t i;
    json_t *t;
    json_array_foreach(all, i, t) {
        int same = 1;
        for (int k = 0; k < 4; k++)
            same &=
                json_integer_value(json_object_get(t, what[k])) == json_integer_value(json_object_get(test, what[k]));
        if (same)
            return t;
    }
    return NULL;
}

/* A number of a test in round i, of the configuration's own run or of the base's beside it; NaN: absent. */
static double value_in(json_t *rounds, size_t i, const char *whose, json_t *test, const char *member) {
    json_t *t = same_test(json_object_get(json_array_get(rounds, i), whose), test);
    json_t *v = json_object_get(t, member);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The median over the rounds; *n of them had it. */
static double median_of(json_t *rounds, json_t *test, const char *member, int *n) {
    double v[MAX_ROUNDS];
    *n = 0;
    for (size_t i = 0; i < json_array_size(rounds) && *n < MAX_ROUNDS; i++) {
        double one = value_in(rounds, i, "own", test, member);
        if (isfinite(one))
            v[(*n)++] = one;
    }
    sort_ascending(v, *n);
    return *n > 0 ? median_of_sorted(v, *n) : NAN;
}

static void put_number(json_t *to, const char *key, double v) {
    if (isfinite(v))
        json_object_set_new(to, key, json_real(v));
}

static void put_ratio(json_t *rounds, json_t *test, json_t *to) {
    double v[MAX_ROUNDS];
    int n = 0;
    json_t *samples = json_array();
    for (size_t i = 0; i < json_array_size(rounds) && n < MAX_ROUNDS; i++) {
        double own = value_in(rounds, i, "own", test, "median_ts"),
               base = value_in(rounds, i, "base", test, "median_ts");
        if (isfinite(own) && isfinite(base) && base > 0) {
            v[n++] = own / base;
            json_array_append_new(samples, json_real(own / base));
        }
    }
    sort_ascending(v, n);
    int k = order_of_interval(n);
    if (n > 0)
        put_number(to, "ratio", median_of_sorted(v, n));
    if (k >= 0) {
        put_number(to, "ratio_low", v[k]);
        put_number(to, "ratio_high", v[n - 1 - k]);
    }
    json_object_set_new(to, "ratios", samples);
}

static json_t *summary_of(json_t *rounds, json_t *test) {
    long long prompt = json_integer_value(json_object_get(test, "n_prompt"));
    long long gen = json_integer_value(json_object_get(test, "n_gen"));
    long long depth = json_integer_value(json_object_get(test, "n_depth"));
    long long batch = json_integer_value(json_object_get(test, "n_sequences"));
    char name[96], where[32] = "", many[32] = "";
    if (depth > 0)
        snprintf(where, sizeof where, " @ d%lld", depth);
    if (batch > 1)
        snprintf(many, sizeof many, " x %lld", batch);
    snprintf(name, sizeof name, "%s%lld%s%s", prompt > 0 ? "pp" : "tg", prompt > 0 ? prompt : gen, where, many);
    int n, unused;
    double rate = median_of(rounds, test, "median_ts", &n);
    json_t *s = json_pack("{s:s, s:I, s:I, s:I, s:f, s:i}", "name", name, "n_prompt", (json_int_t)prompt, "n_gen",
                          (json_int_t)gen, "n_depth", (json_int_t)depth, "ts", isfinite(rate) ? rate : 0, "rounds", n);
    put_number(s, "ttft_ms", median_of(rounds, test, "ttft_ms", &unused));
    put_number(s, "tokens_step", median_of(rounds, test, "tokens_step", &unused));
    put_ratio(rounds, test, s);
    return s;
}

/* Bytes of the first round: the sum of members, those that are there; a path may lead into "ledger". */
static double bytes_of(json_t *rounds, json_t *test, const char *whose, const char *const *paths) {
    json_t *t = same_test(json_object_get(json_array_get(rounds, 0), whose), test);
    double sum = NAN;
    for (; *paths != NULL; paths++) {
        json_t *v = compare_member(t, *paths);
        if (json_is_number(v))
            sum = (isfinite(sum) ? sum : 0) + json_number_value(v);
    }
    return sum;
}

/* While the sessions of the test were open. */
static void put_bytes(json_t *rounds, json_t *test, json_t *to) {
    static const struct {
        const char *name, *ratio, *paths[5];
    } sums[] = {
        {"bytes_kv",
         "kv_ratio",
         {"ledger.kv.bytes", "ledger.kv_host.bytes", "ledger_gpu.kv.bytes", "ledger_gpu.kv_host.bytes"}},
        {"bytes_weights", "weights_ratio", {"bytes_weights", "gpu_bytes_weights"}},
        {"bytes_peak", "peak_ratio", {"bytes_peak", "gpu_bytes_peak"}},
        {"bytes_resident", "resident_ratio", {"bytes_resident"}},
    };
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) {
        double own = bytes_of(rounds, test, "own", sums[i].paths), base = bytes_of(rounds, test, "base", sums[i].paths);
        if (isfinite(own))
            json_object_set_new(to, sums[i].name, json_integer((json_int_t)own));
        if (isfinite(own) && base > 0)
            put_number(to, sums[i].ratio, own / base);
    }
}

json_t *compare_bench(json_t *rounds) {
    json_t *out = json_object(), *tests = json_array(), *test, *largest = NULL, *in_words = NULL;
    json_t *first = json_object_get(json_array_get(rounds, 0), "own");
    size_t i;
    json_object_set_new(out, "task", json_string("bench"));
    json_object_set_new(out, "rounds", json_integer((json_int_t)json_array_size(rounds)));
    json_array_foreach(first, i, test) {
        json_t *s = summary_of(rounds, test);
        long long depth = json_integer_value(json_object_get(s, "n_depth"));
        long long deepest = json_integer_value(json_object_get(json_object_get(out, "deep"), "n_depth"));
        json_array_append_new(tests, s);
        if (json_integer_value(json_object_get(s, "n_prompt")) > 0) {
            if (json_object_get(out, "prompt") == NULL)
                json_object_set(out, "prompt", s);
        } else if (json_object_get(out, "decode") == NULL)
            json_object_set(out, "decode", s);
        else if (depth > deepest)
            json_object_set(out, "deep", s);
        if (largest == NULL || depth >= json_integer_value(json_object_get(largest, "n_depth")))
            largest = test, in_words = s;
    }
    json_object_set_new(out, "tests", tests);
    if (largest == NULL)
        return out;
    json_object_set(out, "largest", in_words);
    put_bytes(rounds, largest, out);
    static const char *const kept[] = {"device", "device_name",        "isa",        "n_threads",
                                       "type_k", "model_filename",     "model_type", "model_n_params",
                                       "ledger", "acceptance_by_depth"};
    for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
        if (json_object_get(largest, kept[k]) != NULL)
            json_object_set(out, kept[k], json_object_get(largest, kept[k]));
    return out;
}
