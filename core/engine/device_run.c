/* Steps on a device. Steps with prompt rows are queued launch by launch; those that only decode or verify are captured
 * as graphs when their bounds first occur, and launched again after that. A step waits once, at its end, when somebody
 * needs to know what was computed. */
#include "device_network.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "device/cpu/cpu_ops.h"
#include "sl_error.h"
#include "sl_tensor.h"

/* ---- what can be computed here ----------------------------------------------------------------------------------- */

static sl_status check_pass(const sli_network *net, const sli_pass *pass, int fed, sl_error *err) {
    const char *what = pass->hidden != NULL    ? "work that enters with hidden rows"
                       : pass->enter_layer > 0 ? "work that enters at a layer"
                       : pass->exit_layer > 0  ? "work that leaves in front of the head"
                       : pass->tap != NULL     ? "work with taps"
                       : pass->overwrite       ? "work that replaces committed rows"
                       : net->listener != NULL ? "collecting data of calibration"
                                               : NULL;
    if (what != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s is not served on the device yet: set engine.device = cpu", what);
    const sl_batch *b = pass->batch;
    uint32_t stages = 0;
    for (int32_t i = 0; i < b->n_seqs; i++)
        stages |= b->stage[i];
    if (!sli_device_one_part(net, stages))
        return sl_fail(
            err, SL_E_UNIMPLEMENTED,
            "rows of stages with attention instances of their own are not computed in one step on the device");
    for (int32_t i = 0; i < b->n_rows && !fed; i++)
        if (b->token[i] < 0 || b->token[i] >= net->info->vocab)
            return sl_fail(err, SL_E_RANGE, "token id %d is outside of the vocabulary [0, %d)", b->token[i],
                           net->info->vocab);
    return SL_OK;
}

/* The pass with the step in device memory. */
typedef struct on_device {
    sl_batch batch;
    sli_pass pass;
} on_device;

static void bring(const sli_network *net, const sli_pass *pass, on_device *out) {
    out->batch = *pass->batch;
    out->batch.device = &net->device->step.view;
    out->pass = *pass;
    out->pass.batch = &out->batch;
}

/* ---- without graphs ---------------------------------------------------------------------------------------------- */

static sl_status fetch(sli_network *net, void *host, const void *from, int64_t bytes, sl_error *err) {
    sl_status s = net->device->exec->copy(net->device->lane, host, from, bytes);
    return s < 0 ? sl_fail(err, s, "fetching logits from the device: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_device_forward(sli_network *net, const sli_pass *pass, sl_error *err) {
    sli_device_step *step = &net->device->step;
    sli_step_bounds bounds;
    on_device d;
    SL_TRY(check_pass(net, pass, 0, err));
    sli_step_bounds_of(pass->batch, &bounds);
    SL_TRY(sli_device_step_send(step, pass->batch, &bounds, NULL, NULL, 0, err));
    SL_TRY(sli_device_sums_begin(net, pass, &bounds, err));
    bring(net, pass, &d);
    SL_TRY(sli_device_queue_layers(net, &d.pass, err));
    SL_TRY(sli_device_step_end(step, err));
    return sli_device_sums_end(net, err);
}

/* Is the answer a token a row? Such answers stay in best, where the next step can take them from, and leave for the
 * host behind the step, each turn to its own place. */
static int is_one_token(const sli_device_network *d, sli_answer answer) {
    return answer == SLI_ANSWER_TOKEN || (answer == SLI_ANSWER_BEST && d->n_best == 1 && !d->with_best_logits);
}

/* Queues the best ids of n rows of logits, and their way to the host unless they leave as tokens do. */
static sl_status queue_best(sli_network *net, int32_t n, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t V = net->info->vocab, k = d->n_best, all = (int64_t)d->step.max_logits * k;
    sl_op_topk op = {.struct_size = SL_SIZE(sl_op_topk),
                     .lane = d->lane,
                     .x = d->logits,
                     .id = d->best,
                     .value = d->with_best_logits ? (float *)(void *)(d->best + all) : NULL,
                     .rows = n,
                     .n = V,
                     .stride = V,
                     .k = k};
    sl_status s = d->ops->topk(net->host, &op);
    if (s < 0)
        return sl_fail(err, s, "best of the logits: %s", sl_status_text(s));
    if (is_one_token(d, SLI_ANSWER_BEST))
        return SL_OK;
    SL_TRY(fetch(net, d->host_best, d->best, 4 * k * n, err));
    return d->with_best_logits ? fetch(net, d->host_best + all, d->best + all, 4 * k * n, err) : SL_OK;
}

static sl_status queue_draws(sli_network *net, int32_t n, sl_error *err) {
    const sli_device_network *d = net->device;
    sl_status s = d->device->api->sample(d->device->cuda, d->logits, d->step.draw, d->best, n, net->info->vocab);
    return s < 0 ? sl_fail(err, s, "drawing tokens on the device: %s", sl_status_text(s)) : SL_OK;
}

/* Queues the way of row numbers to step.logit_row. NULL: first, first + 1 ... */
static sl_status send_rows(sli_network *net, const int32_t *rows, int32_t first, int32_t n, sl_error *err) {
    sli_device_network *d = net->device;
    int turn = d->rows_turn ^= 1;
    if (d->step.waits < d->rows_free_at[turn])
        SL_TRY(sli_device_step_wait(&d->step, err));
    d->rows_free_at[turn] = d->step.waits + 1;
    int32_t *to = d->host_rows + (int64_t)turn * d->step.max_logits;
    d->step.logit_row = (const void *)(d->step.block + d->step.rows_asked); /* the step's own ones may still be read */
    for (int32_t k = 0; k < n; k++)
        to[k] = rows != NULL ? rows[first + k] : first + k;
    sl_status s = d->exec->copy(d->lane, (void *)(uintptr_t)d->step.logit_row, to, 4 * (int64_t)n);
    return s < 0 ? sl_fail(err, s, "sending rows to the device: %s", sl_status_text(s)) : SL_OK;
}

/* Queues logits of rows of the last pass, at most max_logits of them; NULL: first, first + 1 ... */
static sl_status queue_rows(sli_network *net, const int32_t *rows, int32_t first, int32_t n, sl_error *err) {
    SL_TRY(send_rows(net, rows, first, n, err));
    return sli_device_queue_logits(net, n, 0, err);
}

static sl_status end_and_wait(sli_network *net, sl_error *err) {
    SL_TRY(sli_device_step_end(&net->device->step, err));
    return sli_device_step_wait(&net->device->step, err);
}

static int32_t at_once(const sli_network *net, int32_t n) {
    int32_t most = net->device->step.max_logits;
    return n < most ? n : most;
}

sl_status sli_device_head(sli_network *net, const int32_t *rows, int32_t n, float *logits, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t V = net->info->vocab;
    for (int32_t i = 0, some; i < n; i += some) {
        some = at_once(net, n - i);
        SL_TRY(queue_rows(net, rows, i, some, err));
        SL_TRY(fetch(net, d->host_logits, d->logits, 4 * some * V, err));
        SL_TRY(end_and_wait(net, err));
        if (logits + i * V != d->host_logits)
            memcpy(logits + i * V, d->host_logits, sizeof *logits * (size_t)(some * V));
    }
    return SL_OK;
}

sl_status sli_device_best(sli_network *net, const int32_t *rows, int32_t n, int32_t *id, float *logit, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t k = d->n_best;
    for (int32_t i = 0, some; i < n; i += some) {
        some = at_once(net, n - i);
        SL_TRY(queue_rows(net, rows, i, some, err));
        SL_TRY(queue_best(net, some, err));
        SL_TRY(end_and_wait(net, err));
        memcpy(id + i * k, d->host_best, sizeof *id * (size_t)(some * k));
        memcpy(logit + i * k, sli_device_best_logits(d), sizeof *logit * (size_t)(some * k));
    }
    return SL_OK;
}

/* ---- hidden rows, and the head for any ----------------------------------------------------------------------------
 */

sl_status sli_device_queue_hidden(sli_network *net, const int32_t *rows, int32_t n, void *out, sl_error *err) {
    int64_t E = net->info->hidden;
    for (int32_t i = 0, some; i < n; i += some) {
        some = at_once(net, n - i);
        SL_TRY(send_rows(net, rows, i, some, err));
        SL_TRY(sli_device_queue_normed(net, some, (uint16_t *)out + i * E, err));
    }
    return SL_OK;
}

sl_status sli_device_project(sli_network *net, const float *x, int64_t n, float *logits, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t E = net->info->hidden, V = net->info->vocab;
    if (d->host_x == NULL)
        return sl_fail(err, SL_E_STATE, "the output head on the device was not reserved for rows of the host");
    for (int64_t i = 0, some; i < n; i += some) {
        some = n - i < d->step.max_logits ? n - i : d->step.max_logits;
        SL_TRY(sli_ops_cpu.convert(d->host_x, SL_BF16, x + i * E, SL_F32, some * E));
        sl_tensor in, out;
        sl_tensor_make(&in, d->xn, SL_BF16, SL_DEVICE_CUDA, 2, (int64_t[]){some, E});
        sl_tensor_make(&out, d->logits, SL_F32, SL_DEVICE_CUDA, 2, (int64_t[]){some, V});
        sl_status s = d->exec->copy(d->lane, d->xn, d->host_x, 2 * some * E);
        if (s < 0)
            return sl_fail(err, s, "sending hidden rows to the device: %s", sl_status_text(s));
        SL_TRY(sli_device_queue_project(net, &in, &out, err));
        SL_TRY(fetch(net, logits + i * V, d->logits, 4 * some * V, err)); /* host_logits may be those of the step */
        SL_TRY(sli_device_step_wait(&d->step, err));
    }
    return SL_OK;
}

/* ---- rows that nobody computed ----------------------------------------------------------------------------------- */

sl_status sli_device_random_rows(sli_network *net, uint64_t seed, float amplitude, sl_error *err) {
    const sli_device_network *d = net->device;
    int64_t width = 0;
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        const sl_layer_info *i = net->info->layers[l];
        int64_t w = (int64_t)(i->n_heads + i->n_kv_heads) * i->head_dim + (int64_t)i->n_kv_heads * i->v_head_dim;
        width = w > width ? w : width;
    }
    sl_status s = d->device->api->random(d->device->cuda, d->qkv, SL_BF16, d->step.max_rows * width, seed, amplitude);
    return s < 0 ? sl_fail(err, s, "making seeded rows on the device: %s", sl_status_text(s)) : SL_OK;
}

sl_status sli_device_fill(sli_network *net, const sl_batch *batch, sl_error *err) {
    sli_device_step *step = &net->device->step;
    sli_pass pass = {.batch = batch};
    sli_step_bounds bounds;
    on_device d;
    sli_step_bounds_of(batch, &bounds);
    SL_TRY(sli_device_step_send(step, batch, &bounds, NULL, NULL, 0, err));
    bring(net, &pass, &d);
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        sl_status s = sli_device_append_rows(net, &d.batch, l);
        if (s < 0)
            return sl_fail(err, s, "layer %d: its store took no seeded rows: %s", l, sl_status_text(s));
    }
    return sli_device_step_end(step, err);
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

static sl_status queue_step(sli_network *net, const sli_pass *pass, const sli_graph_key *key, sl_error *err) {
    sli_device_network *d = net->device;
    int64_t V = net->info->vocab;
    int32_t n = key->bounds.logits;
    SL_TRY(sli_device_queue_layers(net, pass, err));
    if (n == 0)
        return SL_OK;
    SL_TRY(sli_device_queue_logits(net, n, (int)key->identity, err));
    switch ((sli_answer)key->answer) {
    case SLI_ANSWER_BEST: return queue_best(net, n, err);
    case SLI_ANSWER_TOKEN: return queue_draws(net, n, err);
    case SLI_ANSWER_LOGITS: break;
    }
    return fetch(net, d->host_logits, d->logits, 4 * n * V, err);
}

static int can_capture(const sli_network *net, const sli_pass *pass, const sli_step_bounds *bounds) {
    if (net->profile != NULL || net->device->eager || net->device->sums.counting || (bounds->stages & SL_STAGE_PREFILL) ||
        pass->attn_layers != NULL || pass->ffn_layers != NULL)
        return 0;
    for (int32_t l = 0; l < net->info->n_layers; l++)
        for (int s = 0; s < SLI_STAGES; s++)
            if ((bounds->stages & 1u << s) && (net->layers[l].caps[s].flags & SL_ATTN_NO_CAPTURE))
                return 0;
    return 1;
}

/* The graph of the key, or the place where it is to be made: a free one, or that of the graph not used for longest. */
static sli_graph *place_of(sli_device_network *d, const sli_graph_key *key) {
    sli_graph *place = &d->graphs[0];
    for (int i = 0; i < SLI_MAX_GRAPHS; i++) {
        sli_graph *g = &d->graphs[i];
        if (g->graph != NULL && memcmp(&g->key, key, sizeof *key) == 0)
            return g;
        if (place->graph != NULL && (g->graph == NULL || g->used < place->used))
            place = g;
    }
    return place;
}

/* The step as a graph in *place. A capture that fails is the last one: steps are queued launch by launch from then on.
 */
static sl_status capture(sli_network *net, const sli_pass *pass, const sli_graph_key *key, sli_graph *place) {
    sli_device_network *d = net->device;
    const sli_cuda_api *api = d->device->api;
    SL_ERROR(why);
    if (place->graph != NULL)
        api->graph_destroy(d->device->cuda, place->graph);
    place->graph = NULL;
    sl_status s = api->capture_begin(d->device->cuda, &why);
    if (s >= 0) {
        s = queue_step(net, pass, key, &why);
        if (s < 0)
            api->capture_abort(d->device->cuda);
        else
            s = api->capture_end(d->device->cuda, &place->graph, &why);
    }
    if (s < 0) {
        place->graph = NULL;
        d->eager = 1;
        snprintf(d->why_eager, sizeof d->why_eager, "%s", why.text);
        return s;
    }
    place->key = *key;
    d->n_captured++;
    d->n_nodes += api->graph_nodes(place->graph);
    int64_t others, edges, dependent;
    api->graph_form(place->graph, &others, &edges, &dependent);
    d->n_others += others;
    d->n_edges += edges;
    d->n_dependent += dependent;
    return SL_OK;
}

static int are_first_rows(const int32_t *rows, int32_t n, int32_t n_rows) {
    for (int32_t i = 0; i < n; i++)
        if (rows[i] != i)
            return 0;
    return n == n_rows;
}

static void key_of(const sli_network *net, const sli_pass *pass, int32_t n, sli_answer answer, int fed,
                   sli_graph_key *key) {
    const sli_device_network *d = net->device;
    memset(key, 0, sizeof *key); /* keys are compared byte by byte */
    sli_step_bounds_of(pass->batch, &key->bounds);
    key->bounds.logits = n;
    key->bounds.draws = answer == SLI_ANSWER_TOKEN;
    key->answer = (uint32_t)answer;
    key->identity = (uint32_t)are_first_rows(d->rows, n, pass->batch->n_rows);
    key->variant = net->plan_variant;
    key->fed = (uint32_t)fed;
    key->edited = (uint32_t)d->edited;
}

sl_status sli_device_launch(sli_network *net, const sli_pass *pass, int32_t n, sli_answer answer, int fed,
                            sli_flight *out, sl_error *err) {
    sli_device_network *d = net->device;
    sli_graph_key key;
    on_device at;
    assert(n <= d->step.max_logits);
    SL_TRY(check_pass(net, pass, fed, err));
    key_of(net, pass, n, answer, fed, &key);
    SL_TRY(sli_device_sums_begin(net, pass, &key.bounds, err));
    int captured = can_capture(net, pass, &key.bounds);
    if (captured)
        sli_step_bounds_widen(&key.bounds, &d->step, &net->limits);
    if (captured && key.bounds.rows > d->step.max_logits)
        key.identity = 0;
    if (key.identity)
        key.bounds.logits = key.bounds.rows;
    SL_TRY(sli_device_step_send(&d->step, pass->batch, &key.bounds, d->rows, d->draw, n, err));
    if (fed)
        d->step.view.token = d->best;
    bring(net, pass, &at);
    sli_graph *g = captured ? place_of(d, &key) : NULL;
    if (g != NULL && (g->graph == NULL || memcmp(&g->key, &key, sizeof key) != 0))
        captured = capture(net, &at.pass, &key, g) >= 0;
    if (captured) {
        g->used = ++d->launches;
        SL_TRY(d->device->api->graph_launch(d->device->cuda, g->graph, err));
    } else
        SL_TRY(queue_step(net, &at.pass, &key, err));
    *out = (sli_flight){.n = n, .turn = d->step.now, .from_graph = captured, .fits = n > 0 && is_one_token(d, answer)};
    int32_t *token = d->host_token + (int64_t)out->turn * d->step.max_logits;
    out->answers = out->fits ? token : answer != SLI_ANSWER_LOGITS ? d->host_best : NULL;
    if (out->fits)
        SL_TRY(fetch(net, token, d->best, 4 * (int64_t)n, err));
    return sli_device_step_end(&d->step, err);
}

sl_status sli_device_land(sli_network *net, const sli_flight *flight, sl_error *err) {
    if (flight->n > 0)
        SL_TRY(sli_device_step_land(&net->device->step, flight->turn, err));
    return sli_device_sums_end(net, err);
}
