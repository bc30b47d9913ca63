/* draft_fork.h - forks of the target's sequences in which a drafter's rows live for one step ("sl.work.draft/1").
 *
 * A fork shares the committed rows of its session. Work items of one step append to it round by round; it is closed
 * before the step's own rows are reserved, so that nothing of it is left when the step is verified. For drafters that
 * ask for the capability forks are opened between steps, where memory may be taken; others get theirs when they first
 * use it. A fork's rows may be missing in layers whose attention was skipped: an item that would look at such rows is
 * refused. Ids of sequences: sessions, their draft forks, and one for scratch forks. */
#ifndef SLUICE_CORE_DRAFT_FORK_H
#define SLUICE_CORE_DRAFT_FORK_H

#include "sluice/work.h"

#include "libsluice.h"

typedef struct sli_draft_forks sli_draft_forks;

static inline int32_t sli_fork_id(int32_t max_sessions, int32_t seq) { return max_sessions + seq; }
static inline int32_t sli_scratch_id(int32_t max_sessions) { return 2 * max_sessions; }
static inline int32_t sli_fork_ids_end(int32_t max_sessions) { return 2 * max_sessions + 1; }

/* Of all sessions of the engine; nothing without a drafter. */
sl_status sli_draft_forks_create(sluice_engine *e);
void sli_draft_forks_destroy(sli_draft_forks *f);

/* Between steps: forks of those sessions that decode, when the drafter asks for the capability. A store that cannot
 * share its rows is found out when the item runs. */
sl_status sli_draft_forks_open(sluice_engine *e, sluice_session *const *sessions, int n, sl_error *err);
void sli_draft_forks_close(sluice_engine *e);

/* The fork of w->seq, cut to w->begin and with room for the item: *id is its sequence. SL_E_RANGE: rows before begin
 * are not there, or the store cannot share them; SL_E_INVALID: they are missing in a layer that the item runs. */
sl_status sli_draft_fork_enter(sluice_engine *e, const sl_work *w, int32_t *id, sl_error *err);

#endif
