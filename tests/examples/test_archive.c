/* SPDX-License-Identifier: MIT */
/* The archive example's reader of .tar files: each form of a member, and files that are damaged anywhere. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/index.h"

#define BLOCK 512u

/* A .tar that grows in memory. */
struct tar {
    unsigned char bytes[64 * BLOCK];
    size_t length;
};

static void seal(unsigned char *h)
{
    unsigned sum = 0;

    memset(h + 148, ' ', 8);
    for (size_t i = 0; i < BLOCK; i++)
        sum += h[i];
    snprintf((char *)h + 148, 8, "%06o", sum);
}

static unsigned char *header(struct tar *t, const char *name, char type, size_t size)
{
    unsigned char *h = t->bytes + t->length;

    cr_assert_leq(t->length + BLOCK, sizeof(t->bytes));
    t->length += BLOCK;
    memset(h, 0, BLOCK);
    memcpy(h, name, strlen(name) < 100 ? strlen(name) : 100);
    memcpy(h + 100, "0000640", 8);
    memcpy(h + 108, "0001750", 8);
    memcpy(h + 116, "0000144", 8);
    snprintf((char *)h + 124, 12, "%011o", (unsigned)size);
    memcpy(h + 136, "00000001750", 12);
    h[156] = (unsigned char)type;
    memcpy(h + 257, "ustar\00000", 8);
    seal(h);
    return h;
}

static void content(struct tar *t, const char *bytes, size_t length)
{
    size_t blocks = (length + BLOCK - 1) / BLOCK;

    cr_assert_leq(t->length + blocks * BLOCK, sizeof(t->bytes));
    memset(t->bytes + t->length, 0, blocks * BLOCK);
    memcpy(t->bytes + t->length, bytes, length);
    t->length += blocks * BLOCK;
}

static void file(struct tar *t, const char *name, const char *text)
{
    header(t, name, '0', strlen(text));
    content(t, text, strlen(text));
}

static void link_to(struct tar *t, const char *name, char type, const char *target)
{
    unsigned char *h = header(t, name, type, 0);

    memcpy(h + 157, target, strlen(target));
    seal(h);
}

static void before(struct tar *t, char type, const char *text)
{
    header(t, "././@before", type, strlen(text));
    content(t, text, strlen(text));
}

static void finish(struct tar *t)
{
    cr_assert_leq(t->length + 2 * BLOCK, sizeof(t->bytes));
    memset(t->bytes + t->length, 0, 2 * BLOCK);
    t->length += 2 * BLOCK;
}

static int load(const unsigned char *bytes, size_t length, struct archive *a)
{
    char path[] = "/tmp/mf-archive-XXXXXX";
    int fd = mkstemp(path);
    int rc;

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, bytes, length), (ssize_t)length);
    close(fd);
    rc = archive_open(a, path);
    unlink(path);
    return rc;
}

static struct node *at(struct archive *a, const char *path)
{
    uint32_t node = NONE;

    return index_walk(a, path, false, &node, NULL, NULL) == 0 && node != NONE ? &a->nodes[node] : NULL;
}

static void reads(struct archive *a, const char *path, const char *text)
{
    struct node *n = at(a, path);
    char buf[256] = "";

    cr_assert_not_null(n, "%s is missing", path);
    cr_assert_eq(n->attr.size, strlen(text), "size of %s", path);
    cr_assert_eq(pread(a->fd, buf, strlen(text), (off_t)n->data), (ssize_t)strlen(text));
    cr_expect_str_eq(buf, text);
}

static void everything(struct tar *t)
{
    char name[151], record[200];

    *t = (struct tar){ .length = 0 };
    header(t, "./", '5', 0);
    header(t, "dir/", '5', 0);
    file(t, "dir/file", "one");
    link_to(t, "dir/symbolic", '2', "../elsewhere");
    link_to(t, "hard", '1', "dir/file");
    file(t, "made/on/the/way", "two");
    memset(name, 'n', 150);
    name[150] = '\0';
    before(t, 'L', name);
    file(t, "cut", "three");
    snprintf(record, sizeof(record), "164 path=dir/%.150s\n", name);
    before(t, 'x', record);
    file(t, "ignored", "four");
    before(t, 'x', "30 mtime=1234567890.123456789\n13 uid=77777\n13 size=0000\n");
    header(t, "dated", '0', 0);
    before(t, 'K', "far/away");
    link_to(t, "long-link", '2', "cut");
    header(t, "fifo", '6', 0);
    finish(t);
}

Test(archive, every_kind_of_member)
{
    struct tar *t = malloc(sizeof(*t));
    struct archive a;
    char path[256];

    everything(t);
    cr_assert_eq(load(t->bytes, t->length, &a), 0);
    reads(&a, "dir/file", "one");
    reads(&a, "hard", "one");
    cr_expect_eq(at(&a, "hard"), at(&a, "dir/file"));
    cr_expect_eq(at(&a, "hard")->attr.nlink, 2);
    cr_expect_eq(at(&a, "dir/file")->attr.mode, S_IFREG | 0640);
    cr_expect_eq(at(&a, "dir/file")->attr.uid, 1000);
    cr_expect_eq(at(&a, "dir/file")->attr.gid, 100);
    cr_expect_eq(at(&a, "dir/file")->attr.mtime, 1000);
    reads(&a, "made/on/the/way", "two");
    cr_expect_eq(at(&a, "made/on")->attr.mode, S_IFDIR | 0755);
    cr_expect_eq(at(&a, "made/on")->attr.nlink, 3);
    cr_expect_str_eq(a.text + at(&a, "dir/symbolic")->target, "../elsewhere");
    cr_expect_eq(at(&a, "dir/symbolic")->attr.size, strlen("../elsewhere"));
    memset(path, 'n', 150);
    path[150] = '\0';
    reads(&a, path, "three");
    memmove(path + 4, path, 151);
    memcpy(path, "dir/", 4);
    reads(&a, path, "four");
    cr_expect_eq(at(&a, "dated")->attr.mtime, 1234567890);
    cr_expect_eq(at(&a, "dated")->attr.mtimensec, 123456789);
    cr_expect_eq(at(&a, "dated")->attr.uid, 77777);
    cr_expect_str_eq(a.text + at(&a, "long-link")->target, "far/away");
    cr_expect_null(at(&a, "fifo"));
    cr_expect_eq(a.skipped, 1);
    archive_close(&a);
    free(t);
}

Test(archive, later_member_counts)
{
    struct tar *t = calloc(1, sizeof(*t));
    struct archive a;

    file(t, "x", "old");
    file(t, "x", "newer");
    header(t, "d", '5', 0);
    file(t, "d/in", "in");
    header(t, "d", '5', 0);
    file(t, "d", "not over a directory");
    finish(t);
    cr_assert_eq(load(t->bytes, t->length, &a), 0);
    reads(&a, "x", "newer");
    reads(&a, "d/in", "in");
    cr_expect_eq(a.skipped, 1);
    archive_close(&a);
    free(t);
}

/* Names that lead out of the archive, or nowhere. */
Test(archive, bad_names_are_left_out)
{
    struct tar *t = calloc(1, sizeof(*t));
    struct archive a;

    file(t, "../out", "x");
    file(t, "in/../../out", "x");
    file(t, "/rooted", "served below the mount");
    file(t, "plain", "x");
    file(t, "plain/below", "x");
    link_to(t, "broken", '1', "nowhere");
    link_to(t, "of-a-dir", '1', "in");
    finish(t);
    cr_assert_eq(load(t->bytes, t->length, &a), 0);
    cr_expect_null(at(&a, "out"));
    cr_expect_null(at(&a, "broken"));
    cr_expect_null(at(&a, "of-a-dir"));
    reads(&a, "rooted", "served below the mount");
    reads(&a, "plain", "x");
    cr_expect_eq(a.skipped, 5);
    archive_close(&a);
    free(t);
}

Test(archive, truncated_anywhere)
{
    struct tar *t = malloc(sizeof(*t));

    everything(t);
    for (size_t n = 0; n < t->length - 2 * BLOCK; n += n % BLOCK == 0 ? 1 : BLOCK / 2 - 1) {
        struct archive a;
        int rc = load(t->bytes, n, &a);

        cr_expect(rc == -ENODATA || (n % BLOCK == 0 && rc == 0), "cut at %zu: %d", n, rc);
        archive_close(&a);
    }
    free(t);
}

/* Each byte of the headers in turn, also with a checksum that holds: any verdict, no accident. */
Test(archive, damaged_anywhere, .timeout = 60)
{
    static const unsigned char bad[] = { 0, 0xff, 0x80, '9', '/' };
    struct tar *t = malloc(sizeof(*t));
    struct tar *copy = malloc(sizeof(*copy));

    everything(t);
    for (size_t n = 0; n < t->length; n += 3) {
        struct archive a;

        memcpy(copy, t, sizeof(*t));
        copy->bytes[n] = bad[n % sizeof(bad)];
        if (memcmp(copy->bytes + n / BLOCK * BLOCK + 257, "ustar", 5) == 0)
            seal(copy->bytes + n / BLOCK * BLOCK);
        (void)load(copy->bytes, copy->length, &a);
        for (uint32_t i = 0; i < a.node_count; i++) {
            const struct node *node = &a.nodes[i];

            if (S_ISREG(node->attr.mode))
                cr_expect_leq(node->data + node->attr.size, a.size, "byte %zu", n);
        }
        archive_close(&a);
    }
    free(copy);
    free(t);
}

Test(archive, not_an_archive)
{
    struct archive a;
    unsigned char text[2 * BLOCK];

    memset(text, 'x', sizeof(text));
    cr_expect_eq(load(text, sizeof(text), &a), -EINVAL);
    archive_close(&a);
    cr_expect_eq(load(text, 5, &a), -ENODATA);
    archive_close(&a);
    cr_expect_eq(archive_open(&a, "/nowhere/at/all.tar"), -ENOENT);
    archive_close(&a);
}
