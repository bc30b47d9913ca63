/* Near matches for messages: which known word did the user probably mean? */
#ifndef SLUICE_CORE_NEAR_H
#define SLUICE_CORE_NEAR_H

#include <stddef.h>

/* Collects the best candidate; the words are borrowed. */
typedef struct sli_near {
    const char *word, *best;
    int distance;
} sli_near;

/* Insertions, deletions, substitutions and swaps of neighbours that make b of a. Bytes, not letters. Texts longer than
 * 64 bytes are never near: the answer is then 64. */
int sli_edit_distance(const char *a, const char *b);

sli_near sli_near_to(const char *word);
void sli_near_offer(sli_near *near, const char *candidate);
/* "; did you mean "x"?" into text, or the empty string when nothing offered is near enough (a third of the word's
 * length, or a word that begins like it); returns text. */
const char *sli_near_hint(const sli_near *near, char *text, size_t bytes);

#define SLI_HINT_BYTES 128

#endif
