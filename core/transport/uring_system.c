/* SPDX-License-Identifier: MIT */
/* uring_system.c - the io_uring calls of the real kernel, behind struct mf__uring_sys. */
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/syscall.h>
#endif

#include "transport/ring.h"
#include "wire/uring.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
static uint32_t system_queues(void *kernel)
{
    FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
    unsigned first = 0, last = 0;
    int n;

    (void)kernel;
    if (!file)
        return 0;
    n = fscanf(file, "%u-%u", &first, &last);
    fclose(file);
    if (n == 1)
        last = first;
    return n < 1 || first != 0 ? 0 : last + 1;
}

static int system_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    long rc = syscall(MF__SYS_IO_URING_SETUP, entries, p);

    (void)kernel;
    return rc < 0 ? -errno : (int)rc;
}

static int system_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    long rc = syscall(MF__SYS_IO_URING_ENTER, fd, submit, wait, flags, NULL, 0);

    (void)kernel;
    return rc < 0 ? -errno : (int)rc;
}

static int system_attach(void *kernel, int fd, struct mf__channel *device)
{
    int32_t file = device->fd;

    (void)kernel;
    return syscall(MF__SYS_IO_URING_REGISTER, fd, MF__URING_REGISTER_FILES, &file, 1) < 0 ? -errno : 0;
}

static int system_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);

    (void)kernel;
    if (base == MAP_FAILED)
        return -errno;
    /* A child that does not exec would keep the ring, and with it the mount, alive. */
    madvise(base, size, MADV_DONTFORK);
    *out = base;
    return 0;
}

void mf__uring_keep_from_children(const struct mf__region *region)
{
    /* A forked child must not share pages that the kernel writes to: they would be copied under its feet. */
    if (region->base)
        madvise(region->base, region->size, MADV_DONTFORK);
}

#else

static uint32_t system_queues(void *kernel)
{
    (void)kernel;
    return 0;
}

static int system_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    (void)kernel;
    (void)entries;
    (void)p;
    return -ENOSYS;
}

static int system_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    (void)kernel;
    (void)fd;
    (void)submit;
    (void)wait;
    (void)flags;
    return -ENOSYS;
}

static int system_attach(void *kernel, int fd, struct mf__channel *device)
{
    (void)kernel;
    (void)fd;
    (void)device;
    return -ENOSYS;
}

static int system_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    (void)kernel;
    (void)fd;
    (void)size;
    (void)offset;
    (void)out;
    return -ENOSYS;
}

void mf__uring_keep_from_children(const struct mf__region *region)
{
    (void)region;
}

#endif

static void system_unmap(void *kernel, void *base, size_t size)
{
    (void)kernel;
    munmap(base, size);
}

static void system_close(void *kernel, int fd)
{
    (void)kernel;
    close(fd);
}

static bool system_over(void *kernel, struct mf__channel *device)
{
    struct pollfd p = { .fd = device->fd };

    (void)kernel;
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

const struct mf__uring_sys mf__uring_system = {
    .queues = system_queues,
    .setup = system_setup,
    .enter = system_enter,
    .attach = system_attach,
    .map = system_map,
    .unmap = system_unmap,
    .close = system_close,
    .over = system_over,
};
