#include "base/clock.h"
#include "base/mem.h"
#include "cluster/frame.h"
#include "cluster/join.h"
#include "plane.pb-c.h"
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

/* CONNECTING -> SECURING -> AWAITING_HELLO -> AWAITING_ANSWER -> DONE; DONE also from each by an error. */
enum asker_state {
    ASKER_CONNECTING,
    ASKER_SECURING,
    ASKER_AWAITING_HELLO,
    ASKER_AWAITING_ANSWER,
    ASKER_DONE
};
struct asker {
    const struct join_request *request;
    struct join_result *result;
    struct loop *loop;
    struct stream *stream;
    struct tls_ctx *tls;
    struct frame_reader reader;
    struct timer timeout;
    enum asker_state state;
    int code;
    struct err_ctx *err;
};

static void finish(struct asker *a, int code)
{
    if (a->state == ASKER_DONE)
        return;
    a->state = ASKER_DONE;
    a->code = code;
    timer_stop(&a->timeout);
    if (a->stream)
        stream_abort(a->stream);
}

static void progress(struct asker *a, const char *text)
{
    if (a->request->on_progress)
        a->request->on_progress(a->request->user, text);
}

static int unreachable(struct asker *a, const char *why)
{
    return err_set(a->err, ERR_UNAVAILABLE, "%s:%u: %s", a->request->host, a->request->port, why);
}

static void write_message(struct asker *a, const ProtobufCMessage *message)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    struct buf b = {0};
    buf_add_u32(&b, (uint32_t)n);
    b.n += protobuf_c_message_pack(message, (uint8_t *)buf_reserve(&b, n));
    stream_write(a->stream, b.data, b.n);
    seal_buf_fini(&b);
}

/* The member proves itself: the CA is the token's, its certificate is the CA's and the one this connection
 * uses. */
static int check_hello(struct asker *a, const Imp__JoinHello *hello)
{
    struct identity_cert ca, cert;
    struct tls_peer peer;
    if (identity_read_cert(&ca, hello->ca_pem, NULL) || identity_read_cert(&cert, hello->cert_pem, NULL))
        return err_set(a->err, ERR_MALFORMED, "the member's certificates cannot be read");
    if (CRYPTO_memcmp(ca.fingerprint, a->request->token->ca_fingerprint, 32))
        return err_set(
            a->err, ERR_AUTH,
            "CA fingerprint mismatch: %s:%u does not belong to the cluster that made this token (or "
            "somebody answers in its place)",
            a->request->host, a->request->port);
    stream_tls_peer(a->stream, &peer);
    int rc = identity_check_signed(hello->cert_pem, hello->ca_pem, clock_wall_ms(), a->err);
    if (!rc && (!peer.has_cert || CRYPTO_memcmp(peer.fingerprint, cert.fingerprint, 32)))
        rc = err_set(a->err, ERR_AUTH, "the connection uses another certificate than the member shows");
    if (!rc && !cert.node)
        rc = err_set(a->err, ERR_AUTH, "the certificate is not a node's");
    return rc ? err_prefix(a->err, rc, "CA fingerprint mismatch") : 0;
}

static int send_request(struct asker *a)
{
    const struct join_request *r = a->request;
    struct buf der = {0};
    int rc = identity_new_request(&der, r->key_pem, a->err);
    if (!rc) {
        Imp__JoinRequest m = IMP__JOIN_REQUEST__INIT;
        m.secret = (ProtobufCBinaryData){TOKEN_SECRET_BYTES, (uint8_t *)r->token->secret};
        m.request = (ProtobufCBinaryData){der.n, (uint8_t *)der.data};
        m.name = (char *)r->name;
        m.address = (char *)r->address;
        m.cluster_port = r->cluster_port;
        m.public_name = (char *)(r->public_name ? r->public_name : "");
        m.xmpp_port = r->xmpp_port;
        m.release = (char *)r->release;
        m.witness = r->witness;
        write_message(a, &m.base);
    }
    buf_fini(&der);
    return rc;
}

static int on_hello(struct asker *a, const uint8_t *body, size_t n_bytes)
{
    Imp__JoinHello *hello = imp__join_hello__unpack(NULL, n_bytes, body);
    int rc =
        hello ? check_hello(a, hello) : err_set(a->err, ERR_MALFORMED, "the member's hello is malformed");
    if (hello)
        imp__join_hello__free_unpacked(hello, NULL);
    if (rc)
        return rc;
    progress(a, "the member belongs to the token's cluster; asking to be taken in");
    a->state = ASKER_AWAITING_ANSWER;
    return send_request(a);
}

static int take_answer(struct asker *a, const Imp__JoinAnswer *m)
{
    struct join_result *r = a->result;
    if (m->code)
        return err_set(a->err, m->code < 0 ? m->code : ERR_INTERNAL, "%s", m->text);
    if (m->cluster_id.len != 16 || !m->node || !*m->cert_pem || !*m->ca_pem || !m->n_cluster_keys ||
        m->n_cluster_keys > SEAL_MAX_KEYS)
        return err_set(a->err, ERR_MALFORMED, "the member's answer is malformed");
    memcpy(r->cluster_id, m->cluster_id.data, 16);
    r->node = m->node;
    for (size_t i = 0; i < m->n_cluster_keys; i++) {
        if (m->cluster_keys[i].len != SEAL_KEY_BYTES)
            return err_set(a->err, ERR_MALFORMED, "the member's answer is malformed");
        memcpy(r->ring.key[i], m->cluster_keys[i].data, SEAL_KEY_BYTES);
    }
    r->ring.n = (unsigned)m->n_cluster_keys;
    for (size_t i = 0; i < m->n_members && r->n_members < JOIN_MAX_MEMBERS; i++) {
        r->members[r->n_members].id = m->members[i]->id;
        r->members[r->n_members].port = m->members[i]->cluster_port;
        snprintf(r->members[r->n_members].name, sizeof(r->members[0].name), "%s", m->members[i]->name);
        snprintf(r->members[r->n_members].address, sizeof(r->members[0].address), "%s",
                 m->members[i]->address);
        r->n_members++;
    }
    struct identity_cert cert;
    uint8_t key_hash[32];
    if (identity_read_cert(&cert, m->cert_pem, a->err) ||
        identity_key_hash(key_hash, a->request->key_pem, a->err) || memcmp(cert.key_hash, key_hash, 32) ||
        cert.node != m->node || memcmp(cert.cluster_id, r->cluster_id, 16))
        return err_set(a->err, ERR_MALFORMED, "the certificate in the member's answer is not ours");
    r->cert_pem = mem_strdup(m->cert_pem);
    r->ca_pem = mem_strdup(m->ca_pem);
    return 0;
}

static int on_answer(struct asker *a, const uint8_t *body, size_t n_bytes)
{
    Imp__JoinAnswer *m = imp__join_answer__unpack(NULL, n_bytes, body);
    if (!m)
        return err_set(a->err, ERR_MALFORMED, "the member's answer is malformed");
    int rc = take_answer(a, m);
    for (size_t i = 0; i < m->n_cluster_keys; i++)
        mem_wipe(m->cluster_keys[i].data, m->cluster_keys[i].len);
    imp__join_answer__free_unpacked(m, NULL);
    return rc;
}

static bool on_frame(void *user, const uint8_t *body, size_t n_bytes)
{
    struct asker *a = user;
    int rc = 0;
    if (a->state == ASKER_AWAITING_HELLO)
        rc = on_hello(a, body, n_bytes);
    else if (a->state == ASKER_AWAITING_ANSWER && !(rc = on_answer(a, body, n_bytes)))
        finish(a, 0);
    if (rc)
        finish(a, rc);
    return a->state != ASKER_DONE;
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct asker *a = user;
    int rc = a->state == ASKER_DONE ? 0 : frame_reader_feed(&a->reader, data, n_bytes, on_frame, a);
    if (rc && rc != ERR_CANCELED)
        finish(a, unreachable(a, "it does not speak " JOIN_ALPN));
}

static void on_open(void *user)
{
    struct asker *a = user;
    if (a->state == ASKER_CONNECTING) {
        a->state = ASKER_SECURING;
        stream_start_tls_client(a->stream, a->tls, NULL, 10000);
        return;
    }
    if (a->state != ASKER_SECURING)
        return;
    struct tls_peer peer;
    stream_tls_peer(a->stream, &peer);
    a->state = ASKER_AWAITING_HELLO;
    if (strcmp(peer.alpn, JOIN_ALPN))
        finish(a, unreachable(a, "it does not speak " JOIN_ALPN));
}

static void on_close(void *user, int code, const char *detail)
{
    struct asker *a = user;
    a->stream = NULL;
    if (a->state == ASKER_AWAITING_ANSWER)
        finish(a, err_set(a->err, ERR_UNKNOWN_OUTCOME,
                          "%s:%u closed the connection before it answered; run the same command again",
                          a->request->host, a->request->port));
    else if (a->state != ASKER_DONE)
        finish(a, unreachable(a, detail && *detail ? detail : err_text(code)));
    loop_stop(a->loop);
}

static void on_timeout(struct timer *t)
{
    struct asker *a = container_of(t, struct asker, timeout);
    finish(a, a->state == ASKER_AWAITING_ANSWER
                  ? err_set(a->err, ERR_UNKNOWN_OUTCOME,
                            "%s:%u did not answer in time; run the same command again", a->request->host,
                            a->request->port)
                  : unreachable(a, "timed out"));
}

int join_ask(struct join_result *out, const struct join_request *request, struct log *log,
             struct err_ctx *err)
{
    static const struct stream_events events = {.on_open = on_open, .on_data = on_data, .on_close = on_close};
    static const char *const alpn[] = {JOIN_ALPN, NULL};
    struct err_ctx own = {0};
    struct asker a = {.request = request, .result = out, .err = err ? err : &own};
    memset(out, 0, sizeof(*out));
    /* The server is not verified by TLS but by check_hello, against the token's fingerprint. */
    int rc = tls_ctx_new(&a.tls, &(struct tls_options){.tls13_only = true, .alpn = alpn}, a.err);
    if (rc)
        return rc;
    rc = loop_new(&a.loop, "join", log);
    if (rc) {
        tls_ctx_unref(a.tls);
        return err_set(a.err, rc, "cannot make an event loop");
    }
    frame_reader_init(&a.reader, JOIN_FRAME_MAX);
    a.reader.is_secret = true;
    timer_init(&a.timeout, a.loop, on_timeout);
    timer_start(&a.timeout, request->timeout_ms ? request->timeout_ms : 30000, 0);
    progress(&a, "connecting");
    a.stream = stream_connect(a.loop, request->host, request->port, 5000, &events, &a);
    loop_run(a.loop);
    frame_reader_fini(&a.reader);
    loop_free(a.loop);
    tls_ctx_unref(a.tls);
    if (a.code)
        join_result_fini(out);
    return a.code;
}

void join_result_fini(struct join_result *r)
{
    mem_free(r->cert_pem);
    mem_free(r->ca_pem);
    seal_ring_wipe(&r->ring);
    memset(r, 0, sizeof(*r));
}
