/* See binding.h. */
#include "binding.h"

#include <stdio.h>
#include <string.h>

#include "base/ledger.h"
#include "plugin/describe.h"
#include "plugin/loader.h"
#include "plugin/match.h"
#include "plugin/roles.h"
#include "sl_error.h"
#include "sl_params.h"

/* One choice of the configuration, on its way from a name to an instance. */
typedef struct bound {
    const sli_choice *choice;
    sli_plugin package;
    sl_params *params;
    uint32_t *layer_stages; /* [n_layers] */
    sli_instance *instance; /* owned unless first */
    const void *table;
    struct bound *first; /* the choice whose object this is, in a second role; NULL: it has its own */
    sl_scope scope;
    int place; /* in the list of its role */
} bound;

struct sli_binding {
    sli_binding_for args;
    bound *list;
    int n;
    int n_created;
    sli_quantizer *quantizers;
    sli_attender *attenders;
    sli_store *stores;
    sli_policy *policies;
    sli_rewriter *rewriter; /* NULL: none */
    sli_rewriter the_rewriter;
    int n_quantizers, n_attenders, n_stores, n_policies;
};

static const uint32_t stages[] = {SL_STAGE_PREFILL, SL_STAGE_DECODE, SL_STAGE_VERIFY};

static sl_status within(const bound *b, sl_status s, sl_error *err) {
    return sl_fail_within(err, s, "[%s] %s (%s)", b->choice->section->name, b->choice->plugin, b->choice->where);
}

/* ---- open: no plugin code runs
 * ------------------------------------------------------------------------------------------ */

/* A plugin named in sections of two roles is one object. */
static bound *same_plugin(const sli_binding *b, int i) {
    for (int j = 0; j < i; j++)
        if (b->list[j].package.plugin == b->list[i].package.plugin && b->list[j].first == NULL &&
            strcmp(b->list[j].choice->scope.role, b->list[i].choice->scope.role) != 0)
            return &b->list[j];
    return NULL;
}

/* Roles that the engine of this version puts to work. */
static int is_served(const char *role) {
    return strcmp(role, "kvcache.policy") == 0 || strcmp(role, "kvcache.prompt") == 0 ||
           strcmp(role, "attention") == 0 || strcmp(role, "kvcache.store") == 0 ||
           strcmp(role, "speculation") == 0 || strcmp(role, "quant") == 0 || strcmp(role, "quant.rewrite") == 0;
}

static sl_status find_scope(const sli_binding *b, bound *c) {
    const char *role = c->choice->scope.role;
    int32_t n = b->args.info->n_layers;
    c->layer_stages = sli_calloc(SLI_TAG_MISC, (size_t)n, sizeof *c->layer_stages);
    if (c->layer_stages == NULL)
        return SL_E_NO_MEMORY;
    for (int32_t l = 0; l < n; l++)
        for (size_t s = 0; s < sizeof stages / sizeof *stages; s++)
            if (c->choice->scope.match != NULL ||
                strcmp(role, "kvcache.policy") == 0 || /* a chain: all of them, everywhere */
                strcmp(role, "kvcache.prompt") == 0 ||
                sli_choice_for_layer(b->args.config, b->args.prefix, role, l, stages[s]) == c->choice)
                c->layer_stages[l] |= stages[s];
    return SL_OK;
}

static sl_status open_choice(sli_binding *b, int i, sl_error *err) {
    bound *c = &b->list[i];
    const char *role = c->choice->scope.role;
    sl_status s = sli_plugin_open(b->args.search, role, c->choice->plugin, &c->package, err);
    if (s < 0)
        return within(c, s, err);
    if (strcmp(role, "kvcache.policy") == 0 && b->args.prefix[0] != '\0')
        return within(
            c,
            sl_fail(err, SL_E_UNIMPLEMENTED, "the engine of this version runs no policies on the draft model's cache"),
            err);
    if (strcmp(role, "kvcache.prompt") == 0 && b->args.prefix[0] != '\0')
        return within(c,
                      sl_fail(err, SL_E_UNIMPLEMENTED,
                              "prompts are transformed once, for the target; the draft model computes what is left"),
                      err);
    if (!is_served(role))
        return within(
            c, sl_fail(err, SL_E_UNIMPLEMENTED, "the engine of this version serves no plugin in the role %s", role),
            err);
    if (find_scope(b, c) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the plugins' scopes");
    c->first = same_plugin(b, i);
    /* a method named in two sections has its parameters in the first */
    s = sli_params_bind(c->first != NULL ? NULL : c->package.plugin->params, c->choice->section, sli_choice_keys,
                        &c->params, err);
    return s < 0 && c->first != NULL
               ? sl_fail_within(err, s, "%s is one object with that of [%s], which takes its keys",
                                c->package.plugin->id, c->first->choice->section->name)
               : s;
}

/* What the core itself would offer if it were told to, else what a plugin would. */
static const char *who_would(void *user, const char *capability) {
    return strcmp(capability, "sl.model.draft/1") == 0 ? "a second model, [draft.model] path = ...,"
                                                       : sli_provider_scan(user, capability);
}

static sl_status match_all(const sli_binding *b, sl_error *err) {
    sli_pick picks[64];
    if (b->n > 64)
        return sl_fail(err, SL_E_RANGE, "%d plugin sections are more than 64", b->n);
    for (int i = 0; i < b->n; i++)
        picks[i] = (sli_pick){.plugin = b->list[i].package.plugin,
                              .role = b->list[i].choice->scope.role,
                              .section = b->list[i].choice->section->name,
                              .layer_stages = b->list[i].choice->scope.match != NULL ? NULL : b->list[i].layer_stages,
                              .n_layers = b->args.info->n_layers,
                              .model = b->args.prefix[0] != '\0',
                              .device = b->args.device};
    sli_provider_search providers = {.search = b->args.search};
    return sli_match(picks, b->n, b->args.host_capabilities, who_would, &providers, err);
}

sl_status sli_binding_open(const sli_binding_for *args, sli_binding **out, sl_error *err) {
    sli_binding *b = sli_alloc(SLI_TAG_MISC, sizeof *b);
    if (b == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the plugins");
    b->args = *args;
    for (int i = 0; i < args->config->n_choices; i++)
        b->n += strcmp(args->config->choices[i]->scope.prefix, args->prefix) == 0;
    b->list = sli_calloc(SLI_TAG_MISC, (size_t)b->n + 1, sizeof *b->list);
    sl_status s = b->list != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for the plugins");
    int n = 0;
    for (int i = 0; s >= 0 && i < args->config->n_choices; i++)
        if (strcmp(args->config->choices[i]->scope.prefix, args->prefix) == 0)
            b->list[n++].choice = args->config->choices[i];
    if (s >= 0)
        s = sli_config_check_layers(args->config, args->prefix, args->info->n_layers, err);
    for (int i = 0; s >= 0 && i < b->n; i++)
        s = open_choice(b, i, err);
    if (s >= 0)
        s = match_all(b, err);
    if (s < 0) {
        sli_binding_destroy(b);
        return s;
    }
    *out = b;
    return SL_OK;
}

/* ---- create, activate
 * ------------------------------------------------------------------------------------------------------- */

/* The scope of a choice, chained to those of the choices that share its object. */
static void describe_scopes(sli_binding *b, int i) {
    sl_scope *last = NULL;
    for (int j = i; j < b->n; j++) {
        bound *c = &b->list[j];
        if (j > i && c->first != &b->list[i])
            continue;
        c->scope = (sl_scope){.struct_size = SL_SIZE(sl_scope),
                              .layer_stages = c->layer_stages,
                              .n_layers = b->args.info->n_layers,
                              .device = b->args.device,
                              .role = c->choice->scope.role,
                              .section = c->choice->section->name};
        if (last != NULL)
            last->also = &c->scope;
        last = &c->scope;
    }
}

static sl_status create_one(sli_binding *b, int i, sl_error *err) {
    bound *c = &b->list[i];
    if (c->first != NULL) {
        c->instance = c->first->instance;
        return sli_instance_role(c->instance, c->choice->scope.role, &c->table, err);
    }
    describe_scopes(b, i);
    SL_TRY(sli_instance_create(b->args.hosts, c->package.plugin, b->args.info, c->params, &c->scope, b, &c->instance,
                               err));
    c->table = c->instance->table;
    return SL_OK;
}

static int count_role(const sli_binding *b, const char *role) {
    int n = 0;
    for (int i = 0; i < b->n; i++)
        n += strcmp(b->list[i].choice->scope.role, role) == 0;
    return n;
}

static void list_role(sli_binding *b, bound *c) {
    const char *role = c->choice->scope.role;
    sl_instance *self = c->instance->self;
    if (strcmp(role, "quant") == 0) {
        c->place = b->n_quantizers++;
        b->quantizers[c->place] =
            (sli_quantizer){self,
                            c->table,
                            sli_instance_table(c->instance, SL_QUANT_PACKER_ID, SL_SIZE(sl_quant_packer)),
                            c->package.plugin->id,
                            c->package.plugin->version,
                            c->choice->section->name,
                            c->choice->where};
    } else if (strcmp(role, "attention") == 0) {
        c->place = b->n_attenders++;
        b->attenders[c->place] = (sli_attender){
            self, c->table, c->place,
            sli_instance_table(c->instance, SL_ATTENTION_KV_ID, SL_FIELD_END(sl_attention_kv, truncate))};
    } else if (strcmp(role, "kvcache.store") == 0) {
        c->place = b->n_stores++;
        b->stores[c->place] =
            (sli_store){self, c->table, sli_instance_table(c->instance, SL_SELECT_ID, SL_SIZE(sl_selector))};
    } else if (strcmp(role, "kvcache.policy") == 0) { /* choices stand in the order of the chain */
        c->place = b->n_policies++;
        b->policies[c->place] = (sli_policy){self, c->table};
    } else if (strcmp(role, "quant.rewrite") == 0) {
        b->the_rewriter = (sli_rewriter){self, c->table};
        b->rewriter = &b->the_rewriter;
    }
}

sl_status sli_binding_create(sli_binding *b, sl_error *err) {
    b->quantizers = sli_calloc(SLI_TAG_MISC, (size_t)count_role(b, "quant") + 1, sizeof *b->quantizers);
    b->attenders = sli_calloc(SLI_TAG_MISC, (size_t)count_role(b, "attention") + 1, sizeof *b->attenders);
    b->stores = sli_calloc(SLI_TAG_MISC, (size_t)count_role(b, "kvcache.store") + 1, sizeof *b->stores);
    b->policies = sli_calloc(SLI_TAG_MISC, (size_t)count_role(b, "kvcache.policy") + 1, sizeof *b->policies);
    if (b->quantizers == NULL || b->attenders == NULL || b->stores == NULL || b->policies == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the plugins");
    for (int i = 0; i < b->n; i++) {
        SL_TRY(create_one(b, i, err));
        b->n_created++;
        list_role(b, &b->list[i]);
    }
    return SL_OK;
}

sl_status sli_binding_activate(sli_binding *b, const sl_limits *limits, int64_t sessions, sl_error *err) {
    for (int i = 0; i < b->n; i++) {
        sl_limits own = *limits;
        if (strcmp(b->list[i].choice->scope.role, "speculation") == 0 ||
            strcmp(b->list[i].choice->scope.role, "kvcache.prompt") == 0)
            own.max_seqs = sessions;
        if (b->list[i].first == NULL)
            SL_TRY(sli_instance_activate(b->list[i].instance, &own, err));
    }
    return SL_OK;
}

void sli_binding_destroy(sli_binding *b) {
    if (b == NULL)
        return;
    for (int i = b->n_created - 1; i >= 0; i--)
        if (b->list[i].first == NULL)
            sli_instance_destroy(b->list[i].instance);
    for (int i = 0; b->list != NULL && i < b->n; i++) {
        sli_params_free(b->list[i].params);
        sli_free(b->list[i].layer_stages);
    }
    sli_free(b->list);
    sli_free(b->quantizers);
    sli_free(b->attenders);
    sli_free(b->stores);
    sli_free(b->policies);
    sli_free(b);
}

/* ---- in their places
 * ------------------------------------------------------------------------------------------------------------ */

sl_status sli_binding_fill(sli_binding *b, sli_network *net, sl_error *err) {
    net->quantizers = b->quantizers;
    net->attenders = b->attenders;
    net->stores = b->stores;
    net->n_quantizers = b->n_quantizers;
    net->n_attenders = b->n_attenders;
    net->n_stores = b->n_stores;
    net->policies = b->policies;
    net->n_policies = b->n_policies;
    net->rewriter = b->rewriter;
    const char *missing = b->n_quantizers == 0  ? "quant"
                          : b->n_attenders == 0 ? "attention"
                          : b->n_stores == 0    ? "kvcache"
                                                : NULL;
    if (missing != NULL)
        return sl_fail(err, SL_E_INVALID, "no plugin was chosen for [%s%s%s]", b->args.prefix,
                       b->args.prefix[0] != '\0' ? "." : "", missing);
    return SL_OK;
}

static const bound *bound_of(const sli_binding *b, const sli_choice *choice) {
    for (int i = 0; i < b->n; i++)
        if (b->list[i].choice == choice)
            return &b->list[i];
    return NULL;
}

static sl_status quantizer_of(void *user, int32_t layer, const char *tensor, const sli_quantizer **out, sl_error *err) {
    const sli_binding *b = user;
    const sli_choice *choice;
    SL_TRY(sli_choice_for_tensor(b->args.config, b->args.prefix, layer, tensor, &choice, err));
    const bound *c = bound_of(b, choice);
    if (c == NULL)
        return sl_fail(err, SL_E_INVALID, "no [quant] section is responsible for %s", tensor);
    *out = &b->quantizers[c->place];
    return SL_OK;
}

static const sli_attender *attender_of(void *user, int32_t layer, uint32_t stage) {
    const sli_binding *b = user;
    const bound *c = bound_of(b, sli_choice_for_layer(b->args.config, b->args.prefix, "attention", layer, stage));
    return c != NULL ? &b->attenders[c->place] : NULL;
}

static const sli_store *store_of(void *user, int32_t layer) {
    const sli_binding *b = user;
    const bound *c =
        bound_of(b, sli_choice_for_layer(b->args.config, b->args.prefix, "kvcache.store", layer, SL_STAGE_PREFILL));
    return c != NULL ? &b->stores[c->place] : NULL;
}

sli_network_plan sli_binding_plan(sli_binding *b) {
    return (sli_network_plan){.user = b, .quantizer = quantizer_of, .attender = attender_of, .store = store_of};
}

sl_instance *sli_binding_drafter(sli_binding *b, const sl_speculation **api) {
    for (int i = 0; i < b->n; i++)
        if (strcmp(b->list[i].choice->scope.role, "speculation") == 0) {
            *api = b->list[i].table;
            return b->list[i].instance->self;
        }
    return NULL;
}

sl_instance *sli_binding_prompter(sli_binding *b, const sl_kv_prompt **api) {
    for (int i = 0; i < b->n; i++)
        if (strcmp(b->list[i].choice->scope.role, "kvcache.prompt") == 0) {
            *api = b->list[i].table;
            return b->list[i].instance->self;
        }
    return NULL;
}

static int names(const char *const *list, const char *what) {
    for (; list != NULL && *list != NULL; list++)
        if (strcmp(*list, what) == 0)
            return 1;
    return 0;
}

int sli_binding_asks_for(const sli_binding *b, const char *capability) {
    for (int i = 0; i < b->n; i++) {
        const sl_plugin *p = b->list[i].package.plugin;
        if (names(p->needs, capability) || names(p->wants, capability))
            return 1;
    }
    return 0;
}

int sli_binding_sources(const sli_binding *b, sli_source_fn *out, int most) {
    int n = 0;
    for (int i = 0; i < b->n; i++) {
        const bound *c = &b->list[i];
        const sl_attention *attention = strcmp(c->choice->scope.role, "attention") == 0 ? c->table : NULL;
        const sl_work_source *source =
            c->first != NULL ? NULL : sli_instance_table(c->instance, SL_WORK_SOURCE_ID, SL_FIELD_END(sl_work_source, work));
        sli_source_fn fn = {c->instance->self, source != NULL ? source->work : NULL};
        if (fn.work == NULL && attention != NULL && SL_HAS_FN(attention, sl_attention, work))
            fn.work = attention->work;
        if (fn.work != NULL && n++ < most)
            out[n - 1] = fn;
    }
    return n;
}

sl_instance *sli_binding_find(const sli_binding *b, const char *plugin, const char *interface, uint64_t min_size,
                              const void **table, const char **section, int *chosen) {
    *chosen = 0;
    for (int i = 0; i < b->n; i++) {
        const bound *c = &b->list[i];
        if (strcmp(c->package.plugin->id, plugin) != 0)
            continue;
        *chosen = 1;
        *section = c->choice->section->name;
        if ((*table = sli_instance_table(c->instance, interface, min_size)) != NULL)
            return c->instance->self;
    }
    return NULL;
}

int sli_binding_drafter_asks(const sli_binding *b, const char *capability) {
    for (int i = 0; i < b->n; i++) {
        const sl_plugin *p = b->list[i].package.plugin;
        if (strcmp(b->list[i].choice->scope.role, "speculation") != 0)
            continue;
        for (int k = 0; k < 2; k++)
            for (const char *const *id = k ? p->wants : p->needs; id != NULL && *id != NULL; id++)
                if (strcmp(*id, capability) == 0)
                    return 1;
    }
    return 0;
}

int sli_binding_hears(const sli_binding *b) {
    for (int i = 0; i < b->n; i++)
        if (SL_HAS_FN(b->list[i].package.plugin, sl_plugin, event))
            return 1;
    return 0;
}

void sli_binding_event(sli_binding *b, const sl_event *event) {
    for (int i = 0; i < b->n; i++) {
        const sl_plugin *p = b->list[i].package.plugin;
        if (b->list[i].first == NULL && SL_HAS_FN(p, sl_plugin, event))
            p->event(b->list[i].instance->self, event, NULL);
    }
}

int sli_binding_choice(const sli_binding *b, int i, sli_choice_made *out) {
    if (i >= b->n)
        return 0;
    const bound *c = &b->list[i];
    *out = (sli_choice_made){.role = c->choice->scope.role,
                       .section = c->choice->section->name,
                       .plugin = c->package.plugin,
                       .path = c->package.package->path,
                       .params = c->params,
                       .layer_stages = c->layer_stages};
    return 1;
}

const void *sli_binding_table(const sli_binding *b, const sl_instance *self, const char *interface, uint64_t min_size,
                              const char **id, const char **section) {
    for (int i = 0; i < b->n; i++) {
        const bound *c = &b->list[i];
        if (c->instance == NULL || c->instance->self != self)
            continue;
        *id = c->package.plugin->id;
        *section = c->choice->section->name;
        return sli_instance_table(c->instance, interface, min_size);
    }
    *id = *section = "";
    return NULL;
}

int sli_binding_name(const sli_binding *b, int i, const char **role, const char **id, const char **version) {
    if (i >= b->n)
        return 0;
    *role = b->list[i].choice->scope.role;
    *id = b->list[i].package.plugin->id;
    *version = b->list[i].package.plugin->version;
    return 1;
}
