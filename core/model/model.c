/* See model.h: config.json says what must be there, arch.h under which name, the checkpoint has the bytes. */
#include "model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/dtype.h"
#include "base/file.h"
#include "base/ledger.h"
#include "model/hf_config.h"
#include "model/model_impl.h"

enum { SHAPE_BYTES = 128 };

size_t sli_weight_slot(const sli_model *m, int32_t layer, sli_weight_role role) {
    assert(layer >= -1 && layer < m->desc.n_layers && role < SLI_ROLE_COUNT);
    (void)m;
    return (size_t)(layer + 1) * SLI_ROLE_COUNT + role;
}

void sli_weight_name(char buf[SLI_WEIGHT_NAME_BYTES], const char *pattern, int32_t layer) {
    const char *star = strchr(pattern, '*');
    if (star == NULL)
        snprintf(buf, SLI_WEIGHT_NAME_BYTES, "%s", pattern);
    else
        snprintf(buf, SLI_WEIGHT_NAME_BYTES, "%.*s%" PRId32 "%s", (int)(star - pattern), pattern, layer, star + 1);
}

uint32_t sli_weight_shape(const sli_model *m, int32_t layer, const sli_weight_row *row, int64_t *shape) {
    uint32_t ndim = row->shape[1] == SLI_DIM_NONE ? 1 : 2;
    for (uint32_t i = 0; i < ndim; i++)
        shape[i] = sli_dim_size(&m->desc, layer, row->shape[i]);
    return ndim;
}

int sli_weight_wanted(const sli_model *m, int32_t layer, const sli_weight_row *row) {
    int of_layer = strchr(row->name, '*') != NULL;
    return of_layer == (layer >= 0) && (row->when == 0 || (row->when & m->desc.has) != 0);
}

static void write_shape(char buf[SHAPE_BYTES], const int64_t *shape, uint32_t ndim) {
    size_t used = (size_t)snprintf(buf, SHAPE_BYTES, "[");
    for (uint32_t i = 0; i < ndim; i++)
        used += (size_t)snprintf(buf + used, SHAPE_BYTES - used, "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    snprintf(buf + used, SHAPE_BYTES - used, "]");
}

static int is_linear(sli_weight_role role) {
    return role == SLI_ROLE_Q || role == SLI_ROLE_K || role == SLI_ROLE_V || role == SLI_ROLE_O ||
           role == SLI_ROLE_GATE || role == SLI_ROLE_UP || role == SLI_ROLE_DOWN || role == SLI_ROLE_HEAD;
}

/* The first tensor "P.x" for a weight "P.weight" that is not there, bias aside. */
static const sli_named_tensor *other_form(const sli_model *m, const char *name) {
    size_t n = strlen(name) - strlen("weight");
    for (size_t i = 0; i < sli_safetensors_count(m->files); i++) {
        const sli_named_tensor *t = sli_safetensors_at(m->files, i);
        if (strncmp(t->name, name, n) == 0 && strcmp(t->name + n, "bias") != 0)
            return t;
    }
    return NULL;
}

/* A weight of that shape without data. */
static sl_status take_absent(sli_model *m, const sli_named_tensor *other, int32_t layer, sli_weight_role role,
                             const char *name, const int64_t *shape, sl_error *err) {
    if (m->made == NULL)
        m->made = sli_calloc(SLI_TAG_MISC, (size_t)(1 + m->desc.n_layers) * SLI_ROLE_COUNT, sizeof *m->made);
    char *copy = m->made != NULL ? sli_strdup(SLI_TAG_MISC, name) : NULL;
    if (copy == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for the list of weights", other->file);
    sli_named_tensor *t = &m->made[sli_weight_slot(m, layer, role)];
    *t = (sli_named_tensor){.name = copy, .file = other->file};
    t->tensor = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                            .shape = {shape[0], shape[1]},
                            .stride = {shape[1], 1},
                            .ndim = 2,
                            .flags = SL_TENSOR_READ_ONLY};
    m->weights[sli_weight_slot(m, layer, role)] = t;
    m->params += shape[0] * shape[1];
    m->n_absent++;
    return SL_OK;
}

/* Finds, checks and counts one weight. */
static sl_status take(sli_model *m, const char *dir, int32_t layer, const sli_weight_row *row, sl_error *err) {
    char name[SLI_WEIGHT_NAME_BYTES], want_text[SHAPE_BYTES], got_text[SHAPE_BYTES];
    sli_weight_name(name, row->name, layer);
    int64_t want[2];
    uint32_t ndim = sli_weight_shape(m, layer, row, want);
    write_shape(want_text, want, ndim);

    const sli_named_tensor *t = sli_safetensors_find(m->files, name), *other;
    if (t == NULL && is_linear(row->role) && (other = other_form(m, name)) != NULL)
        return take_absent(m, other, layer, row->role, name, want, err);
    if (t == NULL)
        return sl_fail(err, SL_E_DATA, "%s: no tensor \"%s\" of shape %s in the checkpoint%s", dir, name, want_text,
                       row->role == SLI_ROLE_HEAD ? ", and \"tie_word_embeddings\" is not true" : "");
    if (t->tensor.ndim != ndim || memcmp(t->tensor.shape, want, ndim * sizeof *want) != 0) {
        write_shape(got_text, t->tensor.shape, t->tensor.ndim);
        return sl_fail(err, SL_E_DATA, "%s: tensor \"%s\": expected shape %s (%s%s%s), found %s", t->file, name,
                       want_text, sli_dim_text(row->shape[0]), ndim > 1 ? ", " : "",
                       ndim > 1 ? sli_dim_text(row->shape[1]) : "", got_text);
    }
    if (t->tensor.dtype != SL_F32 && t->tensor.dtype != SL_F16 && t->tensor.dtype != SL_BF16)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: tensor \"%s\": expected dtype F32, F16 or BF16, found %s", t->file,
                       name, sli_dtype_name(t->tensor.dtype));
    m->weights[sli_weight_slot(m, layer, row->role)] = t;
    m->params += t->bytes / (sli_dtype_bits(t->tensor.dtype) / 8);
    m->bytes += t->bytes;
    m->unused--;
    return SL_OK;
}

static sl_status take_all(sli_model *m, const char *dir, sl_error *err) {
    const sli_arch *a = m->desc.arch;
    m->weights = sli_calloc(SLI_TAG_MISC, (size_t)(1 + m->desc.n_layers) * SLI_ROLE_COUNT, sizeof *m->weights);
    if (m->weights == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for the list of weights", dir);
    m->unused = (int64_t)sli_safetensors_count(m->files);
    for (int32_t layer = -1; layer < m->desc.n_layers; layer++)
        for (int32_t i = 0; i < a->n_weights; i++) {
            if (sli_weight_wanted(m, layer, &a->weights[i]))
                SL_TRY(take(m, dir, layer, &a->weights[i], err));
        }
    if (m->desc.quant_method[0] != '\0' && m->n_absent == 0)
        return sl_fail(
            err, SL_E_UNIMPLEMENTED,
            "%s: \"quantization_config\": weights already quantized (quant_method \"%s\") are not supported in "
            "this form: their linears have a tensor \"weight\"",
            dir, m->desc.quant_method);
    if (m->desc.tied)
        m->weights[sli_weight_slot(m, -1, SLI_ROLE_HEAD)] = m->weights[sli_weight_slot(m, -1, SLI_ROLE_EMBED)];
    return SL_OK;
}

static sl_status open_parts(sli_model *m, const char *dir, sl_error *err) {
    if (!sli_file_exists(dir))
        return sl_fail(err, SL_E_NOT_FOUND, "%s: no such directory, expected a checkpoint with config.json", dir);
    if (!sli_is_dir(dir))
        return sl_fail(err, SL_E_IO, "%s: not a directory, expected a checkpoint with config.json", dir);
    SL_TRY(sli_hf_config_load(dir, &m->desc, err));
    SL_TRY(sli_safetensors_open_dir(dir, &m->files, err));
    return take_all(m, dir, err);
}

sl_status sli_model_open(const char *dir, sli_model **out, sl_error *err) {
    *out = NULL;
    sli_model *m = sli_alloc(SLI_TAG_MISC, sizeof *m);
    if (m == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for a model", dir);
    sl_status s = open_parts(m, dir, err);
    if (s < 0) {
        sli_model_close(m);
        return s;
    }
    *out = m;
    return SL_OK;
}

void sli_model_close(sli_model *m) {
    if (m == NULL)
        return;
    for (int64_t i = 0; m->made != NULL && i < (1 + (int64_t)m->desc.n_layers) * SLI_ROLE_COUNT; i++) {
        sli_free((char *)(uintptr_t)m->made[i].name);
        const char *data = m->made[i].tensor.data;
        if (m->reserved == NULL || data < m->reserved || data >= m->reserved + m->reserved_bytes)
            sli_free(m->made[i].tensor.data);
    }
    if (m->reserved != NULL)
        munmap(m->reserved, (size_t)m->reserved_bytes);
    sli_free(m->made);
    sli_free(m->weights);
    sli_safetensors_close(m->files);
    sli_model_desc_free(&m->desc);
    sli_free(m);
}

const sli_model_desc *sli_model_describe(const sli_model *m) { return &m->desc; }

const sl_tensor *sli_model_weight(const sli_model *m, int32_t layer, sli_weight_role role) {
    const sli_named_tensor *t = m->weights[sli_weight_slot(m, layer, role)];
    return t != NULL ? &t->tensor : NULL;
}

const char *sli_model_weight_name(const sli_model *m, int32_t layer, sli_weight_role role) {
    const sli_named_tensor *t = m->weights[sli_weight_slot(m, layer, role)];
    return t != NULL ? t->name : NULL;
}

const sl_tensor *sli_model_find(const sli_model *m, const char *name) {
    const sli_named_tensor *t = m->files != NULL ? sli_safetensors_find(m->files, name) : NULL;
    return t != NULL ? &t->tensor : NULL;
}

int64_t sli_model_params(const sli_model *m) { return m->params; }
int64_t sli_model_bytes(const sli_model *m) { return m->bytes; }
int64_t sli_model_unused_tensors(const sli_model *m) { return m->unused; }
int sli_model_is_mapped(const sli_model *m) { return m->files != NULL; }
