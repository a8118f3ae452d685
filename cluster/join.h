/* imp-join/1: a new node asks any member to be taken in. Frames are a u32 length (little-endian) and a
 * message of plane.proto; 64 KiB at most.
 *
 *   member -> joiner   JoinHello    CA and server certificate; the joiner compares with its token
 *   joiner -> member   JoinRequest  the secret and a certificate request
 *   member -> joiner   JoinAnswer   after the token was consumed in the log: certificate, CAs, cluster keys
 *
 * The token is bound to the joiner's public key, which lies on its disk before the first byte is sent: the
 * same command run again finishes a half-made join. */
#ifndef CLUSTER_JOIN_H
#define CLUSTER_JOIN_H

#include "base/stream.h"
#include "cluster/identity.h"
#include "cluster/seal.h"
#include "cluster/token.h"
#include "storage/store.h"

struct replica;

enum { JOIN_FRAME_MAX = 64 * 1024, JOIN_MAX_MEMBERS = 64 };
#define JOIN_ALPN "imp-join/1"

/* ---- the member's side: control loop ---- */
struct join_server;
struct join_server_options {
    struct loop *loop;
    struct log *log;
    struct replica *replica;
    struct store_reader *reader; /* of the control loop */
    const struct seal_ring *seal;
    const uint8_t *cluster_id; /* 16 bytes */
    const char *release;
};
struct join_server *join_server_new(const struct join_server_options *o);
void join_server_free(struct join_server *j); /* ends the connections */
/* A stream whose handshake chose JOIN_ALPN. CERT_PEM: the certificate the plane uses now. */
void join_server_accept(struct join_server *s, struct stream *stream, const char *cert_pem);

/* The active CA: *ca's strings are on the heap. Control loop. ERR_NOTFOUND, or what seal_open says: then the key alone is
 * missing, and the rest may be used. join_ca_fini after each. */
struct join_ca {
    char *cert_pem, *key_pem, *bundle_pem; /* bundle: all generations, the active one first */
    uint32_t generation;
    uint64_t life_ms; /* of what it signs */
};
struct identity_ca join_ca_signer(const struct join_ca *ca); /* borrows */
int join_ca_read(struct join_ca *ca, struct store_txn *txn, const struct seal_ring *ring,
                 struct err_ctx *err);
void join_ca_fini(struct join_ca *ca);

/* ---- the joiner's side: its own short-lived loop, blocking ---- */
struct join_request {
    const char *host;
    unsigned port;
    const struct token *token;
    const char *key_pem;
    const char *name, *address, *public_name, *release;
    unsigned cluster_port, xmpp_port;
    bool witness;
    unsigned timeout_ms; /* for the whole of it; 0: 30 s */
    void (*on_progress)(void *user, const char *text);
    void *user;
};
struct join_result {
    uint8_t cluster_id[16];
    uint32_t node;
    char *cert_pem, *ca_pem;
    struct seal_ring ring;
    unsigned n_members;
    struct {
        uint32_t id;
        char name[64], address[256];
        unsigned port;
    } members[JOIN_MAX_MEMBERS];
};
/* Codes besides those of the member: ERR_UNAVAILABLE "HOST:PORT: reason" when the member cannot be reached,
 * ERR_AUTH: the CA is not the token's. */
int join_ask(struct join_result *out, const struct join_request *request, struct log *log,
             struct err_ctx *err);
void join_result_fini(struct join_result *r);

#endif
