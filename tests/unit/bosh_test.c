/* The rules of BOSH sessions (XEP-0124), in virtual time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "protocols/xmpp/bosh_body.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { FIRST_RID = 1000, MAX_HANDLES = 64 };

/* What a request got. */
struct got {
    unsigned n;
    int status;
    char body[512];
};
struct scene {
    struct bosh b;
    struct got got[MAX_HANDLES];
    char up[512]; /* payloads in the order they were handed on */
    unsigned n_restarts, n_ends;
    bool in_order;
    size_t taken;
    uint64_t now;
    uint64_t rid;
};

static void on_answer(void *user, void *handle, int status, const char *body, size_t n)
{
    struct scene *s = user;
    struct got *g = handle;
    assert_true(g >= s->got && g < s->got + MAX_HANDLES);
    g->n++;
    assert_int_equal(g->n, 1); /* each handle once */
    g->status = status;
    snprintf(g->body, sizeof(g->body), "%.*s", (int)n, body);
}
static void on_payload(void *user, const char *data, size_t n)
{
    struct scene *s = user;
    size_t at = strlen(s->up);
    snprintf(s->up + at, sizeof(s->up) - at, "%.*s", (int)n, data);
}
static void on_restart(void *user, const char *header)
{
    struct scene *s = user;
    s->n_restarts++;
}
static void on_taken(void *user, size_t weight)
{
    struct scene *s = user;
    s->taken += weight;
}
static void on_end(void *user, bool in_order)
{
    struct scene *s = user;
    s->n_ends++;
    s->in_order = in_order;
}
static const struct bosh_events events = {on_answer, on_payload, on_restart, on_taken, on_end};

static const struct bosh_options usual = {
    .wait_s = 60, .hold = 1, .inactivity_s = 30, .first_attributes = " sid='s'"};

static void open_with(struct scene *s, struct bosh_options o)
{
    memset(s, 0, sizeof(*s));
    s->now = 1000000;
    s->rid = FIRST_RID;
    struct bosh_request r = {.rid = s->rid, .payload = "", .header = ""};
    bosh_init_session(&s->b, &o, &events, s, &r, &s->got[0], s->now);
    assert_int_equal(s->got[0].n, 0);
    bosh_output(&s->b, "<stream:features/>", 18, 18, true);
    bosh_flush(&s->b, s->now);
    assert_string_equal(s->got[0].body,
                        "<body xmlns='http://jabber.org/protocol/httpbind' sid='s' "
                        "xmlns:stream='http://etherx.jabber.org/streams'><stream:features/></body>");
}
static void open_session(struct scene *s)
{
    open_with(s, usual);
}

static struct got *ask(struct scene *s, unsigned handle, uint64_t rid, const char *payload)
{
    struct bosh_request r = {.rid = rid, .payload = payload, .n_payload = strlen(payload), .header = ""};
    bosh_request(&s->b, &r, &s->got[handle], s->now);
    return &s->got[handle];
}
static struct got *do_ask(struct scene *s, unsigned handle, struct bosh_request r)
{
    r.payload = r.payload ? r.payload : "";
    r.header = "";
    bosh_request(&s->b, &r, &s->got[handle], s->now);
    return &s->got[handle];
}
static void say(struct scene *s, const char *xml)
{
    bosh_output(&s->b, xml, strlen(xml), strlen(xml), false);
    bosh_flush(&s->b, s->now);
}
static bool is_refused(const struct got *g, const char *condition)
{
    char want[64];
    snprintf(want, sizeof(want), "condition='%s'", condition);
    return g->n == 1 && strstr(g->body, "type='terminate'") && strstr(g->body, want);
}

#define EMPTY "<body xmlns='http://jabber.org/protocol/httpbind'></body>"

/* §8: held until there is something to say. */
static void is_held_until_output(void **state)
{
    struct scene s;
    open_session(&s);
    struct got *g = ask(&s, 1, FIRST_RID + 1, "");
    assert_int_equal(g->n, 0);
    say(&s, "<a/>");
    assert_string_equal(g->body, "<body xmlns='http://jabber.org/protocol/httpbind'><a/></body>");
    say(&s, "<b/>"); /* nothing is held: it waits */
    assert_int_equal(s.taken, 18 + 4);
    g = ask(&s, 2, FIRST_RID + 2, "<x/>");
    assert_string_equal(g->body, "<body xmlns='http://jabber.org/protocol/httpbind'><b/></body>");
    assert_string_equal(s.up, "<x/>");
    bosh_fini_session(&s.b);
}

/* §8: no more are held than 'hold' says, and the oldest is answered first. */
static void holds_no_more(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "");
    s.now += 5000;
    ask(&s, 2, FIRST_RID + 2, "<x/>");
    assert_string_equal(s.got[1].body, EMPTY);
    assert_int_equal(s.got[2].n, 0);
    bosh_fini_session(&s.b);
}

/* §7.1: the longest time is 'wait'. */
static void waits_no_longer(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "");
    assert_int_equal(bosh_due_ms(&s.b), s.now + 60000);
    s.now += 59999;
    bosh_tick(&s.b, s.now);
    assert_int_equal(s.got[1].n, 0);
    s.now += 1;
    bosh_tick(&s.b, s.now);
    assert_string_equal(s.got[1].body, EMPTY);
    bosh_fini_session(&s.b);
}

/* §10: nothing is heard of the client for too long. */
static void ends_when_silent(void **state)
{
    struct scene s;
    open_session(&s);
    assert_int_equal(bosh_due_ms(&s.b), s.now + 30000);
    s.now += 29999;
    bosh_tick(&s.b, s.now);
    assert_int_equal(s.n_ends, 0);
    s.now += 1;
    bosh_tick(&s.b, s.now);
    assert_int_equal(s.n_ends, 1);
    assert_false(s.in_order);
    assert_true(is_refused(ask(&s, 1, FIRST_RID + 1, ""), "item-not-found"));
    bosh_fini_session(&s.b);
}

/* §14.2: out of order is put into order; behind the window is the end. */
static void keeps_the_order(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 2, "<two/>");
    assert_string_equal(s.up, "");
    ask(&s, 2, FIRST_RID + 1, "<one/>");
    assert_string_equal(s.up, "<one/><two/>");
    assert_string_equal(s.got[2].body, "<body xmlns='http://jabber.org/protocol/httpbind'></body>");
    assert_int_equal(s.got[1].n, 0);
    assert_true(is_refused(ask(&s, 3, FIRST_RID + 5, ""), "item-not-found"));
    assert_int_equal(s.got[1].n, 1);
    assert_int_equal(s.n_ends, 1);
    bosh_fini_session(&s.b);
}

/* §11: more at once than 'requests'. */
static void refuses_too_many(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 2, "<two/>"); /* the gap keeps it */
    bosh_gone(&s.b, &s.got[1]);
    ask(&s, 2, FIRST_RID + 2, "<two/>"); /* the same, again */
    assert_int_equal(s.n_ends, 0);
    bosh_fini_session(&s.b);

    open_with(&s, (struct bosh_options){
                      .wait_s = 60, .hold = 2, .inactivity_s = 30, .first_attributes = " sid='s'"});
    ask(&s, 1, FIRST_RID + 2, "<a/>");
    ask(&s, 2, FIRST_RID + 3, "<b/>");
    s.b.n_kept++; /* as if a third were there */
    s.b.kept[2] = (struct bosh_kept){.request = {.rid = FIRST_RID + 9}, .handle = NULL};
    assert_true(is_refused(ask(&s, 3, FIRST_RID + 1, "<c/>"), "policy-violation"));
    bosh_fini_session(&s.b);
}

/* §14.3 */
static void repeats_are_answered_again(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "<x/>");
    say(&s, "<a/>");
    assert_string_equal(ask(&s, 2, FIRST_RID + 1, "<x/>")->body, s.got[1].body);
    assert_string_equal(s.up, "<x/>"); /* and done once */
    /* one that is held: the first gets a recoverable error, the second the answer */
    ask(&s, 3, FIRST_RID + 2, "<y/>");
    ask(&s, 4, FIRST_RID + 2, "<y/>");
    assert_string_equal(s.got[3].body, "<body xmlns='http://jabber.org/protocol/httpbind' type='error'/>");
    say(&s, "<b/>");
    assert_non_null(strstr(s.got[4].body, "<b/>"));
    /* no longer remembered */
    for (unsigned i = 0; i < 4; i++) {
        ask(&s, 5 + i, FIRST_RID + 3 + i, "<z/>");
        say(&s, "<c/>");
    }
    assert_true(is_refused(ask(&s, 20, FIRST_RID + 1, "<x/>"), "item-not-found"));
    bosh_fini_session(&s.b);
}

static void repeats_are_limited(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "<x/>");
    say(&s, "<a/>");
    for (unsigned i = 0; i < BOSH_MAX_REPEATS; i++)
        assert_non_null(strstr(ask(&s, 2 + i, FIRST_RID + 1, "<x/>")->body, "<a/>"));
    assert_true(is_refused(ask(&s, 30, FIRST_RID + 1, "<x/>"), "policy-violation"));
    bosh_fini_session(&s.b);
}

/* The connection of a held request is gone: its answer is there for the repeat. */
static void a_lost_answer_is_kept(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "<x/>");
    bosh_gone(&s.b, &s.got[1]);
    say(&s, "<a/>");
    assert_int_equal(s.got[1].n, 0);
    assert_non_null(strstr(ask(&s, 2, FIRST_RID + 1, "<x/>")->body, "<a/>"));
    bosh_fini_session(&s.b);
}

/* A request that came early, whose connection is gone, and which is refused when its turn comes. */
static void nobody_is_left_to_refuse(void **state)
{
    struct scene s;
    open_session(&s);
    do_ask(&s, 1, (struct bosh_request){.rid = FIRST_RID + 2, .has_pause = true, .pause_s = 1000});
    bosh_gone(&s.b, &s.got[1]);
    ask(&s, 2, FIRST_RID + 1, "<x/>");
    assert_int_equal(s.got[1].n, 0);
    assert_int_equal(s.got[2].n, 1);
    assert_int_equal(s.n_ends, 1);
    bosh_fini_session(&s.b);
}

/* §10: pause */
static void pauses(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "");
    s.now += 5000;
    do_ask(&s, 2, (struct bosh_request){.rid = FIRST_RID + 2, .has_pause = true, .pause_s = 100});
    assert_int_equal(s.got[1].n, 1);
    assert_int_equal(s.got[2].n, 1);
    assert_int_equal(bosh_due_ms(&s.b), s.now + 100000);
    say(&s, "<a/>"); /* not before the next request */
    s.now += 99000;
    bosh_tick(&s.b, s.now);
    assert_int_equal(s.n_ends, 0);
    assert_non_null(strstr(ask(&s, 3, FIRST_RID + 3, "")->body, "<a/>"));
    assert_int_equal(bosh_due_ms(&s.b), s.now + 30000); /* back to normal */
    assert_true(is_refused(
        do_ask(&s, 4, (struct bosh_request){.rid = FIRST_RID + 4, .has_pause = true, .pause_s = 121}),
        "policy-violation"));
    bosh_fini_session(&s.b);
}

/* §13 */
static void terminates(void **state)
{
    struct scene s;
    open_session(&s);
    ask(&s, 1, FIRST_RID + 1, "");
    do_ask(
        &s, 2,
        (struct bosh_request){.rid = FIRST_RID + 2, .terminate = true, .payload = "<bye/>", .n_payload = 6});
    assert_string_equal(s.up, "<bye/>");
    assert_string_equal(s.got[1].body,
                        "<body xmlns='http://jabber.org/protocol/httpbind' type='terminate'/>");
    assert_string_equal(s.got[2].body, "<body xmlns='http://jabber.org/protocol/httpbind'/>");
    assert_int_equal(s.n_ends, 1);
    assert_true(s.in_order);
    bosh_fini_session(&s.b);
}

/* The shard ends the stream: what it said last goes first, or with it. */
static void ends_with_a_condition(void **state)
{
    struct scene s;
    open_session(&s);
    bosh_output(&s.b, "<last/>", 7, 7, false);
    bosh_close(&s.b, "remote-stream-error", "<stream:error/>", s.now);
    assert_int_equal(s.n_ends, 0); /* nobody is there to be told */
    struct got *g = ask(&s, 1, FIRST_RID + 1, "");
    assert_true(is_refused(g, "remote-stream-error"));
    assert_non_null(
        strstr(g->body, "xmlns:stream='http://etherx.jabber.org/streams'><last/><stream:error/></body>"));
    assert_int_equal(s.n_ends, 1);
    assert_int_equal(s.taken, 18 + 7);
    bosh_fini_session(&s.b);
}

/* §12 */
static void polls_not_too_often(void **state)
{
    struct scene s;
    open_with(&s, (struct bosh_options){
                      .wait_s = 0, .hold = 0, .inactivity_s = 30, .first_attributes = " sid='s'"});
    assert_string_equal(ask(&s, 1, FIRST_RID + 1, "")->body, EMPTY);
    s.now += BOSH_POLLING_S * 1000;
    assert_string_equal(ask(&s, 2, FIRST_RID + 2, "")->body, EMPTY);
    s.now += 100;
    assert_int_equal(ask(&s, 3, FIRST_RID + 3, "<x/>")->n, 1); /* who has something to say may */
    assert_int_equal(s.n_ends, 0);
    s.now += 100;
    say(&s, "<a/>");
    assert_non_null(strstr(ask(&s, 4, FIRST_RID + 4, "")->body, "<a/>"));
    assert_int_equal(s.n_ends, 0);
    s.now += 100;
    ask(&s, 5, FIRST_RID + 5, ""); /* the answer before had something */
    assert_int_equal(s.n_ends, 0);
    s.now += 100;
    assert_true(is_refused(ask(&s, 6, FIRST_RID + 6, ""), "policy-violation"));
    bosh_fini_session(&s.b);
}

/* §9.1 */
static void acknowledges(void **state)
{
    struct scene s;
    open_with(&s,
              (struct bosh_options){
                  .wait_s = 60, .hold = 1, .inactivity_s = 30, .acks = true, .first_attributes = " sid='s'"});
    ask(&s, 1, FIRST_RID + 1, "");
    s.now += 5000;
    ask(&s, 2, FIRST_RID + 2, "<x/>");
    assert_string_equal(s.got[1].body,
                        "<body xmlns='http://jabber.org/protocol/httpbind' ack='1002'></body>");
    say(&s, "<a/>"); /* of the request that is answered: not said */
    assert_string_equal(s.got[2].body, "<body xmlns='http://jabber.org/protocol/httpbind'><a/></body>");
    bosh_fini_session(&s.b);
}

/* XEP-0206 §5: a restart is no payload, even with one. */
static void restarts(void **state)
{
    struct scene s;
    open_session(&s);
    do_ask(&s, 1,
           (struct bosh_request){.rid = FIRST_RID + 1, .restart = true, .payload = "<x/>", .n_payload = 4});
    assert_int_equal(s.n_restarts, 1);
    assert_string_equal(s.up, "");
    bosh_fini_session(&s.b);
}

/* §17.1 */
static void legacy_gets_http_errors(void **state)
{
    struct scene s;
    open_with(
        &s, (struct bosh_options){
                .wait_s = 60, .hold = 1, .inactivity_s = 30, .legacy = true, .first_attributes = " sid='s'"});
    struct got *g = ask(&s, 1, FIRST_RID + 9, "");
    assert_int_equal(g->status, 404);
    assert_string_equal(g->body, "");
    bosh_fini_session(&s.b);
}

static const char *read_one(struct bosh_body *b, const char *text)
{
    return bosh_body_read(b, text, strlen(text), &xml_limits_default);
}

static void reads_bodies(void **state)
{
    struct bosh_body b;
    assert_null(read_one(
        &b,
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='7' sid='s' to='example.com' xml:lang='de' "
        "xmlns:x='urn:xmpp:xbosh' x:restart='true' x:version='1.0'>\n<m xmlns='jabber:client'/> <n "
        "xmlns='n'/></body>"));
    assert_int_equal(b.request.rid, 7);
    assert_true(b.request.restart);
    assert_string_equal(
        b.request.header,
        "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
        "to='example.com' version='1.0' xml:lang='de'>");
    assert_string_equal(b.payload.data, "<m/><n xmlns='n'/>");
    bosh_body_fini(&b);
    static const char *const bad[] = {
        "",
        "<body/>",
        "<body xmlns='http://jabber.org/protocol/httpbind'/>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid=''/>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='-1'/>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='0'/>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='9007199254740992'/>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='1'>text</body>",
        "<body xmlns='http://jabber.org/protocol/httpbind' rid='1'/><body/>",
    };
    for (size_t i = 0; i < n_elements(bad); i++) {
        assert_string_equal(read_one(&b, bad[i]), "bad-request");
        bosh_body_fini(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_held_until_output),
        cmocka_unit_test(holds_no_more),
        cmocka_unit_test(waits_no_longer),
        cmocka_unit_test(ends_when_silent),
        cmocka_unit_test(keeps_the_order),
        cmocka_unit_test(refuses_too_many),
        cmocka_unit_test(repeats_are_answered_again),
        cmocka_unit_test(repeats_are_limited),
        cmocka_unit_test(a_lost_answer_is_kept),
        cmocka_unit_test(nobody_is_left_to_refuse),
        cmocka_unit_test(pauses),
        cmocka_unit_test(terminates),
        cmocka_unit_test(ends_with_a_condition),
        cmocka_unit_test(polls_not_too_often),
        cmocka_unit_test(acknowledges),
        cmocka_unit_test(restarts),
        cmocka_unit_test(legacy_gets_http_errors),
        cmocka_unit_test(reads_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
