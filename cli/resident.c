/* See resident.h. Linux: /proc/self. */
#include "resident.h"

#include <stdio.h>
#include <sys/resource.h>

resident resident_read(void) {
    resident r = {0, 0};
    char line[256];
    long long kib;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1)
            r.peak = kib * 1024;
        else if (sscanf(line, "RssFile: %lld kB", &kib) == 1)
            r.mapped = kib * 1024;
    }
    if (f != NULL)
        fclose(f);
    struct rusage u;
    if (r.peak == 0 && getrusage(RUSAGE_SELF, &u) == 0)
        r.peak = (int64_t)u.ru_maxrss * 1024;
    return r;
}

int resident_restart(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f == NULL)
        return -1;
    int written = fputs("5\n", f) >= 0; /* proc(5): resets the peak */
    return fclose(f) == 0 && written ? 0 : -1;
}
