/* chunk.h - where prompts are cut into chunks.
 *
 * Anywhere, as a rule: as many rows as engine.prefill_chunk and the step's room allow. An attention plugin may want the
 * ends of chunks at multiples of a number (sl_attn_caps.chunk_align). One whose results depend on the cuts at all
 * (SL_ATTN_CHUNKED; or a policy with SL_KV_WANTS_CHUNKS) gets them, in deterministic mode, at multiples of
 * engine.prefill_chunk and nowhere else, so that what a prompt gets does not depend on its neighbours. A chunk that has
 * no room yet waits. */
#ifndef SLUICE_CORE_CHUNK_H
#define SLUICE_CORE_CHUNK_H

#include "engine/network.h"

/* Finds the rule of a network that is built; SL_E_RANGE: chunks or steps are too small for it. max_sessions: of which
 * all but one may be decoding beside a chunk. */
sl_status sli_chunk_rule(sli_network *net, int64_t prefill_chunk, int64_t max_sessions, sl_error *err);

/* Rows of the next chunk of a sequence that has `begin` tokens and `pending` more, when `room` rows are left in the
 * step. 0: it must wait for more room; never when room is limits.max_rows. */
int64_t sli_chunk_rows(const sli_network *net, int64_t begin, int64_t pending, int64_t room);

#endif
