/* "sl.sdpa/1" of the CUDA module against plain sums in double: causal and not, with and without log-sum-exp, fewer
 * queries than keys, rows of q, k and v in one buffer, replays of a graph with other data. */
#include "cuda_module.h"

#include <math.h>

static const sli_cuda_api *api;

typedef struct shape {
    int32_t n_q, n_kv, heads, kv_heads, d;
    uint32_t causal, want_lse, together; /* together: q | k | v in one row */
    uint32_t may_be_refused;             /* not every version of cuDNN has an engine */
} shape;

static float value_of(uint16_t code) {
    const uint32_t u = (uint32_t)code << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint16_t code_of(float x) { /* nearest even; finite */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* In [-a, a). */
static void noise(uint16_t *x, int64_t n, float a, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        x[i] = code_of(a * ((float)(int32_t)(seed >> 40) / 8388608.0f - 1.0f));
    }
}

typedef struct run {
    sli_cuda *cuda;
    const sl_lane *lane;
    const sl_sdpa *sdpa;
    sl_sdpa_impl *plan;
    sl_sdpa_desc d;
    int64_t q_count, k_count, v_count, o_count;
    uint16_t *q, *k, *v, *o; /* host; with `together` all three in q */
    float *lse;
    sl_sdpa_run device;
    void *workspace;
} run;

static void *must_alloc(run *r, int64_t bytes) {
    void *p = r->cuda != NULL ? api->alloc(r->cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN) : malloc((size_t)bytes);
    assert_non_null(p);
    return p;
}

static void copy(run *r, void *to, const void *from, int64_t bytes) {
    SL_ERROR(err);
    if (api->exec->copy(r->lane, to, from, bytes) != SL_OK || api->exec->sync(r->lane, &err) != SL_OK)
        fail_msg("a copy of %d bytes: %s", (int)bytes, err.text);
}

static sl_sdpa_desc desc_of(const shape *s) {
    const int64_t d = s->d, q = s->heads * d, k = s->kv_heads * d, all = q + 2 * k;
    return (sl_sdpa_desc){.struct_size = SL_SIZE(sl_sdpa_desc),
                          .n_q = s->n_q,
                          .n_kv = s->n_kv,
                          .q_row = s->together ? all : q,
                          .q_head = d,
                          .k_row = s->together ? all : k,
                          .k_head = d,
                          .v_row = s->together ? all : k,
                          .v_head = d,
                          .o_row = q,
                          .o_head = d,
                          .scale = 1 / sqrt((double)d),
                          .heads = s->heads,
                          .kv_heads = s->kv_heads,
                          .head_dim = s->d,
                          .causal = s->causal,
                          .want_lse = s->want_lse};
}

static const char *name_of(const shape *s) {
    static char text[200];
    snprintf(text, sizeof text, "%d queries, %d keys, %d of %d heads, D %d%s%s%s", s->n_q, s->n_kv, s->kv_heads,
             s->heads, s->d, s->causal ? ", causal" : "", s->want_lse ? ", lse" : "",
             s->together ? ", rows together" : "");
    return text;
}

static void fill_inputs(run *r, const shape *s, uint64_t seed) {
    noise(r->q, r->q_count, 4, seed);
    if (s->together)
        for (int64_t i = 0; i < s->n_q; i++) /* values no larger than 1 */
            noise(r->q + i * r->d.q_row + (s->heads + s->kv_heads) * s->d, s->kv_heads * s->d, 1,
                  seed + 7 + (uint64_t)i);
    copy(r, (void *)(uintptr_t)r->device.q, r->q, r->q_count * 2);
    if (s->together)
        return;
    noise(r->k, r->k_count, 1, seed + 1);
    noise(r->v, r->v_count, 1, seed + 2);
    copy(r, (void *)(uintptr_t)r->device.k, r->k, r->k_count * 2);
    copy(r, (void *)(uintptr_t)r->device.v, r->v, r->v_count * 2);
}

static void check(run *r, const shape *s, const char *when) {
    double worst = 0, *p = malloc((size_t)s->n_kv * sizeof *p);
    assert_non_null(p);
    copy(r, r->o, r->device.o, r->o_count * 2);
    if (s->want_lse)
        copy(r, r->lse, r->device.lse, (int64_t)s->heads * s->n_q * 4);
    for (int32_t h = 0; h < s->heads; h++)
        for (int32_t i = 0; i < s->n_q; i++) {
            const int32_t g = h / (s->heads / s->kv_heads), n = s->causal ? i + 1 + s->n_kv - s->n_q : s->n_kv;
            double top = -INFINITY, sum = 0;
            for (int32_t j = 0; j < n; j++) {
                const uint16_t *q = r->q + i * r->d.q_row + h * s->d, *k = r->k + j * r->d.k_row + g * s->d;
                p[j] = 0;
                for (int32_t d = 0; d < s->d; d++)
                    p[j] += (double)value_of(q[d]) * (double)value_of(k[d]);
                p[j] *= r->d.scale;
                top = p[j] > top ? p[j] : top;
            }
            for (int32_t j = 0; j < n; j++)
                sum += p[j] = exp(p[j] - top);
            for (int32_t d = 0; d < s->d; d++) {
                double want = 0;
                for (int32_t j = 0; j < n; j++)
                    want += p[j] * (double)value_of(r->v[j * r->d.v_row + g * s->d + d]);
                want /= sum;
                const double got = (double)value_of(r->o[i * r->d.o_row + h * s->d + d]), error = fabs(got - want);
                worst = error > worst ? error : worst;
                if (!(error < 8e-3)) /* weights and output rounded to bf16; values within 1 */
                    fail_msg("%s, %s: row %d, head %d, element %d: %g, expected %g", name_of(s), when, i, h, d, got,
                             want);
            }
            if (s->want_lse) {
                const double got = (double)r->lse[(int64_t)h * s->n_q + i], want = top + log(sum);
                if (!(fabs(got - want) < 2e-3))
                    fail_msg("%s, %s: row %d, head %d: lse %g, expected %g", name_of(s), when, i, h, got, want);
            }
        }
    print_message("%s, %s: largest error %.2e, workspace %lld\n", name_of(s), when, worst,
                  (long long)r->sdpa->workspace(r->plan));
    free(p);
}

static void try_shape(sli_cuda *cuda, const sl_sdpa *sdpa, const shape *s, uint64_t seed) {
    run host = {0}, r = {.cuda = cuda, .lane = api->lane(cuda, 0), .sdpa = sdpa, .d = desc_of(s)};
    SL_ERROR(err);
    const sl_status status = sdpa->create(NULL, r.lane, &r.d, &r.plan, &err);
    if (status == SL_E_UNIMPLEMENTED && s->may_be_refused) {
        print_message("%s: refused: %s\n", name_of(s), err.text);
        return;
    }
    if (status != SL_OK)
        fail_msg("%s: %s", name_of(s), err.text);
    sl_sdpa_impl *again = NULL;
    assert_int_equal(sdpa->create(NULL, r.lane, &r.d, &again, &err), SL_OK);
    assert_ptr_equal(again, r.plan); /* one plan a shape */
    sdpa->destroy(NULL, again);

    r.q_count = s->n_q * r.d.q_row;
    r.k_count = s->n_kv * r.d.k_row;
    r.v_count = s->n_kv * r.d.v_row;
    r.o_count = s->n_q * r.d.o_row;
    r.q = must_alloc(&host, r.q_count * 2);
    r.k = s->together ? r.q + s->heads * s->d : must_alloc(&host, r.k_count * 2);
    r.v = s->together ? r.k + s->kv_heads * s->d : must_alloc(&host, r.v_count * 2);
    r.o = must_alloc(&host, r.o_count * 2);
    r.lse = must_alloc(&host, (int64_t)s->heads * s->n_q * 4);
    uint16_t *q = must_alloc(&r, r.q_count * 2);
    uint16_t *k = s->together ? q + s->heads * s->d : must_alloc(&r, r.k_count * 2);
    uint16_t *v = s->together ? k + s->kv_heads * s->d : must_alloc(&r, r.v_count * 2);
    r.device = (sl_sdpa_run){.struct_size = SL_SIZE(sl_sdpa_run),
                             .q = q,
                             .k = k,
                             .v = v,
                             .o = must_alloc(&r, r.o_count * 2),
                             .lse = s->want_lse ? must_alloc(&r, (int64_t)s->heads * s->n_q * 4) : NULL};
    const int64_t workspace = sdpa->workspace(r.plan);
    r.workspace = workspace > 0 ? must_alloc(&r, workspace) : NULL;

    fill_inputs(&r, s, seed);
    assert_int_equal(sdpa->run(r.lane, r.plan, &r.device, r.workspace), SL_OK);
    check(&r, s, "at once");

    sli_cuda_graph *graph = NULL;
    if (api->capture_begin(cuda, &err) != SL_OK)
        fail_msg("%s", err.text);
    assert_int_equal(sdpa->run(r.lane, r.plan, &r.device, r.workspace), SL_OK);
    if (api->capture_end(cuda, &graph, &err) != SL_OK)
        fail_msg("%s: captured: %s", name_of(s), err.text);
    fill_inputs(&r, s, seed + 100);
    assert_int_equal(api->graph_launch(cuda, graph, &err), SL_OK);
    check(&r, s, "in a graph");
    api->graph_destroy(cuda, graph);

    sdpa->destroy(NULL, r.plan);
    void *const device[] = {q, r.device.o, r.device.lse, r.workspace, s->together ? NULL : k, s->together ? NULL : v};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        api->release(cuda, SL_DEVICE_CUDA, device[i]);
    free(r.q), free(r.o), free(r.lse);
    if (!s->together)
        free(r.k), free(r.v);
}

static void attends_as_defined(void **state) {
    (void)state;
    static const shape shapes[] = {
        {256, 256, 8, 2, 128, 1, 0, 0, 0}, {256, 256, 8, 2, 128, 1, 1, 0, 0}, {512, 512, 4, 1, 128, 1, 0, 1, 0},
        {256, 256, 4, 4, 64, 1, 0, 0, 0},  {256, 256, 4, 2, 128, 0, 0, 0, 0}, {200, 200, 4, 2, 128, 1, 1, 1, 1},
        {128, 384, 4, 2, 128, 1, 0, 0, 1}, {128, 300, 4, 2, 128, 0, 1, 0, 1}, {256, 256, 4, 2, 96, 1, 0, 1, 1},
    };
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0)
    SL_ERROR(err);
    const sl_sdpa *sdpa = api->sdpa != NULL ? api->sdpa(cuda, &err) : NULL;
    if (sdpa == NULL) {
        print_message("skipped: %s\n", err.text[0] ? err.text : "this module has no sl.sdpa/1");
        api->close(cuda);
        skip();
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        try_shape(cuda, sdpa, &shapes[i], 1000 * i + 1);
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

static void refuses_what_is_no_attention(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0)
    SL_ERROR(err);
    const sl_sdpa *sdpa = api->sdpa != NULL ? api->sdpa(cuda, &err) : NULL;
    if (sdpa == NULL) {
        print_message("skipped: %s\n", err.text[0] ? err.text : "this module has no sl.sdpa/1");
        api->close(cuda);
        skip();
    }
    const shape good = {256, 256, 8, 2, 128, 1, 0, 0, 0};
    sl_sdpa_impl *plan = NULL;
    sl_sdpa_desc d = desc_of(&good);
    d.kv_heads = 3;
    assert_int_equal(sdpa->create(NULL, api->lane(cuda, 0), &d, &plan, &err), SL_E_INVALID);
    d = desc_of(&good), d.n_kv = 255;
    assert_int_equal(sdpa->create(NULL, api->lane(cuda, 0), &d, &plan, &err), SL_E_INVALID);
    d = desc_of(&good), d.k_row += 4;
    assert_int_equal(sdpa->create(NULL, api->lane(cuda, 0), &d, &plan, &err), SL_E_UNIMPLEMENTED);
    assert_null(plan);
    api->close(cuda);
}

int main(void) {
    api = module_api();
    const struct CMUnitTest tests[] = {cmocka_unit_test(attends_as_defined),
                                       cmocka_unit_test(refuses_what_is_no_attention)};
    return cmocka_run_group_tests_name("sdpa", tests, NULL, NULL);
}
