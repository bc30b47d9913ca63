/* costs.h - one step's operations, bytes and predicted time: the dense rows, and what plugins make of them
 * ("sl.cost/1", sluice/cost.h). Only created instances are asked; no weight is read. */
#ifndef SLUICE_CORE_COSTS_H
#define SLUICE_CORE_COSTS_H

#include "sluice/cost.h"
#include "sluice/quant.h"

#include "engine/engine.h"
#include "engine/slots.h"

enum { SLI_COST_ROWS = 64, SLI_COST_CHANGES = 64 };

typedef enum { SLI_BOUND_MEMORY, SLI_BOUND_COMPUTE, SLI_BOUND_LAUNCH, SLI_BOUND_LINK, SLI_BOUNDS } sli_bound;

/* One operation, summed over layers and steps. */
typedef struct sli_cost_row {
    sli_slot_id slot;
    char name[40]; /* the slot's, or a plugin's own */
    char by[32];   /* plugin that added the row; "": the core */
    double flops, bytes[SL_COST_KINDS], launches;
    double seconds;                         /* predicted */
    double bound[SLI_BOUNDS];               /* of them, those that each bound held */
    double compute_seconds, memory_seconds; /* with perfect overlap */
    sl_dtype compute;
    char unknown[160]; /* why the row is not complete: whose part is missing; "": it is */
} sli_cost_row;

/* What a plugin did to a field of the account, summed likewise. */
typedef struct sli_cost_change {
    char by[32], section[48];
    const char *term;            /* "kept rows" */
    double before, after, count; /* divided by count they are means */
} sli_cost_change;

typedef struct sli_costs {
    sli_cost_row row[SLI_COST_ROWS];
    sli_cost_change change[SLI_COST_CHANGES];
    int n_rows, n_changes;
    double scale;         /* what is added counts so often */
    double weights;       /* bytes of memory that the target's linears, embedding and norms take; of the last step */
    double draft_weights; /* likewise of the second model */
    double kv, kv_host;   /* of all sequences behind the last step */
} sli_costs;

/* A step of equal sequences. */
typedef struct sli_cost_step {
    double n_seqs, n_past, n_new, n_prompt;
    double inner;  /* pairs of new rows; 0: a chain's */
    double logits; /* rows of each sequence that go through the head */
    uint32_t stage;
    int last_chunk;
    int32_t exit_layer;             /* 0: all */
    double attn_layers, ffn_layers; /* of those; < 0: all */
    int draft;                      /* 1: of the draft model */
    const char *pass;               /* name of a pass that a plugin asked for: one row in `pass_slot`; NULL: the step */
    sli_slot_id pass_slot;
    const char *pass_by;
} sli_cost_step;

/* Who is asked, and for what machine. */
typedef struct sli_costing {
    sluice_engine *engine; /* its instances are created */
    const sluice_hardware *hardware;
    uint32_t device;
    int dense; /* 1: no plugin is asked */
} sli_costing;

/* Adds the step. */
sl_status sli_cost_step_add(const sli_costing *c, const sli_cost_step *step, sli_costs *out, sl_error *err);

/* Adds to the row of that slot and name. bytes [SL_COST_KINDS]; unknown NULL: it is complete. */
void sli_cost_row_add(const sli_costing *c, sli_costs *out, sli_slot_id slot, const char *name, const char *by,
                      double flops, const double *bytes, double launches, sl_dtype compute, const char *unknown);
void sli_cost_change_add(sli_costs *out, const char *by, const char *section, const char *term, double before,
                         double after);

#endif
