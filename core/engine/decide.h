/* decide.h - the token after a session's rows: sampled, or verified along a draft tree. */
#ifndef SLUICE_CORE_DECIDE_H
#define SLUICE_CORE_DECIDE_H

#include "engine.h"

/* logits [s->n_rows, vocab] raw. path: rows kept, root first (at least the root; for a plain step all rows of the chunk
 * are kept and the path is not touched). *next: the token decided behind them. */
sl_status sli_decide(sluice_engine *e, sluice_session *s, const float *logits, int32_t *path, int32_t *n_path,
                     int32_t *next, sl_error *err);

#endif
