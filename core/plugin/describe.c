/* Packages as JSON; see describe.h. */
#include "describe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ledger.h"
#include "roles.h"

static const char *const param_types[] = {NULL,     "int",  "float",    "bool",      "enum",
                                          "string", "path", "int_list", "float_list"};

/* A package's text may hold anything; what is not UTF-8 is shown with its odd bytes replaced. */
static json_t *text(const char *s) {
    if (s == NULL)
        return json_null();
    json_t *value = json_string(s);
    if (value != NULL)
        return value;
    char *copy = sli_strdup(SLI_TAG_MISC, s);
    for (unsigned char *c = (unsigned char *)copy; c != NULL && *c != '\0'; c++)
        if (*c >= 0x80)
            *c = '?';
    value = copy != NULL ? json_string(copy) : NULL;
    sli_free(copy);
    return value;
}

static json_t *list(const char *const *items) {
    json_t *array = json_array();
    for (; items != NULL && *items != NULL; items++)
        json_array_append_new(array, text(*items));
    return array;
}

static json_t *param_json(const sl_param_def *d) {
    json_t *p = json_object();
    int bounded = d->min <= d->max;
    json_object_set_new(p, "name", text(d->name));
    json_object_set_new(p, "type", text(d->type <= SL_PARAM_FLOAT_LIST ? param_types[d->type] : NULL));
    json_object_set_new(p, "doc", text(d->doc));
    json_object_set_new(p, "default", text(d->fallback));
    json_object_set_new(p, "choices", list(d->choices));
    json_object_set_new(p, "min", bounded ? json_real(d->min) : json_null());
    json_object_set_new(p, "max", bounded && isfinite(d->max) ? json_real(d->max) : json_null());
    json_object_set_new(p, "required", json_boolean(d->flags & SL_PARAM_REQUIRED));
    json_object_set_new(p, "expert", json_boolean(d->flags & SL_PARAM_EXPERT));
    return p;
}

json_t *sli_plugin_json(const sl_plugin *plugin, const char *abi, const char *path) {
    json_t *o = json_object(), *params = json_array(), *devices = json_array();
    if (o == NULL || params == NULL || devices == NULL) {
        json_decref(o), json_decref(params), json_decref(devices);
        return NULL;
    }
    for (int i = 0; plugin->params != NULL && plugin->params[i] != NULL; i++)
        json_array_append_new(params, param_json(plugin->params[i]));
    if (plugin->devices & SL_ON_CPU)
        json_array_append_new(devices, json_string("cpu"));
    if (plugin->devices & SL_ON_CUDA)
        json_array_append_new(devices, json_string("cuda"));
    json_object_set_new(o, "id", text(plugin->id));
    json_object_set_new(o, "roles", list(plugin->roles));
    json_object_set_new(o, "version", text(plugin->version));
    json_object_set_new(o, "summary", text(plugin->summary));
    json_object_set_new(o, "paper", text(plugin->paper));
    json_object_set_new(o, "vendor", text(plugin->vendor));
    json_object_set_new(o, "license", text(plugin->license));
    json_object_set_new(o, "params", params);
    json_object_set_new(o, "needs", list(plugin->needs));
    json_object_set_new(o, "wants", list(plugin->wants));
    json_object_set_new(o, "provides", list(plugin->provides));
    json_object_set_new(o, "devices", devices);
    json_object_set_new(o, "abi", text(abi));
    json_object_set_new(o, "path", text(path));
    return o;
}

json_t *sli_package_json(const sl_package *package, const char *path) {
    json_t *array = json_array();
    char abi[32];
    snprintf(abi, sizeof abi, "%u.%u", package->abi_major, package->abi_minor);
    for (uint32_t i = 0; i < package->n_plugins && array != NULL; i++)
        if (json_array_append_new(array, sli_plugin_json(package->plugins[i], abi, path)) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}
