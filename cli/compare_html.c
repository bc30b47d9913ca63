#include "compare.h"
int compare_html(FILE *f, void *report) {
    (void)report;
    return fputs("x", f) < 0 ? -1 : 0;
}
