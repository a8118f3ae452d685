/* State machine: PEP nodes, items, subscribers; their limits, and what removals and renames leave of them. */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "replication/pep.h"
#include <stdio.h>

#define BOB "bob@example.com"

/* ---- commands ---- */

static Imp__PepConfig *config(struct world *w, uint32_t max_items)
{
    Imp__PepConfig *c = arena_alloc(&w->arena, sizeof *c);
    imp__pep_config__init(c);
    c->max_items = max_items;
    c->persist = c->payloads = c->notifications = true;
    return c;
}

static struct fsm_result publish_as(struct world *w, uint64_t uid, uint64_t actor, const char *node,
                                    const char *id, const char *payload, Imp__PepConfig *c, uint32_t fields)
{
    Imp__PepPublication p = IMP__PEP_PUBLICATION__INIT, *list[] = {&p};
    Imp__PepWrite b = IMP__PEP_WRITE__INIT;
    p.node = (char *)node;
    p.id = (char *)id;
    p.payload = BYTES(payload, strlen(payload));
    p.options = c;
    p.fields = fields;
    b.uid = uid;
    b.actor = actor;
    b.n_publish = 1;
    b.publish = list;
    return APPLY(w, PEP_WRITE, pep_write, &b);
}

static struct fsm_result publish(struct world *w, uint64_t uid, const char *node, const char *id,
                                 const char *payload)
{
    return publish_as(w, uid, uid, node, id, payload, config(w, 3), 0);
}

static struct fsm_result retract(struct world *w, uint64_t uid, uint64_t actor, const char *node,
                                 const char *id, bool optional)
{
    Imp__PepRetraction r = IMP__PEP_RETRACTION__INIT, *list[] = {&r};
    Imp__PepWrite b = IMP__PEP_WRITE__INIT;
    r.node = (char *)node;
    r.id = (char *)id;
    r.optional = optional;
    b.uid = uid;
    b.actor = actor;
    b.n_retract = 1;
    b.retract = list;
    return APPLY(w, PEP_WRITE, pep_write, &b);
}

static struct fsm_result node_set(struct world *w, uint64_t uid, const char *node, Imp__PepConfig *c,
                                  bool create)
{
    Imp__PepNodeSet b = IMP__PEP_NODE_SET__INIT;
    b.uid = uid;
    b.node = (char *)node;
    b.config = c;
    b.create = create;
    return APPLY(w, PEP_NODE_SET, pep_node_set, &b);
}

static struct fsm_result node_remove(struct world *w, uint64_t uid, const char *node, bool items_only)
{
    Imp__PepNodeRemove b = IMP__PEP_NODE_REMOVE__INIT;
    b.uid = uid;
    b.node = (char *)node;
    b.items_only = items_only;
    return APPLY(w, PEP_NODE_REMOVE, pep_node_remove, &b);
}

static struct fsm_result party(struct world *w, uint64_t uid, uint64_t actor, const char *node,
                               const char *jid, int affiliation, int subscription)
{
    Imp__PepPartyChange c = IMP__PEP_PARTY_CHANGE__INIT, *list[] = {&c};
    Imp__PepPartySet b = IMP__PEP_PARTY_SET__INIT;
    c.jid = (char *)jid;
    c.set_affiliation = affiliation >= 0;
    c.affiliation = affiliation >= 0 ? (Imp__PepAffiliation)affiliation : 0;
    c.set_subscription = subscription >= 0;
    c.subscription = subscription >= 0 ? (Imp__PepSubscription)subscription : 0;
    b.uid = uid;
    b.actor = actor;
    b.node = (char *)node;
    b.n_changes = 1;
    b.changes = list;
    return APPLY(w, PEP_PARTY_SET, pep_party_set, &b);
}

/* ---- what there is ---- */

static Imp__PepNodeRow *node_of(struct world *w, uint64_t uid, const char *node)
{
    return pep_find_node(world_read(w), uid, node, &w->arena);
}

/* "b c d": ids, oldest first. */
static const char *ids_of(struct world *w, uint64_t uid, const char *node, char out[200])
{
    struct store_iter i;
    const Imp__PepNodeRow *row = node_of(w, uid, node);
    size_t n = 0;
    *out = 0;
    if (!row)
        return "-";
    pep_items_init(&i, world_read(w), uid, row);
    while (store_iter_next(&i)) {
        const Imp__PepItemRow *item = store_iter_row(&i, &w->arena);
        n += (size_t)snprintf(out + n, 200 - n, "%s%s", n ? " " : "", item->id);
    }
    return out;
}
#define IDS(w, uid, node, expected)                                                                          \
    do {                                                                                                     \
        char ids_[200];                                                                                      \
        assert_string_equal(ids_of((w), (uid), (node), ids_), (expected));                                   \
    } while (0)

/* Counts in the rows of user and nodes are those of the items that there are. */
static void check_counts(struct world *w, uint64_t uid)
{
    struct store_iter i;
    struct key prefix = key_of_u64(uid);
    uint64_t n_nodes = 0, bytes = 0;
    store_iter_init(&i, world_read(w), TABLE_PEP_NODE, &prefix);
    while (store_iter_next(&i)) {
        const Imp__PepNodeRow *node = store_iter_row(&i, &w->arena);
        struct store_iter k;
        uint64_t n = 0, of_node = 0;
        pep_items_init(&k, world_read(w), uid, node);
        while (store_iter_next(&k)) {
            const Imp__PepItemRow *item = store_iter_row(&k, &w->arena);
            assert_non_null(pep_find_item(world_read(w), uid, node, item->id, &w->arena));
            of_node += strlen(item->id) + item->payload.len;
            n++;
        }
        assert_int_equal(node->n_items, n);
        assert_int_equal(node->bytes, of_node);
        bytes += of_node;
        n_nodes++;
    }
    const Imp__PepUserRow *user = pep_find_user(world_read(w), uid, &w->arena);
    if (!user)
        return;
    assert_int_equal(user->n_nodes, n_nodes);
    assert_int_equal(user->bytes, bytes);
}

static void check_nothing_left(struct world *w)
{
    static const enum table tables[] = {TABLE_PEP_USER,    TABLE_PEP_NODE,  TABLE_PEP_ITEM,
                                        TABLE_PEP_ITEM_ID, TABLE_PEP_PARTY, TABLE_PEP_PARTY_BY_JID,
                                        TABLE_PEP_GARBAGE};
    for (size_t i = 0; i < n_elements(tables); i++)
        if (world_rows(w, tables[i]))
            fail_msg("table %s has %u rows", table_name(tables[i]), (unsigned)world_rows(w, tables[i]));
}

static void open_at_level_3(struct world *w)
{
    world_open(w);
    world_raise_to(w, 2);
    world_raise_to(w, 3);
}

/* ---- tests ---- */

static void test_publish(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice");
    assert_int_equal(DONE(publish(&w, alice, "n", "a", "<a/>")).value, FSM_PEP_CREATED);
    assert_int_equal(DONE(publish(&w, alice, "n", "b", "<b/>")).value, 0);
    DONE(publish(&w, alice, "n", "c", "<c/>"));
    IDS(&w, alice, "n", "a b c");
    DONE(publish(&w, alice, "n", "a", "<a2/>")); /* replaced: the newest */
    IDS(&w, alice, "n", "b c a");
    DONE(publish(&w, alice, "n", "d", "<d/>")); /* full: the oldest goes */
    IDS(&w, alice, "n", "c a d");
    check_counts(&w, alice);
    const Imp__PepItemRow *last = pep_last_item(world_read(&w), alice, node_of(&w, alice, "n"), &w.arena);
    assert_string_equal(last->id, "d");
    DONE(retract(&w, alice, alice, "n", "a", false));
    IDS(&w, alice, "n", "c d");
    REFUSED(&w, ERR_NOTFOUND, retract(&w, alice, alice, "n", "a", false));
    DONE(retract(&w, alice, alice, "n", "a", true));
    REFUSED(&w, ERR_NOTFOUND, publish(&w, 999, "n", "a", "<a/>"));
    REFUSED(&w, ERR_INVALID, publish(&w, alice, "", "a", "<a/>"));
    REFUSED(&w, ERR_INVALID, publish(&w, alice, "n", "", "<a/>"));
    check_counts(&w, alice);
    /* What is not kept leaves no item. */
    Imp__PepConfig *c = config(&w, 0);
    c->persist = false;
    DONE(publish_as(&w, alice, alice, "t", "a", "<a/>", c, 0));
    IDS(&w, alice, "t", "");
    world_close(&w);
}

static void test_preconditions(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice");
    Imp__PepConfig *c = config(&w, 3);
    c->access = IMP__PEP_ACCESS__PEP_ACCESS_OPEN;
    DONE(publish_as(&w, alice, alice, "n", "a", "<a/>", c, PEP_FIELD_ACCESS));
    assert_int_equal(node_of(&w, alice, "n")->config->access, IMP__PEP_ACCESS__PEP_ACCESS_OPEN);
    c->max_items = 7; /* not asked for: not looked at */
    DONE(publish_as(&w, alice, alice, "n", "b", "<b/>", c, PEP_FIELD_ACCESS));
    REFUSED(&w, ERR_CONFLICT,
            publish_as(&w, alice, alice, "n", "c", "<c/>", c, PEP_FIELD_ACCESS | PEP_FIELD_MAX_ITEMS));
    c->access = IMP__PEP_ACCESS__PEP_ACCESS_WHITELIST;
    REFUSED(&w, ERR_CONFLICT, publish_as(&w, alice, alice, "n", "c", "<c/>", c, PEP_FIELD_ACCESS));
    IDS(&w, alice, "n", "a b");
    /* Groups agree in any order. */
    char *ab[] = {(char *)"a", (char *)"b"}, *ba[] = {(char *)"b", (char *)"a"};
    c->groups = ab;
    c->n_groups = 2;
    DONE(publish_as(&w, alice, alice, "g", "a", "<a/>", c, PEP_FIELD_GROUPS));
    c->groups = ba;
    DONE(publish_as(&w, alice, alice, "g", "b", "<a/>", c, PEP_FIELD_GROUPS));
    c->n_groups = 1;
    REFUSED(&w, ERR_CONFLICT, publish_as(&w, alice, alice, "g", "c", "<a/>", c, PEP_FIELD_GROUPS));
    world_close(&w);
}

/* One command with several items is done whole or not at all. */
static void test_all_or_nothing(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice");
    Imp__PepPublication a = IMP__PEP_PUBLICATION__INIT, b = IMP__PEP_PUBLICATION__INIT, *list[] = {&a, &b};
    Imp__PepWrite write = IMP__PEP_WRITE__INIT;
    a.node = (char *)"n";
    a.id = (char *)"a";
    b.node = (char *)"m";
    b.id = (char *)"";
    a.options = b.options = config(&w, 0);
    write.uid = write.actor = alice;
    write.n_publish = 2;
    write.publish = list;
    write.set_vcard = true;
    write.vcard = BYTES("<vCard/>", 8);
    REFUSED(&w, ERR_INVALID, APPLY(&w, PEP_WRITE, pep_write, &write));
    b.id = (char *)"b";
    DONE(APPLY(&w, PEP_WRITE, pep_write, &write));
    IDS(&w, alice, "n", "a");
    IDS(&w, alice, "m", "b");
    assert_int_equal(world_rows(&w, TABLE_VCARD), 1);
    write.vcard.len = 0;
    DONE(APPLY(&w, PEP_WRITE, pep_write, &write));
    assert_int_equal(world_rows(&w, TABLE_VCARD), 0);
    check_counts(&w, alice);
    world_close(&w);
}

static void test_limits(void **state)
{
    struct world w;
    char *big = mem_alloc(7001);
    (void)state;
    memset(big, 'x', 7000);
    big[7000] = 0;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice");
    world_set(&w, "limits.pep_nodes", "2");
    world_set(&w, "limits.pep_items", "3");
    world_set(&w, "limits.pep_bytes", "10000");
    world_set(&w, "limits.pep_item_bytes", "8000");
    DONE(publish_as(&w, alice, alice, "n", "a", big, config(&w, 0), 0));
    REFUSED(&w, ERR_LIMIT, publish(&w, alice, "m", "a", big)); /* bytes */
    DONE(publish(&w, alice, "m", "a", "<a/>"));
    REFUSED(&w, ERR_LIMIT, publish(&w, alice, "o", "a", "<a/>")); /* nodes */
    REFUSED(&w, ERR_LIMIT, node_set(&w, alice, "o", config(&w, 1), true));
    DONE(publish_as(&w, alice, alice, "n", "a", big, config(&w, 0), 0)); /* in its own place */
    world_set(&w, "limits.pep_item_bytes", "6000");
    REFUSED(&w, ERR_LIMIT, publish(&w, alice, "n", "a", big));
    /* "max" is what the setting says. */
    DONE(publish(&w, alice, "n", "b", "1"));
    DONE(publish(&w, alice, "n", "c", "2"));
    DONE(publish(&w, alice, "n", "d", "3"));
    IDS(&w, alice, "n", "b c d");
    check_counts(&w, alice);
    mem_free(big);
    world_close(&w);
}

static void test_nodes(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    DONE(node_set(&w, alice, "n", config(&w, 0), true));
    REFUSED(&w, ERR_EXISTS, node_set(&w, alice, "n", config(&w, 0), true));
    REFUSED(&w, ERR_NOTFOUND, node_set(&w, alice, "m", config(&w, 0), false));
    REFUSED(&w, ERR_NOTFOUND, node_remove(&w, alice, "m", false));
    for (int i = 0; i < 500; i++) {
        char id[16];
        snprintf(id, sizeof id, "%03d", i);
        DONE(publish(&w, alice, "n", id, "<x/>"));
    }
    assert_int_equal(node_of(&w, alice, "n")->n_items, 500);
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_MEMBER, -1));
    /* Fewer: the oldest go. */
    DONE(node_set(&w, alice, "n", config(&w, 400), false));
    assert_int_equal(node_of(&w, alice, "n")->n_items, 400);
    check_counts(&w, alice);
    /* A purge keeps the node and its members; the rest of the items goes step by step. */
    assert_int_equal(DONE(node_remove(&w, alice, "n", true)).value, 400);
    IDS(&w, alice, "n", "");
    assert_true(world_rows(&w, TABLE_PEP_ITEM) > 0);
    DONE(publish(&w, alice, "n", "new", "<x/>"));
    IDS(&w, alice, "n", "new");
    for (int i = 0; i < 10; i++)
        world_tick(&w, 1);
    assert_int_equal(world_rows(&w, TABLE_PEP_ITEM), 1);
    assert_int_equal(world_rows(&w, TABLE_PEP_GARBAGE), 0);
    assert_int_equal(node_of(&w, alice, "n")->n_parties, 1);
    assert_int_equal(world_rows(&w, TABLE_PEP_PARTY), 1);
    assert_int_equal(pep_check_access(world_read(&w), alice, node_of(&w, alice, "n"), BOB, &w.arena),
                     PEP_MAY);
    check_counts(&w, alice);
    /* A node of the same name has nothing of the one before. */
    DONE(node_remove(&w, alice, "n", false));
    DONE(publish(&w, alice, "n", "again", "<x/>"));
    assert_int_equal(node_of(&w, alice, "n")->n_parties, 0);
    assert_int_equal(pep_check_access(world_read(&w), alice, node_of(&w, alice, "n"), BOB, &w.arena),
                     PEP_NO_PRESENCE);
    DONE(node_remove(&w, alice, "n", false));
    for (int i = 0; i < 5; i++)
        world_tick(&w, 1);
    assert_int_equal(world_rows(&w, TABLE_PEP_ITEM) + world_rows(&w, TABLE_PEP_ITEM_ID) +
                         world_rows(&w, TABLE_PEP_PARTY) + world_rows(&w, TABLE_PEP_PARTY_BY_JID),
                     0);
    (void)bob;
    world_close(&w);
}

static void test_parties(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    Imp__PepConfig *c = config(&w, 0);
    c->access = IMP__PEP_ACCESS__PEP_ACCESS_AUTHORIZE;
    DONE(node_set(&w, alice, "n", c, true));
    REFUSED(&w, ERR_DENIED, party(&w, alice, bob, "n", BOB, IMP__PEP_AFFILIATION__PEP_PUBLISHER, -1));
    REFUSED(&w, ERR_DENIED, party(&w, alice, bob, "n", "carol@example.com", -1, 2));
    assert_int_equal(DONE(party(&w, alice, bob, "n", BOB, -1, 2)).value, IMP__PEP_SUBSCRIPTION__PEP_PENDING);
    REFUSED(&w, ERR_DENIED, publish_as(&w, alice, bob, "n", "b", "<b/>", config(&w, 0), 0));
    assert_int_equal(DONE(party(&w, alice, alice, "n", BOB, -1, 2)).value,
                     IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED);
    assert_int_equal(pep_check_access(world_read(&w), alice, node_of(&w, alice, "n"), BOB, &w.arena),
                     PEP_MAY);
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_PUBLISHER, -1));
    DONE(publish_as(&w, alice, bob, "n", "b", "<b/>", config(&w, 0), 0));
    DONE(publish(&w, alice, "n", "a", "<a/>"));
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_PUBLISH_ONLY, -1));
    REFUSED(&w, ERR_DENIED, retract(&w, alice, bob, "n", "a", false)); /* somebody else's */
    DONE(retract(&w, alice, bob, "n", "b", false));
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_OUTCAST, -1));
    assert_int_equal(pep_check_access(world_read(&w), alice, node_of(&w, alice, "n"), BOB, &w.arena),
                     PEP_IS_OUTCAST);
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_NONE, 0));
    assert_int_equal(world_rows(&w, TABLE_PEP_PARTY), 0);
    assert_int_equal(node_of(&w, alice, "n")->n_parties, 0);
    world_close(&w);
}

/* A removed user's nodes go, and its name on others' lists; who gets the address later inherits nothing. */
static void test_removal(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    for (int i = 0; i < 300; i++) {
        char id[16];
        snprintf(id, sizeof id, "%03d", i);
        DONE(publish_as(&w, bob, bob, "n", id, "<x/>", config(&w, 0), 0));
    }
    DONE(party(&w, bob, bob, "n", "alice@example.com", IMP__PEP_AFFILIATION__PEP_MEMBER, -1));
    DONE(publish(&w, alice, "w", "a", "<a/>"));
    DONE(party(&w, alice, alice, "w", BOB, IMP__PEP_AFFILIATION__PEP_MEMBER, 2));
    Imp__UserRemove remove = IMP__USER_REMOVE__INIT;
    remove.uid = bob;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &remove));
    uint64_t other = world_add_user(&w, "bob"); /* at once, before the steps are done */
    assert_int_equal(pep_check_access(world_read(&w), alice, node_of(&w, alice, "w"), BOB, &w.arena),
                     PEP_NO_PRESENCE);
    for (int i = 0; i < 10; i++)
        world_tick(&w, 1);
    assert_null(pep_find_user(world_read(&w), other, &w.arena));
    assert_int_equal(world_rows(&w, TABLE_PEP_ITEM), 1);
    assert_int_equal(world_rows(&w, TABLE_PEP_PARTY), 0);
    remove.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &remove));
    for (int i = 0; i < 10; i++)
        world_tick(&w, 1);
    check_nothing_left(&w);
    world_close(&w);
}

static void test_rename(void **state)
{
    struct world w;
    (void)state;
    open_at_level_3(&w);
    uint64_t alice = world_add_user(&w, "alice");
    DONE(world_sync_user(&w, "uuid", "bob", 1));
    DONE(publish(&w, alice, "n", "a", "<a/>"));
    DONE(party(&w, alice, alice, "n", BOB, IMP__PEP_AFFILIATION__PEP_MEMBER, 2));
    DONE(world_sync_user(&w, "uuid", "robert", 2));
    Imp__RosterRewrite b = IMP__ROSTER_REWRITE__INIT;
    b.old_jid = (char *)BOB;
    b.new_jid = (char *)"robert@example.com";
    b.display_name = (char *)"";
    b.max = 100;
    assert_int_equal(DONE(APPLY(&w, ROSTER_REWRITE, roster_rewrite, &b)).value, 0);
    const Imp__PepNodeRow *node = node_of(&w, alice, "n");
    assert_int_equal(pep_check_access(world_read(&w), alice, node, "robert@example.com", &w.arena), PEP_MAY);
    assert_int_equal(pep_check_access(world_read(&w), alice, node, BOB, &w.arena), PEP_NO_PRESENCE);
    assert_string_equal(
        pep_get_party(world_read(&w), alice, node, "robert@example.com", &w.arena)->subscriber,
        "robert@example.com");
    assert_int_equal(node->n_parties, 1);
    world_close(&w);
}

/* Before, the commands are to every release what they are to one that has never heard of them. */
static void test_below_level_3(void **state)
{
    struct world w;
    (void)state;
    world_open(&w);
    world_raise_to(&w, 2);
    uint64_t alice = world_add_user(&w, "alice");
    REFUSED(&w, ERR_UNSUPPORTED, publish(&w, alice, "n", "a", "<a/>"));
    REFUSED(&w, ERR_UNSUPPORTED, node_set(&w, alice, "n", config(&w, 0), true));
    REFUSED(&w, ERR_UNSUPPORTED, node_remove(&w, alice, "n", false));
    REFUSED(&w, ERR_UNSUPPORTED, party(&w, alice, alice, "n", BOB, 1, -1));
    check_nothing_left(&w);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_publish),        cmocka_unit_test(test_preconditions),
        cmocka_unit_test(test_all_or_nothing), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_nodes),          cmocka_unit_test(test_parties),
        cmocka_unit_test(test_removal),        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_below_level_3),
    };
    return cmocka_run_group_tests_name("fsm_pep", tests, NULL, NULL);
}
