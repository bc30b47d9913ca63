/* draft.h - asking the drafter for trees, and telling it what became of them. */
#ifndef SLUICE_CORE_DRAFT_H
#define SLUICE_CORE_DRAFT_H

#include "sluice/speculation.h"

#include "libsluice.h"

typedef struct sli_draft_buffers sli_draft_buffers;

/* Room for a step of max_seqs sequences and max_rows rows, whose topk best ids are told. */
sl_status sli_draft_buffers_create(sli_draft_buffers **out, int32_t max_seqs, int64_t max_rows, int32_t topk);
void sli_draft_buffers_destroy(sli_draft_buffers *d);

/* The session as a drafter sees it, who may propose a tree of max_nodes nodes. */
void sli_spec_describe(const sluice_engine *e, const sluice_session *s, int32_t max_nodes, sl_spec_seq *out);

/* Trees for decoding sessions: rounds of propose and work. Sets session->tree, NULL where there is no draft.
 * n_other_rows: prompt rows that share the step. */
sl_status sli_engine_draft(sluice_engine *e, sluice_session **sessions, int n, int n_other_rows, sl_error *err);

/* sessions: those of the step, in batch order, whose tokens include what was committed. */
sl_status sli_engine_observe(sluice_engine *e, sluice_session **sessions, int n, const sl_commit *commit,
                             double verify_seconds, sl_error *err);

#endif
