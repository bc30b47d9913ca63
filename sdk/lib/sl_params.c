/* Parameter values by name; see sl_params.h. */
#include "sl_params.h"

#include <assert.h>
#include <string.h>

const sl_param_value *sl_param_find(const sl_params *params, const char *name) {
    if (params == NULL)
        return NULL;
    for (int64_t i = 0; i < params->n; i++)
        if (strcmp(params->values[i]->name, name) == 0)
            return params->values[i];
    return NULL;
}

/* The value, or an unset one for a name that the table lacks. */
static const sl_param_value *value_of(const sl_params *params, const char *name) {
    static const sl_param_value unset = {.struct_size = SL_SIZE(sl_param_value), .integer = -1};
    const sl_param_value *v = sl_param_find(params, name);
    assert(v != NULL && "a name that stands in the plugin's parameter table");
    return v != NULL ? v : &unset;
}

int sl_param_is_set(const sl_params *params, const char *name) { return value_of(params, name)->is_set != 0; }

int64_t sl_param_int(const sl_params *params, const char *name) {
    const sl_param_value *v = value_of(params, name);
    return v->name != NULL ? v->integer : 0;
}

double sl_param_real(const sl_params *params, const char *name) { return value_of(params, name)->real; }

int sl_param_bool(const sl_params *params, const char *name) {
    const sl_param_value *v = value_of(params, name);
    return v->is_set && v->integer != 0;
}

int sl_param_index(const sl_params *params, const char *name) { return (int)value_of(params, name)->integer; }

const char *sl_param_text(const sl_params *params, const char *name) { return value_of(params, name)->text; }

const double *sl_param_list(const sl_params *params, const char *name, int64_t *n) {
    const sl_param_value *v = value_of(params, name);
    *n = v->list != NULL ? v->n : 0;
    return *n > 0 ? v->list : NULL;
}
