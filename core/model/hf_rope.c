/* See hf_rope.h. Precedence as in transformers 5: a non-empty rope_scaling counts instead of rope_parameters; theta is
 * looked for inside, then beside it. */
#include "hf_rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const sli_json_need OPT = SLI_JSON_OPTIONAL, REQ = SLI_JSON_REQUIRED;

static const double MAX_THETA = 1e30, MAX_FACTOR = 1e9, MAX_CONTEXT = 1e12; /* well inside fp32 */

static sl_status read_linear(const sli_json *at, sli_rope *r, sl_error *err) {
    return sli_json_number(at, "factor", REQ, 1, MAX_FACTOR, &r->factor, err);
}

static sl_status read_llama3(const sli_json *at, sli_rope *r, sl_error *err) {
    SL_TRY(sli_json_number(at, "factor", REQ, 1, MAX_FACTOR, &r->factor, err));
    SL_TRY(sli_json_number(at, "low_freq_factor", REQ, SLI_JSON_ABOVE_ZERO, MAX_FACTOR, &r->low_freq_factor, err));
    SL_TRY(sli_json_number(at, "high_freq_factor", REQ, SLI_JSON_ABOVE_ZERO, MAX_FACTOR, &r->high_freq_factor, err));
    if ((float)r->high_freq_factor <= (float)r->low_freq_factor)
        return sli_json_fail(at, "high_freq_factor", sli_json_get(at, "high_freq_factor"), err,
                             "more than low_freq_factor (%g)", r->low_freq_factor);
    return SL_OK;
}

/* Scale of the logits that goes with a stretched context: sqrt of it on q and on k, so it multiplies cos and sin. */
static double mscale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static sl_status read_yarn(const sli_json *at, sli_rope *r, sl_error *err) {
    double m = 0, m_all = 0, attention = 0;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = 1;
    SL_TRY(sli_json_number(at, "factor", REQ, 1, MAX_FACTOR, &r->factor, err));
    SL_TRY(sli_json_number(at, "beta_fast", OPT, SLI_JSON_ABOVE_ZERO, MAX_FACTOR, &r->beta_fast, err));
    SL_TRY(sli_json_number(at, "beta_slow", OPT, SLI_JSON_ABOVE_ZERO, MAX_FACTOR, &r->beta_slow, err));
    SL_TRY(sli_json_number(at, "mscale", OPT, 0, MAX_FACTOR, &m, err));
    SL_TRY(sli_json_number(at, "mscale_all_dim", OPT, 0, MAX_FACTOR, &m_all, err));
    SL_TRY(sli_json_bool(at, "truncate", OPT, &r->truncate, err));
    sl_status given = sli_json_number(at, "attention_factor", OPT, SLI_JSON_ABOVE_ZERO, MAX_FACTOR, &attention, err);
    SL_TRY(given);
    if (r->beta_slow > r->beta_fast)
        return sli_json_fail(at, "beta_fast", sli_json_get(at, "beta_fast"), err, "at least beta_slow (%g)",
                             r->beta_slow);
    if (r->theta <= 1)
        return sli_json_fail(at, "rope_theta", NULL, err, "more than 1 for yarn");
    if (given == SL_SKIPPED)
        attention = m > 0 && m_all > 0 ? mscale(r->factor, m) / mscale(r->factor, m_all) : mscale(r->factor, 1);
    r->attention_factor = (float)attention;
    return SL_OK;
}

typedef struct kind {
    const char *name;
    sli_rope_scaling scaling;
    sl_status (*read)(const sli_json *at, sli_rope *r, sl_error *err); /* NULL: no keys of its own */
} kind;

static const kind kinds[] = {
    {"default", SLI_ROPE_PLAIN, NULL},
    {"linear", SLI_ROPE_LINEAR, read_linear},
    {"llama3", SLI_ROPE_LLAMA3, read_llama3},
    {"yarn", SLI_ROPE_YARN, read_yarn},
};

static sl_status unknown_kind(const sli_json *at, const char *key, sl_error *err) {
    char known[96];
    size_t used = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", kinds[i].name);
    sli_json_fail(at, key, json_object_get(at->value, key), err, "one of %s", known);
    return sl_fail_within(err, SL_E_UNIMPLEMENTED, "RoPE scaling that is not supported");
}

/* The object that holds the scaling, or an all-zero *out when nothing is said. */
static sl_status find_block(const sli_json *config, sli_json *out, sl_error *err) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        *out = (sli_json){0};
        sl_status s = sli_json_object(config, keys[i], OPT, out, err);
        SL_TRY(s);
        if (s == SL_OK && json_object_size(out->value) > 0)
            return SL_OK;
    }
    *out = (sli_json){0};
    return SL_OK;
}

/* Transformers 5 may nest one block a layer type: no architecture of ours has that. */
static sl_status refuse_nested(const sli_json *at, sl_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(at->value, key, value) if (json_is_object(value)) {
        sli_json_fail(at, key, value, err, "a number or a string");
        return sl_fail_within(err, SL_E_UNIMPLEMENTED, "RoPE by layer type is not supported");
    }
    return SL_OK;
}

static sl_status refuse_partial(const sli_json *at, sl_error *err) {
    double part = 1;
    SL_TRY(sli_json_number(at, "partial_rotary_factor", OPT, 0, 1, &part, err));
    if (part == 1)
        return SL_OK;
    sli_json_fail(at, "partial_rotary_factor", sli_json_get(at, "partial_rotary_factor"), err, "1");
    return sl_fail_within(err, SL_E_UNIMPLEMENTED, "rotation of a part of each head is not supported");
}

sl_status sli_hf_rope_read(const sli_json *config, int32_t max_positions, sli_rope *out, sl_error *err) {
    out->style = SLI_ROPE_HALF;
    out->scaling = SLI_ROPE_PLAIN;
    out->theta = 10000;
    out->factor = 1;
    out->attention_factor = 1;
    out->original_max = max_positions;
    SL_TRY(sli_json_number(config, "rope_theta", OPT, SLI_JSON_ABOVE_ZERO, MAX_THETA, &out->theta, err));
    SL_TRY(refuse_partial(config, err));
    sli_json at;
    SL_TRY(find_block(config, &at, err));
    if (at.value == NULL)
        return SL_OK;
    SL_TRY(refuse_nested(&at, err));
    SL_TRY(refuse_partial(&at, err));
    SL_TRY(sli_json_number(&at, "rope_theta", OPT, SLI_JSON_ABOVE_ZERO, MAX_THETA, &out->theta, err));
    /* A value beside the block goes before one inside it (written so by the Phi-3 family). */
    SL_TRY(sli_json_number(&at, "original_max_position_embeddings", OPT, 1, MAX_CONTEXT, &out->original_max, err));
    SL_TRY(sli_json_number(config, "original_max_position_embeddings", OPT, 1, MAX_CONTEXT, &out->original_max, err));

    const char *key = sli_json_get(&at, "rope_type") != NULL ? "rope_type" : "type";
    const char *name = "default";
    /* A factor without a type must not be dropped in silence. */
    SL_TRY(sli_json_string(&at, key, sli_json_get(&at, "factor") != NULL ? REQ : OPT, &name, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            out->scaling = kinds[i].scaling;
            return kinds[i].read != NULL ? kinds[i].read(&at, out, err) : SL_OK;
        }
    return unknown_kind(&at, key, err);
}
