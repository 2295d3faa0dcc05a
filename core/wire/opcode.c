/* SPDX-License-Identifier: MIT */
/* opcode.c - opcode.def as a table. */
#include "wire/wire.h"

/* clang-format off */
#define MF__OPCODE(nr, op, minor, size, least, strings, kind, number, flags)                   \
    [nr] = { .name = #op, .known = 1, .since = (minor), .args_size = (size), .args_least = (least), \
             .names = (strings), .reply = MF__REPLY_##kind, .slot = (number), .props = (flags) },
const struct mf__opcode mf__opcodes[MF__OPCODES] = {
#include "wire/opcode.def"
};
#undef MF__OPCODE

/* The table against kernel.h, and the limits of what holds its numbers: bits of a 64-bit set, op_in of a ring. */
#define MF__OPCODE(nr, op, minor, size, least, strings, kind, number, flags)                   \
    _Static_assert(FUSE_##op == (nr) && (nr) < MF__OPCODES && (number) < 64, #op);             \
    _Static_assert((size) <= FUSE_URING_OP_IN_OUT_SZ && (least) <= (size), #op " arguments");
#include "wire/opcode.def"
#undef MF__OPCODE
/* clang-format on */

/* Whatever a newer kernel asks, it is owed an answer. */
const struct mf__opcode mf__no_opcode = { .name = "?", .reply = MF__REPLY_EMPTY };
