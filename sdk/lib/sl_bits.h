/* Codes of 1 to 8 bits in a little-endian bit stream: code i lies at bit bits * i, lowest bits first. */
#ifndef SLUICE_LIB_BITS_H
#define SLUICE_LIB_BITS_H

#include <stdint.h>

/* Bytes of n codes. */
static inline int64_t sl_bits_bytes(int64_t n, int bits) { return (n * bits + 7) / 8; }

/* The byte behind a code is read only when the code reaches into it. */
static inline uint32_t sl_bits_get(const uint8_t *stream, int64_t i, int bits) {
    int64_t at = i * bits;
    int shift = (int)(at & 7);
    uint32_t v = stream[at >> 3];
    if (shift + bits > 8)
        v |= (uint32_t)stream[(at >> 3) + 1] << 8;
    return v >> shift & ((1u << bits) - 1);
}

/* Into a stream of zeros. */
static inline void sl_bits_put(uint8_t *stream, int64_t i, int bits, uint32_t code) {
    int64_t at = i * bits;
    int shift = (int)(at & 7);
    stream[at >> 3] |= (uint8_t)(code << shift);
    if (shift + bits > 8)
        stream[(at >> 3) + 1] |= (uint8_t)(code << shift >> 8);
}

#endif
