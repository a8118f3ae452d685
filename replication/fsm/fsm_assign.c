/* Homes of users: assignment, balance, evacuation (architecture: Assignment). Decided here alone, so that
 * writes that come together cannot unbalance it. Counts per node, and how many of those are pinned, are kept
 * as rows. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { NODES_MAX = 64 };

struct place {
    uint32_t node;
    bool eligible; /* may get users: a member that has been seen, no witness, not drained */
    uint64_t n_users, n_movable;
    struct store_iter users; /* of this node, for moves */
    bool is_open;
};

struct places {
    struct place list[NODES_MAX];
    unsigned n;
};

/* Ascending by node id: the order that decides ties. */
static void places_load(struct fsm *f, struct places *p)
{
    struct store_iter i;
    p->n = 0;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (p->n < NODES_MAX && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (!row)
            break;
        struct place *at = &p->list[p->n++];
        struct key k = fsm_key_u32(row->id);
        at->node = row->id;
        at->eligible = row->state == IMP__NODE_STATE__NODE_MEMBER && !row->witness && !row->drained &&
                       !row->leaving && !row->lost;
        at->n_users = fsm_count(f, TABLE_HOME_COUNT, &k);
        at->n_movable = at->n_users - fsm_count(f, TABLE_HOME_PINNED, &k);
        at->is_open = false;
    }
    store_iter_fini(&i);
}

static void places_fini(struct places *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (p->list[i].is_open)
            store_iter_fini(&p->list[i].users);
    }
}

static struct place *least_loaded(struct places *p, uint32_t except)
{
    struct place *best = NULL;
    for (unsigned i = 0; i < p->n; i++) {
        struct place *at = &p->list[i];
        if (at->eligible && at->node != except && (!best || at->n_users < best->n_users))
            best = at;
    }
    return best;
}

static struct place *first_eligible(struct places *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (p->list[i].eligible)
            return &p->list[i];
    }
    return NULL;
}

enum mode { MODE_BALANCED, MODE_ACTIVE_STANDBY, MODE_NONE };

static enum mode mode(struct fsm *f)
{
    const char *s = setting_string(f->txn, NULL, SETTING_ASSIGNMENT_MODE, f->arena);
    return !strcmp(s, "none")             ? MODE_NONE
           : !strcmp(s, "active-standby") ? MODE_ACTIVE_STANDBY
                                          : MODE_BALANCED;
}

/* ---- the rows of a home ---- */

void fsm_index_home(struct fsm *f, const Imp__UserRow *user, bool add)
{
    bool pinned = user->assigned_by == IMP__ASSIGNED_BY__ASSIGNED_MANUAL;
    struct key count = fsm_key_u32(user->home), k = count;
    key_u64(&k, user->uid);
    Imp__HomeRow row = IMP__HOME_ROW__INIT;
    row.pinned = pinned;
    if (add)
        store_put_row(f->txn, TABLE_USER_BY_HOME, &k, &row);
    else
        store_delete(f->txn, TABLE_USER_BY_HOME, &k);
    fsm_count_add(f, TABLE_HOME_COUNT, &count, add ? 1 : -1);
    if (pinned)
        fsm_count_add(f, TABLE_HOME_PINNED, &count, add ? 1 : -1);
}

void fsm_set_home(struct fsm *f, Imp__UserRow *user, uint32_t home, Imp__AssignedBy by)
{
    if (user->home == home && user->assigned_by == by)
        return;
    fsm_index_home(f, user, false);
    if (user->home != home)
        user->home_index = f->in->index;
    user->home = home;
    user->assigned_by = by;
    fsm_index_home(f, user, true);
    fsm_put_user(f, user);
}

void fsm_choose_home(struct fsm *f, uint32_t *home, Imp__AssignedBy *by)
{
    struct places p;
    enum mode m = mode(f);
    places_load(f, &p);
    const struct place *at = m == MODE_NONE             ? NULL
                             : m == MODE_ACTIVE_STANDBY ? first_eligible(&p)
                                                        : least_loaded(&p, 0);
    *home = at ? at->node : 0;
    *by = !at                        ? IMP__ASSIGNED_BY__ASSIGNED_NONE
          : m == MODE_ACTIVE_STANDBY ? IMP__ASSIGNED_BY__ASSIGNED_ACTIVE_STANDBY
                                     : IMP__ASSIGNED_BY__ASSIGNED_BALANCED;
}

/* ---- by hand ---- */

/* The text becomes part of the audit's row. */
static void refuse_node(struct fsm *f, uint32_t id, const Imp__NodeRow *node)
{
    if (!node || f->level < LEVEL_3)
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", id);
    else
        fsm_refuse(f, ERR_NOTFOUND,
                   "%s has joined, but was never heard of: start it (impnode run), then assign users to it",
                   node->name);
}

void fsm_do_user_assign(struct fsm *f, const void *body)
{
    const Imp__UserAssign *b = body;
    const Imp__NodeRow *node = b->node ? fsm_find_node(f, b->node) : NULL;
    if (b->n_uids > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d users at once", FSM_MAX_ROWS);
        return;
    }
    if (b->node && (!node || node->state != IMP__NODE_STATE__NODE_MEMBER)) {
        refuse_node(f, b->node, node);
        return;
    }
    if (node && (node->witness || node->drained)) {
        fsm_refuse(f, ERR_DENIED, "%s is %s and takes no users", node->name,
                   node->witness   ? "a witness"
                   : node->leaving ? "being removed"
                   : node->lost    ? "lost"
                                   : "drained");
        return;
    }
    for (size_t i = 0; i < b->n_uids; i++) {
        struct key k = fsm_key_u64(b->uids[i]);
        if (!store_has(f->txn, TABLE_USER, &k)) {
            fsm_refuse(f, ERR_NOTFOUND, "there is no user with the id %llu", (unsigned long long)b->uids[i]);
            return;
        }
    }
    for (size_t i = 0; i < b->n_uids; i++) {
        Imp__UserRow *user = fsm_find_user(f, b->uids[i]);
        if (!user)
            return; /* the transaction has failed */
        f->out->value += user->home != b->node;
        fsm_set_home(f, user, b->node,
                     b->node ? IMP__ASSIGNED_BY__ASSIGNED_MANUAL : IMP__ASSIGNED_BY__ASSIGNED_NONE);
    }
}

/* ---- moves ---- */

/* The next user of the node, pinned ones only if PINNED_TOO; 0 at the end. */
static uint64_t next_user(struct fsm *f, struct place *from, bool pinned_too)
{
    if (!from->is_open) {
        struct key prefix = fsm_key_u32(from->node);
        store_iter_init(&from->users, f->txn, TABLE_USER_BY_HOME, &prefix);
        from->is_open = true;
    }
    while (store_iter_next(&from->users)) {
        Imp__HomeRow row = IMP__HOME_ROW__INIT, *found = &row;
        if (from->users.n_row)
            found = store_iter_row(&from->users, f->arena);
        struct key_reader r;
        key_read(&r, from->users.key, from->users.n_key);
        key_read_u32(&r);
        if (found && (pinned_too || !found->pinned))
            return key_read_u64(&r);
    }
    return 0;
}

static void move_counts(struct place *from, struct place *to, bool was_movable)
{
    from->n_users--;
    from->n_movable -= was_movable;
    to->n_users++;
    to->n_movable++;
}

static bool move_one(struct fsm *f, struct place *from, struct place *to, bool pinned_too)
{
    Imp__UserRow *user = fsm_find_user(f, next_user(f, from, pinned_too));
    if (!user)
        return false;
    move_counts(from, to, user->assigned_by != IMP__ASSIGNED_BY__ASSIGNED_MANUAL);
    fsm_set_home(f, user, to->node, IMP__ASSIGNED_BY__ASSIGNED_BALANCED);
    return true;
}

/* Where the next move goes from: a node that may keep no users, else the fullest with a movable user. NULL:
 * balanced. */
static struct place *overloaded(struct places *p, const struct place *to)
{
    struct place *best = NULL;
    for (unsigned i = 0; i < p->n; i++) {
        struct place *at = &p->list[i];
        if (!at->n_movable || at == to)
            continue;
        if (!at->eligible)
            return at;
        if (!best || at->n_users > best->n_users)
            best = at;
    }
    return best && best->n_users > to->n_users + 1 ? best : NULL;
}

/* Users without a home get one, as new ones do. Returns how many. */
static uint64_t assign_unassigned(struct fsm *f, struct places *p, enum mode m, uint64_t max,
                                  uint64_t *n_left)
{
    struct place nowhere = {.node = 0};
    struct key k = fsm_key_u32(0);
    uint64_t n = 0, n_unassigned = fsm_count(f, TABLE_HOME_COUNT, &k);
    while (n < max && n < n_unassigned) {
        struct place *to = m == MODE_ACTIVE_STANDBY ? first_eligible(p) : least_loaded(p, 0);
        Imp__UserRow *user = to ? fsm_find_user(f, next_user(f, &nowhere, true)) : NULL;
        if (!user)
            break;
        fsm_set_home(f, user, to->node,
                     m == MODE_ACTIVE_STANDBY ? IMP__ASSIGNED_BY__ASSIGNED_ACTIVE_STANDBY
                                              : IMP__ASSIGNED_BY__ASSIGNED_BALANCED);
        to->n_users++;
        to->n_movable++;
        n++;
    }
    if (nowhere.is_open)
        store_iter_fini(&nowhere.users);
    *n_left = n_unassigned - n;
    return n;
}

void fsm_do_user_balance(struct fsm *f, const void *body)
{
    const Imp__UserBalance *b = body;
    uint64_t max = b->max && b->max < FSM_MAX_ROWS ? b->max : FSM_MAX_ROWS, n_left;
    enum mode m = mode(f);
    struct places p;
    places_load(f, &p);
    if (!first_eligible(&p)) {
        fsm_refuse(f, ERR_CONFLICT, "no node can take users");
        return;
    }
    uint64_t n = assign_unassigned(f, &p, m, max, &n_left);
    struct place *to, *from;
    /* After the last move the rest is only counted: the same plan, without the rows. With active-standby
     * there is nothing to balance. */
    while (m != MODE_ACTIVE_STANDBY && (to = least_loaded(&p, 0)) && (from = overloaded(&p, to))) {
        if (n < max && !n_left) {
            if (!move_one(f, from, to, false))
                break;
            n++;
        } else {
            move_counts(from, to, true);
            f->out->value2++;
        }
    }
    f->out->value = n;
    f->out->value2 += n_left;
    places_fini(&p);
}

void fsm_do_node_evacuate(struct fsm *f, const void *body)
{
    const Imp__NodeEvacuate *b = body;
    uint64_t max = b->max && b->max < FSM_MAX_ROWS ? b->max : FSM_MAX_ROWS, n = 0;
    struct places p;
    struct place *from = NULL, *to;
    places_load(f, &p);
    for (unsigned i = 0; i < p.n; i++) {
        if (p.list[i].node == b->node)
            from = &p.list[i];
    }
    if (!from) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
        return;
    }
    if (from->n_users && !least_loaded(&p, b->node)) {
        fsm_refuse(f, ERR_CONFLICT, "no other node can take its users");
        return;
    }
    while (n < max && from->n_users && (to = least_loaded(&p, b->node)) && move_one(f, from, to, true))
        n++;
    f->out->value = from->n_users;
    f->out->value2 = n;
    places_fini(&p);
}
