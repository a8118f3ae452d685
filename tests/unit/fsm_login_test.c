/* State machine: tokens for fast log-ins (XEP-0484), keys added to a credential (XEP-0480). */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "replication/levels.h"
#include <string.h>

static void open_world(struct world *w)
{
    world_open(w);
    world_raise_to(w, LEVEL_3);
}

static uint64_t add_user(struct world *w, const char *localpart, Imp__CredentialRow *credential)
{
    Imp__UserAdd b = IMP__USER_ADD__INIT;
    b.domain = (char *)"";
    b.localpart = (char *)localpart;
    b.credential = credential;
    return DONE(APPLY(w, USER_ADD, user_add, &b)).value;
}

static Imp__FastToken token(uint8_t *nonce, uint8_t first, uint64_t expires_ms)
{
    Imp__FastToken t = IMP__FAST_TOKEN__INIT;
    memset(nonce, first, 16);
    t.nonce = BYTES(nonce, 16);
    t.mechanism = (char *)"HT-SHA-256-EXPR";
    t.issued_ms = 1;
    t.expires_ms = expires_ms;
    return t;
}

struct call {
    uint64_t uid;
    const char *client;
    uint8_t issue, use; /* nonces; 0: none */
    uint64_t count, expires_ms;
    bool invalidate;
};

static struct fsm_result apply(struct world *w, struct call c)
{
    uint8_t nonce[16], used[16];
    Imp__FastToken issue = token(nonce, c.issue, c.expires_ms ? c.expires_ms : 1000);
    Imp__FastTokenUse use = IMP__FAST_TOKEN_USE__INIT;
    memset(used, c.use, 16);
    use.nonce = BYTES(used, 16);
    use.count = c.count;
    use.invalidate = c.invalidate;
    Imp__FastTokenSet b = IMP__FAST_TOKEN_SET__INIT;
    b.uid = c.uid;
    b.client = BYTES(c.client, strlen(c.client));
    b.issue = c.issue ? &issue : NULL;
    b.use = c.use ? &use : NULL;
    return APPLY(w, FAST_TOKEN, fast_token, &b);
}
#define CALL(w, ...) apply(w, (struct call){__VA_ARGS__})

/* §3.5, §5.2: a new token does not end the old one before it is used; then it does. */
static void test_rotation(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t uid = add_user(&w, "alice", NULL);
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, 99, "phone", .issue = 1));
    REFUSED(&w, ERR_INVALID, CALL(&w, uid, "", .issue = 1));
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "phone", .use = 1));
    DONE(CALL(&w, uid, "phone", .issue = 1));
    DONE(CALL(&w, uid, "phone", .use = 1, .issue = 2)); /* rotated: both are good */
    DONE(CALL(&w, uid, "phone", .use = 1));
    DONE(CALL(&w, uid, "phone", .issue = 3)); /* 2 was never used: gone (§3.5) */
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "phone", .use = 2));
    DONE(CALL(&w, uid, "phone", .use = 3));
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "phone", .use = 1));
    /* another client's */
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "laptop", .use = 3));
    assert_int_equal(world_rows(&w, TABLE_FAST_TOKEN), 1);
    world_close(&w);
}

/* §3.3: a count must grow; §3.6: invalidated. */
static void test_count_and_invalidate(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t uid = add_user(&w, "alice", NULL);
    DONE(CALL(&w, uid, "phone", .issue = 1));
    DONE(CALL(&w, uid, "phone", .use = 1, .count = 5));
    REFUSED(&w, ERR_CONFLICT, CALL(&w, uid, "phone", .use = 1, .count = 5));
    REFUSED(&w, ERR_CONFLICT, CALL(&w, uid, "phone", .use = 1, .count = 4));
    DONE(CALL(&w, uid, "phone", .use = 1, .count = 6));
    DONE(CALL(&w, uid, "phone", .use = 1, .issue = 2));
    DONE(CALL(&w, uid, "phone", .use = 2, .count = 1)); /* each token counts for itself */
    DONE(CALL(&w, uid, "phone", .use = 2, .count = 2, .invalidate = true));
    assert_int_equal(world_rows(&w, TABLE_FAST_TOKEN), 0);
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "phone", .use = 2, .count = 3));
    DONE(CALL(&w, uid, "phone", .issue = 7));
    DONE(CALL(&w, uid, "phone", .use = 7, .invalidate = true, .issue = 8)); /* asked for a new one, too */
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "phone", .use = 7));
    DONE(CALL(&w, uid, "phone", .use = 8));
    world_close(&w);
}

/* At most 16 clients: the one that expires first goes. A new password and a removal end all. */
static void test_bounds(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t uid = add_user(&w, "alice", NULL), other = add_user(&w, "bob", NULL);
    char name[8];
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "c%d", i);
        DONE(CALL(&w, uid, name, .issue = (uint8_t)(i + 1), .expires_ms = (uint64_t)(i == 7 ? 1 : 1000 + i)));
    }
    DONE(CALL(&w, other, "c", .issue = 1));
    assert_int_equal(world_rows(&w, TABLE_FAST_TOKEN), 17);
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "c7", .use = 8));
    REFUSED(&w, ERR_NOTFOUND, CALL(&w, uid, "c0", .use = 1));
    DONE(CALL(&w, uid, "c19", .use = 20));
    Imp__ScramKeys sha256 = IMP__SCRAM_KEYS__INIT;
    Imp__CredentialRow credential = IMP__CREDENTIAL_ROW__INIT;
    static uint8_t bytes[64] = {1};
    sha256.iterations = 4096;
    sha256.salt = BYTES(bytes, 16);
    sha256.stored_key = sha256.server_key = BYTES(bytes, 32);
    credential.sha256 = &sha256;
    Imp__UserPassword password = IMP__USER_PASSWORD__INIT;
    password.uid = uid;
    password.credential = &credential;
    DONE(APPLY(&w, USER_PASSWORD, user_password, &password));
    assert_int_equal(world_rows(&w, TABLE_FAST_TOKEN), 1);
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = other;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_FAST_TOKEN), 0);
    world_close(&w);
}

static void test_credential_add(void **state)
{
    struct world w;
    open_world(&w);
    static uint8_t bytes[64] = {1}, changed[64] = {2};
    Imp__ScramKeys sha1 = IMP__SCRAM_KEYS__INIT, sha512 = IMP__SCRAM_KEYS__INIT;
    Imp__CredentialRow old = IMP__CREDENTIAL_ROW__INIT, more = IMP__CREDENTIAL_ROW__INIT;
    sha1.iterations = sha512.iterations = 4096;
    sha1.salt = sha512.salt = BYTES(bytes, 16);
    sha1.stored_key = sha1.server_key = BYTES(bytes, 20);
    sha512.stored_key = sha512.server_key = BYTES(bytes, 64);
    old.sha1 = &sha1;
    uint64_t uid = add_user(&w, "alice", &old), none = add_user(&w, "bob", NULL);
    Imp__CredentialAdd b = IMP__CREDENTIAL_ADD__INIT;
    b.uid = none;
    b.credential = &more;
    b.proof = BYTES(bytes, 20);
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, CREDENTIAL_ADD, credential_add, &b));
    b.uid = uid;
    REFUSED(&w, ERR_INVALID, APPLY(&w, CREDENTIAL_ADD, credential_add, &b));
    more.sha512 = &sha512;
    b.proof = BYTES(changed, 20);
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, CREDENTIAL_ADD, credential_add, &b));
    b.proof = BYTES(bytes, 20);
    DONE(APPLY(&w, CREDENTIAL_ADD, credential_add, &b));
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    struct store_txn *t = store_begin(w.store);
    const Imp__CredentialRow *row = store_find_row(t, TABLE_CREDENTIAL, &k, &a);
    assert_true(row && row->sha1 && row->sha512 && !row->sha256);
    store_abort(t);
    arena_fini(&a);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_count_and_invalidate),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_credential_add),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
