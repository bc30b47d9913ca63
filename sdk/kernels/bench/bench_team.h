/* bench_team.h - threads that wait for work by looking, so that starting and ending it costs little beside a kernel. */
#ifndef SLUICE_KERNELS_BENCH_TEAM_H
#define SLUICE_KERNELS_BENCH_TEAM_H

typedef struct slk_team slk_team;

/* Part of n of a piece of work; part 0 runs in the caller. */
typedef void (*slk_team_fn)(void *user, int part, int n);

/* most: parts of the largest run, from 1 on. NULL: no memory, or no threads. */
slk_team *slk_team_open(int most);
/* Runs all parts of n <= most, and returns when the last has ended. */
void slk_team_run(slk_team *t, int n, slk_team_fn fn, void *user);
void slk_team_close(slk_team *t); /* NULL is legal */

#endif
