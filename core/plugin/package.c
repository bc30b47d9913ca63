/* Negotiation with a package; see package.h. */
#include "package.h"
#include "config/scope.h"

#include <string.h>

#include "roles.h"
#include "sl_error.h"

enum { MAX_PLUGINS = 64, MAX_ID = 64, MAX_PARAMS = 256 };

static sl_status check_version(const sl_package *p, const char *path, sl_error *err) {
    if (p->abi_major != SL_ABI_MAJOR)
        return sl_fail(err, SL_E_VERSION, "%s: built for ABI %u.%u, this host has ABI %u.%u: majors differ", path,
                       p->abi_major, p->abi_minor, SL_ABI_MAJOR, SL_ABI_MINOR);
    if (SL_ABI_MAJOR == 0 && p->abi_minor != SL_ABI_MINOR)
        return sl_fail(err, SL_E_VERSION,
                       "%s: built for ABI %u.%u, this host has ABI %u.%u: before 1.0 the minors must be equal; rebuild "
                       "the package against this host's headers",
                       path, p->abi_major, p->abi_minor, SL_ABI_MAJOR, SL_ABI_MINOR);
    if (p->abi_tag != SL_ABI_TAG)
        return sl_fail(err, SL_E_VERSION,
                       "%s: ABI tag is 0x%08x, expected 0x%08x (pointer width, byte order and array sizes differ)",
                       path, p->abi_tag, SL_ABI_TAG);
    return SL_OK;
}

static int is_empty(const char *text) { return text == NULL || text[0] == '\0'; }

static sl_status check_params(const sl_plugin *p, const char *path, sl_error *err) {
    if (p->params == NULL)
        return SL_OK;
    for (int i = 0; p->params[i] != NULL; i++) {
        const sl_param_def *d = p->params[i];
        if (i == MAX_PARAMS)
            return sl_fail(err, SL_E_DATA, "%s: plugin %s has more than %d parameters; is the list NULL-terminated?",
                           path, p->id, MAX_PARAMS);
        if (d->struct_size < SL_SIZE(sl_param_def))
            return sl_fail(err, SL_E_VERSION,
                           "%s: parameter %d of plugin %s has struct_size %llu, expected at least %llu", path, i, p->id,
                           (unsigned long long)d->struct_size, (unsigned long long)SL_SIZE(sl_param_def));
        if (d->name == NULL || !sli_is_plugin_id(d->name))
            return sl_fail(err, SL_E_DATA,
                           "%s: parameter %d of plugin %s has the name '%s', expected lower case letters, "
                           "digits and underscores",
                           path, i, p->id, d->name != NULL ? d->name : "NULL");
        if (d->type < SL_PARAM_INT || d->type > SL_PARAM_FLOAT_LIST)
            return sl_fail(err, SL_E_DATA, "%s: parameter %s of plugin %s has the unknown type %u", path, d->name,
                           p->id, d->type);
        if (is_empty(d->doc))
            return sl_fail(err, SL_E_DATA, "%s: parameter %s of plugin %s has no description", path, d->name, p->id);
        if (d->type == SL_PARAM_ENUM && (d->choices == NULL || d->choices[0] == NULL))
            return sl_fail(err, SL_E_DATA, "%s: parameter %s of plugin %s has no choices", path, d->name, p->id);
        for (int j = 0; j < i; j++)
            if (strcmp(p->params[j]->name, d->name) == 0)
                return sl_fail(err, SL_E_DATA, "%s: plugin %s has two parameters called %s", path, p->id, d->name);
    }
    return SL_OK;
}

static sl_status check_roles(const sl_plugin *p, const char *path, sl_error *err) {
    if (p->roles == NULL || p->roles[0] == NULL)
        return sl_fail(err, SL_E_DATA, "%s: plugin %s has no role", path, p->id);
    for (const char *const *r = p->roles; *r != NULL; r++) {
        if (sli_role_find(*r) != NULL)
            continue;
        char known[256] = "";
        for (const sli_role *k = sli_roles; k->name != NULL; k++)
            strcat(strcat(known, k == sli_roles ? "" : ", "), k->name);
        return sl_fail(err, SL_E_VERSION, "%s: plugin %s has the unknown role '%s', expected one of %s", path, p->id,
                       *r, known);
    }
    return SL_OK;
}

static sl_status check_plugin(const sl_plugin *p, int index, const char *path, sl_error *err) {
    if (p == NULL)
        return sl_fail(err, SL_E_DATA, "%s: plugin %d of the package is NULL", path, index);
    if (p->struct_size < SL_SIZE(sl_plugin))
        return sl_fail(err, SL_E_VERSION, "%s: sl_plugin %d has struct_size %llu, expected at least %llu", path, index,
                       (unsigned long long)p->struct_size, (unsigned long long)SL_SIZE(sl_plugin));
    if (p->id == NULL || !sli_is_plugin_id(p->id))
        return sl_fail(err, SL_E_DATA,
                       "%s: plugin %d has the id '%s', expected lower case letters, digits and underscores", path,
                       index, p->id != NULL ? p->id : "NULL");
    SL_TRY(check_roles(p, path, err));
    const struct {
        const char *name;
        int missing;
    } wanted[] = {{"version", is_empty(p->version)},   {"summary", is_empty(p->summary)},
                  {"create()", p->create == NULL},     {"destroy()", p->destroy == NULL},
                  {"activate()", p->activate == NULL}, {"deactivate()", p->deactivate == NULL},
                  {"query()", p->query == NULL}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (wanted[i].missing)
            return sl_fail(err, SL_E_DATA, "%s: plugin %s lacks the mandatory %s", path, p->id, wanted[i].name);
    if (p->must_understand != 0)
        return sl_fail(err, SL_E_VERSION,
                       "%s: plugin %s needs a newer host: must_understand is 0x%llx, this host knows no bit", path,
                       p->id, (unsigned long long)p->must_understand);
    if ((p->devices & (SL_ON_CPU | SL_ON_CUDA)) == 0)
        return sl_fail(err, SL_E_DATA, "%s: plugin %s names no device that this host knows (devices = 0x%x)", path,
                       p->id, p->devices);
    return check_params(p, path, err);
}

sl_status sli_package_check(const sl_package *package, const char *path, sl_error *err) {
    if (package == NULL)
        return sl_fail(err, SL_E_DATA, "%s: the entry function %s returned NULL", path, SL_PACKAGE_SYMBOL);
    if (!SL_HAS(package, sl_package, magic))
        return sl_fail(err, SL_E_VERSION, "%s: not a sluice package: sl_package has struct_size %llu", path,
                       (unsigned long long)package->struct_size);
    if (package->magic != SL_PACKAGE_MAGIC)
        return sl_fail(err, SL_E_VERSION, "%s: not a sluice package: magic is 0x%08x, expected 0x%08x", path,
                       package->magic, SL_PACKAGE_MAGIC);
    if (SL_HAS(package, sl_package, abi_tag)) /* versions explain a wrong size better than the size does */
        SL_TRY(check_version(package, path, err));
    if (package->struct_size < SL_SIZE(sl_package))
        return sl_fail(err, SL_E_VERSION, "%s: sl_package has struct_size %llu, expected at least %llu", path,
                       (unsigned long long)package->struct_size, (unsigned long long)SL_SIZE(sl_package));
    if (package->n_plugins < 1 || package->n_plugins > MAX_PLUGINS || package->plugins == NULL)
        return sl_fail(err, SL_E_DATA, "%s: the package has %u plugins, expected 1 to %d", path,
                       package->plugins != NULL ? package->n_plugins : 0, MAX_PLUGINS);
    for (uint32_t i = 0; i < package->n_plugins; i++) {
        SL_TRY(check_plugin(package->plugins[i], (int)i, path, err));
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(package->plugins[i]->id, package->plugins[j]->id) == 0)
                return sl_fail(err, SL_E_DATA, "%s: two plugins have the id %s", path, package->plugins[i]->id);
    }
    return SL_OK;
}
