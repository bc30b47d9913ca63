/* y = epilogue(x w^T) on a device. Few rows: one kernel that reads the weights once. Many rows: the matrix library, and
 * around it what it cannot do: weights of other types are widened to bf16 a panel at a time (32 MiB, which stays in the
 * L2 until it is multiplied: predicted 6 % of a product of 4096 rows), a gated block is finished from [T, gate | up].
 */
#include "cuda_linear.h"

#include "cuda_gemms.h"
#include "cuda_state.h"
#include "sl_error.h"

enum {
    PANEL_BYTES = 32 << 20,   /* of widened weights */
    MIDDLE_BYTES = 256 << 20, /* most of what stands between a product and its finish; more rows go in several passes */
    PANEL_ROWS = 256          /* rows of a panel are a multiple of it */
};

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Parts of the workspace, one behind the other. */
typedef struct parts {
    int64_t panel, e4m3, scales, middle, end; /* offsets */
} parts;

static parts parts_of(const sli_cuda_shapes *s) {
    const int64_t width = round_up(most(s->width, 16), 16), rows = most(s->max_rows, 1);
    const int64_t widest = most(2 * width, s->vocab);
    parts p = {.e4m3 = most(PANEL_BYTES, PANEL_ROWS * width * 2)};
    p.scales = p.e4m3 + round_up(rows * width, 256);
    p.middle = p.scales + round_up(rows * 4, 256);
    p.end = p.middle + most(least(rows * widest * 4, MIDDLE_BYTES), SLI_CUDA_FEW_ROWS * widest * 4);
    return p;
}

int64_t sli_cuda_linear_workspace(const sli_cuda *cuda, const sli_cuda_shapes *shapes) {
    (void)cuda;
    return parts_of(shapes).end;
}

/* Part of the workspace, or NULL where it is smaller than was reserved for these shapes. */
static char *part(const sli_cuda *cuda, int64_t at, int64_t bytes) {
    return cuda->workspace != NULL && at + bytes <= cuda->workspace_bytes ? (char *)cuda->workspace + at : NULL;
}

static int is_rows(const sl_tensor *t, int64_t rows, int64_t width) {
    return t->ndim == 2 && t->shape[0] == rows && t->shape[1] == width && t->stride[1] == 1;
}

sl_status sli_cuda_linear_fill(slk_linear_params *p, const sl_tensor *x, const sl_tensor *y, const sl_tensor *bias,
                               const sl_tensor *residual, int64_t w_rows, int64_t k, uint32_t act_mul, uint32_t act) {
    const int64_t n = act_mul ? w_rows / 2 : w_rows;
    if (x->ndim != 2 || (act_mul && w_rows % 2 != 0) || w_rows > INT32_MAX || k > INT32_MAX || x->shape[0] > INT32_MAX)
        return SL_E_INVALID;
    const int64_t t = x->shape[0];
    if (!is_rows(x, t, k) || x->dtype != SL_BF16 || !is_rows(y, t, n) || (y->dtype != SL_BF16 && y->dtype != SL_F32) ||
        (residual != NULL && (!is_rows(residual, t, n) || residual->dtype != SL_F32)) ||
        (bias != NULL && (bias->dtype != SL_F32 || bias->ndim != 1 || bias->shape[0] != w_rows)))
        return SL_E_INVALID;
    if (act > SL_ACT_GELU)
        return SL_E_UNIMPLEMENTED;
    *p = (slk_linear_params){.x = x->data,
                             .y = y->data,
                             .bias = bias != NULL ? bias->data : NULL,
                             .residual = residual != NULL ? residual->data : NULL,
                             .ldx = x->stride[0],
                             .ldy = y->stride[0],
                             .ldr = residual != NULL ? residual->stride[0] : 0,
                             .t = (int32_t)t,
                             .n = (int32_t)n,
                             .k = (int32_t)k,
                             .y_bf16 = y->dtype == SL_BF16,
                             .act_mul = act_mul,
                             .act = act};
    return SL_OK;
}

/* Rows of x as e4m3, in the workspace; p->x, ldx and x_scale become theirs. */
static sl_status round_rows(sli_cuda *cuda, const sl_lane *lane, slk_linear_params *p) {
    const parts at = parts_of(&cuda->shapes);
    const int64_t ld = round_up(p->k, 16);
    char *y = part(cuda, at.e4m3, p->t * ld), *scale = part(cuda, at.scales, p->t * (int64_t)4);
    if (y == NULL || scale == NULL || p->t > cuda->shapes.max_rows || ld > round_up(cuda->shapes.width, 16))
        return SL_E_NO_MEMORY;
    const slk_e4m3_rows_params rows = {
        .x = p->x, .y = y, .scale = (float *)scale, .ldx = p->ldx, .ldy = ld, .t = p->t, .k = p->k};
    SL_TRY(slk_cuda_e4m3_rows(&cuda->k, lane, &rows));
    p->x = y;
    p->ldx = ld;
    p->x_scale = (float *)scale;
    return SL_OK;
}

/* Advances a product by rows of x and y. */
static void from_row(slk_linear_params *p, int64_t row, int64_t rows, int x_bytes) {
    p->x = (const char *)p->x + row * p->ldx * x_bytes;
    p->y = (char *)p->y + row * p->ldy * (p->y_bf16 ? 2 : 4);
    p->residual = p->residual != NULL ? p->residual + row * p->ldr : NULL;
    p->x_scale = p->x_scale != NULL ? p->x_scale + row : NULL;
    p->t = (int32_t)rows;
}

static sl_status finish(sli_cuda *cuda, const sl_lane *lane, const slk_linear_params *p, const void *in, int64_t ldi,
                        int in_bf16) {
    const slk_finish_params f = {.in = in,
                                 .y = p->y,
                                 .bias = p->bias,
                                 .residual = p->residual,
                                 .ldi = ldi,
                                 .ldy = p->ldy,
                                 .ldr = p->ldr,
                                 .t = p->t,
                                 .n = p->n,
                                 .act_mul = p->act_mul,
                                 .act = p->act};
    return slk_cuda_finish(&cuda->k, lane, in_bf16, (int)p->y_bf16, &f);
}

/* The kernel of few rows. A gated block whose weights it does not take in pairs: gate | up in f32, then the rest. */
static sl_status few_rows(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p) {
    const sl_status s = slk_cuda_linear(&cuda->k, lane, kind, p);
    if (s != SL_E_UNIMPLEMENTED || !p->act_mul)
        return s;
    const parts at = parts_of(&cuda->shapes);
    const int64_t width = 2 * (int64_t)p->n, pass = least((at.end - at.middle) / (width * 4), p->t);
    float *middle = (float *)part(cuda, at.middle, pass * width * 4);
    if (middle == NULL || pass < 1)
        return SL_E_NO_MEMORY;
    for (int64_t row = 0; row < p->t; row += pass) {
        slk_linear_params whole = *p;
        from_row(&whole, row, least(pass, p->t - row), kind == SLK_LINEAR_E4M3 ? 1 : 2);
        slk_linear_params both = whole;
        both.y = middle;
        both.ldy = width;
        both.n = (int32_t)width;
        both.bias = both.residual = NULL;
        both.y_bf16 = both.act_mul = 0;
        SL_TRY(slk_cuda_linear(&cuda->k, lane, kind, &both));
        SL_TRY(finish(cuda, lane, &whole, middle, width, 0));
    }
    return SL_OK;
}

/* How a product goes to the library. */
typedef struct plan {
    sl_dtype in, out;
    uint32_t epilogue;
    int widen;                 /* bits of weights that become bf16 first: 4, 8, 16, 32; 0: the library takes them */
    int middle;                /* 1: its result stands in the workspace until it is finished */
    int finish;                /* 1: an epilogue of ours follows */
    int64_t rows;              /* of w */
    int64_t panel;             /* rows of w a call */
    sl_gemm_impl *gemm, *last; /* of a panel, of the last one */
} plan;

static int widen_bits(int kind) {
    static const int bits[] = {[SLK_LINEAR_F16] = 16,
                               [SLK_LINEAR_F32] = 32,
                               [SLK_LINEAR_INT8] = 8,
                               [SLK_LINEAR_INT4] = 4,
                               [SLK_LINEAR_E4M3] = 0};
    return bits[kind];
}

/* 0: the library does not serve this. */
static int make_plan(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p, plan *out) {
    const int bias = p->bias != NULL, residual = p->residual != NULL;
    plan a = {.in = kind == SLK_LINEAR_E4M3 ? SL_F8_E4M3 : SL_BF16, .rows = p->act_mul ? 2 * (int64_t)p->n : p->n};
    const int e4m3 = kind == SLK_LINEAR_E4M3;
    if (((kind == SLK_LINEAR_BF16 || e4m3) && p->ldw != p->k) || (e4m3 && a.rows % 16 != 0))
        return 0;
    a.widen = widen_bits(kind);
    a.middle = (int)p->act_mul;
    /* The library adds a bias of y's dtype (none to e4m3), and a residual that is y or has no gaps. */
    const int residual_there = residual && !p->y_bf16 && (p->residual == p->y || (!a.widen && p->ldr == p->n));
    const int bias_there = bias && !p->y_bf16 && !a.middle && !e4m3 && residual == residual_there;
    a.finish = a.middle || bias != bias_there || residual != residual_there;
    a.out = p->y_bf16 ? SL_BF16 : SL_F32;
    a.epilogue = (e4m3 ? (uint32_t)SL_EPILOGUE_SCALE_ROWS : 0) | (bias_there ? (uint32_t)SL_EPILOGUE_BIAS : 0) |
                 (residual_there ? (uint32_t)SL_EPILOGUE_RESIDUAL : 0);
    const int64_t fit = PANEL_BYTES / (2 * (int64_t)p->k) / PANEL_ROWS * PANEL_ROWS;
    a.panel = a.widen ? least(most(fit, PANEL_ROWS), a.rows) : a.rows;
    const int64_t rest = a.rows % a.panel;
    a.gemm = sli_cuda_gemm_get(cuda, lane, a.panel, p->k, a.in, a.out, a.epilogue);
    a.last = rest ? sli_cuda_gemm_get(cuda, lane, rest, p->k, a.in, a.out, a.epilogue) : a.gemm;
    *out = a;
    return a.gemm != NULL && a.last != NULL;
}

static sl_status widen(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p, const plan *a,
                       int64_t row, int64_t rows, void *panel) {
    const slk_widen_params w = {.w = p->w,
                                .scale = p->scale,
                                .out = panel,
                                .ldw = p->ldw,
                                .row = (int32_t)row,
                                .rows = (int32_t)rows,
                                .n = (int32_t)a->rows,
                                .k = p->k,
                                .group = p->group,
                                .groups = kind >= SLK_LINEAR_INT8 ? (p->k + p->group - 1) / p->group : 0,
                                .asym = p->asym,
                                .bits = (uint32_t)a->widen};
    return slk_cuda_widen(&cuda->k, lane, &w);
}

/* One pass over the weights. y: where the library writes. */
static sl_status multiply(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p, const plan *a,
                          void *panel, char *y, int64_t ldy) {
    const int64_t size = a->out == SL_BF16 ? 2 : 4;
    for (int64_t row = 0; row < a->rows; row += a->panel) {
        const int64_t rows = least(a->panel, a->rows - row);
        const void *w = p->w;
        if (a->widen) {
            SL_TRY(widen(cuda, lane, kind, p, a, row, rows, panel));
            w = panel;
        }
        const sl_gemm_run run = {.struct_size = SL_SIZE(sl_gemm_run),
                                 .x = p->x,
                                 .w = w,
                                 .y = y + row * size,
                                 .bias = a->epilogue & SL_EPILOGUE_BIAS ? p->bias + row : NULL,
                                 .residual = a->epilogue & SL_EPILOGUE_RESIDUAL ? p->residual + row : NULL,
                                 .row_scale = p->x_scale,
                                 .column_scale = p->x_scale != NULL ? (const float *)p->scale + row : NULL,
                                 .rows = p->t,
                                 .ldx = p->ldx,
                                 .ldy = ldy};
        SL_TRY(cuda->k.exec->gemm(lane, rows == a->panel ? a->gemm : a->last, &run));
    }
    return SL_OK;
}

static sl_status many_rows(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p, const plan *a) {
    const parts at = parts_of(&cuda->shapes);
    const int64_t size = a->out == SL_BF16 ? 2 : 4;
    const int64_t pass = a->middle ? least((at.end - at.middle) / (a->rows * size), p->t) : p->t;
    void *panel = a->widen ? part(cuda, at.panel, a->panel * p->k * 2) : NULL;
    char *middle = a->middle ? part(cuda, at.middle, pass * a->rows * size) : NULL;
    if (pass < 1 || (a->widen && (panel == NULL || a->panel * p->k * 2 > at.e4m3)) || (a->middle && middle == NULL))
        return SL_E_NO_MEMORY;
    for (int64_t row = 0; row < p->t; row += pass) {
        slk_linear_params q = *p;
        from_row(&q, row, least(pass, p->t - row), kind == SLK_LINEAR_E4M3 ? 1 : 2);
        SL_TRY(multiply(cuda, lane, kind, &q, a, panel, a->middle ? middle : q.y, a->middle ? a->rows : q.ldy));
        if (a->epilogue & SL_EPILOGUE_BIAS)
            q.bias = NULL;
        if (a->epilogue & SL_EPILOGUE_RESIDUAL)
            q.residual = NULL;
        if (a->finish)
            SL_TRY(finish(cuda, lane, &q, a->middle ? middle : q.y, a->middle ? a->rows : q.ldy, a->out == SL_BF16));
    }
    return SL_OK;
}

/* Does the kernel of batches pay? It reads bf16 weights once and starts early, which the library's kernels do not;
 * where there are too few rows of w for all multiprocessors, it splits K and loses. An H200, Llama-3.1-8B shape, 64
 * rows, ours and the library: gate|up 64.0 and 62.6 us, head 274 and 291; q|k|v 16.8 and 15.5, o 15.5 and 11.2,
 * down 44.8 and 34.8. At 32 rows gate|up is 63.2 and 57.8. Never in deterministic mode, which multiplies any number of
 * rows as it multiplies one: one row of all linears takes 5054 us by this kernel, 3590 by that of few rows. */
static int batch_pays(const sli_cuda *cuda, const slk_linear_params *p) {
    enum { ROWS_FROM = 33, OUTPUTS = 128 };
    const int outputs = p->act_mul ? OUTPUTS / 2 : OUTPUTS;
    return p->t >= ROWS_FROM && p->t <= SLK_LINEAR_BATCH_ROWS &&
           (p->n + outputs - 1) / outputs > cuda->k.info.n_processors;
}

/* What one kernel does from the first row to the last, in fast mode; SL_E_UNIMPLEMENTED: there is none for this. */
static sl_status by_one_kernel(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *p) {
    if (p->t == 1 && kind == SLK_LINEAR_INT4)
        return slk_cuda_linear_one(&cuda->k, lane, kind, p);
    if (kind == SLK_LINEAR_BF16 && batch_pays(cuda, p))
        return slk_cuda_linear_batch(&cuda->k, lane, p);
    return SL_E_UNIMPLEMENTED;
}

sl_status sli_cuda_linear_run(sli_cuda *cuda, const sl_lane *lane, int kind, const slk_linear_params *given) {
    slk_linear_params p = *given;
    const int few = kind == SLK_LINEAR_INT8 || kind == SLK_LINEAR_INT4 ? SLI_CUDA_FEW_ROWS_PACKED : SLI_CUDA_FEW_ROWS;
    plan a = {0};
    if (p.t == 0)
        return SL_OK;
    const int fast = !cuda->k.deterministic && p.t <= cuda->shapes.max_rows && p.k % 8 == 0 && p.ldx % 8 == 0;
    const sl_status s = fast ? by_one_kernel(cuda, lane, kind, &p) : SL_E_UNIMPLEMENTED;
    if (s != SL_E_UNIMPLEMENTED && s != SL_E_INVALID) /* the library takes any address */
        return s;
    const int library = fast && p.t > few && make_plan(cuda, lane, kind, &p, &a);
    if (kind == SLK_LINEAR_E4M3)
        SL_TRY(round_rows(cuda, lane, &p));
    return library ? many_rows(cuda, lane, kind, &p, &a) : few_rows(cuda, lane, kind, &p);
}

sl_status sli_cuda_op_gemm(const sl_host *host, const sl_op_gemm *a) {
    (void)host;
    static const struct {
        sl_dtype dtype;
        int kind;
    } kinds[] = {{SL_BF16, SLK_LINEAR_BF16}, {SL_F16, SLK_LINEAR_F16}, {SL_F32, SLK_LINEAR_F32}};
    slk_linear_params p;
    if (a->w->ndim != 2 || a->w->stride[1] != 1 || (a->act_mul && a->residual != NULL))
        return SL_E_INVALID;
    SL_TRY(
        sli_cuda_linear_fill(&p, a->x, a->y, a->bias, a->residual, a->w->shape[0], a->w->shape[1], a->act_mul, a->act));
    p.w = a->w->data;
    p.ldw = a->w->stride[0];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].dtype == a->w->dtype)
            return sli_cuda_linear_run(sli_cuda_of(a->lane), a->lane, kinds[i].kind, &p);
    return SL_E_INVALID;
}
