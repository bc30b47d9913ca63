/* duo_device_impl.h - what the parts of the device's cache share: pages of a sequence, places, the pools' books. */
#ifndef DUO_DEVICE_IMPL_H
#define DUO_DEVICE_IMPL_H

#include "duo_device.h"

#include "sl_blocks.h"
#include "sl_lane_words.h"

enum { FULL = 0, STREAMING = 1, CLASSES = 2 };

/* A sequence's pages of one class, by page index: [0, sinks) and [low, end); low 0: no gap. */
typedef struct duo_held {
    int32_t *pages; /* [max_pages] */
    int64_t low, end;
} duo_held;

typedef struct duo_device_sequence {
    duo_held of[CLASSES];
    int64_t n_tokens;
    int64_t n_wanted; /* tokens that grow promised place for */
    int is_open;
} duo_device_sequence;

struct duo_device {
    const sl_exec *exec;
    const sl_lane *lane;
    sl_lane_words words;
    sl_view_device *views; /* [n_layers]; of layers that are not served: empty */
    const sl_view_device **served;
    int32_t n_served;
    uint32_t *serves; /* [n_layers] */
    sl_mask mask;     /* of streaming heads */
    duo_device_sequence *seqs;
    int32_t *pages;  /* [CLASSES, max_seqs, max_pages] */
    int64_t *dirty;  /* [CLASSES, max_seqs, 2] entries [begin, end) that changed */
    int32_t *tables; /* device [CLASSES, max_seqs, max_pages] */
    int64_t *heads;  /* device [KV heads of all layers, SL_HEAD_FIELDS] */
    int32_t *moves;  /* device [1 + 3 max_rows] */
    sl_blocks pool[CLASSES];
    int64_t page_bytes[CLASSES]; /* a page of all served layers */
    int64_t others_bytes;        /* a page of the layers of other stores */
    int64_t sink_pages, quota;   /* of streaming heads; quota: most pages of a sequence outside of long chunks */
    int ready;                   /* the pools are there */
    sl_view view;
};

/* ---- counting
 * -------------------------------------------------------------------------------------------------------- */

static inline int64_t duo_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t duo_pages_of(const sl_instance *self, int64_t rows) { return duo_up(rows, self->page_rows); }

/* First page that a sequence of n tokens keeps behind its sinks; 0: it keeps all. */
static inline int64_t duo_first_kept(const sl_instance *self, int c, int64_t n) {
    int64_t token = n - self->recent - self->slack, page = token / self->page_rows;
    return c == FULL || token <= self->sink || page <= self->device->sink_pages ? 0 : page;
}

static inline int64_t duo_held_count(const sl_instance *self, const duo_held *h) {
    return h->low == 0 ? h->end : self->device->sink_pages + h->end - h->low;
}

/* Pages that a sequence of n tokens holds between steps. */
static inline int64_t duo_pages_at(const sl_instance *self, int c, int64_t n) {
    const duo_held h = {.low = duo_first_kept(self, c, n), .end = duo_pages_of(self, n)};
    return self->device->page_bytes[c] == 0 ? 0 : duo_held_count(self, &h);
}

/* What all sequences can ever need of streaming pages: those that they hold, and those of a step's long chunks. */
static inline int64_t duo_streaming_pages(const sl_instance *self) {
    const duo_device *d = self->device;
    if (d->page_bytes[STREAMING] == 0)
        return 0;
    return self->limits.max_seqs * (duo_min(self->max_pages, d->quota) + 1) + duo_pages_of(self, self->limits.max_rows);
}

static inline duo_held *duo_held_by(const sl_instance *self, int32_t seq, int c) {
    return &self->device->seqs[seq].of[c];
}

static inline duo_device_sequence *duo_find(const sl_instance *self, int32_t seq) {
    return seq >= 0 && seq < self->limits.max_seqs && self->device->seqs[seq].is_open ? &self->device->seqs[seq] : NULL;
}

/* Are all rows there that a sequence of n tokens sees? */
static inline int duo_holds(const sl_instance *self, const duo_device_sequence *s, int64_t n) {
    return s->of[STREAMING].low == 0 || n <= self->sink ||
           duo_first_recent(self, n) >= s->of[STREAMING].low * self->page_rows;
}

static inline int64_t duo_shortest(const sl_instance *self, const duo_device_sequence *s) {
    return s->of[STREAMING].low == 0 ? 0 : s->of[STREAMING].low * self->page_rows + self->recent;
}

/* duo_device.c: the pools, before the first rows. Nothing happens when they are there. */
sl_status duo_make_pools(sl_instance *self, sl_error *err);

/* ---- duo_device_pages.c: pages of a sequence ----------------------------------------------------------------------
 */

/* Entries [begin, end) of a table changed. */
void duo_touch(sl_instance *self, int32_t seq, int c, int64_t begin, int64_t end);
int duo_is_held(const sl_instance *self, const duo_held *h, int64_t page);
/* Lets pages [begin, end) go. */
void duo_drop(sl_instance *self, duo_held *h, int c, int64_t begin, int64_t end);
/* Keeps what a sequence of n tokens may have, and of its window what one of `from` tokens would keep. */
void duo_trim(sl_instance *self, duo_device_sequence *s, int64_t n, int64_t from);
/* Pages that duo_cover takes of a class. */
int64_t duo_cover_cost(const sl_instance *self, const duo_held *h, int c, int64_t first, int64_t rows);
/* Gives the sequence pages for rows up to `rows`, and makes those that hold rows from `first` on its own. The pages are
 * free. */
void duo_cover(sl_instance *self, int32_t seq, int c, int64_t first, int64_t rows);
/* Pages of retrieval heads that a sequence may still ask for. */
int64_t duo_promised(const sl_instance *self, const duo_device_sequence *s);
/* Are `need` pages of retrieval heads free beside those promised to sequences other than `except`? */
sl_status duo_have_free(sl_instance *self, const duo_device_sequence *except, int64_t need, sl_error *err);

#endif
