/* Running the request of `sluice roofline --measure`: once as it is served, then with times taken by act; see
 * roofline.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "roofline.h"

enum { MAX_ACTS = 64 };

static const char *const phases[] = {"prefill", "decode"};

/* The fastest of some runs, act by act. */
typedef struct times {
    sluice_op_time act[MAX_ACTS]; /* seconds of a step */
    double total[2];              /* likewise */
    int64_t steps[2];
    int n;
} times;

typedef struct run {
    sluice_engine *engine;
    const sluice_roofline_request *r;
    int32_t *tokens;
    sluice_session **sessions;
} run;

/* Other tokens in each run and sequence: nothing is to be found twice. */
static int fill(const run *u, int turn, sluice_error *err) {
    sluice_info info;
    uint64_t x = 0x9e3779b97f4a7c15u * (uint64_t)(turn + 1);
    sluice_get_info(u->engine, &info);
    for (int64_t i = 0; i < u->r->batch; i++) {
        for (int64_t k = 0; k < u->r->prompt; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            u->tokens[k] = (int32_t)((x >> 33) % (uint64_t)info.vocab);
        }
        int status = sluice_session_open(u->engine, &u->sessions[i], err);
        if (status < 0)
            return status;
        if ((status = sluice_session_append(u->sessions[i], u->tokens, u->r->prompt, err)) < 0)
            return status;
    }
    return SLUICE_OK;
}

static int run_once(const run *u, int turn, sluice_error *err) {
    sluice_sampling s;
    sluice_default_sampling(u->engine, &s);
    s.max_tokens = (int32_t)u->r->generated;
    s.ignore_eos = 1;
    s.n_stop = 0;
    memset(u->sessions, 0, sizeof *u->sessions * (size_t)u->r->batch);
    int status = fill(u, turn, err);
    sluice_reset_stats(u->engine);
    if (status >= 0)
        status = sluice_generate(u->engine, u->sessions, (int)u->r->batch, &s, 1, NULL, NULL, err);
    for (int64_t i = 0; i < u->r->batch; i++)
        if (u->sessions[i] != NULL)
            sluice_session_close(u->sessions[i]);
    return status;
}

static void keep_fastest(const sluice_engine *e, times *best) {
    sluice_op_time now[MAX_ACTS];
    int64_t steps[2];
    int n = sluice_profile_read(e, now, MAX_ACTS, steps);
    double total[2] = {0, 0};
    n = n < MAX_ACTS ? n : MAX_ACTS;
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < n; i++) {
            double of_a_step = steps[p] > 0 ? now[i].seconds[p] / (double)steps[p] : 0;
            total[p] += of_a_step;
            if (best->n == 0 || of_a_step < best->act[i].seconds[p])
                best->act[i].seconds[p] = of_a_step;
            best->act[i].calls[p] = now[i].calls[p];
            best->act[i].name = now[i].name;
        }
        if (best->n == 0 || total[p] < best->total[p])
            best->total[p] = total[p];
        best->steps[p] = steps[p];
    }
    best->n = n;
}

/* ---- the report ---------------------------------------------------------------------------------------------------
 */

/* What the rows of an act add up to, a step; NAN: one of them is unknown. The first one is marked. */
static double predicted(const json_t *phase, const char *act, int *any) {
    double sum = 0, steps = json_number_value(json_object_get(phase, "steps"));
    size_t i;
    json_t *row;
    *any = 0;
    json_array_foreach(json_object_get(phase, "rows"), i, row) {
        const json_t *seconds = json_object_get(row, "seconds");
        if (strcmp(json_string_value(json_object_get(row, "act")), act) != 0)
            continue;
        json_object_set_new(row, "first_of_act", json_boolean(*any == 0));
        *any = 1;
        sum += json_is_number(seconds) ? json_number_value(seconds) / steps : NAN;
    }
    return sum;
}

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static void add_phase(json_t *phase, const times *t, int p) {
    json_t *acts = json_object();
    for (int i = 0; i < t->n; i++) {
        int any;
        double seconds = t->act[i].seconds[p], sum = predicted(phase, t->act[i].name, &any), ratio = seconds / sum;
        if (t->act[i].calls[p] == 0) /* it did not happen, or inside of another act's kernel */
            continue;
        json_t *act = json_pack("{s:f, s:f}", "seconds_of_a_step", seconds, "calls_of_a_step",
                                (double)t->act[i].calls[p] / (double)t->steps[p]);
        if (any) {
            json_object_set_new(act, "predicted_of_a_step", number(sum));
            json_object_set_new(act, "ratio", number(ratio));
            json_object_set_new(act, "flagged", json_boolean(fabs(ratio - 1) > 0.25));
        } else
            json_object_set_new(act, "not_predicted", json_true());
        json_object_set_new(acts, t->act[i].name, act);
    }
    json_object_set_new(phase, "measured", acts);
    json_object_set_new(phase, "measured_total",
                        json_pack("{s:f, s:I}", "seconds_of_a_step", t->total[p], "steps", (json_int_t)t->steps[p]));
}

static int measure(run *u, int repeats, json_t *report, sluice_error *err) {
    times best = {.n = 0};
    sluice_stats served = {0};
    int status = run_once(u, 0, err); /* pages are touched, graphs are made */
    double ttft = INFINITY, tpot = INFINITY;
    for (int i = 0; i < repeats && status >= 0; i++) {
        if ((status = run_once(u, 1 + i, err)) < 0)
            break;
        sluice_get_stats(u->engine, &served);
        ttft = fmin(ttft, served.prompt_seconds);
        if (u->r->generated > 1)
            tpot = fmin(tpot, served.decode_seconds / (double)(u->r->generated - 1));
    }
    for (int i = 0; i < repeats && status >= 0; i++) {
        if ((status = sluice_profile(u->engine, 1, err)) < 0 || (status = run_once(u, 1 + i, err)) < 0)
            break;
        keep_fastest(u->engine, &best);
    }
    if (status < 0)
        return status;
    for (int p = 0; p < 2; p++)
        if (best.steps[p] > 0)
            add_phase(json_object_get(report, phases[p]), &best, p);
    json_object_set_new(
        report, "measured",
        json_pack("{s:o, s:o, s:o, s:f, s:i}", "ttft_seconds", number(ttft), "tpot_seconds", number(tpot),
                  "tokens_per_second", number((double)u->r->batch / tpot), "tokens_of_a_step",
                  served.steps > 0 ? (double)served.emitted / (double)served.steps / (double)u->r->batch : 1.0,
                  "repeats", repeats));
    return status;
}

int roofline_measure(const common *c, const sluice_roofline_request *r, int repeats, json_t *report) {
    sluice_error err = {0};
    sluice_options options = options_engine(c);
    sluice_info info;
    run u = {.r = r};
    int status = sluice_open(&options, &u.engine, &err);
    if (status >= 0) {
        sluice_get_info(u.engine, &info);
        if (strcmp(info.device, r->hardware->device) != 0) {
            snprintf(
                err.text, sizeof err.text,
                "it runs on the device %s, and \"%s\" is of kind %s: nothing to compare; see --hw and engine.device",
                info.device, r->hardware->name, r->hardware->device);
            status = SLUICE_E_INVALID;
        }
    }
    if (status >= 0) {
        u.tokens = calloc((size_t)r->prompt, sizeof *u.tokens);
        u.sessions = calloc((size_t)r->batch, sizeof(sluice_session *));
        if (u.tokens == NULL || u.sessions == NULL) {
            snprintf(err.text, sizeof err.text, "out of memory");
            status = SLUICE_E_NO_MEMORY;
        }
    }
    if (status >= 0)
        status = measure(&u, repeats, report, &err);
    free(u.tokens);
    free(u.sessions);
    sluice_close(u.engine);
    return status < 0 ? (fail(&err), -1) : 0;
}
