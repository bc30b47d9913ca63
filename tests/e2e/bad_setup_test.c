/* Settings, plugins and requests that do not fit: each is refused with one line that says why, before anything is run. */
#include "cli.h"

#define DRAFT "tests/data/random_draft"

/* ---- INI files --------------------------------------------------------------------------------------------------- */

typedef struct ini_case {
    const char *name, *text;
    const char *words[5];
} ini_case;

static const ini_case ini_cases[] = {
    {"unknown section", "[atention]\nplugin = dense\n", {"bad.ini:1", "atention", "attention"}},
    {"unknown key", "\n[engine]\nprefil_chunk = 7\n", {"bad.ini:3", "prefil_chunk", "prefill_chunk"}},
    {"unknown key of a plugin", "[kvcache]\nplugin = paged\npages = 7\n", {"bad.ini:3", "pages", "page"}},
    {"key of another plugin", "[speculation]\nplugin = prompt_lookup\ngamma = 3\n", {"bad.ini:3", "gamma"}},
    {"out of range", "[engine]\nprefill_chunk = 0\n", {"bad.ini:2", "prefill_chunk", "1"}},
    {"out of a plugin's range", "[kvcache]\nplugin = paged\npage = 5000\n", {"bad.ini:3", "page", "4096"}},
    {"not a number", "[engine]\nthreads = many\n", {"bad.ini:2", "threads", "many"}},
    {"a number and a half", "[engine]\nthreads = 2.5\n", {"bad.ini:2", "threads", "2.5"}},
    {"too large for 64 bits", "[engine]\nthreads = 99999999999999999999\n", {"bad.ini:2", "threads"}},
    {"no such choice", "[engine]\nisa = sse\n", {"bad.ini:2", "isa", "sse", "avx2"}},
    {"not yes or no", "[engine]\ndeterministic = perhaps\n", {"bad.ini:2", "deterministic", "perhaps"}},
    {"temperature negative", "[sampling]\ntemperature = -1\n", {"bad.ini:2", "temperature"}},
    {"temperature not a number", "[sampling]\ntemperature = nan\n", {"bad.ini:2", "temperature"}},
    {"broken bias", "[sampling]\nlogit_bias = 12:high\n", {"logit_bias"}},
    {"bias outside of the vocabulary", "[sampling]\nlogit_bias = 5000:1\n", {"logit_bias", "5000"}},
    {"no section", "threads = 2\n", {"bad.ini:1", "threads"}},
    {"unclosed section", "[engine\nthreads = 2\n", {"bad.ini:1"}},
    {"no value", "[engine]\nthreads\n", {"bad.ini:2"}},
    {"a key twice", "[engine]\nthreads = 1\nthreads = 2\n", {"bad.ini:3", "threads"}},
    {"missing folder of a model", "[model]\npath = no/such/model\n", {"bad.ini:2", "no/such/model"}},
    {"ngram_min above ngram_max", "[speculation]\nplugin = prompt_lookup\nngram_max = 2\nngram_min = 3\n", {"ngram_min"}},
    {"group that no kernel has", "[quant]\nplugin = rtn\ngroup = 33\n", {"33"}},
    {"no such plugin", "[attention]\nplugin = nothere\n", {"nothere", "attention_nothere.so"}},
    {"plugin of another family", "[attention]\nplugin = paged\n", {"paged", "attention"}},
    {"no such plugin file", "[kvcache]\nplugin = ./mine.so\n", {"mine.so"}},
    {"no attention", "[attention]\nplugin = none\n", {"attention"}},
    {"layers that are not there", "[attention.layers 5-9]\nplugin = dense\n", {"5-9"}},
    {"device that is not there", "[engine]\ndevice = cuda\n", {"cuda"}},
    {"sps without a draft model", "[speculation]\nplugin = sps\n", {"draft.model"}},
};

static void test_ini(void **state) {
    const ini_case *c = *state;
    e2e_put_text(e2e_temp(""), "bad.ini", c->text);
    char model[PATH_MAX + 16];
    snprintf(model, sizeof model, "model.path=%s", e2e_path(DRAFT));
    const char *config = e2e_temp("bad.ini");
    int has_model = strstr(c->text, "[model]") != NULL;
    sluice_options options = {.config = config, .sets = SETS(model), .n_sets = !has_model};
    sluice_engine *e = NULL;
    sluice_error err = {0};
    if (sluice_open(&options, &e, &err) >= 0) {
        sluice_close(e);
        fail_msg("opened");
    }
    for (int i = 0; i < 5 && c->words[i] != NULL; i++)
        if (strstr(err.text, c->words[i]) == NULL)
            fail_msg("the error does not say \"%s\": %s", c->words[i], err.text);
    if (has_model)
        cli_refused(CLI("run", "--config", config, "-p", "hello", "-n", "1"), c->words);
    else
        cli_refused(CLI("run", "--config", config, "--set", model, "-p", "hello", "-n", "1"), c->words);
}

static void test_sets(void **state) {
    (void)state;
    static const struct {
        const char *set, *words[3];
    } cases[] = {
        {"engine.thread=2", {"thread", "threads"}}, {"motor.threads=2", {"motor"}},    {"threads=2", {"threads"}},
        {"engine.threads", {"engine.threads"}},            {"=", {"="}},                       {"engine.threads=-1", {"threads", "-1"}},
        {"kvcache.page=0", {"page"}},                      {"model.path=/nowhere", {"/nowhere"}},
        {"sampling.top_p=1.5", {"top_p"}},                 {"attention.plugin=", {"attention"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sluice_error err;
        e2e_open_refused(DRAFT, SETS(cases[i].set), &err);
        for (int j = 0; j < 3 && cases[i].words[j] != NULL; j++)
            if (strstr(err.text, cases[i].words[j]) == NULL)
                fail_msg("%s: the error does not say \"%s\": %s", cases[i].set, cases[i].words[j], err.text);
        cli_refused(CLI("run", "-m", e2e_path(DRAFT), "--set", cases[i].set, "-p", "x"), cases[i].words);
    }
    cli_refused(CLI("run", "--config", "/nonexistent/x.ini", "-p", "x"), SETS("/nonexistent/x.ini"));
    cli_refused(CLI("config", "check", "--config", "/nonexistent/x.ini"), SETS("/nonexistent/x.ini"));
}

/* ---- plugins ----------------------------------------------------------------------------------------------------- */

/* Packages that the build made wrong on purpose; see bad_package.c. */
static void test_bad_packages(void **state) {
    (void)state;
    static const struct {
        const char *id, *words[3];
    } cases[] = {
        {"wrongmajor", {"attention_wrongmajor.so", "99"}},
        {"wrongminor", {"attention_wrongminor.so", "ABI"}},
        {"wrongtag", {"attention_wrongtag.so", "tag"}},
        {"wrongmagic", {"attention_wrongmagic.so", "magic"}},
        {"nosymbol", {"attention_nosymbol.so", "sl_package_0"}},
        {"noplugins", {"attention_noplugins.so"}},
    };
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "plugins.path=%s", e2e_built("tests/bad_packages"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char set[64];
        sluice_error err;
        snprintf(set, sizeof set, "attention.plugin=%s", cases[i].id);
        e2e_open_refused(DRAFT, SETS(path, set), &err);
        for (int j = 0; j < 3 && cases[i].words[j] != NULL; j++)
            if (strstr(err.text, cases[i].words[j]) == NULL)
                fail_msg("%s: the error does not say \"%s\": %s", cases[i].id, cases[i].words[j], err.text);
        cli_refused(CLI("run", "-m", e2e_path(DRAFT), "--set", path, "--set", set, "-p", "x"), cases[i].words);
    }
    /* a text that is called .so */
    e2e_put_text(e2e_temp(""), "attention_text.so", "not a library\n");
    char text[PATH_MAX + 32];
    snprintf(text, sizeof text, "attention.plugin=%s", e2e_temp("attention_text.so"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "--set", text, "-p", "x"), SETS("attention_text.so"));
}

/* Scanning happens in child processes: a package that crashes is listed with its fault, the others as ever. */
static void test_list_survives(void **state) {
    (void)state;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "plugins.path=%s", e2e_built("tests/bad_packages"));
    cli_result r = cli_good(CLI("plugins", "list", "--json", "--set", path), NULL);
    json_t *all = json_loads(r.out, 0, NULL), *one;
    assert_non_null(all);
    size_t i;
    int crashed = 0, dense = 0;
    json_array_foreach(all, i, one) {
        const char *fault = json_string_value(json_object_get(one, "error")), *file = json_string_value(json_object_get(one, "path"));
        const char *id = json_string_value(json_object_get(one, "id"));
        crashed |= fault != NULL && file != NULL && strstr(file, "crashes") != NULL;
        dense |= fault == NULL && id != NULL && strcmp(id, "dense") == 0;
    }
    assert_true(crashed && dense);
    json_decref(all);
    cli_free(&r);
    cli_refused(CLI("plugins", "describe", "nothere"), SETS("nothere"));
}

/* What is tried is told: every folder of the search. */
static void test_missing_plugin_lists_paths(void **state) {
    (void)state;
    sluice_error err;
    e2e_open_refused(DRAFT, SETS("speculation.plugin=promptlookup", "plugins.path=/nonexistent/plugins"), &err);
    assert_non_null(strstr(err.text, "/nonexistent/plugins"));
    assert_non_null(strstr(err.text, "speculation_promptlookup.so"));
}

/* ---- models that do not go together ------------------------------------------------------------------------------ */

static void test_vocabularies(void **state) {
    (void)state;
    sluice_error err;
    char set[PATH_MAX + 32];
    /* another size */
    snprintf(set, sizeof set, "draft.model.path=%s", e2e_path("tests/data/arch/llama3"));
    e2e_open_refused("models/tiny", SETS("speculation.plugin=sps", set), &err);
    assert_non_null(strstr(err.text, "vocabular"));
    cli_refused(CLI("run", "-m", e2e_path("models/tiny"), "--set", "speculation.plugin=sps", "--set", set, "-p", "x"), SETS("vocabular"));
    /* the same size, two tokens changed places */
    const char *dir = e2e_linked_model(DRAFT);
    json_t *tokenizer = e2e_json(e2e_path(DRAFT "/tokenizer.json"));
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"), *id;
    const char *key, *a = NULL, *b = NULL;
    json_object_foreach(vocab, key, id) {
        if (json_integer_value(id) == 300)
            a = key;
        if (json_integer_value(id) == 301)
            b = key;
    }
    assert_true(a != NULL && b != NULL);
    json_object_set_new(vocab, a, json_integer(301));
    json_object_set_new(vocab, b, json_integer(300));
    char *text = json_dumps(tokenizer, JSON_COMPACT);
    e2e_put_text(dir, "tokenizer.json", text);
    free(text);
    json_decref(tokenizer);
    snprintf(set, sizeof set, "draft.model.path=%s", dir);
    e2e_open_refused("models/tiny", SETS("speculation.plugin=sps", set), &err);
    assert_non_null(strstr(err.text, "vocabular"));
    /* the draft's own files are checked like the model's */
    snprintf(set, sizeof set, "draft.model.path=%s", e2e_path("docs"));
    e2e_open_refused("models/tiny", SETS("speculation.plugin=sps", set), &err);
    assert_non_null(strstr(err.text, "config.json"));
}

/* ---- requests that do not fit ------------------------------------------------------------------------------------ */

static void test_prompt_longer_than_context(void **state) {
    (void)state;
    char text[1024] = "";
    for (int i = 0; i < 60; i++)
        strcat(text, " the old house");
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "-c", "32", "-p", text), SETS("context", "32"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "-c", "0", "-f", "/nonexistent/prompt"), SETS("/nonexistent/prompt"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "--no-special", "-p", ""), SETS("prompt"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "-n", "many", "-p", "x"), SETS("max_tokens", "many"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "--frobnicate"), SETS("--frobnicate"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "-p"), SETS("-p"));
    cli_refused(CLI("run", "-m", e2e_path(DRAFT), "-p", "x", "superfluous"), SETS("superfluous"));
}

/* A cache that does not fit is refused when the request begins, names its numbers and leaves the engine usable. */
static void test_cache_does_not_fit(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("engine.kv_memory_mb=1", "engine.max_rows=64", "engine.prefill_chunk=64"));
    int32_t ids[600];
    for (int i = 0; i < 600; i++)
        ids[i] = 300 + i;
    sluice_error err = {0};
    sluice_session *s = e2e_session(e, ids, 600);
    sluice_sampling greedy = e2e_greedy(4);
    assert_int_equal(sluice_generate(e, &s, 1, &greedy, 1, NULL, NULL, &err), SLUICE_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "cache"));
    float *logits = malloc(sizeof *logits * 4096);
    assert_non_null(logits);
    assert_int_equal(sluice_logits(s, 1, logits, &err), SLUICE_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "cache"));
    free(logits);
    sluice_session_close(s);
    s = e2e_session(e, ids, 50);
    e2e_output out;
    e2e_generate(e, &s, 1, &greedy, 1, &out);
    assert_int_equal(out.n, 4);
    e2e_outputs_free(&out, 1);
    sluice_close(e);
    char text[4096] = "";
    for (int i = 0; i < 200; i++)
        strcat(text, " the old house");
    cli_refused(CLI("run", "-m", e2e_path("models/tiny"), "--set", "engine.kv_memory_mb=1", "-p", text), SETS("cache"));
}

int main(void) {
    enum { N = sizeof ini_cases / sizeof *ini_cases };
    struct CMUnitTest tests[N + 7] = {
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_bad_packages),
        cmocka_unit_test(test_list_survives),
        cmocka_unit_test(test_missing_plugin_lists_paths),
        cmocka_unit_test(test_vocabularies),
        cmocka_unit_test(test_prompt_longer_than_context),
        cmocka_unit_test(test_cache_does_not_fit),
    };
    for (int i = 0; i < N; i++)
        tests[7 + i] = (struct CMUnitTest){ini_cases[i].name, test_ini, NULL, NULL, (void *)(uintptr_t)&ini_cases[i]};
    return cmocka_run_group_tests_name("bad_setup", tests, NULL, NULL);
}
