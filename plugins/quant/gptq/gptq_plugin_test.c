/* gptq: codes against a reference written from the paper (recipes/golden/make_quant.py), the file layout there and
 * back, products of all formats, the error against rounding, and refusals. */
#include "gptq.c"
#include "gptq_blob.c"
#include "gptq_file.c"
#include "gptq_params.c"
#include "gptq_quant.c"

#include "pack_rig.h"

static sl_instance *make(pack_rig *r, const char *const *sets, sl_error *err) {
    const sl_plugin *p = &plugin;
    sl_instance *self = NULL;
    sl_params *values = test_params(p, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .params = values, .model = &r->info};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .max_rows = 64, .compute = SL_F32};
    sl_status s = p->create(&args, &self, err);
    if (s >= 0)
        assert_int_equal(p->activate(self, &limits, NULL), SL_OK);
    test_params_free(values);
    return s >= 0 ? self : NULL;
}

static void unmake(sl_instance *self) {
    const sl_plugin *p = &plugin;
    p->deactivate(self);
    p->destroy(self);
}

static void run_quantize(pack_rig *r, sl_instance *self) {
    SL_ERROR(err);
    sl_calibration data = rig_data(r);
    if (packer.quantize(self, &r->group, &data, &err) < 0)
        fail_msg("%s", err.text);
    free(data.hessian);
}

/* ---- against the reference ------------------------------------------------------------------------------------------
 */

static sli_safetensors *golden_file;

static const sl_tensor *golden(const char *name, const char *part) {
    char text[64];
    snprintf(text, sizeof text, "%s%s%s", name, part != NULL ? "." : "", part != NULL ? part : "");
    const sli_named_tensor *t = sli_safetensors_find(golden_file, text);
    if (t == NULL)
        fail_msg("no golden tensor %s", text);
    return &t->tensor;
}

static void golden_group(pack_rig *r) {
    const sl_tensor *w = golden("weight", NULL), *x = golden("inputs", NULL);
    static const int64_t outs[] = {32};
    rig_group(r, 1, outs, 64, 160, 1);
    memcpy(r->weight[0], w->data, sizeof(float) * 32 * 64);
    memcpy(r->inputs, x->data, sizeof(float) * 160 * 64);
    memset(r->hessian, 0, sizeof(double) * 64 * 64);
    for (int t = 0; t < 160; t++)
        for (int i = 0; i < 64; i++)
            for (int j = 0; j < 64; j++)
                r->hessian[i * 64 + j] += (double)r->inputs[t * 64 + i] * r->inputs[t * 64 + j];
}

static void test_reference(void **state) {
    (void)state;
    static const struct {
        const char *name, *sets[6];
    } cases[] = {
        {"gptq.4g16", {"bits=4", "group_size=16", NULL}},
        {"gptq.3g32a_act", {"bits=3", "group_size=32", "sym=no", "desc_act=yes", NULL}},
        {"gptq.4g32a_static", {"bits=4", "group_size=32", "sym=no", "desc_act=yes", "static_groups=yes", NULL}},
        {"gptq.2row_mse", {"bits=2", "group_size=-1", "sym=no", "mse=yes", NULL}},
        {"gptq.8g32_act", {"bits=8", "group_size=32", "desc_act=yes", NULL}}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        pack_rig r = {0};
        rig_host(&r, 1);
        golden_group(&r);
        sl_instance *self = make(&r, cases[c].sets, NULL);
        run_quantize(&r, self);
        const gptq_linear *l = &self->result[0];
        const uint8_t *codes = golden(cases[c].name, "codes")->data, *zero = golden(cases[c].name, "zero")->data;
        const uint16_t *scale = golden(cases[c].name, "scale")->data;
        const uint32_t *order = golden(cases[c].name, "order")->data;
        uint32_t place[64]; /* of each input: inside a group any order will do */
        for (uint32_t i = 0; i < 64; i++)
            place[l->order != NULL ? l->order[i] : i] = i;
        for (int64_t row = 0; row < 32; row++)
            for (int64_t i = 0; i < 64; i++)
                if (l->code[row * 64 + place[order[i]]] != codes[row * 64 + i])
                    fail_msg("%s: code of row %d, input %d is %d, expected %d", cases[c].name, (int)row, (int)order[i],
                             l->code[row * 64 + place[order[i]]], codes[row * 64 + i]);
        for (int64_t i = 0; i < 32 * l->n_groups; i++)
            if (l->scale[i] != scale[i] || l->zero[i] != zero[i])
                fail_msg("%s: group %d is %#x %d, expected %#x %d", cases[c].name, (int)i, l->scale[i], l->zero[i],
                         scale[i], zero[i]);
        for (uint32_t i = 0; i < 64; i++)
            assert_int_equal(place[order[i]] / l->group, i / l->group);
        unmake(self);
        rig_free(&r);
    }
}

/* ---- files and products
 * ---------------------------------------------------------------------------------------------- */

static void decode(const gptq_linear *l, float *w) {
    for (int64_t r = 0; r < l->n; r++)
        for (int64_t i = 0; i < l->k; i++) {
            int64_t g = r * l->n_groups + i / l->group, input = l->order != NULL ? l->order[i] : i;
            w[r * l->k + input] = sl_f32_of_f16(l->scale[g]) * ((float)l->code[r * l->k + i] - (float)l->zero[g]);
        }
}

/* Quantises, stores, loads in a serving instance, multiplies: the matrix of codes, scales and zeros, whatever the
 * number of rows; and error and size are as they should be. */
static void round_trip(const char *const *sets, int64_t k, int64_t block) {
    static const int64_t outs[] = {48, 33, 7};
    pack_rig r = {0};
    const char *serving[16];
    char with_block[32];
    int n = 0;
    for (; sets[n] != NULL; n++)
        serving[n] = sets[n];
    snprintf(with_block, sizeof with_block, "block_size=%lld", (long long)block);
    serving[n++] = with_block;
    serving[n] = NULL;
    rig_host(&r, 1);
    rig_group(&r, 3, outs, k, 300, 11);
    sl_instance *self = make(&r, serving, NULL);
    run_quantize(&r, self);
    const sl_pack_tensor *const *list;
    int32_t n_list;
    float *want[3], *got = malloc(sizeof *got * (size_t)(48 * k));
    assert_int_equal(packer.tensors(self, &r.group, &list, &n_list, NULL), SL_OK);
    rig_store(&r, list, n_list);
    for (int i = 0; i < 3; i++) {
        want[i] = malloc(sizeof(float) * (size_t)(outs[i] * k));
        decode(&self->result[i], want[i]);
    }
    sl_quant_claim packed = {.struct_size = SL_SIZE(sl_quant_claim)}, loaded = packed;
    assert_int_equal(quant.claim(self, &r.group, &packed, NULL), SL_OK);
    int64_t first_bytes = 0, bytes = 0;
    assert_int_equal(quant.pack_size(self, &r.group, &first_bytes, NULL), SL_OK);
    char *first = aligned_alloc(64, (size_t)first_bytes);
    assert_int_equal(quant.pack_into(self, &r.group, first, NULL), SL_OK);
    char parameters_text[256];
    snprintf(parameters_text, sizeof parameters_text, "%s", packer.parameters(self));
    unmake(self);

    r.calibrates = 0;
    r.plugin = "gptq";
    r.parameters = parameters_text;
    serving[n++] = "artifact=somewhere";
    serving[n] = NULL;
    SL_ERROR(err);
    self = make(&r, serving, &err);
    if (self == NULL)
        fail_msg("%s", err.text);
    if (quant.claim(self, &r.group, &loaded, &err) < 0 || quant.pack_size(self, &r.group, &bytes, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(packed.bits_per_weight == loaded.bits_per_weight && bytes == first_bytes);
    double weights = (double)((48 + 33 + 7) * k);
    assert_true(fabs(loaded.bits_per_weight - 8 * (double)bytes / weights) < 1e-9);
    char *blob = aligned_alloc(64, (size_t)bytes + 64);
    memset(blob, 0xee, (size_t)bytes + 64);
    assert_int_equal(quant.pack_into(self, &r.group, blob, NULL), SL_OK);
    assert_memory_equal(blob, first, (size_t)bytes); /* the same bytes from the file as from the run that packed */
    for (int i = 0; i < 64; i++)
        assert_int_equal((unsigned char)blob[bytes + i], 0xee);
    sl_quant_handle *h;
    assert_int_equal(quant.bind(self, &r.group, blob, &h, NULL), SL_OK);
    for (int i = 0; i < 3; i++)
        for (int64_t rows = 1; rows <= 17; rows += 16) {
            rig_matrix(&quant, h, i, outs[i], k, rows, got);
            check_close(sets[0], want[i], got, (size_t)(outs[i] * k), 1e-6, 1e-7);
        }
    quant.unbind(self, h);
    unmake(self);
    for (int i = 0; i < 3; i++)
        free(want[i]);
    free(got);
    free(first);
    free(blob);
    rig_free(&r);
}

static void test_round_trips(void **state) {
    (void)state;
    static const char *const bits[] = {"bits=2", "bits=3", "bits=4", "bits=8"};
    static const char *const others[][4] = {
        {"group_size=32", NULL},
        {"group_size=32", "sym=no", "desc_act=yes", NULL},
        {"group_size=-1", "sym=no", "checkpoint_format=gptq_v2", NULL},
        {"group_size=24", "desc_act=yes", NULL},
    };
    for (int b = 0; b < 4; b++)
        for (int o = 0; o < 4; o++) {
            const char *sets[6] = {bits[b]};
            for (int i = 0; others[o][i] != NULL; i++)
                sets[i + 1] = others[o][i];
            round_trip(sets, o == 3 ? 100 : 96, 128); /* 100: the last group is short */
        }
    round_trip((const char *const[]){"bits=4", "desc_act=yes", "static_groups=yes", "group_size=32", NULL}, 96, 128);
}

/* The block size changes the order of sums alone. */
static void test_block_size(void **state) {
    (void)state;
    static const int64_t outs[] = {40};
    uint8_t *first = NULL;
    static const char *const sizes[] = {"block_size=1", "block_size=7", "block_size=40", "block_size=1000"};
    for (int i = 0; i < 4; i++) {
        pack_rig r = {0};
        rig_host(&r, 1);
        rig_group(&r, 1, outs, 96, 200, 5);
        sl_instance *self =
            make(&r, (const char *const[]){"bits=3", "group_size=32", "desc_act=yes", sizes[i], NULL}, NULL);
        run_quantize(&r, self);
        if (i == 0) {
            first = malloc(40 * 96);
            memcpy(first, self->result[0].code, 40 * 96);
        } else
            assert_memory_equal(first, self->result[0].code, 40 * 96);
        unmake(self);
        rig_free(&r);
    }
    free(first);
}

/* ---- the error
 * ------------------------------------------------------------------------------------------------------- */

/* Weighted with the Hessian, feedback is never worse than rounding with the same groups, and act-order and a search for
 * ranges do what they are for. The loss of the walk is the error that the inputs see. */
static double error_with(const char *const *sets, int with_feedback) {
    static const int64_t outs[] = {64};
    pack_rig r = {0};
    rig_host(&r, 1);
    rig_group(&r, 1, outs, 128, 600, 3);
    if (!with_feedback) /* without correlations there is nothing to make up for an error */
        for (int i = 0; i < 128; i++)
            for (int j = 0; j < 128; j++)
                r.hessian[i * 128 + j] *= i == j;
    sl_instance *self = make(&r, sets, NULL);
    run_quantize(&r, self);
    float *w = malloc(sizeof *w * 64 * 128);
    decode(&self->result[0], w);
    double e = rig_error(&r, 0, w);
    free(w);
    unmake(self);
    rig_free(&r);
    return e;
}

static void test_error(void **state) {
    (void)state;
    static const char *const bits[] = {"bits=2", "bits=3", "bits=4", "bits=8"};
    for (int b = 0; b < 4; b++) {
        const char *sets[] = {bits[b], "group_size=32", NULL, NULL};
        double rounded = error_with(sets, 0), fed = error_with(sets, 1);
        sets[2] = "desc_act=yes";
        double ordered = error_with(sets, 1);
        print_message("# %s: rounded %.4g, gptq %.4g, act-order %.4g\n", bits[b], rounded, fed, ordered);
        assert_true(fed < 0.8 * rounded && ordered < 0.8 * rounded);
    }
    double plain = error_with((const char *const[]){"bits=2", "group_size=-1", "sym=no", NULL}, 1);
    double searched = error_with((const char *const[]){"bits=2", "group_size=-1", "sym=no", "mse=yes", NULL}, 1);
    assert_true(searched < plain);
}

static void test_loss(void **state) {
    (void)state;
    static const int64_t outs[] = {16};
    pack_rig r = {0};
    rig_host(&r, 1);
    rig_group(&r, 1, outs, 64, 300, 9);
    sl_instance *self = make(&r, (const char *const[]){"bits=3", "group_size=32", "damp_percent=0", NULL}, NULL);
    sl_calibration data = rig_data(&r);
    gptq_linear out[1] = {{0}};
    double loss;
    float w[16 * 64];
    assert_int_equal(gptq_quantize(&self->env, &self->settings, &r.group, &data, out, &loss, NULL), SL_OK);
    decode(out, w);
    double seen = rig_error(&r, 0, w);
    double dead = 0; /* the walk counts what it loses on input 5, whose weight it replaced by 0, as nothing */
    if (!(fabs(loss - seen) <= 1e-6 * seen + dead))
        fail_msg("the walk says %.9g, the inputs see %.9g", loss, seen);
    free(data.hessian);
    gptq_linear_free(&self->env, out);
    unmake(self);
    rig_free(&r);
}

/* ---- refusals
 * -------------------------------------------------------------------------------------------------------- */

static void refused(pack_rig *r, const char *const *sets, const char *word) {
    SL_ERROR(err);
    assert_null(make(r, sets, &err));
    if (strstr(err.text, word) == NULL)
        fail_msg("\"%s\" does not mention %s", err.text, word);
}

static void test_refusals(void **state) {
    (void)state;
    static const int64_t outs[] = {32};
    SL_ERROR(err);
    pack_rig r = {0};
    rig_host(&r, 0);
    refused(&r, NULL, "sluice quantize"); /* neither data nor file */
    refused(&r, (const char *const[]){"group_size=0", NULL}, "group_size");
    refused(&r, (const char *const[]){"group_size=-1", "static_groups=yes", NULL}, "static_groups");
    static const char *const sets[] = {"artifact=x", "group_size=32", NULL};
    r.plugin = "spqr";
    r.parameters = "";
    refused(&r, sets, "spqr");
    r.plugin = "gptq";
    r.parameters = "bits=4 group_size=64";
    refused(&r, sets, "group_size=64");
    r.calibrates = 1;
    rig_group(&r, 1, outs, 64, 100, 2);
    sl_instance *self = make(&r, (const char *const[]){"group_size=32", NULL}, NULL);
    char text[256];
    snprintf(text, sizeof text, "%s", packer.parameters(self));
    r.parameters = text;
    run_quantize(&r, self);
    const sl_pack_tensor *const *list;
    int32_t n_list;
    assert_int_equal(packer.tensors(self, &r.group, &list, &n_list, NULL), SL_OK);
    rig_store(&r, list, n_list);

    /* a NaN among the weights, a Hessian that is none */
    sl_calibration data = rig_data(&r);
    float kept = r.weight[0][70];
    r.weight[0][70] = NAN;
    assert_int_equal(packer.quantize(self, &r.group, &data, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "q_proj"));
    r.weight[0][70] = kept;
    memcpy(data.hessian, r.hessian, sizeof(double) * 64 * 64);
    data.hessian[1] = data.hessian[64] = 1e12;
    assert_int_equal(packer.quantize(self, &r.group, &data, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "damp"));
    free(data.hessian);
    unmake(self);

    r.calibrates = 0;
    r.fingerprint = "0000000000000008";
    refused(&r, sets, "another model");
    r.fingerprint = "0000000000000007";
    self = make(&r, sets, NULL);
    assert_non_null(self);
    sl_quant_claim claim_out = {.struct_size = SL_SIZE(sl_quant_claim)};
    assert_int_equal(quant.claim(self, &r.group, &claim_out, NULL), SL_OK);
    /* other weights of the same shape; then a g_idx that points nowhere, a tensor of another shape, one that is missing
     */
    kept = r.weight[0][0];
    r.weight[0][0] += 1;
    assert_true(quant.claim(self, &r.group, &claim_out, &err) < 0);
    assert_non_null(strstr(err.text, "other weights"));
    r.weight[0][0] = kept;
    unmake(self);
    r.plugin = NULL; /* a file of another tool has no source to compare */
    self = make(&r, sets, NULL);
    sl_tensor t = {0};
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.g_idx", &t), SL_OK);
    ((int32_t *)t.data)[3] = 99;
    assert_true(quant.claim(self, &r.group, &claim_out, &err) < 0);
    assert_non_null(strstr(err.text, "g_idx"));
    ((int32_t *)t.data)[3] = 1; /* one too many in group 1 */
    assert_true(quant.claim(self, &r.group, &claim_out, &err) < 0);
    assert_non_null(strstr(err.text, "group 1"));
    r.file[0].tensor.shape[0]--;
    assert_true(quant.claim(self, &r.group, &claim_out, &err) < 0);
    assert_non_null(strstr(err.text, "bits = 4"));
    r.file[0].name[0] = 'x';
    assert_true(quant.claim(self, &r.group, &claim_out, &err) < 0);
    assert_non_null(strstr(err.text, "no tensor"));
    unmake(self);
    rig_free(&r);
}

/* Out of memory at every place leaves nothing behind. */
static void test_memory(void **state) {
    (void)state;
    static const int64_t outs[] = {32};
    for (int64_t budget = 1000;; budget += 3000) {
        pack_rig r = {0};
        rig_host(&r, 1);
        rig_group(&r, 1, outs, 64, 100, 2);
        sl_instance *self = make(&r, (const char *const[]){"group_size=32", "desc_act=yes", NULL}, NULL);
        sl_calibration data = rig_data(&r);
        r.host.budget = budget;
        sl_status s = packer.quantize(self, &r.group, &data, NULL);
        free(data.hessian);
        unmake(self);
        rig_free(&r);
        if (s >= 0)
            break;
        assert_int_equal(s, SL_E_NO_MEMORY);
    }
}

/* Version 1 files store the zero less one; 0 wraps to all ones and back. */
static void test_zeros(void **state) {
    (void)state;
    for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1)
        for (uint32_t z = 0; z < 1u << bits; z++)
            for (int v2 = 0; v2 < 2; v2++)
                assert_int_equal(zero_of(stored_of(z, v2, bits), v2, bits), z);
    assert_int_equal(stored_of(8, 0, 4), 7);
    assert_int_equal(zero_of(15, 0, 4), 0);
    /* 3 bits: input 10 straddles words 0 and 1, input 21 words 1 and 2, at the bits that the format names */
    uint32_t words[3] = {0};
    for (int i = 0; i < 32; i++)
        put(words, 1, i, 3, i == 10 ? 6 : i == 21 ? 5 : 0);
    assert_true(words[0] == 2u << 30 && words[1] == (1u | 1u << 31) && words[2] == 2);
    assert_true(get(words, 1, 10, 3) == 6 && get(words, 1, 21, 3) == 5 && get(words, 1, 11, 3) == 0);
}

int main(void) {
    char path[4096];
    SL_ERROR(err);
    snprintf(path, sizeof path, "%s/tests/data/quant/golden.safetensors", getenv("SLUICE_SOURCE"));
    if (sli_safetensors_open(path, &golden_file, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_round_trips), cmocka_unit_test(test_block_size),
        cmocka_unit_test(test_error),     cmocka_unit_test(test_loss),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),    cmocka_unit_test(test_zeros),
    };
    int status = cmocka_run_group_tests_name("gptq_plugin", tests, NULL, NULL);
    sli_safetensors_close(golden_file);
    return status;
}
