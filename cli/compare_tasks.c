/* The tasks of `sluice compare`: what runs, and which figures of it are compared. Another task is another row. */
#include <stdlib.h>
#include <string.h>

#include "compare.h"

static const compare_column bench_columns[] = {
    {.key = "prompt",
     .label = "Prompt",
     .unit = "tokens/s",
     .path = "prompt.ts",
     .better = 1,
     .detail = "prompt.name",
     .n = "prompt.rounds",
     .n_unit = "runs",
     .ratio = "prompt.ratio",
     .ratio_low = "prompt.ratio_low",
     .ratio_high = "prompt.ratio_high",
     .what = "how fast a prompt is computed"},
    {.key = "decode",
     .label = "Decode",
     .unit = "tokens/s",
     .path = "decode.ts",
     .better = 1,
     .detail = "decode.name",
     .n = "decode.rounds",
     .n_unit = "runs",
     .ratio = "decode.ratio",
     .ratio_low = "decode.ratio_low",
     .ratio_high = "decode.ratio_high",
     .what = "how fast tokens are generated behind a short context"},
    {.key = "deep",
     .label = "Decode, long context",
     .unit = "tokens/s",
     .path = "deep.ts",
     .better = 1,
     .detail = "deep.name",
     .n = "deep.rounds",
     .n_unit = "runs",
     .ratio = "deep.ratio",
     .ratio_low = "deep.ratio_low",
     .ratio_high = "deep.ratio_high",
     .what = "how fast tokens are generated behind the longest context of the run"},
    {.key = "ttft",
     .label = "First token",
     .unit = "ms",
     .path = "prompt.ttft_ms",
     .better = -1,
     .detail = "prompt.name",
     .n = "prompt.rounds",
     .n_unit = "runs",
     .what = "time to the first token of a prompt"},
    {.key = "kv",
     .label = "KV cache",
     .unit = "MB",
     .path = "bytes_kv",
     .better = -1,
     .scale = 1e-6,
     .detail = "largest.name",
     .n = "rounds",
     .n_unit = "runs",
     .ratio = "kv_ratio",
     .what = "memory of the KV cache in the longest test, on host and device"},
    {.key = "weights",
     .label = "Weights",
     .unit = "MB",
     .path = "bytes_weights",
     .better = -1,
     .scale = 1e-6,
     .n = "rounds",
     .n_unit = "runs",
     .ratio = "weights_ratio",
     .what = "memory of the weights as they are served"},
    {.key = "resident",
     .label = "Resident",
     .unit = "MB",
     .path = "bytes_resident",
     .better = -1,
     .scale = 1e-6,
     .n = "rounds",
     .n_unit = "runs",
     .what = "memory of the process in RAM"},
    {.key = NULL},
};
static const compare_column ppl_columns[] = {
    {.key = "ppl",
     .label = "Perplexity",
     .unit = "a token",
     .path = "ppl",
     .better = -1,
     .n = "windows",
     .n_unit = "windows",
     .ratio = "against.ppl_ratio",
     .ratio_low = "against.ppl_ratio_low",
     .ratio_high = "against.ppl_ratio_high",
     .what = "how surprised the model is by a text it has not seen"},
    {.key = NULL},
};
static const compare_column kld_columns[] = {
    {.key = "kld",
     .label = "KL divergence",
     .unit = "nats a token",
     .path = "kld_mean",
     .better = -1,
     .n = "tokens",
     .n_unit = "tokens",
     .half_width = "kld_half_width_95",
     .what = "how far the distribution of the next token moves away from the base's"},
    {.key = "same_top",
     .label = "Same top token",
     .unit = "%",
     .path = "same_top",
     .better = 1,
     .scale = 100,
     .n = "tokens",
     .n_unit = "tokens",
     .what = "how often the likeliest token stays the same"},
    {.key = NULL},
};
static const compare_column retrieval_columns[] = {
    {.key = "retrieval",
     .label = "Retrieval",
     .unit = "% right",
     .path = "answer_accuracy",
     .better = 1,
     .scale = 100,
     .detail = "mode",
     .n = "answers",
     .n_unit = "questions",
     .difference = "against.mean_difference",
     .half_width = "against.half_width_95",
     .what = "numbers hidden in a long text that are found again"},
    {.key = NULL},
};
static const compare_column spec_columns[] = {
    {.key = "tokens_step",
     .label = "Tokens a step",
     .unit = "text that does not loop",
     .path = "runs.0.results.category=all.fresh.tokens_per_step",
     .better = 1,
     .n = "runs.0.results.category=all.fresh.steps",
     .n_unit = "steps",
     .what = "what the drafts give: plain decoding has one token a step"},
    {.key = "speed_up",
     .label = "Speed-up by drafts",
     .unit = "times",
     .path = "runs.0.results.category=all.speed_up_median|runs.0.results.category=all.speed_up",
     .better = 1,
     .n = "runs.0.results.category=all.prompts",
     .n_unit = "prompts",
     .what = "decoding with the drafter over decoding without, in wall-clock time"},
    {.key = NULL},
};

const compare_task compare_tasks[] = {
    {"bench",
     "Speed and memory",
     {"bench", "-o", "json", "-r", "1"},
     "--tests 'pp512 tg64 tg32@1024 tg32@3072'",
     TASK_PAIRS,
     bench_columns,
     "Each round runs every configuration once in a process of its own, beside one run of the base; rates are medians "
     "of the "
     "rounds, ratios medians of the pairs"},
    {"ppl",
     "Perplexity",
     {"eval", "ppl"},
     "--context 1024 --windows 8 --steps 128",
     TASK_TEXT | TASK_AGAINST,
     ppl_columns,
     "Windows of a text, paired with those of the base"},
    {"kld",
     "Distance of distributions",
     {"eval", "kld"},
     "--context 512 --windows 8 --steps 64",
     TASK_TEXT | TASK_BASE,
     kld_columns,
     "The distribution of each next token, beside the base's"},
    {"retrieval",
     "Retrieval",
     {"eval", "retrieval"},
     "--length 2048 --questions 40 --mode multi_request",
     TASK_TEXT | TASK_AGAINST,
     retrieval_columns,
     "Sentences with numbers hidden in running text and asked for behind it, paired question by question with the "
     "base"},
    {"spec",
     "Drafting",
     {"eval", "spec", "--json"},
     "-n 64 --temperatures 0 --limit 2",
     TASK_PROMPTS | TASK_DRAFTER,
     spec_columns,
     "Prompts decoded with the drafter and without"},
};
const int compare_n_tasks = sizeof compare_tasks / sizeof *compare_tasks;

/* The first element of an array whose member `name` is text, for "name=text". */
static json_t *element(json_t *array, const char *word) {
    char *end;
    size_t i = strtoul(word, &end, 10), name = strcspn(word, "=");
    json_t *one;
    if (*end == '\0')
        return json_array_get(array, i);
    json_array_foreach(array, i, one) {
        char member[64];
        snprintf(member, sizeof member, "%.*s", (int)name, word);
        const char *value = json_string_value(json_object_get(one, member));
        if (word[name] == '=' && value != NULL && strcmp(value, word + name + 1) == 0)
            return one;
    }
    return NULL;
}

static json_t *follow(json_t *result, const char *path) {
    for (char word[64]; result != NULL && *path != '\0' && *path != '|'; path += *path == '.') {
        size_t n = strcspn(path, ".|");
        snprintf(word, sizeof word, "%.*s", (int)n, path);
        result = json_is_array(result) ? element(result, word) : json_object_get(result, word);
        path += n;
    }
    return json_is_null(result) ? NULL : result;
}

json_t *compare_member(json_t *result, const char *path) {
    for (const char *p = path; p != NULL; p = strchr(p, '|'), p = p != NULL ? p + 1 : NULL) {
        json_t *found = follow(result, p);
        if (found != NULL)
            return found;
    }
    return NULL;
}
