/* What happens in one seed, and what must hold at its end. */
#include "sim.h"

#include <string.h>

enum { HEAL_MS = 10000, SETTLE_MS = 5000, MAX_LAG = 2 };

static struct sim_node *any_node(struct sim *s)
{
    return &s->nodes[1 + sim_draw(s, SIM_MAX_NODES)];
}

static struct sim_node *find_leader(struct sim *s)
{
    struct sim_node *leader = NULL;
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        if (sim_node_is_running(n) && driver_get_role(n->driver) == DRIVER_LEADER &&
            (!leader || driver_get_term(n->driver) > driver_get_term(leader->driver)))
            leader = n;
    }
    return leader;
}

static struct sim_node *leader_or_any(struct sim *s)
{
    struct sim_node *leader = find_leader(s);
    return leader && sim_draw(s, 2) ? leader : any_node(s);
}

/* ---- actions ---- */

static struct blob *draw_payload(struct sim_node *n)
{
    struct sim *s = n->s;
    if (s->machine->draw)
        return s->machine->draw(s, n->live.machine);
    unsigned pad = sim_draw(s, 8) ? sim_draw(s, 24) : sim_draw(s, 700);
    struct blob *payload = blob_new(NULL, 8 + pad);
    memset(payload->data, (int)s->next_value, payload->n);
    memcpy(payload->data, &s->next_value, 8);
    s->next_value++;
    return payload;
}

static int submit(struct sim_node *n, unsigned n_commands)
{
    struct blob *payloads[4] = {0};
    for (unsigned i = 0; i < n_commands; i++)
        payloads[i] = draw_payload(n);
    int rc = driver_submit(n->driver, n->s->now, payloads, n_commands, NULL, NULL);
    for (unsigned i = 0; i < n_commands; i++)
        blob_unref(payloads[i]);
    return rc;
}

static void submit_everywhere(struct sim *s)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        if (!sim_node_is_running(n) || driver_get_role(n->driver) != DRIVER_LEADER)
            continue;
        for (unsigned k = 1 + sim_draw(s, 3); k > 0; k--)
            submit(n, 1 + sim_draw(s, 3));
    }
}

static void cut_one(struct sim *s)
{
    unsigned from = any_node(s)->id, to = any_node(s)->id;
    s->cut[from][to] = true;
    if (sim_draw(s, 2))
        s->cut[to][from] = true;
}

static void isolate(struct sim *s)
{
    unsigned who = leader_or_any(s)->id;
    if (sim_draw(s, 2))
        memset(s->cut, 0, sizeof(s->cut));
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
        s->cut[who][i] = s->cut[i][who] = true;
}

static void crash(struct sim *s, struct sim_node *n)
{
    if (!n->is_up)
        return;
    bool power = sim_draw(s, 3);
    sim_say(s, "crash %u%s", n->id, power ? ", power lost" : "");
    s->counts.n_crashes++;
    sim_node_crash(n, power);
    sim_schedule(s, SIM_BOOT, n, 1 + sim_draw(s, sim_draw(s, 2) ? 100 : 3000));
}

static void change_membership(struct sim *s)
{
    struct sim_node *leader = find_leader(s);
    struct driver_status st;
    if (!leader)
        return;
    driver_get_status(leader->driver, &st);
    uint64_t id = any_node(s)->id, now = s->now;
    struct err_ctx err = {0};
    const struct configuration_server *server = configuration_find(&st.conf, id);
    const char *what = "add";
    int rc = 0;
    if (!server) {
        rc = driver_add_standby(leader->driver, now, id, &err);
    } else if (server->role == CONFIGURATION_STANDBY && sim_draw(s, 4)) {
        what = "promote";
        rc = driver_promote(leader->driver, now, id, &err);
    } else if (server->role == CONFIGURATION_STANDBY) {
        what = "remove";
        rc = driver_remove(leader->driver, now, id, &err);
    } else if (sim_draw(s, 3) == 0) {
        bool is_removal = sim_draw(s, 2);
        what = is_removal ? "remove" : "demote";
        rc = is_removal ? driver_remove(leader->driver, now, id, &err)
                        : driver_demote(leader->driver, now, id, &err);
    } else {
        return;
    }
    sim_say(s, "node %u: %s %llu: %s", leader->id, what, (unsigned long long)id, rc ? err.text : "submitted");
}

/* A leader that fails with a change under way: dead, or cut off, before or after it has reached anybody. */
static void churn(struct sim *s)
{
    struct sim_node *leader = find_leader(s);
    change_membership(s);
    if (sim_draw(s, 8) == 0)
        any_node(s)->disk_ms = 1 + sim_draw(s, 3000);
    if (!leader || sim_draw(s, 3))
        return;
    if (sim_draw(s, 2)) {
        leader->disk_ms = 1 + sim_draw(s, 60);
        sim_run(s, s->now + sim_draw(s, 40));
    }
    if ((s->options & SIM_CRASH) && sim_draw(s, 2)) {
        crash(s, leader);
        return;
    }
    memset(s->cut, 0, sizeof(s->cut));
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
        if (i != leader->id && sim_draw(s, 4))
            s->cut[leader->id][i] = s->cut[i][leader->id] = true;
}

static void act(struct sim *s)
{
    struct sim_node *leader;
    if ((s->options & SIM_CHURN) && sim_draw(s, 4) == 0) {
        churn(s);
        return;
    }
    switch (sim_draw(s, 16)) {
    case 0:
        cut_one(s);
        break;
    case 1:
        isolate(s);
        break;
    case 2:
    case 3:
        memset(s->cut, 0, sizeof(s->cut));
        break;
    case 4:
        any_node(s)->disk_ms = 1 + sim_draw(s, sim_draw(s, 4) ? 20 : sim_draw(s, 3) ? 400 : 3000);
        break;
    case 5:
        if (s->options & SIM_CRASH)
            crash(s, leader_or_any(s));
        break;
    case 6:
        if ((s->options & SIM_CRASH) && sim_draw(s, 8) == 0)
            for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
                crash(s, &s->nodes[i]);
        break;
    case 7:
    case 8:
        if (s->options & SIM_MEMBERS)
            change_membership(s);
        break;
    case 9:
        leader = find_leader(s);
        if ((s->options & SIM_TRANSFER) && leader) {
            driver_transfer(leader->driver, s->now, sim_draw(s, 3) ? any_node(s)->id : 0);
            break;
        }
        submit_everywhere(s);
        break;
    default:
        submit_everywhere(s);
    }
}

/* ---- verdict ---- */

static void say_all(struct sim *s)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        struct driver_status st;
        if (!sim_node_is_running(n)) {
            sim_say(s, "node %u is down", i);
            continue;
        }
        driver_get_status(n->driver, &st);
        sim_say(
            s,
            "node %u: role %d voter %d term %llu leader %llu last %llu durable %llu commit %llu applied %llu "
            "pending change %llu installing %d",
            i, st.role, st.is_voter, (unsigned long long)st.term, (unsigned long long)st.leader,
            (unsigned long long)st.last, (unsigned long long)st.durable, (unsigned long long)st.commit,
            (unsigned long long)st.applied, (unsigned long long)st.pending_change, st.is_installing);
        for (unsigned k = 0; k < st.conf.n; k++)
            sim_say(s, "    member %llu %s match %llu", (unsigned long long)st.conf.servers[k].id,
                    st.conf.servers[k].role == CONFIGURATION_VOTER ? "voter" : "standby",
                    (unsigned long long)st.peers[k].match);
    }
}

static void check_members(struct sim *s, const struct sim_node *leader)
{
    struct driver_status st;
    driver_get_status(leader->driver, &st);
    if (st.pending_change)
        sim_bad(s, "a membership change is STUCK on the leader, node %u", leader->id);
    for (unsigned i = 0; i < st.conf.n; i++) {
        const struct sim_node *n = &s->nodes[st.conf.servers[i].id];
        if (n->live.index + MAX_LAG < leader->live.index)
            sim_bad(s, "node %u LAGS: applied %llu, leader %llu", n->id, (unsigned long long)n->live.index,
                    (unsigned long long)leader->live.index);
    }
}

/* A server uses the latest configuration in its log, committed or not (Raft dissertation, 4.1). */
static void check_configurations(struct sim *s)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        struct driver_status st;
        struct configuration conf;
        if (!sim_node_is_running(n))
            continue;
        driver_get_status(n->driver, &st);
        uint64_t last = rlog_last(n->log), at = last ? rlog_find_change(n->log, 1, last, &conf) : 0;
        if (st.is_installing || at <= st.snapshot_index)
            continue;
        bool is_same = conf.n == st.conf.n;
        for (unsigned k = 0; is_same && k < conf.n; k++)
            is_same = conf.servers[k].id == st.conf.servers[k].id &&
                      conf.servers[k].role == st.conf.servers[k].role;
        if (!is_same)
            sim_bad(s, "node %u does not use the configuration at %llu, the last one in its log", i,
                    (unsigned long long)at);
    }
}

static void heal(struct sim *s)
{
    memset(s->cut, 0, sizeof(s->cut));
    s->loss_per_mille = s->dup_per_mille = 0;
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
        s->nodes[i].disk_ms = 5;
    s->options &= ~(unsigned)SIM_CRASH;
    sim_run(s, s->now + HEAL_MS);
    if (s->is_bad)
        return;
    struct sim_node *leader = find_leader(s);
    if (!leader) {
        say_all(s);
        sim_bad(s, "NO LEADER %d ms after healing", HEAL_MS);
        return;
    }
    unsigned long before = s->counts.n_commits;
    int rc = submit(leader, 1);
    if (rc)
        sim_bad(s, "after healing the leader refuses a command: %s", err_text(rc));
    sim_run(s, s->now + SETTLE_MS);
    if (s->counts.n_commits == before) {
        say_all(s);
        sim_bad(s, "NO PROGRESS after healing");
    }
    leader = find_leader(s);
    if (!s->is_bad && leader)
        check_members(s, leader);
    check_configurations(s);
    if (s->is_bad)
        say_all(s);
}

void sim_scenario(struct sim *s)
{
    struct configuration conf = {0};
    if (s->options & SIM_LOSS) {
        s->loss_per_mille = sim_draw(s, 3) ? sim_draw(s, 100) : 0;
        s->dup_per_mille = sim_draw(s, 3) ? sim_draw(s, 60) : 0;
    }
    unsigned n_voters = s->options & SIM_ONE_VOTER ? 1 : 3;
    for (unsigned i = 1; i <= n_voters; i++)
        configuration_add(&conf, i, CONFIGURATION_VOTER);
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        if (i <= n_voters)
            sim_node_bootstrap(&s->nodes[i], &conf);
        sim_node_boot(&s->nodes[i]);
    }
    for (unsigned step = 0; step < s->n_steps && !s->is_bad; step++) {
        act(s);
        sim_run(s, s->now + 5 + sim_draw(s, sim_draw(s, 2) ? 60 : sim_draw(s, 2) ? 300 : 1500));
        check_configurations(s);
    }
    if (!s->is_bad)
        heal(s);
}
