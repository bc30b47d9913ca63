/* quest_score.h - the upper bound of a page, on plain arrays. */
#ifndef QUEST_SCORE_H
#define QUEST_SCORE_H

#include <stdint.h>

/* The largest value that q . k can have for keys between two bounds: sum over channels of max(q most, q least), in f32.
 * bounds: largest [d], then smallest [d]; they may be infinite. */
float quest_bound(const float *q, const float *bounds, int64_t d);

/* Takes key [d] into bounds; first: it begins them. */
void quest_widen(float *bounds, const float *key, int64_t d, int first);

#endif
