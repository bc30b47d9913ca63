/* Small tables that travel from the host to a device, through pinned memory and in the order of the lane. */
#ifndef SLUICE_LIB_LANE_WORDS_H
#define SLUICE_LIB_LANE_WORDS_H

#include "sluice/ops.h"

/* Words on their way: a ring of pinned memory, large, so that it rarely comes round, which is when the lane must have
 * caught up. */
typedef struct sl_lane_words {
    const sl_host *host;
    const sl_mem *mem;
    const sl_exec *exec;
    const sl_lane *lane;
    int32_t *ring;
    int64_t n, at;
} sl_lane_words;

/* most: words of the largest piece. SL_E_NO_MEMORY. [setup, in activate] */
sl_status sl_lane_words_make(sl_lane_words *w, const sl_host *host, const sl_mem *mem, const sl_exec *exec,
                             const sl_lane *lane, int64_t most);
void sl_lane_words_free(sl_lane_words *w);

/* Room for n words, to be filled and copied by the caller. [step] */
sl_status sl_lane_words_take(sl_lane_words *w, int64_t n, int32_t **out, sl_error *err);
/* Copies words of the host to the device; they may change as soon as this returns. [step] */
sl_status sl_lane_words_send(sl_lane_words *w, int32_t *dst, const int32_t *src, int64_t n, sl_error *err);

#endif
