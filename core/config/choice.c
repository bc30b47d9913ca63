/* Plugin sections become choices; choices are found again by layer, stage and tensor. See config.h for the rules. */
#include "config/config_impl.h"

#include <assert.h>
#include <string.h>

#include "config/glob.h"
#include "config/near.h"

const char *const sli_choice_keys[] = {"plugin", NULL};

/* A plugin section with its parsed name. */
typedef struct entry {
    const sli_section *section;
    sli_scope scope;
    int used; /* [family.ID]: something chose ID */
} entry;

typedef struct builder {
    loaded *c;
    sli_arena *pool;
    entry *entries;
    int n;
    sl_error *err;
} builder;

static sl_status no_memory(sl_error *err) { return sl_fail(err, SL_E_NO_MEMORY, "no memory for the configuration"); }

static sl_status parse_names(builder *b) {
    const sli_ini *ini = &b->c->merged;
    b->entries = sli_arena_alloc(b->pool, (size_t)ini->n_sections * sizeof *b->entries);
    if (b->entries == NULL)
        return no_memory(b->err);
    for (int i = 0; i < ini->n_sections; i++) {
        const sli_section *s = ini->sections[i];
        if (sli_is_core_section(s->name))
            continue;
        entry *e = &b->entries[b->n];
        e->section = s;
        SL_TRY(sli_scope_parse(b->pool, s, &e->scope, b->err));
        if (e->scope.prefix[0] != 0 && b->c->core[SLI_CORE_DRAFT_MODEL] == NULL) {
            if (s->layer == SLI_FROM_DEFAULTS)
                continue; /* no second model, no plugins for it */
            return sl_fail(b->err, SL_E_INVALID, "section [%s] (%s) needs a second model: [draft.model] path", s->name,
                           s->where);
        }
        b->n++;
    }
    return SL_OK;
}

/* "x/attention_mine.so" -> "mine" */
static const char *id_of_path(sli_arena *pool, const char *path, const char *family) {
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    size_t n = strlen(name), f = strlen(family);
    if (n > 3 && strcmp(name + n - 3, ".so") == 0)
        n -= 3;
    if (n > f + 1 && strncmp(name, family, f) == 0 && name[f] == '_')
        name += f + 1, n -= f + 1;
    return sli_arena_text(pool, name, n);
}

static int looks_like_path(const char *plugin) {
    size_t n = strlen(plugin);
    return strchr(plugin, '/') != NULL || (n > 3 && strcmp(plugin + n - 3, ".so") == 0);
}

static sl_status name_plugin(builder *b, sli_choice *choice, const sli_key *key) {
    choice->where = key->where;
    choice->is_path = looks_like_path(key->value);
    if (choice->is_path) {
        choice->plugin = sli_arena_path_join(b->pool, key->dir, key->value);
        choice->id = id_of_path(b->pool, key->value, choice->scope.family);
        return choice->plugin != NULL && choice->id != NULL ? SL_OK : no_memory(b->err);
    }
    if (!sli_is_plugin_id(key->value))
        return sl_fail(
            b->err, SL_E_INVALID,
            "key \"plugin\" in [%s] (%s): expected an id (a-z, 0-9, _) or the path of a .so, found \"%.60s\"",
            choice->section->name, key->where, key->value);
    choice->plugin = choice->id = key->value;
    return SL_OK;
}

static sl_status put_all(builder *b, sli_section *to, const sli_section *from) {
    for (int i = 0; from != NULL && i < from->n_keys; i++)
        SL_TRY(sli_section_put(b->pool, to, &from->keys[i], b->err));
    return SL_OK;
}

/* The section without scope of the same role and model. */
static const sli_section *base_of(const builder *b, const sli_scope *scope) {
    for (int i = 0; i < b->n; i++) {
        const sli_scope *s = &b->entries[i].scope;
        if (s->role != NULL && s->rank == SLI_RANK_ALL && s->chain == 1 && strcmp(s->role, scope->role) == 0 &&
            strcmp(s->prefix, scope->prefix) == 0)
            return b->entries[i].section;
    }
    return NULL;
}

/* Only speculation may be told to be absent. */
static sl_status check_none(const builder *b, const sli_section *s, const sli_key *key) {
    for (int i = 0; i < s->n_keys; i++)
        if (&s->keys[i] != key)
            return sl_fail(b->err, SL_E_INVALID, "unknown key \"%s\" in [%s] (%s): plugin = none (%s) takes no keys",
                           s->keys[i].name, s->name, s->keys[i].where, key->where);
    return SL_OK;
}

/* Makes the choice of one section; *out = NULL when it chooses nothing. */
static sl_status choose(builder *b, const entry *e, sli_choice **out) {
    const sli_section *own = e->section, *base = NULL;
    const sli_key *key = sli_section_get(own, "plugin");
    *out = NULL;
    if (key == NULL && e->scope.rank != SLI_RANK_ALL && (base = base_of(b, &e->scope)) != NULL)
        key = sli_section_get(base, "plugin");
    if (key == NULL)
        return sl_fail(b->err, SL_E_INVALID, "section [%s] (%s) needs the key \"plugin\": an id or the path of a .so",
                       own->name, own->where);
    if (strcmp(e->scope.role, "speculation") == 0 && strcmp(key->value, "none") == 0)
        return check_none(b, own, key);
    sli_choice *choice = sli_arena_alloc(b->pool, sizeof *choice);
    sli_section *all = sli_arena_alloc(b->pool, sizeof *all);
    if (choice == NULL || all == NULL)
        return no_memory(b->err);
    all->name = own->name, all->where = own->where, all->layer = own->layer;
    *choice = (sli_choice){.scope = e->scope, .section = all};
    SL_TRY(name_plugin(b, choice, key));
    for (int i = 0; i < b->n; i++) {
        entry *of_id = &b->entries[i];
        if (of_id->scope.role != NULL || strcmp(of_id->scope.id, choice->id) != 0 ||
            strcmp(of_id->scope.family, e->scope.family) != 0 || strcmp(of_id->scope.prefix, e->scope.prefix) != 0)
            continue;
        of_id->used = 1;
        SL_TRY(put_all(b, all, of_id->section));
    }
    SL_TRY(put_all(b, all, base));
    SL_TRY(put_all(b, all, own));
    *out = choice;
    return SL_OK;
}

/* [attention.ID] for an ID that an upper layer replaced rests; for one that nobody ever named it is a mistake. */
static sl_status check_used(const builder *b, const entry *e, sli_choice *const *choices, int n) {
    const sli_scope *s = &e->scope;
    if (s->role != NULL || e->used)
        return SL_OK;
    for (int i = 0; i < b->c->n_replaced; i++) {
        const replaced *r = &b->c->replaced[i];
        const char *name = r->section;
        if (s->prefix[0] != 0)
            name += strncmp(name, "draft.", 6) == 0 ? 6 : strlen(name);
        const char *id = looks_like_path(r->plugin) ? id_of_path(b->pool, r->plugin, s->family) : r->plugin;
        if (id == NULL)
            return no_memory(b->err);
        if (strncmp(name, s->family, strlen(s->family)) == 0 && strcmp(id, s->id) == 0)
            return SL_OK;
    }
    char hint[SLI_HINT_BYTES];
    static const char *const words[] = {"prefill", "decode", "verify", "layers", "match", "policy", "codec", "prompt"};
    sli_near near = sli_near_to(s->id);
    for (int i = 0; i < n; i++)
        if (strcmp(choices[i]->scope.family, s->family) == 0 && strcmp(choices[i]->scope.prefix, s->prefix) == 0)
            sli_near_offer(&near, choices[i]->id);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        sli_near_offer(&near, words[i]);
    return sl_fail(b->err, SL_E_INVALID, "section [%s] (%s): no section of [%s%s%s] chooses plugin = %s%s",
                   e->section->name, e->section->where, s->prefix, s->prefix[0] ? "." : "", s->family, s->id,
                   sli_near_hint(&near, hint, sizeof hint));
}

/* The chain of policies runs by number, whatever order they are written in. */
static void sort_chains(sli_choice **list, int n) {
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0; k--) {
            sli_choice *a = list[k - 1], *b = list[k];
            if (strcmp(a->scope.role, b->scope.role) != 0 || strcmp(a->scope.prefix, b->scope.prefix) != 0 ||
                a->scope.chain <= b->scope.chain)
                break;
            list[k - 1] = b, list[k] = a;
        }
}

sl_status sli_choices_build(loaded *c, sl_error *err) {
    builder b = {c, &c->merged.pool, NULL, 0, err};
    SL_TRY(parse_names(&b));
    sli_choice **list = sli_arena_alloc(b.pool, (size_t)b.n * sizeof *list);
    if (list == NULL)
        return no_memory(err);
    /* grouped by role of one model, in the order in which the groups first appear */
    int n = 0;
    for (int i = 0; i < b.n; i++) {
        const sli_scope *lead = &b.entries[i].scope;
        int seen = lead->role == NULL;
        for (int k = 0; k < i && !seen; k++)
            seen = b.entries[k].scope.role != NULL && strcmp(b.entries[k].scope.role, lead->role) == 0 &&
                   strcmp(b.entries[k].scope.prefix, lead->prefix) == 0;
        for (int k = i; k < b.n && !seen; k++) {
            const sli_scope *s = &b.entries[k].scope;
            if (s->role == NULL || strcmp(s->role, lead->role) != 0 || strcmp(s->prefix, lead->prefix) != 0)
                continue;
            sli_choice *choice;
            SL_TRY(choose(&b, &b.entries[k], &choice));
            if (choice != NULL)
                list[n++] = choice;
        }
    }
    for (int i = 0; i < b.n; i++)
        SL_TRY(check_used(&b, &b.entries[i], list, n));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (sli_scopes_collide(&list[k]->scope, &list[i]->scope))
                return sl_fail(err, SL_E_INVALID, "sections [%s] (%s) and [%s] (%s) name the same layers",
                               list[k]->section->name, list[k]->section->where, list[i]->section->name,
                               list[i]->section->where);
    sort_chains(list, n);
    c->head.choices = (const sli_choice *const *)list;
    c->head.n_choices = n;
    return SL_OK;
}

/* ---- finding them ---------------------------------------------------------------------------------------------- */

static int is_for(const sli_choice *c, const char *prefix, const char *role) {
    return strcmp(c->scope.prefix, prefix) == 0 && strcmp(c->scope.role, role) == 0;
}

const sli_choice *sli_choice_next(const sli_config *config, const char *prefix, const char *role,
                                  const sli_choice *prev) {
    int i = 0;
    while (prev != NULL && i < config->n_choices && config->choices[i++] != prev) {
    }
    for (; i < config->n_choices; i++)
        if (is_for(config->choices[i], prefix, role))
            return config->choices[i];
    return NULL;
}

const sli_choice *sli_choice_for_layer(const sli_config *config, const char *prefix, const char *role, int layer,
                                       uint32_t stage) {
    assert(stage != 0 && (stage & (stage - 1)) == 0);
    const sli_choice *best = NULL;
    for (int i = 0; i < config->n_choices; i++) {
        const sli_choice *c = config->choices[i];
        if (is_for(c, prefix, role) && c->scope.match == NULL && (c->scope.stages & stage) &&
            sli_scope_has_layer(&c->scope, layer) && (best == NULL || c->scope.rank > best->scope.rank))
            best = c;
    }
    return best;
}

sl_status sli_choice_for_tensor(const sli_config *config, const char *prefix, int layer, const char *tensor,
                                const sli_choice **out, sl_error *err) {
    const sli_choice *best = NULL, *rival = NULL;
    for (int i = 0; i < config->n_choices; i++) {
        const sli_choice *c = config->choices[i];
        if (!is_for(c, prefix, "quant") || !sli_scope_has_layer(&c->scope, layer) ||
            (c->scope.match != NULL && !sli_glob_match(c->scope.match, tensor)) ||
            (best != NULL && c->scope.rank < best->scope.rank))
            continue;
        rival = best != NULL && best->scope.rank == c->scope.rank ? best : NULL;
        best = c;
    }
    if (rival != NULL)
        return sl_fail(err, SL_E_INVALID,
                       "tensor \"%.200s\" fits [%s] (%s) and [%s] (%s), and neither pattern pins down more", tensor,
                       rival->section->name, rival->section->where, best->section->name, best->section->where);
    *out = best;
    return SL_OK;
}

sl_status sli_config_check_layers(const sli_config *config, const char *prefix, int n_layers, sl_error *err) {
    for (int i = 0; i < config->n_choices; i++) {
        const sli_choice *c = config->choices[i];
        for (int r = 0; strcmp(c->scope.prefix, prefix) == 0 && r < c->scope.n_ranges; r++)
            if (c->scope.layers[r].last >= n_layers)
                return sl_fail(err, SL_E_RANGE, "section [%s] (%s) names layer %d, but the model has layers 0 to %d",
                               c->section->name, c->section->where, (int)c->scope.layers[r].last, n_layers - 1);
    }
    return SL_OK;
}

sl_status sli_config_check_tensors(const sli_config *config, const char *prefix, const char *const *names, int64_t n,
                                   sl_error *err) {
    for (int i = 0; i < config->n_choices; i++) {
        const sli_choice *c = config->choices[i];
        int64_t k = 0;
        if (c->scope.match == NULL || strcmp(c->scope.prefix, prefix) != 0)
            continue;
        while (k < n && !sli_glob_match(c->scope.match, names[k]))
            k++;
        if (k == n)
            return sl_fail(err, SL_E_NOT_FOUND,
                           "section [%s] (%s): no tensor of the model fits the pattern; one is called \"%s\"",
                           c->section->name, c->section->where, n > 0 ? names[n / 2] : "?");
    }
    return SL_OK;
}
