/* impnode.yaml and the options that go into it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "node/config.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static int parse(struct config *c, const char *text, struct err_ctx *err)
{
    char copy[2048];
    snprintf(copy, sizeof(copy), "%s", text);
    config_init(c);
    return config_parse(c, "F", copy, err);
}

static void reads_what_it_writes(void **state)
{
    (void)state;
    struct config c, again;
    struct err_ctx err = {0};
    assert_int_equal(parse(&c,
                           "# comment\n\nname: n1\naddress: \"[::1]\"\nwitness: true\r\nlisten-xmpp: off\n"
                           "listen-https: 127.0.0.1:9443\nlisten-sip: [::1]:5080\nshards: 4\ntiming: lan\n",
                           &err),
                     0);
    assert_string_equal(c.name, "n1");
    assert_string_equal(c.address, "[::1]");
    assert_true(c.witness);
    assert_true(c.listen_xmpp.off);
    assert_string_equal(c.listen_https.address, "127.0.0.1");
    assert_int_equal(c.listen_https.port, 9443);
    assert_string_equal(c.listen_sip.address, "::1");
    assert_int_equal(c.listen_cluster.port, 7800);
    struct buf b = {0};
    config_write(&c, &b);
    assert_int_equal(parse(&again, b.data, &err), 0);
    assert_memory_equal(&c, &again, sizeof(c));
    assert_null(strstr(b.data, "listen-cluster")); /* defaults are not written */
    buf_fini(&b);
    unsigned election, heartbeat;
    config_election(&c, &election, &heartbeat);
    assert_int_equal(election, 200);
    assert_int_equal(heartbeat, 20);
}

static void refuses_with_file_line_and_key(void **state)
{
    (void)state;
    static const struct {
        const char *text, *wanted;
    } bad[] = {
        {"name: n1\nnme: x\n", "F:2: unknown key 'nme'"},
        {"\n\nlisten-xmpp: 70000\n", "F:3: listen-xmpp: '70000'"},
        {"listen-xmpp: 0\n", "F:1: listen-xmpp"},
        {"listen-xmpp: host:5222\n", "F:1: listen-xmpp"},
        {"listen-xmpp: [::1:5222\n", "F:1: listen-xmpp"},
        {"witness: yes\n", "F:1: witness: 'yes' is not true or false"},
        {"shards: 257\n", "F:1: shards"},
        {"shards: -1\n", "F:1: shards"},
        {"timing: fast\n", "is not one of normal|lan|wan"},
        {"timing: \n", "F:1: timing"},
        {"name n1\n", "F:1: expected 'key: value'"},
        {"name: a\nname: b\n", "F:2: name is there twice"},
        {"address: a b\n", "F:1: address"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct config c;
        struct err_ctx err = {0};
        assert_int_not_equal(parse(&c, bad[i].text, &err), 0);
        if (!strstr(err.text, bad[i].wanted))
            fail_msg("'%s' said '%s'", bad[i].text, err.text);
    }
}

static void checks_the_whole(void **state)
{
    (void)state;
    struct config c;
    struct err_ctx err = {0};
    parse(&c, "name: n1\n", &err);
    assert_int_equal(config_check(&c, &err), ERR_INVALID);
    parse(&c, "name: n.1\naddress: h\n", &err);
    assert_int_equal(config_check(&c, &err), ERR_INVALID);
    parse(&c, "name: n1\naddress: h\nlisten-cluster: off\n", &err);
    assert_int_equal(config_check(&c, &err), ERR_INVALID);
    parse(&c, "name: n1\naddress: h\n", &err);
    assert_int_equal(config_check(&c, &err), 0);
}

static void listens_where_it_is_told(void **state)
{
    (void)state;
    struct config c;
    struct err_ctx err = {0};
    char address[64];
    parse(&c, "name: n1\naddress: 127.0.0.9\nlisten-https: 127.0.0.3:1\n", &err);
    config_listen_address(&c, &c.listen_https, address);
    assert_string_equal(address, "127.0.0.3");
    config_listen_address(&c, &c.listen_xmpp, address);
    assert_string_equal(address, "127.0.0.9"); /* the address, as it is local */
    parse(&c, "name: n1\naddress: 192.0.2.1\n", &err);
    config_listen_address(&c, &c.listen_xmpp, address);
    assert_string_equal(address, ""); /* not ours: all */
    parse(&c, "name: n1\naddress: 192.0.2.1\nbind: 127.0.0.4\n", &err);
    config_listen_address(&c, &c.listen_xmpp, address);
    assert_string_equal(address, "127.0.0.4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_it_writes),
        cmocka_unit_test(refuses_with_file_line_and_key),
        cmocka_unit_test(checks_the_whole),
        cmocka_unit_test(listens_where_it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
