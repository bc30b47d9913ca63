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

/* The kernel of prompts knows no column sums: they are made of q and its log-sum-exp behind it. */
static sl_status prefill(const sl_host *host, const sl_attend *args) {
    const sli_cuda *cuda = sli_cuda_of(args->lane);
    sl_attend plain = *args;
    if (!(args->want & SL_WANT_COLSUM) || args->colsum == NULL)
        return sli_cuda_attend_prefill(host, args);
    plain.want = (args->want & ~(uint32_t)SL_WANT_COLSUM) | SL_WANT_LSE;
    if (plain.lse == NULL) {
        const int64_t bytes = 4 * (int64_t)args->rows->batch->device->max_rows * args->q.shape[1];
        if (bytes > cuda->workspace_bytes)
            return SL_E_NO_MEMORY;
        plain.lse = cuda->workspace;
    }
    const sl_status s = sli_cuda_attend_prefill(host, &plain);
    if (s < 0)
        return s;
    plain.want = args->want;
    return slk_cuda_attend_colsum(&cuda->k, args->lane, &plain);
}

sl_status sli_cuda_op_attend(const sl_host *host, const sl_attend *args) {
    if (wants_prefill(sli_cuda_of(args->lane), args)) {
        sl_status s = prefill(host, args);
        if (s != SL_E_UNIMPLEMENTED) /* a shape or a wish that it does not serve */
            return s;
    }
    return sli_cuda_attend_few(host, args);
}
