/* What a node checks by itself once in a while, and what it makes of what others notice. */
#include "node/node_impl.h"
#include "storage/scrubber.h"
#include <inttypes.h>

enum {
    CLOCK_EVERY_MS = 1000,
    ALARMS_EVERY_MS = 1000,
    QUORUM_AFTER_MS = 3000,
};

void duties_on_trouble(void *user, enum member_trouble trouble, uint32_t node, bool raised, bool forget,
                       const char *text)
{
    static const enum alarm_id ids[] = {ALARM_NO_REDUNDANCY, ALARM_NODE_DOWN, ALARM_REPLICATION_DELAY};
    struct node *n = user;
    if (forget)
        alarms_forget(n->alarms, ids[trouble], node);
    else if (raised)
        alarms_raise(n->alarms, ids[trouble], node, "%s", text);
    else if (trouble != MEMBER_TROUBLE_CATCHING_UP || !members_find(n->members, node))
        alarms_clear(n->alarms, ids[trouble], node);
    else
        alarms_forget(n->alarms, ids[trouble], node); /* the node itself clears it when it is released */
}

struct differ_letter {
    struct letter letter;
    struct node *node;
    uint64_t index;
    bool we_differ, tie;
};

static void on_differ(struct letter *letter)
{
    struct differ_letter *d = container_of(letter, struct differ_letter, letter);
    struct node *n = d->node;
    if (d->we_differ) {
        char text[100];
        snprintf(text, sizeof(text), "they differ from the majority's at log index %" PRIu64, d->index);
        repair_damaged(n, text);
    } else if (d->tie) {
        alarms_raise(
            n->alarms, ALARM_TABLES_DIFFER, 0,
            "tables differ at index %" PRIu64
            " and nobody has a majority: 'impcli dbreplication repair NODE' for the node that is wrong "
            "('impcli dbreplication status' shows where they differ)",
            d->index);
    }
    mem_free(d);
}

static void drop_differ(struct letter *letter)
{
    mem_free(container_of(letter, struct differ_letter, letter));
}

/* Raft thread. */
void duties_on_tables_differ(void *user, uint64_t index, bool we_differ, bool tie, const uint32_t *nodes,
                             unsigned n)
{
    struct node *node = user;
    (void)nodes, (void)n; /* they raise it themselves */
    struct differ_letter *d = mem_new(struct differ_letter);
    *d = (struct differ_letter){{NULL, on_differ, drop_differ}, node, index, we_differ, tie};
    loop_post(node->loop, &d->letter);
}

/* ---- scrub ---- */

struct scrub_letter {
    struct letter letter;
    struct node *node;
    unsigned n_bad;
    char text[384];
};

/* A damaged copy must not serve: what it answers may be wrong. */
static void on_scrubbed(struct letter *letter)
{
    struct scrub_letter *s = container_of(letter, struct scrub_letter, letter);
    struct node *n = s->node;
    if (s->n_bad) {
        log_error(n->log, "scrub: %u tables are damaged: %s", s->n_bad, s->text);
        repair_damaged(n, s->text);
    } else {
        log_debug(n->log, "scrub: all rows are good");
    }
    mem_free(s);
}

static void drop_scrubbed(struct letter *letter)
{
    mem_free(container_of(letter, struct scrub_letter, letter));
}

/* The scrubber's thread. */
static void on_round(void *user, unsigned n_bad, const char *text)
{
    struct node *n = user;
    struct scrub_letter *s = mem_new(struct scrub_letter);
    *s = (struct scrub_letter){.letter = {NULL, on_scrubbed, drop_scrubbed}, .node = n, .n_bad = n_bad};
    snprintf(s->text, sizeof(s->text), "%s", text);
    loop_post(n->loop, &s->letter);
}

static unsigned scrub_round_s(struct node *n)
{
    return (unsigned)setting_int(control_read(n), n->id.name, SETTING_STORAGE_SCRUB);
}

int duties_start_scrub(struct node *n, struct err_ctx *err)
{
    return scrubber_start(&n->scrubber, n->store, scrub_round_s(n), on_round, n, err);
}

void duties_stop_scrub(struct node *n)
{
    scrubber_stop(n->scrubber);
    n->scrubber = NULL;
}

/* The alarm can only be written once there is a quorum again; it is cleared then after it was written. */
static void check_quorum(struct node *n, uint64_t now_ms)
{
    if (n->status.quorum)
        n->alone_ms = 0;
    else if (!n->alone_ms)
        n->alone_ms = now_ms;
    n->alone = n->alone_ms && now_ms - n->alone_ms >= QUORUM_AFTER_MS;
    if (n->status.quorum) {
        if (n->quorum_lost && now_ms - n->quorum_lost_ms > 2 * ALARMS_EVERY_MS) {
            n->quorum_lost = false;
            alarms_clear(n->alarms, ALARM_QUORUM_LOST, n->id.node);
        }
        if (!n->quorum_lost)
            n->quorum_lost_ms = 0;
        return;
    }
    if (!n->quorum_lost_ms || n->quorum_lost)
        n->quorum_lost_ms = now_ms;
    if (!n->quorum_lost && now_ms - n->quorum_lost_ms >= QUORUM_AFTER_MS &&
        n->status.member == REPLICA_VOTER) {
        n->quorum_lost = true;
        alarms_raise(n->alarms, ALARM_QUORUM_LOST, n->id.node,
                     "%s has no contact to a majority of the voters", n->id.name);
    }
}

static void check_clock(struct node *n)
{
    const struct replica_status *s = &n->status;
    if (s->is_clock_skewed)
        alarms_raise(n->alarms, ALARM_CLOCK_SKEW, n->id.node,
                     "the clock of %s is %" PRId64
                     " s %s those of the other nodes: set it, and let NTP keep it",
                     n->id.name, (s->clock_ahead_ms < 0 ? -s->clock_ahead_ms : s->clock_ahead_ms) / 1000,
                     s->clock_ahead_ms < 0 ? "behind" : "ahead of");
    else
        alarms_clear(n->alarms, ALARM_CLOCK_SKEW, n->id.node);
}

void duties_step(struct node *n, uint64_t now_ms)
{
    if (n->stopping || !n->members)
        return;
    check_quorum(n, now_ms);
    if (now_ms - n->alarms_stepped_ms >= ALARMS_EVERY_MS) {
        n->alarms_stepped_ms = now_ms;
        alarms_step(n->alarms);
        /* A leader may have raised one late, by a proposal that was under way when we were released. */
        if (watcher_is_released(&n->watcher))
            control_clear_delays(n);
    }
    disk_check_step(n, now_ms);
    if (!n->clock_checked_ms || now_ms - n->clock_checked_ms >= CLOCK_EVERY_MS) {
        n->clock_checked_ms = now_ms;
        check_clock(n);
        memory_step(n, now_ms);
        if (n->scrubber)
            scrubber_set_round(n->scrubber, scrub_round_s(n));
    }
    if (!n->certs_checked_ms || now_ms - n->certs_checked_ms >= n->certs_every_ms) {
        n->certs_checked_ms = now_ms;
        node_tls_check(n);
    }
    node_tls_propose_default(n);
    keys_step(n, now_ms);
    level_step(n);
    archive_trim_step(n);
    repair_step(n);
}
