/* The loader; see loader.h. */
#include "loader.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ledger.h"
#include "config/scope.h"
#include "package.h"
#include "roles.h"

/* ---- the packages of this process -------------------------------------------------------------------------------- */

static pthread_mutex_t packages_lock = PTHREAD_MUTEX_INITIALIZER;
static sli_package *packages;

const sli_package *sli_packages_open(void) {
    pthread_mutex_lock(&packages_lock);
    const sli_package *p = packages;
    pthread_mutex_unlock(&packages_lock);
    return p;
}

static const sli_package *known(const struct stat *st) {
    for (const sli_package *p = packages; p != NULL; p = p->next)
        if (p->device == (uint64_t)st->st_dev && p->inode == (uint64_t)st->st_ino)
            return p;
    return NULL;
}

/* A file that somebody else may replace must not become code of a privileged process. */
static sl_status check_writable(const char *path, const struct stat *file, sl_error *err) {
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == NULL)
        strcpy(dir, ".");
    else
        slash[slash == dir] = '\0';
    struct stat st;
    if (stat(dir, &st) != 0)
        return sl_fail(err, SL_E_IO, "%s: cannot look at its folder: %s", path, strerror(errno));
    if ((st.st_mode & S_IWOTH) || (file->st_mode & S_IWOTH))
        return sl_fail(err, SL_E_INVALID, "%s: %s is writable by everybody, which a privileged process does not accept",
                       path, (st.st_mode & S_IWOTH) ? "its folder" : "the file");
    return SL_OK;
}

/* dlopen treats a name without a slash as one to be searched for; this is a file. */
static void *open_library(const char *path, sl_error *err) {
    char local[PATH_MAX + 2];
    snprintf(local, sizeof local, "%s%s", strchr(path, '/') == NULL ? "./" : "", path);
    dlerror();
    void *library = dlopen(local, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL) {
        const char *why = dlerror();
        sl_fail(err, SL_E_IO, "%s: cannot be opened: %s", path, why != NULL ? why : "unknown reason");
    }
    return library;
}

/* Says which other entry symbol is there, if one of a near version is. */
static sl_status no_entry(void *library, const char *path, sl_error *err) {
    for (int major = 0; major < 10; major++) {
        char symbol[32];
        snprintf(symbol, sizeof symbol, "sl_package_%d", major);
        if (dlsym(library, symbol) != NULL)
            return sl_fail(err, SL_E_VERSION,
                           "%s: the package speaks ABI %d (exports %s), this host speaks ABI %u (%s)", path, major,
                           symbol, SL_ABI_MAJOR, SL_PACKAGE_SYMBOL);
    }
    return sl_fail(err, SL_E_VERSION, "%s: not a sluice package: it does not export %s", path, SL_PACKAGE_SYMBOL);
}

static sl_status negotiate(const char *path, const sl_package **out, sl_error *err) {
    void *library = open_library(path, err);
    if (library == NULL)
        return SL_E_IO;
    void *symbol = dlsym(library, SL_PACKAGE_SYMBOL);
    if (symbol == NULL)
        return no_entry(library, path, err);
    sl_package_fn entry;
    memcpy(&entry, &symbol, sizeof entry); /* object and function pointers: POSIX says they are of one size */
    *out = entry();
    return sli_package_check(*out, path, err);
}

static sl_status load(const char *path, const struct stat *st, const sli_package **out, sl_error *err) {
    const sl_package *package = NULL;
    SL_TRY(negotiate(path, &package, err));
    sli_package *made = sli_alloc(SLI_TAG_MISC, sizeof *made);
    char *copy = sli_strdup(SLI_TAG_MISC, path);
    if (made == NULL || copy == NULL) {
        sli_free(made);
        sli_free(copy);
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to register the package", path);
    }
    made->path = copy;
    made->package = package;
    made->device = (uint64_t)st->st_dev;
    made->inode = (uint64_t)st->st_ino;
    made->next = packages;
    packages = made;
    *out = made;
    return SL_OK;
}

sl_status sli_package_open(const char *path, int privileged, const sli_package **out, sl_error *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return sl_fail(err, errno == ENOENT || errno == ENOTDIR ? SL_E_NOT_FOUND : SL_E_IO, "%s: %s", path,
                       strerror(errno));
    if (!S_ISREG(st.st_mode))
        return sl_fail(err, SL_E_INVALID, "%s: not a regular file", path);
    if (privileged)
        SL_TRY(check_writable(path, &st, err));
    pthread_mutex_lock(&packages_lock);
    const sli_package *p = known(&st);
    sl_status s = SL_OK;
    if (p == NULL) {
        s = load(path, &st, &p, err);
        if (s == SL_OK)
            sli_plugins_debug("opened %s: ABI %u.%u, %u plugin(s)", path, p->package->abi_major, p->package->abi_minor,
                              p->package->n_plugins);
    } else
        sli_plugins_debug("%s is the same file as %s, which is open", path, p->path);
    pthread_mutex_unlock(&packages_lock);
    if (s < 0)
        sli_plugins_debug("refused: %s", err != NULL && err->text != NULL ? err->text : sl_status_text(s));
    else
        *out = p;
    return s;
}

/* ---- choosing a plugin of a package ------------------------------------------------------------------------------ */

static void list_plugins(const sl_package *package, char *out, size_t cap) {
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < package->n_plugins && used < cap; i++) {
        const sl_plugin *p = package->plugins[i];
        used += (size_t)snprintf(out + used, cap - used, "%s%s (", i > 0 ? ", " : "", p->id);
        for (int r = 0; p->roles[r] != NULL && used < cap; r++)
            used += (size_t)snprintf(out + used, cap - used, "%s%s", r > 0 ? ", " : "", p->roles[r]);
        if (used < cap)
            used += (size_t)snprintf(out + used, cap - used, ")");
    }
}

/* id NULL: the only plugin that has the role. */
static sl_status choose(const sli_package *package, const char *role, const char *id, sli_plugin *out, sl_error *err) {
    const sl_plugin *found = NULL;
    int with_role = 0;
    for (uint32_t i = 0; i < package->package->n_plugins; i++) {
        const sl_plugin *p = package->package->plugins[i];
        int fits = sli_plugin_has_role(p, role);
        with_role += fits;
        if (id != NULL ? strcmp(p->id, id) == 0 : fits && found == NULL)
            found = p;
    }
    char there[512];
    list_plugins(package->package, there, sizeof there);
    if (id != NULL && found == NULL)
        return sl_fail(err, SL_E_VERSION, "%s: the file name says '%s', but the package contains %s", package->path, id,
                       there);
    if (found == NULL || !sli_plugin_has_role(found, role))
        return sl_fail(err, SL_E_INVALID, "%s: no plugin for the role %s; the package contains %s", package->path, role,
                       there);
    if (id == NULL && with_role > 1)
        return sl_fail(err, SL_E_INVALID,
                       "%s: several plugins have the role %s: %s; name the file after the one you mean", package->path,
                       role, there);
    out->plugin = found;
    out->package = package;
    sli_plugins_debug("%s: plugin %s %s for the role %s", package->path, found->id, found->version, role);
    return SL_OK;
}

/* ---- by path, by id ---------------------------------------------------------------------------------------------- */

static sl_status open_path(const sli_search *search, const char *role, const char *path, sli_plugin *out,
                           sl_error *err) {
    const sli_package *package;
    char id[128];
    const char *family;
    SL_TRY(sli_package_open(path, sli_is_privileged(search), &package, err));
    int named = sli_file_suggests(path, &family, id, sizeof id);
    return choose(package, role, named ? id : NULL, out, err);
}

/* The list of what was tried; grows at its end and says so when it was cut. */
typedef struct tried {
    char text[4096];
    size_t used;
    int n;
} tried;

static void note_tried(tried *t, const char *path, const char *why) {
    t->n++;
    if (t->used >= sizeof t->text)
        return;
    t->used += (size_t)snprintf(t->text + t->used, sizeof t->text - t->used, "\n  %s: %s", path, why);
    sli_plugins_debug("not at %s: %s", path, why);
}

/* Looks for the package at one place. SL_SKIPPED: it is not there. */
static sl_status try_file(const sli_search *search, const char *path, const char *role, const char *id, tried *list,
                          sli_plugin *out, sl_error *err) {
    if (access(path, F_OK) != 0) {
        if (list != NULL)
            note_tried(list, path, strerror(errno));
        return SL_SKIPPED;
    }
    const sli_package *package;
    SL_TRY(sli_package_open(path, sli_is_privileged(search), &package, err));
    return choose(package, role, id, out, err);
}

/* Place number k of a folder. 0: the path is too long. */
static int place_of(char path[PATH_MAX], const char *dir, const char *family, const char *id, int k) {
    int n = k == 0 ? snprintf(path, PATH_MAX, "%s/%s_%s.so", dir, family, id)
                   : snprintf(path, PATH_MAX, "%s/%s/%s/%s_%s.so", dir, family, id, family, id);
    return n < PATH_MAX;
}

/* All folders, for one family's file name. After the first hit the others are only named. */
static sl_status try_family(const sli_search *search, const sli_dirs *dirs, const char *family, const char *role,
                            const char *id, tried *list, sli_plugin *out, sl_error *err) {
    sl_status s = SL_SKIPPED;
    for (int k = 0; k < 2 * dirs->n; k++) {
        char path[PATH_MAX];
        int fits = place_of(path, dirs->dir[k / 2], family, id, k % 2);
        if (s == SL_OK && fits && access(path, F_OK) == 0)
            sli_plugins_debug("%s is not used: %s comes first", path, out->package->path);
        else if (s == SL_SKIPPED && fits)
            s = try_file(search, path, role, id, list, out, err);
        else if (s == SL_SKIPPED && list != NULL)
            note_tried(list, dirs->dir[k / 2], "the path is too long");
        if (s < 0)
            return s;
    }
    return s;
}

static sl_status open_id(const sli_search *search, const sli_role *role, const char *id, sli_plugin *out,
                         sl_error *err) {
    sli_dirs dirs;
    SL_TRY(sli_dirs_make(search, &dirs, err));
    tried list = {.used = 0};
    sl_status s = try_family(search, &dirs, role->family, role->name, id, &list, out, err);
    for (const char *const *f = sli_families; *f != NULL && s == SL_SKIPPED; f++)
        if (strcmp(*f, role->family) != 0)
            s = try_family(search, &dirs, *f, role->name, id, NULL, out, err);
    if (s == SL_SKIPPED)
        s = sl_fail(err, SL_E_NOT_FOUND, "plugin '%s' (%s) was not found; tried%s", id, role->name, list.text);
    sli_dirs_free(&dirs);
    return s;
}

sl_status sli_plugin_open(const sli_search *search, const char *role, const char *name, sli_plugin *out,
                          sl_error *err) {
    const sli_role *r = sli_role_find(role);
    if (r == NULL)
        return sl_fail(err, SL_E_INVALID, "'%s' is not a role of a plugin", role);
    size_t n = strlen(name), prefix = strlen(r->family);
    if (strchr(name, '/') != NULL || (n > 3 && strcmp(name + n - 3, ".so") == 0))
        return open_path(search, role, name, out, err);
    const char *id = strncmp(name, r->family, prefix) == 0 && name[prefix] == '.' ? name + prefix + 1 : name;
    if (!sli_is_plugin_id(id))
        return sl_fail(err, SL_E_INVALID,
                       "'%s' is neither the id of a plugin (lower case letters, digits, underscores) nor "
                       "a path",
                       name);
    return open_id(search, r, id, out, err);
}
