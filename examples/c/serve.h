/* SPDX-License-Identifier: MIT */
/* serve.h - the middle of an example's main(): what mf_main() does, for programs that set options themselves. */
#ifndef SERVE_H
#define SERVE_H

#include <manifuse/manifuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Exits where there is nothing to serve: after --help, or a command line that is wrong. */
static inline void parse_command_line(int argc, char **argv, int wants_source, struct mf_cmdline *line)
{
    int rc;

    memset(line, 0, sizeof(*line));
    line->size = sizeof(*line);
    rc = mf_cmdline_parse(argc, argv, wants_source, line);
    if (rc == 0 && !line->show_help)
        return;
    fprintf(rc < 0 ? stderr : stdout, "%s\n", line->text);
    exit(rc < 0 ? 2 : 0);
}

/* Mount, serve until the end, unmount. Returns the program's exit status. */
static inline int serve(struct mf_cmdline *line, const struct mf_ops *ops, void *user)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s = NULL;
    const char *stats = getenv("MANIFUSE_STATS");
    int rc;

    line->opts.flags |= MF_OPT_SIGNALS;
    rc = mf_session_new(ops, user, &line->opts, &s, &err);
    if (rc == 0)
        rc = mf_session_mount(s, line->mountpoint, &err);
    if (rc == 0) {
        rc = mf_session_run(s);
        if (rc < 0)
            snprintf(err.text, sizeof(err.text), "%s", strerror(-rc));
        if (stats && strcmp(stats, "1") == 0)
            mf_session_write_stats(s, STDERR_FILENO);
    }
    mf_session_free(s);
    if (rc == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", line->mountpoint, err.text);
    return 1;
}

#endif
