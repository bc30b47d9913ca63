/* Rows that stay, gathered to the front of their heads, against the same on the host: all bytes of both pools. */
#include "testhost_rows.h"

typedef struct setup {
    int32_t heads, k_bytes, v_bytes, page_rows, pages; /* pages of the sequence */
    int32_t head_tables;                               /* 1: a page table a head */
    int32_t share;                                     /* rows that stay, of 8 */
} setup;

static char *host_row(char *pool, const int32_t *pages, int32_t slot, const setup *s, int32_t head, int32_t bytes) {
    const int64_t page = pages[slot / s->page_rows];
    return pool + ((page * s->page_rows + slot % s->page_rows) * s->heads + head) * bytes;
}

static void try_keep(slt_host *h, setup s, uint32_t seed, const char *name) {
    const int32_t tables = s.head_tables ? s.heads : 1, n_pages = tables * s.pages, rows = s.pages * s.page_rows;
    const int64_t places = (int64_t)n_pages * s.page_rows * s.heads, bytes[2] = {s.k_bytes, s.v_bytes};
    int32_t *pages = slt_alloc(n_pages, 4), *begin = slt_alloc(s.heads + 1, 4),
            *keep = slt_alloc((int64_t)s.heads * rows + 1, 4);
    char *pool[2], *device[2];
    uint32_t x = seed;
    for (int32_t i = 0; i < n_pages; i++) /* a permutation: 7919 is prime */
        pages[i] = (int32_t)(((int64_t)i * 7919 + 13) % n_pages);
    begin[0] = 0;
    for (int32_t head = 0; head < s.heads; head++) {
        int32_t n = begin[head];
        for (int32_t slot = 0; slot < rows - head; slot++) { /* heads of other lengths; a run in front that stays */
            x = x * 1664525u + 1013904223u;
            if ((int32_t)(x >> 29) < s.share || slot < head * 70)
                keep[n++] = slot;
        }
        begin[head + 1] = n;
    }
    for (int side = 0; side < 2; side++) {
        pool[side] = slt_alloc(places * bytes[side], 1);
        for (int64_t i = 0; i < places * bytes[side]; i++)
            pool[side][i] = (char)(((uint64_t)i * 2654435761u + (uint64_t)side * 77) >> 13);
        device[side] = slt_upload(h, pool[side], places * bytes[side]);
        for (int32_t head = 0; head < s.heads; head++)
            for (int32_t i = begin[head]; i < begin[head + 1]; i++) {
                const int32_t *t = pages + (s.head_tables ? head * s.pages : 0);
                memmove(host_row(pool[side], t, i - begin[head], &s, head, (int32_t)bytes[side]),
                        host_row(pool[side], t, keep[i], &s, head, (int32_t)bytes[side]), (size_t)bytes[side]);
            }
    }
    const slk_keep_params p = {.k_pool = device[0],
                               .v_pool = device[1],
                               .pages = slt_upload(h, pages, 4 * (int64_t)n_pages),
                               .keep_begin = slt_upload(h, begin, 4 * (int64_t)(s.heads + 1)),
                               .keep = slt_upload(h, keep, 4 * ((int64_t)begin[s.heads] + 1)),
                               .pages_head_stride = s.head_tables ? s.pages : 0,
                               .k_page_stride = (int64_t)s.page_rows * s.heads * s.k_bytes,
                               .k_row_stride = (int64_t)s.heads * s.k_bytes,
                               .k_head_stride = s.k_bytes,
                               .v_page_stride = (int64_t)s.page_rows * s.heads * s.v_bytes,
                               .v_row_stride = (int64_t)s.heads * s.v_bytes,
                               .v_head_stride = s.v_bytes,
                               .k_bytes = s.k_bytes,
                               .v_bytes = s.v_bytes,
                               .page_rows = s.page_rows};
    assert_int_equal(slk_cuda_keep(&h->k, h->lane, &p, s.heads), SL_OK);
    for (int side = 0; side < 2; side++) {
        char what[96], *got = slt_alloc(places * bytes[side], 1);
        slt_download(h, got, device[side], places * bytes[side]);
        snprintf(what, sizeof what, "%s: %s", name, side == 0 ? "keys" : "values");
        slt_same_bytes(what, pool[side], got, places * bytes[side]);
        free(got), free(pool[side]);
    }
    free(pages), free(begin), free(keep);
}

static void test_keep(void **state) {
    slt_host *h = slt_get(state);
    try_keep(h, (setup){8, 256, 256, 64, 40, 0, 3}, 1, "bf16 rows of 128");
    try_keep(h, (setup){8, 256, 256, 64, 40, 0, 7}, 2, "nearly all stay");
    try_keep(h, (setup){8, 256, 256, 64, 40, 0, 8}, 3, "all stay");
    try_keep(h, (setup){4, 256, 256, 16, 3, 0, 0}, 4, "only what stands in front stays");
    try_keep(h, (setup){3, 20, 132, 1, 300, 1, 4}, 5, "pages of a row, a table a head");
    try_keep(h, (setup){2, 1024, 512, 32, 20, 0, 5}, 6, "f32 rows");
    try_keep(h, (setup){1, 8192, 4, 16, 8, 0, 4}, 7, "the widest row there is");
    try_keep(h, (setup){2, 48, 192, 128, 9, 1, 2}, 8, "rows that are no power of two");
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 256);
    slk_keep_params p = {
        .k_pool = m, .v_pool = m, .pages = m, .keep_begin = m, .keep = m, .k_bytes = 6, .v_bytes = 8, .page_rows = 16};
    assert_int_equal(slk_cuda_keep(&h->k, h->lane, &p, 1), SL_E_INVALID);
    p.k_bytes = 8, p.page_rows = 12;
    assert_int_equal(slk_cuda_keep(&h->k, h->lane, &p, 1), SL_E_INVALID);
    p.k_bytes = 16384, p.page_rows = 16;
    assert_int_equal(slk_cuda_keep(&h->k, h->lane, &p, 1), SL_E_UNIMPLEMENTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keep), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("keep_cuda", tests, slt_setup, slt_teardown);
}
