/* api.h - between the core's errors and those of libsluice. */
#ifndef SLUICE_CORE_API_H
#define SLUICE_CORE_API_H

#include <stdio.h>
#include <string.h>

#include "libsluice.h"
#include "sl_error.h"

/* Declares an sl_error that writes straight into the caller's sluice_error (or nowhere). */
#define SLI_API(name, error) sl_error name = sli_api_error(error)

static inline sl_error sli_api_error(sluice_error *error) {
    if (error != NULL)
        error->code = SLUICE_OK, error->text[0] = '\0';
    return (sl_error){SL_SIZE(sl_error), SL_OK, error != NULL ? (uint32_t)sizeof error->text : 0,
                      error != NULL ? error->text : NULL};
}

static inline int sli_api_fail(const sl_error *err, sl_status status, sluice_error *error) {
    (void)err;
    if (error != NULL) {
        error->code = status;
        if (error->text[0] == '\0')
            snprintf(error->text, sizeof error->text, "%s", sl_status_text(status));
    }
    return status;
}

#endif
