/* SPDX-License-Identifier: MIT */
/* alloc.c - memory that the kernel writes to, and copies of structures that may grow. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#ifdef MAP_NORESERVE
#define UNTOUCHED_IS_FREE MAP_NORESERVE
#else
#define UNTOUCHED_IS_FREE 0
#endif

int mf__region_new(struct mf__region *out, size_t size)
{
    long page = sysconf(_SC_PAGESIZE);
    uint64_t unit = page > 0 ? (uint64_t)page : MF__PAGE;
    void *base;

    out->base = NULL;
    out->size = 0;
    if (!size || size > SIZE_MAX - unit)
        return -EINVAL;
    size = (size_t)mf__round_up(size, unit);
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | UNTOUCHED_IS_FREE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
#ifdef MADV_NOHUGEPAGE
    /* One touched byte would else cost 2 MiB; that the advice is refused (no THP at all) is as good. */
    (void)madvise(base, size, MADV_NOHUGEPAGE);
#endif
    out->base = base;
    out->size = size;
    return 0;
}

void mf__region_free(struct mf__region *region)
{
    if (region->base)
        munmap(region->base, region->size);
    region->base = NULL;
    region->size = 0;
}

int mf__copy_sized(void *dst, size_t dst_size, const void *src, size_t least)
{
    const uint8_t *from = src;
    uint32_t size, known = (uint32_t)dst_size;

    memcpy(&size, from, sizeof(size));
    if (size < least || size < sizeof(size))
        return -EINVAL;
    for (size_t i = dst_size; i < size; i++)
        if (from[i])
            return -E2BIG;
    if (size < dst_size)
        memset(dst, 0, dst_size);
    memcpy(dst, from, size < dst_size ? size : dst_size);
    /* The copy is of our version, whatever the original was. */
    memcpy(dst, &known, sizeof(known));
    return 0;
}
