/* See cuda_gemms.h. */
#include "cuda_gemms.h"

#include <stdlib.h>

typedef struct planned {
    int64_t n, k;
    sl_dtype in, out;
    uint32_t epilogue;
    sl_gemm_impl *gemm; /* NULL: refused once, so it is not asked for again */
} planned;

struct sli_cuda_gemms {
    planned *at;
    int32_t n, cap;
};

static struct sli_cuda_gemms *gemms_of(sli_cuda *cuda) {
    if (cuda->gemms == NULL)
        cuda->gemms = calloc(1, sizeof *cuda->gemms);
    return cuda->gemms;
}

static planned *find(struct sli_cuda_gemms *all, const planned *key) {
    for (int32_t i = 0; all != NULL && i < all->n; i++) {
        planned *p = &all->at[i];
        if (p->n == key->n && p->k == key->k && p->in == key->in && p->out == key->out && p->epilogue == key->epilogue)
            return p;
    }
    return NULL;
}

static planned *add(sli_cuda *cuda, const planned *key) {
    struct sli_cuda_gemms *all = gemms_of(cuda);
    if (all == NULL)
        return NULL;
    if (all->n == all->cap) {
        const int32_t cap = all->cap > 0 ? 2 * all->cap : 16;
        planned *at = realloc(all->at, (size_t)cap * sizeof *at);
        if (at == NULL)
            return NULL;
        all->at = at;
        all->cap = cap;
    }
    all->at[all->n] = *key;
    return &all->at[all->n++];
}

sl_gemm_impl *sli_cuda_gemm_get(sli_cuda *cuda, const sl_lane *lane, int64_t n, int64_t k, sl_dtype in, sl_dtype out,
                                uint32_t epilogue) {
    const planned key = {.n = n, .k = k, .in = in, .out = out, .epilogue = epilogue};
    planned *p = find(cuda->gemms, &key);
    if (p != NULL)
        return p->gemm;
    p = add(cuda, &key);
    if (p == NULL)
        return NULL;
    const sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                               .n = n,
                               .k = k,
                               .max_rows = cuda->shapes.max_rows,
                               .x_dtype = in,
                               .w_dtype = in,
                               .y_dtype = out,
                               .compute = SL_F32,
                               .epilogue = epilogue};
    if (cuda->k.exec->gemm_create(cuda->k.host, lane, &desc, &p->gemm, NULL) != SL_OK)
        p->gemm = NULL;
    return p->gemm;
}

void sli_cuda_gemms_release(sli_cuda *cuda) {
    for (int32_t i = 0; cuda->gemms != NULL && i < cuda->gemms->n; i++)
        if (cuda->gemms->at[i].gemm != NULL)
            cuda->k.exec->gemm_destroy(cuda->k.host, cuda->gemms->at[i].gemm);
    if (cuda->gemms != NULL)
        free(cuda->gemms->at);
    free(cuda->gemms);
    cuda->gemms = NULL;
}
