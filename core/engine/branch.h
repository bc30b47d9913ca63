/* branch.h - branches ("sl.work.branch/1"): a sequence of a plugin's own beside a session, kept between work items. It
 * is opened by the first item that names it, shared by forks and closed with the session. */
#ifndef SLUICE_CORE_BRANCH_H
#define SLUICE_CORE_BRANCH_H

#include "engine/engine.h"

/* Makes the branch end at `begin` and ready for n_rows more. SL_E_RANGE: it is shorter. */
sl_status sli_branch_prepare(sluice_engine *e, sluice_session *s, int64_t begin, int64_t n_rows, int32_t *id,
                             sl_error *err);
/* A child shares the parent's branch. A store that cannot share leaves it without one. */
void sli_branch_fork(sluice_engine *e, sluice_session *child, const sluice_session *parent);
void sli_branch_close(sluice_engine *e, sluice_session *s);

#endif
