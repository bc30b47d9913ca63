/* Formatting of sl_error; see sl_error.h. */
#include "sl_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static SL_PRINTF(3, 0) sl_status vfail(sl_error *err, sl_status code, const char *fmt, va_list ap) {
    if (err == NULL)
        return code;
    err->code = code;
    if (err->text != NULL && err->cap > 0)
        vsnprintf(err->text, err->cap, fmt, ap);
    return code;
}

sl_status sl_fail(sl_error *err, sl_status code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    sl_status s = vfail(err, code, fmt, ap);
    va_end(ap);
    return s;
}

sl_status sl_fail_within(sl_error *err, sl_status code, const char *fmt, ...) {
    if (err == NULL || err->text == NULL || err->cap == 0)
        return code;
    char inner[SL_ERROR_TEXT_BYTES];
    snprintf(inner, sizeof inner, "%s", err->text);
    va_list ap;
    va_start(ap, fmt);
    vfail(err, code, fmt, ap);
    va_end(ap);
    size_t used = strlen(err->text);
    if (used < err->cap)
        snprintf(err->text + used, err->cap - used, ": %s", inner);
    return code;
}

const char *sl_status_text(sl_status code) {
#define CASE(name, value, text)                                                                                        \
    case name: return text;
    switch (code) { SL_STATUS_LIST(CASE) default: return code < 0 ? "unknown error" : "ok"; }
#undef CASE
}
