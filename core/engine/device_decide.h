/* device_decide.h - logits of a step on a device, or only their best ids where nobody needs more. */
#ifndef SLUICE_CORE_DEVICE_DECIDE_H
#define SLUICE_CORE_DEVICE_DECIDE_H

#include "engine.h"

/* Computes the step of e->batch; logits or e->best hold what the sessions want, session.first_logits says where. */
sl_status sli_device_decide_step(sluice_engine *e, const sli_pass *pass, sl_error *err);

/* The greedy decision of a session out of its rows' best ids: as sli_decide. */
void sli_device_decide(const sluice_engine *e, const sluice_session *s, int32_t *path, int32_t *n_path, int32_t *next);

/* Forgets a step that is on its way (device_ahead.h): something else than decoding follows. */
void sli_device_drop(sluice_engine *e);

/* Refuses what an engine does that is not served on a device; takes what deciding there needs. The drafter is known. */
sl_status sli_device_engine_ready(sluice_engine *e, sl_error *err);

#endif
