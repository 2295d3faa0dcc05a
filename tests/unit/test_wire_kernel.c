/* SPDX-License-Identifier: MIT */
/* kernel.h against the numbers of the protocol, and against the system's older header where there is one. */
#include <criterion/criterion.h>

#include "wire/wire.h"
#include "wire_linux.h"

static const struct wire_number ours[] = {
#define STRUCT WIRE_STRUCT
#define FIELD WIRE_FIELD
#define VALUE WIRE_VALUE
#define STRUCT_NEW WIRE_STRUCT
#define FIELD_NEW WIRE_FIELD
#define VALUE_NEW WIRE_VALUE
#include "wire_layout.h"
#undef STRUCT
#undef FIELD
#undef VALUE
#undef STRUCT_NEW
#undef FIELD_NEW
#undef VALUE_NEW
};

static const uint64_t table[] = {
#define STRUCT(name, size) size,
#define FIELD(name, field, offset, size) offset, size,
#define VALUE(name, value) value,
#define STRUCT_NEW STRUCT
#define FIELD_NEW FIELD
#define VALUE_NEW VALUE
#include "wire_layout.h"
#undef STRUCT
#undef FIELD
#undef VALUE
#undef STRUCT_NEW
#undef FIELD_NEW
#undef VALUE_NEW
};

/* The part of ours that the older header has, in the same order as its own. */
static const struct wire_number shared[] = {
#define STRUCT WIRE_STRUCT
#define FIELD WIRE_FIELD
#define VALUE WIRE_VALUE
#define STRUCT_NEW(name, size)
#define FIELD_NEW(name, field, offset, size)
#define VALUE_NEW(name, value)
#include "wire_layout.h"
};

Test(wire_kernel, numbers_are_those_of_the_protocol)
{
    cr_assert_eq(MF__ARRAY_SIZE(ours), MF__ARRAY_SIZE(table));
    cr_assert_geq(MF__ARRAY_SIZE(ours), 76 + 2 * 315 + 171u);
    for (size_t i = 0; i < MF__ARRAY_SIZE(ours); i++)
        cr_expect_eq(ours[i].value, table[i], "%s is %llu, not %llu", ours[i].what, (unsigned long long)ours[i].value,
                     (unsigned long long)table[i]);
}

Test(wire_kernel, numbers_are_those_of_the_systems_header)
{
    size_t count;
    const struct wire_number *theirs = wire_linux_numbers(&count);

    if (!theirs)
        cr_skip_test("no <linux/fuse.h> of 7.38 or later");
    cr_assert_eq(count, MF__ARRAY_SIZE(shared));
    for (size_t i = 0; i < count; i++) {
        cr_assert_str_eq(theirs[i].what, shared[i].what);
        cr_expect_eq(theirs[i].value, shared[i].value, "%s", shared[i].what);
    }
}

Test(wire_kernel, init_flags_are_64_bits_wide)
{
    cr_expect_eq(FUSE_OVER_IO_URING, 1ull << 41);
    cr_expect_eq(sizeof(FUSE_ASYNC_READ), sizeof(uint64_t), "~FUSE_ASYNC_READ must keep the high word");
    cr_expect_eq(~FUSE_INIT_EXT >> 32, 0xffffffffu);
}
