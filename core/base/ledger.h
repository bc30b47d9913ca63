/* The ledger: every allocation of the process that matters goes through it, so that reported memory is what the
 * allocator gave out, and "no allocation inside a step" can be counted instead of promised.
 *
 * Thread-safe. Counters are by tag, in bytes asked for. */
#ifndef SLUICE_CORE_LEDGER_H
#define SLUICE_CORE_LEDGER_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    SLI_TAG_MISC,    /* configuration, tokenizer, bookkeeping */
    SLI_TAG_WEIGHTS, /* weights, packed or converted; mapped files are counted by sli_ledger_note */
    SLI_TAG_KV,      /* what KV stores hold */
    SLI_TAG_SCRATCH, /* activations, logits, scratch of kernels */
    SLI_TAG_PLUGIN,  /* everything else that plugins asked for */
    SLI_TAG_KV_HOST, /* what KV stores keep in their second tier */
    SLI_TAG_COUNT
} sli_tag;

typedef struct sli_ledger_report {
    int64_t now[SLI_TAG_COUNT];  /* bytes held, by tag */
    int64_t peak[SLI_TAG_COUNT]; /* largest value of now, by tag */
    int64_t total, total_peak;   /* over all tags; peak of the sum */
    uint64_t allocations;        /* calls that returned memory, since the process began */
} sli_ledger_report;

/* Zeroed memory aligned to 64 bytes; NULL when there is none (bytes = 0 gives a unique pointer). */
void *sli_alloc(sli_tag tag, size_t bytes);
/* Grows or shrinks, keeping the contents; new bytes are zero. p may be NULL. On NULL the old block is untouched. */
void *sli_realloc(sli_tag tag, void *p, size_t bytes);
/* n elements of size bytes each, NULL on overflow. */
void *sli_calloc(sli_tag tag, size_t n, size_t size);
char *sli_strdup(sli_tag tag, const char *s);
void sli_free(void *p); /* NULL is legal */

/* Adds (or with a negative number removes) memory that did not come from here, such as a mapped file. */
void sli_ledger_note(sli_tag tag, int64_t bytes);
void sli_ledger_read(sli_ledger_report *out);

/* Memory that devices hold, told by whoever allocates there. Not part of the sums above: it is other memory. */
typedef enum {
    SLI_LEDGER_DEVICE, /* of a GPU */
    SLI_LEDGER_PINNED, /* of the host, pinned for a GPU */
    SLI_LEDGER_PLACES
} sli_ledger_place;

typedef struct sli_ledger_device_report {
    int64_t now[SLI_TAG_COUNT], peak[SLI_TAG_COUNT];
    int64_t total, total_peak;
} sli_ledger_device_report;

void sli_ledger_note_device(sli_ledger_place place, sli_tag tag, int64_t bytes);
void sli_ledger_read_device(sli_ledger_place place, sli_ledger_device_report *out);

/* Largest values begin again with what is held now, here and on devices. */
void sli_ledger_restart_peaks(void);

/* Makes the n-th allocation from now on (0 = the next) and all after it fail; a negative n turns that off. For tests. */
void sli_ledger_fail_after(int64_t n);

#endif
