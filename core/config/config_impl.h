/* What the files behind config.h share. */
#ifndef SLUICE_CORE_CONFIG_IMPL_H
#define SLUICE_CORE_CONFIG_IMPL_H

#include "config/config.h"
#include "config/ini.h"

/* A plugin that a layer above replaced: keys of [family.ID] for it are not a mistake. */
typedef struct replaced {
    const char *section, *plugin;
} replaced;

typedef struct loaded {
    sli_config head; /* first: sli_config_free casts */
    sli_ini merged;  /* all layers in one; its pool holds everything that lives as long as the configuration */
    replaced *replaced;
    int n_replaced, replaced_cap;
    sl_params *core[SLI_CORE_COUNT]; /* owned */
} loaded;

/* choice.c: the plugin sections of c->merged -> head.choices. */
sl_status sli_choices_build(loaded *c, sl_error *err);

#endif
