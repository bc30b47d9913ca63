/* Packages that are wrong on purpose, one for each -DBAD_...; tests/meson.build makes them, bad_setup_test refuses them. */
#include "sluice/plugin.h"

#include <stdlib.h>

#if defined(BAD_MAJOR)
#define MAJOR 99u
#else
#define MAJOR SL_ABI_MAJOR
#endif
#if defined(BAD_MINOR)
#define MINOR (SL_ABI_MINOR + 1)
#else
#define MINOR SL_ABI_MINOR
#endif
#if defined(BAD_TAG)
#define TAG (SL_ABI_TAG + 1)
#else
#define TAG SL_ABI_TAG
#endif
#if defined(BAD_MAGIC)
#define MAGIC 0x21444142u
#else
#define MAGIC SL_PACKAGE_MAGIC
#endif
#if defined(BAD_SYMBOL)
#define ENTRY not_the_entry
#else
#define ENTRY sl_package_0
#endif

SL_EXPORT const sl_package *ENTRY(void);
const sl_package *ENTRY(void) {
#ifdef BAD_CRASH
    abort();
#endif
    static const sl_package package = {SL_SIZE(sl_package), MAGIC, MAJOR, MINOR, TAG, NULL, 0, 0};
    return &package;
}
