/* Attention: sl_ops.attend. Prompts go to a kernel of their own where results may depend on the shape of a step; all
 * else, and everything in deterministic mode, to the kernel of few rows. */
#include "cuda_impl.h"

enum { PREFILL_ROWS = 32 }; /* fewer rows of a sequence: keys are read once anyway, and splits fill the device */

int64_t sli_cuda_attend_workspace(const sli_cuda *cuda, const sli_cuda_shapes *shapes) {
    (void)cuda;
    return slk_cuda_attend_few_workspace(shapes->max_rows, shapes->max_context, shapes->heads, shapes->head_dim);
}

sl_status sli_cuda_attend_few(const sl_host *host, const sl_attend *args) {
    (void)host;
    sli_cuda *cuda = sli_cuda_of(args->lane);
    return slk_cuda_attend_few(&cuda->k, args->lane, args, cuda->workspace, cuda->workspace_bytes);
}

static int wants_prefill(const sli_cuda *cuda, const sl_attend *args) {
    const sl_step_device *step = args->rows->batch->device;
    const sl_view_device *view = args->view != NULL ? args->view->device : NULL;
    if (cuda->k.deterministic || step == NULL || view == NULL)
        return 0;
    return (step->stages & SL_STAGE_PREFILL) && step->max_seq_rows >= PREFILL_ROWS && view->list == NULL &&
           view->k_bits == 0 && view->v_bits == 0 && args->rows->index == NULL;
}

sl_status sli_cuda_op_attend(const sl_host *host, const sl_attend *args) {
    if (wants_prefill(sli_cuda_of(args->lane), args)) {
        sl_status s = sli_cuda_attend_prefill(host, args);
        if (s != SL_E_UNIMPLEMENTED) /* a shape or a wish that it does not serve */
            return s;
    }
    return sli_cuda_attend_few(host, args);
}
