/* Names and sizes of the ABI's dtypes. */
#ifndef SLUICE_CORE_DTYPE_H
#define SLUICE_CORE_DTYPE_H

#include "sluice/sl.h"

const char *sli_dtype_name(sl_dtype dtype); /* "BF16"; "unknown" for no dtype of the ABI */
int32_t sli_dtype_bits(sl_dtype dtype);     /* of one element; 0 for no dtype of the ABI */
sl_dtype sli_dtype_find(const char *name);  /* exact name; SL_DTYPE_NONE when there is none */

#endif
