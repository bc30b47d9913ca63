/* tidaldecode's lists and what sparse layers make of them, against an oracle in double precision: a naive softmax over
 * exactly the positions that the selecting layer's keys and queries say. Keys and values come out of the cache, queries
 * and results out of the running model. Also a planted needle. */
#include "tidal_rig.h"

enum { LAYERS = 6, H = 4, K = 2, G = H / K, D = 64, N = 151 }; /* models/tiny; keys at the decoded token */

static int32_t text[200];

typedef struct seen {
    float q[LAYERS][H * D], o[LAYERS][H * D];
    float k[LAYERS][N * K * D], v[LAYERS][N * K * D];
} seen;

static void listen(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    seen *s = user;
    if ((point == SL_TAP_Q || point == SL_TAP_ATTN_OUT) && n_rows == 1 && width == H * D)
        memcpy(point == SL_TAP_Q ? s->q[layer] : s->o[layer], rows, sizeof s->q[layer]);
}

static sl_status move_rows(sluice_engine *e, int32_t seq, int32_t layer, uint32_t direction, float *buffer) {
    const sli_store *store = e->target.layers[layer].store;
    sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                       .lane = e->target.lane,
                       .buffer = buffer,
                       .begin = 0,
                       .end = N,
                       .bytes = 2 * N * K * D * (int64_t)sizeof(float),
                       .layer = layer,
                       .seq = seq,
                       .direction = direction,
                       .dtype = SL_F32};
    return store->api->copy_rows(store->self, &copy, NULL);
}

/* Decodes token N - 1 and looks at everything. */
static void watch(sluice_engine *e, int32_t seq, seen *s) {
    static float both[2 * N * K * D];
    sli_pass pass = {.tap = listen, .tap_user = s};
    rig_step(e, &(rig_rows){seq, N - 1, SL_STAGE_DECODE, text + N - 1, NULL, 1}, 1, &pass, NULL);
    for (int32_t l = 0; l < LAYERS; l++) {
        assert_int_equal(move_rows(e, seq, l, SL_COPY_EXPORT, both), SL_OK);
        memcpy(s->k[l], both, sizeof s->k[l]);
        memcpy(s->v[l], both + N * K * D, sizeof s->v[l]);
    }
}

static double score(const seen *s, int layer, int h, int j) {
    double sum = 0;
    for (int d = 0; d < D; d++)
        sum += (double)s->q[layer][h * D + d] * s->k[layer][(j * K + h / G) * D + d];
    return sum / 8; /* sqrt(D) */
}

/* Marks the m best of x[begin, end) and returns by how much the last one in beats the first one out. */
static double mark_best(const double *x, int begin, int end, int m, char *in) {
    double worst_in = INFINITY, best_out = -INFINITY;
    for (int j = begin; j < end; j++) {
        int above = 0;
        for (int i = begin; i < end; i++)
            above += x[i] > x[j] || (x[i] == x[j] && i < j);
        in[j] = above < m;
        worst_in = in[j] && x[j] < worst_in ? x[j] : worst_in;
        best_out = !in[j] && x[j] > best_out ? x[j] : best_out;
    }
    return worst_in - best_out;
}

/* What query head h attends to by the scores of layer `owner`; returns the smallest margin of a decision. */
static double oracle_list(const seen *s, int owner, int h, const char *mode, char *in) {
    double x[H][N], margin = INFINITY;
    for (int i = 0; i < H; i++)
        for (int j = 0; j < N; j++)
            x[i][j] = score(s, owner, i, j);
    memset(in, 0, N);
    in[N - 1] = 1;
    if (strcmp(mode, "query") == 0)
        return mark_best(x[h], 0, N - 1, 31, in);
    if (strcmp(mode, "max") == 0) {
        for (int j = 0; j < N; j++)
            x[0][j] = fmax(x[h / G * G][j], x[h / G * G + 1][j]);
        return mark_best(x[0], 0, N - 1, 31, in);
    }
    if (strcmp(mode, "sum_prob") == 0) {
        double total[G] = {0}, sum[N];
        for (int g = 0; g < G; g++)
            for (int j = 0; j < N; j++)
                total[g] += exp(x[h / G * G + g][j]);
        for (int j = 0; j < N; j++) {
            sum[j] = 0;
            for (int g = 0; g < G; g++)
                sum[j] += exp(x[h / G * G + g][j]) / total[g];
        }
        return mark_best(sum, 0, N - 1, 31, in) > 1e-7 ? 1 : 0;
    }
    /* layer: 4 sinks, 24 of [4, 147), 4 recents; the heads' best by turns */
    int found = 0;
    for (int rank = 0; found < 24; rank++)
        for (int i = 0; i < H && found < 24; i++) {
            int best = -1;
            double second = -INFINITY;
            for (int j = 4; j < N - 4; j++) { /* the one that `rank` others beat */
                int above = 0;
                for (int k = 4; k < N - 4; k++)
                    above += x[i][k] > x[i][j] || (x[i][k] == x[i][j] && k < j);
                best = above == rank ? j : best;
                second = above == rank + 1 ? x[i][j] : second;
            }
            margin = fmin(margin, x[i][best] - second);
            found += !in[best];
            in[best] = 1;
        }
    for (int j = 0; j < 4; j++)
        in[j] = in[N - 1 - j] = 1;
    return margin;
}

static void oracle_output(const seen *s, int layer, int h, const char *in, float *o) {
    double sum = 0, acc[D] = {0};
    for (int j = 0; j < N; j++) {
        double w = in == NULL || in[j] ? exp(score(s, layer, h, j)) : 0;
        sum += w;
        for (int d = 0; d < D; d++)
            acc[d] += w * s->v[layer][(j * K + h / G) * D + d];
    }
    for (int d = 0; d < D; d++)
        o[d] = (float)(acc[d] / sum);
}

static const struct {
    const char *name, *sets;
} modes[] = {
    {"query", "attention.select_heads=query"},
    {"max", "attention.select_heads=kv_group"},
    {"sum_prob", "attention.select_heads=kv_group|attention.group_reduce=sum_prob"},
    {"layer", "attention.select_heads=layer|attention.n_sink=4|attention.middle_ratio=0.75"},
};

static sluice_engine *open_mode(int m, const char *isa) {
    char sets[512];
    snprintf(sets, sizeof sets,
             "attention.plugin=tidaldecode|attention.token_budget=32|attention.reselect_layers=4|engine.isa=%s|%s", isa,
             modes[m].sets);
    sluice_engine *e = rig_open(sets);
    rig_tokens(e, text, 200);
    return e;
}

/* Compares all layers of what was seen; returns how many lists the oracle was sure of. */
static int check_layers(const seen *s, const char *mode) {
    static const int owners[LAYERS] = {-1, -1, -1, 2, -1, 4};
    int sure = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < H; h++) {
            char in[N];
            float want[D];
            if (owners[l] >= 0) {
                if (oracle_list(s, owners[l], h, mode, in) < 1e-5)
                    continue; /* too close to call: rounding decides */
                int n = 0;
                for (int j = 0; j < N; j++)
                    n += in[j];
                assert_int_equal(n, 32);
                sure++;
            }
            oracle_output(s, l, h, owners[l] >= 0 ? in : NULL, want);
            check_close(mode, want, s->o[l] + h * D, D, 1e-4, 2e-5);
        }
    return sure;
}

static void sparse_layers_equal_the_oracle(void **state) {
    (void)state;
    static const char *const isas[] = {"auto", "ref"};
    static seen s;
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
        for (int i = 0; i < 2; i++) {
            sluice_engine *e = open_mode((int)m, isas[i]);
            int32_t seq = rig_prompt(e, text, N - 1);
            watch(e, seq, &s);
            assert_true(check_layers(&s, modes[m].name) >= 4);
            sluice_close(e);
        }
}

/* Keys that answer the query loudly are planted in the selecting layer, at places that were not in the list. */
static void planted_needles_are_found(void **state) {
    (void)state;
    static seen before, after;
    static float rows[2 * N * K * D];
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        sluice_engine *e = open_mode((int)m, "auto");
        int32_t seq = rig_prompt(e, text, N - 1);
        watch(e, seq, &before);
        char in[N], now[N];
        oracle_list(&before, 2, 0, modes[m].name, in);
        assert_int_equal(move_rows(e, seq, 2, SL_COPY_EXPORT, rows), SL_OK);
        int planted[3], n = 0;
        for (int j = 10; j < N - 10 && n < 3; j += 7)
            if (!in[j])
                planted[n++] = j;
        assert_int_equal(n, 3);
        for (int i = 0; i < n; i++)
            for (int d = 0; d < D; d++)
                rows[planted[i] * K * D + d] = (5 + (float)i) * before.q[2][d]; /* query head 0, KV head 0 */
        assert_int_equal(move_rows(e, seq, 2, SL_COPY_IMPORT, rows), SL_OK);
        rig_cut(e, seq, N - 1);
        watch(e, seq, &after);
        assert_memory_equal(before.q[2], after.q[2], sizeof before.q[2]);
        oracle_list(&after, 2, 0, modes[m].name, now);
        for (int i = 0; i < n; i++)
            assert_true(now[planted[i]]);
        assert_true(check_layers(&after, modes[m].name) >= 4); /* so layer 3 really attended to them */
        sluice_close(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparse_layers_equal_the_oracle),
        cmocka_unit_test(planted_needles_are_found),
    };
    return cmocka_run_group_tests_name("tidaldecode_oracle", tests, NULL, NULL);
}
