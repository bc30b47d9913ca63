/* See kld_stats.h. */
#include "kld_stats.h"
#include "quantile.h"

#include <math.h>
#include <stdlib.h>

void kld_log_softmax(const float *logits, int64_t n, double *logprob) {
    float most = logits[0];
    for (int64_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    double all = most + log(sum);
    for (int64_t i = 0; i < n; i++)
        logprob[i] = logits[i] - all;
}

kld_token kld_of(const double *base, const double *test, int64_t n, int32_t token) {
    kld_token t = {.nll = -test[token], .nll_base = -base[token]};
    int64_t top_base = 0, top_test = 0;
    for (int64_t i = 0; i < n; i++) {
        top_base = base[i] > base[top_base] ? i : top_base;
        top_test = test[i] > test[top_test] ? i : top_test;
        if (base[i] > -16)
            t.kld += exp(base[i]) * (base[i] - test[i]);
    }
    t.same_top = top_base == top_test;
    return t;
}

int kld_add(kld_stats *s, const kld_token *t) {
    if (s->n == s->cap) {
        int64_t cap = s->cap > 0 ? 2 * s->cap : 1024;
        double *kld = realloc(s->kld, sizeof *kld * (size_t)cap);
        s->kld = kld != NULL ? kld : s->kld;
        double *dp = realloc(s->dp, sizeof *dp * (size_t)cap);
        s->dp = dp != NULL ? dp : s->dp;
        if (kld == NULL || dp == NULL)
            return -1;
        s->cap = cap;
    }
    double dp = exp(-t->nll) - exp(-t->nll_base), dn = t->nll - t->nll_base;
    s->kld[s->n] = t->kld;
    s->dp[s->n++] = dp;
    s->same_top += t->same_top;
    s->kld_sum += t->kld;
    s->kld_squares += t->kld * t->kld;
    s->dp_sum += dp;
    s->dp_squares += dp * dp;
    s->dp_fourth += dp * dp * dp * dp;
    s->nll_sum += t->nll;
    s->nll_base_sum += t->nll_base;
    s->nll_squares += dn * dn;
    return 0;
}

void kld_stats_free(kld_stats *s) {
    free(s->kld);
    free(s->dp);
    *s = (kld_stats){0};
}

/* Standard error of a mean, out of sums; tokens count as independent. */
static json_t *error_of(double sum, double squares, double n) {
    return n > 1 ? json_real(sqrt(fmax(squares / n - sum / n * (sum / n), 0) / (n - 1))) : json_null();
}

static void set(json_t *report, const char *name, double value) { json_object_set_new(report, name, json_real(value)); }

void kld_report(kld_stats *s, json_t *report) {
    static const struct {
        const char *name;
        double share;
    } of_kld[] = {{"kld_median", .5}, {"kld_p90", .9},    {"kld_p95", .95},
                  {"kld_p99", .99},   {"kld_p999", .999}, {"kld_max", 1}},
      of_dp[] = {{"dp_min", 0},   {"dp_p1", .01},  {"dp_p5", .05}, {"dp_median", .5},
                 {"dp_p95", .95}, {"dp_p99", .99}, {"dp_max", 1}};
    double n = (double)s->n, top = (double)s->same_top / n, rms = sqrt(s->dp_squares / n);
    sort_ascending(s->kld, s->n);
    sort_ascending(s->dp, s->n);
    json_object_set_new(report, "tokens", json_integer(s->n));
    set(report, "kld_mean", s->kld_sum / n);
    json_object_set_new(report, "kld_mean_pm", error_of(s->kld_sum, s->kld_squares, n));
    for (size_t i = 0; i < sizeof of_kld / sizeof *of_kld; i++)
        set(report, of_kld[i].name, quantile_of_sorted(s->kld, s->n, of_kld[i].share));
    set(report, "same_top", top);
    json_object_set_new(report, "same_top_pm", s->n > 1 ? json_real(sqrt(top * (1 - top) / (n - 1))) : json_null());
    set(report, "dp_mean", s->dp_sum / n);
    json_object_set_new(report, "dp_mean_pm", error_of(s->dp_sum, s->dp_squares, n));
    set(report, "dp_rms", rms);
    json_object_set_new(report, "dp_rms_pm", /* of a root: half the square's relative error */
                        rms > 0 && s->n > 1
                            ? json_real(sqrt(fmax(s->dp_fourth / n - rms * rms * rms * rms, 0) / (n - 1)) / (2 * rms))
                            : json_null());
    for (size_t i = 0; i < sizeof of_dp / sizeof *of_dp; i++)
        set(report, of_dp[i].name, quantile_of_sorted(s->dp, s->n, of_dp[i].share));
    set(report, "ppl", exp(s->nll_sum / n));
    set(report, "ppl_base", exp(s->nll_base_sum / n));
    set(report, "ln_ppl_ratio", (s->nll_sum - s->nll_base_sum) / n);
    json_object_set_new(report, "ln_ppl_ratio_pm", error_of(s->nll_sum - s->nll_base_sum, s->nll_squares, n));
}
