/* See append_cuda.h. One warp a head of q, k or v and a row; a lane holds pairs whose partners RoPE wants, two pairs at
 * a time. Everything is computed in f32 and rounded once.
 *
 * At one row bound by latency: a chain of four loads (row -> sequence -> page -> address) and one of data. The chain
 * reads only what was copied to the device before the step's first kernel, so it runs ahead of the wait; a store's row
 * counts (n_rows) may come from kernels and are read behind it. At many rows bound by bytes: each read once, each
 * written once. */
#include "append_cuda.h"
#include "vec4.cuh"

namespace {

enum { WARPS = 4, TURNS = SLK_APPEND_MAX_DIM / 128 };
/* SL_MAP_* of sluice/work.h; append_cuda.c checks that these are the same */
enum { DIAGONAL = 1, HADAMARD = 2, DENSE = 4 };

/* Two pairs of one head: elements off[0], off[0] + 1 and off[1], off[1] + 1. */
struct quad {
    int off[2];
    bool valid, rotates, across; /* across: pairs are (x[0][i], x[1][i]), else (x[i][0], x[i][1]) */
    float x[2][2], c[2], s[2];
};

__device__ __forceinline__ void place_quad(quad &t, const slk_append_params &p, int number) {
    const int pair = 2 * number, half = p.rope_dims / 2;
    t.valid = 4 * number < p.k_dim;
    t.rotates = t.valid && pair < half;
    t.across = t.rotates && !p.interleaved;
    t.off[0] = t.across ? pair : 2 * pair;
    t.off[1] = t.across ? pair + half : 2 * pair + 2;
}

__device__ __forceinline__ void load_trig(quad &t, const slk_append_params &p, int number, float position) {
    if (!t.rotates)
        return;
    /* a position that the table does not hold is refused by whoever made the step; here it must not pass unseen */
    const int at = (int)position;
    const bool held = position >= 0.0f && at < p.n_positions && (float)at == position;
    const int64_t i = (int64_t)(held ? at : 0) * (p.rope_dims / 2) + 2 * number;
    const float2 c = *reinterpret_cast<const float2 *>(p.cos + i), s = *reinterpret_cast<const float2 *>(p.sin + i);
    const float bad = __int_as_float(0x7fffffff);
    t.c[0] = held ? c.x : bad, t.c[1] = held ? c.y : bad;
    t.s[0] = held ? s.x : bad, t.s[1] = held ? s.y : bad;
}

/* Each product rounded before the sum, as on the CPU. */
__device__ __forceinline__ void rotate(float &a, float &b, float c, float s) {
    const float x = a, y = b;
    a = __fsub_rn(__fmul_rn(x, c), __fmul_rn(y, s));
    b = __fadd_rn(__fmul_rn(y, c), __fmul_rn(x, s));
}

/* One map over the head in x, by a warp. */
__device__ __forceinline__ void apply_map(const slk_append_map &m, float *x, float *y, int dim, int lane) {
    const bool inverse = m.flags & SLK_APPEND_INVERSE;
    if (m.kind == DENSE) {
        for (int i = lane; i < dim; i += 32) {
            const float *in = x + i / m.n * m.n;
            const int row = i % m.n;
            float sum = 0;
            for (int j = 0; j < m.n; j++)
                sum = fmaf(inverse ? m.a[(int64_t)j * m.n + row] : m.a[(int64_t)row * m.n + j], in[j], sum);
            y[i] = sum;
        }
        __syncwarp();
        for (int i = lane; i < dim; i += 32)
            x[i] = y[i];
        __syncwarp();
        return;
    }
    if (m.kind == HADAMARD)
        for (int h = 1; h < m.n; h *= 2) {
            for (int i = lane; i < dim / 2; i += 32) {
                const int at = i / h * 2 * h + i % h;
                const bool sign = h == 1 && !inverse && m.signs != nullptr;
                const float a = sign ? x[at] * m.signs[at % m.n] : x[at];
                const float b = sign ? x[at + h] * m.signs[(at + h) % m.n] : x[at + h];
                x[at] = a + b;
                x[at + h] = a - b;
            }
            __syncwarp();
        }
    for (int i = lane; i < dim; i += 32) {
        if (m.kind == DIAGONAL)
            x[i] = inverse ? x[i] / m.a[i % m.n] : x[i] * m.a[i % m.n];
        else
            x[i] *= rsqrtf((float)m.n) * (inverse && m.signs != nullptr ? m.signs[i % m.n] : 1.0f);
    }
    __syncwarp();
}

/* Where a KV head has its tables and rows: field is one of SL_HEAD_K, SL_HEAD_V, SL_HEAD_PAGES. */
__device__ __forceinline__ int64_t head_at(const slk_append_params &p, int head, int field, int64_t stride) {
    return p.head_places != nullptr ? p.head_places[head * 4 + field] : head * stride;
}

template <typename S> __device__ __forceinline__ void append(const slk_append_params &p) {
    __shared__ float space[2][WARPS][SLK_APPEND_MAX_DIM];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int unit = blockIdx.x * WARPS + warp;
    const int64_t row = blockIdx.y;
    const bool is_q = unit < p.heads, is_v = unit >= p.heads + p.kv_heads;
    const int head = is_q ? unit : is_v ? unit - p.heads - p.kv_heads : unit - p.heads;

    slk::let_successor_start();
    int32_t place = unit < p.heads + 2 * p.kv_heads ? p.row_seq[row] : -1;
    int32_t seq = 0, slot = 0, page = 0;
    int64_t at = 0; /* of the head's rows */
    quad t[TURNS];
    if (place >= 0) {
        seq = p.seq[place];
        if (!is_q)
            at = head_at(p, head, is_v, is_v ? p.v_head_stride : p.k_head_stride);
        if (!is_q && (p.n_rows == nullptr || p.overwrite)) {
            slot = p.overwrite ? p.token_index[row] : p.n_past[place] + (int)row - p.row_begin[place];
            page = p.pages[seq * p.pages_stride + head_at(p, head, 2, p.pages_head_stride) + (slot >> p.page_shift)];
        }
        const float position = p.rope_dims > 0 && !is_v ? p.position[row] : 0.0f;
#pragma unroll
        for (int j = 0; j < TURNS; j++) {
            place_quad(t[j], p, lane + 32 * j);
            if (!is_v)
                load_trig(t[j], p, lane + 32 * j, position);
        }
    }
    slk::wait_for_predecessor();
    if (place < 0 || (p.n_active != nullptr && row >= *p.n_active))
        return;
    if (!is_q && p.n_rows != nullptr && !p.overwrite) {
        slot = p.n_rows[seq * p.n_rows_stride + head * p.n_rows_head_stride] + (int)row - p.row_begin[place];
        page = p.pages[seq * p.pages_stride + head_at(p, head, 2, p.pages_head_stride) + (slot >> p.page_shift)];
    }
    const int in_page = slot & (p.page_rows - 1);

    if (is_v) {
        const slk::bf16 *v = static_cast<const slk::bf16 *>(p.v) + row * p.ldv + head * p.ldv_head;
        S *to = reinterpret_cast<S *>(p.v_pool + page * p.v_page_stride + in_page * p.v_row_stride + at);
        for (int i = 4 * lane; i < p.v_dim; i += 128)
            slk::store4(to + i, slk::load4(v + i));
        return;
    }

    slk::bf16 *from = is_q ? static_cast<slk::bf16 *>(p.q) + row * p.ldq + head * p.ldq_head
                           : static_cast<slk::bf16 *>(p.k) + row * p.ldk + head * p.ldk_head;
    const float *norm = is_q ? p.q_norm : p.k_norm;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < TURNS; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float2 x = t[j].valid ? slk::load2(from + t[j].off[i]) : make_float2(0.0f, 0.0f);
            t[j].x[i][0] = x.x, t[j].x[i][1] = x.y;
            sum = fmaf(x.x, x.x, sum);
            sum = fmaf(x.y, x.y, sum);
        }
    if (norm != nullptr) {
        const float inv = rsqrtf(slk::warp_sum(sum) / (float)p.k_dim + p.eps);
#pragma unroll
        for (int j = 0; j < TURNS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (t[j].valid)
                    t[j].x[i / 2][i % 2] = norm[t[j].off[i / 2] + i % 2] * (t[j].x[i / 2][i % 2] * inv);
    }
#pragma unroll
    for (int j = 0; j < TURNS; j++)
        if (t[j].across) {
            rotate(t[j].x[0][0], t[j].x[1][0], t[j].c[0], t[j].s[0]);
            rotate(t[j].x[0][1], t[j].x[1][1], t[j].c[1], t[j].s[1]);
        } else if (t[j].rotates) {
            rotate(t[j].x[0][0], t[j].x[0][1], t[j].c[0], t[j].s[0]);
            rotate(t[j].x[1][0], t[j].x[1][1], t[j].c[1], t[j].s[1]);
        }

    const uint32_t side = is_q ? SLK_APPEND_ON_Q : SLK_APPEND_ON_K;
    if (p.n_maps > 0) {
        float *x = space[0][warp];
#pragma unroll
        for (int j = 0; j < TURNS; j++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (t[j].valid)
                    slk::store2(x + t[j].off[i], t[j].x[i][0], t[j].x[i][1]);
        __syncwarp();
        for (int m = 0; m < p.n_maps; m++)
            if (p.map[m].flags & side)
                apply_map(p.map[m], x, space[1][warp], p.k_dim, lane);
#pragma unroll
        for (int j = 0; j < TURNS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (t[j].valid)
                    t[j].x[i / 2][i % 2] = x[t[j].off[i / 2] + i % 2];
    }

    S *to = reinterpret_cast<S *>(p.k_pool + page * p.k_page_stride + in_page * p.k_row_stride + at);
#pragma unroll
    for (int j = 0; j < TURNS; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (t[j].valid) /* keys too: who attends to the step's own rows (sl_note) reads them there */
                slk::store2(from + t[j].off[i], t[j].x[i][0], t[j].x[i][1]);
            if (t[j].valid && !is_q)
                slk::store2(to + t[j].off[i], t[j].x[i][0], t[j].x[i][1]);
        }
}

} // namespace

#define APPEND(name, S)                                                                                                \
    SLK_KERNEL __launch_bounds__(32 * WARPS) slk_append_##name(const __grid_constant__ slk_append_params p) {          \
        append<S>(p);                                                                                                  \
    }
APPEND(f32, float)
APPEND(f16, __half)
APPEND(bf16, slk::bf16)
