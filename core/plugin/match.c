/* Matching declarations; see match.h. */
#include "match.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "roles.h"
#include "sl_error.h"

static const char *const host_offers[] = {
    "sl.model/1",
    "sl.mem/1",
    "sl.scratch/1",
    "sl.threads/1",
    "sl.cpu/1",
    "sl.exec/1",
    "sl.ops/1",
    "sl.artifact/1",
    "sl.rng/1",
    "sl.metrics/1",
    "sl.sample/1",
    "sl.work/1",
    "sl.topk.prompt/1",
    "sl.stats/1",
    "sl.event.commit/1",
    "sl.maps/1",
    "sl.rewrite/1",
    "sl.taps/1",
    "sl.accept/1",
    "sl.head/1",
    "sl.mask.heads/1",
    "sl.chunk.align/1",
    "sl.scope.also/1",
    "sl.attention.kv/1",
    "sl.work.source/1",
    "sl.background/1",
    "sl.overwrite/1",
    "sl.work.draft/1",
    "sl.work.taps/1",
    "sl.work.branch/1",
    "sl.calibration/1",
    NULL,
};
/* Provided by at most one plugin a layer and stage. */
static const char *const exclusive[] = {"sl.select/1", NULL};

/* Offered where there is what they speak of, in the order of their bits. */
static const char *const sometimes[] = {"sl.model.draft/1", "sl.ops.device/1", "sl.sdpa/1"};
enum { SOMETIMES = sizeof sometimes / sizeof *sometimes };
_Static_assert(sizeof host_offers / sizeof *host_offers + SOMETIMES <= SLI_MAX_CAPABILITIES, "they fit");

const char *const *sli_host_capabilities(void) { return host_offers; }

void sli_host_capabilities_with(uint32_t more, const char *out[SLI_MAX_CAPABILITIES]) {
    int n = 0;
    for (const char *const *id = host_offers; *id != NULL; id++)
        out[n++] = *id;
    for (int i = 0; i < SOMETIMES; i++)
        if (more & 1u << i)
            out[n++] = sometimes[i];
    out[n] = NULL;
}

/* ---- text that collects faults ----------------------------------------------------------------------------------- */

typedef struct report {
    char text[4096];
    size_t used;
    int faults;
} report;

static void fault(report *r, const char *fmt, ...) SL_PRINTF(2, 3);
static void fault(report *r, const char *fmt, ...) {
    r->faults++;
    if (r->used >= sizeof r->text)
        return;
    r->used += (size_t)snprintf(r->text + r->used, sizeof r->text - r->used, "%s", r->faults > 1 ? "\n" : "");
    if (r->used >= sizeof r->text)
        return;
    va_list ap;
    va_start(ap, fmt);
    r->used += (size_t)vsnprintf(r->text + r->used, sizeof r->text - r->used, fmt, ap);
    va_end(ap);
}

/* ---- who offers what --------------------------------------------------------------------------------------------- */

static int in_list(const char *const *items, const char *what) {
    for (; items != NULL && *items != NULL; items++)
        if (strcmp(*items, what) == 0)
            return 1;
    return 0;
}

/* "kvcache.store=paged", "kvcache=paged" */
static int is_named(const sli_pick *p, const char *capability) {
    const char *equals = strchr(capability, '=');
    if (equals == NULL || strcmp(equals + 1, p->plugin->id) != 0)
        return 0;
    size_t n = (size_t)(equals - capability);
    const sli_role *role = sli_role_find(p->role);
    return (strlen(p->role) == n && strncmp(p->role, capability, n) == 0) ||
           (role != NULL && strlen(role->family) == n && strncmp(role->family, capability, n) == 0);
}

int sli_match_has(const sli_pick *picks, int n, const char *const *host_caps, int32_t model, const char *capability) {
    if (in_list(host_caps != NULL ? host_caps : sli_host_capabilities(), capability))
        return 1;
    for (int i = 0; i < n; i++)
        if (picks[i].model == model &&
            (in_list(picks[i].plugin->provides, capability) || is_named(&picks[i], capability)))
            return 1;
    return 0;
}

/* ---- layers ------------------------------------------------------------------------------------------------------ */

static uint32_t stages_of(const sli_pick *p, int32_t layer) {
    return p->layer_stages == NULL ? SL_STAGE_ALL : layer < p->n_layers ? p->layer_stages[layer] : 0;
}

/* The first layer in which both act in one stage; -1: none. Picks without a map act everywhere. */
static int32_t shared_layer(const sli_pick *a, const sli_pick *b) {
    int32_t n = a->n_layers > b->n_layers ? a->n_layers : b->n_layers;
    n = a->layer_stages == NULL && b->layer_stages == NULL ? 1 : n;
    for (int32_t layer = 0; layer < n; layer++)
        if (stages_of(a, layer) & stages_of(b, layer))
            return layer;
    return -1;
}

/* ---- the checks -------------------------------------------------------------------------------------------------- */

static const char *device_name(uint32_t device) { return device == SL_DEVICE_CUDA ? "cuda" : "cpu"; }

static void check_one(const sli_pick *picks, int n, int i, const char *const *host_caps, sli_provider_fn provider,
                      void *user, report *r) {
    const sli_pick *p = &picks[i];
    if (!sli_plugin_has_role(p->plugin, p->role))
        fault(r, "[%s] %s does not have the role %s", p->section, p->plugin->id, p->role);
    uint32_t device = p->device == SL_DEVICE_CUDA ? SL_ON_CUDA : SL_ON_CPU;
    if (!(p->plugin->devices & device))
        fault(r, "[%s] %s runs on %s only; the device is %s", p->section, p->plugin->id,
              device_name(p->plugin->devices & SL_ON_CPU ? SL_DEVICE_CPU : SL_DEVICE_CUDA), device_name(p->device));
    for (const char *const *need = p->plugin->needs; need != NULL && *need != NULL; need++) {
        if (sli_match_has(picks, n, host_caps, p->model, *need))
            continue;
        const char *who = provider != NULL ? provider(user, *need) : NULL;
        if (who != NULL)
            fault(r, "[%s] %s needs %s, which nothing here provides; %s would", p->section, p->plugin->id, *need, who);
        else
            fault(r, "[%s] %s needs %s, which neither this host nor a chosen plugin provides", p->section,
                  p->plugin->id, *need);
    }
}

static void check_pair(const sli_pick *a, const sli_pick *b, report *r) {
    if (a->model != b->model)
        return;
    int32_t layer = shared_layer(a, b);
    if (layer < 0)
        return;
    const sli_role *role = sli_role_find(a->role);
    if (role != NULL && role->exclusive && strcmp(a->role, b->role) == 0)
        fault(r, "[%s] %s and [%s] %s both have the role %s in layer %d", a->section, a->plugin->id, b->section,
              b->plugin->id, a->role, layer);
    if (a->plugin == b->plugin) /* one instance in two sections owns a thing once */
        return;
    for (const char *const *id = exclusive; *id != NULL; id++)
        if (in_list(a->plugin->provides, *id) && in_list(b->plugin->provides, *id))
            fault(r, "[%s] %s and [%s] %s both provide %s in layer %d; only one may", a->section, a->plugin->id,
                  b->section, b->plugin->id, *id, layer);
}

sl_status sli_match(const sli_pick *picks, int n, const char *const *host_caps, sli_provider_fn provider, void *user,
                    sl_error *err) {
    report r = {.used = 0};
    for (int i = 0; i < n; i++)
        check_one(picks, n, i, host_caps, provider, user, &r);
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            check_pair(&picks[i], &picks[j], &r);
    return r.faults > 0 ? sl_fail(err, SL_E_INVALID, "%s", r.text) : SL_OK;
}
