/* tidal_calibrate.h - how much of a layer's best positions the lists of a lower layer contain.
 *
 * While it measures, every layer attends densely and makes lists of its own. R[a][b] is the share of layer b's list,
 * the current token left out, that stands in layer a's, averaged over lists and decoded tokens. With sparse_layer_start
 * = s a re-selection layer r then gives the layers above s on average (sum of R[s][j] below r, 1 in r itself, R[r][j]
 * above it), and that is its score; `none` is the score without any. */
#ifndef TIDALDECODE_CALIBRATE_H
#define TIDALDECODE_CALIBRATE_H

#include "sluice/calibrate.h"

#include "tidal_lists.h"
#include "tidal_roles.h"

enum { TIDAL_CURVES = 4, TIDAL_META = 4 };

typedef struct tidal_calibrator {
    /* Set before tidal_calibrate_begin. */
    const sl_model_info *model;
    int64_t start; /* sparse_layer_start */
    int64_t max_groups, max_keys;
    int64_t budget;
    int select_heads;
    /* Own. */
    int on;
    uint64_t *bits; /* [n_layers, max_groups, words] lists of the current token */
    uint64_t *step; /* [n_layers] of which step they are */
    int64_t words;
    double *sum; /* [n_layers, n_layers] of shares */
    int64_t *count;
    int64_t n_samples; /* tokens with lists */
    float *recall;     /* [n_layers, n_layers] */
    double *curve_x, *curve_y;
    sl_calibrate_choice *choices;
    const sl_calibrate_choice **choice_list;
    char (*values)[24];
    char meta[TIDAL_META][24], names[TIDAL_CURVES][40];
    const char *meta_list[2 * TIDAL_META];
    sl_calibrate_curve curves[TIDAL_CURVES];
    const sl_calibrate_curve *curve_list[TIDAL_CURVES];
    sl_calibrate_tensor tensor;
    const sl_calibrate_tensor *tensor_list[1];
    sl_calibrate_report report;
} tidal_calibrator;

sl_status tidal_calibrate_begin(tidal_calibrator *c); /* SL_E_NO_MEMORY: it is off */
void tidal_calibrate_free(tidal_calibrator *c);

/* The lists that a layer has just made for one row, whose own token index is `self_token`. [step] */
void tidal_calibrate_add(tidal_calibrator *c, int32_t layer, const tidal_lists *lists, uint64_t step,
                         int64_t self_token);

/* Stops. SL_E_STATE: it saw no token. */
sl_status tidal_calibrate_finish(tidal_calibrator *c, const sl_calibrate_report **out, sl_error *err);

#endif
