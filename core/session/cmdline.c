/* SPDX-License-Identifier: MIT */
/* cmdline.c - the command line that filesystem programs in all languages have in common, and a main(). */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <manifuse/manifuse.h>

#include "mount/mount.h"
#include "session/session.h"

#define EXIT_CLEAN 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2

enum what { READERS, CLONE, URING, PLACEMENT, MOUNT_OPTIONS, DEBUG, HELP };

static const struct {
    const char *name;
    enum what what;
    const char *value; /* NULL: it takes none */
} switches[] = {
    { "readers", READERS, "N" },
    { "clone", CLONE, "off|auto|require" },
    { "uring", URING, "off|auto|require" },
    { "placement", PLACEMENT, "auto|pinned|free" },
    { "o", MOUNT_OPTIONS, "OPTION[,OPTION]" },
    { "debug", DEBUG, NULL },
    { "help", HELP, NULL },
    { "h", HELP, NULL },
};

struct parser {
    int argc, at;
    char **argv;
    bool wants_source;
    int positionals;
    struct mf_cmdline *out;
};

static const char *program_name(int argc, char **argv)
{
    const char *slash = argc > 0 && argv[0] ? strrchr(argv[0], '/') : NULL;

    if (slash)
        return slash[1] ? slash + 1 : "filesystem";
    return argc > 0 && argv[0] && argv[0][0] ? argv[0] : "filesystem";
}

__attribute__((format(printf, 2, 3))) static int usage_error(struct mf_cmdline *out, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out->text, sizeof(out->text), fmt, ap);
    va_end(ap);
    return -EINVAL;
}

static void write_help(struct mf_cmdline *out, const char *program, bool wants_source)
{
    snprintf(out->text, sizeof(out->text),
             "usage: %.100s %sMOUNTPOINT [options]\n"
             "\n"
             "Serves until it is unmounted or gets SIGINT, SIGTERM or SIGHUP.\n"
             "\n"
             "  --readers N                 threads that serve requests; 0 = automatic\n"
             "  --clone off|auto|require    a device descriptor for each reader (auto)\n"
             "  --uring off|auto|require    requests over io_uring instead of the device (auto)\n"
             "  --placement auto|pinned|free  where readers run (auto)\n"
             "  -o OPTION[,OPTION]          mount options: ro, allow_other, allow_root, auto_unmount,\n"
             "                              default_permissions, max_read=N, fsname=NAME, subtype=NAME, ...\n"
             "  --debug                     log each request\n"
             "  --help                      this text\n",
             program, wants_source ? "SOURCE " : "");
}

static int set_readers(struct mf_cmdline *out, const char *value)
{
    uint32_t n = 0;

    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '9' || n > MF__MAX_READERS)
            return usage_error(out, "--readers: '%.64s' is not a number from 0 (automatic) to %u", value,
                               MF__MAX_READERS);
        n = n * 10 + (uint32_t)(*p - '0');
    }
    if (!*value || n > MF__MAX_READERS)
        return usage_error(out, "--readers: '%.64s' is not a number from 0 (automatic) to %u", value, MF__MAX_READERS);
    out->opts.readers = n;
    return 0;
}

static int set_mode(struct mf_cmdline *out, const char *name, const char *value, uint32_t *mode)
{
    /* The two enumerations have the same values. */
    _Static_assert((int)MF_CLONE_AUTO == (int)MF_URING_AUTO && (int)MF_CLONE_OFF == (int)MF_URING_OFF &&
                       (int)MF_CLONE_REQUIRE == (int)MF_URING_REQUIRE,
                   "one parser for both");

    if (!strcmp(value, "auto"))
        *mode = MF_CLONE_AUTO;
    else if (!strcmp(value, "off"))
        *mode = MF_CLONE_OFF;
    else if (!strcmp(value, "require"))
        *mode = MF_CLONE_REQUIRE;
    else
        return usage_error(out, "--%s: '%.64s' is none of off, auto, require", name, value);
    return 0;
}

static int set_placement(struct mf_cmdline *out, const char *value)
{
    if (!strcmp(value, "auto"))
        out->opts.placement = MF_PLACEMENT_AUTO;
    else if (!strcmp(value, "pinned"))
        out->opts.placement = MF_PLACEMENT_PINNED;
    else if (!strcmp(value, "free"))
        out->opts.placement = MF_PLACEMENT_FREE;
    else
        return usage_error(out, "--placement: '%.64s' is none of auto, pinned, free", value);
    return 0;
}

static int add_mount_options(struct mf_cmdline *out, const char *value)
{
    size_t used = strlen(out->options), more = strlen(value);

    bool comma = used && more;

    if (used + comma + more >= sizeof(out->options))
        return usage_error(out, "the mount options are longer than %zu bytes", sizeof(out->options) - 1);
    if (comma)
        out->options[used++] = ',';
    memcpy(out->options + used, value, more + 1);
    return 0;
}

static int apply(struct mf_cmdline *out, enum what what, const char *value)
{
    switch (what) {
    case READERS: return set_readers(out, value);
    case CLONE: return set_mode(out, "clone", value, &out->opts.clone_fd);
    case URING: return set_mode(out, "uring", value, &out->opts.uring);
    case PLACEMENT: return set_placement(out, value);
    case MOUNT_OPTIONS: return add_mount_options(out, value);
    case DEBUG: out->opts.flags |= MF_OPT_DEBUG; return 0;
    case HELP: out->show_help = 1; return 0;
    }
    return 0;
}

static int unknown_switch(struct mf_cmdline *out, const char *arg, const char *name, size_t len)
{
    char word[33] = "";
    unsigned best = 3;
    const char *near = NULL;

    if (len < sizeof(word))
        memcpy(word, name, len);
    for (size_t i = 0; i < MF__ARRAY_SIZE(switches) && word[0] && word[1]; i++) {
        unsigned d = mf__edit_distance(word, switches[i].name);

        if (d < best) {
            best = d;
            near = switches[i].name;
        }
    }
    if (near)
        return usage_error(out, "unknown option '%.64s'; did you mean '%s%s'? See --help", arg, near[1] ? "--" : "-",
                           near);
    return usage_error(out, "unknown option '%.64s'; see --help (mount options go behind -o)", arg);
}

/* "-o" may have its value right behind it, as in "-oro,noatime". */
static bool is_joined_o(const char *arg)
{
    return arg[0] == '-' && arg[1] == 'o' && arg[2] && arg[2] != '=';
}

static int take_switch(struct parser *p, const char *arg)
{
    const char *name = arg + (arg[1] == '-' ? 2 : 1), *value = NULL;
    size_t len = strcspn(name, "=");

    for (size_t i = 0; i < MF__ARRAY_SIZE(switches); i++) {
        if (strlen(switches[i].name) != len || strncmp(switches[i].name, name, len))
            continue;
        if (name[len])
            value = name + len + 1;
        if (value && !switches[i].value)
            return usage_error(p->out, "option '%.*s' takes no value", (int)(name + len - arg), arg);
        if (!value && switches[i].value) {
            if (p->at + 1 >= p->argc)
                return usage_error(p->out, "option '%.64s' needs a value: %.64s %s", arg, arg, switches[i].value);
            value = p->argv[++p->at];
        }
        return apply(p->out, switches[i].what, value);
    }
    if (is_joined_o(arg))
        return add_mount_options(p->out, arg + 2);
    return unknown_switch(p->out, arg, name, len);
}

static int take_positional(struct parser *p, const char *arg)
{
    int wanted = p->wants_source ? 2 : 1;

    if (p->positionals == wanted)
        return usage_error(p->out, "unexpected argument '%.64s': the mount point is '%.64s'", arg, p->out->mountpoint);
    if (!*arg)
        return usage_error(p->out, "the %s is empty", p->positionals + 1 == wanted ? "mount point" : "source");
    if (++p->positionals == wanted)
        p->out->mountpoint = arg;
    else
        p->out->source = arg;
    return 0;
}

/* Wrong mount options are told before anything else happens; and who may look, the session enforces too. */
static int check_mount_options(struct mf_cmdline *out)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf__mount_opts parsed;

    if (mf__mount_opts_parse(out->options, &parsed, &err))
        return usage_error(out, "%s", err.text);
    if (parsed.allow_other)
        out->opts.acl = MF_ACL_ALL;
    else if (parsed.allow_root)
        out->opts.acl = MF_ACL_ROOT_AND_OWNER;
    out->opts.mount_options = out->options[0] ? out->options : NULL;
    return 0;
}

int mf_cmdline_parse(int argc, char **argv, int wants_source, struct mf_cmdline *out)
{
    struct parser p = { .argc = argc, .at = 1, .argv = argv, .wants_source = wants_source != 0, .out = out };
    const char *program = program_name(argc, argv);
    uint32_t size = out->size ? out->size : sizeof(*out);
    bool options_end = false;
    int rc = 0;

    if (size < sizeof(*out))
        return -EINVAL;
    memset(out, 0, sizeof(*out));
    out->size = size;
    out->opts.size = sizeof(out->opts);
    for (; p.at < argc && !rc && !out->show_help; p.at++) {
        const char *arg = argv[p.at];

        if (!options_end && !strcmp(arg, "--"))
            options_end = true;
        else if (!options_end && arg[0] == '-' && arg[1])
            rc = take_switch(&p, arg);
        else
            rc = take_positional(&p, arg);
    }
    if (!rc && out->show_help)
        write_help(out, program, p.wants_source);
    else if (!rc && !out->mountpoint)
        rc = usage_error(out, "the %s is missing: %.100s %sMOUNTPOINT [options]; see --help",
                         p.wants_source && !out->source ? "source" : "mount point", program,
                         p.wants_source ? "SOURCE " : "");
    else if (!rc)
        rc = check_mount_options(out);
    return rc;
}

/* ---- main() ---------------------------------------------------------------------------------------- */

/*
 * The session handles signals while it runs. Before that, one that ended the program between mounting and
 * running would leave a dead mount behind, so it is kept until there is something to stop.
 */
static struct mf_session *_Atomic early_session;
static _Atomic int early_signal;
static const int early_signals[] = { SIGINT, SIGTERM, SIGHUP };

static void on_early_signal(int sig)
{
    int saved = errno;
    struct mf_session *s = atomic_load(&early_session);

    atomic_store(&early_signal, sig);
    if (s)
        mf_session_stop(s);
    errno = saved;
}

static void catch_early(struct sigaction *previous)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_early_signal;
    act.sa_flags = SA_RESTART;
    atomic_store(&early_signal, 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(early_signals); i++) {
        sigaction(early_signals[i], NULL, &previous[i]);
        if (previous[i].sa_handler != SIG_IGN) /* nohup */
            sigaction(early_signals[i], &act, NULL);
    }
}

static void catch_no_more(const struct sigaction *previous)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(early_signals); i++)
        sigaction(early_signals[i], &previous[i], NULL);
    atomic_store(&early_session, NULL);
}

static int complain(const char *program, const char *text)
{
    fprintf(stderr, "%s: %s\n", program, text);
    return EXIT_FAILED;
}

/* Mount, serve, unmount: the exit status. */
static int serve(const char *program, struct mf_session *s, const char *mountpoint)
{
    struct mf_error err = { .size = sizeof(err) };
    struct sigaction previous[MF__ARRAY_SIZE(early_signals)];
    int rc;

    catch_early(previous);
    rc = mf_session_mount(s, mountpoint, &err);
    if (rc < 0) {
        catch_no_more(previous);
        return complain(program, err.text[0] ? err.text : mf__strerror(rc));
    }
    atomic_store(&early_session, s);
    if (!atomic_load(&early_signal))
        rc = mf_session_run(s);
    else
        mf_session_unmount(s);
    catch_no_more(previous);
    if (rc < 0)
        return complain(program, mf__strerror(rc));
    return EXIT_CLEAN;
}

int mf_main(int argc, char **argv, const struct mf_ops *ops, void *user)
{
    const char *program = program_name(argc, argv);
    struct mf_error err = { .size = sizeof(err) };
    struct mf_cmdline line = { .size = sizeof(line) };
    struct mf_session *s;
    int rc = mf_cmdline_parse(argc, argv, 0, &line);

    if (rc < 0) {
        complain(program, line.text);
        return EXIT_USAGE;
    }
    if (line.show_help) {
        fputs(line.text, stdout);
        return EXIT_CLEAN;
    }
    line.opts.flags |= MF_OPT_SIGNALS;
    rc = mf_session_new(ops, user, &line.opts, &s, &err);
    if (rc < 0)
        return complain(program, err.text[0] ? err.text : mf__strerror(rc));
    rc = serve(program, s, line.mountpoint);
    mf_session_free(s);
    return rc;
}
