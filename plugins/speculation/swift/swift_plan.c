/* See swift_plan.h. */
#include "swift_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

/* Layers 1 .. n_layers - 2 may be skipped, each once. */
static sl_status skip(int64_t layer, int32_t n_layers, uint32_t *mask, const char *where, sl_error *err) {
    if (layer < 1 || layer > n_layers - 2)
        return sl_fail(err, SL_E_RANGE, "swift: %s: layer %" PRId64 " cannot be skipped, only 1 to %d can", where,
                       layer, n_layers - 2);
    if (!mask[layer])
        return sl_fail(err, SL_E_INVALID, "swift: %s: layer %" PRId64 " stands twice", where, layer);
    mask[layer] = 0;
    return SL_OK;
}

static sl_status read_list(const sl_create_args *args, const char *name, uint32_t *mask, sl_error *err) {
    int64_t n;
    const double *list = sl_param_list(args->params, name, &n);
    for (int64_t i = 0; i < n; i++)
        SL_TRY(skip((int64_t)list[i], args->model->n_layers, mask, name, err));
    return SL_OK;
}

/* "1,3,5": ids with commas; an empty text skips nothing. */
static sl_status read_text(const char *text, int32_t n_layers, uint32_t *mask, const char *where, sl_error *err) {
    while (text[strspn(text, " ")] != '\0') {
        char *end;
        long long layer = strtoll(text, &end, 10);
        end += strspn(end, " ");
        if (end == text || (*end != '\0' && *end != ','))
            return sl_fail(err, SL_E_DATA, "swift: %s: expected layer ids with commas, found \"%s\"", where, text);
        SL_TRY(skip(layer, n_layers, mask, where, err));
        text = *end == ',' ? end + 1 : end;
    }
    return SL_OK;
}

/* A safetensors file whose metadata has "attention" and "ffn", and may have the model's "fingerprint". */
static sl_status read_file(const sl_create_args *args, const char *path, uint32_t *attn, uint32_t *ffn, sl_error *err) {
    const sl_artifacts *service;
    sl_artifact *file;
    SL_TRY(sl_host_require(args->host, "swift", SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, metadata),
                           (const void **)&service, err));
    SL_TRY(service->open(args->host, path, &file, err));
    const char *key[] = {"attention", "ffn"}, *model = service->metadata(args->host, file, "fingerprint");
    uint32_t *mask[] = {attn, ffn};
    char expected[17], where[256];
    snprintf(expected, sizeof expected, "%016" PRIx64, args->model->fingerprint);
    sl_status s = SL_OK;
    if (model != NULL && strcmp(model, expected) != 0)
        s = sl_fail(err, SL_E_DATA, "swift: %s: made for the model with fingerprint %s, this one has %s", path, model,
                    expected);
    for (int i = 0; s >= 0 && i < 2; i++) {
        const char *text = service->metadata(args->host, file, key[i]);
        snprintf(where, sizeof where, "%s: \"%s\"", path, key[i]);
        s = text == NULL ? sl_fail(err, SL_E_DATA, "swift: %s: no metadata \"%s\"", path, key[i])
                         : read_text(text, args->model->n_layers, mask[i], where, err);
    }
    service->close(args->host, file);
    return s;
}

sl_status swift_plan_read(const sl_create_args *args, uint32_t *attn, uint32_t *ffn, int *given, sl_error *err) {
    const sl_params *p = args->params;
    const char *path = sl_param_text(p, "plan");
    int lists = sl_param_is_set(p, "skip_attention") || sl_param_is_set(p, "skip_ffn");
    for (int32_t l = 0; l < args->model->n_layers; l++)
        attn[l] = ffn[l] = 1;
    *given = lists || path != NULL;
    if (lists && path != NULL)
        return sl_fail(err, SL_E_INVALID, "swift: give the skip set as plan or as skip_attention and skip_ffn");
    if (*given && (sl_param_bool(p, "optimise") || sl_param_find(p, "skip_ratio")->is_given))
        return sl_fail(err, SL_E_INVALID,
                       "swift: a skip set that is given is used as it is: no skip_ratio, no optimise beside it");
    if (path != NULL)
        return read_file(args, path, attn, ffn, err);
    SL_TRY(read_list(args, "skip_attention", attn, err));
    return read_list(args, "skip_ffn", ffn, err);
}
