/* services.h - host services that need the engine: model, sampling, random numbers, artifacts. */
#ifndef SLUICE_CORE_SERVICES_H
#define SLUICE_CORE_SERVICES_H

#include "libsluice.h"
#include "sluice/ops.h"
#include "plugin/plugin_host.h"

/* Offers all of them, and the operations, to the hosts of a context whose engine is a sluice_engine. */
sl_status sli_services_provide(sli_host_context *hosts, const sl_ops *ops, sl_error *err);

#endif
