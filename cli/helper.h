/* helper.h - programs that lie beside this one and tell what they found as JSON, an object a line. */
#ifndef SLUICE_CLI_HELPER_H
#define SLUICE_CLI_HELPER_H

#include <jansson.h>
#include <limits.h>

/* Where a program of ours is: beside this one, where a build tree or a folder of tests/cuda/run.sh has it, or where it
 * is installed. 0; -1: nowhere. */
int helper_find(const char *name, char path[PATH_MAX]);

/* Runs it with arguments (ended by NULL; the first one is its name) and hands each line over (stolen). Returns its exit
 * status; 128 + signal; -1: it could not be started, or printed what is no JSON, after one error. */
int helper_run(const char *path, const char *const *args, void (*line)(void *user, json_t *object), void *user);

#endif
