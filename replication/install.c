/* Takes over a snapshot: fetches a copy of the store from a healthy member by ranges, each with its CRC, so
 * that a cut stream goes on where it was; verifies all hashes; makes it durable with a marker; and ends the
 * process. The next start goes on with it. Meanwhile the core applies nothing. Raft thread; disk work in
 * install_disk.c. */
#include "replication/install.h"

#include "base/clock.h"
#include "replication/install_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    SILENCE_MS = 15000,
    RETRY_MS = 500,
    RETRY_MAX_MS = 4000,
    SAME_SOURCE = 5,
    MEASURE_MS = 1000,
    TELL_MS = 5000,
};

/* ---- giving up, starting over ---- */

static void set_trouble(struct install *x, const char *why)
{
    if (strcmp(x->trouble, why) != 0)
        log_notice(x->r->log, "copy of the store: %s; trying again", why);
    snprintf(x->trouble, sizeof(x->trouble), "%s", why);
}

static void give_up_source(struct install *x, const char *why)
{
    set_trouble(x, why);
    if (x->conn)
        conn_abort(x->conn);
}

/* Longer from time to time: what is wrong may last, a full disk for one. */
static void retry_later(struct install *x)
{
    unsigned wait = RETRY_MS << (x->n_failures > 4 ? 4 : x->n_failures);
    x->n_failures++;
    x->state = INSTALL_IDLE;
    x->retry_ms = replica_now_ms(x->r) + (wait > RETRY_MAX_MS ? RETRY_MAX_MS : wait);
}

static void start_over(struct install *x)
{
    x->has_info = false;
    x->must_reset = true;
    x->ask_offset = x->write_offset = 0;
    install_drop_pieces(x);
}

/* ---- what the work has come to ---- */

static void ask_more(struct install *x);

void install_on_bad_range(struct install *x)
{
    give_up_source(x, x->err.text);
}

void install_on_written(struct install *x, uint64_t n_bytes, bool is_last)
{
    x->write_offset += n_bytes;
    x->n_failures = 0;
    x->trouble[0] = 0;
    if (!is_last) {
        install_write_next(x);
        ask_more(x);
        return;
    }
    log_notice(x->r->log, "copy of the store: all %" PRIu64 " MiB are here after %.1f s; verifying",
               x->write_offset >> 20, (double)(replica_now_ms(x->r) - x->began_ms) / 1e3);
    x->state = INSTALL_VERIFYING;
    if (x->conn)
        conn_abort(x->conn);
    install_verify(x);
}

void install_on_verified(struct install *x)
{
    if (x->code == 0) {
        x->state = INSTALL_DONE;
        log_notice(x->r->log, "took over a copy of the store at %" PRIu64 ", %.1f s after it began",
                   x->position.applied_index, (double)(replica_now_ms(x->r) - x->began_ms) / 1e3);
        x->r->options.on_fatal(x->r->options.user, true, "starting again with a new copy of the store");
    } else if (x->code == ERR_CORRUPT) {
        /* Its rows may have been damaged there: the source looks, and we ask somebody else. */
        log_error(x->r->log, "copy of the store: %s; taking another", x->err.text);
        transport_send(x->r->transport, x->source, FRAME_COPY_BAD, NULL, 0);
        start_over(x);
        x->err = (struct err_ctx){0};
        x->same_source = SAME_SOURCE; /* from somebody else, if there is one */
        x->attempt++;
        retry_later(x);
    } else {
        x->state = INSTALL_DONE;
        replica_fatal(x->r, true, "installing a copy of the store: %s", x->err.text);
    }
}

/* ---- the connection ---- */

static void ask_more(struct install *x)
{
    /* What waits to be written counts too: that bounds the memory. */
    while (x->conn && x->state == INSTALL_COPYING &&
           x->ask_offset < x->write_offset + (uint64_t)COPY_AHEAD * COPY_CHUNK) {
        struct buf *out = conn_frame_begin(x->conn, FRAME_COPY_GET);
        buf_add_u64(out, x->ask_offset);
        buf_add_u32(out, COPY_CHUNK);
        conn_frame_end(x->conn);
        x->ask_offset += COPY_CHUNK;
        x->n_asked++;
    }
}

/* It would end this node, or take the space that the log needs. */
static bool has_room(struct install *x, const struct copy_info *info)
{
    char text[160];
    uint64_t n_free = copy_free_bytes(x->root), n_need = copy_room(info->n_bytes);
    n_need -= n_need > x->write_offset ? x->write_offset : n_need; /* is there, or is given back first */
    if (n_free >= n_need)
        return true;
    snprintf(text, sizeof(text),
             "not enough disk for it in %.60s: %" PRIu64 " MiB are needed, %" PRIu64 " MiB are free", x->root,
             n_need >> 20, n_free >> 20);
    give_up_source(x, text);
    return false;
}

static void begin_copy(struct install *x, const struct copy_info *info)
{
    start_over(x);
    x->info = *info;
    x->has_info = true;
    x->source = conn_node(x->conn);
    x->same_source = 0;
    x->began_ms = x->measured_ms = x->told_ms = replica_now_ms(x->r);
    x->measured_bytes = x->bytes_per_s = 0;
    log_notice(x->r->log,
               "taking over a copy of the store from node %u, at %" PRIu64 " or later, about %" PRIu64 " MiB",
               x->source, info->applied, info->n_bytes >> 20);
}

static void on_info(struct install *x, const uint8_t *body, size_t n_bytes)
{
    struct copy_info info;
    if (x->state != INSTALL_OPENING || copy_info_decode(&info, body, n_bytes) != 0 ||
        info.applied < x->wanted) {
        give_up_source(x, "unusable offer of a copy");
        return;
    }
    bool is_same = x->has_info && memcmp(info.id, x->info.id, sizeof(info.id)) == 0;
    if (!has_room(x, &info))
        return;
    if (!is_same)
        begin_copy(x, &info);
    else
        log_notice(x->r->log, "copy of the store: going on at %" PRIu64 " of %" PRIu64 " MiB",
                   x->write_offset >> 20, x->info.n_bytes >> 20);
    x->state = INSTALL_COPYING;
    x->ask_offset = x->write_offset;
    x->n_asked = 0;
    x->has_last = false;
    ask_more(x);
}

static void on_piece(struct install *x, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    uint64_t offset = read_u64(&r);
    uint32_t crc = read_u32(&r);
    bool is_last = read_u8(&r);
    size_t n = reader_left(&r);
    if (x->has_last)
        return; /* ranges behind the end, asked for before it was known */
    /* Exactly the range that was asked for: behind what is here. */
    if (r.failed || x->n_asked == 0 || n > COPY_CHUNK || (n != COPY_CHUNK && !is_last) ||
        offset != install_next_offset(x) || (n == 0 && offset == 0)) {
        give_up_source(x, "a range that was not asked for");
        return;
    }
    x->has_last = is_last;
    struct piece *p = mem_alloc(sizeof(*p) + n);
    *p = (struct piece){.offset = offset, .crc = crc, .n = (uint32_t)n, .is_last = is_last};
    memcpy(p->bytes, read_bytes(&r, n), n);
    if (x->last_piece)
        x->last_piece->next = p;
    else
        x->pieces = p;
    x->last_piece = p;
    x->n_asked--;
    install_write_next(x);
}

static void on_fail(struct install *x, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    char text[300], why[200] = "";
    reader_init(&r, body, n_bytes);
    int code = (int)read_u32(&r);
    size_t n = reader_left(&r) < sizeof(why) ? reader_left(&r) : sizeof(why) - 1;
    if (n && !r.failed)
        memcpy(why, read_bytes(&r, n), n);
    snprintf(text, sizeof(text), "node %u has none to give: %s", conn_node(x->conn),
             why[0]                 ? why
             : code == ERR_AGAIN    ? "it is behind itself"
             : code == ERR_NOTFOUND ? "it has begun another one"
                                    : err_text(code));
    if (code != ERR_NOTFOUND)
        x->same_source = SAME_SOURCE; /* the next attempt asks another one */
    give_up_source(x, text);
}

static void on_hello(void *user, struct conn *c, const struct conn_hello *hello)
{
    struct install *x = user;
    if (!x->r || x->conn != c)
        return;
    struct buf *out = conn_frame_begin(c, FRAME_COPY_OPEN);
    buf_add_u64(out, x->wanted);
    if (x->r->damage)
        buf_adds(out, x->r->damage);
    conn_frame_end(c);
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
        on_fail(x, body, n_bytes);
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
    log_info(x->r->log, "copy of the store: connection to node %u: %s", conn_node(c), detail);
    if (!x->trouble[0])
        snprintf(x->trouble, sizeof(x->trouble), "the connection to node %u was cut", conn_node(c));
    /* What is being written stays; what is behind it is asked for again. */
    install_drop_pieces(x);
    x->attempt++;
    retry_later(x);
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

/* ---- life ---- */

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
    x->fd = -1;
    x->must_reset = true;
    r->install = x; /* install_tick begins */
    log_notice(r->log, "%s: a copy of the store is needed (%" PRIu64 " or later)",
               is_repair ? "repair" : "the leader's log no longer reaches back to ours", wanted);
}

/* ---- progress ---- */

static void measure(struct install *x, uint64_t now_ms)
{
    if (x->state != INSTALL_COPYING || now_ms < x->measured_ms + MEASURE_MS)
        return;
    uint64_t n = x->write_offset - x->measured_bytes, rate = n * 1000 / (now_ms - x->measured_ms);
    x->bytes_per_s = x->bytes_per_s ? (3 * x->bytes_per_s + rate) / 4 : rate;
    x->measured_ms = now_ms;
    x->measured_bytes = x->write_offset;
}

static void tell(struct install *x, uint64_t now_ms)
{
    if (x->state == INSTALL_DONE || !x->has_info || now_ms < x->told_ms + TELL_MS)
        return;
    struct replica_status status = {.installing = true};
    char text[REPLICA_INSTALL_TEXT];
    x->told_ms = now_ms;
    install_progress(x->r, &status);
    replica_install_text(&status, text, sizeof(text));
    log_notice(x->r->log, "copy of the store: %s", text);
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
    measure(x, now_ms);
    tell(x, now_ms);
}

void install_progress(const struct replica *r, struct replica_status *out)
{
    const struct install *x = r->install;
    out->install_step = REPLICA_INSTALL_ASKING;
    if (!x)
        return;
    if (x->has_info)
        out->install_step = x->state == INSTALL_VERIFYING || x->state == INSTALL_DONE
                                ? REPLICA_INSTALL_VERIFYING
                                : REPLICA_INSTALL_COPYING;
    out->install_done = x->write_offset;
    out->install_total = x->info.n_bytes > x->write_offset || out->install_step == REPLICA_INSTALL_COPYING
                             ? x->info.n_bytes
                             : x->write_offset;
    out->install_rate = x->bytes_per_s;
    out->install_source = x->conn || x->has_info ? (x->conn ? conn_node(x->conn) : x->source) : 0;
    snprintf(out->install_trouble, sizeof(out->install_trouble), "%s", x->trouble);
}

void replica_install_text(const struct replica_status *s, char *out, size_t size)
{
    uint64_t done = s->install_done, total = s->install_total, left = total > done ? total - done : 0;
    int n = 0;
    if (s->install_step == REPLICA_INSTALL_ASKING)
        n = snprintf(out, size,
                     s->install_source ? "asks node %u for a copy" : "looks for a member with a copy",
                     s->install_source);
    else if (s->install_step == REPLICA_INSTALL_VERIFYING)
        n = snprintf(out, size, "verifies %" PRIu64 " MiB", done >> 20);
    else
        n = snprintf(out, size, "%" PRIu64 " of %" PRIu64 " MiB (%u %%)", done >> 20, total >> 20,
                     total ? (unsigned)((done < total ? done : total) * 100 / total) : 0);
    if (s->install_step == REPLICA_INSTALL_COPYING && s->install_rate && n > 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, ", %.1f MiB/s, %" PRIu64 " s left",
                      (double)s->install_rate / (1 << 20), (left + s->install_rate - 1) / s->install_rate);
    if (s->install_trouble[0] && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, "; %s", s->install_trouble);
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
