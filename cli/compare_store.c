/* Results of `sluice compare` in files, named by a digest of what shaped them; see compare.h. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "compare.h"

/* Files up to WHOLE bytes are read whole, of others PIECES pieces. */
enum { WHOLE = 16 << 20, PIECES = 64, PIECE = 64 << 10 };

uint64_t compare_digest(const void *bytes, size_t n, uint64_t h) {
    h = h != 0 ? h : 0xcbf29ce484222325u;
    for (const unsigned char *p = bytes; n > 0; n--, p++)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

static int digest_of_file(const char *path, uint64_t *h) {
    FILE *f = fopen(path, "rb");
    struct stat s;
    if (f == NULL || fstat(fileno(f), &s) != 0 || !S_ISREG(s.st_mode)) {
        if (f != NULL)
            fclose(f);
        return -1;
    }
    static char piece[PIECE];
    int64_t size = s.st_size;
    *h = compare_digest(&size, sizeof size, *h);
    for (int64_t i = 0, at = 0; at < size; i++) {
        if (size > WHOLE)
            at = i < PIECES ? (size - PIECE) / (PIECES - 1) * i : size;
        if (at >= size || fseeko(f, at, SEEK_SET) != 0)
            break;
        size_t n = fread(piece, 1, sizeof piece, f);
        *h = compare_digest(piece, n, *h);
        at += (int64_t)n;
        if (n == 0)
            break;
    }
    fclose(f);
    return 0;
}

json_t *compare_file_digest(const char *path) {
    struct stat s;
    uint64_t h = 0;
    if (path[0] == '\0' || stat(path, &s) != 0)
        return NULL;
    if (!S_ISDIR(s.st_mode))
        return digest_of_file(path, &h) == 0 ? json_sprintf("%016llx", (unsigned long long)h) : NULL;
    DIR *folder = opendir(path); /* a model; the order of a folder means nothing, hence the sum */
    uint64_t sum = 0;
    int n = 0;
    for (struct dirent *e; folder != NULL && (e = readdir(folder)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        char *file = NULL;
        if (dot == NULL || (strcmp(dot, ".json") != 0 && strcmp(dot, ".safetensors") != 0))
            continue;
        h = compare_digest(e->d_name, strlen(e->d_name), 0);
        if (asprintf(&file, "%s/%s", path, e->d_name) >= 0 && digest_of_file(file, &h) == 0)
            sum += h, n++;
        free(file);
    }
    if (folder != NULL)
        closedir(folder);
    return n > 0 ? json_sprintf("%016llx", (unsigned long long)sum) : NULL;
}

char *compare_path(const comparison *c, const char *name, const json_t *key, const char *ending) {
    char *text = json_dumps(key, JSON_COMPACT | JSON_SORT_KEYS), *path = NULL;
    uint64_t h = text != NULL ? compare_digest(text, strlen(text), 0) : 0;
    if (asprintf(&path, "%s/results/%s.%016llx%s", c->dir, name, (unsigned long long)h, ending) < 0)
        path = NULL;
    free(text);
    return path;
}

json_t *compare_load(const char *path, const json_t *key) {
    json_t *result = path != NULL ? json_load_file(path, 0, NULL) : NULL;
    if (result == NULL || json_equal(json_object_get(json_object_get(result, "compare"), "key"), key))
        return result;
    json_decref(result); /* another one of the same digest */
    return NULL;
}

int compare_write(const char *path, int (*write)(FILE *f, void *user), void *user) {
    char *part = NULL;
    if (path == NULL || asprintf(&part, "%s.part", path) < 0) {
        fprintf(stderr, "sluice: out of memory\n");
        return -1;
    }
    FILE *f = fopen(part, "wb");
    int good = f != NULL && write(f, user) == 0 && fflush(f) == 0 && !ferror(f) && fsync(fileno(f)) == 0;
    if (f != NULL)
        good = fclose(f) == 0 && good;
    good = good && rename(part, path) == 0;
    if (!good) {
        fprintf(stderr, "sluice: %s: %s\n", path, strerror(errno));
        remove(part);
    }
    free(part);
    return good ? 0 : -1;
}

static int dump(FILE *f, void *json) { return json_dumpf(json, f, JSON_INDENT(1)); }
int compare_save(const char *path, const json_t *result) { return compare_write(path, dump, (void *)result); }

/* The value of the first line "name : value" of a file in /proc. */
static void proc_line(const char *path, const char *name, char *out, size_t cap) {
    FILE *f = fopen(path, "r");
    char line[512];
    out[0] = '\0';
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, name, strlen(name)) != 0 || colon == NULL)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, cap, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    if (f != NULL)
        fclose(f);
}

json_t *compare_machine(void) {
    struct utsname system;
    char cpu[256], memory[64];
    proc_line("/proc/cpuinfo", "model name", cpu, sizeof cpu);
    proc_line("/proc/meminfo", "MemTotal", memory, sizeof memory);
    int known = uname(&system) == 0;
    return json_pack("{s:s, s:I, s:I, s:s}", "cpu",
                     cpu[0] != '\0' ? cpu
                     : known        ? system.machine
                                    : "unknown",
                     "cores", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
                     (json_int_t)(1024 * strtoll(memory, NULL, 10)), "system", known ? system.sysname : "unknown");
}
