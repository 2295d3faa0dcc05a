/* SPDX-License-Identifier: MIT */
/* channels.c - which descriptors a session reads, and a reader for each. */
#include <stdio.h>
#include <unistd.h>

#include "session/session.h"

#define AUTO_READERS_MAX 8u

/* How many readers the options ask for. */
uint32_t mf__reader_target(const struct mf_session *s)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = s->opts.readers;

    if (n == 0) {
        /* Two at least: one handler that waits shall not stop the mount. */
        n = cpus < 2 ? 2 : (uint32_t)cpus;
        if (n > AUTO_READERS_MAX)
            n = AUTO_READERS_MAX;
    }
    return n < s->channel_count ? s->channel_count : n;
}

int mf__channels_add(struct mf_session *s, struct mf__channel *ch)
{
    if (s->channel_count == MF__MAX_READERS)
        return -EMFILE;
    ch->index = s->channel_count;
    s->channels[s->channel_count++] = ch;
    s->channels_had = s->channel_count;
    return 0;
}

static void note_clone_failure(struct mf_session *s, uint32_t reader, int rc)
{
    if (!s->clone_error) {
        s->clone_error = (uint32_t)-rc;
        snprintf(s->clone_reason, sizeof(s->clone_reason), "clone for reader %u failed: %s", reader, mf__strerror(-rc));
    }
    mf__logf(&s->log, MF_LOG_WARNING, "no clone of the device for reader %u (%s): it shares descriptor %d", reader,
             mf__strerror(-rc), s->channels[0]->fd);
}

/* Clone until there is a channel for each reader, or cloning fails: then the rest shares the first one. */
int mf__channels_clone(struct mf_session *s, uint32_t readers, struct mf_error *err)
{
    if (s->opts.clone_fd == MF_CLONE_OFF) {
        snprintf(s->clone_reason, sizeof(s->clone_reason), "%s", readers > 1 ? "cloning is off by option" : "");
        return 0;
    }
    while (s->channel_count < readers) {
        struct mf__channel *ch;
        int rc = s->channels[0]->ops->clone(s->channels[0], &ch);

        if (rc == 0) {
            rc = mf__channels_add(s, ch);
            if (rc < 0)
                mf__channel_put(ch);
        }
        if (rc == 0)
            continue;
        note_clone_failure(s, s->channel_count, rc);
        if (s->opts.clone_fd == MF_CLONE_REQUIRE)
            return mf__errorf(err, rc,
                              "cannot clone the device for reader %u: %s; --clone auto would share one descriptor",
                              s->channel_count, mf__strerror(-rc));
        return 0;
    }
    return 0;
}

int mf__readers_make(struct mf_session *s, uint32_t count)
{
    struct mf__reader *r;
    int rc = 0;

    for (uint32_t i = atomic_load(&s->reader_count); i < count && rc == 0; i++)
        rc = mf__reader_add(s, false, &r);
    return rc;
}

/* The channel of the next reader: its own where there is one or cloning makes one, else the shared first. */
static struct mf__channel *channel_for(struct mf_session *s, uint32_t index, bool own, int *rc)
{
    struct mf__channel *ch = NULL;

    *rc = 0;
    if (index < s->channel_count)
        return s->channels[index];
    if (own && s->opts.clone_fd != MF_CLONE_OFF) {
        *rc = s->channels[0]->ops->clone(s->channels[0], &ch);
        if (*rc == 0 && mf__channels_add(s, ch) == 0)
            return ch;
        if (*rc == 0) {
            mf__channel_put(ch);
            *rc = -EMFILE;
        }
        if (s->opts.clone_fd == MF_CLONE_REQUIRE)
            return NULL;
        if (!s->clone_error)
            note_clone_failure(s, index, *rc);
        *rc = 0;
    }
    return s->channels[0];
}

int mf__reader_add(struct mf_session *s, bool own_channel, struct mf__reader **out)
{
    uint32_t index = atomic_load(&s->reader_count);
    struct mf__channel *ch;
    int rc;

    if (index == MF__MAX_READERS)
        return -EMFILE;
    ch = channel_for(s, index, own_channel, &rc);
    if (!ch)
        return rc;
    rc = mf__reader_new(s, ch, &s->readers[index]);
    if (rc < 0)
        return rc;
    *out = s->readers[index];
    atomic_store_explicit(&s->reader_count, index + 1, memory_order_release);
    return 0;
}

void mf__channels_close(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->channel_count; i++)
        mf__channel_put(s->channels[i]);
    s->channel_count = 0;
}
