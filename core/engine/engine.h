/* engine.h - the engine: networks, sequences, and the step that carries them forward.
 *
 * A sequence is a list of tokens of which the first n_kv are in the cache. Prompt chunk, decode and verify are the same
 * act on different rows: compute rows n_kv .., decide the next token, commit what was accepted.
 */
#ifndef SLUICE_CORE_ENGINE_H
#define SLUICE_CORE_ENGINE_H

#include "libsluice.h"
#include "sluice/speculation.h"

#include "config/config.h"
#include "device/cpu/cpu_ops.h"
#include "engine/batch.h"
#include "engine/binding.h"
#include "engine/choose_device.h"
#include "engine/device_network.h"
#include "engine/draft_draw.h"
#include "engine/draft_tree.h"
#include "engine/model_info.h"
#include "engine/network.h"
#include "engine/output.h"
#include "engine/sampler.h"
#include "engine/taps.h"
#include "engine/verify.h"
#include "model/tokenizer.h"
#include "plugin/match.h"

/* The request that a sequence is serving. */
typedef struct sli_request {
    sli_sampling sampling;
    int32_t *bias_id; /* copies of what sampling points to */
    float *bias;
    sli_output text;          /* of the current step */
    sli_stop *stop;           /* created at begin, NULL without stop strings */
    sli_token_stream *stream; /* created at begin, NULL without a tokenizer */
    int64_t n_limit;          /* total tokens at which it ends */
    int32_t ignore_eos;
    int32_t finish;       /* SLUICE_FINISH_*; SLUICE_RUNNING */
    int32_t index;        /* in the caller's list */
    sli_random random;    /* of drafts */
    sli_draft_draw draws; /* draws of this step's draft */
} sli_request;

enum { SLI_MAX_SESSIONS = 256 };

typedef struct sli_transcript sli_transcript;

struct sluice_session {
    sluice_engine *engine;
    sluice_session *next; /* all sessions of the engine */
    int32_t *tokens;      /* [max_context + 1] */
    int64_t n, n_kv;
    int64_t n_prompt;   /* rows below this token index are prompt */
    int64_t n_grown;    /* tokens that the target's cache was told to be ready for */
    int64_t n_promised; /* tokens that it will be told to be ready for: more while a prompt takes room chunk by chunk */
    int64_t n_draft;    /* committed rows in the draft model's cache */
    int32_t id;         /* sequence id: 0 .. max_seqs - 1 */
    int64_t
        prompt_end; /* tokens of the prompt, where they are not what was appended: see sli_prompt_end; 0: they are */
    sli_request *request; /* NULL: not generating */
    /* Prompt transformers. */
    sli_transcript *shown; /* the user's text, where another one is computed; NULL: it is `tokens` */
    int64_t *split;        /* [n_split] token indices that no chunk reaches across */
    int64_t n_split;
    int64_t n_branch; /* rows of the sequence that a plugin keeps beside this one; -1: it is not open */
    int32_t fresh;    /* 1: tokens were appended of which the transformer has not been told */
    /* This step's place and draft. */
    sli_tree *draft;     /* room for the tree, ready to be verified */
    const sl_tree *tree; /* its rows; NULL: no draft in this step */
    int32_t place, n_rows, n_emitted;
    int32_t wants_next;   /* 1: a token is decided after its rows */
    int32_t first_logits; /* row of the logits buffer */
};

/* Tokens of the prompt that is being computed: without a request everything that was appended; more where the prompt
 * goes on (INT64_MAX), less where known tokens are computed as decode steps. */
static inline int64_t sli_prompt_end(const sluice_session *s) {
    return s->prompt_end != 0 ? s->prompt_end : s->request != NULL ? s->n_prompt : s->n;
}

typedef struct sli_drafter {
    sl_instance *self; /* NULL: no drafter */
    const sl_speculation *api;
    sl_spec_caps caps;
} sli_drafter;

typedef struct sli_prompter {
    sl_instance *self; /* NULL: no prompt transformer */
    const sl_kv_prompt *api;
} sli_prompter;

struct sluice_engine {
    sli_config *config;
    sli_pool *pool;
    sli_device_choice chosen;                       /* of engine.device; .device NULL: the CPU */
    const char *capabilities[SLI_MAX_CAPABILITIES]; /* that plugins of the target are offered */
    int assumes_cuda; /* instances are created for a GPU that need not be there: nothing is computed */
    sli_host_context *hosts;
    sli_binding *target_plugins, *draft_plugins;
    sli_model_info *target_info, *draft_info;
    sli_tokenizer *tokenizer, *draft_tokenizer; /* NULL: the model's directory has none */
    sl_host *core_host;                         /* of operations that the core itself calls */
    uint32_t isa;                               /* set of SL_ISA_* in use */
    sli_network target, draft;                  /* draft.model NULL: none */
    sli_ops_context ops;
    sli_drafter drafter;
    sli_prompter prompter;
    sl_limits limits, draft_limits;
    int64_t prefill_chunk;
    int32_t max_sessions;     /* sequence ids below are sessions; behind them those of draft_fork.h, then branches */
    int32_t max_branches;     /* 0, or 1: a sequence of a plugin's own beside each session */
    sluice_sampling defaults; /* [sampling] */
    int32_t *bias_id;         /* what it points to */
    float *bias;

    sluice_session **by_id; /* [max_sessions] */
    sluice_session *sessions;

    sli_batch batch, work_batch;
    sli_sampler *sampler;
    sli_verifier *verifier;
    float *logits;      /* [logit_rows, vocab]; on a device its network's */
    float *work_logits; /* [logit_rows, vocab of the draft] */
    int64_t logit_rows;
    const int32_t
        *best; /* on a device: the n_best best ids of the step's rows of logits, in the place of them; else NULL */
    struct sli_ahead *ahead; /* of steps that are launched before their tokens are known; NULL: none are */
    int n_running;           /* sessions that the step was asked for */
    int committed;           /* 1: the step was committed before its tokens were known */
    float *work_hidden;      /* residual rows of work items that end in front of the head */
    int64_t work_hidden_cap; /* floats */
    sli_tap_store work_taps; /* of the results of the last work */
    float *row_position;     /* [max_rows] of one sequence, where positions are not token indices */
    sluice_session **active; /* [max_seqs] sessions of the step, in batch order */
    int32_t *path, *path_begin, *next;
    int64_t *n_prompt; /* [max_seqs] of the sessions of the step, in batch order */
    struct sli_draft_buffers *drafts;
    struct sli_draft_taps *taps;     /* hidden rows for the drafter; NULL: it wants none */
    struct sli_sources *sources;     /* plugins that ask for work; NULL: none */
    struct sli_draft_forks *forks;   /* of the target's sequences; NULL: no drafter */
    struct sli_quantize *quantizing; /* NULL: it serves */

    sluice_stats stats;
    double busy_before;          /* seconds of the device's work that stats do not count */
    uint64_t allocations_before; /* of the ledger, when the step began */
    uint32_t stage_turn;         /* of the last step, where stages take turns */
    double step_ms, row_ms;      /* running means, for drafters that plan by time */
};

/* sluice_open; quantizing: for a run that packs with data, else NULL. */
sl_status sli_engine_open(const sluice_options *options, struct sli_quantize *quantizing, sluice_engine **out,
                          sl_error *err);

/* Up to created instances: no weight is read or made, nothing can be computed. assumes_cuda: they are created for a GPU,
 * which need not be there. */
sl_status sli_engine_open_created(const sluice_options *options, int assumes_cuda, sluice_engine **out, sl_error *err);

/* The CPU's workers and operations, for shapes that are given, and no model. */
sl_status sli_engine_open_bare(const sluice_options *options, const sli_ops_shapes *shapes, sluice_engine **out,
                               sl_error *err);

/* One step over the sessions that have a request or pending prompt tokens. *n_active = 0: nothing to do.
 * fn is told about every token. */
sl_status sli_engine_step(sluice_engine *e, sluice_session *const *sessions, int n, sluice_chunk_fn fn, void *user,
                          int *n_active, sl_error *err);

/* After a step, when memory may be taken again: policies drop rows of the sequences of the step, events are told. */
sl_status sli_engine_settle(sluice_engine *e, sl_error *err);
/* Makes the target's cache ready for n tokens of the session, step by step where policies drop rows of a prompt chunk
 * by chunk: for the next chunk alone, as long as one is to come. */
sl_status sli_session_grow(sluice_session *s, int64_t n, sl_error *err);

/* Runs work items; results[i] belongs to works[i]. */
sl_status sli_engine_work(sluice_engine *e, const sl_work *const *works, int n, sl_work_result *results, sl_error *err);

/* Tells every instance of the target what happened to a sequence. */
void sli_engine_event(sluice_engine *e, uint32_t kind, int32_t seq, int32_t other, int64_t n);

/* Around each step: workers stay awake, allocations are counted. */
void sli_engine_step_begin(sluice_engine *e);
void sli_engine_step_end(sluice_engine *e);

double sli_now(void); /* seconds, monotonic */

#endif
