/* sources.h - work that plugins ask for between steps: recomputed rows, scores in the background. */
#ifndef SLUICE_CORE_SOURCES_H
#define SLUICE_CORE_SOURCES_H

#include "engine.h"

enum { SLI_MAX_SOURCES = 16 };

typedef struct sli_sources sli_sources;

/* fns: [n] who asks for work; *out stays NULL when there are none. [setup] */
sl_status sli_sources_create(const sli_source_fn *fns, int n, sli_sources **out, sl_error *err);
void sli_sources_destroy(sli_sources *s); /* NULL is legal */

/* Behind a step: asks for work, runs what is to be run at once, and one piece of what may wait. [setup] */
sl_status sli_sources_run(sluice_engine *e, sl_error *err);

/* A session was cut to n tokens (0: it ends): rows behind that are recomputed no more. */
void sli_sources_cut(sluice_engine *e, int32_t seq, int64_t n);

#endif
