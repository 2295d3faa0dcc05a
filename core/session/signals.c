/* SPDX-License-Identifier: MIT */
/*
 * signals.c - the kick that wakes a reader out of read(2), and MF_OPT_SIGNALS.
 *
 * A blocking read costs the hot path nothing, where a poll of device and eventfd would cost a system call
 * per request and wake every reader. The kick is a real-time signal with an empty handler and no restart; it
 * is repeated until the reader has left, since the first one may come just before the read.
 */
#include <signal.h>
#include <stdint.h>
#include <string.h>

#include "session/session.h"

#define KICK (SIGRTMAX - 4)
#define MAX_WATCHED 16u

static pthread_once_t kick_once = PTHREAD_ONCE_INIT;

static void on_kick(int sig)
{
    (void)sig;
}

static void install_kick(void)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_kick;
    act.sa_flags = SA_ONSTACK; /* language runtimes have small thread stacks */
    sigaction(KICK, &act, NULL);
}

int mf__kick_install(void)
{
    pthread_once(&kick_once, install_kick);
    return KICK;
}

void mf__kick(struct mf__reader *r)
{
    struct mf__channel *rx = atomic_load(&r->rx);
    struct mf__own_ring *own = atomic_load(&r->own);

    if (own && mf__own_ring_wake(own))
        return;
    if (rx->ops->wake)
        rx->ops->wake(rx);
    else
        pthread_kill(r->thread, KICK);
}

/* ---- SIGINT, SIGTERM, SIGHUP --------------------------------------------------------------------- */

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP };
static struct mf_session *_Atomic watched[MAX_WATCHED];
static struct sigaction previous[MF__ARRAY_SIZE(end_signals)];
static pthread_mutex_t signal_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t watching;

static void on_end(int sig)
{
    int saved = errno;

    (void)sig;
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *s = atomic_load(&watched[i]);

        if (s)
            mf_session_stop(s);
    }
    errno = saved;
}

static void install_end(void)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_end;
    act.sa_flags = SA_ONSTACK | SA_RESTART;
    for (size_t i = 0; i < MF__ARRAY_SIZE(end_signals); i++) {
        sigaction(end_signals[i], &act, &previous[i]);
        /* What the parent chose to ignore (nohup) stays ignored. */
        if (previous[i].sa_handler == SIG_IGN)
            sigaction(end_signals[i], &previous[i], NULL);
    }
}

int mf__signals_on(struct mf_session *s)
{
    int rc = -EBUSY;

    pthread_mutex_lock(&signal_lock);
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *none = NULL;

        if (atomic_compare_exchange_strong(&watched[i], &none, s)) {
            rc = 0;
            break;
        }
    }
    if (rc == 0 && watching++ == 0)
        install_end();
    pthread_mutex_unlock(&signal_lock);
    return rc;
}

void mf__signals_off(struct mf_session *s)
{
    pthread_mutex_lock(&signal_lock);
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *it = s;

        if (!atomic_compare_exchange_strong(&watched[i], &it, NULL))
            continue;
        if (--watching == 0) {
            for (size_t n = 0; n < MF__ARRAY_SIZE(end_signals); n++)
                sigaction(end_signals[n], &previous[n], NULL);
        }
        break;
    }
    pthread_mutex_unlock(&signal_lock);
}
