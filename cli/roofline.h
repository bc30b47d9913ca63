/* roofline.h - what the parts of `sluice roofline` share. */
#ifndef SLUICE_CLI_ROOFLINE_H
#define SLUICE_CLI_ROOFLINE_H

#include <jansson.h>

#include "options.h"

/* Runs the request and adds what was measured: "measured" to the report and to each of its phases. 0, or -1 after
 * printing one error. */
int roofline_measure(const common *c, const sluice_roofline_request *r, int repeats, json_t *report);

/* The report as Markdown or as CSV. */
void roofline_print(const json_t *report);
void roofline_print_csv(const json_t *report);

#endif
