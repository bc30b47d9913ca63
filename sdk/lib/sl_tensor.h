/* Tensors and dtypes: making views, counting elements and bytes with overflow checks. */
#ifndef SLUICE_LIB_TENSOR_H
#define SLUICE_LIB_TENSOR_H

#include "sluice/sl.h"

/* Bits of one element; 0 for an unknown dtype. */
int sl_dtype_bits(sl_dtype dtype);
/* "F32", "BF16" ...; "?" for an unknown dtype. Static. */
const char *sl_dtype_name(sl_dtype dtype);
/* The dtype of that name, as safetensors writes it; SL_DTYPE_NONE: unknown. */
sl_dtype sl_dtype_from_name(const char *name);

/* *out = a * b, or a + b. 1: done; 0: it would overflow or a factor is negative (*out is untouched). */
int sl_mul_ok(int64_t a, int64_t b, int64_t *out);
int sl_add_ok(int64_t a, int64_t b, int64_t *out);

/* A contiguous view of ndim (0 .. SL_MAX_DIMS) dimensions over data. `align` is what the address itself shows, at most
 * 4096. SL_E_INVALID: unknown dtype, too many dimensions, a negative one; SL_E_RANGE: the elements cannot be counted.
 */
sl_status sl_tensor_make(sl_tensor *out, void *data, sl_dtype dtype, uint32_t device, uint32_t ndim,
                         const int64_t *shape);

/* Number of elements. SL_E_RANGE on overflow, SL_E_INVALID on a negative dimension or too many of them. */
sl_status sl_tensor_count(const sl_tensor *t, int64_t *n);
/* Bytes of a contiguous tensor of that shape; sub-byte elements are rounded up to a whole byte. Errors as above. */
sl_status sl_tensor_bytes(const sl_tensor *t, int64_t *bytes);
/* 1: elements lie one after the other in row-major order (dimensions of size 1 may have any stride). */
int sl_tensor_is_contiguous(const sl_tensor *t);

#endif
