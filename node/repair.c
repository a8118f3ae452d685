#include "node/repair.h"

#include "base/release.h"
#include "node/node_impl.h"
#include "node/peers.h"
#include "replication/damage.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    DAY_MS = 24 * 60 * 60 * 1000,
    ASKING_MAX = 64,
    ASKED_LATELY_MS = 60 * 1000,
    ALLOWED_MS = 10 * 60 * 1000,
    AGAIN_MS = 1000,
};

/* Somebody whose tables are damaged and who asks us for a copy. */
struct asking {
    uint32_t node;
    uint64_t asked_ms, allowed_ms; /* CLOCK_MONOTONIC; allowed by a person */
    bool seen_open;                /* its alarm, since it asks */
};

struct repair {
    struct node *node;
    bool is_damaged, is_taking, is_told; /* this node; told: why it takes none by itself */
    char text[DAMAGE_TEXT_MAX];
    bool has_repaired; /* an earlier life took a copy, and nobody was told so far */
    bool note_in_flight;
    char repaired[DAMAGE_TEXT_MAX];
    uint64_t stepped_ms;
    struct asking asking[ASKING_MAX];
    unsigned n_asking;
    /* while the store is not open */
    struct replica *fetch;
    struct timer timer;
};

/* ---- found by a read, or by the kernel ---- */

static bool has_peers(struct node *n)
{
    struct peers *p = mem_new(struct peers);
    peers_read(n, p);
    bool any = p->n > 0;
    mem_free(p);
    return any;
}

static const char alone_text[] = "there is no other member to take a copy from: keep the data directory for "
                                 "somebody to look at, and restore a "
                                 "backup with impnode restore";

void repair_on_store_fatal(struct node *n, const char *detail)
{
    char text[DAMAGE_TEXT_MAX + 300];
    if (!has_peers(n)) {
        snprintf(text, sizeof(text), "the tables are damaged: %s; %s", detail, alone_text);
        node_fatal(n, false, text);
    }
    log_error(n->log, "the tables are damaged: %s: this node ends and takes a fresh copy from another member",
              detail);
    if (damage_mark(n->dir.path, detail) < 0)
        log_error(n->log,
                  "that could not be noted in %s/" DAMAGE_FILE ": look at its disk before it starts again",
                  n->dir.path);
    if (n->replica)
        replica_step_down(n->replica);
    node_fatal(n, true, "ending because the tables are damaged");
}

/* A file shorter than its pages say, or a sector that cannot be read. A signal handler has no argument of
 * ours. */
static struct {
    char path[DATADIR_PATH_MAX + 16];
    const char *text;
} on_bus;

static void on_bus_error(int number)
{
    (void)number;
    if (damage_mark_raw(on_bus.path, on_bus.text, strlen(on_bus.text)) ||
        write(2, on_bus.text, strlen(on_bus.text)) < 0)
        _exit(SUPERVISOR_AGAIN);
    _exit(SUPERVISOR_AGAIN);
}

void repair_start(struct node *n)
{
    struct repair *p = n->repair = mem_new(struct repair);
    p->node = n;
    snprintf(on_bus.path, sizeof(on_bus.path), "%s/%s", n->dir.path, DAMAGE_FILE);
    on_bus.text = "SIGBUS: a page of the store cannot be read (the file is cut off, or its disk fails)\n";
    struct sigaction action = {.sa_handler = on_bus_error};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
    p->has_repaired = damage_read(n->dir.path, DAMAGE_REPAIRED_FILE, p->repaired);
}

const char *repair_known(struct node *n)
{
    struct repair *p = n->repair;
    return damage_read(n->dir.path, DAMAGE_FILE, p->text) ? p->text : NULL;
}

/* ---- at the start: without a store ---- */

static bool identify(void *user, const struct tls_peer *peer, uint32_t *node)
{
    struct node *n = user;
    return !identity_claimed_by_peer(node, peer, n->id.cluster_id, NULL);
}

static void on_fetched(void *user, bool again, const char *text)
{
    node_fatal(user, again, text);
}

static void show_progress(struct timer *t)
{
    struct repair *p = container_of(t, struct repair, timer);
    struct replica_status st;
    replica_get_status(p->fetch, &st);
    char text[REPLICA_INSTALL_TEXT];
    replica_install_text(&st, text, sizeof(text));
    node_notify(p->node, "STATUS=the tables are damaged; fresh copy: %s", text);
}

int repair_run(struct node *n, const char *text, struct err_ctx *err)
{
    struct repair *p = n->repair;
    struct peers *peers = mem_new(struct peers);
    char why[DAMAGE_TEXT_MAX];
    snprintf(why, sizeof(why), "%s", text);
    peers_read(n, peers);
    if (!peers->n) {
        mem_free(peers);
        return err_set(err, ERR_CORRUPT, "%s; %s", why, alone_text);
    }
    if (damage_mark(n->dir.path, why))
        log_warning(n->log, "%s/%s cannot be written", n->dir.path, DAMAGE_FILE);
    log_error(
        n->log,
        "the tables are damaged (%s): this node takes part in nothing until it has a fresh copy of another "
        "member. "
        "The members decide: replication.auto_repair, or 'impcli dbreplication repair %s' on one of them",
        why, n->id.name);
    struct replica_options o = {
        .dir = n->dir.path,
        .node_id = n->id.node,
        .release = release_name(),
        .tls_client = n->tls_raft,
        .identify = identify,
        .log = log_category(n->log_root, "replication"),
        .metrics = &n->metrics,
        .on_fatal = on_fetched,
        .user = n,
    };
    memcpy(o.cluster_id, n->id.cluster_id, 16);
    memcpy(o.start_nonce, n->start_nonce, 16);
    int rc = replica_fetch(&p->fetch, &o, n->loop, peers->list, peers->n, why, err);
    mem_free(peers);
    if (rc)
        return rc;
    timer_init(&p->timer, n->loop, show_progress);
    timer_start(&p->timer, AGAIN_MS, AGAIN_MS);
    node_notify(n, "READY=1");
    loop_run(n->loop); /* until SIGTERM, or the copy is there and ends the process */
    log_notice(n->log, "stopped while the tables are damaged");
    _exit(SUPERVISOR_DONE);
}

/* ---- may a node take a copy now? ---- */

static unsigned n_alarms_today(struct node *n, uint32_t node, bool *is_open)
{
    struct store_iter i;
    struct arena a;
    unsigned count = 0;
    uint64_t now = clock_wall_ms();
    arena_init(&a);
    *is_open = false;
    store_iter_init(&i, control_read(n), TABLE_ALARM, NULL);
    while (store_iter_next(&i)) {
        const Imp__AlarmRow *row = store_iter_row(&i, &a);
        if (row && row->node == node && !strcmp(row->name, alarm_name(ALARM_TABLES_DIFFER)) &&
            row->raised_ms + DAY_MS > now) {
            count++;
            *is_open |= !row->cleared_ms;
        }
        arena_reset(&a);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    return count;
}

static bool is_alarm_open(struct node *n, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_str(&k, alarm_name(ALARM_TABLES_DIFFER));
    key_u32(&k, node);
    return store_has(control_read(n), TABLE_ALARM_OPEN, &k);
}

static bool may_take_copy(struct node *n, uint32_t node, const char *name, char *why, size_t size)
{
    bool is_open;
    unsigned count = n_alarms_today(n, node, &is_open);
    if (!setting_bool(control_read(n), name, SETTING_REPLICATION_AUTO_REPAIR))
        snprintf(why, size, "replication.auto_repair is false: it waits for 'impcli dbreplication repair %s'",
                 name);
    else if (count - is_open >= REPAIR_A_DAY)
        snprintf(
            why, size,
            "it had %d copies in 24 hours and gets no further one by itself: test its memory and disk, then "
            "'impcli dbreplication repair %s'",
            REPAIR_A_DAY, name);
    else
        return true;
    return false;
}

/* ---- this node, running ---- */

bool repair_is_damaged(const struct node *n)
{
    return n->repair->is_damaged;
}

void repair_damaged(struct node *n, const char *text)
{
    struct repair *p = n->repair;
    if (p->is_damaged)
        return;
    p->is_damaged = true;
    snprintf(p->text, sizeof(p->text), "%s", text);
    log_error(n->log, "the tables of this node are not right: %s", text);
    if (damage_mark(n->dir.path, text))
        log_warning(n->log, "%s/%s cannot be written", n->dir.path, DAMAGE_FILE);
    replica_fence(n->replica);
    services_set_released(n->services, false, "the tables of this node are damaged");
    services_step(n->services, clock_wall_ms());
    p->stepped_ms = 0;
    repair_step(n);
}

void repair_step(struct node *n)
{
    struct repair *p = n->repair;
    uint64_t now = clock_monotonic_ms();
    char why[200] = "";
    if (!p->is_damaged || p->is_taking || (p->stepped_ms && now < p->stepped_ms + AGAIN_MS))
        return;
    p->stepped_ms = now;
    replica_get_status(n->replica, &n->status);
    bool may = n->status.n_peers > 0 && may_take_copy(n, n->id.node, n->id.name, why, sizeof(why));
    if (n->status.n_peers == 0)
        snprintf(why, sizeof(why), "%s", alone_text);
    alarms_raise(n->alarms, ALARM_TABLES_DIFFER, n->id.node,
                 "the tables of %s are not right: %.100s. Its services are held back; %s", n->id.name,
                 p->text, may ? "it takes a fresh copy by itself" : why);
    if (may) {
        p->is_taking = true;
        replica_take_copy(n->replica);
    } else if (!p->is_told) {
        p->is_told = true;
        log_warning(n->log, "no fresh copy is taken: %s", why);
    }
}

/* ---- this node, whole again ---- */

static void on_noted(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    struct repair *p = n->repair;
    p->note_in_flight = false;
    if (result->code)
        return; /* the next comparison tries again */
    p->has_repaired = false;
    damage_forget(n->dir.path);
}

/* The audit shows what was done without a person, too. */
static void note_repair(struct node *n)
{
    struct repair *p = n->repair;
    if (!p->has_repaired || p->note_in_flight)
        return;
    char line[DAMAGE_TEXT_MAX + 100];
    snprintf(line, sizeof(line), "dbreplication repair %s (%s took a fresh copy of its tables: %s)",
             n->id.name, n->id.name, p->repaired);
    Imp__Note body = IMP__NOTE__INIT;
    Imp__Audited audited = IMP__AUDITED__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    audited.node = n->id.node;
    audited.who = (char *)"impnode";
    audited.command = line;
    command.audited = &audited;
    command.body_case = IMP__COMMAND__BODY_NOTE;
    command.note = &body;
    p->note_in_flight = !control_submit(n, &command, on_noted, n);
    if (p->note_in_flight)
        log_notice(n->log,
                   "the tables of this node are right again: a fresh copy took the place of those that were "
                   "damaged (%s)",
                   p->repaired);
}

struct equal_letter {
    struct letter letter;
    struct node *node;
};

static void drop_equal(struct letter *letter)
{
    mem_free(container_of(letter, struct equal_letter, letter));
}

static void take_equal(struct letter *letter)
{
    struct node *n = container_of(letter, struct equal_letter, letter)->node;
    drop_equal(letter);
    if (n->repair->is_damaged || n->stopping)
        return;
    alarms_clear(n->alarms, ALARM_TABLES_DIFFER, n->id.node);
    alarms_clear(n->alarms, ALARM_TABLES_DIFFER, 0);
    note_repair(n);
}

void repair_on_tables_equal(void *user, uint64_t index)
{
    struct node *n = user;
    (void)index;
    struct equal_letter *x = mem_new(struct equal_letter);
    *x = (struct equal_letter){{NULL, take_equal, drop_equal}, n};
    loop_post(n->loop, &x->letter);
}

/* ---- others ---- */

struct peer_letter {
    struct letter letter;
    struct node *node;
    uint32_t id;
    char text[DAMAGE_TEXT_MAX];
};

static void drop_peer(struct letter *letter)
{
    mem_free(container_of(letter, struct peer_letter, letter));
}

static struct asking *asking_of(struct repair *p, uint32_t node, bool add)
{
    for (unsigned i = 0; i < p->n_asking; i++)
        if (p->asking[i].node == node)
            return &p->asking[i];
    if (!add || p->n_asking == ASKING_MAX)
        return NULL;
    p->asking[p->n_asking] = (struct asking){.node = node};
    return &p->asking[p->n_asking++];
}

static void take_peer(struct letter *letter)
{
    struct peer_letter *x = container_of(letter, struct peer_letter, letter);
    struct node *n = x->node;
    struct repair *p = n->repair;
    const struct member *m = n->members ? members_find(n->members, x->id) : NULL;
    struct asking *a = m ? asking_of(p, x->id, true) : NULL;
    uint64_t now = clock_monotonic_ms();
    char why[200] = "";
    if (n->stopping || p->is_damaged || !a) {
        replica_answer_damaged(n->replica, x->id, ERR_UNAVAILABLE, "not now");
        drop_peer(letter);
        return;
    }
    bool is_open = is_alarm_open(n, x->id);
    if ((a->seen_open && !is_open) || now > a->asked_ms + ASKED_LATELY_MS)
        a->allowed_ms = 0; /* it was well since then: what a person allowed was for another time */
    a->seen_open = is_open;
    a->asked_ms = now;
    bool may = (a->allowed_ms && now < a->allowed_ms + ALLOWED_MS) ||
               may_take_copy(n, x->id, m->name, why, sizeof(why));
    if (!is_open) {
        alarms_raise(n->alarms, ALARM_TABLES_DIFFER, x->id,
                     "the tables of %s are damaged: %.100s. It takes part in nothing; %s", m->name, x->text,
                     may ? "it takes a fresh copy by itself" : why);
        alarms_forget(n->alarms, ALARM_TABLES_DIFFER, x->id); /* it clears the alarm itself */
    }
    replica_answer_damaged(n->replica, x->id, may ? 0 : ERR_DENIED, why);
    drop_peer(letter);
}

void repair_on_peer_damaged(void *user, uint32_t node, const char *text)
{
    struct node *n = user;
    struct peer_letter *x = mem_new(struct peer_letter);
    *x = (struct peer_letter){{NULL, take_peer, drop_peer}, n, node, ""};
    snprintf(x->text, sizeof(x->text), "%s", text);
    loop_post(n->loop, &x->letter);
}

bool repair_allow(struct repair *p, uint32_t node)
{
    struct asking *a = asking_of(p, node, false);
    uint64_t now = clock_monotonic_ms();
    if (!a || !a->asked_ms || now > a->asked_ms + ASKED_LATELY_MS)
        return false;
    a->allowed_ms = now;
    return true;
}
