/* libFuzzer target: any bytes as a safetensors file. What is accepted is read to its last byte. */
#include <stdint.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SL_ERROR(err);
    sli_safetensors *st;
    if (sli_safetensors_parse("fuzz.safetensors", data, size, &st, &err) < 0) {
        if (err.text[0] == 0 || st != NULL)
            abort(); /* every failure says why */
        return 0;
    }
    volatile uint8_t sink = 0;
    for (size_t i = 0; i < sli_safetensors_count(st); i++) {
        const sli_named_tensor *t = sli_safetensors_at(st, i);
        if (sli_safetensors_find(st, t->name) != t ||
            (t->bytes > 0 && (uintptr_t)t->tensor.data % t->tensor.align != 0))
            abort();
        for (int64_t k = 0; k < t->bytes; k++)
            sink = (uint8_t)(sink + ((const uint8_t *)t->tensor.data)[k]);
    }
    sli_safetensors_close(st);
    return 0;
}
