/* Rotary embedding: variants bit-equal to the reference, the reference to the formula. */
#include "kernels_test.h"

static void try_rope(uint64_t *rng, int64_t rows, int64_t heads, int64_t d, int64_t n_rot, uint32_t interleaved) {
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    const int64_t ld_head = d + 1, ldx = heads * ld_head + 2, ld_trig = n_rot / 2 + 1, half = n_rot / 2;
    const size_t size = (size_t)(rows * ldx);
    float *x0 = test_normals(rng, size, 1), *c = test_normals(rng, (size_t)(rows * ld_trig), 1);
    float *s = test_normals(rng, (size_t)(rows * ld_trig), 1), *ref = test_alloc(size * sizeof *ref),
          *x = test_alloc(size * sizeof *x);
    slk_rope p = {.ldx = ldx,
                  .ld_head = ld_head,
                  .cos_row = c,
                  .sin_row = s,
                  .ld_trig = ld_trig,
                  .heads = heads,
                  .n_rot = n_rot,
                  .interleaved = interleaved};
    memcpy(ref, x0, size * sizeof *ref);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < half; i++) {
                float *head = ref + r * ldx + h * ld_head;
                const int64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
                const float va = head[a], vb = head[b], ci = c[r * ld_trig + i], si = s[r * ld_trig + i];
                head[a] = va * ci - vb * si;
                head[b] = vb * ci + va * si;
            }
    for (int i = 0; i < n_tables; i++) {
        memcpy(x, x0, size * sizeof *x);
        p.x = x;
        const int64_t cut = test_range(rng, 0, (int)rows);
        tables[i]->rope(&p, cut, rows);
        tables[i]->rope(&p, 0, cut);
        check_bits(tables[i]->rope_name, ref, x, size);
    }
    free(x0), free(c), free(s), free(ref), free(x);
}

static void test_shapes(void **state) {
    (void)state;
    uint64_t rng = 43;
    for (int64_t n_rot = 2; n_rot <= 130; n_rot += 2)
        for (uint32_t interleaved = 0; interleaved < 2; interleaved++)
            try_rope(&rng, test_range(&rng, 1, 4), test_range(&rng, 1, 3), n_rot + test_range(&rng, 0, 9), n_rot,
                     interleaved);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
