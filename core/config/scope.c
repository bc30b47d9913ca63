/* See scope.h. A table of roles; the longest name that the section begins with decides. */
#include "config/scope.h"

#include <stdlib.h>
#include <string.h>

#include "config/glob.h"
#include "config/near.h"
#include "config/schema.h"

enum { BY_STAGE = 1, BY_LAYERS = 2, BY_MATCH = 4, CHAIN = 8, ONE_MODEL = 16 };
enum { LONGEST_CHAIN = 16, LAYERS_MAX = 1 << 20 };

/* Longer names first, since [kvcache] is the beginning of [kvcache.policy]. */
static const struct role {
    const char *name, *role, *family;
    unsigned takes;
} roles[] = {
    {"kvcache.policy", "kvcache.policy", "kvcache", CHAIN},
    {"kvcache.codec", "kvcache.codec", "kvcache", 0},
    {"kvcache.prompt", "kvcache.prompt", "kvcache", 0},
    {"attention", "attention", "attention", BY_STAGE | BY_LAYERS},
    {"kvcache", "kvcache.store", "kvcache", 0},
    {"speculation", "speculation", "speculation", ONE_MODEL},
    {"quant.rewrite", "quant.rewrite", "quant", 0},
    {"quant", "quant", "quant", BY_LAYERS | BY_MATCH},
};

static const struct stage {
    const char *name;
    uint32_t bit;
} stages[] = {{"prefill", SL_STAGE_PREFILL}, {"decode", SL_STAGE_DECODE}, {"verify", SL_STAGE_VERIFY}};

#define N(table) (sizeof(table) / sizeof *(table))

int sli_is_plugin_id(const char *text) {
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n > 0 && n <= 64 && text[n] == 0;
}

static sl_status unknown(const sli_section *section, sl_error *err) {
    char hint[SLI_HINT_BYTES], names[2 * N(roles)][40];
    sli_near near = sli_near_to(section->name);
    for (int i = 0; i < SLI_CORE_COUNT; i++)
        sli_near_offer(&near, sli_core_sections[i].name);
    for (size_t i = 0; i < N(roles); i++) {
        sli_near_offer(&near, roles[i].name);
        strcpy(names[i], "draft.");
        strcat(names[i], roles[i].name);
        if (!(roles[i].takes & ONE_MODEL))
            sli_near_offer(&near, names[i]);
    }
    if (near.best == NULL) {
        /* "atention.layers 0-3": the family alone may be near */
        char family[SLI_HINT_BYTES];
        size_t n = strcspn(section->name, ". ");
        if (n < sizeof family) {
            memcpy(family, section->name, n);
            family[n] = 0;
            sli_near alone = sli_near_to(family);
            for (size_t i = 0; i < N(roles); i++)
                sli_near_offer(&alone, roles[i].name);
            near.best = alone.best;
        }
    }
    return sl_fail(err, SL_E_INVALID, "unknown section [%s] (%s)%s", section->name, section->where,
                   sli_near_hint(&near, hint, sizeof hint));
}

/* "0-3,7" */
static sl_status parse_layers(sli_arena *pool, const sli_section *section, const char *text, sli_scope *out,
                              sl_error *err) {
    int n = 1;
    for (const char *c = text; *c != 0; c++)
        n += *c == ',';
    sli_range *ranges = sli_arena_alloc(pool, (size_t)n * sizeof *ranges);
    if (ranges == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the configuration");
    for (int i = 0; i < n; i++) {
        long ends[2];
        for (int e = 0; e < 2; e++) {
            size_t digits = strspn(text, "0123456789");
            if (digits == 0 || digits > 7 || (ends[e] = strtol(text, NULL, 10)) > LAYERS_MAX)
                goto wrong;
            text += digits;
            if (e == 0 && *text != '-') {
                ends[1] = ends[0];
                break;
            }
            text += e == 0;
        }
        if (ends[0] > ends[1] || (*text != 0 && *text != ','))
            goto wrong;
        text += *text == ',';
        text += *text == ' ';
        ranges[i] = (sli_range){(int32_t)ends[0], (int32_t)ends[1]};
    }
    out->layers = ranges;
    out->n_ranges = n;
    out->rank += SLI_RANK_LAYERS;
    return SL_OK;
wrong:
    return sl_fail(err, SL_E_INVALID, "section [%s] (%s): expected layers such as \"0-3,7\"", section->name,
                   section->where);
}

/* Behind the role's name: "" or ".prefill" or ".layers 0-3" ... */
static sl_status parse_rest(sli_arena *pool, const sli_section *section, const struct role *role, const char *rest,
                            sli_scope *out, sl_error *err) {
    if ((role->takes & CHAIN) && rest[0] == ' ') {
        size_t digits = strspn(rest + 1, "0123456789");
        out->chain = digits > 0 && digits < 4 && rest[1 + digits] == 0 ? atoi(rest + 1) : 0;
        if (out->chain < 2 || out->chain > LONGEST_CHAIN)
            return sl_fail(err, SL_E_INVALID, "section [%s] (%s): expected a place in the chain from 2 to %d",
                           section->name, section->where, LONGEST_CHAIN);
        return SL_OK;
    }
    for (size_t i = 0; (role->takes & BY_STAGE) && i < N(stages); i++) {
        size_t n = strlen(stages[i].name);
        if (rest[0] == '.' && strncmp(rest + 1, stages[i].name, n) == 0 && (rest[n + 1] == 0 || rest[n + 1] == '.')) {
            out->stages = stages[i].bit;
            out->rank += SLI_RANK_STAGE;
            rest += n + 1;
            if (rest[0] == '.' && strncmp(rest, ".layers ", 8) != 0)
                return unknown(section, err);
            break;
        }
    }
    if (rest[0] == 0)
        return SL_OK;
    if (strcmp(rest, ".layers") == 0 || strncmp(rest, ".layers ", 8) == 0) {
        if (!(role->takes & BY_LAYERS))
            return sl_fail(err, SL_E_INVALID, "section [%s] (%s): only [attention] and [quant] can differ by layers",
                           section->name, section->where);
        return parse_layers(pool, section, rest[7] == 0 ? "" : rest + 8, out, err);
    }
    if ((role->takes & BY_MATCH) && (strcmp(rest, ".match") == 0 || strncmp(rest, ".match ", 7) == 0)) {
        out->match = rest[6] == 0 ? "" : rest + 7;
        const char *wrong = sli_glob_wrong(out->match);
        if (wrong != NULL)
            return sl_fail(err, SL_E_INVALID,
                           "section [%s] (%s): %s; expected a pattern over tensor names such as "
                           "\"model.layers.*.mlp.*\"",
                           section->name, section->where, wrong);
        out->rank = SLI_RANK_MATCH + sli_glob_literals(out->match);
        return SL_OK;
    }
    if (rest[0] == '.' && strcmp(role->name, role->family) == 0 && out->rank == 0 && sli_is_plugin_id(rest + 1)) {
        out->role = NULL;
        out->id = rest + 1;
        return SL_OK;
    }
    return unknown(section, err);
}

sl_status sli_scope_parse(sli_arena *pool, const sli_section *section, sli_scope *out, sl_error *err) {
    const char *name = section->name;
    *out = (sli_scope){.prefix = "", .stages = SL_STAGE_ALL, .chain = 1};
    if (strcmp(name, "hook") == 0 || strncmp(name, "hook.", 5) == 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "section [%s] (%s): hooks are not supported by this version", name,
                       section->where);
    if (strncmp(name, "draft.", 6) == 0) {
        out->prefix = "draft";
        name += 6;
    }
    for (size_t i = 0; i < N(roles); i++) {
        size_t n = strlen(roles[i].name);
        if (strncmp(name, roles[i].name, n) != 0 || (name[n] != 0 && name[n] != '.' && name[n] != ' '))
            continue;
        if ((roles[i].takes & ONE_MODEL) && out->prefix[0] != 0)
            return sl_fail(err, SL_E_INVALID, "section [%s] (%s): the second model cannot have a drafter of its own",
                           section->name, section->where);
        out->family = roles[i].family;
        out->role = roles[i].role;
        return parse_rest(pool, section, &roles[i], name + n, out, err);
    }
    return unknown(section, err);
}

int sli_scope_has_layer(const sli_scope *scope, int layer) {
    for (int i = 0; i < scope->n_ranges; i++)
        if (layer >= scope->layers[i].first && layer <= scope->layers[i].last)
            return 1;
    return scope->layers == NULL;
}

int sli_scopes_collide(const sli_scope *a, const sli_scope *b) {
    if (a->role == NULL || b->role == NULL || strcmp(a->role, b->role) != 0 || strcmp(a->prefix, b->prefix) != 0 ||
        a->rank != b->rank || a->chain != b->chain || !(a->stages & b->stages) || a->match != NULL || b->match != NULL)
        return 0;
    for (int i = 0; i < a->n_ranges; i++)
        for (int k = 0; k < b->n_ranges; k++)
            if (a->layers[i].first <= b->layers[k].last && b->layers[k].first <= a->layers[i].last)
                return 1;
    return a->layers == NULL && b->layers == NULL;
}
