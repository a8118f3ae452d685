/* Joining, both sides: a cluster of one made by enrol_new_cluster, its replica and port in this process,
 * joiners by join_ask. What each refusal says, and that a half-made join is finished by asking again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "cluster/join.h"
#include "cluster/link.h"
#include "cluster/plane.h"
#include "node/enrol.h"
#include "replication/replica.h"
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct member_side {
    char dir[64];
    struct datadir d;
    struct datadir_identity id;
    struct seal_ring ring;
    char *key, *cert, *ca;
    struct log *log;
    struct loop *loop;
    struct store *store;
    struct store_reader *reader;
    struct loop_hook hook;
    struct replica *replica;
    struct tls_ctx *tls;
    struct join_server *join;
    struct plane *plane;
    struct identity_cert ca_info;
    char *joiner_key;
    int code;
    uint64_t expire_ms;
};

static char *read_file(struct member_side *m, const char *name)
{
    struct buf b = {0};
    assert_int_equal(datadir_read(&m->d, name, &b, 65536, NULL), 0);
    return buf_steal(&b);
}
static void on_fatal(void *user, bool again, const char *text)
{
    (void)user, (void)again;
    fail_msg("%s", text);
}
static void on_join(void *user, struct stream *s)
{
    struct member_side *m = user;
    join_server_accept(m->join, s, m->cert);
}
static void refuse(void *user, struct stream *s, uint32_t node)
{
    (void)user, (void)node;
    stream_abort(s);
}
static bool is_removed(void *user, uint32_t node)
{
    (void)user, (void)node;
    return false;
}
static void on_before_poll(struct loop_hook *h)
{
    store_reader_reset(container_of(h, struct member_side, hook)->reader);
}

static int start(void **state)
{
    struct member_side *m = mem_new(struct member_side);
    struct err_ctx err = {0};
    *state = m;
    snprintf(m->dir, sizeof(m->dir), "/tmp/imp-join-XXXXXX");
    assert_non_null(mkdtemp(m->dir));
    assert_int_equal(datadir_create(&m->d, m->dir, NULL, &err), 0);
    struct config config;
    config_init(&config);
    snprintf(config.name, sizeof(config.name), "n1");
    snprintf(config.address, sizeof(config.address), "127.0.0.1");
    struct enrol_new_cluster made = {.config = &config, .domain = "example.com"};
    assert_int_equal(enrol_new_cluster(&made, &m->d, &err), 0);
    assert_int_equal(datadir_read_identity(&m->d, &m->id, &err), 0);
    assert_int_equal(seal_ring_load(&m->ring, &m->d, &err), 0);
    m->key = read_file(m, ENROL_KEY);
    m->cert = read_file(m, ENROL_CERT);
    m->ca = read_file(m, ENROL_CA);
    assert_int_equal(identity_read_cert(&m->ca_info, m->ca, &err), 0);
    m->log = log_new(2, LOG_TEXT, LOG_ERROR, "n1");
    assert_int_equal(loop_new(&m->loop, "control", m->log), 0);
    char store[80];
    snprintf(store, sizeof(store), "%s/store", m->dir);
    assert_int_equal(store_open(&m->store,
                                &(struct store_options){.dir = store, .log = m->log, .map_bytes = 1 << 28},
                                &err),
                     0);
    m->reader = store_reader_new(m->store);
    m->hook.fn = on_before_poll;
    loop_add_before_poll(m->loop, &m->hook);
    struct replica_options ro = {.dir = m->dir,
                                 .node_id = 1,
                                 .release = release_name(),
                                 .store = m->store,
                                 .log = m->log,
                                 .election_ms = 100,
                                 .heartbeat_ms = 10,
                                 .on_fatal = on_fatal};
    memcpy(ro.cluster_id, m->id.cluster_id, 16);
    assert_int_equal(replica_open(&m->replica, &ro, &err), 0);
    static const struct feed_handler none;
    replica_add_feed(m->replica, m->loop, &none, NULL);
    m->join = join_server_new(&(struct join_server_options){.loop = m->loop,
                                                            .log = m->log,
                                                            .replica = m->replica,
                                                            .reader = m->reader,
                                                            .seal = &m->ring,
                                                            .cluster_id = m->id.cluster_id,
                                                            .release = release_name()});
    assert_int_equal(plane_tls(&m->tls, NULL, m->cert, m->key, m->ca, &err), 0);
    struct plane_options po = {.loop = m->loop,
                               .log = m->log,
                               .address = "127.0.0.1",
                               .tls = m->tls,
                               .on_raft = refuse,
                               .on_link = refuse,
                               .on_join = on_join,
                               .is_removed = is_removed,
                               .user = m};
    memcpy(po.cluster_id, m->id.cluster_id, 16);
    assert_int_equal(plane_open(&m->plane, &po, &err), 0);
    assert_int_equal(replica_start(m->replica, &err), 0);
    assert_int_equal(identity_new_key(&m->joiner_key, &err), 0);
    assert_int_equal(loop_start_thread(m->loop), 0);
    return 0;
}

struct stop_letter {
    struct letter letter;
    struct member_side *m;
};
static void on_stop(struct letter *l)
{
    struct member_side *m = container_of(l, struct stop_letter, letter)->m;
    plane_close(m->plane);
    join_server_free(m->join);
    loop_stop(m->loop);
}
static int stop(void **state)
{
    struct member_side *m = *state;
    struct stop_letter letter = {{NULL, on_stop, NULL}, m};
    loop_post(m->loop, &letter.letter);
    loop_join_thread(m->loop);
    store_reader_free(m->reader);
    replica_stop(m->replica);
    loop_free(m->loop);
    tls_ctx_unref(m->tls);
    identity_free_key(m->key);
    identity_free_key(m->joiner_key);
    mem_free(m->cert);
    mem_free(m->ca);
    datadir_close(&m->d);
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s", m->dir);
    assert_int_equal(system(command), 0);
    log_free(m->log);
    mem_free(m);
    return 0;
}

/* ---- a token in the store ---- */

struct add_letter {
    struct letter letter;
    struct member_side *m;
    uint8_t hash[32];
    uint64_t expires_ms;
    atomic_bool done;
    int code;
};
static void on_added(void *user, const struct proposal_result *result)
{
    struct add_letter *a = user;
    a->code = result->code;
    atomic_store(&a->done, true);
}
static void on_add(struct letter *l)
{
    struct add_letter *a = container_of(l, struct add_letter, letter);
    Imp__TokenAdd add = IMP__TOKEN_ADD__INIT;
    add.hash = (ProtobufCBinaryData){32, a->hash};
    add.expires_ms = a->expires_ms;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_TOKEN_ADD;
    command.token_add = &add;
    a->code = proposal_submit(a->m->replica, &command, a->m->loop, 0, on_added, a);
    if (a->code)
        atomic_store(&a->done, true);
}
static void make_token(struct member_side *m, struct token *t, unsigned ttl_ms)
{
    struct add_letter a;
    uint64_t until = clock_monotonic_ms() + 20000;
    token_init(t, m->ca_info.fingerprint, clock_wall_ms() + ttl_ms);
    do { /* until the replica has its session */
        a = (struct add_letter){
            .letter = {NULL, on_add, NULL}, .m = m, .expires_ms = clock_wall_ms() + ttl_ms};
        token_hash(a.hash, t->secret);
        loop_post(m->loop, &a.letter);
        while (!atomic_load(&a.done) && clock_monotonic_ms() < until)
            usleep(1000);
        assert_true(atomic_load(&a.done));
    } while (a.code == ERR_UNAVAILABLE && clock_monotonic_ms() < until);
    assert_int_equal(a.code, 0);
}

static struct join_request request_of(struct member_side *m, const struct token *t)
{
    return (struct join_request){.host = "127.0.0.1",
                                 .port = plane_port(m->plane),
                                 .token = t,
                                 .key_pem = m->joiner_key,
                                 .name = "n2",
                                 .address = "127.0.0.2",
                                 .public_name = "",
                                 .release = release_name(),
                                 .cluster_port = 7800,
                                 .xmpp_port = 5222};
}
static void expect_refusal(struct member_side *m, const struct join_request *r, int code, const char *text)
{
    struct join_result result;
    struct err_ctx err = {0};
    assert_int_equal(join_ask(&result, r, m->log, &err), code);
    if (!strstr(err.text, text))
        fail_msg("wanted '%s', got '%s'", text, err.text);
}

static void test_join(void **state)
{
    struct member_side *m = *state;
    struct token t;
    struct join_result result;
    struct err_ctx err = {0};
    make_token(m, &t, 3600 * 1000);
    struct join_request r = request_of(m, &t);
    assert_int_equal(join_ask(&result, &r, m->log, &err), 0);
    assert_int_equal(result.node, 2);
    assert_memory_equal(result.cluster_id, m->id.cluster_id, 16);
    assert_memory_equal(&result.ring, &m->ring, sizeof(m->ring));
    assert_int_equal(result.n_members, 2);
    assert_string_equal(result.members[1].name, "n2");
    assert_string_equal(result.ca_pem, m->ca);
    struct identity_cert cert;
    assert_int_equal(identity_read_cert(&cert, result.cert_pem, &err), 0);
    assert_int_equal(cert.node, 2);
    assert_int_equal(identity_check_signed(result.cert_pem, m->ca, clock_wall_ms(), &err), 0);
    join_result_fini(&result);
    /* The answer was lost: the same key gets the same place again, another key does not. */
    assert_int_equal(join_ask(&result, &r, m->log, &err), 0);
    assert_int_equal(result.node, 2);
    join_result_fini(&result);
    char *other;
    assert_int_equal(identity_new_key(&other, &err), 0);
    r.key_pem = other;
    r.name = "n3";
    r.address = "127.0.0.3";
    expect_refusal(m, &r, ERR_DENIED, "used by the node n2");
    identity_free_key(other);
}

static void test_refusals(void **state)
{
    struct member_side *m = *state;
    struct token t, false_token;
    make_token(m, &t, 3600 * 1000);
    struct join_request r = request_of(m, &t);
    r.name = "n1";
    expect_refusal(m, &r, ERR_EXISTS, "the name n1 is taken");
    r = request_of(m, &t);
    r.address = "127.0.0.1";
    expect_refusal(m, &r, ERR_EXISTS, "is that of the member n1");
    r = request_of(m, &t);
    r.release = "0.0.0";
    expect_refusal(m, &r, ERR_VERSION, "release mismatch");
    r = request_of(m, &t);
    r.name = "n 2";
    expect_refusal(m, &r, ERR_MALFORMED, "malformed");
    r = request_of(m, &t);
    r.port = 1;
    expect_refusal(m, &r, ERR_UNAVAILABLE, "127.0.0.1:1: ");
    /* A token of this CA that nobody made, and one of another cluster. */
    token_init(&false_token, m->ca_info.fingerprint, clock_wall_ms() + 1000);
    r = request_of(m, &false_token);
    expect_refusal(m, &r, ERR_AUTH, "not known here");
    uint8_t other[32] = {1};
    token_init(&false_token, other, clock_wall_ms() + 1000);
    expect_refusal(m, &r, ERR_AUTH, "CA fingerprint mismatch");
    /* None of it used the token up. */
    struct join_result result;
    r = request_of(m, &t);
    assert_int_equal(join_ask(&result, &r, m->log, NULL), 0);
    join_result_fini(&result);
}

static void test_expired(void **state)
{
    struct member_side *m = *state;
    struct token t;
    make_token(m, &t, 1500);
    uint64_t until = clock_monotonic_ms() + 1600;
    while (clock_monotonic_ms() < until)
        usleep(10000);
    struct join_request r = request_of(m, &t);
    expect_refusal(m, &r, ERR_TIMEOUT, "expired");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_join, start, stop),
        cmocka_unit_test_setup_teardown(test_refusals, start, stop),
        cmocka_unit_test_setup_teardown(test_expired, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
