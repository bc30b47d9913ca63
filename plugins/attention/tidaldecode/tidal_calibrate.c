/* See tidal_calibrate.h. */
#include "tidal_calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

/* ---- gathering ------------------------------------------------------------------------------------------------- */

void tidal_calibrate_free(tidal_calibrator *c) {
    void *owned[] = {c->bits,    c->step,    c->sum,     c->count,       c->recall,
                     c->curve_x, c->curve_y, c->choices, c->choice_list, c->values};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    *c = (tidal_calibrator){.on = 0};
}

sl_status tidal_calibrate_begin(tidal_calibrator *c) {
    size_t n = (size_t)c->model->n_layers, values = n + 1;
    c->words = (c->max_keys + 63) / 64;
    c->bits = calloc(n * (size_t)(c->max_groups * c->words), sizeof *c->bits);
    c->step = calloc(n, sizeof *c->step);
    c->sum = calloc(n * n, sizeof *c->sum);
    c->count = calloc(n * n, sizeof *c->count);
    c->recall = calloc(n * n, sizeof *c->recall);
    c->curve_x = calloc(n, sizeof *c->curve_x);
    c->curve_y = calloc(TIDAL_CURVES * n, sizeof *c->curve_y);
    c->choices = calloc(values, sizeof *c->choices);
    c->choice_list = calloc(values, sizeof *c->choice_list);
    c->values = calloc(values, sizeof *c->values);
    c->on = c->bits && c->step && c->sum && c->count && c->recall && c->curve_x && c->curve_y && c->choices &&
            c->choice_list && c->values;
    if (!c->on)
        tidal_calibrate_free(c);
    return c->on ? SL_OK : SL_E_NO_MEMORY;
}

static uint64_t *bits_of(const tidal_calibrator *c, int32_t layer, int64_t list) {
    return c->bits + ((int64_t)layer * c->max_groups + list) * c->words;
}

void tidal_calibrate_add(tidal_calibrator *c, int32_t layer, const tidal_lists *lists, uint64_t step,
                         int64_t self_token) {
    int64_t n = c->model->n_layers;
    if (lists->everything[0])
        return;
    for (int32_t list = 0; list < lists->n_groups; list++) {
        uint64_t *bits = bits_of(c, layer, list);
        memset(bits, 0, sizeof *bits * (size_t)c->words);
        for (int64_t i = lists->begin[list]; i < lists->begin[list + 1]; i++)
            if (lists->token[i] != self_token)
                bits[lists->token[i] / 64] |= UINT64_C(1) << (lists->token[i] % 64);
    }
    c->step[layer] = step;
    c->n_samples += layer == c->start;
    for (int32_t below = (int32_t)c->start; below < layer; below++) {
        if (c->step[below] != step)
            continue;
        for (int32_t list = 0; list < lists->n_groups; list++) {
            const uint64_t *a = bits_of(c, below, list), *b = bits_of(c, layer, list);
            int64_t both = 0, all = 0;
            for (int64_t w = 0; w < c->words; w++) {
                both += __builtin_popcountll(a[w] & b[w]);
                all += __builtin_popcountll(b[w]);
            }
            c->sum[below * n + layer] += all > 0 ? (double)both / (double)all : 1;
            c->count[below * n + layer]++;
        }
    }
}

/* ---- the report ------------------------------------------------------------------------------------------------ */

static double recall(const tidal_calibrator *c, int64_t a, int64_t b) {
    int64_t i = a * c->model->n_layers + b;
    return a == b ? 1 : c->count[i] > 0 ? c->sum[i] / (double)c->count[i] : NAN;
}

/* Average over the layers above start; r = start: without re-selection. y: [n_layers] or NULL. */
static double score(const tidal_calibrator *c, int64_t r, double *y) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t l = 0; y != NULL && l < c->model->n_layers; l++)
        y[l] = l <= c->start ? (l == c->start ? 1 : NAN) : NAN;
    for (int64_t l = c->start + 1; l < c->model->n_layers; l++) {
        double x = recall(c, l < r ? c->start : r, l);
        if (y != NULL)
            y[l] = x;
        if (x != x)
            continue;
        sum += x;
        n++;
    }
    return n > 0 ? sum / (double)n : 0;
}

static int better_first(const void *a, const void *b) {
    const sl_calibrate_choice *x = *(const sl_calibrate_choice *const *)a, *y = *(const sl_calibrate_choice *const *)b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : x < y ? -1 : 1;
}

static int is_possible(const tidal_calibrator *c, const char *value, tidal_role *roles) {
    return tidal_roles_make(c->model, c->start, value, NULL, c->select_heads, roles, NULL) >= 0;
}

static int32_t list_choices(tidal_calibrator *c, tidal_role *roles) {
    int32_t n = 0;
    for (int64_t r = c->start; r < c->model->n_layers; r++) {
        char *value = c->values[n];
        if (r == c->start)
            snprintf(value, sizeof c->values[0], "none");
        else
            snprintf(value, sizeof c->values[0], "%" PRId64, r);
        if (!is_possible(c, value, roles))
            continue;
        c->choices[n] = (sl_calibrate_choice){SL_SIZE(sl_calibrate_choice), value, score(c, r, NULL)};
        c->choice_list[n] = &c->choices[n];
        n++;
    }
    qsort(c->choice_list, (size_t)n, sizeof *c->choice_list, better_first);
    return n;
}

/* The lists of sparse_layer_start alone, and the best re-selection layers. */
static int32_t draw_curves(tidal_calibrator *c, int32_t n_choices) {
    int64_t n = c->model->n_layers;
    int32_t used = 0;
    for (int64_t l = 0; l < n; l++)
        c->curve_x[l] = (double)l;
    for (int32_t i = -1; i < n_choices && used < TIDAL_CURVES; i++) {
        const char *value = i < 0 ? "none" : c->choice_list[i]->value;
        if (i >= 0 && strcmp(value, "none") == 0)
            continue;
        double *y = c->curve_y + used * n;
        score(c, i < 0 ? c->start : atoi(value), y);
        snprintf(c->names[used], sizeof c->names[0], "reselect_layers = %s", value);
        c->curves[used] = (sl_calibrate_curve){SL_SIZE(sl_calibrate_curve), c->names[used], c->curve_x, y, n};
        c->curve_list[used] = &c->curves[used];
        used++;
    }
    return used;
}

static void write_metadata(tidal_calibrator *c) {
    static const char *const heads[] = {"query", "kv_group", "layer"};
    static const char *const names[TIDAL_META] = {"sparse_layer_start", "token_budget", "select_heads", "samples"};
    snprintf(c->meta[0], sizeof c->meta[0], "%" PRId64, c->start);
    snprintf(c->meta[1], sizeof c->meta[1], "%" PRId64, c->budget);
    snprintf(c->meta[2], sizeof c->meta[2], "%s", heads[c->select_heads]);
    snprintf(c->meta[3], sizeof c->meta[3], "%" PRId64, c->n_samples);
    for (int i = 0; i < TIDAL_META; i++) {
        c->meta_list[2 * i] = names[i];
        c->meta_list[2 * i + 1] = c->meta[i];
    }
}

sl_status tidal_calibrate_finish(tidal_calibrator *c, const sl_calibrate_report **out, sl_error *err) {
    int64_t n = c->model != NULL ? c->model->n_layers : 0;
    if (!c->on || c->n_samples == 0) {
        int was_on = c->on;
        c->on = 0;
        return sl_fail(err, SL_E_STATE,
                       was_on
                           ? "tidaldecode: no token was decoded behind more than token_budget (or min_context) tokens"
                           : "tidaldecode: nothing is being measured");
    }
    tidal_role *roles = calloc((size_t)n, sizeof *roles);
    if (roles == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "tidaldecode: out of memory");
    c->on = 0;
    for (int64_t i = 0; i < n * n; i++) {
        double r = i / n < c->start || i % n < i / n ? NAN : recall(c, i / n, i % n);
        c->recall[i] = (float)r;
    }
    int32_t n_choices = list_choices(c, roles), n_curves = draw_curves(c, n_choices);
    free(roles);
    write_metadata(c);
    c->tensor = (sl_calibrate_tensor){.struct_size = SL_SIZE(sl_calibrate_tensor), .name = "recall"};
    c->tensor.data = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                                 .data = c->recall,
                                 .shape = {n, n},
                                 .stride = {n, 1},
                                 .align = 4,
                                 .dtype = SL_F32,
                                 .ndim = 2};
    c->tensor_list[0] = &c->tensor;
    c->report = (sl_calibrate_report){.struct_size = SL_SIZE(sl_calibrate_report),
                                      .key = "reselect_layers",
                                      .score_name = "recall of each layer's best tokens",
                                      .choices = c->choice_list,
                                      .metadata = c->meta_list,
                                      .tensors = c->tensor_list,
                                      .curves = c->curve_list,
                                      .x_label = "layer",
                                      .y_label = "share of the layer's best tokens in the list it would use",
                                      .n_samples = c->n_samples,
                                      .n_choices = n_choices,
                                      .n_metadata = TIDAL_META,
                                      .n_tensors = 1,
                                      .n_curves = n_curves};
    *out = &c->report;
    return SL_OK;
}
