/* See techniques.h. Contexts of the test are shorter than 300 tokens, so budgets are small. */
#include "techniques.h"

#include "e2e.h"

const char *const slot_names[N_SLOTS] = {"attention", "store", "policy", "drafter", "quantiser"};

static char tiny_as_draft[PATH_MAX + 32];

static const technique attentions[] = {
    {"dense", {NULL}, {NULL}},
    {"tidaldecode",
     {"attention.plugin=tidaldecode", "attention.token_budget=32", "attention.sparse_layer_start=1",
      "attention.reselect_layers=3"},
     {"attention.plugin=tidaldecode", "attention.token_budget=4096"}},
};
static const technique stores[] = {
    {"paged", {NULL}, {NULL}},
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
    {"swift",
     {"speculation.plugin=swift", "speculation.max_draft=3", "speculation.topk=3", "speculation.stop_threshold=0.3"},
     {"speculation.plugin=swift", "speculation.max_draft=3", "speculation.topk=3", "speculation.stop_threshold=0.3"}},
};
static const technique quantisers[] = {
    {"none", {NULL}, {NULL}},
    {"rtn", {"quant.plugin=rtn", "quant.bits=4", "quant.group=32"}, {NULL}},
};

#define ROW(table)                                                                                                     \
    { table, sizeof table / sizeof *table }
static const struct {
    const technique *table;
    int n;
} slots[N_SLOTS] = {ROW(attentions), ROW(stores), ROW(policies), ROW(drafters), ROW(quantisers)};

const technique *techniques_of(slot s, int *n) {
    if (tiny_as_draft[0] == '\0')
        snprintf(tiny_as_draft, sizeof tiny_as_draft, "draft.model.path=%s", e2e_path("models/tiny"));
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
