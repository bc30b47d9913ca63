/* Loads the layers, merges them, checks the core's own sections. See config.h. */
#include "config/config_impl.h"

#include <string.h>

#include "base/ledger.h"

static const char built_in[] =
#include "config/defaults_ini.inc"
    ;

static sl_status no_memory(sl_error *err) { return sl_fail(err, SL_E_NO_MEMORY, "no memory for the configuration"); }

/* ---- merging --------------------------------------------------------------------------------------------------- */

/* Puts a copy of the key into the pool that outlives the layer. */
static sl_status copy_key(sli_arena *pool, sli_section *to, const sli_key *from, sl_error *err) {
    sli_key key = *from;
    const char **texts[] = {&key.name, &key.value, &key.where, &key.dir};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if ((*texts[i] = sli_arena_text(pool, *texts[i], strlen(*texts[i]))) == NULL)
            return no_memory(err);
    return sli_section_put(pool, to, &key, err);
}

/* Drops the keys of a plugin that `from` replaces by another one. */
static sl_status drop_replaced(loaded *c, sli_section *to, const sli_section *from, sl_error *err) {
    const sli_key *old = sli_section_get(to, "plugin"), *new = sli_section_get(from, "plugin");
    if (sli_is_core_section(to->name) || new == NULL || (old != NULL && strcmp(old->value, new->value) == 0))
        return SL_OK;
    if (old != NULL && old->layer != SLI_FROM_DEFAULTS) {
        replaced *more = sli_arena_grow(&c->merged.pool, c->replaced, c->n_replaced, &c->replaced_cap, sizeof *more);
        if (more == NULL)
            return no_memory(err);
        c->replaced = more;
        c->replaced[c->n_replaced++] = (replaced){to->name, old->value};
    }
    to->n_keys = 0;
    return SL_OK;
}

static sl_status merge(loaded *c, const sli_ini *layer, sl_error *err) {
    for (int i = 0; i < layer->n_sections; i++) {
        const sli_section *from = layer->sections[i];
        sli_section *to = sli_ini_find(&c->merged, from->name);
        if (to == NULL) {
            if ((to = sli_ini_add(&c->merged, from->name, from->where, from->layer)) == NULL)
                return no_memory(err);
        } else {
            SL_TRY(drop_replaced(c, to, from, err));
            if (to->layer == SLI_FROM_DEFAULTS) { /* messages lead to the user's heading */
                to->layer = from->layer;
                if ((to->where = sli_arena_text(&c->merged.pool, from->where, strlen(from->where))) == NULL)
                    return no_memory(err);
            }
        }
        for (int k = 0; k < from->n_keys; k++)
            SL_TRY(copy_key(&c->merged.pool, to, &from->keys[k], err));
    }
    return SL_OK;
}

/* ---- the core's sections --------------------------------------------------------------------------------------- */

/* A model is a folder, or a shape with keys of its own. */
static sl_status check_model(const loaded *c, sli_core_id id, sl_error *err) {
    static const struct {
        const char *key, *fallback;
    } of_shapes[] = {{"shape_dtype", "bf16"}, {"shape_seed", "0"}}; /* defaults are no contradiction: `config show` */
    const char *name = sli_core_sections[id].name;
    const sli_section *s = sli_ini_find(&c->merged, name);
    if (s == NULL)
        return SL_OK;
    const sli_key *path = sli_section_get(s, "path"), *shape = sli_section_get(s, "shape"), *other;
    if (path != NULL && shape != NULL)
        return sl_fail(err, SL_E_INVALID, "[%s] has both \"path\" (%s) and \"shape\" (%s): a model is one or the other",
                       name, path->where, shape->where);
    for (size_t i = 0; shape == NULL && i < sizeof of_shapes / sizeof *of_shapes; i++)
        if ((other = sli_section_get(s, of_shapes[i].key)) != NULL && strcmp(other->value, of_shapes[i].fallback) != 0)
            return sl_fail(err, SL_E_INVALID, "key \"%s\" in [%s] (%s) goes with \"shape\", which is not set",
                           other->name, name, other->where);
    if (id == SLI_CORE_DRAFT_MODEL && path == NULL && shape == NULL)
        return sl_fail(err, SL_E_INVALID, "[draft.model] (%s) needs the key \"path\" or \"shape\"", s->where);
    return SL_OK;
}

static sl_status bind_core(loaded *c, sl_error *err) {
    for (int i = 0; i < SLI_CORE_COUNT; i++) {
        const sli_section *s = sli_ini_find(&c->merged, sli_core_sections[i].name);
        if (i == SLI_CORE_DRAFT_MODEL && s == NULL)
            continue;
        SL_TRY(sli_params_bind(sli_core_sections[i].params, s, NULL, &c->core[i], err));
        c->head.core[i] = c->core[i];
    }
    SL_TRY(check_model(c, SLI_CORE_MODEL, err));
    return c->core[SLI_CORE_DRAFT_MODEL] != NULL ? check_model(c, SLI_CORE_DRAFT_MODEL, err) : SL_OK;
}

/* Says which key an error of a list belongs to. */
static sl_status in_sampling(const loaded *c, const char *name, sl_status s, sl_error *err) {
    const sli_key *key = sli_section_get(sli_ini_find(&c->merged, "sampling"), name);
    if (s == SL_E_NO_MEMORY || s >= 0)
        return s;
    return sl_fail_within(err, s, "key \"%s\" in [sampling] (%s)", name, key != NULL ? key->where : "default");
}

static sl_status parse_lists(loaded *c, sl_error *err) {
    sli_arena *pool = &c->merged.pool;
    const sl_params *p = c->core[SLI_CORE_SAMPLING];
    sli_config *h = &c->head;
    SL_TRY(in_sampling(c, "logit_bias",
                       sli_parse_biases(pool, sli_param_text(p, "logit_bias"), &h->biases, &h->n_biases, err), err));
    return in_sampling(c, "stop", sli_parse_stops(pool, sli_param_text(p, "stop"), &h->stops, &h->n_stops, err), err);
}

static sl_status split_plugin_dirs(loaded *c, sl_error *err) {
    sli_arena *pool = &c->merged.pool;
    const sli_key *key = sli_section_get(sli_ini_find(&c->merged, "plugins"), "path");
    if (key == NULL || key->value[0] == 0)
        return SL_OK;
    size_t most = 1;
    for (const char *p = key->value; *p != 0; p++)
        most += *p == ':';
    const char **dirs = sli_arena_alloc(pool, most * sizeof *dirs);
    if (dirs == NULL)
        return no_memory(err);
    int n = 0;
    for (const char *p = key->value;; p++) {
        size_t len = strcspn(p, ":");
        if (len == 0)
            return sl_fail(err, SL_E_INVALID, "key \"path\" in [plugins] (%s): element %d is empty", key->where, n + 1);
        char *one = sli_arena_text(pool, p, len);
        if (one == NULL || (dirs[n++] = sli_arena_path_join(pool, key->dir, one)) == NULL)
            return no_memory(err);
        if (p[len] == 0)
            break;
        p += len;
    }
    c->head.plugin_dirs = dirs;
    c->head.n_plugin_dirs = n;
    return SL_OK;
}

/* ---- loading --------------------------------------------------------------------------------------------------- */

/* Takes the file's layer as parsed. */
static sl_status load(const sli_ini *file, const char *const *sets, int n_sets, sli_config **out, sl_error *err) {
    sli_ini defaults = {0}, set = {0};
    loaded *c = sli_alloc(SLI_TAG_MISC, sizeof *c);
    sl_status s = c == NULL ? no_memory(err) : SL_OK;
    if (s >= 0)
        s = sli_ini_parse(&defaults, built_in, sizeof built_in - 1, "defaults.ini", "", SLI_FROM_DEFAULTS, err);
    for (int i = 0; s >= 0 && i < n_sets; i++)
        s = sli_ini_set(&set, sets[i], err);
    const sli_ini *layers[] = {&defaults, file, &set};
    for (int i = 0; s >= 0 && i < 3; i++)
        s = merge(c, layers[i], err);
    static sl_status (*const steps[])(loaded *, sl_error *) = {bind_core, parse_lists, split_plugin_dirs,
                                                               sli_choices_build};
    for (size_t i = 0; s >= 0 && i < sizeof steps / sizeof *steps; i++)
        s = steps[i](c, err);
    sli_ini_free(&defaults);
    sli_ini_free(&set);
    if (s < 0)
        sli_config_free(c != NULL ? &c->head : NULL);
    else
        *out = &c->head;
    return s;
}

sl_status sli_config_load(const char *path, const char *const *sets, int n_sets, sli_config **out, sl_error *err) {
    sli_ini file = {0};
    sl_status s = path == NULL ? SL_OK : sli_ini_read(&file, path, err);
    if (s >= 0)
        s = load(&file, sets, n_sets, out, err);
    sli_ini_free(&file);
    return s;
}

sl_status sli_config_load_text(const char *text, size_t n, const char *label, const char *dir, const char *const *sets,
                               int n_sets, sli_config **out, sl_error *err) {
    sli_ini file = {0};
    sl_status s = sli_ini_parse(&file, text, n, label, dir, SLI_FROM_FILE, err);
    if (s >= 0)
        s = load(&file, sets, n_sets, out, err);
    sli_ini_free(&file);
    return s;
}

void sli_config_free(sli_config *config) {
    if (config == NULL)
        return;
    loaded *c = (loaded *)config;
    for (int i = 0; i < SLI_CORE_COUNT; i++)
        sli_params_free(c->core[i]);
    sli_ini_free(&c->merged);
    sli_free(c);
}
