/* See followers.h. */
#include "followers.h"

#include "sl_error.h"

static int serves(const sli_network *net, const sli_attender *a, int32_t layer) {
    for (int s = 0; s < SLI_STAGES; s++)
        if (net->layers[layer].attender[s] == a)
            return 1;
    return 0;
}

sl_status sli_followers_layout(const sli_network *net, sl_error *err) {
    for (int32_t i = 0; i < net->n_attenders; i++) {
        const sli_attender *a = &net->attenders[i];
        if (a->kv == NULL || a->kv->layout == NULL)
            continue;
        for (int32_t l = 0; l < net->info->n_layers; l++) {
            if (!serves(net, a, l))
                continue;
            sl_status s = a->kv->layout(a->self, l, &net->layers[l].layout, err);
            if (s < 0)
                return sl_fail_within(err, s, "layer %d", l);
        }
    }
    return SL_OK;
}

sl_status sli_followers_open(const sli_network *net, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    for (int32_t i = 0; i < net->n_attenders; i++) {
        const sli_attender *a = &net->attenders[i];
        if (a->kv != NULL && a->kv->open != NULL)
            SL_TRY(a->kv->open(a->self, seq, parent, upto, err));
    }
    return SL_OK;
}

void sli_followers_close(const sli_network *net, int32_t seq) {
    for (int32_t i = 0; i < net->n_attenders; i++) {
        const sli_attender *a = &net->attenders[i];
        if (a->kv != NULL && a->kv->close != NULL)
            a->kv->close(a->self, seq);
    }
}

sl_status sli_followers_grow(const sli_network *net, int32_t seq, int64_t n_tokens, sl_error *err) {
    for (int32_t i = 0; i < net->n_attenders; i++) {
        const sli_attender *a = &net->attenders[i];
        if (a->kv != NULL && a->kv->grow != NULL)
            SL_TRY(a->kv->grow(a->self, seq, n_tokens, err));
    }
    return SL_OK;
}

void sli_followers_cut(const sli_network *net, int32_t seq, int64_t n) {
    for (int32_t i = 0; i < net->n_attenders; i++) {
        const sli_attender *a = &net->attenders[i];
        if (a->kv != NULL && a->kv->truncate != NULL)
            a->kv->truncate(a->self, seq, n);
    }
}
