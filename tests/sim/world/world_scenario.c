/* The faults, and the course of one seed: a cluster comes to be, things go wrong, all is repaired, and
 * everything must be well soon and nothing lost. */
#include "world_phone.h"

#include "replication/replica_impl.h"
#include <stdio.h>
#include <string.h>

enum { HEAL_SECONDS = 20, SLOW_MS = 5000 };

/* ---- the network ---- */

static void cut_pair(uint32_t a, uint32_t b, bool both)
{
    W->counts.n_cuts++;
    W->cut[a][b] = true;
    if (both)
        W->cut[b][a] = true;
    world_say("cut %u -> %u%s", a, b, both ? " and back" : "");
}

static void isolate(uint32_t who)
{
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        if (id != who)
            W->cut[who][id] = W->cut[id][who] = true;
    W->counts.n_cuts++;
    /* Its clients know nothing of that. */
    for (unsigned i = (unsigned)draw(6); i > 0 && W->nodes[who].is_alive; i--)
        client_write(&W->nodes[who]);
    world_say("node %u is cut off", who);
}

static void split(void)
{
    bool side[WORLD_NODES + 1];
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        side[id] = chance(50);
    for (uint32_t a = 1; a <= W->n_nodes; a++)
        for (uint32_t b = 1; b <= W->n_nodes; b++)
            W->cut[a][b] |= side[a] != side[b];
    W->counts.n_cuts++;
    world_say("the network is split");
}

static void mend_network(void)
{
    memset(W->cut, 0, sizeof(W->cut));
    world_say("the network is whole");
}

static void flap(void)
{
    struct world_node *a = world_some_node(), *b = world_some_node();
    for (unsigned i = 2 + (unsigned)draw(8); a && b && a != b && i > 0; i--) {
        W->cut[a->id][b->id] = !W->cut[a->id][b->id];
        W->cut[b->id][a->id] = W->cut[a->id][b->id];
        world_run(20 * MS + draw(400 * MS));
    }
}

static void change_quality(void)
{
    W->loss_per_million = chance(40) ? 0 : (unsigned)draw(30000);
    W->reset_per_million = chance(60) ? 0 : (unsigned)draw(2000);
    W->latency_us = chance(60) ? 300 : 200 + (unsigned)draw(chance(80) ? 5 * MS : 60 * MS);
    world_say("latency %u us, loss %u, resets %u per million", W->latency_us, W->loss_per_million,
              W->reset_per_million);
}

/* ---- machines ---- */

static struct world_node *leader_or_some(void)
{
    struct world_node *home = W->phones && chance(30) ? phones_some_home() : NULL;
    if (home)
        return home;
    struct world_node *leader = world_leader();
    return leader && chance(40) ? leader : world_some_node();
}

static void crash(struct world_node *n)
{
    bool power = chance(50);
    world_say("node %u crashes%s", n->id, power ? ", power lost" : "");
    W->counts.n_crashes++;
    world_node_end(n, power);
    world_node_boot(n, 50 * MS + draw(chance(60) ? 500 * MS : 6 * SECOND));
}

/* Its idea of time goes on from where it stood, but for CLOCK_BOOTTIME (and CLOCK_MONOTONIC, unless the
 * machine slept). */
static void pause_node(struct world_node *n)
{
    uint64_t us = chance(50) ? draw(900 * MS) : draw(6 * SECOND);
    if (n->paused_until > W->queue.now)
        return;
    W->counts.n_pauses++;
    n->paused_until = W->queue.now + us;
    n->is_suspended = chance(40);
    if (n->is_suspended)
        n->suspended_us += us;
    world_say("node %u stands still for %u ms%s", n->id, (unsigned)(us / MS),
              n->is_suspended ? ", suspended" : "");
}

static void stall_loop(struct world_node *n)
{
    struct loop *loops[] = {n->node->loop, n->node->replica->loop, world_shard(n)->loop};
    unsigned which = (unsigned)draw(3);
    n->stalled = loops[which];
    n->stall_until = W->queue.now + draw(3 * SECOND);
    world_say("a thread of node %u stands still: %u", n->id, which);
}

static void set_clock(struct world_node *n)
{
    n->wall_offset_ms = chance(50)   ? (int64_t)draw(400) - 200
                        : chance(50) ? (int64_t)draw(20000) - 10000
                                     : (int64_t)draw(7200000) - 3600000;
    world_say("the clock of node %u is %lld ms off", n->id, (long long)n->wall_offset_ms);
}

static void trouble_disk(struct world_node *n)
{
    switch (draw(4)) {
    case 0:
        n->disk.free_bytes = 16 << 20;
        world_say("the disk of node %u is nearly full", n->id);
        break;
    case 1:
        n->disk.fail_after = (long)draw(30);
        n->disk.fail_code = chance(50) ? ERR_IO : ERR_NOSPACE;
        world_say("the disk of node %u fails", n->id);
        break;
    default:
        n->disk_us = 100 + (unsigned)draw(chance(60) ? 20 * MS : chance(60) ? 300 * MS : 2 * SECOND);
        world_say("a sync of node %u takes up to %u us", n->id, n->disk_us);
    }
}

static void mend_disk(struct world_node *n)
{
    n->disk.free_bytes = (uint64_t)1 << 40;
    n->disk.fail_after = -1;
    n->disk.has_failed = false;
    n->disk_us = 2 * MS;
}

/* ---- */

static void do_harm(void)
{
    struct world_node *n = leader_or_some(), *m = world_some_node();
    if (!n)
        return;
    if (W->phones && chance(30)) {
        phones_do_harm();
        return;
    }
    switch (draw(20)) {
    case 0:
    case 1:
        if (n != m)
            cut_pair(n->id, m->id, chance(60));
        break;
    case 2:
        isolate(n->id);
        break;
    case 3:
        split();
        break;
    case 4:
    case 5:
    case 6:
        mend_network();
        break;
    case 7:
        flap();
        break;
    case 8:
        change_quality();
        break;
    case 9:
    case 10:
        crash(n);
        break;
    case 11:
        for (uint32_t id = 1; id <= W->n_nodes && chance(30); id++)
            if (W->nodes[id].is_alive)
                crash(&W->nodes[id]);
        break;
    case 12:
    case 13:
        pause_node(n);
        break;
    case 14:
        stall_loop(n);
        break;
    case 15:
        set_clock(n);
        break;
    case 16:
        trouble_disk(n);
        break;
    case 17:
        mend_disk(&W->nodes[1 + draw(W->n_nodes)]);
        break;
    default:
        operator_do_something(m);
    }
}

/* ---- the course ---- */

static void grow(void)
{
    unsigned n_wanted = 3 + (unsigned)draw(3);
    if (chance(10))
        n_wanted = 1 + (unsigned)draw(WORLD_LIVING);
    for (unsigned tries = 0; W->n_nodes < n_wanted && tries < 20 && !W->is_bad; tries++) {
        struct world_node *n = world_some_node();
        if (n)
            operator_join(n);
        world_run(300 * MS + draw(700 * MS));
    }
    for (unsigned user = 0; user < WORLD_USERS; user++) {
        struct world_node *n = world_some_node();
        if (n)
            operator_add_user(n, user);
        world_run(draw(50 * MS));
    }
}

/* Whoever was joined without its process having been told, or is drained: as an administrator would see to
 * it. */
static void tidy_members(void)
{
    const struct world_node *leader = world_leader();
    const struct members *m = leader ? leader->node->members : NULL;
    for (unsigned i = 0; m && i < m->n; i++) {
        const struct member *x = &m->list[i];
        struct world_node *n = &W->nodes[x->id];
        unsigned host = 0;
        if (x->id > WORLD_NODES)
            continue;
        if (!n->is_member && sscanf(x->address, "10.0.0.%u", &host) == 1) {
            world_node_add(x->id, host, x->name);
            n->is_witness = x->witness;
        }
        if (!n->is_alive)
            world_node_boot(n, 10 * MS);
        if (x->drained && !x->leaving)
            operator_undrain((struct world_node *)leader, x->id);
    }
}

static void mend_all(void)
{
    world_say("all faults end");
    mend_network();
    W->is_calm = true;
    W->loss_per_million = W->reset_per_million = 0;
    W->latency_us = 300;
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        struct world_node *n = &W->nodes[id];
        mend_disk(n);
        n->wall_offset_ms = (int64_t)draw(400) - 200;
        if (!n->is_alive && n->is_member && !n->is_removed)
            world_node_boot(n, 10 * MS + draw(500 * MS));
    }
}

/* The last pause ends by itself. */
static uint64_t end_of_faults(void)
{
    uint64_t end = W->queue.now;
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        if (W->nodes[id].paused_until > end)
            end = W->nodes[id].paused_until;
    return end;
}

static void log_in_everywhere(void)
{
    for (unsigned user = 0; user < WORLD_USERS; user++)
        for (uint32_t id = 1; id <= W->n_nodes; id++)
            if (W->nodes[id].is_alive && !client_serves(&W->nodes[id], user))
                client_log_in(&W->nodes[id], user);
}

/* Since BEGIN, which may be to come, nothing goes wrong any more. */
static void wait_until_healed(uint64_t begin)
{
    char why[200] = "";
    uint64_t end = begin + HEAL_SECONDS * SECOND;
    do {
        world_run(250 * MS);
        tidy_members();
        log_in_everywhere();
        if (W->queue.now > begin && (W->queue.now - begin) / SECOND >= 5)
            world_say("not healed yet: %s", why);
    } while (!W->is_bad && !check_healed(why, sizeof(why)) && W->queue.now < end);
    if (!W->is_bad && !check_healed(why, sizeof(why)))
        world_bad("%u s after the faults ended: %s", HEAL_SECONDS, why);
}

static void heal(void)
{
    mend_all();
    uint64_t begin = end_of_faults();
    wait_until_healed(begin);
    W->counts.healed_ms = W->queue.now > begin ? (unsigned long)((W->queue.now - begin) / MS) : 0;
    W->counts.n_slow = W->counts.healed_ms > SLOW_MS;
    world_say("healed after %lu ms", W->counts.healed_ms);
}

/* ---- messages, when all is well again ---- */

enum { SETTLE_SECONDS = 60 };

static void settle_phones(const char *when)
{
    char why[240] = "";
    uint64_t end = W->queue.now + SETTLE_SECONDS * SECOND;
    phones_be_quiet(true);
    do
        world_run(250 * MS);
    while (!W->is_bad && !phones_are_settled(why, sizeof(why)) && W->queue.now < end);
    if (!W->is_bad && !phones_are_settled(why, sizeof(why)))
        world_bad("%u s after %s: %s", SETTLE_SECONDS, when, why);
}

/* With nothing else wrong: what is repeated then is what was confirmed in the last moment. */
static void kill_a_home(void)
{
    char why[200];
    if (!check_healed(why, sizeof(why)))
        return;
    phones_be_quiet(false);
    world_run(3 * SECOND);
    struct world_node *n = phones_some_home();
    if (n && check_healed(why, sizeof(why))) {
        mail_home_was_killed();
        world_say("in quiet, node %u is killed", n->id);
        world_node_end(n, false);
        uint64_t back_us = 50 * MS + draw(5 * SECOND);
        uint64_t back_at = W->queue.now + back_us;
        world_node_boot(n, back_us);
        world_run(2 * SECOND);
        settle_phones("a home was killed"); /* also while the node is down still */
        if (!W->is_bad)
            wait_until_healed(back_at > W->queue.now ? back_at : W->queue.now);
    }
    if (!W->is_bad)
        settle_phones("all nodes are there again");
}

static void finish_phones(void)
{
    if (!W->is_bad)
        settle_phones("the faults ended");
    if (!W->is_bad)
        kill_a_home();
    if (!W->is_bad)
        chat_in_quiet();
    if (!W->is_bad)
        chat_through_changes();
    if (!W->is_bad)
        wait_until_healed(W->queue.now);
    if (!W->is_bad)
        settle_phones("nodes and users came and went");
}

void world_scenario(void)
{
    world_node_make_cluster();
    world_node_boot(&W->nodes[1], 0);
    world_run(2 * SECOND);
    clients_begin();
    grow();
    if (W->options & WORLD_PHONES) {
        phones_prepare();
        phones_begin();
    }
    if (chance(50))
        world_run(3 * SECOND);
    uint64_t end = W->queue.now + 8 * SECOND + draw(16 * SECOND);
    while (W->queue.now < end && !W->is_bad) {
        do_harm();
        world_run(5 * MS + draw(chance(50) ? 150 * MS : chance(70) ? 800 * MS : 3 * SECOND));
    }
    if (!W->is_bad)
        heal();
    if (W->phones)
        finish_phones();
    sim_queue_remove(&W->queue, &W->clients.timed);
    if (!W->is_bad)
        world_run(2 * SECOND);
    if (!W->is_bad)
        check_end();
}
