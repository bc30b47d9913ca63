/* gen_niah.h - needles in a haystack and chains of variables, of which several suites have variants. */
#ifndef SLUICE_CLI_GEN_NIAH_H
#define SLUICE_CLI_GEN_NIAH_H

#include "gen.h"

typedef enum { NIAH_NUMBERS, NIAH_WORDS, NIAH_UUIDS } niah_kind;

/* How contexts of a variant are made. */
typedef struct niah_how {
    gen_hay_kind hay; /* GEN_ESSAY without a text to cut from is GEN_NOISE */
    niah_kind key, value;
    int turns;   /* questions; 0: as many as the caller wants */
    int queries; /* keys that a question asks for */
    int values;  /* of a key */
    int others;  /* keys, for each question, that nobody asks for */
} niah_how;
void niah_build(const gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);

typedef struct vt_how {
    int chains; /* 0: as many as the caller wants questions */
    int hops;
} vt_how;
void vt_build(const gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);

/* Lists of words: which of them are frequent? */
void cwe_build(const gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);
/* how: NULL: one question for three words; else a question for each rank. */
void fwe_build(const gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);

#endif
