/* See prompt.h. */
#include "prompt.h"

#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "device/cpu/pool.h"
#include "profile.h"
#include "sl_error.h"
#include "transcript.h"

enum { MAX_ROUNDS = 256, MAX_WORKS = 64 };

/* ---- answers --------------------------------------------------------------------------------------------------------
 */

static sl_status check_replace(const sluice_engine *e, const sluice_session *s, int64_t n, const sl_prompt *io,
                               sl_error *err) {
    int64_t n_tail = sli_shown_length(s) - n, most = e->limits.max_context;
    if (io->n_new < 1 || io->n_new > most - n_tail)
        return sl_fail(err, SL_E_RANGE,
                       "a prompt of %" PRId64 " tokens was replaced by %" PRId64 "; 1 to %" PRId64 " are possible", n,
                       io->n_new, most - n_tail);
    if (io->new_token == NULL)
        return sl_fail(err, SL_E_INVALID, "the tokens that replace the prompt are missing");
    int64_t last = -1;
    for (int64_t i = 0; i < io->n_new; i++) {
        if (io->new_token[i] < 0 || io->new_token[i] >= e->target.info->vocab)
            return sl_fail(err, SL_E_RANGE, "token id %d in place of the prompt is outside of the vocabulary [0, %d)",
                           io->new_token[i], e->target.info->vocab);
        if (io->new_position != NULL && !(io->new_position[i] >= 0 && io->new_position[i] < (float)most))
            return sl_fail(err, SL_E_RANGE, "position %g in place of the prompt is outside of [0, %" PRId64 ")",
                           (double)io->new_position[i], most);
        if (io->new_index == NULL || io->new_index[i] == -1)
            continue;
        if (io->new_index[i] <= last || io->new_index[i] >= n)
            return sl_fail(err, SL_E_RANGE,
                           "index %" PRId64 " behind %" PRId64 " is none of a prompt of %" PRId64
                           " tokens in ascending order",
                           io->new_index[i], last, n);
        last = io->new_index[i];
    }
    float next = io->next_position > 0      ? io->next_position
                 : io->new_position != NULL ? io->new_position[io->n_new - 1] + 1
                                            : (float)io->n_new;
    if (!(next + (float)n_tail <= (float)most))
        return sl_fail(err, SL_E_RANGE,
                       "the text goes on at position %g, which leaves no room in a context of %" PRId64, (double)next,
                       most);
    return SL_OK;
}

static sl_status do_replace(sluice_engine *e, sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err) {
    SL_TRY(check_replace(e, s, n, io, err));
    SL_TRY(sli_transcript_replace(s, n, io, err));
    e->stats.replaced_tokens += n;
    e->stats.kept_tokens += io->n_new;
    return SL_OK;
}

static sl_status do_split(sluice_engine *e, sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err) {
    (void)e;
    int64_t gone = sli_shown_length(s) - s->n; /* tokens that an earlier answer left out */
    if (io->n_new < 0 || (io->n_new > 0 && io->split == NULL))
        return sl_fail(err, SL_E_INVALID, "the ends of the prompt's chunks are missing");
    for (int64_t i = 0; i < io->n_new; i++)
        if (io->split[i] <= (i > 0 ? io->split[i - 1] : 0) || io->split[i] > n)
            return sl_fail(err, SL_E_RANGE,
                           "chunks of a prompt of %" PRId64 " tokens end at %" PRId64
                           ", which is not behind the end before it or not inside",
                           n, io->split[i]);
    s->split = sli_calloc(SLI_TAG_MISC, (size_t)io->n_new + 1, sizeof *s->split);
    if (s->split == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the ends of %" PRId64 " chunks", io->n_new);
    for (int64_t i = 0; i < io->n_new; i++)
        s->split[i] = io->split[i] - gone;
    s->n_split = io->n_new;
    return SL_OK;
}

static sl_status do_nothing(sluice_engine *e, sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err) {
    (void)e, (void)s, (void)n, (void)io, (void)err;
    return SL_OK;
}

typedef sl_status (*answer_fn)(sluice_engine *e, sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err);
static const answer_fn answers[] = {
    [SL_PROMPT_CONTINUE] = do_nothing, [SL_PROMPT_REPLACE] = do_replace, [SL_PROMPT_SPLIT] = do_split};

/* ---- asking ---------------------------------------------------------------------------------------------------------
 */

static sl_status run_works(sluice_engine *e, const sluice_session *s, const sl_prompt *io, sl_work_result *results,
                           sl_error *err) {
    if (io->n_works < 1 || io->n_works > MAX_WORKS || io->works == NULL)
        return sl_fail(err, SL_E_RANGE, "it wants %d work items at once, 1 to %d are possible", io->n_works, MAX_WORKS);
    for (int32_t i = 0; i < io->n_works; i++) {
        const sl_work *w = io->works[i];
        if (w->seq != s->id)
            return sl_fail(err, SL_E_INVALID, "it wants work on sequence %d, the prompt is that of sequence %d", w->seq,
                           s->id);
        const sli_network *net = w->model == 0 ? &e->target : &e->draft;
        int32_t end = w->exit_layer > 0 || net->info == NULL ? w->exit_layer : net->info->n_layers;
        if (w->n_rows > 0 && end > w->enter_layer)
            e->stats.prompt_work_layers +=
                (int64_t)w->n_rows * (end - w->enter_layer - (w->exit_at == SL_WORK_EXIT_QKV));
    }
    sli_pool_step_begin(e->pool); /* workers stay awake; memory may be taken, for this is no step */
    sl_status status = sli_engine_work(e, io->works, io->n_works, results, err);
    sli_pool_step_end(e->pool);
    return status;
}

static sl_status ask(sluice_engine *e, const sluice_session *s, sl_prompt *io, sl_error *err) {
    sl_work_result results[MAX_WORKS];
    const sl_work_result *pointers[MAX_WORKS];
    for (int32_t i = 0; i < MAX_WORKS; i++)
        pointers[i] = &results[i];
    for (int round = 0;; round++) {
        io->answer = SL_PROMPT_CONTINUE;
        SL_TRY(e->prompter.api->begin(e->prompter.self, io, err));
        if (io->answer != SL_PROMPT_WORK)
            return SL_OK;
        if (round == MAX_ROUNDS)
            return sl_fail(err, SL_E_RANGE, "it has asked for work %d times", MAX_ROUNDS);
        SL_TRY(run_works(e, s, io, results, err));
        io->results = pointers;
        io->n_results = io->n_works;
        io->n_works = 0;
    }
}

sl_status sli_engine_prompt(sluice_engine *e, sluice_session *s, int64_t n, sl_error *err) {
    if (e->prompter.self == NULL || !s->fresh || n < 1)
        return SL_OK;
    double begin = sli_now();
    sl_prompt io = {.struct_size = SL_SIZE(sl_prompt), .token = sli_shown_tokens(s), .n = n, .seq = s->id};
    sli_prompt_free(s);
    sli_profile *profile = e->target.profile;
    if (profile != NULL) {
        sli_profile_start(profile, 0);
        sli_profile_mute(profile);
    }
    sl_status status = ask(e, s, &io, err);
    sli_taps_release(&e->work_taps); /* large, and needed no longer */
    if (status >= 0 && (io.answer >= sizeof answers / sizeof *answers || answers[io.answer] == NULL))
        status = sl_fail(err, SL_E_UNIMPLEMENTED, "its answer %u is unknown to this engine", io.answer);
    if (status >= 0)
        status = answers[io.answer](e, s, n, &io, err);
    if (profile != NULL)
        sli_profile_unmute(profile, SLI_SLOT_PROMPT);
    double seconds = sli_now() - begin;
    e->stats.prompt_seconds += seconds;
    e->stats.prompt_work_seconds += seconds;
    if (status < 0)
        return sl_fail_within(err, status, "prompt transformer, session %d", s->id);
    s->fresh = 0;
    return SL_OK;
}

int64_t sli_prompt_chunk(const sluice_session *s, int64_t most) {
    for (int64_t i = 0; i < s->n_split; i++)
        if (s->split[i] > s->n_kv)
            return s->split[i] - s->n_kv < most ? s->split[i] - s->n_kv : most;
    return most;
}

void sli_prompt_free(sluice_session *s) {
    sli_free(s->split);
    s->split = NULL;
    s->n_split = 0;
}
