/* Copies, events, waits and graphs of a driver, and its table. See cuda_driver.h. */
#include "cuda_driver.h"

#include <stdlib.h>

static struct sl_lane_impl *enter(const sl_lane *lane) {
    slk_driver_enter(lane->impl->driver);
    return lane->impl;
}

/* In debug mode: waits for what was queued, so that a fault is laid to it. */
static sl_status settle(struct sl_lane_impl *lane, const char *what) {
    lane->last = what;
    if (!lane->driver->debug)
        return SL_OK;
    return slk_driver_check(lane, lane->driver->cu.cuStreamSynchronize(lane->stream), NULL, "%s", what);
}

static sl_status copy(const sl_lane *lane, void *dst, const void *src, int64_t bytes) {
    struct sl_lane_impl *l = enter(lane);
    if (bytes == 0)
        return SL_OK;
    if (bytes < 0 || dst == NULL || src == NULL)
        return slk_driver_refuse(l->driver, SL_E_INVALID, NULL, "a copy of %lld bytes from %p to %p", (long long)bytes,
                                 src, dst);
    SL_TRY(slk_driver_check(
        l,
        l->driver->cu.cuMemcpyAsync((CUdeviceptr)(uintptr_t)dst, (CUdeviceptr)(uintptr_t)src, (size_t)bytes, l->stream),
        NULL, "a copy of %lld bytes from %p to %p", (long long)bytes, src, dst));
    return settle(l, "a copy");
}

static sl_status fill(const sl_lane *lane, void *dst, int32_t byte, int64_t bytes) {
    struct sl_lane_impl *l = enter(lane);
    if (bytes == 0)
        return SL_OK;
    if (bytes < 0 || dst == NULL)
        return slk_driver_refuse(l->driver, SL_E_INVALID, NULL, "a fill of %lld bytes at %p", (long long)bytes, dst);
    SL_TRY(slk_driver_check(
        l, l->driver->cu.cuMemsetD8Async((CUdeviceptr)(uintptr_t)dst, (unsigned char)byte, (size_t)bytes, l->stream),
        NULL, "a fill of %lld bytes at %p", (long long)bytes, dst));
    return settle(l, "a fill");
}

static sl_status event_create(const sl_host *host, const sl_lane *lane, sl_event_impl **out) {
    (void)host;
    struct sl_lane_impl *l = enter(lane);
    sl_event_impl *event = calloc(1, sizeof *event);
    *out = NULL;
    if (event == NULL)
        return SL_E_NO_MEMORY;
    event->driver = l->driver;
    const sl_status status =
        slk_driver_check(l, l->driver->cu.cuEventCreate(&event->event, CU_EVENT_DEFAULT), NULL, "making an event");
    if (status < 0)
        free(event);
    else
        *out = event;
    return status;
}

static void event_destroy(const sl_host *host, sl_event_impl *event) {
    (void)host;
    if (event == NULL)
        return;
    slk_driver_enter(event->driver);
    event->driver->cu.cuEventDestroy(event->event);
    free(event);
}

static sl_status record(const sl_lane *lane, sl_event_impl *event) {
    struct sl_lane_impl *l = enter(lane);
    return slk_driver_check(l, l->driver->cu.cuEventRecord(event->event, l->stream), NULL, "recording an event");
}

static sl_status wait(const sl_lane *lane, sl_event_impl *event) {
    struct sl_lane_impl *l = enter(lane);
    return slk_driver_check(l, l->driver->cu.cuStreamWaitEvent(l->stream, event->event, 0), NULL,
                            "waiting for an event");
}

static sl_status sync(const sl_lane *lane, sl_error *err) {
    struct sl_lane_impl *l = enter(lane);
    if (lane->capturing)
        return slk_driver_refuse(l->driver, SL_E_STATE, err, "a wait for a lane in a capture");
    return slk_driver_check(l, l->driver->cu.cuStreamSynchronize(l->stream), err, "waiting for the %s lane",
                            l == &l->driver->lanes[0] ? "compute" : "copy");
}

static sl_status device_info(const sl_lane *lane, sl_device_info *out) {
    struct sl_lane_impl *l = enter(lane);
    size_t free_bytes = 0, total = 0;
    if (!SL_HAS(out, sl_device_info, driver))
        return SL_E_INVALID;
    SL_TRY(slk_driver_check(l, l->driver->cu.cuMemGetInfo(&free_bytes, &total), NULL, "asking for free memory"));
    const uint64_t size = out->struct_size;
    *out = l->driver->info;
    out->struct_size = size;
    out->memory_free = (int64_t)free_bytes;
    return SL_OK;
}

const sl_exec slk_driver_exec = {
    .struct_size = SL_SIZE(sl_exec),
    .image_load = slk_driver_image_load,
    .function = slk_driver_function,
    .launch = slk_driver_launch,
    .copy = copy,
    .fill = fill,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .record = record,
    .wait = wait,
    .sync = sync,
    .tensor_map = slk_driver_tensor_map,
    .device_info = device_info,
};

/* ---- graphs ---------------------------------------------------------------------------------------------------- */

/* Relaxed: a library may load its code on the way; allocations and waits are refused here, by `capturing`. */
sl_status slk_driver_capture_begin(slk_driver *d, sl_error *err) {
    struct sl_lane_impl *lane = enter(&d->lanes[0].lane);
    if (d->debug)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "no graphs in debug mode: every launch is waited for");
    if (lane->lane.capturing)
        return slk_driver_refuse(d, SL_E_STATE, err, "a capture was begun in a capture");
    SL_TRY(slk_driver_check(lane, d->cu.cuStreamBeginCapture(lane->stream, CU_STREAM_CAPTURE_MODE_RELAXED), err,
                            "beginning a capture"));
    lane->lane.capturing = 1;
    return SL_OK;
}

/* What a graph is made of, for reports: 0 everywhere where the driver does not say. */
static void describe(slk_driver *d, slk_driver_graph *g) {
    size_t n = (size_t)g->nodes, m = 0;
    CUgraphNode *nodes = calloc(n + 1, sizeof *nodes);
    if (nodes == NULL || d->cu.cuGraphGetNodes(g->graph, nodes, &n) != CUDA_SUCCESS)
        n = 0;
    for (size_t i = 0; i < n; i++) {
        CUgraphNodeType type = CU_GRAPH_NODE_TYPE_KERNEL;
        g->others += d->cu.cuGraphNodeGetType(nodes[i], &type) == CUDA_SUCCESS && type != CU_GRAPH_NODE_TYPE_KERNEL;
    }
    free(nodes);
    if (d->cu.cuGraphGetEdges(g->graph, NULL, NULL, NULL, &m) != CUDA_SUCCESS || m == 0)
        return;
    CUgraphNode *from = calloc(2 * m, sizeof *from);
    CUgraphEdgeData *data = calloc(m, sizeof *data);
    if (from != NULL && data != NULL && d->cu.cuGraphGetEdges(g->graph, from, from + m, data, &m) == CUDA_SUCCESS) {
        g->edges = (int64_t)m;
        for (size_t i = 0; i < m; i++)
            g->dependent += data[i].type == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
    }
    free(from);
    free(data);
}

sl_status slk_driver_capture_end(slk_driver *d, slk_driver_graph *out, sl_error *err) {
    struct sl_lane_impl *lane = enter(&d->lanes[0].lane);
    *out = (slk_driver_graph){0};
    if (!lane->lane.capturing)
        return slk_driver_refuse(d, SL_E_STATE, err, "a capture was ended that was not begun");
    lane->lane.capturing = 0;
    sl_status status =
        slk_driver_check(lane, d->cu.cuStreamEndCapture(lane->stream, &out->graph), err,
                         "ending a capture; the last was %s", lane->last != NULL ? lane->last : "nothing");
    size_t nodes = 0;
    if (status == SL_OK)
        status =
            slk_driver_check(lane, d->cu.cuGraphGetNodes(out->graph, NULL, &nodes), err, "counting a graph's nodes");
    if (status == SL_OK)
        status = slk_driver_check(lane, d->cu.cuGraphInstantiateWithFlags(&out->exec, out->graph, 0), err,
                                  "making a graph of %zu nodes ready", nodes);
    if (status == SL_OK)
        status = slk_driver_check(lane, d->cu.cuGraphUpload(out->exec, lane->stream), err,
                                  "uploading a graph of %zu nodes", nodes);
    out->nodes = (int64_t)nodes;
    if (status < 0)
        slk_driver_graph_destroy(d, out);
    else
        describe(d, out);
    return status;
}

void slk_driver_capture_abort(slk_driver *d) {
    struct sl_lane_impl *lane = enter(&d->lanes[0].lane);
    CUgraph graph = NULL;
    if (!lane->lane.capturing)
        return;
    lane->lane.capturing = 0;
    d->cu.cuStreamEndCapture(lane->stream, &graph); /* fails when the capture was broken: that is why it is left */
    if (graph != NULL)
        d->cu.cuGraphDestroy(graph);
}

sl_status slk_driver_graph_launch(slk_driver *d, const slk_driver_graph *graph, sl_error *err) {
    struct sl_lane_impl *lane = enter(&d->lanes[0].lane);
    lane->last = "a graph";
    return slk_driver_check(lane, d->cu.cuGraphLaunch(graph->exec, lane->stream), err,
                            "launching a graph of %lld nodes", (long long)graph->nodes);
}

void slk_driver_graph_destroy(slk_driver *d, slk_driver_graph *graph) {
    slk_driver_enter(d);
    if (graph->exec != NULL)
        d->cu.cuGraphExecDestroy(graph->exec);
    if (graph->graph != NULL)
        d->cu.cuGraphDestroy(graph->graph);
    *graph = (slk_driver_graph){0};
}

sl_status slk_driver_passed(slk_driver *d, sl_event_impl *event, sl_error *err) {
    slk_driver_enter(d);
    return slk_driver_check(&d->lanes[0], d->cu.cuEventSynchronize(event->event), err, "waiting for an event");
}

sl_status slk_driver_elapsed(slk_driver *d, sl_event_impl *begin, sl_event_impl *end, float *ms) {
    slk_driver_enter(d);
    return slk_driver_check(&d->lanes[0], d->cu.cuEventElapsedTime(ms, begin->event, end->event), NULL,
                            "the time between two events");
}
