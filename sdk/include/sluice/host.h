/* host.h - what the host gives a plugin: a tiny base, and services fetched by id.
 *
 * The plugin links nothing of the core. Services are looked up once, at create or activate, never in a step. Tables are
 * const and live until destroy returned. NULL is normal for everything not marked "always".
 */
#ifndef SLUICE_HOST_H
#define SLUICE_HOST_H

#include "plugin.h"

SL_BEGIN

enum {
    SL_LOG_DEBUG = 0,
    SL_LOG_INFO = 1,
    SL_LOG_WARNING = 2,
    SL_LOG_ERROR = 3,
    SL_LOG_PLUGIN_MISBEHAVED = 4, /* found by a checking host */
    SL_LOG_HOST_MISBEHAVED = 5    /* found by a plugin */
};

struct sl_host {
    uint64_t struct_size;
    const char *name, *version;
    uint32_t abi_major, abi_minor;
    void *impl; /* the host's own */
    /* Service table by id, or NULL. [any] */
    const void *(*query)(const sl_host *host, const char *id);
    /* One finished line without line feed. [any] */
    void (*log)(const sl_host *host, uint32_t level, const char *text);
};
SL_ABI_STRUCT(sl_host, log);

/* ---- the model ------------------------------------------------------------------------------------------------- */

enum { SL_ROPE_NONE = 0, SL_ROPE_HALF = 1, SL_ROPE_INTERLEAVED = 2 };

/* Rotary tables. Layers that share theta and scaling share a table. */
typedef struct sl_rope {
    uint64_t struct_size;
    const float *inv_freq;  /* [dims / 2], after scaling */
    const float *cos, *sin; /* [n_positions, dims / 2] times attention_factor; positions 0, 1, 2 ... */
    int64_t n_positions;
    double theta;
    double attention_factor;
    uint32_t style;         /* SL_ROPE_* */
    int32_t dims;           /* leading dimensions of a head that rotate */
    const float *device_cos, *device_sin; /* the same tables in device memory; NULL on the CPU */
} sl_rope;
SL_ABI_STRUCT(sl_rope, device_sin);

/* One decoder layer. Every number may differ from layer to layer. */
typedef struct sl_layer_info {
    uint64_t struct_size;
    const char *block;     /* "gqa"; "mla", "recurrent" are reserved */
    double attn_scale;     /* factor on q.k */
    double attn_softcap;   /* c of c tanh(s / c); 0: none */
    int64_t window;        /* key j visible to query i iff i - window < j <= i; 0: no window */
    int32_t n_heads, n_kv_heads; /* H and K; H is a multiple of K; both 0: the layer has no attention */
    int32_t head_dim, v_head_dim;
    int32_t ffn;           /* width; 0: the layer has no FFN */
    int32_t rope;          /* index into sl_model_info.ropes; -1: none */
    uint32_t qk_norm;      /* 1: RMS norm of each head of q and k before RoPE */
    uint32_t reserved0;
    uint32_t act;          /* SL_ACT_* of the FFN (ops.h) */
    uint32_t reserved1;
} sl_layer_info;
SL_ABI_STRUCT(sl_layer_info, reserved1);

struct sl_model_info {
    uint64_t struct_size;
    const char *name;       /* directory name */
    const char *type;       /* model_type of config.json */
    const sl_layer_info *const *layers; /* [n_layers] */
    const sl_rope *const *ropes;        /* [n_ropes] */
    const int32_t *eos;     /* [n_eos] */
    uint64_t fingerprint;   /* of configuration and tensor shapes: artifacts name the model they were made for */
    uint64_t vocab_fingerprint; /* equal fingerprints: equal vocabularies */
    double norm_eps;
    int32_t n_layers, n_ropes, n_eos;
    int32_t hidden, vocab;
    int32_t max_position;   /* trained context */
    int32_t bos;            /* -1: none */
    uint32_t tied;          /* 1: lm_head is the embedding */
};
SL_ABI_STRUCT(sl_model_info, tied);

/* "sl.model/1" - weights by their Hugging Face names. always */
#define SL_MODEL_ID "sl.model/1"
typedef struct sl_model {
    uint64_t struct_size;
    /* The tensor as the checkpoint holds it; borrowed, read-only, live until deactivate. SL_E_NOT_FOUND. [setup] */
    sl_status (*tensor)(const sl_host *host, const char *name, sl_tensor *out);
    /* Info of the model with that index: 0 the target, 1 the draft; NULL when there is none. [any] */
    const sl_model_info *(*info)(const sl_host *host, int32_t model);
} sl_model;
SL_ABI_STRUCT(sl_model, info);

/* "sl.head/1" - the output head as this engine serves it, whichever quantiser packed it: for drafters whose heads share
 * it. always */
#define SL_HEAD_ID "sl.head/1"
typedef struct sl_head {
    uint64_t struct_size;
    /* Raw logits [n, vocab] of n rows x [n, hidden] as SL_TAP_FINAL_NORM gives them; both f32 in host memory. model: 0
     * the target, 1 the draft; SL_E_NOT_FOUND: there is none. A row's logits do not depend on the others. Not out of a
     * forward pass: from propose, accept and observe. It may use sl.scratch/1. [step & active] */
    sl_status (*logits)(const sl_host *host, int32_t model, const float *x, int64_t n, float *logits);
    /* On a device: queued on the compute lane, without a wait. x: bf16 [n, hidden], logits: f32 [n, vocab], both in
     * device memory, rows may lie apart. SL_E_UNIMPLEMENTED: the model is on the CPU. [step & active] */
    sl_status (*queue)(const sl_host *host, int32_t model, const sl_tensor *x, const sl_tensor *logits);
} sl_head;
SL_ABI_STRUCT(sl_head, queue);

/* ---- memory ---------------------------------------------------------------------------------------------------- */

enum {
    SL_MEM_PLUGIN = 0,
    SL_MEM_KV = 1,
    SL_MEM_WEIGHTS = 2,
    SL_MEM_SCRATCH = 3,
    SL_MEM_KV_HOST = 4 /* the second tier of a KV store (sl_kv_quote.bytes_host): not held against the cache's limit */
};

/* "sl.mem/1" - all lasting memory comes from here, so that reports and budgets are true. always */
#define SL_MEM_ID "sl.mem/1"
typedef struct sl_mem {
    uint64_t struct_size;
    /* Zeroed memory, 64-byte aligned at least. align is a power of two up to 4096. NULL when there is none.
     * Between steps (open, grow, event) an active instance may allocate; inside a step it is counted and reported as a
     * fault. [setup] */
    void *(*alloc)(const sl_host *host, uint32_t device, int64_t bytes, int64_t align, uint32_t tag);
    /* NULL is legal. [setup] */
    void (*release)(const sl_host *host, uint32_t device, void *p);
} sl_mem;
SL_ABI_STRUCT(sl_mem, release);

/* "sl.scratch/1" - memory shared by all plugins, undefined at the start of every call, poisoned by a checking host.
 * always */
#define SL_SCRATCH_ID "sl.scratch/1"
typedef struct sl_scratch {
    uint64_t struct_size;
    /* Announces the largest need: shared bytes, and bytes for each CPU worker. [setup, in activate] */
    sl_status (*reserve)(const sl_host *host, uint32_t device, int64_t bytes, int64_t bytes_per_worker);
    /* 64-byte aligned; the same block for every caller. [step] */
    void *(*get)(const sl_host *host, uint32_t device);
    /* The block of one worker, 64-byte aligned. [step] [worker] */
    void *(*worker)(const sl_host *host, int32_t worker);
} sl_scratch;
SL_ABI_STRUCT(sl_scratch, worker);

/* ---- threads --------------------------------------------------------------------------------------------------- */

/* Work on items [begin, end); worker is 0 .. n_workers - 1. */
typedef void (*sl_range_fn)(void *user, int64_t begin, int64_t end, int32_t worker);

/* "sl.threads/1" - the host's pool; a plugin makes no threads. always */
#define SL_THREADS_ID "sl.threads/1"
typedef struct sl_threads {
    uint64_t struct_size;
    /* [any] */
    int32_t (*n_workers)(const sl_host *host);
    /* Splits n items into one contiguous range a worker, aligned to `grain` items, the same split for the same n;
     * returns when all are done. Not re-entrant. [setup] [step] */
    void (*parallel_for)(const sl_host *host, int64_t n, int64_t grain, sl_range_fn fn, void *user);
} sl_threads;
SL_ABI_STRUCT(sl_threads, parallel_for);

/* Instruction sets that the host lets be used (engine.isa), operating system support included. */
enum { SL_ISA_AVX2 = 1u << 0, SL_ISA_AVX512 = 1u << 1, SL_ISA_AVX512_BF16 = 1u << 2, SL_ISA_AVX512_VNNI = 1u << 3 };

/* "sl.cpu/1" always */
#define SL_CPU_ID "sl.cpu/1"
typedef struct sl_cpu {
    uint64_t struct_size;
    uint32_t (*isa)(const sl_host *host); /* set of SL_ISA_*; AVX2 implies FMA and F16C [any] */
} sl_cpu;
SL_ABI_STRUCT(sl_cpu, isa);

/* ---- artifacts ------------------------------------------------------------------------------------------------- */

/* "sl.artifact/1" - safetensors files that plugins were given by path. always */
#define SL_ARTIFACT_ID "sl.artifact/1"
typedef struct sl_artifact sl_artifact; /* opaque */
typedef struct sl_artifacts {
    uint64_t struct_size;
    /* Opens and validates a safetensors file. [setup] */
    sl_status (*open)(const sl_host *host, const char *path, sl_artifact **out, sl_error *err);
    void (*close)(const sl_host *host, sl_artifact *a);
    /* Tensor by name; borrowed, live until close. [setup] */
    sl_status (*tensor)(const sl_host *host, const sl_artifact *a, const char *name, sl_tensor *out);
    /* Value of the file's __metadata__, or NULL. [setup] */
    const char *(*metadata)(const sl_host *host, const sl_artifact *a, const char *key);
} sl_artifacts;
SL_ABI_STRUCT(sl_artifacts, metadata);

/* ---- random numbers -------------------------------------------------------------------------------------------- */

enum { SL_RNG_TARGET = 0, SL_RNG_ACCEPT = 1, SL_RNG_RESIDUAL = 2, SL_RNG_DRAFT = 3, SL_RNG_PLUGIN = 16 };

/* "sl.rng/1" - counter-based (Philox4x32-10), keyed by what is decided and never by an engine's order. always */
#define SL_RNG_ID "sl.rng/1"
typedef struct sl_rng {
    uint64_t struct_size;
    /* u in [0, 1) for (seed, sample, position, purpose, child). [any] */
    double (*uniform)(uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose, uint32_t child);
} sl_rng;
SL_ABI_STRUCT(sl_rng, uniform);

/* "sl.metrics/1" - counters that reports show under the plugin's id. */
#define SL_METRICS_ID "sl.metrics/1"
typedef struct sl_metrics {
    uint64_t struct_size;
    /* Adds to the counter of that name; the name is static. [step] [setup] */
    void (*add)(const sl_host *host, const char *name, double value);
} sl_metrics;
SL_ABI_STRUCT(sl_metrics, add);

SL_END
#endif
