/* See printable.h. */
#include "printable.h"

#include <string.h>

const char *sli_printable(char buf[SLI_PRINTABLE_BYTES], const char *s) {
    int n = 0;
    for (; s[n] != '\0' && n < SLI_PRINTABLE_BYTES - 1; n++)
        buf[n] = s[n] >= 0x20 && s[n] < 0x7f ? s[n] : '?';
    buf[n] = '\0';
    if (s[n] != '\0')
        strcpy(buf + n - 3, "...");
    return buf;
}
