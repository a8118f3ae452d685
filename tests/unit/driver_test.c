/* The driver with peers that the test plays: starting, refusing, membership, and the guards that no seed
 * shows. */
#include "replication/driver.h"
#include "sim_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_SENT = 256, ELECTION_MS = 300, HEARTBEAT_MS = 50 };

struct fixture {
    struct sim_disk disk;
    struct rlog *log;
    struct vote vote;
    struct driver *driver;
    unsigned guards;
    uint64_t now, due;
    struct raft_msg sent[MAX_SENT];
    unsigned n_sent;
    uint64_t applied;
    unsigned n_state, n_install;
    char fatal[256];
    uint64_t second_leader;
    bool applies_at_once;
};

static void on_send(void *user, const struct raft_msg *m)
{
    struct fixture *f = user;
    if (f->n_sent < MAX_SENT)
        raft_msg_copy(&f->sent[f->n_sent++], m);
}
static void on_timer(void *user, uint64_t due_ms)
{
    ((struct fixture *)user)->due = due_ms;
}
static void on_apply(void *user, uint64_t first, const struct rlog_entry *entries, unsigned n)
{
    struct fixture *f = user;
    assert_int_equal(first, f->applied + 1);
    f->applied += n;
}
static void on_state(void *user)
{
    ((struct fixture *)user)->n_state++;
}
static void on_install(void *user, const struct driver_snapshot *meta, const void *data, size_t n)
{
    ((struct fixture *)user)->n_install++;
}
static void on_snapshot_data(void *user, uint64_t index, struct buf *out)
{
    buf_adds(out, "pointer");
}
static void on_fatal(void *user, const char *text)
{
    struct fixture *f = user;
    snprintf(f->fatal, sizeof(f->fatal), "%s", text);
}
static void on_second_leader(void *user, uint64_t peer, uint64_t term)
{
    struct fixture *f = user;
    f->second_leader = peer;
}
static const struct driver_ops ops = {on_send,    on_timer,         on_apply, on_state,
                                      on_install, on_snapshot_data, on_fatal, on_second_leader};

static void open_log(struct fixture *f)
{
    struct err_ctx err = {0};
    struct rlog_config c = {
        .disk = &f->disk.disk, .segment_bytes = 64 << 10, .batch_bytes = 16 << 10, .salt = 1};
    assert_int_equal(rlog_open(&f->log, &c, &err), 0);
    assert_int_equal(vote_open(&f->vote, &f->disk.disk, &err), 0);
}

static void bootstrap(struct fixture *f, unsigned n_voters)
{
    struct configuration conf = {0};
    struct err_ctx err = {0};
    for (unsigned i = 1; i <= n_voters; i++)
        configuration_add(&conf, i, CONFIGURATION_VOTER);
    assert_int_equal(driver_bootstrap(f->log, &f->vote, &conf, NULL, 0, &err), 0);
}

static int start(struct fixture *f, const struct driver_snapshot *snapshot, uint64_t applied,
                 struct err_ctx *err)
{
    struct driver_config c = {
        .id = 1,
        .timing = {ELECTION_MS, HEARTBEAT_MS},
        .max_inflight = 4,
        .guards = f->guards,
        .seed = 5,
        .log = f->log,
        .vote = &f->vote,
        .ops = &ops,
        .user = f,
    };
    f->applied = applied;
    return driver_start(&f->driver, &c, f->now, snapshot, applied, err);
}

static struct fixture *make(unsigned n_voters, unsigned guards)
{
    struct fixture *f = mem_new(struct fixture);
    struct err_ctx err = {0};
    sim_disk_init(&f->disk, 1);
    f->now = 1000;
    f->guards = guards;
    open_log(f);
    if (n_voters) {
        bootstrap(f, n_voters);
        assert_int_equal(start(f, NULL, 0, &err), 0);
    }
    return f;
}

static void forget_sent(struct fixture *f)
{
    for (unsigned i = 0; i < f->n_sent; i++)
        raft_msg_fini(&f->sent[i]);
    f->n_sent = 0;
}

static void stop(struct fixture *f)
{
    driver_free(f->driver);
    f->driver = NULL;
    if (f->log)
        rlog_close(f->log);
    f->log = NULL;
    vote_close(&f->vote);
}

static void destroy(struct fixture *f)
{
    stop(f);
    forget_sent(f);
    sim_disk_fini(&f->disk);
    mem_free(f);
}

static void settle(struct fixture *f)
{
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(rlog_sync(f->log), 0);
        driver_log_done(f->driver, f->now);
    }
}

static void tick(struct fixture *f)
{
    f->now = f->due > f->now ? f->due : f->now;
    driver_tick(f->driver, f->now);
}

static void receive(struct fixture *f, unsigned from, struct raft_msg m)
{
    m.peer = from;
    driver_receive(f->driver, f->now, &m);
}

static const struct raft_msg *last_sent(const struct fixture *f, enum raft_msg_type type, unsigned to)
{
    for (unsigned i = f->n_sent; i-- > 0;)
        if (f->sent[i].type == type && f->sent[i].peer == to)
            return &f->sent[i];
    return NULL;
}

static unsigned count_sent(const struct fixture *f, enum raft_msg_type type)
{
    unsigned n = 0;
    for (unsigned i = 0; i < f->n_sent; i++)
        n += f->sent[i].type == type;
    return n;
}

/* Nodes 2 and 3 say yes to whatever we sent last. */
static void answer_append(struct fixture *f, unsigned from)
{
    const struct raft_msg *m = last_sent(f, RAFT_MSG_APPEND, from);
    if (!m)
        return;
    receive(f, from,
            (struct raft_msg){.type = RAFT_MSG_APPEND_RESULT,
                              .term = m->term,
                              .append_result = {.last_index = m->append.prev_index + m->append.n_entries}});
}

/* With the vote of node 2. */
static void win(struct fixture *f)
{
    for (unsigned i = 0; i < 40 && driver_get_role(f->driver) != DRIVER_LEADER; i++) {
        forget_sent(f);
        tick(f);
        for (unsigned round = 0; round < 2; round++) {
            const struct raft_msg *v = last_sent(f, RAFT_MSG_VOTE, 2);
            if (v)
                receive(f, 2,
                        (struct raft_msg){.type = RAFT_MSG_VOTE_RESULT,
                                          .term = v->term,
                                          .vote_result = {.granted = true, .pre_vote = v->vote.pre_vote}});
        }
    }
    assert_int_equal(driver_get_role(f->driver), DRIVER_LEADER);
}

static void elect(struct fixture *f)
{
    win(f);
    settle(f);
    answer_append(f, 2);
    answer_append(f, 3);
    answer_append(f, 2);
    answer_append(f, 3);
}

static int submit(struct fixture *f, const char *text)
{
    struct blob *payload = blob_new(text, strlen(text));
    int rc = driver_submit(f->driver, f->now, &payload, 1, NULL, NULL);
    blob_unref(payload);
    return rc;
}

static struct driver_status status(const struct fixture *f)
{
    struct driver_status st;
    driver_get_status(f->driver, &st);
    return st;
}

/* ---- one node ---- */

static void test_single_voter_leads_and_applies(void **state)
{
    struct fixture *f = make(1, DRIVER_GUARD_ALL);
    uint64_t first = 0, term = 0;
    assert_int_equal(driver_get_role(f->driver), DRIVER_LEADER);
    assert_int_equal(driver_get_term(f->driver), 2); /* a term of its own for each life */
    settle(f);
    struct blob *payload = blob_new("x", 1);
    assert_int_equal(driver_submit(f->driver, f->now, &payload, 1, &first, &term), 0);
    blob_unref(payload);
    assert_true(f->applied < first); /* not before it is on our disk */
    settle(f);
    assert_int_equal(f->applied, first);
    assert_int_equal(term, 2);
    assert_true(status(f).is_term_committed);
    driver_applied(f->driver, f->now, f->applied);
    stop(f);
    open_log(f);
    struct err_ctx err = {0};
    assert_int_equal(start(f, NULL, first, &err), 0);
    assert_int_equal(driver_get_term(f->driver), 3);
    destroy(f);
}

static void test_submit_refusals(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    assert_int_equal(submit(f, "x"), ERR_NOTLEADER);
    destroy(f);
    f = make(1, DRIVER_GUARD_ALL);
    settle(f);
    assert_int_equal(submit(f, ""), ERR_LIMIT);
    struct blob *large = blob_new(NULL, RLOG_MAX_ENTRY + 1);
    assert_int_equal(driver_submit(f->driver, f->now, &large, 1, NULL, NULL), ERR_LIMIT);
    blob_unref(large);
    f->disk.free_bytes = RLOG_MIN_FREE - 1;
    for (unsigned i = 0; i < 20; i++) {
        submit(f, "x");
        settle(f);
    }
    assert_int_equal(submit(f, "x"), ERR_NOSPACE);
    assert_string_equal(f->fatal, "");
    destroy(f);
}

static void test_disk_failure_is_fatal(void **state)
{
    struct fixture *f = make(1, DRIVER_GUARD_ALL);
    struct err_ctx err = {0};
    settle(f);
    driver_applied(f->driver, f->now, f->applied);
    f->disk.fail_after = 0;
    /* A change is written before anybody sees it, so the failure shows at once. */
    driver_add_standby(f->driver, f->now, 2, &err);
    assert_non_null(strstr(f->fatal, "log"));
    f->disk.has_failed = false;
    f->disk.fail_after = -1;
    destroy(f);
}

/* ---- starting ---- */

static void test_start_refusals(void **state)
{
    struct fixture *f = make(0, DRIVER_GUARD_ALL);
    struct err_ctx err = {0};
    struct driver_snapshot snapshot = {.index = 50, .term = 1, .conf_index = 1};
    configuration_add(&snapshot.conf, 1, CONFIGURATION_VOTER);
    bootstrap(f, 1);
    assert_int_equal(start(f, NULL, 7, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "lost"));
    assert_int_equal(start(f, &snapshot, 50, &err), ERR_CORRUPT);

    struct vote saved = f->vote;
    f->vote.term = 0;
    assert_int_equal(start(f, NULL, 0, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "vote file is missing"));
    f->vote = saved;

    rlog_reset(f->log, 99); /* entries 51 to 99 are nowhere */
    assert_int_equal(rlog_sync(f->log), 0);
    rlog_poll(f->log);
    assert_int_equal(start(f, &snapshot, 50, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "missing"));
    assert_int_equal(start(f, NULL, 0, &err), ERR_CORRUPT);
    snapshot.index = 99;
    assert_int_equal(start(f, &snapshot, 99, &err), 0);
    destroy(f);
}

static void test_bootstrap_twice(void **state)
{
    struct fixture *f = make(0, DRIVER_GUARD_ALL);
    struct err_ctx err = {0};
    struct configuration conf = {0};
    configuration_add(&conf, 1, CONFIGURATION_VOTER);
    struct blob *command = blob_new("first", 5);
    assert_int_equal(driver_bootstrap(f->log, &f->vote, &conf, &command, 1, &err), 0);
    blob_unref(command);
    assert_int_equal(rlog_last(f->log), 2);
    assert_int_equal(driver_bootstrap(f->log, &f->vote, &conf, NULL, 0, &err), ERR_EXISTS);
    destroy(f);
}

static void test_forced_configuration(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    struct err_ctx err = {0};
    struct configuration conf = {0};
    elect(f);
    uint64_t term = driver_get_term(f->driver);
    stop(f);
    open_log(f);
    configuration_add(&conf, 1, CONFIGURATION_VOTER);
    assert_int_equal(driver_force_configuration(f->log, &f->vote, &conf, NULL, 0, &err), 0);
    assert_int_equal(start(f, NULL, 0, &err), 0);
    assert_int_equal(driver_get_role(f->driver), DRIVER_LEADER);
    assert_true(driver_get_term(f->driver) > term);
    settle(f);
    assert_int_equal(submit(f, "on we go"), 0);
    settle(f);
    assert_int_equal(f->applied, rlog_last(f->log));
    destroy(f);
}

/* ---- membership ---- */

static void test_membership_refusals(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    struct err_ctx err = {0};
    assert_int_equal(driver_add_standby(f->driver, f->now, 4, &err), ERR_NOTLEADER);
    elect(f);
    driver_applied(f->driver, f->now, f->applied);
    assert_true(status(f).is_term_committed);
    assert_int_equal(driver_remove(f->driver, f->now, 1, &err), ERR_DENIED);
    assert_int_equal(driver_demote(f->driver, f->now, 1, &err), ERR_DENIED);
    assert_int_equal(driver_remove(f->driver, f->now, 9, &err), ERR_NOTFOUND);
    assert_int_equal(driver_add_standby(f->driver, f->now, 2, &err), ERR_EXISTS);
    assert_int_equal(driver_promote(f->driver, f->now, 2, &err), ERR_EXISTS);
    assert_int_equal(driver_transfer(f->driver, f->now, 9), ERR_NOTFOUND);
    assert_int_equal(driver_add_standby(f->driver, f->now, 4, &err), 0);
    assert_int_equal(driver_add_standby(f->driver, f->now, 5, &err), ERR_CONFLICT);
    settle(f);
    answer_append(f, 2);
    answer_append(f, 3);
    driver_applied(f->driver, f->now, f->applied);
    assert_int_equal(status(f).pending_change, 0);
    assert_int_equal(status(f).conf.n, 4);
    /* Node 4 has answered nothing yet. */
    for (unsigned i = 0; i < 70; i++) {
        assert_int_equal(submit(f, "x"), 0);
        settle(f);
        answer_append(f, 2);
        answer_append(f, 3);
        forget_sent(f);
    }
    assert_int_equal(driver_promote(f->driver, f->now, 4, &err), ERR_AGAIN);
    assert_int_equal(driver_remove(f->driver, f->now, 4, &err), 0); /* it need not answer to go */
    destroy(f);
}

static void test_transfer_picks_who_is_up_to_date(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    forget_sent(f);
    assert_int_equal(driver_transfer(f->driver, f->now, 0), 0);
    assert_int_equal(count_sent(f, RAFT_MSG_TIMEOUT_NOW), 1);
    assert_int_equal(submit(f, "x"), ERR_AGAIN);
    assert_true(status(f).is_transferring);
    destroy(f);
}

/* ---- messages ---- */

static void test_changes_open_their_message_and_messages_are_split(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    driver_applied(f->driver, f->now, f->applied);
    forget_sent(f);
    uint64_t prev = rlog_last(f->log);
    char *text = mem_zalloc(12 << 10);
    memset(text, 'x', (12 << 10) - 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(submit(f, text), 0);
    mem_free(text);
    settle(f);
    for (unsigned i = 0; i < f->n_sent; i++) {
        const struct raft_msg *m = &f->sent[i];
        if (m->type != RAFT_MSG_APPEND || m->peer != 2 || !m->append.n_entries)
            continue;
        assert_int_equal(m->append.prev_index, prev);
        assert_int_equal(m->append.prev_term, driver_term_of(f->driver, prev));
        prev += m->append.n_entries;
    }
    assert_int_equal(prev, rlog_last(f->log));
    destroy(f);
}

static struct raft_msg append_from(uint64_t term, uint64_t prev, uint64_t prev_term, unsigned n,
                                   uint64_t commit)
{
    struct raft_msg m = {.type = RAFT_MSG_APPEND, .term = term};
    m.append.prev_index = prev;
    m.append.prev_term = prev_term;
    m.append.commit = commit;
    m.append.n_entries = n;
    m.append.entries = n ? mem_calloc(n, sizeof(struct rlog_entry)) : NULL;
    for (unsigned i = 0; i < n; i++)
        m.append.entries[i] = (struct rlog_entry){term, RLOG_COMMAND, blob_new("entry", 5)};
    return m;
}

static void test_follower_acknowledges_what_is_durable(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    struct raft_msg m = append_from(4, 1, 1, 3, 4);
    m.peer = 2;
    driver_receive(f->driver, f->now, &m);
    raft_msg_fini(&m);
    assert_int_equal(driver_get_leader(f->driver), 2);
    assert_null(last_sent(f, RAFT_MSG_APPEND_RESULT, 2)); /* nothing is on the disk */
    assert_int_equal(f->applied, 1);
    settle(f);
    const struct raft_msg *answer = last_sent(f, RAFT_MSG_APPEND_RESULT, 2);
    assert_non_null(answer);
    assert_int_equal(answer->append_result.last_index, 4);
    assert_int_equal(f->applied, 4);
    destroy(f);
}

static struct rlog_entry change_entry(uint64_t term, unsigned n_servers)
{
    struct configuration conf = {0};
    struct buf b = {0};
    for (unsigned i = 1; i <= n_servers; i++)
        configuration_add(&conf, i, i <= 3 ? CONFIGURATION_VOTER : CONFIGURATION_STANDBY);
    configuration_encode(&b, &conf);
    struct rlog_entry e = {term, RLOG_CHANGE, blob_new(b.data, b.n)};
    buf_fini(&b);
    return e;
}

/* 7, where the log that is cut is that of a leader whose time is over: nothing made it a follower before. */
static void test_deposed_leader_goes_back_one_change(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    for (unsigned i = 0; i < 2; i++) {
        struct raft_msg m = append_from(4, 1 + i, i ? 4 : 1, 1, 1);
        blob_unref(m.append.entries[0].payload);
        m.append.entries[0] = change_entry(4, 4 + i);
        receive(f, 2, m);
        raft_msg_fini(&m);
    }
    settle(f);
    assert_int_equal(status(f).conf.n, 5);
    win(f);
    struct raft_msg m = append_from(driver_get_term(f->driver) + 1, 2, 4, 1, 1);
    receive(f, 3, m);
    raft_msg_fini(&m);
    assert_int_equal(driver_get_role(f->driver), DRIVER_FOLLOWER);
    assert_int_equal(driver_get_leader(f->driver), 3);
    assert_int_equal(status(f).conf.n, 4); /* that of entry 2, which is still there */
    assert_int_equal(status(f).pending_change, 2);
    assert_int_equal(status(f).last, 3);
    assert_string_equal(f->fatal, "");
    destroy(f);
}

/* 13: the answer to an older term must not read as success. */
static void check_old_term_answer(unsigned guards, bool is_guarded)
{
    struct fixture *f = make(3, guards);
    struct raft_msg m = append_from(8, 1, 1, 0, 1);
    receive(f, 2, m);
    forget_sent(f);
    struct configuration conf = {0};
    configuration_add(&conf, 3, CONFIGURATION_VOTER);
    struct raft_msg old = {.type = RAFT_MSG_INSTALL, .term = 5};
    old.install.last_index = 77;
    old.install.last_term = 5;
    old.install.conf_index = 1;
    old.install.conf = &conf;
    old.install.data = blob_new("pointer", 7);
    receive(f, 3, old);
    blob_unref(old.install.data);
    const struct raft_msg *answer = last_sent(f, RAFT_MSG_APPEND_RESULT, 3);
    assert_non_null(answer);
    assert_int_equal(answer->append_result.rejected != 0, is_guarded);
    if (is_guarded)
        assert_int_equal(answer->append_result.last_index, 0);
    destroy(f);
}

static void test_answer_to_an_older_term(void **state)
{
    check_old_term_answer(DRIVER_GUARD_ALL, true);
    check_old_term_answer(DRIVER_GUARD_ALL & ~DRIVER_GUARD_OLD_TERM_ANSWER, false);
}

/* 12: with the window full, a submit sends no further empty messages. */
static unsigned count_empty_with_full_window(unsigned guards)
{
    struct fixture *f = make(3, guards);
    elect(f);
    for (unsigned i = 0; i < 4; i++)
        submit(f, "fill the window");
    forget_sent(f);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(submit(f, "more"), 0);
    unsigned n = 0;
    for (unsigned i = 0; i < f->n_sent; i++)
        n += f->sent[i].type == RAFT_MSG_APPEND && f->sent[i].append.n_entries == 0;
    destroy(f);
    return n;
}

static void test_no_flood_of_empty_messages(void **state)
{
    assert_true(count_empty_with_full_window(DRIVER_GUARD_ALL) <= 2);
    assert_true(count_empty_with_full_window(DRIVER_GUARD_ALL & ~DRIVER_GUARD_EMPTY_FLOOD) >= 50);
}

/* 14: InstallSnapshot again and again during an install; what the core forgets to free, LeakSanitizer sees.
 * And no second install begins. */
static void test_install_during_an_install(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    struct configuration conf = {0};
    configuration_add(&conf, 2, CONFIGURATION_VOTER);
    struct raft_msg m = {.type = RAFT_MSG_INSTALL, .term = 5};
    m.install.last_index = 77;
    m.install.last_term = 4;
    m.install.conf_index = 1;
    m.install.conf = &conf;
    m.install.data = blob_new("pointer", 7);
    for (unsigned i = 0; i < 5; i++)
        receive(f, 2, m);
    blob_unref(m.install.data);
    assert_int_equal(f->n_install, 1);
    assert_true(status(f).is_installing);
    /* Heartbeats move the commit index; nothing is applied of a log that is being replaced. */
    receive(f, 2, append_from(5, 77, 4, 0, 77));
    assert_true(f->applied <= 1);
    struct driver_snapshot snapshot = {.index = 80, .term = 4, .conf_index = 1, .conf = conf};
    f->applied = 80;
    driver_installed(f->driver, f->now, &snapshot);
    assert_false(status(f).is_installing);
    assert_int_equal(rlog_first(f->log), 81);
    assert_int_equal(status(f).last, 80);
    struct raft_msg next = append_from(5, 80, 4, 2, 82);
    receive(f, 2, next);
    raft_msg_fini(&next);
    settle(f);
    assert_int_equal(f->applied, 82);
    assert_string_equal(f->fatal, "");
    destroy(f);
}

/* What a follower that installs will need of the log is known, until it has it or is given up. */
static void test_install_floor(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(submit(f, "without node 3"), 0);
        settle(f);
        answer_append(f, 2);
    }
    struct driver_status st = status(f);
    uint64_t last = st.last;
    assert_int_equal(f->applied, last);
    driver_applied(f->driver, f->now, last);
    struct driver_snapshot meta = {.index = last, .term = st.term, .conf_index = 1, .conf = st.conf};
    assert_int_equal(driver_install_floor(f->driver), 0);
    assert_true(driver_snapshot_taken(f->driver, f->now, &meta, last + 1));
    receive(f, 3,
            (struct raft_msg){.type = RAFT_MSG_APPEND_RESULT,
                              .term = st.term,
                              .append_result = {.rejected = last - 1, .last_index = 1}});
    for (unsigned i = 0; i < 20 && !last_sent(f, RAFT_MSG_INSTALL, 3); i++) {
        answer_append(f, 2);
        tick(f);
    }
    assert_non_null(last_sent(f, RAFT_MSG_INSTALL, 3));
    assert_int_equal(driver_install_floor(f->driver), last);
    receive(f, 3,
            (struct raft_msg){
                .type = RAFT_MSG_APPEND_RESULT, .term = st.term, .append_result = {.last_index = last}});
    assert_int_equal(driver_install_floor(f->driver), 0);
    destroy(f);
}

/* A member that says it leads our term does not end us: it is not listened to, and named. */
static void test_second_leader_of_a_term(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    uint64_t term = driver_get_term(f->driver), last = status(f).last;
    struct raft_msg m = append_from(term, 1, 1, 2, 3);
    receive(f, 3, m);
    raft_msg_fini(&m);
    assert_int_equal(f->second_leader, 3);
    assert_string_equal(f->fatal, "");
    assert_int_equal(driver_get_role(f->driver), DRIVER_LEADER);
    assert_int_equal(status(f).last, last);
    assert_int_equal(submit(f, "we go on"), 0);
    settle(f);
    answer_append(f, 2);
    assert_int_equal(f->applied, last + 1);
    /* In a later term it may well lead. */
    receive(f, 3, append_from(term + 1, last + 1, term, 0, last + 1));
    assert_int_equal(driver_get_role(f->driver), DRIVER_FOLLOWER);
    assert_int_equal(driver_get_leader(f->driver), 3);
    destroy(f);
}

/* 10: a vote result in another state than candidate is not looked at (the core would read a union's other
 * member; its term is what one can see without a sanitizer). */
static void test_vote_result_of_another_time(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    receive(f, 2, append_from(4, 1, 1, 0, 1));
    receive(f, 3, (struct raft_msg){.type = RAFT_MSG_VOTE_RESULT, .term = 9});
    assert_int_equal(driver_get_term(f->driver), 4);
    assert_int_equal(driver_get_leader(f->driver), 2);
    destroy(f);
    f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    uint64_t term = driver_get_term(f->driver);
    receive(f, 3, (struct raft_msg){.type = RAFT_MSG_VOTE_RESULT, .term = term + 5});
    assert_int_equal(driver_get_role(f->driver), DRIVER_LEADER);
    destroy(f);
}

/* What 10 and 14 prevent is seen by sanitizers only: without the guard the child must fail. */
#ifdef __SANITIZE_ADDRESS__
static void vote_result_unguarded(void)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL & ~DRIVER_GUARD_VOTE_RESULT);
    receive(f, 2, append_from(4, 1, 1, 0, 1));
    receive(f, 3, (struct raft_msg){.type = RAFT_MSG_VOTE_RESULT, .term = 9});
    destroy(f);
}

static void install_twice_unguarded(void)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL & ~DRIVER_GUARD_INSTALL_TWICE);
    struct configuration conf = {0};
    configuration_add(&conf, 2, CONFIGURATION_VOTER);
    struct raft_msg m = {.type = RAFT_MSG_INSTALL, .term = 5};
    m.install.last_index = 77;
    m.install.last_term = 4;
    m.install.conf_index = 1;
    m.install.conf = &conf;
    m.install.data = blob_new("pointer", 7);
    receive(f, 2, m);
    receive(f, 2, m);
    blob_unref(m.install.data);
    destroy(f);
}

static void assert_fails(void (*body)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        body();
        exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_guards_that_sanitizers_see(void **state)
{
    assert_fails(vote_result_unguarded);
    assert_fails(install_twice_unguarded);
}
#endif

/* Who waits for it hears of a commit at once, the others when no entries have come in the meantime to tell of
 * it. */
static void test_commit_is_spread(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    answer_append(f, 3);
    assert_int_equal(submit(f, "x"), 0);
    settle(f);
    uint64_t last = rlog_last(f->log);
    forget_sent(f);
    driver_expect_commit(f->driver, 2);
    receive(f, 2,
            (struct raft_msg){.type = RAFT_MSG_APPEND_RESULT,
                              .term = driver_get_term(f->driver),
                              .append_result = {.last_index = last}});
    assert_int_equal(driver_get_commit(f->driver), last);
    const struct raft_msg *m = last_sent(f, RAFT_MSG_APPEND, 2);
    assert_non_null(m);
    assert_int_equal(m->append.commit, last);
    assert_null(last_sent(f, RAFT_MSG_APPEND, 3));
    /* nobody waits any more, and entries take the news with them */
    assert_int_equal(submit(f, "y"), 0);
    settle(f);
    assert_int_equal(last_sent(f, RAFT_MSG_APPEND, 3)->append.commit, last);
    unsigned n_sent = f->n_sent;
    answer_append(f, 2);
    assert_int_equal(driver_get_commit(f->driver), last + 1);
    assert_int_equal(f->n_sent, n_sent);
    assert_true(f->due <= f->now + 2);
    f->now += 2;
    driver_tick(f->driver, f->now);
    m = last_sent(f, RAFT_MSG_APPEND, 2);
    assert_non_null(m);
    assert_int_equal(m->append.n_entries, 0);
    assert_int_equal(m->append.commit, last + 1);
    destroy(f);
}

static void acknowledge(struct fixture *f, unsigned from, uint64_t index)
{
    receive(f, from,
            (struct raft_msg){.type = RAFT_MSG_APPEND_RESULT,
                              .term = driver_get_term(f->driver),
                              .append_result = {.last_index = index}});
}

/* An answer to earlier entries must not make the core ask a successor that lacks the later ones: it would be
 * ignored. */
static void test_successor_has_the_whole_log(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    assert_int_equal(submit(f, "x"), 0);
    assert_int_equal(submit(f, "y"), 0);
    settle(f);
    uint64_t last = rlog_last(f->log);
    assert_int_equal(driver_transfer(f->driver, f->now, 2), 0);
    assert_int_equal(driver_transfer(f->driver, f->now, 3), ERR_NOTLEADER);
    assert_int_equal(submit(f, "z"), ERR_AGAIN);
    acknowledge(f, 2, last - 1);
    assert_null(last_sent(f, RAFT_MSG_TIMEOUT_NOW, 2));
    acknowledge(f, 2, last);
    assert_non_null(last_sent(f, RAFT_MSG_TIMEOUT_NOW, 2));
    assert_int_equal(last_sent(f, RAFT_MSG_TIMEOUT_NOW, 2)->timeout_now.last_index, last);
    destroy(f);
    f = make(3, DRIVER_GUARD_ALL & ~DRIVER_GUARD_WHOLE_LOG);
    elect(f);
    assert_int_equal(submit(f, "x"), 0);
    assert_int_equal(submit(f, "y"), 0);
    settle(f);
    last = rlog_last(f->log);
    assert_int_equal(driver_transfer(f->driver, f->now, 2), 0);
    acknowledge(f, 2, last - 1);
    assert_non_null(last_sent(f, RAFT_MSG_TIMEOUT_NOW, 2)); /* too early */
    destroy(f);
}

/* A successor that does not come after the log holds up nobody for long. */
static void test_lame_successor(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    assert_int_equal(submit(f, "x"), 0);
    settle(f);
    assert_int_equal(driver_transfer(f->driver, f->now, 2), 0);
    acknowledge(f, 3, rlog_last(f->log));
    assert_int_equal(submit(f, "y"), ERR_AGAIN);
    f->now += DRIVER_DEFAULT.election_ms;
    acknowledge(f, 3, rlog_last(f->log));
    assert_int_equal(submit(f, "y"), 0);
    destroy(f);
}

/* A follower that says nothing gets a heartbeat now and then, whatever is written. */
static void test_stopped_follower_costs_nothing(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    elect(f);
    driver_applied(f->driver, f->now, f->applied);
    unsigned n = 0;
    for (unsigned i = 0; i < 3000; i++) {
        forget_sent(f);
        assert_int_equal(submit(f, "x"), 0);
        settle(f);
        answer_append(f, 2);
        driver_applied(f->driver, f->now, f->applied);
        for (unsigned k = 0; k < f->n_sent; k++)
            n += f->sent[k].peer == 3 && f->sent[k].append.n_entries;
    }
    assert_int_equal(f->applied, rlog_last(f->log));
    assert_true(n <= 8); /* no time has passed: the window, once */
    destroy(f);
}

static void test_strange_messages(void **state)
{
    struct fixture *f = make(3, DRIVER_GUARD_ALL);
    receive(f, 2,
            (struct raft_msg){.type = RAFT_MSG_VOTE, .term = 50, .vote = {.candidate = 3, .disrupt = true}});
    assert_true(driver_get_term(f->driver) < 50);
    receive(f, 1, append_from(60, 1, 1, 0, 1)); /* from ourselves */
    assert_true(driver_get_term(f->driver) < 50);
    destroy(f);
}

static void test_apply_window(void **state)
{
    struct fixture *f = make(1, DRIVER_GUARD_ALL);
    settle(f);
    for (unsigned i = 0; i < 300; i++) {
        struct blob *payloads[DRIVER_SUBMIT_MAX];
        for (unsigned k = 0; k < DRIVER_SUBMIT_MAX; k++)
            payloads[k] = blob_new("payload", 7);
        assert_int_equal(driver_submit(f->driver, f->now, payloads, DRIVER_SUBMIT_MAX, NULL, NULL), 0);
        for (unsigned k = 0; k < DRIVER_SUBMIT_MAX; k++)
            blob_unref(payloads[k]);
        settle(f);
    }
    assert_int_equal(f->applied, DRIVER_APPLY_ENTRIES);
    while (f->applied < rlog_last(f->log)) {
        uint64_t before = f->applied;
        driver_applied(f->driver, f->now, f->applied);
        settle(f);
        assert_true(f->applied > before);
    }
    destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_voter_leads_and_applies),
        cmocka_unit_test(test_submit_refusals),
        cmocka_unit_test(test_disk_failure_is_fatal),
        cmocka_unit_test(test_start_refusals),
        cmocka_unit_test(test_bootstrap_twice),
        cmocka_unit_test(test_forced_configuration),
        cmocka_unit_test(test_membership_refusals),
        cmocka_unit_test(test_transfer_picks_who_is_up_to_date),
        cmocka_unit_test(test_changes_open_their_message_and_messages_are_split),
        cmocka_unit_test(test_follower_acknowledges_what_is_durable),
        cmocka_unit_test(test_deposed_leader_goes_back_one_change),
        cmocka_unit_test(test_answer_to_an_older_term),
        cmocka_unit_test(test_no_flood_of_empty_messages),
        cmocka_unit_test(test_install_during_an_install),
        cmocka_unit_test(test_install_floor),
        cmocka_unit_test(test_vote_result_of_another_time),
        cmocka_unit_test(test_second_leader_of_a_term),
#ifdef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_guards_that_sanitizers_see),
#endif
        cmocka_unit_test(test_commit_is_spread),
        cmocka_unit_test(test_successor_has_the_whole_log),
        cmocka_unit_test(test_lame_successor),
        cmocka_unit_test(test_stopped_follower_costs_nothing),
        cmocka_unit_test(test_strange_messages),
        cmocka_unit_test(test_apply_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
