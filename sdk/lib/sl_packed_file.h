/* Files of packed weights: is this one made for this plugin, these parameters, this model? And tensors of it, checked.
 */
#ifndef SLUICE_LIB_PACKED_FILE_H
#define SLUICE_LIB_PACKED_FILE_H

#include "sluice/quant.h"

typedef struct sl_packed_file {
    const sl_host *host;
    const sl_artifacts *api;
    sl_artifact *artifact; /* NULL: at rest */
    const sl_model *model;
    const char *path; /* NULL: tensors are those of the model's own checkpoint */
    int is_ours;      /* `sluice quantize` wrote it, and it says for what; else another tool's */
} sl_packed_file;

/* path NULL: reads from the checkpoint. Refuses, with the reason, a file of another plugin, of other parameters (a text
 * "key=value key=value ...") or for another model. path is borrowed until close. [setup] */
sl_status sl_packed_file_open(sl_packed_file *f, const sl_host *host, const char *plugin, const char *parameters,
                              const sl_model_info *model, const char *path, sl_error *err);
/* A mapped file counts as memory, so it is open only while something is packed out of it: rest ends the life of its
 * tensors, wake opens it again. Both are legal in either state. [setup] */
void sl_packed_file_rest(sl_packed_file *f);
sl_status sl_packed_file_wake(sl_packed_file *f, sl_error *err);
void sl_packed_file_close(sl_packed_file *f); /* all-zero is legal */

enum { SL_PACKED_NAME_BYTES = 256 };
/* "model.layers.0.mlp.up_proj" + ".qweight" for the linear "model.layers.0.mlp.up_proj.weight". */
void sl_packed_name(char out[SL_PACKED_NAME_BYTES], const char *linear, const char *suffix);

/* The tensor "<linear><suffix>", unchecked; SL_E_NOT_FOUND. */
sl_status sl_packed_file_find(const sl_packed_file *f, const char *linear, const char *suffix, sl_tensor *out);
/* Is it there? */
int sl_packed_file_has(const sl_packed_file *f, const char *linear, const char *suffix);
/* The tensor; SL_E_NOT_FOUND, SL_E_DATA with name, what was expected and what was found. shape [ndim], -1: any. */
sl_status sl_packed_file_get(const sl_packed_file *f, const char *linear, const char *suffix, sl_dtype dtype,
                             uint32_t ndim, const int64_t *shape, sl_tensor *out, sl_error *err);

/* A number of some thousand elements all over a matrix (f32, f16, bf16 alike): tells weights apart, also rotated ones.
 */
uint64_t sl_packed_source(const sl_tensor *weight);
/* Compares it with the file's "<linear>.source" (I64 [1]). SL_OK for files of other tools; SL_E_DATA. */
sl_status sl_packed_file_check_source(const sl_packed_file *f, const sl_linear *linear, sl_error *err);

#endif
