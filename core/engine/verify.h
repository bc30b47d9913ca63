/* verify.h - lossless verification of a draft tree: one implementation for every drafter.
 *
 * The walk starts at the last committed token. At each row it asks for the logits, makes p as plain sampling would, and
 * either moves to a child or stops with a token of its own; that token and the path are what the step emits. Greedy:
 * the argmax decides. Otherwise, for the children in the draft's order, with a working target P (at first p) and q of
 * those that were drawn: DET    the last ones of a list: draw b from P once; a child that is b is where the walk goes,
 * else it stops with b (form A). Others, or all with form B: accept with probability P(x), else take x out of P. REP
 * accept iff u Q(x) < P(x), else P <- norm(max(0, P - Q)). NOREP  as REP, and after a refusal x is taken out of Q too,
 * for the next test and the next residual. After the last refusal the token is drawn from P. The token after any row
 * then has exactly the law p, for every tree. Sources: "Accelerating large language model decoding with speculative
 * sampling"; "SpecInfer", section 4.3 (REP); "Recursive speculative decoding" (NOREP). Differences: the test is strict
 * and has no division.
 */
#ifndef SLUICE_CORE_VERIFY_H
#define SLUICE_CORE_VERIFY_H

#include <stdint.h>

#include "draft_tree.h"
#include "sampler.h"

typedef struct sli_verifier sli_verifier;

/* vocab: of the target. SL_E_NO_MEMORY. */
sl_status sli_verifier_create(int32_t vocab, sli_verifier **out, sl_error *err);
void sli_verifier_destroy(sli_verifier *v);

enum { SLI_FORM_A = 0, SLI_FORM_B = 1 };

typedef struct sli_verify_job {
    const sli_tree *tree;
    const sli_sampling *how;
    const sli_random *random;
    const int32_t *committed; /* [n_committed] forced nodes included; the last one is where the walk starts */
    int64_t n_committed;
    /* Logits of a row of the tree, [vocab] f32, valid until the next call; asked for once, and only on the path. */
    const float *(*logits)(void *ctx, int32_t row);
    void *ctx;
    int32_t form; /* SLI_FORM_*: how a list that ends with DET children ends */
} sli_verify_job;

/* path: [rows of the tree] rows that are kept, the root and forced rows first; *n_path of them. *next: the token
 * decided behind them. Emitted are the tokens of the path behind the forced rows, then *next. No allocation. Errors:
 * those of sli_sampler_dist, with the row of the tree; SL_E_DATA: a q that is no distribution, or from which its child
 * cannot have been drawn. */
sl_status sli_verify(sli_verifier *v, sli_sampler *sampler, const sli_verify_job *job, int32_t *path, int32_t *n_path,
                     int32_t *next, sl_error *err);

#endif
