/* Packed weights as the device's kernels read them. Values and rounding are those of gemm_pack.h; only places differ.
 *
 * Integers. Tiles of 16 rows, chunks of 64 inputs within a tile; rows and inputs are padded with values of zero.
 * Of a chunk, lane 4 g + t (g < 8, t < 4) has, for rows g and g + 8:
 *     8 bits  two pieces of 512 bytes, one a half of the chunk; 16 bytes a lane: inputs 8 t .. 8 t + 7 of row g,
 *             then of row g + 8, in the order 0 2 1 3, 4 6 5 7
 *     4 bits  one piece; four words a lane: first half of row g, of row g + 8, second half likewise; input 8 t + j
 *             of a half is in nibble j / 2 (j even) or 4 + j / 2 (j odd) of a word that was then turned left by 3 bits
 * Behind the codes, scales: for a tile, a group, a g: f16 of row g, of row g + 8; asymmetric: then bf16 zero of both
 * (4 bits: 128 + zero).
 *
 * E4M3. Plain rows of k bytes, rounded up to 16, which a matrix library takes as well; then an f32 scale a row.
 *
 * Position independent; 16-byte aligned.
 */
#ifndef SLUICE_KERNELS_LINEAR_PACK_H
#define SLUICE_KERNELS_LINEAR_PACK_H

#include "sluice/ops.h"

/* Inputs that share a scale, a multiple of 32: the format's group, or the whole row. */
int64_t slk_linear_group(const sl_q_format *f);
/* Bytes of a blob; 0: there is no such format: k is a multiple of 8, group one of 32 or k and more. [any] */
int64_t slk_linear_pack_bytes(const sl_q_format *f);
/* Bytes of a row of e4m3. [any] */
int64_t slk_linear_e4m3_stride(const sl_q_format *f);
/* Where scales begin. [any] */
int64_t slk_linear_scales_at(const sl_q_format *f);
/* As q_pack, q_unpack, q_pack_codes of "sl.ops/1". E4M3: scale max |w| / 448 of a row, 1 for a row of zeros; nearest
 * even; codes of others are refused. host: packs with its threads; NULL: alone. [setup] */
sl_status slk_linear_pack(const sl_host *host, const sl_q_format *f, const sl_tensor *w, void *blob, sl_error *err);
sl_status slk_linear_unpack(const sl_q_format *f, const void *blob, float *w);
sl_status slk_linear_pack_codes(const sl_q_format *f, const uint8_t *code, const uint16_t *scale, const uint8_t *zero,
                                void *blob, sl_error *err);

/* Nearest even, saturated at 448; no NaN comes in. */
uint8_t slk_e4m3_of_f32(float x);
float slk_f32_of_e4m3(uint8_t code);

#endif
