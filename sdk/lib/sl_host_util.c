/* Services and log lines; see sl_host_util.h. */
#include "sl_host_util.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const void *sl_host_service(const sl_host *host, const char *id, uint64_t min_size) {
    if (!SL_HAS_FN(host, sl_host, query))
        return NULL;
    const void *table = host->query(host, id);
    uint64_t size = 0; /* every table begins with its struct_size */
    if (table != NULL)
        memcpy(&size, table, sizeof size);
    return size >= min_size ? table : NULL;
}

sl_status sl_host_require(const sl_host *host, const char *plugin, const char *id, uint64_t min_size, const void **out,
                          sl_error *err) {
    *out = sl_host_service(host, id, min_size);
    if (*out != NULL)
        return SL_OK;
    return sl_fail(err, SL_E_NOT_FOUND, "%s: this host does not offer %s with at least %llu bytes of functions", plugin,
                   id, (unsigned long long)min_size);
}

void sl_logf(const sl_host *host, uint32_t level, const char *fmt, ...) {
    if (!SL_HAS_FN(host, sl_host, log))
        return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    host->log(host, level, line);
}
