/* SPDX-License-Identifier: MIT */
/*
 * fs_files.h - the filesystem that session tests serve: a directory of files whose every byte follows from node
 * and offset, so that whoever reads can tell a right byte from a wrong one. It keeps no state but its gates.
 */
#ifndef FS_FILES_H
#define FS_FILES_H

#include <pthread.h>
#include <stdbool.h>

#include <manifuse/manifuse.h>

#define FS_FILES 64u
#define FS_FILE0 100u /* node of "f00" */
#define FS_GATE 2u    /* node of "gate": each read of it waits at the gate */
#define FS_SINK 3u    /* node of "sink": takes writes */
#define FS_GATE_SIZE 4096u

#define FS_ALL_OPS 0xffffffffffffffffull

/* Where handlers wait until a test lets them go. */
struct fs_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic unsigned waiting; /* inside now */
    bool open;
};
void fs_gate_init(struct fs_gate *gate);
void fs_gate_pass(struct fs_gate *gate); /* waits until it is open */
void fs_gate_open(struct fs_gate *gate);
void fs_gate_shut(struct fs_gate *gate);
/* Until so many wait at once; false after ten seconds. */
bool fs_gate_await(struct fs_gate *gate, unsigned waiting);

uint64_t fs_size(uint64_t node);
uint8_t fs_byte(uint64_t node, uint64_t offset);
void fs_fill(uint64_t node, uint64_t offset, void *buf, uint64_t length);
/* Whether these are the file's bytes. */
bool fs_right(uint64_t node, uint64_t offset, const void *buf, uint64_t length);
void fs_name(uint64_t node, char name[16]);
struct mf_attr fs_attr(uint64_t node);
struct mf_entry fs_entry(uint64_t node);

/* Answers every operation; a read of the gate's node waits at `gate` where there is one. */
int32_t fs_answer(struct mf_call *call, struct fs_gate *gate);
/* What those operations are: everything that does not change the tree. */
uint64_t fs_operations(void);

#endif
