/* Configurations of `sluice compare`, see compare.h. Children are asked about them, so that a plugin which crashes
 * while it is opened makes a row, not an end. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "compare_child.h"

static char *stem(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path, *dot = strrchr(name, '.');
    return strndup(name, dot != NULL && dot != name ? (size_t)(dot - name) : strlen(name));
}

/* The first line, if it is a comment. */
static char *first_comment(const char *text) {
    const char *p = text + strspn(text, " \t\r\n");
    if (*p != ';' && *p != '#')
        return strdup("");
    p += 1 + strspn(p + 1, " \t");
    size_t n = strcspn(p, "\r\n");
    while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '.'))
        n--;
    return strndup(p, n);
}

/* What `config show` prints, as {"section.key": "value"}: comments say where values come from, not what they are. */
static json_t *parse_settings(char *shown) {
    json_t *settings = json_object();
    char section[128] = "";
    for (char *line = strtok(shown, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *comment = strstr(line, " ;"), *equals = strchr(line, '=');
        if (line[0] == '[') {
            snprintf(section, sizeof section, "%.*s", (int)strcspn(line + 1, "]"), line + 1);
            continue;
        }
        if (line[0] == ';' || equals == NULL)
            continue;
        if (comment != NULL && comment > equals)
            *comment = '\0';
        char *end = line + strlen(line), *value = equals + 1 + strspn(equals + 1, " "), key[256];
        while (end > value && end[-1] == ' ')
            *--end = '\0';
        size_t n = (size_t)(equals - line);
        while (n > 0 && line[n - 1] == ' ')
            n--;
        snprintf(key, sizeof key, "%s.%.*s", section, (int)n, line);
        json_object_set_new(settings, key, json_string(value));
    }
    return settings;
}

static json_t *digests_of_files(json_t *settings) {
    json_t *files = json_object(), *value;
    const char *key;
    json_object_foreach(settings, key, value) {
        const char *text = json_string_value(value);
        json_t *digest = text != NULL && strchr(text, '/') != NULL ? compare_file_digest(text) : NULL;
        if (digest != NULL)
            json_object_set_new(files, key, digest);
    }
    return files;
}

int compare_config_open(compare_config *c, const char *path, const common *shared, double timeout) {
    size_t length;
    *c = (compare_config){.path = path, .text = read_text(path, &length)};
    if (c->text == NULL)
        return -1;
    c->name = stem(path);
    c->title = first_comment(c->text);
    const char *argv[2 * CLI_MAX_SETS + 8] = {"config", "check", "--config", path};
    int n = 4;
    for (int i = 0; i < shared->n_sets; i++) {
        argv[n++] = "--set";
        argv[n++] = shared->sets[i];
    }
    child_result r;
    int status = child_run(argv, timeout, &r, c->refused, sizeof c->refused);
    child_free(&r);
    if (status < 0)
        return 0;
    argv[1] = "show";
    if (child_run(argv, timeout, &r, c->refused, sizeof c->refused) == 0) {
        c->settings = parse_settings(r.out);
        c->files = digests_of_files(c->settings);
    }
    child_free(&r);
    return 0;
}

void compare_config_free(compare_config *c) {
    free(c->name);
    free(c->title);
    free(c->text);
    json_decref(c->settings);
    json_decref(c->files);
}

const char *compare_setting(const compare_config *c, const char *key) {
    const char *value = json_string_value(json_object_get(c->settings, key));
    return value != NULL ? value : "";
}

/* Sections of a family begin with its word. */
static const struct {
    const char *section, *family;
} families[] = {{"attention", "attention"}, {"kvcache", "cache"}, {"speculation", "drafting"}, {"quant", "weights"}};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Are the plugins of a family those of the base? Limited sections ([attention.layers 0-3]) count. */
static int differs(const compare_config *a, const compare_config *b, const char *section) {
    const char *key;
    json_t *value;
    json_object_foreach(a->settings, key, value) {
        size_t n = strlen(section), length = strlen(key);
        if (strncmp(key, section, n) == 0 && (key[n] == '.' || key[n] == ' ') && length > 7 &&
            strcmp(key + length - 7, ".plugin") == 0 && strcmp(json_string_value(value), compare_setting(b, key)) != 0)
            return 1;
    }
    return 0;
}

const char *compare_family(const compare_config *c, const compare_config *base) {
    const char *found = "settings";
    if (c == base)
        return "base";
    for (int i = 0, n = 0; i < N_FAMILIES; i++) {
        /* One method may be attention and cache. */
        int same = i == 1 && strcmp(compare_setting(c, "attention.plugin"), compare_setting(c, "kvcache.plugin")) == 0;
        if (!same && (differs(c, base, families[i].section) || differs(base, c, families[i].section)))
            found = n++ == 0 ? families[i].family : "combination";
    }
    return found;
}

json_t *compare_plugins(const compare_config *c) {
    json_t *plugins = json_object(), *value;
    const char *key;
    json_object_foreach(c->settings, key, value) {
        size_t length = strlen(key);
        if (length > 7 && strcmp(key + length - 7, ".plugin") == 0 && strncmp(key, "draft.", 6) != 0) {
            char section[256];
            snprintf(section, sizeof section, "%.*s", (int)(length - 7), key);
            json_object_set(plugins, section, value);
        }
    }
    return plugins;
}
