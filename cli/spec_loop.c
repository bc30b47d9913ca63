/* See spec_loop.h. */
#include "spec_loop.h"

#include <string.h>

void spec_loop_begin(spec_loop *l) { memset(l, 0, sizeof *l); }

int spec_loop_push(spec_loop *l, int32_t token) {
    int looping = 0;
    for (int64_t p = 1; p <= LOOP_PERIOD; p++) {
        int equal = l->n >= p && l->last[(l->n - p) % LOOP_PERIOD] == token;
        l->same[p] = equal ? l->same[p] + 1 : 0;
        looping |= l->same[p] >= (p > LOOP_TOKENS ? p : LOOP_TOKENS);
    }
    l->last[l->n++ % LOOP_PERIOD] = token;
    return looping;
}
