/* A TCP connection on a loop, with TLS through a custom BIO when asked. And listeners.
 *
 * Owner: whoever made it; the stream lives until on_close has returned, which is called exactly once, never
 * from inside stream_* functions (always later in the turn). All functions on the loop's thread. Output is
 * collected and written once per turn with writev. Input is read into the loop's shared buffer and borrowed
 * for the call. */
#ifndef BASE_STREAM_H
#define BASE_STREAM_H

#include "base/err.h"
#include "base/loop.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/tls.h"

struct stream;

struct stream_events {
    /* Connected, or a handshake begun with stream_start_tls_* has finished. Not called for a plain accepted
     * one. */
    void (*on_open)(void *user);
    void (*on_data)(void *user, const uint8_t *data, size_t n_bytes);
    /* The output queue fell to the low-water mark after being above the high-water mark. May be NULL. */
    void (*on_drain)(void *user);
    /* The peer has ended its direction (FIN, close_notify); output still goes, and the owner must close the
     * stream. NULL: what is queued is written, then on_close(ERR_CLOSED). */
    void (*on_end)(void *user);
    /* The last call. code: ERR_CLOSED (peer closed in order), ERR_TIMEOUT, ERR_TLS, ERR_IO, ERR_CANCELED (we
     * closed). detail says it in words. The stream is freed on return. */
    void (*on_close)(void *user, int code, const char *detail);
    /* Of a tunnel (base/tunnel.h): its client has taken some of what was queued. May be NULL. */
    void (*on_sent)(void *user);
};

/* FD is a connected socket (TCP or unix), becomes the stream's. */
struct stream *stream_new(struct loop *l, int fd, const struct stream_events *events, void *user);
/* HOST: name, IPv4 or IPv6 address. Failure is told by on_close. Whole attempt limited to timeout_ms. */
struct stream *stream_connect(struct loop *l, const char *host, unsigned port, unsigned timeout_ms,
                              const struct stream_events *events, void *user);
/* Starts a handshake now (RFC 6120 §5: nothing received before it in clear is ever taken as having come
 * inside). Output queued before it goes in clear, output queued from here on inside. timeout_ms limits the
 * handshake. Called from on_data, the bytes behind the request for TLS in that same DATA came in clear: the
 * owner must not process them, and drops them or hands them to stream_push_back, which ends the stream with
 * ERR_TLS. */
void stream_start_tls_server(struct stream *s, struct tls_sni *sni, unsigned timeout_ms);
void stream_start_tls_client(struct stream *s, struct tls_ctx *ctx, const char *server_name,
                             unsigned timeout_ms);

void stream_write(struct stream *s, const void *data, size_t n_bytes); /* copies */
/* Takes a reference; b->data + from .. end. */
void stream_write_blob(struct stream *s, struct blob *b, size_t from);
/* Inside TLS: what was written up to here and what follows are different records, so that the peer reads them
 * one after the other. */
void stream_end_record(struct stream *s);
size_t stream_queued(const struct stream *s); /* bytes not yet given to the kernel, or to a tunnel's client */
void stream_set_water(struct stream *s, size_t low, size_t high); /* for on_drain */
void stream_pause(struct stream *s);                              /* stop reading; idempotent */
void stream_resume(struct stream *s); /* what was held back comes later in the turn, then new input */
/* Only inside on_data: gives back the last n bytes of its DATA. Nothing more is read; after stream_resume, or
 * after the arrival on another loop, they come first. */
void stream_push_back(struct stream *s, const void *data, size_t n_bytes);
/* No more on_data. Writes what is queued (10 s at most) and TLS close_notify, waits up to 2 s for the peer to
 * close, then on_close. During a handshake: without TLS's farewell; before it is connected: like
 * stream_abort. */
void stream_close(struct stream *s);
void stream_abort(struct stream *s); /* at once, with RST; on_close still follows, later in the turn */
void stream_set_metrics(struct stream *s, struct metrics *m);

/* Hands the stream to another loop: no event fires here after the call; arrived(user) runs on the new loop,
 * where events go on. It leaves at the end of the turn, when the callers' stack has unwound; until then
 * output may still be queued here. What is queued, and input that was read but not given to on_data, goes
 * along. Not during a handshake. If the other loop ends first, on_close(ERR_CANCELED) comes from its
 * loop_free instead of arrived. */
void stream_move(struct stream *s, struct loop *to, void (*arrived)(void *user));
/* EVENTS NULL: nobody listens any more; input is thrown away and the stream ends by itself. */
void stream_set_handler(struct stream *s, const struct stream_events *events, void *user);

bool stream_is_tls(const struct stream *s);     /* of a tunnel: its client's connection is encrypted */
int stream_tunnel_kind(const struct stream *s); /* 0: it is none, or closed */
void stream_tls_peer(const struct stream *s, struct tls_peer *out);
const char *stream_sni(const struct stream *s); /* server name the client asked for, or NULL */
/* tls_can_bind and tls_bind of the stream; of a tunnel: of its client's connection. */
bool stream_tls_can_bind(const struct stream *s, enum tls_binding type);
int stream_tls_binding(const struct stream *s, enum tls_binding type, uint8_t *out, size_t *n_bytes);
/* "127.0.0.1" / "::1" of the peer; "" when not known. */
const char *stream_peer_address(const struct stream *s);
unsigned stream_peer_port(const struct stream *s);
struct loop *stream_loop(const struct stream *s);

struct listener;
/* ADDRESS: numeric, "" = any. reuse_port: several loops listen on one port, the kernel spreads connections.
 * on_accept owns fd, which is non-blocking and close-on-exec. Backlog 4096. ERR_EXISTS: in use,
 * ERR_UNAVAILABLE: no address of this machine, ERR_DENIED, ERR_INVALID, ERR_SYSTEM. Out of descriptors,
 * connections are refused at once. */
int listener_open(struct listener **out, struct loop *l, const char *address, unsigned port, bool reuse_port,
                  void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err);
/* A unix socket; mode as chmod; an existing stale socket is replaced. */
int listener_open_unix(struct listener **out, struct loop *l, const char *path, unsigned mode,
                       void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err);
unsigned listener_port(const struct listener *x);
void listener_close(struct listener *x); /* at once, and before loop_free; may be NULL */

#endif
