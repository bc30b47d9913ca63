/* accept.h - a drafter's own rule of acceptance in the place of lossless verification ("sl.accept/1"). */
#ifndef SLUICE_CORE_ACCEPT_H
#define SLUICE_CORE_ACCEPT_H

#include "engine.h"

/* Does the drafter decide which of its tokens stay? */
int sli_accepts_itself(const sluice_engine *e);

/* Like sli_decide, which calls it. The drafter is asked wherever a token is decided, also where there is no draft: the
 * tree is then the last committed token alone. Its answer is checked: an error where it is no path of the tree. */
sl_status sli_accept_draft(sluice_engine *e, sluice_session *s, const float *logits, int32_t *path, int32_t *n_path,
                           int32_t *next, sl_error *err);

#endif
