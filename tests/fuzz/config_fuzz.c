/* libFuzzer target: any bytes as config.json; what follows a zero byte is generation_config.json. A description that is
 * accepted must be sane. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"
#include "model/hf_config.h"
#include "model/rope_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SL_ERROR(err);
    sli_model_desc d;
    const char *text = (const char *)data;
    const char *zero = size > 0 ? memchr(text, 0, size) : NULL;
    size_t n = zero != NULL ? (size_t)(zero - text) : size;
    if (sli_hf_config_parse("config.json", text, n, "generation_config.json", zero != NULL ? zero + 1 : NULL,
                            zero != NULL ? size - n - 1 : 0, &d, &err) < 0) {
        if (err.text[0] == 0)
            abort(); /* every failure says why */
        return 0;
    }
    for (int32_t l = 0; l < d.n_layers; l++)
        if (d.n_q[l] % d.n_kv[l] != 0 || d.window[l] < 0 || d.rope_table[l] >= d.n_rope ||
            sli_dim_size(&d, l, SLI_DIM_Q) < d.head_dim)
            abort();
    if (d.n_eos > SLI_MAX_EOS || d.bos >= d.vocab || d.head_dim % 2 != 0)
        abort();
    float *cos = malloc((size_t)d.head_dim * sizeof *cos), *sin = malloc((size_t)d.head_dim * sizeof *sin);
    if (cos != NULL && sin != NULL)
        sli_rope_fill(&d, 0, d.max_positions - 1, 2, cos, sin);
    free(cos);
    free(sin);
    sli_model_desc_free(&d);
    return 0;
}
