/* gen_report.h - what a run over generated contexts tells, made of its rows. */
#ifndef SLUICE_CLI_GEN_REPORT_H
#define SLUICE_CLI_GEN_REPORT_H

#include "gen_run.h"

/* Adds counts, accuracies, the same by task and length, by turn and by depth, measurements, and the rows themselves. */
int gen_report(const gen_run *r, json_t *result, sluice_error *err);

/* Adds "against": paired differences of points to an earlier run of the same questions, over all and by task and
 * length. */
int gen_compare(json_t *result, const char *against, sluice_error *err);

#endif
