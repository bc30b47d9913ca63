/* See techniques.h. Contexts of the test are shorter than 300 tokens, so budgets are small. */
#include "techniques.h"

#include "e2e.h"
#include "medusa_file.h"

const char *const slot_names[N_SLOTS] = {"attention", "store", "policy", "drafter", "quantiser", "prompt"};

/* Settings that name files: made by prepare(). */
static char tiny_as_draft[PATH_MAX + 32], gates[PATH_MAX + 32], heads[PATH_MAX + 32];
static char gptq_file[PATH_MAX + 32], spqr_file[PATH_MAX + 32], turned_file[PATH_MAX + 32];

static const technique attentions[] = {
    {"dense", {NULL}, {NULL}},
    {"tidaldecode",
     {"attention.plugin=tidaldecode", "attention.token_budget=32", "attention.sparse_layer_start=1",
      "attention.reselect_layers=3"},
     {"attention.plugin=tidaldecode", "attention.token_budget=4096"}},
    {"quest",
     {"attention.plugin=quest", "attention.token_budget=48", "attention.page_size=8", "attention.dense_layers=1"},
     {"attention.plugin=quest", "attention.token_budget=4096"}},
    {"duoattention",
     {"attention.plugin=duoattention", gates, "attention.sink_size=4", "attention.recent_size=32"},
     {"attention.plugin=duoattention", gates, "attention.sparsity=0"}},
    {"duoattention, its own cache",
     {"attention.plugin=duoattention", "kvcache.plugin=duoattention", gates, "attention.sink_size=4",
      "attention.recent_size=32", "attention.slack=32"},
     {"attention.plugin=duoattention", "kvcache.plugin=duoattention", gates, "attention.sparsity=0"}},
};
static const technique stores[] = {
    {"paged", {NULL}, {NULL}},
    {"kivi",
     {"kvcache.plugin=kivi", "kvcache.bits=2", "kvcache.residual=32"},
     {"kvcache.plugin=kivi", "kvcache.bits=16"}},
    {"shadowkv",
     {"kvcache.plugin=shadowkv", "kvcache.sparse_budget=32", "kvcache.rank=96", "kvcache.outlier_chunks=2",
      "kvcache.min_prompt=64"},
     {"kvcache.plugin=shadowkv", "kvcache.min_prompt=4096"}},
};
static const technique policies[] = {
    {"none", {NULL}, {NULL}},
    {"streaming",
     {"kvcache.policy.plugin=streaming", "kvcache.policy.budget=64", "kvcache.policy.decode_interval=0"},
     {"kvcache.policy.plugin=streaming", "kvcache.policy.budget=4096"}},
    {"streaming, each step", {"kvcache.policy.plugin=streaming", "kvcache.policy.budget=64"}, {NULL}},
    {"h2o",
     {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=64", "kvcache.policy.decode_interval=0"},
     {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=4096", "kvcache.policy.decode_interval=0"}},
    {"h2o, each step",
     {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=64"},
     {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=4096"}},
    {"snapkv",
     {"kvcache.policy.plugin=snapkv", "kvcache.policy.budget=64", "kvcache.policy.window=16"},
     {"kvcache.policy.plugin=snapkv", "kvcache.policy.budget=4096"}},
};
static const technique drafters[] = {
    {"none", {NULL}, {NULL}},
    {"prompt_lookup", {"speculation.plugin=prompt_lookup"}, {"speculation.plugin=prompt_lookup"}},
    {"sps",
     {"speculation.plugin=sps", "speculation.gamma=3", tiny_as_draft},
     {"speculation.plugin=sps", "speculation.gamma=3", tiny_as_draft}},
    {"token_recycling",
     {"speculation.plugin=token_recycling", "speculation.cut=12"},
     {"speculation.plugin=token_recycling", "speculation.cut=12"}},
    {"medusa", {"speculation.plugin=medusa", "speculation.nodes=12", heads}, {"speculation.plugin=medusa", heads}},
    {"swift",
     {"speculation.plugin=swift", "speculation.max_draft=3", "speculation.topk=3", "speculation.stop_threshold=0.3"},
     {"speculation.plugin=swift", "speculation.max_draft=3", "speculation.topk=3", "speculation.stop_threshold=0.3"}},
};
static const technique quantisers[] = {
    {"none", {NULL}, {NULL}},
    {"rtn", {"quant.plugin=rtn", "quant.bits=4", "quant.group=32"}, {NULL}},
    {"gptq", {"quant.plugin=gptq", "quant.bits=4", "quant.group_size=32", "quant.desc_act=yes", gptq_file}, {NULL}},
    {"spqr", {"quant.plugin=spqr", "quant.wbits=3", spqr_file}, {NULL}},
    {"hadamard", {"quant.rewrite.plugin=hadamard", "quant.rewrite.kv_rotate=yes"}, {NULL}}, /* equal up to rounding */
    {"hadamard over rtn",
     {"quant.rewrite.plugin=hadamard", "quant.plugin=rtn", "quant.bits=4", "quant.group=32"},
     {NULL}},
    {"hadamard over gptq",
     {"quant.rewrite.plugin=hadamard", "quant.plugin=gptq", "quant.bits=4", "quant.group_size=32", turned_file},
     {NULL}},
};

static const technique prompts[] = {
    {"none", {NULL}, {NULL}},
    {"gemfilter",
     {"kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=48", "kvcache.prompt.filter_layer=3"},
     {"kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=4096"}},
    {"gemfilter, original positions",
     {"kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=48", "kvcache.prompt.filter_layer=3",
      "kvcache.prompt.positions=original"},
     {NULL}},
    {"gemfilter, prefix reused",
     {"kvcache.prompt.plugin=gemfilter", "kvcache.prompt.topk=48", "kvcache.prompt.filter_layer=3",
      "kvcache.prompt.reuse_prefix=yes"},
     {NULL}},
};

#define ROW(table)                                                                                                     \
    { table, sizeof table / sizeof *table }
static const struct {
    const technique *table;
    int n;
} slots[N_SLOTS] = {ROW(attentions), ROW(stores), ROW(policies), ROW(drafters), ROW(quantisers), ROW(prompts)};

/* Files that some techniques need, for models/tiny: six layers of two KV heads, hidden rows of 256. */
static void prepare(void) {
    if (tiny_as_draft[0] != '\0')
        return;
    snprintf(tiny_as_draft, sizeof tiny_as_draft, "draft.model.path=%s", e2e_path("models/tiny"));
    snprintf(gates, sizeof gates, "attention.pattern_file=%s", e2e_temp("gates.tsv"));
    e2e_put_text(e2e_temp(""), "gates.tsv", "0.9\t0.1\n0.2\t0.8\n0.7\t0.6\n0.1\t0.2\n0.9\t0.3\n0.4\t0.8\n");
    snprintf(heads, sizeof heads, "speculation.heads=%s", e2e_temp("heads.safetensors"));
    medusa_file_write(
        e2e_temp("heads.safetensors"),
        &(medusa_file){.heads = 3, .blocks = 1, .hidden = 256, .vocab = 4096, .prefix = "", .scale = 0.1});
}

/* Packs models/tiny with a few samples, for a quantiser that looks at data. */
static void pack(const char *name, const char *const *sets, char *artifact) {
    char model[PATH_MAX + 32];
    const char *all[MAX_SETTINGS + 2] = {model, "engine.threads=1"};
    int n = 2;
    size_t length;
    char *text = e2e_read(e2e_path("recipes/golden/prose_watson.txt"), &length);
    snprintf(model, sizeof model, "model.path=%s", e2e_path("models/tiny"));
    for (; sets[n - 2] != NULL && sets[n - 2] != artifact; n++)
        all[n] = sets[n - 2];
    sluice_options options = {.sets = all, .n_sets = n};
    sluice_quantize_options how = {.text = text,
                                   .length = length,
                                   .text_name = "prose",
                                   .output = e2e_temp(name),
                                   .n_samples = 2,
                                   .sample_length = 64,
                                   .seed = 1};
    sluice_error err = {0};
    if (sluice_quantize(&options, &how, NULL, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    free(text);
    snprintf(artifact, PATH_MAX + 32, "quant.artifact=%s", e2e_temp(name));
}

static void prepare_quantisers(void) {
    if (gptq_file[0] != '\0')
        return;
    pack("gptq.safetensors", technique_named(QUANTISER, "gptq")->sets, gptq_file);
    pack("spqr.safetensors", technique_named(QUANTISER, "spqr")->sets, spqr_file);
    pack("turned.safetensors", technique_named(QUANTISER, "hadamard over gptq")->sets, turned_file);
}

const technique *techniques_of(slot s, int *n) {
    static int entered;
    prepare();
    if (s == QUANTISER && !entered++)
        prepare_quantisers();
    *n = slots[s].n;
    return slots[s].table;
}

const technique *technique_named(slot s, const char *name) {
    int n;
    const technique *table = techniques_of(s, &n);
    for (int i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    fail_msg("no %s is named %s", slot_names[s], name);
    return NULL;
}
