/* See linear_pack.h. A row is packed as the CPU has it, then its codes are put where lanes look for them. */
#include "linear_pack.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_pack.h"
#include "half.h"
#include "linear_cuda.h"
#include "sl_error.h"

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t tiles_of(const sl_q_format *f) { return (f->n + SLK_LINEAR_TILE - 1) / SLK_LINEAR_TILE; }
static int64_t chunks_of(const sl_q_format *f) { return (f->k + SLK_LINEAR_CHUNK - 1) / SLK_LINEAR_CHUNK; }

int64_t slk_linear_group(const sl_q_format *f) {
    return f->group == 0 || f->group >= f->k ? round_up(f->k, SLK_Q_CHUNK) : f->group;
}

static int64_t groups_of(const sl_q_format *f) {
    const int64_t g = slk_linear_group(f);
    return (f->k + g - 1) / g;
}

int64_t slk_linear_e4m3_stride(const sl_q_format *f) { return round_up(f->k, 16); }

int64_t slk_linear_scales_at(const sl_q_format *f) {
    return f->kind == SL_Q_E4M3 ? f->n * slk_linear_e4m3_stride(f)
                                : tiles_of(f) * chunks_of(f) * (f->bits == 8 ? 1024 : 512);
}

int64_t slk_linear_pack_bytes(const sl_q_format *f) {
    if (f->n < 1 || f->k < 1 || f->k % 8 != 0 || f->group < 0 || f->n > INT32_MAX || f->k > INT32_MAX ||
        (f->bits != 8 && f->bits != 4))
        return 0;
    if (f->kind == SL_Q_E4M3)
        return f->bits == 8 && !f->asymmetric && (f->group == 0 || f->group >= f->k)
                   ? slk_linear_scales_at(f) + f->n * 4
                   : 0;
    if (f->kind != SL_Q_INTEGER || slk_linear_group(f) % SLK_Q_CHUNK != 0)
        return 0;
    return slk_linear_scales_at(f) + tiles_of(f) * groups_of(f) * 8 * (f->asymmetric ? 8 : 4);
}

static sl_status check(const sl_q_format *f, sl_error *err) {
    if (slk_linear_pack_bytes(f) != 0)
        return SL_OK;
    return sl_fail(err, SL_E_UNIMPLEMENTED,
                   "no packed format of %u bits in groups of %lld for a matrix [%lld, %lld] on the device: inputs are "
                   "multiples of 8, groups of 32",
                   f->bits, (long long)f->group, (long long)f->n, (long long)f->k);
}

/* Byte of 8 bits (row, k), or first byte of the word of 4 bits that holds it; then *shift says where in the word. */
static int64_t code_at(const sl_q_format *f, int64_t row, int64_t k, int *shift) {
    static const uint8_t place[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    const int64_t unit = row / SLK_LINEAR_TILE * chunks_of(f) + k / SLK_LINEAR_CHUNK;
    const int64_t g = row % 8, high = row % 16 / 8, half = k % 64 / 32, lane = g * 4 + k % 32 / 8, j = k % 8;
    *shift = 0;
    if (f->kind == SL_Q_E4M3)
        return row * slk_linear_e4m3_stride(f) + k;
    if (f->bits == 8)
        return unit * 1024 + half * 512 + lane * 16 + high * 8 + place[j];
    *shift = (int)((j / 2 + j % 2 * 4) * 4 + 3) % 32;
    return unit * 512 + lane * 16 + (half * 2 + high) * 4;
}

static uint32_t turned_left(uint32_t x, int by) { return by == 0 ? x : x << by | x >> (32 - by); }

static void put_code(const sl_q_format *f, uint8_t *blob, int64_t row, int64_t k, uint8_t code) {
    int shift;
    uint8_t *at = blob + code_at(f, row, k, &shift);
    if (f->bits == 8) {
        *at = code;
        return;
    }
    uint32_t word = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    word = (word & ~turned_left(15, shift)) | turned_left(code, shift);
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(word >> 8 * i);
}

/* Codes of inputs k .. k + 7, k a multiple of 8: one word of 4 bits. */
static void put_eight(const sl_q_format *f, uint8_t *blob, int64_t row, int64_t k, const uint8_t *codes) {
    int shift;
    uint8_t *at = blob + code_at(f, row, k, &shift);
    uint32_t word = 0;
    if (f->bits == 8) {
        const uint8_t eight[8] = {codes[0], codes[2], codes[1], codes[3], codes[4], codes[6], codes[5], codes[7]};
        memcpy(at, eight, 8);
        return;
    }
    for (int j = 0; j < 8; j++)
        word |= (uint32_t)codes[j] << (j / 2 * 4 + j % 2 * 16);
    word = turned_left(word, 3);
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(word >> 8 * i);
}

static uint8_t get_code(const sl_q_format *f, const uint8_t *blob, int64_t row, int64_t k) {
    int shift;
    const uint8_t *at = blob + code_at(f, row, k, &shift);
    if (f->bits == 8)
        return *at;
    const uint32_t word = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    return turned_left(word, (32 - shift) % 32) & 15;
}

static int64_t scale_at(const sl_q_format *f, int64_t row, int64_t group) {
    const int64_t entry = (row / SLK_LINEAR_TILE * groups_of(f) + group) * 8 + row % 8;
    return slk_linear_scales_at(f) + entry * (f->asymmetric ? 8 : 4) + row % 16 / 8 * 2;
}

/* A zero as it stands in the blob: bf16 of 128 + zero for 4 bits, of zero for 8. */
static void put_scale(const sl_q_format *f, uint8_t *blob, int64_t row, int64_t group, uint16_t scale, uint8_t zero) {
    uint8_t *at = blob + scale_at(f, row, group);
    const uint16_t z = slk_bf16_of_f32(f->bits == 4 ? 128.0f + zero : zero);
    memcpy(at, &scale, 2);
    if (f->asymmetric)
        memcpy(at + 4, &z, 2);
}

/* Rows and inputs that are not there have codes that stand for zero; 0x44: eights, turned. */
static void clear(const sl_q_format *f, uint8_t *blob) {
    memset(blob, f->kind == SL_Q_E4M3 ? 0 : f->bits == 8 ? 128 : 0x44, (size_t)slk_linear_scales_at(f));
    memset(blob + slk_linear_scales_at(f), 0, (size_t)(slk_linear_pack_bytes(f) - slk_linear_scales_at(f)));
}

static sl_status pack_integers(const sl_q_format *f, const float *row, int64_t n, uint8_t *blob, uint8_t *packed,
                               sl_error *err) {
    const int64_t g = slk_linear_group(f);
    const slk_q_format q = {f->bits, (uint32_t)(groups_of(f) == 1 ? 0 : g), f->asymmetric};
    SL_TRY(slk_q_pack(&q, row, f->k, 1, f->k, packed, err));
    const uint8_t *block = packed;
    for (int64_t k0 = 0; k0 < f->k; k0 += g, block += slk_q_block_bytes(&q, f->k)) {
        put_scale(f, blob, n, k0 / g, (uint16_t)(block[0] | block[1] << 8), f->asymmetric ? block[2] : 0);
        const uint8_t *codes = block + slk_q_header_bytes(&q);
        for (int64_t i = 0; i < g && k0 + i < f->k; i += 8) {
            uint8_t four[8] = {0};
            for (int64_t j = 0; f->bits == 4 && j < 8; j++)
                four[j] = codes[i / 32 * 16 + i % 16 + j] >> (i % 32 < 16 ? 0 : 4) & 15;
            put_eight(f, blob, n, k0 + i, f->bits == 8 ? codes + i : four);
        }
    }
    return SL_OK;
}

static sl_status pack_e4m3(const sl_q_format *f, const float *row, int64_t n, uint8_t *blob, sl_error *err) {
    float most = 0;
    for (int64_t k = 0; k < f->k; k++) {
        if (!isfinite(row[k]))
            return sl_fail(err, SL_E_DATA, "a weight is not a finite number");
        most = fabsf(row[k]) > most ? fabsf(row[k]) : most;
    }
    /* A scale below the smallest normal number would round away. */
    const float least = most / 448.0f, scale = most == 0 ? 1.0f : least < 0x1p-126f ? 0x1p-126f : least;
    memcpy(blob + slk_linear_scales_at(f) + n * 4, &scale, 4);
    for (int64_t k = 0; k < f->k; k++)
        put_code(f, blob, n, k, slk_e4m3_of_f32(row[k] / scale));
    return SL_OK;
}

static void widen(float *dst, const void *src, sl_dtype dtype, int64_t n) {
    const uint16_t *half = src;
    if (dtype == SL_F32)
        memcpy(dst, src, (size_t)n * sizeof *dst);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = dtype == SL_F16 ? slk_f32_of_f16(half[i]) : slk_f32_of_bf16(half[i]);
}

typedef struct pack_job {
    const sl_q_format *f;
    const sl_tensor *w;
    uint8_t *blob;
    _Atomic int64_t failed; /* the first row that was not packed; n: none */
} pack_job;

/* Rows [begin, end): whole tiles, whose bytes nobody else writes. */
static sl_status pack_rows(const pack_job *job, int64_t begin, int64_t end, int64_t *failed, sl_error *err) {
    const sl_q_format *f = job->f;
    const sl_tensor *w = job->w;
    const int64_t bytes = w->dtype == SL_F32 ? 4 : 2;
    float *row = malloc((size_t)f->k * sizeof *row);
    uint8_t *packed =
        malloc((size_t)(f->k * 2 + 64)); /* a row in the CPU's form: 8 bits, 4 bytes for 32 codes at most */
    sl_status s = row != NULL && packed != NULL
                      ? SL_OK
                      : sl_fail(err, SL_E_NO_MEMORY, "no memory to pack a row of %lld weights", (long long)f->k);
    int64_t n = begin;
    for (; s >= 0 && n < end; n += s >= 0) {
        widen(row, (const char *)w->data + n * w->stride[0] * bytes, w->dtype, f->k);
        s = f->kind == SL_Q_E4M3 ? pack_e4m3(f, row, n, job->blob, err)
                                 : pack_integers(f, row, n, job->blob, packed, err);
        if (s < 0)
            sl_fail_within(err, s, "row %lld", (long long)n);
    }
    *failed = n;
    free(row);
    free(packed);
    return s;
}

static void pack_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    pack_job *job = user;
    int64_t failed, first = atomic_load(&job->failed);
    (void)worker;
    if (pack_rows(job, begin, end, &failed, NULL) < 0)
        while (failed < first && !atomic_compare_exchange_weak(&job->failed, &first, failed)) {
        }
}

sl_status slk_linear_pack(const sl_host *host, const sl_q_format *f, const sl_tensor *w, void *blob, sl_error *err) {
    SL_TRY(check(f, err));
    if (w->ndim != 2 || w->shape[0] != f->n || w->shape[1] != f->k || w->stride[1] != 1 ||
        (w->dtype != SL_F32 && w->dtype != SL_F16 && w->dtype != SL_BF16))
        return sl_fail(err, SL_E_INVALID, "the matrix to be packed must be [%lld, %lld] of f32, f16 or bf16",
                       (long long)f->n, (long long)f->k);
    clear(f, blob);
    pack_job job = {.f = f, .w = w, .blob = blob, .failed = 0};
    const sl_threads *threads = host != NULL ? host->query(host, SL_THREADS_ID) : NULL;
    if (threads != NULL) {
        atomic_store(&job.failed, f->n);
        threads->parallel_for(host, f->n, SLK_LINEAR_TILE, pack_range, &job);
    }
    /* Alone; or again from the row that failed, for its message. */
    int64_t failed;
    return pack_rows(&job, atomic_load(&job.failed), f->n, &failed, err);
}

sl_status slk_linear_unpack(const sl_q_format *f, const void *data, float *w) {
    SL_TRY(check(f, NULL));
    const uint8_t *blob = data;
    const int64_t g = slk_linear_group(f);
    for (int64_t n = 0; n < f->n; n++)
        for (int64_t k = 0; k < f->k; k++) {
            const uint8_t code = get_code(f, blob, n, k);
            if (f->kind == SL_Q_E4M3) {
                float scale;
                memcpy(&scale, blob + slk_linear_scales_at(f) + n * 4, 4);
                w[n * f->k + k] = slk_f32_of_e4m3(code) * scale;
                continue;
            }
            const uint8_t *at = blob + scale_at(f, n, k / g);
            uint16_t scale, z;
            memcpy(&scale, at, 2);
            memcpy(&z, f->asymmetric ? at + 4 : at, 2);
            const float zero =
                !f->asymmetric ? (f->bits == 8 ? 128.0f : 8.0f) : slk_f32_of_bf16(z) - (f->bits == 4 ? 128.0f : 0.0f);
            w[n * f->k + k] = ((float)code - zero) * slk_f32_of_f16(scale);
        }
    return SL_OK;
}

sl_status slk_linear_pack_codes(const sl_q_format *f, const uint8_t *code, const uint16_t *scale, const uint8_t *zero,
                                void *blob, sl_error *err) {
    SL_TRY(check(f, err));
    if (f->kind != SL_Q_INTEGER)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "codes of e4m3 weights cannot be given");
    const int64_t g = slk_linear_group(f), groups = groups_of(f);
    const uint32_t top = f->bits == 8 ? 255 : 15;
    clear(f, blob);
    for (int64_t n = 0; n < f->n; n++) {
        for (int64_t i = 0; i < groups; i++) {
            const uint16_t s = scale[n * groups + i];
            const uint32_t z = f->asymmetric && zero != NULL ? zero[n * groups + i] : (top + 1) / 2;
            if ((s & 0x7c00) == 0x7c00 || z > top)
                return sl_fail(err, SL_E_DATA, "row %lld, group at input %lld: scale or zero out of range",
                               (long long)n, (long long)(i * g));
            put_scale(f, blob, n, i, s, (uint8_t)z);
        }
        for (int64_t k = 0; k < f->k; k++) {
            if (code[n * f->k + k] > top)
                return sl_fail(err, SL_E_DATA, "row %lld, input %lld: code %u has more than %u bits", (long long)n,
                               (long long)k, code[n * f->k + k], f->bits);
            put_code(f, blob, n, k, code[n * f->k + k]);
        }
    }
    return SL_OK;
}

uint8_t slk_e4m3_of_f32(float x) {
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    const float a = fabsf(x);
    int exponent;
    if (a >= 448.0f)
        return sign | 0x7e;
    if (a < 0x1p-6f) /* a multiple of 2^-9; 8 of them are the smallest normal number */
        return (uint8_t)(sign | (int)rintf(a * 512.0f));
    frexpf(a, &exponent);                                  /* a = m 2^exponent, 0.5 <= m < 1 */
    const int m = (int)rintf(ldexpf(a, 4 - exponent));     /* 8 .. 16 */
    return (uint8_t)(sign | ((exponent + 6) * 8 + m - 8)); /* 16 carries into the exponent */
}

float slk_f32_of_e4m3(uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const float a = (code & 0x7f) == 0x7f ? NAN
                    : exponent == 0       ? ldexpf((float)mantissa, -9)
                                          : ldexpf((float)(mantissa + 8), exponent - 10);
    return code & 0x80 ? -a : a;
}
