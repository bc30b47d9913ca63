/* cpu_attend_pieces.h - from the segments that hold one KV head's rows to what the attention kernel reads.
 *
 * Segments whose token indices follow each other (iota, or neighbouring parts of one array) are one run of slots:
 * scores, column sums and row sets count through them, and their parts are one softmax without a join. */
#ifndef SLUICE_CORE_CPU_ATTEND_PIECES_H
#define SLUICE_CORE_CPU_ATTEND_PIECES_H

#include "sluice/kv.h"

#include "kernels.h"

/* Quantised sides need a description each, which the pieces point to. */
typedef struct sli_piece {
    slk_quant k, v;
} sli_piece;

/* Bytes of `pieces` and `quants` for n pieces, one behind the other. */
static inline int64_t sli_pieces_bytes(int64_t n) { return n * (int64_t)(sizeof(slk_piece) + sizeof(sli_piece)); }

/* Can this operation read the segment at all? */
int sli_segment_is_readable(const sl_segment *s);

/* The public segments of a head as one. 0: there are none or they do not follow each other; else their number, and
 * *whole is a segment over all of their slots whose token indices are right and whose pages are not to be read, unless
 * the number is 1. at_most: refuse more. */
int64_t sli_segments_join(const sl_seq_view *view, int64_t kv_head, int64_t at_most, sl_segment *whole);

/* Describes the public segments of a head as pieces; room for that many in both arrays. d_k, d_v: head sizes. Returns
 * their number. */
int64_t sli_segments_pieces(const sl_seq_view *view, int64_t kv_head, int64_t d_k, int64_t d_v, slk_piece *pieces,
                            sli_piece *quants);

/* Plain rows of a head in one segment. */
slk_paged sli_plain_rows(const void *const *pages, sl_dtype dtype, int64_t row_stride, int64_t head_stride,
                         int64_t head);

#endif
