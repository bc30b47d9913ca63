/* st_file.h - a safetensors file as JSON and bytes: for reading golden tensors and for writing damaged checkpoints. Trusts
 * what it reads. */
#ifndef SLUICE_TEST_ST_FILE_H
#define SLUICE_TEST_ST_FILE_H

#include "sl_test.h"

#include <jansson.h>

typedef struct st_file {
    json_t *header;
    unsigned char *data; /* behind the header */
    size_t bytes;
} st_file;

void st_read(const char *path, st_file *out);
void st_free(st_file *f);
/* Writes it as dir/name, the header padded to eight bytes. */
void st_write(const st_file *f, const char *dir, const char *name);

/* First byte of a tensor's data; *n elements. Fails the test when there is no such tensor of that dtype ("F32"). */
void *st_tensor(const st_file *f, const char *name, const char *dtype, int64_t *n);

#endif
