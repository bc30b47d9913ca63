/* Parameters of gptq: the table of the INI, what is read from it, and the text that files are recognised by. */
#include "gptq.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sl_error.h"
#include "sl_params.h"

void gptq_read_settings(gptq_settings *s, const sl_params *p) {
    static const int widths[] = {2, 3, 4, 8};
    *s = (gptq_settings){.bits = widths[sl_param_int(p, "bits")],
                         .group_size = sl_param_int(p, "group_size"),
                         .sym = sl_param_bool(p, "sym"),
                         .desc_act = sl_param_bool(p, "desc_act"),
                         .static_groups = sl_param_bool(p, "static_groups"),
                         .true_sequential = sl_param_bool(p, "true_sequential"),
                         .mse = sl_param_bool(p, "mse"),
                         .v2 = sl_param_int(p, "checkpoint_format") == 1,
                         .damp_percent = sl_param_real(p, "damp_percent"),
                         .mse_norm = sl_param_real(p, "mse_norm"),
                         .mse_shrink = sl_param_real(p, "mse_shrink"),
                         .block_size = sl_param_int(p, "block_size"),
                         .mse_grid = sl_param_int(p, "mse_grid")};
}

void gptq_write_texts(const gptq_settings *s, char *format, size_t format_size, char *text, size_t text_size) {
    char group[24] = "row";
    if (s->group_size > 0)
        snprintf(group, sizeof group, "g%lld", (long long)s->group_size);
    snprintf(format, format_size, "gptq int%d%s %s%s", s->bits, s->sym ? "" : "a", group,
             s->desc_act ? " act-order" : "");
    snprintf(text, text_size,
             "bits=%d group_size=%lld sym=%s desc_act=%s static_groups=%s true_sequential=%s damp_percent=%.9g "
             "block_size=%lld mse=%s checkpoint_format=%s",
             s->bits, (long long)s->group_size, s->sym ? "yes" : "no", s->desc_act ? "yes" : "no",
             s->static_groups ? "yes" : "no", s->true_sequential ? "yes" : "no", s->damp_percent,
             (long long)s->block_size, s->mse ? "yes" : "no", s->v2 ? "gptq_v2" : "gptq");
    size_t used = strlen(text);
    if (s->mse)
        snprintf(text + used, text_size - used, " mse_norm=%.9g mse_shrink=%.9g mse_grid=%lld", s->mse_norm,
                 s->mse_shrink, (long long)s->mse_grid);
}

/* ---- the table -----------------------------------------------------------------------------------------------------
 */

static const char *const widths[] = {"2", "3", "4", "8", NULL};
static const char *const formats[] = {"gptq", "gptq_v2", NULL};
#define PARAM(id, name, doc, fallback, choices, min, max, type, flags)                                                 \
    static const sl_param_def id = {SL_SIZE(sl_param_def), name, doc, fallback, choices, min, max, type, flags}
PARAM(p_artifact, "artifact", "weights that `sluice quantize` packed, or a file of AutoGPTQ's layout", NULL, NULL, 1, 0,
      SL_PARAM_PATH, 0);
PARAM(p_bits, "bits", "bits of a weight", "4", widths, 1, 0, SL_PARAM_ENUM, 0);
PARAM(p_group, "group_size", "inputs that share a scale; -1: the whole row", "128", NULL, -1, 1 << 20, SL_PARAM_INT, 0);
PARAM(p_sym, "sym", "range of a group around zero, without a zero point", "yes", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(p_desc_act, "desc_act", "quantise inputs of large second moment first (act-order)", "no", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(p_static, "static_groups", "fit all groups before the first column, so that act-order needs no reordering", "no",
      NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(p_sequential, "true_sequential", "inputs of o see quantised q, k, v, and so on inside a layer", "yes", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(p_damp, "damp_percent", "part of the mean diagonal that is added to the Hessian's diagonal", "0.01", NULL, 0, 100,
      SL_PARAM_FLOAT, 0);
PARAM(p_block, "block_size", "columns whose feedback reaches the rest of a row at once; changes rounding only", "128",
      NULL, 1, 1 << 20, SL_PARAM_INT, SL_PARAM_EXPERT);
PARAM(p_mse, "mse", "search smaller ranges for the least error of a group", "no", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(p_norm, "mse_norm", "exponent of that error", "2.4", NULL, 0.1, 16, SL_PARAM_FLOAT, SL_PARAM_EXPERT);
PARAM(p_shrink, "mse_shrink", "part of the range that may be given up", "0.8", NULL, 0, 0.999, SL_PARAM_FLOAT,
      SL_PARAM_EXPERT);
PARAM(p_grid, "mse_grid", "steps from the whole range to nothing", "100", NULL, 2, 10000, SL_PARAM_INT,
      SL_PARAM_EXPERT);
PARAM(p_format, "checkpoint_format", "how zeros are stored: less one (gptq) or as they are (gptq_v2)", "gptq", formats,
      1, 0, SL_PARAM_ENUM, 0);
const sl_param_def *const gptq_params[] = {&p_artifact, &p_bits,       &p_group, &p_sym,    &p_desc_act,
                                           &p_static,   &p_sequential, &p_damp,  &p_block,  &p_mse,
                                           &p_norm,     &p_shrink,     &p_grid,  &p_format, NULL};
