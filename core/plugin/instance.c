/* The life of an instance; see instance.h. */
#include "instance.h"

#include <assert.h>
#include <string.h>

#include "base/ledger.h"
#include "host_impl.h"
#include "roles.h"

static sli_host_context *context_of(const sli_instance *i) { return sli_host_of(i->host)->context; }

/* Puts section and plugin before the plugin's own text; a plugin that failed without a text gets one. */
static sl_status explain(sl_status s, const char *section, const char *id, const char *act, sl_error *err) {
    if (err == NULL)
        return s;
    if (err->text != NULL && err->cap > 0 && err->text[0] == '\0')
        sl_fail(err, s, "%s failed: %s", act, sl_status_text(s));
    err->code = s;
    return sl_fail_within(err, s, "[%s] %s", section, id);
}

static void clear(sl_error *err) {
    if (err != NULL && err->text != NULL && err->cap > 0)
        err->text[0] = '\0';
}

static sl_status call_create(sli_instance *i, const sl_model_info *model, const sl_params *params,
                             const sl_scope *scope, sl_error *err) {
    const sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = i->host, .model = model, .params = params, .scope = scope};
    clear(err);
    sli_host_before_call(context_of(i));
    if (i->plugin->accepts != NULL) {
        sl_status s = i->plugin->accepts(model, params, scope, err);
        if (s < 0)
            return explain(s, scope->section, i->plugin->id, "accepts", err);
    }
    clear(err);
    sl_instance *self = NULL;
    sl_status s = i->plugin->create(&args, &self, err);
    if (s < 0)
        return explain(s, scope->section, i->plugin->id, "create", err);
    if (self == NULL) {
        clear(err);
        sl_fail(err, SL_E_INTERNAL, "create said ok and returned no instance");
        return explain(SL_E_INTERNAL, scope->section, i->plugin->id, "create", err);
    }
    i->self = self;
    return SL_OK;
}

sl_status sli_instance_role(const sli_instance *i, const char *role, const void **table, sl_error *err) {
    const sli_role *r = sli_role_find(role);
    if (r == NULL || !sli_plugin_has_role(i->plugin, role))
        return sl_fail(err, SL_E_INVALID, "%s does not have the role %s", i->plugin->id, role);
    const void *found = i->plugin->query(i->self, r->interface);
    SL_TRY(sli_role_check(r, i->plugin->id, found, err));
    *table = found;
    return SL_OK;
}

sl_status sli_instance_create(sli_host_context *context, const sl_plugin *plugin, const sl_model_info *model,
                              const sl_params *params, const sl_scope *scope, void *user, sli_instance **out,
                              sl_error *err) {
    assert(!sli_host_in_step(context));
    const sli_role *role = sli_role_find(scope->role);
    if (role == NULL || !sli_plugin_has_role(plugin, scope->role))
        return sl_fail(err, SL_E_INVALID, "[%s] %s does not have the role %s", scope->section, plugin->id, scope->role);
    sli_instance *i = sli_alloc(SLI_TAG_MISC, sizeof *i);
    if (i == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "[%s] %s: no memory for an instance", scope->section, plugin->id);
    i->plugin = plugin;
    i->role = role->name;
    sl_status s = sli_host_create(context, plugin->id, user, &i->host, err);
    if (s == SL_OK)
        s = call_create(i, model, params, scope, err);
    if (s == SL_OK) {
        s = sli_instance_role(i, role->name, &i->table, err);
        if (s < 0)
            sl_fail_within(err, s, "[%s]", scope->section);
    }
    if (s < 0) {
        sli_instance_destroy(i);
        return s;
    }
    *out = i;
    return SL_OK;
}

const void *sli_instance_table(const sli_instance *i, const char *id, uint64_t min_size) {
    const void *table = i->plugin->query(i->self, id);
    uint64_t size = 0;
    if (table != NULL)
        memcpy(&size, table, sizeof size);
    return size >= min_size ? table : NULL;
}

sl_status sli_instance_activate(sli_instance *i, const sl_limits *limits, sl_error *err) {
    assert(!i->active && !sli_host_in_step(context_of(i)));
    clear(err);
    i->idle_bytes = sli_host_bytes(i->host);
    sli_host_before_call(context_of(i));
    sli_host_set_activating(i->host, 1);
    sl_status s = i->plugin->activate(i->self, limits, err);
    sli_host_set_activating(i->host, 0);
    if (s < 0)
        return explain(s, i->role, i->plugin->id, "activate", err);
    i->active = 1;
    return SL_OK;
}

void sli_instance_deactivate(sli_instance *i) {
    if (!i->active)
        return;
    assert(!sli_host_in_step(context_of(i)));
    sli_host_before_call(context_of(i));
    i->plugin->deactivate(i->self);
    i->active = 0;
    int64_t kept = sli_host_bytes(i->host) - i->idle_bytes;
    if (kept > 0)
        sli_host_fault(sli_host_of(i->host), SLI_FAULT_LEAK, "deactivate kept %lld bytes", (long long)kept);
}

void sli_instance_destroy(sli_instance *i) {
    if (i == NULL)
        return;
    if (i->self != NULL) {
        sli_instance_deactivate(i);
        i->plugin->destroy(i->self);
    }
    sli_host_destroy(i->host);
    sli_free(i);
}
