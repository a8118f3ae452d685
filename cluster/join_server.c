#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "cluster/frame.h"
#include "cluster/join.h"
#include "cluster/members.h"
#include "plane.pb-c.h"
#include "replication/replica.h"
#include "replication/settings.h"
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

enum { MAX_JOINERS = 16, TIMEOUT_MS = 20000 };

/* AWAITING_REQUEST -> PROPOSING -> ANSWERED (closing); the connection may be lost in each. While a proposal
 * is under way the struct outlives its stream. */
enum joiner_state { JOINER_AWAITING_REQUEST, JOINER_PROPOSING, JOINER_ANSWERED };
struct joiner {
    struct list link;
    struct join_server *server; /* NULL: the server is gone */
    struct stream *stream;      /* NULL: closed */
    enum joiner_state state;
    struct frame_reader reader;
    struct timer timeout;
    struct buf request;
    char name[NODE_NAME_MAX + 1];
};
struct join_server {
    struct join_server_options o;
    struct list joiners;
    unsigned n;
};

static void on_data(void *user, const uint8_t *data, size_t n_bytes);
static void on_close(void *user, int code, const char *detail);
static const struct stream_events events = {.on_data = on_data, .on_close = on_close};

/* ---- the CA ---- */

int join_ca_read(struct join_ca *ca, struct store_txn *txn, const struct seal_ring *ring, struct err_ctx *err)
{
    struct arena a;
    arena_init(&a);
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, txn, TABLE_CA, &all);
    Imp__CaRow *active = NULL;
    struct buf others = {0}, key = {0};
    while (store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        uint32_t generation = key_read_u32(&r);
        Imp__CaRow *row = store_iter_row(&it, &a);
        if (row && !row->active)
            buf_adds(&others, row->cert_pem);
        if (!row || !row->active)
            continue;
        active = row;
        ca->generation = generation;
    }
    store_iter_fini(&it);
    int rc = active ? seal_open(ring, "ca", active->sealed_key.data, active->sealed_key.len, &key, err)
                    : err_set(err, ERR_NOTFOUND, "this node does not have the cluster's CA yet");
    if (active) {
        ca->cert_pem = mem_strdup(active->cert_pem);
        ca->bundle_pem = mem_printf("%s%s", active->cert_pem, others.n ? others.data : "");
        ca->life_ms = (uint64_t)setting_int(txn, NULL, SETTING_CERTIFICATE_LIFE) * 1000;
    }
    if (!rc)
        ca->key_pem = mem_strndup(key.data, key.n);
    seal_buf_fini(&key);
    buf_fini(&others);
    arena_fini(&a);
    return rc;
}

struct identity_ca join_ca_signer(const struct join_ca *ca)
{
    return (struct identity_ca){ca->cert_pem, ca->key_pem, ca->life_ms};
}

void join_ca_fini(struct join_ca *ca)
{
    identity_free_key(ca->key_pem);
    mem_free(ca->cert_pem);
    mem_free(ca->bundle_pem);
    *ca = (struct join_ca){0};
}

/* ---- connections ---- */

static void release(struct joiner *j)
{
    if (j->server) {
        j->server->n--;
        list_remove(&j->link);
    }
    timer_stop(&j->timeout);
    frame_reader_fini(&j->reader);
    seal_buf_fini(&j->request);
    mem_free(j);
}

static void on_close(void *user, int code, const char *detail)
{
    struct joiner *j = user;
    j->stream = NULL;
    if (j->state != JOINER_PROPOSING)
        release(j);
}

static void on_timeout(struct timer *t)
{
    struct joiner *j = container_of(t, struct joiner, timeout);
    if (j->stream)
        stream_abort(j->stream);
}

static void write_message(struct joiner *j, const ProtobufCMessage *message)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    if (!j->stream || n > JOIN_FRAME_MAX)
        return;
    struct buf b = {0};
    buf_add_u32(&b, (uint32_t)n);
    b.n += protobuf_c_message_pack(message, (uint8_t *)buf_reserve(&b, n));
    stream_write(j->stream, b.data, b.n);
    seal_buf_fini(&b);
}

static void refuse(struct joiner *j, int code, const char *text)
{
    Imp__JoinAnswer answer = IMP__JOIN_ANSWER__INIT;
    answer.code = code;
    answer.text = (char *)text;
    if (j->server)
        log_notice(j->server->o.log, "join of '%s' refused: %s", j->name, text);
    write_message(j, &answer.base);
    j->state = JOINER_ANSWERED;
    if (j->stream)
        stream_close(j->stream);
}

/* The token is consumed and the member exists: sign and tell. */
static void accept(struct joiner *j, uint32_t node)
{
    struct join_server *s = j->server;
    struct err_ctx err = {0};
    struct join_ca ca = {0};
    char *cert = NULL;
    store_reader_reset(s->o.reader);
    struct store_txn *txn = store_read_txn(s->o.reader);
    int rc = join_ca_read(&ca, txn, s->o.seal, &err);
    struct identity_ca signer = join_ca_signer(&ca);
    if (!rc)
        rc = identity_sign_node(&cert, &signer, j->request.data, j->request.n, s->o.cluster_id, node, clock_wall_ms(), &err);
    if (rc) {
        join_ca_fini(&ca);
        refuse(j, rc, err.text);
        return;
    }
    struct members *m = members_read(txn, store_reader_index(s->o.reader));
    Imp__JoinMember members[JOIN_MAX_MEMBERS], *list[JOIN_MAX_MEMBERS];
    unsigned n = 0;
    for (unsigned i = 0; i < m->n && n < JOIN_MAX_MEMBERS; i++) {
        imp__join_member__init(&members[n]);
        members[n].id = m->list[i].id;
        members[n].name = m->list[i].name;
        members[n].address = m->list[i].address;
        members[n].cluster_port = m->list[i].cluster_port;
        list[n] = &members[n];
        n++;
    }
    ProtobufCBinaryData keys[SEAL_MAX_KEYS];
    for (unsigned i = 0; i < s->o.seal->n; i++)
        keys[i] = (ProtobufCBinaryData){SEAL_KEY_BYTES, (uint8_t *)s->o.seal->key[i]};
    Imp__JoinAnswer answer = IMP__JOIN_ANSWER__INIT;
    answer.cluster_id = (ProtobufCBinaryData){16, (uint8_t *)s->o.cluster_id};
    answer.node = node;
    answer.cert_pem = cert;
    answer.ca_pem = ca.bundle_pem;
    answer.n_cluster_keys = s->o.seal->n;
    answer.cluster_keys = keys;
    answer.n_members = n;
    answer.members = list;
    write_message(j, &answer.base);
    log_notice(s->o.log, "node '%s' joined as %u", j->name, node);
    j->state = JOINER_ANSWERED;
    if (j->stream)
        stream_close(j->stream);
    members_free(m);
    mem_free(cert);
    join_ca_fini(&ca);
}

static void on_proposed(void *user, const struct proposal_result *result)
{
    struct joiner *j = user;
    if (j->server && j->stream) {
        if (!result->code)
            accept(j, (uint32_t)result->value);
        else
            refuse(j, result->code, result->text && *result->text ? result->text : err_text(result->code));
    }
    j->state = JOINER_ANSWERED;
    if (!j->stream)
        release(j);
}

/* Release equality is with the publisher's: it is upgraded first. */
static bool check_release(struct join_server *s, const char *release, struct err_ctx *err)
{
    struct members *m = members_read(store_read_txn(s->o.reader), 0);
    const struct member *publisher = members_find(m, m->publisher);
    const char *want = publisher && *publisher->release ? publisher->release : s->o.release;
    bool same = !strcmp(want, release);
    if (!same)
        err_set(err, ERR_VERSION,
                "release mismatch: the cluster runs release %s, this node has %.60s; install %s here", want,
                release, want);
    members_free(m);
    return same;
}

static void propose(struct joiner *j, const Imp__JoinRequest *request)
{
    struct join_server *s = j->server;
    struct err_ctx err = {0};
    uint8_t hash[32], key_hash[32];
    snprintf(j->name, sizeof(j->name), "%s", request->name);
    if (!datadir_is_name(request->name) || !*request->address || strlen(request->address) > 253 ||
        strlen(request->public_name) > 253 || strlen(request->release) > 63 ||
        request->cluster_port - 1 > 65534 || request->xmpp_port > 65535 ||
        request->secret.len != TOKEN_SECRET_BYTES) {
        *j->name = '\0';
        refuse(j, ERR_MALFORMED, "the join request is malformed");
        return;
    }
    if (identity_check_request(request->request.data, request->request.len, key_hash, &err)) {
        refuse(j, ERR_MALFORMED, err.text);
        return;
    }
    if (!check_release(s, request->release, &err)) {
        refuse(j, ERR_VERSION, err.text);
        return;
    }
    token_hash(hash, request->secret.data);
    buf_add(&j->request, request->request.data, request->request.len);
    Imp__NodeJoin join = IMP__NODE_JOIN__INIT;
    join.token_hash = (ProtobufCBinaryData){32, hash};
    join.public_key_hash = (ProtobufCBinaryData){32, key_hash};
    join.name = request->name;
    join.address = request->address;
    join.cluster_port = request->cluster_port;
    join.public_name = request->public_name;
    join.xmpp_port = request->xmpp_port;
    join.release = request->release;
    join.witness = request->witness;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_NODE_JOIN;
    command.node_join = &join;
    j->state = JOINER_PROPOSING;
    int rc = proposal_submit(s->o.replica, &command, s->o.loop, 10000, on_proposed, j);
    if (rc) {
        j->state = JOINER_ANSWERED;
        refuse(j, rc,
               "this member cannot write now (it is not connected to a quorum); try again or ask another "
               "member");
    }
}

static bool on_frame(void *user, const uint8_t *body, size_t n_bytes)
{
    struct joiner *j = user;
    if (j->state != JOINER_AWAITING_REQUEST) {
        stream_abort(j->stream);
        return false;
    }
    Imp__JoinRequest *request = imp__join_request__unpack(NULL, n_bytes, body);
    if (!request) {
        refuse(j, ERR_MALFORMED, "the join request is malformed");
        return false;
    }
    propose(j, request);
    mem_wipe(request->secret.data, request->secret.len);
    imp__join_request__free_unpacked(request, NULL);
    return j->state == JOINER_PROPOSING;
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct joiner *j = user;
    int rc = frame_reader_feed(&j->reader, data, n_bytes, on_frame, j);
    if (rc && rc != ERR_CANCELED && j->stream)
        stream_abort(j->stream);
}

/* ---- life ---- */

struct join_server *join_server_new(const struct join_server_options *o)
{
    struct join_server *s = mem_new(struct join_server);
    s->o = *o;
    list_init(&s->joiners);
    return s;
}

void join_server_free(struct join_server *s)
{
    if (!s)
        return;
    struct joiner *j;
    list_for_each(j, &s->joiners, struct joiner, link)
    {
        list_remove(&j->link);
        j->server = NULL;
        timer_stop(&j->timeout);
        if (j->stream)
            stream_abort(j->stream);
    }
    mem_free(s);
}

static void say_hello(struct joiner *j, const char *cert_pem)
{
    struct join_server *s = j->server;
    struct join_ca ca = {0};
    struct err_ctx err = {0};
    store_reader_reset(s->o.reader);
    if (join_ca_read(&ca, store_read_txn(s->o.reader), s->o.seal, &err)) {
        log_warning(s->o.log, "cannot serve a join: %s", err.text);
        join_ca_fini(&ca);
        stream_abort(j->stream);
        return;
    }
    Imp__JoinHello hello = IMP__JOIN_HELLO__INIT;
    hello.ca_pem = ca.cert_pem;
    hello.cert_pem = (char *)cert_pem;
    hello.release = (char *)s->o.release;
    write_message(j, &hello.base);
    join_ca_fini(&ca);
}

void join_server_accept(struct join_server *s, struct stream *stream, const char *cert_pem)
{
    struct joiner *j = mem_new(struct joiner);
    j->server = s;
    j->stream = stream;
    frame_reader_init(&j->reader, JOIN_FRAME_MAX);
    j->reader.is_secret = true;
    timer_init(&j->timeout, s->o.loop, on_timeout);
    timer_start(&j->timeout, TIMEOUT_MS, 0);
    list_append(&s->joiners, &j->link);
    stream_set_handler(stream, &events, j);
    if (s->n++ < MAX_JOINERS)
        say_hello(j, cert_pem);
    else
        stream_abort(stream);
}
