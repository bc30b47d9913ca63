/* medusa through its table, on a toy: heads in every layout against plain arithmetic, drafts that follow their
 * sequences, typical acceptance against its definition, memory. */
#include "medusa.c"
#include "medusa_device.c"
#include "medusa_heads.c"
#include "medusa_tree.c"
#include "medusa_trees.c"
#include "medusa_typical.c"

#include "test_host.h"

enum { D = 8, V = 40, HEADS = 3, BLOCKS = 2, SEQS = 20, TOPK = 10 };

/* ---- a file of heads in memory -------------------------------------------------------------------------------------
 */

typedef struct toy_file {
    const char *prefix, *accuracy;
    int blocks, own, opened, wrong_shape, missing_bias;
    float w1[HEADS][BLOCKS][D * D], b1[HEADS][BLOCKS][D], w2[HEADS][V * D];
} toy_file;

static toy_file file;
static float lm_head[V * D];
static test_host host;

static sl_status artifact_open(const sl_host *h, const char *path, sl_artifact **out, sl_error *err) {
    (void)h;
    if (strcmp(path, "heads.safetensors") != 0)
        return sl_fail(err, SL_E_NOT_FOUND, "%s: no such file", path);
    file.opened++;
    *out = (sl_artifact *)(void *)&file;
    return SL_OK;
}

static void artifact_close(const sl_host *h, sl_artifact *a) {
    (void)h, (void)a;
    file.opened--;
}

static sl_status artifact_tensor(const sl_host *h, const sl_artifact *a, const char *name, sl_tensor *out) {
    (void)h, (void)a;
    size_t prefix = strlen(file.prefix);
    int k, i, at = 0;
    if (strncmp(name, file.prefix, prefix) != 0 || sscanf(name + prefix, "%d.%d.%n", &k, &i, &at) != 2 || k >= HEADS)
        return SL_E_NOT_FOUND;
    const char *rest = name + prefix + at;
    if (strcmp(rest, "linear.weight") == 0 && i < file.blocks)
        return sl_tensor_make(out, file.w1[k][i], SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){D, D - file.wrong_shape});
    if (strcmp(rest, "linear.bias") == 0 && i < file.blocks && !file.missing_bias)
        return sl_tensor_make(out, file.b1[k][i], SL_F32, SL_DEVICE_CPU, 1, (int64_t[]){D});
    if (strcmp(rest, "weight") == 0 && i == file.blocks && file.own)
        return sl_tensor_make(out, file.w2[k], SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){V, D});
    return SL_E_NOT_FOUND;
}

static const char *artifact_metadata(const sl_host *h, const sl_artifact *a, const char *key) {
    (void)h, (void)a;
    return strcmp(key, "accuracy") == 0 ? file.accuracy : NULL;
}

static const sl_artifacts artifacts = {SL_SIZE(sl_artifacts), artifact_open, artifact_close, artifact_tensor,
                                       artifact_metadata};

/* ---- operations ----------------------------------------------------------------------------------------------------
 */

static int n_head_calls;

static void product(const float *x, const float *w, const float *bias, float *y, int64_t rows, int64_t n, int64_t k) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            float sum = bias != NULL ? bias[i] : 0;
            for (int64_t j = 0; j < k; j++)
                sum += x[r * k + j] * w[i * k + j];
            y[r * n + i] = sum;
        }
}

static sl_status gemm(const sl_host *h, const sl_op_gemm *a) {
    (void)h;
    product(a->x->data, a->w->data, a->bias != NULL ? a->bias->data : NULL, a->y->data, a->x->shape[0], a->w->shape[0],
            a->w->shape[1]);
    return SL_OK;
}

static sl_status head_product(const sl_host *h, int32_t model, const float *x, int64_t n, float *logits) {
    (void)h;
    assert_int_equal(model, 0);
    assert_in_range(n, 1, MEDUSA_ROWS);
    n_head_calls++;
    product(x, lm_head, NULL, logits, n, V, D);
    return SL_OK;
}

static void best_ids(const float *x, int64_t n, int32_t k, int32_t *id) {
    for (int32_t i = 0; i < k; i++) {
        id[i] = -1;
        for (int32_t v = 0; v < n; v++) {
            int used = 0;
            for (int32_t j = 0; j < i; j++)
                used |= id[j] == v;
            if (!used && (id[i] < 0 || x[v] > x[id[i]]))
                id[i] = v;
        }
    }
}

static sl_status topk_rows(const sl_host *h, const sl_op_topk *a) {
    (void)h;
    for (int64_t r = 0; r < a->rows; r++)
        best_ids(a->x + r * a->stride, a->n, (int32_t)a->k, a->id + r * a->k);
    return SL_OK;
}

/* softmax(z / T), as the core's sampler without other settings: ids ascending, weights relative to the best. */
static int n_distributions;
static double toy_temperature;
static sl_status distribution(const sl_host *h, int32_t seq, const float *logits, const int32_t *path, int32_t n_path,
                              int32_t *id, double *weight, int64_t *n, sl_error *err) {
    (void)h, (void)seq, (void)path, (void)n_path, (void)err;
    int32_t best;
    n_distributions++;
    best_ids(logits, V, 1, &best);
    if (toy_temperature == 0) {
        id[0] = best, weight[0] = 1, *n = 1;
        return SL_OK;
    }
    for (int32_t v = 0; v < V; v++)
        id[v] = v, weight[v] = exp((logits[v] - logits[best]) / toy_temperature);
    *n = V;
    return SL_OK;
}

static double next_uniform;
static uint32_t last_position;
static double uniform(uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose, uint32_t child) {
    (void)seed, (void)sample, (void)child;
    assert_int_equal(purpose, SL_RNG_TARGET);
    last_position = position;
    return next_uniform;
}

static const sl_head head_table = {SL_SIZE(sl_head), head_product, NULL};
static const sl_sample sample_table = {SL_SIZE(sl_sample), distribution, NULL};
static const sl_rng rng_table = {SL_SIZE(sl_rng), uniform};

static const void *services(test_host *h, const char *id) {
    (void)h;
    return strcmp(id, SL_ARTIFACT_ID) == 0 ? (const void *)&artifacts
           : strcmp(id, SL_HEAD_ID) == 0   ? (const void *)&head_table
           : strcmp(id, SL_SAMPLE_ID) == 0 ? (const void *)&sample_table
           : strcmp(id, SL_RNG_ID) == 0    ? (const void *)&rng_table
                                           : NULL;
}

/* ---- instances -----------------------------------------------------------------------------------------------------
 */

static const sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .hidden = D, .vocab = V};
static const sl_limits limits = {
    .struct_size = SL_SIZE(sl_limits), .max_seqs = SEQS, .max_tree = 64, .compute = SL_F32};

#define SETS(...) ((const char *const[]){"heads=heads.safetensors", __VA_ARGS__, NULL})

static sl_status try_make(const char *const *sets, sl_instance **out, sl_error *err) {
    sl_params *given = test_params(&plugin, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &host.host, .model = &model, .params = given};
    sl_status s = create(&args, out, err);
    test_params_free(given);
    if (s >= 0 && (s = activate(*out, &limits, err)) < 0)
        destroy(*out);
    return s;
}

static sl_instance *made(const char *const *sets) {
    sl_instance *i = NULL;
    SL_ERROR(err);
    if (try_make(sets, &i, &err) < 0)
        fail_msg("%s", err_text_);
    return i;
}

static void unmake(sl_instance *i) {
    deactivate(i);
    destroy(i);
    assert_int_equal(host.n_live, 0);
    assert_int_equal(file.opened, 0);
}

static int set_up(void **state) {
    (void)state;
    uint64_t seed = 77;
    memset(&file, 0, sizeof file);
    file.prefix = "";
    file.blocks = 1;
    for (size_t i = 0; i < V * D; i++)
        lm_head[i] = test_normal(&seed);
    for (size_t i = 0; i < sizeof file.w1 / sizeof(float); i++)
        (&file.w1[0][0][0])[i] = test_normal(&seed);
    for (size_t i = 0; i < sizeof file.b1 / sizeof(float); i++)
        (&file.b1[0][0][0])[i] = test_normal(&seed);
    for (size_t i = 0; i < sizeof file.w2 / sizeof(float); i++)
        (&file.w2[0][0])[i] = test_normal(&seed);
    test_host_init(&host);
    host.more = services;
    host.ops.gemm = gemm;
    host.ops.topk = topk_rows;
    return 0;
}

/* ---- a step --------------------------------------------------------------------------------------------------------
 */

/* Sequences [0, n): lengths, last tokens, rows of hidden; next -1: inside of a prompt. */
typedef struct toy_step {
    int32_t token[SEQS][16], next[SEQS];
    int64_t length[SEQS];
    float hidden[SEQS][D];
} toy_step;

static void observe_step(sl_instance *self, const toy_step *t, const int32_t *seq, int32_t n) {
    sl_spec_seq seqs[SEQS];
    const sl_spec_seq *seq_ptrs[SEQS];
    sl_tap_rows rows[SEQS];
    const sl_tap_rows *row_ptrs[SEQS];
    int64_t index[SEQS];
    for (int32_t i = 0; i < n; i++) {
        seqs[i] =
            (sl_spec_seq){.struct_size = SL_SIZE(sl_spec_seq), .token = t->token[i], .n = t->length[i], .seq = seq[i]};
        index[i] = t->length[i] - 2;
        rows[i] = (sl_tap_rows){
            .struct_size = SL_SIZE(sl_tap_rows), .tap = &last_row, .token_index = &index[i], .seq = seq[i]};
        sl_tensor_make(&rows[i].rows, (void *)(uintptr_t)t->hidden[i], SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){1, D});
        seq_ptrs[i] = &seqs[i];
        row_ptrs[i] = &rows[i];
    }
    sl_commit commit = {.struct_size = SL_SIZE(sl_commit), .next = t->next};
    sl_observe seen = {.struct_size = SL_SIZE(sl_observe),
                       .commit = &commit,
                       .seqs = seq_ptrs,
                       .taps = row_ptrs,
                       .n_seqs = n,
                       .n_taps = n};
    assert_int_equal(observe(self, &seen), SL_OK);
}

static toy_step random_step(uint64_t seed) {
    toy_step t = {0};
    for (int32_t i = 0; i < SEQS; i++) {
        t.length[i] = 5 + i % 7;
        t.token[i][t.length[i] - 1] = t.next[i] = (int32_t)(test_next(&seed) % V);
        for (int j = 0; j < D; j++)
            t.hidden[i][j] = test_normal(&seed);
    }
    return t;
}

static const sl_tree *proposed(sl_instance *self, const toy_step *t, int32_t place, int32_t seq, int32_t max_nodes,
                               int32_t max_depth) {
    sl_spec_seq s = {.struct_size = SL_SIZE(sl_spec_seq),
                     .token = t->token[place],
                     .n = t->length[place],
                     .seq = seq,
                     .max_nodes = max_nodes,
                     .max_depth = max_depth};
    const sl_spec_seq *list[1] = {&s};
    sl_propose io = {.struct_size = SL_SIZE(sl_propose), .seqs = list, .n_seqs = 1};
    SL_ERROR(err);
    assert_int_equal(propose(self, &io, &err), SL_OK);
    return io.trees[0];
}

/* The ids of the file's head k for a row, by double arithmetic. */
static void expected_ids(const float *x, int k, int32_t *id) {
    double y[D];
    float logits[V];
    for (int j = 0; j < D; j++)
        y[j] = x[j];
    for (int b = 0; b < file.blocks; b++) {
        double t[D];
        for (int i = 0; i < D; i++) {
            t[i] = file.b1[k][b][i];
            for (int j = 0; j < D; j++)
                t[i] += file.w1[k][b][i * D + j] * y[j];
        }
        for (int i = 0; i < D; i++)
            y[i] += t[i] / (1 + exp(-t[i]));
    }
    for (int v = 0; v < V; v++) {
        double sum = 0;
        for (int j = 0; j < D; j++)
            sum += (double)(file.own ? file.w2[k] : lm_head)[v * D + j] * y[j];
        logits[v] = (float)sum;
    }
    best_ids(logits, V, TOPK, id);
}

/* ---- heads ---------------------------------------------------------------------------------------------------------
 */

static void every_layout_is_read(void **state) {
    (void)state;
    static const struct {
        const char *prefix, *layers;
        int blocks, own;
    } layouts[] = {{"", "num_layers=1", 1, 1},
                   {"", "num_layers=1", 1, 0},
                   {"medusa_head.", "num_layers=1", 1, 1},
                   {"medusa_head.", "num_layers=2", 2, 0},
                   {"", "num_layers=2", 2, 1}};
    toy_step t = random_step(3);
    int32_t seq[SEQS];
    for (int32_t i = 0; i < SEQS; i++)
        seq[i] = SEQS - 1 - i;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        file.prefix = layouts[l].prefix;
        file.blocks = layouts[l].blocks;
        file.own = layouts[l].own;
        sl_instance *self = made(SETS(layouts[l].layers));
        assert_int_equal(self->heads.n, HEADS);
        n_head_calls = 0;
        observe_step(self, &t, seq, SEQS);                          /* more sequences than the buffers hold at once */
        assert_int_equal(n_head_calls, layouts[l].own ? 0 : 3 + 1); /* 16 and 4 rows of three heads, 16 at once */
        for (int32_t i = 0; i < SEQS; i++)
            for (int k = 0; k < HEADS; k++) {
                int32_t expected[TOPK];
                expected_ids(t.hidden[i], k, expected);
                assert_memory_equal(candidates_of(self, seq[i]) + k * TOPK, expected, sizeof expected);
            }
        unmake(self);
    }
}

/* W1 = 0, b1 = 0 and W2 the model's head: every head says what the model's head says of that row. */
static void untrained_heads_are_the_models_head(void **state) {
    (void)state;
    memset(file.w1, 0, sizeof file.w1);
    memset(file.b1, 0, sizeof file.b1);
    for (int k = 0; k < HEADS; k++)
        memcpy(file.w2[k], lm_head, sizeof lm_head);
    toy_step t = random_step(4);
    static const int32_t seq[] = {2, 5};
    for (file.own = 0; file.own < 2; file.own++) {
        sl_instance *self = made(SETS("num_heads=2"));
        assert_int_equal(self->heads.n, 2);
        observe_step(self, &t, seq, 2);
        for (int i = 0; i < 2; i++) {
            float logits[V];
            int32_t ids[TOPK];
            product(t.hidden[i], lm_head, NULL, logits, 1, V, D);
            best_ids(logits, V, TOPK, ids);
            for (int k = 0; k < 2; k++)
                assert_memory_equal(candidates_of(self, seq[i]) + k * TOPK, ids, sizeof ids);
        }
        unmake(self);
    }
}

static void refused(const char *words, const char *const *sets) {
    sl_instance *i = NULL;
    SL_ERROR(err);
    assert_true(try_make(sets, &i, &err) < 0);
    if (strstr(err_text_, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err_text_, words);
    assert_int_equal(host.n_live, 0);
    assert_int_equal(file.opened, 0);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    refused("other.safetensors", (const char *const[]){"heads=other.safetensors", NULL});
    refused("has 3 heads, num_heads = 4", SETS("num_heads=4"));
    refused("no tensor 0.1.linear.weight, expected [8, 8]", SETS("num_layers=2"));
    refused("carries no accuracies", SETS("tree=auto"));
    refused("tree: path \"1,1\" is there", SETS("tree=0 1,1"));
    file.accuracy = "0.5 0.2; 0.4";
    refused("gives 2 heads, expected 3", SETS("tree=auto"));
    file.accuracy = "0.5 0.2; 0.4; 1.3";
    refused("accuracy of head 2, rank 0", SETS("tree=auto"));
    file.accuracy = "0.5 0.2; 0.4 x; 0.3";
    refused("metadata `accuracy`", SETS("tree=auto"));
    file.blocks = 2;
    refused("head 0 has more than num_layers = 1 blocks", SETS("num_layers=1"));
    file.blocks = 1;
    file.wrong_shape = 1;
    refused("0.0.linear.weight is F32", SETS("num_heads=3"));
    file.wrong_shape = 0;
    file.missing_bias = 1;
    refused("no tensor 0.0.linear.bias, expected [8]", SETS("num_heads=3"));
    file.missing_bias = 0;
    file.prefix = "other.";
    refused("no heads", SETS("num_heads=3"));
    file.prefix = "";
    for (host.budget = 0; host.budget < 100000; host.budget += 1500) { /* memory runs out anywhere */
        sl_instance *i = NULL;
        SL_ERROR(err);
        if (try_make(SETS("acceptance=typical"), &i, &err) >= 0) {
            unmake(i);
            break;
        }
        assert_int_equal(host.n_live, 0);
        assert_int_equal(file.opened, 0);
    }
    assert_in_range(host.budget, 1500, 99999);
}

static void accuracies_choose_the_tree(void **state) {
    (void)state;
    file.accuracy = "0.6 0.1 0.05; 0.5 0.2; 0.02";
    sl_instance *self = made(SETS("tree=auto", "nodes=5", "topk=4"));
    /* 0 (.6) 00 (.3) 01 (.12) 1 (.1); 000 promises .006 */
    static const int32_t depth[] = {0, 1, 1, 2, 2}, rank[] = {0, 0, 1, 0, 1};
    assert_int_equal(self->tree.n, 5);
    assert_memory_equal(self->tree.depth, depth, sizeof depth);
    assert_memory_equal(self->tree.rank, rank, sizeof rank);
    unmake(self);
}

/* ---- drafts follow their sequences ------------------------------------------------------------------------------- */

static void tell(sl_instance *self, uint32_t kind, int32_t seq, int32_t other) {
    sl_event e = {.struct_size = SL_SIZE(sl_event), .kind = kind, .seq = seq, .other = other};
    assert_int_equal(event(self, &e, NULL), SL_OK);
}

static void drafts_follow_their_sequences(void **state) {
    (void)state;
    sl_instance *self = made(SETS("tree=mc_sim_7b_63"));
    toy_step t = random_step(9);
    static const int32_t seq[] = {0, 1, 2};
    assert_null(proposed(self, &t, 0, 0, 64, 100)); /* nothing is known */
    t.next[2] = -1;                                 /* inside of a prompt */
    observe_step(self, &t, seq, 3);
    assert_null(proposed(self, &t, 2, 2, 64, 100));
    const sl_tree *tree = proposed(self, &t, 1, 1, 64, 100);
    assert_int_equal(tree->n_nodes, 62);
    assert_int_equal(tree->token[0], t.token[1][t.length[1] - 1]);
    int32_t ids[HEADS][TOPK];
    for (int k = 0; k < HEADS; k++)
        expected_ids(t.hidden[1], k, ids[k]);
    for (int32_t i = 1; i < tree->n_nodes; i++)
        assert_int_equal(tree->token[i], ids[self->tree.depth[i] - 1][self->tree.rank[i]]);
    assert_int_equal(proposed(self, &t, 1, 1, 12, 100)->n_nodes, 12);
    assert_null(proposed(self, &t, 1, 1, 1, 100));
    assert_null(proposed(self, &t, 1, 1, 64, 0));
    t.length[1]--; /* the sequence was cut */
    assert_null(proposed(self, &t, 1, 1, 64, 100));
    t.length[1]++;
    t.token[1][t.length[1] - 1] ^= 1; /* and another token was put there */
    assert_null(proposed(self, &t, 1, 1, 64, 100));
    t.token[1][t.length[1] - 1] ^= 1;
    assert_non_null(proposed(self, &t, 1, 1, 64, 100));
    tell(self, SL_EVENT_FORK, 7, 1);
    tell(self, SL_EVENT_FINISH, 1, -1);
    assert_null(proposed(self, &t, 1, 1, 64, 100));
    assert_int_equal(proposed(self, &t, 1, 7, 64, 100)->token[1], ids[0][0]);
    tell(self, SL_EVENT_BEGIN, 7, -1);
    assert_null(proposed(self, &t, 1, 7, 64, 100));
    sl_spec_caps what = {.struct_size = SL_SIZE(sl_spec_caps)};
    assert_int_equal(caps(self, &what), SL_OK);
    assert_int_equal(what.lossless, 1);
    assert_int_equal(what.max_nodes, 62);
    assert_int_equal(what.n_taps, 1);
    assert_int_equal(what.kinds, 1u << SL_DRAFT_DET);
    assert_null(((const sl_speculation *)query(self, SL_SPECULATION_ID))->accept);
    assert_null(query(self, "sl.attention/1"));
    unmake(self);
}

/* What the README says: state of each sequence id, and the buffers. */
static void memory_is_as_said(void **state) {
    (void)state;
    sl_instance *self = made(SETS("tree=mc_sim_7b_63"));
    int64_t ids = SEQS * HEADS * TOPK * 4, buffers = MEDUSA_ROWS * (4 * V + 4 * D * (2 + HEADS)),
            biases = HEADS * D * 4;
    int64_t drafts = SEQS * (int64_t)(sizeof(medusa_draft) + sizeof(sl_tree) + sizeof(void *) + sizeof(seq_state));
    int64_t expected =
        ids + buffers + biases + drafts + (int64_t)sizeof(sl_instance) + 4 * MEDUSA_ROWS * MEDUSA_MAX_TOPK;
    assert_true(llabs(host.bytes_live - expected) * 50 <= expected);
    unmake(self);
}

/* ---- typical acceptance ------------------------------------------------------------------------------------------ */

static void threshold_is_the_papers(void **state) {
    (void)state;
    double p[4] = {0.7, 0.2, 0.1, 0}, h = 0;
    for (int i = 0; i < 3; i++)
        h -= p[i] * log(p[i] + 1e-5);
    assert_true(fabs(medusa_typical_threshold(p, 4, 1, 0.9, 0.3) - 0.3 * exp(-h)) < 1e-12);
    assert_true(medusa_typical_threshold(p, 4, 1, 0.09, 0.3) == 0.09); /* H < ln(delta / eps): the cap rules */
    for (int i = 0; i < 4; i++)
        p[i] *= 12; /* weights need no sum of one */
    assert_true(fabs(medusa_typical_threshold(p, 4, 12, 0.9, 0.3) - 0.3 * exp(-h)) < 1e-12);
    double flat[V];
    for (int i = 0; i < V; i++)
        flat[i] = 1;
    assert_true(fabs(medusa_typical_threshold(flat, V, V, 0.09, 0.3) - 0.3 / V) < 1e-4);
}

typedef struct toy_tree {
    int32_t token[8], parent[8], path[8], n_path, next;
    float logits[8][V];
    int32_t n;
} toy_tree;

static void decide(sl_instance *self, toy_tree *t, double temperature) {
    sl_spec_seq seq = {.struct_size = SL_SIZE(sl_spec_seq), .n = 50, .temperature = temperature, .seed = 1};
    sl_tree tree = {.struct_size = SL_SIZE(sl_tree), .token = t->token, .parent = t->parent, .n_nodes = t->n};
    sl_accept io = {.struct_size = SL_SIZE(sl_accept),
                    .seq = &seq,
                    .tree = &tree,
                    .logits = &t->logits[0][0],
                    .path = t->path,
                    .vocab = V};
    const sl_speculation *api = query(self, SL_SPECULATION_ID);
    toy_temperature = temperature;
    assert_int_equal(api->accept(self, &io), SL_OK);
    t->n_path = io.n_path;
    t->next = io.next;
}

/* The root's children are 3, 4 and 5; 6 follows 3, 7 and 8 follow 4. Probabilities are set node by node. */
static toy_tree small_tree(void) {
    toy_tree t = {.token = {9, 3, 4, 5, 6, 7, 8}, .parent = {-1, 0, 0, 0, 1, 2, 2}, .n = 7};
    for (int i = 0; i < 8; i++)
        for (int v = 0; v < V; v++)
            t.logits[i][v] = -60; /* p = 0 next to one of logit 0 */
    return t;
}

static void set_p(toy_tree *t, int32_t node, int32_t token, double p) { t->logits[node][token] = (float)log(p); }

static void longest_then_likeliest(void **state) {
    (void)state;
    sl_instance *self = made(SETS("acceptance=typical", "posterior_threshold=0.09", "posterior_alpha=1000"));
    toy_tree t = small_tree();
    set_p(&t, 0, 3, 0.5), set_p(&t, 0, 4, 0.4), set_p(&t, 0, 5, 0.05), set_p(&t, 0, 20, 0.05);
    set_p(&t, 1, 6, 0.05), set_p(&t, 1, 21, 0.95); /* 6 is not typical behind 3 */
    set_p(&t, 2, 7, 0.3), set_p(&t, 2, 8, 0.7);    /* both are behind 4, 8 is likelier */
    set_p(&t, 6, 22, 0.6), set_p(&t, 6, 23, 0.4);
    decide(self, &t, 1);
    static const int32_t longest[] = {0, 2, 6};
    assert_int_equal(t.n_path, 3);
    assert_memory_equal(t.path, longest, sizeof longest);
    assert_int_equal(t.next, 22);
    set_p(&t, 1, 6, 0.95), set_p(&t, 1, 21, 0.05); /* now 3 6 (.475) beats 4 8 (.28) */
    set_p(&t, 4, 24, 1);
    decide(self, &t, 1);
    static const int32_t likelier[] = {0, 1, 4};
    assert_int_equal(t.n_path, 3);
    assert_memory_equal(t.path, likelier, sizeof likelier);
    assert_int_equal(t.next, 24);
    unmake(self);
}

static void everything_and_nothing(void **state) {
    (void)state;
    toy_tree t = small_tree();
    set_p(&t, 0, 3, 1e-6), set_p(&t, 0, 20, 1);
    set_p(&t, 1, 6, 1e-6), set_p(&t, 1, 21, 1);
    set_p(&t, 4, 22, 1);
    sl_instance *all = made(SETS("acceptance=typical", "posterior_threshold=0"));
    decide(all, &t, 1);
    assert_int_equal(t.n_path, 3); /* eps = 0: whatever has p > 0 */
    assert_int_equal(t.next, 22);
    t.logits[0][3] = -INFINITY;
    decide(all, &t, 1);
    assert_int_equal(t.path[1], 2); /* p = 0 is not above 0: the path over 4 it is, whose logits are -60 */
    unmake(all);
    sl_instance *none = made(SETS("acceptance=typical", "posterior_threshold=1", "posterior_alpha=1e9"));
    t = small_tree();
    set_p(&t, 0, 3, 0.9), set_p(&t, 0, 20, 0.1);
    decide(none, &t, 1);
    assert_int_equal(t.n_path, 1); /* eps = 1: a p of at most 1 is not above it */
    assert_int_equal(t.next, 3);   /* fast: the most likely one */
    decide(none, &t, 0);
    assert_int_equal(t.n_path, 2); /* temperature 0: exact matching, whatever the threshold */
    assert_int_equal(t.path[1], 1);
    unmake(none);
}

/* fast = no: the token behind the path is drawn from p above the threshold, renormalised. */
static void drawn_from_what_is_typical(void **state) {
    (void)state;
    sl_instance *self = made(SETS("acceptance=typical", "posterior_threshold=0.15", "posterior_alpha=1000", "fast=no"));
    toy_tree t = small_tree();
    int32_t count[V] = {0};
    t.n = 1;
    set_p(&t, 0, 10, 0.5), set_p(&t, 0, 11, 0.1), set_p(&t, 0, 12, 0.3), set_p(&t, 0, 13, 0.1);
    for (int i = 0; i < 800; i++) {
        next_uniform = (i + 0.5) / 800;
        decide(self, &t, 1);
        assert_int_equal(t.n_path, 1);
        count[t.next]++;
    }
    assert_int_equal(last_position, 50); /* the first token behind 50 committed ones */
    assert_int_equal(count[10], 500);
    assert_int_equal(count[12], 300);
    unmake(self);
    self = made(SETS("acceptance=typical", "posterior_threshold=1", "posterior_alpha=1e9", "fast=no"));
    decide(self, &t, 1);
    assert_int_equal(t.next, 10); /* nothing is above the threshold */
    sl_spec_caps what = {.struct_size = SL_SIZE(sl_spec_caps)};
    assert_int_equal(caps(self, &what), SL_OK);
    assert_int_equal(what.lossless, 0);
    unmake(self);
}

/* Only nodes that are reached cost a distribution. */
static void looks_where_it_goes(void **state) {
    (void)state;
    sl_instance *self = made(SETS("acceptance=typical"));
    toy_tree t = small_tree();
    set_p(&t, 0, 20, 1); /* no child is likely */
    n_distributions = 0;
    decide(self, &t, 1);
    assert_int_equal(t.n_path, 1);
    assert_int_equal(n_distributions, 1);
    unmake(self);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_layout_is_read, set_up),
        cmocka_unit_test_setup(untrained_heads_are_the_models_head, set_up),
        cmocka_unit_test_setup(bad_files_are_refused, set_up),
        cmocka_unit_test_setup(accuracies_choose_the_tree, set_up),
        cmocka_unit_test_setup(drafts_follow_their_sequences, set_up),
        cmocka_unit_test_setup(memory_is_as_said, set_up),
        cmocka_unit_test(threshold_is_the_papers),
        cmocka_unit_test_setup(longest_then_likeliest, set_up),
        cmocka_unit_test_setup(everything_and_nothing, set_up),
        cmocka_unit_test_setup(drawn_from_what_is_typical, set_up),
        cmocka_unit_test_setup(looks_where_it_goes, set_up),
    };
    return cmocka_run_group_tests_name("medusa_plugin", tests, NULL, NULL);
}
