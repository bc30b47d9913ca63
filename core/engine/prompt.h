/* prompt.h - asking the prompt transformer about new tokens, before any of them is computed. */
#ifndef SLUICE_CORE_PROMPT_H
#define SLUICE_CORE_PROMPT_H

#include "engine/engine.h"

/* Tells the transformer that the first n tokens of the session's text are a prompt, if it has not been told and there
 * is one; does what it answers. Tokens behind them follow the prompt, whatever becomes of it. [setup] */
sl_status sli_engine_prompt(sluice_engine *e, sluice_session *s, int64_t n, sl_error *err);

/* Rows of the next chunk: `most`, or fewer where the transformer wants the prompt cut. */
int64_t sli_prompt_chunk(const sluice_session *s, int64_t most);

void sli_prompt_free(sluice_session *s); /* what a session keeps of the transformer's answer */

#endif
