/* Checkpoints in safetensors form: one file, or shards with an index. Files are memory-mapped and tensors used in
 * place.
 *
 * Everything in a file is checked before anything is given out, by the rules of the format's reference reader: the
 * header fits the file and is JSON without duplicate names, dtypes are known, sizes agree with shape and dtype, and the
 * tensors' bytes follow each other without gap or overlap to the end of the file. A file cut short or damaged in these
 * places is refused with one error that names the file, and the tensor where there is one.
 * Format: https://github.com/huggingface/safetensors, README, "Format". */
#ifndef SLUICE_CORE_SAFETENSORS_H
#define SLUICE_CORE_SAFETENSORS_H

#include "sl_error.h"

typedef struct sli_safetensors sli_safetensors;

/* One tensor of a checkpoint; all pointers live until sli_safetensors_close. */
typedef struct sli_named_tensor {
    const char *name;
    const char *file; /* the file that holds it, as it was opened */
    sl_tensor tensor; /* contiguous, SL_TENSOR_READ_ONLY, host memory, aligned to its element at least */
    int64_t bytes;
} sli_named_tensor;

/* Opens one .safetensors file. SL_E_NOT_FOUND, SL_E_IO, SL_E_DATA, SL_E_NO_MEMORY; *out is NULL then. */
sl_status sli_safetensors_open(const char *path, sli_safetensors **out, sl_error *err);

/* Opens the checkpoint of a directory: model.safetensors, else the shards of model.safetensors.index.json. Tensors that
 * a shard holds but the index does not name in it are left out. */
sl_status sli_safetensors_open_dir(const char *dir, sli_safetensors **out, sl_error *err);

/* Reads the bytes of a file that is already in memory, borrowed until close. `name` stands for the file in messages. */
sl_status sli_safetensors_parse(const char *name, const void *bytes, size_t size, sli_safetensors **out, sl_error *err);

void sli_safetensors_close(sli_safetensors *st); /* NULL is legal */

/* Tensors in order of their names. */
size_t sli_safetensors_count(const sli_safetensors *st);
const sli_named_tensor *sli_safetensors_at(const sli_safetensors *st, size_t i);
/* A text of the (first) file's __metadata__; NULL: there is none. */
const char *sli_safetensors_metadata(const sli_safetensors *st, const char *key);
const sli_named_tensor *sli_safetensors_find(const sli_safetensors *st, const char *name); /* NULL: not there */

#endif
