/* SPDX-License-Identifier: MIT */
/* error.c - what went wrong, in words. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"

/* The structure has never been smaller, so that a caller who forgot `size` still gets his text. */
#define ERROR_SIZE_0_1 512u

_Static_assert(sizeof(struct mf_error) >= ERROR_SIZE_0_1, "struct mf_error only grows");

int mf__errorf(struct mf_error *err, int code, const char *fmt, ...)
{
    size_t size, room;
    va_list ap;

    if (!err)
        return code;
    size = err->size ? err->size : ERROR_SIZE_0_1;
    if (size > sizeof(*err))
        size = sizeof(*err);
    if (size < offsetof(struct mf_error, text))
        return code;
    err->code = code;
    room = size - offsetof(struct mf_error, text);
    if (!room)
        return code;
    va_start(ap, fmt);
    if (vsnprintf(err->text, room, fmt, ap) < 0)
        err->text[0] = '\0';
    va_end(ap);
    return code;
}

/* On its own line: other C libraries lack the macro, and then the whole condition would not parse. */
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 32)
#define HAVE_STRERRORDESC 1
#endif
#endif

#ifdef HAVE_STRERRORDESC
static const char *describe(int error)
{
    return strerrordesc_np(error);
}
#elif defined(__linux__)
/* The other C libraries of Linux return constant strings from strerror(). */
static const char *describe(int error)
{
    return strerror(error);
}
#else
/* Those that setting up a session meets; strerror() may use one buffer for all threads here. */
static const char *describe(int error)
{
    static const struct {
        int error;
        const char *text;
    } known[] = {
        { 0, "Success" },
        { EPERM, "Operation not permitted" },
        { ENOENT, "No such file or directory" },
        { EINTR, "Interrupted system call" },
        { EIO, "Input/output error" },
        { E2BIG, "Argument list too long" },
        { EBADF, "Bad file descriptor" },
        { EAGAIN, "Resource temporarily unavailable" },
        { ENOMEM, "Cannot allocate memory" },
        { EACCES, "Permission denied" },
        { EBUSY, "Device or resource busy" },
        { EEXIST, "File exists" },
        { ENODEV, "No such device" },
        { ENOTDIR, "Not a directory" },
        { EISDIR, "Is a directory" },
        { EINVAL, "Invalid argument" },
        { EMFILE, "Too many open files" },
        { ENOTTY, "Inappropriate ioctl for device" },
        { ENOSPC, "No space left on device" },
        { ERANGE, "Numerical result out of range" },
        { ENAMETOOLONG, "File name too long" },
        { ENOSYS, "Function not implemented" },
        { ELOOP, "Too many levels of symbolic links" },
        { EPROTO, "Protocol error" },
        { ENOTSUP, "Operation not supported" },
        { ENOTCONN, "Transport endpoint is not connected" },
        { ECONNABORTED, "Software caused connection abort" },
        { ETIMEDOUT, "Connection timed out" },
        { EALREADY, "Operation already in progress" },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(known); i++)
        if (known[i].error == error)
            return known[i].text;
    return NULL;
}
#endif

const char *mf__strerror(int error)
{
    const char *text;

    if (error < 0 && error != INT32_MIN)
        error = -error;
    text = describe(error);
    return text ? text : "Unknown error";
}
