/* SPDX-License-Identifier: MIT */
#include "fs_rig.h"

#include <string.h>

/* ---- what the session calls ---------------------------------------------------------------------- */

static void log_line(uint32_t level, const char *text, void *user)
{
    struct fs_rig *rig = user;
    size_t n = strlen(text);

    (void)level;
    pthread_mutex_lock(&rig->lock);
    if (rig->log_len + n + 2 < sizeof(rig->log)) {
        memcpy(rig->log + rig->log_len, text, n);
        rig->log_len += n;
        rig->log[rig->log_len++] = '\n';
        rig->log[rig->log_len] = '\0';
    }
    pthread_mutex_unlock(&rig->lock);
}

_Thread_local bool fs_entered;

static int32_t upcall(struct mf_call *call, void *user)
{
    struct fs_rig *rig = user;
    int32_t rc;

    fs_entered = rig->keeps;
    atomic_fetch_add(&rig->calls, 1);
    atomic_fetch_add(&rig->inside, 1);
    rc = rig->script ? rig->script(call, rig) : FS_DEFAULT;
    if (rc == FS_DEFAULT)
        rc = fs_answer(call, &rig->gate);
    atomic_fetch_sub(&rig->inside, 1); /* not where the thread is cancelled */
    return rc;
}

static void leave(void *user)
{
    struct fs_rig *rig = user;

    cr_expect(fs_entered, "left what was not entered");
    fs_entered = false;
    atomic_fetch_add(&rig->left, 1);
}

static void reader_start(struct mf_session *s, uint32_t reader, void *user)
{
    struct fs_rig *rig = user;

    (void)s;
    (void)reader;
    atomic_fetch_add(&rig->started, 1);
}

static void reader_end(struct mf_session *s, uint32_t reader, void *user)
{
    struct fs_rig *rig = user;

    (void)s;
    (void)reader;
    cr_expect_not(fs_entered, "a reader ends in the language");
    atomic_fetch_add(&rig->ended, 1);
}

static void destroy(void *user)
{
    struct fs_rig *rig = user;

    rig->destroyer = pthread_self();
    rig->inside_at_destroy = atomic_load(&rig->inside);
    atomic_fetch_add(&rig->destroyed, 1);
}

static void interrupted(struct mf_session *s, uint64_t id, void *user)
{
    struct fs_rig *rig = user;

    (void)s;
    atomic_store(&rig->interrupted_id, id);
    atomic_fetch_add(&rig->interrupts, 1);
}

/* ---- life ---------------------------------------------------------------------------------------- */

void fs_init(struct fs_rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    pthread_mutex_init(&rig->lock, NULL);
    fs_gate_init(&rig->gate);
    mf_session_opts_init(&rig->opts, sizeof(rig->opts));
    rig->opts.readers = 1;
    rig->opts.log = log_line;
    rig->opts.log_user = rig;
    rig->kernel.size = sizeof(rig->kernel);
    rig->implemented = fs_operations();
}

void fs_make(struct fs_rig *rig)
{
    struct mf_upcall_ops ops = { .size = sizeof(ops),
                                 .implemented = rig->implemented,
                                 .upcall = upcall,
                                 .reader_start = reader_start,
                                 .reader_end = reader_end,
                                 .destroy = destroy,
                                 .interrupted = interrupted,
                                 .leave = rig->keeps ? leave : NULL };
    struct mf_error err = { .size = sizeof(err) };

    cr_assert_eq(mf_session_new_upcall(&ops, rig, &rig->opts, &rig->s, &err), 0, "%s", err.text);
}

void fs_prepare(struct fs_rig *rig)
{
    cr_assert_eq(mf_vkernel_new(&rig->kernel, &rig->vk), 0);
    fs_make(rig);
}

void fs_connect(struct fs_rig *rig)
{
    struct mf_error err = { .size = sizeof(err) };

    fs_prepare(rig);
    cr_assert_eq(mf_session_attach_vkernel(rig->s, rig->vk, &err), 0, "%s", err.text);
}

static void *runner(void *arg)
{
    struct fs_rig *rig = arg;

    rig->result = mf_session_run(rig->s);
    return NULL;
}

void fs_run(struct fs_rig *rig)
{
    if (!rig->s)
        fs_connect(rig);
    cr_assert_eq(pthread_create(&rig->runner, NULL, runner, rig), 0);
    rig->running = true;
}

int fs_join(struct fs_rig *rig)
{
    if (rig->running)
        pthread_join(rig->runner, NULL);
    rig->running = false;
    return rig->result;
}

int fs_stop(struct fs_rig *rig)
{
    mf_session_stop(rig->s);
    return fs_join(rig);
}

void fs_end(struct fs_rig *rig)
{
    fs_gate_open(&rig->gate);
    if (rig->running)
        cr_assert_eq(fs_stop(rig), 0, "mf_session_run() gave %d", rig->result);
    mf_session_free(rig->s);
    cr_assert_eq(rig->destroyed, 1, "destroy was called %u times", rig->destroyed);
    cr_assert(rig->inside_at_destroy == 0);
    cr_assert(rig->inside == 0);
    cr_assert_eq(rig->started, rig->ended, "%u readers started, %u ended", rig->started, rig->ended);
    pthread_mutex_destroy(&rig->lock);
    if (!rig->vk)
        return;
    cr_assert_eq(mf_vkernel_pending(rig->vk), 0, "requests are left");
    cr_assert_eq(mf_vkernel_bad_replies(rig->vk), 0, "answers were refused");
    mf_vkernel_free(rig->vk);
    rig->vk = NULL;
}

/* ---- step by step -------------------------------------------------------------------------------- */

void fs_step_init(struct fs_rig *rig, uint32_t readers)
{
    rig->opts.readers = readers;
    fs_connect(rig);
    cr_assert_eq(mf__crews_make(rig->s), 0);
    rig->s->phase = MF__RUNNING; /* what mf_session_free() tidies up */
}

struct mf__slot *fs_receive(struct fs_rig *rig, uint32_t reader)
{
    struct mf__reader *r = rig->s->readers[reader];
    struct mf__slot *slot;
    struct mf__io *got;

    cr_assert(mf_vkernel_pending(rig->vk) > 0, "nothing to receive");
    slot = mf__slot_take(r);
    cr_assert_not_null(slot);
    cr_assert_eq(r->ch->ops->receive(r->ch, &slot->io, &got), 0);
    got->ch = r->ch;
    return MF__CONTAINER_OF(got, struct mf__slot, io);
}

void fs_dispatch(struct fs_rig *rig, uint32_t reader, struct mf__slot *slot)
{
    mf__self = rig->s->readers[reader];
    mf__dispatch(mf__self, slot);
    mf__self = NULL;
}

void fs_step(struct fs_rig *rig, uint32_t reader)
{
    fs_dispatch(rig, reader, fs_receive(rig, reader));
}

/* ---- requests ------------------------------------------------------------------------------------ */

uint64_t fs_send(struct fs_rig *rig, uint32_t opcode, uint64_t node, const void *in, size_t len)
{
    uint64_t id = 0;

    cr_assert_eq(mf_client_send(rig->vk, opcode, node, in, len, &id), 0);
    return id;
}

int fs_wait(struct fs_rig *rig, uint64_t id)
{
    return mf_client_wait(rig->vk, id, NULL, NULL);
}

int fs_ask(struct fs_rig *rig, uint32_t opcode, uint64_t node, const void *in, size_t len)
{
    return mf_client_raw(rig->vk, opcode, node, in, len, NULL, NULL);
}

uint64_t fs_send_read(struct fs_rig *rig, uint64_t node, uint32_t size)
{
    struct fuse_read_in in = { .fh = node, .size = size };

    return fs_send(rig, FUSE_READ, node, &in, sizeof(in));
}

uint64_t fs_send_getattr(struct fs_rig *rig, uint64_t node)
{
    struct fuse_getattr_in in = { .fh = 0 };

    return fs_send(rig, FUSE_GETATTR, node, &in, sizeof(in));
}

/* ---- asking -------------------------------------------------------------------------------------- */

void fs_occupy(struct fs_rig *rig, unsigned n, uint64_t *ids)
{
    for (unsigned i = 0; i < n; i++)
        ids[i] = fs_send_read(rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig->gate, n), "%u of %u handlers run at once", rig->gate.waiting, n);
}

void fs_let_go(struct fs_rig *rig, unsigned n, const uint64_t *ids)
{
    fs_gate_open(&rig->gate);
    for (unsigned i = 0; i < n; i++) {
        uint8_t buf[FS_GATE_SIZE];
        uint64_t len = sizeof(buf);

        cr_expect_eq(mf_client_wait(rig->vk, ids[i], buf, &len), 0);
        cr_expect(len == sizeof(buf) && fs_right(FS_GATE, 0, buf, len));
    }
    fs_gate_shut(&rig->gate);
}

struct mf_reader_stats fs_stats(struct fs_rig *rig, uint32_t reader)
{
    struct mf_reader_stats st = { .size = sizeof(st) };

    cr_assert_eq(mf_session_stats(rig->s, reader, &st), 0, "reader %u", reader);
    return st;
}

struct mf_info fs_info(struct fs_rig *rig)
{
    struct mf_info info = { .size = sizeof(info) };

    cr_assert_eq(mf_session_info(rig->s, &info), 0);
    return info;
}

uint64_t fs_on_own_rings(struct fs_rig *rig)
{
    struct mf__ring_counts n;
    uint64_t sum = 0;

    pthread_mutex_lock(&rig->s->lock); /* the rings go at the end */
    for (uint32_t i = 0; i < rig->s->ring_count; i++) {
        mf__ring_counts(rig->s->rings[i], &n);
        sum += n.own;
    }
    pthread_mutex_unlock(&rig->s->lock);
    return sum;
}

unsigned fs_logged(struct fs_rig *rig, const char *text)
{
    unsigned n = 0;

    pthread_mutex_lock(&rig->lock);
    for (const char *at = rig->log; (at = strstr(at, text)); at += strlen(text))
        n++;
    pthread_mutex_unlock(&rig->lock);
    return n;
}
