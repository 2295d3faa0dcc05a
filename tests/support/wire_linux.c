/* SPDX-License-Identifier: MIT */
#include "wire_linux.h"

#include <sys/ioctl.h>

#if defined(__has_include)
#if __has_include(<linux/fuse.h>)
#include <linux/fuse.h>
#endif
#endif

#if defined(FUSE_KERNEL_MINOR_VERSION) && FUSE_KERNEL_MINOR_VERSION >= 38
static const struct wire_number numbers[] = {
#define STRUCT WIRE_STRUCT
#define FIELD WIRE_FIELD
#define VALUE WIRE_VALUE
#define STRUCT_NEW(name, size)
#define FIELD_NEW(name, field, offset, size)
#define VALUE_NEW(name, value)
#include "wire_layout.h"
};

const struct wire_number *wire_linux_numbers(size_t *count)
{
    *count = sizeof(numbers) / sizeof(numbers[0]);
    return numbers;
}
#else
const struct wire_number *wire_linux_numbers(size_t *count)
{
    *count = 0;
    return NULL;
}
#endif
