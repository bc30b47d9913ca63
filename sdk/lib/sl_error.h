/* Errors as values: format a message into a caller's sl_error and return its code. */
#ifndef SLUICE_LIB_ERROR_H
#define SLUICE_LIB_ERROR_H

#include "sluice/sl.h"

#if defined(__GNUC__)
#define SL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SL_PRINTF(fmt, args)
#endif

/* Writes code and text into err (NULL: nothing to write) and returns code, so that `return sl_fail(...)` reads well. */
sl_status sl_fail(sl_error *err, sl_status code, const char *fmt, ...) SL_PRINTF(3, 4);

/* Puts "<context>: " before the text that is already in err; returns err's code. For callers that know file or section. */
sl_status sl_fail_within(sl_error *err, sl_status code, const char *fmt, ...) SL_PRINTF(3, 4);

/* "ok", "out of range" ...; never NULL. */
const char *sl_status_text(sl_status code);

/* Return early with the status of an expression that failed. */
#define SL_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        sl_status sl_try_ = (expr);                                                                                    \
        if (sl_try_ < 0)                                                                                               \
            return sl_try_;                                                                                            \
    } while (0)

/* An error with its own text buffer, for callers that need one on the stack: SL_ERROR(err); f(..., &err); */
#define SL_ERROR_TEXT_BYTES 1024
#define SL_ERROR(name)                                                                                                 \
    char name##_text_[SL_ERROR_TEXT_BYTES] = "";                                                                       \
    sl_error name = {SL_SIZE(sl_error), SL_OK, SL_ERROR_TEXT_BYTES, name##_text_}

#endif
