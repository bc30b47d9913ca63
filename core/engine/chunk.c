/* See chunk.h. */
#include "engine/chunk.h"

#include <inttypes.h>

#include "sl_error.h"

static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

sl_status sli_chunk_rule(sli_network *net, int64_t prefill_chunk, int64_t max_sessions, sl_error *err) {
    int64_t align = 1, most = prefill_chunk < net->limits.max_rows ? prefill_chunk : net->limits.max_rows;
    net->drops_chunks = 0;
    for (int32_t p = 0; p < net->n_policies; p++) {
        sl_kv_wants wants = {.struct_size = SL_SIZE(sl_kv_wants)};
        SL_TRY(net->policies[p].api->wants(net->policies[p].self, 0, &wants));
        net->drops_chunks |= (wants.flags & SL_KV_WANTS_CHUNKS) != 0;
    }
    int depends = net->drops_chunks;
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sl_attn_caps *caps = &net->layers[l].caps[0];
        int64_t n = caps->chunk_align > 1 ? caps->chunk_align : 1;
        depends |= (caps->flags & SL_ATTN_CHUNKED) != 0;
        if (n <= most)
            align *= n / gcd(align, n);
        if (n > most || align > most)
            return sl_fail(err, SL_E_RANGE,
                           "layer %d: the attention plugin wants prompts cut at multiples of %" PRId64
                           " tokens, and a chunk has %" PRId64 " at most (engine.prefill_chunk, engine.max_rows)",
                           l, n > most ? n : align, most);
    }
    net->chunk_most = most;
    net->chunk_align = align;
    int64_t beside = net->limits.max_rows - (max_sessions - 1); /* a chunk that cannot be cut needs this much */
    int64_t fixed = most < beside || beside < align ? most : beside;
    net->chunk_fixed = depends && net->limits.deterministic ? fixed - fixed % align : 0;
    return SL_OK;
}

int64_t sli_chunk_rows(const sli_network *net, int64_t begin, int64_t pending, int64_t room) {
    if (net->chunk_fixed > 0) {
        int64_t rows = net->chunk_fixed - begin % net->chunk_fixed;
        rows = rows < pending ? rows : pending;
        return rows <= room ? rows : 0;
    }
    int64_t rows = pending < net->chunk_most ? pending : net->chunk_most;
    rows = rows < room ? rows : room;
    if (rows < pending && rows > 0)
        rows -= (begin + rows) % net->chunk_align;
    return rows > 0 ? rows : 0;
}
