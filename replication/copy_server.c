/* Gives copies of the store to members that must install one. One copy at a time is made in DIR/snap, shared
 * by all who ask, and deleted after ten idle minutes. Raft thread; disk work runs on the loop's pool. */
#include "base/clock.h"
#include "base/htab.h"
#include "replication/copy_files.h"
#include "replication/replica_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IDLE_MS = 10 * 60 * 1000, FRESH_MS = 60 * 1000, MAX_SESSIONS = 8, MAX_ASKED = 4 };

enum copy_state { COPY_NONE, COPY_MAKING, COPY_READY };

struct copy_server {
    struct replica *r;
    char *snap_dir, *dir;
    enum copy_state state;
    struct copy_info info;
    uint64_t made_ms, used_ms;
    struct list sessions;
    unsigned n_sessions;
    bool ending;
    /* while COPY_MAKING */
    struct work work;
    int code;
    struct err_ctx err;
};

struct asked {
    unsigned file;
    uint64_t offset;
    uint32_t length;
};

struct copy_session {
    struct list link;
    struct copy_server *s; /* NULL once the server has ended */
    struct conn *conn;     /* NULL once closed; then only the read keeps this alive */
    uint64_t wanted;
    bool is_waiting; /* for the copy to be made */
    uint8_t id[16];  /* of the copy it was told of */
    /* Ranges asked for, answered one after the other: who asks bounds what is queued. */
    struct asked asked[MAX_ASKED];
    unsigned n_asked;
    bool is_reading;
    struct work work;
    char *path;
    struct asked reading;
    uint8_t *bytes;
    uint32_t crc;
    int code;
};

struct copy_server *copy_server_new(struct replica *r)
{
    struct copy_server *s = mem_new(struct copy_server);
    s->r = r;
    s->snap_dir = mem_printf("%s/snap", r->dir);
    s->dir = mem_printf("%s/snap/copy", r->dir);
    list_init(&s->sessions);
    copy_remove_dir(s->snap_dir); /* of an earlier life */
    return s;
}

static void server_free(struct copy_server *s)
{
    mem_free(s->snap_dir);
    mem_free(s->dir);
    mem_free(s);
}

/* ---- making the copy ---- */

static void make_work(struct work *w)
{
    struct copy_server *s = container_of(w, struct copy_server, work);
    copy_remove_dir(s->snap_dir);
    if (mkdir(s->snap_dir, 0700) != 0 && errno != EEXIST) {
        s->code = err_set(&s->err, ERR_IO, "%s: %s", s->snap_dir, strerror(errno));
        return;
    }
    s->code = store_copy(s->r->options.store, s->dir, &s->info.applied, &s->err);
    if (s->code == 0)
        s->code = copy_list(&s->info, s->dir, &s->err);
}

static void send_fail(struct conn *c, int code)
{
    struct buf *out = conn_frame_begin(c, FRAME_COPY_FAIL);
    buf_add_u32(out, (uint32_t)code);
    conn_frame_end(c);
}

static void send_info(struct copy_session *x)
{
    struct copy_server *s = x->s;
    x->is_waiting = false;
    if (s->info.applied < x->wanted) {
        send_fail(x->conn, ERR_AGAIN); /* we are behind ourselves */
        return;
    }
    memcpy(x->id, s->info.id, sizeof(x->id));
    struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_INFO);
    copy_info_encode(out, &s->info);
    conn_frame_end(x->conn);
}

static void make_done(struct work *w)
{
    struct copy_server *s = container_of(w, struct copy_server, work);
    if (s->ending) {
        copy_remove_dir(s->snap_dir);
        server_free(s);
        return;
    }
    uint64_t now = replica_now_ms(s->r);
    s->state = s->code == 0 ? COPY_READY : COPY_NONE;
    s->made_ms = s->used_ms = now;
    random_bytes(s->info.id, sizeof(s->info.id));
    if (s->code == 0)
        log_info(s->r->log, "made a copy of the store at %llu", (unsigned long long)s->info.applied);
    else
        log_error(s->r->log, "copy of the store: %s", s->err.text);
    struct copy_session *x;
    list_for_each(x, &s->sessions, struct copy_session, link)
    {
        if (!x->is_waiting)
            continue;
        if (s->code == 0) {
            send_info(x);
        } else {
            x->is_waiting = false;
            send_fail(x->conn, s->code);
        }
    }
}

static bool in_use(const struct copy_server *s)
{
    struct copy_session *x;
    list_for_each(x, &s->sessions, struct copy_session,
                  link) if (!x->is_waiting && memcmp(x->id, s->info.id, sizeof(x->id)) == 0) return true;
    return false;
}

static void open_copy(struct copy_session *x, uint64_t wanted)
{
    struct copy_server *s = x->s;
    uint64_t now = replica_now_ms(s->r);
    x->wanted = wanted;
    s->used_ms = now;
    if (apply_index(s->r->apply) < wanted) {
        send_fail(x->conn, ERR_AGAIN);
        return;
    }
    if (s->state == COPY_READY && s->info.applied >= wanted && (now < s->made_ms + FRESH_MS || in_use(s))) {
        send_info(x);
        return;
    }
    x->is_waiting = true;
    if (s->state == COPY_MAKING)
        return;
    s->state = COPY_MAKING;
    s->err = (struct err_ctx){0};
    s->work = (struct work){make_work, make_done, NULL};
    loop_run_work(s->r->loop, &s->work);
}

/* ---- giving it away ---- */

static void session_free(struct copy_session *x)
{
    mem_free(x->path);
    mem_free(x->bytes);
    mem_free(x);
}

static void read_work(struct work *w)
{
    struct copy_session *x = container_of(w, struct copy_session, work);
    int fd = open(x->path, O_RDONLY | O_CLOEXEC);
    x->code = ERR_IO;
    if (fd < 0)
        return;
    size_t n = 0;
    while (n < x->reading.length) {
        ssize_t k = pread(fd, x->bytes + n, x->reading.length - n, (off_t)(x->reading.offset + n));
        if (k <= 0)
            break;
        n += (size_t)k;
    }
    close(fd);
    if (n == x->reading.length)
        x->code = 0;
    x->crc = crc32c(0, x->bytes, n);
}

static void read_next(struct copy_session *x);

/* Another copy may have been made since: its bytes are not to be mixed with those that the peer has. */
static bool has_its_copy(const struct copy_session *x)
{
    return x->s && x->s->state == COPY_READY && memcmp(x->id, x->s->info.id, sizeof(x->id)) == 0;
}

static void read_done(struct work *w)
{
    struct copy_session *x = container_of(w, struct copy_session, work);
    x->is_reading = false;
    if (!x->conn) {
        session_free(x);
        return;
    }
    if (x->s)
        x->s->used_ms = replica_now_ms(x->s->r);
    if (x->code != 0 || !has_its_copy(x)) {
        x->n_asked = 0;
        send_fail(x->conn, x->code ? x->code : ERR_NOTFOUND);
        return;
    }
    struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_DATA);
    buf_add_u16(out, (uint16_t)x->reading.file);
    buf_add_u64(out, x->reading.offset);
    buf_add_u32(out, x->crc);
    buf_add(out, x->bytes, x->reading.length);
    conn_frame_end(x->conn);
    read_next(x);
}

static void read_next(struct copy_session *x)
{
    struct copy_server *s = x->s;
    if (!s || x->is_reading || x->n_asked == 0)
        return;
    x->reading = x->asked[0];
    memmove(x->asked, x->asked + 1, --x->n_asked * sizeof(x->asked[0]));
    if (!x->bytes)
        x->bytes = mem_alloc(COPY_CHUNK);
    mem_free(x->path);
    x->path = mem_printf("%s/%s", s->dir, s->info.files[x->reading.file].name);
    x->is_reading = true;
    x->work = (struct work){read_work, read_done, NULL};
    loop_run_work(s->r->loop, &x->work);
}

static void on_get(struct copy_session *x, struct reader *in)
{
    struct copy_server *s = x->s;
    struct asked a = {.file = read_u16(in)};
    a.offset = read_u64(in);
    a.length = read_u32(in);
    if (!has_its_copy(x)) {
        send_fail(x->conn, ERR_NOTFOUND); /* another copy has been made meanwhile */
        return;
    }
    if (in->failed || a.file >= s->info.n || a.length == 0 || a.length > COPY_CHUNK ||
        x->n_asked == MAX_ASKED || a.offset > s->info.files[a.file].size ||
        a.length > s->info.files[a.file].size - a.offset) {
        conn_abort(x->conn);
        return;
    }
    x->asked[x->n_asked++] = a;
    read_next(x);
}

static void on_frame(void *user, struct conn *c, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    struct copy_session *x = user;
    struct reader in;
    reader_init(&in, body, n_bytes);
    if (!x->s)
        return;
    if (type == FRAME_COPY_OPEN) {
        uint64_t wanted = read_u64(&in);
        if (!in.failed)
            open_copy(x, wanted);
    } else if (type == FRAME_COPY_GET) {
        on_get(x, &in);
    }
}

static void on_close(void *user, struct conn *c, unsigned refusal, const char *detail)
{
    struct copy_session *x = user;
    x->conn = NULL;
    if (x->s) {
        list_remove(&x->link);
        x->s->n_sessions--;
    }
    if (!x->is_reading)
        session_free(x);
}

static const struct conn_events session_events = {.on_frame = on_frame, .on_close = on_close};

void copy_server_take(struct copy_server *s, struct conn *c)
{
    struct copy_session *x = mem_new(struct copy_session);
    x->s = s;
    x->conn = c;
    list_append(&s->sessions, &x->link);
    s->n_sessions++;
    conn_set_handler(c, &session_events, x);
    if (s->n_sessions > MAX_SESSIONS || !configuration_find(&s->r->status.conf, conn_node(c)))
        conn_abort(c);
    else
        conn_welcome(c);
}

void copy_server_tick(struct copy_server *s, uint64_t now_ms)
{
    if (s->state != COPY_READY || now_ms < s->used_ms + IDLE_MS)
        return;
    s->state = COPY_NONE;
    copy_remove_dir(s->snap_dir);
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
    if (s->state == COPY_MAKING) {
        s->ending = true; /* its end frees it */
        return;
    }
    copy_remove_dir(s->snap_dir);
    server_free(s);
}
