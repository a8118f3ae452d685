/* State machine: archive preferences, trims, retraction. */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "replication/levels.h"

struct cast {
    struct world w;
    uint64_t alice, bob;
};

static void setup(struct cast *c)
{
    world_open(&c->w);
    world_raise_to(&c->w, 3);
    c->alice = world_add_user(&c->w, "alice");
    c->bob = world_add_user(&c->w, "bob");
}

enum { PENDING = 1, TO = 2, FROM = 4 };

/* From Alice to Bob; the index. */
static uint64_t send(struct cast *c, unsigned how)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = c->bob;
    b.from_uid = c->alice;
    b.from = (char *)"alice@example.com/r";
    b.to = (char *)"bob@example.com";
    b.stanza = BYTES("<message id='1'><body>hello</body></message>", 44);
    b.pending = how & PENDING;
    b.archive_to = how & TO;
    b.archive_from = how & FROM;
    return DONE(APPLY(&c->w, MESSAGE_STORE, message_store, &b)).value;
}

static const Imp__MessageIndexRow *index_row(struct cast *c, uint64_t uid, uint64_t index)
{
    struct key k = key_of_u64(uid);
    key_u64(&k, index);
    key_u32(&k, 0);
    return store_find_row(world_read(&c->w), TABLE_MESSAGE_INDEX, &k, &c->w.arena);
}

static const Imp__MessageRow *body_row(struct cast *c, uint64_t index)
{
    struct key k = key_of_u64(index);
    key_u32(&k, 0);
    return store_find_row(world_read(&c->w), TABLE_MESSAGE, &k, &c->w.arena);
}

/* ---- preferences ---- */

static struct fsm_result set_prefs(struct world *w, uint64_t uid, Imp__ArchiveMode mode, char **never,
                                   size_t n)
{
    Imp__ArchivePrefsRow row = IMP__ARCHIVE_PREFS_ROW__INIT;
    Imp__ArchivePrefsSet b = IMP__ARCHIVE_PREFS_SET__INIT;
    row.mode = mode;
    row.never = never;
    row.n_never = n;
    b.uid = uid;
    b.prefs = &row;
    return APPLY(w, ARCHIVE_PREFS_SET, archive_prefs_set, &b);
}

static void preferences(void **state)
{
    (void)state;
    struct cast c;
    static char *jids[257];
    char *one[] = {(char *)"x@example.com/r"}, *empty[] = {(char *)""};
    for (size_t i = 0; i < n_elements(jids); i++)
        jids[i] = one[0];
    setup(&c);
    DONE(set_prefs(&c.w, c.bob, IMP__ARCHIVE_MODE__ARCHIVE_ROSTER, jids, 256));
    struct key k = key_of_u64(c.bob);
    const Imp__ArchivePrefsRow *row = store_find_row(world_read(&c.w), TABLE_ARCHIVE_PREFS, &k, &c.w.arena);
    assert_int_equal(row->mode, IMP__ARCHIVE_MODE__ARCHIVE_ROSTER);
    assert_int_equal(row->n_never, 256);
    REFUSED(&c.w, ERR_INVALID, set_prefs(&c.w, c.bob, 1, jids, 257));
    REFUSED(&c.w, ERR_INVALID, set_prefs(&c.w, c.bob, 1, empty, 1));
    REFUSED(&c.w, ERR_INVALID, set_prefs(&c.w, c.bob, (Imp__ArchiveMode)4, one, 1));
    REFUSED(&c.w, ERR_NOTFOUND, set_prefs(&c.w, 99, 1, one, 1));
    DONE(set_prefs(&c.w, c.bob, IMP__ARCHIVE_MODE__ARCHIVE_UNSET, NULL, 0));
    assert_int_equal(world_rows(&c.w, TABLE_ARCHIVE_PREFS), 0);
    /* they go with the user */
    DONE(set_prefs(&c.w, c.bob, IMP__ARCHIVE_MODE__ARCHIVE_NEVER, NULL, 0));
    Imp__UserRemove gone = IMP__USER_REMOVE__INIT;
    gone.uid = c.bob;
    DONE(APPLY(&c.w, USER_REMOVE, user_remove, &gone));
    assert_int_equal(world_rows(&c.w, TABLE_ARCHIVE_PREFS), 0);
    world_close(&c.w);
}

/* Below level 3 nothing of it is executed. */
static void below_level_3(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    world_raise_to(&w, 2);
    uint64_t bob = world_add_user(&w, "bob");
    assert_int_equal(set_prefs(&w, bob, IMP__ARCHIVE_MODE__ARCHIVE_NEVER, NULL, 0).code, ERR_UNSUPPORTED);
    assert_int_equal(world_rows(&w, TABLE_ARCHIVE_PREFS), 0);
    world_close(&w);
}

/* ---- trims ---- */

static uint64_t trim(struct cast *c, uint64_t uid, uint64_t index)
{
    Imp__ArchiveTrimUser user = IMP__ARCHIVE_TRIM_USER__INIT, *users[] = {&user};
    Imp__ArchiveTrim b = IMP__ARCHIVE_TRIM__INIT;
    user.uid = uid;
    user.index = index;
    b.n_users = 1;
    b.users = users;
    return DONE(APPLY(&c->w, ARCHIVE_TRIM, archive_trim, &b)).value;
}

static void trims(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    uint64_t first = send(&c, TO | FROM), second = send(&c, TO | PENDING), third = send(&c, FROM | TO);
    assert_int_equal(trim(&c, c.bob, first - 1), 0);
    /* the body goes with the last one who has it */
    assert_int_equal(trim(&c, c.bob, first), 1);
    assert_null(index_row(&c, c.bob, first));
    assert_non_null(index_row(&c, c.alice, first));
    assert_non_null(body_row(&c, first));
    assert_int_equal(trim(&c, c.alice, first), 1);
    assert_null(body_row(&c, first));
    /* what waits for delivery stays for that, and goes then */
    assert_int_equal(trim(&c, c.bob, second), 1);
    assert_true(index_row(&c, c.bob, second)->pending);
    assert_false(index_row(&c, c.bob, second)->archived);
    assert_int_equal(trim(&c, c.bob, second), 0);
    Imp__MessageRef ref = IMP__MESSAGE_REF__INIT, *refs[] = {&ref};
    Imp__MessageMark mark = IMP__MESSAGE_MARK__INIT;
    ref.index = second;
    mark.uid = c.bob;
    mark.n_refs = 1;
    mark.refs = refs;
    DONE(APPLY(&c.w, MESSAGE_MARK, message_mark, &mark));
    assert_null(index_row(&c, c.bob, second));
    assert_non_null(index_row(&c, c.bob, third));
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 1);
    world_close(&c.w);
}

static void trims_are_bounded(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    uint64_t last = 0;
    for (int i = 0; i < 1010; i++)
        last = send(&c, TO);
    assert_int_equal(trim(&c, c.bob, last), 1000);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE_INDEX), 10);
    assert_int_equal(trim(&c, c.bob, last), 10);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE_INDEX), 0);
    world_close(&c.w);
}

/* The archive of a removed user goes, that of the other side stays whole. */
static void purge(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    uint64_t index = send(&c, TO | FROM);
    Imp__UserRemove gone = IMP__USER_REMOVE__INIT;
    gone.uid = c.alice;
    DONE(APPLY(&c.w, USER_REMOVE, user_remove, &gone));
    for (int i = 0; i < 3; i++)
        world_add_user(&c.w, i == 0 ? "x" : i == 1 ? "y" : "z");
    assert_null(index_row(&c, c.alice, index));
    assert_non_null(index_row(&c, c.bob, index));
    assert_non_null(body_row(&c, index));
    assert_int_equal(trim(&c, c.bob, index), 1);
    assert_null(body_row(&c, index));
    world_close(&c.w);
}

/* ---- retraction ---- */

static struct fsm_result retract(struct cast *c, uint64_t uid, uint64_t index, const char *from)
{
    Imp__ArchiveRetract b = IMP__ARCHIVE_RETRACT__INIT;
    b.uid = uid;
    b.index = index;
    b.from = (char *)from;
    b.stanza = BYTES("<message id='1'><retracted/></message>", 38);
    return APPLY(&c->w, ARCHIVE_RETRACT, archive_retract, &b);
}

static void retraction(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    uint64_t both = send(&c, TO | FROM), one = send(&c, TO | PENDING), none = send(&c, PENDING);
    REFUSED(&c.w, ERR_DENIED, retract(&c, c.bob, both, "bob@example.com"));
    REFUSED(&c.w, ERR_DENIED, retract(&c, c.bob, both, "alice@example.co"));
    REFUSED(&c.w, ERR_DENIED, retract(&c, c.bob, both, ""));
    REFUSED(&c.w, ERR_NOTFOUND, retract(&c, c.bob, none, "alice@example.com"));
    REFUSED(&c.w, ERR_NOTFOUND, retract(&c, c.bob, none + 1, "alice@example.com"));
    DONE(retract(&c, c.bob, both, "alice@example.com"));
    assert_int_equal(body_row(&c, both)->stanza.len, 38);
    DONE(retract(&c, c.bob, one, "alice@example.com"));
    assert_int_equal(index_row(&c, c.bob, one)->message->stanza.len, 38);
    /* what is counted as pending stays right */
    Imp__MessageRef refs[2] = {IMP__MESSAGE_REF__INIT, IMP__MESSAGE_REF__INIT},
                    *pointers[] = {&refs[0], &refs[1]};
    Imp__MessageMark mark = IMP__MESSAGE_MARK__INIT;
    refs[0].index = one;
    refs[1].index = none;
    mark.uid = c.bob;
    mark.n_refs = 2;
    mark.refs = pointers;
    DONE(APPLY(&c.w, MESSAGE_MARK, message_mark, &mark));
    assert_int_equal(world_rows(&c.w, TABLE_USER_STATE), 0);
    world_close(&c.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preferences),       cmocka_unit_test(below_level_3), cmocka_unit_test(trims),
        cmocka_unit_test(trims_are_bounded), cmocka_unit_test(purge),         cmocka_unit_test(retraction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
