/* SPDX-License-Identifier: MIT */
/*
 * uring.h - the part of the io_uring system calls that the ring transport uses, as numbers and offsets: an
 * extension module must build where the system's headers are older than its kernel.
 */
#ifndef MF_WIRE_URING_H
#define MF_WIRE_URING_H

#include <stdint.h>

#define MF__SYS_IO_URING_SETUP 425 /* the same on every architecture */
#define MF__SYS_IO_URING_ENTER 426
#define MF__SYS_IO_URING_REGISTER 427

#define MF__URING_SETUP_CQSIZE (1u << 3)
#define MF__URING_SETUP_SQE128 (1u << 10)
#define MF__URING_ENTER_GETEVENTS 1u
#define MF__URING_REGISTER_FILES 2u
#define MF__URING_OP_NOP 0u
#define MF__URING_OP_MSG_RING 40u /* 5.18: completes on the ring `fd`, with the user_data that is in `offset` */
#define MF__URING_OP_URING_CMD 46u
#define MF__URING_FIXED_FILE 1u    /* sqe.flags */
#define MF__URING_SKIP_SUCCESS 64u /* likewise: only a failure completes here */
#define MF__URING_OFF_SQES 0x10000000

/* 7.46, not negotiated: a queue's pool of payloads, told before its first entry. Layout of the command's area. */
#define MF__FUSE_ADD_BUFPOOL 4u
struct mf__fuse_bufpool {
    uint64_t address;
    uint32_t length; /* whole payloads */
    uint16_t queue;
    uint16_t pad;
};

#define MF__SQE_SIZE 128u
#define MF__CQE_SIZE 16u

/* A 128-byte submission entry for IORING_OP_URING_CMD, as far as it is used. */
struct mf__sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd; /* or the index of a fixed file */
    union {
        uint64_t offset;
        struct {
            uint32_t cmd_op, pad1;
        };
    };
    uint64_t addr;
    uint32_t len;
    uint32_t cmd_flags;
    uint64_t user_data;
    uint64_t pad2;
    uint8_t cmd[80];
};
_Static_assert(sizeof(struct mf__sqe) == MF__SQE_SIZE, "sqe");

struct mf__cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};
_Static_assert(sizeof(struct mf__cqe) == MF__CQE_SIZE, "cqe");

struct mf__uring_offsets {
    uint32_t head, tail, ring_mask, ring_entries;
    uint32_t a, b, c, d; /* submission: flags, dropped, array; completion: overflow, cqes, flags */
    uint64_t user_addr;
};

struct mf__uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct mf__uring_offsets sq; /* c = array */
    struct mf__uring_offsets cq; /* b = cqes */
};
_Static_assert(sizeof(struct mf__uring_params) == 120, "io_uring_params");

#endif
