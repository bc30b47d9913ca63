/* What the vector vocabularies share before the vectors: element kinds and compiler words. */
#ifndef SLUICE_KERNELS_VEC_KINDS_H
#define SLUICE_KERNELS_VEC_KINDS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))
#if defined(__has_feature)
#define V_HAS_FEATURE(x) __has_feature(x)
#else
#define V_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || V_HAS_FEATURE(address_sanitizer)
#define V_UNROLL /* checks on every access of unrolled tiles take minutes to compile */
#elif defined(__clang__)
#define V_UNROLL _Pragma("clang loop unroll(full)")
#else
#define V_UNROLL _Pragma("GCC unroll 16")
#endif

/* Element kinds; always compile-time constants after inlining. */
enum { KIND_F32, KIND_F16, KIND_BF16, KIND_Q8, KIND_Q4 };

V_INLINE int kind_bytes(int kind) { return kind == KIND_F32 ? 4 : 2; }

#endif
