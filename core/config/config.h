/* The configuration of a run: built-in defaults < INI file < --set, checked and resolved, immutable once loaded.
 *
 * A higher layer replaces single keys. When it names another plugin for a section than the layers below, their keys of
 * that section go, since they belong to the plugin that was replaced: that is why `--set attention.plugin=dense` works
 * on an INI whose [attention] is full of keys for another one. A section with a scope ([attention.layers 0-1]) that
 * names no plugin takes plugin and keys of the section without scope, and its own keys on top; one that names a plugin
 * starts from that plugin's defaults. Keys of [attention.ID] lie under those of every [attention...] section that chose
 * ID; an ID that nothing chose is an error.
 */
#ifndef SLUICE_CORE_CONFIG_H
#define SLUICE_CORE_CONFIG_H

#include <stdio.h>

#include "config/lists.h"
#include "config/params.h"
#include "config/schema.h"
#include "config/scope.h"

/* One plugin, chosen for one role in one scope. */
typedef struct sli_choice {
    sli_scope scope;    /* prefix ("" or "draft"), family, role, stages, layers, pattern, rank, place in a chain */
    const char *plugin; /* an id; or the path of a .so, resolved against the folder of the INI */
    int is_path;
    const char *id;             /* the id; for a path what the file name suggests: attention_mine.so -> "mine" */
    const char *where;          /* where it was chosen */
    const sli_section *section; /* its keys for sli_params_bind, the choosing key "plugin" among them */
} sli_choice;

typedef struct sli_config {
    const sl_params
        *core[SLI_CORE_COUNT];        /* sections of the core; SLI_CORE_DRAFT_MODEL is NULL without a second model */
    const sli_choice *const *choices; /* in the order of roles, then as written; a role without plugin has none */
    int n_choices;
    const char *const *plugin_dirs; /* [plugins] path, resolved */
    int n_plugin_dirs;
    const sli_bias *biases; /* sampling.logit_bias */
    int n_biases;
    const char *const *stops; /* sampling.stop, escapes resolved */
    int n_stops;
} sli_config;

/* Keys that stand beside the parameters of a plugin, for sli_params_bind: {"plugin", NULL}. */
extern const char *const sli_choice_keys[];

/* path  the INI, NULL: none; relative paths in it start from its folder
 * sets  n_sets texts "section.key=value"; relative paths in them start from the working directory
 * *out  created: sli_config_free
 * Checks everything but the parameters of plugins, whose tables the core has not seen yet: bind those with
 * sli_params_bind(table, choice->section, sli_choice_keys, ...).
 * Errors: SL_E_DATA (not an INI), SL_E_INVALID, SL_E_RANGE, SL_E_NOT_FOUND, SL_E_IO, SL_E_UNIMPLEMENTED,
 * SL_E_NO_MEMORY. */
sl_status sli_config_load(const char *path, const char *const *sets, int n_sets, sli_config **out, sl_error *err);
/* The same from n bytes of text; label stands in messages, dir is where relative paths start ("": working directory).
 */
sl_status sli_config_load_text(const char *text, size_t n, const char *label, const char *dir, const char *const *sets,
                               int n_sets, sli_config **out, sl_error *err);
void sli_config_free(sli_config *config); /* NULL is legal */

/* Choices of a role of one model ("" or "draft"), in order of definition or chain: the one behind prev, or the first
 * for prev = NULL; NULL at the end. */
const sli_choice *sli_choice_next(const sli_config *config, const char *prefix, const char *role,
                                  const sli_choice *prev);
/* The choice that serves a layer in a stage (one SL_STAGE_* bit): highest rank. NULL when the role has no plugin. */
const sli_choice *sli_choice_for_layer(const sli_config *config, const char *prefix, const char *role, int layer,
                                       uint32_t stage);
/* The "quant" choice for a tensor; layer -1 for tensors outside of layers. *out is NULL when nothing applies.
 * Error: SL_E_INVALID when two patterns of one rank fit. */
sl_status sli_choice_for_tensor(const sli_config *config, const char *prefix, int layer, const char *tensor,
                                const sli_choice **out, sl_error *err);
/* Once the model is known: every layer that a section names is there / every pattern fits a tensor. SL_E_RANGE,
 * SL_E_NOT_FOUND. */
sl_status sli_config_check_layers(const sli_config *config, const char *prefix, int n_layers, sl_error *err);
sl_status sli_config_check_tensors(const sli_config *config, const char *prefix, const char *const *names, int64_t n,
                                   sl_error *err);

/* Parameter table of the plugin that was chosen, NULL: not known (its given keys are shown as they are). */
typedef const sl_param_def *const *(*sli_defs_fn)(void *user, const sli_choice *choice);

/* Writes the whole configuration as an INI with every key, defaults included, and its origin as a comment. Paths come
 * out absolute; loading the text gives the same configuration. Keys of plugins are checked on the way. Errors: those of
 * sli_params_bind, SL_E_IO. */
sl_status sli_config_show(const sli_config *config, FILE *out, sli_defs_fn defs, void *user, sl_error *err);

#endif
