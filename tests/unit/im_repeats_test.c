/* What has come is recognised, as long as not much has come since. */
#include "im/repeats.h"
#include "store_test.h"

enum { N = 1000 };

static bool comes(struct shard *s, uint64_t session, uint64_t n_in)
{
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = MESSAGE_CHAT, .from = "a@b/c", .to = "d@b"});
    e->flags = ENVELOPE_COUNTED;
    e->row = session;
    e->n_in = n_in;
    e->to_uid = 7;
    bool is_one = repeats_is_one(s, e);
    envelope_free(e);
    return is_one;
}

/* Other messages fall on the same places of the table: a quarter of what it holds is not enough to lose one.
 */
static void test_others_on_the_same_place(void **state)
{
    struct shard s = {0};
    unsigned n_lost = 0;
    for (unsigned i = 1; i <= N; i++)
        assert_false(comes(&s, 100 + i % 5, i));
    for (unsigned i = 1; i <= N; i++)
        n_lost += !comes(&s, 100 + i % 5, i);
    assert_in_range(n_lost, 0, N / 100);
    repeats_fini(&s);
}

static void test_forgotten(void **state)
{
    struct shard s = {0};
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = MESSAGE_CHAT, .from = "a@b/c", .to = "d@b"});
    e->flags = ENVELOPE_COUNTED;
    e->row = 100;
    e->n_in = 1;
    e->to_uid = 7;
    assert_false(repeats_is_one(&s, e));
    assert_true(repeats_is_one(&s, e));
    repeats_forget(&s, e);
    assert_false(repeats_is_one(&s, e));
    envelope_free(e);
    repeats_fini(&s);
}

static bool comes_with(struct shard *s, const char *id, const char *payload, size_t n)
{
    struct blob *b = blob_new(payload, n);
    struct envelope *e = envelope_new(
        &(struct envelope_parts){.type = MESSAGE_CHAT, .from = "a@b/c", .to = "d@b", .id = id, .payload = b});
    e->flags = ENVELOPE_COUNTED;
    e->row = 100;
    e->n_in = 1;
    e->to_uid = 7;
    bool is_one = repeats_is_one(s, e);
    envelope_free(e);
    blob_unref(b);
    return is_one;
}

/* The number alone does not make a repeat: every byte counts, and how many there are. */
static void test_other_contents(void **state)
{
    static const char text[] = "12345678abc\0\0\0\0\0";
    struct shard s = {0};
    for (size_t n = 1; n < sizeof text; n++) {
        assert_false(comes_with(&s, "m", text, n));
        assert_true(comes_with(&s, "m", text, n));
    }
    assert_false(comes_with(&s, "m2", text, sizeof text - 1));
    repeats_fini(&s);
}

/* Sessions whose rows lie elsewhere in the log are others, whatever their place and index have in common: one of
 * them must not be told that the other's message is safe. */
static void test_other_sessions(void **state)
{
    struct shard s = {0};
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = MESSAGE_CHAT, .from = "a@b/c", .to = "d@b"});
    e->flags = ENVELOPE_COUNTED;
    e->n_in = 1;
    e->to_uid = 7;
    for (unsigned i = 0; i < 32; i++) {
        e->row = 160 ^ i;
        e->row_place = i;
        e->session = 1000 + i;
        assert_false(repeats_is_one(&s, e));
        assert_int_equal(repeats_settled(&s, e), 1000 + i);
    }
    e->row = 160;
    e->row_place = 0;
    e->session = 1000;
    assert_int_equal(repeats_settled(&s, e), 1000);
    envelope_free(e);
    repeats_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_contents),
        cmocka_unit_test(test_other_sessions),
        cmocka_unit_test(test_others_on_the_same_place),
        cmocka_unit_test(test_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
