/* What the simulated call manager knows: users, patterns, CSV, the bounded change queue. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "model.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int setup(void **state)
{
    struct ucm *u = mem_new(struct ucm);
    ucm_init(u, "example.com", 4);
    *state = u;
    return 0;
}

static int teardown(void **state)
{
    ucm_fini(*state);
    mem_free(*state);
    return 0;
}

static void users_are_the_same_in_every_run(void **state)
{
    struct ucm *u = *state, other;
    ucm_make_users(u, 1, 200, false);
    ucm_init(&other, "example.com", 1);
    ucm_make_users(&other, 1, 200, false);
    for (size_t i = 0; i < 200; i++) {
        assert_string_equal(u->users[i]->uuid, other.users[i]->uuid);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(u->users[i]->uuid, u->users[j]->uuid);
    }
    assert_string_equal(u->users[6]->value[FIELD_USERID], "user0007");
    assert_string_equal(u->users[6]->password, "pw-user0007");
    assert_string_equal(u->users[6]->value[FIELD_MAILID], "user0007@example.com");
    assert_int_equal(u->next_change, 1); /* as if there from the start */
    ucm_fini(&other);
}

static void one_that_comes_back_is_another(void **state)
{
    struct ucm *u = *state;
    char old[40];
    struct ucm_user *user;
    ucm_make_users(u, 1, 3, false);
    snprintf(old, sizeof old, "%s", ucm_find(u, "user0002")->uuid);
    ucm_remove(u, ucm_find(u, "user0002"));
    assert_null(ucm_find(u, "user0002"));
    assert_null(ucm_find_uuid(u, old));
    assert_int_equal(u->users[1]->at, 1);
    assert_int_equal(ucm_add(u, &user, "user0002", NULL), 0);
    assert_string_not_equal(user->uuid, old);
    assert_int_equal(ucm_add(u, NULL, "user0002", NULL), ERR_EXISTS);
    char braced[48];
    snprintf(braced, sizeof braced, "{%s}", user->uuid);
    assert_ptr_equal(ucm_find_uuid(u, braced), user);
}

static void patterns_match(void **state)
{
    (void)state;
    assert_true(ucm_like("user0001", "%"));
    assert_true(ucm_like("user0001", "USER%1"));
    assert_true(ucm_like("aXbXc", "a%x%c"));
    assert_true(ucm_like("", "%"));
    assert_true(ucm_like("", ""));
    assert_false(ucm_like("user0001", "user000"));
    assert_false(ucm_like("user0001", ""));
    assert_false(ucm_like("ab", "a%bc"));
}

static void the_queue_is_bounded(void **state)
{
    struct ucm *u = *state;
    struct buf tags = {0};
    ucm_make_users(u, 1, 6, true); /* the cache holds four */
    assert_int_equal(u->first_change, 3);
    assert_int_equal(u->next_change, 7);
    assert_null(ucm_change(u, 2));
    assert_null(ucm_change(u, 7));
    assert_int_equal(ucm_change(u, 3)->id, 3);
    struct ucm_user *user = ucm_find(u, "user0001");
    assert_int_equal(ucm_set(u, user, FIELD_USERID, "a&b", &tags, NULL), 0);
    ucm_log_update(u, user, &tags);
    buf_fini(&tags);
    assert_string_equal(ucm_change(u, 7)->xml, "<changedTag name=\"userid\">a&amp;b</changedTag>");
    ucm_forget_changes(u, 1);
    assert_int_equal(u->first_change, 7);
    ucm_new_queue(u, "Q");
    assert_int_equal(u->next_change, 1);
    assert_null(ucm_change(u, 7));
}

static int load(struct ucm *u, const char *text, struct err_ctx *err)
{
    char path[] = "/tmp/ucmsim-csv-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int code = ucm_load_csv(u, path, err);
    unlink(path);
    return code;
}

static void csv_is_read(void **state)
{
    struct ucm *u = *state;
    struct err_ctx err = {0};
    assert_int_equal(load(u,
                          "lastName,userid,password,imAndPresenceEnable,unknown\r\n"
                          "\"Mori, \"\"A\"\"\",amori,s3cret,false,x\r\n"
                          "# a comment\n\nBerg,berg\n",
                          &err),
                     0);
    assert_int_equal(u->n_users, 2);
    struct ucm_user *user = ucm_find(u, "amori");
    assert_string_equal(user->value[FIELD_LAST_NAME], "Mori, \"A\"");
    assert_string_equal(user->password, "s3cret");
    assert_string_equal(user->value[FIELD_IM_ENABLE], "false");
    assert_string_equal(ucm_find(u, "berg")->password, "pw-berg");
    assert_int_equal(load(u, "plain,Paula,Plain\n", &err), 0);
    assert_string_equal(ucm_find(u, "plain")->value[FIELD_FIRST_NAME], "Paula");
    assert_int_equal(load(u, "twice\ntwice\n", &err), ERR_EXISTS);
    assert_non_null(strstr(err.text, ":2: "));
    assert_int_equal(load(u, "bad,,,,,maybe\n", &err), ERR_INVALID);
    assert_int_not_equal(ucm_load_csv(u, "/nonexistent", &err), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(users_are_the_same_in_every_run),
        TEST(one_that_comes_back_is_another),
        TEST(patterns_match),
        TEST(the_queue_is_bounded),
        TEST(csv_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
