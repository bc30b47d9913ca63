/* speculation.h - the speculation family: drafters.
 *
 * A drafter proposes trees; the core verifies them, once for everybody and without loss, and tells what was accepted.
 * A drafter that needs a model returns work.
 */
#ifndef SLUICE_SPECULATION_H
#define SLUICE_SPECULATION_H

#include "work.h"

SL_BEGIN

typedef struct sl_spec_caps {
    uint64_t struct_size;
    const sl_tap *const *taps; /* [n_taps] hidden rows that observe wants ("sl.taps/1"); NULL. Live until destroy. Today's
                                  points: EMBED, LAYER_IN, ATTN_IN, FFN_IN, LAYER_OUT, FINAL_NORM */
    int32_t n_taps;
    int32_t max_nodes;         /* largest tree, root included */
    int32_t topk;              /* observe wants the k best ids of every verified row, rejected ones included; 0: none */
    uint32_t kinds;            /* set of 1u << SL_DRAFT_* that its trees may contain */
    uint32_t lossless;         /* 0: accept is its own and changes the output distribution; reports say so */
    uint32_t needs_draft;      /* 1: needs the second model ([draft.model]) */
    uint32_t plans_rows;       /* 1: plan_rows is there */
    uint32_t topk_prompt;      /* 1: topk of every prompt row, too; the head then runs for all of them
                                  ("sl.topk.prompt/1") */
    int32_t scratch_rows;      /* rows of the largest SL_WORK_KV_SCRATCH item on the target: the host keeps room for one
                                  ready, so that the store takes no memory inside a step ("sl.work.draft/1"); 0: none
                                  is asked for, or the step may take it */
    uint32_t reserved0;
} sl_spec_caps;
SL_ABI_STRUCT(sl_spec_caps, reserved0);

/* One sequence as a drafter sees it. [borrowed] */
typedef struct sl_spec_seq {
    uint64_t struct_size;
    const int32_t *token;  /* [n] committed tokens, -1 for an embedding; the last one has no K/V yet and is node 0 */
    int64_t n;
    uint64_t seed;
    double temperature;    /* 0: greedy */
    int32_t n_prompt;      /* how many of the tokens were the prompt */
    int32_t max_nodes;     /* this step's limit for this sequence, root included; 1: propose nothing */
    int32_t max_depth;     /* tokens that may still be generated, minus one */
    int32_t seq;
    uint32_t sample;       /* index among the request's outputs */
    uint32_t reserved0;
    int32_t n_pending;     /* how many of the last tokens have no K/V yet; 0 and 1: only the last. Node 0 is the first
                              of them and the others are the forced nodes */
    uint32_t reserved1;
} sl_spec_seq;
SL_ABI_STRUCT(sl_spec_seq, reserved1);

typedef struct sl_spec_budget {
    uint64_t struct_size;
    int32_t n_seqs;        /* in: sequences that decode */
    int32_t n_other_rows;  /* in: prompt rows that share the step */
    double step_ms;        /* in: measured time of recent steps; 0: unknown */
    double row_ms;         /* in: marginal time of one more row */
    int32_t max_nodes;     /* in: what the engine allows a sequence, root included */
    int32_t nodes;         /* out: wanted nodes a sequence, root included; 1 is legal */
} sl_spec_budget;
SL_ABI_STRUCT(sl_spec_budget, nodes);

/* One round. The core calls propose until it answers SL_OK; SL_PENDING means that `works` must run first. */
typedef struct sl_propose {
    uint64_t struct_size;
    const sl_spec_seq *const *seqs;        /* in: [n_seqs] */
    const sl_work_result *const *results;  /* in: [n_results] of the works returned last time; none in round 0 */
    const sl_tree *const *trees;           /* out: [n_seqs]; NULL entries: no draft. Live until the next round 0 */
    const sl_work *const *works;           /* out: [n_works] */
    int32_t n_seqs, n_results, n_works;
    int32_t round;                         /* in: 0, 1, 2 ... within one step */
} sl_propose;
SL_ABI_STRUCT(sl_propose, round);

/* What became of the drafts of one step, the verified trees included (commit->batch->tree). Where topk or taps of the
 * prefill stage were asked for, observe is called for steps of prompt chunks alone, too; inside a prompt commit->next is
 * -1. [borrowed] */
typedef struct sl_observe {
    uint64_t struct_size;
    const sl_commit *commit;
    const sl_spec_seq *const *seqs;       /* [n_seqs] after the step */
    const int32_t *topk;                  /* [n_rows, caps.topk] ids, best first, of raw logits; -1: the row has none,
                                             as all rows of a prompt but the last; NULL unless wanted */
    const float *topk_logit;              /* likewise */
    const sl_tap_rows *const *taps;       /* [n_taps] one for each tap and sequence that has such rows in this step, tap
                                             by tap, sequences in batch order; f32, on a device bf16 (work.h) */
    double draft_ms, verify_ms;
    int32_t n_seqs, n_taps;
    const float *topk_lse;                /* [n_rows] log-sum-exp of the raw logits: makes topk_logit probabilities;
                                             NULL */
} sl_observe;
SL_ABI_STRUCT(sl_observe, topk_lse);

/* Asked wherever a token is decided, the first one behind a prompt included; where nothing was drafted, the tree is the
 * last committed token alone. Penalties and the like are in `sl_sample.distribution`, not in `logits`. */
typedef struct sl_accept {
    uint64_t struct_size;
    const sl_spec_seq *seq;
    const sl_tree *tree;
    const float *logits;  /* [n_nodes, vocab] raw */
    int32_t *path;        /* out: [n_nodes] accepted nodes, root first */
    int64_t vocab;
    int32_t n_path;       /* out */
    int32_t next;         /* out: the token after the path */
    int32_t *extra;       /* out: [SL_MAX_TREE_NODES] tokens that follow `next` without a row of their own
                             (read off PSEUDO rows): next step's forced nodes ("sl.accept.extra/1"); NULL: not taken */
    int32_t n_extra;      /* out */
    uint32_t reserved0;
} sl_accept;
SL_ABI_STRUCT(sl_accept, reserved0);

/* "sl.speculation/1" */
#define SL_SPECULATION_ID "sl.speculation/1"
typedef struct sl_speculation {
    uint64_t struct_size;
    sl_status (*caps)(sl_instance *self, sl_spec_caps *out);
    /* Optional: the engine's limit is used. [step & active] */
    sl_status (*budget)(sl_instance *self, sl_spec_budget *io);
    sl_status (*propose)(sl_instance *self, sl_propose *io, sl_error *err);
    /* Its own rule of acceptance; only with lossless = 0. Optional ("sl.accept/1"). [step & active] */
    sl_status (*accept)(sl_instance *self, sl_accept *io);
    /* Optional. [step & active] */
    sl_status (*observe)(sl_instance *self, const sl_observe *seen);
    /* Which layers run for which rows (SkipDecode, FFN-SkipLLM): attn and ffn are [n_layers, n_rows], preset to 1.
     * Optional ("sl.rows.plan/1"). [step & active] */
    sl_status (*plan_rows)(sl_instance *self, const sl_batch *batch, uint32_t *attn, uint32_t *ffn);
} sl_speculation;
SL_ABI_STRUCT(sl_speculation, plan_rows);

/* "sl.sample/1" - the request's own sampling, for drafters that draw from a model. always, for speculation */
#define SL_SAMPLE_ID "sl.sample/1"
typedef struct sl_sample {
    uint64_t struct_size;
    /* The processed distribution (penalties, temperature, top-k ...) that the sequence would be sampled from after its
     * committed tokens and `path`. id and weight have room for vocab entries; *n is set. [step] */
    sl_status (*distribution)(const sl_host *host, int32_t seq, const float *logits, const int32_t *path, int32_t n_path,
                              int32_t *id, double *weight, int64_t *n, sl_error *err);
    /* A draw from q, keyed by the step's first position and a count of draws that the host keeps. [step] */
    sl_status (*draw)(const sl_host *host, int32_t seq, const sl_draft_q *q, int32_t *token);
} sl_sample;
SL_ABI_STRUCT(sl_sample, draw);

SL_END
#endif
