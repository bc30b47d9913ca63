/* Sequences of which a policy dropped rows: each KV head of each layer has a list of the rows it holds.
 *
 * Kept rows move down inside the pages, head by head, so that a head's rows fill its column from the front; pages
 * behind the longest head are given back. Memory therefore follows the longest list: policies that keep equally many
 * rows everywhere (streaming, h2o, snapkv) waste nothing but the last page. */
#include "paged_device.h"

#include <string.h>

enum { MAX_HEADS = 256 };

typedef struct list {
    int64_t *token_index; /* [cap] of slots 0 .. n - 1, ascending; NULL: nothing was dropped, slot = token index */
    int64_t n, cap;
} list;

struct paged_heads {
    int64_t n_edited;          /* tokens when rows were dropped last: the rows kept are right for no shorter history */
    int64_t longest, shortest; /* of the lists */
    list lists[];              /* [n_lists] */
};

int64_t paged_longest(const paged_sequence *s) { return s->heads != NULL ? s->heads->longest : s->n_tokens; }
int64_t paged_shortest(const paged_sequence *s) { return s->heads != NULL ? s->heads->shortest : s->n_tokens; }

static void measure_lists(const sl_instance *self, paged_heads *heads) {
    heads->longest = 0;
    heads->shortest = INT64_MAX;
    for (int32_t i = 0; i < self->n_lists; i++) {
        int64_t n = heads->lists[i].n;
        heads->longest = n > heads->longest ? n : heads->longest;
        heads->shortest = n < heads->shortest ? n : heads->shortest;
    }
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

void paged_heads_free(sl_instance *self, paged_sequence *s) {
    if (s->heads == NULL)
        return;
    for (int32_t i = 0; i < self->n_lists; i++)
        self->mem->release(self->host, SL_DEVICE_CPU, s->heads->lists[i].token_index);
    self->mem->release(self->host, SL_DEVICE_CPU, s->heads);
    s->heads = NULL;
}

static sl_status make_heads(sl_instance *self, paged_sequence *s) {
    int64_t bytes = (int64_t)sizeof *s->heads + self->n_lists * (int64_t)sizeof(list);
    s->heads = self->mem->alloc(self->host, SL_DEVICE_CPU, bytes, 64, SL_MEM_PLUGIN);
    if (s->heads == NULL)
        return SL_E_NO_MEMORY;
    memset(s->heads, 0, (size_t)bytes);
    for (int32_t i = 0; i < self->n_lists; i++)
        s->heads->lists[i].n = s->n_tokens;
    measure_lists(self, s->heads);
    return SL_OK;
}

static int64_t *take_indices(sl_instance *self, int64_t n) {
    return self->mem->alloc(self->host, SL_DEVICE_CPU, n * (int64_t)sizeof(int64_t), 64, SL_MEM_PLUGIN);
}

/* Rows that may still come. */
static int64_t to_come(const paged_sequence *s) { return s->n_wanted > s->n_tokens ? s->n_wanted - s->n_tokens : 0; }

sl_status paged_heads_grow(sl_instance *self, paged_sequence *s) {
    for (int32_t i = 0; s->heads != NULL && i < self->n_lists; i++) {
        list *t = &s->heads->lists[i];
        int64_t cap = t->n + to_come(s);
        if (t->token_index == NULL || t->cap >= cap)
            continue;
        int64_t *wider = take_indices(self, cap);
        if (wider == NULL)
            return SL_E_NO_MEMORY;
        memcpy(wider, t->token_index, (size_t)t->n * sizeof *wider);
        self->mem->release(self->host, SL_DEVICE_CPU, t->token_index);
        t->token_index = wider;
        t->cap = cap;
    }
    return SL_OK;
}

int paged_heads_have_room(const sl_instance *self, const paged_sequence *s, int64_t n) {
    for (int32_t i = 0; s->heads != NULL && i < self->n_lists; i++)
        if (s->heads->lists[i].token_index != NULL && s->heads->lists[i].n + n > s->heads->lists[i].cap)
            return 0;
    return 1;
}

int64_t paged_heads_minimum(const paged_sequence *s) { return s->heads != NULL ? s->heads->n_edited : 0; }

/* ---- fork, cut
 * ----------------------------------------------------------------------------------------------------------- */

static int64_t rows_below(const list *t, int64_t token) {
    if (t->token_index == NULL)
        return t->n < token ? t->n : token;
    int64_t n = t->n;
    while (n > 0 && t->token_index[n - 1] >= token)
        n--;
    return n;
}

void paged_heads_cut(sl_instance *self, paged_sequence *s, int64_t n) {
    if (n == 0)
        paged_heads_free(self, s);
    for (int32_t i = 0; s->heads != NULL && i < self->n_lists; i++)
        s->heads->lists[i].n = rows_below(&s->heads->lists[i], n);
    if (s->heads != NULL)
        measure_lists(self, s->heads);
}

sl_status paged_heads_fork(sl_instance *self, paged_sequence *s, const paged_sequence *parent, int64_t upto,
                           sl_error *err) {
    if (parent->heads == NULL || upto == 0)
        return SL_OK;
    if (upto < parent->heads->n_edited)
        return sl_fail(err, SL_E_RANGE,
                       "paged: rows were dropped when the sequence had %lld tokens; its first %lld cannot be shared",
                       (long long)parent->heads->n_edited, (long long)upto);
    sl_status status = make_heads(self, s);
    for (int32_t i = 0; status >= 0 && i < self->n_lists; i++) {
        const list *from = &parent->heads->lists[i];
        list *to = &s->heads->lists[i];
        to->n = rows_below(from, upto);
        if (from->token_index == NULL)
            continue;
        to->cap = to->n;
        to->token_index = take_indices(self, to->n + 1);
        if (to->token_index == NULL)
            status = SL_E_NO_MEMORY;
        else
            memcpy(to->token_index, from->token_index, (size_t)to->n * sizeof *to->token_index);
    }
    if (status < 0) {
        paged_heads_free(self, s);
        return sl_fail(err, status, "paged: no memory for the lists of a fork");
    }
    s->heads->n_edited = parent->heads->n_edited;
    measure_lists(self, s->heads);
    return SL_OK;
}

/* ---- dropping rows
 * --------------------------------------------------------------------------------------------------------- */

/* Do the lists name rows, ascending? *first: the first slot that gets another row; *most: rows of the longest list.
 * Returns 0 when they do not; *drops tells whether anything goes. */
static int check_lists(const paged_place *p, const sl_kv_edit *e, const int64_t *n_rows, int64_t *first, int64_t *most,
                       int *drops) {
    *first = INT64_MAX, *most = 0, *drops = 0;
    for (int32_t h = 0; h < p->n_kv_heads; h++) {
        const int32_t *keep = e->keep + e->keep_begin[h];
        int64_t n = e->keep_begin[h + 1] - e->keep_begin[h];
        if (n < 0 || n > n_rows[h])
            return 0;
        for (int64_t i = 0; i < n; i++)
            if (keep[i] < (i > 0 ? keep[i - 1] + 1 : 0) || keep[i] >= n_rows[h])
                return 0;
        int64_t same = 0;
        while (same < n && keep[same] == same)
            same++;
        if (same < n && same < *first)
            *first = same;
        *most = n > *most ? n : *most;
        *drops |= n < n_rows[h];
    }
    return 1;
}

/* Moves the kept rows of a head down; sources ascend and lie at or behind their destination. */
static void move_down(sl_instance *self, paged_sequence *s, const paged_place *p, int32_t h, const int32_t *keep,
                      int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (keep[i] == i)
            continue;
        memcpy(paged_row(self, s, i, p->k_offset, p->k_row) + h * p->k_head,
               paged_row(self, s, keep[i], p->k_offset, p->k_row) + h * p->k_head, (size_t)p->k_head);
        memcpy(paged_row(self, s, i, p->v_offset, p->v_row) + h * p->v_head,
               paged_row(self, s, keep[i], p->v_offset, p->v_row) + h * p->v_head, (size_t)p->v_head);
    }
}

/* Everything that can fail: indices for heads that had none (in fresh), free pages for those that will be made private.
 */
static sl_status prepare_edit(sl_instance *self, paged_sequence *s, const paged_place *p, const sl_kv_edit *e,
                              int64_t n_private, int64_t **fresh) {
    if (self->device != NULL)
        SL_TRY(paged_device_edit_begin(self));
    if (s->heads == NULL)
        SL_TRY(make_heads(self, s));
    sl_status status = paged_have_free(self, s, n_private, NULL);
    for (int32_t h = 0; status >= 0 && h < p->n_kv_heads; h++)
        if (s->heads->lists[p->first_list + h].token_index == NULL) {
            fresh[h] = take_indices(self, e->keep_begin[h + 1] - e->keep_begin[h] + to_come(s) + 1);
            status = fresh[h] != NULL ? SL_OK : SL_E_NO_MEMORY;
        }
    for (int32_t h = 0; status < 0 && h < p->n_kv_heads; h++)
        self->mem->release(self->host, SL_DEVICE_CPU, fresh[h]);
    return status;
}

/* The list of a head after the cut. */
static void relist(list *t, int64_t *fresh, const int32_t *keep, int64_t n, int64_t more) {
    for (int64_t i = 0; i < n; i++)
        *(fresh != NULL ? &fresh[i] : &t->token_index[i]) = fresh != NULL ? keep[i] : t->token_index[keep[i]];
    if (fresh != NULL)
        *t = (list){fresh, n, n + more + 1};
    t->n = n;
}

sl_status paged_edit(sl_instance *self, const sl_kv_edit *e) {
    if (e->layer < 0 || e->layer >= self->model->n_layers || e->seq < 0 || e->seq >= self->limits.max_seqs)
        return SL_E_RANGE;
    if (e->merge_into != NULL)
        return SL_E_UNIMPLEMENTED;
    paged_sequence *s = &self->seqs[e->seq];
    const paged_place *p = &self->places[e->layer];
    int64_t n_rows[MAX_HEADS], *fresh[MAX_HEADS] = {NULL}, first, most;
    int drops;
    if (!s->is_open)
        return SL_E_STATE;
    if (p->n_kv_heads > MAX_HEADS)
        return SL_E_UNIMPLEMENTED;
    SL_TRY(paged_rows(self, e->layer, e->seq, n_rows));
    if (!check_lists(p, e, n_rows, &first, &most, &drops))
        return SL_E_INVALID;
    if (!drops)
        return SL_OK;
    SL_TRY(prepare_edit(self, s, p, e, first < most ? paged_cover_cost(self, s, first, most) : 0, fresh));
    if (first < most)
        paged_cover(self, s, first, most);
    sl_status moved = self->device != NULL ? paged_device_edit(self, e) : SL_OK;
    for (int32_t h = 0; h < p->n_kv_heads; h++) {
        const int32_t *keep = e->keep + e->keep_begin[h];
        int64_t n = e->keep_begin[h + 1] - e->keep_begin[h];
        if (self->device == NULL)
            move_down(self, s, p, h, keep, n);
        relist(&s->heads->lists[p->first_list + h], fresh[h], keep, n, to_come(s));
    }
    measure_lists(self, s->heads);
    s->heads->n_edited = s->n_tokens;
    paged_drop_pages(self, s, paged_pages_for(self, paged_longest(s)));
    paged_trim(self, 0);
    return moved; /* a device that takes no more work is lost anyway */
}

sl_status paged_rows(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows) {
    if (layer < 0 || layer >= self->model->n_layers || seq < 0 || seq >= self->limits.max_seqs ||
        !self->seqs[seq].is_open)
        return SL_E_NOT_FOUND;
    const paged_sequence *s = &self->seqs[seq];
    const paged_place *p = &self->places[layer];
    for (int32_t h = 0; h < p->n_kv_heads; h++)
        n_rows[h] = s->heads != NULL ? s->heads->lists[p->first_list + h].n : s->n_tokens;
    return SL_OK;
}

/* ---- a step
 * ------------------------------------------------------------------------------------------------------------------ */

void paged_heads_append(const sl_instance *self, const paged_sequence *s, int32_t layer, int64_t i, const float *k,
                        const float *v) {
    const paged_place *p = &self->places[layer];
    int64_t d_k = p->k_width / p->n_kv_heads, d_v = p->v_width / p->n_kv_heads;
    for (int32_t h = 0; h < p->n_kv_heads; h++) {
        int64_t slot = s->heads->lists[p->first_list + h].n + i;
        self->ops->convert(paged_row(self, s, slot, p->k_offset, p->k_row) + h * p->k_head, self->dtype, k + h * d_k,
                           SL_F32, d_k);
        self->ops->convert(paged_row(self, s, slot, p->v_offset, p->v_row) + h * p->v_head, self->dtype, v + h * d_v,
                           SL_F32, d_v);
    }
}

void paged_heads_commit(sl_instance *self, paged_sequence *s, const int32_t *path, int32_t n_path) {
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const paged_place *p = &self->places[l];
        for (int32_t h = 0; h < p->n_kv_heads; h++) {
            list *t = &s->heads->lists[p->first_list + h];
            for (int32_t i = 0; i < n_path; i++) {
                if (path[i] != i && self->device == NULL) { /* sources ascend and lie behind their destination */
                    memcpy(paged_row(self, s, t->n + i, p->k_offset, p->k_row) + h * p->k_head,
                           paged_row(self, s, t->n + path[i], p->k_offset, p->k_row) + h * p->k_head,
                           (size_t)p->k_head);
                    memcpy(paged_row(self, s, t->n + i, p->v_offset, p->v_row) + h * p->v_head,
                           paged_row(self, s, t->n + path[i], p->v_offset, p->v_row) + h * p->v_head,
                           (size_t)p->v_head);
                }
                if (t->token_index != NULL)
                    t->token_index[t->n + i] = s->n_tokens + i;
            }
            t->n += n_path;
        }
    }
    s->heads->longest += n_path;
    s->heads->shortest += n_path;
}

void paged_heads_counts(const sl_instance *self, const paged_sequence *s, int64_t n_past, int32_t *out) {
    for (int32_t i = 0; i < self->n_lists; i++)
        out[i] = (int32_t)(s->heads != NULL ? s->heads->lists[i].n : n_past);
}

void paged_heads_view(sl_instance *self, const paged_sequence *s, int32_t layer, int32_t at, int64_t n_staged,
                      int32_t seq) {
    const paged_place *p = &self->places[layer];
    int64_t longest = 0;
    for (int32_t h = 0; h < p->n_kv_heads; h++) {
        const list *t = &s->heads->lists[p->first_list + h];
        int64_t place = (int64_t)at * self->max_heads + h;
        const void **k = NULL, **v = NULL;
        if (self->device == NULL)
            k = self->k_pages + place * self->max_pages, v = self->v_pages + place * self->max_pages;
        for (int64_t j = 0; j < s->n_pages && k != NULL; j++) {
            char *base = self->pool.base[s->pages[j]];
            k[j] = base + p->k_offset + h * p->k_head;
            v[j] = base + p->v_offset + h * p->v_head;
        }
        self->segments[place] = (sl_segment){
            .struct_size = SL_SIZE(sl_segment),
            .k_pages = k,
            .v_pages = v,
            .token_index = t->token_index,
            .n_committed = t->n,
            .n_staged = n_staged,
            .page_rows = self->page_rows,
            .k_row_stride = p->k_row,
            .k_head_stride = p->k_head,
            .v_row_stride = p->v_row,
            .v_head_stride = p->v_head,
            .head_begin = h,
            .n_heads = 1,
            .k_dtype = self->dtype,
            .v_dtype = self->dtype,
            .kind = SL_SEGMENT_ROWS,
            .key_state = SL_KEYS_ROTATED,
        };
        self->segment_ptrs[place] = &self->segments[place];
        longest = t->n > longest ? t->n : longest;
    }
    self->seq_views[at] = (sl_seq_view){SL_SIZE(sl_seq_view), &self->segment_ptrs[(int64_t)at * self->max_heads],
                                        longest + n_staged, p->n_kv_heads, seq};
}
