/* What tidaldecode measures, against an oracle: exact top-k sets of every layer, from the running model's own queries
 * and keys. While it measures, it is dense. */
#include "sluice/calibrate.h"

#include "tidal_rig.h"

enum { LAYERS = 6, H = 4, K = 2, G = H / K, D = 64, N = 151, B = 32 }; /* models/tiny; keys at the decoded token */

static int32_t text[200];
static float q[LAYERS][H * D], keys[LAYERS][2 * N * K * D];
static float dense[RIG_VOCAB], got[RIG_VOCAB];

static void listen(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    (void)user;
    if (point == SL_TAP_Q && n_rows == 1 && width == H * D)
        memcpy(q[layer], rows, sizeof q[layer]);
}

/* Decodes token N - 1 behind N - 1 others. */
static void decode(sluice_engine *e, float *logits) {
    int32_t seq = rig_prompt(e, text, N - 1);
    sli_pass pass = {.tap = listen};
    rig_step(e, &(rig_rows){seq, N - 1, SL_STAGE_DECODE, text + N - 1, NULL, 1}, 1, &pass, logits);
    for (int32_t l = 0; l < LAYERS; l++) {
        const sli_store *store = e->target.layers[l].store;
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .lane = e->target.lane,
                           .buffer = keys[l],
                           .end = N,
                           .bytes = sizeof keys[l],
                           .layer = l,
                           .seq = seq,
                           .direction = SL_COPY_EXPORT,
                           .dtype = SL_F32};
        assert_int_equal(store->api->copy_rows(store->self, &copy, NULL), SL_OK);
    }
}

/* The B - 1 best of head h besides the token itself. */
static void best_of(int layer, int h, char *in) {
    double x[N - 1];
    for (int j = 0; j < N - 1; j++) {
        x[j] = 0;
        for (int d = 0; d < D; d++)
            x[j] += (double)q[layer][h * D + d] * keys[layer][(j * K + h / G) * D + d];
    }
    for (int j = 0; j < N - 1; j++) {
        int above = 0;
        for (int i = 0; i < N - 1; i++)
            above += x[i] > x[j] || (x[i] == x[j] && i < j);
        in[j] = above < B - 1;
    }
}

static double recall(int a, int b) {
    char x[N], y[N];
    int both = 0;
    for (int h = 0; h < H; h++) {
        best_of(a, h, x);
        best_of(b, h, y);
        for (int j = 0; j < N - 1; j++)
            both += x[j] && y[j];
    }
    return both / (double)(H * (B - 1));
}

static void recall_equals_the_oracle(void **state) {
    (void)state;
    sluice_engine *e = rig_open("attention.plugin=dense");
    rig_tokens(e, text, 200);
    decode(e, dense);
    sluice_close(e);
    e = rig_open("attention.plugin=tidaldecode|attention.token_budget=32|attention.select_heads=query");
    const void *table;
    const char *section;
    int chosen;
    sl_instance *self = sli_binding_find(e->target_plugins, "tidaldecode", SL_CALIBRATE_ID, SL_SIZE(sl_calibrate),
                                         &table, &section, &chosen);
    assert_non_null(self);
    const sl_calibrate *api = table;
    const sl_calibrate_report *r;
    uint32_t stages = 0;
    SL_ERROR(err);
    assert_int_equal(api->finish(self, &r, &err), SL_E_STATE); /* it has not begun */
    assert_int_equal(api->begin(self, &stages, &err), SL_OK);
    assert_int_equal(stages, SL_STAGE_DECODE);
    decode(e, got);
    assert_true(rig_same(dense, got, 1));
    assert_int_equal(api->finish(self, &r, &err), SL_OK);
    assert_string_equal(section, "attention");
    assert_string_equal(r->key, "reselect_layers");
    assert_int_equal(r->n_samples, 1);
    assert_int_equal(r->n_choices, 4); /* none, 3, 4, 5 */
    const float *measured = r->tensors[0]->data.data;
    for (int a = 2; a < LAYERS; a++)
        for (int b = a + 1; b < LAYERS; b++) /* a tie at the end of a list may fall either way: one token in one head */
            assert_true(fabs(measured[a * LAYERS + b] - recall(a, b)) < 1.01 / (H * (B - 1)));
    for (int i = 0; i < r->n_choices; i++) {
        int at = strcmp(r->choices[i]->value, "none") == 0 ? 2 : atoi(r->choices[i]->value);
        double sum = 0;
        for (int l = 3; l < LAYERS; l++)
            sum += l == at ? 1 : measured[(l < at ? 2 : at) * LAYERS + l];
        assert_true(fabs(r->choices[i]->score - sum / 3) < 1e-6);
        assert_true(i == 0 || r->choices[i]->score <= r->choices[i - 1]->score);
    }
    decode(e, got); /* afterwards it is sparse again */
    assert_false(rig_same(dense, got, 1));
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recall_equals_the_oracle),
    };
    return cmocka_run_group_tests_name("tidaldecode_calibrate", tests, NULL, NULL);
}
