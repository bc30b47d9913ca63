/* Names of plugin sections: which role they choose a plugin for, and where that choice holds.
 *
 *   [attention]                    everywhere                          rank 0
 *   [attention.prefill]            in one stage (prefill, decode, verify)   1
 *   [attention.layers 0-1,5]       in some layers                           2
 *   [attention.decode.layers 4-7]  in some layers in one stage              3
 *   [quant.layers 0-1]             in some layers                           2
 *   [quant.match *.mlp.*]          tensors whose name fits a pattern       16 + bytes outside of wildcards
 *   [kvcache] [kvcache.policy] [kvcache.policy 2] ... [kvcache.codec] [kvcache.prompt] [speculation]
 *   [draft.attention] ...          the same for the second model; not [speculation]
 *   [attention.ID] [kvcache.ID] [speculation.ID] [quant.ID]: keys for plugin ID wherever the family chose it
 * The higher rank wins; scopes of one rank may not overlap.
 */
#ifndef SLUICE_CORE_SCOPE_H
#define SLUICE_CORE_SCOPE_H

#include <stdint.h>

#include "config/ini.h"
#include "sluice/plugin.h"

enum { SLI_RANK_ALL = 0, SLI_RANK_STAGE = 1, SLI_RANK_LAYERS = 2, SLI_RANK_MATCH = 16 };

typedef struct sli_range {
    int32_t first, last; /* inclusive */
} sli_range;

typedef struct sli_scope {
    const char *prefix; /* "" or "draft" */
    const char *family; /* "attention", "kvcache", "speculation", "quant" */
    const char *role;   /* "attention", "kvcache.store", ...; NULL: keys for one plugin id */
    const char *id;     /* that id, else NULL */
    uint32_t stages;    /* set of SL_STAGE_* */
    int rank;
    int chain;               /* place in a chain of policies, from 1; 1 for all other roles */
    const sli_range *layers; /* NULL: all layers */
    int n_ranges;
    const char *match; /* pattern over tensor names (glob.h), NULL: all tensors */
} sli_scope;

/* Parses the name of a section that is not one of the core's. Texts live in the pool or are static.
 * Errors: SL_E_INVALID, with near matches; SL_E_UNIMPLEMENTED for [hook.*]. */
sl_status sli_scope_parse(sli_arena *pool, const sli_section *section, sli_scope *out, sl_error *err);

int sli_scope_has_layer(const sli_scope *scope, int layer);
/* Same role, rank and model, and some (layer, stage) that both name. Patterns are not compared. */
int sli_scopes_collide(const sli_scope *a, const sli_scope *b);

int sli_is_plugin_id(const char *text); /* a-z, 0-9 and _, at most 64 */

#endif
