/* SPDX-License-Identifier: MIT */
/* content.c - bytes of files, in chunks that exist once they were written. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int64_t store_read(const struct inode *i, void *buf, uint64_t length, uint64_t offset)
{
    uint8_t *to = buf;
    uint64_t done = 0;

    if (offset >= i->attr.size)
        return 0;
    length = least(length, i->attr.size - offset);
    while (done < length) {
        uint64_t at = offset + done;
        uint64_t n = least(length - done, CHUNK - at % CHUNK);
        const uint8_t *chunk = at / CHUNK < i->chunk_count ? i->chunks[at / CHUNK] : NULL;

        if (chunk)
            memcpy(to + done, chunk + at % CHUNK, n);
        else
            memset(to + done, 0, n);
        done += n;
    }
    return (int64_t)length;
}

/* The chunk with this number, made if need be. */
static int chunk_at(struct store *st, struct inode *i, size_t number, uint8_t **out)
{
    if (number >= i->chunk_count) {
        size_t count = number + 1 + number / 2;
        uint8_t **chunks = realloc(i->chunks, count * sizeof(*chunks));

        if (!chunks)
            return -ENOMEM;
        memset(chunks + i->chunk_count, 0, (count - i->chunk_count) * sizeof(*chunks));
        i->chunks = chunks;
        i->chunk_count = count;
    }
    if (!i->chunks[number]) {
        if (st->used + CHUNK > st->limit)
            return -ENOSPC;
        i->chunks[number] = calloc(1, CHUNK);
        if (!i->chunks[number])
            return -ENOMEM;
        st->used += CHUNK;
        i->attr.blocks += CHUNK / 512;
    }
    *out = i->chunks[number];
    return 0;
}

int64_t store_write(struct store *st, struct inode *i, const void *data, uint64_t length, uint64_t offset)
{
    const uint8_t *from = data;
    uint64_t done = 0;
    int rc = 0;

    if (offset > MAX_FILE || length > MAX_FILE - offset)
        return -EFBIG;
    while (done < length) {
        uint64_t at = offset + done;
        uint64_t n = least(length - done, CHUNK - at % CHUNK);
        uint8_t *chunk;

        rc = chunk_at(st, i, at / CHUNK, &chunk);
        if (rc < 0)
            break;
        memcpy(chunk + at % CHUNK, from + done, n);
        done += n;
    }
    if (done == 0 && rc < 0)
        return rc;
    if (offset + done > i->attr.size && done > 0)
        i->attr.size = offset + done;
    store_touch(i, true);
    return (int64_t)done;
}

int store_truncate(struct store *st, struct inode *i, uint64_t size)
{
    size_t keep = (size_t)((size + CHUNK - 1) / CHUNK);

    if (size > MAX_FILE)
        return -EFBIG;
    for (size_t n = keep; n < i->chunk_count; n++) {
        if (i->chunks[n]) {
            free(i->chunks[n]);
            i->chunks[n] = NULL;
            st->used -= CHUNK;
            i->attr.blocks -= CHUNK / 512;
        }
    }
    if (size < i->attr.size && size % CHUNK && keep <= i->chunk_count && i->chunks[keep - 1])
        memset(i->chunks[keep - 1] + size % CHUNK, 0, CHUNK - size % CHUNK); /* it may grow again */
    i->attr.size = size;
    return 0;
}
