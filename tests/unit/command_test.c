/* node/rpc/command.c: the table of commands, its checks and help texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "node/rpc/command.h"
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const struct command *get(const char *area, const char *verb)
{
    const struct command *c = command_find(area, verb);
    assert_non_null(c);
    return c;
}

static int check(const struct command *c, unsigned n_args, const char *option, struct err_ctx *err)
{
    const char *const args[] = {"a", "b", "c", "d", "e", "f"};
    *err = (struct err_ctx){0};
    return command_check(c, args, n_args, &option, option ? 1 : 0, err);
}

static void test_table_is_sane(void **state)
{
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        const struct command *c = &commands[i];
        assert_non_null(c->area);
        assert_true(command_area_exists(c->area));
        assert_ptr_equal(command_find(c->area, c->verb), c); /* no other entry hides it */
        for (const char *p = c->verb; *p; p++)
            assert_true(islower((unsigned char)*p) || *p == '-');
        assert_true(*c->help);
        assert_true(c->help[strlen(c->help) - 1] != '.');
        for (unsigned k = i + 1; k < N_COMMANDS; k++)
            assert_false(strcmp(c->area, commands[k].area) == 0 && strcmp(c->verb, commands[k].verb) == 0);
        /* the front end reads a file named by the first argument: there must be one */
        if (c->input == COMMAND_INPUT_FILE)
            assert_true(*c->args && *c->args != '[');
        if (c->input == COMMAND_INPUT_FILE_OPTION)
            assert_int_equal(command_option_takes_value(c, "file"), 1);
    }
}

static void test_areas_have_commands(void **state)
{
    for (const struct command_area *a = command_areas; a->name; a++) {
        unsigned n = 0;
        for (unsigned i = 0; i < N_COMMANDS; i++)
            n += strcmp(commands[i].area, a->name) == 0;
        assert_true(n > 0);
        assert_true(*a->help);
        for (const struct command_area *b = a + 1; b->name; b++)
            assert_string_not_equal(a->name, b->name);
    }
    assert_false(command_area_exists("nothing"));
    assert_false(command_area_exists(""));
    assert_null(command_find("user", "nothing"));
    assert_null(command_find("nothing", "list"));
}

/* Each option is listed as "--name" or "--name=VALUE". */
static void test_options_are_well_formed(void **state)
{
    for (unsigned i = 0; i < N_COMMANDS; i++)
        for (const char *p = commands[i].options; *p;) {
            size_t n = strcspn(p, " ");
            char name[64];
            assert_true(n > 2 && n < sizeof name && p[0] == '-' && p[1] == '-');
            snprintf(name, sizeof name, "%.*s", (int)strcspn(p + 2, "= "), p + 2);
            bool value = memchr(p, '=', n) != NULL;
            assert_int_equal(command_option_takes_value(&commands[i], name), value);
            assert_string_not_equal(name, "json"); /* of the program itself */
            assert_string_not_equal(name, "help");
            p += n;
            p += strspn(p, " ");
        }
}

static void test_number_of_arguments(void **state)
{
    static const struct {
        const char *area, *verb;
        unsigned min, max; /* max 6: no limit */
    } cases[] = {
        {"node", "list", 0, 0},     {"node", "show", 1, 1},    {"service", "start", 1, 2},
        {"log", "level", 1, 2},     {"settings", "set", 1, 2}, {"user", "assign", 0, 6},
        {"user", "unassign", 1, 6}, {"user", "mode", 0, 1},    {"session", "kick", 1, 1},
        {"cert", "import", 0, 0},   {"user", "import", 1, 1},
    };
    struct err_ctx err;
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct command *c = get(cases[i].area, cases[i].verb);
        for (unsigned n = 0; n <= 6; n++) {
            bool good = n >= cases[i].min && n <= cases[i].max;
            assert_int_equal(check(c, n, NULL, &err), good ? 0 : ERR_INVALID);
            assert_int_equal(err.text[0] == 0, good);
        }
    }
    assert_int_equal(check(get("node", "show"), 0, NULL, &err), ERR_INVALID);
    assert_string_equal(err.text, "node show needs NODE");
    assert_int_equal(check(get("node", "show"), 2, NULL, &err), ERR_INVALID);
    assert_string_equal(err.text, "node show: unexpected argument 'b'");
}

static void test_names_of_options(void **state)
{
    struct err_ctx err;
    const struct command *list = get("user", "list");
    assert_int_equal(check(list, 0, "node", &err), 0);
    assert_int_equal(check(list, 0, "unassigned", &err), 0);
    assert_int_equal(command_option_takes_value(list, "node"), 1);
    assert_int_equal(command_option_takes_value(list, "unassigned"), 0);
    static const char *const bad[] = {"nod",         "nodes", "node=", "", "NODE", "node=NODE --unassigned",
                                      "unassigned ", "--node"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(check(list, 0, bad[i], &err), ERR_INVALID);
        assert_int_equal(command_option_takes_value(list, bad[i]), ERR_NOTFOUND);
    }
    assert_int_equal(check(get("node", "list"), 0, "watch", &err), ERR_INVALID);
    assert_string_equal(err.text, "node list: unknown option --watch");
}

static void test_help(void **state)
{
    struct buf out = {0};
    command_help(&out, "impcli", NULL, NULL);
    for (const struct command_area *a = command_areas; a->name; a++)
        assert_non_null(strstr(out.data, a->name));
    assert_non_null(
        strstr(out.data, "Exit status: 0 done, 1 refused or failed, 2 usage, 3 node not reachable"));
    for (const struct command_area *a = command_areas; a->name; a++) {
        buf_reset(&out);
        command_help(&out, "impcli", a->name, NULL);
        for (unsigned i = 0; i < N_COMMANDS; i++)
            if (strcmp(commands[i].area, a->name) == 0) {
                assert_non_null(strstr(out.data, commands[i].verb));
                assert_non_null(strstr(out.data, commands[i].help));
            }
    }
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        buf_reset(&out);
        command_help(&out, "impcli", commands[i].area, commands[i].verb);
        assert_int_equal(strncmp(out.data, "Usage: impcli ", 14), 0);
        assert_non_null(strstr(out.data, commands[i].args));
        assert_non_null(strstr(out.data, commands[i].help));
        assert_int_equal(*command_input_help(&commands[i]) == 0, commands[i].input == COMMAND_INPUT_NONE);
    }
    buf_reset(&out);
    command_help(&out, "impcli", "user", "add");
    assert_int_equal(
        strncmp(out.data,
                "Usage: impcli user add USER [--password-stdin] [--name=NAME]\n\nadd a local user\n", 79),
        0);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_sane),           cmocka_unit_test(test_areas_have_commands),
        cmocka_unit_test(test_options_are_well_formed), cmocka_unit_test(test_number_of_arguments),
        cmocka_unit_test(test_names_of_options),        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
