/* SPDX-License-Identifier: MIT */
/* registry.c - all sessions of this process: several may share a connection, and a forked child drops them. */
#include <unistd.h>

#include "session/session.h"

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mf_session *sessions;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&registry_lock);
}

/*
 * The child must not keep its parent's connections alive, nor act on its mounts. Only async-signal-safe
 * calls here: the child of a program with threads may do no more.
 */
static void after_fork_child(void)
{
    for (struct mf_session *s = sessions; s; s = s->next) {
        for (uint32_t i = 0; i < s->channel_count; i++) {
            if (s->channels[i]->fd >= 0)
                close(s->channels[i]->fd);
            s->channels[i]->fd = -1;
        }
        for (uint32_t i = 0; i < s->ring_count; i++)
            mf__ring_close_inherited(s->rings[i]);
        if (s->mount.helper_sock >= 0)
            close(s->mount.helper_sock);
        s->mount.helper_sock = -1;
    }
    sessions = NULL;
    pthread_mutex_unlock(&registry_lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

int mf__registry_add(struct mf_session *s)
{
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&registry_lock);
    s->next = sessions;
    sessions = s;
    pthread_mutex_unlock(&registry_lock);
    return 0;
}

void mf__registry_remove(struct mf_session *s)
{
    pthread_mutex_lock(&registry_lock);
    for (struct mf_session **p = &sessions; *p; p = &(*p)->next) {
        if (*p == s) {
            *p = s->next;
            break;
        }
    }
    pthread_mutex_unlock(&registry_lock);
}

int mf__registry_each(struct mf_session *self, int (*fn)(struct mf_session *s, void *arg), void *arg)
{
    int rc = fn(self, arg);

    if (rc || self->terms.connection == 0)
        return rc;
    pthread_mutex_lock(&registry_lock);
    for (struct mf_session *s = sessions; s && !rc; s = s->next) {
        if (s != self && s->terms.connection == self->terms.connection)
            rc = fn(s, arg);
    }
    pthread_mutex_unlock(&registry_lock);
    return rc;
}

static bool reads_for(struct mf_session *s, uint32_t tid)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->tid) == tid)
            return true;
    }
    return false;
}

bool mf__registry_has_reader(uint32_t tid)
{
    bool found = false;

    pthread_mutex_lock(&registry_lock);
    for (struct mf_session *s = sessions; s && !found; s = s->next)
        found = reads_for(s, tid);
    pthread_mutex_unlock(&registry_lock);
    return found;
}
