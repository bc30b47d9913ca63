/* The loader: negotiation with packages that are wrong in one thing each, discovery order, what is tried and said. */
#include "sl_test.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin/loader.h"
#include "sl_error.h"

static const char *packages; /* folder of the sample packages */

static char *package(const char *name) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.so", packages, name);
    return path;
}

/* ---- negotiation ------------------------------------------------------------------------------------------------- */

typedef struct wrong {
    const char *file;
    sl_status code;
    const char *says, *also;
} wrong;

static const wrong wrongs[] = {
    {"attention_magic", SL_E_VERSION, "magic is 0x12345678, expected 0x6b706c73", "not a sluice package"},
    {"attention_major", SL_E_VERSION, "built for ABI 9.", "majors differ"},
    {"attention_major_symbol", SL_E_VERSION, "exports sl_package_7", "sl_package_0"},
    {"attention_minor", SL_E_VERSION, "minors must be equal", "rebuild"},
    {"attention_tag", SL_E_VERSION, "ABI tag is 0x", "expected 0x"},
    {"attention_symbol", SL_E_VERSION, "does not export sl_package_0", "not a sluice package"},
    {"attention_null", SL_E_DATA, "sl_package_0 returned NULL", ""},
    {"attention_size", SL_E_VERSION, "sl_package has struct_size 24, expected at least 40", ""},
    {"attention_no_plugins", SL_E_DATA, "has 0 plugins, expected 1 to 64", ""},
    {"attention_twice", SL_E_DATA, "two plugins have the id twice", ""},
    {"attention_plugin_size", SL_E_VERSION, "sl_plugin 0 has struct_size", "expected at least"},
    {"attention_null_id", SL_E_DATA, "plugin 0 has the id 'NULL'", ""},
    {"attention_capital", SL_E_DATA, "has the id 'Capital'", "lower case"},
    {"attention_role", SL_E_VERSION, "unknown role 'atention'", "kvcache.store"},
    {"attention_summary", SL_E_DATA, "lacks the mandatory summary", ""},
    {"attention_slot", SL_E_DATA, "lacks the mandatory create()", ""},
    {"attention_must_understand", SL_E_VERSION, "must_understand is 0x4", "newer host"},
    {"attention_text", SL_E_IO, "cannot be opened", ""},
};

static void refuses_each_wrong_package_with_its_own_message(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        const sli_package *out = NULL;
        SL_ERROR(err);
        sl_status s = sli_package_open(package(wrongs[i].file), 0, &out, &err);
        if (s != wrongs[i].code || strstr(err_text_, wrongs[i].says) == NULL ||
            strstr(err_text_, wrongs[i].also) == NULL || strstr(err_text_, wrongs[i].file) == NULL || out != NULL)
            fail_msg("%s: status %d, message: %s", wrongs[i].file, s, err_text_);
        assert_int_equal(err.code, s);
    }
}

static void opens_a_good_package_once(void **state) {
    (void)state;
    const sli_package *first = NULL, *second = NULL;
    assert_int_equal(sli_package_open(package("attention_good"), 0, &first, NULL), SL_OK);
    char other[PATH_MAX] = "/tmp/sluice_loader_XXXXXX", link[PATH_MAX];
    assert_non_null(mkdtemp(other));
    snprintf(link, sizeof link, "%.200s/renamed.so", other);
    assert_int_equal(symlink(package("attention_good"), link), 0);
    assert_int_equal(sli_package_open(link, 0, &second, NULL), SL_OK);
    assert_ptr_equal(first, second);
    assert_string_equal(first->package->plugins[0]->id, "good");
    int found = 0;
    for (const sli_package *p = sli_packages_open(); p != NULL; p = p->next)
        found += p == first;
    assert_int_equal(found, 1);

    /* A file that is named after no plugin: the only one with the role is meant. */
    sli_plugin plugin;
    assert_int_equal(sli_plugin_open(NULL, "attention", link, &plugin, NULL), SL_OK);
    assert_string_equal(plugin.plugin->id, "good");
    unlink(link);
    rmdir(other);
}

static void missing_and_odd_files(void **state) {
    (void)state;
    const sli_package *out;
    SL_ERROR(err);
    assert_int_equal(sli_package_open("/nonexistent/attention_x.so", 0, &out, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err_text_, "No such file"));
    assert_int_equal(sli_package_open(packages, 0, &out, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "not a regular file"));
}

/* ---- roles and ids ----------------------------------------------------------------------------------------------- */

static void id_and_role_must_fit(void **state) {
    (void)state;
    sli_plugin plugin;
    SL_ERROR(err);
    assert_int_equal(sli_plugin_open(NULL, "attention", package("attention_other_id"), &plugin, &err), SL_E_VERSION);
    assert_non_null(strstr(err_text_, "the file name says 'other_id', but the package contains something (attention)"));
    assert_int_equal(sli_plugin_open(NULL, "kvcache.store", package("attention_good"), &plugin, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "no plugin for the role kvcache.store; the package contains good (attention)"));
    assert_int_equal(sli_plugin_open(NULL, "kvstore", package("attention_good"), &plugin, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "not a role"));
    assert_int_equal(sli_plugin_open(NULL, "attention", "Good Plugin", &plugin, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "neither the id"));
}

/* ---- discovery --------------------------------------------------------------------------------------------------- */

typedef struct tree {
    char root[64];
    char ini[128], base[128];
} tree;

static void make_dir(const char *root, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static int make_tree(void **state) {
    static tree t;
    strcpy(t.root, "/tmp/sluice_tree_XXXXXX");
    assert_non_null(mkdtemp(t.root));
    make_dir(t.root, "ini");
    make_dir(t.root, "base");
    make_dir(t.root, "base/plugins");
    make_dir(t.root, "base/plugins/attention");
    make_dir(t.root, "base/plugins/attention/good");
    snprintf(t.ini, sizeof t.ini, "%s/ini", t.root);
    snprintf(t.base, sizeof t.base, "%s/base", t.root);
    unsetenv("SLUICE_PLUGIN_PATH");
    *state = &t;
    return 0;
}

static int remove_tree(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", ((tree *)*state)->root);
    return system(command);
}

static void place(const char *target, const char *dir, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    assert_int_equal(symlink(package(target), path), 0);
}

static void not_found_lists_every_place(void **state) {
    tree *t = *state;
    const char *dirs[] = {t->ini};
    sli_search search = {.dirs = dirs, .n_dirs = 1, .base_dir = t->base};
    sli_plugin plugin;
    char text[4096];
    sl_error err = {SL_SIZE(sl_error), SL_OK, sizeof text, text};
    setenv("SLUICE_PLUGIN_PATH", "/nonexistent/one:/nonexistent/two", 1);
    assert_int_equal(sli_plugin_open(&search, "attention", "no_such", &plugin, &err), SL_E_NOT_FOUND);
    static const char *const places[] = {"ini/attention_no_such.so: No such file",
                                         "ini/attention/no_such/attention_no_such.so",
                                         "/nonexistent/one/attention_no_such.so",
                                         "/nonexistent/two/attention_no_such.so",
                                         "base/plugins/attention/no_such/attention_no_such.so",
                                         "sluice/plugins-0/attention_no_such.so"};
    const char *at = text;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) { /* in this order */
        at = strstr(at, places[i]);
        if (at == NULL)
            fail_msg("%s is missing or out of order in: %s", places[i], text);
    }
    unsetenv("SLUICE_PLUGIN_PATH");
}

static void first_place_wins(void **state) {
    tree *t = *state;
    char deep[256];
    snprintf(deep, sizeof deep, "%s/plugins/attention/good", t->base);
    const char *dirs[] = {t->ini};
    sli_search search = {.dirs = dirs, .n_dirs = 1, .base_dir = t->base};
    sli_plugin plugin;
    SL_ERROR(err);

    place("attention_good", deep, "attention_good.so");
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_OK);
    assert_string_equal(plugin.plugin->id, "good");
    assert_int_equal(sli_plugin_open(&search, "attention", "attention.good", &plugin, &err), SL_OK);

    /* Another family asks: the file is found, its role does not fit, and the message says so. */
    assert_int_equal(sli_plugin_open(&search, "kvcache.store", "good", &plugin, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "no plugin for the role kvcache.store"));

    /* The environment comes before the build tree: an unusable file there is an error, not skipped. */
    char env[256];
    snprintf(env, sizeof env, "%s/env", t->root);
    make_dir(t->root, "env");
    place("attention_magic", env, "attention_good.so");
    setenv("SLUICE_PLUGIN_PATH", env, 1);
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_E_VERSION);
    assert_non_null(strstr(err_text_, "env/attention_good.so: not a sluice package"));
    /* A privileged process does not read it. */
    search.privileged = 1;
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_OK);
    search.privileged = 0;
    /* The INI comes before the environment. */
    place("attention_good", t->ini, "attention_good.so");
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_OK);
    unsetenv("SLUICE_PLUGIN_PATH");
}

static void privileged_processes_mistrust_open_folders(void **state) {
    tree *t = *state;
    const char *dirs[] = {t->ini};
    sli_search search = {.dirs = dirs, .n_dirs = 1, .base_dir = t->base, .privileged = 1};
    sli_plugin plugin;
    SL_ERROR(err);
    place("attention_good", t->ini, "attention_good.so");
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_OK);
    assert_int_equal(chmod(t->ini, 0777), 0);
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_E_INVALID);
    assert_non_null(strstr(err_text_, "its folder is writable by everybody"));
    search.privileged = 0;
    assert_int_equal(sli_plugin_open(&search, "attention", "good", &plugin, &err), SL_OK);
    assert_int_equal(chmod(t->ini, 0755), 0);
}

typedef struct listed {
    char text[4096];
} listed;

static int collect(void *user, const char *path, const char *family, const char *id, int shadowed) {
    listed *l = user;
    size_t n = strlen(l->text);
    snprintf(l->text + n, sizeof l->text - n, "%s.%s%s at %s\n", family, id, shadowed ? " (shadowed)" : "", path);
    return 0;
}

static void scan_finds_candidates_in_order(void **state) {
    tree *t = *state;
    const char *dirs[] = {t->ini};
    sli_search search = {.dirs = dirs, .n_dirs = 1, .base_dir = t->base};
    char deep[256];
    snprintf(deep, sizeof deep, "%s/plugins/attention/good", t->base);
    place("attention_good", t->ini, "attention_good.so");
    place("attention_good", deep, "attention_good.so");
    place("attention_crash", t->ini, "attention_crash.so"); /* nothing is opened */
    place("attention_good", t->ini, "libother.so");
    listed l = {""};
    assert_int_equal(sli_plugins_scan(&search, collect, &l, NULL), SL_OK);
    char expected[1024];
    snprintf(expected, sizeof expected,
             "attention.crash at %s/attention_crash.so\nattention.good at %s/attention_good.so\n"
             "attention.good (shadowed) at %s/attention_good.so\n",
             t->ini, t->ini, deep);
    l.text[strlen(expected)] = '\0'; /* an installed sluice may follow */
    assert_string_equal(l.text, expected);
}

static void finds_the_build_tree_of_the_program(void **state) {
    (void)state;
    sli_dirs dirs;
    assert_int_equal(sli_dirs_make(NULL, &dirs, NULL), SL_OK);
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = '\0';
    strcpy(strrchr(exe, '/'), "/plugins");
    assert_int_equal(dirs.n, 2);
    assert_string_equal(dirs.dir[0], exe);
    assert_non_null(strstr(dirs.dir[1], "sluice/plugins-0"));
    sli_dirs_free(&dirs);
}

int main(void) {
    packages = getenv("SLUICE_PACKAGES");
    if (packages == NULL)
        return fprintf(stderr, "SLUICE_PACKAGES is not set\n"), 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_each_wrong_package_with_its_own_message),
        cmocka_unit_test(opens_a_good_package_once),
        cmocka_unit_test(missing_and_odd_files),
        cmocka_unit_test(id_and_role_must_fit),
        cmocka_unit_test_setup_teardown(not_found_lists_every_place, make_tree, remove_tree),
        cmocka_unit_test_setup_teardown(first_place_wins, make_tree, remove_tree),
        cmocka_unit_test_setup_teardown(privileged_processes_mistrust_open_folders, make_tree, remove_tree),
        cmocka_unit_test_setup_teardown(scan_finds_candidates_in_order, make_tree, remove_tree),
        cmocka_unit_test(finds_the_build_tree_of_the_program),
    };
    return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
