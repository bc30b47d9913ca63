/* transcript.h - the two texts of a session whose prompt was replaced by a prompt transformer: the one that its user
 * gave and reads, and the shorter one that the model computes (sluice_session.tokens).
 *
 * The first n_replaced tokens of the transcript stand for the first n_new tokens of the session; what comes behind is
 * the same in both. A session whose prompt was never replaced has no transcript: there is only one text. */
#ifndef SLUICE_CORE_TRANSCRIPT_H
#define SLUICE_CORE_TRANSCRIPT_H

#include <stdio.h>

#include "engine/engine.h"

struct sli_transcript {
    int32_t *tokens; /* [max_context + 1] */
    int64_t n;
    int64_t n_replaced, n_new;
    float *position; /* [n_new] of the session's first tokens; NULL: 0, 1, 2 ... */
    int64_t *index;  /* [n_new] where in the transcript they stand, -1: nowhere; NULL: not told */
    float next;      /* position of session token n_new */
};

/* The user's text. */
int64_t sli_shown_length(const sluice_session *s);
const int32_t *sli_shown_tokens(const sluice_session *s);
/* Tokens that still fit. */
int64_t sli_shown_room(const sluice_session *s);
/* A token at the end of both texts. There is room. */
void sli_session_push(sluice_session *s, int32_t token);

/* Positions of the next rows of a session, or NULL: they are their token indices. n_past: tokens in front of the first
 * row; tree: as in sli_batch_add. Lives until the next call. [step] */
const float *sli_session_positions(sluice_engine *e, const sluice_session *s, int64_t n_past, int32_t n_rows,
                                   const sl_tree *tree);

/* The first n tokens of the transcript are from now on computed as io->new_token; the cache is emptied. io->answer is
 * REPLACE and has been checked. After an error nothing but the cache has changed. [setup] */
sl_status sli_transcript_replace(sluice_session *s, int64_t n, const sl_prompt *io, sl_error *err);
/* The session goes on with the first n tokens of its transcript, all of them still to be computed: the cache is empty
 * and there is one text again. [setup] */
sl_status sli_transcript_restart(sluice_session *s, int64_t n, sl_error *err);
/* A child that shares the first n (at least n_replaced) tokens of the parent's transcript gets one of its own; the
 * tokens of the session itself are the caller's to copy. */
sl_status sli_transcript_fork(sluice_session *child, const sluice_session *parent, int64_t n, sl_error *err);
void sli_transcript_free(sluice_session *s);

/* As part of a saved session that has one; the session's own tokens have been read. */
sl_status sli_transcript_write(const sluice_session *s, FILE *f, sl_error *err);
sl_status sli_transcript_read(sluice_session *s, FILE *f, sl_error *err);

#endif
