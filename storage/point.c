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
#include "base/htab.h"
#include "storage/store_internal.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { POINT_VERSION = 1, N_META_PAGES = 2, POINT_INTERVAL_S = 2, PAGE_BYTES_MAX = 64 * 1024 };
enum { POINT_FIXED_BYTES = 8 + 4 + 4 + STORE_ID_BYTES + 8 + 8 + 8 + 4 };
/* Pages freed since the last point cannot be used again, so the file grows until the next: a bound for that.
 */
static const uint64_t POINT_DIRTY_BYTES = 64ull << 20;
static const char POINT_MAGIC[8] = {'i', 'm', 'p', 'P', 'o', 'i', 'n', 't'};
static const char FILE_POINT[] = "point", FILE_POINT_NEW[] = "point.new", FILE_CLEAN[] = "clean",
                  FILE_MAKING[] = "making", FILE_DATA[] = "data.mdb";

/* A moment of the store, as the side file holds it. */
struct moment {
    uint64_t txn_id, applied_index, file_bytes, extra_version;
    unsigned page_bytes;
    struct buf meta, extra;
};

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

/* ---- files ---- */

static int sync_fd(const struct store_faults *f, int fd, bool data_only)
{
    if (f && f->sync)
        return f->sync(f->user, fd);
    return (data_only ? fdatasync(fd) : fsync(fd)) ? errno : 0;
}

static void step(const struct store_faults *f, const char *name)
{
    if (f && f->step)
        f->step(f->user, name);
}

static int error_of(int number)
{
    return number == ENOSPC || number == EDQUOT ? ERR_NOSPACE : ERR_IO;
}

static int sync_dir(const struct store_faults *f, const char *dir, struct err_ctx *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? errno : sync_fd(f, fd, false);
    if (fd >= 0)
        close(fd);
    return rc ? err_set(err, error_of(rc), "sync of %s: %s", dir, strerror(rc)) : 0;
}

static int write_all(int fd, const void *data, size_t n, uint64_t offset)
{
    const char *p = data;
    while (n) {
        ssize_t done = pwrite(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        p += done;
        n -= done;
        offset += done;
    }
    return 0;
}

static int read_all(int fd, void *data, size_t n, uint64_t offset)
{
    char *p = data;
    while (n) {
        ssize_t done = pread(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        p += done;
        n -= done;
        offset += done;
    }
    return 0;
}

/* Makes DIR/NAME with the bytes, synced; the directory is not. */
static int write_file(const struct store_faults *f, const char *dir, const char *name, const struct buf *b,
                      struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? errno : write_all(fd, b->data, b->n, 0);
    if (!rc)
        rc = sync_fd(f, fd, false);
    if (fd >= 0)
        close(fd);
    return rc ? err_set(err, error_of(rc), "%s: %s", path, strerror(rc)) : 0;
}

static bool file_exists(const char *dir, const char *name)
{
    char path[4096];
    store_path(path, dir, name);
    return access(path, F_OK) == 0;
}

/* A file that is not there is no error. */
static int remove_file(const char *dir, const char *name, struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, name);
    if (unlink(path) && errno != ENOENT)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    return 0;
}

/* ---- the side file ---- */

static void moment_fini(struct moment *m)
{
    buf_fini(&m->meta);
    buf_fini(&m->extra);
}

static int moment_write(const struct store_faults *f, const char *dir, const struct moment *m,
                        const uint8_t id[STORE_ID_BYTES], struct err_ctx *err)
{
    struct buf b = {0};
    buf_add(&b, POINT_MAGIC, sizeof POINT_MAGIC);
    buf_add_u32(&b, POINT_VERSION);
    buf_add_u32(&b, m->page_bytes);
    buf_add(&b, id, STORE_ID_BYTES);
    buf_add_u64(&b, m->txn_id);
    buf_add_u64(&b, m->applied_index);
    buf_add_u64(&b, m->file_bytes);
    buf_add_u32(&b, m->extra.n);
    buf_add(&b, m->meta.data, m->meta.n);
    if (m->extra.n)
        buf_add(&b, m->extra.data, m->extra.n);
    buf_add_u32(&b, crc32c(0, b.data, b.n));
    int rc = write_file(f, dir, FILE_POINT_NEW, &b, err);
    buf_fini(&b);
    if (rc)
        return rc;
    step(f, "written");
    char from[4096], to[4096];
    store_path(from, dir, FILE_POINT_NEW);
    store_path(to, dir, FILE_POINT);
    if (rename(from, to))
        return err_set(err, ERR_IO, "rename to %s: %s", to, strerror(errno));
    return sync_dir(f, dir, err);
}

static int moment_decode(const struct buf *b, struct moment *m, uint8_t id[STORE_ID_BYTES])
{
    struct reader r;
    if (b->n < POINT_FIXED_BYTES + 4)
        return ERR_CORRUPT;
    reader_init(&r, b->data + b->n - 4, 4);
    if (read_u32(&r) != crc32c(0, b->data, b->n - 4))
        return ERR_CORRUPT;
    reader_init(&r, b->data, b->n - 4);
    if (memcmp(read_bytes(&r, sizeof POINT_MAGIC), POINT_MAGIC, sizeof POINT_MAGIC))
        return ERR_CORRUPT;
    if (read_u32(&r) != POINT_VERSION)
        return ERR_VERSION;
    m->page_bytes = read_u32(&r);
    memcpy(id, read_bytes(&r, STORE_ID_BYTES), STORE_ID_BYTES);
    m->txn_id = read_u64(&r);
    m->applied_index = read_u64(&r);
    m->file_bytes = read_u64(&r);
    size_t n_extra = read_u32(&r);
    if (m->page_bytes > PAGE_BYTES_MAX || reader_left(&r) != N_META_PAGES * m->page_bytes + n_extra)
        return ERR_CORRUPT;
    buf_add(&m->meta, read_bytes(&r, N_META_PAGES * m->page_bytes), N_META_PAGES * m->page_bytes);
    if (n_extra)
        buf_add(&m->extra, read_bytes(&r, n_extra), n_extra);
    return 0;
}

static int moment_read(const char *dir, struct moment *m, uint8_t id[STORE_ID_BYTES], struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_POINT);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    struct buf b = {0};
    int rc = fstat(fd, &st) ? errno : 0;
    size_t max = POINT_FIXED_BYTES + N_META_PAGES * PAGE_BYTES_MAX + POINT_EXTRA_MAX + 4;
    if (!rc && (size_t)st.st_size <= max) {
        rc = read_all(fd, buf_reserve(&b, st.st_size), st.st_size, 0);
        b.n = rc ? 0 : st.st_size;
    }
    close(fd);
    if (rc)
        rc = err_set(err, ERR_IO, "%s: %s", path, strerror(rc));
    else if ((rc = moment_decode(&b, m, id)))
        err_set(err, rc, "%s is damaged or of another release", path);
    buf_fini(&b);
    return rc;
}

/* ---- before the environment is opened ---- */

/* Takes data.mdb back to the moment of the side file. After a clean stop the pages are equal already. */
static int write_back(const char *dir, const struct moment *m, bool is_clean, struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_DATA);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_CORRUPT, "%s: %s, although a durable point exists", path, strerror(errno));
    struct stat st;
    struct buf now = {0};
    int rc = fstat(fd, &st) ? errno : 0, code = 0;
    if (!rc && (uint64_t)st.st_size < m->file_bytes)
        code = err_set(err, ERR_CORRUPT, "%s is shorter than at its last durable point", path);
    if (!rc && !code) {
        rc = read_all(fd, buf_reserve(&now, m->meta.n), m->meta.n, 0);
        if (!rc && memcmp(now.data, m->meta.data, m->meta.n)) {
            if (is_clean)
                code = err_set(err, ERR_CORRUPT, "%s is not of the moment of its clean stop", path);
            else
                rc = write_all(fd, m->meta.data, m->meta.n, 0);
        }
    }
    if (rc)
        code = err_set(err, error_of(rc), "%s: %s", path, strerror(rc));
    buf_fini(&now);
    close(fd);
    return code;
}

/* A store whose making was interrupted before its first point holds nothing: it is made anew. */
static int prepare_new(const char *dir, const struct store_faults *f, struct err_ctx *err)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "point.new", "point", "clean"};
    int rc = write_file(f, dir, FILE_MAKING, &(struct buf){0}, err);
    if (!rc)
        rc = sync_dir(f, dir, err);
    for (size_t i = 0; !rc && i < n_elements(files); i++)
        rc = remove_file(dir, files[i], err);
    return rc ? rc : sync_dir(f, dir, err);
}

int point_prepare(const char *dir, const struct store_faults *f, struct point_start *out, struct err_ctx *err)
{
    if (file_exists(dir, FILE_MAKING) || (!file_exists(dir, FILE_DATA) && !file_exists(dir, FILE_POINT))) {
        out->is_new = true;
        return prepare_new(dir, f, err);
    }
    struct moment m = {0};
    bool is_clean = file_exists(dir, FILE_CLEAN);
    int rc = moment_read(dir, &m, out->id, err);
    if (!rc)
        rc = write_back(dir, &m, is_clean, err);
    /* The mark goes before anything can change, and durably: it must not vouch for what comes now. */
    if (!rc && is_clean && !(rc = remove_file(dir, FILE_CLEAN, err)))
        rc = sync_dir(f, dir, err);
    out->txn_id = m.txn_id;
    out->applied_index = m.applied_index;
    out->extra = m.extra;
    m.extra = (struct buf){0};
    moment_fini(&m);
    return rc;
}

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
    size_t n = N_META_PAGES * s->page_bytes;
    if (fstat(fd, &st) || read_all(fd, buf_reserve(&m->meta, n), n, 0)) {
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
    step(p->faults, "pinned");
    int rc = sync_fd(p->faults, fd, true);
    if (rc)
        return err_set(err, error_of(rc), "sync of %s/data.mdb: %s", s->dir, strerror(rc));
    step(p->faults, "synced");
    if ((rc = moment_write(p->faults, s->dir, m, s->id, err)))
        return rc;
    step(p->faults, "renamed");
    p->durable_txn_id = m->txn_id;
    p->durable_extra_version = m->extra_version;
    atomic_store(&p->durable_index, m->applied_index);
    release_previous(p);
    step(p->faults, "released");
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
            rc = remove_file(s->dir, FILE_MAKING, err);
        if (!rc)
            rc = sync_dir(o->faults, s->dir, err);
        if (rc)
            return rc;
    }
    if (o->manual_points)
        return 0;
    int rc = pthread_create(&s->point->thread, NULL, point_thread, s);
    if (rc)
        return err_set(err, ERR_SYSTEM, "thread: %s", strerror(rc));
    s->point->has_thread = true;
    return 0;
}

static int write_clean_mark(struct store *s, struct err_ctx *err)
{
    int rc = store_make_point(s, err);
    if (!rc)
        rc = write_file(s->point->faults, s->dir, FILE_CLEAN, &(struct buf){0}, err);
    return rc ? rc : sync_dir(s->point->faults, s->dir, err);
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
    moment_fini(&p->moment);
    buf_fini(&p->extra);
    mem_free(p);
    s->point = NULL;
    return rc;
}

int point_write_fresh(const char *dir, const struct point_start *start, unsigned page_bytes,
                      struct err_ctx *err)
{
    char path[4096];
    store_path(path, dir, FILE_DATA);
    struct moment m = {
        .txn_id = start->txn_id, .applied_index = start->applied_index, .page_bytes = page_bytes};
    struct stat st;
    size_t n = N_META_PAGES * page_bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fstat(fd, &st) ? errno : read_all(fd, buf_reserve(&m.meta, n), n, 0);
    if (!rc)
        rc = sync_fd(NULL, fd, false);
    if (fd >= 0)
        close(fd);
    if (rc) {
        rc = err_set(err, error_of(rc), "%s: %s", path, strerror(rc));
    } else {
        m.meta.n = n;
        m.file_bytes = st.st_size;
        rc = moment_write(NULL, dir, &m, start->id, err);
    }
    moment_fini(&m);
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
