/* SPDX-License-Identifier: MIT */
/* options.c - the text after -o. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mount/mount.h"

#define ATIME_BITS (MF__MS_NOATIME | MF__MS_RELATIME | MF__MS_STRICTATIME)

enum kind {
    FLAG,      /* sets and clears bits of ms_flags */
    ROOT_FLAG, /* likewise, and only root may */
    SWITCH,    /* a bool at `offset` */
    NUMBER,    /* a uint32_t at `offset` */
    TEXT,      /* a char[size] at `offset` */
    ROOTMODE,  /* the type of the root */
    IGNORED,   /* for mount(8) and its like, not for us */
    RESERVED,  /* the kernel's, but the engine's to set */
};

struct option {
    const char *name;
    enum kind kind;
    unsigned long set, clear; /* FLAG */
    size_t offset, size;      /* the others */
    const char *value;        /* how its value is called in texts */
};

#define AT(field) .offset = offsetof(struct mf__mount_opts, field), .size = sizeof(((struct mf__mount_opts *)0)->field)

static const struct option options[] = {
    { "ro", FLAG, .set = MF__MS_RDONLY },
    { "rw", FLAG, .clear = MF__MS_RDONLY },
    { "nosuid", FLAG, .set = MF__MS_NOSUID },
    { "suid", ROOT_FLAG, .clear = MF__MS_NOSUID },
    { "nodev", FLAG, .set = MF__MS_NODEV },
    { "dev", ROOT_FLAG, .clear = MF__MS_NODEV },
    { "noexec", FLAG, .set = MF__MS_NOEXEC },
    { "exec", FLAG, .clear = MF__MS_NOEXEC },
    { "sync", FLAG, .set = MF__MS_SYNCHRONOUS },
    { "async", FLAG, .clear = MF__MS_SYNCHRONOUS },
    { "dirsync", FLAG, .set = MF__MS_DIRSYNC },
    { "noatime", FLAG, .set = MF__MS_NOATIME, .clear = ATIME_BITS },
    { "atime", FLAG, .clear = MF__MS_NOATIME },
    { "relatime", FLAG, .set = MF__MS_RELATIME, .clear = ATIME_BITS },
    { "norelatime", FLAG, .clear = MF__MS_RELATIME },
    { "strictatime", FLAG, .set = MF__MS_STRICTATIME, .clear = ATIME_BITS },
    { "nostrictatime", FLAG, .clear = MF__MS_STRICTATIME },
    { "nodiratime", FLAG, .set = MF__MS_NODIRATIME },
    { "diratime", FLAG, .clear = MF__MS_NODIRATIME },
    { "lazytime", FLAG, .set = MF__MS_LAZYTIME },
    { "nolazytime", FLAG, .clear = MF__MS_LAZYTIME },
    { "default_permissions", SWITCH, AT(default_permissions) },
    { "allow_other", SWITCH, AT(allow_other) },
    { "allow_root", SWITCH, AT(allow_root) },
    { "auto_unmount", SWITCH, AT(auto_unmount) },
    { "max_read", NUMBER, AT(max_read), .value = "BYTES" },
    { "blksize", NUMBER, AT(blksize), .value = "BYTES" },
    { "fsname", TEXT, AT(fsname), .value = "NAME" },
    { "subtype", TEXT, AT(subtype), .value = "NAME" },
    { "rootmode", ROOTMODE, .value = "40000|100000" },
    { "defaults", .kind = IGNORED },
    { "auto", .kind = IGNORED },
    { "noauto", .kind = IGNORED },
    { "user", .kind = IGNORED },
    { "nouser", .kind = IGNORED },
    { "users", .kind = IGNORED },
    { "owner", .kind = IGNORED },
    { "group", .kind = IGNORED },
    { "_netdev", .kind = IGNORED },
    { "nofail", .kind = IGNORED },
    { "nonempty", .kind = IGNORED },
    { "comment", .kind = IGNORED },
    { "fd", .kind = RESERVED },
    { "user_id", .kind = RESERVED },
    { "group_id", .kind = RESERVED },
};

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    a = a < b ? a : b;
    return a < c ? a : c;
}

#define LONGEST 32

unsigned mf__edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned row[3][LONGEST + 1];

    if (na > LONGEST || nb > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *now = row[i % 3];
        const unsigned *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
    }
    return row[na % 3][nb];
}

/* What was meant, or NULL where nothing is near. Short names have to be nearer: "uid" is no "suid". */
static const char *nearest(const char *name)
{
    size_t len = strlen(name);
    unsigned best = len < 4 ? 2 : len < 8 ? 3 : 4;
    const char *found = NULL;

    for (size_t i = 0; i < MF__ARRAY_SIZE(options); i++) {
        const struct option *o = &options[i];
        unsigned d = mf__edit_distance(name, o->name);

        if (d < best && o->kind != RESERVED && (len >= 4 || o->name[0] == name[0])) {
            best = d;
            found = o->name;
        }
    }
    return found;
}

static const struct option *find(const char *name)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(options); i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    return NULL;
}

static int unknown(const char *name, struct mf_error *err)
{
    const char *near = nearest(name);

    if (near)
        return mf__errorf(err, -EINVAL, "unknown mount option '%.64s'; did you mean '%s'?", name, near);
    return mf__errorf(err, -EINVAL, "unknown mount option '%.64s'", name);
}

static int set_number(const struct option *o, const char *value, uint32_t *out, struct mf_error *err)
{
    uint64_t n = 0;

    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '9')
            return mf__errorf(err, -EINVAL, "mount option '%s': '%.64s' is not a number of bytes", o->name, value);
        n = n * 10 + (uint64_t)(*p - '0');
        if (n > UINT32_MAX)
            break;
    }
    if (!strcmp(o->name, "max_read")) {
        if ((n && n < MF__PAGE) || n > INT32_MAX)
            return mf__errorf(err, -EINVAL,
                              "mount option 'max_read': %.64s is not within 4096 to 2147483647 (or 0: no"
                              " limit)",
                              value);
    } else if (n < 512 || n > MF__PAGE || (n & (n - 1))) {
        return mf__errorf(err, -EINVAL, "mount option 'blksize': %.64s is not a power of two within 512 to 4096",
                          value);
    }
    *out = (uint32_t)n;
    return 0;
}

static int set_text(const struct option *o, const char *value, char *out, struct mf_error *err)
{
    size_t len = strlen(value);

    if (len >= o->size)
        return mf__errorf(err, -EINVAL, "mount option '%s': the value has %zu bytes, at most %zu are possible", o->name,
                          len, o->size - 1);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return mf__errorf(err, -EINVAL, "mount option '%s': the value contains a control character", o->name);
    memcpy(out, value, len + 1);
    return 0;
}

static int set_rootmode(const char *value, struct mf__mount_opts *out, struct mf_error *err)
{
    if (strcmp(value, "40000") && strcmp(value, "100000"))
        return mf__errorf(err, -EINVAL,
                          "mount option 'rootmode': '%.64s' is neither 40000 (the root is a directory) nor"
                          " 100000 (it is a file)",
                          value);
    out->file_root = value[0] == '1';
    return 0;
}

static int set_flag(const struct option *o, struct mf__mount_opts *out, struct mf_error *err)
{
    if (o->kind == ROOT_FLAG && geteuid() != 0)
        return mf__errorf(err, -EPERM, "mount option '%s': only root may use it", o->name);
    out->ms_flags = (out->ms_flags & ~o->clear) | o->set;
    return 0;
}

static int apply(const char *name, const char *value, struct mf__mount_opts *out, struct mf_error *err)
{
    const struct option *o = find(name);
    void *field;

    if (!strncmp(name, "x-", 2) || !strncmp(name, "X-", 2))
        return 0;
    if (!o)
        return unknown(name, err);
    if (o->kind == IGNORED)
        return 0;
    if (o->kind == RESERVED)
        return mf__errorf(err, -EINVAL, "mount option '%s': the engine sets it itself", name);
    if (o->value && (!value || !*value))
        return mf__errorf(err, -EINVAL, "mount option '%s' needs a value: %s=%s", name, name, o->value);
    if (!o->value && value)
        return mf__errorf(err, -EINVAL, "mount option '%s' takes no value, but was given '%.64s'", name, value);
    field = (char *)out + o->offset;
    switch (o->kind) {
    case SWITCH: *(bool *)field = true; return 0;
    case NUMBER: return set_number(o, value, field, err);
    case TEXT: return set_text(o, value, field, err);
    case ROOTMODE: return set_rootmode(value, out, err);
    default: return set_flag(o, out, err);
    }
}

/*
 * Cut one option off the front of `text` and undo its escapes in place. *value is behind its first bare '=',
 * NULL where it has none. Returns the rest, NULL at the end, or `text` itself for a backslash with nothing
 * behind it.
 */
static char *cut(char *text, char **value)
{
    char *to = text, *from = text;

    *value = NULL;
    for (; *from && *from != ','; from++) {
        if (*from == '\\') {
            if (!from[1])
                return text;
            *to++ = *++from;
        } else if (*from == '=' && !*value) {
            *to++ = '\0';
            *value = to;
        } else {
            *to++ = *from;
        }
    }
    from = *from ? from + 1 : NULL;
    *to = '\0';
    return from;
}

int mf__mount_opts_parse(const char *text, struct mf__mount_opts *out, struct mf_error *err)
{
    char *copy, *at, *next, *value;
    int rc = 0;

    memset(out, 0, sizeof(*out));
    out->ms_flags = MF__MS_NOSUID | MF__MS_NODEV;
    if (!text)
        return 0;
    copy = strdup(text);
    if (!copy)
        return mf__errorf(err, -ENOMEM, "no memory for the mount options");
    for (at = copy; at && !rc; at = next) {
        next = cut(at, &value);
        if (next == at)
            rc = mf__errorf(err, -EINVAL, "the mount options end in a backslash that escapes nothing");
        else if (*at || value)
            rc = apply(at, value, out, err);
    }
    if (!rc && out->allow_other && out->allow_root)
        rc = mf__errorf(err, -EINVAL, "mount options 'allow_other' and 'allow_root' exclude each other");
    free(copy);
    return rc;
}
