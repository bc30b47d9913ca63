/* Packages as JSON, for `plugins list`, `plugins describe` and messages; and the same made in a child process, so that
 * a package that crashes or hangs while it is opened harms nobody. */
#ifndef SLUICE_CORE_DESCRIBE_H
#define SLUICE_CORE_DESCRIBE_H

#include <jansson.h>

#include "discover.h"

/* One plugin: {"id", "roles": [], "version", "summary", "paper", "vendor", "license", "params": [{"name", "type",
 * "doc", "default", "choices": [], "min", "max", "required", "expert"}], "needs": [], "wants": [], "provides": [],
 * "devices": ["cpu", "cuda"], "abi": "0.1", "path"}. Texts that the package leaves out are null; so are default, min
 * and max where there are none. Bytes that are not UTF-8 become '?'. Created: json_decref; NULL: no memory. */
json_t *sli_plugin_json(const sl_plugin *plugin, const char *abi, const char *path);
/* All plugins of a package that passed sli_package_check: an array of the above. */
json_t *sli_package_json(const sl_package *package, const char *path);

enum { SLI_DESCRIBE_MS = 5000 };

/* Opens the package in a child process and gets its description back. timeout_ms <= 0: SLI_DESCRIBE_MS.
 * *out: an array as of sli_package_json, created: json_decref.
 * Errors: what the loader found in the child, or SL_E_DATA: "PATH: package crashed with signal 11 while being scanned",
 * "... ended by itself (exit status 3) ...", "... did not answer within 5.0 s ...". [setup] */
sl_status sli_plugins_describe_child(const char *path, int timeout_ms, json_t **out, sl_error *err);

/* Which plugin in the search path provides a capability? For messages of sli_match, after something was found missing:
 * scans every candidate in a child process. user: a sli_provider_search. Returns "ID (PATH)", valid until the next
 * call, or NULL. [setup] */
typedef struct sli_provider_search {
    const sli_search *search;
    char name[512]; /* the answer */
} sli_provider_search;
const char *sli_provider_scan(void *user, const char *capability);

#endif
