/* SPDX-License-Identifier: MIT */
/* log.c - one line for the sink of the caller's choice. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

#define LINE_MAX_BYTES 1024

static const char *level_name(uint32_t level)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };

    return level < MF__ARRAY_SIZE(names) ? names[level] : "debug";
}

/* One write(2) per line, so that lines of several threads and processes do not mix. */
static void to_stderr(uint32_t level, const char *text)
{
    char line[LINE_MAX_BYTES + 32];
    int n = snprintf(line, sizeof(line), "manifuse: %s: %s\n", level_name(level), text);
    ssize_t rc;

    if (n <= 0)
        return;
    do
        rc = write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
    while (rc < 0 && errno == EINTR);
}

void mf__logf(const struct mf__log *log, uint32_t level, const char *fmt, ...)
{
    int saved = errno; /* callers log between a failed call and the look at its errno */
    char text[LINE_MAX_BYTES];
    va_list ap;
    int n;

    if (level > (log ? log->max_level : MF_LOG_WARNING))
        return;
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        text[0] = '\0';
    if (log && log->sink)
        log->sink(level, text, log->user);
    else
        to_stderr(level, text);
    errno = saved;
}
