#include "cluster/member_manager.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/member_policy.h"
#include <stdio.h>
#include <string.h>

enum {
    TICK_MS = 250,
    WELL_EVERY_MS = 1000,
    DOWN_AFTER_MS = 3000,
    UNSEEN_AFTER_MS = 15000,
    RETRY_MS = 2000,
    MAX_MEMBERS = REPLICA_MAX_PEERS
};

struct watched {
    uint32_t node;
    uint64_t silent_since_ms, behind_since_ms; /* 0: not so */
    bool down, behind;                         /* told */
};
struct member_manager {
    struct member_manager_options o;
    const struct members *members;
    struct timer tick;
    struct replica_status status;
    struct member_settings settings;
    struct watched watched[MAX_MEMBERS];
    unsigned n_watched;
    bool leads, no_redundancy;
    bool change_in_flight, proposal_in_flight;
    bool freed;
    unsigned n_pending; /* callbacks that are still to come */
    uint64_t change_retry_ms, two_since_ms, led_since_ms, well_told_ms;
    uint32_t evacuating, evacuated; /* leaving; and nobody's home any more */
    uint64_t publisher_silent_ms;   /* since when it does not answer; 0: it does */
    uint64_t ready_term; /* leading in this term, and its first entry was applied at the last tick */
    char last_refusal[160];
    uint32_t seen[MAX_MEMBERS]; /* to be proposed */
    unsigned n_seen;
};

static void unpend(struct member_manager *m)
{
    m->n_pending--;
    if (m->freed && !m->n_pending)
        mem_free(m);
}

/* ---- the Raft configuration ---- */

static void on_changed(void *user, int code, const char *text)
{
    struct member_manager *m = user;
    m->change_in_flight = false;
    if (code && code != ERR_NOTLEADER && strcmp(m->last_refusal, text ? text : ""))
        log_warning(m->o.log, "change of the Raft configuration refused: %s",
                    text && *text ? text : err_text(code));
    snprintf(m->last_refusal, sizeof(m->last_refusal), "%s", code && text ? text : "");
    if (code)
        m->change_retry_ms = loop_now_ms(m->o.loop) + RETRY_MS;
    unpend(m);
}

/* A new leader may still have to apply who its members are; with the table of before it would take out
 * somebody who has just joined. One tick more, for the change to come to this loop. */
static bool knows_members(struct member_manager *m)
{
    bool was_ready = m->ready_term == m->status.term;
    m->ready_term = m->status.applied_term == m->status.term ? m->status.term : 0;
    return was_ready && m->ready_term;
}

/* Until it has handed over its users it must learn what is to be done, and may be taken down. */
static uint32_t evacuated(const struct member_manager *m)
{
    const struct member *member = members_find(m->members, m->evacuated);
    return member && !member->up && !member->handing_over ? m->evacuated : 0;
}

static void step_configuration(struct member_manager *m, uint64_t now)
{
    if (m->change_in_flight || now < m->change_retry_ms)
        return;
    struct member_step step =
        member_policy(m->members, &m->status,
                      &(struct member_facts){.self = m->o.node_id,
                                             .now_ms = clock_monotonic_ms(),
                                             .led_since_ms = m->led_since_ms,
                                             .replace_after_ms = m->settings.replace_after_s * 1000,
                                             .evacuated = evacuated(m)});
    if (!step.action)
        return;
    static const char *const words[] = {"",
                                        "adding as standby",
                                        "making a voter",
                                        "demoting to standby",
                                        "removing from the Raft configuration",
                                        "handing the leadership over to"};
    log_notice(m->o.log, "%s: node %u", words[step.action], step.node);
    m->change_in_flight = true;
    m->n_pending++;
    if (step.action == MEMBER_HAND_OVER) {
        replica_transfer(m->o.replica, step.node, m->o.loop, on_changed, m);
        return;
    }
    enum replica_change change = step.action == MEMBER_ADD_STANDBY ? REPLICA_ADD_STANDBY
                                 : step.action == MEMBER_PROMOTE   ? REPLICA_PROMOTE
                                 : step.action == MEMBER_DEMOTE    ? REPLICA_DEMOTE
                                                                   : REPLICA_REMOVE;
    replica_change(m->o.replica, change, step.node, m->o.loop, on_changed, m);
}

/* ---- node_seen, node_expire ---- */

static void on_proposed(void *user, const struct proposal_result *result)
{
    struct member_manager *m = user;
    (void)
        result; /* a refusal means that somebody else was first; a failure is tried again at the next tick */
    m->proposal_in_flight = false;
    unpend(m);
}

static void propose_then(struct member_manager *m, Imp__Command *command, proposal_done_fn *on_done)
{
    m->proposal_in_flight = true;
    m->n_pending++;
    if (proposal_submit(m->o.replica, command, m->o.loop, 0, on_done, m)) {
        m->proposal_in_flight = false;
        m->n_pending--;
    }
}

static void propose(struct member_manager *m, Imp__Command *command)
{
    propose_then(m, command, on_proposed);
}

static void propose_seen(struct member_manager *m)
{
    for (unsigned i = 0; i < m->n_seen;) {
        const struct member *member = members_find(m->members, m->seen[i]);
        if (!member || member->seen) {
            m->seen[i] = m->seen[--m->n_seen];
            continue;
        }
        Imp__Command command = IMP__COMMAND__INIT;
        Imp__NodeSeen seen = IMP__NODE_SEEN__INIT;
        seen.node = member->id;
        command.body_case = IMP__COMMAND__BODY_NODE_SEEN;
        command.node_seen = &seen;
        propose(m, &command);
        return;
    }
}

static void propose_expire(struct member_manager *m)
{
    uint64_t now = clock_wall_ms();
    for (unsigned i = 0; i < m->members->n; i++) {
        const struct member *member = &m->members->list[i];
        if (member->seen || !member->token_expires_ms || now < member->token_expires_ms + 1000)
            continue;
        log_notice(m->o.log, "node %u (%s) never came: its token has expired, it is dropped", member->id,
                   member->name);
        Imp__Command command = IMP__COMMAND__INIT;
        Imp__NodeExpire expire = IMP__NODE_EXPIRE__INIT;
        expire.node = member->id;
        command.body_case = IMP__COMMAND__BODY_NODE_EXPIRE;
        command.node_expire = &expire;
        propose(m, &command);
        return;
    }
}

/* ---- members that leave: their users move, the policy takes them out of the configuration, then their row
 * goes ---- */

static void on_evacuated(void *user, const struct proposal_result *result)
{
    struct member_manager *m = user;
    m->proposal_in_flight = false;
    if (!result->code && !result->value && m->evacuating)
        m->evacuated = m->evacuating;
    else if (result->code == ERR_CONFLICT)
        log_warning(m->o.log, "node %u cannot leave yet: %s", m->evacuating, result->text);
    unpend(m);
}

static void propose_evacuation(struct member_manager *m, uint32_t node)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeEvacuate evacuate = IMP__NODE_EVACUATE__INIT;
    evacuate.node = m->evacuating = node;
    evacuate.max = 1000;
    command.body_case = IMP__COMMAND__BODY_NODE_EVACUATE;
    command.node_evacuate = &evacuate;
    propose_then(m, &command, on_evacuated);
}

static bool is_in_configuration(const struct member_manager *m, uint32_t node)
{
    for (unsigned i = 0; i < m->status.n_peers; i++)
        if (m->status.peers[i].node == node)
            return m->status.peers[i].member != REPLICA_NOT_MEMBER;
    return node == m->o.node_id;
}

static void propose_leave(struct member_manager *m)
{
    for (unsigned i = 0; i < m->members->n; i++) {
        const struct member *member = &m->members->list[i];
        if (!member->leaving)
            continue;
        if (m->evacuated != member->id) {
            propose_evacuation(m, member->id);
            return;
        }
        if (is_in_configuration(m, member->id) || !evacuated(m))
            continue;
        log_notice(m->o.log, "node %u (%s) has left the Raft configuration: it is removed", member->id,
                   member->name);
        Imp__Command command = IMP__COMMAND__INIT;
        Imp__NodeRemove remove = IMP__NODE_REMOVE__INIT;
        remove.node = member->id;
        command.body_case = IMP__COMMAND__BODY_NODE_REMOVE;
        command.node_remove = &remove;
        propose(m, &command);
        return;
    }
}

/* ---- the publisher role, where it may move by itself ---- */

static bool is_reachable(const struct member_manager *m, uint32_t node)
{
    if (node == m->o.node_id)
        return true;
    for (unsigned i = 0; i < m->status.n_peers; i++)
        if (m->status.peers[i].node == node)
            return m->status.peers[i].connected;
    return false;
}

/* Of the same release: the publisher is the first that is upgraded. */
static const struct member *find_successor(const struct member_manager *m, const struct member *publisher)
{
    for (unsigned i = 0; i < m->members->n; i++) {
        const struct member *x = &m->members->list[i];
        if (x->id != publisher->id && x->up && !x->witness && !x->drained && !x->leaving && !x->lost &&
            is_reachable(m, x->id) && !strcmp(x->release, publisher->release))
            return x;
    }
    return NULL;
}

static void propose_publisher(struct member_manager *m, uint64_t now)
{
    const struct member *publisher = members_find(m->members, m->members->publisher);
    bool gone = publisher && !publisher->up && !is_reachable(m, publisher->id);
    if (!gone) {
        m->publisher_silent_ms = 0;
        return;
    }
    if (!m->publisher_silent_ms)
        m->publisher_silent_ms = now;
    if (!m->settings.move_publisher || now - m->publisher_silent_ms < m->settings.move_after_s * 1000ull)
        return;
    const struct member *to = find_successor(m, publisher);
    if (!to)
        return;
    log_warning(m->o.log, "the publisher %s has not answered for %u s: %s takes over its role",
                publisher->name, m->settings.move_after_s, to->name);
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__PublisherSet set = IMP__PUBLISHER_SET__INIT;
    Imp__Audited audited = IMP__AUDITED__INIT;
    char line[160];
    snprintf(line, sizeof(line), "node promote %s (publisher.auto_move: %s does not answer)", to->name,
             publisher->name);
    audited.node = m->o.node_id;
    audited.who = (char *)"imp";
    audited.command = line;
    set.node = to->id;
    set.expected_epoch = m->members->publisher_epoch;
    command.audited = &audited;
    command.body_case = IMP__COMMAND__BODY_PUBLISHER_SET;
    command.publisher_set = &set;
    propose(m, &command);
}

void member_manager_seen(struct member_manager *m, uint32_t node)
{
    const struct member *member = m->members ? members_find(m->members, node) : NULL;
    if (!member || member->seen)
        return;
    for (unsigned i = 0; i < m->n_seen; i++)
        if (m->seen[i] == node)
            return;
    if (m->n_seen < MAX_MEMBERS)
        m->seen[m->n_seen++] = node;
    if (!m->proposal_in_flight)
        propose_seen(m);
}

/* ---- troubles ---- */

static void tell(struct member_manager *m, enum member_trouble trouble, uint32_t node, bool raised,
                 const char *text)
{
    m->o.on_trouble(m->o.user, trouble, node, raised, false, text);
}

static struct watched *watch(struct member_manager *m, uint32_t node)
{
    for (unsigned i = 0; i < m->n_watched; i++)
        if (m->watched[i].node == node)
            return &m->watched[i];
    if (m->n_watched == MAX_MEMBERS)
        return NULL;
    m->watched[m->n_watched] = (struct watched){.node = node};
    return &m->watched[m->n_watched++];
}

static bool lasts_for(uint64_t *since_ms, bool is_so, uint64_t now, unsigned for_ms)
{
    if (!is_so)
        *since_ms = 0;
    else if (!*since_ms)
        *since_ms = now;
    return is_so && now - *since_ms >= for_ms;
}

static bool lasts(uint64_t *since_ms, bool is_so, uint64_t now)
{
    return lasts_for(since_ms, is_so, now, DOWN_AFTER_MS);
}

static void check_member(struct member_manager *m, const struct member *member, uint64_t now, bool tells_well)
{
    const struct replica_peer *peer = NULL;
    for (unsigned i = 0; i < m->status.n_peers; i++)
        if (m->status.peers[i].node == member->id)
            peer = &m->status.peers[i];
    struct watched *w = watch(m, member->id);
    if (!w)
        return;
    char text[256];
    bool down = lasts(&w->silent_since_ms, peer && !peer->connected, now);
    /* who has joined may take a moment to start the node */
    bool behind = lasts_for(&w->behind_since_ms, !member->epoch && !member->witness, now,
                            member->seen ? DOWN_AFTER_MS : UNSEEN_AFTER_MS);
    snprintf(text, sizeof(text), "node %s (%s) does not answer", member->name, member->address);
    if (down != w->down || (tells_well && peer && peer->connected))
        tell(m, MEMBER_TROUBLE_NODE_DOWN, member->id, down, text);
    snprintf(text, sizeof(text), "the feature services of %s wait for replication%s", member->name,
             member->seen ? "" : ": it has joined, but not spoken yet");
    if (behind != w->behind)
        tell(m, MEMBER_TROUBLE_CATCHING_UP, member->id, behind, text);
    w->down = down;
    w->behind = behind;
}

static void check_troubles(struct member_manager *m, uint64_t now)
{
    bool two = lasts(&m->two_since_ms, m->status.n_voters == 2, now); /* not on the way from one to three */
    /* What a leader of before has raised, or raises late, by a proposal that was still under way when it lost
     * the leadership, ends too. */
    bool tells_well = now >= m->well_told_ms + WELL_EVERY_MS;
    if (tells_well) {
        m->well_told_ms = now;
        tell(m, MEMBER_TROUBLE_NODE_DOWN, m->o.node_id, false, "");
    }
    if (two != m->no_redundancy || (tells_well && m->status.n_voters != 2))
        tell(m, MEMBER_TROUBLE_NO_REDUNDANCY, 0, two,
             "two voters: the loss of either stops all writes; add a third node or a witness");
    m->no_redundancy = two;
    for (unsigned i = 0; i < m->members->n; i++)
        if (m->members->list[i].id != m->o.node_id)
            check_member(m, &m->members->list[i], now, tells_well);
    for (unsigned i = 0; i < m->n_watched;) {
        if (members_find(m->members, m->watched[i].node)) {
            i++;
            continue;
        }
        if (m->watched[i].down)
            tell(m, MEMBER_TROUBLE_NODE_DOWN, m->watched[i].node, false, "");
        if (m->watched[i].behind)
            tell(m, MEMBER_TROUBLE_CATCHING_UP, m->watched[i].node, false, "");
        m->watched[i] = m->watched[--m->n_watched];
    }
}

/* The next leader finds out by itself; what is open stays open until it knows better. */
static void forget_troubles(struct member_manager *m)
{
    if (m->no_redundancy)
        m->o.on_trouble(m->o.user, MEMBER_TROUBLE_NO_REDUNDANCY, 0, false, true, "");
    for (unsigned i = 0; i < m->n_watched; i++) {
        if (m->watched[i].down)
            m->o.on_trouble(m->o.user, MEMBER_TROUBLE_NODE_DOWN, m->watched[i].node, false, true, "");
        if (m->watched[i].behind)
            m->o.on_trouble(m->o.user, MEMBER_TROUBLE_CATCHING_UP, m->watched[i].node, false, true, "");
    }
    m->no_redundancy = false;
    m->two_since_ms = 0;
    m->n_watched = 0;
}

static void on_tick(struct timer *t)
{
    struct member_manager *m = container_of(t, struct member_manager, tick);
    if (!m->members)
        return;
    replica_get_status(m->o.replica, &m->status);
    uint64_t now = loop_now_ms(m->o.loop);
    bool leads = m->status.role == REPLICA_LEADER;
    if (m->n_seen && !m->proposal_in_flight)
        propose_seen(m);
    if (!leads) {
        if (m->leads)
            forget_troubles(m);
        m->leads = false;
        return;
    }
    if (!m->leads) {
        m->led_since_ms = clock_monotonic_ms();
        m->publisher_silent_ms = 0;
        m->evacuated = 0;
    }
    m->leads = true;
    m->o.read_settings(m->o.user, &m->settings);
    if (knows_members(m)) {
        step_configuration(m, now);
        if (!m->proposal_in_flight)
            propose_leave(m);
        if (!m->proposal_in_flight)
            propose_publisher(m, now);
    }
    if (!m->proposal_in_flight)
        propose_expire(m);
    check_troubles(m, now);
}

struct member_manager *member_manager_new(const struct member_manager_options *o)
{
    struct member_manager *m = mem_new(struct member_manager);
    m->o = *o;
    timer_init(&m->tick, o->loop, on_tick);
    timer_start(&m->tick, TICK_MS, TICK_MS);
    return m;
}

void member_manager_free(struct member_manager *m)
{
    if (!m)
        return;
    timer_stop(&m->tick);
    m->freed = true;
    m->members = NULL;
    if (!m->n_pending)
        mem_free(m);
}

void member_manager_set_members(struct member_manager *m, const struct members *members)
{
    m->members = members;
}
