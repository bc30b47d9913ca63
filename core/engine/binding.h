/* binding.h - the plugins of one model: which the configuration chose, loaded, matched, created and put in their
 * places. */
#ifndef SLUICE_CORE_BINDING_H
#define SLUICE_CORE_BINDING_H

#include "sluice/speculation.h"

#include "config/config.h"
#include "engine/network.h"
#include "plugin/discover.h"
#include "plugin/instance.h"
#include "plugin/plugin_host.h"

typedef struct sli_binding sli_binding;

/* What a binding is made for. Everything is borrowed. */
typedef struct sli_binding_for {
    const sli_config *config;
    const sli_search *search;
    const char *prefix; /* "" or "draft" */
    const sl_model_info *info;
    sli_host_context *hosts;
    const char *const *host_capabilities; /* NULL-terminated */
    uint32_t device;                      /* SL_DEVICE_CPU or SL_DEVICE_CUDA */
} sli_binding_for;

/* Opens the packages that the configuration names, binds their parameters and matches what they declare. No plugin code
 * runs. [setup] */
sl_status sli_binding_open(const sli_binding_for *args, sli_binding **out, sl_error *err);
/* Creates the instances: artifacts are opened and checked, the model is accepted or refused. */
sl_status sli_binding_create(sli_binding *b, sl_error *err);
/* Activates them. limits: see sluice/plugin.h; sessions: sequences that a drafter or a prompt transformer meets. */
sl_status sli_binding_activate(sli_binding *b, const sl_limits *limits, int64_t sessions, sl_error *err);
void sli_binding_destroy(sli_binding *b); /* NULL is legal */

/* Fills the network's lists of quantizers, attenders and stores. They live in the binding. */
sl_status sli_binding_fill(sli_binding *b, sli_network *net, sl_error *err);
/* The plan of a network whose lists came from this binding. */
sli_network_plan sli_binding_plan(sli_binding *b);

/* The drafter, NULL: none. */
sl_instance *sli_binding_drafter(sli_binding *b, const sl_speculation **api);
/* Does the drafter need or want that capability of the host? */
int sli_binding_drafter_asks(const sli_binding *b, const char *capability);

/* Instances that ask for work of their own ("sl.work.source/1", or attention's function of the same form): writes at most
 * `most` of them to out and returns how many there are. */
typedef struct sli_source_fn {
    sl_instance *self;
    sl_status (*work)(sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                      const sl_work *const **works, int32_t *n_works);
} sli_source_fn;
int sli_binding_sources(const sli_binding *b, sli_source_fn *out, int most);

/* The instance of the plugin with that id that answers `interface`, its table of at least min_size bytes and its section.
 * NULL: the plugin is not chosen (*chosen = 0), or does not answer (1). */
sl_instance *sli_binding_find(const sli_binding *b, const char *plugin, const char *interface, uint64_t min_size,
                              const void **table, const char **section, int *chosen);

/* The prompt transformer, NULL: none. */
sl_instance *sli_binding_prompter(sli_binding *b, const sl_kv_prompt **api);

/* 1 if a chosen plugin needs or wants that capability. */
int sli_binding_asks_for(const sli_binding *b, const char *capability);

int sli_binding_hears(const sli_binding *b); /* does any instance want to be told of events? */
void sli_binding_event(sli_binding *b, const sl_event *event);

/* One choice as it was resolved; borrowed from the binding. */
typedef struct sli_choice_made {
    const char *role, *section;
    const sl_plugin *plugin;
    const char *path; /* of its package */
    const sl_params *params;
    const uint32_t *layer_stages; /* [n_layers] */
} sli_choice_made;
int sli_binding_choice(const sli_binding *b, int i, sli_choice_made *out); /* 0 behind the last one */
/* An interface of the plugin whose object self is, or NULL; *id and *section name it either way. */
const void *sli_binding_table(const sli_binding *b, const sl_instance *self, const char *interface, uint64_t min_size,
                              const char **id, const char **section);

/* "attention: dense 0.1.0" ...: the i-th choice, or 0 behind the last one. */
int sli_binding_name(const sli_binding *b, int i, const char **role, const char **id, const char **version);

#endif
