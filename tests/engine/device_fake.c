/* See device_fake.h: memory, lanes, events, graphs, and the module's table. FAKE_NO_GRAPHS=1 in the environment:
 * captures are refused. */
#include "device_fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "sl_error.h"

/* ---- device memory ----------------------------------------------------------------------------------------------- */

#define SPACE ((size_t)1 << 36)
enum { MEMORY = 512 << 20, PAGE = 4096, MAX_BLOCKS = 4096 };

static char *shown_, *real_; /* addresses as the host sees them, and what stands behind them */
static size_t used_;
static struct block {
    char *p; /* NULL: free place */
    int64_t bytes;
    uint32_t device, tag;
    const sli_cuda *owner;
} blocks_[MAX_BLOCKS];
static int64_t held_;

static void die(const char *who, const char *what, const void *p) {
    fprintf(stderr, "device_fake: %s: %s (%p)\n", who, what, p);
    abort();
}

static int is_device(const void *p) { return (const char *)p >= shown_ && (const char *)p < shown_ + SPACE; }

static const struct block *block_of(const void *p) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks_[i].p != NULL && (const char *)p >= blocks_[i].p &&
            (const char *)p < blocks_[i].p + blocks_[i].bytes)
            return &blocks_[i];
    return NULL;
}

static int holds(const struct block *b, const void *device) {
    return b != NULL && b->p != NULL && (const char *)device >= b->p && (const char *)device < b->p + b->bytes;
}

void *fake_at(const void *device, int64_t bytes, const char *who) {
    enum { RECENT = 4 }; /* a kernel goes from one of its blocks to another for each element */
    static const struct block *recent[RECENT];
    static int oldest;
    const struct block *b = NULL;
    if (bytes == 0)
        return NULL;
    if (!is_device(device))
        die(who, "is given an address that is not the device's", device);
    for (int i = 0; i < RECENT && b == NULL; i++)
        b = holds(recent[i], device) ? recent[i] : NULL;
    if (b == NULL) {
        b = block_of(device);
        recent[oldest] = b;
        oldest = (oldest + 1) % RECENT;
    }
    if (b == NULL)
        die(who, "is given memory that is not allocated", device);
    if ((const char *)device + bytes > b->p + b->bytes)
        die(who, "leaves its memory block", device);
    return real_ + ((const char *)device - shown_);
}

void *fake_out(void *p, int64_t bytes, const char *who) {
    const struct block *b = is_device(p) ? NULL : block_of(p);
    if (b == NULL)
        return fake_at(p, bytes, who);
    if ((const char *)p + bytes > b->p + b->bytes)
        die(who, "leaves its block of pinned memory", p);
    return p;
}

/* ---- queues ------------------------------------------------------------------------------------------------------ */

typedef struct node {
    fake_kernel kernel;
    void *args;
} node;

typedef struct list {
    node *nodes;
    int64_t n, cap;
} list;

struct sli_cuda_graph {
    list work;
};

struct sl_lane_impl {
    list queue;
    sli_cuda *cuda;
};

struct sli_cuda {
    sli_cuda_options options;
    sl_lane lanes[2];
    struct sl_lane_impl queues[2];
    void *scratch;
    int64_t scratch_bytes;
    sli_cuda_graph *recording;
};

struct sl_event_impl {
    double time; /* 0: has not passed */
};

static void add(list *l, fake_kernel kernel, const void *args, size_t bytes) {
    if (l->n == l->cap) {
        l->cap = l->cap > 0 ? 2 * l->cap : 64;
        l->nodes = realloc(l->nodes, sizeof *l->nodes * (size_t)l->cap);
    }
    void *copy = malloc(bytes);
    memcpy(copy, args, bytes);
    l->nodes[l->n++] = (node){kernel, copy};
}

static void clear(list *l) {
    for (int64_t i = 0; i < l->n; i++)
        free(l->nodes[i].args);
    free(l->nodes);
    *l = (list){0};
}

static void flush(struct sl_lane_impl *q) {
    list now = q->queue;
    q->queue = (list){0};
    for (int64_t i = 0; i < now.n; i++)
        now.nodes[i].kernel(now.nodes[i].args);
    clear(&now);
}

sl_status fake_launch(const sl_lane *lane, fake_kernel kernel, const void *args, size_t bytes) {
    sli_cuda *cuda = lane->impl->cuda;
    if (cuda->recording != NULL && lane == &cuda->lanes[0])
        add(&cuda->recording->work, kernel, args, bytes);
    else
        add(&lane->impl->queue, kernel, args, bytes);
    return SL_OK;
}

/* ---- copies, events ---------------------------------------------------------------------------------------------- */

typedef struct copy_args {
    void *dst;
    const void *src;
    int64_t bytes;
} copy_args;

static void *anywhere(const void *p, int64_t bytes) {
    return is_device(p) ? fake_at(p, bytes, "copy") : (void *)(uintptr_t)p;
}

static void run_copy(const void *p) {
    const copy_args *a = p;
    memmove(anywhere(a->dst, a->bytes), anywhere(a->src, a->bytes), (size_t)a->bytes);
}

/* Pageable memory of the host is read and written before the call returns, as a driver does it. */
static int is_pageable(const void *p) { return !is_device(p) && block_of(p) == NULL; }

static sl_status copy(const sl_lane *lane, void *dst, const void *src, int64_t bytes) {
    if (bytes <= 0)
        return bytes == 0 ? SL_OK : SL_E_INVALID;
    copy_args args = {dst, src, bytes};
    int pageable = is_pageable(dst) || is_pageable(src);
    if (pageable && lane->impl->cuda->recording != NULL)
        return SL_E_STATE;
    SL_TRY(fake_launch(lane, run_copy, &args, sizeof args));
    if (pageable)
        flush(lane->impl);
    return SL_OK;
}

typedef struct fill_args {
    void *dst;
    int32_t byte;
    int64_t bytes;
} fill_args;

static void run_fill(const void *p) {
    const fill_args *a = p;
    memset(fake_at(a->dst, a->bytes, "fill"), a->byte, (size_t)a->bytes);
}

static sl_status fill(const sl_lane *lane, void *dst, int32_t byte, int64_t bytes) {
    fill_args args = {dst, byte, bytes};
    return bytes > 0 ? fake_launch(lane, run_fill, &args, sizeof args) : SL_OK;
}

static sl_status event_create(const sl_host *host, const sl_lane *lane, sl_event_impl **out) {
    (void)host, (void)lane;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? SL_OK : SL_E_NO_MEMORY;
}

static void event_destroy(const sl_host *host, sl_event_impl *event) {
    (void)host;
    free(event);
}

static void run_event(const void *p) {
    sl_event_impl *const *e = p;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    (*e)->time = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static sl_status record(const sl_lane *lane, sl_event_impl *event) {
    event->time = 0;
    return fake_launch(lane, run_event, &event, sizeof event);
}

static sl_status wait(const sl_lane *lane, sl_event_impl *event) {
    (void)event;
    sli_cuda *cuda = lane->impl->cuda;
    flush(lane == &cuda->lanes[0] ? &cuda->queues[1] : &cuda->queues[0]);
    return SL_OK;
}

static sl_status sync_lane(const sl_lane *lane, sl_error *err) {
    if (lane->impl->cuda->recording != NULL)
        return sl_fail(err, SL_E_STATE, "sync in a capture");
    flush(lane->impl);
    return SL_OK;
}

/* Runs what stands in front of the event, and nothing behind it. */
static sl_status passed(sli_cuda *cuda, sl_event_impl *event, sl_error *err) {
    struct sl_lane_impl *q = &cuda->queues[0];
    int64_t done = 0;
    if (cuda->recording != NULL)
        return sl_fail(err, SL_E_STATE, "a wait in a capture");
    while (event->time == 0 && done < q->queue.n) {
        q->queue.nodes[done].kernel(q->queue.nodes[done].args);
        free(q->queue.nodes[done++].args);
    }
    q->queue.n -= done;
    memmove(q->queue.nodes, q->queue.nodes + done, sizeof(node) * (size_t)q->queue.n);
    return event->time != 0 ? SL_OK : sl_fail(err, SL_E_STATE, "an event that was never recorded");
}

static sl_status elapsed(sli_cuda *cuda, sl_event_impl *begin, sl_event_impl *end, float *ms) {
    (void)cuda;
    if (begin->time == 0 || end->time == 0)
        return SL_E_STATE;
    *ms = (float)(1e3 * (end->time - begin->time));
    return SL_OK;
}

/* ---- what there is not ------------------------------------------------------------------------------------------- */

static sl_status image_load(const sl_host *host, const sl_lane *lane, const sl_image *image, sl_image_impl **out,
                            sl_error *err) {
    (void)host, (void)lane, (void)out;
    return sl_fail(err, SL_E_UNIMPLEMENTED, "image %s: this device is none", image->name);
}

static sl_status device_info(const sl_lane *lane, sl_device_info *out) {
    (void)lane;
    out->name = "no GPU";
    out->memory = MEMORY;
    out->memory_free = MEMORY - held_;
    out->l2_bytes = 1 << 20;
    out->n_processors = 4;
    out->arch = 900;
    out->max_shared = 232448;
    out->driver = 13000;
    return SL_OK;
}

static const sl_exec exec_ = {.struct_size = SL_SIZE(sl_exec),
                              .image_load = image_load,
                              .copy = copy,
                              .fill = fill,
                              .event_create = event_create,
                              .event_destroy = event_destroy,
                              .record = record,
                              .wait = wait,
                              .sync = sync_lane,
                              .device_info = device_info};

/* ---- the module -------------------------------------------------------------------------------------------------- */

static sl_status open_device(const sli_cuda_options *options, sli_cuda **out, sl_error *err) {
    if (shown_ == NULL) {
        shown_ = mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        real_ = mmap(NULL, SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (shown_ == MAP_FAILED || real_ == MAP_FAILED)
            return sl_fail(err, SL_E_NO_MEMORY, "no address space for a device");
    }
    sli_cuda *c = calloc(1, sizeof *c);
    if (c == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a device");
    c->options = *options;
    for (int i = 0; i < 2; i++) {
        c->queues[i].cuda = c;
        c->lanes[i] =
            (sl_lane){.struct_size = SL_SIZE(sl_lane), .impl = &c->queues[i], .device = SL_DEVICE_CUDA, .index = 0};
    }
    *out = c;
    return SL_OK;
}

static void flush_all(sli_cuda *cuda) {
    for (int i = 0; i < 2; i++)
        flush(&cuda->queues[i]);
}

static void *alloc(sli_cuda *cuda, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    int i = 0;
    while (i < MAX_BLOCKS && blocks_[i].p != NULL)
        i++;
    if (cuda->recording != NULL || i == MAX_BLOCKS || bytes <= 0 || align > PAGE)
        return NULL;
    size_t size = ((size_t)bytes + PAGE - 1) / PAGE * PAGE;
    char *p = NULL;
    if (device == SL_DEVICE_HOST_PINNED) {
        p = aligned_alloc(PAGE, size);
        if (p != NULL)
            memset(p, 0, size);
    } else if (held_ + bytes <= (cuda->options.memory_cap > 0 ? cuda->options.memory_cap : MEMORY) &&
               used_ + size + PAGE <= SPACE) { /* addresses are used once */
        p = shown_ + used_;
        used_ += size + PAGE;
    }
    if (p == NULL)
        return NULL;
    held_ += device == SL_DEVICE_CUDA ? bytes : 0;
    blocks_[i] = (struct block){p, bytes, device, tag, cuda};
    if (cuda->options.ledger != NULL)
        cuda->options.ledger(cuda->options.user, device, tag, bytes);
    return p;
}

static void release(sli_cuda *cuda, uint32_t device, void *p) {
    if (p == NULL)
        return;
    flush_all(cuda);
    struct block *b = (struct block *)(uintptr_t)block_of(p);
    if (b == NULL || b->p != p || b->device != device)
        die("release", "was not allocated", p);
    if (cuda->options.ledger != NULL)
        cuda->options.ledger(cuda->options.user, device, b->tag, -b->bytes);
    if (device == SL_DEVICE_CUDA) {
        held_ -= b->bytes;
        madvise(real_ + ((char *)p - shown_), (size_t)b->bytes, MADV_DONTNEED);
    } else
        free(p);
    b->p = NULL;
}

static void close_device(sli_cuda *cuda) {
    if (cuda == NULL)
        return;
    flush_all(cuda);
    release(cuda, SL_DEVICE_CUDA, cuda->scratch);
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks_[i].p != NULL && blocks_[i].owner == cuda)
            die("close", "memory was left behind", blocks_[i].p);
    free(cuda);
}

const sl_lane *fake_lane(sli_cuda *cuda, int32_t number) {
    return number >= 0 && number < 2 ? &cuda->lanes[number] : NULL;
}

static sl_status scratch_reserve(sli_cuda *cuda, int64_t bytes) {
    if (bytes <= cuda->scratch_bytes)
        return SL_OK;
    release(cuda, SL_DEVICE_CUDA, cuda->scratch);
    cuda->scratch = alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_SCRATCH);
    cuda->scratch_bytes = cuda->scratch != NULL ? bytes : 0;
    return cuda->scratch != NULL ? SL_OK : SL_E_NO_MEMORY;
}

static void *scratch(sli_cuda *cuda) { return cuda->scratch; }

static sl_status ops_reserve(sli_cuda *cuda, const sli_cuda_shapes *shapes, sl_error *err) {
    (void)cuda;
    return shapes->max_rows > 0 && shapes->heads > 0 && shapes->vocab > 0 && shapes->width > 0 && shapes->max_seqs > 0
               ? SL_OK
               : sl_fail(err, SL_E_INVALID, "bounds of the operations are not all positive");
}

static sl_status capture_begin(sli_cuda *cuda, sl_error *err) {
    const char *no = getenv("FAKE_NO_GRAPHS");
    if (no != NULL && no[0] == '1')
        return sl_fail(err, SL_E_UNIMPLEMENTED, "FAKE_NO_GRAPHS = 1");
    cuda->recording = calloc(1, sizeof *cuda->recording);
    cuda->lanes[0].capturing = 1;
    return cuda->recording != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for a graph");
}

static sl_status capture_end(sli_cuda *cuda, sli_cuda_graph **out, sl_error *err) {
    (void)err;
    *out = cuda->recording;
    cuda->recording = NULL;
    cuda->lanes[0].capturing = 0;
    return SL_OK;
}

static void graph_destroy(sli_cuda *cuda, sli_cuda_graph *graph) {
    flush_all(cuda);
    clear(&graph->work);
    free(graph);
}

static void capture_abort(sli_cuda *cuda) {
    if (cuda->recording != NULL)
        graph_destroy(cuda, cuda->recording);
    cuda->recording = NULL;
    cuda->lanes[0].capturing = 0;
}

static void run_graph(const void *p) {
    sli_cuda_graph *const *g = p;
    for (int64_t i = 0; i < (*g)->work.n; i++)
        (*g)->work.nodes[i].kernel((*g)->work.nodes[i].args);
}

static sl_status graph_launch(sli_cuda *cuda, sli_cuda_graph *graph, sl_error *err) {
    (void)err;
    return fake_launch(&cuda->lanes[0], run_graph, &graph, sizeof graph);
}

static int64_t graph_nodes(const sli_cuda_graph *graph) { return graph->work.n; }
static void graph_form(const sli_cuda_graph *graph, int64_t *others, int64_t *edges, int64_t *dependent) {
    *others = *dependent = 0;
    *edges = graph->work.n - 1;
}

static const char *fault(sli_cuda *cuda) {
    (void)cuda;
    return NULL;
}

static const void *sdpa(sli_cuda *cuda, sl_error *err) {
    (void)cuda;
    sl_fail(err, SL_E_NOT_FOUND, "no cuDNN on a device that is none");
    return NULL;
}

static const sli_cuda_api api = {.struct_size = sizeof api,
                                 .open = open_device,
                                 .close = close_device,
                                 .lane = fake_lane,
                                 .alloc = alloc,
                                 .release = release,
                                 .scratch_reserve = scratch_reserve,
                                 .scratch = scratch,
                                 .exec = &exec_,
                                 .ops = &fake_ops,
                                 .ops_reserve = ops_reserve,
                                 .capture_begin = capture_begin,
                                 .capture_end = capture_end,
                                 .capture_abort = capture_abort,
                                 .graph_launch = graph_launch,
                                 .graph_nodes = graph_nodes,
                                 .graph_form = graph_form,
                                 .graph_destroy = graph_destroy,
                                 .passed = passed,
                                 .elapsed = elapsed,
                                 .random = fake_random,
                                 .sample = fake_sample,
                                 .fault = fault,
                                 .sdpa = sdpa};

const sli_cuda_api *sli_cuda_module_0(void);
const sli_cuda_api *sli_cuda_module_0(void) { return &api; }
