/* The cluster port (7800): one listener, TLS 1.3, ALPN decides. imp-raft/1 and imp-link/1 need a certificate
 * of this cluster, and an id without a removal tombstone; imp-join/1 needs none. Control loop. */
#ifndef CLUSTER_PLANE_H
#define CLUSTER_PLANE_H

#include "base/stream.h"
#include "cluster/identity.h"
#include <stdint.h>

enum { PLANE_MAX_HANDSHAKES = 256, PLANE_HANDSHAKE_MS = 5000 };
#define PLANE_RAFT_ALPN "imp-raft/1"

struct plane;
struct plane_options {
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    const char *address; /* "" = any */
    unsigned port;
    uint8_t cluster_id[16];
    struct tls_ctx *tls; /* plane_tls_server; a reference is taken */
    /* All take the stream over. */
    void (*on_raft)(void *user, struct stream *s, uint32_t node);
    void (*on_link)(void *user, struct stream *s, uint32_t node);
    void (*on_join)(void *user, struct stream *s);
    bool (*is_removed)(void *user, uint32_t node); /* has a tombstone */
    identity_key_fn *key_of;
    void *user;
};
int plane_open(struct plane **out, const struct plane_options *o, struct err_ctx *err);
unsigned plane_port(const struct plane *p);
void plane_set_tls(struct plane *p, struct tls_ctx *tls); /* for new connections */
void plane_close(struct plane *p); /* may be NULL; open handshakes are cut, later on the loop */

/* Contexts of the inter-node plane from PEM; CA_PEM: the one that signs now. KIND: ALPN of a client, NULL: the server of all three. */
int plane_tls(struct tls_ctx **out, const char *kind, const char *cert_pem, const char *key_pem,
              const char *ca_pem, struct err_ctx *err);

#endif
