/* Folders and candidates; see discover.h. */
#include "discover.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/ledger.h"
#include "config/scope.h"
#include "package.h"
#include "plugin/build_info.h"
#include "roles.h"

/* ---- what was decided, for whoever wonders ----------------------------------------------------------------------- */

static int wants_debug(void) {
    const char *list = secure_getenv("SLUICE_DEBUG");
    while (list != NULL && *list != '\0') {
        size_t n = strcspn(list, ", ");
        if (n == strlen("plugins") && strncmp(list, "plugins", n) == 0)
            return 1;
        list += n + (list[n] != '\0');
    }
    return 0;
}

void sli_plugins_debug(const char *fmt, ...) {
    if (!wants_debug())
        return;
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    fprintf(stderr, "sluice: plugins: %s\n", line);
}

int sli_is_privileged(const sli_search *search) {
    return (search != NULL && search->privileged) || getauxval(AT_SECURE) != 0;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

void sli_dirs_free(sli_dirs *dirs) {
    for (int i = 0; i < dirs->n; i++)
        sli_free(dirs->dir[i]);
    sli_free(dirs->dir);
    sli_free(dirs->origin);
    memset(dirs, 0, sizeof *dirs);
}

static sl_status add(sli_dirs *dirs, const char *text, size_t n, const char *origin) {
    if (n == 0)
        return SL_OK;
    if (dirs->n == dirs->cap) {
        int cap = dirs->cap > 0 ? 2 * dirs->cap : 8;
        char **dir = sli_realloc(SLI_TAG_MISC, dirs->dir, (size_t)cap * sizeof *dir);
        if (dir == NULL)
            return SL_E_NO_MEMORY;
        dirs->dir = dir;
        const char **origins = sli_realloc(SLI_TAG_MISC, dirs->origin, (size_t)cap * sizeof *origins);
        if (origins == NULL)
            return SL_E_NO_MEMORY;
        dirs->origin = origins;
        dirs->cap = cap;
    }
    char *copy = sli_alloc(SLI_TAG_MISC, n + 1);
    if (copy == NULL)
        return SL_E_NO_MEMORY;
    memcpy(copy, text, n);
    dirs->dir[dirs->n] = copy;
    dirs->origin[dirs->n++] = origin;
    return SL_OK;
}

static sl_status add_list(sli_dirs *dirs, const char *list, const char *origin) {
    while (list != NULL && *list != '\0') {
        size_t n = strcspn(list, ":");
        SL_TRY(add(dirs, list, n, origin));
        list += n + (list[n] == ':');
    }
    return SL_OK;
}

/* The folder of the running executable, without a trailing slash; "" when the system does not tell. */
static void executable_dir(char out[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash != NULL)
        *slash = '\0';
}

static sl_status collect(const sli_search *search, sli_dirs *dirs) {
    for (int i = 0; search != NULL && i < search->n_dirs; i++)
        SL_TRY(add(dirs, search->dirs[i], strlen(search->dirs[i]), "[plugins] path"));
    if (!sli_is_privileged(search))
        SL_TRY(add_list(dirs, secure_getenv("SLUICE_PLUGIN_PATH"), "SLUICE_PLUGIN_PATH"));
    char base[PATH_MAX + 16] = "";
    if (search != NULL && search->base_dir != NULL)
        snprintf(base, PATH_MAX, "%s", search->base_dir);
    else
        executable_dir(base);
    if (base[0] != '\0') {
        strcat(base, "/plugins");
        SL_TRY(add(dirs, base, strlen(base), "beside the program"));
    }
    return add(dirs, SLI_PLUGIN_DIR, strlen(SLI_PLUGIN_DIR), "installed");
}

sl_status sli_dirs_make(const sli_search *search, sli_dirs *out, sl_error *err) {
    memset(out, 0, sizeof *out);
    sl_status s = collect(search, out);
    if (s < 0) {
        sli_dirs_free(out);
        return sl_fail(err, s, "no memory for the list of plugin folders");
    }
    return SL_OK;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

int sli_file_suggests(const char *path, const char **family, char *id, size_t cap) {
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    size_t n = strlen(name);
    if (n < 4 || strcmp(name + n - 3, ".so") != 0)
        return 0;
    for (const char *const *f = sli_families; *f != NULL; f++) {
        size_t prefix = strlen(*f);
        if (strncmp(name, *f, prefix) != 0 || name[prefix] != '_' || n - 3 <= prefix + 1 || n - 3 - prefix > cap)
            continue;
        snprintf(id, cap, "%.*s", (int)(n - 3 - prefix - 1), name + prefix + 1);
        *family = *f;
        return sli_is_plugin_id(id);
    }
    return 0;
}

typedef struct names {
    char **name; /* paths found, in order */
    int n, cap;
} names;

static sl_status remember(names *all, const char *path) {
    if (all->n == all->cap) {
        int cap = all->cap > 0 ? 2 * all->cap : 32;
        char **wider = sli_realloc(SLI_TAG_MISC, all->name, (size_t)cap * sizeof *wider);
        if (wider == NULL)
            return SL_E_NO_MEMORY;
        all->name = wider;
        all->cap = cap;
    }
    all->name[all->n] = sli_strdup(SLI_TAG_MISC, path);
    return all->name[all->n] != NULL ? (all->n++, SL_OK) : SL_E_NO_MEMORY;
}

/* Adds the .so files of one folder whose names suggest a package. A folder that cannot be read has none. */
static sl_status list_folder(const char *dir, names *out) {
    struct dirent **entries;
    int n = scandir(dir, &entries, NULL, alphasort);
    sl_status s = SL_OK;
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX], id[128];
        const char *family;
        if (s == SL_OK && sli_file_suggests(entries[i]->d_name, &family, id, sizeof id) &&
            snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name) < (int)sizeof path)
            s = remember(out, path);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return s;
}

/* <dir>/<family>/<id>/<family>_<id>.so for each family and folder. */
static sl_status list_tree(const char *dir, names *out) {
    sl_status s = SL_OK;
    for (const char *const *f = sli_families; *f != NULL && s == SL_OK; f++) {
        char family_dir[PATH_MAX], path[PATH_MAX];
        struct dirent **entries;
        if (snprintf(family_dir, sizeof family_dir, "%s/%s", dir, *f) >= (int)sizeof family_dir)
            continue;
        int n = scandir(family_dir, &entries, NULL, alphasort);
        for (int i = 0; i < n; i++) {
            const char *id = entries[i]->d_name;
            if (s == SL_OK && sli_is_plugin_id(id) &&
                snprintf(path, sizeof path, "%s/%s/%s_%s.so", family_dir, id, *f, id) < (int)sizeof path &&
                access(path, F_OK) == 0)
                s = remember(out, path);
            free(entries[i]);
        }
        if (n >= 0)
            free(entries);
    }
    return s;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

sl_status sli_plugins_scan(const sli_search *search, sli_candidate_fn fn, void *user, sl_error *err) {
    sli_dirs dirs;
    names all = {0};
    SL_TRY(sli_dirs_make(search, &dirs, err));
    sl_status s = SL_OK;
    for (int i = 0; i < dirs.n && s == SL_OK; i++) {
        s = list_folder(dirs.dir[i], &all);
        if (s == SL_OK)
            s = list_tree(dirs.dir[i], &all);
    }
    if (s < 0)
        sl_fail(err, s, "no memory for the list of plugins");
    for (int i = 0; i < all.n && s == SL_OK; i++) {
        char id[128];
        const char *family = "";
        int shadowed = 0;
        for (int j = 0; j < i && !shadowed; j++)
            shadowed = strcmp(base_name(all.name[i]), base_name(all.name[j])) == 0;
        sli_file_suggests(all.name[i], &family, id, sizeof id);
        if (fn(user, all.name[i], family, id, shadowed) != 0)
            break;
    }
    for (int i = 0; i < all.n; i++)
        sli_free(all.name[i]);
    sli_free(all.name);
    sli_dirs_free(&dirs);
    return s;
}
