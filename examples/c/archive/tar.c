/* SPDX-License-Identifier: MIT */
/*
 * tar.c - the index of a .tar: ustar, with pax headers (path, linkpath, size, mtime, uid, gid) and GNU's long
 * names. Numbers and lengths in the file are checked before they are used. What is not a file, a directory or
 * a link is left out with a warning.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "index.h"

#define BLOCK 512u
#define LONG_LIMIT (1u << 20) /* of a pax header or a long name */
#define WARNINGS 10u

struct header {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link[100];
    char magic[6];
    char version[2];
    char uname[32];
    char gname[32];
    char devmajor[8];
    char devminor[8];
    char prefix[155];
    char rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

/* What the headers before a member say about it. */
struct member {
    char *path; /* NULL = none was given */
    char *link;
    uint64_t size;
    int64_t mtime;
    uint32_t mtimensec;
    uint32_t uid, gid;
    bool has_size, has_mtime, has_uid, has_gid, sparse;
};

struct reader {
    struct archive *a;
    const char *file;
    uint64_t at; /* of the header that is being read */
    struct member next;
    struct member global;
};

/* One line, in one piece. */
__attribute__((format(printf, 2, 3))) static void complain(const struct reader *r, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    fprintf(stderr, "%s: at %llu: %s\n", r->file, (unsigned long long)r->at, text);
}

static void skip(struct reader *r, const char *name, const char *why)
{
    if (r->a->skipped++ < WARNINGS)
        complain(r, "left out: %s: %s", name, why);
}

static int read_at(const struct archive *a, void *buf, size_t length, uint64_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = pread(a->fd, (char *)buf + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

/* Octal digits, or, with the top bit set, a big-endian number. */
static int number(const char *field, size_t length, uint64_t *out)
{
    const unsigned char *p = (const unsigned char *)field;
    uint64_t n = 0;
    size_t i = 0;

    if (p[0] & 0x80) {
        if (p[0] & 0x40)
            return -ERANGE; /* negative */
        n = p[0] & 0x3f;
        for (i = 1; i < length; i++) {
            if (n >> 55)
                return -ERANGE;
            n = n << 8 | p[i];
        }
        *out = n;
        return 0;
    }
    while (i < length && p[i] == ' ')
        i++;
    for (; i < length && p[i] >= '0' && p[i] <= '7'; i++) {
        if (n >> 60)
            return -ERANGE;
        n = n << 3 | (uint64_t)(p[i] - '0');
    }
    if (i < length && p[i] != ' ' && p[i] != '\0')
        return -EINVAL;
    *out = n;
    return 0;
}

/* Some old programs summed signed characters. */
static bool checksum_holds(const struct header *h)
{
    const unsigned char *p = (const unsigned char *)h;
    size_t from = offsetof(struct header, checksum);
    size_t to = from + sizeof(h->checksum);
    uint64_t want;
    uint32_t sum = 0;
    int32_t sum_signed = 0;

    if (number(h->checksum, sizeof(h->checksum), &want) < 0)
        return false;
    for (size_t i = 0; i < BLOCK; i++) {
        unsigned char c = i >= from && i < to ? ' ' : p[i];

        sum += c;
        sum_signed += (signed char)c;
    }
    return want == sum || (sum_signed >= 0 && want == (uint32_t)sum_signed);
}

static bool is_zero(const struct header *h)
{
    static const struct header zero;

    return memcmp(h, &zero, sizeof(zero)) == 0;
}

/* ---- the headers before a member ----------------------------------------------------------------- */

static int set_text(char **to, const char *text, size_t length)
{
    char *copy = strndup(text, length);

    if (!copy)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

static bool decimal(const char *text, const char **end, uint64_t *out)
{
    uint64_t n = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++) {
        if (n > (UINT64_MAX - 9) / 10)
            return false;
        n = n * 10 + (uint64_t)(*p - '0');
    }
    *end = p;
    *out = n;
    return p > text;
}

/* Seconds since 1970 with a fraction, possibly negative. */
static bool timestamp(const char *text, int64_t *seconds, uint32_t *nanoseconds)
{
    bool negative = *text == '-';
    const char *p = text + negative;
    uint64_t whole;
    uint32_t fraction = 0;

    if (!decimal(p, &p, &whole) || whole > INT64_MAX / 2)
        return false;
    if (*p == '.') {
        uint32_t unit = 100000000;

        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction += (uint32_t)(*p - '0') * unit;
    }
    *seconds = negative ? -(int64_t)whole : (int64_t)whole;
    if (negative && fraction) {
        *seconds -= 1;
        fraction = 1000000000 - fraction;
    }
    *nanoseconds = fraction;
    return *p == '\0';
}

/* One record of a pax header; `value` ends with a NUL. */
static int pax_record(struct member *m, const char *key, const char *value, size_t length)
{
    const char *end;
    uint64_t n;

    if (strcmp(key, "path") == 0)
        return set_text(&m->path, value, length);
    if (strcmp(key, "linkpath") == 0)
        return set_text(&m->link, value, length);
    if (strncmp(key, "GNU.sparse.", 11) == 0)
        m->sparse = true;
    if (strcmp(key, "mtime") == 0)
        return (m->has_mtime = timestamp(value, &m->mtime, &m->mtimensec)) ? 0 : -EINVAL;
    if (strcmp(key, "size") != 0 && strcmp(key, "uid") != 0 && strcmp(key, "gid") != 0)
        return 0;
    if (!decimal(value, &end, &n) || *end != '\0')
        return -EINVAL;
    if (key[0] == 's') {
        m->size = n;
        m->has_size = true;
    } else if (key[0] == 'u') {
        m->uid = (uint32_t)n;
        m->has_uid = true;
    } else {
        m->gid = (uint32_t)n;
        m->has_gid = true;
    }
    return 0;
}

/* "LENGTH KEY=VALUE\n", one after the other; LENGTH counts all of it. Changes the text. */
static int pax(struct member *m, char *text, size_t length)
{
    while (length > 0) {
        const char *end;
        uint64_t n;
        char *value;
        int rc;

        if (!decimal(text, &end, &n) || *end != ' ' || n > length || n < (uint64_t)(end - text) + 3)
            return -EINVAL;
        if (text[n - 1] != '\n')
            return -EINVAL;
        text[n - 1] = '\0';
        value = strchr(end + 1, '=');
        if (!value)
            return -EINVAL;
        *value++ = '\0';
        rc = pax_record(m, end + 1, value, (size_t)(text + n - 1 - value));
        if (rc < 0)
            return rc;
        text += n;
        length -= n;
    }
    return 0;
}

static int special(struct reader *r, char type, uint64_t data, uint64_t size)
{
    char *text;
    int rc;

    if (size > LONG_LIMIT) {
        complain(r, "a header of %llu bytes", (unsigned long long)size);
        return -EINVAL;
    }
    text = malloc(size + 1);
    if (!text)
        return -ENOMEM;
    rc = read_at(r->a, text, size, data);
    text[size] = '\0';
    if (rc == 0) {
        if (type == 'L')
            rc = set_text(&r->next.path, text, size);
        else if (type == 'K')
            rc = set_text(&r->next.link, text, size);
        else
            rc = pax(type == 'g' ? &r->global : &r->next, text, size);
        if (rc == -EINVAL)
            complain(r, "a damaged pax header");
    }
    free(text);
    return rc;
}

static void forget(struct member *m)
{
    free(m->path);
    free(m->link);
    *m = (struct member){ 0 };
}

/* ---- members ------------------------------------------------------------------------------------- */

static char *path_of(const struct reader *r, const struct header *h)
{
    char *path = NULL;
    bool ustar = memcmp(h->magic, "ustar", 6) == 0; /* with its NUL; GNU's own form has no prefix */

    if (r->next.path)
        return strdup(r->next.path);
    if (ustar && h->prefix[0]) {
        if (asprintf(&path, "%.*s/%.*s", (int)sizeof(h->prefix), h->prefix, (int)sizeof(h->name), h->name) < 0)
            return NULL;
        return path;
    }
    return strndup(h->name, sizeof(h->name));
}

static int attributes(const struct reader *r, const struct header *h, struct mf_attr *attr)
{
    const struct member *m = &r->next, *g = &r->global;
    uint64_t mode, uid, gid, mtime;

    if (number(h->mode, sizeof(h->mode), &mode) < 0 || number(h->uid, sizeof(h->uid), &uid) < 0 ||
        number(h->gid, sizeof(h->gid), &gid) < 0)
        return -EINVAL;
    if (number(h->mtime, sizeof(h->mtime), &mtime) < 0 || mtime > INT64_MAX / 2)
        mtime = 0; /* before 1970, or nonsense; pax says it better */
    *attr = (struct mf_attr){
        .mode = (uint32_t)mode & 07777,
        .nlink = 1,
        .uid = m->has_uid ? m->uid : (uint32_t)uid,
        .gid = m->has_gid ? m->gid : (uint32_t)gid,
        .mtime = m->has_mtime   ? m->mtime
                 : g->has_mtime ? g->mtime
                                : (int64_t)mtime,
        .mtimensec = m->has_mtime   ? m->mtimensec
                     : g->has_mtime ? g->mtimensec
                                    : 0,
    };
    attr->atime = attr->ctime = attr->mtime;
    attr->atimensec = attr->ctimensec = attr->mtimensec;
    return 0;
}

static int add_hard_link(struct reader *r, const char *path, const char *target, uint32_t dir, const char *last,
                         size_t length)
{
    struct archive *a = r->a;
    uint32_t node = NONE;
    int rc = index_walk(a, target, false, &node, NULL, NULL);

    if (rc < 0 || node == NONE || S_ISDIR(a->nodes[node].attr.mode)) {
        skip(r, path, "a hard link to what is not in the archive");
        return 0;
    }
    a->nodes[node].attr.nlink++;
    rc = index_add_name(a, dir, last, length, node);
    if (rc == -EEXIST) {
        a->nodes[node].attr.nlink--;
        skip(r, path, "a directory has that name");
        rc = 0;
    }
    return rc;
}

/* A file, a directory or a symbolic link. */
static int add_node(struct reader *r, const char *path, struct mf_attr *attr, uint64_t data, const char *target,
                    uint32_t dir, const char *last, size_t length)
{
    struct archive *a = r->a;
    uint32_t node;
    int rc;

    attr->blocks = (attr->size + 511) / 512;
    if (!last) { /* the archive's own top directory */
        if (S_ISDIR(attr->mode)) {
            attr->nlink = a->nodes[0].attr.nlink;
            a->nodes[0].attr = *attr;
        }
        return 0;
    }
    rc = index_add_node(a, attr, &node);
    if (rc < 0)
        return rc;
    a->nodes[node].data = data;
    if (S_ISLNK(attr->mode))
        rc = index_add_text(a, target, attr->size, &a->nodes[node].target);
    if (rc == 0)
        rc = index_add_name(a, dir, last, length, node);
    if (rc == -EEXIST) {
        skip(r, path, "a directory and something else of one name");
        return 0;
    }
    if (S_ISREG(attr->mode))
        a->bytes += attr->size;
    return rc;
}

static int add_member(struct reader *r, const struct header *h, const char *path, uint64_t data, uint64_t size)
{
    char *target = r->next.link ? strdup(r->next.link) : strndup(h->link, sizeof(h->link));
    char type = h->type;
    struct mf_attr attr;
    const char *last = NULL;
    size_t length = 0;
    uint32_t dir;
    int rc = target ? attributes(r, h, &attr) : -ENOMEM;

    if (rc == 0 && (r->next.sparse || type == 'S')) {
        skip(r, path, "a sparse file");
        goto out;
    }
    if (rc == -EINVAL) {
        complain(r, "a damaged header");
        goto out;
    }
    if (rc == 0)
        rc = index_walk(r->a, path, true, &dir, &last, &length);
    if (rc == -EINVAL || rc == -ENOTDIR || rc == -ENAMETOOLONG) {
        skip(r, path, strerror(-rc));
        rc = 0;
        goto out;
    }
    if (rc < 0)
        goto out;
    if ((type == '0' || type == '\0') && path[0] && path[strlen(path) - 1] == '/')
        type = '5'; /* before ustar */
    if (type == '0' || type == '\0' || type == '7') {
        attr.mode |= S_IFREG;
        attr.size = size;
        rc = add_node(r, path, &attr, data, NULL, dir, last, length);
    } else if (type == '5') {
        attr.mode |= S_IFDIR;
        attr.nlink = 2;
        rc = add_node(r, path, &attr, 0, NULL, dir, last, length);
    } else if (type == '2') {
        attr.mode |= S_IFLNK;
        attr.size = strlen(target);
        rc = add_node(r, path, &attr, 0, target, dir, last, length);
    } else if (type == '1' && last) {
        rc = add_hard_link(r, path, target, dir, last, length);
    } else {
        skip(r, path, "neither file, directory nor link");
    }
out:
    free(target);
    return rc;
}

/* Size of what follows the header: only files and special headers have content. */
static uint64_t content_size(char type, uint64_t size)
{
    return type && strchr("123456", type) ? 0 : size;
}

/* GNU's old sparse form: further blocks before the content. */
static int skip_sparse_map(struct reader *r, const struct header *h, uint64_t *data)
{
    unsigned char block[BLOCK];
    bool more = ((const unsigned char *)h)[482];

    while (more) {
        int rc = read_at(r->a, block, BLOCK, *data);

        if (rc < 0)
            return rc;
        *data += BLOCK;
        more = block[504];
    }
    return 0;
}

/* One header and what belongs to it. 1: go on; 0: the end. */
static int step(struct reader *r)
{
    struct header h;
    uint64_t size, data = r->at + BLOCK;
    int rc;

    if (r->at > 0 && r->at == r->a->size)
        return 0; /* without the two empty blocks: common */
    rc = read_at(r->a, &h, sizeof(h), r->at);
    if (rc == -ENODATA)
        complain(r, r->at == 0 ? "not a tar archive" : "the archive ends within a header");
    if (rc < 0)
        return rc;
    if (is_zero(&h))
        return 0;
    if (!checksum_holds(&h) || number(h.size, sizeof(h.size), &size) < 0) {
        complain(r, r->at == 0 ? "not a tar archive" : "a damaged header");
        return -EINVAL;
    }
    if (h.type == 'S') {
        rc = skip_sparse_map(r, &h, &data);
        if (rc < 0)
            return rc;
    }
    if (r->next.has_size && !strchr("xgLK", h.type ? h.type : '0'))
        size = r->next.size;
    size = content_size(h.type, size);
    if (data > r->a->size || size > r->a->size - data) {
        complain(r, "the archive ends within a member");
        return -ENODATA;
    }
    if (h.type && strchr("xgLK", h.type)) {
        rc = special(r, h.type, data, size);
    } else {
        char *path = path_of(r, &h);

        rc = path ? add_member(r, &h, path, data, size) : -ENOMEM;
        free(path);
        forget(&r->next);
    }
    r->at = data + (size + BLOCK - 1) / BLOCK * BLOCK;
    return rc < 0 ? rc : 1;
}

int archive_open(struct archive *a, const char *path)
{
    struct reader r = { .a = a, .file = path };
    struct stat st;
    int rc;

    *a = (struct archive){ .fd = open(path, O_RDONLY | O_CLOEXEC) };
    if (a->fd < 0 || fstat(a->fd, &st) < 0) {
        rc = -errno;
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return rc;
    }
    a->size = (uint64_t)st.st_size;
    rc = index_init(a);
    if (rc == 0) {
        a->nodes[0].attr.uid = getuid();
        a->nodes[0].attr.gid = getgid();
        a->nodes[0].attr.mtime = a->nodes[0].attr.atime = a->nodes[0].attr.ctime = st.st_mtime;
        do {
            rc = step(&r);
        } while (rc > 0);
    }
    forget(&r.next);
    forget(&r.global);
    if (rc == -ENOMEM || rc == -EOVERFLOW)
        fprintf(stderr, "%s: too many members: %s\n", path, strerror(-rc));
    if (rc == 0 && a->skipped > WARNINGS)
        fprintf(stderr, "%s: left out %u members in all\n", path, a->skipped);
    return rc;
}

void archive_close(struct archive *a)
{
    if (a->fd >= 0)
        close(a->fd);
    free(a->nodes);
    free(a->names);
    free(a->buckets);
    free(a->text);
}
