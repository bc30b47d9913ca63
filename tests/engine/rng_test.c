/* Philox and the numbers made of it: published known answers, the mapping to [0, 1), independence of the key's parts.
 */
#include "sl_test.h"

#include "sluice/host.h"

#include "engine/random.h"
#include "engine/rng.h"

static void gives_the_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t word, out[4];
    } known[] = {
        {0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t w = known[i].word, counter[4] = {w, w, w, w}, key[2] = {w, w}, out[4];
        sli_philox4x32(counter, key, out);
        for (int j = 0; j < 4; j++)
            assert_int_equal(out[j], known[i].out[j]);
    }
    /* Random123's third vector: digits of pi. */
    const uint32_t counter[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, key[2] = {0xa4093822, 0x299f31d0};
    const uint32_t expected[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    uint32_t out[4];
    sli_philox4x32(counter, key, out);
    for (int j = 0; j < 4; j++)
        assert_int_equal(out[j], expected[j]);
}

static void maps_keys_to_the_known_numbers(void **state) {
    (void)state;
    assert_true(sli_rng_uniform(1, 0, 5, SL_RNG_TARGET, 0) == 0.1602782174701749);
    assert_true(sli_rng_uniform(0x0123456789abcdefull, 2, 1000, SL_RNG_DRAFT, 7) == 0.14669118529833491);
}

static void numbers_are_uniform_over_every_part_of_the_key(void **state) {
    (void)state;
    enum { N = 100000, CELLS = 64 };
    for (int part = 0; part < 5; part++) {
        int count[CELLS] = {0};
        for (uint32_t i = 0; i < N; i++) {
            uint32_t k[5] = {7, 1, 11, 2, 3};
            k[part] = i;
            double u = sli_rng_uniform((uint64_t)k[0] << 32 | k[0], k[1], k[2], k[3], k[4]);
            assert_true(u >= 0 && u < 1);
            count[(int)(u * CELLS)]++;
        }
        double chi2 = 0;
        for (int c = 0; c < CELLS; c++)
            chi2 += pow(count[c] - (double)N / CELLS, 2) / ((double)N / CELLS);
        assert_true(chi2 < 131.7); /* 63 degrees of freedom, p-value 1e-6 */
    }
}

static void choices_use_the_number_of_their_key(void **state) {
    (void)state;
    const sli_seed seed = {0x0123456789abcdefull, 2, 0};
    sli_random r = sli_random_seeded(&seed);
    const double weight[4] = {1, 2, 3, 4};
    const sli_dist d = {NULL, weight, 4, 10};
    for (uint32_t position = 0; position < 2000; position++) {
        double u = sli_rng_uniform(seed.seed, 2, position, SL_RNG_ACCEPT, 3);
        assert_int_equal(r.accept(r.ctx, position, 3, 0.3, 0.6), u * 0.6 < 0.3);
        assert_int_equal(r.accept(r.ctx, position, 3, 0, 0.6), 0);
        assert_int_equal(r.accept(r.ctx, position, 3, 0.6, 0.6), 1);
        for (uint32_t purpose = SL_RNG_TARGET; purpose <= SL_RNG_DRAFT; purpose++) {
            double v = sli_rng_uniform(seed.seed, 2, position, purpose, 5) * 10;
            int expected = v < 1 ? 0 : v < 3 ? 1 : v < 6 ? 2 : 3;
            if (purpose != SL_RNG_ACCEPT)
                assert_int_equal(r.draw(r.ctx, purpose, position, 5, &d), expected);
        }
    }
    assert_int_equal(sli_accepts(0, 0, 0.5), 0); /* u = 0 must not accept what the target excludes */
    assert_int_equal(sli_accepts(1 - 0x1p-53, 0.5, 0.5), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_known_answers),
        cmocka_unit_test(maps_keys_to_the_known_numbers),
        cmocka_unit_test(numbers_are_uniform_over_every_part_of_the_key),
        cmocka_unit_test(choices_use_the_number_of_their_key),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
