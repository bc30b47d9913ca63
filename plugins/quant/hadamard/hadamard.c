/* hadamard - the model in a rotated basis (QuaRot, arXiv 2404.00456): outlier channels are spread over all channels by
 * Hadamard matrices, folded into the weights where the neighbouring operation is linear, applied as maps where it is
 * not. In f32 the network's function stays what it was; whoever quantises the rotated tensors loses less. */
#include "sluice/cost.h"
#include "sluice/host.h"
#include "sluice/ops.h"
#include "sluice/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "paley.h"
#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_map.h"
#include "sl_params.h"
#include "sl_tensor.h"

enum { MAX_PLACES = 64, MAPS_A_LAYER = 16 };

/* A rotation of one size: the map and what it points to. */
typedef struct rotation {
    sl_map map; /* kind NONE: no rotation of this size */
    int32_t orders[PALEY_MAX_FACTORS + 1];
    float *matrices, *signs;
    int64_t size; /* that was asked for */
} rotation;

/* Rotations of one layer, shared between layers of the same shape. */
typedef struct places {
    const rotation *head; /* within a head: v, o; q and k with kv_rotate */
    const rotation *o;    /* across heads */
    const rotation *down; /* over the FFN */
    sl_map maps[MAPS_A_LAYER];
    const sl_map *list[MAPS_A_LAYER + 1];
} places;

struct sl_instance {
    const sl_host *host;
    const sl_model_info *info;
    const sl_artifacts *artifacts;
    rotation residual; /* with signs */
    rotation rotations[MAX_PLACES];
    int n_rotations;
    places *layers; /* [n_layers] */
    sl_artifact *tables;
    int64_t block_max;
    int64_t seed;
    double a_clip;
    int turn_residual, online_o, online_down, kv_rotate, by_blocks, a_bits, a_asymmetric;
    sl_dtype dtype;
};

/* ---- rotations ------------------------------------------------------------------------------------------------------
 */

/* Order of the largest table of the file that helps with n; 0: none. */
static int32_t table_order(const sl_instance *self, int64_t n, sl_tensor *out) {
    char name[32];
    for (int32_t k = PALEY_MAX_ORDER; self->tables != NULL && k > 2; k--) {
        snprintf(name, sizeof name, "hadamard.%d", k);
        if (n % k == 0 && self->artifacts->tensor(self->host, self->tables, name, out) >= 0)
            return k;
    }
    return 0;
}

/* Is it a matrix of +1 and -1 with A A^T = K I? */
static sl_status check_table(const sl_tensor *t, int32_t k, sl_error *err) {
    if (t->dtype != SL_F32 || t->ndim != 2 || t->shape[0] != k || t->shape[1] != k)
        return sl_fail(err, SL_E_DATA, "hadamard: table_file: hadamard.%d must be F32 [%d, %d]", k, k, k);
    const float *a = t->data;
    for (int32_t i = 0; i < k; i++)
        for (int32_t j = i; j < k; j++) {
            double dot = 0;
            for (int32_t c = 0; c < k; c++) {
                dot += (double)a[i * k + c] * a[j * k + c];
                if (fabsf(a[i * k + c]) != 1)
                    return sl_fail(err, SL_E_DATA, "hadamard: table_file: hadamard.%d[%d, %d] is neither 1 nor -1", k,
                                   i, c);
            }
            if (dot != (i == j ? k : 0))
                return sl_fail(err, SL_E_DATA, "hadamard: table_file: rows %d and %d of hadamard.%d are not orthogonal",
                               i, j, k);
        }
    return SL_OK;
}

static sl_status fill_matrices(rotation *r, int32_t extra, const sl_tensor *table, sl_error *err) {
    int64_t elements = 0;
    for (const int32_t *k = r->orders; *k != 0; k++)
        elements += (int64_t)*k * *k;
    if (elements == 0)
        return SL_OK;
    r->matrices = malloc(sizeof *r->matrices * (size_t)elements);
    if (r->matrices == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "hadamard: no memory for matrices");
    float *at = r->matrices;
    for (const int32_t *k = r->orders; *k != 0; at += (int64_t)*k * *k, k++) {
        if (*k == extra) {
            SL_TRY(check_table(table, extra, err));
            memcpy(at, table->data, sizeof *at * (size_t)*k * (size_t)*k);
        } else if (!paley_fill(*k, at))
            return sl_fail(err, SL_E_NO_MEMORY, "hadamard: no memory for a matrix of order %d", *k);
    }
    r->map.orders = r->orders;
    return sl_tensor_make(&r->map.a, r->matrices, SL_F32, SL_DEVICE_CPU, 1, &elements);
}

/* The matrix of a size: Paley factors and a power of two, else blocks of the largest power of two; odd sizes have none.
 */
static sl_status make_rotation(const sl_instance *self, int64_t n, rotation *r, sl_error *err) {
    *r = (rotation){.size = n};
    r->map = (sl_map){.struct_size = SL_SIZE(sl_map), .kind = SL_MAP_HADAMARD, .n = n, .stride = 1};
    sl_tensor table;
    int32_t extra = self->by_blocks ? 0 : table_order(self, n, &table);
    if (!self->by_blocks && paley_split(n, extra, r->orders))
        return fill_matrices(r, extra, &table, err);
    r->orders[0] = 0;
    r->map.n = n & -n;
    while (self->block_max > 0 && r->map.n > self->block_max)
        r->map.n /= 2;
    if (r->map.n == 1)
        r->map.kind = SL_MAP_NONE;
    return SL_OK;
}

static sl_status rotation_of(sl_instance *self, int64_t n, const rotation **out, sl_error *err) {
    for (int i = 0; i < self->n_rotations; i++)
        if (self->rotations[i].size == n) {
            *out = &self->rotations[i];
            return SL_OK;
        }
    if (self->n_rotations == MAX_PLACES)
        return sl_fail(err, SL_E_RANGE, "hadamard: a model with more than %d different widths", MAX_PLACES);
    rotation *r = &self->rotations[self->n_rotations++];
    *out = r;
    return make_rotation(self, n, r, err);
}

/* Signs of the residual: the top bit of the outputs of splitmix64. */
static sl_status make_signs(const sl_instance *self, rotation *r, sl_error *err) {
    int64_t n = r->size;
    r->signs = malloc(sizeof *r->signs * (size_t)n);
    if (r->signs == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "hadamard: no memory for signs");
    uint64_t state = (uint64_t)self->seed;
    for (int64_t i = 0; i < n; i++) {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        r->signs[i] = (z ^ z >> 31) >> 63 ? -1 : 1;
    }
    /* in blocks, signs repeat from block to block: the map has those of one */
    return sl_tensor_make(&r->map.signs, r->signs, SL_F32, SL_DEVICE_CPU, 1, &r->map.n);
}

/* ---- a layer's maps
 * -------------------------------------------------------------------------------------------------- */

static void add_map(places *p, int *n, sl_map map, uint32_t at, int64_t stride) {
    if (map.kind == SL_MAP_NONE)
        return;
    p->maps[*n] = map;
    p->maps[*n].at = at;
    p->maps[*n].stride = stride;
    p->list[*n] = &p->maps[*n];
    ++*n;
}

static sl_status make_places(sl_instance *self, int32_t layer, sl_error *err) {
    const sl_layer_info *info = self->info->layers[layer];
    places *p = &self->layers[layer];
    if (strcmp(info->block, "gqa") != 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "hadamard: layer %d is a block of the kind %s", layer, info->block);
    SL_TRY(rotation_of(self, info->head_dim, &p->head, err));
    SL_TRY(rotation_of(self, info->n_heads, &p->o, err));
    SL_TRY(rotation_of(self, info->ffn, &p->down, err));
    sl_map rounding = {.struct_size = SL_SIZE(sl_map),
                       .kind = self->a_bits < 16 ? SL_MAP_ROUND : SL_MAP_NONE,
                       .n = 1,
                       .stride = 1,
                       .clip = self->a_clip,
                       .bits = (uint32_t)self->a_bits,
                       .asymmetric = (uint32_t)self->a_asymmetric};
    static const uint32_t rounded[] = {SL_MAP_AT_QKV_IN, SL_MAP_AT_O_IN, SL_MAP_AT_GATE_UP_IN, SL_MAP_AT_DOWN_IN};
    int n = 0;
    add_map(p, &n, p->head->map, SL_MAP_AT_V, 1);
    if (self->kv_rotate)
        add_map(p, &n, p->head->map, SL_MAP_AT_QK_POST_ROPE, 1);
    if (self->online_o)
        add_map(p, &n, p->o->map, SL_MAP_AT_O_IN, info->v_head_dim);
    if (self->online_down)
        add_map(p, &n, p->down->map, SL_MAP_AT_DOWN_IN, 1);
    for (size_t i = 0; i < sizeof rounded / sizeof *rounded; i++)
        add_map(p, &n, rounding, rounded[i], 1);
    p->list[n] = NULL;
    return SL_OK;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

static void destroy(sl_instance *self) {
    for (int i = 0; i < self->n_rotations; i++)
        free(self->rotations[i].matrices);
    free(self->residual.matrices);
    free(self->residual.signs);
    free(self->layers);
    if (self->tables != NULL)
        self->artifacts->close(self->host, self->tables);
    free(self);
}

static sl_status read_params(sl_instance *self, const sl_params *p, sl_error *err) {
    static const sl_dtype dtypes[] = {0, SL_F32};
    self->turn_residual = sl_param_bool(p, "residual");
    self->online_o = sl_param_bool(p, "online_o");
    self->online_down = sl_param_bool(p, "online_down");
    self->kv_rotate = sl_param_bool(p, "kv_rotate");
    self->by_blocks = sl_param_index(p, "size") == 1;
    self->block_max = sl_param_int(p, "block_max");
    self->seed = sl_param_int(p, "seed");
    self->a_bits = (int)sl_param_int(p, "a_bits");
    self->a_clip = sl_param_real(p, "a_clip");
    self->a_asymmetric = !sl_param_bool(p, "a_sym");
    self->dtype = dtypes[sl_param_index(p, "keep")];
    if (self->a_bits > 8 && self->a_bits < 16)
        return sl_fail(err, SL_E_RANGE, "hadamard: a_bits = %d; rows are rounded to 2 to 8 bits, 16 leaves them",
                       self->a_bits);
    if ((self->block_max & (self->block_max - 1)) != 0)
        return sl_fail(err, SL_E_RANGE, "hadamard: block_max = %lld is no power of two", (long long)self->block_max);
    const char *path = sl_param_text(p, "table_file");
    return path != NULL ? self->artifacts->open(self->host, path, &self->tables, err) : SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "hadamard: out of memory");
    self->host = args->host;
    self->info = args->model;
    self->artifacts = sl_host_service(args->host, SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, metadata));
    sl_status s = self->artifacts != NULL ? read_params(self, args->params, err)
                                          : sl_fail(err, SL_E_NOT_FOUND, "hadamard: no " SL_ARTIFACT_ID);
    self->layers = calloc((size_t)args->model->n_layers, sizeof *self->layers);
    if (s >= 0 && self->layers == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "hadamard: out of memory");
    if (s >= 0)
        s = make_rotation(self, self->info->hidden, &self->residual, err);
    if (s >= 0)
        s = make_signs(self, &self->residual, err);
    for (int32_t l = 0; s >= 0 && l < self->info->n_layers; l++)
        s = make_places(self, l, err);
    if (s < 0) {
        destroy(self);
        return s;
    }
    *out = self;
    return SL_OK;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    (void)self, (void)limits, (void)err;
    return SL_OK;
}

static void deactivate(sl_instance *self) { (void)self; }

/* ---- rewriting
 * -------------------------------------------------------------------------------------------------------- */

/* values [rows, cols], f64 between. */
static void turn_rows(const sl_map *map, const sl_rewrite *t, double *line) {
    for (int64_t r = 0; map->kind != SL_MAP_NONE && r < t->rows; r++) {
        for (int64_t c = 0; c < t->cols; c++)
            line[c] = t->values[r * t->cols + c];
        sl_map_hadamard_f64(map, 0, line, t->cols);
        for (int64_t c = 0; c < t->cols; c++)
            t->values[r * t->cols + c] = (float)line[c];
    }
}

static void turn_columns(const sl_map *map, const sl_rewrite *t, double *line) {
    for (int64_t c = 0; map->kind != SL_MAP_NONE && c < t->cols; c++) {
        for (int64_t r = 0; r < t->rows; r++)
            line[r] = t->values[r * t->cols + c];
        sl_map_hadamard_f64(map, 0, line, t->rows);
        for (int64_t r = 0; r < t->rows; r++)
            t->values[r * t->cols + c] = (float)line[r];
    }
}

/* What happens to a tensor: g: the norm in front is folded in; R: the residual's rotation; the rest as in the sheet of
 * the method: W' = out (W g) in^T. */
typedef enum { NOTHING, RESIDUAL, HEADS, HEADS_AND_O, FFN } turn;
static const struct {
    const char *role;
    turn in, out; /* on the side that the row is multiplied with, and on the side that comes out */
} table[] = {
    {"embed", RESIDUAL, NOTHING}, {"q", RESIDUAL, NOTHING},      {"k", RESIDUAL, NOTHING},
    {"v", RESIDUAL, HEADS},       {"o", HEADS_AND_O, RESIDUAL},  {"gate", RESIDUAL, NOTHING},
    {"up", RESIDUAL, NOTHING},    {"down", FFN, RESIDUAL},       {"head", RESIDUAL, NOTHING},
    {"v.bias", HEADS, NOTHING},   {"o.bias", RESIDUAL, NOTHING}, {"down.bias", RESIDUAL, NOTHING},
};

/* Up to two maps a side. */
static int maps_of(const sl_instance *self, const sl_rewrite *t, turn what, sl_map maps[2]) {
    static const sl_map none = {.struct_size = SL_SIZE(sl_map), .kind = SL_MAP_NONE};
    const places *p = t->layer >= 0 ? &self->layers[t->layer] : NULL;
    maps[0] = maps[1] = none;
    switch (what) {
    case RESIDUAL:
        if (self->turn_residual)
            maps[0] = self->residual.map;
        break;
    case HEADS: maps[0] = p->head->map; break;
    case HEADS_AND_O:
        maps[0] = p->head->map;
        if (self->online_o) {
            maps[1] = p->o->map;
            maps[1].stride = self->info->layers[t->layer]->v_head_dim;
        }
        break;
    case FFN:
        if (self->online_down)
            maps[0] = p->down->map;
        break;
    case NOTHING: break;
    }
    return (maps[0].kind != SL_MAP_NONE) + (maps[1].kind != SL_MAP_NONE);
}

static sl_status tensor(sl_instance *self, sl_rewrite *t, sl_error *err) {
    if (strncmp(t->role, "norm.", 5) == 0) {
        for (int64_t i = 0; self->turn_residual && i < t->cols; i++)
            t->values[i] = 1;
        t->changed = (uint32_t)self->turn_residual;
        return SL_OK;
    }
    size_t row = 0, n_rows = sizeof table / sizeof *table;
    while (row < n_rows && strcmp(table[row].role, t->role) != 0)
        row++;
    if (row == n_rows)
        return SL_OK; /* biases of q, k, gate and up lie where nothing is rotated */
    sl_map in[2], out[2];
    int n = maps_of(self, t, table[row].in, in) + maps_of(self, t, table[row].out, out);
    if (n == 0)
        return SL_OK;
    double *line = malloc(sizeof *line * (size_t)(t->rows > t->cols ? t->rows : t->cols));
    if (line == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "hadamard: no memory for a row");
    for (int64_t i = 0; self->turn_residual && t->norm != NULL && i < t->rows * t->cols; i++)
        t->values[i] *= t->norm[i % t->cols];
    for (int i = 0; i < 2; i++) {
        turn_rows(&in[i], t, line);
        turn_columns(&out[i], t, line);
    }
    free(line);
    t->changed = 1;
    t->dtype = self->dtype;
    return SL_OK;
}

static const sl_map *basis(sl_instance *self) {
    return self->turn_residual && self->residual.map.kind != SL_MAP_NONE ? &self->residual.map : NULL;
}

static const sl_map *const *maps(sl_instance *self, int32_t layer) { return self->layers[layer].list; }

static const sl_quant_rewrite rewrite = {
    .struct_size = SL_SIZE(sl_quant_rewrite), .basis = basis, .tensor = tensor, .maps = maps};

/* ---- cost ---------------------------------------------------------------------------------------------------------- */

/* Operations of a map on one number: log2 of a power of two, K for a dense factor of order K; rounding is a few. */
static double work_of(const sl_map *m) {
    double n = (double)m->n, work = 0;
    if (m->kind == SL_MAP_ROUND)
        return 4;
    for (const int32_t *k = m->orders; k != NULL && *k != 0; k++)
        n /= *k, work += 2.0 * *k;
    return n > 1 ? work + log2(n) : work;
}

/* Maps that act while the model runs: rotated weights take the others in. */
static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = self->info->layers[io->layer];
    double E = self->info->hidden, heads = l->n_heads + l->n_kv_heads;
    (void)err;
    for (const sl_map *const *m = self->layers[io->layer].list; *m != NULL; m++) {
        double width = (*m)->at == SL_MAP_AT_O_IN             ? (double)l->n_heads * l->v_head_dim
                       : (*m)->at == SL_MAP_AT_DOWN_IN        ? l->ffn
                       : (*m)->at == SL_MAP_AT_QK_POST_ROPE   ? heads * l->head_dim
                       : (*m)->at == SL_MAP_AT_V              ? 0 /* folded into v and o */
                                                              : E;
        if (width > 0)
            sl_cost_add(io->sink, SL_COST_AT_PREPARE, "hadamard.maps", io->n_new * width * work_of(*m), SL_COST_ACTIVATIONS,
                        2 * io->n_new * width * (io->activations == SL_BF16 ? 2 : 4), 1);
    }
    return SL_OK;
}

/* Weights stay what they were, unless keep = f32. */
static sl_status cost_linear(sl_instance *self, sl_cost_linear *io, sl_error *err) {
    (void)err;
    if (self->dtype == SL_F32)
        io->weight_bytes = io->n_rows > 0 ? 4 * io->flops / (2 * io->n_rows) : io->weight_bytes;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer, .linear = cost_linear};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_QUANT_REWRITE_ID) == 0 ? (const void *)&rewrite : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

/* ---- the plugin
 * ------------------------------------------------------------------------------------------------------- */

static const char *const sizes[] = {"paley", "block", NULL};
static const char *const kept[] = {"checkpoint", "f32", NULL};
#define PARAM(variable, name, doc, value, choices, min, max, type, flags)                                              \
    static const sl_param_def variable = {SL_SIZE(sl_param_def), name, doc, value, choices, min, max, type, flags}
PARAM(residual_def, "residual", "rotate the residual stream, with random signs", "yes", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(o_def, "online_o", "rotate across heads in front of o, while it runs", "yes", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(down_def, "online_down", "rotate in front of down, while it runs", "yes", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(kv_def, "kv_rotate", "rotate q and k within heads after RoPE, for stores that quantise keys", "no", NULL, 1, 0,
      SL_PARAM_BOOL, 0);
PARAM(seed_def, "seed", "of the residual's signs", "0", NULL, 0, 9007199254740992.0, SL_PARAM_INT, 0);
PARAM(size_def, "size", "paley: one matrix a width where there is one; block: blocks of a power of two", "paley", sizes,
      1, 0, SL_PARAM_ENUM, 0);
PARAM(block_def, "block_max", "largest block, a power of two; 0: no limit", "0", NULL, 0, 1 << 20, SL_PARAM_INT, 0);
PARAM(table_def, "table_file", "safetensors with further matrices hadamard.K, F32 [K, K] of 1 and -1", NULL, NULL, 1, 0,
      SL_PARAM_PATH, 0);
PARAM(a_bits_def, "a_bits", "round inputs of linears to that many bits, row by row (simulated); 16: do not", "16", NULL,
      2, 16, SL_PARAM_INT, 0);
PARAM(a_clip_def, "a_clip", "a_bits: factor on a row's largest magnitude", "1", NULL, 0.1, 1, SL_PARAM_FLOAT, 0);
PARAM(a_sym_def, "a_sym", "a_bits: around zero; no: from minimum to maximum", "yes", NULL, 1, 0, SL_PARAM_BOOL, 0);
PARAM(keep_def, "keep", "dtype of rotated weights that [quant] does not pack", "checkpoint", kept, 1, 0, SL_PARAM_ENUM,
      0);
static const sl_param_def *const params[] = {&residual_def, &o_def,     &down_def,  &kv_def,     &seed_def,
                                             &size_def,     &block_def, &table_def, &a_bits_def, &a_clip_def,
                                             &a_sym_def,    &keep_def,  NULL};
static const char *const roles[] = {"quant.rewrite", NULL};
static const char *const needs[] = {SL_ARTIFACT_ID, "sl.rewrite/1", "sl.maps/1", NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "hadamard",
    .roles = roles,
    .version = "0.1.0",
    .summary =
        "the model in a basis without outlier channels: Hadamard rotations folded into weights, or applied as maps",
    .paper = "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs, arXiv 2404.00456",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = nothing,
    .provides = nothing,
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
