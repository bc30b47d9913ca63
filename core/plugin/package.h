/* Negotiation: is this thing that a package's entry function returned one that this host can use? Reads data only; no
 * function of a plugin is called. */
#ifndef SLUICE_CORE_PACKAGE_H
#define SLUICE_CORE_PACKAGE_H

#include "sluice/plugin.h"

/* Checks, in this order and each with its own message (path, what was expected, what was found): magic, ABI major,
 * minor, tag, size of the package, number of plugins; then of each plugin: size, id, roles, texts, bits that must be
 * understood, devices, mandatory functions, parameter table; and that no id occurs twice. While the ABI's major is 0
 * the minor must be equal: 0.x may break. SL_E_VERSION or, for nonsense inside of a package of the right version,
 * SL_E_DATA. */
sl_status sli_package_check(const sl_package *package, const char *path, sl_error *err);

#endif
