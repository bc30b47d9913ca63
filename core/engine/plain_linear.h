/* plain_linear.h - linears as the checkpoint holds them, multiplied by the engine's own product: what stands in for a
 * quantiser until it has seen its data. */
#ifndef SLUICE_CORE_PLAIN_LINEAR_H
#define SLUICE_CORE_PLAIN_LINEAR_H

#include "engine/network.h"

/* `self` of these functions is the network, as an opaque pointer. */
extern const sl_quant sli_plain_linear;

static inline sli_quantizer sli_plain_quantizer(sli_network *net) {
    return (sli_quantizer){.self = (sl_instance *)net, .api = &sli_plain_linear};
}

#endif
