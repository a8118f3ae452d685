/* Gives copies of the store to members that must install one. One copy at a time is made in DIR/snap, shared
 * by all who ask, and deleted after ten idle minutes. Its ranges are sent while it is still being made: who
 * asks for what is not there yet waits.
 *
 * Raft thread; disk work runs on the loop's pool. */
#include "base/clock.h"
#include "base/htab.h"
#include "replication/copy_files.h"
#include "replication/damage.h"
#include "replication/replica_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    IDLE_MS = 10 * 60 * 1000,
    FRESH_MS = 60 * 1000,
    MAX_SESSIONS = 8,
    WAIT_TELL_MS = 3000, /* how often who waits hears that we live */
    GROW_POLL_US = 2000,
    GROW_POLLS = 50,       /* then the loop looks whether anybody still wants it */
    BATCH = 16,            /* ranges read at once */
    QUEUE_BYTES = 4 << 20, /* waiting for the peer: no more is read until it has taken some */
};

enum file_state { FILE_OPENING, FILE_GROWING, FILE_WHOLE, FILE_FAILED };

/* The file of one copy. The maker and every session hold a reference, since their work may outlive the
 * server. */
struct copy_file {
    atomic_uint n_refs;
    _Atomic(enum file_state) state;
    int fd; /* for reading; valid from FILE_GROWING on */
    struct copy_info info;
    char *dir, *path;
    int code; /* of FILE_FAILED */
    struct err_ctx err;
};

struct copy_server {
    struct replica *r;
    char *snap_dir;
    struct copy_file *file; /* NULL: none */
    bool is_making, is_removing, ending;
    uint64_t made_ms, used_ms, told_ms;
    struct list sessions;
    unsigned n_sessions;
    struct work work;
};

struct asked {
    uint64_t offset;
    uint32_t length;
};

/* Ranges one behind the other, read by one piece of work: a busy machine makes every change of threads wait.
 */
struct batch {
    struct copy_session *x;
    struct work work;
    struct asked asked[BATCH];
    unsigned n;
    uint8_t *bytes; /* BATCH times COPY_CHUNK */
    size_t n_read[BATCH];
    uint32_t crc[BATCH];
    bool is_last[BATCH];
    unsigned n_done;
    int code; /* why not all of them were read */
};

struct copy_session {
    struct list link;
    struct copy_server *s; /* NULL once the server has ended */
    struct conn *conn;     /* NULL once closed; then only the read keeps this alive */
    uint64_t wanted;
    bool is_waiting;        /* for a copy to be there */
    bool is_asking;         /* its own tables are damaged: somebody decides whether it may */
    struct copy_file *file; /* that it was told of */
    /* Ranges asked for, answered one after the other: who asks bounds what is queued. */
    struct asked asked[COPY_AHEAD + BATCH];
    unsigned n_asked;
    /* One batch is read while the other is sent, a range a turn: the loop has others to serve. */
    struct batch batches[2];
    struct batch *reading, *ready, *sending; /* NULL: none */
    unsigned n_sent;                         /* of sending */
    struct timer turn;
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

static struct copy_file *file_ref(struct copy_file *f)
{
    atomic_fetch_add(&f->n_refs, 1);
    return f;
}

static void file_unref(struct copy_file *f)
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
    file_unref(s->file);
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

static void send_refusal(struct conn *c, int code, const char *text)
{
    struct buf *out = conn_frame_begin(c, FRAME_COPY_FAIL);
    buf_add_u32(out, (uint32_t)code);
    buf_adds(out, text);
    conn_frame_end(c);
}

static void send_fail(struct conn *c, int code)
{
    send_refusal(c, code, "");
}

static void send_info(struct copy_session *x)
{
    struct copy_server *s = x->s;
    x->is_waiting = false;
    file_unref(x->file);
    x->file = file_ref(s->file);
    struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_INFO);
    copy_info_encode(out, &s->file->info);
    conn_frame_end(x->conn);
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
            send_info(x);
        } else if (s->file && s->file->state == FILE_FAILED) {
            x->is_waiting = false;
            send_fail(x->conn, s->file->code);
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
        file_unref(s->file);
        s->file = NULL;
    }
}

static void begin_copy(struct copy_server *s)
{
    if (s->is_making || s->is_removing)
        return;
    file_unref(s->file);
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

static void open_copy(struct copy_session *x, uint64_t wanted)
{
    struct copy_server *s = x->s;
    uint64_t now = replica_now_ms(s->r);
    x->wanted = wanted;
    s->used_ms = now;
    if (s->r->is_fenced) {
        send_refusal(x->conn, ERR_UNAVAILABLE, "its own tables are damaged");
        return;
    }
    if (apply_index(s->r->apply) < wanted) {
        send_fail(x->conn, ERR_AGAIN); /* we are behind ourselves */
        return;
    }
    bool is_fresh = s->is_making || now < s->made_ms + FRESH_MS || in_use(s);
    if (is_usable(s->file) && s->file->info.applied >= wanted && is_fresh) {
        send_info(x);
        return;
    }
    x->is_waiting = true;
    begin_copy(s);
}

/* ---- giving it away ---- */

static void session_free(struct copy_session *x)
{
    file_unref(x->file);
    mem_free(x->batches[0].bytes);
    mem_free(x->batches[1].bytes);
    mem_free(x);
}

/* ERR_AGAIN: not so much is there yet. */
static int await_grown(struct copy_file *f, uint64_t end, uint64_t *size)
{
    for (unsigned i = 0; i < GROW_POLLS; i++) {
        enum file_state state = atomic_load(&f->state); /* before the size: a whole file grows no more */
        struct stat st;
        if (state == FILE_FAILED || fstat(f->fd, &st) != 0)
            return ERR_IO;
        *size = (uint64_t)st.st_size;
        if (state == FILE_WHOLE || *size >= end)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = GROW_POLL_US * 1000}, NULL);
    }
    return ERR_AGAIN;
}

static int read_range(struct batch *b, unsigned i)
{
    const struct asked *a = &b->asked[i];
    struct copy_file *f = b->x->file;
    uint8_t *bytes = b->bytes + (size_t)i * COPY_CHUNK;
    uint64_t size;
    /* One byte more: is this range the last? */
    int code = await_grown(f, a->offset + a->length + 1, &size);
    if (code != 0)
        return code;
    uint64_t left = size > a->offset ? size - a->offset : 0, n = left < a->length ? left : a->length;
    size_t n_read = 0;
    while (n_read < n) {
        ssize_t k = pread(f->fd, bytes + n_read, n - n_read, (off_t)(a->offset + n_read));
        if (k <= 0)
            return ERR_IO;
        n_read += (size_t)k;
    }
    b->n_read[i] = n_read;
    b->is_last[i] = left <= a->length;
    b->crc[i] = crc32c(0, bytes, n_read);
    /* Read once: it must not push the pages of the store itself out of memory. */
    posix_fadvise(f->fd, (off_t)a->offset, (off_t)n, POSIX_FADV_DONTNEED);
    return 0;
}

static void read_work(struct work *w)
{
    struct batch *b = container_of(w, struct batch, work);
    b->code = 0;
    for (b->n_done = 0; b->n_done < b->n && (b->code = read_range(b, b->n_done)) == 0;)
        b->n_done++;
}

/* Ranges that are not there yet are asked for once more, before all others. */
static void put_back(struct copy_session *x, const struct batch *b)
{
    unsigned n = b->n - b->n_done;
    memmove(x->asked + n, x->asked, x->n_asked * sizeof(x->asked[0]));
    memcpy(x->asked, b->asked + b->n_done, n * sizeof(x->asked[0]));
    x->n_asked += n;
}

static void pump(struct copy_session *x);

static void read_done(struct work *w)
{
    struct batch *b = container_of(w, struct batch, work);
    struct copy_session *x = b->x;
    x->reading = NULL;
    if (!x->conn) {
        session_free(x);
        return;
    }
    if (!x->s)
        return;
    x->s->used_ms = replica_now_ms(x->s->r);
    if (b->code == ERR_AGAIN)
        put_back(x, b);
    x->ready = b;
    pump(x);
}

static void read_next(struct copy_session *x)
{
    if (x->reading || x->ready || x->n_asked == 0 || conn_queued(x->conn) > QUEUE_BYTES)
        return;
    struct batch *b = x->sending == &x->batches[0] ? &x->batches[1] : &x->batches[0];
    if (!b->bytes)
        b->bytes = mem_alloc((size_t)BATCH * COPY_CHUNK);
    b->x = x;
    b->n = x->n_asked < BATCH ? x->n_asked : BATCH;
    memcpy(b->asked, x->asked, b->n * sizeof(x->asked[0]));
    x->n_asked -= b->n;
    memmove(x->asked, x->asked + b->n, x->n_asked * sizeof(x->asked[0]));
    x->reading = b;
    b->work = (struct work){read_work, read_done, NULL};
    loop_run_work(x->s->r->loop, &b->work);
}

static void send_range(struct copy_session *x, const struct batch *b, unsigned i)
{
    struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_DATA);
    buf_add_u64(out, b->asked[i].offset);
    buf_add_u32(out, b->crc[i]);
    buf_add_u8(out, b->is_last[i]);
    buf_add(out, b->bytes + (size_t)i * COPY_CHUNK, b->n_read[i]);
    conn_frame_end(x->conn);
}

static void end_batch(struct copy_session *x)
{
    int code = x->sending->code;
    x->sending = NULL;
    if (code != 0 && code != ERR_AGAIN) {
        x->n_asked = 0;
        send_fail(x->conn, code);
    }
}

/* One step of reading and sending; goes on in the next turn while there is something to send. */
static void pump(struct copy_session *x)
{
    if (!x->s || !x->conn)
        return;
    if (!x->sending && x->ready) {
        x->sending = x->ready;
        x->ready = NULL;
        x->n_sent = 0;
        if (x->file != x->s->file) { /* another copy has taken its place */
            x->sending->n_done = 0;
            x->sending->code = ERR_NOTFOUND;
        }
    }
    read_next(x);
    if (x->sending && x->n_sent < x->sending->n_done && conn_queued(x->conn) <= QUEUE_BYTES)
        send_range(x, x->sending, x->n_sent++);
    if (x->sending && x->n_sent == x->sending->n_done)
        end_batch(x);
    if ((x->sending || x->ready) && x->conn && conn_queued(x->conn) <= QUEUE_BYTES)
        timer_start(&x->turn, 0, 0);
}

static void on_session_turn(struct timer *t)
{
    pump(container_of(t, struct copy_session, turn));
}

static void on_drain(void *user, struct conn *c)
{
    pump(user);
}

static void on_get(struct copy_session *x, struct reader *in)
{
    struct asked a;
    a.offset = read_u64(in);
    a.length = read_u32(in);
    if (!x->file || x->file != x->s->file) {
        send_fail(x->conn, ERR_NOTFOUND);
        return;
    }
    if (in->failed || a.length == 0 || a.length > COPY_CHUNK || a.offset > INT64_MAX - COPY_CHUNK ||
        x->n_asked + (x->reading ? x->reading->n : 0) >= COPY_AHEAD) {
        conn_abort(x->conn);
        return;
    }
    x->asked[x->n_asked++] = a;
    pump(x);
}

/* Who says that its tables are damaged takes no part in anything until it has a copy: that is for the layers
 * above to know, and to allow (copy_server_answer). */
static void on_open(struct copy_session *x, struct reader *in)
{
    struct replica *r = x->s->r;
    char text[DAMAGE_TEXT_MAX] = "";
    size_t n = reader_left(in) < sizeof(text) ? reader_left(in) : sizeof(text) - 1;
    if (n)
        memcpy(text, read_bytes(in, n), n);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    x->is_asking = n && r->options.on_peer_damaged && !r->is_fenced;
    if (x->is_asking)
        r->options.on_peer_damaged(r->options.user, conn_node(x->conn), text);
    else
        open_copy(x, x->wanted);
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
            open_copy(x, x->wanted);
        else
            send_refusal(x->conn, code, text);
    }
}

static void on_frame(void *user, struct conn *c, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    struct copy_session *x = user;
    struct reader in;
    reader_init(&in, body, n_bytes);
    if (!x->s)
        return;
    if (type == FRAME_COPY_OPEN && !x->reading) {
        x->wanted = read_u64(&in);
        if (!in.failed)
            on_open(x, &in);
    } else if (type == FRAME_COPY_GET) {
        on_get(x, &in);
    }
}

static void on_close(void *user, struct conn *c, unsigned refusal, const char *detail)
{
    struct copy_session *x = user;
    x->conn = NULL;
    timer_stop(&x->turn);
    if (x->s) {
        list_remove(&x->link);
        x->s->n_sessions--;
    }
    if (!x->reading)
        session_free(x);
}

static const struct conn_events session_events = {
    .on_frame = on_frame, .on_drain = on_drain, .on_close = on_close};

void copy_server_take(struct copy_server *s, struct conn *c)
{
    struct copy_session *x = mem_new(struct copy_session);
    x->s = s;
    x->conn = c;
    timer_init(&x->turn, s->r->loop, on_session_turn);
    list_append(&s->sessions, &x->link);
    s->n_sessions++;
    conn_set_handler(c, &session_events, x);
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
    list_for_each(x, &s->sessions, struct copy_session, link) pump(x);
    if (now_ms >= s->told_ms + WAIT_TELL_MS) {
        s->told_ms = now_ms;
        list_for_each(x, &s->sessions, struct copy_session,
                      link) if (x->is_waiting || x->n_asked || x->reading)
            conn_send(x->conn, FRAME_COPY_WAIT, NULL, 0);
    }
    if (!s->file || s->is_making || now_ms < s->used_ms + IDLE_MS)
        return;
    file_unref(s->file);
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
