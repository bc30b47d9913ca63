/* test_lane.h - a device for tests of plugins, made of host memory: a lane that queues its work and does it as late as
 * it may, when somebody waits. What a plugin hands over and changes too early shows as wrong data. */
#ifndef SLUICE_TEST_LANE_H
#define SLUICE_TEST_LANE_H

#include "test_host.h"

typedef struct test_work {
    void (*run)(const void *args);
    void *args; /* freed behind run */
} test_work;

typedef struct test_lane {
    sl_lane lane;
    sl_exec exec;
    test_work *work;
    int64_t n_work, cap;
    int64_t n_copies, n_syncs;
    int64_t memory_free; /* that device_info tells */
} test_lane;

/* Gives the host a device: memory of it (sl.mem/1, within the budget), lanes, copies, events, and the operations
 * append, move, keep and quantise on rows of bf16. The lane must outlive the host. */
void test_lane_init(test_lane *lane, test_host *host);
void test_lane_finish(test_lane *lane);

/* Work of a test's own operation, with a copy of args. */
void test_lane_queue(const sl_lane *lane, void (*run)(const void *args), const void *args, size_t bytes);
/* Does everything that was queued. */
void test_lane_run(test_lane *lane);

#endif
