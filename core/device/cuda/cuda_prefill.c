/* Prompt attention of the compute lane: the shared kernel, see attend_prefill_cuda.h for what it takes. */
#include "cuda_impl.h"

/* SL_E_UNIMPLEMENTED, with nothing queued: the call is one for sli_cuda_attend_few. */
sl_status sli_cuda_attend_prefill(const sl_host *host, const sl_attend *args) {
    (void)host;
    return slk_cuda_attend_prefill(&sli_cuda_of(args->lane)->k, args, 0);
}
