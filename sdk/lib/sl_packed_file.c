/* See sl_packed_file.h. */
#include "sl_packed_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_tensor.h"

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

/* Names the first parameter that differs. Both texts list the same keys in the same order, unless versions differ. */
static sl_status same_parameters(const char *path, const char *file, const char *ours, sl_error *err) {
    while (*file != '\0' || *ours != '\0') {
        size_t a = strcspn(file, " "), b = strcspn(ours, " ");
        if (a != b || memcmp(file, ours, a) != 0)
            return sl_fail(err, SL_E_INVALID, "%s was made with %.*s, the configuration says %.*s", path, (int)a, file,
                           (int)b, ours);
        file += a + (file[a] == ' ');
        ours += b + (ours[b] == ' ');
    }
    return SL_OK;
}

static sl_status check(sl_packed_file *f, const char *plugin, const char *parameters, const sl_model_info *model,
                       sl_error *err) {
    const char *made_by = f->api->metadata(f->host, f->artifact, "sluice.plugin");
    const char *made_with = f->api->metadata(f->host, f->artifact, "sluice.parameters");
    const char *made_for = f->api->metadata(f->host, f->artifact, "sluice.model");
    char fingerprint[17];
    f->is_ours = made_by != NULL;
    if (!f->is_ours)
        return SL_OK;
    if (strcmp(made_by, plugin) != 0)
        return sl_fail(err, SL_E_INVALID, "%s was made for the plugin %s, not for %s", f->path, made_by, plugin);
    if (made_with == NULL || made_for == NULL)
        return sl_fail(err, SL_E_DATA, "%s: metadata sluice.parameters or sluice.model is missing", f->path);
    SL_TRY(same_parameters(f->path, made_with, parameters, err));
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, model->fingerprint);
    if (strcmp(fingerprint, made_for) != 0)
        return sl_fail(err, SL_E_INVALID, "%s was made for another model (fingerprint %s, %s has %s)", f->path,
                       made_for, model->name, fingerprint);
    return SL_OK;
}

sl_status sl_packed_file_open(sl_packed_file *f, const sl_host *host, const char *plugin, const char *parameters,
                              const sl_model_info *model, const char *path, sl_error *err) {
    *f = (sl_packed_file){.host = host, .path = path};
    SL_TRY(sl_host_require(host, plugin, SL_MODEL_ID, SL_SIZE(sl_model), (const void **)&f->model, err));
    if (path == NULL)
        return SL_OK;
    SL_TRY(sl_host_require(host, plugin, SL_ARTIFACT_ID, SL_SIZE(sl_artifacts), (const void **)&f->api, err));
    SL_TRY(f->api->open(host, path, &f->artifact, err));
    sl_status s = check(f, plugin, parameters, model, err);
    if (s < 0)
        sl_packed_file_close(f);
    return s;
}

void sl_packed_file_rest(sl_packed_file *f) {
    if (f->artifact != NULL)
        f->api->close(f->host, f->artifact);
    f->artifact = NULL;
}

sl_status sl_packed_file_wake(sl_packed_file *f, sl_error *err) {
    return f->path == NULL || f->artifact != NULL ? SL_OK : f->api->open(f->host, f->path, &f->artifact, err);
}

void sl_packed_file_close(sl_packed_file *f) {
    sl_packed_file_rest(f);
    *f = (sl_packed_file){0};
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

void sl_packed_name(char out[SL_PACKED_NAME_BYTES], const char *linear, const char *suffix) {
    size_t n = strlen(linear), tail = strlen(".weight");
    if (n > tail && strcmp(linear + n - tail, ".weight") == 0)
        n -= tail;
    snprintf(out, SL_PACKED_NAME_BYTES, "%.*s%s", (int)n, linear, suffix);
}

static sl_status find(const sl_packed_file *f, const char *name, sl_tensor *out) {
    if (f->path == NULL)
        return f->model->tensor(f->host, name, out);
    return f->artifact != NULL ? f->api->tensor(f->host, f->artifact, name, out) : SL_E_NOT_FOUND;
}

static const char *place(const sl_packed_file *f) { return f->path != NULL ? f->path : "the checkpoint"; }

sl_status sl_packed_file_find(const sl_packed_file *f, const char *linear, const char *suffix, sl_tensor *out) {
    char name[SL_PACKED_NAME_BYTES];
    sl_packed_name(name, linear, suffix);
    return find(f, name, out);
}

int sl_packed_file_has(const sl_packed_file *f, const char *linear, const char *suffix) {
    sl_tensor t;
    return sl_packed_file_find(f, linear, suffix, &t) >= 0;
}

static void write_shape(char *text, size_t size, uint32_t ndim, const int64_t *shape) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (uint32_t i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, shape[i] < 0 ? "%sany" : "%s%" PRId64, i > 0 ? ", " : "",
                                 shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

sl_status sl_packed_file_get(const sl_packed_file *f, const char *linear, const char *suffix, sl_dtype dtype,
                             uint32_t ndim, const int64_t *shape, sl_tensor *out, sl_error *err) {
    char name[SL_PACKED_NAME_BYTES], want[128], got[128];
    sl_packed_name(name, linear, suffix);
    if (find(f, name, out) < 0)
        return sl_fail(err, SL_E_NOT_FOUND, "%s has no tensor \"%s\"", place(f), name);
    int good = out->dtype == dtype && out->ndim == ndim && sl_tensor_is_contiguous(out);
    for (uint32_t i = 0; good && i < ndim; i++)
        good = shape[i] < 0 || shape[i] == out->shape[i];
    if (good)
        return SL_OK;
    write_shape(want, sizeof want, ndim, shape);
    write_shape(got, sizeof got, out->ndim, out->shape);
    return sl_fail(err, SL_E_DATA, "%s: tensor \"%s\": expected %s %s, found %s %s", place(f), name,
                   sl_dtype_name(dtype), want, sl_dtype_name(out->dtype), got);
}

/* ---- source --------------------------------------------------------------------------------------------------------
 */

uint64_t sl_packed_source(const sl_tensor *w) {
    int64_t count = 1, bytes = sl_dtype_bits(w->dtype) / 8;
    for (uint32_t i = 0; i < w->ndim; i++)
        count *= w->shape[i];
    uint64_t h = 0xcbf29ce484222325u ^ w->dtype;
    int64_t step = count / 4096 > 0 ? count / 4096 | 1 : 1;
    for (int64_t i = 0; w->data != NULL && i < count; i += step)
        for (int64_t b = 0; b < bytes; b++)
            h = (h ^ ((const unsigned char *)w->data)[i * bytes + b]) * 0x100000001b3u;
    return h;
}

sl_status sl_packed_file_check_source(const sl_packed_file *f, const sl_linear *linear, sl_error *err) {
    sl_tensor t;
    if (!f->is_ours || linear->weight.data == NULL)
        return SL_OK;
    SL_TRY(sl_packed_file_get(f, linear->name, ".source", SL_I64, 1, (int64_t[]){1}, &t, err));
    uint64_t ours = sl_packed_source(&linear->weight), theirs;
    memcpy(&theirs, t.data, sizeof theirs);
    if (ours != theirs)
        return sl_fail(err, SL_E_DATA,
                       "%s was made from other weights of %s than the model has (fine-tuned since, or "
                       "rewritten by other plugins)",
                       f->path, linear->name);
    return SL_OK;
}
