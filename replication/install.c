/* Takes over a snapshot: fetches a copy of the store from a healthy member by ranges, each with its CRC, so
 * that a cut stream goes on where it was; verifies all hashes; makes it durable with a marker; and ends the
 * process. The next start goes on with it. Meanwhile the core applies nothing. Raft thread; disk work runs on
 * the loop's pool. */
#include "replication/install.h"

#include "base/clock.h"
#include "base/htab.h"
#include "replication/copy_files.h"
#include "replication/replica_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ASKED_AHEAD = 3, SILENCE_MS = 15000, RETRY_MS = 500, SAME_SOURCE = 5 };

enum install_state {
    INSTALL_IDLE,    /* waits for the next attempt */
    INSTALL_OPENING, /* dialled, asks for a copy */
    INSTALL_COPYING,
    INSTALL_VERIFYING,
    INSTALL_DONE, /* the process is about to end */
};

struct install {
    struct replica *r; /* NULL: ended; the work under way frees this */
    enum install_state state;
    uint64_t wanted;
    bool is_repair; /* asked for by a person: the node goes on meanwhile */
    char *root, *dir;
    struct conn *conn;
    uint32_t source; /* of the copy begun */
    unsigned attempt, same_source;
    uint64_t retry_ms, heard_ms;

    bool has_info;
    struct copy_info info;
    /* next to ask for, and next to write; ranges come in the order asked */
    unsigned ask_file, write_file, n_asked;
    uint64_t ask_offset, write_offset;
    uint64_t n_done, n_total;

    /* one piece of work at a time; ranges that come meanwhile wait */
    bool is_working;
    struct work work;
    struct piece *pieces, *last_piece;
    int code;
    struct err_ctx err;
    struct store_position position; /* of the copy; its conf only while it is verified */
};

struct piece {
    struct piece *next;
    unsigned file;
    uint64_t offset;
    uint32_t crc, n;
    uint8_t bytes[];
};

static void drop_pieces(struct install *x)
{
    for (struct piece *p = x->pieces, *next; p; p = next) {
        next = p->next;
        mem_free(p);
    }
    x->pieces = x->last_piece = NULL;
}

static void install_free(struct install *x)
{
    drop_pieces(x);
    mem_free(x->root);
    mem_free(x->dir);
    mem_free(x);
}

/* ---- writing ---- */

static void write_next(struct install *x);
static void verify(struct install *x);

static void write_work(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    const struct piece *p = x->pieces;
    x->code = 0;
    if (crc32c(0, p->bytes, p->n) != p->crc) {
        x->code = err_set(&x->err, ERR_CORRUPT, "a range came with a wrong checksum");
        return;
    }
    char *path = mem_printf("%s/%s", x->dir, x->info.files[p->file].name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, p->bytes, p->n, (off_t)p->offset) != (ssize_t)p->n)
        x->code = err_set(&x->err, ERR_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    mem_free(path);
}

/* Empty files have no range. */
static void skip_written(struct install *x)
{
    while (x->write_file < x->info.n && x->write_offset >= x->info.files[x->write_file].size) {
        x->write_file++;
        x->write_offset = 0;
    }
}

static void give_up_source(struct install *x, const char *why)
{
    log_notice(x->r->log, "install: %s; trying again", why);
    if (x->conn)
        conn_abort(x->conn);
}

static void ask_more(struct install *x);

static void write_done(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    x->is_working = false;
    if (!x->r) {
        install_free(x);
        return;
    }
    struct piece *p = x->pieces;
    if (!p)
        return; /* the source was given up meanwhile */
    x->pieces = p->next;
    if (!x->pieces)
        x->last_piece = NULL;
    if (x->code == ERR_CORRUPT) {
        mem_free(p);
        give_up_source(x, x->err.text);
        return;
    }
    if (x->code != 0) {
        replica_fatal(x->r, true, "installing a copy of the store: %s", x->err.text);
        mem_free(p);
        x->state = INSTALL_DONE;
        return;
    }
    x->write_offset += p->n;
    x->n_done += p->n;
    mem_free(p);
    skip_written(x);
    if (x->write_file == x->info.n) {
        verify(x);
    } else {
        write_next(x);
        ask_more(x);
    }
}

static void write_next(struct install *x)
{
    if (x->is_working || !x->pieces)
        return;
    x->is_working = true;
    x->work = (struct work){write_work, write_done, NULL};
    loop_run_work(x->r->loop, &x->work);
}

/* ---- the end: sync, verify, marker ---- */

static int sync_all(struct install *x)
{
    int code = 0;
    for (unsigned i = 0; i < x->info.n && code == 0; i++) {
        char *path = mem_printf("%s/%s", x->dir, x->info.files[i].name);
        if (x->info.files[i].size == 0) {
            int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            if (fd >= 0)
                close(fd);
        }
        code = copy_sync_path(path);
        mem_free(path);
    }
    return code == 0 ? copy_sync_path(x->dir) : code;
}

static void verify_work(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    struct arena arena;
    arena_init(&arena);
    x->code = sync_all(x);
    if (x->code != 0)
        err_set(&x->err, x->code, "%s: %s", x->dir, strerror(errno));
    else
        x->code = store_verify_copy(x->dir, &x->position, &arena, &x->err);
    if (x->code == 0 && x->position.applied_index < x->wanted)
        x->code = err_set(&x->err, ERR_CORRUPT, "the copy is older than it was said to be");
    if (x->code == 0)
        x->code = install_write_marker(x->root, &x->position, &x->err);
    x->position.conf = NULL; /* the arena's */
    arena_fini(&arena);
}

static void start_over(struct install *x)
{
    x->has_info = false;
    x->n_done = x->n_total = 0;
    drop_pieces(x);
    copy_remove_dir(x->dir);
}

static void verify_done(struct work *w)
{
    struct install *x = container_of(w, struct install, work);
    x->is_working = false;
    if (!x->r) {
        install_free(x);
        return;
    }
    if (x->code == 0) {
        x->state = INSTALL_DONE;
        log_notice(x->r->log, "took over a copy of the store at %llu",
                   (unsigned long long)x->position.applied_index);
        x->r->options.on_fatal(x->r->options.user, true, "starting again with a new copy of the store");
    } else if (x->code == ERR_CORRUPT) {
        log_error(x->r->log, "install: %s", x->err.text);
        start_over(x);
        x->state = INSTALL_IDLE;
        x->retry_ms = replica_now_ms(x->r) + RETRY_MS;
    } else {
        x->state = INSTALL_DONE;
        replica_fatal(x->r, true, "installing a copy of the store: %s", x->err.text);
    }
}

static void verify(struct install *x)
{
    x->state = INSTALL_VERIFYING;
    if (x->conn)
        conn_abort(x->conn);
    x->is_working = true;
    x->work = (struct work){verify_work, verify_done, NULL};
    loop_run_work(x->r->loop, &x->work);
}

/* ---- the connection ---- */

static void ask_more(struct install *x)
{
    while (x->conn && x->n_asked < ASKED_AHEAD && x->ask_file < x->info.n) {
        uint64_t left = x->info.files[x->ask_file].size - x->ask_offset;
        uint32_t n = left > COPY_CHUNK ? COPY_CHUNK : (uint32_t)left;
        if (n == 0) {
            x->ask_file++;
            x->ask_offset = 0;
            continue;
        }
        struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_GET);
        buf_add_u16(out, (uint16_t)x->ask_file);
        buf_add_u64(out, x->ask_offset);
        buf_add_u32(out, n);
        conn_frame_end(x->conn);
        x->ask_offset += n;
        x->n_asked++;
    }
}

static void on_info(struct install *x, const uint8_t *body, size_t n_bytes)
{
    struct copy_info info;
    if (x->state != INSTALL_OPENING || copy_info_decode(&info, body, n_bytes) != 0 ||
        info.applied < x->wanted) {
        give_up_source(x, "unusable offer of a copy");
        return;
    }
    if (!x->has_info || memcmp(info.id, x->info.id, sizeof(info.id)) != 0) {
        start_over(x);
        if (mkdir(x->dir, 0700) != 0) {
            replica_fatal(x->r, true, "%s: %s", x->dir, strerror(errno));
            x->state = INSTALL_DONE;
            return;
        }
        x->info = info;
        x->has_info = true;
        x->source = conn_node(x->conn);
        x->same_source = 0;
        x->write_file = 0;
        x->write_offset = 0;
        for (unsigned i = 0; i < info.n; i++)
            x->n_total += info.files[i].size;
        log_notice(x->r->log, "taking over a copy of the store at %llu from node %u, %llu bytes",
                   (unsigned long long)info.applied, conn_node(x->conn), (unsigned long long)x->n_total);
    }
    x->state = INSTALL_COPYING;
    skip_written(x);
    x->ask_file = x->write_file;
    x->ask_offset = x->write_offset;
    x->n_asked = 0;
    if (x->write_file == x->info.n)
        verify(x);
    else
        ask_more(x);
}

static void on_piece(struct install *x, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    unsigned file = read_u16(&r);
    uint64_t offset = read_u64(&r);
    uint32_t crc = read_u32(&r);
    size_t n = reader_left(&r);
    const struct piece *last = x->last_piece;
    /* Exactly the range that was asked for: behind what waits to be written. */
    unsigned want_file = last ? last->file : x->write_file;
    uint64_t want_offset = last ? last->offset + last->n : x->write_offset;
    while (want_file < x->info.n && want_offset >= x->info.files[want_file].size) {
        want_file++;
        want_offset = 0;
    }
    if (r.failed || x->n_asked == 0 || n == 0 || n > COPY_CHUNK || file != want_file ||
        offset != want_offset || n > x->info.files[file].size - offset) {
        give_up_source(x, "a range that was not asked for");
        return;
    }
    struct piece *p = mem_alloc(sizeof(*p) + n);
    *p = (struct piece){.file = file, .offset = offset, .crc = crc, .n = (uint32_t)n};
    memcpy(p->bytes, read_bytes(&r, n), n);
    if (x->last_piece)
        x->last_piece->next = p;
    else
        x->pieces = p;
    x->last_piece = p;
    x->n_asked--;
    write_next(x);
}

static void on_hello(void *user, struct conn *c, const struct conn_hello *hello)
{
    struct install *x = user;
    uint8_t body[8];
    for (unsigned i = 0; i < 8; i++)
        body[i] = (uint8_t)(x->wanted >> 8 * i);
    conn_send(c, FRAME_COPY_OPEN, body, sizeof(body));
}

static void on_frame(void *user, struct conn *c, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    struct install *x = user;
    if (!x->r || x->conn != c)
        return;
    x->heard_ms = replica_now_ms(x->r);
    if (type == FRAME_COPY_INFO)
        on_info(x, body, n_bytes);
    else if (type == FRAME_COPY_DATA && x->state == INSTALL_COPYING)
        on_piece(x, body, n_bytes);
    else if (type == FRAME_COPY_FAIL)
        give_up_source(x, "the source has no copy to give");
}

static void on_close(void *user, struct conn *c, unsigned refusal, const char *detail)
{
    struct install *x = user;
    x->conn = NULL;
    if (!x->r) {
        if (!x->is_working)
            install_free(x);
        return;
    }
    if (x->state != INSTALL_OPENING && x->state != INSTALL_COPYING)
        return;
    log_info(x->r->log, "install: connection to node %u: %s", conn_node(c), detail);
    /* A piece being written stays first in the list; what is behind it is asked for again. */
    if (x->pieces && x->is_working) {
        for (struct piece *p = x->pieces->next, *next; p; p = next) {
            next = p->next;
            mem_free(p);
        }
        x->pieces->next = NULL;
        x->last_piece = x->pieces;
    } else {
        drop_pieces(x);
    }
    x->state = INSTALL_IDLE;
    x->attempt++;
    x->retry_ms = replica_now_ms(x->r) + RETRY_MS;
}

static const struct conn_events events = {.on_hello = on_hello, .on_frame = on_frame, .on_close = on_close};

/* Followers first, they have less to do; the leader, who certainly has what is wanted, when no other gave it.
 * With a copy begun, its source first. */
static bool choose_source(struct install *x, uint32_t *node)
{
    struct replica *r = x->r;
    struct transport_info links[TRANSPORT_MAX_PEERS];
    uint32_t candidates[TRANSPORT_MAX_PEERS + 2], leader = (uint32_t)r->status.leader;
    bool has_leader = leader && transport_is_up(r->transport, leader);
    unsigned n = 0, n_links = transport_get_info(r->transport, links, TRANSPORT_MAX_PEERS);
    if (has_leader && x->is_repair)
        candidates[n++] = leader;
    for (unsigned i = 0; i < n_links; i++)
        if (links[i].connected && links[i].node != leader)
            candidates[n++] = links[i].node;
    if (has_leader && !x->is_repair)
        candidates[n++] = leader;
    if (x->has_info && x->same_source < SAME_SOURCE && transport_is_up(r->transport, x->source)) {
        x->same_source++;
        *node = x->source;
        return true;
    }
    if (n == 0)
        return false;
    *node = candidates[x->attempt % n];
    return true;
}

static void dial(struct install *x)
{
    struct replica *r = x->r;
    const char *address;
    uint16_t port;
    uint32_t node;
    x->retry_ms = replica_now_ms(r) + RETRY_MS;
    /* A write that is under way would land in the middle of the next attempt. */
    if (x->is_working || !choose_source(x, &node) ||
        !transport_get_address(r->transport, node, &address, &port))
        return;
    struct conn_hello hello = {.node = r->options.node_id, .purpose = CONN_COPY};
    memcpy(hello.cluster_id, r->options.cluster_id, 16);
    memcpy(hello.nonce, r->options.start_nonce, 16);
    x->state = INSTALL_OPENING;
    x->heard_ms = replica_now_ms(r);
    x->conn = conn_dial(r->loop, address, port, transport_tls(r->transport), node, replica_identify, r,
                        &hello, &events, x);
}

void install_begin(struct replica *r, uint64_t wanted, bool is_repair)
{
    if (r->install) {
        if (wanted > r->install->wanted)
            r->install->wanted = wanted;
        return;
    }
    struct install *x = mem_new(struct install);
    x->r = r;
    x->wanted = wanted;
    x->is_repair = is_repair;
    x->root = mem_strdup(r->dir);
    x->dir = mem_printf("%s/" INSTALL_DIR, r->dir);
    copy_remove_dir(x->dir);
    r->install = x; /* install_tick begins */
    log_notice(r->log, "%s: a copy of the store is needed (%llu or later)",
               is_repair ? "repair" : "the leader's log no longer reaches back to ours",
               (unsigned long long)wanted);
}

void install_tick(struct replica *r, uint64_t now_ms)
{
    struct install *x = r->install;
    if (!x)
        return;
    if (x->state == INSTALL_IDLE && now_ms >= x->retry_ms)
        dial(x);
    else if ((x->state == INSTALL_OPENING || x->state == INSTALL_COPYING) && x->conn && !x->is_working &&
             now_ms > x->heard_ms + SILENCE_MS)
        give_up_source(x, "the source is silent");
}

void install_end(struct replica *r)
{
    struct install *x = r->install;
    if (!x)
        return;
    r->install = NULL;
    x->r = NULL;
    if (x->conn)
        conn_abort(x->conn); /* its end frees this */
    else if (!x->is_working)
        install_free(x);
}

void install_progress(const struct replica *r, uint64_t *done, uint64_t *total)
{
    *done = r->install ? r->install->n_done : 0;
    *total = r->install ? r->install->n_total : 0;
}
