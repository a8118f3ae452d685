/* Gives copies of the store to members that must install one. One copy at a time is made in DIR/snap, shared
 * by all who ask, and deleted after ten idle minutes. Its ranges are sent while it is still being made: who
 * asks for what is not there yet waits.
 *
 * Raft thread; disk work runs on the loop's pool. */
#include "base/clock.h"
#include "replication/copy_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    IDLE_MS = 10 * 60 * 1000,
    FRESH_MS = 60 * 1000,
    MAX_SESSIONS = 8,
    WAIT_TELL_MS = 3000, /* how often who waits hears that we live */
};

/* ---- the file ---- */

static struct copy_file *file_new(const char *dir)
{
    struct copy_file *f = mem_new(struct copy_file);
    atomic_init(&f->n_refs, 1);
    f->fd = -1;
    f->dir = mem_strdup(dir);
    f->path = mem_printf("%s/data.mdb", dir);
    random_bytes(f->info.id, sizeof(f->info.id));
    return f;
}

struct copy_file *copy_file_ref(struct copy_file *f)
{
    atomic_fetch_add(&f->n_refs, 1);
    return f;
}

void copy_file_unref(struct copy_file *f)
{
    if (!f || atomic_fetch_sub(&f->n_refs, 1) != 1)
        return;
    if (f->fd >= 0)
        close(f->fd);
    mem_free(f->dir);
    mem_free(f->path);
    mem_free(f);
}

static bool is_usable(const struct copy_file *f)
{
    return f && (f->state == FILE_GROWING || f->state == FILE_WHOLE);
}

struct copy_server *copy_server_new(struct replica *r)
{
    struct copy_server *s = mem_new(struct copy_server);
    s->r = r;
    s->snap_dir = mem_printf("%s/snap", r->dir);
    list_init(&s->sessions);
    copy_remove_dir(s->snap_dir); /* of an earlier life */
    return s;
}

static void server_free(struct copy_server *s)
{
    copy_file_unref(s->file);
    mem_free(s->snap_dir);
    mem_free(s);
}

/* ---- making the copy ---- */

static int open_file(struct copy_server *s, struct copy_file *f)
{
    copy_remove_dir(f->dir);
    if (mkdir(f->dir, 0700) != 0)
        return err_set(&f->err, ERR_IO, "%s: %s", f->dir, strerror(errno));
    /* It must never be a copy for others that fills the disk of a node that serves. */
    uint64_t n_free = copy_free_bytes(f->dir);
    f->info.n_bytes = store_size_bytes(s->r->options.store);
    if (n_free < copy_room(f->info.n_bytes))
        return err_set(&f->err, ERR_NOSPACE, "%llu MiB are needed in %s, %llu MiB are free",
                       (unsigned long long)copy_room(f->info.n_bytes) >> 20, f->dir,
                       (unsigned long long)n_free >> 20);
    int fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    f->fd = fd < 0 ? -1 : open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return f->fd < 0 ? err_set(&f->err, ERR_IO, "%s: %s", f->path, strerror(errno)) : 0;
}

static void make_work(struct work *w)
{
    struct copy_server *s = container_of(w, struct copy_server, work);
    struct copy_file *f = s->file;
    /* The snapshot is taken later than this. */
    f->info.applied = apply_index(s->r->apply);
    f->code = open_file(s, f);
    if (f->code == 0) {
        atomic_store(&f->state, FILE_GROWING);
        f->code = store_copy_pages(s->r->options.store, f->path, &f->err);
    }
    atomic_store(&f->state, f->code == 0 ? FILE_WHOLE : FILE_FAILED);
}

static void begin_copy(struct copy_server *s);

/* Those who wait for a copy, once it begins to be there or has failed. */
static void serve_waiting(struct copy_server *s)
{
    struct copy_session *x;
    bool again = false;
    list_for_each(x, &s->sessions, struct copy_session, link)
    {
        if (!x->is_waiting)
            continue;
        if (is_usable(s->file) && s->file->info.applied >= x->wanted) {
            copy_session_tell(x);
        } else if (s->file && s->file->state == FILE_FAILED) {
            x->is_waiting = false;
            copy_refuse(x->conn, s->file->code, "");
        } else if (!s->is_making) {
            again = true; /* what was made was too old for it */
        }
    }
    if (again)
        begin_copy(s);
}

static void make_done(struct work *w)
{
    struct copy_server *s = container_of(w, struct copy_server, work);
    struct copy_file *f = s->file;
    s->is_making = false;
    if (s->ending) {
        copy_remove_dir(s->snap_dir);
        server_free(s);
        return;
    }
    uint64_t now = replica_now_ms(s->r);
    if (f->code == 0)
        log_info(s->r->log, "made a copy of the store, at %llu or later, in %llu ms",
                 (unsigned long long)f->info.applied, (unsigned long long)(now - s->made_ms));
    else
        log_error(s->r->log, "cannot make a copy of the store for another node: %s", f->err.text);
    if (f->code == ERR_CORRUPT)
        differ_doubt(s->r, "the store cannot be copied");
    s->made_ms = s->used_ms = now;
    serve_waiting(s);
    if (f->code != 0) {
        copy_file_unref(s->file);
        s->file = NULL;
    }
}

static void begin_copy(struct copy_server *s)
{
    if (s->is_making || s->is_removing)
        return;
    copy_file_unref(s->file);
    s->file = file_new(s->snap_dir);
    s->is_making = true;
    s->made_ms = replica_now_ms(s->r);
    s->work = (struct work){make_work, make_done, NULL};
    loop_run_work(s->r->loop, &s->work);
}

static bool in_use(const struct copy_server *s)
{
    struct copy_session *x;
    list_for_each(x, &s->sessions, struct copy_session, link) if (x->file && x->file == s->file) return true;
    return false;
}

void copy_server_open(struct copy_session *x, uint64_t wanted)
{
    struct copy_server *s = x->s;
    uint64_t now = replica_now_ms(s->r);
    x->wanted = wanted;
    s->used_ms = now;
    if (s->r->is_fenced) {
        copy_refuse(x->conn, ERR_UNAVAILABLE, "its own tables are damaged");
        return;
    }
    if (apply_index(s->r->apply) < wanted) {
        copy_refuse(x->conn, ERR_AGAIN, ""); /* we are behind ourselves */
        return;
    }
    bool is_fresh = s->is_making || now < s->made_ms + FRESH_MS || in_use(s);
    if (is_usable(s->file) && s->file->info.applied >= wanted && is_fresh) {
        copy_session_tell(x);
        return;
    }
    x->is_waiting = true;
    begin_copy(s);
}

void copy_server_answer(struct copy_server *s, uint32_t node, int code, const char *text)
{
    struct copy_session *x;
    list_for_each(x, &s->sessions, struct copy_session, link)
    {
        if (!x->is_asking || conn_node(x->conn) != node)
            continue;
        x->is_asking = false;
        if (code == 0)
            copy_server_open(x, x->wanted);
        else
            copy_refuse(x->conn, code, text);
    }
}

void copy_server_take(struct copy_server *s, struct conn *c)
{
    copy_session_new(s, c);
    if (s->n_sessions > MAX_SESSIONS || !configuration_find(&s->r->status.conf, conn_node(c)))
        conn_abort(c);
    else
        conn_welcome(c);
}

/* ---- time, end ---- */

static void remove_work(struct work *w)
{
    copy_remove_dir(container_of(w, struct copy_server, work)->snap_dir);
}

static void remove_done(struct work *w)
{
    struct copy_server *s = container_of(w, struct copy_server, work);
    s->is_removing = false;
    if (s->ending)
        server_free(s);
    else
        serve_waiting(s);
}

void copy_server_tick(struct copy_server *s, uint64_t now_ms)
{
    struct copy_session *x;
    if (!list_is_empty(&s->sessions))
        serve_waiting(s);
    list_for_each(x, &s->sessions, struct copy_session, link) copy_session_pump(x);
    if (now_ms >= s->told_ms + WAIT_TELL_MS) {
        s->told_ms = now_ms;
        list_for_each(x, &s->sessions, struct copy_session,
                      link) if (x->is_waiting || x->n_asked || x->reading)
            conn_send(x->conn, FRAME_COPY_WAIT, NULL, 0);
    }
    if (!s->file || s->is_making || now_ms < s->used_ms + IDLE_MS)
        return;
    copy_file_unref(s->file);
    s->file = NULL;
    s->is_removing = true; /* a large file takes its time */
    s->work = (struct work){remove_work, remove_done, NULL};
    loop_run_work(s->r->loop, &s->work);
}

void copy_server_end(struct copy_server *s)
{
    if (!s)
        return;
    struct copy_session *x;
    list_for_each(x, &s->sessions, struct copy_session, link)
    {
        list_remove(&x->link);
        x->s = NULL;
        conn_abort(x->conn);
    }
    if (s->is_making || s->is_removing) {
        s->ending = true; /* its end frees it */
        return;
    }
    copy_remove_dir(s->snap_dir);
    server_free(s);
}
