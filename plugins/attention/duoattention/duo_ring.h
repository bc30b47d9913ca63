/* duo_ring.h - where a sequence keeps the rows of its streaming heads: sinks at fixed places, recent rows in a ring.
 *
 * Token t stands in row t while t < sink, else in row sink + (t - sink) mod (rows - sink). A ring of full length has
 * sink + recent + spare rows. So `spare` tokens can be staged behind the recent ones, and dropped again, without
 * touching what is still seen, and a sequence can be cut by as many tokens as `spare` leaves over. A sequence that will
 * stay short has a shorter ring, which never turns. Knows rows as bytes; nothing of heads. */
#ifndef DUO_RING_H
#define DUO_RING_H

#include "sluice/host.h"

/* What all rings of an instance have in common. */
typedef struct duo_geometry {
    int64_t sink, recent, spare;
    int64_t row_bytes; /* of one token, all layers; 0: no head streams, rings are empty */
} duo_geometry;

typedef struct duo_ring {
    char *base; /* NULL: no rows */
    int64_t rows;
    int64_t oldest; /* first token >= sink whose row was not overwritten */
} duo_ring;

static inline int64_t duo_ring_full(const duo_geometry *g) { return g->sink + g->recent + g->spare; }
/* Rows of a ring for a sequence of at most n tokens. */
static inline int64_t duo_ring_rows(const duo_geometry *g, int64_t n) {
    return n < duo_ring_full(g) ? n : duo_ring_full(g);
}
static inline int64_t duo_ring_place(const duo_geometry *g, const duo_ring *r, int64_t token) {
    return token < g->sink ? token : g->sink + (token - g->sink) % (r->rows - g->sink);
}

/* Are all rows there that a sequence of n tokens sees? */
int duo_ring_holds(const duo_geometry *g, const duo_ring *r, int64_t n);
/* Shortest length above `sink` tokens of which that is true. */
int64_t duo_ring_minimum(const duo_geometry *g, const duo_ring *r);
/* Can tokens [n, n + n_new) be staged in the ring beside what they see? */
int duo_ring_can_stage(const duo_geometry *g, const duo_ring *r, int64_t n, int64_t n_new);
/* Rows of tokens up to end - 1 are about to be written. */
void duo_ring_written(const duo_geometry *g, duo_ring *r, int64_t end);
/* The sequence was cut to n tokens. */
void duo_ring_cut(const duo_geometry *g, duo_ring *r, int64_t n);

/* An empty ring for n tokens. SL_E_NO_MEMORY. [setup & active] */
sl_status duo_ring_make(const duo_geometry *g, const sl_host *host, const sl_mem *mem, int64_t n, duo_ring *out);
/* Copies what `from` still has of the first n tokens into an empty ring. What stands together in a ring is a span: the
 * keys, or the values, of one layer; span i is [rows] of spans[i + 1] - spans[i] bytes at base + rows * spans[i]. */
void duo_ring_copy(const duo_geometry *g, const int64_t *spans, int32_t n_spans, const duo_ring *from, duo_ring *to,
                   int64_t n);
void duo_ring_free(const sl_host *host, const sl_mem *mem, duo_ring *r);

#endif
