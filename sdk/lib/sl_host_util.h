/* What every plugin does with its host at create: look services up, write log lines. */
#ifndef SLUICE_LIB_HOST_UTIL_H
#define SLUICE_LIB_HOST_UTIL_H

#include "sl_error.h"
#include "sluice/host.h"

/* Service table by id that has at least min_size bytes (SL_FIELD_END of the last function that is used), or NULL.
 * [setup] */
const void *sl_host_service(const sl_host *host, const char *id, uint64_t min_size);

/* The same for services that cannot be done without: writes the table to *out (a pointer to a table pointer), or
 * answers SL_E_NOT_FOUND with a text that names plugin and service. [setup] */
sl_status sl_host_require(const sl_host *host, const char *plugin, const char *id, uint64_t min_size, const void **out,
                          sl_error *err);

/* Formats one line (at most 1023 bytes) and logs it at SL_LOG_*. [any] */
void sl_logf(const sl_host *host, uint32_t level, const char *fmt, ...) SL_PRINTF(3, 4);

#endif
