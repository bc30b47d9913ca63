/* Matching: needs, partners, devices, and things that only one plugin a layer may own. */
#include "sl_test.h"

#include "plugin/match.h"
#include "sl_error.h"
#include "sluice/kv.h"

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define PLUGIN(...)                                                                                                    \
    { .struct_size = SL_SIZE(sl_plugin), .devices = SL_ON_CPU, __VA_ARGS__ }

static sl_status match(const sli_pick *picks, int n, char text[1024]) {
    sl_error err = {SL_SIZE(sl_error), SL_OK, 1024, text};
    text[0] = '\0';
    return sli_match(picks, n, NULL, NULL, NULL, &err);
}

static void host_offers_what_the_headers_promise(void **state) {
    (void)state;
    static const char *const always[] = {"sl.model/1", "sl.mem/1",     "sl.scratch/1", "sl.threads/1",
                                         "sl.cpu/1",   "sl.exec/1",    "sl.ops/1",     "sl.artifact/1",
                                         "sl.rng/1",   "sl.metrics/1", "sl.sample/1",  "sl.work/1",
                                         "sl.topk.prompt/1"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        assert_true(sli_match_has(NULL, 0, NULL, 0, always[i]));
    assert_false(sli_match_has(NULL, 0, NULL, 0, "sl.select/1"));
    assert_false(sli_match_has(NULL, 0, LIST("x/1"), 0, "sl.mem/1"));
}

static const char *knows_one(void *user, const char *capability) {
    return strcmp(capability, "sl.kv.gather/1") == 0 ? user : NULL;
}

static void lists_every_missing_need(void **state) {
    (void)state;
    const sl_plugin a =
        PLUGIN(.id = "alpha", .roles = LIST("attention"), .needs = LIST("sl.mem/1", "sl.kv.gather/1", "x.y/1"));
    const sl_plugin b = PLUGIN(.id = "beta", .roles = LIST("kvcache.store"), .provides = LIST("sl.kv.fork/1"));
    const sl_plugin c =
        PLUGIN(.id = "gamma", .roles = LIST("kvcache.store"), .provides = LIST("sl.kv.gather/1", "x.y/1"));
    const sli_pick bad[] = {{.plugin = &a, .role = "attention", .section = "attention"},
                            {.plugin = &b, .role = "kvcache.store", .section = "kvcache"}};
    const sli_pick good[] = {bad[0], {.plugin = &c, .role = "kvcache.store", .section = "kvcache"}};
    char text[1024];
    sl_error err = {SL_SIZE(sl_error), SL_OK, sizeof text, text};
    assert_int_equal(match(good, 2, text), SL_OK);
    assert_int_equal(sli_match(bad, 2, NULL, knows_one, "gamma (kvcache_gamma.so)", &err), SL_E_INVALID);
    assert_string_equal(text,
                        "[attention] alpha needs sl.kv.gather/1, which nothing here provides; gamma (kvcache_gamma.so) "
                        "would\n[attention] alpha needs x.y/1, which neither this host nor a chosen plugin provides");
    /* A store of the other model does not count. */
    sli_pick apart[] = {good[0], good[1]};
    apart[1].model = 1;
    assert_int_equal(match(apart, 2, text), SL_E_INVALID);
}

static void partners_by_name(void **state) {
    (void)state;
    const sl_plugin a =
        PLUGIN(.id = "alpha", .roles = LIST("attention"), .needs = LIST("kvcache.store=beta", "kvcache=beta"));
    const sl_plugin b = PLUGIN(.id = "beta", .roles = LIST("kvcache.store", "kvcache.policy"));
    const sl_plugin c = PLUGIN(.id = "bet", .roles = LIST("kvcache.store"));
    sli_pick picks[] = {{.plugin = &a, .role = "attention", .section = "attention"},
                        {.plugin = &b, .role = "kvcache.store", .section = "kvcache"}};
    char text[1024];
    assert_int_equal(match(picks, 2, text), SL_OK);
    picks[1].plugin = &c;
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    assert_non_null(strstr(text, "alpha needs kvcache.store=beta"));
    picks[1].plugin = &b; /* in another role than the one that is asked for */
    picks[1].role = "kvcache.policy";
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    assert_null(strstr(text, "needs kvcache=beta"));
}

static void devices_and_roles_must_fit(void **state) {
    (void)state;
    const sl_plugin cuda = {
        .struct_size = SL_SIZE(sl_plugin), .id = "fast", .roles = LIST("attention"), .devices = SL_ON_CUDA};
    sli_pick pick = {.plugin = &cuda, .role = "attention", .section = "attention.prefill"};
    char text[1024];
    assert_int_equal(match(&pick, 1, text), SL_E_INVALID);
    assert_string_equal(text, "[attention.prefill] fast runs on cuda only; the device is cpu");
    pick.device = SL_DEVICE_CUDA;
    assert_int_equal(match(&pick, 1, text), SL_OK);
    pick.role = "quant";
    assert_int_equal(match(&pick, 1, text), SL_E_INVALID);
    assert_non_null(strstr(text, "fast does not have the role quant"));
}

static void one_selector_a_layer(void **state) {
    (void)state;
    const sl_plugin a = PLUGIN(.id = "alpha", .roles = LIST("attention"), .provides = LIST("sl.select/1"));
    const sl_plugin b = PLUGIN(.id = "beta", .roles = LIST("kvcache.store"), .provides = LIST("sl.select/1"));
    const sl_plugin d = PLUGIN(.id = "delta", .roles = LIST("attention"));
    uint32_t first[3] = {SL_STAGE_ALL, 0, 0}, last[3] = {0, SL_STAGE_DECODE, SL_STAGE_DECODE};
    sli_pick picks[] = {{.plugin = &a, .role = "attention", .section = "attention"},
                        {.plugin = &b, .role = "kvcache.store", .section = "kvcache"}};
    char text[1024];
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    assert_string_equal(text, "[attention] alpha and [kvcache] beta both provide sl.select/1 in layer 0; only one may");
    picks[0].layer_stages = first, picks[0].n_layers = 3;
    picks[1].layer_stages = last, picks[1].n_layers = 3;
    assert_int_equal(match(picks, 2, text), SL_OK);
    last[0] = SL_STAGE_PREFILL;
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    first[0] = SL_STAGE_DECODE | SL_STAGE_VERIFY;
    assert_int_equal(match(picks, 2, text), SL_OK);
    picks[1].layer_stages = NULL, picks[1].n_layers = 0; /* everywhere */
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    picks[0].plugin = &d;
    assert_int_equal(match(picks, 2, text), SL_OK);
}

static void one_store_but_many_policies(void **state) {
    (void)state;
    const sl_plugin a =
        PLUGIN(.id = "alpha", .roles = LIST("kvcache.store", "kvcache.policy"), .provides = LIST("sl.select/1"));
    const sl_plugin b = PLUGIN(.id = "beta", .roles = LIST("kvcache.store", "kvcache.policy"));
    sli_pick picks[] = {{.plugin = &a, .role = "kvcache.store", .section = "kvcache"},
                        {.plugin = &b, .role = "kvcache.store", .section = "kvcache.layers 0-1"}};
    char text[1024];
    assert_int_equal(match(picks, 2, text), SL_E_INVALID);
    assert_non_null(strstr(text, "both have the role kvcache.store in layer 0"));
    picks[1].model = 1;
    assert_int_equal(match(picks, 2, text), SL_OK);
    picks[1].model = 0;
    picks[0].role = picks[1].role = "kvcache.policy";
    assert_int_equal(match(picks, 2, text), SL_OK);
    /* One object in two sections owns what it provides once. */
    picks[1] = picks[0];
    picks[1].role = "kvcache.store";
    assert_int_equal(match(picks, 2, text), SL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_offers_what_the_headers_promise),
        cmocka_unit_test(lists_every_missing_need),
        cmocka_unit_test(partners_by_name),
        cmocka_unit_test(devices_and_roles_must_fit),
        cmocka_unit_test(one_selector_a_layer),
        cmocka_unit_test(one_store_but_many_policies),
    };
    return cmocka_run_group_tests_name("match", tests, NULL, NULL);
}
