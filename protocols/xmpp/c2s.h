/* XMPP client connections: the contract between the edge (accept, TLS, SASL, limits) and the home (everything
 * after).
 *
 * The edge ends with SASL success: it writes <success/>, calls c2s_hand_over and forgets the connection.
 * Three ways:
 *
 * With SASL2 the home writes <success/>: there is no new header, and the parser goes on behind <authenticate/>
 * (or the last <response/>).
 *
 *   local     the user's home is this node. The stream moves (stream_move) to the loop of the user's shard,
 * with its parser, which expects a new stream header (the edge has called xml_stream_restart). From there the
 * home reads and writes the socket itself. relay     the home is another node and xmpp.wrong_node = relay.
 * The stream stays on the edge's shard; xmpp_relay.c forwards the bytes of whole stanzas in LINK_RELAY
 * frames, with 64 KiB of credit each way, and the home node runs the same c2s_home over a connection that is
 * implemented by frames. redirect  xmpp.wrong_node = redirect: the new stream header of the client is
 * answered with see-other-host and the home's public name (RFC 6120 §4.9.3.19), then the stream is closed.
 *
 * A user without a home, or a node that does not serve, gets <resource-constraint/>. */
#ifndef XMPP_C2S_H
#define XMPP_C2S_H

#include "base/mem.h"
#include "base/stream.h"
#include "base/xml.h"
#include "im/shard.h"

struct xmpp;
struct c2s_home;

enum { C2S_CLIENT_ID = 16, C2S_LANG_MAX = 35 /* RFC 5646 §4.4.1 */ };

/* Who logged in, how and from where. Owned by one side at a time; plain data, so that it crosses nodes. The strings
 * are its own: NULL or one by mem_alloc each, unless it is packed. */
struct c2s_login {
    uint64_t uid;
    uint64_t since_ms;    /* wall clock of the log-in */
    uint64_t route_index; /* log index that the choice of the home rests on: it must know as much */
    char *localpart, *domain; /* prepared */
    char *mechanism;          /* "SCRAM-SHA-256-PLUS" */
    char *address;            /* of the client */
    char *lang;               /* of the stream (RFC 6120 §4.7.4); NULL: none was said */
    char *request;            /* SASL2: children of <authenticate/> that are for the home, as XML; or NULL */
    char *success;            /* SASL2: what the edge puts into <success/>, as XML; or NULL */
    uint32_t edge_node;
    uint16_t port;
    bool tls, channel_bound;
    bool sasl2;      /* XEP-0388: the stream goes on without a new header, and the home writes <success/> */
    bool has_client; /* the client gave a user-agent id: */
    bool packed;
    uint8_t client[C2S_CLIENT_ID]; /* hash of the account and of it */
};
struct c2s_login *c2s_login_new(void);
void c2s_login_free(struct c2s_login *login); /* may be NULL */
/* Log-in is over: the same in one piece, without what only log-in needs. Takes LOGIN; nothing of it changes any more. */
struct c2s_login *c2s_login_pack(struct c2s_login *login);

/* Tunnels of clients (struct tunnel_facts). */
enum c2s_tunnel_kind { C2S_WEBSOCKET = 1, C2S_BOSH };

/* Called by the edge on its shard right after <success/> was written, outside of any event of the parser (but
 * maybe inside the stream's on_data). Takes the stream, the parser and the login; the edge must not touch
 * them again and gets no event from them any more. PARSER is paused and restarted for the new stream header:
 * set its handlers with xml_stream_set_events, then xml_stream_resume parses the bytes that came in after the
 * element, if any. Its limits are those for sessions already. Reading of STREAM is paused, too
 * (stream_resume). */
void c2s_hand_over(struct shard *at, struct stream *stream, struct xml_stream *parser,
                   struct c2s_login *login);

/* ---- connections as the home sees them: a local stream or a relay; on the user's shard ---- */
struct c2s_conn;
struct c2s_conn_ops {
    void (*write)(struct c2s_conn *c, const void *data, size_t n_bytes);
    void (*write_blob)(struct c2s_conn *c, struct blob *b, size_t from); /* takes a reference of its own */
    size_t (*queued)(
        const struct c2s_conn *c); /* bytes not yet given to the client's socket, as far as known here */
    /* After pause no header, stanza or end arrives; what was read already waits in the parser. Resume goes on
     * later in the turn. */
    void (*pause)(struct c2s_conn *c);
    void (*resume)(struct c2s_conn *c);
    /* Writes FINAL and closes. Nothing is called back any more: the connection ends by itself. */
    void (*close)(struct c2s_conn *c, const void *final, size_t n_bytes);
    void (*abort)(
        struct c2s_conn *c); /* at once, what is queued is not written; nothing is called back either */
};
struct c2s_conn {
    const struct c2s_conn_ops *ops;
    struct shard *shard;
    struct c2s_home *home;
    const struct xml_stream *parser; /* NULL where there is no stream header (RFC 7395) */
};

/* A connection's parser feeds the connection's home with these; USER is the struct c2s_conn. */
extern const struct xml_stream_events c2s_conn_xml_events;
void c2s_conn_check(struct c2s_conn *c, enum xml_error error); /* of xml_stream_feed: tells the home */

/* The home's side. Takes LOGIN. */
struct c2s_home *c2s_home_new(struct c2s_conn *conn, struct c2s_login *login);
/* With SASL2: does what the client asked for and answers, maybe later. May close the connection. */
void c2s_home_start(struct c2s_home *h);
void c2s_home_header(struct c2s_home *h, const struct xml *header);
void c2s_home_stanza(struct c2s_home *h, struct xml_stanza *stanza);
void c2s_home_end(struct c2s_home *h); /* </stream:stream> */
void c2s_home_parse_error(struct c2s_home *h,
                          enum xml_error error); /* answered with a stream error and close */
void c2s_home_drained(struct c2s_home *h);       /* queued fell low */
void c2s_home_closed(struct c2s_home *h);        /* the connection is gone; frees H */

/* Stream errors (RFC 6120 §4.9), for edge and home alike: appends
 * <stream:error>..</stream:error></stream:stream>. CONDITION "see-other-host" takes TEXT as its content;
 * others as <text/>. */
void c2s_stream_error(struct buf *out, const char *condition, const char *text);
/* A stream header for who has an error to say before the stream was opened (RFC 6120 §4.9.1.2). */
void c2s_bare_header(struct buf *out, const char *from);
/* The header's xml:lang, "" when there is none that is a language tag. */
void c2s_read_lang(char out[C2S_LANG_MAX + 1], const struct xml *header);
const char *c2s_xml_error_condition(enum xml_error error); /* "not-well-formed", "restricted-xml", ... */

#endif
