/* Every shared CPU kernel on every instruction set of this machine: time, bytes and operations beside what the machine
 * can do, which is measured first. Prints a JSON object a line (bench_row.h). `sluice bench kernels` runs it.
 *
 *     kernels_bench [--threads N,N] [--ms N] [--pool MIB] [--isa NAME] [PATTERN]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_row.h"

static const char usage[] =
    "usage: kernels_bench [--threads N,N] [--ms N] [--pool MIB] [--isa ref|avx2|avx512] [PATTERN]\n"
    "  --threads N,N  numbers of threads, 1 to 256 (default 1 and one a core)\n"
    "  --ms N         milliseconds a row, 1 to 60000 (default 50)\n"
    "  --pool MIB     memory that operands rotate through, 64 or more (default 256, or 8 times the last cache)\n"
    "  --isa NAME     one instruction set (default all that this machine has)\n"
    "  PATTERN        rows whose kernel and shape contain it; exit status 3: none does\n";

_Noreturn static void refuse(const char *why) {
    printf("{\"error\": \"%s\"}\n", why);
    exit(2);
}

static int64_t number(const char *text, const char **end, int64_t least, int64_t most, const char *why) {
    char *e;
    const long long v = strtoll(text, &e, 10);
    if (e == text || v < least || v > most || (end == NULL && *e != '\0'))
        refuse(why);
    if (end != NULL)
        *end = e;
    return v;
}

static void parse_threads(slk_bench *b, const char *text) {
    static const char why[] = "--threads takes up to 16 numbers from 1 to 256, separated by commas";
    for (b->n_threads = 0;;) {
        if (b->n_threads == SLK_BENCH_MAX_COUNTS)
            refuse(why);
        b->threads[b->n_threads++] = (int)number(text, &text, 1, SLK_BENCH_MAX_THREADS, why);
        if (*text == '\0')
            return;
        if (*text++ != ',')
            refuse(why);
    }
}

/* Far larger than the caches, whatever the machine says of them. */
static int64_t default_pool(void) {
    const int64_t least = (int64_t)256 << 20, most = (int64_t)1 << 30, last = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return 8 * last > most ? most : 8 * last > least ? 8 * last : least;
}

static void bench_isa(slk_bench *b, uint32_t isa) {
    b->k = slk_kernels_for(isa);
    slk_bench_gemm(b, b->k->isa == SLK_ISA_REF);
    slk_bench_attend(b, b->k->isa == SLK_ISA_REF);
    slk_bench_rest(b);
    b->earlier[b->n_earlier++] = b->k;
}

/* One instruction set, or NULL: all of them. */
static void bench_all(slk_bench *b, const uint32_t *one) {
    const uint32_t levels[] = {SLK_ISA_REF, SLK_ISA_AVX2, SLK_ISA_AVX2 | SLK_ISA_AVX512, slk_isa_detect()};
    b->n_earlier = 0;
    if (one != NULL)
        bench_isa(b, *one);
    for (size_t i = 0; one == NULL && i < sizeof levels / sizeof *levels; i++)
        bench_isa(b, levels[i]);
}

int main(int argc, char **argv) {
    slk_bench b = {.pattern = "", .seconds = 0.05, .pool_bytes = default_pool()};
    const char *isa = NULL;
    int n_patterns = 0;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    b.threads[b.n_threads++] = 1;
    if (cores > 1)
        b.threads[b.n_threads++] = cores < SLK_BENCH_MAX_THREADS ? (int)cores : SLK_BENCH_MAX_THREADS;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strncmp(argv[i], "--", 2) == 0 && value == NULL)
            refuse("an option without its value, or an unknown one");
        else if (strcmp(argv[i], "--threads") == 0)
            parse_threads(&b, argv[++i]);
        else if (strcmp(argv[i], "--ms") == 0)
            b.seconds = 1e-3 * (double)number(argv[++i], NULL, 1, 60000, "--ms takes 1 to 60000");
        else if (strcmp(argv[i], "--pool") == 0)
            b.pool_bytes = number(argv[++i], NULL, 64, 1 << 20, "--pool takes 64 or more") << 20;
        else if (strcmp(argv[i], "--isa") == 0)
            isa = argv[++i];
        else if (strncmp(argv[i], "--", 2) == 0 || n_patterns++ > 0)
            refuse("an unknown option, or two patterns");
        else
            b.pattern = argv[i];
    }
    uint32_t one = 0;
    if (isa != NULL && slk_isa_parse(isa, &one) != 0)
        refuse("--isa takes ref, avx2 or avx512, as far as this machine has it");
    b.dry = 1;
    bench_all(&b, isa != NULL ? &one : NULL);
    for (int op = 0; op < SLK_KERNEL_COUNT; op++)
        if (!b.seen[op]) {
            printf("{\"error\": \"nothing times %s: add a case\"}\n", slk_kernel_name(b.k, op));
            return 1;
        }
    if (b.n_rows == 0)
        return 3;
    b.dry = 0;
    b.pool = slk_bench_need((size_t)b.pool_bytes);
    memset(b.pool, 1, (size_t)b.pool_bytes); /* pages of its own, not that of zeros */
    for (int i = 0; i < b.n_threads; i++) {
        slk_team *team = slk_bench_team(b.threads[i]);
        slk_ceilings_measure(team, b.threads[i], 2 * b.seconds, b.pool, b.pool_bytes, &b.ceilings[i]);
        slk_team_close(team);
    }
    slk_bench_print_ceilings(&b);
    bench_all(&b, isa != NULL ? &one : NULL);
    free(b.pool);
    return 0;
}
