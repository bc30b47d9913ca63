/* The law of what verification emits, computed over all outcomes: exactly p for every lossless draft, and off by the
 * documented distance for every known way of getting it wrong. */
#include "toy.h"

static const int32_t zero[1] = {0}, token3[1] = {3}, tokens23[2] = {2, 3}, tokens101[3] = {1, 0, 1};

/* ---- one step on the documented p and q -------------------------------------------------------------------------- */

/* accepted: the documented probability that a child is accepted, 0: none is documented. */
static const struct {
    toy_plan plan;
    double accepted;
} exact[] = {
    {{"nothing", {{{0}}}, TOY_EMPTY, NULL}, 0},
    {{"REP 1", {{REP(1)}}, 0, NULL}, .60},
    {{"REP 2", {{REP(2)}}, 0, NULL}, .72},
    {{"REP 3", {{REP(3)}}, 0, NULL}, .768},
    {{"NOREP 1", {{NOREP(1)}}, 0, NULL}, .60},
    {{"NOREP 2", {{NOREP(2)}}, 0, NULL}, .78},
    {{"NOREP 3", {{NOREP(3)}}, 0, NULL}, .853},
    {{"NOREP 4", {{NOREP(4)}}, 0, NULL}, 1},
    {{"DET 1", {{DET(1)}}, 0, NULL}, .1},
    {{"DET 3", {{DET_LIST(1, token3)}}, 0, NULL}, .4},
    {{"DET 2 3", {{DET_LIST(2, tokens23)}}, 0, NULL}, .7},
    {{"DET 1 0 1", {{DET_LIST(3, tokens101)}}, 0, NULL}, .3},
    {{"DET 4", {{DET(4)}}, 0, NULL}, 1},
    {{"REP DET", {{REP(1), DET(2)}}, 0, NULL}, 0},
    {{"DET REP", {{DET(1), REP(2)}}, 0, NULL}, 0},
    {{"NOREP DET", {{NOREP(2), DET_LIST(1, token3)}}, 0, NULL}, 0},
    {{"DET NOREP", {{DET_LIST(2, tokens23), NOREP(2)}}, 0, NULL}, 0},
    {{"REP NOREP", {{REP(2), NOREP(2)}}, 0, NULL}, 0},
    {{"NOREP REP", {{NOREP(2), REP(2)}}, 0, NULL}, 0},
    {{"REP DET NOREP", {{REP(1), DET(1), NOREP(2)}}, 0, NULL}, 0},
    {{"REP NOREP DET", {{REP(1), NOREP(2), DET(1)}}, 0, NULL}, 0},
    {{"NOREP REP DET", {{NOREP(2), REP(1), DET(1)}}, 0, NULL}, 0},
    {{"NOREP DET REP", {{NOREP(2), DET(1), REP(1)}}, 0, NULL}, 0},
    {{"DET REP NOREP", {{DET(1), REP(1), NOREP(2)}}, 0, NULL}, 0},
    {{"DET NOREP REP", {{DET(1), NOREP(2), REP(1)}}, 0, NULL}, 0},
    {{"NOREP DET NOREP", {{NOREP(1), DET(1), NOREP(2)}}, 0, NULL}, 0},
    {{"REP, as many as needed", {{REP(3)}}, TOY_ADAPTIVE, NULL}, 0},
};

static void emits_p(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 4);
    toy_fill_known(&t);
    const sli_sampling how = {.temperature = 1};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        for (int form = SLI_FORM_A; form <= SLI_FORM_B; form++) {
            toy_run run = {&t, &exact[i].plan, &how, NULL, sli_verify, form, 1};
            double accepted;
            int bad_keys;
            double tv = toy_error(&run, zero, 1, 1, &accepted, &bad_keys);
            if (!(tv < 1e-12) || bad_keys != 0)
                fail_msg("%s, form %c: TV %g, %d bad keys", exact[i].plan.name, 'A' + form, tv, bad_keys);
            if (exact[i].accepted > 0 && !(fabs(accepted - exact[i].accepted) < 6e-4))
                fail_msg("%s: accepts %g, expected %g", exact[i].plan.name, accepted, exact[i].accepted);
        }
    toy_close(&t);
}

/* ---- the joint law of two tokens --------------------------------------------------------------------------------- */

static const sli_sampling settings[] = {
    {.temperature = 1},
    {.temperature = 0.5},
    {.temperature = 1, .top_p = 0.8},
    {.temperature = 0.5, .top_k = 2},
    {.temperature = 0.5, .top_p = 0.9},
    {.temperature = 0.8, .min_p = 0.3},
    {.temperature = 0.7, .repeat_penalty = 1.3, .presence_penalty = 0.4, .frequency_penalty = 0.3, .penalty_last_n = 2},
    {.temperature = 0},
};

static const toy_plan joint_plans[] = {
    {"chain of 1", {{REP(1)}}, 0, NULL},
    {"chain of 2", {{REP(1)}, {REP(1)}}, 0, NULL},
    {"chain of 3", {{NOREP(1)}, {REP(1)}, {REP(1)}}, 0, NULL},
    {"REP 2", {{REP(2)}}, 0, NULL},
    {"NOREP 2", {{NOREP(2)}}, 0, NULL},
    {"REP tree 2 x 1", {{REP(2)}, {REP(1)}}, 0, NULL},
    {"NOREP tree 2 x 1", {{NOREP(2)}, {NOREP(1)}}, 0, NULL},
    {"REP over NOREP", {{REP(2)}, {NOREP(2)}}, 0, NULL},
    {"DET tree 2 x 2", {{DET(2)}, {DET(2)}}, 0, NULL},
    {"DET over REP", {{DET(2)}, {REP(2)}}, 0, NULL},
    {"mixed", {{REP(1), DET(1)}, {DET(1), NOREP(2)}}, 0, NULL},
    {"mixed with equal tokens", {{DET(1), REP(1), DET(1)}, {NOREP(2)}}, 0, NULL},
    {"as deep as it draws", {{REP(2)}, {REP(2)}}, TOY_ADAPTIVE, NULL},
    {"NOREP of too few", {{NOREP(3)}, {NOREP(3)}}, 0, NULL},
};

static void emits_the_joint_law_over_steps(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 3);
    const int32_t context[] = {2, 0, 1};
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++)
        for (int processed = 0; processed <= 1; processed++) {
            toy_fill_random(&t, 100 + s, 1.2, processed ? &settings[s] : NULL);
            for (size_t i = 0; i < sizeof joint_plans / sizeof *joint_plans; i++)
                for (int form = SLI_FORM_A; form <= SLI_FORM_B; form++) {
                    toy_run run = {&t, &joint_plans[i], &settings[s], NULL, sli_verify, form, 1};
                    double accepted;
                    int bad_keys;
                    double tv = toy_error(&run, context, 3, 2, &accepted, &bad_keys);
                    if (!(tv < 1e-12) || bad_keys != 0)
                        fail_msg("%s, setting %zu, form %c: TV %g, %d bad keys", joint_plans[i].name, s, 'A' + form, tv,
                                 bad_keys);
                }
        }
    toy_close(&t);
}

/* ---- what must be caught ----------------------------------------------------------------------------------------- */

/* Made of verify.c by mutate.sh. */
#define MUTANTS(X)                                                                                                     \
    X(residual_keeps_q_sum)                                                                                            \
    X(q_never_renormalised)                                                                                            \
    X(token_from_p) X(match_drawn_again) X(match_for_each_child) X(bonus_not_tempered) X(refused_det_stays)            \
        X(target_not_renormalised)
#define DECLARE(name) toy_verify sli_verify_##name;
MUTANTS(DECLARE)

/* tv: the distance from p that this mistake makes, found by enumeration; where it is published, the same to its digits.
 */
static const struct {
    toy_plan plan;
    toy_verify *verify;
    int form;
    double tv;
} broken[] = {
    {{"duplicates of REP dropped, K = 2", {{REP(2)}}, TOY_DROP_DUPLICATES, NULL}, sli_verify, SLI_FORM_A, .0357},
    {{"duplicates of REP dropped, K = 3", {{REP(3)}}, TOY_DROP_DUPLICATES, NULL}, sli_verify, SLI_FORM_A, .0576},
    {{"Q renormalised in the test only", {{NOREP(2)}}, 0, NULL}, sli_verify_residual_keeps_q_sum, SLI_FORM_A, .0157},
    {{"Q never renormalised", {{NOREP(2)}}, 0, NULL}, sli_verify_q_never_renormalised, SLI_FORM_A, .0714},
    {{"NOREP verified as REP", {{NOREP(2)}}, TOY_DECLARE_REP, NULL}, sli_verify, SLI_FORM_A, .0714},
    {{"b from p", {{REP(1)}}, 0, NULL}, sli_verify_token_from_p, SLI_FORM_A, .14},
    {{"argmax as REP", {{REP(1)}}, TOY_TOP_AS_REP, NULL}, sli_verify, SLI_FORM_A, .30},
    {{"top-2 as REP", {{REP(2)}}, TOY_TOP_AS_REP, NULL}, sli_verify, SLI_FORM_A, .4429},
    {{"light draws dropped", {{REP(1)}}, TOY_DROP_LIGHT, NULL}, sli_verify, SLI_FORM_A, .15},
    {{"draws sorted", {{REP(2)}}, TOY_SORT, NULL}, sli_verify, SLI_FORM_A, .08},
    {{"b drawn again", {{DET_LIST(1, token3)}}, 0, NULL}, sli_verify_match_drawn_again, SLI_FORM_A, .24},
    {{"a draw for each child", {{DET_LIST(2, tokens23)}}, 0, NULL}, sli_verify_match_for_each_child, SLI_FORM_A, .1740},
    {{"refused DET stays in P", {{DET_LIST(2, tokens23)}}, 0, NULL}, sli_verify_refused_det_stays, SLI_FORM_B, .1740},
    {{"P not renormalised", {{REP(2)}}, 0, NULL}, sli_verify_target_not_renormalised, SLI_FORM_A, .0371},
};

static void catches_every_broken_variant(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 4);
    toy_fill_known(&t);
    const sli_sampling how = {.temperature = 1};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        toy_run run = {&t, &broken[i].plan, &how, NULL, broken[i].verify, broken[i].form, 1};
        double accepted;
        int bad_keys;
        double tv = toy_error(&run, zero, 1, 1, &accepted, &bad_keys);
        if (!(fabs(tv - broken[i].tv) < 1e-4))
            fail_msg("%s: TV %.4f, expected %.4f", broken[i].plan.name, tv, broken[i].tv);
    }
    toy_close(&t);
}

/* Errors that only a setting or a later token brings to light. */
static void catches_broken_joint_laws(void **state) {
    (void)state;
    toy t;
    double accepted;
    int bad_keys;
    const int32_t context[] = {2, 0, 1};
    toy_open(&t, 3);
    for (int i = 0; i < 2; i++) {
        const toy_plan chain = {"chain of 1", {{REP(1)}}, 0, NULL}, matched = {"DET 1", {{DET(1)}}, 0, NULL};
        toy_fill_random(&t, 101, 1.2, NULL);
        toy_run run = {&t, i == 0 ? &chain : &matched, &settings[1], NULL, sli_verify_bonus_not_tempered, SLI_FORM_A,
                       1};
        assert_true(toy_error(&run, context, 3, 2, &accepted, &bad_keys) > 0.02);
    }
    /* Draft draws keyed by the token's position come again in the next step. */
    const toy_plan deep = {"keyed by position", {{REP(1)}, {REP(1)}}, TOY_KEY_BY_POSITION, NULL};
    toy_run run = {&t, &deep, &settings[1], NULL, sli_verify, SLI_FORM_A, 1};
    toy_error(&run, context, 3, 2, &accepted, &bad_keys);
    assert_true(bad_keys > 0);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(emits_p),
        cmocka_unit_test(emits_the_joint_law_over_steps),
        cmocka_unit_test(catches_every_broken_variant),
        cmocka_unit_test(catches_broken_joint_laws),
    };
    return cmocka_run_group_tests_name("verify_law", tests, NULL, NULL);
}
