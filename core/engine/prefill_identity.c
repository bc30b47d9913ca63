/* Which engines leave the same cache behind a prompt: one text that they share. It is too long rather than too short: a
 * difference that would not have mattered costs a prompt pass, one that was left out would cost a wrong answer. */
#include <dirent.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api.h"
#include "engine.h"
#include "sl_error.h"
#include "sl_tensor.h"

/* Capability ids of docs/abi.md. */
static const char plain_prefill[] = "sl.prefill.plain/1", exact_export[] = "sl.kv.export.exact/1";

static int provides(const sl_plugin *p, const char *what) {
    for (const char *const *id = p->provides; id != NULL && *id != NULL; id++)
        if (strcmp(*id, what) == 0)
            return 1;
    return 0;
}

/* A file is taken to be the same as long as its size and the time of its last change are. */
static void write_stat(FILE *out, const char *name, const struct stat *s) {
    fprintf(out, "file %s %" PRId64 " %" PRId64 ".%09ld\n", name, (int64_t)s->st_size, (int64_t)s->st_mtim.tv_sec,
            s->st_mtim.tv_nsec);
}

static void write_folder(FILE *out, const char *path) {
    struct dirent **list;
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char file[4096];
        struct stat s;
        snprintf(file, sizeof file, "%s/%s", path, list[i]->d_name);
        if (stat(file, &s) == 0 && S_ISREG(s.st_mode))
            write_stat(out, list[i]->d_name, &s);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
}

static void write_file(FILE *out, const char *path) {
    struct stat s;
    if (path == NULL || stat(path, &s) != 0)
        return;
    write_stat(out, path, &s);
    if (S_ISDIR(s.st_mode))
        write_folder(out, path);
}

static void write_params(FILE *out, const sl_params *params) {
    for (int64_t i = 0; params != NULL && i < params->n; i++) {
        const sl_param_value *v = params->values[i];
        fprintf(out, "  %s = %s\n", v->name, v->is_set && v->text != NULL ? v->text : "");
        if (v->is_set && v->text != NULL)
            write_file(out, v->text); /* a model's folder, an artifact */
    }
}

static void write_engine(const sluice_engine *e, FILE *out) {
    sluice_info info;
    Dl_info self;
    sluice_get_info(e, &info);
    fprintf(out, "sluice %s\n", sluice_version());
    if (dladdr((const void *)plain_prefill, &self) != 0)
        write_file(out, self.dli_fname);
    fprintf(out, "model %s %016" PRIx64 "\n", e->target.info->type, e->target.info->fingerprint);
    write_params(out, e->config->core[SLI_CORE_MODEL]);
    fprintf(out, "engine %s %s isa %s threads %d rows %s\n", info.device, info.device_name, info.isa, info.threads,
            info.kv_dtype);
    write_params(out, e->config->core[SLI_CORE_ENGINE]);
    if (!e->limits.deterministic) /* then results may depend on the chunks, and those on how large steps are */
        fprintf(out, "chunks of %" PRId64 ", steps of %" PRId64 "\n", e->prefill_chunk, e->limits.max_rows);
}

static int acts_on_prompts(const sli_choice_made *c, int32_t n_layers) {
    for (int32_t l = 0; l < n_layers; l++)
        if (c->layer_stages[l] & SL_STAGE_PREFILL)
            return 1;
    return 0;
}

/* Attention that only decodes must still find what it needs of the prompt in the rows, hence the declaration. */
static sl_status write_attention(const sli_choice_made *c, sl_error *err) {
    return provides(c->plugin, plain_prefill) ? SL_OK
                                              : sl_fail(err, SL_E_UNIMPLEMENTED, "[%s] %s does not provide %s",
                                                        c->section, c->plugin->id, plain_prefill);
}

static sl_status write_choice(const sluice_engine *e, const sli_choice_made *c, FILE *out, sl_error *err) {
    if (strcmp(c->role, "speculation") == 0)
        return e->stats.lossless
                   ? SL_OK
                   : sl_fail(err, SL_E_UNIMPLEMENTED, "[%s] %s changes what is generated", c->section, c->plugin->id);
    if (strcmp(c->role, "attention") == 0)
        return write_attention(c, err);
    if (strcmp(c->role, "kvcache.store") == 0 && !provides(c->plugin, exact_export))
        return sl_fail(err, SL_E_UNIMPLEMENTED, "[%s] %s does not provide %s", c->section, c->plugin->id, exact_export);
    if (strcmp(c->role, "kvcache.store") != 0 && strncmp(c->role, "quant", 5) != 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "[%s] %s changes the cache or the prompt, and a saved session does not "
                       "hold what it knows",
                       c->section, c->plugin->id);
    fprintf(out, "%s %s %s %s%s\n", c->role, c->section, c->plugin->id, c->plugin->version,
            acts_on_prompts(c, e->target.info->n_layers) ? "" : " (decoding alone)");
    write_file(out, c->path);
    write_params(out, c->params);
    return SL_OK;
}

int sluice_prefill_identity(const sluice_engine *e, sluice_write_fn write, void *user, sluice_error *error) {
    SLI_API(err, error);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    sl_status s = out != NULL ? SL_OK : sl_fail(&err, SL_E_NO_MEMORY, "no memory for a report");
    sli_choice_made c;
    if (s >= 0)
        write_engine(e, out);
    for (int i = 0; s >= 0 && sli_binding_choice(e->target_plugins, i, &c); i++)
        s = write_choice(e, &c, out, &err);
    if (out != NULL && fclose(out) != 0 && s >= 0)
        s = sl_fail(&err, SL_E_NO_MEMORY, "no memory for a report");
    if (s >= 0)
        write(user, text, length);
    free(text);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}
