/* sha256.h - SHA-256 (FIPS 180-4), to name the text that a figure belongs to. */
#ifndef SLUICE_CLI_SHA256_H
#define SLUICE_CLI_SHA256_H

#include <stddef.h>

/* Writes 64 hexadecimal digits and a NUL. */
void sha256_hex(const void *data, size_t n, char out[65]);

#endif
