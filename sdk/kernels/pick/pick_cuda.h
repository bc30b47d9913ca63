/* The slots that a row attends to, chosen by scores: for each row and group of heads the `budget` committed slots with
 * the largest scores, ascending. */
#ifndef SLUICE_KERNELS_PICK_CUDA_H
#define SLUICE_KERNELS_PICK_CUDA_H

#include <stdint.h>

typedef struct slk_pick_params {
    float *scores;          /* [rows, heads, score_stride], element s: slot s of the row; spoiled */
    const int32_t *row_seq; /* [rows] place of the row's sequence; -1: padding */
    const int32_t *n_past;  /* by place: candidates are slots [0, n_past) */
    const int32_t *n_rows;  /* [1] */
    int32_t *list;          /* [rows, groups, list_stride] */
    int32_t *list_n;        /* [rows, groups] */
    int64_t score_stride, list_stride;
    int64_t budget;        /* slots of a list */
    int64_t all_up_to;     /* rows with no more candidates than this get all of them; budget .. list_stride */
    int32_t heads, groups; /* heads / groups query heads compete by the larger score */
    int32_t half;          /* 1: scores are rounded to f16 before they compete */
    int32_t reserved0;
} slk_pick_params;

#define SLK_PICK_KERNELS(X) X(pick, slk_pick_params, 0, 0, pick)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* rows: a bound. Nothing allocates, nothing waits. [step] [capture] */
sl_status slk_cuda_pick(const struct slk_cuda *k, const sl_lane *lane, const slk_pick_params *p, int64_t rows);
#endif

#endif
