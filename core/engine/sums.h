/* sums.h - column sums: the softmax mass that each cached row received, for the policies that asked for it.
 *
 * Attention hands out the probabilities of a few rows at a time, a stretch for each row; they are added here, row after
 * row. Sums therefore do not depend on how a prompt was cut into chunks or who shared the batch. Rows of a draft tree
 * wait until it is known which of them were accepted. Sums stand by slot, for each KV head or each query head, and
 * follow what happens to the rows: edits, cuts, forks. */
#ifndef SLUICE_CORE_SUMS_H
#define SLUICE_CORE_SUMS_H

#include "engine/network.h"

enum { SLI_SUM_ROWS = 16 }; /* rows that attention is asked for at once */

/* For all policies of the network, whose layers are bound. max_seqs: sequence ids below are counted. Sets net->sums;
 * NULL when nobody wants sums. [setup] */
sl_status sli_sums_create(sli_network *net, int32_t max_seqs, sl_error *err);
void sli_sums_destroy(sli_sums *sums); /* NULL is legal */

/* A device is told rows by one weight each, in all layers and for all policies, and does not hold trees back.
 * SL_E_UNIMPLEMENTED: the policies ask for more. [setup] */
sl_status sli_sums_check_device(const sli_network *net, sl_error *err);

/* ---- sequences; ids that are not counted are legal ---- [setup] */

/* parent < 0: empty; else with what is known of the first n tokens of parent. */
sl_status sli_sums_open(sli_network *net, int32_t seq, int32_t parent, int64_t n, sl_error *err);
void sli_sums_close(sli_network *net, int32_t seq);
/* Stores have been cut to n tokens. */
void sli_sums_cut(sli_network *net, int32_t seq, int64_t n);
/* The sequence got rows that attention never saw. */
void sli_sums_imported(sli_network *net, int32_t seq);
/* The rows of a layer are about to be edited. n_rows [K] as before. */
void sli_sums_edit(sli_network *net, const sl_kv_edit *edit, const int64_t *n_rows);
/* Sums [heads, stride] of a layer for a policy; NULL when it asked for none or they were lost in a cut. */
const float *sli_sums_of(const sli_network *net, int32_t policy, int32_t layer, int32_t seq, int32_t *heads,
                         int64_t *stride);
/* The policy has chosen: sums over a window begin anew. */
void sli_sums_chosen(sli_network *net, int32_t policy, int32_t seq);

/* ---- the step ---- */

/* 1: the probabilities of that row of the batch are wanted in that layer. */
int sli_sums_want(const sli_network *net, const sli_pass *pass, int32_t layer, int32_t row);
/* Makes args, for at most SLI_SUM_ROWS wanted rows of one sequence, deliver them. */
void sli_sums_ask(sli_network *net, sl_attend *args);
/* Takes what was delivered; `row` is the first of the batch. */
void sli_sums_take(sli_network *net, const sli_pass *pass, int32_t row, const sl_attend *args);
/* Adds sums of the wanted rows of the sequence at that place of the step, [heads, stride] by slot, its own rows
 * included. Before the step's rows are committed. */
void sli_sums_add(sli_network *net, const sli_pass *pass, int32_t at, int32_t layer, const float *colsum,
                  int64_t stride);
/* The step's paths are decided; stores have not committed yet. */
sl_status sli_sums_commit(sli_network *net, const sl_commit *commit);

#endif
