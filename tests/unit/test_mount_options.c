/* SPDX-License-Identifier: MIT */
/* test_mount_options.c - every mount option, and every way to get one wrong. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mount/mount.h"

#define DEFAULT_FLAGS (MF__MS_NOSUID | MF__MS_NODEV)

static struct mf__mount_opts parse(const char *text)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf__mount_opts o;
    int rc = mf__mount_opts_parse(text, &o, &err);

    cr_assert_eq(rc, 0, "'%s': %d %s", text ? text : "(null)", rc, err.text);
    return o;
}

static void expect_error(const char *text, const char *message)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf__mount_opts o;
    int rc = mf__mount_opts_parse(text, &o, &err);

    cr_expect_eq(rc, -EINVAL, "'%s': %d", text, rc);
    cr_expect_eq(err.code, -EINVAL, "'%s'", text);
    cr_expect_str_eq(err.text, message, "'%s': \"%s\" instead of \"%s\"", text, err.text, message);
    cr_expect_eq(mf__mount_opts_parse(text, &o, NULL), -EINVAL);
}

Test(mount_options, none, .timeout = 10)
{
    static const char *const texts[] = { NULL, "", ",", ",,,", "defaults", "rw", "rw,exec,async,atime" };
    const struct mf__mount_opts defaults = { .ms_flags = DEFAULT_FLAGS };

    for (size_t i = 0; i < MF__ARRAY_SIZE(texts); i++) {
        struct mf__mount_opts o = parse(texts[i]);

        cr_expect_eq(memcmp(&o, &defaults, sizeof(o)), 0, "'%s'", texts[i]);
    }
}

Test(mount_options, each_flag, .timeout = 10)
{
    static const struct {
        const char *on, *off;
        unsigned long flag;
    } flags[] = {
        { "ro", "rw", MF__MS_RDONLY },
        { "noexec", "exec", MF__MS_NOEXEC },
        { "sync", "async", MF__MS_SYNCHRONOUS },
        { "dirsync", NULL, MF__MS_DIRSYNC },
        { "noatime", "atime", MF__MS_NOATIME },
        { "relatime", "norelatime", MF__MS_RELATIME },
        { "strictatime", "nostrictatime", MF__MS_STRICTATIME },
        { "nodiratime", "diratime", MF__MS_NODIRATIME },
        { "lazytime", "nolazytime", MF__MS_LAZYTIME },
    };
    char text[64];

    for (size_t i = 0; i < MF__ARRAY_SIZE(flags); i++) {
        cr_expect_eq(parse(flags[i].on).ms_flags, DEFAULT_FLAGS | flags[i].flag, "%s", flags[i].on);
        if (!flags[i].off)
            continue;
        cr_expect_eq(parse(flags[i].off).ms_flags, DEFAULT_FLAGS, "%s", flags[i].off);
        snprintf(text, sizeof(text), "%s,%s", flags[i].on, flags[i].off);
        cr_expect_eq(parse(text).ms_flags, DEFAULT_FLAGS, "%s", text);
        snprintf(text, sizeof(text), "%s,%s", flags[i].off, flags[i].on);
        cr_expect_eq(parse(text).ms_flags, DEFAULT_FLAGS | flags[i].flag, "%s", text);
    }
}

Test(mount_options, of_the_ways_to_keep_atime_the_last_counts, .timeout = 10)
{
    cr_expect_eq(parse("noatime,strictatime").ms_flags, DEFAULT_FLAGS | MF__MS_STRICTATIME);
    cr_expect_eq(parse("strictatime,relatime").ms_flags, DEFAULT_FLAGS | MF__MS_RELATIME);
    cr_expect_eq(parse("relatime,noatime").ms_flags, DEFAULT_FLAGS | MF__MS_NOATIME);
}

Test(mount_options, each_switch, .timeout = 10)
{
    struct mf__mount_opts o = parse("default_permissions,allow_other,auto_unmount");

    cr_expect(o.default_permissions && o.allow_other && o.auto_unmount && !o.allow_root && !o.file_root);
    o = parse("allow_root");
    cr_expect(!o.default_permissions && !o.allow_other && !o.auto_unmount && o.allow_root);
}

Test(mount_options, each_value, .timeout = 10)
{
    struct mf__mount_opts o = parse("max_read=65536,blksize=4096,fsname=disk,subtype=probe,rootmode=100000");

    cr_expect_eq(o.max_read, 65536);
    cr_expect_eq(o.blksize, 4096);
    cr_expect_str_eq(o.fsname, "disk");
    cr_expect_str_eq(o.subtype, "probe");
    cr_expect(o.file_root);
    cr_expect_not(parse("rootmode=100000,rootmode=40000").file_root);
    cr_expect_eq(parse("max_read=0").max_read, 0);
    cr_expect_eq(parse("max_read=4096").max_read, 4096);
    cr_expect_eq(parse("max_read=2147483647").max_read, 2147483647);
    cr_expect_eq(parse("blksize=512").blksize, 512);
}

Test(mount_options, those_for_others_are_ignored, .timeout = 10)
{
    const struct mf__mount_opts defaults = { .ms_flags = DEFAULT_FLAGS };
    struct mf__mount_opts o = parse("auto,noauto,user,user=joe,nouser,users,owner,group,_netdev,nofail,nonempty,"
                                    "comment=a word,x-systemd.automount,x-gvfs-name=A\\,B,X-mount.mkdir=0755,defaults");

    cr_expect_eq(memcmp(&o, &defaults, sizeof(o)), 0);
}

Test(mount_options, backslash_escapes, .timeout = 10)
{
    struct mf__mount_opts o = parse("fsname=a\\,b\\\\c=d,subtype=x\\,y,ro");

    cr_expect_str_eq(o.fsname, "a,b\\c=d");
    cr_expect_str_eq(o.subtype, "x,y");
    cr_expect(o.ms_flags & MF__MS_RDONLY);
    cr_expect_str_eq(parse("fsname=\\=x").fsname, "=x");
    cr_expect_str_eq(parse("fsname=caf\xc3\xa9 au lait").fsname, "caf\xc3\xa9 au lait");
    expect_error("ro,fsname=x\\", "the mount options end in a backslash that escapes nothing");
    expect_error("\\", "the mount options end in a backslash that escapes nothing");
}

Test(mount_options, unknown_ones_suggest_the_nearest, .timeout = 10)
{
    static const char *const pairs[][2] = {
        { "alow_other", "allow_other" },
        { "allow_othre", "allow_other" },
        { "allow-other", "allow_other" },
        { "allowother", "allow_other" },
        { "default_permission", "default_permissions" },
        { "maxread=4096", "max_read" },
        { "fs_name=x", "fsname" },
        { "sub_type=x", "subtype" },
        { "auto_umount", "auto_unmount" },
        { "noatimes", "noatime" },
        { "RO", NULL },
        { "r", "ro" },
        { "debug", NULL },
        { "uid=0", NULL },
        { "zzzzzzzzzzzz", NULL },
        { "a_name_that_is_longer_than_any_option_can_ever_be", NULL },
    };
    char want[200], name[64];

    for (size_t i = 0; i < MF__ARRAY_SIZE(pairs); i++) {
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(pairs[i][0], "="), pairs[i][0]);
        if (pairs[i][1])
            snprintf(want, sizeof(want), "unknown mount option '%s'; did you mean '%s'?", name, pairs[i][1]);
        else
            snprintf(want, sizeof(want), "unknown mount option '%s'", name);
        expect_error(pairs[i][0], want);
    }
    expect_error("ro,alow_other,rw", "unknown mount option 'alow_other'; did you mean 'allow_other'?");
    expect_error("=x", "unknown mount option ''");
}

Test(mount_options, values_where_there_are_none, .timeout = 10)
{
    expect_error("ro=1", "mount option 'ro' takes no value, but was given '1'");
    expect_error("allow_other=", "mount option 'allow_other' takes no value, but was given ''");
    expect_error("auto_unmount=yes", "mount option 'auto_unmount' takes no value, but was given 'yes'");
}

Test(mount_options, values_that_are_missing, .timeout = 10)
{
    expect_error("max_read", "mount option 'max_read' needs a value: max_read=BYTES");
    expect_error("blksize=", "mount option 'blksize' needs a value: blksize=BYTES");
    expect_error("fsname", "mount option 'fsname' needs a value: fsname=NAME");
    expect_error("subtype=", "mount option 'subtype' needs a value: subtype=NAME");
    expect_error("rootmode", "mount option 'rootmode' needs a value: rootmode=40000|100000");
}

Test(mount_options, values_that_are_wrong, .timeout = 10)
{
    static const char range[] = " is not within 4096 to 2147483647 (or 0: no limit)";
    char text[300], want[300];

    expect_error("max_read=64k", "mount option 'max_read': '64k' is not a number of bytes");
    expect_error("max_read=-1", "mount option 'max_read': '-1' is not a number of bytes");
    expect_error("max_read= 4096", "mount option 'max_read': ' 4096' is not a number of bytes");
    snprintf(want, sizeof(want), "mount option 'max_read': 4095%s", range);
    expect_error("max_read=4095", want);
    snprintf(want, sizeof(want), "mount option 'max_read': 2147483648%s", range);
    expect_error("max_read=2147483648", want);
    snprintf(want, sizeof(want), "mount option 'max_read': 99999999999999999999999%s", range);
    expect_error("max_read=99999999999999999999999", want);
    expect_error("blksize=1000", "mount option 'blksize': 1000 is not a power of two within 512 to 4096");
    expect_error("blksize=256", "mount option 'blksize': 256 is not a power of two within 512 to 4096");
    expect_error("blksize=8192", "mount option 'blksize': 8192 is not a power of two within 512 to 4096");
    expect_error("rootmode=20000", "mount option 'rootmode': '20000' is neither 40000 (the root is a directory) nor"
                                   " 100000 (it is a file)");
    expect_error("fsname=a\nb", "mount option 'fsname': the value contains a control character");
    snprintf(text, sizeof(text), "fsname=%0256d", 0);
    expect_error(text, "mount option 'fsname': the value has 256 bytes, at most 255 are possible");
    snprintf(text, sizeof(text), "fsname=%0255d", 0);
    cr_expect_eq(strlen(parse(text).fsname), 255);
    snprintf(text, sizeof(text), "subtype=%064d", 0);
    expect_error(text, "mount option 'subtype': the value has 64 bytes, at most 63 are possible");
}

Test(mount_options, what_the_engine_sets_itself, .timeout = 10)
{
    expect_error("fd=3", "mount option 'fd': the engine sets it itself");
    expect_error("user_id=0", "mount option 'user_id': the engine sets it itself");
    expect_error("group_id=0", "mount option 'group_id': the engine sets it itself");
}

Test(mount_options, contradictions, .timeout = 10)
{
    expect_error("allow_root,allow_other", "mount options 'allow_other' and 'allow_root' exclude each other");
}

/* In a process without privileges, for the others keep theirs. 0 = as it should be. */
static int as_user(const char *text, const char *name)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf__mount_opts o;
    char want[100];
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) < 0)
            _exit(2);
        snprintf(want, sizeof(want), "mount option '%s': only root may use it", name);
        _exit(mf__mount_opts_parse(text, &o, &err) != -EPERM || strcmp(err.text, want));
    }
    waitpid(pid, &status, 0);
    return status;
}

Test(mount_options, set_user_id_and_devices_are_roots, .timeout = 10)
{
    cr_expect_eq(as_user("suid", "suid"), 0);
    cr_expect_eq(as_user("ro,dev", "dev"), 0);
    if (geteuid() != 0)
        cr_skip_test("needs root: what only root may use cannot be tried");
    cr_expect_eq(parse("suid").ms_flags, MF__MS_NODEV);
    cr_expect_eq(parse("dev").ms_flags, MF__MS_NOSUID);
    cr_expect_eq(parse("suid,dev").ms_flags, 0);
    cr_expect_eq(parse("suid,dev,nosuid,nodev").ms_flags, DEFAULT_FLAGS);
}

/* ---- the mount point that is none ------------------------------------------------------------------- */

Test(mount_options, descriptor_in_place_of_a_path, .timeout = 10)
{
    static const char *const none[] = { "",           "/dev/fd/",   "/dev/fd/x", "/dev/fd/3x",
                                        "/dev/fd/-1", "/dev/fd/3/", "dev/fd/3",  "/dev/fuse",
                                        "/mnt",       "/dev/fd/ 3", "/dev/fd3",  "/dev/fd/999999999999999999999" };

    cr_expect_eq(mf__mount_fd_path("/dev/fd/0"), 0);
    cr_expect_eq(mf__mount_fd_path("/dev/fd/17"), 17);
    cr_expect_eq(mf__mount_fd_path(NULL), -1);
    for (size_t i = 0; i < MF__ARRAY_SIZE(none); i++)
        cr_expect_eq(mf__mount_fd_path(none[i]), -1, "'%s'", none[i]);
}

Test(mount_options, edit_distance, .timeout = 10)
{
    cr_expect_eq(mf__edit_distance("", ""), 0);
    cr_expect_eq(mf__edit_distance("abc", ""), 3);
    cr_expect_eq(mf__edit_distance("abc", "abc"), 0);
    cr_expect_eq(mf__edit_distance("abc", "acb"), 1);
    cr_expect_eq(mf__edit_distance("abc", "abd"), 1);
    cr_expect_eq(mf__edit_distance("kitten", "sitting"), 3);
}
