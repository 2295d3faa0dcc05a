/* SPDX-License-Identifier: MIT */
/* The public headers alone, as C99. What is compiled here is the test. */
#include <manifuse/manifuse.h>
#include <manifuse/testing.h>

/* Twice: the guards. */
#include <manifuse/manifuse.h>
#include <manifuse/testing.h>

int mf_header_c99(void);

int mf_header_c99(void)
{
    struct mf_session_opts opts = { 0 };
    struct mf_ops ops = { 0 };

    opts.size = (uint32_t)sizeof(opts);
    ops.size = (uint32_t)sizeof(ops);
    return opts.size != 0 && ops.size != 0 && MF_ROOT == 1 ? 0 : 1;
}
