/* The test host itself: data, copies, poison, red zones, timing. */
#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* These run everywhere. */
static void test_bf16(void **state) {
    (void)state;
    static const struct {
        float x;
        uint16_t bf16;
    } cases[] = {{0, 0},
                 {-0.0f, 0x8000},
                 {1, 0x3f80},
                 {1.00390625f, 0x3f80}, /* halfway, even below */
                 {1.01171875f, 0x3f82}, /* halfway, even above */
                 {-3.0e38f, 0xff62},
                 {3.4e38f, 0x7f80}, /* beyond the largest */
                 {INFINITY, 0x7f80},
                 {1e-40f, 0x0001}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (slt_bf16(cases[i].x) != cases[i].bf16)
            fail_msg("%g is %04x, expected %04x", (double)cases[i].x, slt_bf16(cases[i].x), cases[i].bf16);
    assert_true(isnan(slt_float(slt_bf16(NAN))));
    for (uint32_t b = 0; b < 0x10000; b++)
        if (!isnan(slt_float((uint16_t)b)))
            assert_int_equal(slt_bf16(slt_float((uint16_t)b)), b);
}

static void test_random(void **state) {
    (void)state;
    enum { N = 100000 };
    static float x[N], y[N];
    slt_random(x, N, 1);
    slt_random(y, N, 2);
    double sum = 0, square = 0, product = 0;
    for (int i = 0; i < N; i++) {
        assert_true(x[i] >= -1 && x[i] < 1);
        sum += x[i], square += (double)x[i] * x[i], product += (double)x[i] * y[i];
    }
    assert_true(fabs(sum / N) < 0.01 && fabs(square / N - 1.0 / 3) < 0.01 && fabs(product / N) < 0.01);
}

static void test_no_driver(void **state) {
    if (*state == NULL)
        assert_non_null(strstr(slt_why, "no CUDA d")); /* driver, or device */
}

/* These need a device. */
static void test_copies(void **state) {
    slt_host *h = slt_get(state);
    static const int64_t sizes[] = {1, 3, 4, 257, 4096, 1000003};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t n = sizes[i];
        unsigned char *a = malloc((size_t)n), *b = malloc((size_t)n);
        for (int64_t j = 0; j < n; j++)
            a[j] = (unsigned char)(j * 7 + 3);
        void *d = slt_upload(h, a, n), *e = slt_device(h, n);
        assert_int_equal((uintptr_t)d % 256, 0);
        slt_download(h, b, e, n);
        for (int64_t j = 0; j < n; j++)
            assert_int_equal(b[j], 0xff);
        slt_write(h, e, a, n);
        memset(b, 0, (size_t)n);
        slt_download(h, b, e, n);
        assert_memory_equal(a, b, (size_t)n);
        free(a), free(b);
    }
    assert_true(h->k.info.arch >= 800 && h->k.info.n_processors > 0 && h->k.info.max_shared > 48 * 1024);
    assert_true(h->k.info.memory_free > 0 && h->k.info.memory_free <= h->k.info.memory);
    print_message("device: %s, architecture %d, driver %d\n", h->k.info.name, h->k.info.arch, h->k.info.driver);
}

/* A write one byte behind an allocation, or in front of it, ends the program. The child execs itself: a driver does not
 * survive fork(). */
static void test_red_zones(void **state) {
    slt_get(state);
    static char *const variants[] = {"none", "behind", "front"};
    char self[512];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = '\0';
    for (int i = 0; i < 3; i++) {
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char *const args[] = {self, variants[i], NULL};
            execv(self, args);
            _exit(127);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), i == 0 ? 0 : 1);
    }
}

static int write_zone(const char *variant) {
    slt_host h;
    char why[512];
    const unsigned char byte = 0;
    if (slt_open(&h, why, sizeof why) != 0)
        return 3;
    unsigned char *p = slt_device(&h, 1000);
    slt_write(&h, strcmp(variant, "behind") == 0 ? p + 1000 : strcmp(variant, "front") == 0 ? p - 1 : p, &byte, 1);
    slt_close(&h);
    return 0;
}

typedef struct fills {
    slt_host *h;
    void *p;
    int64_t bytes;
    int n;
} fills;
static void fill_once(void *user, int i) {
    fills *f = user;
    f->n++;
    assert_int_equal(f->h->exec->fill(f->h->lane, f->p, i, f->bytes), SL_OK);
}

static void test_time(void **state) {
    slt_host *h = slt_get(state);
    fills f = {.h = h, .bytes = 64 << 20};
    f.p = slt_device(h, f.bytes);
    const double large = slt_time_us(h, 10, 5, fill_once, &f);
    assert_true(f.n >= 11);
    print_message("64 MiB filled in %.1f us: %.2f TB/s\n", large, (double)f.bytes / large * 1e-6);
    f.bytes = 4096;
    const double small = slt_time_us(h, 10, 5, fill_once, &f);
    assert_true(small > 0 && small < large && large < 1e5);
    unsigned char byte = 0;
    slt_download(h, &byte, f.p, 1);
    assert_int_equal(byte, 9); /* the last call's */
}

int main(int argc, char **argv) {
    if (argc > 1)
        return write_zone(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bf16),      cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_no_driver), cmocka_unit_test(test_copies),
                                       cmocka_unit_test(test_red_zones), cmocka_unit_test(test_time)};
    return cmocka_run_group_tests_name("testhost", tests, slt_setup, slt_teardown);
}
