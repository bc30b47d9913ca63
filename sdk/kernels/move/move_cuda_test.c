/* Rows moved inside of sequences, against the same moves done one by one on the host: all bytes of all pools. */
#include "testhost_rows.h"

typedef struct setup {
    int32_t layers, seqs, heads, k_bytes, v_bytes, page_rows, pages; /* pages of a sequence and head */
    int32_t head_tables;                                             /* 1: a page table a head */
    int32_t staged; /* 1: moves count from the first staged row of each head: 3 seq + 2 head + 1 */
} setup;

static char *host_row(char *pool, const int32_t *pages, int32_t slot, const setup *s, int32_t head, int32_t bytes) {
    const int64_t page = pages[slot / s->page_rows];
    return pool + ((page * s->page_rows + slot % s->page_rows) * s->heads + head) * bytes;
}

static void try_move(slt_host *h, setup s, const int32_t (*moves)[3], int32_t n_moves, const char *name) {
    const int32_t tables = s.seqs * (s.head_tables ? s.heads : 1), n_pages = tables * s.pages;
    const int64_t k_pool = (int64_t)n_pages * s.page_rows * s.heads * s.k_bytes,
                  v_pool = k_pool / s.k_bytes * s.v_bytes;
    int32_t *pages = slt_alloc(n_pages, 4), *list[3];
    for (int32_t i = 0; i < n_pages; i++) /* a permutation: 7919 is prime */
        pages[i] = (int32_t)(((int64_t)i * 7919 + 13) % n_pages);
    for (int c = 0; c < 3; c++) {
        list[c] = slt_alloc(n_moves + 1, 4);
        for (int32_t m = 0; m < n_moves; m++)
            list[c][m] = moves[m][c];
    }
    slk_move_layer *layers = slt_alloc(s.layers, sizeof *layers);
    char **k = slt_alloc(s.layers, sizeof *k), **v = slt_alloc(s.layers, sizeof *v);
    const int32_t *d_pages = slt_upload(h, pages, n_pages * 4);
    int32_t *n_rows = slt_alloc((int64_t)s.seqs * s.heads, 4);
    for (int32_t i = 0; i < s.seqs * s.heads; i++)
        n_rows[i] = 3 * (i / s.heads) + 2 * (i % s.heads) + 1;
    const int32_t *d_rows = s.staged ? slt_upload(h, n_rows, (int64_t)s.seqs * s.heads * 4) : NULL;
    for (int32_t l = 0; l < s.layers; l++) {
        k[l] = slt_alloc(k_pool, 1), v[l] = slt_alloc(v_pool, 1);
        for (int64_t i = 0; i < k_pool; i++)
            k[l][i] = (char)((i * 2654435761u + (uint32_t)l * 77) >> 13);
        for (int64_t i = 0; i < v_pool; i++)
            v[l][i] = (char)((i * 2246822519u + (uint32_t)l * 55) >> 11);
        layers[l] = (slk_move_layer){slt_upload(h, k[l], k_pool), slt_upload(h, v[l], v_pool), d_pages, NULL, d_rows};
        for (int32_t m = 0; m < n_moves; m++)
            for (int32_t head = 0; head < s.heads; head++) {
                const int32_t *t = pages + (s.head_tables ? moves[m][0] * s.heads + head : moves[m][0]) * s.pages;
                const int32_t first = s.staged ? 3 * moves[m][0] + 2 * head + 1 : 0;
                const int32_t from = first + moves[m][1], to = first + moves[m][2];
                memcpy(host_row(k[l], t, to, &s, head, s.k_bytes), host_row(k[l], t, from, &s, head, s.k_bytes),
                       (size_t)s.k_bytes);
                memcpy(host_row(v[l], t, to, &s, head, s.v_bytes), host_row(v[l], t, from, &s, head, s.v_bytes),
                       (size_t)s.v_bytes);
            }
    }
    const slk_move_params p = {.n_moves = slt_upload(h, &n_moves, 4),
                               .seq = slt_upload(h, list[0], (n_moves + 1) * 4),
                               .from = slt_upload(h, list[1], (n_moves + 1) * 4),
                               .to = slt_upload(h, list[2], (n_moves + 1) * 4),
                               .pages_stride = (int64_t)s.pages * (s.head_tables ? s.heads : 1),
                               .pages_head_stride = s.head_tables ? s.pages : 0,
                               .k_page_stride = (int64_t)s.page_rows * s.heads * s.k_bytes,
                               .k_row_stride = (int64_t)s.heads * s.k_bytes,
                               .k_head_stride = s.k_bytes,
                               .v_page_stride = (int64_t)s.page_rows * s.heads * s.v_bytes,
                               .v_row_stride = (int64_t)s.heads * s.v_bytes,
                               .v_head_stride = s.v_bytes,
                               .heads = s.heads,
                               .k_bytes = s.k_bytes,
                               .v_bytes = s.v_bytes,
                               .page_rows = s.page_rows,
                               .max_moves = n_moves + 1,
                               .n_rows_stride = s.heads,
                               .n_rows_head_stride = 1,
                               .staged = s.staged};
    assert_int_equal(slk_cuda_move(&h->k, h->lane, &p, layers, s.layers), SL_OK);
    for (int32_t l = 0; l < s.layers; l++) {
        char what[96], *got = slt_alloc(k_pool > v_pool ? k_pool : v_pool, 1);
        slt_download(h, got, layers[l].k_pool, k_pool);
        snprintf(what, sizeof what, "%s: keys of layer %d", name, l);
        slt_same_bytes(what, k[l], got, k_pool);
        slt_download(h, got, layers[l].v_pool, v_pool);
        snprintf(what, sizeof what, "%s: values of layer %d", name, l);
        slt_same_bytes(what, v[l], got, v_pool);
        free(got), free(k[l]), free(v[l]);
    }
    free(n_rows), free(k), free(v), free(layers), free(pages), free(list[0]), free(list[1]), free(list[2]);
}

static void test_moves(void **state) {
    slt_host *h = slt_get(state);
    const setup plain = {3, 2, 4, 256, 256, 16, 4, 0, 0};
    const int32_t path[][3] = {{1, 31, 30}, {1, 33, 31}, {1, 40, 32}, {1, 41, 33}, {1, 50, 34}, {1, 63, 35}};
    try_move(h, plain, path, 6, "a path");
    try_move(h, plain, path, 0, "nothing");
    const int32_t chain[][3] = {{0, 5, 3}, {0, 3, 1}, {0, 1, 0}, {0, 9, 3}, {0, 3, 2}, {0, 60, 59}, {0, 59, 58}};
    try_move(h, plain, chain, 7, "moves that read what was moved");
    const setup odd = {2, 7, 3, 20, 132, 1, 40, 1, 0};
    int32_t many[400][3];
    uint32_t x = 1;
    for (int i = 0; i < 400; i++) { /* sequences mixed, any order */
        x = x * 1664525u + 1013904223u;
        many[i][0] = (int32_t)(x >> 20) % 7;
        many[i][1] = 1 + (int32_t)(x >> 8 & 0xfff) % 39;
        many[i][2] = (int32_t)(x >> 4 & 0xfff) % many[i][1];
    }
    try_move(h, odd, (const int32_t(*)[3])many, 400, "many, a table a head");
    const setup by_head = {3, 3, 4, 64, 128, 16, 5, 0, 1};
    const int32_t accepted[][3] = {{1, 3, 1}, {2, 2, 1}, {1, 6, 2}, {2, 5, 2}, {1, 7, 3}};
    try_move(h, by_head, accepted, 5, "heads of lengths of their own");
    const setup deep = {70, 2, 1, 64, 64, 32, 2, 0, 0};
    try_move(h, deep, path, 6, "more layers than a launch takes");
    const setup wide = {2, 2, 2, 1024, 512, 64, 1, 0, 0};
    try_move(h, wide, path, 6, "f32 rows");
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 256);
    slk_move_params p = {
        .n_moves = m, .seq = m, .from = m, .to = m, .heads = 1, .k_bytes = 6, .v_bytes = 8, .page_rows = 16};
    const slk_move_layer layer = {m, m, m, NULL, NULL};
    assert_int_equal(slk_cuda_move(&h->k, h->lane, &p, &layer, 1), SL_E_INVALID);
    p.k_bytes = 8, p.page_rows = 12;
    assert_int_equal(slk_cuda_move(&h->k, h->lane, &p, &layer, 1), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moves), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("move_cuda", tests, slt_setup, slt_teardown);
}
