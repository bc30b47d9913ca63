/* Where packages are looked for. Order: the INI's [plugins] path, SLUICE_PLUGIN_PATH, `plugins/` beside the executable
 * (a build tree that was never installed), the install directory. In each folder a package is either
 * <folder>/<family>_<id>.so or <folder>/<family>/<id>/<family>_<id>.so. Nothing is opened here.
 *
 * SLUICE_DEBUG=plugins prints every decision of this room to stderr. */
#ifndef SLUICE_CORE_DISCOVER_H
#define SLUICE_CORE_DISCOVER_H

#include "sl_error.h"
#include "sluice/plugin.h"

/* What decides about the folders. A zeroed one is legal: environment, executable, install directory. [borrowed] */
typedef struct sli_search {
    const char *const *dirs; /* [n_dirs] of [plugins] path, resolved */
    int n_dirs;
    const char *base_dir; /* packages may lie in <base_dir>/plugins; NULL: the folder of the executable */
    int privileged; /* 1: act as with AT_SECURE: no environment, no file that others may replace. Servers set it */
} sli_search;

/* Folders in the order of the search, as texts "<folder>" with the reason of each. */
typedef struct sli_dirs {
    char **dir;
    const char **origin; /* static: "[plugins] path", "SLUICE_PLUGIN_PATH" ... */
    int n, cap;
} sli_dirs;

sl_status sli_dirs_make(const sli_search *search, sli_dirs *out, sl_error *err); /* created: sli_dirs_free */
void sli_dirs_free(sli_dirs *dirs);                                              /* a zeroed one is legal */

/* Is this process to trust neither environment nor folders that others can write to? */
int sli_is_privileged(const sli_search *search);

/* Family and id that a file name suggests: "a/attention_mine.so" -> "attention", "mine". 0: it suggests none. id is
 * written to `id`, at most cap bytes. */
int sli_file_suggests(const char *path, const char **family, char *id, size_t cap);

/* Called for every candidate, in search order and by name within a folder; 0 goes on. shadowed: an earlier folder holds
 * a file of the same name, which wins. */
typedef int (*sli_candidate_fn)(void *user, const char *path, const char *family, const char *id, int shadowed);
sl_status sli_plugins_scan(const sli_search *search, sli_candidate_fn fn, void *user, sl_error *err);

/* One line to stderr when SLUICE_DEBUG names "plugins". */
void sli_plugins_debug(const char *fmt, ...) SL_PRINTF(1, 2);

#endif
