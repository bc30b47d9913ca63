/* bench_record.h - a test of `sluice bench` as a record: llama-bench's keys and ours (docs/bench.md has them all). */
#ifndef SLUICE_CLI_BENCH_RECORD_H
#define SLUICE_CLI_BENCH_RECORD_H

#include "bench_run.h"
#include "records.h"

/* Every key that a record may have, in the order of the columns of CSV; ended by NULL. */
extern const char *const bench_record_keys[];

/* A new record. load_seconds: what opening the engine took. */
json_t *bench_record(sluice_engine *e, const bench_test *t, const bench_result *r, double load_seconds);

/* Columns of the table for these tests on this engine: those that can differ or say something. */
const record_column *bench_columns(sluice_engine *e, const bench_tests *tests);

#endif
