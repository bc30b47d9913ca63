/* Parameters of spqr: the table of the INI, what is read from it, and the text that files are recognised by. */
#include "spqr.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sl_error.h"
#include "sl_params.h"

static int bits_of(const sl_params *p, const char *name) {
    static const int bits[] = {1, 2, 3, 4, 16};
    return bits[sl_param_int(p, name)];
}

void spqr_read_settings(spqr_settings *s, const sl_params *p) {
    *s = (spqr_settings){.bits = (int)sl_param_int(p, "wbits"),
                         .scale_bits = bits_of(p, "qq_scale_bits"),
                         .zero_bits = bits_of(p, "qq_zero_bits"),
                         .group = sl_param_int(p, "groupsize"),
                         .tile = sl_param_int(p, "qq_groupsize"),
                         .act_order = sl_param_int(p, "permutation") == 0,
                         .simplified = sl_param_bool(p, "simplified_outliers"),
                         .true_sequential = sl_param_bool(p, "true_sequential"),
                         .writes_official = sl_param_int(p, "layout") == 1,
                         .sparse_layout = (int)sl_param_int(p, "sparse_layout"),
                         .replaces = sl_param_int(p, "official_outliers") == 1,
                         .threshold = sl_param_real(p, "outlier_threshold"),
                         .percdamp = sl_param_real(p, "percdamp"),
                         .block = sl_param_int(p, "block_size")};
}

void spqr_write_texts(const spqr_settings *s, char *format, size_t format_size, char *text, size_t text_size) {
    snprintf(format, format_size, "spqr int%d g%lld", s->bits, (long long)s->group);
    snprintf(text, text_size,
             "wbits=%d groupsize=%lld qq_groupsize=%lld qq_scale_bits=%d qq_zero_bits=%d outlier_threshold=%.9g "
             "permutation=%s percdamp=%.9g simplified_outliers=%s true_sequential=%s block_size=%lld",
             s->bits, (long long)s->group, (long long)s->tile, s->scale_bits, s->zero_bits, s->threshold,
             s->act_order ? "act_order" : "identity", s->percdamp, s->simplified ? "yes" : "no",
             s->true_sequential ? "yes" : "no", (long long)s->block);
}

sl_status spqr_check_settings(const spqr_settings *s, sl_error *err) {
    if (s->group % 8 != 0)
        return sl_fail(err, SL_E_RANGE,
                       "groupsize = %lld: a multiple of 8, so that the codes of a group end with a byte",
                       (long long)s->group);
    if ((s->scale_bits == 16) != (s->zero_bits == 16))
        return sl_fail(err, SL_E_INVALID,
                       "qq_scale_bits = %d, qq_zero_bits = %d: 16 switches the second level off, for "
                       "both",
                       s->scale_bits, s->zero_bits);
    if (s->writes_official &&
        (s->bits != 3 || s->group != 16 || s->tile != 16 || s->scale_bits != 3 || s->zero_bits != 3))
        return sl_fail(err, SL_E_INVALID,
                       "layout = official holds 3 bits (wbits, qq_scale_bits, qq_zero_bits) in groups "
                       "of 16 (groupsize, qq_groupsize) only");
    if (!s->writes_official && s->sparse_layout == SPQR_PTCSR)
        return sl_fail(err, SL_E_INVALID, "sparse_layout = ptcsr is a form of layout = official");
    return SL_OK;
}

/* ---- the table -----------------------------------------------------------------------------------------------------
 */

static const char *const qq_bits[] = {"1", "2", "3", "4", "16", NULL};
static const char *const permutations[] = {"act_order", "identity", NULL};
static const char *const layouts[] = {"own", "official", NULL};
static const char *const sparse_layouts[] = {"csr", "ptcsr", "auto", NULL};
static const char *const meanings[] = {"add", "replace", NULL};
#define PARAM(id, name, doc, fallback, choices, min, max, type, flags)                                                 \
    static const sl_param_def id = {SL_SIZE(sl_param_def), name, doc, fallback, choices, min, max, type, flags}
PARAM(p_artifact, "artifact", "weights that `sluice quantize` packed, or a file of the official layout", NULL, NULL, 1,
      0, SL_PARAM_PATH, 0);
PARAM(p_bits, "wbits", "bits of a weight of the base", "3", NULL, 2, 4, SL_PARAM_INT, 0);
PARAM(p_group, "groupsize", "inputs that share a scale and a zero, a multiple of 8", "16", NULL, 8, 65536, SL_PARAM_INT,
      0);
PARAM(p_tile, "qq_groupsize", "rows whose scales (zeros) are quantised together", "16", NULL, 1, SL_OBS_ROWS,
      SL_PARAM_INT, 0);
PARAM(p_scale, "qq_scale_bits", "bits of a scale; 16: f16, no second level", "3", qq_bits, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_zero, "qq_zero_bits", "bits of a zero; 16: f16, no second level", "3", qq_bits, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_threshold, "outlier_threshold",
      "error above which a weight is kept apart, in parts of the mean variance of a column; inf: none are", "0.2", NULL,
      0, HUGE_VAL, SL_PARAM_FLOAT, 0);
PARAM(p_order, "permutation", "order of inputs: large second moment first, or as they are", "act_order", permutations,
      1, 0, SL_PARAM_ENUM, 0);
PARAM(p_damp, "percdamp", "part of the mean diagonal that is added to the Hessian's diagonal", "1.0", NULL, 0, 100,
      SL_PARAM_FLOAT, 0);
PARAM(p_simple, "simplified_outliers", "no leave-one-out test before a group is fitted", "no", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(p_sequential, "true_sequential", "inputs of o see quantised q, k, v, and so on inside a layer", "no", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(p_block, "block_size", "columns whose feedback reaches the rest of a row at once; changes rounding only", "128",
      NULL, 1, 1 << 20, SL_PARAM_INT, SL_PARAM_EXPERT);
PARAM(p_layout, "layout", "tensors that `sluice quantize` writes; both are read", "own", layouts, 1, 0, SL_PARAM_ENUM,
      0);
PARAM(p_sparse, "sparse_layout", "outliers of the official layout: by rows, by tiles of 16 rows, or the smaller", "csr",
      sparse_layouts, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_meaning, "official_outliers",
      "outliers of an official file are added to the base, as its kernels do, or replace it, as its packer meant",
      "add", meanings, 1, 0, SL_PARAM_ENUM, SL_PARAM_EXPERT);
const sl_param_def *const spqr_params[] = {&p_artifact,  &p_bits,   &p_group,   &p_tile,   &p_scale,      &p_zero,
                                           &p_threshold, &p_order,  &p_damp,    &p_simple, &p_sequential, &p_block,
                                           &p_layout,    &p_sparse, &p_meaning, NULL};
