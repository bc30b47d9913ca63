/* Packing with data, end to end on the embedded model: what quantisers are told, files that are made, loaded and
 * refused, memory that is what was claimed, tokens. */
#include "cli.h"
#include "e2e.h"
#include "st_file.h"

enum { SAMPLES = 4, LENGTH = 64 };

static char *text;
static size_t text_length;

/* Packs the model with these settings; the file's path lives like e2e_temp's. */
static const char *pack_as(const char *name, const char *const *sets, uint64_t seed, sluice_quantize_report *report) {
    const char *all[24] = {"model.path=models/tiny", "engine.threads=1"}, *path = e2e_temp(name);
    char model[4096];
    snprintf(model, sizeof model, "model.path=%s", e2e_path("models/tiny"));
    all[0] = model;
    int n = 2;
    for (; *sets != NULL; sets++)
        all[n++] = *sets;
    sluice_options options = {.sets = all, .n_sets = n};
    sluice_quantize_options how = {text, text_length, "prose", path, SAMPLES, LENGTH, seed};
    sluice_error err = {0};
    if (sluice_quantize(&options, &how, report, &err) < 0)
        fail_msg("%s: %s", name, err.text);
    return path;
}

static void refused(const char *const *sets, const char *output, int64_t samples, int64_t length, const char *word) {
    const char *all[24];
    char model[4096];
    snprintf(model, sizeof model, "model.path=%s", e2e_path("models/tiny"));
    all[0] = model;
    int n = 1;
    for (; *sets != NULL; sets++)
        all[n++] = *sets;
    sluice_options options = {.sets = all, .n_sets = n};
    sluice_quantize_options how = {text, text_length, "prose", output, samples, length, 0};
    sluice_error err = {0};
    assert_true(sluice_quantize(&options, &how, NULL, &err) < 0);
    if (strstr(err.text, word) == NULL)
        fail_msg("\"%s\" does not mention %s", err.text, word);
}

/* ---- the stream
 * ------------------------------------------------------------------------------------------------------ */

static const float *rows_of(const st_file *f, const char *name, int64_t width) {
    int64_t n;
    const float *rows = st_tensor(f, name, "F32", &n);
    assert_int_equal(n, SAMPLES * LENGTH * width);
    return rows;
}

/* The plugin has checked the statistics against the rows; here the rows are looked at. Layer 0 is multiplied as zero
 * once it is "quantised": the next layer must see that, and with in_order its own o must, too. */
static void test_stream(void **state) {
    (void)state;
    char where[4096];
    st_file plain, zero, ordered;
    snprintf(where, sizeof where, "plugins.path=%s", e2e_built("tests/probe"));
    /* a chunk is less than a sample, so that samples go in pieces */
    st_read(pack_as("a.safetensors", SETS(where, "quant.plugin=probe"), 1, NULL), &plain);
    st_read(
        pack_as("b.safetensors", SETS(where, "quant.plugin=probe", "quant.zero=0", "engine.prefill_chunk=24"), 1, NULL),
        &zero);
    st_read(pack_as("c.safetensors", SETS(where, "quant.plugin=probe", "quant.zero=0", "quant.in_order=yes"), 1, NULL),
            &ordered);
    static const struct {
        const char *name;
        int64_t width;
        int zero_equals, ordered_equals; /* rows of the plain run? */
    } cases[] = {
        {"layer0.attn.qkv", 256, 1, 1}, {"layer0.attn.o", 256, 1, 0},   {"layer0.ffn.gate_up", 256, 1, 0},
        {"layer0.ffn.down", 640, 1, 0}, {"layer1.attn.qkv", 256, 0, 0}, {"layer5.ffn.down", 640, 0, 0},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int64_t n = SAMPLES * LENGTH * cases[c].width;
        const float *a = rows_of(&plain, cases[c].name, cases[c].width),
                    *b = rows_of(&zero, cases[c].name, cases[c].width),
                    *o = rows_of(&ordered, cases[c].name, cases[c].width);
        int same_b = memcmp(a, b, sizeof *a * (size_t)n) == 0, same_o = memcmp(a, o, sizeof *a * (size_t)n) == 0;
        if (same_b != cases[c].zero_equals || same_o != cases[c].ordered_equals)
            fail_msg("%s: rows are %s those of the plain run, in order %s", cases[c].name, same_b ? "" : "not",
                     same_o ? "" : "not");
    }
    const float *o = rows_of(&ordered, "layer0.attn.o", 256); /* values of zeros */
    for (int64_t i = 0; i < SAMPLES * LENGTH * 256; i++)
        assert_true(o[i] == 0);
    /* both runs that zero layer 0 hand the bare embedding on */
    assert_memory_equal(rows_of(&zero, "layer1.attn.qkv", 256), rows_of(&ordered, "layer1.attn.qkv", 256),
                        sizeof(float) * SAMPLES * LENGTH * 256);
    st_free(&plain), st_free(&zero), st_free(&ordered);
}

/* A rewritten model is heard in its own basis, and from layer to layer it stays one and the same: what does not depend on
 * the residual's basis is what it is without rewriting. */
static void test_stream_rewritten(void **state) {
    (void)state;
    char where[4096];
    st_file plain, turned;
    snprintf(where, sizeof where, "plugins.path=%s", e2e_built("tests/probe"));
    st_read(pack_as("p.safetensors", SETS(where, "quant.plugin=probe"), 1, NULL), &plain);
    st_read(pack_as("t.safetensors",
                    SETS(where, "quant.plugin=probe", "quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32",
                         "quant.rewrite.online_o=no", "quant.rewrite.online_down=no"),
                    1, NULL),
            &turned);
    static const char *const names[] = {"layer0.ffn.down", "layer1.ffn.down", "layer5.ffn.down"};
    for (size_t c = 0; c < sizeof names / sizeof *names; c++) {
        const float *a = rows_of(&plain, names[c], 640), *b = rows_of(&turned, names[c], 640);
        double off = 0, all = 0;
        for (int64_t i = 0; i < SAMPLES * LENGTH * 640; i++) {
            off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            all += (double)a[i] * a[i];
        }
        if (!(sqrt(off / all) < 1e-4))
            fail_msg("%s: rows of the rotated model are %.3g off", names[c], sqrt(off / all));
    }
    const float *a = rows_of(&plain, "layer1.attn.qkv", 256), *b = rows_of(&turned, "layer1.attn.qkv", 256);
    assert_memory_not_equal(a, b, sizeof *a * SAMPLES * LENGTH * 256);
    st_free(&plain), st_free(&turned);
}

/* ---- files
 * ----------------------------------------------------------------------------------------------------------- */

static void test_same_seed_same_file(void **state) {
    (void)state;
    size_t n[3];
    char *bytes[3];
    static const char *const names[] = {"s1.safetensors", "s2.safetensors", "s3.safetensors"};
    for (int i = 0; i < 3; i++)
        bytes[i] = e2e_read(pack_as(names[i],
                                    SETS("quant.plugin=gptq", "quant.bits=2", "quant.group_size=64",
                                         i == 1 ? "engine.threads=2" : "engine.threads=1"),
                                    i == 2 ? 8 : 7, NULL),
                            &n[i]);
    assert_true(n[0] == n[1] && memcmp(bytes[0], bytes[1], n[0]) == 0);
    assert_false(n[0] == n[2] && memcmp(bytes[0], bytes[2], n[0]) == 0);
    for (int i = 0; i < 3; i++)
        free(bytes[i]);
}

/* Error of logits as a part of their range. */
static double logit_error(sluice_engine *exact, sluice_engine *engine, const e2e_prompt *p) {
    sluice_info info;
    sluice_get_info(exact, &info);
    int64_t n = p->n_ids * info.vocab;
    float *a = e2e_logits_of(exact, p->ids, p->n_ids), *b = e2e_logits_of(engine, p->ids, p->n_ids);
    float low = a[0], high = a[0];
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double off = fabs((double)b[i] - a[i]);
        worst = off > worst || !(off == off) ? off : worst;
        low = a[i] < low ? a[i] : low;
        high = a[i] > high ? a[i] : high;
    }
    free(a);
    free(b);
    return worst / ((double)high - low);
}

typedef struct format {
    const char *name, *sets[7];
    double min_error, max_error; /* of logits */
    int is_golden;               /* tokens of the checkpoint itself */
} format;

static const format formats[] = {
    {"gptq8", {"quant.plugin=gptq", "quant.bits=8", "quant.group_size=-1"}, 1e-6, 0.05, 0},
    {"gptq4", {"quant.plugin=gptq", "quant.bits=4", "quant.group_size=64", "quant.desc_act=yes"}, 0.002, 0.5, 0},
    {"gptq3", {"quant.plugin=gptq", "quant.bits=3", "quant.group_size=32", "quant.sym=no"}, 0.005, 0.7, 0},
    {"spqr3", {"quant.plugin=spqr"}, 0.002, 0.5, 0},
    {"spqr_all", {"quant.plugin=spqr", "quant.outlier_threshold=0"}, 0, 0.002, 1},
};

/* Packs, loads, compares logits, tokens alone and among strangers, and the ledger with the claim. */
static void test_format(void **state) {
    const format *f = *state;
    e2e_prompts prompts;
    e2e_output alone[8], together[8];
    char file[64], artifact[4096];
    sluice_quantize_report report;
    const char *sets[10];
    int n = 0;
    for (; n < 7 && f->sets[n] != NULL; n++)
        sets[n] = f->sets[n];
    sets[n] = NULL;
    snprintf(file, sizeof file, "%s.safetensors", f->name);
    snprintf(artifact, sizeof artifact, "quant.artifact=%s", pack_as(file, sets, 3, &report));
    sets[n++] = artifact;
    sets[n] = NULL;
    assert_true(report.n_files == 1 && report.n_groups == 24 && report.file_bytes > 0);
    assert_true(report.weights == 6 * (256 * (256 + 128 + 128 + 256) + 3 * 256 * 640));

    sluice_stats stats[2];
    sluice_engine *exact = e2e_open("models/tiny", NO_SETS);
    sluice_get_stats(exact, &stats[0]);
    sluice_close(exact);
    sluice_engine *engine = e2e_open("models/tiny", sets);
    sluice_get_stats(engine, &stats[1]);
    double packed =
        (double)(stats[1].bytes_weights - stats[0].bytes_weights) + 2.0 * (double)report.weights; /* from bf16 */
    double claimed = report.bits_per_weight / 8 * (double)report.weights;
    print_message("# %s: %.3f bits a weight, %.0f bytes, claimed %.0f\n", f->name, report.bits_per_weight, packed,
                  claimed);
    if (!(fabs(packed - claimed) < 0.02 * claimed))
        fail_msg("%s: the ledger has %.0f bytes, the claim says %.0f", f->name, packed, claimed);

    exact = e2e_open("models/tiny", NO_SETS);
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    double error = logit_error(exact, engine, &prompts.prompt[0]);
    sluice_close(exact);
    if (!(error >= f->min_error && error <= f->max_error))
        fail_msg("%s: error of logits %.3g, expected %g to %g", f->name, error, f->min_error, f->max_error);
    sluice_sampling greedy = e2e_greedy(12);
    assert_true(prompts.n >= 5);
    e2e_continue(engine, prompts.prompt, 5, 1, &greedy, alone);
    e2e_continue(engine, prompts.prompt, 5, 5, &greedy, together);
    for (int i = 0; i < 5; i++) {
        e2e_check_tokens(f->name, alone[i].tokens, alone[i].n, together[i].tokens, together[i].n);
        if (f->is_golden)
            e2e_check_tokens(f->name, prompts.prompt[i].greedy, 12, alone[i].tokens, alone[i].n);
    }
    sluice_get_stats(engine, &stats[1]);
    assert_int_equal(stats[1].allocs_in_steps, 0);
    e2e_outputs_free(alone, 5);
    e2e_outputs_free(together, 5);
    e2e_prompts_free(&prompts);
    sluice_close(engine);
}

/* Two sections, two files in a folder; other linears stay as they are. */
static void test_sections(void **state) {
    (void)state;
    sluice_quantize_report report;
    char a[4096], b[4096];
    const char *folder = pack_as("sections",
                                 SETS("quant.plugin=none", "quant.match model.layers.*.mlp.*.plugin=gptq",
                                      "quant.match model.layers.*.mlp.*.group_size=64",
                                      "quant.match model.layers.1.self_attn.?_proj.weight.plugin=spqr"),
                                 3, &report);
    assert_true(report.n_files == 2 && report.n_groups == 2 * 6 + 2);
    snprintf(a, sizeof a, "quant.match model.layers.*.mlp.*.artifact=%s/quant.match_model.layers._.mlp._.safetensors",
             folder);
    snprintf(b, sizeof b,
             "quant.match "
             "model.layers.1.self_attn.?_proj.weight.artifact=%s/"
             "quant.match_model.layers.1.self_attn.__proj.weight.safetensors",
             folder);
    sluice_engine *engine =
        e2e_open("models/tiny", SETS("quant.plugin=none", "quant.match model.layers.*.mlp.*.plugin=gptq",
                                     "quant.match model.layers.*.mlp.*.group_size=64", a,
                                     "quant.match model.layers.1.self_attn.?_proj.weight.plugin=spqr", b));
    sluice_close(engine);
}

/* ---- checkpoints that are packed themselves
 * -------------------------------------------------------------------------- */

static int is_layer_weight(const char *name) {
    size_t n = strlen(name);
    return n > 7 && strcmp(name + n - 7, ".weight") == 0 && strstr(name, "_proj") != NULL;
}

/* Tensors of `from` behind those of `to`; of the model all but its linears, of the artifact all but what others do not
 * write. */
static void append(st_file *to, const st_file *from) {
    const char *name;
    json_t *entry;
    json_object_foreach(from->header, name, entry) {
        size_t n = strlen(name);
        if (strcmp(name, "__metadata__") == 0 || is_layer_weight(name) ||
            (n > 7 && strcmp(name + n - 7, ".source") == 0))
            continue;
        json_t *offsets = json_object_get(entry, "data_offsets"), *copy = json_deep_copy(entry);
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        size_t bytes = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
        to->data = realloc(to->data, to->bytes + bytes + 1);
        assert_non_null(to->data);
        memcpy(to->data + to->bytes, from->data + begin, bytes);
        json_object_set_new(copy, "data_offsets",
                            json_pack("[I, I]", (json_int_t)to->bytes, (json_int_t)(to->bytes + bytes)));
        json_object_set_new(to->header, name, copy);
        to->bytes += bytes;
    }
}

/* A checkpoint as AutoGPTQ or SpQR export it, without the weights of its linears, gives the logits of model and file.
 */
static void test_packed_checkpoints(void **state) {
    (void)state;
    static const struct {
        const char *method, *sets[5];
    } cases[] = {
        {"gptq", {"quant.plugin=gptq", "quant.bits=3", "quant.group_size=64", "quant.desc_act=yes"}},
        {"spqr", {"quant.plugin=spqr", "quant.layout=official", "quant.sparse_layout=auto"}},
    };
    e2e_prompts prompts;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char artifact[4096];
        const char *sets[7], *dir = e2e_linked_model("models/tiny");
        sluice_error err;
        int n = 0;
        for (; cases[c].sets[n] != NULL && n < 5; n++)
            sets[n] = cases[c].sets[n];
        sets[n] = NULL;
        const char *file = pack_as("p.safetensors", sets, 3, NULL);
        st_file model, packed, whole = {.header = json_object()};
        st_read(e2e_path("models/tiny/model.safetensors"), &model);
        st_read(file, &packed);
        append(&whole, &model);
        append(&whole, &packed);
        json_t *config = e2e_json(e2e_path("models/tiny/config.json"));
        json_object_set_new(config, "quantization_config", json_pack("{s:s}", "quant_method", cases[c].method));
        char *config_text = json_dumps(config, 0);
        e2e_put_text(dir, "config.json", config_text);
        st_write(&whole, dir, "model.safetensors");

        sluice_engine *one = e2e_open(dir, sets);
        snprintf(artifact, sizeof artifact, "quant.artifact=%s", file);
        sets[n++] = artifact;
        sets[n] = NULL;
        sluice_engine *two = e2e_open("models/tiny", sets);
        assert_true(logit_error(two, one, &prompts.prompt[0]) == 0);
        sluice_close(one);
        sluice_close(two);
        e2e_open_refused(dir, SETS("quant.plugin=none"), &err);
        assert_non_null(strstr(err.text, "packed in the checkpoint"));
        e2e_open_refused(dir, SETS("quant.plugin=rtn"), &err);
        assert_non_null(strstr(err.text, "packed in the checkpoint"));
        e2e_open_refused(dir, SETS(cases[c].method[0] == 'g' ? "quant.plugin=spqr" : "quant.plugin=gptq"), &err);
        assert_non_null(strstr(err.text, "sluice quantize"));
        free(config_text);
        json_decref(config);
        st_free(&model), st_free(&packed), st_free(&whole);
    }
    e2e_prompts_free(&prompts);
    /* linears in their own form, and a configuration that says otherwise */
    const char *dir = e2e_linked_model("models/tiny");
    sluice_error err;
    json_t *config = e2e_json(e2e_path("models/tiny/config.json"));
    json_object_set_new(config, "quantization_config", json_pack("{s:s}", "quant_method", "fp8"));
    char *config_text = json_dumps(config, 0);
    e2e_put_text(dir, "config.json", config_text);
    e2e_open_refused(dir, NO_SETS, &err);
    assert_non_null(strstr(err.text, "quant_method \"fp8\""));
    free(config_text);
    json_decref(config);
}

/* ---- refusals
 * -------------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    sluice_error err;
    char artifact[4096];
    const char *out = e2e_temp("never.safetensors");
    refused(SETS("quant.plugin=rtn"), out, 1, 32, "packs without data");
    refused(SETS("quant.plugin=gptq"), out, 1, 100000, "max_context");
    refused(SETS("quant.plugin=gptq"), out, 0, 32, "at least 1 sample");
    refused(SETS("quant.plugin=gptq", "engine.max_context=4096"), out, 1, 4096, "has");
    refused(SETS("quant.plugin=gptq"), e2e_temp("no/such/folder.safetensors"), 1, 32, "no/such/folder");
    refused(SETS("quant.plugin=gptq", "quant.layers 0.plugin=spqr"), out, 1, 32, "name a folder");
    assert_null(fopen(out, "rb"));

    e2e_open_refused("models/tiny", SETS("quant.plugin=gptq"), &err);
    assert_non_null(strstr(err.text, "sluice quantize"));
    snprintf(artifact, sizeof artifact, "quant.artifact=%s",
             pack_as("r.safetensors", SETS("quant.plugin=gptq", "quant.group_size=64"), 3, NULL));
    e2e_open_refused("models/tiny", SETS("quant.plugin=gptq", "quant.group_size=32", artifact), &err);
    assert_non_null(strstr(err.text, "group_size=64"));
    e2e_open_refused("models/tiny", SETS("quant.plugin=spqr", artifact), &err);
    assert_non_null(strstr(err.text, "plugin gptq"));
    e2e_open_refused("tests/data/random_draft", SETS("quant.plugin=gptq", "quant.group_size=64", artifact), &err);
    assert_non_null(strstr(err.text, "another model"));
    e2e_open_refused("models/tiny", SETS("quant.plugin=gptq", "quant.artifact=/nowhere.safetensors"), &err);
    assert_non_null(strstr(err.text, "nowhere"));
}

static void test_command(void **state) {
    (void)state;
    const char *prose = e2e_path("recipes/golden/prose_watson.txt"), *out = e2e_temp("cli.safetensors");
    cli_result r = cli_good(CLI("quantize", "-m", e2e_path("models/tiny"), "--set", "quant.plugin=gptq", "--set",
                                "quant.bits=2", "--text", prose, "-o", out, "--samples", "1", "--length", "32"),
                            NULL);
    assert_non_null(strstr(r.out, "\"bits_per_weight\": 2."));
    cli_free(&r);
    cli_refused(CLI("quantize", "-m", e2e_path("models/tiny"), "--text", prose),
                (const char *const[]){"-o PATH", NULL});
    r = cli_good(CLI("quantize", "--help"), NULL);
    assert_non_null(strstr(r.out, "--samples"));
    cli_free(&r);
}

int main(void) {
    text = e2e_read(e2e_path("recipes/golden/prose_watson.txt"), &text_length);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_rewritten),
        cmocka_unit_test(test_same_seed_same_file),
        cmocka_unit_test_prestate(test_format, (void *)(uintptr_t)&formats[0]),
        cmocka_unit_test_prestate(test_format, (void *)(uintptr_t)&formats[1]),
        cmocka_unit_test_prestate(test_format, (void *)(uintptr_t)&formats[2]),
        cmocka_unit_test_prestate(test_format, (void *)(uintptr_t)&formats[3]),
        cmocka_unit_test_prestate(test_format, (void *)(uintptr_t)&formats[4]),
        cmocka_unit_test(test_sections),
        cmocka_unit_test(test_packed_checkpoints),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_command),
    };
    int status = cmocka_run_group_tests_name("quantize", tests, NULL, NULL);
    free(text);
    return status;
}
