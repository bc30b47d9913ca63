#!/bin/sh
# Prints a broken variant of verify.c, its functions renamed, for verify_law_test to catch. Each is one known way of
# getting verification wrong. Fails when the text that it changes is not there any more.
# Usage: mutate.sh NAME verify.c
set -eu
name=$1 source=$2
decided='^    \*child = child_with(t, row, \*token);'
case $name in
residual_keeps_q_sum) # NOREP: Q renormalised in the test, not in the residual
    edit='s|- q / v->q_sum;|- q;|' ;;
q_never_renormalised) # NOREP
    edit='s|^    v->q_sum = sli_dist_sum(v->q_id, v->q, v->q_n);||' ;;
token_from_p) # the token after the last refusal from p instead of the residual
    edit='s|^    for (int32_t i = begin; i < matched; i++) {|    const sli_dist whole = p;\n&|
          s|position, 0, &p);|position, 0, \&whole);|' ;;
match_drawn_again) # form A: a fresh draw after a failed match
    edit="s|$decided|&\\
    if (*child < 0 \\&\\& end > begin)\\
        *token = random->draw(random->ctx, SL_RNG_RESIDUAL, position, 0, \\&p);|" ;;
match_for_each_child) # form A: an independent draw for each child, then one more
    edit="s|$decided|    *child = end > matched ? -1 : child_with(t, row, *token);\\
    for (int32_t i = matched; i < end \\&\\& *child < 0; i++)\\
        if (random->draw(random->ctx, SL_RNG_TARGET, position, (uint32_t)(1 + i), \\&p) == t->token[t->trial[i].row])\\
            *child = t->trial[i].row;|" ;;
bonus_not_tempered) # the token after a whole accepted path from the softmax of raw logits
    edit='s|sli_sampler_dist(sampler, job->how,|sli_sampler_dist(sampler, n > 0 \&\& t->trial_begin[row] ==\
        t->trial_begin[row + 1] ? \&(sli_sampling){.temperature = 1} : job->how,|' ;;
refused_det_stays) # form B: the refused token is not taken out of P
    edit='s|^            take_out_of_target(v, p, x);|            (void)take_out_of_target;|' ;;
target_not_renormalised) # the test against a P that does not sum to 1
    edit='/double px = mass/s|p->sum|fmax(p->sum, 1)|' ;;
*)
    echo "mutate.sh: no mutant is called $name" >&2
    exit 1
    ;;
esac
original=$(cat "$source")
mutated=$(sed "$edit" "$source")
if [ "$original" = "$mutated" ]; then
    echo "mutate.sh: $name changes nothing in $source" >&2
    exit 1
fi
for f in sli_verify sli_verifier_create sli_verifier_destroy; do
    echo "#define $f ${f}_$name"
done
printf '%s\n' "$mutated"
