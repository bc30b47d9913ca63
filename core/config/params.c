/* See params.h. One parser a type, in a table. */
#include "config/params.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ledger.h"
#include "config/ini.h"
#include "config/near.h"

/* What sli_params_bind makes; the public part comes first. */
typedef struct bound {
    sl_params head;
    sli_arena pool;
} bound;

/* One value being bound. */
typedef struct job {
    sli_arena *pool;
    const sl_param_def *def;
    const char *section; /* its name, for messages */
    const char *where;   /* origin, or "default" */
    const char *dir;
    sl_param_value *out;
    sl_error *err;
} job;

static sl_status no_memory(sl_error *err) { return sl_fail(err, SL_E_NO_MEMORY, "no memory for parameters"); }

/* key "page" in [kvcache] (run.ini:7): <what was expected> */
#define WRONG(j, code, fmt, ...)                                                                                       \
    sl_fail((j)->err, code, "key \"%s\" in [%s] (%s): " fmt, (j)->def->name, (j)->section, (j)->where, __VA_ARGS__)

/* People of other INI dialects write " # comment". */
static const char *comment_hint(const char *text) {
    return strstr(text, " #") != NULL ? " (a comment behind a value starts with \" ;\")" : "";
}

static sl_status not_a(const job *j, const char *expected, const char *text) {
    return WRONG(j, SL_E_INVALID, "expected %s, found \"%.60s\"%s", expected, text, comment_hint(text));
}

static sl_status check_range(const job *j, double v, const char *text) {
    double min = j->def->min, max = j->def->max;
    if (!(min <= max) || (v >= min && v <= max))
        return SL_OK;
    if (isinf(max))
        return WRONG(j, SL_E_RANGE, "%.40s is out of range, it must be %.15g or more", text, min);
    if (isinf(min))
        return WRONG(j, SL_E_RANGE, "%.40s is out of range, it must be %.15g or less", text, max);
    return WRONG(j, SL_E_RANGE, "%.40s is out of range %.15g to %.15g", text, min, max);
}

/* ---- one number ------------------------------------------------------------------------------------------------ */

static int64_t parse_int(const char *text, int *ok) {
    char *end;
    errno = 0;
    /* strtoll takes leading blanks too, which lists must not */
    *ok = text[0] != 0 && strspn(text, "+-0123456789") == strlen(text);
    long long v = *ok ? strtoll(text, &end, 10) : 0;
    if (*ok && (*end != 0 || errno != 0))
        *ok = 0;
    return v;
}

static double parse_real(const char *text, int *ok) {
    char *end;
    *ok = text[0] != 0 && strspn(text, "+-.eE0123456789") == strlen(text);
    double v = *ok ? strtod(text, &end) : 0;
    if (*ok && (*end != 0 || !isfinite(v)))
        *ok = 0;
    return v;
}

static sl_status bind_int(const job *j, const char *text) {
    int ok;
    int64_t v = parse_int(text, &ok);
    if (!ok)
        return not_a(j, "a whole number", text);
    j->out->integer = v;
    j->out->real = (double)v;
    return check_range(j, (double)v, text);
}

static sl_status bind_real(const job *j, const char *text) {
    int ok;
    if (strcmp(text, "inf") == 0 && isinf(j->def->max) && j->def->max > 0 && j->def->min <= j->def->max) {
        j->out->real = j->def->max; /* a range that has no end includes it */
        return SL_OK;
    }
    j->out->real = parse_real(text, &ok);
    return ok ? check_range(j, j->out->real, text) : not_a(j, "a number", text);
}

/* ---- words ----------------------------------------------------------------------------------------------------- */

static sl_status bind_bool(const job *j, const char *text) {
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i]) == 0) {
            j->out->integer = (int64_t)(i & 1);
            return SL_OK;
        }
    return not_a(j, "yes or no", text);
}

static sl_status bind_enum(const job *j, const char *text) {
    char list[200] = "", hint[SLI_HINT_BYTES];
    sli_near near = sli_near_to(text);
    const char *const *choices = j->def->choices;
    size_t used = 0;
    for (int i = 0; choices != NULL && choices[i] != NULL; i++) {
        if (strcmp(text, choices[i]) == 0) {
            j->out->integer = i;
            return SL_OK;
        }
        sli_near_offer(&near, choices[i]);
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : " | ", choices[i]);
    }
    return WRONG(j, SL_E_INVALID, "expected %s, found \"%.60s\"%s%s", list, text, comment_hint(text),
                 sli_near_hint(&near, hint, sizeof hint));
}

static sl_status bind_string(const job *j, const char *text) {
    (void)j, (void)text;
    return SL_OK;
}

static sl_status bind_path(const job *j, const char *text) {
    char *path = sli_arena_path_join(j->pool, j->dir, text);
    if (path == NULL)
        return no_memory(j->err);
    j->out->text = path;
    if (access(path, F_OK) != 0)
        return WRONG(j, SL_E_NOT_FOUND, "\"%.300s\": %s", path, strerror(errno));
    return SL_OK;
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

static const int64_t WIDEST = INT64_C(1) << 53; /* integers up to here are exact as double */

static sl_status bind_list(const job *j, const char *text, int whole) {
    size_t n = text[0] != 0;
    for (const char *c = text; *c != 0; c++)
        n += *c == ',';
    double *list = sli_arena_alloc(j->pool, n * sizeof *list);
    if (list == NULL)
        return no_memory(j->err);
    for (size_t i = 0; i < n; i++) {
        char item[64];
        text += strspn(text, " \t");
        size_t len = strcspn(text, ","), kept = len;
        while (kept > 0 && strchr(" \t", text[kept - 1]) != NULL)
            kept--;
        size_t shown = kept < sizeof item - 1 ? kept : sizeof item - 1;
        memcpy(item, text, shown);
        item[shown] = 0;
        int ok = 0;
        if (kept == shown && whole) {
            int64_t v = parse_int(item, &ok);
            ok = ok && v >= -WIDEST && v <= WIDEST; /* compared before the conversion rounds */
            list[i] = (double)v;
        } else if (kept == shown) {
            list[i] = parse_real(item, &ok);
        }
        if (!ok)
            return WRONG(j, SL_E_INVALID, "element %zu: expected a %snumber, found \"%s\"", i + 1,
                         whole ? "whole " : "", item);
        SL_TRY(check_range(j, list[i], item));
        text += len + (text[len] == ',');
    }
    j->out->list = list;
    j->out->n = (int64_t)n;
    return SL_OK;
}

static sl_status bind_int_list(const job *j, const char *text) { return bind_list(j, text, 1); }
static sl_status bind_real_list(const job *j, const char *text) { return bind_list(j, text, 0); }

/* ---- the table ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int may_be_empty; /* `key =` is a value, not a mistake */
    sl_status (*bind)(const job *j, const char *text);
} types[] = {
    [SL_PARAM_INT] = {"int", 0, bind_int},
    [SL_PARAM_FLOAT] = {"float", 0, bind_real},
    [SL_PARAM_BOOL] = {"bool", 0, bind_bool},
    [SL_PARAM_ENUM] = {"enum", 0, bind_enum},
    [SL_PARAM_STRING] = {"string", 1, bind_string},
    [SL_PARAM_PATH] = {"path", 0, bind_path},
    [SL_PARAM_INT_LIST] = {"int list", 1, bind_int_list},
    [SL_PARAM_FLOAT_LIST] = {"float list", 1, bind_real_list},
};

static int known_type(uint32_t type) { return type >= 1 && type < sizeof types / sizeof *types; }

const char *sli_param_type_name(uint32_t type) { return known_type(type) ? types[type].name : "?"; }

static sl_status bind_text(job *j, const char *text) {
    const sl_param_def *def = j->def;
    j->out->text = sli_arena_text(j->pool, text, strlen(text));
    if (j->out->text == NULL)
        return no_memory(j->err);
    if (text[0] == 0 && !types[def->type].may_be_empty)
        return WRONG(j, SL_E_INVALID, "expected a value of type %s, found nothing", types[def->type].name);
    j->out->is_set = 1;
    return types[def->type].bind(j, text);
}

static sl_status bind_one(job *j, const sli_section *section) {
    const sli_key *key = sli_section_get(section, j->def->name);
    *j->out = (sl_param_value){.struct_size = SL_SIZE(sl_param_value), .name = j->def->name};
    if (j->def->type == SL_PARAM_ENUM)
        j->out->integer = -1;
    if (key != NULL) {
        j->where = key->where;
        j->dir = key->dir;
        j->out->is_given = key->layer != SLI_FROM_DEFAULTS;
        return bind_text(j, key->value);
    }
    if (j->def->flags & SL_PARAM_REQUIRED)
        return sl_fail(j->err, SL_E_INVALID, "[%s] (%s) needs the key \"%s\": %s", j->section,
                       section != NULL ? section->where : "not given", j->def->name,
                       j->def->doc ? j->def->doc : "no default");
    if (j->def->fallback == NULL)
        return SL_OK;
    j->where = "default";
    j->dir = "";
    return bind_text(j, j->def->fallback);
}

static int in_words(const char *const *words, const char *word) {
    for (int i = 0; words != NULL && words[i] != NULL; i++)
        if (strcmp(words[i], word) == 0)
            return 1;
    return 0;
}

static int in_defs(const sl_param_def *const *defs, const char *name) {
    for (int i = 0; defs != NULL && defs[i] != NULL; i++)
        if (strcmp(defs[i]->name, name) == 0)
            return 1;
    return 0;
}

static sl_status refuse_unknown(const sl_param_def *const *defs, const sli_section *section,
                                const char *const *also_known, sl_error *err) {
    for (int i = 0; section != NULL && i < section->n_keys; i++) {
        const sli_key *key = &section->keys[i];
        if (in_defs(defs, key->name) || in_words(also_known, key->name))
            continue;
        char hint[SLI_HINT_BYTES];
        sli_near near = sli_near_to(key->name);
        for (int d = 0; defs != NULL && defs[d] != NULL; d++)
            sli_near_offer(&near, defs[d]->name);
        for (int w = 0; also_known != NULL && also_known[w] != NULL; w++)
            sli_near_offer(&near, also_known[w]);
        return sl_fail(err, SL_E_INVALID, "unknown key \"%s\" in [%s] (%s)%s", key->name, section->name, key->where,
                       sli_near_hint(&near, hint, sizeof hint));
    }
    return SL_OK;
}

/* The table may come from a stranger's package. */
static sl_status check_table(const sl_param_def *const *defs, const char *section, sl_error *err) {
    for (int i = 0; defs != NULL && defs[i] != NULL; i++) {
        const char *name = SL_HAS(defs[i], sl_param_def, flags) && defs[i]->name ? defs[i]->name : "?";
        const char *wrong = name[0] == '?' || name[0] == 0                               ? "has no name or size"
                            : !known_type(defs[i]->type)                                 ? "has an unknown type"
                            : defs[i]->type == SL_PARAM_ENUM && defs[i]->choices == NULL ? "is an enum without choices"
                                                                                         : NULL;
        for (int k = 0; wrong == NULL && k < i; k++)
            if (strcmp(defs[k]->name, name) == 0)
                wrong = "is defined twice";
        if (wrong != NULL)
            return sl_fail(err, SL_E_INVALID, "the parameter table for [%s] is wrong: entry %d, \"%s\", %s", section, i,
                           name, wrong);
    }
    return SL_OK;
}

sl_status sli_params_bind(const sl_param_def *const *defs, const sli_section *section, const char *const *also_known,
                          sl_params **out, sl_error *err) {
    const char *name = section != NULL ? section->name : "defaults";
    SL_TRY(check_table(defs, name, err));
    SL_TRY(refuse_unknown(defs, section, also_known, err));
    size_t n = 0;
    while (defs != NULL && defs[n] != NULL)
        n++;
    sl_status s = SL_OK;
    bound *b = sli_alloc(SLI_TAG_MISC, sizeof *b);
    sl_param_value *values = b ? sli_arena_alloc(&b->pool, n * sizeof *values) : NULL;
    const sl_param_value **list = b ? sli_arena_alloc(&b->pool, n * sizeof *list) : NULL;
    if (values == NULL || list == NULL) {
        s = no_memory(err);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        job j = {&b->pool, defs[i], name, "default", "", &values[i], err};
        if ((s = bind_one(&j, section)) < 0)
            goto out;
        list[i] = &values[i];
    }
    b->head = (sl_params){SL_SIZE(sl_params), list, (int64_t)n};
    *out = &b->head;
    return SL_OK;
out:
    sli_params_free(b != NULL ? &b->head : NULL);
    return s;
}

void sli_params_free(sl_params *params) {
    if (params == NULL)
        return;
    bound *b = (bound *)params;
    sli_arena_free(&b->pool);
    sli_free(b);
}

/* ---- access ---------------------------------------------------------------------------------------------------- */

const sl_param_value *sli_param_find(const sl_params *params, const char *name) {
    for (int64_t i = 0; i < params->n; i++)
        if (strcmp(params->values[i]->name, name) == 0)
            return params->values[i];
    return NULL;
}

static const sl_param_value *must_find(const sl_params *params, const char *name) {
    const sl_param_value *v = sli_param_find(params, name);
    assert(v != NULL && "no such parameter in the table");
    return v;
}

int64_t sli_param_int(const sl_params *params, const char *name) { return must_find(params, name)->integer; }
double sli_param_real(const sl_params *params, const char *name) { return must_find(params, name)->real; }
const char *sli_param_text(const sl_params *params, const char *name) { return must_find(params, name)->text; }
int sli_param_bool(const sl_params *params, const char *name) { return must_find(params, name)->integer != 0; }
