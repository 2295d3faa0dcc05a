/* SPDX-License-Identifier: MIT */
/*
 * SWIG interface of the flat layer: the functions whose parameters are handles, integers, strings and buffers.
 * bindings/go/generate.sh makes bindings/go/internal/raw/{flat.go,flat_wrap.c} from it; their output is
 * committed, so that a user of the Go package needs a C compiler and no SWIG.
 *
 * Every exported function is named in this file. Those under "by hand" are not wrapped here, and the reason
 * stands with each group.
 */
%module raw
%{
#include <manifuse/testing.h>
%}
%include <stdint.i>
%rename("%(camelcase)s") "";

/* A handle is an integer for Go: memory of the engine, nothing that the garbage collector may look at. */
%define MF_HANDLE(TYPE)
%typemap(gotype) TYPE * "uintptr"
%typemap(imtype) TYPE * "uintptr"
%typemap(goin) TYPE * "$result = $input"
%typemap(goout) TYPE * "$result = $1"
%typemap(in) TYPE * %{ $1 = ($1_ltype)$input; %}
%typemap(out) TYPE * %{ $result = (uintptr_t)$1; %}
%enddef
MF_HANDLE(struct mf_session)
MF_HANDLE(struct mf_req)
MF_HANDLE(struct mf_vkernel)

/* A record is a pointer to its mirror in layout.go, which Go allocates; C writes it and keeps nothing. */
%define MF_RECORD(TYPE, MIRROR)
%typemap(gotype) TYPE * "*MIRROR"
%typemap(imtype) TYPE * "unsafe.Pointer"
%typemap(goin) TYPE * "$result = unsafe.Pointer($input)"
%typemap(in) TYPE * %{ $1 = ($1_ltype)$input; %}
%enddef
MF_RECORD(struct mf_attr, Attr)
MF_RECORD(struct mf_entry, Entry)
MF_RECORD(struct mf_open, Open)
MF_RECORD(struct mf_statfs, Statfs)
MF_RECORD(struct mf_lock, Lock)
MF_RECORD(struct mf_info, Info)
MF_RECORD(struct mf_reader_stats, ReaderStats)
MF_RECORD(struct mf_negotiated, Negotiated)
MF_RECORD(struct mf_error, Error)
MF_RECORD(int32_t, int32)
MF_RECORD(uint64_t, uint64)
%typemap(gotype) int * "*int32"
%typemap(imtype) int * "unsafe.Pointer"
%typemap(goin) int * "$result = unsafe.Pointer($input)"
%typemap(in) int * %{ $1 = ($1_ltype)$input; %}

/* Bytes are a slice. C reads or writes them during the call and keeps nothing. */
%typemap(gotype) (const void *data, uint64_t length), (const void *value, uint64_t length),
                 (const void *buf, uint64_t length), (void *buf, uint64_t length), (char *buf, uint64_t length),
                 (const void *in, uint64_t in_len), (void *buf, uint64_t size) "[]byte"
%typemap(in) (const void *data, uint64_t length), (const void *value, uint64_t length),
             (const void *buf, uint64_t length), (void *buf, uint64_t length), (char *buf, uint64_t length),
             (const void *in, uint64_t in_len), (void *buf, uint64_t size)
%{ $1 = ($1_ltype)$input.array; $2 = (uint64_t)$input.len; %}
%typemap(gotype) (const char *name, uint64_t name_len) "string"
%typemap(in) (const char *name, uint64_t name_len) %{ $1 = ($1_ltype)$input.p; $2 = (uint64_t)$input.n; %}

/* ---- sessions ---- */
int mf_session_clone_fd(struct mf_session *s, int *fd);
int mf_session_negotiated(struct mf_session *s, struct mf_negotiated *out, uint32_t size);
int mf_negotiated_check(const struct mf_negotiated *neg, struct mf_error *err);
int mf_session_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err);
int mf_session_attach_vkernel(struct mf_session *s, struct mf_vkernel *vk, struct mf_error *err);
int mf_session_add_reader(struct mf_session *s);
int mf_session_run(struct mf_session *s);
int mf_session_start(struct mf_session *s);
int mf_session_wait(struct mf_session *s, int timeout_ms);
int mf_session_finish(struct mf_session *s);
void mf_session_stop(struct mf_session *s);
int mf_session_unmount(struct mf_session *s);
void mf_session_free(struct mf_session *s);
int mf_session_info(struct mf_session *s, struct mf_info *out);
int mf_session_stats(struct mf_session *s, uint32_t reader, struct mf_reader_stats *out);
int mf_session_write_stats(struct mf_session *s, int fd);

/* ---- requests that were kept ---- */
int mf_req_defer(struct mf_req *req);
int mf_req_interrupted(struct mf_req *req);
int mf_reply_err(struct mf_req *req, int error);
int mf_reply_entry(struct mf_req *req, const struct mf_entry *entry);
int mf_reply_attr(struct mf_req *req, const struct mf_attr *attr, uint64_t timeout_ns);
int mf_reply_open(struct mf_req *req, const struct mf_open *open);
int mf_reply_create(struct mf_req *req, const struct mf_entry *entry, const struct mf_open *open);
int mf_reply_data(struct mf_req *req, const void *data, uint64_t length);
int mf_reply_buffer(struct mf_req *req, uint64_t length);
int mf_reply_fd(struct mf_req *req, int fd, uint64_t offset, uint64_t length);
int mf_reply_write(struct mf_req *req, uint64_t written);
int mf_reply_statfs(struct mf_req *req, const struct mf_statfs *st);
int mf_reply_xattr_size(struct mf_req *req, uint64_t needed);
int mf_reply_lseek(struct mf_req *req, uint64_t offset);
int mf_reply_lock(struct mf_req *req, const struct mf_lock *lock);
int mf_reply_dirents(struct mf_req *req);
int mf_dirent_add(struct mf_req *req, const char *name, uint64_t name_len, uint64_t ino, uint32_t type, uint64_t next);
int64_t mf_dirent_put(void *buf, uint64_t size, uint64_t used, const char *name, uint64_t name_len, uint64_t ino,
                      uint32_t type, uint64_t next);

/* ---- notifications ---- */
int mf_notify_inval_inode(struct mf_session *s, uint64_t node, int64_t offset, int64_t length);
int mf_notify_inval_entry(struct mf_session *s, uint64_t parent, const char *name, uint64_t name_len);

/* ---- the virtual kernel and its client ---- */
void mf_vkernel_free(struct mf_vkernel *vk);
void mf_vkernel_set_timeout(struct mf_vkernel *vk, uint32_t milliseconds);
void mf_vkernel_unmount(struct mf_vkernel *vk);
void mf_vkernel_abort(struct mf_vkernel *vk);
uint64_t mf_vkernel_pending(struct mf_vkernel *vk);
uint64_t mf_vkernel_reads(struct mf_vkernel *vk, uint32_t channel);
uint64_t mf_vkernel_bad_replies(struct mf_vkernel *vk);
int mf_client_send(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                   uint64_t *unique);
int mf_client_interrupt(struct mf_vkernel *vk, uint64_t unique);
int mf_client_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct mf_entry *out);
int mf_client_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup);
int mf_client_getattr(struct mf_vkernel *vk, uint64_t node, struct mf_attr *out);
int mf_client_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, uint64_t *fh);
int64_t mf_client_read(struct mf_vkernel *vk, uint64_t node, uint64_t fh, void *buf, uint64_t length, uint64_t offset);
int64_t mf_client_write(struct mf_vkernel *vk, uint64_t node, uint64_t fh, const void *buf, uint64_t length,
                        uint64_t offset);
int mf_client_release(struct mf_vkernel *vk, uint64_t node, uint64_t fh);
int mf_client_stat(struct mf_vkernel *vk, const char *path, struct mf_attr *out);
int mf_client_write_file(struct mf_vkernel *vk, const char *path, const void *data, uint64_t length, uint32_t mode);
int mf_client_mkdir(struct mf_vkernel *vk, const char *path, uint32_t mode);
int mf_client_symlink(struct mf_vkernel *vk, const char *path, const char *target);
int mf_client_mknod(struct mf_vkernel *vk, const char *path, uint32_t mode, uint32_t rdev);
int mf_client_link(struct mf_vkernel *vk, const char *path, const char *newpath);
int mf_client_unlink(struct mf_vkernel *vk, const char *path);
int mf_client_rmdir(struct mf_vkernel *vk, const char *path);
int mf_client_rename(struct mf_vkernel *vk, const char *path, const char *newpath, uint32_t flags);
int mf_client_truncate(struct mf_vkernel *vk, const char *path, uint64_t length);
int mf_client_chmod(struct mf_vkernel *vk, const char *path, uint32_t mode);
int mf_client_statfs(struct mf_vkernel *vk, struct mf_statfs *out);
int mf_client_access(struct mf_vkernel *vk, const char *path, uint32_t mask);
int mf_client_setxattr(struct mf_vkernel *vk, const char *path, const char *name, const void *value, uint64_t length,
                       uint32_t flags);
int64_t mf_client_getxattr(struct mf_vkernel *vk, const char *path, const char *name, void *buf, uint64_t length);
int64_t mf_client_listxattr(struct mf_vkernel *vk, const char *path, char *buf, uint64_t length);
int mf_client_removexattr(struct mf_vkernel *vk, const char *path, const char *name);

/*
 * By hand, in cgo (bindings/go/internal/raw/{session,trampoline}.go):
 *
 * - Structures of callbacks: SWIG's directors refuse C functions, so the upcall's trampolines and what is built
 *   around them are written out. Go has no use for typed C operations, which would be called through C twice.
 *     mf_session_new mf_session_new_upcall
 *     mf_session_from_fd_initialized mf_session_from_fd_initialized_upcall
 *     mf_main
 * - Options and command lines hold C strings that outlive the conversion of an argument.
 *     mf_session_opts_init mf_cmdline_parse mf_vkernel_new
 * - Arrays of descriptors, and lengths that go in and come out.
 *     mf_session_attach_fds
 *     mf_client_raw mf_client_wait mf_client_read_file mf_client_list mf_client_readlink
 * - Borrowed strings and memory, which SWIG would copy through malloc or forget the length of.
 *     mf_version mf_op_name mf_session_mountpoint mf_req_buffer
 * - The record of a request: Go has it from the upcall.
 *     mf_req_call mf_req_session
 */
