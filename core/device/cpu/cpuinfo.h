/* What this machine's CPU is and may be used for. */
#ifndef SLUICE_CORE_CPUINFO_H
#define SLUICE_CORE_CPUINFO_H

#include "sluice/host.h"

typedef struct sli_cpuinfo {
    uint32_t isa;   /* set of SL_ISA_*; only what the operating system saves too (XGETBV). 0: plain C */
    int32_t cores;  /* CPUs that this process may run on (its affinity mask), 1 at least */
    char brand[64]; /* "AMD EPYC 9554 64-Core Processor"; "unknown" where the CPU does not tell */
} sli_cpuinfo;

void sli_cpuinfo_read(sli_cpuinfo *out); /* [any] */

#endif
