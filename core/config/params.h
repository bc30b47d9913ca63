/* Typed parameters: binds the keys of one INI section to a table of definitions. The tables of plugins and those of the
 * core's own sections (schema.h) are the same kind, so that errors, --help and `config show` are uniform.
 *
 * Texts of values
 *   INT         a decimal whole number that fits int64, no suffixes
 *   FLOAT       a decimal number, exponent allowed; no inf, no nan
 *   BOOL        yes no true false on off 1 0
 *   ENUM        exactly one of the choices
 *   STRING      anything, the empty string included
 *   PATH        a file or folder that exists; relative to the file that holds the key, to the working directory for
 * --set INT_LIST    whole numbers within +-2^53 separated by commas; empty: no elements FLOAT_LIST  likewise
 */
#ifndef SLUICE_CORE_PARAMS_H
#define SLUICE_CORE_PARAMS_H

#include "sluice/plugin.h"

typedef struct sli_section sli_section; /* ini.h */

/* Makes the values of `defs`, in the order of the definitions.
 * defs        NULL-terminated, static; NULL means an empty table
 * section     borrowed; NULL: every parameter takes its default
 * also_known  NULL-terminated keys that may stand in the section without being parameters ("plugin"); may be NULL
 * *out        created: sli_params_free. Copies every text, so section may go; names still point into defs.
 * Errors: SL_E_INVALID (unknown key, required key missing, not of its type, bad table), SL_E_RANGE, SL_E_NOT_FOUND (a
 * path that does not exist), SL_E_NO_MEMORY. Messages name section, key, file and line and what was expected. */
sl_status sli_params_bind(const sl_param_def *const *defs, const sli_section *section, const char *const *also_known,
                          sl_params **out, sl_error *err);
void sli_params_free(sl_params *params); /* NULL is legal */

/* The value called name; NULL when the table has none. */
const sl_param_value *sli_param_find(const sl_params *params, const char *name);

/* For code that owns the table: an unknown name is a programming error (assert). */
int64_t sli_param_int(const sl_params *params, const char *name); /* INT, ENUM (index; -1 when unset) */
double sli_param_real(const sl_params *params, const char *name); /* FLOAT, INT */
const char *sli_param_text(const sl_params *params,
                           const char *name);                  /* as written, the resolved path for PATH; NULL: unset */
int sli_param_bool(const sl_params *params, const char *name); /* 0 or 1 */

/* "int", "float", ... as in --help; "?" for a type from the future. */
const char *sli_param_type_name(uint32_t type);

#endif
