/* Layers, scopes and choices of the configuration, its messages, and `config show` read back. */
#include "sl_test.h"

#include <unistd.h>

#include "base/ledger.h"
#include "config/config.h"
#include "config/ini.h"

static sl_status load_sets(const char *text, const char *const *sets, int n, sli_config **out, sl_error *err) {
    *out = NULL;
    return sli_config_load_text(text, strlen(text), "run.ini", getenv("SLUICE_SOURCE"), sets, n, out, err);
}

static sli_config *load(const char *text) {
    SL_ERROR(err);
    sli_config *c;
    if (load_sets(text, NULL, 0, &c, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

static sli_config *load_with(const char *text, const char *set) {
    SL_ERROR(err);
    sli_config *c;
    if (load_sets(text, &set, 1, &c, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

static const char *key_of(const sli_choice *choice, const char *key) {
    const sli_key *k = choice == NULL ? NULL : sli_section_get(choice->section, key);
    return k == NULL ? "(none)" : k->value;
}

static const char *at(const sli_config *c, int layer, uint32_t stage) {
    return sli_choice_for_layer(c, "", "attention", layer, stage)->plugin;
}

/* ---- defaults and layers --------------------------------------------------------------------------------------- */

static void nothing_given(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_config *c = NULL;
    assert_int_equal(sli_config_load(NULL, NULL, 0, &c, &err), SL_OK);
    const sl_params *e = c->core[SLI_CORE_ENGINE], *s = c->core[SLI_CORE_SAMPLING];
    assert_int_equal(sli_param_int(e, "device"), SLI_ENGINE_AUTO);
    assert_int_equal(sli_param_int(e, "prefill_chunk"), 512);
    assert_int_equal(sli_param_bool(e, "deterministic"), 1);
    assert_int_equal(sli_param_int(s, "draw"), SLI_DRAW_CDF);
    assert_int_equal(sli_param_int(s, "seed"), -1);
    assert_true(sli_param_real(s, "top_p") == 1);
    assert_null(sli_param_text(c->core[SLI_CORE_MODEL], "path"));
    assert_null(c->core[SLI_CORE_DRAFT_MODEL]);
    assert_int_equal(c->n_choices, 3);
    assert_non_null(sli_choice_next(c, "", "attention", NULL));
    assert_non_null(sli_choice_next(c, "", "kvcache.store", NULL));
    assert_non_null(sli_choice_next(c, "", "quant", NULL));
    assert_null(sli_choice_next(c, "", "speculation", NULL));
    assert_null(sli_choice_next(c, "draft", "attention", NULL));
    assert_int_equal(c->n_plugin_dirs + c->n_stops + c->n_biases, 0);
    sli_config_free(c);
}

static void later_layers_win(void **state) {
    (void)state;
    sli_config *c = load_with("[engine]\nthreads = 3\nmax_seqs = 5\n[kvcache]\npage = 32\n", "engine.threads=4");
    assert_int_equal(sli_param_int(c->core[SLI_CORE_ENGINE], "threads"), 4);
    assert_int_equal(sli_param_int(c->core[SLI_CORE_ENGINE], "max_seqs"), 5);
    const sli_choice *kv = sli_choice_next(c, "", "kvcache.store", NULL);
    assert_string_equal(kv->plugin, "paged"); /* from the defaults, with a key of the file */
    assert_string_equal(key_of(kv, "page"), "32");
    sli_config_free(c);
}

static void keys_go_with_the_plugin_they_were_for(void **state) {
    (void)state;
    const char *text = "[attention]\nplugin = quest\npages = 3\n[attention.quest]\ntop = 5\n";
    sli_config *c = load(text);
    const sli_choice *a = sli_choice_next(c, "", "attention", NULL);
    assert_string_equal(key_of(a, "pages"), "3");
    assert_string_equal(key_of(a, "top"), "5");
    sli_config_free(c);
    c = load_with(text, "attention.plugin=dense");
    a = sli_choice_next(c, "", "attention", NULL);
    assert_string_equal(a->plugin, "dense");
    assert_string_equal(a->where, "--set");
    assert_int_equal(a->section->n_keys, 1);
    sli_config_free(c);
    c = load_with(text, "attention.plugin=quest"); /* the same one: nothing goes */
    assert_string_equal(key_of(sli_choice_next(c, "", "attention", NULL), "pages"), "3");
    sli_config_free(c);
    c = load_with("[attention]\nplugin = quest\ntop = 9\n",
                  "attention.quest.top=4"); /* the choosing section is on top */
    assert_string_equal(key_of(sli_choice_next(c, "", "attention", NULL), "top"), "9");
    sli_config_free(c);
}

static void paths_are_relative_to_the_file(void **state) {
    (void)state;
    char expected[3000];
    sli_config *c =
        load("[model]\npath = models/tiny\n[plugins]\npath = a:/b\n[attention]\nplugin = ./x/attention_quest.so\n");
    const char *source = getenv("SLUICE_SOURCE");
    snprintf(expected, sizeof expected, "%s/models/tiny", source);
    assert_string_equal(sli_param_text(c->core[SLI_CORE_MODEL], "path"), expected);
    snprintf(expected, sizeof expected, "%s/a", source);
    assert_int_equal(c->n_plugin_dirs, 2);
    assert_string_equal(c->plugin_dirs[0], expected);
    assert_string_equal(c->plugin_dirs[1], "/b");
    const sli_choice *a = sli_choice_next(c, "", "attention", NULL);
    snprintf(expected, sizeof expected, "%s/./x/attention_quest.so", source);
    assert_string_equal(a->plugin, expected);
    assert_string_equal(a->id, "quest");
    assert_true(a->is_path);
    sli_config_free(c);
    c = load_with("", "plugins.path=here");
    assert_string_equal(c->plugin_dirs[0], "here");
    sli_config_free(c);
}

/* ---- scopes ---------------------------------------------------------------------------------------------------- */

static void the_more_specific_section_wins(void **state) {
    (void)state;
    sli_config *c = load("[attention.layers 0-1, 5]\nplugin = layered\n[attention]\nplugin = base\nk = 1\nn = 1\n"
                         "[attention.prefill]\nplugin = staged\n[attention.decode.layers 1-2]\nplugin = both\n"
                         "[attention.layers 3]\nk = 2\n");
    static const struct {
        int layer;
        uint32_t stage;
        const char *plugin;
    } expected[] = {
        {0, SL_STAGE_PREFILL, "layered"}, {0, SL_STAGE_DECODE, "layered"},  {1, SL_STAGE_DECODE, "both"},
        {1, SL_STAGE_VERIFY, "layered"},  {2, SL_STAGE_DECODE, "both"},     {2, SL_STAGE_PREFILL, "staged"},
        {2, SL_STAGE_VERIFY, "base"},     {5, SL_STAGE_PREFILL, "layered"}, {4, SL_STAGE_DECODE, "base"},
        {4, SL_STAGE_PREFILL, "staged"},  {3, SL_STAGE_PREFILL, "base"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (strcmp(at(c, expected[i].layer, expected[i].stage), expected[i].plugin) != 0)
            fail_msg("case %zu: %s", i, at(c, expected[i].layer, expected[i].stage));
    /* a scope without plugin takes that of the base, with its keys below */
    const sli_choice *three = sli_choice_for_layer(c, "", "attention", 3, SL_STAGE_DECODE);
    assert_string_equal(key_of(three, "k"), "2");
    assert_string_equal(key_of(three, "n"), "1");
    /* one with a plugin of its own does not */
    assert_string_equal(key_of(sli_choice_for_layer(c, "", "attention", 0, SL_STAGE_DECODE), "k"), "(none)");
    SL_ERROR(err);
    assert_int_equal(sli_config_check_layers(c, "", 6, &err), SL_OK);
    assert_int_equal(sli_config_check_layers(c, "draft", 1, &err), SL_OK);
    assert_int_equal(sli_config_check_layers(c, "", 5, &err), SL_E_RANGE);
    assert_non_null(
        strstr(err.text, "[attention.layers 0-1, 5] (run.ini:1) names layer 5, but the model has layers 0 to 4"));
    sli_config_free(c);
}

static const char *tensor(const sli_config *c, int layer, const char *name) {
    SL_ERROR(err);
    const sli_choice *q = NULL;
    if (sli_choice_for_tensor(c, "", layer, name, &q, &err) < 0)
        fail_msg("%s", err.text);
    return q->plugin;
}

static void tensors_by_pattern(void **state) {
    (void)state;
    sli_config *c = load(
        "[quant]\nplugin = rtn\nbits = 4\n[quant.layers 0]\nbits = 8\n"
        "[quant.match model.layers.*.mlp.*]\nplugin = spqr\n[quant.match model.layers.[0-3].mlp.down*]\nplugin = awq\n"
        "[quant.match *abc]\nplugin = a\n[quant.match abc*]\nplugin = b\n");
    assert_string_equal(tensor(c, -1, "lm_head.weight"), "rtn");
    assert_string_equal(tensor(c, 5, "model.layers.5.mlp.up_proj.weight"), "spqr");
    assert_string_equal(tensor(c, 3, "model.layers.3.mlp.down_proj.weight"), "awq");
    assert_string_equal(tensor(c, 4, "model.layers.4.mlp.down_proj.weight"), "spqr");
    SL_ERROR(err);
    const sli_choice *q = NULL;
    assert_int_equal(sli_choice_for_tensor(c, "", 0, "model.layers.0.self_attn.q_proj.weight", &q, &err), SL_OK);
    assert_string_equal(key_of(q, "bits"), "8");
    assert_int_equal(sli_choice_for_tensor(c, "", 0, "abcabc", &q, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "[quant.match *abc] (run.ini:10) and [quant.match abc*] (run.ini:12)"));
    const char *const names[] = {"model.layers.0.mlp.down_proj.weight", "xabc", "abcx"};
    assert_int_equal(sli_config_check_tensors(c, "", names, 3, &err), SL_OK);
    assert_int_equal(sli_config_check_tensors(c, "", names, 2, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "[quant.match abc*] (run.ini:12): no tensor"));
    sli_config_free(c);
}

static void policies_are_a_chain(void **state) {
    (void)state;
    sli_config *c =
        load("[kvcache.policy 3]\nplugin = c\n[kvcache.policy]\nplugin = a\n[kvcache.policy 2]\nplugin = b\n"
             "[kvcache.codec]\nplugin = gear\n[kvcache.b]\nx = 1\n");
    const sli_choice *p = NULL;
    const char *names[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) {
        p = sli_choice_next(c, "", "kvcache.policy", p);
        assert_non_null(p);
        assert_string_equal(p->plugin, names[i]);
        assert_int_equal(p->scope.chain, i + 1);
    }
    assert_null(sli_choice_next(c, "", "kvcache.policy", p));
    assert_string_equal(
        key_of(sli_choice_next(c, "", "kvcache.policy", sli_choice_next(c, "", "kvcache.policy", NULL)), "x"), "1");
    assert_string_equal(sli_choice_next(c, "", "kvcache.codec", NULL)->plugin, "gear");
    sli_config_free(c);
}

static void a_second_model(void **state) {
    (void)state;
    sli_config *c =
        load("[draft.model]\npath = models/tiny\n[draft.attention]\nplugin = streaming\n[speculation]\nplugin = sps\n");
    assert_non_null(c->core[SLI_CORE_DRAFT_MODEL]);
    assert_string_equal(sli_choice_next(c, "draft", "attention", NULL)->plugin, "streaming");
    assert_string_equal(sli_choice_next(c, "draft", "kvcache.store", NULL)->plugin, "paged");
    assert_string_equal(sli_choice_next(c, "draft", "quant", NULL)->plugin, "none");
    assert_string_equal(sli_choice_next(c, "", "attention", NULL)->plugin, "dense");
    assert_string_equal(sli_choice_next(c, "", "speculation", NULL)->plugin, "sps");
    sli_config_free(c);
}

static void sampling_lists(void **state) {
    (void)state;
    sli_config *c = load("[sampling]\nlogit_bias = 15:-100, 42 : 2.5\nstop = \\n\\n|User:|a\\|b\\\\|\\x20\\x3b\n");
    assert_int_equal(c->n_biases, 2);
    assert_int_equal(c->biases[0].token, 15);
    assert_true(c->biases[0].bias == -100 && c->biases[1].bias == 2.5f);
    assert_int_equal(c->biases[1].token, 42);
    assert_int_equal(c->n_stops, 4);
    assert_string_equal(c->stops[0], "\n\n");
    assert_string_equal(c->stops[1], "User:");
    assert_string_equal(c->stops[2], "a|b\\");
    assert_string_equal(c->stops[3], " ;");
    sli_config_free(c);
}

/* ---- messages -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *text, *set;
    sl_status code;
    const char *parts[3];
} wrong[] = {
    {"[engine\n", NULL, SL_E_DATA, {"run.ini:1:"}},
    {"[engine]\nthraeds = 1\n", NULL, SL_E_INVALID, {"unknown key \"thraeds\" in [engine] (run.ini:2)", "\"threads\""}},
    {"[engine]\ndevice = gpu\n", NULL, SL_E_INVALID, {"(run.ini:2): expected auto | cpu | cuda, found \"gpu\""}},
    {"", "engine.threads=many", SL_E_INVALID, {"key \"threads\" in [engine] (--set): expected a whole number"}},
    {"", "engine.max_seqs=0", SL_E_RANGE, {"(--set)", "out of range 1 to 65536"}},
    {"", "engine=3", SL_E_INVALID, {"--set \"engine=3\": expected section.key=value"}},
    {"[model]\npath = no/model\n", NULL, SL_E_NOT_FOUND, {"key \"path\" in [model] (run.ini:2)", "no/model"}},
    {"\n[enigne]\n", NULL, SL_E_INVALID, {"unknown section [enigne] (run.ini:2)", "did you mean \"engine\"?"}},
    {"[atention]\nplugin = x\n", NULL, SL_E_INVALID, {"unknown section [atention] (run.ini:1)", "\"attention\""}},
    {"[atention.layers 0-3]\n", NULL, SL_E_INVALID, {"unknown section [atention.layers 0-3]", "\"attention\""}},
    {"[kvcache.polcy]\nplugin = x\n",
     NULL,
     SL_E_INVALID,
     {"section [kvcache.polcy] (run.ini:1): no section of [kvcache] chooses", "\"policy\""}},
    {"[policy]\nplugin = x\n", NULL, SL_E_INVALID, {"unknown section [policy]", "\"kvcache.policy\""}},
    {"[attention.prefil]\nplugin = x\n",
     NULL,
     SL_E_INVALID,
     {"no section of [attention] chooses plugin = prefil", "\"prefill\""}},
    {"[attention.tidaldecode]\nx = 1\n",
     NULL,
     SL_E_INVALID,
     {"[attention.tidaldecode] (run.ini:1): no section of [attention] chooses plugin = tidaldecode"}},
    {"[attention.prefill.foo]\nplugin = x\n", NULL, SL_E_INVALID, {"unknown section [attention.prefill.foo]"}},
    {"[attention.layers]\nplugin = x\n", NULL, SL_E_INVALID, {"(run.ini:1): expected layers such as \"0-3,7\""}},
    {"[attention.layers 3-1]\nplugin = x\n", NULL, SL_E_INVALID, {"expected layers"}},
    {"[attention.layers 1,]\nplugin = x\n", NULL, SL_E_INVALID, {"expected layers"}},
    {"[attention.layers 99999999999]\nplugin = x\n", NULL, SL_E_INVALID, {"expected layers"}},
    {"[attention.layers -1]\nplugin = x\n", NULL, SL_E_INVALID, {"expected layers"}},
    {"[kvcache.layers 0-3]\nplugin = x\n", NULL, SL_E_INVALID, {"only [attention] and [quant] can differ by layers"}},
    {"[kvcache.policy 1]\nplugin = x\n", NULL, SL_E_INVALID, {"expected a place in the chain from 2 to 16"}},
    {"[kvcache.policy 17]\nplugin = x\n", NULL, SL_E_INVALID, {"expected a place in the chain"}},
    {"[kvcache.policy two]\nplugin = x\n", NULL, SL_E_INVALID, {"expected a place in the chain"}},
    {"[quant.match]\nplugin = x\n", NULL, SL_E_INVALID, {"(run.ini:1): the pattern is empty"}},
    {"[quant.match a[b]\nplugin = x\n", NULL, SL_E_INVALID, {"\"[\" has no \"]\""}},
    {"[attention.layers 0-3]\nplugin = a\n[attention.layers 2,5]\nplugin = b\n",
     NULL,
     SL_E_INVALID,
     {"[attention.layers 0-3] (run.ini:1) and [attention.layers 2,5] (run.ini:3) name the same layers"}},
    {"[kvcache.policy]\nbudget = 3\n", NULL, SL_E_INVALID, {"[kvcache.policy] (run.ini:1) needs the key \"plugin\""}},
    {"[attention]\nplugin = Dense!\n",
     NULL,
     SL_E_INVALID,
     {"key \"plugin\" in [attention] (run.ini:2)", "found \"Dense!\""}},
    {"[attention]\nplugin =\n", NULL, SL_E_INVALID, {"key \"plugin\" in [attention] (run.ini:2)"}},
    {"[speculation]\nn = 4\n", NULL, SL_E_INVALID, {"unknown key \"n\" in [speculation] (run.ini:2): plugin = none"}},
    {"[draft.attention]\nplugin = x\n",
     NULL,
     SL_E_INVALID,
     {"[draft.attention] (run.ini:1) needs a second model: [draft.model] path"}},
    {"[draft.model]\n", NULL, SL_E_INVALID, {"[draft.model] (run.ini:1) needs the key \"path\""}},
    {"[draft.speculation]\nplugin = x\n", NULL, SL_E_INVALID, {"cannot have a drafter of its own"}},
    {"[hook.logits]\nlibrary = ./libmine.so\n",
     NULL,
     SL_E_UNIMPLEMENTED,
     {"[hook.logits] (run.ini:1): hooks are not supported"}},
    {"[plugins]\npath = a::b\n", NULL, SL_E_INVALID, {"key \"path\" in [plugins] (run.ini:2): element 2 is empty"}},
    {"[sampling]\nlogit_bias = 5\n",
     NULL,
     SL_E_INVALID,
     {"key \"logit_bias\" in [sampling] (run.ini:2)", "element 1: expected token:bias"}},
    {"[sampling]\nlogit_bias = 5:1,6:200\n", NULL, SL_E_INVALID, {"element 2", "-100 to 100"}},
    {"[sampling]\nlogit_bias = 5:1,5:2\n", NULL, SL_E_INVALID, {"token 5 has a bias already"}},
    {"[sampling]\nlogit_bias = 5000000000:1\n", NULL, SL_E_INVALID, {"element 1"}},
    {"[sampling]\nstop = a||b\n",
     NULL,
     SL_E_INVALID,
     {"key \"stop\" in [sampling] (run.ini:2)", "stop string 2 is empty"}},
    {"", "sampling.stop=a\\q", SL_E_INVALID, {"(--set)", "stop string 1: unknown escape"}},
    {"[sampling]\nstop = \\x00\n", NULL, SL_E_INVALID, {"unknown escape"}},
    {"[sampling]\nstop = \\\n", NULL, SL_E_INVALID, {"unknown escape"}},
};

static void messages(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SL_ERROR(err);
        sli_config *c;
        sl_status s = load_sets(wrong[i].text, &wrong[i].set, wrong[i].set != NULL, &c, &err);
        if (s != wrong[i].code)
            fail_msg("case %zu \"%s\": status %d, text: %s", i, wrong[i].text, s, err.text);
        assert_null(c);
        for (int k = 0; k < 3 && wrong[i].parts[k] != NULL; k++)
            if (strstr(err.text, wrong[i].parts[k]) == NULL)
                fail_msg("case %zu: expected \"%s\" in: %s", i, wrong[i].parts[k], err.text);
    }
    SL_ERROR(err);
    sli_config *c = NULL;
    assert_int_equal(sli_config_load("no/such.ini", NULL, 0, &c, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "no/such.ini"));
}

/* ---- show ------------------------------------------------------------------------------------------------------ */

static const sl_param_def budget = {SL_SIZE(sl_param_def), "budget", "Tokens.", "64", NULL, 1, 1000, SL_PARAM_INT, 0};
static const sl_param_def table = {SL_SIZE(sl_param_def), "table", "A file.", NULL, NULL, 1, 0, SL_PARAM_PATH, 0};
static const sl_param_def *const one_table[] = {&budget, &table, NULL}, *const no_table[] = {NULL};

static const sl_param_def *const *defs_of(void *user, const sli_choice *choice) {
    (void)user;
    return strcmp(choice->id, "budgeted") == 0 ? one_table : strcmp(choice->id, "stranger") == 0 ? NULL : no_table;
}

static char *show(const sli_config *c, sl_status *s, sl_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    *s = sli_config_show(c, out, defs_of, NULL, err);
    fclose(out);
    return text;
}

/* Without what tells origins, which differ after one round. */
static void drop_comments(char *text) {
    char *to = text;
    for (char *from = text; *from != 0;) {
        size_t line = strcspn(from, "\n"), keep = line;
        for (size_t i = 0; i < line && keep == line; i++)
            if (from[i] == ';' && (i == 0 || from[i - 1] == ' '))
                keep = i;
        while (keep > 0 && from[keep - 1] == ' ')
            keep--;
        memmove(to, from, keep);
        to += keep;
        from += line;
        *to++ = '\n';
        from += *from == '\n';
    }
    *to = 0;
}

static void shown_text_loads_again(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_status s;
    sli_config *c = load_with("[model]\npath = models/tiny\n[sampling]\nstop = \\n|\\x20;\n[plugins]\npath = a:/b\n"
                              "[attention]\nplugin = budgeted\ntable = VERSION\n[attention.budgeted]\nbudget = 7\n"
                              "[attention.layers 0-1]\nbudget = 9\n[attention.prefill]\nplugin = x/attention_dense.so\n"
                              "[kvcache.policy 2]\nplugin = stranger\nknob = 3\n[kvcache.policy]\nplugin = budgeted\n"
                              "[quant.match *.mlp.*]\nplugin = budgeted\n[draft.model]\npath = models/tiny\n",
                              "engine.threads=2");
    char *first = show(c, &s, &err);
    if (s < 0)
        fail_msg("%s", err.text);
    static const char *const lines[] = {"threads = 2                      ; --set\n",
                                        "isa = auto                       ; default\n",
                                        "; logit_bias is not set\n",
                                        "budget = 7                       ; run.ini:11\n",
                                        "budget = 9                       ; run.ini:13\n",
                                        "knob = 3                         ; run.ini:18\n",
                                        "[speculation]\nplugin = none\n",
                                        "[draft.quant]\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (strstr(first, lines[i]) == NULL)
            fail_msg("expected \"%s\" in:\n%s", lines[i], first);
    sli_config *again = NULL;
    if (sli_config_load_text(first, strlen(first), "shown.ini", "/elsewhere", NULL, 0, &again, &err) < 0)
        fail_msg("%s\n%s", err.text, first);
    char *second = show(again, &s, &err);
    assert_int_equal(s, SL_OK);
    drop_comments(first);
    drop_comments(second);
    assert_string_equal(first, second);
    assert_int_equal(again->n_choices, c->n_choices);
    assert_string_equal(again->stops[1], " ;");
    free(first);
    free(second);
    sli_config_free(again);
    sli_config_free(c);
}

/* What was relative to the working directory must hold wherever the shown text is put. */
static void shown_paths_are_absolute(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_status s;
    char cwd[3000], expected[3100];
    assert_non_null(getcwd(cwd, sizeof cwd));
    sli_config *c = load_with("", "plugins.path=here:/there");
    char *text = show(c, &s, &err);
    snprintf(expected, sizeof expected, "path = %s/here:/there ; --set\n", cwd);
    assert_non_null(strstr(text, expected));
    free(text);
    sli_config_free(c);
}

static void show_checks_keys_of_plugins(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_status s;
    sli_config *c = load("[attention]\nplugin = budgeted\n[attention.budgeted]\nbugdet = 3\n");
    free(show(c, &s, &err));
    assert_int_equal(s, SL_E_INVALID);
    assert_non_null(strstr(err.text, "unknown key \"bugdet\" in [attention] (run.ini:4); did you mean \"budget\"?"));
    sli_config_free(c);
}

/* ---- robustness ------------------------------------------------------------------------------------------------ */

static char *read_whole(const char *name, size_t *n) {
    char path[3000];
    snprintf(path, sizeof path, "%s/tests/fuzz/corpus/ini/%s", getenv("SLUICE_SOURCE"), name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = malloc(1 << 16);
    *n = fread(text, 1, 1 << 16, f);
    fclose(f);
    return text;
}

/* Bytes changed, lines cut, doubled and moved: it loads or says why, and gives everything back. */
static void mutations_never_crash(void **state) {
    (void)state;
    size_t n;
    char *text = read_whole("all.ini", &n), *mutant = malloc(3 * n);
    static const char bytes[] = "[]=;#.:, \n\r\t-*?\\|\"0a\x01\xff";
    uint64_t seed = 42;
    int loaded = 0, refused = 0;
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (int round = 0; round < 3000; round++) {
        size_t len = n;
        memcpy(mutant, text, n);
        for (int k = 0; k < 1 + round % 4; k++) {
            size_t p = test_next(&seed) % len, span = 1 + test_next(&seed) % 40;
            if (span > len - p)
                span = len - p;
            switch (test_next(&seed) % 3) {
            case 0: mutant[p] = bytes[test_next(&seed) % (sizeof bytes - 1)]; break;
            case 1:
                memmove(mutant + p, mutant + p + span, len - p - span);
                len -= span;
                break;
            default: memmove(mutant + p + span, mutant + p, len - p); len += span;
            }
        }
        SL_ERROR(err);
        sli_config *c = NULL;
        sl_status s = sli_config_load_text(mutant, len, "run.ini", "", NULL, 0, &c, &err);
        assert_true(s == SL_OK || strstr(err.text, "run.ini") != NULL);
        loaded += s == SL_OK, refused += s < 0;
        sli_config_free(c);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.now[SLI_TAG_MISC], before.now[SLI_TAG_MISC]);
    assert_true(loaded > 100 && refused > 100);
    free(mutant);
    free(text);
}

static void memory_runs_out_cleanly(void **state) {
    (void)state;
    size_t n;
    char *text = read_whole("all.ini", &n);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    sl_status s = SL_E_NO_MEMORY;
    int tries = 0;
    for (; s == SL_E_NO_MEMORY; tries++) {
        SL_ERROR(err);
        sli_config *c = NULL;
        sli_ledger_fail_after(tries);
        s = sli_config_load_text(text, n, "run.ini", "", NULL, 0, &c, &err);
        sli_ledger_fail_after(-1);
        sli_config_free(c);
        sli_ledger_read(&after);
        assert_int_equal(after.now[SLI_TAG_MISC], before.now[SLI_TAG_MISC]);
        assert_true(tries < 1000);
    }
    assert_int_equal(s, SL_OK);
    assert_true(tries > 10);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_given),
        cmocka_unit_test(later_layers_win),
        cmocka_unit_test(keys_go_with_the_plugin_they_were_for),
        cmocka_unit_test(paths_are_relative_to_the_file),
        cmocka_unit_test(the_more_specific_section_wins),
        cmocka_unit_test(tensors_by_pattern),
        cmocka_unit_test(policies_are_a_chain),
        cmocka_unit_test(a_second_model),
        cmocka_unit_test(sampling_lists),
        cmocka_unit_test(messages),
        cmocka_unit_test(shown_text_loads_again),
        cmocka_unit_test(shown_paths_are_absolute),
        cmocka_unit_test(show_checks_keys_of_plugins),
        cmocka_unit_test(mutations_never_crash),
        cmocka_unit_test(memory_runs_out_cleanly),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
