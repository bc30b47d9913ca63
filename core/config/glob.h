/* Patterns over tensor names: * any run of bytes (dots too), ? one byte, [abc] [a-z] [!x] one of a set. */
#ifndef SLUICE_CORE_GLOB_H
#define SLUICE_CORE_GLOB_H

/* 1 when the whole of text fits. Linear in the product of the lengths at worst. */
int sli_glob_match(const char *pattern, const char *text);
/* NULL when the pattern is well formed, else what is wrong with it. */
const char *sli_glob_wrong(const char *pattern);
/* How much a pattern pins down: its bytes outside of * ? and sets. */
int sli_glob_literals(const char *pattern);

#endif
