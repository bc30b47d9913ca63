/* network.h - one model, bound to the plugins that serve it, and its forward pass.
 *
 * The network knows the order of a decoder layer and nothing else: linears are multiplied by quant handles, rows are
 * kept by a store, attended to by an attention instance. Activations are f32. All buffers are made at load.
 */
#ifndef SLUICE_CORE_NETWORK_H
#define SLUICE_CORE_NETWORK_H

#include "sluice/attention.h"
#include "sluice/kv.h"
#include "sluice/ops.h"
#include "sluice/packing.h"
#include "sluice/quant.h"
#include "sluice/work.h"

#include "model/model.h"

enum { SLI_STAGES = 3 }; /* prefill, decode, verify: bit numbers of SL_STAGE_* */

/* Instances, as the forward pass sees them: an object and its table. */
typedef struct sli_quantizer {
    sl_instance *self;
    const sl_quant *api;
    const sl_quant_packer *packer;              /* NULL: it needs no data */
    const char *id, *version, *section, *where; /* for files and messages */
} sli_quantizer;

typedef struct sli_attender {
    sl_instance *self;
    const sl_attention *api;
    int32_t index;             /* among the network's attenders */
    const sl_attention_kv *kv; /* NULL unless it keeps something beside the cache */
} sli_attender;

typedef struct sli_store {
    sl_instance *self;
    const sl_kv_store *api;
    const sl_selector *selector; /* NULL unless the store selects */
} sli_store;

/* What makes another model of the same function out of this one; see rewrite.h. */
typedef struct sli_rewriter {
    sl_instance *self;
    const sl_quant_rewrite *api;
} sli_rewriter;

/* A policy of the chain. */
typedef struct sli_policy {
    sl_instance *self;
    const sl_kv_policy *api;
} sli_policy;

typedef struct sli_sums sli_sums;

/* A linear group bound to its quantizer: what was packed, and the biases that the epilogue adds. */
typedef struct sli_group {
    sl_linear_group desc;
    const sli_quantizer *quantizer;
    sl_quant_handle *handle;
    void *blob;             /* NULL: used in place */
    int is_mapped;          /* the weights are parts of files */
    int64_t released_bytes; /* of the checkpoint's tensors that the blob stands for: their pages were given back */
    sl_quant_claim claim;
    sl_linear linear[3];
    const sl_linear *linears[3];
    sl_tensor bias[3];   /* f32; data NULL: none */
    sl_tensor source[3]; /* the checkpoint's weights; linear[i].weight differs where they were rewritten */
    void *rewritten[3];  /* memory of the rewritten ones; NULL: none */
    sl_tensor bias_all;  /* on a device: biases of all linears, one after the other; data NULL: none */
} sli_group;

/* Where a linear lives: its group, and which of the group it is. */
typedef struct sli_slot {
    sli_group *group;
    int32_t which;
} sli_slot;

typedef struct sli_net_layer {
    const sl_layer_info *info;
    sl_tensor norm_attn, norm_ffn, q_norm, k_norm; /* f32; q_norm.data NULL: none */
    sli_slot linear[SLI_ROLE_COUNT];               /* by role: SLI_ROLE_Q ... SLI_ROLE_DOWN */
    const sli_attender *attender[SLI_STAGES];
    sl_attn_caps caps[SLI_STAGES];
    const sli_store *store;
    sl_kv_layout layout;
    int32_t sum_heads; /* heads of the column sums that policies asked for; 0: none */
} sli_net_layer;

/* Sees the input of each group before it is multiplied: x [n_rows, width]. */
typedef struct sli_listener {
    sl_status (*input)(void *user, const sli_group *group, const float *x, int64_t n_rows, int64_t width);
    void *user;
} sli_listener;

typedef struct sli_network {
    const sl_host *host;
    const sl_ops *ops;
    const sl_lane *lane;
    sli_model *model;
    const sl_model_info *info;
    sl_limits limits;
    uint32_t act; /* SL_ACT_* */

    sli_net_layer *layers; /* [n_layers] */
    sli_group *groups;     /* [n_groups] all bound groups */
    int32_t n_groups;
    sli_slot head;
    sl_tensor final_norm;
    sl_tensor embed;
    void *embed_rewritten; /* its memory; NULL: it is the checkpoint's */

    const sli_rewriter *rewriter; /* NULL: the model as it is */
    const sl_map *basis;          /* of residual rows; NULL: the model's own */
    const sl_map *const **maps;   /* [n_layers] NULL-terminated lists; NULL: none */
    float **plain_norms;          /* with a rewriter: [2 n_layers + 1] norms as they were: attn, ffn ..., final */

    sli_quantizer *quantizers;
    sli_attender *attenders;
    sli_store *stores;
    sli_policy *policies; /* in the order of the chain */
    sli_sums *sums;       /* what they want to know; NULL: nothing */
    int32_t n_quantizers, n_attenders, n_stores, n_policies;

    /* Activations, [max_rows, ...] */
    float *x, *xn, *q, *k, *v, *q_raw, *k_raw, *o, *gate, *up;
    float *head_in;     /* [max_rows, hidden] gathered rows for the head */
    int32_t *row_index; /* [max_rows] 0, 1, 2 ... : rows of one stage are a stretch of it */
    float *lse;         /* [max_rows, H] for merging parts */
    float *o2, *lse2;   /* likewise, for the opaque part */
    uint64_t step;
    int64_t chunk_most, chunk_align, chunk_fixed; /* where prompts are cut: chunk.h */
    int drops_chunks;                             /* a policy drops rows at the end of each chunk */
    const sli_listener *listener;                 /* NULL: nobody */
    struct sli_device_network *device;            /* device_network.h; NULL: it runs on the CPU */
    struct sli_profile *profile;                  /* profile.h; NULL: nobody asks where time goes */
    uint32_t plan_variant;                        /* what attention planned for the step: which of its graphs */
} sli_network;

/* Called with hidden rows of a tapped point: [n_rows, width]. */
typedef void (*sli_tap_fn)(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width);

/* What a forward pass computes. Zero means the ordinary thing: all layers, from token ids. */
typedef struct sli_pass {
    const sl_batch *batch;
    const sl_tensor *hidden;     /* [n_rows, hidden] replaces the embedding of the tokens (or enters at enter_layer) */
    const uint32_t *attn_layers; /* [n_layers] 1: runs; NULL: all */
    const uint32_t *ffn_layers;
    sli_tap_fn tap; /* NULL: nobody listens */
    void *tap_user;
    int32_t enter_layer;
    int32_t exit_layer;      /* one past the last; 0: all */
    const int64_t *n_prompt; /* [n_seqs] tokens of each prompt: rows are counted in column sums; NULL: they are not */
    uint32_t overwrite;      /* rows replace committed ones */
    uint32_t exit_at;        /* SL_WORK_EXIT_* of the last layer */
} sli_pass;

/* Who serves what, as the configuration says. */
typedef struct sli_network_plan {
    void *user;
    sl_status (*quantizer)(void *user, int32_t layer, const char *tensor, const sli_quantizer **out, sl_error *err);
    const sli_attender *(*attender)(void *user, int32_t layer, uint32_t stage);
    const sli_store *(*store)(void *user, int32_t layer);
    /* Weights packed, in bytes of the checkpoint. NULL: nobody listens. */
    void (*progress)(void *progress_user, int64_t done, int64_t total);
    void *progress_user;
} sli_network_plan;

/* Binds linears (packing them), layers and buffers. Everything given before the call is in place: host, ops, lane,
 * model, info, limits, and the lists of quantizers, attenders, stores and policies, all of them active. max_seqs:
 * sequence ids below it are policies' to judge. On failure sli_network_destroy is still to be called. [setup] */
sl_status sli_network_build(sli_network *net, const sli_network_plan *plan, int32_t max_seqs, sl_error *err);
/* Packs and binds a group again, by another quantizer. [setup] */
sl_status sli_network_rebind(sli_group *group, const sli_quantizer *quantizer, sl_error *err);
void sli_network_destroy(sli_network *net);

/* Residual rows of the batch are in net->x afterwards. Nothing is committed. */
sl_status sli_network_forward(sli_network *net, const sli_pass *pass, sl_error *err);

/* Logits [n, vocab] of residual rows: final norm and head. rows: n rows of the last pass, or NULL for 0 .. n - 1. */
sl_status sli_network_head(sli_network *net, const int32_t *rows, int32_t n, float *logits, sl_error *err);

/* The two halves of it: rows [n, hidden] behind the final norm, and the head alone on such rows. */
sl_status sli_network_final_norm(sli_network *net, const int32_t *rows, int32_t n, float *out, sl_error *err);
sl_status sli_network_project(sli_network *net, const float *x, int64_t n, float *logits, sl_error *err);

/* Prepares the step in all plugins (plan, reserve); must be followed by commit. */
sl_status sli_network_begin(sli_network *net, const sl_batch *batch, sl_error *err);
sl_status sli_network_commit(sli_network *net, const sl_commit *commit, sl_error *err);
/* Waits for what was queued on a device. */
sl_status sli_network_wait(sli_network *net, sl_error *err);

/* Sequences, in all stores at once. */
sl_status sli_network_seq_open(sli_network *net, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
void sli_network_seq_close(sli_network *net, int32_t seq);
sl_status sli_network_seq_grow(sli_network *net, int32_t seq, int64_t n_tokens, sl_error *err);
/* Rows that a layer holds of a sequence, by KV head: n_rows [K]. */
sl_status sli_network_rows(sli_network *net, int32_t layer, int32_t seq, int64_t *n_rows);
sl_status sli_network_seq_truncate(sli_network *net, int32_t seq, int64_t n, sl_error *err);

#endif
