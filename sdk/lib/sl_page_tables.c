/* See sl_page_tables.h. */
#include "sl_page_tables.h"

#include <stdlib.h>

#include "sl_error.h"

sl_status sl_page_tables_open(sl_page_tables *t, const sl_lane_words *words, int64_t n_seqs, int64_t stride) {
    *t = (sl_page_tables){.n_seqs = n_seqs, .stride = stride};
    t->dirty = calloc((size_t)(2 * n_seqs), sizeof *t->dirty);
    t->pages = words->mem->alloc(words->host, SL_DEVICE_CUDA, n_seqs * stride * 4, 256, SL_MEM_PLUGIN);
    return t->dirty != NULL && t->pages != NULL ? SL_OK : SL_E_NO_MEMORY;
}

void sl_page_tables_close(sl_page_tables *t, const sl_lane_words *words) {
    if (words->mem != NULL)
        words->mem->release(words->host, SL_DEVICE_CUDA, t->pages);
    free(t->dirty);
    *t = (sl_page_tables){.pages = NULL};
}

void sl_page_tables_touch(sl_page_tables *t, int32_t seq, int64_t begin, int64_t end) {
    if (begin >= end)
        return;
    int64_t *dirty = t->dirty + 2 * seq;
    int clean = dirty[0] >= dirty[1];
    dirty[0] = clean || begin < dirty[0] ? begin : dirty[0];
    dirty[1] = clean || end > dirty[1] ? end : dirty[1];
}

sl_status sl_page_tables_send(sl_page_tables *t, sl_lane_words *words, int32_t seq, const int32_t *list, int64_t n,
                              sl_error *err) {
    int64_t *dirty = t->dirty + 2 * seq, begin = dirty[0], end = dirty[1] < n ? dirty[1] : n;
    if (end > begin)
        SL_TRY(sl_lane_words_send(words, t->pages + seq * t->stride + begin, list + begin, end - begin, err));
    dirty[0] = dirty[1] = 0;
    return SL_OK;
}
