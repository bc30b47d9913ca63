/* report.h - what several commands tell about a run in the same words. */
#ifndef SLUICE_CLI_REPORT_H
#define SLUICE_CLI_REPORT_H

#include <jansson.h>

#include "libsluice.h"

/* A sluice_write_fn that takes one JSON object into the json_t * that user points to, NULL before; a line feed behind
 * it is nothing. */
void report_take(void *user, const char *text, size_t length);

/* Adds "device" to a report, and on a GPU its name and what it holds. */
void report_device_memory(const sluice_engine *engine, json_t *report);

/* Adds "prompts" to a report when a prompt transformer replaced some since the statistics began: tokens given and kept,
 * the part of the layers that ran to find them, seconds of that. */
void report_prompts(const sluice_engine *engine, json_t *report);

#endif
