/* See schema.h. One line a key: this is what --help prints. */
#include "config/schema.h"

#include <math.h>
#include <string.h>

#define INF ((double)INFINITY)
/* A static sl_param_def, usable inside an initialiser of pointers. */
#define KEY(name, type, fallback, choices, min, max, doc)                                                              \
    &(const sl_param_def) { SL_SIZE(sl_param_def), name, doc, fallback, choices, min, max, type, 0 }
#define INT(name, fallback, min, max, doc) KEY(name, SL_PARAM_INT, fallback, NULL, min, max, doc)
#define REAL(name, fallback, min, max, doc) KEY(name, SL_PARAM_FLOAT, fallback, NULL, min, max, doc)
#define FLAG(name, fallback, doc) KEY(name, SL_PARAM_BOOL, fallback, NULL, 1, 0, doc)
#define WORD(name, fallback, choices, doc) KEY(name, SL_PARAM_ENUM, fallback, choices, 1, 0, doc)
#define TEXT(name, doc) KEY(name, SL_PARAM_STRING, NULL, NULL, 1, 0, doc)
#define PATH(name, doc) KEY(name, SL_PARAM_PATH, NULL, NULL, 1, 0, doc)

static const char *const devices[] = {"auto", "cpu", "cuda", NULL};
static const char *const isas[] = {"auto", "ref", "avx2", "avx512", NULL};
static const char *const computes[] = {"auto", "f32", "bf16", NULL};
static const char *const debugs[] = {"no", "device", NULL};
static const char *const shape_dtypes[] = {"bf16", "f16", "f32", NULL};
static const char *const draws[] = {"cdf", "race", NULL};

static const sl_param_def *const model[] = {
    PATH("path", "Folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json)."),
    TEXT("shape", "Instead of path: the shape of a known model, with random weights and no tokenizer; for speed work."),
    WORD("shape_dtype", "bf16", shape_dtypes, "Of random weights."),
    INT("shape_seed", "0", 0, INF, "Of random weights."),
    NULL,
};

static const sl_param_def *const engine[] = {
    WORD("device", "auto", devices, "Where the model runs; auto: on a GPU if one is there and all chosen plugins run on it."),
    INT("gpu", "0", 0, 1023, "Which GPU, counted from 0."),
    INT("gpu_memory", "0", 0, 1 << 30, "Limit of GPU memory in MiB; 0: what is free."),
    INT("threads", "0", 0, 1024, "CPU threads; 0: all cores."),
    WORD("isa", "auto", isas, "Instruction set of the CPU kernels."),
    WORD("compute", "auto", computes, "Precision of matrix products; auto: f32 on the CPU, bf16 on a GPU."),
    FLAG("deterministic", "yes", "Tokens depend neither on batching, chunking, threads nor speculation."),
    INT("max_context", "0", 0, 1 << 30, "Longest sequence in tokens; 0: what the model was made for."),
    INT("prefill_chunk", "512", 1, 1 << 20, "Prompt tokens of one sequence in one step."),
    INT("max_seqs", "8", 1, 1 << 16, "Sequences alive at once."),
    INT("max_rows", "1024", 1, 1 << 20, "New tokens of all sequences in one step."),
    INT("kv_memory_mb", "0", 0, 1 << 30, "Limit of the KV cache in MiB; 0: none."),
    WORD("debug", "no", debugs, "device: GPU memory with red zones, a wait behind every kernel; very slow."),
    FLAG("validate", "no", "Checks every call to and from plugins; slow."),
    NULL,
};

static const sl_param_def *const sampling[] = {
    REAL("temperature", "0", 0, 100, "Divides the logits; 0: the most likely token, always."),
    INT("top_k", "0", 0, 1 << 30, "Keeps the k most likely tokens; 0: all."),
    REAL("top_p", "1", 0, 1, "Keeps the most likely tokens up to this total probability; 1: all."),
    REAL("min_p", "0", 0, 1, "Drops tokens less likely than this share of the most likely one; 0: none."),
    REAL("repeat_penalty", "1", 0.01, 100, "Divides positive and multiplies negative logits of tokens seen; 1: off."),
    REAL("presence_penalty", "0", -100, 100, "Subtracted once from the logit of each token seen; 0: off."),
    REAL("frequency_penalty", "0", -100, 100,
         "Subtracted from the logit of a token for each time it was seen; 0: off."),
    INT("penalty_last_n", "64", -1, 1 << 30, "How many of the last tokens count as seen; -1: all, 0: none."),
    INT("seed", "-1", -1, INF, "Start of the random numbers; -1: one is drawn and logged."),
    WORD("draw", "cdf", draws,
         "How a token is drawn: one number into the cumulated distribution, or an exponential race."),
    INT("max_tokens", "128", -1, 1 << 30, "Tokens to generate at most; -1: until the context is full."),
    TEXT("logit_bias", "Added to logits: token:bias,token:bias with biases of -100 to 100."),
    TEXT("stop", "Texts that end the output, separated by |; escapes \\n \\t \\r \\\\ \\| \\xHH."),
    FLAG("ignore_eos", "no", "Goes on behind end-of-text tokens."),
    NULL,
};

static const sl_param_def *const plugins[] = {
    TEXT("path", "Folders searched for plugins before all others, separated by colons."),
    NULL,
};

const sli_core_section sli_core_sections[SLI_CORE_COUNT] = {
    [SLI_CORE_MODEL] = {"model", "The model to run.", model},
    [SLI_CORE_ENGINE] = {"engine", "How it is run.", engine},
    [SLI_CORE_SAMPLING] = {"sampling", "How tokens are chosen from logits.", sampling},
    [SLI_CORE_PLUGINS] = {"plugins", "Where plugins are looked for.", plugins},
    [SLI_CORE_DRAFT_MODEL] = {"draft.model", "A second, smaller model for drafters that need one.", model},
};

int sli_is_core_section(const char *name) {
    for (int i = 0; i < SLI_CORE_COUNT; i++)
        if (strcmp(sli_core_sections[i].name, name) == 0)
            return 1;
    return 0;
}
