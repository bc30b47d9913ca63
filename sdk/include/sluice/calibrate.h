/* calibrate.h - plugins that can measure what their parameters should be.
 *
 * A tool runs texts through an engine in which the plugin already stands; between begin and finish the plugin gathers
 * statistics in the calls that it gets anyway (attend, prepare, note_rows, observe ...), and computes exactly in them, so
 * that what it sees is the undisturbed model. What comes out is data: values of parameters, best first, tensors and
 * metadata of a safetensors file that the plugin itself reads as its artifact, and curves to look at.
 */
#ifndef SLUICE_CALIBRATE_H
#define SLUICE_CALIBRATE_H

#include "plugin.h"

SL_BEGIN

/* A value that the parameter `key` of the report could get. */
typedef struct sl_calibrate_choice {
    uint64_t struct_size;
    const char *value; /* as in the INI */
    double score;      /* larger is better; what it measures says sl_calibrate_report.score_name */
} sl_calibrate_choice;
SL_ABI_STRUCT(sl_calibrate_choice, score);

typedef struct sl_calibrate_tensor {
    uint64_t struct_size;
    const char *name;
    sl_tensor data; /* contiguous, in host memory */
} sl_calibrate_tensor;
SL_ABI_STRUCT(sl_calibrate_tensor, data);

/* A curve of the plot; points whose y is NaN are left out. */
typedef struct sl_calibrate_curve {
    uint64_t struct_size;
    const char *name;
    const double *x, *y; /* [n] */
    int64_t n;
} sl_calibrate_curve;
SL_ABI_STRUCT(sl_calibrate_curve, n);

/* Lives until the next begin or finish, or deactivate. */
typedef struct sl_calibrate_report {
    uint64_t struct_size;
    const char *key;        /* the parameter that was measured; NULL: the file alone is the result */
    const char *score_name; /* "recall of the best tokens"; NULL without choices */
    const sl_calibrate_choice *const *choices; /* [n_choices] best first */
    /* Of the file, besides "fingerprint", "plugin" and `key`, which the tool writes: [2 n_metadata] names and values. */
    const char *const *metadata;
    const sl_calibrate_tensor *const *tensors; /* [n_tensors] */
    const sl_calibrate_curve *const *curves;   /* [n_curves] */
    const char *x_label, *y_label;
    int64_t n_samples;      /* rows that were measured */
    int32_t n_choices, n_metadata, n_tensors, n_curves;
} sl_calibrate_report;
SL_ABI_STRUCT(sl_calibrate_report, n_curves);

/* "sl.calibrate/1" - any instance may answer it; a tool asks, never an engine at work. */
#define SL_CALIBRATE_ID "sl.calibrate/1"
typedef struct sl_calibrate {
    uint64_t struct_size;
    /* *stages: set of SL_STAGE_*, of which stages rows are to be seen (only one sequence runs at a time). A second begin
     * forgets what was gathered. SL_E_UNIMPLEMENTED: not with these parameters. [setup & active] */
    sl_status (*begin)(sl_instance *self, uint32_t *stages, sl_error *err);
    /* SL_E_STATE: nothing was seen, or there was no begin. Afterwards it works as before. [setup & active] */
    sl_status (*finish)(sl_instance *self, const sl_calibrate_report **out, sl_error *err);
} sl_calibrate;
SL_ABI_STRUCT(sl_calibrate, finish);

SL_END
#endif
