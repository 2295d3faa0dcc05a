// SPDX-License-Identifier: MIT
// The public headers alone, as C++17. What is compiled here is the test.
#include <manifuse/manifuse.h>
#include <manifuse/testing.h>

#include <type_traits>

static_assert(std::is_standard_layout<mf_call>::value, "the call record is plain data");
static_assert(std::is_standard_layout<mf_session_opts>::value, "options are plain data");
static_assert(std::is_trivial<mf_negotiated>::value, "the negotiated terms may be copied as bytes");

extern "C" int mf_header_cxx17()
{
    mf_session_opts opts{};
    mf_ops ops{};

    opts.size = sizeof(opts);
    ops.size = sizeof(ops);
    return opts.size != 0 && ops.size != 0 && MF_ROOT == 1 ? 0 : 1;
}
