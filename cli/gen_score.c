/* Points for answers; see gen_run.h. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "gen_run.h"

static int contains(const char *text, const char *part, size_t n, int any_case) {
    for (size_t i = 0; i + n <= strlen(text); i++)
        if (any_case ? strncasecmp(text + i, part, n) == 0 : memcmp(text + i, part, n) == 0)
            return 1;
    return 0;
}

/* Share of the references that the output contains. */
static double found(const gen_question *q, const char *output) {
    int n = 0;
    for (int i = 0; i < q->n_refs; i++)
        n += contains(output, q->refs[i], strlen(q->refs[i]), 1);
    return q->n_refs > 0 ? (double)n / q->n_refs : 0;
}

/* Is the first number of the output exactly these digits? */
static int is_number(const char *output, const char *right, size_t n) {
    output += strcspn(output, "0123456789");
    return strncmp(output, right, n) == 0 && !isdigit((unsigned char)output[n]);
}

double gen_score(const gen_task *task, const gen_context *ctx, const gen_question *q, const char *output,
                 int64_t n_right) {
    const char *right = ctx->text + q->text_answer;
    size_t n = q->text_end - q->text_answer;
    while (n > 0 && *right == ' ')
        right++, n--;
    switch (task->metric) {
    case GEN_TOKENS: return n_right == q->n;
    case GEN_CONTAINS: return contains(output, right, n, 0);
    case GEN_ALL: return found(q, output);
    case GEN_ANY: return found(q, output) > 0;
    case GEN_NUMBER: return is_number(output, right, n);
    }
    return 0;
}
