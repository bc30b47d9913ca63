/* resident.h - how much memory of this process is in the machine's memory, as the kernel of the system counts it. */
#ifndef SLUICE_CLI_RESIDENT_H
#define SLUICE_CLI_RESIDENT_H

#include <stdint.h>

typedef struct resident {
    int64_t peak;   /* bytes: the most since resident_restart, or since the process began where that is refused */
    int64_t mapped; /* bytes of files, now: weights that are used as they lie in their file are among them */
} resident;

/* Zeros where the system does not tell. */
resident resident_read(void);
/* The peak begins again with what is resident now. 0; -1: the system refuses. */
int resident_restart(void);

#endif
