/* An instance of a plugin: made, activated, deactivated and destroyed in that order, whatever fails on the way. */
#ifndef SLUICE_CORE_INSTANCE_H
#define SLUICE_CORE_INSTANCE_H

#include "plugin_host.h"

typedef struct sli_instance {
    const sl_plugin *plugin;
    sl_instance *self; /* the plugin's object: first argument of its functions */
    const void *table; /* interface of the role it was created for (sli_roles): sl_attention, sl_kv_store ... */
    sl_host *host;
    const char *role; /* static */
    int active;
    int64_t idle_bytes; /* held before activate */
} sli_instance;

/* accepts, create, and the check of the role's table. Asks for the role in scope->role.
 * params, scope: borrowed during the call; model, context: until destroy. user: for sli_host_user.
 * Errors begin with "[section] id: ". Nothing is left behind by a failure. [setup] */
sl_status sli_instance_create(sli_host_context *context, const sl_plugin *plugin, const sl_model_info *model,
                              const sl_params *params, const sl_scope *scope, void *user, sli_instance **out,
                              sl_error *err);

/* The table of another role that the same object answers (a method named in two sections), checked. */
sl_status sli_instance_role(const sli_instance *instance, const char *role, const void **table, sl_error *err);
/* An interface that is not a role's ("sl.select/1"), of at least min_size bytes, or NULL. */
const void *sli_instance_table(const sli_instance *instance, const char *id, uint64_t min_size);

/* [setup & !active]. On failure the instance stays inactive. */
sl_status sli_instance_activate(sli_instance *instance, const sl_limits *limits, sl_error *err);
/* [setup]. Nothing happens when it is not active. What activate took and was not given back is logged. */
void sli_instance_deactivate(sli_instance *instance);
/* Deactivates first when need be. NULL is legal. [setup] */
void sli_instance_destroy(sli_instance *instance);

#endif
