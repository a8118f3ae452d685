/* XEP-0059: what a request asks for, pages of a list, and the answer's <set/>. */
#include "base/mem.h"
#include "protocols/xmpp/rsm.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct arena arena;

static int ask(struct rsm *r, const char *inner)
{
    struct xml *root;
    struct buf in = {0};
    buf_addf(&in, "<q xmlns='x'>%s</q>", inner);
    assert_int_equal(xml_parse(&root, &arena, in.data, in.n, &xml_limits_default, NULL), 0);
    buf_fini(&in);
    return rsm_read(r, root, 50, &arena);
}

#define SET(inner) "<set xmlns='" NS_RSM "'>" inner "</set>"

static void read_requests(void **state)
{
    (void)state;
    struct rsm r;
    arena_init(&arena);
    assert_int_equal(ask(&r, ""), 0);
    assert_false(r.is_asked);
    assert_int_equal(r.max, 50);
    assert_int_equal(ask(&r, SET("<max>10</max><after>b</after>")), 0);
    assert_true(r.is_asked);
    assert_int_equal(r.max, 10);
    assert_string_equal(r.after, "b");
    assert_null(r.before);
    assert_int_equal(ask(&r, SET("<before/>")), 0);
    assert_string_equal(r.before, "");
    assert_int_equal(r.max, 50);
    assert_int_equal(ask(&r, SET("<max> 99999999999999999999999 </max><index>3</index>")), 0);
    assert_int_equal(r.max, 50);
    assert_true(r.has_index && r.index == 3);
    assert_int_equal(ask(&r, SET("<max>0</max><after/>")), 0);
    assert_int_equal(r.max, 0);
    assert_null(r.after);
    assert_int_not_equal(ask(&r, SET("<max>-1</max>")), 0);
    assert_int_not_equal(ask(&r, SET("<max>ten</max>")), 0);
    assert_int_not_equal(ask(&r, SET("<max/>")), 0);
    assert_int_not_equal(ask(&r, SET("<index>1</index><after>a</after>")), 0);
    assert_int_equal(ask(&r, "<set xmlns='other'><max>1</max></set>"), 0);
    assert_false(r.is_asked);
    arena_fini(&arena);
}

/* The list is "a" to "j". */
static long find(void *user, const char *id)
{
    (void)user;
    return strlen(id) == 1 && *id >= 'a' && *id <= 'j' ? *id - 'a' : -1;
}

static void expect(const char *set, int code, size_t first, size_t n)
{
    struct rsm r;
    struct rsm_page page;
    assert_int_equal(ask(&r, set), 0);
    assert_int_equal(rsm_pick(&r, 10, find, NULL, &page), code);
    assert_int_equal(page.total, 10);
    if (code)
        return;
    assert_int_equal(page.n, n);
    if (n)
        assert_int_equal(page.first, first);
}

static void pick_pages(void **state)
{
    (void)state;
    arena_init(&arena);
    expect("", 0, 0, 10);
    expect(SET("<max>3</max>"), 0, 0, 3);
    expect(SET("<max>3</max><after>c</after>"), 0, 3, 3);
    expect(SET("<max>3</max><after>i</after>"), 0, 9, 1);
    expect(SET("<max>3</max><after>j</after>"), 0, 0, 0);
    expect(SET("<max>3</max><before/>"), 0, 7, 3);
    expect(SET("<max>3</max><before>h</before>"), 0, 4, 3);
    expect(SET("<max>3</max><before>b</before>"), 0, 0, 1);
    expect(SET("<max>3</max><before>a</before>"), 0, 0, 0);
    expect(SET("<max>3</max><index>8</index>"), 0, 8, 2);
    expect(SET("<max>3</max><index>10</index>"), 0, 0, 0);
    expect(SET("<max>0</max>"), 0, 0, 0);
    expect(SET("<max>2</max><after>b</after><before>h</before>"), 0, 5, 2);
    expect(SET("<max>2</max><after>h</after><before>b</before>"), 0, 0, 0);
    expect(SET("<after>z</after>"), ERR_NOTFOUND, 0, 0);
    expect(SET("<before>z</before>"), ERR_NOTFOUND, 0, 0);
    arena_fini(&arena);
}

static void write_answers(void **state)
{
    (void)state;
    struct buf out = {0};
    rsm_write(&out, "a<", "b", 3, 10);
    assert_string_equal(out.data, "<set xmlns='" NS_RSM "'><first index='3'>a&lt;</first><last>b</last>"
                                  "<count>10</count></set>");
    buf_reset(&out);
    rsm_write(&out, NULL, NULL, -1, 0);
    assert_string_equal(out.data, "<set xmlns='" NS_RSM "'><count>0</count></set>");
    buf_reset(&out);
    rsm_write(&out, "a", "a", -1, -1);
    assert_string_equal(out.data, "<set xmlns='" NS_RSM "'><first>a</first><last>a</last></set>");
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_requests),
        cmocka_unit_test(pick_pages),
        cmocka_unit_test(write_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
