/* sampling.h - what a request says about sampling. Zero-initialised means: greedy, everything off. */
#ifndef SLUICE_CORE_SAMPLING_H
#define SLUICE_CORE_SAMPLING_H

#include <stdint.h>

#include "sluice/sl.h"

#include "random.h"

typedef struct sli_sampling {
    double temperature;       /* 0: greedy */
    int32_t top_k;            /* 0: off */
    double top_p;             /* (0, 1]; 0 and 1: off */
    double min_p;             /* [0, 1], of the largest probability; 0: off */
    double repeat_penalty;    /* > 0: positive logits are divided, others multiplied by it; 0 and 1: off */
    double presence_penalty;  /* taken off the logit of a token that occurred; 0: off */
    double frequency_penalty; /* taken off once for each occurrence; 0: off */
    int32_t penalty_last_n;   /* how many tokens the penalties look back at; 0: none, which turns them off; -1: all */
    int32_t n_bias;
    const int32_t *bias_id; /* [n_bias] borrowed */
    const float *bias;      /* [n_bias] added to the logit; -INFINITY bans the token */
    sli_seed seed;          /* seed, index of the output, draw by race or by inverse CDF */
} sli_sampling;

/* Names the first value that is out of its range. vocab: token ids are 0 .. vocab - 1. */
sl_status sli_sampling_check(const sli_sampling *s, int32_t vocab, sl_error *err);

#endif
