/* Writes a configuration back as an INI. See sli_config_show in config.h. */
#include "config/config_impl.h"

#include <string.h>
#include <unistd.h>

typedef struct printer {
    FILE *out;
    sl_error *err;
    char cwd[4096]; /* "" when it cannot be known; paths then stay as they are */
} printer;

static void print_path(const printer *p, const char *path) {
    if (path[0] != '/' && p->cwd[0] != 0)
        fprintf(p->out, "%s/", p->cwd);
    fputs(path, p->out);
}

/* key = value   ; origin */
static void print_key(const printer *p, const char *name, const char *value, int is_path, const char *origin) {
    fprintf(p->out, "%s = ", name);
    if (is_path)
        print_path(p, value);
    else
        fputs(value, p->out);
    int used = (int)(strlen(name) + 3 + strlen(value));
    fprintf(p->out, "%*s ; %s\n", used < 32 ? 32 - used : 0, "", origin);
}

static const char *origin_of(const sli_section *section, const char *key) {
    const sli_key *k = sli_section_get(section, key);
    return k == NULL || k->layer == SLI_FROM_DEFAULTS ? "default" : k->where;
}

/* All values of a table, those that are not set as comments. */
static void print_params(const printer *p, const sl_param_def *const *defs, const sl_params *params,
                         const sli_section *section) {
    for (int64_t i = 0; i < params->n; i++) {
        const sl_param_value *v = params->values[i];
        if (v->is_set)
            print_key(p, v->name, v->text, defs[i]->type == SL_PARAM_PATH, origin_of(section, v->name));
        else
            fprintf(p->out, "; %s is not set\n", v->name);
    }
}

static void print_core(const printer *p, const loaded *c, int i) {
    const sli_config *h = &c->head;
    const sli_section *section = sli_ini_find(&c->merged, sli_core_sections[i].name);
    fprintf(p->out, "[%s]\n", sli_core_sections[i].name);
    if (i != SLI_CORE_PLUGINS || h->n_plugin_dirs == 0) {
        print_params(p, sli_core_sections[i].params, h->core[i], section);
        return;
    }
    fputs("path = ", p->out);
    for (int d = 0; d < h->n_plugin_dirs; d++) {
        fputs(d > 0 ? ":" : "", p->out);
        print_path(p, h->plugin_dirs[d]);
    }
    fprintf(p->out, " ; %s\n", origin_of(section, "path"));
}

static sl_status print_choice(const printer *p, const sli_choice *choice, const sl_param_def *const *defs) {
    const sli_section *s = choice->section;
    fprintf(p->out, "\n[%s]\n", s->name);
    print_key(p, "plugin", choice->plugin, choice->is_path,
              strncmp(choice->where, "defaults.ini:", 13) == 0 ? "default" : choice->where);
    if (defs != NULL) {
        sl_params *params;
        SL_TRY(sli_params_bind(defs, s, sli_choice_keys, &params, p->err));
        print_params(p, defs, params, s);
        sli_params_free(params);
        return SL_OK;
    }
    for (int i = 0; i < s->n_keys; i++)
        if (strcmp(s->keys[i].name, "plugin") != 0)
            print_key(p, s->keys[i].name, s->keys[i].value, 0, s->keys[i].where);
    fputs("; the other keys of this plugin are not known\n", p->out);
    return SL_OK;
}

sl_status sli_config_show(const sli_config *config, FILE *out, sli_defs_fn defs, void *user, sl_error *err) {
    const loaded *c = (const loaded *)config;
    printer p = {out, err, ""};
    if (getcwd(p.cwd, sizeof p.cwd) == NULL)
        p.cwd[0] = 0;
    for (int i = 0; i < SLI_CORE_COUNT; i++) {
        if (config->core[i] == NULL)
            continue;
        fputs(i > 0 ? "\n" : "", out);
        print_core(&p, c, i);
    }
    for (int i = 0; i < config->n_choices; i++)
        SL_TRY(print_choice(&p, config->choices[i], defs != NULL ? defs(user, config->choices[i]) : NULL));
    if (sli_choice_next(config, "", "speculation", NULL) == NULL)
        fputs("\n[speculation]\nplugin = none\n", out);
    if (fflush(out) != 0 || ferror(out))
        return sl_fail(err, SL_E_IO, "cannot write the configuration");
    return SL_OK;
}
