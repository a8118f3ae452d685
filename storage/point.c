/* Durable points. LMDB writes without syncing, so after a power loss every page of data.mdb may be of another
 * moment. A point makes one moment T safe: a reader pins T between two write transactions, so that LMDB
 * overwrites no page of it; the two meta pages of T are copied; data.mdb is synced; the copy goes to the side
 * file, durably; only then the pin of the point before is released. An unclean start writes the copy back,
 * and the store is T again.
 *
 *   pin T2 -> fdatasync data.mdb -> point.new: write, sync, rename -> release T1
 *
 * The writer never waits for a sync: when a transaction is under way, its commit does the pin, some
 * microseconds. */
#include "base/clock.h"
#include "storage/side_file.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { POINT_INTERVAL_S = 2 };
/* Pages freed since the last point cannot be used again, so the file grows until the next: a bound for that.
 */
static const uint64_t POINT_DIRTY_BYTES = 64ull << 20;

struct store_point {
    const struct store_faults *faults;
    pthread_mutex_t making; /* one point at a time; taken before store.lock */
    pthread_t thread;
    bool has_thread;

    /* Under store.lock. */
    bool stop, pin_wanted;
    int pin_error;
    uint64_t n_dirty_bytes; /* put since the last pin */
    uint64_t n_pages;       /* of the file at the last pin */
    struct buf extra;
    uint64_t extra_version;
    void (*on_point)(void *user, uint64_t applied_index);
    void *on_point_user;

    MDB_txn *pinned;      /* holds the moment that the side file has; under making */
    MDB_txn *next_pin;    /* the other one; used by the pin */
    struct moment moment; /* of next_pin; under making, and store.lock while it is filled */
    uint64_t durable_txn_id, durable_extra_version;
    _Atomic uint64_t durable_index;
};

/* ---- making a point ---- */

static uint64_t file_pages(struct store *s)
{
    MDB_envinfo info;
    return mdb_env_info(s->env, &info) ? 0 : info.me_last_pgno + 1;
}

/* Under store.lock, no write transaction under way, so the meta pages stand still. */
static int pin(struct store *s)
{
    struct store_point *p = s->point;
    struct moment *m = &p->moment;
    struct stat st;
    mdb_filehandle_t fd;
    int rc = p->next_pin ? mdb_txn_renew(p->next_pin) : mdb_txn_begin(s->env, NULL, MDB_RDONLY, &p->next_pin);
    if (rc)
        return store_mdb_error(rc);
    mdb_env_get_fd(s->env, &fd);
    m->page_bytes = s->page_bytes;
    m->txn_id = mdb_txn_id(p->next_pin);
    m->applied_index = atomic_load(&s->applied_index);
    buf_reset(&m->meta);
    size_t n = SIDE_META_PAGES * s->page_bytes;
    if (fstat(fd, &st) || side_read_all(fd, buf_reserve(&m->meta, n), n, 0)) {
        mdb_txn_reset(p->next_pin);
        return ERR_IO;
    }
    m->meta.n = n;
    m->file_bytes = st.st_size;
    buf_reset(&m->extra);
    if (p->extra.n)
        buf_add(&m->extra, p->extra.data, p->extra.n);
    m->extra_version = p->extra_version;
    p->n_dirty_bytes = 0;
    p->n_pages = file_pages(s);
    return 0;
}

static bool is_point_due(struct store *s)
{
    struct store_point *p = s->point;
    return p->n_dirty_bytes >= POINT_DIRTY_BYTES ||
           (file_pages(s) - p->n_pages) * s->page_bytes >= POINT_DIRTY_BYTES;
}

bool point_after_commit(struct store *s, uint64_t n_bytes)
{
    struct store_point *p = s->point;
    p->n_dirty_bytes += n_bytes;
    if (!p->pin_wanted)
        return is_point_due(s);
    p->pin_wanted = false;
    p->pin_error = pin(s);
    return true;
}

/* A pin between two write transactions: at once if there is none, else by the commit of the one under way. */
static int pin_wait(struct store *s)
{
    struct store_point *p = s->point;
    pthread_mutex_lock(&s->lock);
    if (!s->is_writing) {
        p->pin_error = pin(s);
    } else {
        p->pin_wanted = true;
        while (p->pin_wanted)
            pthread_cond_wait(&s->changed, &s->lock);
    }
    int rc = p->pin_error;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void release_previous(struct store_point *p)
{
    MDB_txn *previous = p->pinned;
    p->pinned = p->next_pin;
    p->next_pin = previous;
    if (previous)
        mdb_txn_reset(previous);
    if (p->faults && p->faults->no_pin) {
        mdb_txn_abort(p->pinned);
        p->pinned = NULL;
    }
}

/* Under making. */
static int point_write(struct store *s, struct err_ctx *err)
{
    struct store_point *p = s->point;
    struct moment *m = &p->moment;
    mdb_filehandle_t fd;
    mdb_env_get_fd(s->env, &fd);
    side_step(p->faults, "pinned");
    int rc = side_sync_fd(p->faults, fd, true);
    if (rc)
        return err_set(err, side_error_of(rc), "sync of %s/data.mdb: %s", s->dir, strerror(rc));
    side_step(p->faults, "synced");
    if ((rc = side_write(p->faults, s->dir, m, s->id, err)))
        return rc;
    side_step(p->faults, "renamed");
    p->durable_txn_id = m->txn_id;
    p->durable_extra_version = m->extra_version;
    atomic_store(&p->durable_index, m->applied_index);
    release_previous(p);
    side_step(p->faults, "released");
    metrics_add(s->metrics, METRIC_STORE_DURABLE_POINTS, 1);
    return 0;
}

/* ERR_AGAIN: nothing is new. */
static int point_make_locked(struct store *s, struct err_ctx *err)
{
    struct store_point *p = s->point;
    if (atomic_load(&s->is_dead))
        return err_set(err, ERR_IO, "the store has failed before");
    int rc = pin_wait(s);
    if (rc) {
        err_set(err, rc, "pin of a durable point");
    } else if (p->moment.txn_id == p->durable_txn_id && p->moment.extra_version == p->durable_extra_version) {
        mdb_txn_reset(p->next_pin);
        return ERR_AGAIN;
    } else {
        rc = point_write(s, err);
    }
    /* A failed sync is never tried again: the kernel may have dropped the pages. */
    if (rc)
        store_fatal(s, rc, "durable point: %s", err->text);
    return rc;
}

static int point_make(struct store *s, struct err_ctx *err)
{
    struct store_point *p = s->point;
    pthread_mutex_lock(&p->making);
    int rc = point_make_locked(s, err);
    if (!rc) {
        pthread_mutex_lock(&s->lock);
        void (*on_point)(void *, uint64_t) = p->on_point;
        void *user = p->on_point_user;
        pthread_mutex_unlock(&s->lock);
        if (on_point)
            on_point(user, atomic_load(&p->durable_index));
    }
    pthread_mutex_unlock(&p->making);
    return rc == ERR_AGAIN ? 0 : rc;
}

int store_make_point(struct store *s, struct err_ctx *err)
{
    struct err_ctx own = {0};
    return point_make(s, err ? err : &own);
}

/* Until the interval is over, much is dirty, or the end: true to go on. */
static bool wait_for_work(struct store *s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += POINT_INTERVAL_S;
    pthread_mutex_lock(&s->lock);
    while (!s->point->stop && !is_point_due(s)) {
        if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT)
            break;
    }
    bool go_on = !s->point->stop;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

static void *point_thread(void *arg)
{
    struct store *s = arg;
    while (wait_for_work(s)) {
        struct err_ctx err = {0};
        if (point_make(s, &err))
            break; /* store_fatal was called */
    }
    return NULL;
}

/* ---- life ---- */

void point_init(struct store *s, const struct store_options *o, struct point_start *start)
{
    struct store_point *p = mem_new(struct store_point);
    pthread_mutex_init(&p->making, NULL);
    p->faults = o->faults;
    p->extra = start->extra;
    start->extra = (struct buf){0};
    p->durable_txn_id = start->txn_id;
    atomic_store(&p->durable_index, start->applied_index);
    s->point = p;
}

int point_pin(struct store *s, const struct point_start *start, struct err_ctx *err)
{
    struct store_point *p = s->point;
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &p->pinned);
    if (rc)
        return err_set(err, store_mdb_error(rc), "pin: %s", mdb_strerror(rc));
    if (mdb_txn_id(p->pinned) != start->txn_id)
        return err_set(err, ERR_CORRUPT, "data.mdb holds transaction %zu, its durable point is %llu",
                       mdb_txn_id(p->pinned), (unsigned long long)start->txn_id);
    p->n_pages = file_pages(s);
    if (p->faults && p->faults->no_pin) {
        mdb_txn_abort(p->pinned);
        p->pinned = NULL;
    }
    return 0;
}

int point_start(struct store *s, const struct store_options *o, const struct point_start *start,
                struct err_ctx *err)
{
    if (start->is_new) {
        int rc = store_make_point(s, err);
        if (!rc)
            rc = side_remove_file(s->dir, SIDE_FILE_MAKING, err);
        if (!rc)
            rc = side_sync_dir(o->faults, s->dir, err);
        if (rc)
            return rc;
    }
    if (o->manual_points)
        return 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->point->thread, NULL, point_thread, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return err_set(err, ERR_SYSTEM, "thread: %s", strerror(rc));
    pthread_setname_np(s->point->thread, "point");
    s->point->has_thread = true;
    return 0;
}

static int write_clean_mark(struct store *s, struct err_ctx *err)
{
    int rc = store_make_point(s, err);
    if (!rc)
        rc = side_write_file(s->point->faults, s->dir, SIDE_FILE_CLEAN, &(struct buf){0}, err);
    return rc ? rc : side_sync_dir(s->point->faults, s->dir, err);
}

int point_stop(struct store *s, bool clean, struct err_ctx *err)
{
    struct store_point *p = s->point;
    if (!p)
        return 0;
    pthread_mutex_lock(&s->lock);
    p->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (p->has_thread)
        pthread_join(p->thread, NULL);
    int rc = clean ? write_clean_mark(s, err) : 0;
    if (p->pinned)
        mdb_txn_abort(p->pinned);
    if (p->next_pin)
        mdb_txn_abort(p->next_pin);
    pthread_mutex_destroy(&p->making);
    side_fini(&p->moment);
    buf_fini(&p->extra);
    mem_free(p);
    s->point = NULL;
    return rc;
}

uint64_t store_durable_index(struct store *s)
{
    return atomic_load(&s->point->durable_index);
}

void store_on_point(struct store *s, void (*on_point)(void *user, uint64_t applied_index), void *user)
{
    pthread_mutex_lock(&s->lock);
    s->point->on_point = on_point;
    s->point->on_point_user = user;
    pthread_mutex_unlock(&s->lock);
}

void store_set_point_extra(struct store *s, const void *data, size_t n)
{
    assert(n <= POINT_EXTRA_MAX);
    pthread_mutex_lock(&s->lock);
    buf_reset(&s->point->extra);
    if (n)
        buf_add(&s->point->extra, data, n);
    s->point->extra_version++;
    pthread_mutex_unlock(&s->lock);
}

void store_get_point_extra(struct store *s, const void **data, size_t *n, struct arena *a)
{
    pthread_mutex_lock(&s->lock);
    *n = s->point->extra.n;
    void *copy = arena_alloc(a, *n ? *n : 1);
    if (*n)
        memcpy(copy, s->point->extra.data, *n);
    *data = copy;
    pthread_mutex_unlock(&s->lock);
}
