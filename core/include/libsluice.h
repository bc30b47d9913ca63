/* libsluice.h - run language models from a C program: open from an INI, sessions, generate with a callback.
 *
 * The `sluice` command uses nothing but this header. Errors are values: functions that can fail return SLUICE_OK or a
 * negative code and write a message into a caller-owned sluice_error (NULL is legal). One engine is used by one thread
 * at a time; the engine has its own workers. Strings are UTF-8. Pointers given to callbacks live until they return.
 */
#ifndef LIBSLUICE_H
#define LIBSLUICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SLUICE_OK = 0,
    SLUICE_E_INVALID = -1,   /* an argument or a setting is wrong */
    SLUICE_E_NOT_FOUND = -2, /* file, plugin, tensor */
    SLUICE_E_NO_MEMORY = -4,
    SLUICE_E_RANGE = -7,     /* prompt longer than the context ... */
    SLUICE_E_DATA = -9       /* damaged file */
    /* other negative values: the status codes of sluice/sl.h */
};

typedef struct sluice_error {
    int code;
    char text[1024];
} sluice_error;

typedef struct sluice_engine sluice_engine;
typedef struct sluice_session sluice_session; /* one sequence: its tokens and its cache */

const char *sluice_version(void); /* "0.1.0" */

/* ---- configuration --------------------------------------------------------------------------------------------- */

typedef struct sluice_options {
    const char *config;       /* INI file; NULL: defaults and `sets` alone */
    const char *const *sets;  /* [n_sets] "section.key=value", later ones win */
    int n_sets;
    /* Called while weights are loaded and packed; done and total in bytes. NULL: silent. */
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
    void *user;
    /* What is going to happen if that runs on the CPU only ("calibration"): engine.device = auto means the CPU then, and
     * cuda is refused. NULL: nothing of that kind. */
    const char *only_cpu;
} sluice_options;

/* Receives text piece by piece. */
typedef void (*sluice_write_fn)(void *user, const char *text, size_t length);

/* Writes the resolved configuration as an INI: every key, defaults included, with where it came from. */
int sluice_config_show(const sluice_options *options, sluice_write_fn write, void *user, sluice_error *err);
/* Does the combination fit? Opens model and plugins, reads no weights. SLUICE_OK, or an error that says why not. */
int sluice_config_check(const sluice_options *options, sluice_error *err);

/* Plugins that can be found, each scanned in a child process, as a JSON array of descriptions. id NULL: all of them. */
int sluice_plugins_json(const sluice_options *options, const char *id, sluice_write_fn write, void *user,
                        sluice_error *err);

/* ---- packing with data ----------------------------------------------------------------------------------------- */

typedef struct sluice_quantize_options {
    const char *text;        /* what samples are cut from */
    size_t length;
    const char *text_name;   /* written into the file */
    const char *output;      /* FILE.safetensors, or a folder that gets a file for each [quant] section */
    int64_t n_samples;       /* stretches of the text, at places drawn with `seed` */
    int64_t sample_length;   /* tokens of one, beginning of text included */
    uint64_t seed;
} sluice_quantize_options;

typedef struct sluice_quantize_report {
    int32_t n_files, n_groups;
    int64_t weights;         /* that were quantised */
    double bits_per_weight;  /* of them, everything included that is in memory when they are served */
    int64_t file_bytes;
    int64_t peak_bytes;      /* of memory */
    double seconds;
} sluice_quantize_report;

/* Packs what the configured [quant] plugins pack with data, into files for their `artifact` key. Opens and closes an
 * engine of its own. report may be NULL. */
int sluice_quantize(const sluice_options *options, const sluice_quantize_options *how, sluice_quantize_report *report,
                    sluice_error *err);

/* ---- engine ---------------------------------------------------------------------------------------------------- */

/* Loads model, plugins and weights. */
int sluice_open(const sluice_options *options, sluice_engine **out, sluice_error *err);
void sluice_close(sluice_engine *engine); /* NULL is legal; sessions are closed with it */

/* Looks for NaN and Inf in the weights; the error names tensor and element. */
int sluice_verify_weights(sluice_engine *engine, sluice_error *err);

typedef struct sluice_info {
    const char *model;        /* directory name */
    const char *model_type;
    const char *dtype;        /* of most weights */
    const char *isa;          /* instruction set in use */
    const char *device;       /* "cpu", "cuda" */
    int64_t parameters;
    int64_t model_bytes;
    int32_t vocab, layers, hidden;
    int32_t max_context;
    int32_t threads;
    int32_t max_sessions;
    int32_t bos;              /* -1: none */
    int32_t max_rows;         /* rows of the largest step */
    int32_t prefill_chunk;    /* rows of the largest prompt chunk */
    const char *kv_dtype;     /* of stored keys and values */
    const char *device_name;  /* "NVIDIA H200"; "" on the CPU */
    const char *device_reason; /* why it is the CPU where engine.device = auto; "": it was asked for, or it is a GPU */
} sluice_info;
void sluice_get_info(const sluice_engine *engine, sluice_info *out);

/* ---- text ------------------------------------------------------------------------------------------------------ */

enum { SLUICE_ADD_SPECIAL = 1, SLUICE_PARSE_SPECIAL = 2 };

/* Token ids of a text. Returns how many there are; writes at most cap of them. < 0: error. */
int64_t sluice_tokenize(sluice_engine *engine, const char *text, size_t length, int flags, int32_t *out, int64_t cap,
                        sluice_error *err);
/* Text of tokens; returns its bytes, writes at most cap of them. Special tokens are left out. < 0: error. */
int64_t sluice_detokenize(sluice_engine *engine, const int32_t *tokens, int64_t n, char *out, int64_t cap,
                          sluice_error *err);

/* ---- sessions -------------------------------------------------------------------------------------------------- */

int sluice_session_open(sluice_engine *engine, sluice_session **out, sluice_error *err);
void sluice_session_close(sluice_session *session);
/* A second session that shares the first n tokens (n <= length; -1: all), without copying their cache. */
int sluice_session_fork(sluice_session *session, int64_t n, sluice_session **out, sluice_error *err);
int sluice_session_truncate(sluice_session *session, int64_t n, sluice_error *err);
/* Adds tokens to be computed by the next generate or score. Refused when the context would overflow. */
int sluice_session_append(sluice_session *session, const int32_t *tokens, int64_t n, sluice_error *err);
/* Makes the session n tokens longer without computing them: random tokens whose keys and values are seeded random numbers,
 * written through the store's own append, chunk by chunk. For measuring speed at a depth; what is generated behind means
 * nothing. Nothing may be pending. Refused where rows cannot be made without the model (prompt transformers). */
int sluice_session_fill(sluice_session *session, int64_t n, uint64_t seed, sluice_error *err);
int64_t sluice_session_length(const sluice_session *session);
const int32_t *sluice_session_tokens(const sluice_session *session); /* [length], lives until the next call */
/* What the model computes. It is the session's text, unless a prompt transformer ([kvcache.prompt]) replaced the prompt:
 * then its first *n_prompt tokens stand for it. *index: where each of those stands in the text, -1: nowhere; NULL: every
 * token stands where it did, or the transformer does not tell. Returns how many tokens; they live until the next call. */
int64_t sluice_session_computed(const sluice_session *session, const int32_t **tokens, const int64_t **index,
                                int64_t *n_prompt);
/* The cache as a versioned file, for the same model; load makes an empty session equal to the saved one. */
int sluice_session_save(sluice_session *session, const char *path, sluice_error *err);
int sluice_session_load(sluice_session *session, const char *path, sluice_error *err);

/* What shapes the cache that computing a prompt leaves, as lines of text: model, engine settings, machine, store, packing,
 * and the attention of the prompt pass - unless that is the plain one of every plugin that provides "sl.prefill.plain/1".
 * What acts while decoding alone is not in it. Engines with equal texts leave the same rows for the same tokens, so each may
 * load what another one saved. -3: this engine's sessions cannot be shared in that way; the error says why. */
int sluice_prefill_identity(const sluice_engine *engine, sluice_write_fn write, void *user, sluice_error *err);

/* ---- generate -------------------------------------------------------------------------------------------------- */

typedef struct sluice_sampling {
    double temperature;        /* 0: greedy */
    int32_t top_k;             /* 0: off */
    double top_p, min_p;       /* 1 and 0: off */
    double repeat_penalty;     /* 1: off */
    double presence_penalty, frequency_penalty;
    int32_t penalty_last_n;    /* tokens looked back at; -1: all */
    const int32_t *bias_id;    /* [n_bias] */
    const float *bias;         /* [n_bias] added to the logit */
    int32_t n_bias;
    const char *const *stop;   /* [n_stop] strings that end the text and are not part of it */
    int32_t n_stop;
    int32_t max_tokens;        /* -1: until the context is full */
    int32_t ignore_eos;
    int32_t race;              /* 1: draw by race instead of by inverse CDF */
    uint64_t seed;
    uint32_t sample;           /* index among the outputs of one request */
} sluice_sampling;
/* What [sampling] of the configuration says; a seed of -1 has been drawn. */
void sluice_default_sampling(const sluice_engine *engine, sluice_sampling *out);

enum { SLUICE_RUNNING = 0, SLUICE_FINISH_EOS = 1, SLUICE_FINISH_STOP = 2, SLUICE_FINISH_LENGTH = 3, SLUICE_FINISH_CANCELLED = 4 };

typedef struct sluice_chunk {
    int32_t index;          /* which session of the call */
    int32_t n_tokens;       /* new tokens; 0 in progress reports of the prompt */
    const int32_t *tokens;
    const char *text;       /* complete UTF-8 that can no longer become part of a stop string */
    size_t length;
    int32_t finish;         /* SLUICE_FINISH_*, SLUICE_RUNNING before the end */
    int64_t prompt_done, prompt_total; /* tokens of the prompt computed so far, of the one that is computed */
} sluice_chunk;
/* Return 0 to go on, anything else to cancel that session. */
typedef int (*sluice_chunk_fn)(void *user, const sluice_chunk *chunk);

/* Runs the sessions together until each has finished. A session needs at least one token. sampling: [n], or one for all when shared != 0. */
int sluice_generate(sluice_engine *engine, sluice_session *const *sessions, int n, const sluice_sampling *sampling,
                    int shared, sluice_chunk_fn fn, void *user, sluice_error *err);

/* Teacher forcing: computes the pending tokens of the session and tells, for each of the last n_scored tokens, its log
 * probability (natural) given everything before it, and the most likely id. The session must have at least one token in
 * front of the scored ones. */
int sluice_score(sluice_session *session, int64_t n_scored, double *logprob, int32_t *best, sluice_error *err);
/* The same for the last n_scored tokens as a continuation: the tokens in front of them are computed as the prompt, they
 * themselves one by one as decode steps. What a technique does to decoding shows here. */
int sluice_score_steps(sluice_session *session, int64_t n_scored, double *logprob, int32_t *best, sluice_error *err);
/* Receives the raw logits [vocab] that predict scored token `row`; they live until it returns. */
typedef void (*sluice_logits_fn)(void *user, int64_t row, const float *logits, int64_t vocab);
/* As sluice_score (in_steps 0) or sluice_score_steps (1), but hands out the logits themselves: for rows 0 .. n_scored - 1, in
 * this order, one at a time, so that the caller decides what is kept. */
int sluice_visit_logits(sluice_session *session, int64_t n_scored, int in_steps, sluice_logits_fn fn, void *user,
                        sluice_error *err);
/* Computes the pending tokens as prompt. more != 0: the prompt goes on behind them, so that what happens at the end of a
 * prompt (policies that drop rows) waits for the tokens of a later call; a part of them may stay pending. */
int sluice_prefill(sluice_session *session, int more, sluice_error *err);
/* Raw logits [n, vocab] after each of the last n pending tokens. */
int sluice_logits(sluice_session *session, int64_t n, float *logits, sluice_error *err);

/* ---- calibration ----------------------------------------------------------------------------------------------- */

/* What a plugin measured; independent of the engine. */
typedef struct sluice_calibration sluice_calibration;

typedef struct sluice_choice {
    const char *value; /* of the parameter */
    double score;      /* larger is better */
} sluice_choice;

typedef struct sluice_curve {
    const char *name;
    const double *x, *y; /* [n]; NaN: no point */
    int64_t n;
} sluice_curve;

typedef struct sluice_calibration_info {
    const char *plugin, *section; /* "attention" */
    const char *key;              /* the parameter that was measured; NULL: none, the file is the result */
    const char *score_name, *x_label, *y_label;
    const sluice_choice *choices; /* [n_choices] best first */
    const sluice_curve *curves;   /* [n_curves] */
    int64_t n_samples;
    int32_t n_choices, n_curves;
} sluice_calibration_info;

enum { SLUICE_SEES_PROMPTS = 1, SLUICE_SEES_DECODING = 2 };

/* From now on the plugin of that id gathers statistics in what the engine computes, one session at a time. *sees: set of
 * SLUICE_SEES_*, what it wants to see. SLUICE_E_NOT_FOUND: it is not part of this engine; -3: it has nothing
 * to calibrate. */
int sluice_calibrate_begin(sluice_engine *engine, const char *plugin, int *sees, sluice_error *err);
int sluice_calibrate_finish(sluice_engine *engine, const char *plugin, sluice_calibration **out, sluice_error *err);
void sluice_calibration_get(const sluice_calibration *calibration, sluice_calibration_info *out);
/* Writes the file that the plugin reads: tensors and metadata of the report, and `value` for its key (NULL: none). */
int sluice_calibration_write(const sluice_calibration *calibration, const char *value, const char *path, sluice_error *err);
void sluice_calibration_free(sluice_calibration *calibration); /* NULL is legal */

/* ---- cost ------------------------------------------------------------------------------------------------------ */

enum { SLUICE_PEAK_F32, SLUICE_PEAK_BF16, SLUICE_PEAK_F16, SLUICE_PEAK_F8, SLUICE_PEAK_I8, SLUICE_PEAKS };
/* Kinds of operations that attain different shares of a machine's ceilings. */
enum { SLUICE_CLASS_LINEAR, SLUICE_CLASS_ATTEND, SLUICE_CLASS_REST, SLUICE_CLASSES };

/* Ceilings of a machine: a roofline. */
typedef struct sluice_hardware {
    char name[64];
    char device[8];             /* "cpu" or "cuda": for which of them costs are told */
    char source[256];           /* where the numbers are from */
    double bandwidth;           /* bytes a second, of the memory in which weights and cache are */
    double link;                /* bytes a second between host and device; 0: there is none */
    double launch;              /* seconds that one more operation takes, however small */
    double cache;               /* bytes of the last cache; 0: unknown */
    double peak[SLUICE_PEAKS];  /* FLOP a second by type; 0: as f32 */
    double memory_share[SLUICE_CLASSES], compute_share[SLUICE_CLASSES]; /* of bandwidth and peak that are attained, 0 to 1 */
} sluice_hardware;

/* A machine of the built-in table ("h200"), of an INI file with one section ("FILE.ini"), or of one with several
 * ("FILE.ini:NAME"). SLUICE_E_NOT_FOUND lists the names that there are. */
int sluice_hardware_find(const char *name, sluice_hardware *out, sluice_error *err);
/* Measures the CPU with the configured threads and instruction set: takes some seconds. No model is opened. */
int sluice_hardware_measure(const sluice_options *options, sluice_hardware *out, sluice_error *err);
/* Writes an INI that sluice_hardware_find reads. */
int sluice_hardware_write(const sluice_hardware *hardware, const char *path, sluice_error *err);

typedef struct sluice_roofline_request {
    const sluice_hardware *hardware;
    int64_t prompt, generated; /* tokens of each sequence */
    int64_t batch;             /* sequences that run together */
    double accept;             /* chance that the next token stands among the children of an accepted draft node; a guess */
} sluice_roofline_request;

/* What the configured combination costs by operation, from formulas that the plugins state, and what the dense model does:
 * one JSON object (docs/roofline.md). Opens model and plugins; reads no weights, and makes none of a shape. For hardware of
 * kind "cuda" no GPU is needed. */
int sluice_roofline_json(const sluice_options *options, const sluice_roofline_request *request, sluice_write_fn write,
                         void *user, sluice_error *err);

/* Measured time of one act of a step. */
typedef struct sluice_op_time {
    const char *name;     /* "attend": of the same acts as in the JSON above; [static] */
    double seconds[2];    /* in steps of prompts; in steps that decode */
    int64_t calls[2];
} sluice_op_time;
/* From now on the engine times the acts of its steps, or stops doing so. On a GPU steps then run launch by launch, without
 * graphs. Forgets what was measured. */
int sluice_profile(sluice_engine *engine, int on, sluice_error *err);
/* Returns how many acts there are; writes at most cap of them. steps [2]: of prompts, that decoded; may be NULL. */
int sluice_profile_read(const sluice_engine *engine, sluice_op_time *out, int cap, int64_t *steps);

/* ---- measurements ---------------------------------------------------------------------------------------------- */

enum { SLUICE_MAX_DEPTH = 128 };

typedef struct sluice_stats {
    int64_t prompt_tokens, tokens;        /* computed as prompt, generated */
    double prompt_seconds, decode_seconds;
    int64_t steps;                        /* decode steps */
    int64_t emitted, drafted, accepted;   /* tokens out of decode steps; draft tokens proposed, accepted */
    int64_t drafted_by_depth[SLUICE_MAX_DEPTH], accepted_by_depth[SLUICE_MAX_DEPTH];
    int64_t bytes_weights, bytes_kv, bytes_scratch, bytes_plugin, bytes_peak;
    int64_t allocs_in_steps;              /* allocations while a step ran: 0, or somebody misbehaves */
    int32_t lossless;                     /* 0: the drafter changes the output distribution */
    int64_t bytes_kv_host;                /* what the KV cache keeps in a second tier */
    /* Prompt transformers: tokens of the prompts that they replaced, and of what they left; how many rows times layers
     * were computed to find out, and how long that took (prompt_seconds contains it). */
    int64_t replaced_tokens, kept_tokens, prompt_work_layers;
    double prompt_work_seconds;
    /* On a device: seconds in which it worked on steps; graphs of steps that were captured, and their nodes. */
    double device_seconds;
    int64_t graphs, graph_nodes;
    /* Memory of the GPU, which the numbers above do not contain, and of the host pinned for it; 0 on the CPU. */
    int64_t gpu_bytes_weights, gpu_bytes_kv, gpu_bytes_scratch, gpu_bytes_plugin, gpu_bytes_peak, bytes_pinned;
    /* Steps on a device whose tokens were decided on the host out of logits, out of best ids, and on the device. */
    int64_t device_answers[3];
    int64_t device_ahead; /* steps that were launched before the tokens in front of them were known, and needed */
    /* Of all graphs: nodes that are no kernels, edges, and those of them over which a kernel starts early. */
    int64_t graph_others, graph_edges, graph_dependent;
} sluice_stats;
void sluice_get_stats(const sluice_engine *engine, sluice_stats *out);
void sluice_reset_stats(sluice_engine *engine);

/* Memory of the process by what it is for, as the allocator counts it. */
/* Places; pinned is host memory for a GPU, and not part of HOST. */
enum { SLUICE_HOST = 0, SLUICE_GPU = 1, SLUICE_PINNED = 2, SLUICE_MEMORY_ROWS = 7 };
typedef struct sluice_memory {
    const char *tag;     /* "weights" (mapped files included), "kv", "kv_host", "scratch", "plugin", "misc", "total"; static */
    int64_t bytes, peak; /* held now; the most since the process began or the peaks were reset */
} sluice_memory;
/* Row i, from 0 on, of a place; 0: there is no such row. The last one is the sum, and its peak is that of the sum. */
int sluice_get_memory(const sluice_engine *engine, int place, int i, sluice_memory *out);
/* Largest values, those of sluice_stats too, begin again with what is held now. They belong to the process: those of other
 * engines begin again, too. */
void sluice_reset_peaks(sluice_engine *engine);
/* The statistics and what they belong to (isa, plugins, counters of plugins) as one JSON object. */
int sluice_stats_json(const sluice_engine *engine, sluice_write_fn write, void *user, sluice_error *err);

#ifdef __cplusplus
}
#endif
#endif
