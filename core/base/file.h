/* Files: read whole, mapped read-only, paths joined. Errors carry the path and the reason of the system. */
#ifndef SLUICE_CORE_FILE_H
#define SLUICE_CORE_FILE_H

#include "base/ledger.h"
#include "sl_error.h"

/* Reads a whole regular file of at most max_bytes. *data is followed by a NUL byte that *size does not count; the
 * caller frees it with sli_free. SL_E_NOT_FOUND: there is no such file; SL_E_IO; SL_E_RANGE: larger; SL_E_NO_MEMORY. */
sl_status sli_file_read(const char *path, size_t max_bytes, char **data, size_t *size, sl_error *err);

/* A file mapped read-only. The file must not be shortened while it is mapped (a read past its end is a SIGBUS). */
typedef struct sli_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
} sli_map;

/* Maps a regular file. Errors as sli_file_read. Counts nothing in the ledger: only the user knows the tag. */
sl_status sli_file_map(const char *path, sli_map *out, sl_error *err);
void sli_file_unmap(sli_map *map); /* an all-zero map is legal; leaves it all-zero */

/* "dir/name", or name alone where dir is empty; freed with sli_free; NULL when there is no memory. */
char *sli_path_join(const char *dir, const char *name);

int sli_file_exists(const char *path); /* anything of that name */
int sli_is_dir(const char *path);

#endif
