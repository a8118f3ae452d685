/* The parts of a replica that are state machines, each alone: packing, confirmation rounds, reads, hash
 * comparison. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "replication/barrier.h"
#include "replication/confirm.h"
#include "replication/fsm.h"
#include "replication/hashes.h"
#include "replication/message_feed.h"
#include "replication/pace.h"
#include "replication/pack.h"
#include "replication/proposer.h"
#include "replication/replica.h"
#include "replication/skew.h"
#include "store_test.h"

/* ---- pack ---- */

static size_t command(uint8_t *out, uint64_t time_ms, const char *text)
{
    Imp__AlarmRaise body = IMP__ALARM_RAISE__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    c.time_ms = time_ms;
    body.text = (char *)text;
    c.body_case = IMP__COMMAND__BODY_ALARM_RAISE;
    c.alarm_raise = &body;
    return imp__command__pack(&c, out);
}

static size_t patient_command(uint8_t *out, uint64_t time_ms, Imp__Audited *audited)
{
    Imp__MessageStore body = IMP__MESSAGE_STORE__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    c.time_ms = time_ms;
    c.audited = audited;
    c.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    c.message_store = &body;
    return imp__command__pack(&c, out);
}

static void test_patient(void **state)
{
    struct pack p;
    uint8_t bytes[256], other[256];
    Imp__Audited audited = IMP__AUDITED__INIT;
    Imp__SessionMark mark = IMP__SESSION_MARK__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_SESSION_MARK;
    c.session_mark = &mark;
    assert_true(pack_is_patient(bytes, imp__command__pack(&c, bytes)));
    assert_false(pack_is_patient(bytes, patient_command(bytes, 5, &audited)));
    assert_false(pack_is_patient(bytes, 0));
    size_t n_other = command(other, 1ull << 40, ""), n = patient_command(bytes, 1ull << 40, NULL);
    assert_false(pack_is_patient(other, n_other));
    for (size_t i = 0; i <= 7; i++)
        assert_false(pack_is_patient(bytes, i)); /* cut off: the time takes seven */
    assert_true(pack_is_patient(bytes, n));
    /* What waits is as urgent as any of it. */
    pack_init(&p);
    assert_true(pack_add(&p, 1ull << 40, 1, 1, 1, bytes, n));
    assert_false(p.is_urgent);
    assert_true(pack_add(&p, 1ull << 40, 1, 1, 2, other, n_other));
    assert_true(pack_add(&p, 1ull << 40, 1, 1, 3, bytes, n));
    assert_true(p.is_urgent);
    pack_clear(&p);
    assert_false(p.is_urgent);
    pack_fini(&p);
}

static void test_pack(void **state)
{
    struct pack p;
    struct blob *entries[8];
    uint8_t bytes[256];
    pack_init(&p);
    assert_true(pack_is_empty(&p));
    size_t n = command(bytes, 1000000, "on time");
    assert_true(pack_add(&p, 1005000, 7, 3, 300, bytes, n));
    n = command(bytes, 1000000, "too old");
    assert_true(pack_add(&p, 2000000, 0, 0, 0, bytes, n));
    n = command(bytes, 9000000, "too new");
    assert_true(pack_add(&p, 2000000, 1u << 31, 1ull << 63, UINT64_MAX, bytes, n));
    n = command(bytes, 0, "no time");
    assert_true(pack_add(&p, 2000000, 1, 1, 1, bytes, n));
    assert_int_equal(pack_peek(&p, entries, 8), 1);
    Imp__Entry *e = imp__entry__unpack(NULL, entries[0]->n, (uint8_t *)entries[0]->data);
    assert_non_null(e);
    assert_int_equal(e->n_proposals, 4);
    assert_int_equal(e->proposals[0]->node, 7);
    assert_int_equal(e->proposals[0]->epoch, 3);
    assert_int_equal(e->proposals[0]->seq, 300);
    assert_int_equal(e->proposals[0]->command->time_ms, 1000000);
    assert_int_equal(e->proposals[1]->node, 0);
    assert_int_equal(e->proposals[1]->command->time_ms, 2000000);
    assert_int_equal(e->proposals[2]->seq, UINT64_MAX);
    assert_int_equal(e->proposals[2]->command->time_ms, 2000000);
    assert_int_equal(e->proposals[3]->command->time_ms, 2000000);
    assert_string_equal(e->proposals[3]->command->alarm_raise->text, "no time");
    imp__entry__free_unpacked(e, NULL);
    pack_drop(&p, 1);
    assert_true(pack_is_empty(&p));
    assert_int_equal(p.n_bytes, 0);
    pack_fini(&p);
}

static void test_pack_limits(void **state)
{
    struct pack p;
    struct blob *entries[64];
    pack_init(&p);
    uint8_t small[64], *big = mem_zalloc(40 << 10);
    size_t n = command(small, 1, "x");
    for (unsigned i = 0; i < 2 * PACK_COMMANDS + 1; i++)
        assert_true(pack_add(&p, 1, 1, 1, i + 1, small, n));
    assert_int_equal(pack_peek(&p, entries, 64), 3);
    /* What was looked at is closed: the next command opens another. */
    assert_true(pack_add(&p, 1, 1, 1, 1, small, n));
    assert_int_equal(pack_peek(&p, entries, 64), 4);
    pack_clear(&p);
    for (unsigned i = 0; i < 4; i++)
        assert_true(pack_add(&p, 0, 1, 1, i + 1, big, 40 << 10));
    assert_int_equal(pack_peek(&p, entries, 64), 4);
    pack_clear(&p);
    unsigned taken = 0;
    while (pack_add(&p, 0, 1, 1, 1, big, 40 << 10))
        taken++;
    assert_true(taken >= 1600 && taken <= 1640);
    pack_fini(&p);
    mem_free(big);
}

/* ---- confirm ---- */

struct rounds {
    unsigned n_asked;
    uint64_t confirmed;
};

static void on_ask(void *user, uint32_t voter, uint64_t term, uint64_t round)
{
    ((struct rounds *)user)->n_asked++;
}
static void on_confirmed(void *user, uint64_t round)
{
    ((struct rounds *)user)->confirmed = round;
}
static const struct confirm_ops confirm_ops = {on_ask, on_confirmed};

static void test_confirm(void **state)
{
    struct rounds r = {0};
    struct confirm c;
    uint32_t voters[] = {1, 2, 3};
    confirm_init(&c, &confirm_ops, &r, 1);
    confirm_set_voters(&c, voters, 3);
    confirm_lead(&c, 5);
    uint64_t first = confirm_want(&c);
    confirm_pump(&c, 0, 60);
    assert_int_equal(r.n_asked, 2);
    /* Wanted after it began: needs the next one. */
    uint64_t second = confirm_want(&c);
    assert_int_equal(second, first + 1);
    confirm_on_ok(&c, 2, 4, first);  /* another term */
    confirm_on_ok(&c, 9, 5, first);  /* no voter */
    confirm_on_ok(&c, 2, 5, second); /* not begun */
    assert_int_equal(r.confirmed, 0);
    confirm_on_ok(&c, 2, 5, first);
    assert_int_equal(r.confirmed, first);
    confirm_pump(&c, 1, 60);
    assert_int_equal(r.n_asked, 4);
    confirm_pump(&c, 30, 60);
    assert_int_equal(r.n_asked, 4);
    confirm_pump(&c, 61, 60); /* silence: asked again */
    assert_int_equal(r.n_asked, 6);
    /* The end of leadership ends the round. */
    confirm_lead(&c, 0);
    confirm_on_ok(&c, 2, 5, second);
    assert_int_equal(r.confirmed, first);
    confirm_lead(&c, 8);
    confirm_pump(&c, 200, 60);
    assert_int_equal(r.n_asked, 6);
    confirm_on_ok(&c, 2, 5, second);
    assert_int_equal(r.confirmed, first);
    /* Alone: at once. */
    confirm_set_voters(&c, voters, 1);
    uint64_t alone = confirm_want(&c);
    confirm_pump(&c, 300, 60);
    assert_int_equal(r.confirmed, alone);
}

/* ---- barriers ---- */

struct reads {
    uint64_t commit, round, asked, told_index;
    unsigned n_told, n_done;
    int code;
    bool can_ask;
};

static uint64_t reads_commit(void *user)
{
    return ((struct reads *)user)->commit;
}
static uint64_t reads_round(void *user)
{
    return ++((struct reads *)user)->round;
}
static bool reads_ask(void *user, uint64_t id)
{
    ((struct reads *)user)->asked = id;
    return ((struct reads *)user)->can_ask;
}
static void reads_tell(void *user, uint32_t node, uint64_t id, uint64_t index)
{
    ((struct reads *)user)->told_index = index;
    ((struct reads *)user)->n_told++;
}
static void reads_done(void *user, struct barrier_wait *w, int code)
{
    ((struct reads *)user)->code = code;
    ((struct reads *)user)->n_done++;
}
static const struct barrier_ops barrier_ops = {reads_commit, reads_round, reads_ask, reads_tell, reads_done};

static void test_barrier_leader(void **state)
{
    struct reads r = {.commit = 10};
    struct barriers b;
    struct barrier_wait w, late;
    barriers_init(&b, &barrier_ops, &r, 1);
    barriers_set(&b, 1, true);
    barriers_on_applied(&b, 9);
    assert_true(barriers_add(&b, &w, 0, 1000));
    barriers_on_applied(&b, 10);
    assert_int_equal(r.n_done, 0); /* applied, but the term is not confirmed */
    barriers_on_round(&b, 1);
    assert_int_equal(r.n_done, 1);
    assert_int_equal(w.index, 10);
    /* A follower's. */
    barriers_on_read(&b, 2, 77);
    assert_int_equal(r.n_told, 0);
    barriers_on_round(&b, 2);
    assert_int_equal(r.told_index, 10);
    barriers_on_read(&b, 2, 78);
    barriers_set(&b, 2, false); /* leadership lost: no answer that counts */
    assert_int_equal(r.n_told, 2);
    assert_int_equal(r.told_index, 0);
    r.commit = 0;
    assert_true(barriers_add(&b, &late, 0, 1000));
    barriers_pump(&b, 1001);
    assert_int_equal(r.code, ERR_UNAVAILABLE);
    barriers_end(&b, ERR_CLOSED);
}

static void test_barrier_follower(void **state)
{
    struct reads r = {.can_ask = true};
    struct barriers b;
    struct barrier_wait w;
    barriers_init(&b, &barrier_ops, &r, 1);
    barriers_set(&b, 1, false);
    assert_true(barriers_add(&b, &w, 0, 10000));
    uint64_t first = r.asked;
    assert_int_equal(first, 1);
    barriers_on_index(&b, first, 0); /* not now */
    barriers_pump(&b, 1);
    assert_int_equal(r.asked, 2);
    barriers_on_index(&b, first, 5); /* the old question's answer is void */
    assert_int_equal(w.state, BARRIER_ASKED);
    barriers_pump(&b, 2);
    assert_int_equal(r.asked, 2);
    barriers_set(&b, 2, false); /* another leader */
    barriers_pump(&b, 3);
    assert_int_equal(r.asked, 3);
    barriers_on_index(&b, 3, 12);
    assert_int_equal(r.n_done, 0);
    barriers_on_applied(&b, 12);
    assert_int_equal(r.n_done, 1);
    assert_int_equal(r.code, 0);
    barriers_end(&b, ERR_CLOSED);
}

/* ---- hashes ---- */

static void test_hashes(void **state)
{
    struct hashes h;
    struct hashes_result out;
    struct store_hash a = {1, 2}, b = {3, 4};
    hashes_init(&h, 1);
    hashes_add(&h, 0, 2, 1024, &a);
    hashes_add(&h, 0, 3, 1024, &a);
    assert_false(hashes_judge(&h, 100000, 3, &out)); /* ours is not there yet */
    hashes_add(&h, 100000, 1, 1024, &a);
    assert_true(hashes_judge(&h, 100000, 3, &out));
    assert_int_equal(out.verdict, HASHES_EQUAL);
    assert_false(hashes_judge(&h, 100000, 3, &out));

    hashes_add(&h, 0, 1, 2048, &b);
    hashes_add(&h, 0, 2, 2048, &a);
    assert_false(hashes_judge(&h, 10, 3, &out));
    hashes_add(&h, 10, 3, 2048, &a);
    assert_true(hashes_judge(&h, 10, 3, &out));
    assert_int_equal(out.verdict, HASHES_WE_DIFFER);

    hashes_add(&h, 0, 1, 3072, &a);
    hashes_add(&h, 0, 2, 3072, &a);
    hashes_add(&h, 0, 3, 3072, &b);
    assert_true(hashes_judge(&h, 10, 3, &out));
    assert_int_equal(out.verdict, HASHES_THEY_DIFFER);
    assert_int_equal(out.n_nodes, 1);
    assert_int_equal(out.nodes[0], 3);

    hashes_add(&h, 0, 1, 4096, &a);
    hashes_add(&h, 0, 2, 4096, &b);
    assert_false(hashes_judge(&h, HASHES_WAIT_MS - 1, 3, &out)); /* the third may still tell */
    assert_true(hashes_judge(&h, HASHES_WAIT_MS, 3, &out));
    assert_int_equal(out.verdict, HASHES_TIE);
    /* Far older than what is compared: dropped. */
    for (uint64_t i = 10; i < 10 + HASHES_SLOTS; i++)
        hashes_add(&h, 0, 1, i * 1024, &a);
    hashes_add(&h, 0, 2, 1024, &b);
    hashes_add(&h, 0, 1, 1024, &a);
    assert_false(hashes_judge(&h, HASHES_WAIT_MS - 1, 3, &out));
}

/* ---- clocks ---- */

static void test_clocks(void **state)
{
    assert_int_equal(skew_median(NULL, 0), 0);
    /* Two disagree: nobody knows who is right. */
    assert_int_equal(skew_median((int64_t[]){30000}, 1), 15000);
    /* Ours is the odd one out, then another's is. */
    assert_int_equal(skew_median((int64_t[]){-60000, -60100}, 2), -60000);
    assert_int_equal(skew_median((int64_t[]){90000, 20}, 2), 20);
    assert_int_equal(skew_median((int64_t[]){5, -7, 90000, 3}, 4), 3);
    assert_int_equal(skew_median((int64_t[]){INT64_MAX, INT64_MIN, INT64_MAX}, 3), INT64_MAX / 2);
}

/* ---- what a person reads of an install ---- */

static void test_install_text(void **state)
{
    char text[REPLICA_INSTALL_TEXT];
    struct replica_status s = {.installing = true};
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "looks for a member with a copy");
    s.install_source = 2;
    strcpy(s.install_trouble, "the connection to node 2 was cut");
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "asks node 2 for a copy; the connection to node 2 was cut");
    s.install_trouble[0] = 0;
    s.install_step = REPLICA_INSTALL_COPYING;
    s.install_total = 2046ull << 20;
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "0 of 2046 MiB (0 %)");
    s.install_done = 512ull << 20;
    s.install_rate = 96ull << 20;
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "512 of 2046 MiB (25 %), 96.0 MiB/s, 16 s left");
    s.install_done = 2050ull << 20; /* the size was an estimate */
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "2050 of 2046 MiB (100 %), 96.0 MiB/s, 0 s left");
    s.install_step = REPLICA_INSTALL_VERIFYING;
    replica_install_text(&s, text, sizeof(text));
    assert_string_equal(text, "verifies 2050 MiB");
    memset(s.install_trouble, 'x', sizeof(s.install_trouble) - 1);
    replica_install_text(&s, text, 12);
    assert_string_equal(text, "verifies 20");
}

/* ---- pace ---- */

static void test_pace(void **state)
{
    struct pace p = {0};
    /* Who sends one and waits for it is never held, however soon the next one comes. */
    uint64_t now = 1000;
    for (uint64_t n = 1; n <= 10; n++) {
        assert_int_equal(pace_wait(&p, now, n - 1, false), 0);
        pace_sent(&p, now, n, n - 1, false);
    }
    /* One behind another: from here on not more often than every PACE_MS ... */
    assert_int_equal(pace_wait(&p, now, 9, false), 0);
    pace_sent(&p, now, 11, 9, false);
    assert_int_equal(pace_wait(&p, now, 9, false), now + PACE_MS);
    assert_int_equal(pace_wait(&p, now, 11, false), now + PACE_MS);
    /* ... or, while even the one before is under way, PACE_MAX_MS. */
    now += PACE_MS;
    assert_int_equal(pace_wait(&p, now, 10, false), 0);
    assert_int_equal(pace_wait(&p, now, 9, false), now - PACE_MS + PACE_MAX_MS);
    now += PACE_MAX_MS - PACE_MS;
    assert_int_equal(pace_wait(&p, now, 9, false), 0);
    pace_sent(&p, now, 12, 11, false);
    /* What is patient waits longer for others. */
    assert_int_equal(pace_wait(&p, now, 11, true), now + PACE_PATIENT_MS);
    assert_int_equal(pace_wait(&p, now + PACE_MAX_MS, 10, false), 0);
    assert_int_equal(pace_wait(&p, now + PACE_PATIENT_MS, 10, true), now + PACE_PATIENT_MAX_MS);
    assert_int_equal(pace_wait(&p, now + PACE_PATIENT_MS, 11, true), 0);
    assert_int_equal(pace_wait(&p, now + PACE_PATIENT_MAX_MS, 10, true), 0);
    /* Where several of these meet it goes on like that, though each sending is done before the next. */
    struct pace q = p;
    for (uint64_t n = 13, at = now; n < 23; n++) {
        at += PACE_PATIENT_MS;
        pace_sent(&q, at, n, n - 1, true);
        assert_int_equal(pace_wait(&q, at, n, true), at + PACE_PATIENT_MS);
    }
    /* All was done before this one: after a while one that comes alone is not held again. */
    now += PACE_BUSY_MS;
    pace_sent(&p, now, 13, 12, false);
    assert_int_equal(pace_wait(&p, now, 12, false), 0);
}

static bool count_sent(void *user, uint64_t epoch, uint64_t seq, const void *command, size_t n_bytes)
{
    *(uint64_t *)user = seq;
    return true;
}

static bool no_register(void *user, const uint8_t nonce[PROPOSER_NONCE], uint64_t expected_epoch)
{
    return true;
}

static void same_nonce(void *user, uint8_t nonce[PROPOSER_NONCE])
{
    memset(nonce, 1, PROPOSER_NONCE);
}

static void no_answer(void *user, const struct proposal_call *call, int code)
{
}

static bool submit_bytes(struct proposer *p, uint64_t now, const void *bytes, size_t n)
{
    bool first;
    struct proposal_call call = {0};
    assert_int_equal(proposer_submit(p, now, bytes, n, now + 30000, &call, &first), 0);
    return first;
}

static void submit_to(struct proposer *p, uint64_t now)
{
    submit_bytes(p, now, "x", 1);
}

/* What is held goes when it is due, or at once when all has to be sent again. */
static void test_proposer_pace(void **state)
{
    static const struct proposer_ops ops = {count_sent, no_register, same_nonce};
    uint64_t sent = 0, now = 1000;
    bool urgent;
    struct proposer *p = proposer_new(&ops, &sent);
    struct proposer_rows rows = {
        .is_member = true, .epoch = 1, .has_session = true, .session_epoch = 1, .next_seq = 1};
    memset(rows.nonce, 1, PROPOSER_NONCE);
    proposer_on_rows(p, now, &rows, no_answer, NULL);
    proposer_set_route(p, now, 1);
    proposer_pump(p, now, true);
    submit_to(p, now);
    assert_int_equal(proposer_pump(p, now, true), 0);
    submit_to(p, now);
    assert_int_equal(proposer_pump(p, now, true), 0);
    assert_int_equal(sent, 2);
    submit_to(p, now);
    assert_true(proposer_has_unsent(p, &urgent) && urgent);
    assert_int_equal(proposer_pump(p, now, true), now + PACE_MS);
    assert_int_equal(sent, 2);
    assert_int_equal(proposer_pump(p, now + PACE_MAX_MS, true), 0);
    assert_int_equal(sent, 3);
    submit_to(p, now + PACE_MAX_MS);
    assert_int_not_equal(proposer_pump(p, now + PACE_MAX_MS, true), 0);
    assert_int_equal(sent, 3);
    proposer_set_route(p, now + PACE_MAX_MS, 2); /* a new leader: everything again, all at once */
    assert_int_equal(proposer_pump(p, now + PACE_MAX_MS, true), 0);
    assert_int_equal(sent, 4);
    assert_false(proposer_has_unsent(p, &urgent) || urgent);
    /* A message waits longer; the first that is not patient wakes who sends, and takes it along. */
    uint8_t bytes[64];
    size_t n = patient_command(bytes, now, NULL);
    now += 2 * PACE_MAX_MS;
    submit_to(p, now);
    submit_to(p, now);
    assert_int_equal(proposer_pump(p, now, true), 0);
    assert_true(submit_bytes(p, now, bytes, n));
    assert_false(submit_bytes(p, now, bytes, n));
    assert_int_equal(proposer_pump(p, now, true), now + PACE_PATIENT_MS);
    now += PACE_MAX_MS;
    assert_int_not_equal(proposer_pump(p, now, true), 0);
    assert_true(proposer_has_unsent(p, &urgent) && !urgent);
    assert_true(submit_bytes(p, now, "x", 1));
    assert_false(submit_bytes(p, now, "x", 1));
    assert_int_equal(proposer_pump(p, now, true), 0);
    assert_false(proposer_has_unsent(p, &urgent));
    proposer_free(p);
}

/* ---- who hears of a stored message ---- */

static void put_node(struct store_txn *t, uint32_t id, bool up, uint64_t n_users)
{
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    Imp__CountRow count = IMP__COUNT_ROW__INIT;
    struct key k;
    key_init(&k);
    key_u32(&k, id);
    node.id = id;
    node.up = up;
    store_put_row(t, TABLE_NODE, &k, &node);
    count.n = n_users;
    store_put_row(t, TABLE_HOME_COUNT, &k, &count);
}

static struct key two_u64(uint64_t a, uint64_t b)
{
    struct key k;
    key_init(&k);
    key_u64(&k, a);
    key_u64(&k, b);
    return k;
}

static void test_message_feed(void **state)
{
    enum { HERE = 1, THERE = 2, UID = 7, OTHER = 8, INDEX = 100 };
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct store_txn *t = store_begin(s);
    struct message_feed m = {.node = HERE};
    struct key k, row = two_u64(UID, INDEX), other = two_u64(OTHER, INDEX);
    Imp__HomeRow home = IMP__HOME_ROW__INIT;
    put_node(t, HERE, true, 1);
    put_node(t, THERE, true, 1);
    key_init(&k);
    key_u32(&k, HERE);
    key_u64(&k, UID);
    store_put_row(t, TABLE_USER_BY_HOME, &k, &home);
    assert_true(message_feed_wants(&m, t, INDEX, &row, false));
    assert_false(message_feed_wants(&m, t, INDEX, &other, false));
    /* A mark, and a row that goes. */
    assert_false(message_feed_wants(&m, t, INDEX + 1, &row, false));
    assert_false(message_feed_wants(&m, t, INDEX, &row, true));
    /* Its home is down: any node may stand in. In the same transaction, as the log has it. */
    put_node(t, THERE, false, 1);
    message_feed_note(&m, TABLE_NODE);
    assert_true(message_feed_wants(&m, t, INDEX, &other, false));
    /* Nobody is at home there any more. */
    put_node(t, THERE, false, 0);
    message_feed_note(&m, TABLE_HOME_COUNT);
    assert_false(message_feed_wants(&m, t, INDEX, &other, false));
    test_commit(t);
    store_close_dirty(s);
    test_dir_remove(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack),           cmocka_unit_test(test_patient),
        cmocka_unit_test(test_pack_limits),    cmocka_unit_test(test_confirm),
        cmocka_unit_test(test_barrier_leader), cmocka_unit_test(test_barrier_follower),
        cmocka_unit_test(test_hashes),         cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_install_text),   cmocka_unit_test(test_pace),
        cmocka_unit_test(test_proposer_pace),  cmocka_unit_test(test_message_feed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
