/* Packed weights: round-to-nearest int8 and int4 by groups along K, symmetric or asymmetric.
 *
 * Layout. A row is a sequence of blocks, one a group, nothing between them; rows follow each other. All fields little
 * endian; no pointers, so packed bytes may be copied, mapped or stored anywhere (alignment 2).
 *     symmetric   u16 scale (f16 bits) | codes
 *     asymmetric  u16 scale (f16 bits) | u8 zero | u8 0 | codes
 *     8 bits      one byte a code
 *     4 bits      chunks of 32 codes in 16 bytes: byte j has code j in its low, code j + 16 in its high nibble
 * Codes are unsigned: w = scale * (code - zero), where zero is 128 or 8 when symmetric. A block holds `group` codes;
 * the last one of a row is padded with zero codes when K is no multiple of the group. group 0 = the whole row, padded
 * to 32.
 */
#ifndef SLUICE_KERNELS_GEMM_PACK_H
#define SLUICE_KERNELS_GEMM_PACK_H

#include "sluice/sl.h"

typedef struct slk_q_format {
    uint32_t bits;  /* 8 or 4 */
    uint32_t group; /* elements of K that share a scale: a multiple of 32, or 0 for a whole row */
    uint32_t asym;  /* 0: symmetric; 1: with a zero point */
} slk_q_format;

enum { SLK_Q_CHUNK = 32 }; /* codes are padded to this many */

static inline int64_t slk_q_group(const slk_q_format *f, int64_t K) {
    return f->group ? (int64_t)f->group : (K + SLK_Q_CHUNK - 1) / SLK_Q_CHUNK * SLK_Q_CHUNK;
}
static inline int64_t slk_q_header_bytes(const slk_q_format *f) { return f->asym ? 4 : 2; }
static inline int64_t slk_q_block_bytes(const slk_q_format *f, int64_t K) {
    return slk_q_header_bytes(f) + slk_q_group(f, K) * f->bits / 8;
}
static inline int64_t slk_q_row_bytes(const slk_q_format *f, int64_t K) {
    const int64_t g = slk_q_group(f, K);
    return g ? (K + g - 1) / g * slk_q_block_bytes(f, K) : 0;
}
static inline float slk_q_zero(const slk_q_format *f, const uint8_t *block) {
    return f->asym ? (float)block[2] : f->bits == 8 ? 128.0f : 8.0f;
}

/* Packs w f32 [N,K] (row stride ldw elements) into dst, N * slk_q_row_bytes(f, K) bytes.
 * Symmetric: s = f16(max|w| / (2^(b-1)-1)), q = clamp(rint(w/s), -2^(b-1), 2^(b-1)-1). Asymmetric: 0 forced into
 * [min,max], s = f16((max-min)/(2^b-1)), z = clamp(rint(-min/s), 0, 2^b-1), q = clamp(rint(w/s) + z, 0, 2^b-1). Halves
 * round to even. An all-zero group has s = 1, q = 0 (z = 0); a scale too small for f16 becomes its smallest value,
 * 2^-24. Returns SL_OK; SL_E_INVALID for a format other than the above; SL_E_DATA for NaN or Inf; SL_E_RANGE when a
 * scale exceeds f16's 65504. [any] */
sl_status slk_q_pack(const slk_q_format *f, const float *w, int64_t ldw, int64_t N, int64_t K, void *dst,
                     sl_error *err);

/* Packs codes that were chosen elsewhere: code [N,K], scale [N,ceil(K/g)] as f16 bits, zero [N,ceil(K/g)] (NULL when
 * symmetric). SL_E_INVALID for a format other than the above; SL_E_DATA for a code or zero of too many bits or a scale
 * that is not finite. [any] */
sl_status slk_q_pack_codes(const slk_q_format *f, const uint8_t *code, const uint16_t *scale, const uint8_t *zero,
                           int64_t N, int64_t K, void *dst, sl_error *err);

/* The weights that packed rows stand for: w f32 [N,K], exact. [any] */
void slk_q_unpack(const slk_q_format *f, const void *packed, int64_t N, int64_t K, float *w, int64_t ldw);

#endif
