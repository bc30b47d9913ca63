/* Decodes at a depth, launch by launch, for a profiler that counts what kernels move (go.sh bytes): the difference of
 * two numbers of steps is those steps alone. decode_steps DEPTH STEPS [section.key=value ...] The step behind DEPTH
 * rows of random numbers is a prompt of one token; STEPS steps of decoding follow. */
#include <stdio.h>
#include <stdlib.h>

#include "libsluice.h"

static int fail(const sluice_error *err) {
    fprintf(stderr, "decode_steps: %s\n", err->text);
    return 1;
}

int main(int argc, char **argv) {
    sluice_error err = {0};
    sluice_engine *e = NULL;
    sluice_session *s = NULL;
    sluice_sampling how;
    const int32_t token = 1;
    if (argc < 3) {
        fprintf(stderr, "usage: decode_steps DEPTH STEPS [section.key=value ...]\n");
        return 2;
    }
    sluice_options options = {.sets = (const char *const *)(argv + 3), .n_sets = argc - 3};
    if (sluice_open(&options, &e, &err) < 0)
        return fail(&err);
    sluice_default_sampling(e, &how);
    how.max_tokens = 1 + atoi(argv[2]);
    how.ignore_eos = 1;
    int bad = sluice_session_open(e, &s, &err) < 0 || sluice_session_fill(s, atoll(argv[1]), 1, &err) < 0 ||
              sluice_session_append(s, &token, 1, &err) < 0 || sluice_profile(e, 1, &err) < 0 ||
              sluice_generate(e, &s, 1, &how, 1, NULL, NULL, &err) < 0;
    int64_t steps[2];
    sluice_op_time acts[64];
    int n = bad ? 0 : sluice_profile_read(e, acts, 64, steps);
    for (int i = 0; i < n && i < 64; i++)
        if (acts[i].calls[1] > 0)
            printf("%-12s %9.1f us a step, %.0f calls\n", acts[i].name, 1e6 * acts[i].seconds[1] / (double)steps[1],
                   (double)acts[i].calls[1] / (double)steps[1]);
    sluice_close(e);
    return bad ? fail(&err) : 0;
}
