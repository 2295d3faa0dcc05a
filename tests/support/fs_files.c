/* SPDX-License-Identifier: MIT */
#include "fs_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define AWAIT_SECONDS 10

/* ---- gates -------------------------------------------------------------------------------------- */

void fs_gate_init(struct fs_gate *gate)
{
    memset(gate, 0, sizeof(*gate));
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
}

void fs_gate_pass(struct fs_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->waiting++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->waiting--;
    pthread_mutex_unlock(&gate->lock);
}

static void set_open(struct fs_gate *gate, bool open)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = open;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

void fs_gate_open(struct fs_gate *gate)
{
    set_open(gate, true);
}

void fs_gate_shut(struct fs_gate *gate)
{
    set_open(gate, false);
}

bool fs_gate_await(struct fs_gate *gate, unsigned waiting)
{
    struct timespec until;
    bool there;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += AWAIT_SECONDS;
    pthread_mutex_lock(&gate->lock);
    while (gate->waiting < waiting)
        if (pthread_cond_timedwait(&gate->changed, &gate->lock, &until) == ETIMEDOUT)
            break;
    there = gate->waiting >= waiting;
    pthread_mutex_unlock(&gate->lock);
    return there;
}

/* ---- contents ----------------------------------------------------------------------------------- */

uint64_t fs_size(uint64_t node)
{
    if (node == FS_GATE)
        return FS_GATE_SIZE;
    if (node < FS_FILE0 || node >= FS_FILE0 + FS_FILES)
        return 0;
    return (node - FS_FILE0) * 9973 % 200000 + 1;
}

uint8_t fs_byte(uint64_t node, uint64_t offset)
{
    return (uint8_t)(offset * 31 + (offset >> 8) * 7 + (offset >> 16) * 13 + node * 17);
}

void fs_fill(uint64_t node, uint64_t offset, void *buf, uint64_t length)
{
    uint8_t *p = buf;

    for (uint64_t i = 0; i < length; i++)
        p[i] = fs_byte(node, offset + i);
}

bool fs_right(uint64_t node, uint64_t offset, const void *buf, uint64_t length)
{
    const uint8_t *p = buf;

    for (uint64_t i = 0; i < length; i++)
        if (p[i] != fs_byte(node, offset + i))
            return false;
    return true;
}

void fs_name(uint64_t node, char name[16])
{
    if (node == FS_GATE)
        strcpy(name, "gate");
    else if (node == FS_SINK)
        strcpy(name, "sink");
    else
        snprintf(name, 16, "f%02u", (unsigned)(node - FS_FILE0) % FS_FILES);
}

static uint64_t node_of(const char *name)
{
    char *end;
    unsigned long n;

    if (strcmp(name, "gate") == 0)
        return FS_GATE;
    if (strcmp(name, "sink") == 0)
        return FS_SINK;
    if (name[0] != 'f' || strlen(name) != 3)
        return 0;
    n = strtoul(name + 1, &end, 10);
    return *end == '\0' && n < FS_FILES ? FS_FILE0 + n : 0;
}

struct mf_attr fs_attr(uint64_t node)
{
    struct mf_attr attr = { .ino = node, .nlink = 1, .mtime = 1000000000, .mtimensec = 5, .blksize = 4096 };

    attr.mode = node == MF_ROOT ? S_IFDIR | 0755 : S_IFREG | 0666;
    attr.size = fs_size(node);
    attr.blocks = (attr.size + 511) / 512;
    return attr;
}

struct mf_entry fs_entry(uint64_t node)
{
    struct mf_entry e = { .size = sizeof(e), .node = node, .generation = 1, .attr = fs_attr(node) };

    return e;
}

/* ---- operations --------------------------------------------------------------------------------- */

static void give_entry(struct mf_call *call, uint64_t node)
{
    call->answer.node = node;
    call->answer.generation = 1;
    call->answer.attr = fs_attr(node);
}

static int32_t lookup(struct mf_call *call)
{
    uint64_t node = node_of(call->name);

    if (call->node != MF_ROOT || node == 0)
        return -ENOENT;
    give_entry(call, node);
    return 0;
}

static int32_t read_file(struct mf_call *call, struct fs_gate *gate)
{
    uint64_t size = fs_size(call->node);
    uint64_t left = call->offset < size ? size - call->offset : 0;

    if (call->node == FS_GATE && gate)
        fs_gate_pass(gate);
    call->answer.data_len = left < call->length ? left : call->length;
    fs_fill(call->node, call->offset, call->buf, call->answer.data_len);
    return 0;
}

static int32_t readdir_root(struct mf_call *call)
{
    uint64_t at = call->offset;
    char name[16];

    for (; at < FS_FILES + 2; at++) {
        uint64_t node = at < FS_FILES ? FS_FILE0 + at : FS_GATE + at - FS_FILES;
        int rc;

        fs_name(node, name);
        rc = mf_dirent_add(call->req, name, strlen(name), node, S_IFREG, at + 1);
        if (rc == -ENOSPC)
            break;
        if (rc < 0)
            return rc;
    }
    return mf_reply_dirents(call->req) == 0 ? MF_ANSWERED : -EIO;
}

static int32_t statfs_root(struct mf_call *call)
{
    struct mf_statfs st = { .size = sizeof(st), .blocks = 1000, .bsize = 4096, .frsize = 4096, .namelen = 255 };

    return mf_reply_statfs(call->req, &st) == 0 ? MF_ANSWERED : -EIO;
}

uint64_t fs_operations(void)
{
    return 1ull << MF_OP_LOOKUP | 1ull << MF_OP_GETATTR | 1ull << MF_OP_SETATTR | 1ull << MF_OP_OPEN |
           1ull << MF_OP_READ | 1ull << MF_OP_WRITE | 1ull << MF_OP_RELEASE | 1ull << MF_OP_OPENDIR |
           1ull << MF_OP_READDIR | 1ull << MF_OP_RELEASEDIR | 1ull << MF_OP_STATFS | 1ull << MF_OP_FORGET;
}

int32_t fs_answer(struct mf_call *call, struct fs_gate *gate)
{
    switch (call->op) {
    case MF_OP_LOOKUP: return lookup(call);
    case MF_OP_GETATTR:
    case MF_OP_SETATTR: call->answer.attr = fs_attr(call->node); return 0;
    case MF_OP_OPEN: call->answer.open_flags = MF_OPEN_DIRECT_IO; /* fall through */
    case MF_OP_OPENDIR: call->answer.fh = call->node; return 0;
    case MF_OP_READ: return read_file(call, gate);
    case MF_OP_WRITE: call->answer.value = call->length; return 0;
    case MF_OP_READDIR: return readdir_root(call);
    case MF_OP_STATFS: return statfs_root(call);
    case MF_OP_RELEASE:
    case MF_OP_RELEASEDIR:
    case MF_OP_FORGET: return 0;
    default: return -ENOSYS;
    }
}
