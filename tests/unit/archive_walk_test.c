/* The archive as it is read: over rows as the state machine makes them, through a shard that has a store and
 * nothing else. */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "im/archive.h"
#include "im/im_impl.h"
#include "replication/levels.h"

struct cast {
    struct world w;
    struct im *im;
    struct shard shard;
    uint64_t alice, bob;
};

static void setup(struct cast *c)
{
    memset(c, 0, sizeof *c);
    world_open(&c->w);
    world_raise_to(&c->w, LEVEL_3);
    c->alice = world_add_user(&c->w, "alice");
    c->bob = world_add_user(&c->w, "bob");
    c->im = mem_new(struct im);
    c->im->options.store = c->w.store;
    c->shard.im = c->im;
    c->shard.settings.level = 3;
}

static void teardown(struct cast *c)
{
    store_reader_free(c->shard.reader);
    mem_free(c->im);
    world_close(&c->w);
}

enum { PENDING = 1, TO = 2, FROM = 4 };

static struct archive_id send(struct cast *c, uint64_t from_uid, const char *from, uint64_t to_uid,
                              const char *to, unsigned how)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = to_uid;
    b.from_uid = from_uid;
    b.from = (char *)from;
    b.to = (char *)to;
    b.stanza = BYTES("<message id='1'><body>hello</body></message>", 44);
    b.pending = how & PENDING;
    b.archive_to = how & TO;
    b.archive_from = how & FROM;
    uint64_t index = DONE(APPLY(&c->w, MESSAGE_STORE, message_store, &b)).value;
    shard_see(&c->shard, index);
    return (struct archive_id){index, 0};
}

static struct archive_id to_bob(struct cast *c, unsigned how)
{
    return send(c, c->alice, "alice@example.com/r", c->bob, "bob@example.com/d", how);
}

static struct archive_filter all(void)
{
    return (struct archive_filter){.after = archive_first, .before = archive_last};
}

/* What a walk finds in steps of MAX ids and BUDGET rows. */
static size_t walk(struct cast *c, uint64_t uid, struct archive_filter f, bool descending, size_t max,
                   unsigned budget, struct archive_id *out)
{
    struct archive_walk w;
    size_t n = 0;
    archive_walk_init(&w, &c->shard, uid, &f, descending);
    for (int steps = 0; !w.ended; steps++) {
        unsigned left = budget;
        assert_true(steps < 1000);
        size_t got = archive_walk(&w, out + n, max, &left);
        assert_true(got <= max && budget - left <= budget);
        n += got;
    }
    return n;
}

static void expect(struct cast *c, uint64_t uid, struct archive_filter f, const struct archive_id *ids,
                   size_t n)
{
    struct archive_id out[64];
    static const struct {
        size_t max;
        unsigned budget;
    } steps[] = {{50, 100}, {1, 100}, {50, 1}, {1, 1}, {2, 3}};
    for (size_t i = 0; i < n_elements(steps); i++) {
        assert_int_equal(walk(c, uid, f, false, steps[i].max, steps[i].budget, out), n);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(archive_id_compare(out[k], ids[k]), 0);
        assert_int_equal(walk(c, uid, f, true, steps[i].max, steps[i].budget, out), n);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(archive_id_compare(out[k], ids[n - 1 - k]), 0);
    }
}

static void walks(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    expect(&c, c.bob, all(), NULL, 0);
    struct archive_id ids[10];
    size_t n = 0;
    for (int i = 0; i < 4; i++) {
        ids[n++] = to_bob(&c, TO | FROM);
        to_bob(&c, PENDING); /* waits, and is in no archive */
        ids[n++] = send(&c, c.bob, "bob@example.com/d", c.alice, "alice@example.com", TO | FROM);
    }
    expect(&c, c.bob, all(), ids, n);
    expect(&c, c.alice, all(), ids, n);
    struct archive_filter f = all();
    f.after = ids[1];
    f.before = ids[6];
    expect(&c, c.bob, f, ids + 2, 4);
    f.before = ids[2];
    expect(&c, c.bob, f, NULL, 0);
    f = all();
    f.before = archive_first;
    expect(&c, c.bob, f, NULL, 0);
    f.after = archive_last;
    f.before = archive_last;
    expect(&c, c.bob, f, NULL, 0);
    expect(&c, 99, all(), NULL, 0);
    teardown(&c);
}

static void filters(void **state)
{
    (void)state;
    struct cast c;
    setup(&c);
    struct archive_id from_r = to_bob(&c, TO),
                      from_p = send(&c, c.alice, "alice@example.com/p", c.bob, "bob@example.com", TO),
                      self = send(&c, c.bob, "bob@example.com/d", c.bob, "bob@example.com", TO | FROM),
                      away = send(&c, c.bob, "bob@example.com/d", 0, "x@far.example/y", FROM),
                      waits = to_bob(&c, PENDING), both = to_bob(&c, PENDING | TO);
    struct archive_filter f = all();
    f.with = "alice@example.com";
    expect(&c, c.bob, f, (struct archive_id[]){from_r, from_p, both}, 3);
    f.with = "alice@example.com/p";
    expect(&c, c.bob, f, &from_p, 1);
    f.with = "bob@example.com"; /* XEP-0313 §4.1.1: to oneself */
    expect(&c, c.bob, f, &self, 1);
    f.with = "x@far.example";
    expect(&c, c.bob, f, &away, 1);
    f.with = "alice@example.co";
    expect(&c, c.bob, f, NULL, 0);
    /* what waits */
    f = archive_pending(&c.shard, c.bob);
    expect(&c, c.bob, f, (struct archive_id[]){waits, both}, 2);
    expect(&c, c.alice, archive_pending(&c.shard, c.alice), NULL, 0);
    assert_true(archive_matches(&c.shard, c.bob, waits, &f));
    assert_false(archive_matches(&c.shard, c.bob, self, &f));
    assert_true(archive_has(&c.shard, c.bob, self));
    assert_false(archive_has(&c.shard, c.bob, waits));
    assert_false(archive_has(&c.shard, c.alice, self));
    teardown(&c);
}

static void items(void **state)
{
    (void)state;
    struct cast c;
    struct arena a;
    struct archive_item item, first, last;
    arena_init(&a);
    setup(&c);
    assert_false(archive_ends(&c.shard, c.bob, &first, &last, &a));
    to_bob(&c, PENDING);
    assert_false(archive_ends(&c.shard, c.bob, &first, &last, &a));
    struct archive_id one = to_bob(&c, TO | FROM), two = to_bob(&c, TO);
    to_bob(&c, PENDING);
    assert_true(archive_ends(&c.shard, c.bob, &first, &last, &a));
    assert_int_equal(archive_id_compare(first.id, one), 0);
    assert_int_equal(archive_id_compare(last.id, two), 0);
    assert_true(archive_read(&c.shard, c.alice, one, &item, &a));
    assert_true(item.outgoing && item.archived && !item.pending);
    assert_string_equal(item.from, "alice@example.com/r");
    assert_string_equal(item.to, "bob@example.com/d");
    assert_int_equal(item.n_bytes, 44);
    assert_true(archive_read(&c.shard, c.bob, one, &item, &a));
    assert_false(item.outgoing);
    assert_false(archive_read(&c.shard, c.alice, two, &item, &a));
    arena_fini(&a);
    teardown(&c);
}

/* The first message that came at or after each moment, also among many of one moment. */
static void times(void **state)
{
    (void)state;
    struct cast c;
    struct archive_id ids[40];
    uint64_t ms[40];
    setup(&c);
    assert_int_equal(archive_id_compare(archive_at_time(&c.shard, c.bob, 0), archive_last), 0);
    for (int i = 0; i < 40; i++) {
        struct archive_item item;
        struct arena a;
        arena_init(&a);
        if (i % 5 == 0)
            world_tick(&c.w, 1000);
        if (i % 3 == 0) /* indexes of others in between */
            world_add_user(&c.w, (char[]){'u', (char)('a' + i % 26), (char)('a' + i / 26), 0});
        ids[i] = to_bob(&c, TO);
        assert_true(archive_read(&c.shard, c.bob, ids[i], &item, &a));
        ms[i] = item.time_ms;
        arena_fini(&a);
    }
    for (int i = 0; i < 40; i++) {
        for (int d = -1; d <= 1; d++) {
            uint64_t at = ms[i] + (uint64_t)(int64_t)d;
            struct archive_id want = archive_last;
            for (int k = 39; k >= 0; k--)
                if (ms[k] >= at)
                    want = ids[k];
            assert_int_equal(archive_id_compare(archive_at_time(&c.shard, c.bob, at), want), 0);
        }
    }
    teardown(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walks),
        cmocka_unit_test(filters),
        cmocka_unit_test(items),
        cmocka_unit_test(times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
