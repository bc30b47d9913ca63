/* e2e.h - what end-to-end tests share: engines opened from overrides, golden data, generating and comparing, scratch
 * folders. Uses libsluice.h and nothing else of the core. Everything that goes wrong in here fails the running test. */
#ifndef SLUICE_TEST_E2E_H
#define SLUICE_TEST_E2E_H

#include "sl_test.h"

#include <jansson.h>
#include <limits.h>

#include "libsluice.h"

/* ---- paths ------------------------------------------------------------------------------------------------------- */

/* A path in the source tree (SLUICE_SOURCE), or itself when absolute. Lives until the 16th call after this one. */
const char *e2e_path(const char *relative);
/* The same in the build tree (SLUICE_BUILD). */
const char *e2e_built(const char *relative);
/* A scratch folder of this process, made on first use and removed at exit; e2e_temp("x") is a path in it. */
const char *e2e_temp(const char *name);
/* A new folder in it whose entries are links to those of a model's folder, so that single files can be replaced. */
const char *e2e_linked_model(const char *model);
/* Replaces dir/name by these bytes. */
void e2e_put(const char *dir, const char *name, const void *bytes, size_t n);
void e2e_put_text(const char *dir, const char *name, const char *text);
/* Removes dir/name. */
void e2e_drop(const char *dir, const char *name);
/* A whole file, with a NUL behind it; free it. */
char *e2e_read(const char *path, size_t *n);

/* ---- engines ----------------------------------------------------------------------------------------------------- */

/* Overrides, NULL-terminated: SETS("engine.threads=1", "engine.isa=ref"). */
#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_SETS ((const char *const[]){NULL})

/* model: a folder in the source tree. Threads are 1 unless sets say otherwise. */
sluice_engine *e2e_open(const char *model, const char *const *sets);
/* Must fail; what it says is in *err. */
void e2e_open_refused(const char *model, const char *const *sets, sluice_error *err);

/* Can this machine run that engine.isa? */
int e2e_has_isa(const char *isa);

sluice_session *e2e_session(sluice_engine *engine, const int32_t *tokens, int64_t n);
/* [n, vocab] logits of the last n pending tokens of a session; free it. */
float *e2e_logits(sluice_engine *engine, sluice_session *session, int64_t n);
/* Logits behind each of n tokens of a new session; free it. */
float *e2e_logits_of(sluice_engine *engine, const int32_t *tokens, int64_t n);

/* ---- golden data ------------------------------------------------------------------------------------------------- */

typedef struct e2e_prompt {
    const char *name, *text, *greedy_text; /* NULL where the file has none */
    int32_t *ids, *greedy;
    int64_t n_ids, n_greedy;
} e2e_prompt;

typedef struct e2e_prompts {
    json_t *json;
    e2e_prompt *prompt;
    int n;
} e2e_prompts;

void e2e_prompts_read(const char *relative, e2e_prompts *out);
void e2e_prompts_free(e2e_prompts *p);

/* A JSON file; json_decref. */
json_t *e2e_json(const char *path);
/* A number or text inside: e2e_number(json, "bytes.kv"). */
double e2e_number(json_t *json, const char *dotted);
/* A plugin's counter, as the statistics show it: e2e_metric(engine, "swift.tries"). */
double e2e_metric(sluice_engine *engine, const char *dotted);

/* ---- generating -------------------------------------------------------------------------------------------------- */

/* Greedy, n tokens, end-of-text not obeyed. */
sluice_sampling e2e_greedy(int32_t n);

typedef struct e2e_output {
    int32_t *tokens;
    int64_t n;
    char *text;      /* NUL-terminated */
    size_t length;
    int32_t finish;
    int32_t n_calls; /* callbacks with tokens */
    int32_t n_wrong; /* callbacks that contradict each other */
} e2e_output;

/* Runs the sessions to their end and collects what the callback got. outputs: [n], freed by e2e_outputs_free. */
void e2e_generate(sluice_engine *engine, sluice_session *const *sessions, int n, const sluice_sampling *sampling, int shared,
                  e2e_output *outputs);
void e2e_outputs_free(e2e_output *outputs, int n);

/* Continues prompts [0, n) in sessions of their own, `together` of them in one call; outputs: [n]. */
void e2e_continue(sluice_engine *engine, const e2e_prompt *prompts, int n, int together, const sluice_sampling *sampling,
                  e2e_output *outputs);
/* ... greedily, and compares with the golden ids. */
void e2e_check_greedy(const char *what, sluice_engine *engine, const e2e_prompt *prompts, int n, int together);
/* Fails with the first place where two outputs differ. */
void e2e_check_tokens(const char *what, const int32_t *expected, int64_t n_expected, const int32_t *got, int64_t n_got);

#endif
