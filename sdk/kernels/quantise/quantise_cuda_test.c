/* Rows coded on a device, against sl_minmax.c: all bytes of all pools, those between and beside the codes too. */
#include "testhost_rows.h"

#include "sl_minmax.h"

typedef struct setup {
    int32_t layers, seqs, heads, dim[2], bits[2], group, page_rows, pages; /* pages of a sequence */
    sl_dtype dtype;
} setup;

enum { GAP = 16 }; /* bytes behind each row of a page, of plain rows and of codes */

typedef struct side {
    slk_quantise_side s;
    int64_t plain_bytes, code_bytes, scale_bytes; /* of a pool */
} side;

static side lay_out(const setup *u, int which, int32_t n_pages) {
    const int64_t d = u->dim[which], bits = u->bits[which], row = d * bits / 8, element = slt_element(u->dtype);
    side x = {.s = {.plain_head = d * element,
                    .plain_row = u->heads * d * element + GAP,
                    .head = row,
                    .row = u->heads * row + GAP,
                    .dim = (int32_t)d,
                    .bits = (int32_t)bits,
                    .group = u->group}};
    x.s.plain_page = u->page_rows * x.s.plain_row;
    x.s.page = u->page_rows * x.s.row;
    x.s.scale_group = which == 0 ? u->heads * d * 2 : u->heads * d / u->group * 2;
    x.s.scale_page = x.s.scale_group * (which == 0 ? u->page_rows / u->group : u->page_rows) + GAP;
    x.plain_bytes = n_pages * x.s.plain_page;
    x.code_bytes = n_pages * x.s.page;
    x.scale_bytes = n_pages * x.s.scale_page;
    return x;
}

static uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* Numbers of all sizes; groups that are constant, nearly so, huge, or hold what is no number. */
static float number(uint32_t i, uint32_t group) {
    const float x = (float)(int32_t)mix(i) / 2147483648.0f;
    switch (mix(group) % 9) {
    case 0: return 3.25f;
    case 1: return 1000.0f + x * 1e-3f;
    case 2: return x * 3e38f;
    case 3: return x * 1e-7f;
    case 4: return i % 17 == 0 ? INFINITY : x;
    case 5: return i % 13 == 0 ? NAN : x;
    case 6: return i % 2 ? -0.0f : 0.0f;
    default: return x * 4.0f;
    }
}

static void fill_plain(const setup *u, const side *x, char *pool, uint32_t seed) {
    const int64_t element = slt_element(u->dtype);
    memset(pool, 0x77, (size_t)x->plain_bytes);
    for (int64_t at = 0, i = 0; at < x->plain_bytes; at += x->s.plain_row)
        for (int64_t c = 0; c < u->heads * x->s.dim; c++, i++) {
            const float v = number((uint32_t)i * 7 + seed, (uint32_t)(c / u->group * 31 + at / x->s.plain_page) + seed);
            const uint16_t half = slt_narrow(u->dtype, v);
            if (u->dtype == SL_F32)
                memcpy(pool + at + c * element, &v, 4);
            else
                memcpy(pool + at + c * element, &half, 2);
        }
}

static void widen_row(const setup *u, const char *row, int64_t n, float *x) {
    for (int64_t c = 0; c < n; c++) {
        uint16_t half;
        if (u->dtype == SL_F32) {
            memcpy(&x[c], row + 4 * c, 4);
            continue;
        }
        memcpy(&half, row + 2 * c, 2);
        x[c] = slt_widen(u->dtype, half);
    }
}

/* The job in memory of the host. */
static void want_job(const setup *u, const side *x, int which, const char *plain, char *codes, char *scale, char *zero,
                     int32_t from, int32_t to, int32_t first, int32_t n) {
    float rows[128 * 256];
    uint8_t packed[128 * 256];
    const int64_t d = x->s.dim, bytes = d * x->s.bits / 8;
    for (int32_t h = 0; h < u->heads; h++) {
        for (int32_t r = 0; r < n; r++)
            widen_row(u, plain + from * x->s.plain_page + (first + r) * x->s.plain_row + h * x->s.plain_head, d,
                      rows + r * d);
        const int64_t scales = which == 0 ? d : d / u->group;
        uint16_t *s = slt_alloc(scales, 2), *z = slt_alloc(scales, 2);
        for (int32_t r = 0; r < (which == 0 ? 1 : n); r++) {
            if (which == 0)
                sl_minmax_channels(rows, n, d, x->s.bits, packed, s, z);
            else
                sl_minmax_row(rows + r * d, d, u->group, x->s.bits, packed + r * bytes, s, z);
            const int64_t at =
                to * x->s.scale_page + (which == 0 ? first / u->group : first + r) * x->s.scale_group + h * scales * 2;
            memcpy(scale + at, s, 2 * (size_t)scales);
            memcpy(zero + at, z, 2 * (size_t)scales);
        }
        for (int32_t r = 0; r < n; r++)
            memcpy(codes + to * x->s.page + (first + r) * x->s.row + h * x->s.head, packed + r * bytes, (size_t)bytes);
        free(s), free(z);
    }
}

static void compare(slt_host *h, const char *what, int32_t layer, int which, const char *part, const char *want,
                    const void *device, int64_t bytes) {
    char text[160], *got = slt_alloc(bytes, 1);
    slt_download(h, got, device, bytes);
    snprintf(text, sizeof text, "%s: layer %d, %s, %s", what, layer, which == 0 ? "keys" : "values", part);
    slt_same_bytes(text, want, got, bytes);
    free(got);
}

static void try_quantise(slt_host *h, setup u, const char *name) {
    const int32_t n_pages = u.seqs * u.pages, slots = u.pages * u.page_rows;
    int32_t *pages = slt_alloc(n_pages, 4), *plain_pages = slt_alloc(n_pages, 4), *job[4], n = 0;
    for (int32_t i = 0; i < n_pages; i++) { /* permutations: both factors are prime */
        pages[i] = (int32_t)(((int64_t)i * 7919 + 13) % n_pages);
        plain_pages[i] = (int32_t)(((int64_t)i * 104729 + 5) % n_pages);
    }
    for (int c = 0; c < 4; c++)
        job[c] = slt_alloc(2 * u.seqs * slots, 4);
    for (int32_t q = 0; q < u.seqs; q++) { /* sequence, begin, end, side */
        for (int32_t at = 0; u.bits[0] > 0 && at < slots; at += u.group)
            if (mix((uint32_t)(q * slots + at)) % 4 > 0)
                job[0][n] = q, job[1][n] = at, job[2][n] = at + u.group, job[3][n++] = 0;
        for (int32_t at = 0, end; u.bits[1] > 0 && at < slots; at = end) {
            const int32_t page_end = (at / u.page_rows + 1) * u.page_rows;
            end = at + 1 + (int32_t)(mix((uint32_t)(q * 31 + at)) % (uint32_t)u.page_rows);
            end = end < page_end ? end : page_end;
            if (mix((uint32_t)(q * slots + at) + 99) % 3 > 0)
                job[0][n] = q, job[1][n] = at, job[2][n] = end, job[3][n++] = 1;
        }
    }
    const side sides[2] = {lay_out(&u, 0, n_pages), lay_out(&u, 1, n_pages)};
    slk_quantise_params p = {.seq = slt_upload(h, job[0], 4 * (n + 1)),
                             .begin = slt_upload(h, job[1], 4 * (n + 1)),
                             .end = slt_upload(h, job[2], 4 * (n + 1)),
                             .side = slt_upload(h, job[3], 4 * (n + 1)),
                             .pages = slt_upload(h, pages, 4 * n_pages),
                             .plain_pages = slt_upload(h, plain_pages, 4 * n_pages),
                             .pages_stride = u.pages,
                             .plain_pages_stride = u.pages,
                             .of = {sides[0].s, sides[1].s},
                             .n_jobs = n,
                             .heads = u.heads,
                             .page_rows = u.page_rows};
    slk_quantise_layer *layers = slt_alloc(u.layers, sizeof *layers);
    char **want = slt_alloc(6 * u.layers, sizeof *want);
    for (int32_t l = 0; l < u.layers; l++)
        for (int w = 0; w < 2; w++) {
            const side *x = &sides[w];
            char *plain = slt_alloc(x->plain_bytes, 1), **at = &want[6 * l + 3 * w];
            fill_plain(&u, x, plain, (uint32_t)(l * 2 + w) * 1000003u);
            layers[l].plain[w] = slt_upload(h, plain, x->plain_bytes);
            const int64_t bytes[3] = {x->code_bytes, x->scale_bytes, x->scale_bytes};
            for (int i = 0; i < 3 && x->s.bits > 0; i++) {
                at[i] = slt_alloc(bytes[i], 1);
                memset(at[i], 0x33 + i, (size_t)bytes[i]);
            }
            if (x->s.bits > 0) {
                layers[l].codes[w] = slt_upload(h, at[0], bytes[0]);
                layers[l].scale[w] = slt_upload(h, at[1], bytes[1]);
                layers[l].zero[w] = slt_upload(h, at[2], bytes[2]);
            }
            for (int32_t j = 0; j < n; j++) {
                const int32_t entry = job[0][j] * u.pages + job[1][j] / u.page_rows;
                if (job[3][j] == w)
                    want_job(&u, x, w, plain, at[0], at[1], at[2], plain_pages[entry], pages[entry],
                             job[1][j] % u.page_rows, job[2][j] - job[1][j]);
            }
            free(plain);
        }
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, layers, u.layers, u.dtype), SL_OK);
    for (int32_t l = 0; l < u.layers; l++)
        for (int w = 0; w < 2; w++)
            if (u.bits[w] > 0) {
                char **at = &want[6 * l + 3 * w];
                compare(h, name, l, w, "codes", at[0], layers[l].codes[w], sides[w].code_bytes);
                compare(h, name, l, w, "scales", at[1], layers[l].scale[w], sides[w].scale_bytes);
                compare(h, name, l, w, "minima", at[2], layers[l].zero[w], sides[w].scale_bytes);
            }
    print_message("%-44s %d jobs, %d layers: the same bytes\n", name, n, u.layers);
    for (int32_t i = 0; i < 6 * u.layers; i++)
        free(want[i]);
    for (int c = 0; c < 4; c++)
        free(job[c]);
    free(want), free(layers), free(pages), free(plain_pages);
}

static void test_bytes(void **state) {
    slt_host *h = slt_get(state);
    try_quantise(h, (setup){2, 3, 2, {128, 128}, {4, 4}, 32, 32, 3, SL_BF16}, "4 bits, groups of 32");
    try_quantise(h, (setup){2, 2, 8, {128, 128}, {2, 2}, 32, 32, 4, SL_BF16}, "2 bits, groups of 32");
    try_quantise(h, (setup){1, 2, 3, {64, 64}, {8, 8}, 64, 64, 3, SL_BF16}, "8 bits, groups of 64");
    try_quantise(h, (setup){1, 2, 1, {256, 128}, {2, 8}, 128, 128, 2, SL_BF16}, "2 and 8 bits, groups of 128");
    try_quantise(h, (setup){1, 2, 2, {96, 64}, {8, 2}, 64, 128, 2, SL_F16}, "8 and 2 bits, two groups a page, f16");
    try_quantise(h, (setup){1, 2, 2, {160, 128}, {4, 4}, 128, 128, 2, SL_F32}, "4 bits, groups of 128, f32");
    try_quantise(h, (setup){70, 1, 1, {32, 32}, {4, 2}, 32, 32, 2, SL_BF16}, "more layers than a launch takes");
    try_quantise(h, (setup){1, 2, 2, {64, 64}, {0, 4}, 32, 32, 3, SL_BF16}, "values alone");
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    const setup u = {1, 1, 1, {64, 64}, {4, 4}, 32, 32, 1, SL_BF16};
    const slk_quantise_layer layer = {.plain = {NULL, NULL}};
    const slk_quantise_params good = {.of = {lay_out(&u, 0, 1).s, lay_out(&u, 1, 1).s}, .heads = 1, .page_rows = 32};
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &good, &layer, 1, SL_BF16), SL_OK); /* no job: nothing */
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &good, &layer, 1, SL_U8), SL_E_UNIMPLEMENTED);
    slk_quantise_params p = good;
    p.of[0].bits = 3;
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, &layer, 1, SL_BF16), SL_E_UNIMPLEMENTED);
    p = good, p.of[1].dim = 80;
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, &layer, 1, SL_BF16), SL_E_INVALID);
    p = good, p.of[1].group = 128;
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, &layer, 1, SL_BF16), SL_E_INVALID);
    p = good, p.of[0].group = 64;
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, &layer, 1, SL_BF16), SL_E_INVALID);
    p = good, p.of[0].row = 66;
    assert_int_equal(slk_cuda_quantise(&h->k, h->lane, &p, &layer, 1, SL_BF16), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bytes), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("quantise_cuda", tests, slt_setup, slt_teardown);
}
