/* See draft_taps.h. */
#include "draft_taps.h"

#include <string.h>

#include "base/ledger.h"
#include "device_network.h"
#include "engine/rewrite.h"
#include "sl_error.h"
#include "sl_tensor.h"

typedef struct tap_buffer {
    const sl_tap *tap;
    float *seen;          /* [max_rows, hidden] all rows of the step; NULL: made of the residual afterwards */
    float *kept;          /* [max_rows, hidden] rows that are handed over */
    int64_t *token_index; /* [max_rows] of those */
    void *device;         /* bf16 [rows, hidden] in the place of seen and kept; the network's */
} tap_buffer;

struct sli_draft_taps {
    tap_buffer *taps;
    int32_t n, max_seqs;
    int64_t max_rows, hidden;
    int32_t *rows;                /* [max_rows] of one sequence, of the batch */
    sl_tap_rows *entries;         /* [n, max_seqs] */
    const sl_tap_rows **pointers; /* likewise */
};

static const uint32_t layer_points =
    1u << SL_TAP_LAYER_IN | 1u << SL_TAP_ATTN_IN | 1u << SL_TAP_FFN_IN | 1u << SL_TAP_LAYER_OUT;
static const uint32_t model_points = 1u << SL_TAP_EMBED | 1u << SL_TAP_FINAL_NORM;

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static sl_status check(const sli_network *net, const sl_tap *t, int32_t i, sl_error *err) {
    if (t == NULL || t->rows > SL_TAP_ROWS_ACCEPTED || t->stages == 0 || (t->stages & ~(uint32_t)SL_STAGE_ALL))
        return sl_fail(err, SL_E_INVALID, "tap %d: unknown rows or stages", i);
    uint32_t point = t->point < 32 ? 1u << t->point : 0;
    if (!(point & (layer_points | model_points)))
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "tap %d: point %u is not handed to drafters by this engine; it gives the rows of the residual "
                       "stream, before or after a norm",
                       i, t->point);
    if (net->device != NULL && t->point != SL_TAP_FINAL_NORM)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "tap %d: point %u: on the device drafters get rows behind the final norm only: set "
                       "engine.device = cpu",
                       i, t->point);
    if ((point & layer_points) ? t->layer < 0 || t->layer >= net->info->n_layers : t->layer != -1)
        return sl_fail(err, SL_E_RANGE, "tap %d: layer %d of %d layers, -1 where the point belongs to none", i,
                       t->layer, net->info->n_layers);
    return SL_OK;
}

/* Rows of one step that a tap may want. */
static int64_t tap_rows(const sl_tap *tap, int64_t max_rows, int32_t max_seqs) {
    return tap->rows == SL_TAP_ROWS_LAST && max_seqs < max_rows ? max_seqs : max_rows;
}

sl_status sli_draft_taps_create(const sli_network *net, const sl_tap *const *taps, int32_t n, int64_t max_rows,
                                int32_t max_seqs, sli_draft_taps **out, sl_error *err) {
    *out = NULL;
    if (n <= 0)
        return SL_OK;
    for (int32_t i = 0; i < n; i++)
        SL_TRY(check(net, taps[i], i, err));
    sli_draft_taps *t = sli_alloc(SLI_TAG_SCRATCH, sizeof *t);
    if (t == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the drafter's taps");
    size_t floats = (size_t)max_rows * (size_t)net->info->hidden;
    *t = (sli_draft_taps){.n = n, .max_seqs = max_seqs, .max_rows = max_rows, .hidden = net->info->hidden};
    t->taps = sli_calloc(SLI_TAG_SCRATCH, (size_t)n, sizeof *t->taps);
    t->rows = sli_calloc(SLI_TAG_SCRATCH, (size_t)max_rows, sizeof *t->rows);
    t->entries = sli_calloc(SLI_TAG_SCRATCH, (size_t)n * (size_t)max_seqs, sizeof *t->entries);
    t->pointers = sli_calloc(SLI_TAG_SCRATCH, (size_t)n * (size_t)max_seqs, sizeof *t->pointers);
    int ok = t->taps && t->rows && t->entries && t->pointers;
    for (int32_t i = 0; ok && i < n; i++) {
        tap_buffer *b = &t->taps[i];
        b->tap = taps[i];
        b->token_index = sli_calloc(SLI_TAG_SCRATCH, (size_t)max_rows, sizeof *b->token_index);
        if (net->device != NULL) {
            int64_t rows = tap_rows(taps[i], max_rows, max_seqs);
            b->device = sli_device_take(net->device, 2 * rows * net->info->hidden, SL_MEM_SCRATCH);
            ok = b->device != NULL && b->token_index != NULL;
            continue;
        }
        b->kept = sli_calloc(SLI_TAG_SCRATCH, floats, sizeof *b->kept);
        if (b->tap->point != SL_TAP_FINAL_NORM)
            b->seen = sli_calloc(SLI_TAG_SCRATCH, floats, sizeof *b->seen);
        ok = b->kept && b->token_index && (b->seen || b->tap->point == SL_TAP_FINAL_NORM);
    }
    if (!ok) {
        sli_draft_taps_destroy(t);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the drafter's taps");
    }
    *out = t;
    return SL_OK;
}

void sli_draft_taps_destroy(sli_draft_taps *t) {
    if (t == NULL)
        return;
    for (int32_t i = 0; t->taps != NULL && i < t->n; i++) {
        sli_free(t->taps[i].seen);
        sli_free(t->taps[i].kept);
        sli_free(t->taps[i].token_index);
    }
    sli_free(t->taps);
    sli_free(t->rows);
    sli_free(t->entries);
    sli_free(t->pointers);
    sli_free(t);
}

int sli_draft_taps_want_prompt(const sli_draft_taps *t) {
    for (int32_t i = 0; t != NULL && i < t->n; i++)
        if (t->taps[i].tap->stages & SL_STAGE_PREFILL)
            return 1;
    return 0;
}

/* ---- a step -------------------------------------------------------------------------------------------------------
 */

void sli_draft_taps_take(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    sli_draft_taps *t = user;
    for (int32_t i = 0; i < t->n; i++) {
        tap_buffer *b = &t->taps[i];
        if (b->seen != NULL && b->tap->point == point && b->tap->layer == layer)
            memcpy(b->seen, rows, sizeof *rows * (size_t)(n_rows * width));
    }
}

/* Rows of the sequence at place i that a tap wants, counted in the batch; returns how many. */
static int32_t choose_rows(const sl_tap *tap, const sl_commit *c, int32_t i, int32_t *rows) {
    const sl_batch *b = c->batch;
    int32_t begin = b->row_begin[i], n = 0;
    if (!(tap->stages & b->stage[i]))
        return 0;
    if (tap->rows == SL_TAP_ROWS_ALL) {
        for (int32_t r = begin; r < b->row_begin[i + 1]; r++)
            rows[n++] = r;
        return n;
    }
    int32_t first = c->path_begin[i], end = c->path_begin[i + 1];
    if (tap->rows == SL_TAP_ROWS_LAST && end > first)
        first = end - 1;
    for (int32_t p = first; p < end; p++)
        rows[n++] = begin + c->path[p];
    return n;
}

/* Rows t->rows [n] of the step, to the buffer of what is handed over. */
static sl_status keep_rows(const sli_draft_taps *t, sli_network *net, const tap_buffer *b, float *to, int32_t n,
                           sl_error *err) {
    if (b->seen == NULL)
        SL_TRY(sli_network_final_norm(net, t->rows, n, to, err));
    for (int32_t r = 0; b->seen != NULL && r < n; r++)
        memcpy(to + r * t->hidden, b->seen + t->rows[r] * t->hidden, sizeof *to * (size_t)t->hidden);
    return sli_rewrite_plain(net, b->tap->point, b->tap->layer, to, n, 1, t->hidden);
}

sl_status sli_draft_taps_hand_over(sli_draft_taps *t, sli_network *net, const sl_commit *c,
                                   const sl_tap_rows *const **out, int32_t *n, sl_error *err) {
    const sl_batch *b = c->batch;
    int32_t n_entries = 0;
    for (int32_t i = 0; i < t->n; i++) {
        tap_buffer *buffer = &t->taps[i];
        int64_t used = 0;
        for (int32_t s = 0; s < b->n_seqs; s++) {
            int32_t *rows = t->rows + (buffer->device != NULL ? used : 0);
            int32_t n_rows = choose_rows(buffer->tap, c, s, rows);
            if (n_rows == 0)
                continue;
            for (int32_t r = 0; r < n_rows; r++)
                buffer->token_index[used + r] = b->token_index[rows[r]];
            if (buffer->device == NULL)
                SL_TRY(keep_rows(t, net, buffer, buffer->kept + used * t->hidden, n_rows, err));
            sl_tap_rows *e = &t->entries[n_entries];
            *e = (sl_tap_rows){.struct_size = SL_SIZE(sl_tap_rows),
                               .tap = buffer->tap,
                               .token_index = buffer->token_index + used,
                               .seq = b->seq[s]};
            void *at = buffer->device != NULL ? (void *)((uint16_t *)buffer->device + used * t->hidden)
                                              : (void *)(buffer->kept + used * t->hidden);
            sl_tensor_make(&e->rows, at, buffer->device != NULL ? SL_BF16 : SL_F32,
                           buffer->device != NULL ? SL_DEVICE_CUDA : SL_DEVICE_CPU, 2, (int64_t[]){n_rows, t->hidden});
            t->pointers[n_entries++] = e;
            used += n_rows;
        }
        if (buffer->device != NULL) /* all at once */
            SL_TRY(sli_device_queue_hidden(net, t->rows, (int32_t)used, buffer->device, err));
    }
    *out = t->pointers;
    *n = n_entries;
    return SL_OK;
}
