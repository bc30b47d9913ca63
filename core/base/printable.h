/* Text from files, made fit for a message: names in damaged files may hold anything. */
#ifndef SLUICE_CORE_PRINTABLE_H
#define SLUICE_CORE_PRINTABLE_H

enum { SLI_PRINTABLE_BYTES = 128 };

/* Copies s (NUL-terminated) into buf with everything outside printable ASCII as '?'; what does not fit ends in "...".
 * Returns buf. */
const char *sli_printable(char buf[SLI_PRINTABLE_BYTES], const char *s);

#endif
