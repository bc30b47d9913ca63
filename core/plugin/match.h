/* Matching: does a combination of plugins fit, before any of their functions is called? Everything is decided from what
 * packages declare.
 *
 * Capability ids are texts. What a host of this version offers:
 *   sl.model/1     weights by name, model info            sl.rng/1       counter-based random numbers
 *   sl.mem/1       lasting memory                         sl.metrics/1   counters for reports
 *   sl.scratch/1   memory for the length of a call        sl.sample/1    a request's sampling, for drafters
 *   sl.threads/1   the pool                               sl.ops/1       shared operations
 *   sl.cpu/1       instruction sets                       sl.work/1      work items on the target or draft model
 *   sl.exec/1      lanes, copies, matrix products         sl.artifact/1  safetensors files by path
 * Beside them count: what the chosen plugins of the same model provide, and for each of them "<role>=<id>" and
 * "<family>=<id>", so that a plugin can ask for a certain partner ("kvcache.store=paged").
 *
 * At most one plugin a layer and stage may provide "sl.select/1": stores that select for themselves and attention
 * plugins that select both say so. Likewise at most one attention plugin, store, codec, prompt transformer and drafter.
 */
#ifndef SLUICE_CORE_MATCH_H
#define SLUICE_CORE_MATCH_H

#include "sluice/plugin.h"

/* One chosen plugin. Everything is borrowed. */
typedef struct sli_pick {
    const sl_plugin *plugin;
    const char *role;             /* of which it was chosen */
    const char *section;          /* of the INI, for messages: "kvcache.policy" */
    const uint32_t *layer_stages; /* [n_layers] as in sl_scope; NULL: all layers, all stages */
    int32_t n_layers;
    int32_t model;   /* 0 target, 1 draft */
    uint32_t device; /* SL_DEVICE_* */
} sli_pick;

/* The list above, NULL-terminated, static. */
const char *const *sli_host_capabilities(void);

/* What some hosts offer beside them: a draft model, the operations of a device, attention by its vendor's library. */
enum { SLI_OFFERS_DRAFT = 1u << 0, SLI_OFFERS_DEVICE = 1u << 1, SLI_OFFERS_SDPA = 1u << 2, SLI_MAX_CAPABILITIES = 64 };
void sli_host_capabilities_with(uint32_t more, const char *out[SLI_MAX_CAPABILITIES]);

/* Which plugin that is not chosen would provide `capability`? Its name, or NULL. Asked only for messages, once
 * something is known to be missing; describe.h has one that scans (sli_provider_scan). */
typedef const char *(*sli_provider_fn)(void *user, const char *capability);

/* SL_OK, or SL_E_INVALID with everything that does not fit, one line each: missing needs (who needs them, who could
 * provide them), roles that the plugin does not have, wrong devices, two owners of what can have only one.
 * host_caps  NULL-terminated; NULL: sli_host_capabilities(). provider may be NULL. */
sl_status sli_match(const sli_pick *picks, int n, const char *const *host_caps, sli_provider_fn provider, void *user,
                    sl_error *err);

/* Is a capability there for plugins of that model? What instances use to look at their `wants`. */
int sli_match_has(const sli_pick *picks, int n, const char *const *host_caps, int32_t model, const char *capability);

#endif
