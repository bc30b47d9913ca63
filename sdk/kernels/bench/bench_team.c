/* See bench_team.h. */
#include "bench_team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct member {
    slk_team *team;
    pthread_t thread;
    int part;
} member;

struct slk_team {
    _Atomic unsigned round; /* one more: there is work */
    _Atomic int left;       /* members that have not ended it */
    slk_team_fn fn;         /* NULL: end */
    void *user;
    int n, n_members;
    member *members;
};

/* Looks a while before it lets others run: there may be fewer cores than threads. */
static void pause_at(int *looks) {
    if (++*looks > 2000)
        sched_yield();
}

static void *work(void *arg) {
    member *m = arg;
    slk_team *t = m->team;
    for (unsigned seen = 0;;) {
        for (int looks = 0; atomic_load_explicit(&t->round, memory_order_acquire) == seen;)
            pause_at(&looks);
        seen++;
        if (t->fn == NULL)
            return NULL;
        if (m->part < t->n)
            t->fn(t->user, m->part, t->n);
        atomic_fetch_sub_explicit(&t->left, 1, memory_order_release);
    }
}

slk_team *slk_team_open(int most) {
    slk_team *t = calloc(1, sizeof *t);
    member *members = calloc((size_t)most, sizeof *members);
    if (t == NULL || members == NULL) {
        free(t), free(members);
        return NULL;
    }
    t->members = members;
    for (int i = 1; i < most; i++) {
        member *m = &members[t->n_members];
        *m = (member){.team = t, .part = i};
        if (pthread_create(&m->thread, NULL, work, m) != 0) {
            slk_team_close(t);
            return NULL;
        }
        t->n_members++;
    }
    return t;
}

static void begin(slk_team *t, int n, slk_team_fn fn, void *user) {
    t->fn = fn;
    t->user = user;
    t->n = n;
    atomic_store_explicit(&t->left, t->n_members, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->round, 1, memory_order_release);
}

void slk_team_run(slk_team *t, int n, slk_team_fn fn, void *user) {
    if (n == 1) { /* the others go on waiting */
        fn(user, 0, 1);
        return;
    }
    begin(t, n, fn, user);
    fn(user, 0, n);
    for (int looks = 0; atomic_load_explicit(&t->left, memory_order_acquire) > 0;)
        pause_at(&looks);
}

void slk_team_close(slk_team *t) {
    if (t == NULL)
        return;
    begin(t, 0, NULL, NULL);
    for (int i = 0; i < t->n_members; i++)
        pthread_join(t->members[i].thread, NULL);
    free(t->members);
    free(t);
}
