/* sl.h - types, status codes, errors and tensors of the sluice ABI.
 *
 * Rules that hold for every struct in these headers
 *   - first field `uint64_t struct_size`, written by the side that allocates the struct, = SL_SIZE(type):
 *     the end of the last field it knows. Readers ask SL_HAS(), never compare sizes for equality.
 *   - structs grow at the end only; `reserved` fields are written as zero.
 *   - enumerations are uint32_t with named constants; no bool, no long, no bit-fields, no struct by value.
 *   - sizes and counts are int64_t, indices that may live on a device are int32_t.
 * Ownership words in the comments: borrowed (valid until the call returns), created (destroyed through the same table),
 * static (lives as long as the package), session (from activate to deactivate).
 * Life-cycle tags: [any] any thread; [setup] engine thread, between steps; [step] engine thread, in a step;
 * [worker] inside parallel_for; with a state predicate such as [setup & !active].
 */
#ifndef SLUICE_SL_H
#define SLUICE_SL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define SL_BEGIN extern "C" {
#define SL_END }
#define SL_STATIC_ASSERT(c, m) static_assert(c, m)
#define SL_ALIGNOF(T) alignof(T)
#else
#define SL_BEGIN
#define SL_END
#define SL_STATIC_ASSERT(c, m) _Static_assert(c, m)
#define SL_ALIGNOF(T) _Alignof(T)
#endif

#define SL_ABI_MAJOR 0u /* 0.x may break between minors; docs/abi-changes.md has a line for each */
#define SL_ABI_MINOR 1u

/* Largest values that reach the ABI as array sizes. Part of the package's abi_tag. */
#define SL_MAX_DIMS 4
#define SL_MAX_TREE_NODES 128

/* ---- growth ---------------------------------------------------------------------------------------------------- */

#define SL_FIELD_END(T, f) (offsetof(T, f) + sizeof(((T *)0)->f))
/* Placed after each struct: fails when a field was added behind the one that SL_SIZE believes to be the last. */
#define SL_ABI_STRUCT(T, last)                                                                                         \
    enum { T##_size_ = SL_FIELD_END(T, last) };                                                                        \
    SL_STATIC_ASSERT(sizeof(T) == (SL_FIELD_END(T, last) + SL_ALIGNOF(T) - 1) / SL_ALIGNOF(T) * SL_ALIGNOF(T),         \
                     #T ": last field moved")
#define SL_SIZE(T) ((uint64_t)T##_size_)
#define SL_HAS(p, T, f) ((p) != NULL && (p)->struct_size >= SL_FIELD_END(T, f))        /* the field exists */
#define SL_HAS_FN(p, T, f) (SL_HAS(p, T, f) && (p)->f != NULL)                         /* ... and is not NULL */

/* ---- status ---------------------------------------------------------------------------------------------------- */

/* 0 = ok, < 0 = error, > 0 = soft answer. Unknown negative values are errors, unknown positive ones mean ok. */
typedef int32_t sl_status;

#define SL_STATUS_LIST(X)                                                                                              \
    X(SL_OK, 0, "ok")                                                                                                  \
    X(SL_SKIPPED, 1, "skipped")                                                                                        \
    X(SL_PENDING, 2, "pending")                                                                                        \
    X(SL_E_INVALID, -1, "invalid argument")                                                                            \
    X(SL_E_NOT_FOUND, -2, "not found")                                                                                 \
    X(SL_E_UNIMPLEMENTED, -3, "not supported")                                                                         \
    X(SL_E_NO_MEMORY, -4, "out of memory")                                                                             \
    X(SL_E_STATE, -5, "wrong state")                                                                                   \
    X(SL_E_VERSION, -6, "version mismatch")                                                                            \
    X(SL_E_RANGE, -7, "out of range")                                                                                  \
    X(SL_E_IO, -8, "input/output error")                                                                               \
    X(SL_E_DATA, -9, "damaged or unexpected data")                                                                     \
    X(SL_E_DEVICE, -10, "device error")                                                                                \
    X(SL_E_CANCELLED, -11, "cancelled")                                                                                \
    X(SL_E_INTERNAL, -12, "internal error")

#define SL_STATUS_ENUM_(name, value, text) name = value,
enum { SL_STATUS_LIST(SL_STATUS_ENUM_) SL_STATUS_END_ = 3 };

/* Where a callee writes why it failed. Caller-owned; a NULL sl_error* is legal everywhere. */
typedef struct sl_error {
    uint64_t struct_size;
    sl_status code;
    uint32_t cap; /* bytes available in text, the terminating NUL included */
    char *text;   /* written by the callee, NUL-terminated, truncated to cap */
} sl_error;
SL_ABI_STRUCT(sl_error, text);

/* ---- dtypes ---------------------------------------------------------------------------------------------------- */

/* X(constant, value, name, bits of one element) - names are those of safetensors where it has one. */
#define SL_DTYPE_LIST(X)                                                                                               \
    X(SL_F32, 1, "F32", 32)                                                                                            \
    X(SL_F16, 2, "F16", 16)                                                                                            \
    X(SL_BF16, 3, "BF16", 16)                                                                                          \
    X(SL_F64, 4, "F64", 64)                                                                                            \
    X(SL_F8_E4M3, 5, "F8_E4M3", 8)                                                                                     \
    X(SL_F8_E5M2, 6, "F8_E5M2", 8)                                                                                     \
    X(SL_I8, 7, "I8", 8)                                                                                               \
    X(SL_U8, 8, "U8", 8)                                                                                               \
    X(SL_I16, 9, "I16", 16)                                                                                            \
    X(SL_U16, 10, "U16", 16)                                                                                           \
    X(SL_I32, 11, "I32", 32)                                                                                           \
    X(SL_U32, 12, "U32", 32)                                                                                           \
    X(SL_I64, 13, "I64", 64)                                                                                           \
    X(SL_U64, 14, "U64", 64)                                                                                           \
    X(SL_BOOL, 15, "BOOL", 8)                                                                                          \
    X(SL_I4, 16, "I4", 4)                                                                                              \
    X(SL_U4, 17, "U4", 4)                                                                                              \
    X(SL_U2, 18, "U2", 2)

typedef uint32_t sl_dtype;
#define SL_DTYPE_ENUM_(name, value, text, bits) name = value,
enum { SL_DTYPE_NONE = 0, SL_DTYPE_LIST(SL_DTYPE_ENUM_) SL_DTYPE_END_ = 19 };

/* ---- devices --------------------------------------------------------------------------------------------------- */

enum { SL_DEVICE_CPU = 0, SL_DEVICE_CUDA = 1, SL_DEVICE_HOST_PINNED = 2 };

/* Sets of devices, for declarations of what a plugin can run on. */
enum { SL_ON_CPU = 1u << 0, SL_ON_CUDA = 1u << 1 };

/* ---- tensors --------------------------------------------------------------------------------------------------- */

enum {
    SL_TENSOR_READ_ONLY = 1u << 0, /* data must not be written (mapped weights) */
    SL_TENSOR_PACKED = 1u << 1     /* sub-byte elements, lowest bits first; strides are in elements all the same */
};

/* A view of a dense, strided array. Never owns its data. Dimensions run slowest first: shape[0] is the outermost.
 * `align` states the alignment of data in bytes; nothing more may be assumed. */
typedef struct sl_tensor {
    uint64_t struct_size;
    void *data;
    int64_t shape[SL_MAX_DIMS];
    int64_t stride[SL_MAX_DIMS]; /* in elements */
    uint64_t align;
    sl_dtype dtype;
    uint32_t ndim;   /* 0..SL_MAX_DIMS */
    uint32_t device; /* SL_DEVICE_* */
    uint32_t flags;  /* SL_TENSOR_* */
} sl_tensor;
SL_ABI_STRUCT(sl_tensor, flags);

#endif
