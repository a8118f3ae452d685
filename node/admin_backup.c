/* impcli backup: a thread writes the backup to a file of this node that has no name, then hands it to the
 * loop in pieces, as fast as the front end takes them. So the store's read transaction does not depend on the
 * front end, no loop waits for a disk, and memory holds a few pieces. One backup at a time on a node. */
#include "node/admin_backup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/seal.h"
#include "node/admin_handlers.h"
#include "node/backup/backup.h"
#include "node/backup/backup_key.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 256 << 10,
    QUEUE_BYTES = 2 << 20,  /* between thread and loop */
    OUTPUT_BYTES = 2 << 20, /* between loop and front end */
    POLL_MS = 5,
    PROGRESS_MS = 500,
};

struct piece {
    struct list link;
    size_t n;
    char data[PIECE_BYTES];
};

struct backup_job {
    struct admin_backups *all;
    struct admin_call *call;
    struct store *store;
    struct seal_ring ring; /* as it was at the beginning; n 0: without the cluster key */
    char *dir, *node;
    struct buf passphrase;
    pthread_t thread;
    struct timer poll;
    uint64_t n_sent, progress_ms;

    struct backup_progress progress;
    pthread_mutex_t lock; /* what follows */
    pthread_cond_t more_room;
    struct list pieces;
    size_t n_queued;
    bool is_dumped, is_done;
    int rc;
    struct err_ctx err;
    struct backup_made made;
};

struct admin_backups {
    struct backup_job *job;
};

/* ---- the thread ---- */

static int dump(struct backup_job *j, int fd, struct err_ctx *err)
{
    uint64_t need = store_size_bytes(j->store) + (512ull << 20), have = store_free_bytes(j->store);
    if (have < need)
        return err_set(err, ERR_NOSPACE,
                       "the backup is written on this node's disk first: %" PRIu64
                       " MiB are wanted there, %" PRIu64 " MiB are free",
                       need >> 20, have >> 20);
    return backup_dump(&j->made,
                       &(struct backup_dump){.store = j->store,
                                             .fd = fd,
                                             .node = j->node,
                                             .ring = j->ring.n ? &j->ring : NULL,
                                             .passphrase = j->passphrase.data,
                                             .n_passphrase = j->passphrase.n,
                                             .progress = &j->progress},
                       err);
}

/* Waits for room. False: canceled. */
static bool push(struct backup_job *j, struct piece *p)
{
    pthread_mutex_lock(&j->lock);
    while (j->n_queued >= QUEUE_BYTES && !atomic_load(&j->progress.cancel))
        pthread_cond_wait(&j->more_room, &j->lock);
    bool go_on = !atomic_load(&j->progress.cancel);
    if (go_on) {
        list_append(&j->pieces, &p->link);
        j->n_queued += p->n;
    }
    pthread_mutex_unlock(&j->lock);
    return go_on;
}

static int hand_over(struct backup_job *j, int fd, struct err_ctx *err)
{
    if (lseek(fd, 0, SEEK_SET))
        return err_set(err, ERR_IO, "the backup cannot be read: %s", strerror(errno));
    pthread_mutex_lock(&j->lock);
    j->is_dumped = true;
    pthread_mutex_unlock(&j->lock);
    for (;;) {
        struct piece *p = mem_new(struct piece);
        ssize_t n = read(fd, p->data, sizeof p->data);
        p->n = n > 0 ? (size_t)n : 0;
        if (n > 0 && push(j, p))
            continue;
        mem_free(p);
        return n < 0   ? err_set(err, ERR_IO, "the backup cannot be read: %s", strerror(errno))
               : n > 0 ? err_set(err, ERR_CANCELED, "canceled")
                       : 0;
    }
}

static void *run(void *user)
{
    struct backup_job *j = user;
    struct err_ctx err = {0};
    int fd = open(j->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_set(&err, ERR_IO, "no file can be made in %s: %s", j->dir, strerror(errno))
                    : dump(j, fd, &err);
    if (!rc)
        rc = hand_over(j, fd, &err);
    if (fd >= 0)
        close(fd);
    pthread_mutex_lock(&j->lock);
    j->rc = rc;
    j->err = err;
    j->is_done = true;
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* ---- the loop ---- */

/* The thread has been told to end, or has ended. */
static void job_free(struct backup_job *j)
{
    pthread_join(j->thread, NULL);
    timer_stop(&j->poll);
    j->all->job = NULL;
    struct piece *p;
    list_for_each(p, &j->pieces, struct piece, link) mem_free(p);
    seal_buf_fini(&j->passphrase);
    seal_ring_wipe(&j->ring);
    pthread_cond_destroy(&j->more_room);
    pthread_mutex_destroy(&j->lock);
    mem_free(j->dir);
    mem_free(j->node);
    mem_free(j);
}

static void cancel(struct backup_job *j)
{
    pthread_mutex_lock(&j->lock);
    atomic_store(&j->progress.cancel, true);
    pthread_cond_signal(&j->more_room);
    pthread_mutex_unlock(&j->lock);
}

static void finish(struct backup_job *j)
{
    struct admin_call *call = j->call;
    struct backup_made made = j->made;
    int rc = j->rc;
    struct err_ctx err = j->err;
    bool keys = j->ring.n != 0;
    job_free(j);
    if (rc) {
        admin_fail(call, "%s", err.text);
        return;
    }
    struct buf text = {0};
    buf_addf(&text, "%s: %" PRIu64 " rows, %" PRIu64 " bytes, the state after log index %" PRIu64 ".\n",
             call->args[0], made.n_rows, made.n_bytes, made.index);
    buf_adds(&text,
             keys ? "The cluster key is in it, wrapped with the passphrase.\n"
                  : "The cluster key is not in it: after a restore all secrets must be entered again.\n");
    buf_adds(&text,
             "It holds users, messages and password hashes: keep it as safe as a node's data directory.\n");
    admin_reply(call,
                json_pack("{s:s, s:I, s:I, s:I, s:b}", "file", call->args[0], "index", (json_int_t)made.index,
                          "rows", (json_int_t)made.n_rows, "bytes", (json_int_t)made.n_bytes, "keys", keys),
                &text);
}

static struct piece *pop(struct backup_job *j, bool *is_done, bool *is_dumped)
{
    pthread_mutex_lock(&j->lock);
    struct list *first = list_first(&j->pieces);
    struct piece *p = first ? list_entry(first, struct piece, link) : NULL;
    if (p) {
        list_remove(&p->link);
        j->n_queued -= p->n;
        pthread_cond_signal(&j->more_room);
    }
    *is_dumped = j->is_dumped;
    *is_done = !p && j->is_done;
    pthread_mutex_unlock(&j->lock);
    return p;
}

/* First of rows, while the file is written, then of bytes. */
static void show_progress(struct backup_job *j, bool is_dumped)
{
    uint64_t now = clock_monotonic_ms();
    if (now < j->progress_ms + PROGRESS_MS)
        return;
    j->progress_ms = now;
    struct admin_part part = {.done = is_dumped ? j->n_sent : atomic_load(&j->progress.rows),
                              .total = is_dumped ? j->made.n_bytes : atomic_load(&j->progress.rows_total)};
    admin_send_part(j->call, &part);
}

static void on_poll(struct timer *t)
{
    struct backup_job *j = container_of(t, struct backup_job, poll);
    bool is_done = false, is_dumped = false;
    while (admin_queued(j->call) < OUTPUT_BYTES) {
        struct piece *p = pop(j, &is_done, &is_dumped);
        if (!p)
            break;
        j->n_sent += p->n;
        admin_send_part(j->call, &(struct admin_part){p->data, p->n, j->n_sent, j->made.n_bytes});
        mem_free(p);
    }
    if (is_done)
        finish(j);
    else
        show_progress(j, is_dumped);
}

static void on_gone(struct admin_call *call)
{
    cancel(call->state); /* the poll sees its end */
}

void admin_backup(struct admin_call *call)
{
    struct admin_backups *all = call->env->backups;
    bool keys = !admin_option(call, "without-keys");
    if (all->job) {
        admin_fail(call, "a backup is being made on this node already");
        return;
    }
    if (keys && (call->n_input < BACKUP_PASSPHRASE_MIN || call->n_input > BACKUP_PASSPHRASE_MAX)) {
        admin_fail(call, "a passphrase has %d to %d characters; --without-keys leaves the cluster key out",
                   BACKUP_PASSPHRASE_MIN, BACKUP_PASSPHRASE_MAX);
        return;
    }
    struct backup_job *j = mem_new(struct backup_job);
    j->all = all;
    j->call = call;
    j->store = call->env->store;
    if (keys)
        j->ring = *call->env->seal;
    j->dir = mem_strdup(call->env->data_dir);
    j->node = mem_strdup(call->env->node_name);
    buf_add(&j->passphrase, call->input, keys ? call->n_input : 0);
    list_init(&j->pieces);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->more_room, NULL);
    timer_init(&j->poll, call->env->loop, on_poll);
    if (pthread_create(&j->thread, NULL, run, j)) {
        seal_buf_fini(&j->passphrase);
        seal_ring_wipe(&j->ring);
        mem_free(j->dir);
        mem_free(j->node);
        mem_free(j);
        admin_fail(call, "no thread can be started");
        return;
    }
    all->job = j;
    call->state = j;
    call->on_gone = on_gone;
    timer_start(&j->poll, POLL_MS, POLL_MS);
}

struct admin_backups *admin_backups_new(void)
{
    return mem_new(struct admin_backups);
}

void admin_backups_free(struct admin_backups *all)
{
    if (all && all->job) {
        all->job->call->on_gone = NULL;
        cancel(all->job);
        job_free(all->job);
    }
    mem_free(all);
}
