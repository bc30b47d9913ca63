/* quest's pages and what layers make of them, against an oracle in double precision: a naive softmax over exactly the
 * tokens of the pages that the bounds say. Keys and values come out of the cache, queries and results out of the
 * running model. Pages of one token, the first and the last token of a page, a planted needle. */
#include "tidal_rig.h"

enum { LAYERS = 6, H = 4, K = 2, G = H / K, D = 64, MAX_N = 160 }; /* models/tiny */

static int32_t text[200];

typedef struct seen {
    int n; /* keys at the decoded token, itself included */
    float q[LAYERS][H * D], o[LAYERS][H * D];
    float k[LAYERS][MAX_N * K * D], v[LAYERS][MAX_N * K * D];
} seen;

typedef struct mode {
    const char *sets;
    int page, pages; /* P, Kp */
    int by_group, force_last;
} mode;

static const mode modes[] = {
    {"attention.page_size=8|attention.token_budget=32|attention.select_heads=query", 8, 4, 0, 1},
    {"attention.page_size=8|attention.token_budget=32|attention.select_heads=kv_group", 8, 4, 1, 1},
    {"attention.page_size=8|attention.token_budget=32|attention.force_last=no", 8, 4, 1, 0},
    {"attention.page_size=1|attention.token_budget=32|attention.select_heads=query", 1, 32, 0, 1},
    {"attention.page_size=16|attention.token_budget=16|attention.select_heads=query", 16, 3, 0, 1},
};
enum { N_MODES = sizeof modes / sizeof *modes };

static void listen(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    seen *s = user;
    if ((point == SL_TAP_Q || point == SL_TAP_ATTN_OUT) && n_rows == 1 && width == H * D)
        memcpy(point == SL_TAP_Q ? s->q[layer] : s->o[layer], rows, sizeof s->q[layer]);
}

static void move_rows(sluice_engine *e, int32_t seq, int32_t layer, int n, uint32_t direction, float *buffer) {
    const sli_store *store = e->target.layers[layer].store;
    sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                       .lane = e->target.lane,
                       .buffer = buffer,
                       .begin = 0,
                       .end = n,
                       .bytes = 2 * (int64_t)n * K * D * (int64_t)sizeof(float),
                       .layer = layer,
                       .seq = seq,
                       .direction = direction,
                       .dtype = SL_F32};
    assert_int_equal(store->api->copy_rows(store->self, &copy, NULL), SL_OK);
}

/* Decodes token n - 1 and looks at everything. */
static void watch(sluice_engine *e, int32_t seq, int n, seen *s) {
    static float both[2 * MAX_N * K * D];
    sli_pass pass = {.tap = listen, .tap_user = s};
    s->n = n;
    rig_step(e, &(rig_rows){seq, n - 1, SL_STAGE_DECODE, text + n - 1, NULL, 1}, 1, &pass, NULL);
    for (int32_t l = 0; l < LAYERS; l++) {
        move_rows(e, seq, l, n, SL_COPY_EXPORT, both);
        memcpy(s->k[l], both, sizeof(float) * (size_t)(n * K * D));
        memcpy(s->v[l], both + n * K * D, sizeof(float) * (size_t)(n * K * D));
    }
}

static double dot(const seen *s, int layer, int h, int j) {
    double sum = 0;
    for (int d = 0; d < D; d++)
        sum += (double)s->q[layer][h * D + d] * s->k[layer][(j * K + h / G) * D + d];
    return sum;
}

static double bound(const seen *s, int layer, int h, int page, int P) {
    double sum = 0, most_dot = -INFINITY;
    for (int d = 0; d < D; d++) {
        double q = s->q[layer][h * D + d], best = -INFINITY;
        for (int j = page * P; j < (page + 1) * P && j < s->n; j++)
            best = fmax(best, q * s->k[layer][(j * K + h / G) * D + d]);
        sum += best;
    }
    for (int j = page * P; j < (page + 1) * P && j < s->n; j++)
        most_dot = fmax(most_dot, dot(s, layer, h, j));
    assert_true(sum >= most_dot - 1e-9);
    if (P == 1)
        assert_true(fabs(sum - most_dot) < 1e-9);
    return sum;
}

/* Which tokens head h attends to; returns the margin of the last decision. */
static double oracle_list(const seen *s, int layer, int h, const mode *m, char *in) {
    int n_pages = (s->n - 1) / m->page + 1, k = m->pages - m->force_last, compete = n_pages - m->force_last;
    double u[MAX_N], worst_in = INFINITY, best_out = -INFINITY;
    assert_true(n_pages > m->pages);
    memset(in, 0, MAX_N);
    for (int p = 0; p < compete; p++) {
        u[p] = -INFINITY;
        for (int g = m->by_group ? h / G * G : h; g <= (m->by_group ? h / G * G + G - 1 : h); g++)
            u[p] = fmax(u[p], bound(s, layer, g, p, m->page));
    }
    for (int p = 0; p < n_pages; p++) {
        int above = 0;
        for (int i = 0; i < compete && p < compete; i++)
            above += u[i] > u[p] || (u[i] == u[p] && i < p);
        int chosen = p == compete || above < k;
        if (p < compete) {
            worst_in = chosen && u[p] < worst_in ? u[p] : worst_in;
            best_out = !chosen && u[p] > best_out ? u[p] : best_out;
        }
        for (int j = p * m->page; j < (p + 1) * m->page && j < s->n; j++)
            in[j] = (char)chosen;
    }
    return worst_in - best_out;
}

static void oracle_output(const seen *s, int layer, int h, const char *in, float *o) {
    double sum = 0, acc[D] = {0};
    for (int j = 0; j < s->n; j++) {
        double w = in == NULL || in[j] ? exp(dot(s, layer, h, j) / 8) : 0; /* sqrt(D) */
        sum += w;
        for (int d = 0; d < D; d++)
            acc[d] += w * s->v[layer][(j * K + h / G) * D + d];
    }
    for (int d = 0; d < D; d++)
        o[d] = (float)(acc[d] / sum);
}

static sluice_engine *open_mode(int m, const char *isa) {
    char sets[512];
    snprintf(sets, sizeof sets, "attention.plugin=quest|attention.meta_dtype=f32|engine.isa=%s|%s", isa, modes[m].sets);
    sluice_engine *e = rig_open(sets);
    rig_tokens(e, text, 200);
    return e;
}

/* Compares all layers; returns how many lists the oracle was sure of. */
static int check_layers(const seen *s, const mode *m) {
    int sure = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < H; h++) {
            char in[MAX_N];
            float want[D];
            if (l >= 2) {
                if (oracle_list(s, l, h, m, in) < 1e-4)
                    continue; /* too close to call: rounding decides */
                sure++;
            }
            oracle_output(s, l, h, l >= 2 ? in : NULL, want);
            check_close(m->sets, want, s->o[l] + h * D, D, 1e-4, 2e-5);
        }
    return sure;
}

/* Lengths at which the current token is the last of its page, the first, and neither. */
static void layers_equal_the_oracle(void **state) {
    (void)state;
    static const char *const isas[] = {"auto", "ref"};
    static const int lengths[] = {144, 145, 151};
    static seen s;
    for (int m = 0; m < N_MODES; m++)
        for (int i = 0; i < (m < 2 ? 2 : 1); i++) {
            sluice_engine *e = open_mode(m, isas[i]);
            for (int k = 0; k < 3; k++) {
                int32_t seq = rig_prompt(e, text, lengths[k] - 1);
                watch(e, seq, lengths[k], &s);
                assert_true(check_layers(&s, &modes[m]) >= 12); /* of 16 */
            }
            sluice_close(e);
        }
}

/* One key that answers the query loudly, in a page that was not chosen: now it is. */
static void planted_needles_are_found(void **state) {
    (void)state;
    enum { N = 151 };
    static seen before, after;
    static float rows[2 * MAX_N * K * D];
    for (int m = 0; m < N_MODES; m++) {
        sluice_engine *e = open_mode(m, "auto");
        int32_t seq = rig_prompt(e, text, N - 1);
        watch(e, seq, N, &before);
        char in[MAX_N], now[MAX_N];
        oracle_list(&before, 2, 0, &modes[m], in);
        move_rows(e, seq, 2, N, SL_COPY_EXPORT, rows);
        int planted = 20;
        while (in[planted])
            planted++;
        assert_in_range(planted, 20, 130);
        for (int d = 0; d < D; d++)
            rows[planted * K * D + d] = 20 * before.q[2][d]; /* query head 0, KV head 0 */
        sli_network_seq_truncate(&e->target, seq, 0, NULL);
        move_rows(e, seq, 2, N, SL_COPY_IMPORT, rows);
        for (int l = 0; l < LAYERS; l++) { /* import writes one layer; the others are as they were */
            if (l == 2)
                continue;
            memcpy(rows, before.k[l], sizeof(float) * N * K * D);
            memcpy(rows + N * K * D, before.v[l], sizeof(float) * N * K * D);
            move_rows(e, seq, l, N, SL_COPY_IMPORT, rows);
        }
        rig_cut(e, seq, N - 1);
        watch(e, seq, N, &after);
        assert_memory_equal(before.q[2], after.q[2], sizeof before.q[2]);
        oracle_list(&after, 2, 0, &modes[m], now);
        assert_true(now[planted]);
        assert_true(check_layers(&after, &modes[m]) >= 12);
        sluice_close(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_equal_the_oracle),
        cmocka_unit_test(planted_needles_are_found),
    };
    return cmocka_run_group_tests_name("quest_oracle", tests, NULL, NULL);
}
