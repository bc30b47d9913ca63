/* Shapes of well-known models, for speed work: what their config.json says, without their weights. */
#ifndef SLUICE_CORE_SHAPES_H
#define SLUICE_CORE_SHAPES_H

#include "model/model_desc.h"

/* Fills *out (freed by sli_model_desc_free; all-zero on failure) with the model that is known by that name.
 * SL_E_NOT_FOUND with near matches. */
sl_status sli_shape_describe(const char *name, sli_model_desc *out, sl_error *err);

const char *sli_shape_name(int i); /* NULL behind the last */

#endif
