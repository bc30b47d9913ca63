/* Calibration: a plugin measures while the engine computes; what it found is copied, and written as a safetensors file.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sluice/calibrate.h"

#include "api.h"
#include "base/ledger.h"
#include "engine.h"
#include "model/safetensors_write.h"
#include "sl_error.h"
#include "sl_tensor.h"

typedef struct piece {
    struct piece *next;
} piece;

typedef struct kept_tensor {
    char *name;
    sl_tensor tensor; /* data is the copy */
} kept_tensor;

/* Everything is copied into pieces, so that it outlives plugin and engine. */
struct sluice_calibration {
    piece *pieces;
    sluice_calibration_info info;
    char fingerprint[17];
    char **metadata; /* [2 n_metadata] */
    kept_tensor *tensors;
    int32_t n_metadata, n_tensors;
    int failed; /* memory ran out */
};

/* ---- copying --------------------------------------------------------------------------------------------------- */

static void *keep(sluice_calibration *c, size_t bytes) {
    piece *p = sli_alloc(SLI_TAG_MISC, sizeof *p + 16 + bytes);
    if (p == NULL) {
        c->failed = 1;
        return NULL;
    }
    p->next = c->pieces;
    c->pieces = p;
    return (char *)p + 16; /* sizeof *p <= 16 */
}

static void *copy(sluice_calibration *c, const void *from, size_t bytes) {
    void *out = keep(c, bytes);
    if (out != NULL && bytes > 0)
        memcpy(out, from, bytes);
    return out;
}

static char *copy_text(sluice_calibration *c, const char *text) {
    return text != NULL ? copy(c, text, strlen(text) + 1) : NULL;
}

static void copy_choices(sluice_calibration *c, const sl_calibrate_report *r) {
    sluice_choice *out = keep(c, sizeof *out * (size_t)r->n_choices);
    for (int32_t i = 0; out != NULL && i < r->n_choices; i++)
        out[i] = (sluice_choice){copy_text(c, r->choices[i]->value), r->choices[i]->score};
    c->info.choices = out;
    c->info.n_choices = r->n_choices;
}

static void copy_curves(sluice_calibration *c, const sl_calibrate_report *r) {
    sluice_curve *out = keep(c, sizeof *out * (size_t)r->n_curves);
    for (int32_t i = 0; out != NULL && i < r->n_curves; i++) {
        const sl_calibrate_curve *k = r->curves[i];
        size_t bytes = sizeof(double) * (size_t)k->n;
        out[i] = (sluice_curve){copy_text(c, k->name), copy(c, k->x, bytes), copy(c, k->y, bytes), k->n};
    }
    c->info.curves = out;
    c->info.n_curves = r->n_curves;
}

static sl_status copy_tensors(sluice_calibration *c, const sl_calibrate_report *r, sl_error *err) {
    c->tensors = keep(c, sizeof *c->tensors * (size_t)r->n_tensors);
    for (int32_t i = 0; c->tensors != NULL && i < r->n_tensors; i++) {
        const sl_calibrate_tensor *t = r->tensors[i];
        kept_tensor *out = &c->tensors[i];
        int64_t bytes;
        if (!sl_tensor_is_contiguous(&t->data))
            return sl_fail(err, SL_E_INVALID, "tensor %s of the calibration is not contiguous", t->name);
        if (sl_tensor_bytes(&t->data, &bytes) < 0)
            return sl_fail(err, SL_E_INVALID, "tensor %s of the calibration has no size", t->name);
        out->name = copy_text(c, t->name);
        out->tensor = t->data;
        out->tensor.data = copy(c, t->data.data, (size_t)bytes);
    }
    c->n_tensors = r->n_tensors;
    return SL_OK;
}

static sl_status copy_report(sluice_calibration *c, const sl_calibrate_report *r, sl_error *err) {
    c->info.key = copy_text(c, r->key);
    c->info.score_name = copy_text(c, r->score_name);
    c->info.x_label = copy_text(c, r->x_label);
    c->info.y_label = copy_text(c, r->y_label);
    c->info.n_samples = r->n_samples;
    copy_choices(c, r);
    copy_curves(c, r);
    c->metadata = keep(c, sizeof *c->metadata * 2 * (size_t)r->n_metadata);
    for (int32_t i = 0; c->metadata != NULL && i < 2 * r->n_metadata; i++)
        c->metadata[i] = copy_text(c, r->metadata[i]);
    c->n_metadata = r->n_metadata;
    SL_TRY(copy_tensors(c, r, err));
    return c->failed ? sl_fail(err, SL_E_NO_MEMORY, "no memory for the results of a calibration") : SL_OK;
}

/* ---- the two calls --------------------------------------------------------------------------------------------- */

static sl_status find(const sluice_engine *e, const char *plugin, sl_instance **self, const sl_calibrate **api,
                      const char **section, sl_error *err) {
    int chosen;
    const void *table = NULL;
    *self = sli_binding_find(e->target_plugins, plugin, SL_CALIBRATE_ID, SL_FIELD_END(sl_calibrate, finish), &table,
                             section, &chosen);
    *api = table;
    if (*self != NULL)
        return SL_OK;
    return chosen ? sl_fail(err, SL_E_UNIMPLEMENTED, "%s has nothing to calibrate", plugin)
                  : sl_fail(err, SL_E_NOT_FOUND, "%s is not among the plugins of this configuration", plugin);
}

int sluice_calibrate_begin(sluice_engine *e, const char *plugin, int *sees, sluice_error *error) {
    SLI_API(err, error);
    sl_instance *self;
    const sl_calibrate *api;
    const char *section;
    uint32_t stages = 0;
    sl_status s = find(e, plugin, &self, &api, &section, &err);
    if (s >= 0)
        s = api->begin(self, &stages, &err);
    if (s < 0)
        return sli_api_fail(&err, s, error);
    *sees =
        (stages & SL_STAGE_PREFILL ? SLUICE_SEES_PROMPTS : 0) | (stages & SL_STAGE_DECODE ? SLUICE_SEES_DECODING : 0);
    return SLUICE_OK;
}

int sluice_calibrate_finish(sluice_engine *e, const char *plugin, sluice_calibration **out, sluice_error *error) {
    SLI_API(err, error);
    sl_instance *self;
    const sl_calibrate *api;
    const char *section;
    const sl_calibrate_report *report = NULL;
    sluice_calibration *c = NULL;
    sl_status s = find(e, plugin, &self, &api, &section, &err);
    if (s >= 0)
        s = api->finish(self, &report, &err);
    if (s >= 0 && (c = sli_alloc(SLI_TAG_MISC, sizeof *c)) == NULL)
        s = sl_fail(&err, SL_E_NO_MEMORY, "no memory for the results of a calibration");
    if (s >= 0) {
        c->info.plugin = copy_text(c, plugin);
        c->info.section = copy_text(c, section);
        snprintf(c->fingerprint, sizeof c->fingerprint, "%016" PRIx64, e->target.info->fingerprint);
        s = copy_report(c, report, &err);
    }
    if (s < 0) {
        sluice_calibration_free(c);
        return sli_api_fail(&err, s, error);
    }
    *out = c;
    return SLUICE_OK;
}

void sluice_calibration_get(const sluice_calibration *c, sluice_calibration_info *out) { *out = c->info; }

void sluice_calibration_free(sluice_calibration *c) {
    while (c != NULL && c->pieces != NULL) {
        piece *p = c->pieces;
        c->pieces = p->next;
        sli_free(p);
    }
    sli_free(c);
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

static sl_status write_all(const sluice_calibration *c, const char *value, sli_st_writer *w, sl_error *err) {
    SL_TRY(sli_st_writer_text(w, "fingerprint", c->fingerprint, err));
    SL_TRY(sli_st_writer_text(w, "plugin", c->info.plugin, err));
    for (int32_t i = 0; i < c->n_metadata; i++)
        SL_TRY(sli_st_writer_text(w, c->metadata[2 * i], c->metadata[2 * i + 1], err));
    if (c->info.key != NULL && value != NULL)
        SL_TRY(sli_st_writer_text(w, c->info.key, value, err));
    for (int32_t i = 0; i < c->n_tensors; i++)
        SL_TRY(sli_st_writer_add(w, c->tensors[i].name, &c->tensors[i].tensor, err));
    return sli_st_writer_finish(w, NULL, err);
}

int sluice_calibration_write(const sluice_calibration *c, const char *value, const char *path, sluice_error *error) {
    SLI_API(err, error);
    sli_st_writer *w = NULL;
    sl_status s = sli_st_writer_open(path, &w, &err);
    if (s >= 0)
        s = write_all(c, value, w, &err);
    sli_st_writer_close(w);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}
