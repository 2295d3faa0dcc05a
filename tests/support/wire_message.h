/* SPDX-License-Identifier: MIT */
/* wire_message.h - requests as a kernel would write them, for tests. */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_UNIQUE 0x1112131415161718ull
#define WIRE_NODE 0x2122232425262728ull
#define WIRE_UID 1001u
#define WIRE_GID 1002u
#define WIRE_PID 1003u

/* A message that grows by what is added to it; the header's len follows. */
struct wire {
    uint8_t bytes[16384];
    size_t len;
    size_t args_len; /* of it, the fixed structure */
    size_t ext_len;  /* of it, the extension area */
};

void wire_start(struct wire *w, uint32_t opcode);
void wire_args(struct wire *w, const void *args, size_t len);
void wire_data(struct wire *w, const void *data, size_t len);
void wire_name(struct wire *w, const char *name);           /* with its NUL */
void wire_ext(struct wire *w, const void *ext, size_t len); /* after everything else; a multiple of 8 */
void wire_header(struct wire *w, uint64_t unique, uint64_t node);

/* A well-formed message with every field different. false: there is no such opcode. */
bool wire_sample(struct wire *w, uint32_t opcode);

/*
 * The first `len` bytes in memory that ends with them, `shift` bytes behind a 16-byte boundary, with the header
 * saying that this is all. Free with wire_free().
 */
uint8_t *wire_heap(const struct wire *w, size_t len, size_t shift);
void wire_free(uint8_t *message, size_t shift);

/* The same message in the two buffers of a ring entry, both from malloc(). */
void wire_ring(const struct wire *w, void **header, void **payload, size_t *payload_len);

#endif
