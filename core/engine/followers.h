/* followers.h - attention plugins that keep something beside the cache ("sl.attention.kv/1"), told what happens to it.
 */
#ifndef SLUICE_CORE_FOLLOWERS_H
#define SLUICE_CORE_FOLLOWERS_H

#include "network.h"

/* Tells each follower what the store of its layers keeps. Errors begin with the layer. */
sl_status sli_followers_layout(const sli_network *net, sl_error *err);
/* A sequence that the stores have opened. On failure the ones before it have it open still: close it everywhere. */
sl_status sli_followers_open(const sli_network *net, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
void sli_followers_close(const sli_network *net, int32_t seq);
sl_status sli_followers_grow(const sli_network *net, int32_t seq, int64_t n_tokens, sl_error *err);
void sli_followers_cut(const sli_network *net, int32_t seq, int64_t n);

#endif
