/* See bench_record.h. */
#include "bench_record.h"

#include <stdio.h>
#include <string.h>

#include "build_commit.h"
#include "report.h"

const char *const bench_record_keys[] = {
    /* the program, the model, how it runs */
    "build_commit", "build_version", "model_filename", "model_type", "model_size", "model_n_params", "n_batch",
    "n_ubatch", "type_k", "type_v", "n_threads", "isa", "load_ns", "device", "plugins",
    /* the test and its speed */
    "test", "n_prompt", "n_gen", "n_depth", "n_sequences", "fill", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    "median_ts", "ttft_ms", "samples_ns", "samples_ts", "samples_ttft_ms",
    /* decode steps */
    "ms_step", "tokens_step", "nodes_step", "sampled", "steps", "lossless", "drafts", "draft_nodes", "accepted",
    "acceptance_by_depth",
    /* memory */
    "bytes_kv", "bytes_weights", "bytes_peak", "bytes_resident", "bytes_mapped", "ledger", "allocs_in_steps",
    /* a device */
    "device_name", "avg_busy_ns", "idle_share", "graphs", "graph_nodes", "gpu_bytes_kv", "gpu_bytes_weights",
    "gpu_bytes_peak", "steps_ahead", "graph_others", "graph_edges", "graph_dependent", "steps_logits", "steps_best",
    "steps_drawn", "bytes_pinned", "ledger_gpu", "ledger_pinned",
    /* prompt transformers */
    "prompts", NULL};

static void set_integer(json_t *r, const char *key, int64_t value) {
    json_object_set_new(r, key, json_integer((json_int_t)value));
}

static void set_real(json_t *r, const char *key, double value) { json_object_set_new(r, key, json_real(value)); }

static json_t *reals(const double *v, int n, double scale) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, json_real(v[i] * scale));
    return a;
}

static json_t *nanoseconds(const double *v, int n) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, json_integer((json_int_t)(v[i] * 1e9)));
    return a;
}

/* ---- what runs ------------------------------------------------------------------------------------------------------
 */

/* The list of plugins, as the statistics have it. */
static json_t *plugins_of(sluice_engine *e) {
    json_t *stats = NULL;
    sluice_stats_json(e, report_take, &stats, NULL);
    json_t *list = json_incref(json_object_get(stats, "plugins"));
    json_decref(stats);
    return list;
}

static int has_drafter(sluice_engine *e) {
    json_t *list = plugins_of(e), *p;
    size_t i;
    int found = 0;
    json_array_foreach(list, i, p) {
        const char *role = json_string_value(json_object_get(p, "role")),
                   *id = json_string_value(json_object_get(p, "id"));
        found |= role != NULL && id != NULL && strcmp(role, "speculation") == 0 && strcmp(id, "none") != 0;
    }
    json_decref(list);
    return found;
}

static void report_build(json_t *r, sluice_engine *e, const sluice_info *info, double load_seconds) {
    json_object_set_new(r, "build_commit", json_string(BUILD_COMMIT));
    json_object_set_new(r, "build_version", json_string(sluice_version()));
    json_object_set_new(r, "model_filename", json_string(info->model));
    json_object_set_new(r, "model_type", json_sprintf("%s %s", info->model_type, info->dtype));
    set_integer(r, "model_size", info->model_bytes);
    set_integer(r, "model_n_params", info->parameters);
    set_integer(r, "n_batch", info->max_rows);
    set_integer(r, "n_ubatch", info->prefill_chunk);
    json_object_set_new(r, "type_k", json_string(info->kv_dtype));
    json_object_set_new(r, "type_v", json_string(info->kv_dtype));
    set_integer(r, "n_threads", info->threads);
    json_object_set_new(r, "isa", json_string(info->isa));
    set_integer(r, "load_ns", (int64_t)(1e9 * load_seconds));
    json_object_set_new(r, "device", json_string(info->device));
    json_object_set_new(r, "plugins", plugins_of(e));
}

/* ---- speed ----------------------------------------------------------------------------------------------------------
 */

static void report_speed(json_t *r, const bench_test *t, const bench_result *m) {
    double rate[BENCH_MAX_REPETITIONS];
    const int n = m->repetitions;
    for (int i = 0; i < n; i++)
        rate[i] = (double)t->batch * (double)(t->n_prompt + t->n_gen) / m->seconds[i];
    char name[128];
    bench_test_name(t, name, sizeof name);
    json_object_set_new(r, "test", json_string(name));
    set_integer(r, "n_prompt", t->n_prompt);
    set_integer(r, "n_gen", t->n_gen);
    set_integer(r, "n_depth", t->depth);
    set_integer(r, "n_sequences", t->batch);
    json_object_set_new(r, "fill", json_string(t->depth == 0 ? "none" : t->synthetic ? "synthetic" : "prompt"));
    set_integer(r, "avg_ns", (int64_t)(1e9 * bench_mean(m->seconds, n)));
    set_integer(r, "stddev_ns", (int64_t)(1e9 * bench_deviation(m->seconds, n)));
    set_real(r, "avg_ts", bench_mean(rate, n));
    set_real(r, "stddev_ts", bench_deviation(rate, n));
    set_real(r, "median_ts", bench_median(rate, n));
    json_object_set_new(r, "ttft_ms",
                        m->n_first_tokens > 0 ? json_real(1e3 * bench_median(m->first_token, m->n_first_tokens))
                                              : json_null());
    json_object_set_new(r, "samples_ns", nanoseconds(m->seconds, n));
    json_object_set_new(r, "samples_ts", reals(rate, n, 1));
    json_object_set_new(r, "samples_ttft_ms", reals(m->first_token, m->n_first_tokens, 1e3));
}

/* Of tests with decode steps. */
static void report_steps(json_t *r, const bench_test *t, const bench_result *m) {
    const double steps = (double)m->steps;
    if (t->n_gen == 0 || m->steps == 0) {
        json_object_set_new(r, "tokens_step", json_null());
        return;
    }
    /* In a test of decoding alone, all time is that of steps. */
    set_real(r, "ms_step",
             1e3 * (t->n_prompt == 0 ? bench_mean(m->seconds, m->repetitions) * m->repetitions : m->decode_seconds) /
                 steps);
    set_real(r, "tokens_step", (double)m->emitted / steps);
    set_real(r, "nodes_step", (double)m->drafted / steps + t->batch);
    json_object_set_new(r, "sampled", json_boolean(t->sampled));
}

/* Of all steps whose draft reached a depth, the share whose accepted path did. */
static void report_drafts(json_t *r, const bench_result *m) {
    json_t *shares = json_array();
    for (int d = 0; d < SLUICE_MAX_DEPTH && m->drafted_by_depth[d] > 0; d++)
        json_array_append_new(shares, json_real((double)m->accepted_by_depth[d] / (double)m->drafted_by_depth[d]));
    set_integer(r, "steps", m->steps);
    json_object_set_new(r, "lossless", json_boolean(m->stats.lossless));
    set_integer(r, "drafts", m->drafted_by_depth[0]);
    set_integer(r, "draft_nodes", m->drafted);
    set_integer(r, "accepted", m->accepted);
    json_object_set_new(r, "acceptance_by_depth", shares);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------
 */

static json_t *ledger(const sluice_memory *rows) {
    json_t *all = json_object();
    for (int i = 0; i < SLUICE_MEMORY_ROWS; i++)
        json_object_set_new(
            all, rows[i].tag,
            json_pack("{s:I, s:I}", "bytes", (json_int_t)rows[i].bytes, "peak", (json_int_t)rows[i].peak));
    return all;
}

static void report_memory(json_t *r, const bench_result *m) {
    set_integer(r, "bytes_kv", m->stats.bytes_kv);
    set_integer(r, "bytes_weights", m->stats.bytes_weights);
    set_integer(r, "bytes_peak", m->peak);
    set_integer(r, "bytes_resident", m->resident.peak);
    set_integer(r, "bytes_mapped", m->resident.mapped);
    json_object_set_new(r, "ledger", ledger(m->memory[SLUICE_HOST]));
    set_integer(r, "allocs_in_steps", m->stats.allocs_in_steps);
}

static void report_gpu(json_t *r, const sluice_info *info, const bench_result *m) {
    const sluice_stats *s = &m->stats;
    const double seconds = bench_mean(m->seconds, m->repetitions), busy = bench_mean(m->busy, m->repetitions);
    json_object_set_new(r, "device_name", json_string(info->device_name));
    set_integer(r, "avg_busy_ns", (int64_t)(1e9 * busy));
    set_real(r, "idle_share", seconds > 0 ? 1 - busy / seconds : 0); /* wall minus busy */
    set_integer(r, "graphs", s->graphs);
    set_integer(r, "graph_nodes", s->graph_nodes);
    set_integer(r, "gpu_bytes_kv", s->gpu_bytes_kv);
    set_integer(r, "gpu_bytes_weights", s->gpu_bytes_weights);
    set_integer(r, "gpu_bytes_peak", m->gpu_peak);
    set_integer(r, "steps_ahead", s->device_ahead);
    set_integer(r, "graph_others", s->graph_others);
    set_integer(r, "graph_edges", s->graph_edges);
    set_integer(r, "graph_dependent", s->graph_dependent);
    set_integer(r, "steps_logits", s->device_answers[0]);
    set_integer(r, "steps_best", s->device_answers[1]);
    set_integer(r, "steps_drawn", s->device_answers[2]);
    set_integer(r, "bytes_pinned", s->bytes_pinned);
    json_object_set_new(r, "ledger_gpu", ledger(m->memory[SLUICE_GPU]));
    json_object_set_new(r, "ledger_pinned", ledger(m->memory[SLUICE_PINNED]));
}

json_t *bench_record(sluice_engine *e, const bench_test *t, const bench_result *m, double load_seconds) {
    sluice_info info;
    sluice_get_info(e, &info);
    json_t *r = json_object();
    report_build(r, e, &info, load_seconds);
    report_speed(r, t, m);
    report_steps(r, t, m);
    report_drafts(r, m);
    report_memory(r, m);
    if (strcmp(info.device, "cpu") != 0)
        report_gpu(r, &info, m);
    report_prompts(e, r);
    return r;
}

/* ---- the table
 * ------------------------------------------------------------------------------------------------------- */

static double real(json_t *r, const char *key) { return json_number_value(json_object_get(r, key)); }

static void text_cell(json_t *r, const char *key, char *out, size_t cap) {
    const char *text = json_string_value(json_object_get(r, key));
    snprintf(out, cap, "%s", text != NULL ? text : "");
}

static void model_cell(json_t *r, char *out, size_t cap) { text_cell(r, "model_filename", out, cap); }
static void isa_cell(json_t *r, char *out, size_t cap) { text_cell(r, "isa", out, cap); }
static void test_cell(json_t *r, char *out, size_t cap) { text_cell(r, "test", out, cap); }
static void device_cell(json_t *r, char *out, size_t cap) {
    text_cell(r, json_object_get(r, "device_name") != NULL ? "device_name" : "device", out, cap);
}
static void size_cell(json_t *r, char *out, size_t cap) {
    const double bytes = real(r, "model_size");
    snprintf(out, cap, "%.1f %s", bytes / (bytes < 1e9 ? 1e6 : 1e9), bytes < 1e9 ? "MB" : "GB");
}
static void params_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.1f M", real(r, "model_n_params") / 1e6);
}
static void threads_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%.0f", real(r, "n_threads")); }
static void speed_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.2f ± %.2f", real(r, "avg_ts"), real(r, "stddev_ts"));
}
static void first_cell(json_t *r, char *out, size_t cap) {
    if (json_is_number(json_object_get(r, "ttft_ms")))
        snprintf(out, cap, "%.2f", real(r, "ttft_ms"));
}
static void steps_cell(json_t *r, char *out, size_t cap) {
    if (json_is_number(json_object_get(r, "tokens_step")))
        snprintf(out, cap, "%.2f", real(r, "tokens_step"));
}
static void accepted_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.0f/%.0f", real(r, "accepted"), real(r, "draft_nodes"));
}

/* The most that a tag held, wherever it was. */
static double peak_of(json_t *r, const char *tag) {
    double sum = 0;
    static const char *const places[] = {"ledger", "ledger_gpu", "ledger_pinned"};
    for (int i = 0; i < 3; i++)
        sum += json_number_value(json_object_get(json_object_get(json_object_get(r, places[i]), tag), "peak"));
    return sum;
}
static void kv_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.2f", (peak_of(r, "kv") + peak_of(r, "kv_host")) / 1e6);
}
static void resident_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.0f", real(r, "bytes_resident") / 1e6);
}
static void gpu_cell(json_t *r, char *out, size_t cap) {
    snprintf(out, cap, "%.1f %% idle, %.0f graphs, %.1f GB", 100 * real(r, "idle_share"), real(r, "graphs"),
             real(r, "gpu_bytes_peak") / 1e9);
}

const record_column *bench_columns(sluice_engine *e, const bench_tests *tests) {
    static record_column columns[] = {
        {"model", model_cell, 0},
        {"size", size_cell, 0},
        {"params", params_cell, 0},
        {"device", device_cell, 0},
        {"isa", isa_cell, 0},
        {"threads", threads_cell, 0},
        {"test", test_cell, 0},
        {"t/s", speed_cell, 0},
        {"ttft ms", first_cell, 0},
        {"tokens/step", steps_cell, 0},
        {"accepted", accepted_cell, 0},
        {"kv MB", kv_cell, 0},
        {"resident MB", resident_cell, 0},
        {"of the device", gpu_cell, 0},
        {NULL, NULL, 0},
    };
    sluice_info info;
    sluice_get_info(e, &info);
    int prompts = 0, drafts = has_drafter(e);
    for (int i = 0; i < tests->n; i++)
        prompts |= tests->v[i].n_prompt > 0;
    for (record_column *c = columns; c->title != NULL; c++)
        if (c->cell == first_cell)
            c->hidden = !prompts;
        else if (c->cell == steps_cell || c->cell == accepted_cell)
            c->hidden = !drafts;
        else if (c->cell == gpu_cell)
            c->hidden = strcmp(info.device, "cpu") == 0;
    return columns;
}
