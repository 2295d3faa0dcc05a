/* SPDX-License-Identifier: MIT */
/* test_cmdline.c - the command line that all filesystem programs share. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <manifuse/manifuse.h>

#include "base/base.h"

#define MAX_ARGS 32

struct args {
    int argc;
    char *argv[MAX_ARGS + 1];
    char text[4096];
};

/* Words separated by single blanks; two blanks in a row are an empty word. */
static void split(struct args *a, const char *line)
{
    char *at = a->text;

    snprintf(a->text, sizeof(a->text), "%s", line);
    a->argc = 0;
    for (char *end; a->argc < MAX_ARGS; at = end + 1) {
        end = strchr(at, ' ');
        a->argv[a->argc++] = at;
        if (!end)
            break;
        *end = '\0';
    }
    a->argv[a->argc] = NULL;
}

static int parse(const char *line, int wants_source, struct args *a, struct mf_cmdline *out)
{
    split(a, line);
    memset(out, 0xa5, sizeof(*out));
    out->size = sizeof(*out);
    return mf_cmdline_parse(a->argc, a->argv, wants_source, out);
}

static struct args args;
static struct mf_cmdline line;

static void good(const char *text, int wants_source)
{
    int rc = parse(text, wants_source, &args, &line);

    cr_assert_eq(rc, 0, "'%s': %d %s", text, rc, line.text);
    cr_expect_str_eq(line.text, "");
}

static void bad(const char *text, int wants_source, const char *message)
{
    cr_expect_eq(parse(text, wants_source, &args, &line), -EINVAL, "'%s'", text);
    cr_expect_str_eq(line.text, message, "'%s': \"%s\" instead of \"%s\"", text, line.text, message);
}

Test(cmdline, only_a_mount_point, .timeout = 20)
{
    struct mf_session_opts defaults = { .size = sizeof(defaults) };

    good("/usr/bin/hello /mnt", 0);
    cr_expect_str_eq(line.mountpoint, "/mnt");
    cr_expect_null(line.source);
    cr_expect_eq(line.show_help, 0);
    cr_expect_eq(line.size, sizeof(line));
    cr_expect_eq(memcmp(&line.opts, &defaults, sizeof(defaults)), 0, "options differ from the defaults");
}

Test(cmdline, source_and_mount_point, .timeout = 20)
{
    good("tarfs --readers 4 a.tar -o ro /mnt", 1);
    cr_expect_str_eq(line.source, "a.tar");
    cr_expect_str_eq(line.mountpoint, "/mnt");
    cr_expect_eq((void *)line.source, (void *)args.argv[3], "not a pointer into argv");
}

Test(cmdline, each_option_in_each_spelling, .timeout = 20)
{
    static const char *const readers[] = { "p --readers 4 /m", "p --readers=4 /m", "p -readers 4 /m",
                                           "p -readers=4 /m",  "p /m --readers 4", "p --readers 9 --readers 4 /m" };
    static const char *const debug[] = { "p --debug /m", "p -debug /m", "p /m -debug" };
    static const char *const mount[] = { "p -o ro,noatime /m",       "p -o=ro,noatime /m", "p --o ro,noatime /m",
                                         "p --o=ro,noatime /m",      "p -oro,noatime /m",  "p -o ro /m -o noatime",
                                         "p -o ro -o  -o noatime /m" };

    for (size_t i = 0; i < MF__ARRAY_SIZE(readers); i++) {
        good(readers[i], 0);
        cr_expect_eq(line.opts.readers, 4, "%s", readers[i]);
    }
    for (size_t i = 0; i < MF__ARRAY_SIZE(debug); i++) {
        good(debug[i], 0);
        cr_expect_eq(line.opts.flags, MF_OPT_DEBUG, "%s", debug[i]);
    }
    for (size_t i = 0; i < MF__ARRAY_SIZE(mount); i++) {
        good(mount[i], 0);
        cr_expect_str_eq(line.opts.mount_options, "ro,noatime", "%s", mount[i]);
        cr_expect_eq((void *)line.opts.mount_options, (void *)line.options);
    }
}

Test(cmdline, modes, .timeout = 20)
{
    good("p --clone off --uring require /m", 0);
    cr_expect_eq(line.opts.clone_fd, MF_CLONE_OFF);
    cr_expect_eq(line.opts.uring, MF_URING_REQUIRE);
    good("p --clone=require --uring=off /m", 0);
    cr_expect_eq(line.opts.clone_fd, MF_CLONE_REQUIRE);
    cr_expect_eq(line.opts.uring, MF_URING_OFF);
    good("p -clone auto -uring auto /m", 0);
    cr_expect_eq(line.opts.clone_fd, MF_CLONE_AUTO);
    cr_expect_eq(line.opts.uring, MF_URING_AUTO);
    bad("p --clone on /m", 0, "--clone: 'on' is none of off, auto, require");
    bad("p --uring= /m", 0, "--uring: '' is none of off, auto, require");
}

Test(cmdline, number_of_readers, .timeout = 20)
{
    good("p --readers 0 /m", 0);
    cr_expect_eq(line.opts.readers, 0);
    good("p --readers 256 /m", 0);
    cr_expect_eq(line.opts.readers, 256);
    bad("p --readers 257 /m", 0, "--readers: '257' is not a number from 0 (automatic) to 256");
    bad("p --readers 99999999999999999999 /m", 0,
        "--readers: '99999999999999999999' is not a number from 0 (automatic) to 256");
    bad("p --readers -1 /m", 0, "--readers: '-1' is not a number from 0 (automatic) to 256");
    bad("p --readers four /m", 0, "--readers: 'four' is not a number from 0 (automatic) to 256");
    bad("p --readers= /m", 0, "--readers: '' is not a number from 0 (automatic) to 256");
    bad("p /m --readers", 0, "option '--readers' needs a value: --readers N");
}

Test(cmdline, double_dash_ends_the_options, .timeout = 20)
{
    good("p --debug -- --readers", 0);
    cr_expect_str_eq(line.mountpoint, "--readers");
    good("p -- -o -x", 1);
    cr_expect_str_eq(line.source, "-o");
    cr_expect_str_eq(line.mountpoint, "-x");
    good("p - /m", 1);
    cr_expect_str_eq(line.source, "-");
    good("p -- /m --", 1);
    cr_expect_str_eq(line.mountpoint, "--");
}

Test(cmdline, what_is_missing_or_too_much, .timeout = 20)
{
    bad("/x/hello", 0, "the mount point is missing: hello MOUNTPOINT [options]; see --help");
    bad("tarfs", 1, "the source is missing: tarfs SOURCE MOUNTPOINT [options]; see --help");
    bad("tarfs a.tar", 1, "the mount point is missing: tarfs SOURCE MOUNTPOINT [options]; see --help");
    bad("p a /m", 0, "unexpected argument '/m': the mount point is 'a'");
    bad("p a /m b", 1, "unexpected argument 'b': the mount point is '/m'");
    bad("p ", 0, "the mount point is empty");
    bad("p  /m", 1, "the source is empty");
    bad("p a ", 1, "the mount point is empty");
}

Test(cmdline, unknown_options, .timeout = 20)
{
    bad("p --reader 4 /m", 0, "unknown option '--reader'; did you mean '--readers'? See --help");
    bad("p -redaers=4 /m", 0, "unknown option '-redaers=4'; did you mean '--readers'? See --help");
    bad("p --threads 4 /m", 0, "unknown option '--threads'; see --help (mount options go behind -o)");
    bad("p --allow_other /m", 0, "unknown option '--allow_other'; see --help (mount options go behind -o)");
    bad("p -f /m", 0, "unknown option '-f'; see --help (mount options go behind -o)");
    bad("p --debug=1 /m", 0, "option '--debug' takes no value");
    bad("p -help=x /m", 0, "option '-help' takes no value");
    bad("p /m -o", 0, "option '-o' needs a value: -o OPTION[,OPTION]");
}

Test(cmdline, mount_options_are_checked, .timeout = 20)
{
    bad("p /m -o ro,alow_other", 0, "unknown mount option 'alow_other'; did you mean 'allow_other'?");
    bad("p /m -o max_read=1", 0, "mount option 'max_read': 1 is not within 4096 to 2147483647 (or 0: no limit)");
    good("p /m -o fsname=a\\,b", 0);
    cr_expect_str_eq(line.opts.mount_options, "fsname=a\\,b", "escapes are the mount's to undo");
}

Test(cmdline, mount_options_say_who_is_served, .timeout = 20)
{
    good("p /m -o ro", 0);
    cr_expect_eq(line.opts.acl, MF_ACL_OWNER);
    good("p /m -o ro,allow_other", 0);
    cr_expect_eq(line.opts.acl, MF_ACL_ALL);
    good("p /m -o allow_root", 0);
    cr_expect_eq(line.opts.acl, MF_ACL_ROOT_AND_OWNER);
}

Test(cmdline, mount_options_fill_their_storage, .timeout = 20)
{
    char text[2100];

    snprintf(text, sizeof(text), "p /m -o x-%01021d", 0);
    good(text, 0);
    cr_expect_eq(strlen(line.options), 1023);
    snprintf(text, sizeof(text), "p /m -o x-%01022d", 0);
    bad(text, 0, "the mount options are longer than 1023 bytes");
    snprintf(text, sizeof(text), "p /m -o x-%01018d -o ro", 0);
    good(text, 0);
    cr_expect_eq(strlen(line.options), 1023);
    snprintf(text, sizeof(text), "p /m -o x-%01019d -o ro", 0);
    bad(text, 0, "the mount options are longer than 1023 bytes");
}

Test(cmdline, help, .timeout = 20)
{
    static const char *const ways[] = { "/x/hello --help", "/x/hello -help", "/x/hello -h",
                                        "/x/hello /m --help --nonsense" };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ways); i++) {
        cr_expect_eq(parse(ways[i], 0, &args, &line), 0, "%s", ways[i]);
        cr_expect_eq(line.show_help, 1);
        cr_expect_eq(strncmp(line.text, "usage: hello MOUNTPOINT [options]\n", 34), 0, "%s", line.text);
        cr_expect_lt(strlen(line.text), sizeof(line.text) - 1, "the help text is cut");
        cr_expect_eq(line.text[strlen(line.text) - 1], '\n');
    }
    cr_expect_eq(parse("tarfs --help", 1, &args, &line), 0);
    cr_expect_eq(strncmp(line.text, "usage: tarfs SOURCE MOUNTPOINT [options]\n", 41), 0);
}

Test(cmdline, the_help_text_is_never_cut, .timeout = 20)
{
    char text[600];

    snprintf(text, sizeof(text), "%0500d --help", 0);
    cr_expect_eq(parse(text, 1, &args, &line), 0);
    cr_expect_str_eq(strstr(line.text, "  --help"), "  --help                      this text\n");
}

Test(cmdline, no_arguments_at_all, .timeout = 20)
{
    char *none[] = { NULL };

    line.size = sizeof(line);
    cr_expect_eq(mf_cmdline_parse(0, none, 0, &line), -EINVAL);
    cr_expect_str_eq(line.text, "the mount point is missing: filesystem MOUNTPOINT [options]; see --help");
}

Test(cmdline, structure_sizes, .timeout = 20)
{
    struct args a;
    struct mf_cmdline out = { .size = 100 };

    split(&a, "p /m");
    cr_expect_eq(mf_cmdline_parse(a.argc, a.argv, 0, &out), -EINVAL, "an impossible size was accepted");
    out.size = 0;
    cr_expect_eq(mf_cmdline_parse(a.argc, a.argv, 0, &out), 0);
    cr_expect_eq(out.size, sizeof(out));
    out.size = sizeof(out) + 64;
    cr_expect_eq(mf_cmdline_parse(a.argc, a.argv, 0, &out), 0);
    cr_expect_eq(out.size, sizeof(out) + 64);
}

/* ---- mf_main() ------------------------------------------------------------------------------------- */

/* Exit status of mf_main() in a process of its own; what it prints goes to `out`. */
static int run_main(const char *text, int stream, char *out, size_t size)
{
    struct mf_ops ops = { .size = sizeof(ops) };
    struct args a;
    int p[2], status;
    size_t used = 0;
    ssize_t n;
    pid_t pid;

    split(&a, text);
    cr_assert_eq(pipe(p), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        dup2(p[1], stream);
        close(p[0]);
        close(p[1]);
        status = mf_main(a.argc, a.argv, &ops, NULL);
        fflush(NULL);
        _exit(status);
    }
    close(p[1]);
    while ((n = read(p[0], out + used, size - 1 - used)) > 0)
        used += (size_t)n;
    out[used] = '\0';
    close(p[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(cmdline, main_prints_help, .timeout = 20)
{
    char out[4096];

    cr_expect_eq(run_main("/x/hello --help", STDOUT_FILENO, out, sizeof(out)), 0);
    cr_expect_eq(strncmp(out, "usage: hello MOUNTPOINT [options]\n", 34), 0, "%s", out);
}

Test(cmdline, main_tells_usage_errors, .timeout = 20)
{
    char out[4096];

    cr_expect_eq(run_main("/x/hello --nope /m", STDERR_FILENO, out, sizeof(out)), 2);
    cr_expect_str_eq(out, "hello: unknown option '--nope'; see --help (mount options go behind -o)\n");
    cr_expect_eq(run_main("hello", STDERR_FILENO, out, sizeof(out)), 2);
    cr_expect_str_eq(out, "hello: the mount point is missing: hello MOUNTPOINT [options]; see --help\n");
}

Test(cmdline, main_tells_mount_errors, .timeout = 20)
{
    char out[4096];

    cr_expect_eq(run_main("/x/hello /nowhere/at/all", STDERR_FILENO, out, sizeof(out)), 1);
    cr_expect_str_eq(out, "hello: mount point '/nowhere/at/all' does not exist: make it first (mkdir)\n");
}
