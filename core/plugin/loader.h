/* Opening packages: by path, or by family and id along the search path. A package is opened once a process (the same
 * file by device and inode, whatever path leads to it) and never closed: threads, thread-local data and tables of it
 * may be in use until exit. [setup] unless said otherwise; the table of packages has a lock, so engines may open at the
 * same time. */
#ifndef SLUICE_CORE_LOADER_H
#define SLUICE_CORE_LOADER_H

#include "discover.h"

/* One package in the process. Lives until exit. */
typedef struct sli_package {
    const char *path; /* by which it was opened first */
    const sl_package *package;
    uint64_t device, inode;
    const struct sli_package *next;
} sli_package;

/* One plugin found for a role. Points into what lives until exit. */
typedef struct sli_plugin {
    const sl_plugin *plugin;
    const sli_package *package;
} sli_plugin;

/* Opens and negotiates with exactly that file: dlopen (now, local, never unloaded), the entry function, and
 * sli_package_check. SL_E_NOT_FOUND: there is no such file; SL_E_IO: it cannot be opened; SL_E_INVALID: others may
 * replace it and the process is privileged; SL_E_VERSION, SL_E_DATA: not a package for this host. */
sl_status sli_package_open(const char *path, int privileged, const sli_package **out, sl_error *err);

/* Finds a plugin for a role ("attention", "kvcache.store" ...).
 * name  an id ("mine"), an id with its family ("attention.mine"), or a path: anything with a slash or ending in .so.
 * By id: the first file of the search that exists decides; files named after the plugin's other families are looked for
 * last. A file that exists and cannot be used is an error and not skipped. By path: the plugin that the file name
 * suggests, else the only one in the package that has the role.
 * SL_E_NOT_FOUND lists every file that was tried and why it did not do. */
sl_status sli_plugin_open(const sli_search *search, const char *role, const char *name, sli_plugin *out, sl_error *err);

/* All packages that are open now, newest first; NULL: none. [any] */
const sli_package *sli_packages_open(void);

#endif
