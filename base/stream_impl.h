/* Inside of a stream, for stream*.c only.
 *
 *  RESOLVING -> CONNECTING -> OPEN <-> HANDSHAKE      any of them -> CLOSED by abort, error or time-out
 *                              |           |
 *                              v           v
 *                             CLOSING (queue goes out) -> LINGER (peer's end is awaited) -> CLOSED (on_close
 * is due)
 */
#ifndef BASE_STREAM_IMPL_H
#define BASE_STREAM_IMPL_H

#include "base/buf.h"
#include "base/loop_impl.h"
#include "base/stream.h"
#include "base/tls_impl.h"
#include <netinet/in.h>

enum {
    STREAM_IN_BYTES = 64 * 1024,     /* read by one recv, and the bound of one stream's share of a turn */
    STREAM_RECORD_BYTES = 16 * 1024, /* most plain text of a TLS record, RFC 8446 §5.1 */
    STREAM_WIRE_BYTES = 64 * 1024,   /* encrypted ahead of what the kernel takes */
    STREAM_HELLO_BYTES =
        16 * 1024, /* most of a ClientHello; OpenSSL would reserve 128 KiB on the client's word */
    STREAM_REPLY_BYTES = 16 * 1024, /* that TLS itself may answer while the peer reads nothing */
    STREAM_CLOSE_MS = 10 * 1000,    /* for the queue to go out after stream_close */
    STREAM_LINGER_MS = 2 * 1000,    /* for the peer to close too, so that no RST overtakes our last bytes */
};

enum stream_state {
    STREAM_RESOLVING,
    STREAM_CONNECTING,
    STREAM_OPEN,
    STREAM_HANDSHAKE,
    STREAM_CLOSING,
    STREAM_LINGER,
    STREAM_CLOSED,
};

/* Work for the end of the turn. */
enum { TODO_CLOSE = 1, TODO_MOVE = 2, TODO_DRAIN = 4, TODO_PUMP = 8 };

struct chunk {
    struct chunk *next;
    struct blob *blob; /* bytes from here instead of data, if set */
    bool sealed; /* nothing more is added: what follows is a record of its own */
    size_t pos, n, cap;
    char data[];
};
struct out_queue {
    struct chunk *first, *last;
    size_t n_bytes;
};

/* What the streams of a loop share. */
struct stream_hub {
    struct loop *loop;
    struct list all, dirty;
    struct chunk *spare;
    unsigned n_spare;
    uint8_t in[STREAM_IN_BYTES];
    uint8_t plain[STREAM_RECORD_BYTES];
};

struct stream_connect;
struct move;
struct tunnel;

struct stream {
    struct loop *loop;
    struct stream_hub *hub;
    const struct stream_events *events; /* NULL: nobody listens any more */
    void *user;
    struct list link, dirty; /* of the hub */
    uv_poll_t *poll;         /* apart from the stream, since uv closes it later */
    int fd;
    uint8_t state, mask, todo;
    bool paused : 1;     /* by the owner */
    bool held : 1;       /* bytes were pushed back */
    bool moving : 1;     /* until it has arrived on the other loop */
    bool blocked : 1;    /* the kernel takes no more for now */
    bool ended : 1;      /* the peer will send no more */
    bool above_high : 1; /* on_drain is owed */
    bool notified : 1;   /* our close_notify is in the queue */
    bool is_client : 1;  /* of TLS */
    bool encrypted : 1;  /* the connection behind a tunnel */
    uint16_t peer_port;
    uint8_t hello[9], n_hello; /* first bytes of a client's handshake */
    unsigned replied;          /* bytes that reading TLS has put into the queue since that was last empty */
    struct out_queue wire;     /* for the socket */
    struct out_queue plain;    /* to be encrypted */
    size_t low, high;
    struct buf in;   /* encrypted input that was read but not wanted yet */
    struct buf back; /* plain input that was pushed back */
    SSL *ssl;
    struct tls_ctx *ctx;        /* that ssl was made of */
    struct tls_sni *sni;        /* during a server's handshake */
    const uint8_t *rd, *rd_end; /* encrypted input on its way through the BIO */
    struct timer timer;         /* connect, handshake or close time-out */
    unsigned timeout_ms;
    int code; /* for on_close */
    char *detail;
    struct deferred deferred;
    struct metrics *metrics;
    struct stream_connect *connect; /* until connected */
    struct move *move;              /* until departed */
    struct tunnel *tunnel;          /* instead of a socket; NULL once closed */
    char address[INET6_ADDRSTRLEN];
};

/* stream.c */
struct stream *stream_make(struct loop *l, const struct stream_events *events, void *user);
int stream_attach(struct stream *s, int fd);
void stream_detach(struct stream *s);    /* from the loop's poll; keeps the socket */
void stream_opened(struct stream *s);    /* connected, or the handshake is done: calls on_open */
void stream_note_peer(struct stream *s); /* its address */
void stream_update_poll(struct stream *s);
void stream_todo(struct stream *s, unsigned bit);
void stream_mark_dirty(struct stream *s);
void stream_give_data(struct stream *s, const uint8_t *data, size_t n_bytes); /* to on_data */
void stream_on_end(struct stream *s, const char *detail); /* the peer has ended its side */
/* The first reason wins. finish: what is queued goes out first. fail: at once. */
void stream_finish(struct stream *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void stream_fail(struct stream *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The kernel has reported errno ERROR (0: ask it). Reads what the peer sent before, then fails. */
void stream_broken(struct stream *s, int error);
bool stream_can_read(const struct stream *s);

struct stream_hub *stream_hub_of(struct loop *l); /* made when it is missing */
void stream_give_close(struct stream *s);         /* the last event; frees the stream */

/* stream_move.c */
void stream_depart(struct stream *s);

/* stream_out.c */
void out_add(struct stream_hub *hub, struct out_queue *q, const void *data, size_t n_bytes);
void out_add_blob(struct stream_hub *hub, struct out_queue *q, struct blob *b, size_t from);
void out_drop(struct stream_hub *hub, struct out_queue *q, size_t n_bytes); /* from the front */
void out_clear(struct stream_hub *hub, struct out_queue *q);
const char *out_bytes(const struct chunk *c);
void stream_flush(struct stream *s);
void stream_hub_trim(struct stream_hub *hub); /* frees the spare chunks */

/* stream_connect.c */
void stream_connect_ready(struct stream *s);   /* the socket is writable, or failed */
void stream_connect_timeout(struct stream *s); /* the next address, or the end */
void stream_connect_forget(struct stream *s);

/* tunnel.c; nothing happens to a stream that is none */
void stream_tunnel_flush(struct stream *s);
void stream_tunnel_pumped(struct stream *s); /* input that was held back has been given */
void stream_tunnel_detach(struct stream *s);
void stream_tunnel_depart(struct stream *s, struct loop *to);
void stream_tunnel_arrived(struct stream *s);
size_t stream_tunnel_unacked(const struct stream *s);

/* stream_tls.c */
void stream_tls_pump(
    struct stream *s); /* input in rd .. rd_end: handshake, then data; sets aside what is not wanted */
void stream_tls_encrypt(struct stream *s); /* plain to wire */
void stream_tls_notify(struct stream *s);  /* close_notify, if the handshake was done */
void stream_tls_free(struct stream *s);

#endif
