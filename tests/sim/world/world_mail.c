/* What became of each message, from the view of one who sees all phones and all stores, and what must hold:
 *
 *   - a count that a client is told never covers a message that is neither stored, nor confirmed by its
 * recipient, nor refused with an error that the client has acknowledged; nor, where the client may resume,
 * more than the session's row has;
 *   - what was counted reaches its recipient, or came back to its sender as an error;
 *   - what one session sends to one user comes in the order in which it was sent;
 *   - what comes twice has the same stanza-id; never on one connection, nor from one session of a home
 * that lives, however often it is resumed there; and when a home is killed in a healthy cluster, only what
 * was confirmed within the last second;
 *   - a session that may be resumed stores nothing twice. */
#include "world_phone.h"

#include "replication/fsm.h"
#include "replication/replica_impl.h"
#include <inttypes.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

enum {
    REPEATS_US = 1400 * MS, /* a second, and what it takes to commit */
};

struct mail {
    unsigned from, to_user, session; /* the sender's phone and its session */
    enum phone_kind kind;            /* of the sender */
    bool is_counted, is_given_up, is_refused, is_bounced, is_confirmed;
    bool is_taken_back;    /* its sender said that it has the error */
    uint64_t confirmed_at; /* when its recipient last said that it had it */
    uint64_t index;        /* stored for its recipient; 0: not */
    uint32_t place;
    struct copy {
        uint64_t at;
        unsigned connection;
        struct phone_home home;
    } got[PHONES_MAX]; /* by each phone of the recipient; at 0: not */
    char id[40];       /* that it came with */
};

struct mails {
    struct mail list[MAILS_MAX + 1]; /* from 1 */
    unsigned n;
    unsigned last[PHONES_MAX][PHONES_MAX]; /* by recipient's and sender's phone: the latest that came for the
                                              first time */
    bool archives[PHONE_USERS];
    uint64_t seen;      /* stores have been looked at up to this index */
    uint64_t killed_at; /* 0: not yet, all is allowed */
};

static struct mails *all(void)
{
    if (!W->mails)
        W->mails = mem_new(struct mails);
    return W->mails;
}

static struct mail *find(unsigned number)
{
    if (number && number <= all()->n)
        return &all()->list[number];
    world_bad("message %u was never sent", number);
    return &all()->list[0];
}

unsigned mail_new(struct phone *from, unsigned to_user)
{
    struct mails *ms = all();
    if (ms->n == MAILS_MAX)
        return 0;
    ms->list[++ms->n] =
        (struct mail){.from = from->number, .to_user = to_user, .session = from->session, .kind = from->kind};
    W->counts.n_mails++;
    world_say("phone %u sends message %u to user %u", from->number, ms->n, to_user);
    return ms->n;
}

unsigned mail_recipient(unsigned number)
{
    return find(number)->to_user;
}

void mail_set_archive(unsigned user, bool on)
{
    all()->archives[user] = on;
}

static bool is_archived(const struct mail *m)
{
    return (m->to_user < PHONE_USERS && all()->archives[m->to_user]) ||
           all()->archives[W->phones->phone[m->from].user];
}

/* One of them acknowledges nothing: what is with its socket counts as delivered. */
static bool may_be_lost_on_the_way(const struct mail *m)
{
    for (unsigned i = 0; i < W->phones->n; i++)
        if (W->phones->phone[i].user == m->to_user && W->phones->phone[i].kind == PHONE_PLAIN)
            return true;
    return false;
}

/* What one phone was given is given to the other one when the first does not come back. */
static bool has_two_phones(unsigned user)
{
    return user + PHONE_USERS < W->phones->n;
}

static bool is_received(const struct mail *m)
{
    for (unsigned i = 0; i < W->phones->n; i++)
        if (m->got[i].at)
            return true;
    return false;
}

/* Is its session still in the memory of that process? */
static bool is_at_home(const struct phone *p, const struct phone_home *h)
{
    return h->node && h->node == p->home.node && h->life == p->home.life && h->session == p->home.session;
}

static bool is_safe(const struct mail *m)
{
    return m->index || m->is_confirmed || m->is_taken_back || (may_be_lost_on_the_way(m) && !is_archived(m));
}

static const char *describe(const struct mail *m)
{
    static char text[200];
    snprintf(text, sizeof(text), "message %u of phone %u to user %u (%s%s%s%s%s%s%s)",
             (unsigned)(m - all()->list), m->from, m->to_user, is_archived(m) ? "archived" : "not archived",
             m->index ? ", stored" : "", is_received(m) ? ", received" : "",
             m->is_confirmed ? ", confirmed" : "", m->is_refused ? ", refused" : "",
             m->is_bounced ? ", given back" : "", m->is_counted ? ", counted" : "");
    return text;
}

/* ---- the sender ---- */

void mail_acknowledged(struct phone *by, unsigned number)
{
    struct mail *m = find(number);
    m->is_counted = true;
    W->counts.n_counted++;
    if (!is_safe(m))
        world_bad("phone %u is told of %s, which is not safe", by->number, describe(m));
}

void mail_refused(unsigned number)
{
    struct mail *m = find(number);
    if (!m->is_refused)
        world_say("refused: %s", describe(m));
    m->is_refused = true;
}

void mail_given_up(unsigned number)
{
    find(number)->is_given_up = true;
}

void mail_bounced(struct phone *to, unsigned number)
{
    struct mail *m = find(number);
    if (!m->is_bounced)
        W->counts.n_bounced++;
    m->is_bounced = true;
    world_say("phone %u: given back: %s", to->number, describe(m));
}

void mail_taken_back(unsigned number)
{
    find(number)->is_taken_back = true;
}

/* ---- the recipient ---- */

void mail_confirmed(struct phone *by, unsigned number)
{
    struct mail *m = find(number);
    (void)by;
    m->is_confirmed = true;
    m->confirmed_at = W->queue.now;
}

static void check_repeat(const struct phone *by, const struct mail *m, const struct copy *before)
{
    W->counts.n_repeats++;
    if (before->connection == by->connection)
        world_bad("phone %u gets twice on one connection: %s", by->number, describe(m));
    else if (is_at_home(by,
                        &before->home)) /* of another the client's last acknowledgement may have been lost */
        world_bad("phone %u gets again from the same session of a living home: %s", by->number, describe(m));
    else if (all()->killed_at && m->confirmed_at && m->confirmed_at + REPEATS_US < all()->killed_at)
        world_bad("phone %u gets again what it confirmed %u ms before its home was killed: %s", by->number,
                  (unsigned)((all()->killed_at - m->confirmed_at) / MS), describe(m));
}

static void check_id(const struct phone *by, struct mail *m, const char *id)
{
    if (!*id && is_archived(m))
        world_bad("phone %u gets without a stanza-id: %s", by->number, describe(m));
    if (*id && *m->id && strcmp(id, m->id))
        world_bad("phone %u gets as %s what had come as %s: %s", by->number, id, m->id, describe(m));
    if (*id)
        snprintf(m->id, sizeof(m->id), "%s", id);
}

void mail_received(struct phone *by, unsigned number, const char *id)
{
    struct mail *m = find(number);
    struct copy *c = &m->got[by->number];
    if (m->to_user != by->user)
        world_bad("phone %u of user %u gets %s", by->number, by->user, describe(m));
    check_id(by, m, id ? id : "");
    if (c->at) {
        check_repeat(by, m, c);
    } else {
        unsigned *last = &all()->last[by->number][m->from];
        /* What came back has had its answer; sent once more by a session that moved, it comes where it can
         * (docs/adr/0046). */
        if (number < *last && find(*last)->session == m->session && !has_two_phones(m->to_user) &&
            !m->is_bounced)
            world_bad("phone %u gets message %u before %s", by->number, *last, describe(m));
        if (number > *last)
            *last = number;
    }
    world_say("phone %u gets message %u%s%s", by->number, number, id && *id ? " as " : "", id ? id : "");
    *c = (struct copy){W->queue.now, by->connection, by->home};
}

/* ---- stores ---- */

static void look_at_row(struct world_node *n, uint64_t uid, uint64_t index, uint32_t place,
                        struct store_iter *i, struct arena *a)
{
    const Imp__MessageIndexRow *row = store_iter_row(i, a);
    const Imp__MessageRow *body = row ? row->message : NULL;
    struct key k;
    key_init(&k);
    key_u64(&k, index);
    key_u32(&k, place);
    if (row && !body)
        body = store_find_row(store_read_txn(n->look), TABLE_MESSAGE, &k, a);
    if (!body || row->outgoing)
        return;
    const char *text = memmem(body->stanza.data, body->stanza.len, "<body>", 6);
    unsigned number = 0;
    if (!text || sscanf(text, "<body>number %u.", &number) != 1)
        return;
    struct mail *m = find(number);
    if (W->users[m->to_user].uid != uid)
        world_bad("stored for another user: %s", describe(m));
    if (m->index && m->kind == PHONE_RESUMES)
        world_bad("stored at %" PRIu64 " and again at %" PRIu64 ": %s", m->index, index, describe(m));
    m->index = index;
    m->place = place;
    world_say("message %u is stored at %" PRIu64 "-%u", number, index, place);
}

void mail_on_applied(struct world_node *n)
{
    struct mails *ms = all();
    struct arena a;
    if (!W->phones || !W->phones->is_ready)
        return;
    arena_init(&a);
    struct store_txn *txn = store_read_txn(n->look);
    for (unsigned user = 0; user < PHONE_USERS; user++) {
        struct store_iter i;
        struct key prefix, from;
        key_init(&prefix);
        key_u64(&prefix, W->users[user].uid);
        from = prefix;
        key_u64(&from, ms->seen + 1);
        store_iter_init(&i, txn, TABLE_MESSAGE_INDEX, &prefix);
        store_iter_seek(&i, &from);
        while (store_iter_next(&i)) {
            struct key_reader r;
            key_read(&r, i.key, i.n_key);
            uint64_t uid = key_read_u64(&r), index = key_read_u64(&r);
            uint32_t place = key_read_u32(&r);
            if (index > ms->seen)
                look_at_row(n, uid, index, place, &i, &a);
            arena_reset(&a);
        }
        store_iter_fini(&i);
    }
    arena_fini(&a);
    ms->seen = W->committed;
}

static unsigned user_of(uint64_t uid)
{
    for (unsigned user = 0; user < WORLD_USERS; user++)
        if (W->users[user].uid == uid)
            return user;
    return WORLD_USERS;
}

void mail_on_executed(const Imp__Proposal *p, uint64_t index, const struct fsm_result *result)
{
    const Imp__Command *c = p->command;
    if (!c || !W->trace)
        return;
    if (c->body_case == IMP__COMMAND__BODY_SESSION_OPEN)
        world_say("node %u opens a session of user %u at %" PRIu64 ": %d", p->node,
                  user_of(c->session_open->uid), index, result->code);
    for (size_t i = 0; c->body_case == IMP__COMMAND__BODY_SESSION_CLOSE && i < c->session_close->n_sessions;
         i++)
        world_say("node %u closes the session of user %u from %" PRIu64 ": %d", p->node,
                  user_of(c->session_close->sessions[i]->uid), c->session_close->sessions[i]->session,
                  result->code);
    if (c->body_case == IMP__COMMAND__BODY_SESSION_MARK && result->value2)
        world_say("node %u marks %u items, nothing is taken of %u", p->node,
                  (unsigned)c->session_mark->n_items, (unsigned)result->value2);
}

/* The row of the phone's session in the newest store there is; -1: there is none, or it is too old. */
static int64_t count_in_row(const struct phone *p)
{
    uint8_t hash[SHA256_DIGEST_LENGTH];
    int64_t found = -1;
    SHA256((const uint8_t *)p->id, strlen(p->id), hash);
    for (uint32_t id = 1; id <= W->n_nodes && found < 0; id++) {
        struct world_node *n = &W->nodes[id];
        if (!n->is_alive || replica_applied_index(n->node->replica) < W->committed)
            continue;
        struct arena a;
        struct store_iter i;
        struct key prefix;
        arena_init(&a);
        key_init(&prefix);
        key_u64(&prefix, W->users[p->user].uid);
        store_reader_reset(n->look);
        store_iter_init(&i, store_read_txn(n->look), TABLE_SESSION, &prefix);
        while (store_iter_next(&i)) {
            const Imp__SessionRow *row = store_iter_row(&i, &a);
            if (row && row->id_hash.len == sizeof(hash) && !memcmp(row->id_hash.data, hash, sizeof(hash)))
                found = (int64_t)row->n_in;
        }
        store_iter_fini(&i);
        store_reader_reset(n->look);
        arena_fini(&a);
    }
    return found;
}

void mail_check_count(const struct phone *p, uint64_t h)
{
    int64_t in_row = *p->id ? count_in_row(p) : -1;
    if (in_row >= 0 && h > (uint64_t)in_row)
        world_bad("phone %u is told that %u of its stanzas are safe, and the row of its session has %u",
                  p->number, (unsigned)h, (unsigned)in_row);
}

/* ---- when the faults are over ---- */

void mail_home_was_killed(void)
{
    all()->killed_at = W->queue.now;
}

/* Nobody waits for it. */
static bool is_done(const struct mail *m)
{
    if (is_received(m) || m->is_bounced)
        return true;
    if (!m->is_counted)
        return m->is_given_up;
    return may_be_lost_on_the_way(m) && (m->index || !is_archived(m));
}

/* Somebody is there for it: what waits in the store is on its way, and marked when it has come. */
static bool does_nothing_wait(char *why, size_t n_why)
{
    struct world_node *n = world_leader();
    struct arena a;
    unsigned n_pending = 0;
    if (!n)
        return snprintf(why, n_why, "there is no leader"), false;
    arena_init(&a);
    store_reader_reset(n->look);
    for (unsigned user = 0; user < PHONE_USERS && !n_pending; user++) {
        struct key k;
        key_init(&k);
        key_u64(&k, W->users[user].uid);
        const Imp__UserStateRow *row = store_find_row(store_read_txn(n->look), TABLE_USER_STATE, &k, &a);
        n_pending = row ? (unsigned)row->n_pending : 0;
        if (n_pending)
            snprintf(why, n_why, "%u stored messages wait for user %u, who is there", n_pending, user);
    }
    store_reader_reset(n->look);
    arena_fini(&a);
    return !n_pending;
}

bool mail_is_settled(char *why, size_t n_why)
{
    for (unsigned k = 1; k <= all()->n; k++)
        if (!is_done(&all()->list[k]))
            return snprintf(why, n_why, "%s has not come", describe(&all()->list[k])), false;
    return does_nothing_wait(why, n_why);
}

bool mail_has_come(unsigned number)
{
    return is_received(find(number));
}

bool mail_is_bounced(unsigned number)
{
    return find(number)->is_bounced;
}

void mail_blame(unsigned number, const char *what)
{
    world_bad("%s %s", describe(find(number)), what);
}
