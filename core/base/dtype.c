/* See dtype.h. The table is made from the list in sl.h. */
#include "dtype.h"

#include <string.h>

static const struct {
    const char *name;
    int32_t bits;
} table[SL_DTYPE_END_] = {
#define ROW(constant, value, text, bits) [constant] = {text, bits},
    SL_DTYPE_LIST(ROW)
#undef ROW
};

const char *sli_dtype_name(sl_dtype dtype) {
    return dtype < SL_DTYPE_END_ && table[dtype].name != NULL ? table[dtype].name : "unknown";
}

int32_t sli_dtype_bits(sl_dtype dtype) { return dtype < SL_DTYPE_END_ ? table[dtype].bits : 0; }

sl_dtype sli_dtype_find(const char *name) {
    for (sl_dtype d = SL_DTYPE_NONE + 1; d < SL_DTYPE_END_; d++)
        if (strcmp(table[d].name, name) == 0)
            return d;
    return SL_DTYPE_NONE;
}
