/* spqr: against a reference written from the paper (recipes/golden/make_quant.py), the invariants of the method, both
 * file layouts there and back, and refusals. */
#include "spqr.c"
#include "spqr_file.c"
#include "spqr_official.c"
#include "spqr_pack.c"
#include "spqr_params.c"
#include "spqr_quant.c"

#include "pack_rig.h"
#include "sl_factor.h"

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

/* The matrix in the order of its inputs. */
static void decode(const spqr_matrix *m, float *w) {
    float *row = malloc(sizeof *row * (size_t)m->k);
    for (int64_t r = 0; r < m->n; r++) {
        spqr_decode_row(m, r, row);
        for (int64_t i = 0; i < m->k; i++)
            w[r * m->k + (m->order != NULL ? m->order[i] : i)] = row[i];
    }
    free(row);
}

/* ---- against the reference
 * ------------------------------------------------------------------------------------------- */

static sli_safetensors *golden_file;

static const void *golden(const char *name, const char *part) {
    char text[64];
    snprintf(text, sizeof text, "%s%s%s", name, part != NULL ? "." : "", part != NULL ? part : "");
    const sli_named_tensor *t = sli_safetensors_find(golden_file, text);
    if (t == NULL)
        fail_msg("no golden tensor %s", text);
    return t->tensor.data;
}

static void golden_group(pack_rig *r) {
    static const int64_t outs[] = {32};
    rig_group(r, 1, outs, 64, 160, 1);
    memcpy(r->weight[0], golden("weight", NULL), sizeof(float) * 32 * 64);
    memcpy(r->inputs, golden("inputs", NULL), sizeof(float) * 160 * 64);
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
        {"spqr.3", {"wbits=3", NULL}},
        {"spqr.4_identity", {"wbits=4", "outlier_threshold=0.1", "permutation=identity", "percdamp=0.01", NULL}},
        {"spqr.2_simplified", {"wbits=2", "simplified_outliers=yes", NULL}},
        {"spqr.3_inf", {"wbits=3", "outlier_threshold=inf", NULL}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        pack_rig r = {0};
        rig_host(&r, 1);
        golden_group(&r);
        sl_instance *self = make(&r, cases[c].sets, NULL);
        run_quantize(&r, self);
        const spqr_matrix *m = &self->matrix[0];
        const uint8_t *codes = golden(cases[c].name, "codes"), *outlier = golden(cases[c].name, "outlier");
        const uint32_t *order = golden(cases[c].name, "order");
        int64_t n = 0;
        assert_memory_equal(m->stat, golden(cases[c].name, "stat"), 32 * 4);
        assert_memory_equal(m->second, golden(cases[c].name, "second"), 2 * 4 * 4 * 2);
        for (uint32_t i = 0; i < 64; i++)
            assert_int_equal(m->order != NULL ? m->order[i] : i, order[i]);
        for (int64_t row = 0; row < 32; row++) {
            for (int64_t i = 0; i < 64; i++) {
                uint32_t q = sl_bits_get(m->codes + (row * 4 + i / 16) * 2 * m->bits, i % 16, m->bits);
                if (q != codes[row * 64 + i])
                    fail_msg("%s: code of row %d, place %d is %u, expected %u", cases[c].name, (int)row, (int)i, q,
                             codes[row * 64 + i]);
                if (outlier[row * 64 + i]) {
                    assert_true(n < m->rowptr[row + 1]);
                    assert_int_equal(spqr_column(m, n++), i);
                }
            }
            assert_int_equal(m->rowptr[row + 1], n);
        }
        assert_int_equal(m->nnz, n);
        float *rows = malloc(sizeof *rows * 32 * 64);
        for (int64_t row = 0; row < 32; row++)
            spqr_decode_row(m, row, rows + row * 64);
        check_close(cases[c].name, golden(cases[c].name, "value"), rows, 32 * 64, 1e-3, 1e-6);
        free(rows);
        unmake(self);
        rig_free(&r);
    }
}

/* ---- invariants
 * -------------------------------------------------------------------------------------------------------- */

enum { K = 96 };

/* A quantised group of three matrices, whose rows are no multiples of a tile. */
typedef struct packed {
    pack_rig rig;
    sl_instance *self;
    float *w[3];
} packed;

static const int64_t outs[] = {48, 33, 7};

static void open_packed(packed *p, const char *const *sets) {
    memset(p, 0, sizeof *p);
    rig_host(&p->rig, 1);
    rig_group(&p->rig, 3, outs, K, 300, 21);
    p->self = make(&p->rig, sets, NULL);
    run_quantize(&p->rig, p->self);
    for (int i = 0; i < 3; i++) {
        p->w[i] = malloc(sizeof(float) * (size_t)(outs[i] * K));
        decode(&p->self->matrix[i], p->w[i]);
    }
}

static void close_packed(packed *p) {
    for (int i = 0; i < 3; i++)
        free(p->w[i]);
    if (p->self != NULL)
        unmake(p->self);
    rig_free(&p->rig);
}

/* Without outliers and second level it is GPTQ with a zero that is no integer, over ranges that need not hold 0. */
static void test_is_gptq(void **state) {
    (void)state;
    packed p;
    open_packed(&p, (const char *const[]){"outlier_threshold=inf", "qq_scale_bits=16", "qq_zero_bits=16",
                                          "permutation=identity", "percdamp=0.01", NULL});
    double h[K * K], work[SL_OBS_ROWS * K], mean = 0;
    for (int i = 0; i < K; i++)
        mean += p.rig.hessian[i * K + i] / K;
    memcpy(h, p.rig.hessian, sizeof h);
    for (int i = 0; i < K; i++)
        h[i * K + i] = i == 5 ? 1 : h[i * K + i] + 0.01 * mean;
    assert_int_equal(sl_inverse_factor(h, K, work, NULL, NULL), SL_OK);
    for (int row = 0; row < 33; row++) {
        double w[K], low, high, s = 1, z = 0;
        float want[K];
        for (int i = 0; i < K; i++)
            w[i] = i == 5 ? 0 : p.rig.weight[1][row * K + i];
        for (int j = 0; j < K; j++) {
            if (j % 16 == 0) {
                low = high = w[j];
                for (int i = j; i < j + 16; i++)
                    low = w[i] < low ? w[i] : low, high = w[i] > high ? w[i] : high;
                s = (high - low) / 7, z = -low / s;
            }
            double q = rint(w[j] / s + z);
            q = q < 0 ? 0 : q > 7 ? 7 : q;
            want[j] = sl_f32_of_f16(sl_f16_of_f32((float)s)) * ((float)q - sl_f32_of_f16(sl_f16_of_f32((float)z)));
            double e = (w[j] - s * (q - z)) / h[j * K + j];
            for (int i = j + 1; i < K; i++)
                w[i] -= e * h[j * K + i];
        }
        check_close("row of gptq", want, p.w[1] + row * K, K, 1e-6, 1e-7);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(p.self->matrix[i].nnz, 0);
    close_packed(&p);
}

/* A threshold of 0 keeps every weight that is not met exactly: the weights come out as they went in. */
static void test_all_outliers(void **state) {
    (void)state;
    packed p;
    open_packed(&p, (const char *const[]){"outlier_threshold=0", NULL});
    for (int i = 0; i < 3; i++) {
        for (int64_t row = 0; row < outs[i]; row++)
            p.rig.weight[i][row * K + 5] = p.w[i][row * K + 5]; /* nothing is known about an input that is always 0 */
        check_close("all kept apart", p.rig.weight[i], p.w[i], (size_t)(outs[i] * K), 1e-3, 2e-4);
    }
    close_packed(&p);
}

static double error_of(const char *const *sets, double *outliers) {
    packed p;
    double sum = 0;
    *outliers = 0;
    open_packed(&p, sets);
    for (int i = 0; i < 3; i++) {
        sum += rig_error(&p.rig, i, p.w[i]);
        *outliers += (double)p.self->matrix[i].nnz;
    }
    close_packed(&p);
    return sum;
}

/* Rounding to the same groups, f16 scales and zeros, without any feedback. */
static double rounding_error(void) {
    pack_rig r = {0};
    double sum = 0;
    rig_host(&r, 1);
    rig_group(&r, 3, outs, K, 300, 21);
    for (int m = 0; m < 3; m++) {
        float *w = malloc(sizeof *w * (size_t)(outs[m] * K));
        for (int64_t at = 0; at < outs[m] * K; at += 16) {
            double group[16];
            for (int i = 0; i < 16; i++)
                group[i] = r.weight[m][at + i];
            quantiser q = fit_range(group, 16, -1, 3);
            for (int i = 0; i < 16; i++)
                w[at + i] = (float)value_of(&q, code_of(&q, group[i]));
        }
        sum += rig_error(&r, m, w);
        free(w);
    }
    rig_free(&r);
    return sum;
}

static void test_error(void **state) {
    (void)state;
    double n_none, n_some, n_many;
    double rounded_off = rounding_error();
    double none = error_of((const char *const[]){"outlier_threshold=inf", NULL}, &n_none);
    double some = error_of((const char *const[]){"outlier_threshold=0.5", NULL}, &n_some);
    double many = error_of((const char *const[]){"outlier_threshold=0.05", NULL}, &n_many);
    print_message("# rounded %.4g; no outliers %.4g, %g of them %.4g, %g of them %.4g\n", rounded_off, none, n_some,
                  some, n_many, many);
    assert_true(none < 0.9 * rounded_off && some < none && many < some);
    assert_true(n_none == 0 && n_some > 0 && n_many > n_some);
    double n, two = error_of((const char *const[]){"wbits=2", NULL}, &n),
              four = error_of((const char *const[]){"wbits=4", NULL}, &n);
    assert_true(four < two / 4);
}

/* What the claim says is what the blob holds, and the formula: bits, statistics, second level, outliers, row pointers.
 */
static void test_bits(void **state) {
    (void)state;
    static const int64_t wide[] = {256, 128, 128};
    for (int bits = 2; bits <= 4; bits++) {
        char wbits[16];
        snprintf(wbits, sizeof wbits, "wbits=%d", bits);
        pack_rig r = {0};
        rig_host(&r, 1);
        rig_group(&r, 3, wide, RIG_WIDTH, 300, 8);
        sl_instance *self = make(&r, (const char *const[]){wbits, NULL}, NULL);
        run_quantize(&r, self);
        sl_quant_claim c = {.struct_size = SL_SIZE(sl_quant_claim)};
        int64_t bytes = 0;
        double weights = 512.0 * RIG_WIDTH, outliers = 0;
        for (int i = 0; i < 3; i++)
            outliers += (double)self->matrix[i].nnz;
        assert_int_equal(quant.claim(self, &r.group, &c, NULL), SL_OK);
        assert_int_equal(quant.pack_size(self, &r.group, &bytes, NULL), SL_OK);
        assert_true(fabs(c.bits_per_weight - 8 * (double)bytes / weights) < 1e-9);
        double formula =
            bits + 0.5 + 0.25 + 32 * outliers / weights + 32.0 * 512 / weights + 32.0 * RIG_WIDTH / weights;
        print_message("# %d bits: %.3f a weight, the formula says %.3f\n", bits, c.bits_per_weight, formula);
        assert_true(fabs(c.bits_per_weight - formula) < 0.02 * formula);
        unmake(self);
        rig_free(&r);
    }
}

/* ---- files and products
 * ------------------------------------------------------------------------------------------------ */

/* Stores what was packed, loads it in a serving instance and multiplies. */
static void round_trip(const char *const *sets, const int64_t *rows, int64_t k, double tolerance) {
    pack_rig r = {0};
    const char *serving[16];
    float *want[3], *got = malloc(sizeof *got * (size_t)(64 * k));
    int n = 0;
    for (; sets[n] != NULL; n++)
        serving[n] = sets[n];
    serving[n] = "artifact=somewhere";
    serving[n + 1] = NULL;
    SL_ERROR(err);
    rig_host(&r, 1);
    rig_group(&r, 3, rows, k, 300, 31);
    memset(r.weight[0] + 3 * k, 0, sizeof(float) * (size_t)k); /* a row of zeros, without outliers */
    sl_instance *self = make(&r, sets, &err);
    if (self == NULL)
        fail_msg("%s", err.text);
    run_quantize(&r, self);
    const sl_pack_tensor *const *list;
    int32_t n_list;
    if (packer.tensors(self, &r.group, &list, &n_list, &err) < 0)
        fail_msg("%s", err.text);
    rig_store(&r, list, n_list);
    for (int i = 0; i < 3; i++) {
        want[i] = malloc(sizeof(float) * (size_t)(rows[i] * k));
        decode(&self->matrix[i], want[i]);
    }
    char text[256];
    snprintf(text, sizeof text, "%s", packer.parameters(self));
    unmake(self);
    r.calibrates = 0;
    r.plugin = "spqr";
    r.parameters = text;
    self = make(&r, serving, &err);
    int64_t bytes = 0;
    if (self == NULL || quant.pack_size(self, &r.group, &bytes, &err) < 0)
        fail_msg("%s", err.text);
    char *blob = aligned_alloc(64, (size_t)bytes + 64), *moved = aligned_alloc(64, (size_t)bytes + 64);
    memset(blob, 0xee, (size_t)bytes + 64);
    assert_int_equal(quant.pack_into(self, &r.group, blob, NULL), SL_OK);
    for (int i = 0; i < 64; i++)
        assert_int_equal((unsigned char)blob[bytes + i], 0xee);
    memcpy(moved, blob, (size_t)bytes);
    memset(blob, 0, (size_t)bytes);
    sl_quant_handle *handle;
    assert_int_equal(quant.bind(self, &r.group, moved, &handle, NULL), SL_OK);
    for (int i = 0; i < 3; i++)
        for (int64_t t = 1; t <= 17; t += 16) {
            rig_matrix(&quant, handle, i, rows[i], k, t, got);
            check_close(sets[0], want[i], got, (size_t)(rows[i] * k), tolerance, tolerance * 0.2);
        }
    quant.unbind(self, handle);
    unmake(self);
    for (int i = 0; i < 3; i++)
        free(want[i]);
    free(got);
    free(blob);
    free(moved);
    rig_free(&r);
}

static void test_round_trips(void **state) {
    (void)state;
    static const int64_t odd[] = {48, 33, 7}, even[] = {48, 32, 16};
    round_trip((const char *const[]){"wbits=2", NULL}, odd, 96, 1e-6);
    round_trip((const char *const[]){"wbits=3", "permutation=identity", NULL}, odd, 100, 1e-6);
    round_trip((const char *const[]){"wbits=4", "qq_scale_bits=4", "qq_zero_bits=2", "groupsize=32", NULL}, odd, 100,
               1e-6);
    round_trip((const char *const[]){"wbits=3", "qq_scale_bits=16", "qq_zero_bits=16", NULL}, odd, 96, 1e-6);
    round_trip((const char *const[]){"wbits=3", "groupsize=8", "qq_groupsize=64", "outlier_threshold=inf", NULL}, odd,
               96, 1e-6);
    /* the official decoder rounds each step to f16 */
    static const char *const forms[] = {"sparse_layout=csr", "sparse_layout=ptcsr", "sparse_layout=auto"};
    for (int i = 0; i < 3; i++) {
        round_trip((const char *const[]){"layout=official", forms[i], NULL}, even, 96, 4e-3);
        round_trip(
            (const char *const[]){"layout=official", forms[i], "outlier_threshold=inf", "permutation=identity", NULL},
            even, 96, 4e-3);
    }
}

/* Both sparse forms of one matrix are the same matrix; a word is 64 bits of the fields that the format names. */
static void test_official(void **state) {
    (void)state;
    static const int64_t rows[] = {48};
    spqr_matrix seen[2];
    pack_rig r = {0};
    rig_host(&r, 1);
    rig_group(&r, 1, rows, 96, 300, 41);
    sl_instance *self = make(&r, (const char *const[]){"layout=official", "permutation=identity", NULL}, NULL);
    run_quantize(&r, self);
    const spqr_matrix *m = &self->matrix[0];
    assert_true(m->nnz > 0);
    sl_packed_file file = {.host = &r.host.host, .api = &r.artifacts, .artifact = (sl_artifact *)&r, .path = "x"};
    for (int i = 0; i < 2; i++) {
        spqr_tensors t;
        const sl_pack_tensor *list[SPQR_TENSORS];
        self->settings.sparse_layout = i == 0 ? SPQR_CSR : SPQR_PTCSR;
        assert_int_equal(spqr_official_write(&self->env, &self->settings, &r.linear[0], m, &t, NULL), SL_OK);
        for (int j = 0; j < t.n; j++)
            list[j] = &t.tensor[j];
        rig_drop_file(&r);
        rig_store(&r, list, t.n);
        sl_pack_release(&self->env, t.owned);
        SL_ERROR(err);
        if (spqr_official_read(&self->env, &self->settings, &file, &r.linear[0], &seen[i], &err) < 0)
            fail_msg("%s", err.text);
    }
    assert_int_equal(seen[0].nnz, seen[1].nnz);
    assert_memory_equal(seen[0].rowptr, seen[1].rowptr, 49 * 4);
    assert_memory_equal(seen[0].col, seen[1].col, (size_t)seen[0].nnz * 2);
    assert_memory_equal(seen[0].val, seen[1].val, (size_t)seen[0].nnz * 2);
    assert_memory_equal(seen[0].codes, m->codes, 48 * 6 * 6);
    assert_memory_equal(seen[0].stat, m->stat, 48 * 6);
    assert_memory_equal(seen[0].second, m->second, 3 * 6 * 8);

    sl_tensor dense = {0};
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.dense_weights", &dense), SL_OK);
    const uint64_t *words = dense.data;
    uint64_t record = 0;
    for (int row = 0; row < 16; row++) { /* tile (0, 2) */
        uint64_t word = words[2 * 16 + row];
        assert_int_equal(word >> 62, 0);
        assert_int_equal(word & 7, m->stat[row * 6 + 2] & 15);
        assert_int_equal(word >> 3 & 7, m->stat[row * 6 + 2] >> 4);
        assert_int_equal(word >> (6 + 3 * 7) & 7, sl_bits_get(m->codes + (row * 6 + 2) * 6, 7, 3));
        record |= (word >> 54) << 8 * (row / 2);
    }
    const uint16_t *second = m->second + 4 * 2; /* scale of scales, scale of zeros, zero of scales, zero of zeros */
    assert_true(record == ((uint64_t)second[0] | (uint64_t)second[2] << 16 | (uint64_t)second[1] << 32 |
                           (uint64_t)second[3] << 48));

    /* read as its packer meant: the value stands for the weight */
    sl_tensor words_of_outliers = {0};
    spqr_matrix replaced;
    float row[96];
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.col_vals", &words_of_outliers), SL_OK);
    self->settings.replaces = 1;
    assert_int_equal(spqr_official_read(&self->env, &self->settings, &file, &r.linear[0], &replaced, NULL), SL_OK);
    int64_t first = 0;
    while (replaced.rowptr[first + 1] == 0)
        first++;
    spqr_decode_row(&replaced, first, row);
    uint32_t word = ((const uint32_t *)words_of_outliers.data)[first % 16];
    assert_true(fabsf(row[word & 0xffff] - sl_f32_of_f16((uint16_t)(word >> 16))) < 1e-3f);
    spqr_free(&self->env, &replaced);
    spqr_free(&self->env, &seen[0]);
    spqr_free(&self->env, &seen[1]);
    unmake(self);
    rig_free(&r);
}

/* ---- refusals
 * ---------------------------------------------------------------------------------------------------------- */

static void refused(pack_rig *r, const char *const *sets, const char *word) {
    SL_ERROR(err);
    assert_null(make(r, sets, &err));
    if (strstr(err.text, word) == NULL)
        fail_msg("\"%s\" does not mention %s", err.text, word);
}

static void test_refusals(void **state) {
    (void)state;
    static const int64_t rows[] = {33};
    SL_ERROR(err);
    pack_rig r = {0};
    rig_host(&r, 0);
    refused(&r, NULL, "sluice quantize");
    refused(&r, (const char *const[]){"groupsize=12", NULL}, "multiple of 8");
    refused(&r, (const char *const[]){"qq_scale_bits=16", NULL}, "second level");
    refused(&r, (const char *const[]){"layout=official", "wbits=4", NULL}, "official");
    refused(&r, (const char *const[]){"sparse_layout=ptcsr", NULL}, "ptcsr");
    r.plugin = "spqr";
    r.parameters = "wbits=4";
    refused(&r, (const char *const[]){"artifact=x", NULL}, "wbits=4");
    r.calibrates = 1;
    rig_group(&r, 1, rows, 96, 100, 2);
    sl_instance *self = make(&r, (const char *const[]){"layout=official", NULL}, NULL);
    sl_calibration_wants wanted = {.struct_size = SL_SIZE(sl_calibration_wants)};
    assert_true(packer.wants(self, &r.group, &wanted, &err) < 0); /* 33 rows */
    assert_non_null(strstr(err.text, "multiples of 16"));
    unmake(self);
    self = make(&r, NULL, NULL);
    char text[256];
    snprintf(text, sizeof text, "%s", packer.parameters(self));
    r.parameters = text;
    run_quantize(&r, self);
    const sl_pack_tensor *const *list;
    int32_t n_list;
    assert_int_equal(packer.tensors(self, &r.group, &list, &n_list, NULL), SL_OK);
    rig_store(&r, list, n_list);
    unmake(self);
    r.calibrates = 0;
    self = make(&r, (const char *const[]){"artifact=x", NULL}, NULL);
    sl_quant_claim c = {.struct_size = SL_SIZE(sl_quant_claim)};
    assert_int_equal(quant.claim(self, &r.group, &c, NULL), SL_OK);
    /* a damaged sparse part is refused before it is multiplied */
    sl_tensor t = {0};
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.col", &t), SL_OK);
    assert_true(t.shape[0] > 0);
    drop(self);
    ((uint16_t *)t.data)[0] = 1000;
    assert_true(quant.claim(self, &r.group, &c, &err) < 0);
    assert_non_null(strstr(err.text, "column"));
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.rowptr", &t), SL_OK);
    ((uint32_t *)t.data)[33] += 5;
    assert_true(quant.claim(self, &r.group, &c, &err) < 0);
    assert_non_null(strstr(err.text, "rowptr"));
    assert_int_equal(rig_find(&r, "model.layers.0.self_attn.q_proj.perm", &t), SL_OK);
    ((uint32_t *)t.data)[0] = 96;
    assert_true(quant.claim(self, &r.group, &c, &err) < 0);
    unmake(self);
    rig_free(&r);
}

static void test_memory(void **state) {
    (void)state;
    static const int64_t rows[] = {32};
    for (int64_t budget = 1000;; budget += 3000) {
        pack_rig r = {0};
        rig_host(&r, 1);
        rig_group(&r, 1, rows, 64, 100, 2);
        sl_instance *self = make(&r, NULL, NULL);
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

int main(void) {
    char path[4096];
    SL_ERROR(err);
    snprintf(path, sizeof path, "%s/tests/data/quant/golden.safetensors", getenv("SLUICE_SOURCE"));
    if (sli_safetensors_open(path, &golden_file, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_is_gptq),  cmocka_unit_test(test_all_outliers),
        cmocka_unit_test(test_error),     cmocka_unit_test(test_bits),     cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_official),  cmocka_unit_test(test_refusals), cmocka_unit_test(test_memory),
    };
    int status = cmocka_run_group_tests_name("spqr_plugin", tests, NULL, NULL);
    sli_safetensors_close(golden_file);
    return status;
}
