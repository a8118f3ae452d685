/* Push services and last activity in the state machine. */
#include "fsm_fixture.h"

/* A cluster of level 3. */
static void open_world(struct world *w)
{
    world_open(w);
    world_raise_to(w, 3);
}

static struct fsm_result enable(struct world *w, uint64_t uid, const char *jid, const char *node,
                                const char *resource)
{
    Imp__PushSet b = IMP__PUSH_SET__INIT;
    b.uid = uid;
    b.jid = (char *)jid;
    b.node = (char *)node;
    b.has_node = true;
    b.resource = (char *)resource;
    return APPLY(w, PUSH_SET, push_set, &b);
}

static struct fsm_result disable(struct world *w, uint64_t uid, const char *jid, const char *node,
                                 uint64_t only_index)
{
    Imp__PushSet b = IMP__PUSH_SET__INIT;
    b.uid = uid;
    b.jid = (char *)jid;
    b.node = (char *)(node ? node : "");
    b.has_node = node != NULL;
    b.remove = true;
    b.only_index = only_index;
    return APPLY(w, PUSH_SET, push_set, &b);
}

static Imp__PushRow *find(struct world *w, uint64_t uid, const char *node)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    struct store_iter i;
    Imp__PushRow *found = NULL;
    store_iter_init(&i, world_read(w), TABLE_PUSH, &k);
    while (store_iter_next(&i)) {
        Imp__PushRow *row = store_iter_row(&i, &w->arena);
        if (strcmp(row->node, node) == 0)
            found = row;
    }
    store_iter_fini(&i);
    return found;
}

/* XEP-0357 §5, §6. */
static void test_push(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    REFUSED(&w, ERR_NOTFOUND, enable(&w, 99, "p.example", "n", "r"));
    REFUSED(&w, ERR_INVALID, enable(&w, alice, "", "n", "r"));
    DONE(enable(&w, alice, "p.example", "one", "r1"));
    DONE(enable(&w, alice, "p.example", "two", "r2"));
    DONE(enable(&w, alice, "q.example", "one", "r1"));
    DONE(enable(&w, bob, "p.example", "one", "r1"));
    assert_int_equal(world_rows(&w, TABLE_PUSH), 4);
    uint64_t before = find(&w, alice, "two")->changed;
    DONE(enable(&w, alice, "p.example", "two", "r3"));
    assert_int_equal(world_rows(&w, TABLE_PUSH), 4);
    assert_string_equal(find(&w, alice, "two")->resource, "r3");
    /* An error of a notification that was sent before it was enabled again does not end it. */
    assert_int_equal(DONE(disable(&w, alice, "p.example", "two", before)).value, 0);
    assert_int_equal(DONE(disable(&w, alice, "p.example", "two", 0)).value, 1);
    assert_null(find(&w, alice, "two"));
    DONE(enable(&w, alice, "p.example", "two", "r3"));
    assert_int_equal(DONE(disable(&w, alice, "p.example", NULL, 0)).value, 2);
    assert_int_equal(world_rows(&w, TABLE_PUSH), 2);
    world_close(&w);
}

static void test_push_limit(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice");
    world_set(&w, "limits.push_services", "3");
    for (int i = 0; i < 4; i++)
        DONE(enable(&w, alice, "p.example", arena_printf(&w.arena, "n%d", i), "r"));
    assert_int_equal(world_rows(&w, TABLE_PUSH), 3);
    assert_null(find(&w, alice, "n0"));
    /* Enabled again it is no longer the oldest. */
    DONE(enable(&w, alice, "p.example", "n1", "r"));
    DONE(enable(&w, alice, "p.example", "n5", "r"));
    assert_non_null(find(&w, alice, "n1"));
    assert_null(find(&w, alice, "n2"));
    Imp__UserRemove b = IMP__USER_REMOVE__INIT;
    b.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &b));
    assert_int_equal(world_rows(&w, TABLE_PUSH), 0);
    world_close(&w);
}

static void test_last(void **state)
{
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice");
    Imp__LastActivityItem one = IMP__LAST_ACTIVITY_ITEM__INIT, gone = one;
    one.uid = alice;
    one.login_ms = 5;
    one.logout_ms = 7;
    one.status = (char *)"Heading home";
    gone.uid = 99;
    Imp__LastActivityItem *items[] = {&gone, &one};
    Imp__LastActivity b = IMP__LAST_ACTIVITY__INIT;
    b.items = items;
    b.n_items = 2;
    assert_int_equal(DONE(APPLY(&w, LAST_ACTIVITY, last_activity, &b)).value, 1);
    struct key k;
    key_init(&k);
    key_u64(&k, alice);
    Imp__LastActivityRow *row = store_find_row(world_read(&w), TABLE_LAST_ACTIVITY, &k, &w.arena);
    assert_int_equal(row->logout_ms, 7);
    assert_string_equal(row->status, "Heading home");
    Imp__UserRemove r = IMP__USER_REMOVE__INIT;
    r.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &r));
    assert_int_equal(world_rows(&w, TABLE_LAST_ACTIVITY), 0);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_push),
        cmocka_unit_test(test_push_limit),
        cmocka_unit_test(test_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
