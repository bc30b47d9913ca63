/* The module's table (cuda_api.h): opening and closing a device, graphs, times, faults. */
#include "cuda_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sli_cuda *sli_cuda_of(const sl_lane *lane) { return lane->impl->owner; }
void *sli_cuda_stream(const sl_lane *lane) { return lane->impl->stream; }

void sli_cuda_log(const sli_cuda *cuda, uint32_t level, const char *fmt, ...) {
    if (cuda->options.log == NULL)
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    cuda->options.log(cuda->options.user, level, text);
}

static void host_log(const sl_host *host, uint32_t level, const char *text) {
    sli_cuda_log(host->impl, level, "%s", text);
}
static const void *host_query(const sl_host *host, const char *id);

static sl_exec exec; /* the driver's entries and the matrix products; filled when the table is first asked for */

static const void *host_query(const sl_host *host, const char *id) {
    (void)host;
    return strcmp(id, SL_EXEC_ID) == 0 ? &exec : NULL;
}

static void close_device(sli_cuda *cuda) {
    if (cuda == NULL)
        return;
    struct sli_cuda_state *s = cuda->state;
    if (s->driver.context != NULL) {
        slk_driver_capture_abort(&s->driver);
        sli_cuda_gemms_release(cuda);
        sli_cublaslt_close(cuda);
        sli_cuda_release_all(cuda);
        slk_driver_close(&s->driver);
    }
    free(s);
    free(cuda);
}

static sl_status open_device(const sli_cuda_options *options, sli_cuda **out, sl_error *err) {
    *out = NULL;
    sli_cuda *cuda = calloc(1, sizeof *cuda);
    struct sli_cuda_state *s = calloc(1, sizeof *s);
    if (cuda == NULL || s == NULL) {
        free(cuda);
        free(s);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a CUDA device");
    }
    cuda->options = *options;
    cuda->state = s;
    s->host = (sl_host){.struct_size = SL_SIZE(sl_host),
                        .name = "sluice-cuda",
                        .version = "0",
                        .abi_major = SL_ABI_MAJOR,
                        .abi_minor = SL_ABI_MINOR,
                        .impl = cuda,
                        .query = host_query,
                        .log = host_log};
    sl_status status = slk_driver_open(&s->driver, options->ordinal, options->debug, cuda, err);
    if (status == SL_OK) {
        for (int i = 0; i < SLK_DRIVER_LANES; i++)
            cuda->lanes[i] = &s->driver.lanes[i].lane;
        status = slk_cuda_open(&cuda->k, &s->host, &exec, cuda->lanes[0], err);
        cuda->k.deterministic = 1; /* until ops_reserve says otherwise */
    }
    if (status < 0) {
        close_device(cuda);
        return status;
    }
    sli_cuda_log(cuda, SL_LOG_DEBUG, "CUDA device %d: %s, compute capability %d.%d, driver %d.%d%s", options->ordinal,
                 s->driver.name, s->driver.info.arch / 100, s->driver.info.arch % 100 / 10,
                 s->driver.info.driver / 1000, s->driver.info.driver % 1000 / 10, options->debug ? ", debug mode" : "");
    *out = cuda;
    return SL_OK;
}

static const sl_lane *lane_by_number(sli_cuda *cuda, int32_t number) {
    return number >= 0 && number < SLK_DRIVER_LANES ? cuda->lanes[number] : NULL;
}

/* ---- graphs ---------------------------------------------------------------------------------------------------- */

static sl_status capture_begin(sli_cuda *cuda, sl_error *err) {
    return slk_driver_capture_begin(&cuda->state->driver, err);
}

static sl_status capture_end(sli_cuda *cuda, sli_cuda_graph **out, sl_error *err) {
    *out = NULL;
    sli_cuda_graph *graph = calloc(1, sizeof *graph);
    if (graph == NULL) {
        slk_driver_capture_abort(&cuda->state->driver);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a graph");
    }
    const sl_status status = slk_driver_capture_end(&cuda->state->driver, &graph->captured, err);
    if (status < 0)
        free(graph);
    else
        *out = graph;
    return status;
}

static void capture_abort(sli_cuda *cuda) { slk_driver_capture_abort(&cuda->state->driver); }

static sl_status graph_launch(sli_cuda *cuda, sli_cuda_graph *graph, sl_error *err) {
    return slk_driver_graph_launch(&cuda->state->driver, &graph->captured, err);
}

static int64_t graph_nodes(const sli_cuda_graph *graph) { return graph->captured.nodes; }

static void graph_form(const sli_cuda_graph *graph, int64_t *others, int64_t *edges, int64_t *dependent) {
    *others = graph->captured.others;
    *edges = graph->captured.edges;
    *dependent = graph->captured.dependent;
}

static void graph_destroy(sli_cuda *cuda, sli_cuda_graph *graph) {
    if (graph == NULL)
        return;
    slk_driver_graph_destroy(&cuda->state->driver, &graph->captured);
    free(graph);
}

/* ---- times and faults ------------------------------------------------------------------------------------------ */

static sl_status elapsed(sli_cuda *cuda, sl_event_impl *begin, sl_event_impl *end, float *ms) {
    return slk_driver_elapsed(&cuda->state->driver, begin, end, ms);
}

static sl_status passed(sli_cuda *cuda, sl_event_impl *event, sl_error *err) {
    return slk_driver_passed(&cuda->state->driver, event, err);
}

static const char *fault(sli_cuda *cuda) {
    return cuda->state->driver.fault[0] != '\0' ? cuda->state->driver.fault : NULL;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static const sli_cuda_api api = {
    .struct_size = sizeof api,
    .open = open_device,
    .close = close_device,
    .lane = lane_by_number,
    .alloc = sli_cuda_alloc,
    .release = sli_cuda_release,
    .scratch_reserve = sli_cuda_scratch_reserve,
    .scratch = sli_cuda_scratch,
    .exec = &exec,
    .ops = &sli_cuda_ops,
    .ops_reserve = sli_cuda_ops_reserve,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .capture_abort = capture_abort,
    .graph_launch = graph_launch,
    .graph_nodes = graph_nodes,
    .graph_form = graph_form,
    .graph_destroy = graph_destroy,
    .passed = passed,
    .elapsed = elapsed,
    .random = sli_cuda_random,
    .sample = sli_cuda_sample,
    .fault = fault,
    .sdpa = sli_cuda_sdpa,
};

__attribute__((visibility("default"))) const sli_cuda_api *sli_cuda_module_0(void);
const sli_cuda_api *sli_cuda_module_0(void) {
    exec = slk_driver_exec;
    exec.gemm_create = sli_cuda_gemm_create;
    exec.gemm_destroy = sli_cuda_gemm_destroy;
    exec.gemm = sli_cuda_gemm;
    return &api;
}
