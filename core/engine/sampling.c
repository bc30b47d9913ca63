/* See sampling.h. */
#include "sampling.h"

#include <math.h>
#include <stddef.h>

#include "sl_error.h"

/* Doubles and the closed interval that each must lie in; NaN lies in none. */
static const struct range {
    const char *name;
    size_t offset;
    double lo, hi;
} ranges[] = {
    {"temperature", offsetof(sli_sampling, temperature), 0, 1e6},
    {"top_p", offsetof(sli_sampling, top_p), 0, 1},
    {"min_p", offsetof(sli_sampling, min_p), 0, 1},
    {"repeat_penalty", offsetof(sli_sampling, repeat_penalty), 0, 1e6},
    {"presence_penalty", offsetof(sli_sampling, presence_penalty), -1e6, 1e6},
    {"frequency_penalty", offsetof(sli_sampling, frequency_penalty), -1e6, 1e6},
};

sl_status sli_sampling_check(const sli_sampling *s, int32_t vocab, sl_error *err) {
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const struct range *r = &ranges[i];
        double value = *(const double *)((const char *)s + r->offset);
        if (!(value >= r->lo && value <= r->hi))
            return sl_fail(err, SL_E_RANGE, "%s = %g is out of range: expected %g to %g", r->name, value, r->lo, r->hi);
    }
    if (s->top_k < 0)
        return sl_fail(err, SL_E_RANGE, "top_k = %d is out of range: expected 0 (off) or more", s->top_k);
    if (s->penalty_last_n < -1)
        return sl_fail(err, SL_E_RANGE, "penalty_last_n = %d is out of range: expected -1 (all) or more",
                       s->penalty_last_n);
    if (s->n_bias < 0 || (s->n_bias > 0 && (s->bias_id == NULL || s->bias == NULL)))
        return sl_fail(err, SL_E_INVALID, "logit_bias: %d entries without ids or values", s->n_bias);
    for (int32_t i = 0; i < s->n_bias; i++) {
        if (s->bias_id[i] < 0 || s->bias_id[i] >= vocab)
            return sl_fail(err, SL_E_RANGE, "logit_bias: token %d is outside of the vocabulary [0, %d)", s->bias_id[i],
                           vocab);
        if (isnan(s->bias[i]) || s->bias[i] == INFINITY)
            return sl_fail(err, SL_E_RANGE, "logit_bias: token %d has bias %g, expected a finite number or -inf",
                           s->bias_id[i], (double)s->bias[i]);
    }
    return SL_OK;
}
