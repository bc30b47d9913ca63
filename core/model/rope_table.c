/* See rope_table.h. Each expression rounds to fp32 where the reference's tensors do; torch computes `scalar / tensor` as
 * reciprocal(tensor) * scalar, which is two roundings. */
#include "rope_table.h"

#include <assert.h>
#include <math.h>

static const double PI = 3.14159265358979323846;

/* theta^(2i/dim), correctly rounded but for rare ties. The vector pow of torch on a CPU is off by one last bit in about
 * one frequency of a hundred (theta 1e6, dim 128: one of 64); everything after it is bit-identical. */
static float base_power(const sli_rope *r, int32_t i) {
    float exponent = (float)(2 * i) / (float)r->dim;
    return (float)pow((double)(float)r->theta, (double)exponent);
}

static void linear(sli_rope *r) {
    for (int32_t i = 0; i < r->dim / 2; i++)
        r->inv_freq[i] /= (float)r->factor;
}

/* Waves shorter than original_max/high stay, longer than original_max/low are stretched by factor, between is a mix. */
static void llama3(sli_rope *r) {
    float factor = (float)r->factor, low = (float)r->low_freq_factor;
    float longest = (float)(r->original_max / r->low_freq_factor);
    float shortest = (float)(r->original_max / r->high_freq_factor);
    float span = (float)(r->high_freq_factor - r->low_freq_factor);
    for (int32_t i = 0; i < r->dim / 2; i++) {
        float f = r->inv_freq[i];
        float wave = (1.0f / f) * (float)(2 * PI);
        if (wave > longest) {
            r->inv_freq[i] = f / factor;
        } else if (!(wave < shortest)) {
            float smooth = ((1.0f / wave) * (float)r->original_max - low) / span;
            r->inv_freq[i] = (1.0f - smooth) * f / factor + smooth * f;
        }
    }
}

/* The dimension whose wave makes that many rotations over the trained context. */
static double yarn_dim(const sli_rope *r, double rotations) {
    return r->dim * log(r->original_max / (rotations * 2 * PI)) / (2 * log(r->theta));
}

static void yarn(sli_rope *r) {
    double low = yarn_dim(r, r->beta_fast), high = yarn_dim(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < r->dim - 1 ? high : r->dim - 1;
    if (low == high)
        high += 0.001; /* as in the reference: no division by zero */
    for (int32_t i = 0; i < r->dim / 2; i++) {
        float power = base_power(r, i);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - (ramp < 0 ? 0.0f : ramp > 1 ? 1.0f : ramp); /* share of the unscaled frequency */
        r->inv_freq[i] = 1.0f / ((float)r->factor * power) * (1.0f - keep) + 1.0f / power * keep;
    }
}

void sli_rope_frequencies(sli_rope *r) {
    static void (*const scale[])(sli_rope *) = {
        [SLI_ROPE_PLAIN] = NULL, [SLI_ROPE_LINEAR] = linear, [SLI_ROPE_LLAMA3] = llama3, [SLI_ROPE_YARN] = yarn};
    for (int32_t i = 0; i < r->dim / 2; i++)
        r->inv_freq[i] = 1.0f / base_power(r, i);
    if (scale[r->scaling] != NULL)
        scale[r->scaling](r);
}

void sli_rope_fill(const sli_model_desc *desc, int32_t table, int64_t begin, int64_t n, float *cos_out,
                   float *sin_out) {
    assert(table >= 0 && table < desc->n_rope && begin >= 0 && n >= 0);
    const sli_rope *r = &desc->rope[table];
    int32_t half = r->dim / 2;
    for (int64_t t = 0; t < n; t++) {
        float position = (float)(begin + t);
        for (int32_t i = 0; i < half; i++) {
            float angle = position * r->inv_freq[i];
            cos_out[t * half + i] = (float)cos((double)angle) * r->attention_factor;
            sin_out[t * half + i] = (float)sin((double)angle) * r->attention_factor;
        }
    }
}
