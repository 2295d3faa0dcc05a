/* SPDX-License-Identifier: MIT */
/*
 * mount_site.h - where a test mounts, and the processes beside it.
 *
 * Each test has a mount namespace of its own, which goes with its processes. Who looks at a mount is always a
 * child, with an alarm, that is waited for with a limit and then killed: it may hang, the test may not.
 */
#ifndef MOUNT_SITE_H
#define MOUNT_SITE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs_rig.h"

#define SITE_NOBODY 65534u
#define SITE_KILLED 1000 /* + signal: how site_end() tells that a child did not exit */
#define SITE_HUNG 2000   /* it had to be killed */

/* Skips the test with a reason where it cannot run. */
void site_begin(void);
extern char site_point[80]; /* an empty directory to mount at */
#define SITE_PATH 128u
void site_path(uint64_t node, char path[SITE_PATH]); /* of a file there */
bool site_mounted(void);                             /* is there a mount at it? */
bool site_gone(void);                                /* the same, but waits for its end: up to ten seconds */

/* A child that runs fn; its result is the exit status. It is killed when its parent dies. */
typedef int (*site_fn)(void *arg);
pid_t site_start(site_fn fn, void *arg);
int site_end(pid_t pid);
int site_run(site_fn fn, void *arg);
/* The same as another user. */
pid_t site_start_as(uint32_t uid, site_fn fn, void *arg);
int site_run_as(uint32_t uid, site_fn fn, void *arg);

/* Skips the test where a child cannot have threads. */
void site_needs_threads_in_children(void);

/* For children: 0, or the errno that a program sees. */
int site_walk(void *arg); /* every name is there, every byte is right; arg: how many times, NULL = once */
int site_stat_root(void *arg);
int site_read_gate(void *arg); /* waits in the filesystem */
int site_load(void *arg);      /* reads and checks until the mount ends; EIO: a wrong byte, 0: an expected end */
int site_read_on(void *arg);   /* the same, with one file open all the time, of which each read is a request */

/* Mount this rig's session at the site and run it. */
void site_serve(struct fs_rig *rig);
/* A server in a process of its own, with these options; returns when it is mounted. Its status is -result of
 * mf_session_run(), as an errno. */
pid_t site_server(const struct mf_session_opts *opts, fs_script script);

/* Descriptors, and bytes, over a socket. */
void site_send_fds(int sock, const int *fds, uint32_t n, const void *data, size_t len);
void site_receive_fds(int sock, int *fds, uint32_t n, void *data, size_t len);

/* Mount by mount(2), as some other program would: the device's descriptor. */
int site_mount_elsewhere(const char *options);
int site_clone(int fd);
uint64_t site_connection(int fd);
int site_abort(uint64_t connection);  /* through the control filesystem: 0 or -errno */
unsigned site_count(const char *dir); /* entries of a directory */

#endif
