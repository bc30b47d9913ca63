/* The tensors of `spqr_pack` 1: P.codes, P.stat, P.second, P.rowptr, P.col, P.val, P.perm, and P.source. */
#include "spqr.h"

#include <string.h>

#include "sl_error.h"
#include "sl_tensor.h"

void spqr_add_tensor(spqr_tensors *t, const char *linear, const char *suffix, const void *data, sl_dtype dtype,
                     uint32_t ndim, int64_t d0, int64_t d1, int64_t d2) {
    sl_pack_tensor *p = &t->tensor[t->n];
    sl_packed_name(t->name[t->n], linear, suffix);
    *p = (sl_pack_tensor){.struct_size = SL_SIZE(sl_pack_tensor), .name = t->name[t->n]};
    sl_tensor_make(&p->tensor, (void *)(uintptr_t)data, dtype, SL_DEVICE_CPU, ndim, (int64_t[]){d0, d1, d2});
    t->n++;
}

sl_status spqr_write(const sl_linear *linear, const spqr_matrix *m, spqr_tensors *out, sl_error *err) {
    (void)err;
    const char *name = linear->name;
    *out = (spqr_tensors){.source = sl_packed_source(&linear->weight)};
    spqr_add_tensor(out, name, ".codes", m->codes, SL_U8, 3, m->n, m->groups, m->group * m->bits / 8);
    if (m->second != NULL) {
        spqr_add_tensor(out, name, ".stat", m->stat, SL_U8, 2, m->n, m->groups, 0);
        spqr_add_tensor(out, name, ".second", m->second, SL_F16, 3, m->tiles, m->groups, 4);
    } else
        spqr_add_tensor(out, name, ".stat", m->stat, SL_F16, 3, m->n, m->groups, 2);
    spqr_add_tensor(out, name, ".rowptr", m->rowptr, SL_U32, 1, m->n + 1, 0, 0);
    spqr_add_tensor(out, name, ".col", m->col, m->k > 65536 ? SL_U32 : SL_U16, 1, m->nnz, 0, 0);
    spqr_add_tensor(out, name, ".val", m->val, SL_F16, 1, m->nnz, 0, 0);
    if (m->order != NULL)
        spqr_add_tensor(out, name, ".perm", m->order, SL_U32, 1, m->k, 0, 0);
    spqr_add_tensor(out, name, ".source", &out->source, SL_I64, 1, 1, 0, 0);
    return SL_OK;
}

sl_status spqr_read(const sl_pack_env *env, const spqr_settings *s, const sl_packed_file *file, const sl_linear *linear,
                    spqr_matrix *m, sl_error *err) {
    const char *name = linear->name;
    sl_tensor codes, stat, second = {0}, rowptr, col, val, order = {0};
    if (sl_packed_file_has(file, name, ".dense_weights"))
        return spqr_official_read(env, s, file, linear, m, err);
    spqr_shape(m, linear->weight.shape[0], linear->weight.shape[1], s);
    int two = m->scale_bits < 16;
    SL_TRY(sl_packed_file_get(file, name, ".codes", SL_U8, 3, (int64_t[]){m->n, m->groups, m->group * m->bits / 8},
                              &codes, err));
    SL_TRY(sl_packed_file_get(file, name, ".stat", two ? SL_U8 : SL_F16, two ? 2 : 3, (int64_t[]){m->n, m->groups, 2},
                              &stat, err));
    if (two)
        SL_TRY(sl_packed_file_get(file, name, ".second", SL_F16, 3, (int64_t[]){m->tiles, m->groups, 4}, &second, err));
    SL_TRY(sl_packed_file_get(file, name, ".rowptr", SL_U32, 1, (int64_t[]){m->n + 1}, &rowptr, err));
    SL_TRY(sl_packed_file_get(file, name, ".val", SL_F16, 1, (int64_t[]){-1}, &val, err));
    SL_TRY(sl_packed_file_get(file, name, ".col", m->k > 65536 ? SL_U32 : SL_U16, 1, val.shape, &col, err));
    if (sl_packed_file_has(file, name, ".perm"))
        SL_TRY(sl_packed_file_get(file, name, ".perm", SL_U32, 1, (int64_t[]){m->k}, &order, err));
    m->nnz = val.shape[0];
    m->codes = codes.data;
    m->stat = stat.data;
    m->second = second.data;
    m->rowptr = rowptr.data;
    m->col = col.data;
    m->val = val.data;
    m->order = order.data;
    return spqr_check(m, name, err);
}
