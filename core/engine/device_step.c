/* See device_step.h. */
#include "device_step.h"

#include <string.h>

#include "sl_error.h"

enum { ALIGN = 64, ANCESTOR_WORDS = SL_MAX_TREE_NODES / 32 };

/* The next array of the block: n elements of four bytes. */
static int64_t place(int64_t *end, int64_t n) {
    int64_t at = *end;
    *end = (at + 4 * n + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static void lay_out(sli_device_step *s, const sli_step_bounds *b) {
    int64_t end = ALIGN; /* n_rows, n_seqs */
    s->at.seq = place(&end, b->seqs);
    s->at.row_begin = place(&end, b->seqs + 1);
    s->at.n_past = place(&end, b->seqs);
    s->at.is_tree = place(&end, b->seqs);
    s->at.logit_row = place(&end, b->logits);
    s->at.row_seq = place(&end, b->rows);
    s->at.token = place(&end, b->rows);
    s->at.token_index = place(&end, b->rows);
    s->at.position = place(&end, b->rows);
    s->at.draw = place(&end, b->draws ? (int64_t)(sizeof(sli_cuda_draw) / 4) * b->logits : 0);
    s->at.ancestors = place(&end, (int64_t)b->rows * ANCESTOR_WORDS); /* last: only trees need it to be sent */
    s->at.end = end;
}

static void point(sli_device_step *s, const sli_step_bounds *b) {
    char *m = s->block;
    s->logit_row = (const void *)(m + (b->logits > 0 ? s->at.logit_row : s->rows_asked));
    s->draw = (const void *)(m + s->at.draw);
    s->view = (sl_step_device){.struct_size = SL_SIZE(sl_step_device),
                               .n_rows = (const void *)m,
                               .n_seqs = (const void *)(m + 4),
                               .seq = (const void *)(m + s->at.seq),
                               .row_begin = (const void *)(m + s->at.row_begin),
                               .n_past = (const void *)(m + s->at.n_past),
                               .is_tree = (const void *)(m + s->at.is_tree),
                               .row_seq = (const void *)(m + s->at.row_seq),
                               .token = (const void *)(m + s->at.token),
                               .token_index = (const void *)(m + s->at.token_index),
                               .position = (const void *)(m + s->at.position),
                               .ancestors = (const void *)(m + s->at.ancestors),
                               .max_rows = b->rows,
                               .max_seqs = b->seqs,
                               .max_seq_rows = b->seq_rows,
                               .max_context = b->context,
                               .stages = b->stages};
}

sl_status sli_device_step_create(sli_device_step *s, const sli_device *device, const sl_limits *limits,
                                 int64_t max_logits, sl_error *err) {
    const sli_cuda_api *api = device->api;
    *s = (sli_device_step){.device = device,
                           .max_rows = (int32_t)limits->max_rows,
                           .max_seqs = (int32_t)limits->max_seqs,
                           .max_logits = (int32_t)max_logits};
    const sli_step_bounds largest = {
        .rows = s->max_rows, .seqs = s->max_seqs, .logits = s->max_logits, .draws = 1, .context = limits->max_context};
    lay_out(s, &largest);
    s->rows_asked = s->at.end;
    s->block = api->alloc(device->cuda, SL_DEVICE_CUDA, s->at.end + 4 * max_logits, 256, SL_MEM_SCRATCH);
    int ok = s->block != NULL;
    for (int i = 0; ok && i < SLI_STEP_MIRRORS; i++) {
        s->mirror[i] = api->alloc(device->cuda, SL_DEVICE_HOST_PINNED, s->at.end, 256, SL_MEM_SCRATCH);
        ok = s->mirror[i] != NULL && api->exec->event_create(NULL, device->lane, &s->turn[i].begin) >= 0 &&
             api->exec->event_create(NULL, device->lane, &s->turn[i].end) >= 0;
    }
    if (!ok)
        return sl_fail(err, SL_E_NO_MEMORY, "no device memory for steps of %d rows (engine.max_rows)", s->max_rows);
    point(s, &largest);
    return SL_OK;
}

void sli_device_step_destroy(sli_device_step *s) {
    if (s->device == NULL)
        return;
    const sli_cuda_api *api = s->device->api;
    for (int i = 0; i < SLI_STEP_MIRRORS; i++) {
        if (s->turn[i].begin != NULL)
            api->exec->event_destroy(NULL, s->turn[i].begin);
        if (s->turn[i].end != NULL)
            api->exec->event_destroy(NULL, s->turn[i].end);
        api->release(s->device->cuda, SL_DEVICE_HOST_PINNED, s->mirror[i]);
    }
    api->release(s->device->cuda, SL_DEVICE_CUDA, s->block);
    *s = (sli_device_step){0};
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

void sli_step_bounds_of(const sl_batch *b, sli_step_bounds *out) {
    *out = (sli_step_bounds){.rows = b->n_rows, .seqs = b->n_seqs};
    for (int32_t i = 0; i < b->n_seqs; i++) {
        int32_t n = b->row_begin[i + 1] - b->row_begin[i];
        out->seq_rows = n > out->seq_rows ? n : out->seq_rows;
        out->context = b->n_past[i] + n > out->context ? b->n_past[i] + n : out->context;
        out->stages |= b->stage[i];
    }
}

/* Few rows cost by the row, many by the block. */
static int32_t widen_count(int32_t n, int32_t most) {
    int32_t step = n <= 8 ? 1 : n <= 64 ? 8 : n <= 256 ? 32 : 128;
    int32_t wide = (n + step - 1) / step * step;
    return wide < most ? wide : n > most ? n : most;
}

static int64_t power_of_two(int64_t n, int64_t least) {
    int64_t wide = least;
    while (wide < n)
        wide *= 2;
    return wide;
}

void sli_step_bounds_widen(sli_step_bounds *b, const sli_device_step *s, const sl_limits *limits) {
    b->rows = widen_count(b->rows, s->max_rows);
    b->seqs = widen_count(b->seqs, s->max_seqs);
    b->logits = b->logits > 0 ? widen_count(b->logits, s->max_logits) : 0;
    b->seq_rows = (int32_t)power_of_two(b->seq_rows, 1);
    b->seq_rows = b->seq_rows < b->rows ? b->seq_rows : b->rows;
    int64_t longest = limits->max_context + SL_MAX_TREE_NODES, wide = power_of_two(b->context, 512);
    b->context = wide < longest ? wide : longest;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static void fill_seqs(const sli_device_step *s, char *m, const sl_batch *b, int32_t bound) {
    int32_t *seq = (void *)(m + s->at.seq), *row_begin = (void *)(m + s->at.row_begin);
    int32_t *n_past = (void *)(m + s->at.n_past), *is_tree = (void *)(m + s->at.is_tree);
    for (int32_t i = 0; i < bound; i++) { /* places behind the last sequence have no rows */
        int there = i < b->n_seqs;
        seq[i] = there ? b->seq[i] : 0;
        n_past[i] = there ? (int32_t)b->n_past[i] : 0;
        is_tree[i] = there && b->tree[i] != NULL;
        row_begin[i] = there ? b->row_begin[i] : b->n_rows;
    }
    row_begin[bound] = b->n_rows;
}

static void fill_rows(const sli_device_step *s, char *m, const sl_batch *b, int32_t bound) {
    int32_t *row_seq = (void *)(m + s->at.row_seq), *token = (void *)(m + s->at.token);
    int32_t *token_index = (void *)(m + s->at.token_index);
    float *position = (void *)(m + s->at.position);
    for (int32_t i = 0; i < bound; i++) {
        int there = i < b->n_rows;
        row_seq[i] = there ? b->row_seq[i] : -1;
        token[i] = there ? b->token[i] : 0;
        token_index[i] = there ? (int32_t)b->token_index[i] : 0;
        position[i] = there ? b->position[i] : 0;
    }
}

/* Bits of the rows that each row of a tree sees: its parent's, and itself. Returns whether there are trees. */
static int fill_ancestors(const sli_device_step *s, char *m, const sl_batch *b) {
    uint32_t(*seen)[ANCESTOR_WORDS] = (void *)(m + s->at.ancestors);
    int any = 0;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const sl_tree *t = b->tree[i];
        for (int32_t k = 0; t != NULL && k < t->n_nodes; k++) {
            uint32_t *row = seen[b->row_begin[i] + k];
            if (k == 0)
                memset(row, 0, sizeof *seen);
            else
                memcpy(row, seen[b->row_begin[i] + t->parent[k]], sizeof *seen);
            row[k / 32] |= 1u << k % 32;
        }
        any |= t != NULL;
    }
    return any;
}

sl_status sli_device_step_send(sli_device_step *s, const sl_batch *b, const sli_step_bounds *bounds,
                               const int32_t *logit_row, const sli_cuda_draw *draw, int32_t n_logits, sl_error *err) {
    const sl_exec *exec = s->device->api->exec;
    s->now = (s->now + 1) % SLI_STEP_MIRRORS;
    if (s->turn[s->now].in_flight)
        SL_TRY(sli_device_step_wait(s, err));
    lay_out(s, bounds);
    point(s, bounds);
    char *m = s->mirror[s->now];
    ((int32_t *)(void *)m)[0] = b->n_rows;
    ((int32_t *)(void *)m)[1] = b->n_seqs;
    fill_seqs(s, m, b, bounds->seqs);
    fill_rows(s, m, b, bounds->rows);
    int32_t *wanted = (void *)(m + s->at.logit_row);
    for (int32_t i = 0; i < bounds->logits; i++)
        wanted[i] = i < n_logits ? logit_row[i] : 0;
    sli_cuda_draw *how = (void *)(m + s->at.draw);
    for (int32_t i = 0; bounds->draws && i < bounds->logits; i++)
        how[i] = i < n_logits ? draw[i] : (sli_cuda_draw){0};
    int64_t bytes = s->at.ancestors;
    if (fill_ancestors(s, m, b))
        bytes = s->at.ancestors + 4 * ANCESTOR_WORDS * (int64_t)b->n_rows;
    s->turn[s->now].in_flight = 1;
    s->turn[s->now].ended = 0;
    sl_status status = exec->record(s->device->lane, s->turn[s->now].begin);
    if (status >= 0)
        status = exec->copy(s->device->lane, s->block, m, bytes);
    return status < 0 ? sl_fail(err, status, "sending a step to the device: %s", sl_status_text(status)) : SL_OK;
}

sl_status sli_device_step_end(sli_device_step *s, sl_error *err) {
    sl_status status = s->device->api->exec->record(s->device->lane, s->turn[s->now].end);
    s->turn[s->now].ended = status >= 0;
    return status < 0 ? sl_fail(err, status, "end of a step on the device: %s", sl_status_text(status)) : SL_OK;
}

static sl_status explain(const sli_device_step *s, sl_status status, sl_error *err) {
    const char *fault = s->device->api->fault(s->device->cuda);
    return fault != NULL ? sl_fail(err, status, "the device failed: %s", fault) : status;
}

static void count_turn(sli_device_step *s, int turn) {
    const sli_cuda_api *api = s->device->api;
    float ms = 0;
    if (s->turn[turn].in_flight && s->turn[turn].ended &&
        api->elapsed(s->device->cuda, s->turn[turn].begin, s->turn[turn].end, &ms) >= 0)
        s->busy_seconds += 1e-3 * ms;
    s->turn[turn].in_flight = s->turn[turn].ended = 0;
}

sl_status sli_device_step_land(sli_device_step *s, int turn, sl_error *err) {
    sl_status status = s->device->api->passed(s->device->cuda, s->turn[turn].end, err);
    if (status < 0)
        return explain(s, status, err);
    count_turn(s, turn);
    return SL_OK;
}

sl_status sli_device_step_wait(sli_device_step *s, sl_error *err) {
    sl_status status = s->device->api->exec->sync(s->device->lane, err);
    if (status < 0)
        return explain(s, status, err);
    for (int i = 0; i < SLI_STEP_MIRRORS; i++)
        count_turn(s, i);
    s->waits++;
    return SL_OK;
}
