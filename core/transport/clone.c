/* SPDX-License-Identifier: MIT */
/* clone.c - further descriptors of a connection, and what the system tells about one. Linux only. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transport/transport.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define FUSE_DEVICE_MAJOR 10u /* "misc" */
#define FUSE_DEVICE_MINOR 229u

int mf__clone_fd(int fd, int *out)
{
    uint32_t master = (uint32_t)fd;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    int rc;

    if (clone < 0)
        return -errno;
    if (ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
        rc = -errno;
        close(clone);
        return rc;
    }
    *out = clone;
    return 0;
}

int mf__is_fuse_fd(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISCHR(st.st_mode) || major(st.st_rdev) != FUSE_DEVICE_MAJOR || minor(st.st_rdev) != FUSE_DEVICE_MINOR)
        return -ENOTTY;
    return 1;
}

uint64_t mf__connection_number(int fd)
{
    char path[64];
    char line[128];
    unsigned long long number = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    file = fopen(path, "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "fuse_connection: %llu", &number) == 1)
            break;
    }
    fclose(file);
    return number;
}

#else

int mf__clone_fd(int fd, int *out)
{
    (void)fd;
    (void)out;
    return -ENOTSUP;
}

int mf__is_fuse_fd(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    return S_ISCHR(st.st_mode) ? 1 : -ENOTTY;
}

uint64_t mf__connection_number(int fd)
{
    (void)fd;
    return 0;
}

#endif
