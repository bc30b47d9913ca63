/* Builds the tables of kernels: reference first, then what each instruction set has better. */
#include "kernels_fill.h"

#include <pthread.h>

static slk_kernels tables[SLK_ISA_END]; /* by flags; only those this machine can run are filled */
static uint32_t detected;
static pthread_once_t built = PTHREAD_ONCE_INIT;

static void fill(slk_kernels *k, uint32_t isa) {
    k->isa = isa;
#define FILL(op) slk_##op##_fill_ref(k);
    SLK_FILL_LIST(FILL)
#undef FILL
#if defined(SLK_HAVE_AVX2)
#define FILL(op) slk_##op##_fill_avx2(k);
    if (isa & SLK_ISA_AVX2) {
        SLK_FILL_LIST(FILL)
    }
#undef FILL
#endif
#if defined(SLK_HAVE_AVX512)
#define FILL(op) slk_##op##_fill_avx512(k);
    if (isa & SLK_ISA_AVX512) {
        SLK_FILL_LIST(FILL)
    }
#undef FILL
#endif
#if defined(SLK_HAVE_AVX512BF16)
    if (isa & SLK_ISA_AVX512BF16)
        slk_gemm_fill_avx512bf16(k);
#endif
}

/* Each level needs those below it; lone flags are dropped. */
static uint32_t closed(uint32_t isa) {
    if (!(isa & SLK_ISA_AVX2))
        return SLK_ISA_REF;
    return isa & SLK_ISA_AVX512 ? isa : (uint32_t)SLK_ISA_AVX2;
}

static void build(void) {
    detected = slk_isa_detect();
    for (uint32_t isa = 0; isa < SLK_ISA_END; isa++)
        if (closed(isa & detected) == isa)
            fill(&tables[isa], isa);
}

const slk_kernels *slk_kernels_for(uint32_t isa) {
    pthread_once(&built, build);
    return &tables[closed(isa & detected)];
}

const char *slk_kernel_name(const slk_kernels *k, int op) {
    switch (op) {
#define NAME(field, type)                                                                                              \
    case SLK_KERNEL_##field: return k->field##_name;
        SLK_KERNEL_LIST(NAME)
#undef NAME
    default: return "";
    }
}
