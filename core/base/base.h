/* SPDX-License-Identifier: MIT */
/* base.h - what every part of the core uses: memory that the kernel writes to, logging, error texts. */
#ifndef MF_BASE_H
#define MF_BASE_H

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <manifuse/types.h>

#define MF__CACHE_LINE 64u
#define MF__PAGE 4096u /* the protocol's unit, whatever the machine's page size is */
#define MF__ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MF__CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Between two looks at what another thread is about to change. */
#if defined(__x86_64__) || defined(__i386__)
#define MF__RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define MF__RELAX() __asm__ volatile("yield")
#else
#define MF__RELAX() atomic_signal_fence(memory_order_seq_cst)
#endif

/* Seldom called: kept out of the way of what runs for each request, as are the branches that lead there. */
#define MF__COLD __attribute__((cold, noinline))
/* What leads to a system call: while another task runs the processor forgets where functions return to. */
#define MF__FLAT inline __attribute__((always_inline))

static inline uint64_t mf__round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Where one thread at a time counts, and any may read: plain arithmetic. */
static inline void mf__count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* In pieces, since of a longer memset() compilers make one microcoded instruction: slow for less than some hundred bytes. */
static inline void mf__zero(void *dst, size_t n)
{
    uint8_t *p = dst;

    for (; n >= 64; n -= 64, p += 64)
        memset(p, 0, 64);
    memset(p, 0, n);
}

/*
 * Memory that the kernel writes requests to and reads answers from. One allocator for all of it, so that it
 * can become a shared object that outlives the process. Untouched pages cost nothing.
 */
struct mf__region {
    uint8_t *base;
    size_t size;
};
int mf__region_new(struct mf__region *out, size_t size);
void mf__region_free(struct mf__region *region);

/* A condition whose limits follow the monotonic clock. */
void mf__cond_init(pthread_cond_t *cond);
/* At most `ns`. false: nobody signalled. */
bool mf__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns);

struct mf__log {
    void (*sink)(uint32_t level, const char *text, void *user); /* NULL = standard error */
    void *user;
    uint32_t max_level;
};

/* Formats one line, truncated to 1 KiB, without a newline at its end. */
__attribute__((format(printf, 3, 4))) void mf__logf(const struct mf__log *log, uint32_t level, const char *fmt, ...);

/* Fill `err` (NULL is accepted) and return `code`, a negative errno. The text is cut where it is too long. */
__attribute__((format(printf, 3, 4))) int mf__errorf(struct mf_error *err, int code, const char *fmt, ...);

/*
 * Copy a structure whose first field is its size from a caller that may be older or newer than the library:
 * what it lacks becomes 0, what we lack must be 0. -EINVAL: size below `least`; -E2BIG: a tail that is not 0.
 */
int mf__copy_sized(void *dst, size_t dst_size, const void *src, size_t least);

/* strerror() that is safe in threads and needs no buffer of the caller's. */
const char *mf__strerror(int error);

#endif
