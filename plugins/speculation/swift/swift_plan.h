/* swift_plan.h - skip sets that were given instead of searched: as two lists of layers, or in a file. */
#ifndef SWIFT_SWIFT_PLAN_H
#define SWIFT_SWIFT_PLAN_H

#include "sluice/host.h"

/* Reads parameters skip_attention, skip_ffn and plan into masks [n_layers], 1: runs. *given = 0: none of them is set,
 * and all layers run. Errors name the parameter or the file. */
sl_status swift_plan_read(const sl_create_args *args, uint32_t *attn, uint32_t *ffn, int *given, sl_error *err);

#endif
