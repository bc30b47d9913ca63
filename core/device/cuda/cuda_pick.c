/* Slots by scores: sl_ops.pick. */
#include "cuda_impl.h"
#include "pick_cuda.h"

sl_status sli_cuda_op_pick(const sl_host *host, const sl_op_pick *args) {
    const sl_step_device *step = args->rows->batch->device;
    const sli_cuda *cuda = sli_cuda_of(args->lane);
    (void)host;
    if (step == NULL || args->rows->index != NULL)
        return SL_E_UNIMPLEMENTED;
    const slk_pick_params p = {.scores = args->scores,
                               .row_seq = step->row_seq,
                               .n_past = step->n_past,
                               .n_rows = step->n_rows,
                               .list = args->list,
                               .list_n = args->list_n,
                               .score_stride = args->score_stride,
                               .list_stride = args->list_stride,
                               .budget = args->budget,
                               .all_up_to = args->all_up_to,
                               .heads = args->heads,
                               .groups = args->groups,
                               .half = args->half != 0};
    return slk_cuda_pick(&cuda->k, args->lane, &p, args->rows->n);
}
