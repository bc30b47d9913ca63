/* Packers for the device, on the CPU: values are those of the CPU's packer, and lanes find them where kernels look. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gemm_pack.h"
#include "half.h"
#include "linear_cuda.h"
#include "linear_pack.h"
#include "random_value.h"
#include "sl_error.h"

static const sl_q_format formats[] = {
    {SL_SIZE(sl_q_format), 16, 64, 64, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 17, 72, 32, 4, 1, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 33, 328, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 5, 200, 96, 4, 1, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 20, 136, 136, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 20, 136, 0, 8, 1, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 31, 256, 1 << 20, 8, 0, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 48, 104, 32, 8, 0, SL_Q_CUDA, SL_Q_INTEGER},
    {SL_SIZE(sl_q_format), 1, 8, 32, 8, 1, SL_Q_CUDA, SL_Q_INTEGER},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static float *random_matrix(const sl_q_format *f, uint64_t seed) {
    float *w = malloc((size_t)(f->n * f->k) * sizeof *w);
    for (int64_t i = 0; i < f->n * f->k; i++)
        w[i] = slk_random_value(seed, (uint64_t)i) * (i / f->k == 2 ? 0.0f : 0.1f + 0.3f * (float)(i / 32 % 3));
    return w;
}

static sl_tensor tensor_of(const sl_q_format *f, float *w) {
    return (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                       .data = w,
                       .shape = {f->n, f->k},
                       .stride = {f->k, 1},
                       .dtype = SL_F32,
                       .ndim = 2};
}

static int64_t group_of(const sl_q_format *f) { return f->group == 0 || f->group >= f->k ? 0 : f->group; }

static void values_are_the_cpus(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const sl_q_format *f = &formats[i];
        const int64_t n = f->n * f->k;
        float *w = random_matrix(f, (uint64_t)i), *got = malloc((size_t)n * 4), *want = malloc((size_t)n * 4);
        const sl_tensor t = tensor_of(f, w);
        const slk_q_format q = {f->bits, (uint32_t)group_of(f), f->asymmetric};
        void *blob = malloc((size_t)slk_linear_pack_bytes(f)),
             *cpu = malloc((size_t)(f->n * slk_q_row_bytes(&q, f->k)));
        assert_int_equal(slk_linear_pack(NULL, f, &t, blob, NULL), SL_OK);
        assert_int_equal(slk_linear_unpack(f, blob, got), SL_OK);
        assert_int_equal(slk_q_pack(&q, w, f->k, f->n, f->k, cpu, NULL), SL_OK);
        slk_q_unpack(&q, cpu, f->n, f->k, want, f->k);
        for (int64_t j = 0; j < n; j++)
            if (got[j] != want[j])
                fail_msg("format %d: row %d, input %d: %g, not %g", i, (int)(j / f->k), (int)(j % f->k), (double)got[j],
                         (double)want[j]);
        free(w), free(got), free(want), free(blob), free(cpu);
    }
}

static void codes_come_back(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const sl_q_format *f = &formats[i];
        const int64_t n = f->n * f->k, g = slk_linear_group(f), groups = (f->k + g - 1) / g,
                      top = f->bits == 8 ? 255 : 15;
        uint8_t *code = malloc((size_t)n), *zero = malloc((size_t)(f->n * groups));
        uint16_t *scale = malloc((size_t)(f->n * groups) * 2);
        float *got = malloc((size_t)n * 4);
        void *blob = malloc((size_t)slk_linear_pack_bytes(f));
        for (int64_t j = 0; j < n; j++)
            code[j] = (uint8_t)((j * 7 + j / f->k) % (top + 1));
        for (int64_t j = 0; j < f->n * groups; j++) {
            scale[j] = slk_f16_of_f32(0.5f + (float)(j % 5));
            zero[j] = (uint8_t)(j * 3 % (top + 1));
        }
        assert_int_equal(slk_linear_pack_codes(f, code, scale, f->asymmetric ? zero : NULL, blob, NULL), SL_OK);
        assert_int_equal(slk_linear_unpack(f, blob, got), SL_OK);
        for (int64_t j = 0; j < n; j++) {
            const int64_t at = j / f->k * groups + j % f->k / g;
            const float z = f->asymmetric ? zero[at] : (float)(top + 1) / 2;
            assert_true(got[j] == ((float)code[j] - z) * slk_f32_of_f16(scale[at]));
        }
        scale[0] = 0x7c00;
        assert_int_equal(slk_linear_pack_codes(f, code, scale, f->asymmetric ? zero : NULL, blob, NULL), SL_E_DATA);
        free(code), free(zero), free(scale), free(got), free(blob);
    }
}

/* What a lane reads, as qlinear.cu takes it apart: value `i` of row `high` in half `half`. */
static float value_of_lane(const sl_q_format *f, const uint8_t *blob, int64_t tile, int64_t chunk, int lane, int half,
                           int high, int i) {
    const int64_t unit = tile * ((f->k + 63) / 64) + chunk;
    if (f->kind == SL_Q_E4M3)
        return slk_f32_of_e4m3(
            blob[(tile * 16 + high * 8 + lane / 4) * 144 + chunk * 64 + lane % 4 * 16 + half * 8 + i]);
    uint32_t words[4];
    memcpy(words, blob + unit * (f->bits == 8 ? 1024 : 512) + (f->bits == 8 ? half * 512 : 0) + lane * 16, 16);
    if (f->bits == 8) {
        const uint32_t four = words[high * 2 + i / 4], two = i % 4 < 2 ? four : four >> 8;
        const uint32_t a = (two & 0x007f007f) | 0x43004300, b = (~two & 0x00800080) | 0xc300c300;
        return slk_f32_of_bf16((uint16_t)(a >> i % 2 * 16)) + slk_f32_of_bf16((uint16_t)(b >> i % 2 * 16));
    }
    const uint32_t word = words[half * 2 + high], turn = (uint32_t)i / 2 * 4;
    const uint32_t pair = ((turn == 0 ? word : word >> turn | word << (32 - turn)) & 0x00780078) | 0x41804180;
    return slk_f32_of_bf16((uint16_t)(pair >> i % 2 * 16)) - 24;
}

static void lanes_find_their_values(void **state) {
    (void)state;
    static const sl_q_format kinds[] = {
        {SL_SIZE(sl_q_format), 23, 136, 136, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
        {SL_SIZE(sl_q_format), 23, 136, 136, 8, 0, SL_Q_CUDA, SL_Q_INTEGER},
        {SL_SIZE(sl_q_format), 23, 136, 136, 8, 0, SL_Q_CUDA, SL_Q_E4M3},
    };
    for (int i = 0; i < 3; i++) {
        const sl_q_format *f = &kinds[i];
        float *w = random_matrix(f, 5), *values = malloc((size_t)(f->n * f->k) * 4);
        const sl_tensor t = tensor_of(f, w);
        uint8_t *blob = malloc((size_t)slk_linear_pack_bytes(f));
        assert_int_equal(slk_linear_pack(NULL, f, &t, blob, NULL), SL_OK);
        assert_int_equal(slk_linear_unpack(f, blob, values), SL_OK);
        for (int64_t tile = 0; tile < 2; tile++)
            for (int at = 0; at < 3 * 32 * 2 * 2 * 8; at++) {
                const int chunk = at / 1024, lane = at / 32 % 32, half = at / 16 % 2, high = at / 8 % 2, j = at % 8;
                const int64_t row = tile * 16 + high * 8 + lane / 4;
                const int64_t k = f->kind == SL_Q_E4M3 ? chunk * 64 + lane % 4 * 16 + half * 8 + j
                                                       : chunk * 64 + half * 32 + lane % 4 * 8 + j;
                if (f->kind == SL_Q_E4M3 && (row >= f->n || k >= 144)) /* not asked for */
                    continue;
                float got = value_of_lane(f, blob, tile, chunk, lane, half, high, j), scale = 0, want = 0;
                if (row < f->n && k < f->k) {
                    const uint8_t *s = blob + slk_linear_scales_at(f);
                    uint16_t bits;
                    if (f->kind == SL_Q_E4M3)
                        memcpy(&scale, s + row * 4, 4);
                    else
                        memcpy(&bits, s + (tile * 8 + row % 8) * 4 + high * 2, 2), scale = slk_f32_of_f16(bits);
                    want = values[row * f->k + k];
                    got *= scale;
                }
                if (got != want)
                    fail_msg("kind %d: row %d, input %d: %g, not %g", i, (int)row, (int)k, (double)got, (double)want);
            }
        free(w), free(values), free(blob);
    }
}

static void e4m3_rounds_to_the_nearest(void **state) {
    (void)state;
    for (int code = 0; code < 256; code++)
        if ((code & 0x7f) != 0x7f)
            assert_int_equal(slk_e4m3_of_f32(slk_f32_of_e4m3((uint8_t)code)), code);
    for (int code = 0; code < 0x7e; code++) { /* between neighbours; the middle goes to the even one */
        const float a = slk_f32_of_e4m3((uint8_t)code), b = slk_f32_of_e4m3((uint8_t)(code + 1)), middle = (a + b) / 2;
        assert_int_equal(slk_e4m3_of_f32(nextafterf(middle, 0)), code);
        assert_int_equal(slk_e4m3_of_f32(middle), code + code % 2);
        assert_int_equal(slk_e4m3_of_f32(-nextafterf(middle, 1000)), 0x80 | (code + 1));
    }
    assert_int_equal(slk_e4m3_of_f32(1e30f), 0x7e);
    assert_true(slk_f32_of_e4m3(0x7e) == 448.0f && slk_f32_of_e4m3(0x08) == 0x1p-6f && slk_f32_of_e4m3(1) == 0x1p-9f);
}

static void rows_of_e4m3_are_near(void **state) {
    (void)state;
    const sl_q_format f = {SL_SIZE(sl_q_format), 19, 72, 72, 8, 0, SL_Q_CUDA, SL_Q_E4M3};
    float *w = random_matrix(&f, 9), *got = malloc((size_t)(f.n * f.k) * 4);
    const sl_tensor t = tensor_of(&f, w);
    void *blob = malloc((size_t)slk_linear_pack_bytes(&f));
    assert_int_equal(slk_linear_pack(NULL, &f, &t, blob, NULL), SL_OK);
    assert_int_equal(slk_linear_unpack(&f, blob, got), SL_OK);
    for (int64_t n = 0; n < f.n; n++) {
        float most = 0;
        for (int64_t k = 0; k < f.k; k++)
            most = fmaxf(most, fabsf(w[n * f.k + k]));
        for (int64_t k = 0; k < f.k; k++) /* 3 bits of mantissa, or half of the smallest step */
            assert_true(fabsf(got[n * f.k + k] - w[n * f.k + k]) <=
                        fmaxf(fabsf(w[n * f.k + k]) / 16, most / 448 * 0x1p-10f) * 1.0001f);
    }
    free(w), free(got), free(blob);
}

static void wrong_formats_are_refused(void **state) {
    (void)state;
    static const sl_q_format wrong[] = {
        {SL_SIZE(sl_q_format), 16, 60, 32, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
        {SL_SIZE(sl_q_format), 16, 64, 48, 4, 0, SL_Q_CUDA, SL_Q_INTEGER},
        {SL_SIZE(sl_q_format), 16, 64, 64, 3, 0, SL_Q_CUDA, SL_Q_INTEGER},
        {SL_SIZE(sl_q_format), 16, 64, 32, 8, 0, SL_Q_CUDA, SL_Q_E4M3},
        {SL_SIZE(sl_q_format), 0, 64, 32, 8, 0, SL_Q_CUDA, SL_Q_INTEGER},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SL_ERROR(err);
        float w[1024] = {0};
        const sl_tensor t = tensor_of(&wrong[i], w);
        assert_int_equal(slk_linear_pack_bytes(&wrong[i]), 0);
        assert_int_equal(slk_linear_pack(NULL, &wrong[i], &t, NULL, &err), SL_E_UNIMPLEMENTED);
        assert_non_null(strstr(err.text, "no packed format"));
    }
    float w[64] = {[7] = NAN};
    const sl_q_format f = {SL_SIZE(sl_q_format), 1, 64, 64, 8, 0, SL_Q_CUDA, SL_Q_E4M3};
    const sl_tensor t = tensor_of(&f, w);
    void *blob = malloc((size_t)slk_linear_pack_bytes(&f));
    assert_int_equal(slk_linear_pack(NULL, &f, &t, blob, NULL), SL_E_DATA);
    free(blob);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_the_cpus),     cmocka_unit_test(codes_come_back),
        cmocka_unit_test(lanes_find_their_values), cmocka_unit_test(e4m3_rounds_to_the_nearest),
        cmocka_unit_test(rows_of_e4m3_are_near),   cmocka_unit_test(wrong_formats_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
