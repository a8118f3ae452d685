/* A member that takes a copy of the store from here: what it asks for is read and sent, a range a turn. */
#include "base/htab.h"
#include "replication/copy_impl.h"
#include "replication/damage.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    GROW_POLL_US = 2000,
    GROW_POLLS = 50,       /* then the loop looks whether anybody still wants it */
    QUEUE_BYTES = 4 << 20, /* waiting for the peer: no more is read until it has taken some */
};

static void session_free(struct copy_session *x)
{
    copy_file_unref(x->file);
    mem_free(x->batches[0].bytes);
    mem_free(x->batches[1].bytes);
    mem_free(x);
}

void copy_refuse(struct conn *c, int code, const char *text)
{
    struct buf *out = conn_frame_begin(c, FRAME_COPY_FAIL);
    buf_add_u32(out, (uint32_t)code);
    buf_adds(out, text);
    conn_frame_end(c);
}

void copy_session_tell(struct copy_session *x)
{
    struct copy_server *s = x->s;
    x->is_waiting = false;
    copy_file_unref(x->file);
    x->file = copy_file_ref(s->file);
    struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_INFO);
    copy_info_encode(out, &s->file->info);
    conn_frame_end(x->conn);
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

static int read_range(struct copy_batch *b, unsigned i)
{
    const struct copy_asked *a = &b->asked[i];
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
    struct copy_batch *b = container_of(w, struct copy_batch, work);
    b->code = 0;
    for (b->n_done = 0; b->n_done < b->n && (b->code = read_range(b, b->n_done)) == 0;)
        b->n_done++;
}

/* Ranges that are not there yet are asked for once more, before all others. */
static void put_back(struct copy_session *x, const struct copy_batch *b)
{
    unsigned n = b->n - b->n_done;
    memmove(x->asked + n, x->asked, x->n_asked * sizeof(x->asked[0]));
    memcpy(x->asked, b->asked + b->n_done, n * sizeof(x->asked[0]));
    x->n_asked += n;
}

static void read_done(struct work *w)
{
    struct copy_batch *b = container_of(w, struct copy_batch, work);
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
    copy_session_pump(x);
}

static void read_next(struct copy_session *x)
{
    if (x->reading || x->ready || x->n_asked == 0 || conn_queued(x->conn) > QUEUE_BYTES)
        return;
    struct copy_batch *b = x->sending == &x->batches[0] ? &x->batches[1] : &x->batches[0];
    if (!b->bytes)
        b->bytes = mem_alloc((size_t)COPY_BATCH * COPY_CHUNK);
    b->x = x;
    b->n = x->n_asked < COPY_BATCH ? x->n_asked : COPY_BATCH;
    memcpy(b->asked, x->asked, b->n * sizeof(x->asked[0]));
    x->n_asked -= b->n;
    memmove(x->asked, x->asked + b->n, x->n_asked * sizeof(x->asked[0]));
    x->reading = b;
    b->work = (struct work){read_work, read_done, NULL};
    loop_run_work(x->s->r->loop, &b->work);
}

static void send_range(struct copy_session *x, const struct copy_batch *b, unsigned i)
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
        copy_refuse(x->conn, code, "");
    }
}

void copy_session_pump(struct copy_session *x)
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
    copy_session_pump(container_of(t, struct copy_session, turn));
}

static void on_drain(void *user, struct conn *c)
{
    copy_session_pump(user);
}

static void on_get(struct copy_session *x, struct reader *in)
{
    struct copy_asked a;
    a.offset = read_u64(in);
    a.length = read_u32(in);
    if (!x->file || x->file != x->s->file) {
        copy_refuse(x->conn, ERR_NOTFOUND, "");
        return;
    }
    if (in->failed || a.length == 0 || a.length > COPY_CHUNK || a.offset > INT64_MAX - COPY_CHUNK ||
        x->n_asked + (x->reading ? x->reading->n : 0) >= COPY_AHEAD) {
        conn_abort(x->conn);
        return;
    }
    x->asked[x->n_asked++] = a;
    copy_session_pump(x);
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
        copy_server_open(x, x->wanted);
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

void copy_session_new(struct copy_server *s, struct conn *c)
{
    struct copy_session *x = mem_new(struct copy_session);
    x->s = s;
    x->conn = c;
    timer_init(&x->turn, s->r->loop, on_session_turn);
    list_append(&s->sessions, &x->link);
    s->n_sessions++;
    conn_set_handler(c, &session_events, x);
}
