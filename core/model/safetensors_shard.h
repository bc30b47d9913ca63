/* One safetensors file, checked and cut into tensors. Private to the safetensors reader. */
#ifndef SLUICE_CORE_SAFETENSORS_SHARD_H
#define SLUICE_CORE_SAFETENSORS_SHARD_H

#include "base/file.h"
#include "model/safetensors.h"

typedef struct shard {
    char *file;                 /* owned */
    sli_map map;                /* empty when the bytes are borrowed */
    const unsigned char *bytes; /* [size] the whole file */
    size_t size;
    sli_named_tensor *tensors; /* [n] sorted by name; owned */
    size_t n;
    char *names;   /* the names, one after the other; owned */
    struct json_t *metadata; /* the header's __metadata__: an object of texts, NULL: none; owned */
    void *aligned; /* copies of tensors whose place in the file is not aligned to their element; owned, or NULL */
} shard;

/* Maps a file and cuts it. On failure *s is to be closed all the same. */
sl_status sli_shard_open(shard *s, const char *path, sl_error *err);
/* Cuts bytes that the caller keeps. */
sl_status sli_shard_borrow(shard *s, const char *name, const void *bytes, size_t size, sl_error *err);
void sli_shard_close(shard *s); /* all-zero and half-built ones are legal */

const sli_named_tensor *sli_tensors_find(const sli_named_tensor *sorted, size_t n, const char *name);
void sli_tensors_sort(sli_named_tensor *tensors, size_t n); /* by name */

#endif
