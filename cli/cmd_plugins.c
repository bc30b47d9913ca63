/* sluice plugins list | describe ID - what can be found, scanned in child processes. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "options.h"

typedef struct buffer {
    char *text;
    size_t n, cap;
} buffer;

static void collect(void *user, const char *text, size_t length) {
    buffer *b = user;
    if (b->n + length + 1 > b->cap) {
        size_t cap = 2 * (b->n + length + 1);
        char *wider = realloc(b->text, cap);
        if (wider == NULL)
            return;
        b->text = wider;
        b->cap = cap;
    }
    memcpy(b->text + b->n, text, length);
    b->n += length;
    b->text[b->n] = '\0';
}

static const char *text_of(json_t *object, const char *key) {
    const char *s = json_string_value(json_object_get(object, key));
    return s != NULL ? s : "";
}

static void print_words(const char *label, json_t *list) {
    size_t i;
    json_t *word;
    if (json_array_size(list) == 0)
        return;
    printf("%-10s", label);
    json_array_foreach(list, i, word) printf("%s%s", i > 0 ? ", " : "", json_string_value(word));
    printf("\n");
}

static void print_param(json_t *p) {
    printf("  %-16s %-10s", text_of(p, "name"), text_of(p, "type"));
    json_t *fallback = json_object_get(p, "default");
    printf(" %-12s", json_is_string(fallback)                       ? json_string_value(fallback)
                     : json_is_true(json_object_get(p, "required")) ? "(required)"
                                                                    : "-");
    json_t *choices = json_object_get(p, "choices"), *min = json_object_get(p, "min"), *max = json_object_get(p, "max");
    size_t i;
    json_t *c;
    if (json_array_size(choices) > 0) {
        json_array_foreach(choices, i, c) printf("%s%s", i > 0 ? " | " : " ", json_string_value(c));
    } else if (json_is_number(min) && json_is_number(max)) {
        printf(" %g .. %g", json_number_value(min), json_number_value(max));
    }
    printf("\n  %-16s %s\n", "", text_of(p, "doc"));
}

static void describe(json_t *d) {
    size_t i;
    json_t *p;
    printf("%s %s - %s\n", text_of(d, "id"), text_of(d, "version"), text_of(d, "summary"));
    if (text_of(d, "paper")[0] != '\0')
        printf("%-10s%s\n", "paper", text_of(d, "paper"));
    print_words("roles", json_object_get(d, "roles"));
    print_words("devices", json_object_get(d, "devices"));
    print_words("needs", json_object_get(d, "needs"));
    print_words("wants", json_object_get(d, "wants"));
    print_words("provides", json_object_get(d, "provides"));
    printf("%-10s%s, %s\n%-10s%s\n", "by", text_of(d, "vendor"), text_of(d, "license"), "file", text_of(d, "path"));
    printf("parameters (key, type, default, range):\n");
    if (json_array_size(json_object_get(d, "params")) == 0)
        printf("  none\n");
    json_array_foreach(json_object_get(d, "params"), i, p) print_param(p);
}

static void list(json_t *all) {
    size_t i, j;
    json_t *d, *role;
    json_array_foreach(all, i, d) {
        char roles[128] = "";
        json_array_foreach(json_object_get(d, "roles"), j, role) snprintf(
            roles + strlen(roles), sizeof roles - strlen(roles), "%s%s", j > 0 ? "," : "", json_string_value(role));
        if (json_is_string(json_object_get(d, "error")))
            printf("%-16s %-18s %s\n", "?", text_of(d, "path"), text_of(d, "error"));
        else
            printf("%-16s %-18s %-8s %s\n", text_of(d, "id"), roles, text_of(d, "version"), text_of(d, "summary"));
    }
}

int cmd_plugins(int argc, char **argv) {
    common c = {0};
    const char *words[2];
    int as_json = 0;
    const option own[] = {{"--json", NULL, "print JSON", OPT_FLAG, NULL, &as_json},
                          {NULL, NULL, NULL, OPT_FLAG, NULL, NULL}};
    int n = options_parse(argc, argv, "sluice plugins list [options]\n       sluice plugins describe ID [options]", own,
                          &c, words, 2);
    if (n < 0 || c.help) {
        options_free(&c);
        return n < 0 ? CLI_USAGE : 0;
    }
    int is_list = n == 1 && strcmp(words[0], "list") == 0, is_one = n == 2 && strcmp(words[0], "describe") == 0;
    if (!is_list && !is_one) {
        fprintf(stderr, "sluice: plugins needs one of: list, describe ID\n");
        options_free(&c);
        return CLI_USAGE;
    }
    buffer b = {0};
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    int status = sluice_plugins_json(&options, is_one ? words[1] : NULL, collect, &b, &err) < 0 ? fail(&err) : 0;
    json_t *all = status == 0 ? json_loads(b.text != NULL ? b.text : "[]", 0, NULL) : NULL;
    if (status == 0 && as_json)
        printf("%s\n", b.text);
    else if (status == 0 && is_list)
        list(all);
    else if (status == 0)
        for (size_t i = 0; i < json_array_size(all); i++)
            describe(json_array_get(all, i));
    json_decref(all);
    free(b.text);
    options_free(&c);
    return status;
}
