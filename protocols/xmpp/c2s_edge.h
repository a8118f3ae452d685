/* The edge of client connections: listeners on every shard, STARTTLS and direct TLS (XEP-0368), stream
 * negotiation up to SASL success, limits and throttling. Whom a connection belongs to afterwards is
 * hand_over's business (c2s.h).
 *
 * One struct c2s_edge per node, made on the control loop between im_new and im_start; its parts live on the
 * shards. Connections that are not logged in are refused by closing them while the node does not serve. */
#ifndef XMPP_C2S_EDGE_H
#define XMPP_C2S_EDGE_H

#include "base/admission.h"
#include "base/tunnel.h"
#include "protocols/xmpp/c2s.h"
#include "protocols/xmpp/sasl.h"

struct c2s_edge;

/* A listening address: numeric, "" for any. port -1: off; 0: any free one, the same on all shards (tests). */
struct c2s_listen {
    const char *address;
    int port;
};

/* A password that is not checked here: AXL, LDAP. Borrowed for the call. */
struct c2s_password {
    uint64_t uid;
    const char *userid; /* as the call manager has it */
    const char *localpart, *domain;
    const char *password; /* as received; wipe what you copy */
};

struct c2s_edge_options {
    struct c2s_listen starttls, direct_tls; /* 5222, 5223 */
    struct tls_sni *sni;   /* a reference is taken; NULL until c2s_edge_set_sni: no connections */
    const char *node_name; /* for settings of this node alone */
    struct log *log;       /* root; NULL: im_log */
    struct admission *admission; /* of those that connect; lives longer than the edge; NULL: everybody */
    uint8_t secret[32];    /* the same on all nodes: salts of users that do not exist, tokens (XEP-0484) */
    /* Called on a shard; calls ON_DONE once, on REPLY_TO, later. NULL: such users cannot log in. */
    void (*check_password)(void *user, const struct c2s_password *p, struct loop *reply_to,
                           void (*on_done)(void *done_user, enum sasl_check result), void *done_user);
    void *user;
};

/* hand_over: c2s_hand_over; another one in tests. O is copied; its strings are, too. */
typedef void c2s_hand_over_fn(struct shard *at, struct stream *stream, struct xml_stream *parser,
                              struct c2s_login *login);
int c2s_edge_new(struct c2s_edge **out, struct im *im, const struct c2s_edge_options *o,
                 c2s_hand_over_fn *hand_over, struct err_ctx *err);
void c2s_edge_free(struct c2s_edge *e); /* between im_stop and im_free; may be NULL */
/* New certificates: connections made from now on get them. Takes a reference. Control loop. */
void c2s_edge_set_sni(struct c2s_edge *e, struct tls_sni *sni);
/* A connection whose transport is on the control loop: from here on it is like one that was accepted, with its TLS
 * done. Where it is refused the tunnel ends. Control loop. */
struct tunnel *c2s_edge_open_tunnel(struct c2s_edge *e, struct loop *control, const struct tunnel_facts *facts,
                                    const struct tunnel_events *events, void *user);
/* The cluster has a new key: tokens given out before are void. Control loop. */
void c2s_edge_set_secret(struct c2s_edge *e, const uint8_t secret[32]);
unsigned c2s_edge_port(const struct c2s_edge *e, bool direct_tls); /* 0: off */
/* Connections that have not logged in; any thread. */
unsigned c2s_edge_n_waiting(const struct c2s_edge *e);

#endif
