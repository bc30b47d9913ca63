/* See sl_lane_words.h. */
#include "sl_lane_words.h"

#include <string.h>

#include "sl_error.h"

enum { LEAST_WORDS = 1 << 16 };

sl_status sl_lane_words_make(sl_lane_words *w, const sl_host *host, const sl_mem *mem, const sl_exec *exec,
                             const sl_lane *lane, int64_t most) {
    *w = (sl_lane_words){.host = host, .mem = mem, .exec = exec, .lane = lane, .n = LEAST_WORDS};
    while (w->n < 4 * most)
        w->n *= 2;
    w->ring = mem->alloc(host, SL_DEVICE_HOST_PINNED, w->n * (int64_t)sizeof *w->ring, 64, SL_MEM_PLUGIN);
    return w->ring != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void sl_lane_words_free(sl_lane_words *w) {
    if (w->mem != NULL)
        w->mem->release(w->host, SL_DEVICE_HOST_PINNED, w->ring);
    *w = (sl_lane_words){0};
}

sl_status sl_lane_words_take(sl_lane_words *w, int64_t n, int32_t **out, sl_error *err) {
    if (w->at + n > w->n) {
        SL_TRY(w->exec->sync(w->lane, err));
        w->at = 0;
    }
    *out = w->ring + w->at;
    w->at += n;
    return SL_OK;
}

sl_status sl_lane_words_send(sl_lane_words *w, int32_t *dst, const int32_t *src, int64_t n, sl_error *err) {
    int32_t *words;
    SL_TRY(sl_lane_words_take(w, n, &words, err));
    memcpy(words, src, (size_t)n * sizeof *words);
    sl_status s = w->exec->copy(w->lane, dst, words, n * (int64_t)sizeof *words);
    return s < 0 ? sl_fail(err, s, "%lld words of a table could not be copied to the device", (long long)n) : SL_OK;
}

sl_status sl_lane_close_ranks(sl_lane_words *w, const sl_ops *ops, const sl_view_device *const *layers,
                              int32_t n_layers, int32_t *moves, int64_t max_moves, const sl_commit *c, sl_error *err) {
    int staged = n_layers > 0 && layers[0]->n_rows != NULL; /* then slots are not token indices */
    int64_t n = 0;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++)
            n += c->path[k] != k - c->path_begin[i];
    if (n == 0)
        return SL_OK;
    if (n > max_moves)
        return sl_fail(err, SL_E_RANGE, "%lld rows move, at most %lld can", (long long)n, (long long)max_moves);
    int32_t *words;
    SL_TRY(sl_lane_words_take(w, 1 + 3 * n, &words, err));
    int32_t *seq = words + 1, *from = seq + n, *to = from + n;
    words[0] = (int32_t)n;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++) {
            int32_t at = k - c->path_begin[i], past = staged ? 0 : (int32_t)c->batch->n_past[i];
            if (c->path[k] == at)
                continue;
            *seq++ = c->batch->seq[i];
            *from++ = past + c->path[k];
            *to++ = past + at;
        }
    sl_op_move op = {.struct_size = SL_SIZE(sl_op_move),
                     .lane = w->lane,
                     .layers = layers,
                     .n_moves = moves,
                     .seq = moves + 1,
                     .from = moves + 1 + n,
                     .to = moves + 1 + 2 * n,
                     .n_layers = n_layers,
                     .max_moves = (int32_t)n,
                     .staged = (uint32_t)staged};
    sl_status s = w->exec->copy(w->lane, moves, words, (1 + 3 * n) * (int64_t)sizeof *words);
    if (s >= 0)
        s = ops->move(w->host, &op);
    return s < 0 ? sl_fail(err, s, "accepted rows could not be moved") : SL_OK;
}
