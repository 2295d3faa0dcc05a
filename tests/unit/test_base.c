/* SPDX-License-Identifier: MIT */
/* test_base.c - regions, log lines, error texts, copies of structures that may grow. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

/* ---- regions --------------------------------------------------------------------------------------- */

Test(base, region_is_zeroed_whole_pages, .timeout = 10)
{
    struct mf__region r;

    cr_assert_eq(mf__region_new(&r, 5000), 0);
    cr_expect_eq(r.size % (size_t)sysconf(_SC_PAGESIZE), 0);
    cr_expect_geq(r.size, 5000);
    for (size_t i = 0; i < r.size; i++)
        cr_assert_eq(r.base[i], 0);
    memset(r.base, 7, r.size);
    mf__region_free(&r);
    cr_expect_null(r.base);
    cr_expect_eq(r.size, 0);
    mf__region_free(&r); /* twice is harmless */
}

Test(base, region_costs_only_what_is_touched, .timeout = 10)
{
    const size_t size = 64u << 20, page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *resident = calloc(size / page, 1);
    struct mf__region r;
    size_t n = 0;

    cr_assert_eq(mf__region_new(&r, size), 0);
    r.base[size / 2] = 1;
    cr_assert_eq(mincore(r.base, size, resident), 0);
    for (size_t i = 0; i < size / page; i++)
        n += resident[i] & 1;
    cr_expect_eq(n, 1, "%zu pages are resident after one byte was written", n);
    mf__region_free(&r);
    free(resident);
}

Test(base, region_refuses_impossible_sizes, .timeout = 10)
{
    struct mf__region r;

    cr_expect_eq(mf__region_new(&r, 0), -EINVAL);
    cr_expect_null(r.base);
    cr_expect_eq(mf__region_new(&r, SIZE_MAX), -EINVAL);
    cr_expect_eq(mf__region_new(&r, SIZE_MAX / 2), -ENOMEM);
    cr_expect_null(r.base);
    mf__region_free(&r);
}

/* ---- log lines ------------------------------------------------------------------------------------- */

struct heard {
    unsigned lines;
    uint32_t level;
    char text[2048];
};

static void hear(uint32_t level, const char *text, void *user)
{
    struct heard *h = user;

    h->lines++;
    h->level = level;
    snprintf(h->text, sizeof(h->text), "%s", text);
    errno = EDOM; /* whatever a sink does */
}

Test(base, log_passes_level_and_text, .timeout = 10)
{
    struct heard h = { 0 };
    struct mf__log log = { .sink = hear, .user = &h, .max_level = MF_LOG_INFO };

    errno = ENOENT;
    mf__logf(&log, MF_LOG_INFO, "reader %d of %s", 3, "x");
    cr_expect_eq(errno, ENOENT, "logging changed errno");
    cr_expect_eq(h.lines, 1);
    cr_expect_eq(h.level, MF_LOG_INFO);
    cr_expect_str_eq(h.text, "reader 3 of x");
    mf__logf(&log, MF_LOG_DEBUG, "too fine");
    cr_expect_eq(h.lines, 1, "a line beyond max_level was passed on");
    mf__logf(&log, MF_LOG_ERROR, "coarser");
    cr_expect_eq(h.lines, 2);
}

Test(base, log_cuts_long_lines, .timeout = 10)
{
    struct heard h = { 0 };
    struct mf__log log = { .sink = hear, .user = &h };

    mf__logf(&log, MF_LOG_ERROR, "%*s", 5000, "x");
    cr_expect_eq(strlen(h.text), 1023);
}

/* What a call to mf__logf() writes to standard error. */
static void catch_stderr(const struct mf__log *log, uint32_t level, const char *text, char *out, size_t size)
{
    int saved = dup(STDERR_FILENO), p[2];
    ssize_t n;

    cr_assert_eq(pipe(p), 0);
    dup2(p[1], STDERR_FILENO);
    close(p[1]);
    mf__logf(log, level, "%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    n = read(p[0], out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    close(p[0]);
}

Test(base, log_without_a_sink_is_standard_error, .timeout = 10)
{
    struct mf__log log = { .max_level = MF_LOG_DEBUG };
    char out[4096], longest[3000];

    catch_stderr(&log, MF_LOG_WARNING, "shared descriptor", out, sizeof(out));
    cr_expect_str_eq(out, "manifuse: warning: shared descriptor\n");
    catch_stderr(&log, MF_LOG_DEBUG, "fine", out, sizeof(out));
    cr_expect_str_eq(out, "manifuse: debug: fine\n");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    catch_stderr(&log, MF_LOG_ERROR, longest, out, sizeof(out));
    cr_expect_eq(strlen(out), strlen("manifuse: error: ") + 1023 + 1);
    cr_expect_eq(out[strlen(out) - 1], '\n', "a cut line has no end");
}

Test(base, log_defaults_to_errors_and_warnings, .timeout = 10)
{
    char out[4096];

    catch_stderr(NULL, MF_LOG_WARNING, "w", out, sizeof(out));
    cr_expect_str_eq(out, "manifuse: warning: w\n");
    catch_stderr(NULL, MF_LOG_INFO, "i", out, sizeof(out));
    cr_expect_str_eq(out, "");
}

/* ---- error texts ----------------------------------------------------------------------------------- */

Test(base, errorf_fills_code_and_text, .timeout = 10)
{
    struct mf_error err = { .size = sizeof(err) };

    cr_expect_eq(mf__errorf(&err, -ENOENT, "no '%s'", "/x"), -ENOENT);
    cr_expect_eq(err.code, -ENOENT);
    cr_expect_str_eq(err.text, "no '/x'");
    cr_expect_eq(err.size, sizeof(err));
}

Test(base, errorf_accepts_null, .timeout = 10)
{
    cr_expect_eq(mf__errorf(NULL, -EPERM, "nobody reads this"), -EPERM);
}

Test(base, errorf_cuts_what_is_too_long, .timeout = 10)
{
    struct mf_error err = { .size = sizeof(err) };

    mf__errorf(&err, -EINVAL, "%*s", 1000, "end");
    cr_expect_eq(strlen(err.text), sizeof(err.text) - 1);
}

Test(base, errorf_stays_within_the_callers_size, .timeout = 10)
{
    struct mf_error err;

    for (uint32_t size = 1; size < sizeof(err); size++) {
        memset(&err, 0x55, sizeof(err));
        err.size = size;
        cr_assert_eq(mf__errorf(&err, -EINVAL, "%*s", 1000, "end"), -EINVAL);
        for (size_t i = size < sizeof(err.size) ? sizeof(err.size) : size; i < sizeof(err); i++)
            cr_assert_eq(((unsigned char *)&err)[i], 0x55, "size %u: byte %zu was written", size, i);
        if (size >= offsetof(struct mf_error, text))
            cr_assert_eq(err.code, -EINVAL);
        if (size > offsetof(struct mf_error, text))
            cr_assert_eq(strlen(err.text), size - offsetof(struct mf_error, text) - 1);
    }
}

Test(base, errorf_serves_callers_newer_and_forgetful, .timeout = 10)
{
    struct mf_error err = { .size = 4096 };

    mf__errorf(&err, -EINVAL, "newer");
    cr_expect_str_eq(err.text, "newer");
    err.size = 0;
    mf__errorf(&err, -EINVAL, "forgot the size");
    cr_expect_str_eq(err.text, "forgot the size");
}

/* ---- copies ---------------------------------------------------------------------------------------- */

struct ours {
    uint32_t size, a;
    uint64_t b;
};
struct theirs {
    uint32_t size, a;
    uint64_t b, c;
};

Test(base, copy_of_the_same_size, .timeout = 10)
{
    struct ours src = { sizeof(src), 1, 2 }, dst;

    cr_assert_eq(mf__copy_sized(&dst, sizeof(dst), &src, 8), 0);
    cr_expect_eq(memcmp(&src, &dst, sizeof(src)), 0);
}

Test(base, copy_of_an_older_one_has_zeros, .timeout = 10)
{
    struct ours src = { 8, 1, 2 }, dst;

    memset(&dst, 0xff, sizeof(dst));
    cr_assert_eq(mf__copy_sized(&dst, sizeof(dst), &src, 8), 0);
    cr_expect_eq(dst.a, 1);
    cr_expect_eq(dst.b, 0, "a byte beyond the caller's size was read");
    cr_expect_eq(dst.size, sizeof(dst), "the copy is not of our size");
}

Test(base, copy_of_a_newer_one_needs_zeros, .timeout = 10)
{
    struct theirs src = { sizeof(src), 1, 2, 0 };
    struct ours dst;

    cr_assert_eq(mf__copy_sized(&dst, sizeof(dst), &src, 8), 0);
    cr_expect_eq(dst.b, 2);
    cr_expect_eq(dst.size, sizeof(dst));
    src.c = 1ull << 63;
    cr_expect_eq(mf__copy_sized(&dst, sizeof(dst), &src, 8), -E2BIG);
}

Test(base, copy_refuses_sizes_below_the_least, .timeout = 10)
{
    struct ours src = { 0, 1, 2 }, dst;

    for (src.size = 0; src.size < 8; src.size++)
        cr_expect_eq(mf__copy_sized(&dst, sizeof(dst), &src, 8), -EINVAL, "size %u", src.size);
    src.size = 3;
    cr_expect_eq(mf__copy_sized(&dst, sizeof(dst), &src, 0), -EINVAL);
}

/* ---- strerror -------------------------------------------------------------------------------------- */

Test(base, strerror_takes_either_sign, .timeout = 10)
{
    cr_expect_str_eq(mf__strerror(ENOENT), "No such file or directory");
    cr_expect_str_eq(mf__strerror(-ENOENT), "No such file or directory");
    cr_expect_str_eq(mf__strerror(123456), "Unknown error");
    cr_expect_str_eq(mf__strerror(INT32_MIN), "Unknown error");
    cr_expect_not_null(mf__strerror(0));
}

static void *ask_often(void *arg)
{
    int error = *(int *)arg;
    const char *first = mf__strerror(error);
    uintptr_t bad = 0;

    for (int i = 0; i < 10000; i++)
        bad |= (uintptr_t)(mf__strerror(error) != first);
    return (void *)bad;
}

Test(base, strerror_is_safe_in_threads, .timeout = 10)
{
    int errors[4] = { ENOENT, EPERM, EINVAL, 99999 };
    pthread_t threads[4];
    void *bad;

    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, ask_often, &errors[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &bad);
        cr_expect_null(bad);
    }
}
