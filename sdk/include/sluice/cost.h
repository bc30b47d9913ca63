/* cost.h - what a combination costs: operations and bytes, told by each plugin from its parameters.
 *
 * A tool asks, never an engine at work: nothing runs, no weight is read, an instance that was only created answers as well
 * as an active one. The host begins with the dense model - every row kept at full width, every key attended to, weights as
 * the checkpoint holds them - and hands that from plugin to plugin in the order in which they act: store, policies,
 * attention, quantisers, then the drafter or prompt transformer for the step as a whole. Each changes the fields that its
 * technique changes and adds rows for the work that is its own. What a plugin leaves alone stays dense, so a method whose
 * budget covers everything must leave the dense numbers behind, exactly.
 *
 * Counts are doubles: means over heads, over steps between two compressions, over what data decide. Bytes are those that
 * pass between memory and the chip if everything is read once per kernel. A multiply-add is two FLOPs.
 */
#ifndef SLUICE_COST_H
#define SLUICE_COST_H

#include "host.h"

SL_BEGIN

typedef struct sl_linear_group sl_linear_group; /* quant.h */

/* Kinds of bytes. */
enum {
    SL_COST_WEIGHTS = 0,
    SL_COST_ACTIVATIONS = 1,
    SL_COST_KV_READ = 2,
    SL_COST_KV_WRITE = 3,
    SL_COST_OTHER = 4, /* bounds of pages, scores, tables */
    SL_COST_LINK = 5,  /* over the link between host and device */
    SL_COST_KINDS = 6
};

/* The act of a step in which an operation runs: measured times are told by these. */
enum {
    SL_COST_AT_PREPARE = 0, /* quant.prepare and maps */
    SL_COST_AT_APPEND = 1,
    SL_COST_AT_NOTE = 2,
    SL_COST_AT_SELECT = 3,
    SL_COST_AT_ATTEND = 4,
    SL_COST_AT_SETTLE = 5, /* settle, and what a store does in commit or between steps */
    SL_COST_AT_POLICY = 6,
    SL_COST_AT_DRAFT = 7,  /* propose, accept, observe, beside work items */
    SL_COST_AT_PROMPT = 8, /* of a prompt transformer, beside its work items */
    SL_COST_AT_END = 9
};

/* Work of a plugin's own. [borrowed during add] */
typedef struct sl_cost_op {
    uint64_t struct_size;
    const char *name;             /* "quest.score"; lives as long as the instance */
    double flops;
    double bytes[SL_COST_KINDS];
    double launches;              /* kernels, or forks and joins of the CPU's workers; a fraction: not in each step */
    uint32_t at;                  /* SL_COST_AT_* */
    sl_dtype compute;             /* whose peak bounds it; 0: that of the engine's products */
} sl_cost_op;
SL_ABI_STRUCT(sl_cost_op, compute);

/* Takes rows; the host's own. */
typedef struct sl_cost_sink {
    uint64_t struct_size;
    void *user;
    void (*add)(void *user, const sl_cost_op *op);
} sl_cost_sink;
SL_ABI_STRUCT(sl_cost_sink, add);

/* One layer's attention for one sequence in one step. Rows and bytes are those of one sequence; "row" is a key with its
 * value. */
typedef struct sl_cost_layer {
    uint64_t struct_size;
    const sl_model_info *model;
    const char *role;       /* as which the instance is asked: "attention", "kvcache.store", "kvcache.policy" or
                               "quant.rewrite" */
    const sl_cost_sink *sink;
    int32_t layer;
    uint32_t stage;         /* one of SL_STAGE_* */
    uint32_t device;        /* SL_DEVICE_* for which it is asked */
    sl_dtype activations;   /* of q, k, v: SL_F32 or SL_BF16 */
    sl_dtype compute;       /* of the engine's products (sl_limits.compute): SL_F32 or SL_BF16 */
    uint32_t reserved0;
    double n_past;          /* tokens of the sequence in front of the new ones */
    double n_new;           /* rows of this step */
    double n_prompt;        /* tokens of its prompt */
    double last_chunk;      /* prefill: 1: the prompt ends with this step; else 0 */
    /* In and out. */
    double kept;            /* rows in front of the new ones that the layer still holds, a KV head. In: n_past */
    double row_bytes;       /* of one kept row of all KV heads, where it is read. In: full width, of type `compute` */
    double write_bytes;     /* likewise, of one new row when it is appended. In: as row_bytes */
    double attended;        /* of the kept rows, how many a new row's query sees, mean over new rows and heads; -1, as it
                               comes in: all of them, and of layers with a window those inside */
    double read;            /* of the kept rows, how many are read, mean over KV heads, each as often as it is read; -1, as
                               it comes in: the attended ones once */
    double inner;           /* pairs of new rows that see one another, themselves included, mean over heads. In: those of a
                               chain or tree */
    double memory;          /* bytes that the sequence takes in this layer; -1: kept and new rows, row_bytes each */
    double memory_host;     /* in a second tier. In: 0 */
} sl_cost_layer;
SL_ABI_STRUCT(sl_cost_layer, memory_host);

/* One group of linears in one step. */
typedef struct sl_cost_linear {
    uint64_t struct_size;
    const sl_model_info *model;
    const sl_linear_group *group; /* shapes and types are true; the data of its weights may be out of reach: not read */
    const sl_cost_sink *sink;
    uint32_t device;
    sl_dtype activations;
    double n_rows;                /* rows multiplied */
    /* In and out. */
    double flops;                 /* In: 2 n_rows in out, summed over the linears */
    double weight_bytes;          /* read. In: the checkpoint's */
    double memory;                /* that the weights take; -1: weight_bytes */
    sl_dtype compute;             /* In: of the engine's products */
    uint32_t fuses;               /* set of SL_QUANT_FUSES_*: one launch for the group, act(gate) * up inside. In: GROUP and
                                     ACT_MUL on a GPU, 0 on the CPU */
} sl_cost_linear;
SL_ABI_STRUCT(sl_cost_linear, fuses);

/* A pass of a model that a drafter or a prompt transformer asks for as work: the host costs it with the plugins that serve
 * that model. */
typedef struct sl_cost_pass {
    uint64_t struct_size;
    const char *name;          /* "draft", "filter"; lives as long as the instance */
    double times;              /* how often, one after the other; may be a mean */
    double rows;               /* of each sequence */
    double inner;              /* pairs of them that see one another; 0: a chain's */
    double logits;             /* rows of each sequence that go through the head */
    double n_past;             /* rows in front of them; -1: the sequence's */
    int32_t model;             /* 0 target, 1 draft */
    int32_t exit_layer;        /* one past the last; 0: all */
    double attn_layers;        /* of the layers that run, how many attentions do; -1: all */
    double ffn_layers;         /* likewise */
    uint32_t stage;            /* SL_STAGE_* */
    uint32_t reserved0;
} sl_cost_pass;
SL_ABI_STRUCT(sl_cost_pass, reserved0);

/* A step of decoding as a drafter shapes it, or a prompt as a prompt transformer shapes it. */
typedef struct sl_cost_plan {
    uint64_t struct_size;
    const sl_model_info *model;
    const sl_model_info *draft; /* NULL: there is none */
    const sl_cost_sink *sink;
    void *user;
    void (*add_pass)(void *user, const sl_cost_pass *pass);
    uint32_t device;
    sl_dtype activations;
    double n_seqs;              /* that decode together */
    double n_past;              /* tokens of each in front of the step; prompt transformers: 0 */
    double n_prompt;            /* tokens of the prompt. Prompt transformers change it: tokens that are left */
    double accept;              /* drafters: the chance that the next token stands among the children of an accepted node */
    double max_nodes;           /* that the engine allows a sequence, root included */
    /* Drafters. */
    double nodes;               /* rows of each sequence that are verified, root included. In: 1 */
    double inner;               /* pairs of them on one path, themselves included; 0: a chain's. In: 0 */
    double tokens;              /* a step brings each sequence, by `accept`. In: 1 */
} sl_cost_plan;
SL_ABI_STRUCT(sl_cost_plan, tokens);

/* "sl.cost/1" - any instance may answer it. Functions of roles that the plugin does not have are NULL. Where a plugin has
 * none for its role, its part of the report is unknown, never zero. An error says why these parameters have no formula: the
 * part is unknown for that reason. [setup] */
#define SL_COST_ID "sl.cost/1"
typedef struct sl_cost {
    uint64_t struct_size;
    /* attention, kvcache.store, kvcache.policy, quant.rewrite */
    sl_status (*layer)(sl_instance *self, sl_cost_layer *io, sl_error *err);
    /* quant */
    sl_status (*linear)(sl_instance *self, sl_cost_linear *io, sl_error *err);
    /* speculation, kvcache.prompt */
    sl_status (*plan)(sl_instance *self, sl_cost_plan *io, sl_error *err);
} sl_cost;
SL_ABI_STRUCT(sl_cost, plan);

SL_END
#endif
