/* Reading parameter values by name, at create. The host has parsed, defaulted and range-checked them against the
 * plugin's own table, so a name that is not there is a mistake of the plugin: an assertion in debug builds, an empty
 * value otherwise. Nothing here is for a step: look values up once and keep them. */
#ifndef SLUICE_LIB_PARAMS_H
#define SLUICE_LIB_PARAMS_H

#include "sluice/plugin.h"

/* The value called name, or NULL when there is none. */
const sl_param_value *sl_param_find(const sl_params *params, const char *name);

int sl_param_is_set(const sl_params *params, const char *name); /* given or default */
int64_t sl_param_int(const sl_params *params,
                     const char *name); /* INT; BOOL as 0 or 1; ENUM as index; unset: 0, ENUM -1 */
double sl_param_real(const sl_params *params, const char *name);      /* FLOAT, INT; unset: 0 */
int sl_param_bool(const sl_params *params, const char *name);         /* BOOL; unset: 0 */
int sl_param_index(const sl_params *params, const char *name);        /* ENUM: index into choices; unset: -1 */
const char *sl_param_text(const sl_params *params, const char *name); /* borrowed; resolved path of PATH; unset: NULL */
/* Elements of a list type, borrowed; *n is their number. NULL and 0 when unset or empty. */
const double *sl_param_list(const sl_params *params, const char *name, int64_t *n);

#endif
