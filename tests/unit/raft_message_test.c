/* Raft's messages on the wire: what goes in comes out, and nothing else gets in. */
#include "replication/message.h"

#include "base/err.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct configuration conf_of_three(void)
{
    struct configuration c = {0};
    configuration_add(&c, 1, CONFIGURATION_VOTER);
    configuration_add(&c, 77777777777, CONFIGURATION_VOTER);
    configuration_add(&c, UINT64_MAX, CONFIGURATION_STANDBY);
    return c;
}

static struct blob *conf_payload(void)
{
    struct configuration c = conf_of_three();
    struct buf b = {0};
    configuration_encode(&b, &c);
    struct blob *payload = blob_new(b.data, b.n);
    buf_fini(&b);
    return payload;
}

static struct raft_msg make_append(void)
{
    struct raft_msg m = {.type = RAFT_MSG_APPEND, .term = 9};
    m.append.prev_index = 100;
    m.append.prev_term = 7;
    m.append.commit = 99;
    m.append.n_entries = 3;
    m.append.entries = mem_calloc(3, sizeof(struct rlog_entry));
    m.append.entries[0] = (struct rlog_entry){7, RLOG_COMMAND, blob_new("hello", 5)};
    m.append.entries[1] = (struct rlog_entry){8, RLOG_BARRIER, blob_new("\0\0\0\0\0\0\0\0", 8)};
    m.append.entries[2] = (struct rlog_entry){9, RLOG_CHANGE, conf_payload()};
    return m;
}

static struct raft_msg make_install(void)
{
    struct configuration c = conf_of_three();
    struct raft_msg m = {.type = RAFT_MSG_INSTALL, .term = 5};
    m.install.last_index = 400;
    m.install.last_term = 4;
    m.install.conf_index = 30;
    m.install.conf = mem_dup(&c, sizeof(c));
    m.install.data = blob_new("pointer", 7);
    return m;
}

static const struct raft_msg plain[] = {
    {.type = RAFT_MSG_APPEND, .term = 1},
    {.type = RAFT_MSG_APPEND_RESULT, .term = 3, .append_result = {.rejected = 12, .last_index = 11}},
    {.type = RAFT_MSG_VOTE,
     .term = 4,
     .vote = {.candidate = 2, .last_index = 8, .last_term = 3, .disrupt = true, .pre_vote = false}},
    {.type = RAFT_MSG_VOTE, .term = 4, .vote = {.candidate = 2, .pre_vote = true}},
    {.type = RAFT_MSG_VOTE_RESULT, .term = 4, .vote_result = {.granted = true, .pre_vote = true}},
    {.type = RAFT_MSG_TIMEOUT_NOW, .term = 6, .timeout_now = {.last_index = 70, .last_term = 6}},
};

/* Encoded again after decoding it is the same, and every shorter frame is refused. */
static void check_round_trip(const struct raft_msg *m)
{
    struct buf b = {0}, again = {0};
    struct raft_msg out;
    raft_msg_encode(&b, m);
    assert_int_equal(raft_msg_decode(&out, b.data, b.n), 0);
    assert_int_equal(out.type, m->type);
    assert_int_equal(out.term, m->term);
    raft_msg_encode(&again, &out);
    assert_int_equal(b.n, again.n);
    assert_memory_equal(b.data, again.data, b.n);
    raft_msg_fini(&out);
    for (size_t n = 0; n < b.n; n++) {
        void *exact = mem_dup(b.data, n); /* so that a read past the end is seen */
        assert_int_equal(raft_msg_decode(&out, exact, n), ERR_MALFORMED);
        mem_free(exact);
    }
    buf_addc(&b, 0);
    assert_int_equal(raft_msg_decode(&out, b.data, b.n), ERR_MALFORMED);
    buf_fini(&b);
    buf_fini(&again);
}

static void test_round_trips(void **state)
{
    for (size_t i = 0; i < n_elements(plain); i++)
        check_round_trip(&plain[i]);
    struct raft_msg append = make_append(), install = make_install(), copy;
    check_round_trip(&append);
    check_round_trip(&install);
    raft_msg_copy(&copy, &append);
    raft_msg_fini(&append);
    assert_memory_equal(copy.append.entries[0].payload->data, "hello", 5);
    raft_msg_fini(&copy);
    raft_msg_copy(&copy, &install);
    raft_msg_fini(&install);
    assert_int_equal(copy.install.conf->n, 3);
    raft_msg_fini(&copy);
}

static void test_flipped_bits_do_no_harm(void **state)
{
    struct raft_msg m = make_append(), out;
    struct buf b = {0};
    raft_msg_encode(&b, &m);
    for (size_t bit = 0; bit < b.n * 8; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        if (raft_msg_decode(&out, b.data, b.n) == 0)
            raft_msg_fini(&out);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    raft_msg_fini(&m);
    buf_fini(&b);
}

static int decode(const struct raft_msg *m)
{
    struct buf b = {0};
    struct raft_msg out;
    raft_msg_encode(&b, m);
    int rc = raft_msg_decode(&out, b.data, b.n);
    if (!rc)
        raft_msg_fini(&out);
    buf_fini(&b);
    return rc;
}

static void test_entries_are_checked(void **state)
{
    struct raft_msg m = make_append();
    m.append.entries[1].term = 6; /* falls */
    assert_int_equal(decode(&m), ERR_MALFORMED);
    m.append.entries[1].term = 10; /* above the sender's */
    assert_int_equal(decode(&m), ERR_MALFORMED);
    m.append.entries[1].term = 8;
    m.append.entries[1].type = RLOG_CUT;
    assert_int_equal(decode(&m), ERR_MALFORMED);
    m.append.entries[1].type = RLOG_CHANGE; /* not a configuration */
    assert_int_equal(decode(&m), ERR_MALFORMED);
    m.append.entries[1].type = RLOG_COMMAND;
    assert_int_equal(decode(&m), 0);
    m.append.prev_term = 0;
    assert_int_equal(decode(&m), ERR_MALFORMED);
    raft_msg_fini(&m);
}

static void test_counts_are_bounded_before_memory_is_taken(void **state)
{
    struct raft_msg m = {.type = RAFT_MSG_APPEND, .term = 1}, out;
    struct buf b = {0};
    raft_msg_encode(&b, &m);
    memset(b.data + b.n - 4, 0xff, 4);
    assert_int_equal(raft_msg_decode(&out, b.data, b.n), ERR_LIMIT);
    b.data[b.n - 4] = 0;
    b.data[b.n - 3] = 16; /* 4096 entries in no bytes */
    b.data[b.n - 2] = b.data[b.n - 1] = 0;
    assert_int_equal(raft_msg_decode(&out, b.data, b.n), ERR_MALFORMED);
    buf_fini(&b);
    void *large = mem_zalloc(RAFT_MSG_MAX_BYTES + 1);
    assert_int_equal(raft_msg_decode(&out, large, RAFT_MSG_MAX_BYTES + 1), ERR_LIMIT);
    mem_free(large);
}

static void test_configurations(void **state)
{
    struct configuration c = conf_of_three(), out;
    struct buf b = {0};
    configuration_encode(&b, &c);
    assert_int_equal(b.n % 8, 0);
    assert_int_equal(configuration_decode(&out, b.data, b.n), 0);
    assert_int_equal(out.n, 3);
    assert_int_equal(out.servers[1].id, 77777777777);
    assert_int_equal(configuration_n_voters(&out), 2);
    assert_false(configuration_is_voter(&out, UINT64_MAX));
    for (size_t n = 0; n < b.n; n++)
        if (configuration_decode(&out, b.data, n) == 0)
            assert_true(n + 8 > b.n); /* without its padding */
    b.data[1] = 4;                    /* one more than there are */
    assert_int_equal(configuration_decode(&out, b.data, b.n), ERR_MALFORMED);
    memset(b.data + 1, 0xff, 8);
    assert_int_equal(configuration_decode(&out, b.data, b.n), ERR_MALFORMED);
    buf_fini(&b);
    assert_int_equal(configuration_add(&c, 1, CONFIGURATION_VOTER), ERR_EXISTS);
    assert_int_equal(configuration_add(&c, 0, CONFIGURATION_VOTER), ERR_INVALID);
    assert_int_equal(configuration_remove(&c, 1), 0);
    assert_int_equal(c.servers[0].id, 77777777777);
    assert_int_equal(configuration_remove(&c, 1), ERR_NOTFOUND);
    for (uint64_t id = 100; c.n < CONFIGURATION_MAX; id++)
        assert_int_equal(configuration_add(&c, id, CONFIGURATION_STANDBY), 0);
    assert_int_equal(configuration_add(&c, 5, CONFIGURATION_STANDBY), ERR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_flipped_bits_do_no_harm),
        cmocka_unit_test(test_entries_are_checked),
        cmocka_unit_test(test_counts_are_bounded_before_memory_is_taken),
        cmocka_unit_test(test_configurations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
