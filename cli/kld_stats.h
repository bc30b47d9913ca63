/* kld_stats.h - what two distributions of the next token have to do with one another, token by token and over all. */
#ifndef SLUICE_CLI_KLD_STATS_H
#define SLUICE_CLI_KLD_STATS_H

#include <jansson.h>
#include <stdint.h>

/* log softmax of logits [n], sums in double. */
void kld_log_softmax(const float *logits, int64_t n, double *logprob);

/* One token. */
typedef struct kld_token {
    double kld;           /* sum of p (ln p - ln q) over those with ln p > -16, nats */
    double nll, nll_base; /* of the token that came, natural */
    int same_top;         /* both find the same token most likely; of equals the first */
} kld_token;

/* base, test: log probabilities [n]. */
kld_token kld_of(const double *base, const double *test, int64_t n, int32_t token);

/* All tokens so far. */
typedef struct kld_stats {
    double *kld, *dp; /* [n] each token's; dp: how much likelier the token that came is now, -1 .. 1 */
    int64_t n, cap;
    int64_t same_top;
    double kld_sum, kld_squares, dp_sum, dp_squares, dp_fourth;
    double nll_sum, nll_base_sum, nll_squares; /* squares: of the differences */
} kld_stats;

/* 0, or -1: no memory. */
int kld_add(kld_stats *s, const kld_token *t);
void kld_stats_free(kld_stats *s);

/* Adds the figures to a report; sorts what is in s. */
void kld_report(kld_stats *s, json_t *report);

#endif
