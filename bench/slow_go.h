/* SPDX-License-Identifier: MIT */
/*
 * slow_go.h - the handlers of handlers/gobare under a loop without engine: the least that a server in Go can do. The
 * loop is a part of that program, which calls loop_main() with the loop's arguments, and bare_answer() for what
 * bare_defer() put off, on any thread.
 */
#ifndef SLOW_GO_H
#define SLOW_GO_H

#include <string.h>

#define main loop_main
int loop_main(int argc, char **argv);
void bare_answer(uintptr_t who, uint64_t unique, uint64_t length);

/* In Go. The node, 0 where there is none; how many bytes were read. */
extern uint64_t bare_lookup(const char *name, size_t length);
extern void bare_getattr(uint64_t node);
extern int64_t bare_read(uint64_t node, int64_t size);
extern void bare_defer(uintptr_t who, uint64_t unique, uint64_t length);

static slow_answer_fn *go_answer; /* one for all that are put off */

static void slow_begin(void)
{
    slow_timers();
}

static void slow_defer(slow_answer_fn *answer, void *who, uint64_t unique, uint64_t length)
{
    go_answer = answer;
    bare_defer((uintptr_t)who, unique, length);
}

void bare_answer(uintptr_t who, uint64_t unique, uint64_t length)
{
    go_answer((void *)who, unique, length);
}

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    int rc;

    if (opcode == FUSE_LOOKUP)
        return null_entry(node, bare_lookup(name, strlen(name)), body);
    rc = null_answer(opcode, node, args, name, body);
    if (opcode == FUSE_GETATTR)
        bare_getattr(node);
    else if (opcode == FUSE_READ && !slow_is_deferred(opcode, node))
        rc = (int)bare_read(node, rc);
    return rc;
}

#endif
