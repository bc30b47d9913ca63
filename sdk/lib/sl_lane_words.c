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
