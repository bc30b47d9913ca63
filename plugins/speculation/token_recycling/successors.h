/* successors.h - the adjacency matrix: for every token of the vocabulary the k tokens that the target last ranked
 * highest behind it. A row that was never seen holds -1; a row may be shorter than k, then its rest is -1. */
#ifndef TOKEN_RECYCLING_SUCCESSORS_H
#define TOKEN_RECYCLING_SUCCESSORS_H

#include "sluice/host.h"

#include "sl_error.h"

enum { SUCCESSORS_MAX = 16 };

typedef struct successors {
    int32_t *id; /* [vocab, k] best first, distinct within a row; NULL: no memory was there */
    int64_t vocab;
    int64_t k; /* 1 .. SUCCESSORS_MAX */
} successors;

static inline int64_t successors_bytes(const successors *m) { return m->vocab * m->k * (int64_t)sizeof *m->id; }
static inline const int32_t *successors_of(const successors *m, int32_t token) { return m->id + token * m->k; }

/* Forgets everything. */
void successors_clear(successors *m);

/* ids: [k], best first; -1 or an id outside of the vocabulary ends the row. A row without a first id changes nothing.
 * Returns 1 where the token had no successors before. */
int successors_store(successors *m, int32_t token, const int32_t *ids);

/* Takes over a matrix [vocab, k] of any k from 1 to SUCCESSORS_MAX (bytes may be unaligned): longer rows are cut,
 * shorter ones stay short. SL_E_DATA names the row whose ids are neither distinct ids of the vocabulary nor, at its
 * end, -1; the matrix is then unchanged. */
sl_status successors_take(successors *m, const void *ids, int64_t k, sl_error *err);

/* The matrix as a file: safetensors with the one tensor "recycling.M" I32 [vocab, k] and the vocabulary's fingerprint
 * in its metadata. */
enum { SUCCESSORS_HEADER_MAX = 512 };
#define SUCCESSORS_TENSOR "recycling.M"
#define SUCCESSORS_FINGERPRINT "vocab_fingerprint"
#define SUCCESSORS_FINGERPRINT_FORMAT "%016llx"
/* Writes length and header into out[SUCCESSORS_HEADER_MAX]; returns their bytes, a multiple of 8. */
int64_t successors_header(const successors *m, uint64_t vocab_fingerprint, char *out);

#endif
