/* The edge of client connections over a real store and real shards; the client is a blocking OpenSSL socket.
 * For the tests of log-in, each of which uses a part of it. */
#ifndef UNIT_EDGE_FIXTURE_H
#define UNIT_EDGE_FIXTURE_H

#include "base/base64.h"
#include "protocols/xmpp/c2s_edge.h"
#include "protocols/xmpp/c2s_known.h"
#include "protocols/xmpp/c2s_throttle.h"
#include "protocols/xmpp/xmpp.h"
#include "store_test.h"
#include "test_certs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#define HEADER                                                                                               \
    "<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xmlns='jabber:client' "              \
    "xmlns:stream='http://etherx.jabber.org/streams'>"
#define SASL "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
#define TLS "xmlns='urn:ietf:params:xml:ns:xmpp-tls'"

/* ---- a node ---- */

struct node {
    char *dir;
    struct store *store;
    struct log *log;
    struct metrics metrics;
    struct im *im;
    struct xmpp *xmpp;
    struct c2s_edge *edge;
    struct test_ca ca;
    struct tls_sni *sni;
    _Atomic int n_backend;
    _Atomic int n_submitted; /* commands */
    _Atomic int answer;      /* what becomes of them: a code */
};

/* The log: tokens and keys of a log-in go to the store, as the state machine would put them there. */
struct submit_letter {
    struct letter letter;
    proposal_done_fn *on_done;
    void *user;
    int code;
};
static inline void submit_answer(struct letter *letter)
{
    struct submit_letter *l = container_of(letter, struct submit_letter, letter);
    l->on_done(l->user, &(struct proposal_result){.code = l->code, .index = 1, .text = ""});
    mem_free(l);
}
static inline void apply_token(struct store_txn *t, const Imp__FastTokenSet *b, struct arena *a)
{
    struct key k;
    Imp__FastTokenRow none = IMP__FAST_TOKEN_ROW__INIT, *row;
    key_init(&k);
    key_u64(&k, b->uid);
    key_bytes(&k, b->client.data, b->client.len);
    row = store_find_row(t, TABLE_FAST_TOKEN, &k, a);
    if (!row)
        row = &none;
    if (b->use && row->next) {
        row->current = row->next;
        row->next = NULL;
    }
    if (b->issue)
        row->next = b->issue;
    store_put_row(t, TABLE_FAST_TOKEN, &k, row);
}
static inline void apply_credential(struct store_txn *t, const Imp__CredentialAdd *b, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, b->uid);
    Imp__CredentialRow *row = store_find_row(t, TABLE_CREDENTIAL, &k, a);
    assert_non_null(row);
    assert_memory_equal(row->sha256->stored_key.data, b->proof.data, b->proof.len);
    row->sha512 = b->credential->sha512;
    store_put_row(t, TABLE_CREDENTIAL, &k, row);
}
static inline int fake_submit(void *user, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                              proposal_done_fn *on_done, void *done_user)
{
    struct node *n = user;
    if (n->answer == ERR_UNAVAILABLE)
        return ERR_UNAVAILABLE;
    n->n_submitted++;
    if (n->answer == 0) {
        struct arena a;
        arena_init(&a);
        struct store_txn *t = store_begin(n->store);
        if (command->body_case == IMP__COMMAND__BODY_FAST_TOKEN)
            apply_token(t, command->fast_token, &a);
        else if (command->body_case == IMP__COMMAND__BODY_CREDENTIAL_ADD)
            apply_credential(t, command->credential_add, &a);
        assert_int_equal(store_commit(t, NULL), 0);
        arena_fini(&a);
    }
    struct submit_letter *l = mem_new(struct submit_letter);
    *l = (struct submit_letter){{NULL, submit_answer, NULL}, on_done, done_user, n->answer};
    loop_post(loop, &l->letter);
    return 0;
}
static inline void no_feed(void *user, struct loop *loop, const struct feed_handler *handler, void *feed_user)
{
}
static inline uint64_t long_lease(void *user, uint64_t epoch)
{
    return UINT64_MAX;
}
static inline int no_send(void *user, uint32_t node, enum link_frame type, const void *data, size_t n_bytes)
{
    return ERR_UNAVAILABLE;
}
static inline void no_follow(void *user, struct loop *loop, bool on)
{
}
static inline bool no_link(void *user, uint32_t node)
{
    return false;
}

/* The call manager: password "right"; "down" for no answer. Answers later, on the shard. */
struct backend_letter {
    struct letter letter;
    void (*on_done)(void *user, enum sasl_check result);
    void *user;
    enum sasl_check result;
};
static inline void backend_answer(struct letter *letter)
{
    struct backend_letter *l = container_of(letter, struct backend_letter, letter);
    l->on_done(l->user, l->result);
    mem_free(l);
}
static inline void check_password(void *user, const struct c2s_password *p, struct loop *reply_to,
                                  void (*on_done)(void *done_user, enum sasl_check result), void *done_user)
{
    struct node *n = user;
    n->n_backend++;
    struct backend_letter *l = mem_new(struct backend_letter);
    l->letter.deliver = backend_answer;
    l->on_done = on_done;
    l->user = done_user;
    l->result = strcmp(p->userid, "Axl.User") != 0  ? SASL_CHECK_UNAVAILABLE
                : strcmp(p->password, "right") == 0 ? SASL_CHECK_OK
                : strcmp(p->password, "down") == 0  ? SASL_CHECK_UNAVAILABLE
                                                    : SASL_CHECK_WRONG;
    loop_post(reply_to, &l->letter);
}

static inline void put_credential(struct store_txn *t, uint64_t uid, const char *password)
{
    struct credential c;
    struct key k;
    assert_int_equal(credential_new(&c, password, strlen(password), 1000, NULL), 0);
    Imp__ScramKeys keys[2];
    for (int i = 0; i < 2; i++) {
        imp__scram_keys__init(&keys[i]);
        size_t n = credential_key_bytes((enum credential_hash)i);
        keys[i].iterations = c.keys[i].iterations;
        keys[i].salt = (ProtobufCBinaryData){c.keys[i].n_salt, c.keys[i].salt};
        keys[i].stored_key = (ProtobufCBinaryData){n, c.keys[i].stored_key};
        keys[i].server_key = (ProtobufCBinaryData){n, c.keys[i].server_key};
    }
    Imp__CredentialRow row = IMP__CREDENTIAL_ROW__INIT;
    row.sha1 = &keys[0];
    row.sha256 = &keys[1];
    key_init(&k);
    key_u64(&k, uid);
    store_put_row(t, TABLE_CREDENTIAL, &k, &row);
}

static inline void put_user(struct store_txn *t, uint64_t uid, const char *local, const char *password,
                            bool locked, uint32_t home)
{
    struct key k;
    Imp__UserRow row = IMP__USER_ROW__INIT;
    row.uid = uid;
    row.domain = 1;
    row.localpart = (char *)local;
    row.userid = password ? (char *)local : (char *)"Axl.User";
    row.source = password ? IMP__USER_SOURCE__SOURCE_LOCAL : IMP__USER_SOURCE__SOURCE_AXL;
    row.locked = locked;
    row.home = home;
    key_init(&k);
    key_u64(&k, uid);
    store_put_row(t, TABLE_USER, &k, &row);
    Imp__IdRow id = IMP__ID_ROW__INIT;
    id.id = uid;
    key_init(&k);
    key_u32(&k, 1);
    key_str(&k, local);
    store_put_row(t, TABLE_USER_BY_JID, &k, &id);
    if (password)
        put_credential(t, uid, password);
}

static inline void put_setting(struct store_txn *t, const char *key, const char *value)
{
    struct key k;
    Imp__SettingRow row = IMP__SETTING_ROW__INIT;
    row.value = (char *)value;
    key_init(&k);
    key_str(&k, key);
    store_put_row(t, TABLE_SETTING, &k, &row);
}

/* SETTINGS: pairs, NULL at the end; may be NULL. */
static inline void fill_store(struct store *store, const char *const *settings)
{
    struct key k;
    struct store_txn *t = store_begin(store);
    Imp__ClusterRow cluster = IMP__CLUSTER_ROW__INIT;
    cluster.default_domain = (char *)"example.com";
    cluster.feature_level = 3;
    key_init(&k);
    store_put_row(t, TABLE_CLUSTER, &k, &cluster);
    Imp__DomainRow domain = IMP__DOMAIN_ROW__INIT;
    domain.id = 1;
    domain.domain = (char *)"example.com";
    key_str(&k, "example.com");
    store_put_row(t, TABLE_DOMAIN, &k, &domain);
    Imp__NodeRow self = IMP__NODE_ROW__INIT;
    self.id = 1;
    self.name = (char *)"n1";
    self.address = (char *)"127.0.0.1";
    self.state = IMP__NODE_STATE__NODE_MEMBER;
    self.epoch = 1;
    self.up = true;
    key_init(&k);
    key_u32(&k, 1);
    store_put_row(t, TABLE_NODE, &k, &self);
    put_user(t, 1, "user", "pencil", false, 1);
    put_user(t, 2, "axl.user", NULL, false, 1);
    put_user(t, 3, "locked", "pencil", true, 1);
    for (; settings && *settings; settings += 2)
        put_setting(t, settings[0], settings[1]);
    struct err_ctx err = {0};
    if (store_commit(t, &err) != 0)
        fail_msg("%s", err.text);
}

static inline void make_tls(struct node *n)
{
    char *cert, *key;
    struct tls_ctx *ctx;
    struct err_ctx err = {0};
    static const char *const alpn[] = {"xmpp-client", NULL};
    test_ca_make(&n->ca, "test CA");
    test_cert_make(&cert, &key, &n->ca, "example.com", "DNS:example.com", "SHA256");
    const struct tls_options o = {.server = true, .cert_pem = cert, .key_pem = key, .alpn = alpn};
    if (tls_ctx_new(&ctx, &o, &err) != 0)
        fail_msg("%s", err.text);
    n->sni = tls_sni_new(ctx);
    tls_ctx_unref(ctx);
    free(cert);
    free(key);
}

static inline struct node *node_new(const char *const *settings, unsigned n_shards)
{
    struct node *n = mem_new(struct node);
    struct err_ctx err = {0};
    n->dir = test_dir();
    n->store = test_open(n->dir, NULL);
    fill_store(n->store, settings);
    n->log = log_new(2, LOG_TEXT, getenv("TEST_LOG") ? LOG_DEBUG : LOG_ERROR, "n1");
    make_tls(n);
    const struct im_options io = {
        .node_id = 1,
        .n_shards = n_shards,
        .release = "test",
        .store = n->store,
        .log = n->log,
        .metrics = &n->metrics,
        .backend = {n, fake_submit, no_feed, long_lease, no_send, no_link, no_link, no_follow},
    };
    assert_int_equal(im_new(&n->im, &io, &err), 0);
    const struct xmpp_options xo = {.im = n->im};
    assert_int_equal(xmpp_new(&n->xmpp, &xo, &err), 0);
    const struct c2s_edge_options eo = {.starttls = {"127.0.0.1", 0},
                                        .direct_tls = {"127.0.0.1", 0},
                                        .sni = n->sni,
                                        .node_name = "n1",
                                        .secret = "cluster secret",
                                        .check_password = check_password,
                                        .user = n};
    if (c2s_edge_new(&n->edge, n->im, &eo, c2s_hand_over, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(im_start(n->im, &err), 0);
    return n;
}

static inline void node_free(struct node *n)
{
    im_stop(n->im);
    assert_int_equal(c2s_edge_n_waiting(n->edge), 0);
    c2s_edge_free(n->edge);
    im_free(n->im);
    xmpp_free(n->xmpp);
    tls_sni_unref(n->sni);
    test_ca_free(&n->ca);
    store_close_dirty(n->store);
    test_dir_remove(n->dir);
    log_free(n->log);
    mem_free(n);
}

/* ---- a client ---- */

enum { DEADLINE_MS = 15000 };

struct client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    struct buf in;
    bool closed;
};

static inline uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline struct client *dial(struct node *n, bool direct)
{
    struct client *c = mem_new(struct client);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)c2s_edge_port(n->edge, direct))};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof(to)), 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return c;
}

static inline void hang_up(struct client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
    buf_fini(&c->in);
    mem_free(c);
}

static inline bool handshake(struct client *c, const char *alpn, int max_version)
{
    c->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c->ctx, max_version);
    c->ssl = SSL_new(c->ctx);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, "example.com");
    if (alpn) {
        unsigned char wire[64];
        wire[0] = (unsigned char)strlen(alpn);
        memcpy(wire + 1, alpn, wire[0]);
        SSL_set_alpn_protos(c->ssl, wire, wire[0] + 1u);
    }
    struct timeval limit = {DEADLINE_MS / 1000, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return SSL_connect(c->ssl) == 1;
}

/* False when the server has closed. */
static inline bool send_bytes(struct client *c, const void *data, size_t n)
{
    if (c->ssl)
        return SSL_write(c->ssl, data, (int)n) == (int)n;
    for (size_t done = 0; done < n;) {
        ssize_t r = send(c->fd, (const char *)data + done, n - done, MSG_NOSIGNAL);
        if (r <= 0)
            return false;
        done += (size_t)r;
    }
    return true;
}
static inline void say(struct client *c, const char *text)
{
    send_bytes(c, text, strlen(text));
}

/* Reads once, for UNTIL at most. */
static inline void hear(struct client *c, uint64_t until)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    uint64_t now = now_ms();
    if (!(c->ssl && SSL_pending(c->ssl) > 0) && poll(&p, 1, now < until ? (int)(until - now) : 0) <= 0)
        return;
    char *room = buf_reserve(&c->in, 4096);
    long n = c->ssl ? SSL_read(c->ssl, room, 4096) : recv(c->fd, room, 4096, 0);
    if (n > 0) {
        c->in.n += (size_t)n;
        c->in.data[c->in.n] = '\0';
    } else {
        c->closed = true;
    }
}

/* Waits until TEXT has come, and forgets all up to its end. */
static inline void expect(struct client *c, const char *text)
{
    uint64_t until = now_ms() + DEADLINE_MS;
    const char *found;
    while (!(found = c->in.data ? strstr(c->in.data, text) : NULL)) {
        if (c->closed || now_ms() >= until)
            fail_msg("wanted %s, %s after: %s", text, c->closed ? "closed" : "nothing more",
                     c->in.data ? c->in.data : "");
        hear(c, until);
    }
    size_t n = (size_t)(found - c->in.data) + strlen(text);
    buf_cut(&c->in, n);
    if (c->in.data)
        c->in.data[c->in.n] = '\0';
}
static inline void expect_closed(struct client *c)
{
    uint64_t until = now_ms() + DEADLINE_MS;
    while (!c->closed && now_ms() < until)
        hear(c, until);
    assert_true(c->closed);
}
static inline bool has_heard(const struct client *c, const char *text)
{
    return c->in.data && strstr(c->in.data, text);
}

/* Up to the features inside TLS. */
static inline struct client *secure(struct node *n, int max_version)
{
    struct client *c = dial(n, false);
    say(c, HEADER);
    expect(c, "from='example.com'");
    expect(c, "<starttls " TLS "><required/></starttls></stream:features>");
    say(c, "<starttls " TLS "/>");
    expect(c, "<proceed " TLS "/>");
    assert_true(handshake(c, NULL, max_version));
    say(c, HEADER);
    expect(c, "<mechanisms " SASL ">");
    return c;
}

static inline void say_plain(struct client *c, const char *user, const char *password)
{
    char message[256], text[512], b64[400];
    int n = snprintf(message, sizeof(message), "%c%s%c%s", 0, user, 0, password);
    base64_encode(b64, message, (size_t)n);
    snprintf(text, sizeof(text), "<auth " SASL " mechanism='PLAIN'>%s</auth>", b64);
    say(c, text);
}

static inline void bind_session(struct client *c)
{
    say(c, HEADER);
    expect(c, "urn:ietf:params:xml:ns:xmpp-bind");
    expect(c, "</stream:features>");
    say(c, "<iq type='set' id='b1'><bind "
           "xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r</resource></bind></iq>");
    expect(c, "@example.com/r</jid>");
}

#endif
