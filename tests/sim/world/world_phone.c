/* What a phone does: its side of a stream, stream management included, and what it does with its time. */
#include "world_phone.h"

#include "base/xml.h"
#include "im/sm_session.h"
#include "im/user.h"
#include "protocols/xmpp/home.h"
#include "replication/replica_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SM " xmlns='urn:xmpp:sm:3'"

enum { PATIENCE_US = 8 * SECOND, ANSWER_US = 4 * SECOND, BURST_MAX = 12 };

static struct phones *all(void)
{
    return W->phones;
}

static void come_back(struct phone *p, uint64_t after_us);
static void on_step(struct world_event *e);

static void step_after(struct phone *p, uint64_t us)
{
    world_schedule(&p->step, NULL, 'f', us, on_step);
}

static void write_text(struct phone *p, const char *text)
{
    if (p->stream)
        stream_write(p->stream, text, strlen(text));
}

static void patience(struct phone *p, uint64_t us)
{
    p->patience = W->queue.now + us;
}

/* ---- what it sent ---- */

static void write_stanza(struct phone *p, unsigned mail)
{
    char text[200];
    if (mail)
        snprintf(text, sizeof(text),
                 "<message to='u%u@example.com' type='chat' id='m%u'><body>number %u.</body></message>",
                 mail_recipient(mail), mail, mail);
    else
        snprintf(text, sizeof(text), "<presence><priority>1</priority></presence>");
    write_text(p, text);
}

static void send_stanza(struct phone *p, unsigned mail)
{
    if (p->counts)
        p->unacked[p->n_unacked++] = mail;
    write_stanza(p, mail);
    if (!p->counts && mail)
        mail_given_up(mail);
}

static void take_count(struct phone *p, uint64_t h)
{
    if (h < p->n_acked || h > p->n_acked + p->n_unacked) {
        world_bad("phone %u is told that %u of its stanzas were handled; it has sent %u, and knew of %u",
                  p->number, (unsigned)h, (unsigned)p->n_acked + p->n_unacked, (unsigned)p->n_acked);
        return;
    }
    unsigned n = (unsigned)(h - p->n_acked);
    for (unsigned i = 0; i < n; i++)
        if (p->unacked[i])
            mail_acknowledged(p, p->unacked[i]);
    memmove(p->unacked, p->unacked + n, (p->n_unacked - n) * sizeof(*p->unacked));
    p->n_unacked -= n;
    p->n_acked = h;
}

static void forget_session(struct phone *p)
{
    for (unsigned i = 0; i < p->n_unacked; i++)
        if (p->unacked[i])
            mail_given_up(p->unacked[i]);
    p->n_unacked = p->n_got = p->n_told = 0;
    p->n_acked = 0;
    p->counts = false;
    *p->id = 0;
}

/* ---- what it got ---- */

static void count(struct phone *p, unsigned mail)
{
    if (!p->counts)
        return;
    if (p->n_got == p->cap_got) {
        p->cap_got = p->cap_got ? 2 * p->cap_got : 64;
        p->got = mem_realloc(p->got, p->cap_got * sizeof(*p->got));
    }
    p->got[p->n_got++] = mail;
}

/* What it has got is said now. */
static void confirm(struct phone *p)
{
    for (; p->n_told < p->n_got; p->n_told++) {
        unsigned what = p->got[p->n_told];
        if (what & PHONE_ERROR)
            mail_taken_back(what & ~PHONE_ERROR);
        else if (what)
            mail_confirmed(p, what);
    }
}

static void tell_count(struct phone *p)
{
    char text[64];
    confirm(p);
    snprintf(text, sizeof(text), "<a" SM " h='%u'/>", p->n_got);
    write_text(p, text);
}

static void on_answer(struct world_event *e)
{
    struct phone *p = container_of(e, struct phone, answer);
    if (p->stream && p->state == PHONE_ONLINE)
        tell_count(p);
}

static void take_message(struct phone *p, const struct xml *x, struct arena *a)
{
    const char *body = xml_child_text(x, "body", NULL, a), *type = xml_attr(x, "type");
    const struct xml *id = xml_child(x, "stanza-id", "urn:xmpp:sid:0");
    unsigned number = 0;
    if (type && !strcmp(type, "error")) {
        const char *which = xml_attr(x, "id");
        if (which && sscanf(which, "m%u", &number) == 1)
            mail_bounced(p, number);
        count(p, number ? number | PHONE_ERROR : 0);
        return;
    }
    if (!body || sscanf(body, "number %u.", &number) != 1) {
        world_bad("phone %u gets a message that nobody has sent", p->number);
        return;
    }
    count(p, number);
    mail_received(p, number, id ? xml_attr(id, "id") : "");
    if (p->kind == PHONE_PLAIN)
        mail_confirmed(p, number);
}

/* ---- the stream ---- */

/* Where it is at home now. */
static void look_for_home(struct phone *p)
{
    p->home = (struct phone_home){0};
    phone_find_home(p, &p->home);
}

static void be_online(struct phone *p)
{
    p->state = PHONE_ONLINE;
    p->patience = 0;
    p->n_failures = 0;
    step_after(p, draw(100 * MS));
}

static void on_features(struct phone *p)
{
    char text[200];
    if (*p->id) {
        snprintf(text, sizeof(text), "<resume" SM " previd='%s' h='%u'/>", p->id, p->n_got);
        p->state = PHONE_RESUMING;
        confirm(p);
    } else {
        snprintf(
            text, sizeof(text),
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource>"
            "</bind></iq>",
            p->resource);
        p->state = PHONE_BINDING;
    }
    write_text(p, text);
}

static void on_bound(struct phone *p)
{
    forget_session(p);
    p->session++;
    if (p->kind == PHONE_PLAIN) {
        look_for_home(p);
        be_online(p);
        send_stanza(p, 0);
        return;
    }
    p->state = PHONE_ENABLING;
    write_text(p, p->kind == PHONE_RESUMES ? "<enable" SM " resume='true'/>" : "<enable" SM "/>");
}

static void on_enabled(struct phone *p, const struct xml *x)
{
    const char *id = xml_attr(x, "id");
    snprintf(p->id, sizeof(p->id), "%s", id ? id : "");
    p->counts = true;
    W->counts.n_sessions++;
    look_for_home(p);
    be_online(p);
    send_stanza(p, 0);
}

static uint64_t count_of(const struct xml *x)
{
    const char *h = xml_attr(x, "h");
    return h ? strtoull(h, NULL, 10) : 0;
}

static void on_resumed(struct phone *p, const struct xml *x)
{
    W->counts.n_resumed++;
    look_for_home(p);
    mail_check_count(p, count_of(x));
    take_count(p, count_of(x));
    be_online(p);
    for (unsigned i = 0; i < p->n_unacked; i++)
        write_stanza(p, p->unacked[i]);
    world_say("phone %u has resumed at node %u: has %u, was told %u", p->number, p->home.node, p->n_got,
              (unsigned)p->n_acked);
}

static void on_failed(struct phone *p, const struct xml *x)
{
    if (p->state != PHONE_RESUMING) { /* not at this level yet */
        come_back(p, 500 * MS);
        return;
    }
    world_say("phone %u cannot resume%s", p->number, xml_attr(x, "h") ? ", was told a count" : "");
    W->counts.n_lost_sessions++;
    if (xml_attr(x, "h"))
        take_count(p, count_of(x));
    forget_session(p);
    on_features(p);
}

static void on_nonza(struct phone *p, const struct xml *x)
{
    if (!strcmp(x->name, "r")) {
        world_schedule(&p->answer, NULL, 'r', p->is_lazy ? draw(3 * SECOND) : draw(20 * MS), on_answer);
    } else if (!strcmp(x->name, "a")) {
        p->patience = 0;
        mail_check_count(p, count_of(x));
        take_count(p, count_of(x));
    } else if (!strcmp(x->name, "enabled")) {
        on_enabled(p, x);
    } else if (!strcmp(x->name, "resumed")) {
        on_resumed(p, x);
    } else if (!strcmp(x->name, "failed")) {
        on_failed(p, x);
    }
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct phone *p = user;
    const struct xml *x = stanza->root;
    if (!strcmp(x->name, "features")) {
        on_features(p);
    } else if (!strcmp(x->ns, "urn:xmpp:sm:3")) {
        on_nonza(p, x);
    } else if (!strcmp(x->name, "error") && strcmp(x->ns, NS_CLIENT)) {
        const struct xml *why = xml_first_element(x);
        world_say("phone %u: stream error %s", p->number, why ? why->name : "");
        if (xml_child(x, "handled-count-too-high", NULL))
            world_bad("phone %u is said to have acknowledged what it was never sent", p->number);
    } else if (!strcmp(x->name, "message")) {
        take_message(p, x, stanza->arena);
    } else if (p->state == PHONE_BINDING && !strcmp(x->name, "iq")) {
        const char *type = xml_attr(x, "type");
        if (type && !strcmp(type, "result"))
            on_bound(p);
        else
            come_back(p, 300 * MS);
    } else {
        count(p, 0);
    }
}

static void on_header(void *user, const struct xml *header)
{
    (void)user, (void)header;
}

static void on_end(void *user)
{
    (void)user;
}

static const struct xml_stream_events xml_events = {on_header, on_stanza, on_end};

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct phone *p = user;
    unsigned connection = p->connection;
    enum xml_error error = p->xml ? xml_stream_feed(p->xml, data, n_bytes) : XML_OK;
    if (error != XML_OK && p->connection == connection && p->xml)
        world_bad("phone %u cannot read its stream: %s", p->number, xml_error_text(error));
}

/* The stream is of the phone's past already if it has hung up by itself. */
static void on_close(void *user, int code, const char *detail)
{
    struct phone *p = user;
    (void)code;
    p->stream = NULL;
    world_say("phone %u has lost its connection: %s", p->number, detail);
    come_back(p, draw(chance(70) ? 100 * MS : 2 * SECOND));
}

static const struct stream_events stream_events = {.on_data = on_data, .on_close = on_close};
static const struct stream_events deaf = {0};

/* RST, or the phone is simply not there any more and the server finds out when it next writes. */
static void hang_up(struct phone *p)
{
    if (p->stream) {
        stream_set_handler(p->stream, &deaf, NULL);
        stream_abort(p->stream);
    }
    p->stream = NULL;
    xml_stream_free(p->xml);
    p->xml = NULL;
    sim_queue_remove(&W->queue, &p->answer.timed);
    p->state = PHONE_AWAY;
    p->patience = 0;
    p->connection++;
    if (!*p->id)
        forget_session(p);
}

static void come_back(struct phone *p, uint64_t after_us)
{
    hang_up(p);
    step_after(p, after_us);
}

/* ---- at the node ---- */

struct arrival {
    struct phone *phone;
    struct stream *stream;
};

static const struct xml_stream_events no_xml_events = {on_header, NULL, on_end};

/* As the edge does it after SASL. */
static void on_arrival(void *arg, struct shard *s)
{
    struct arrival *a = arg;
    struct phone *p = a->phone;
    struct stream *stream = a->stream;
    if (!im_is_serving(s->im)) {
        stream_abort(stream);
        mem_free(a);
        return;
    }
    char name[16];
    snprintf(name, sizeof(name), "u%u", p->user);
    struct c2s_login *login = c2s_login_new();
    login->uid = W->users[p->user].uid;
    login->localpart = mem_strdup(name);
    login->domain = mem_strdup("example.com");
    login->tls = true;
    login->mechanism = mem_strdup("PLAIN");
    login->address = mem_printf("10.1.0.%u", p->number);
    login->since_ms = clock_wall_ms();
    mem_free(a);
    c2s_hand_over(s, stream, xml_stream_new(&xml_limits_default, &no_xml_events, NULL), login);
}

static void dial(struct phone *p)
{
    struct world_node *n = world_some_node();
    if (!n || !n->node->im || W->cut[0][n->id] || W->cut[n->id][0] || !W->users[p->user].uid) {
        step_after(p, 50 * MS + draw(300 * MS));
        return;
    }
    struct arrival *a = mem_new(struct arrival);
    p->stream = world_dial_from_outside(n, world_shard(n)->loop, &stream_events, p, &a->stream);
    p->xml = xml_stream_new(&xml_limits_default, &xml_events, p);
    p->state = PHONE_OPENING;
    a->phone = p;
    shard_call(world_shard(n), on_arrival, a);
    write_text(p, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                  "to='example.com' version='1.0'>");
    patience(p, PATIENCE_US);
    step_after(p, PATIENCE_US + 1);
}

/* ---- what it does with its time ---- */

unsigned phone_say(struct phone *p, unsigned to_user)
{
    unsigned mail = p->n_unacked < UNACKED_MAX ? mail_new(p, to_user) : 0;
    if (mail)
        send_stanza(p, mail);
    return mail;
}

static void send_burst(struct phone *p)
{
    for (unsigned n = 1 + (unsigned)draw(BURST_MAX); n && p->n_unacked < UNACKED_MAX; n--) {
        const struct phone *to = &all()->phone[draw(all()->n)];
        if (chance(3))
            phone_say(p, PHONE_NOBODY);
        else if (to->user != p->user)
            phone_say(p, to->user);
    }
}

void phone_ask(struct phone *p)
{
    if (!p->counts || p->patience)
        return;
    write_text(p, "<r" SM "/>");
    patience(p, ANSWER_US + draw(4 * SECOND));
}

static void log_out(struct phone *p)
{
    write_text(p, "</stream:stream>");
    stream_close(p->stream);
    stream_set_handler(p->stream, &deaf, NULL);
    p->stream = NULL;
    *p->id = 0;
    come_back(p, draw(5 * SECOND));
}

static void act(struct phone *p)
{
    if (all()->is_silent)
        return;
    if (all()->is_quiet) {
        p->is_lazy = false;
        phone_ask(p);
        return;
    }
    switch (W->is_calm ? draw(8) : draw(24)) {
    default:
        send_burst(p);
        if (chance(60))
            phone_ask(p);
        break;
    case 4:
    case 5:
        phone_ask(p);
        break;
    case 6:
        if (p->n_unacked < UNACKED_MAX)
            send_stanza(p, 0);
        break;
    case 7:
        p->is_lazy = !W->is_calm && chance(50);
        break;
    case 8:
        world_say("phone %u is cut off", p->number);
        come_back(p, draw(chance(60) ? 200 * MS : 6 * SECOND));
        break;
    case 9:
        if (chance(20)) {
            world_say("phone %u logs out", p->number);
            log_out(p);
        }
        break;
    }
}

static void on_step(struct world_event *e)
{
    struct phone *p = container_of(e, struct phone, step);
    if (p->state == PHONE_AWAY) {
        dial(p);
        return;
    }
    if (p->patience && W->queue.now >= p->patience) {
        world_say("phone %u has no patience any more", p->number);
        come_back(p, draw(100 * MS));
        return;
    }
    if (p->state == PHONE_ONLINE)
        act(p);
    if (!sim_queue_has(&p->step.timed))
        step_after(p, p->state == PHONE_ONLINE ? 10 * MS + draw(chance(50) ? 100 * MS : SECOND) : 200 * MS);
}

/* ---- looking at nodes ---- */

static struct user *find_user(const struct world_node *n, unsigned user)
{
    if (!n->is_alive || !n->node || !n->node->im || !W->users[user].uid)
        return NULL;
    return user_find(world_shard((struct world_node *)n), W->users[user].uid);
}

static bool serves(const struct world_node *n, unsigned user)
{
    struct user *u = find_user(n, user);
    if (!u || list_is_empty(&u->sessions))
        return false;
    struct world_node *before = W->current;
    W->current = (struct world_node *)n; /* whose clock counts */
    bool has_lease = shard_has_lease(world_shard((struct world_node *)n));
    W->current = before;
    return has_lease;
}

/* A node that was taken down may have an older one, but no lease. */
bool phone_find_home(const struct phone *p, struct phone_home *home)
{
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        struct world_node *n = &W->nodes[id];
        struct user *u = find_user(n, p->user);
        struct session *s = u ? user_find_session(u, p->resource) : NULL;
        if (!s || !serves(n, p->user) || s->ops != &c2s_session_ops || s->detached || !home_of(s)->conn)
            continue;
        *home = (struct phone_home){id, n->life, s->id};
        return true;
    }
    return false;
}

void phones_check_homes(void)
{
    for (unsigned user = 0; user < PHONE_USERS; user++) {
        uint32_t first = 0;
        for (uint32_t id = 1; id <= W->n_nodes; id++) {
            if (!serves(&W->nodes[id], user))
                continue;
            if (first)
                world_bad("user %u has sessions on node %u and on node %u", user, first, id);
            first = id;
        }
    }
}

struct world_node *phones_some_home(void)
{
    struct phone_home home;
    return phone_find_home(&all()->phone[draw(all()->n)], &home) ? &W->nodes[home.node] : NULL;
}

/* For whoever reads the trace of a seed that failed. */
void phones_describe(void)
{
    for (unsigned i = 0; i < all()->n; i++) {
        const struct phone *p = &all()->phone[i];
        struct phone_home home;
        if (!phone_find_home(p, &home)) {
            world_say("phone %u: is nowhere", i);
            continue;
        }
        const struct session *s = session_find(world_shard(&W->nodes[home.node]), home.session);
        const struct session_sm *sm = s ? s->sm : NULL;
        world_say("phone %u: at node %u, %s, of priority %d; %u proposals in flight, %u messages being "
                  "stored, %u behind "
                  "them; paused %x",
                  i, home.node, s->presence ? "available" : "not available", s->priority, s->n_in_flight,
                  s->n_storing, s->n_queued, s->paused);
        if (sm)
            world_say("  has sent %llu (%llu before), in the row %llu, %u on their way, presence and flags "
                      "from %llu on%s; "
                      "was sent %llu, has acknowledged %llu",
                      (unsigned long long)sm->n_in, (unsigned long long)sm->n_seen,
                      (unsigned long long)sm->n_covered, sm->n_waiting, (unsigned long long)sm->state_from,
                      sm->marking ? ", being written" : "", (unsigned long long)sm->n_out,
                      (unsigned long long)sm->n_acked);
    }
}

/* ---- all of them ---- */

static void on_set(void *user, const struct proposal_result *result)
{
    if (!result->code)
        ++*(unsigned *)user;
}

struct wishes {
    unsigned done, wanted;
    char timeout[12];
    bool archives[PHONE_USERS];
};

static void make_settings(struct world_node *n, void *arg)
{
    struct wishes *w = arg;
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__SettingsApply body = IMP__SETTINGS_APPLY__INIT;
    Imp__SettingChange change = IMP__SETTING_CHANGE__INIT, *changes[] = {&change};
    change.key = (char *)"xmpp.resume_timeout";
    change.value = w->timeout;
    body.n_changes = 1;
    body.changes = changes;
    command.body_case = IMP__COMMAND__BODY_SETTINGS_APPLY;
    command.settings_apply = &body;
    w->done = 0;
    operator_propose(n, &command, on_set, &w->done);
    for (unsigned user = 0; user < PHONE_USERS; user++) {
        Imp__Command c = IMP__COMMAND__INIT;
        Imp__ArchivePrefsSet set = IMP__ARCHIVE_PREFS_SET__INIT;
        Imp__ArchivePrefsRow row = IMP__ARCHIVE_PREFS_ROW__INIT;
        row.mode = w->archives[user] ? IMP__ARCHIVE_MODE__ARCHIVE_ALWAYS : IMP__ARCHIVE_MODE__ARCHIVE_NEVER;
        set.uid = W->users[user].uid;
        set.prefs = &row;
        c.body_case = IMP__COMMAND__BODY_ARCHIVE_PREFS_SET;
        c.archive_prefs_set = &set;
        operator_propose(n, &c, on_set, &w->done);
    }
}

static bool is_ready(void)
{
    for (unsigned user = 0; user < PHONE_USERS; user++)
        if (!W->users[user].uid)
            return false;
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        struct world_node *n = &W->nodes[id];
        if (n->is_alive && n->node->im && world_shard(n)->settings.level < 3)
            return false;
    }
    return true;
}

void phones_prepare(void)
{
    struct phones *ps = W->phones = mem_new(struct phones);
    struct wishes *w = mem_new(struct wishes);
    unsigned archives =
        W->options & WORLD_DIRECT ? (unsigned)draw(3) : 1; /* nobody's, everybody's, of some */
    ps->n = chance(50) ? PHONES_MAX : PHONE_USERS;
    for (unsigned i = 0; i < ps->n; i++) {
        struct phone *p = &ps->phone[i];
        p->number = i;
        p->user = i % PHONE_USERS;
        p->kind = chance(75) ? PHONE_RESUMES : chance(60) ? PHONE_COUNTS : PHONE_PLAIN;
        snprintf(p->resource, sizeof(p->resource), "phone%u", i / PHONE_USERS);
    }
    for (unsigned user = 0; user < PHONE_USERS; user++) {
        w->archives[user] = archives == 2 ? chance(50) : archives;
        mail_set_archive(user, w->archives[user]);
    }
    w->wanted = PHONE_USERS + 1;
    snprintf(w->timeout, sizeof(w->timeout), "%u", chance(40) ? 2 + (unsigned)draw(8) : 600);
    for (unsigned tries = 0; tries < 40 && w->done < w->wanted && !W->is_bad; tries++) {
        struct world_node *n = world_leader();
        if (n && is_ready())
            operator_call(n, make_settings, w);
        world_run(500 * MS);
    }
    ps->is_ready = w->done >= w->wanted;
    world_say("phones: %u, archives %u, sessions may be resumed for %s s%s", ps->n, archives, w->timeout,
              ps->is_ready ? "" : "; not ready");
    if (!ps->is_ready)
        world_bad("the cluster is not ready for phones");
    world_run(SECOND); /* so that all nodes know */
}

void phones_begin(void)
{
    for (unsigned i = 0; i < all()->n; i++)
        step_after(&all()->phone[i], draw(SECOND));
}

/* Clients cannot reach a node, or it them. */
static void cut_from_clients(void)
{
    struct world_node *n = world_some_node();
    if (!n)
        return;
    W->cut[0][n->id] = true;
    W->cut[n->id][0] = true;
    world_say("clients cannot reach node %u", n->id);
}

void phones_do_harm(void)
{
    struct phone *p = &all()->phone[draw(all()->n)];
    switch (draw(4)) {
    case 0:
        cut_from_clients();
        break;
    case 1: /* all at once, as when a router restarts */
        for (unsigned i = 0; i < all()->n; i++)
            if (all()->phone[i].state != PHONE_AWAY)
                come_back(&all()->phone[i], draw(500 * MS));
        break;
    default:
        if (p->state != PHONE_AWAY)
            come_back(p, draw(300 * MS));
    }
}

void phones_be_quiet(bool quiet)
{
    all()->is_quiet = quiet;
}

void phones_be_silent(bool silent)
{
    all()->is_silent = silent;
}

bool phones_are_settled(char *why, size_t n_why)
{
    for (unsigned i = 0; i < all()->n; i++) {
        const struct phone *p = &all()->phone[i];
        if (p->state != PHONE_ONLINE)
            return snprintf(why, n_why, "phone %u is not online", i), false;
        if (p->n_unacked)
            return snprintf(why, n_why, "phone %u waits for the acknowledgement of %u stanzas, from %u on", i,
                            p->n_unacked, (unsigned)p->n_acked + 1),
                   false;
    }
    return mail_is_settled(why, n_why);
}
