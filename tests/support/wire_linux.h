/* SPDX-License-Identifier: MIT */
/* wire_linux.h - what the system's own header says, from a translation unit that does not see ours. */
#ifndef WIRE_LINUX_H
#define WIRE_LINUX_H

#include <stddef.h>
#include <stdint.h>

struct wire_number {
    const char *what;
    uint64_t value;
};

/* Sizes, offsets, widths and values in the order of wire_layout.h. NULL: no header, or one before 7.38. */
const struct wire_number *wire_linux_numbers(size_t *count);

/* One structure's, field's or value's rows of such a table. */
#define WIRE_STRUCT(name, size) { "sizeof " #name, sizeof(struct name) },
#define WIRE_FIELD(name, field, offset, size)                        \
    { "offset of " #name "." #field, offsetof(struct name, field) }, \
        { "sizeof " #name "." #field, sizeof(((struct name *)0)->field) },
#define WIRE_VALUE(name, value) { #name, (uint64_t)(name) },

#endif
