/* The host's base, and its small services: threads, cpu, metrics, log. See plugin_host.h. */
#include "host_impl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "plugin/build_info.h"

/* ---- log --------------------------------------------------------------------------------------------------------- */

static void emit(const sli_host *host, uint32_t level, const char *text) {
    static const char *const names[SLI_LOG_LEVELS] = {"debug",          "info", "warning", "error", "plugin misbehaved",
                                                      "host misbehaved"};
    const sli_host_options *o = &host->context->options;
    if (level < o->min_level)
        return;
    if (o->log != NULL)
        o->log(o->log_user, level, host->id, text);
    else
        fprintf(stderr, "sluice: %s: %s: %s\n", level < SLI_LOG_LEVELS ? names[level] : "log", host->id, text);
}

static void log_line(const sl_host *host, uint32_t level, const char *text) {
    emit(sli_host_of(host), level, text != NULL ? text : "");
}

void sli_host_fault(sli_host *host, sli_fault kind, const char *fmt, ...) {
    host->context->faults[kind]++;
    if (host->logged & (1u << kind))
        return;
    host->logged |= 1u << kind;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    emit(host, SL_LOG_PLUGIN_MISBEHAVED, line);
}

/* ---- threads, cpu ------------------------------------------------------------------------------------------------ */

static int32_t n_workers(const sl_host *host) { return sli_pool_workers(sli_host_pool(host)); }

static void parallel_for(const sl_host *host, int64_t n, int64_t grain, sl_range_fn fn, void *user) {
    sli_pool *pool = sli_host_pool(host);
    if (!sli_host_of(host)->context->options.validate) {
        sli_pool_parallel_for(pool, n, grain, fn, user);
        return;
    }
    int64_t before = sli_pool_nested_calls(pool);
    sli_pool_parallel_for(pool, n, grain, fn, user);
    if (sli_pool_nested_calls(pool) != before)
        sli_host_fault(sli_host_of(host), SLI_FAULT_STATE, "parallel_for was called inside parallel_for");
}

static const sl_threads threads_service = {SL_SIZE(sl_threads), n_workers, parallel_for};

static uint32_t isa(const sl_host *host) { return sli_host_isa(host); }

static const sl_cpu cpu_service = {SL_SIZE(sl_cpu), isa};

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

/* Counters of one id add up over its instances; names are static texts, mostly the same pointer. */
static sli_metric *find_metric(sli_host *host, const char *name) {
    sli_host_context *c = host->context;
    for (int i = 0; i < c->n_metrics; i++) {
        sli_metric *m = &c->metrics[i];
        if ((m->name == name || strcmp(m->name, name) == 0) && m->who == host->id)
            return m;
    }
    return NULL;
}

static void metrics_add(const sl_host *pub, const char *name, double value) {
    sli_host *host = sli_host_of(pub);
    sli_host_context *c = host->context;
    sli_metric *m = name != NULL ? find_metric(host, name) : NULL;
    if (m == NULL && name != NULL && c->n_metrics < SLI_MAX_METRICS) {
        m = &c->metrics[c->n_metrics++];
        m->who = host->id;
        m->name = name;
        m->value = 0;
    }
    if (m == NULL)
        sli_host_fault(host, SLI_FAULT_METRICS, "no room for the counter %s: %d are the most",
                       name != NULL ? name : "NULL", SLI_MAX_METRICS);
    else
        m->value += value;
}

static const sl_metrics metrics_service = {SL_SIZE(sl_metrics), metrics_add};

int sli_host_metric(const sli_host_context *c, int index, const char **who, const char **name, double *value) {
    if (index < 0 || index >= c->n_metrics)
        return 0;
    *who = c->metrics[index].who;
    *name = c->metrics[index].name;
    *value = c->metrics[index].value;
    return 1;
}

void sli_host_reset_metrics(sli_host_context *c) {
    for (int i = 0; i < c->n_metrics; i++)
        c->metrics[i].value = 0;
}

/* ---- services ---------------------------------------------------------------------------------------------------- */

static const void *query(const sl_host *host, const char *id) {
    const sli_host_context *c = sli_host_of(host)->context;
    for (int i = 0; i < c->n_services; i++)
        if (strcmp(c->services[i].id, id) == 0)
            return c->services[i].table;
    return NULL;
}

sl_status sli_host_provide(sli_host_context *c, const char *id, const void *table, sl_error *err) {
    assert(table != NULL && !c->in_step);
    for (int i = 0; i < c->n_services; i++)
        if (strcmp(c->services[i].id, id) == 0)
            return sl_fail(err, SL_E_INVALID, "the service %s is provided already", id);
    if (c->n_services == SLI_MAX_SERVICES)
        return sl_fail(err, SL_E_INVALID, "no room for the service %s: %d are the most", id, SLI_MAX_SERVICES);
    c->services[c->n_services++] = (sli_service){id, table};
    return SL_OK;
}

/* ---- context, hosts ---------------------------------------------------------------------------------------------- */

sl_status sli_host_context_create(const sli_host_options *options, sli_host_context **out, sl_error *err) {
    assert(options->pool != NULL);
    sli_host_context *c = sli_alloc(SLI_TAG_MISC, sizeof *c);
    if (c == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the plugin host");
    c->options = *options;
    pthread_mutex_init(&c->lock, NULL);
    sli_lanes_init(c);
    const sli_service own[] = {{SL_MEM_ID, &sli_mem_service},     {SL_SCRATCH_ID, &sli_scratch_service},
                               {SL_THREADS_ID, &threads_service}, {SL_CPU_ID, &cpu_service},
                               {SL_EXEC_ID, &sli_exec_service},   {SL_METRICS_ID, &metrics_service}};
    memcpy(c->services, own, sizeof own);
    c->n_services = sizeof own / sizeof *own;
    *out = c;
    return SL_OK;
}

void sli_host_context_destroy(sli_host_context *c) {
    if (c == NULL)
        return;
    sli_scratch_free(c);
    while (c->ids != NULL) {
        sli_host_id_node *next = c->ids->next;
        sli_free(c->ids);
        c->ids = next;
    }
    pthread_mutex_destroy(&c->lock);
    sli_free(c);
}

/* One text an id, whatever the number of its instances. NULL: no memory. */
static const char *keep_id(sli_host_context *c, const char *id) {
    for (const sli_host_id_node *n = c->ids; n != NULL; n = n->next)
        if (strcmp(n->text, id) == 0)
            return n->text;
    sli_host_id_node *n = sli_alloc(SLI_TAG_MISC, sizeof *n + strlen(id) + 1);
    if (n == NULL)
        return NULL;
    strcpy(n->text, id);
    n->next = c->ids;
    c->ids = n;
    return n->text;
}

sl_status sli_host_create(sli_host_context *context, const char *id, void *user, sl_host **out, sl_error *err) {
    sli_host *h = sli_alloc(SLI_TAG_MISC, sizeof *h);
    const char *copy = keep_id(context, id);
    if (h == NULL || copy == NULL) {
        sli_free(h);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the host of plugin %s", id);
    }
    h->pub = (sl_host){.struct_size = SL_SIZE(sl_host),
                       .name = "sluice",
                       .version = SLI_VERSION,
                       .abi_major = SL_ABI_MAJOR,
                       .abi_minor = SL_ABI_MINOR,
                       .impl = h,
                       .query = query,
                       .log = log_line};
    h->context = context;
    h->id = copy;
    h->user = user;
    *out = &h->pub;
    return SL_OK;
}

void sli_host_destroy(sl_host *host) {
    if (host == NULL)
        return;
    sli_host *h = sli_host_of(host);
    if (h->context->scratch_owner == h)
        h->context->scratch_owner = NULL;
    sli_host_release_all(h);
    sli_free(h);
}

void *sli_host_engine(const sl_host *host) { return sli_host_of(host)->context->options.engine; }
void *sli_host_user(const sl_host *host) { return sli_host_of(host)->user; }
const char *sli_host_id(const sl_host *host) { return sli_host_of(host)->id; }
sli_pool *sli_host_pool(const sl_host *host) { return sli_host_of(host)->context->options.pool; }
uint32_t sli_host_isa(const sl_host *host) { return sli_host_of(host)->context->options.isa; }
void sli_host_set_activating(const sl_host *host, int yes) { sli_host_of(host)->activating = yes; }

/* ---- states ------------------------------------------------------------------------------------------------------ */

void sli_host_step_begin(sli_host_context *c) {
    assert(!c->in_step);
    c->in_step = 1;
    sli_pool_step_begin(c->options.pool);
}

void sli_host_step_end(sli_host_context *c) {
    assert(c->in_step);
    c->in_step = 0;
    sli_pool_step_end(c->options.pool);
}

int sli_host_in_step(const sli_host_context *c) { return c->in_step; }

void sli_host_before_call(sli_host_context *c) {
    if (c->options.validate)
        sli_scratch_poison(c);
}

void sli_host_read_faults(const sli_host_context *c, sli_host_faults *out) {
    *out = (sli_host_faults){.allocs_in_step = c->faults[SLI_FAULT_ALLOC_IN_STEP],
                             .wrong_state = c->faults[SLI_FAULT_STATE],
                             .overruns = c->faults[SLI_FAULT_OVERRUN],
                             .bad_pointers = c->faults[SLI_FAULT_POINTER],
                             .leaks = c->faults[SLI_FAULT_LEAK],
                             .metrics_dropped = c->faults[SLI_FAULT_METRICS]};
}

int64_t sli_host_bytes(const sl_host *host) { return sli_host_of(host)->bytes; }
