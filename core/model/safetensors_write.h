/* Writes a safetensors file tensor by tensor: bytes go to a temporary file beside it, the header is made at the end,
 * and the finished file takes the name in one act. Memory is that of the names. */
#ifndef SLUICE_CORE_SAFETENSORS_WRITE_H
#define SLUICE_CORE_SAFETENSORS_WRITE_H

#include "sl_error.h"

typedef struct sli_st_writer sli_st_writer;

/* SL_E_IO, SL_E_NO_MEMORY; *out is NULL then. */
sl_status sli_st_writer_open(const char *path, sli_st_writer **out, sl_error *err);
/* A text of __metadata__; both are copied. A key given again is replaced. */
sl_status sli_st_writer_text(sli_st_writer *w, const char *key, const char *value, sl_error *err);
/* A contiguous tensor of host memory. SL_E_INVALID: not contiguous, a dtype that the format has no name for, or a name
 * that is there already; SL_E_IO. */
sl_status sli_st_writer_add(sli_st_writer *w, const char *name, const sl_tensor *t, sl_error *err);
/* Makes the file; *bytes is its size (NULL: nobody asks). On failure nothing of that name was touched. */
sl_status sli_st_writer_finish(sli_st_writer *w, int64_t *bytes, sl_error *err);
void sli_st_writer_close(sli_st_writer *w); /* drops what was not finished; NULL is legal */

#endif
