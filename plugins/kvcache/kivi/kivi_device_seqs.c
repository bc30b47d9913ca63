/* See kivi_device.h: the books of sequences and pages. Nothing here touches the lane, but for pages that are copied
 * before they are written. */
#include "kivi_device.h"

#include <stdlib.h>
#include <string.h>

static kivi_device_seq *seq_of(const sl_instance *self, int32_t seq) {
    return seq >= 0 && seq < self->limits.max_seqs && self->device->seqs[seq].is_open ? &self->device->seqs[seq] : NULL;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- promises ------------------------------------------------------------------------------------------------------
 */

typedef struct pages {
    int64_t plain, coded;
} pages;

/* Pages that a sequence may still ask for. Plain ones of its own come back when their rows are coded; those that others
 * share may not. */
static pages still_needed(const sl_instance *self, const kivi_device_seq *s) {
    const kivi_device *d = self->device;
    if (!s->is_open)
        return (pages){0, 0};
    int64_t rows = larger(s->n_wanted, s->n_tokens), own = 0, G = self->G;
    int64_t more = larger(kivi_parts(rows, G) - s->plain.end, 0), last = s->n_tokens / G;
    for (int64_t i = s->plain.begin; i < s->plain.end; i++)
        own += d->plain.refs[s->plain.id[i]] == 1;
    if (rows > s->n_tokens && last < s->plain.end && d->plain.refs[s->plain.id[last]] > 1)
        more++; /* the page in which its rows go on */
    if (d->coded_page > 0 && (s->decoding || self->chunked))
        more = smaller(more, larger(d->tail_pages - own, 0));
    int64_t coded = d->coded_page > 0 ? (rows - s->n_coded[KEYS]) / self->R * self->R + s->n_coded[KEYS] : 0;
    return (pages){more, larger(coded / G - s->coded.end, 0)};
}

static sl_status check_free(const sl_instance *self, sl_error *err) {
    const kivi_device *d = self->device;
    pages need = {0, 0};
    for (int64_t i = 0; i < self->limits.max_seqs; i++) {
        pages more = still_needed(self, &d->seqs[i]);
        need.plain += more.plain;
        need.coded += more.coded;
    }
    int is_plain = need.plain > d->plain.n_free;
    if (!is_plain && need.coded <= d->coded.n_free)
        return SL_OK;
    int64_t missing = is_plain ? need.plain - d->plain.n_free : need.coded - d->coded.n_free;
    return sl_fail(err, SL_E_NO_MEMORY,
                   "kivi: the cache does not fit: %lld more pages of %lld bytes of %s rows are needed, there are %d",
                   (long long)missing, (long long)(is_plain ? d->plain_page : d->coded_page),
                   is_plain ? "plain" : "coded", is_plain ? d->plain.n_ids : d->coded.n_ids);
}

/* ---- pages ---------------------------------------------------------------------------------------------------------
 */

static void drop_behind(sl_blocks *books, kivi_pages *p, int64_t end) {
    while (p->end > end && p->end > p->begin)
        sl_blocks_drop(books, p->id[--p->end]);
    if (p->end > end) /* nothing is held */
        p->begin = p->end = end;
}

static void drop_front(sl_blocks *books, kivi_pages *p, int64_t begin) {
    while (p->begin < begin && p->begin < p->end)
        sl_blocks_drop(books, p->id[p->begin++]);
}

static void copy_page(const sl_instance *self, int32_t to, int32_t from) {
    const kivi_device *d = self->device;
    for (int32_t l = 0; l < self->n_layers; l++) {
        int64_t bytes = d->places[l].plain_bytes;
        if (bytes > 0)
            d->exec->copy(d->lane, d->plain_pools[l] + to * bytes, d->plain_pools[l] + from * bytes, bytes);
    }
}

void kivi_device_uncover(sl_instance *self, int32_t seq) {
    kivi_device_seq *s = &self->device->seqs[seq];
    drop_behind(&self->device->plain, &s->plain, kivi_parts(s->n_tokens, self->G));
}

sl_status kivi_device_cover(sl_instance *self, int32_t seq, int64_t first, int64_t rows, sl_error *err) {
    kivi_device *d = self->device;
    kivi_device_seq *s = &d->seqs[seq];
    int64_t end = kivi_parts(rows, self->G), need = larger(end - s->plain.end, 0);
    for (int64_t i = first / self->G; i < s->plain.end && i < end; i++)
        need += d->plain.refs[s->plain.id[i]] > 1;
    if (end > d->max_pages)
        return sl_fail(err, SL_E_STATE, "kivi: sequence %d has no place for rows up to %lld", seq, (long long)rows);
    if (need > d->plain.n_free)
        return sl_fail(err, SL_E_NO_MEMORY, "kivi: %lld more pages of plain rows are needed, %d are free",
                       (long long)need, d->plain.n_free);
    for (int64_t i = first / self->G; i < s->plain.end && i < end; i++) {
        int32_t old = s->plain.id[i];
        if (d->plain.refs[old] == 1)
            continue;
        s->plain.id[i] = sl_blocks_take(&d->plain);
        copy_page(self, s->plain.id[i], old);
        sl_blocks_drop(&d->plain, old);
        sl_page_tables_touch(&d->plain_tables, seq, i, i + 1);
    }
    int64_t before = s->plain.end;
    while (s->plain.end < end)
        s->plain.id[s->plain.end++] = sl_blocks_take(&d->plain);
    sl_page_tables_touch(&d->plain_tables, seq, before, s->plain.end);
    return SL_OK;
}

/* ---- coding --------------------------------------------------------------------------------------------------------
 */

/* 0: there is no memory for it. */
static int note(kivi_device *d, int32_t seq, int64_t begin, int64_t end, int side) {
    if (d->n_noted == d->cap_noted) {
        kivi_job *more = realloc(d->noted, sizeof *more * (size_t)(2 * d->cap_noted));
        if (more == NULL)
            return 0;
        d->noted = more;
        d->cap_noted *= 2;
    }
    d->noted[d->n_noted++] = (kivi_job){seq, (int32_t)begin, (int32_t)end, side};
    return 1;
}

static void changed(kivi_device *d, int32_t seq) {
    int clean = d->coded_begin >= d->coded_end;
    d->coded_begin = clean || seq < d->coded_begin ? seq : d->coded_begin;
    d->coded_end = clean || seq >= d->coded_end ? seq + 1 : d->coded_end;
}

void kivi_device_flush(sl_instance *self, int32_t seq) {
    kivi_device *d = self->device;
    kivi_device_seq *s = &d->seqs[seq];
    int64_t G = self->G, keys = s->n_coded[KEYS] + (s->n_tokens - s->n_coded[KEYS]) / self->R * self->R,
            before = s->coded.end;
    if (d->coded_page == 0)
        return;
    while (s->n_coded[KEYS] < keys && d->coded.n_free > 0 &&
           note(d, seq, s->n_coded[KEYS], s->n_coded[KEYS] + G, KEYS)) {
        s->coded.id[s->coded.end++] = sl_blocks_take(&d->coded);
        s->n_coded[KEYS] += G;
    }
    sl_page_tables_touch(&d->coded_tables, seq, before, s->coded.end);
    int64_t values = smaller(s->n_tokens - self->R, s->n_coded[KEYS]);
    while (s->n_coded[VALUES] < values) {
        int64_t begin = s->n_coded[VALUES], end = smaller((begin / G + 1) * G, values);
        if (!note(d, seq, begin, end, VALUES))
            break;
        s->n_coded[VALUES] = end;
    }
    drop_front(&d->plain, &s->plain, s->n_coded[VALUES] / G);
    changed(d, seq);
}

/* ---- sequences -----------------------------------------------------------------------------------------------------
 */

int kivi_device_may_cut(const sl_instance *self, const kivi_device_seq *s, int64_t n) {
    if (n == 0 || n == s->n_tokens)
        return 1;
    if (self->exact_cuts && (s->n_coded[KEYS] > n / self->R * self->R || s->n_coded[VALUES] > larger(n - self->R, 0)))
        return 0;
    return n >= s->n_coded[KEYS] || n % self->G == 0;
}

/* The shortest length from which on every one will do. */
static int64_t shortest_cut(const sl_instance *self, const kivi_device_seq *s) {
    int64_t n = s->n_tokens;
    while (n > 0 && kivi_device_may_cut(self, s, n - 1))
        n--;
    return n;
}

void kivi_device_cut(sl_instance *self, int32_t seq, int64_t n) {
    kivi_device *d = self->device;
    kivi_device_seq *s = &d->seqs[seq];
    s->n_tokens = n;
    s->n_coded[KEYS] = smaller(s->n_coded[KEYS], n);
    s->n_coded[VALUES] = smaller(s->n_coded[VALUES], n);
    drop_behind(&d->coded, &s->coded, s->n_coded[KEYS] / self->G);
    drop_behind(&d->plain, &s->plain, kivi_parts(n, self->G));
    changed(d, seq);
}

sl_status kivi_device_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    kivi_device *d = self->device;
    if (seq < 0 || seq >= self->limits.max_seqs || parent >= self->limits.max_seqs)
        return sl_fail(err, SL_E_RANGE, "kivi: sequence %d (parent %d) is outside of [0, %lld)", seq, parent,
                       (long long)self->limits.max_seqs);
    kivi_device_seq *s = &d->seqs[seq];
    const kivi_device_seq *p = parent >= 0 ? &d->seqs[parent] : NULL;
    if (s->is_open || (p != NULL && (!p->is_open || upto < 0 || upto > p->n_tokens)))
        return sl_fail(err, SL_E_STATE, "kivi: sequence %d cannot be opened from %d at %lld tokens", seq, parent,
                       (long long)upto);
    SL_TRY(kivi_device_pools(self, err));
    if (p != NULL && !kivi_device_may_cut(self, p, upto))
        return sl_fail(err, SL_E_RANGE, "kivi: the first %lld of %lld tokens cannot be shared: %s", (long long)upto,
                       (long long)p->n_tokens,
                       self->exact_cuts ? "more is coded than would be (truncate = exact)"
                                        : "they end inside of a group that is coded");
    kivi_pages *lists[] = {&s->plain, &s->coded};
    s->n_wanted = s->decoding = 0;
    s->n_tokens = s->n_coded[KEYS] = s->n_coded[VALUES] = 0;
    s->plain.begin = s->plain.end = s->coded.end = 0;
    s->is_open = 1;
    changed(d, seq);
    if (p == NULL || upto == 0)
        return SL_OK;
    const kivi_pages *from[] = {&p->plain, &p->coded};
    sl_blocks *books[] = {&d->plain, &d->coded};
    sl_page_tables *tables[] = {&d->plain_tables, &d->coded_tables};
    s->n_tokens = p->n_tokens;
    s->n_coded[KEYS] = p->n_coded[KEYS];
    s->n_coded[VALUES] = p->n_coded[VALUES];
    for (int i = 0; i < 2; i++) {
        lists[i]->begin = from[i]->begin;
        lists[i]->end = from[i]->end;
        memcpy(lists[i]->id, from[i]->id, (size_t)from[i]->end * sizeof *from[i]->id);
        for (int64_t k = from[i]->begin; k < from[i]->end; k++)
            sl_blocks_share(books[i], from[i]->id[k]);
        sl_page_tables_touch(tables[i], seq, from[i]->begin, from[i]->end);
    }
    kivi_device_cut(self, seq, upto);
    return SL_OK;
}

void kivi_device_close(sl_instance *self, int32_t seq) {
    kivi_device_seq *s = seq_of(self, seq);
    if (s == NULL)
        return;
    kivi_device_drain(self, NULL); /* what was noted names the sequence */
    kivi_device_cut(self, seq, 0);
    s->n_wanted = s->is_open = s->decoding = 0;
}

sl_status kivi_device_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    kivi_device_seq *s = &self->device->seqs[seq];
    const kivi_device_seq before = *s;
    if (kivi_parts(n_tokens, self->G) > self->device->max_pages)
        return sl_fail(err, SL_E_RANGE, "kivi: %lld rows are more than the %lld of the largest context",
                       (long long)n_tokens, (long long)(self->limits.max_context + self->limits.max_tree));
    s->n_wanted = larger(n_tokens, s->n_wanted);
    s->decoding = 0; /* a prompt may come */
    sl_status status = check_free(self, err);
    if (status < 0) {
        s->n_wanted = before.n_wanted;
        s->decoding = before.decoding;
    }
    return status;
}

sl_status kivi_device_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum) {
    kivi_device_seq *s = &self->device->seqs[seq];
    if (minimum != NULL)
        *minimum = shortest_cut(self, s);
    if (n < 0 || n > s->n_tokens || !kivi_device_may_cut(self, s, n))
        return SL_E_RANGE;
    SL_TRY(kivi_device_drain(self, NULL));
    kivi_device_cut(self, seq, n);
    return SL_OK;
}

sl_status kivi_device_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes) {
    const kivi_device_seq *s = seq_of(self, seq);
    if (s == NULL)
        return SL_E_NOT_FOUND;
    *n_tokens = s->n_tokens;
    *bytes = (s->plain.end - s->plain.begin) * self->device->plain_page + s->coded.end * self->device->coded_page;
    return SL_OK;
}

sl_status kivi_device_quote(sl_instance *self, sl_kv_quote *io) {
    const kivi_device *d = self->device;
    int64_t n = io->n_tokens, G = self->G, is_coding = d->coded_page > 0;
    int64_t coded = is_coding ? n / self->R * self->R / G : 0, dense = kivi_parts(n, G);
    int64_t plain = dense - (is_coding ? larger(n - self->R, 0) / G : 0);
    int64_t burst = self->chunked && is_coding ? smaller(dense, plain + kivi_parts(self->limits.max_rows, G)) : dense;
    io->bytes = io->n_seqs * (plain * d->plain_page + coded * d->coded_page);
    io->bytes_peak = io->n_seqs * (burst * d->plain_page + coded * d->coded_page);
    io->bytes_host = 0;
    io->bytes_next = (is_coding ? d->coded_page : d->plain_page) / G;
    return SL_OK;
}
