/* The table of roles; see roles.h. Slots that a header marks optional do not stand here. */
#include "roles.h"

#include <string.h>

#include "sl_error.h"
#include "sluice/attention.h"
#include "sluice/kv.h"
#include "sluice/quant.h"
#include "sluice/speculation.h"

#define SLOT(T, f)                                                                                                     \
    { #f, offsetof(T, f) }
#define END                                                                                                            \
    { NULL, 0 }

static const sli_role_slot attention_slots[] = {SLOT(sl_attention, caps), END};
static const sli_role_slot store_slots[] = {
    SLOT(sl_kv_store, layout), SLOT(sl_kv_store, quote),    SLOT(sl_kv_store, open),   SLOT(sl_kv_store, close),
    SLOT(sl_kv_store, grow),   SLOT(sl_kv_store, reserve),  SLOT(sl_kv_store, append), SLOT(sl_kv_store, view),
    SLOT(sl_kv_store, commit), SLOT(sl_kv_store, truncate), SLOT(sl_kv_store, length), END};
static const sli_role_slot policy_slots[] = {SLOT(sl_kv_policy, wants), SLOT(sl_kv_policy, choose),
                                             SLOT(sl_kv_policy, schedule), END};
static const sli_role_slot codec_slots[] = {SLOT(sl_kv_codec, encode), SLOT(sl_kv_codec, decode), END};
static const sli_role_slot prompt_slots[] = {SLOT(sl_kv_prompt, begin), END};
static const sli_role_slot speculation_slots[] = {SLOT(sl_speculation, caps), SLOT(sl_speculation, propose), END};
static const sli_role_slot quant_slots[] = {SLOT(sl_quant, claim),
                                            SLOT(sl_quant, pack_size),
                                            SLOT(sl_quant, pack_into),
                                            SLOT(sl_quant, bind),
                                            SLOT(sl_quant, unbind),
                                            SLOT(sl_quant, matmul),
                                            END};

static const sli_role_slot rewrite_slots[] = {SLOT(sl_quant_rewrite, basis), SLOT(sl_quant_rewrite, tensor),
                                              SLOT(sl_quant_rewrite, maps), END};

const sli_role sli_roles[] = {
    {"attention", "attention", SL_ATTENTION_ID, SL_FIELD_END(sl_attention, caps), attention_slots, 1},
    {"kvcache.store", "kvcache", SL_KV_STORE_ID, SL_FIELD_END(sl_kv_store, length), store_slots, 1},
    {"kvcache.policy", "kvcache", SL_KV_POLICY_ID, SL_FIELD_END(sl_kv_policy, schedule), policy_slots, 0},
    {"kvcache.codec", "kvcache", SL_KV_CODEC_ID, SL_FIELD_END(sl_kv_codec, decode), codec_slots, 1},
    {"kvcache.prompt", "kvcache", SL_KV_PROMPT_ID, SL_FIELD_END(sl_kv_prompt, begin), prompt_slots, 1},
    {"speculation", "speculation", SL_SPECULATION_ID, SL_FIELD_END(sl_speculation, propose), speculation_slots, 1},
    {"quant", "quant", SL_QUANT_ID, SL_FIELD_END(sl_quant, matmul), quant_slots, 0}, /* scopes are tensor patterns */
    {"quant.rewrite", "quant", SL_QUANT_REWRITE_ID, SL_FIELD_END(sl_quant_rewrite, maps), rewrite_slots, 1},
    {NULL, NULL, NULL, 0, NULL, 0}};

const char *const sli_families[] = {"attention", "kvcache", "speculation", "quant", NULL};

const sli_role *sli_role_find(const char *name) {
    for (const sli_role *r = sli_roles; r->name != NULL; r++)
        if (strcmp(r->name, name) == 0)
            return r;
    return NULL;
}

int sli_plugin_has_role(const sl_plugin *plugin, const char *role) {
    for (const char *const *r = plugin->roles; *r != NULL; r++)
        if (strcmp(*r, role) == 0)
            return 1;
    return 0;
}

int sli_plugin_in_family(const sl_plugin *plugin, const char *family) {
    for (const char *const *r = plugin->roles; *r != NULL; r++) {
        const sli_role *role = sli_role_find(*r);
        if (role != NULL && strcmp(role->family, family) == 0)
            return 1;
    }
    return 0;
}

/* A function pointer read through its bytes: every pointer of a table has the size of this one. */
static int is_null_slot(const void *table, size_t offset) {
    void (*fn)(void);
    memcpy(&fn, (const char *)table + offset, sizeof fn);
    return fn == NULL;
}

sl_status sli_role_check(const sli_role *role, const char *who, const void *table, sl_error *err) {
    if (table == NULL)
        return sl_fail(err, SL_E_VERSION,
                       "%s: query(\"%s\") answered NULL, but the plugin says that it has the role %s", who,
                       role->interface, role->name);
    uint64_t size;
    memcpy(&size, table, sizeof size);
    if (size < role->min_size)
        return sl_fail(err, SL_E_VERSION, "%s: the table %s has %llu bytes, expected at least %llu", who,
                       role->interface, (unsigned long long)size, (unsigned long long)role->min_size);
    for (const sli_role_slot *s = role->slots; s->name != NULL; s++)
        if (is_null_slot(table, s->offset))
            return sl_fail(err, SL_E_VERSION, "%s: the mandatory function %s of %s is NULL", who, s->name,
                           role->interface);
    return SL_OK;
}
