/* SPDX-License-Identifier: MIT */
/* The public structures are where programs that were compiled before expect them. The compiler is the judge. */
#include <criterion/criterion.h>
#include <manifuse/manifuse.h>
#include <manifuse/testing.h>
#include <stdio.h>

#if UINTPTR_MAX == UINT64_MAX
#define SIZE(type, size) _Static_assert(sizeof(struct type) == (size), "size of " #type)
#define AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#include "layout.h"
#undef SIZE
#undef AT
#endif

/* Bindings pass enumerations as integers of this width. */
_Static_assert(sizeof(enum mf_op) == 4 && sizeof(enum mf_clone_mode) == 4 && sizeof(enum mf_acl) == 4 &&
                   sizeof(enum mf_uring_mode) == 4 && sizeof(enum mf_log_level) == 4,
               "enumerations are 32 bits wide");

/* Structures that cross a process boundary have no padding that could differ. */
_Static_assert(sizeof(struct mf_negotiated) == 10 * 4 + 3 * 8 + 4 * 4 + 8, "mf_negotiated has no holes");

Test(layout, version_is_one_and_the_same)
{
    char text[32];

    snprintf(text, sizeof(text), "%d.%d.%d", MF_VERSION_MAJOR, MF_VERSION_MINOR, MF_VERSION_PATCH);
    cr_assert_str_eq(text, MF_VERSION_STRING);
    cr_assert_str_eq(mf_version(), MF_VERSION_STRING);
}

Test(layout, operations_are_the_kernels_numbers)
{
    cr_assert_str_eq(mf_op_name(MF_OP_LOOKUP), "LOOKUP");
    cr_assert_str_eq(mf_op_name(MF_OP_READ), "READ");
    cr_assert_str_eq(mf_op_name(MF_OP_READDIRPLUS), "READDIRPLUS");
    cr_assert_null(mf_op_name(0));
    cr_assert_null(mf_op_name(7)); /* a hole in the kernel's list */
    cr_assert_null(mf_op_name(UINT32_MAX));
}
