/* Stanza handlers: the input is a conversation of three users with two nodes of their own (im_fixture.h: real
 * shards, state machine and stores). Whatever is said: every client gets well-formed XML, every request one
 * answer, nobody speaks in another's name, and who did not break the rules of XML can go on.
 *
 * A line is a client's digit and what it sends:
 *   0 user a at home, 1 user b on the other node, 2 user a on the other node, 3 user c
 *   0! cuts its connection, 0~ waits until it has all, 0| makes a stream that has not bound a resource,
 *   anything else is XML; $a $b $c are bare JIDs, $0 .. $3 full ones, $p the last resumption id seen. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/xml.h"
#include "fuzz.h"
#include "im_fixture.h"

#include <string.h>
#include <sys/socket.h>

enum {
    CLIENTS = 4,
    GROUPS = 24, /* of three users; the next input takes the next */
    ROUNDS = 8,  /* of all groups before the cluster is made anew */
    ANSWERS = 64,
    WAIT_MS = 20000,
    UNKNOWN = 1000, /* answers: nothing can be said */
};

#define HEADER                                                                                               \
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.com' " \
    "version='1.0'>"

struct request {
    char id[64];
    unsigned n_answers;
};
struct talker {
    struct client *client;
    struct xml_stream *said, *heard;
    size_t n_heard; /* bytes of client->in that HEARD has seen */
    enum xml_error said_error;
    bool raw, closing, ended;
    struct request requests[ANSWERS];
    unsigned n_requests;
};
struct scene {
    struct fix *fix;
    unsigned first; /* user number of "a"; "b" and "c" follow */
    struct talker talkers[CLIENTS];
    char previd[128];
};

static struct fix *the_fix; /* made once for many inputs: it costs a second */
static unsigned n_inputs;

static unsigned user_of(const struct scene *s, unsigned client)
{
    static const unsigned users[CLIENTS] = {0, 1, 0, 2};
    return s->first + users[client];
}

static unsigned edge_of(const struct scene *s, unsigned client)
{
    unsigned home = (user_of(s, client) - 1) % 2 + 1;
    return client == 0 || client == 3 ? home : 3 - home;
}

/* ---- what a client has sent, as a parser sees it ---- */

/* Is there to be exactly one answer (RFC 6120 §8.2.3)? Not from here if another client would have to give it.
 */
static bool wants_answer(const struct xml *iq)
{
    const char *type = xml_attr(iq, "type"), *to = xml_attr(iq, "to");
    return type && (strcmp(type, "get") == 0 || strcmp(type, "set") == 0) && !(to && strchr(to, '/'));
}

static void said_stanza(void *user, struct xml_stanza *stanza)
{
    struct talker *t = user;
    const char *id = xml_attr(stanza->root, "id");
    if (!xml_is(stanza->root, "iq", "jabber:client") || !id || strlen(id) >= sizeof t->requests[0].id)
        return;
    for (unsigned i = 0; i < t->n_requests; i++)
        if (strcmp(t->requests[i].id, id) == 0) {
            t->requests[i].n_answers = UNKNOWN; /* used twice */
            return;
        }
    if (t->n_requests == ANSWERS)
        return;
    struct request *r = &t->requests[t->n_requests++];
    strcpy(r->id, id);
    r->n_answers = *id && wants_answer(stanza->root) ? 0 : UNKNOWN;
}

static void said_end(void *user)
{
    ((struct talker *)user)->closing = true;
}

static void any_header(void *user, const struct xml *header)
{
    (void)user, (void)header;
}

static const struct xml_stream_events said_events = {any_header, said_stanza, said_end};

/* ---- what it has heard ---- */

struct hearing {
    struct scene *scene;
    struct talker *talker;
    const char *jid; /* of the client */
};

static bool in_group(const struct scene *s, const char *jid)
{
    unsigned user = 0;
    char rest = 0;
    int n = sscanf(jid, "u%u@example.com%c", &user, &rest);
    return n >= 1 && (n == 1 || rest == '/') && user >= s->first && user < s->first + 3;
}

/* XEP-0280 §11: forwarded copies come from the own account and nobody else. */
static void check_copies(const struct hearing *h, const struct xml *x, const char *from)
{
    size_t n_bare = strcspn(h->jid, "/");
    const struct xml *copy = xml_child(x, "sent", "urn:xmpp:carbons:2");
    if (!copy)
        copy = xml_child(x, "received", "urn:xmpp:carbons:2");
    if (!copy)
        copy = xml_child(x, "result", "urn:xmpp:mam:2");
    if (copy && from)
        FUZZ_ASSERT(strncmp(from, h->jid, n_bare) == 0 && (!from[n_bare] || from[n_bare] == '/'));
}

static void heard_stanza(void *user, struct xml_stanza *stanza)
{
    struct hearing *h = user;
    const struct xml *x = stanza->root;
    const char *type = xml_attr(x, "type"), *from = xml_attr(x, "from"), *id = xml_attr(x, "id");
    if (xml_is(x, "enabled", "urn:xmpp:sm:3") && id)
        snprintf(h->scene->previd, sizeof h->scene->previd, "%s", id);
    bool error = type && strcmp(type, "error") == 0;
    if (xml_is(x, "iq", "jabber:client")) {
        FUZZ_ASSERT(type);
        for (unsigned i = 0; id && i < h->talker->n_requests; i++)
            if ((error || strcmp(type, "result") == 0) && strcmp(h->talker->requests[i].id, id) == 0)
                FUZZ_ASSERT(h->talker->requests[i].n_answers++ != 1);
        return;
    }
    bool is_message = xml_is(x, "message", "jabber:client");
    /* errors and refusals of a subscription come from whoever was addressed */
    if (error ||
        (!is_message && (!xml_is(x, "presence", "jabber:client") || (type && strncmp(type, "un", 2) == 0))))
        return;
    if (from && strcmp(from, "example.com") != 0)
        FUZZ_ASSERT(in_group(h->scene, from));
    if (is_message)
        check_copies(h, x, from);
}

static void heard_end(void *user)
{
    ((struct hearing *)user)->talker->ended = true;
}

static const struct xml_stream_events heard_events = {any_header, heard_stanza, heard_end};

/* Reads what there is, and gives it to the parser. */
static void listen_to(struct scene *s, struct talker *t, int ms)
{
    struct client *c = t->client;
    if (!c)
        return;
    client_read(c, ms);
    struct hearing h = {s, t, c->jid};
    if (c->n <= t->n_heard)
        return;
    xml_stream_set_events(t->heard, &heard_events, &h);
    enum xml_error e = xml_stream_feed(t->heard, c->in + t->n_heard, c->n - t->n_heard);
    if (e != XML_OK) {
        fprintf(stderr, "%s got no XML (%s): %s\n", c->jid, xml_error_text(e), c->in);
        abort();
    }
    t->n_heard = c->n;
}

/* ---- the acts ---- */

static void leave(struct talker *t)
{
    if (t->client)
        client_close(t->client);
    xml_stream_free(t->said);
    xml_stream_free(t->heard);
    memset(t, 0, sizeof *t);
}

static struct talker *enter(struct scene *s, unsigned client, bool raw)
{
    struct talker *t = &s->talkers[client];
    if (t->client)
        return t;
    char resource[8];
    snprintf(resource, sizeof resource, "%u", client);
    unsigned user = user_of(s, client), edge = edge_of(s, client);
    t->client = raw ? client_raw(s->fix, user, edge) : client_open(s->fix, user, edge, resource);
    snprintf(t->client->jid, sizeof t->client->jid, "u%u@example.com/%s", user, resource);
    t->raw = raw;
    t->said = xml_stream_new(&xml_limits_default, &said_events, t);
    t->heard = xml_stream_new(
        &(struct xml_limits){.stanza_bytes = 1 << 24, .depth = 200, .attrs = 200, .elements = 1 << 20},
        &heard_events, NULL);
    if (!raw) {
        xml_stream_feed(t->said, HEADER, strlen(HEADER));
        xml_stream_feed(t->heard, HEADER, strlen(HEADER));
    }
    return t;
}

/* TEXT with its variables put in; a NUL and what comes after it are dropped. */
static char *expand(struct scene *s, const char *text, size_t n)
{
    struct buf out = {0};
    for (size_t i = 0; i < n && text[i]; i++) {
        char next = i + 1 < n ? text[i + 1] : 0;
        if (text[i] != '$' || !next) {
            buf_add(&out, text + i, 1);
            continue;
        }
        i++;
        char jid[128] = "$";
        if (next >= 'a' && next <= 'c')
            snprintf(jid, sizeof jid, "u%u@example.com", s->first + (unsigned)(next - 'a'));
        else if (next >= '0' && next < '0' + CLIENTS)
            snprintf(jid, sizeof jid, "u%u@example.com/%c", user_of(s, (unsigned)(next - '0')), next);
        else if (next == 'p')
            snprintf(jid, sizeof jid, "%s", s->previd);
        buf_adds(&out, jid);
    }
    buf_add(&out, "", 1);
    return out.data;
}

static void say(struct talker *t, const char *text)
{
    if (t->ended || t->closing || t->said_error != XML_OK)
        return;
    for (size_t at = 0, n = strlen(text); at < n;) {
        ssize_t k = send(t->client->fd, text + at, n - at, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* the server has closed, and what it said is still to be read */
        at += (size_t)k;
    }
    t->said_error = xml_stream_feed(t->said, text, strlen(text));
}

/* Until DONE or the end of the stream; false if neither came. */
static bool wait_for(struct scene *s, struct talker *t, bool (*done)(const struct talker *t))
{
    uint64_t until = clock_monotonic_ms() + WAIT_MS;
    while (!t->ended && !done(t)) {
        if (clock_monotonic_ms() > until)
            return false;
        listen_to(s, t, 20);
    }
    return true;
}

static bool is_answered(const struct talker *t)
{
    for (unsigned i = 0; i < t->n_requests; i++)
        if (!t->requests[i].n_answers)
            return false;
    return true;
}

static bool has_ended(const struct talker *t)
{
    return t->ended;
}

/* Everything was answered, or the stream has ended with the reason. */
static void catch_up(struct scene *s, struct talker *t)
{
    if (!t->client)
        return;
    if (t->said_error != XML_OK || t->closing) {
        if (!wait_for(s, t, has_ended)) {
            fprintf(stderr, "%s: the stream goes on after %s\n", t->client->jid,
                    t->closing ? "its end" : xml_error_text(t->said_error));
            abort();
        }
        return;
    }
    /* in the middle of an element, or of a negotiation, it cannot ask */
    if (!xml_stream_is_idle(t->said) || t->raw)
        return;
    static unsigned n;
    char ping[128];
    snprintf(ping, sizeof ping, "<iq type='get' id='fuzz-ping-%u'><ping xmlns='urn:xmpp:ping'/></iq>", n++);
    if (t->n_requests == ANSWERS)
        t->n_requests--;
    say(t, ping);
    if (!wait_for(s, t, is_answered)) {
        for (unsigned i = 0; i < t->n_requests; i++)
            if (!t->requests[i].n_answers)
                fprintf(stderr, "%s: no answer to '%s'; it has: %s\n", t->client->jid, t->requests[i].id,
                        t->client->in);
        abort();
    }
}

static void act(struct scene *s, const char *line, size_t n)
{
    if (n < 2 || line[0] < '0' || line[0] >= '0' + CLIENTS)
        return;
    unsigned client = (unsigned)(line[0] - '0');
    struct talker *t = &s->talkers[client];
    if (line[1] == '!') {
        listen_to(s, t, 0);
        leave(t);
    } else if (line[1] == '~') {
        catch_up(s, enter(s, client, false));
    } else if (line[1] == '|') {
        listen_to(s, t, 0);
        leave(t);
        enter(s, client, true);
    } else {
        char *text = expand(s, line + 1, n - 1);
        say(enter(s, client, false), text);
        mem_free(text);
    }
}

static struct fix *get_fix(void)
{
    if (the_fix && n_inputs % (GROUPS * ROUNDS) == 0) {
        /* what is still on its way through the log arrives */
        fix_set(the_fix, "xmpp.offline_limit", "1000");
        fix_free(the_fix);
        the_fix = NULL;
    }
    if (!the_fix)
        the_fix = fix_new(2, 2, GROUPS * 3);
    return the_fix;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes < 2 || n_bytes > 4096)
        return 0;
    struct scene s = {.fix = get_fix(), .first = n_inputs % GROUPS * 3 + 1};
    n_inputs++;
    const char *p = (const char *)data, *end = p + n_bytes;
    while (p < end) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((line ? line : end) - p);
        act(&s, p, n);
        p = line ? line + 1 : end;
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        catch_up(&s, &s.talkers[i]);
    for (unsigned i = 0; i < CLIENTS; i++) {
        listen_to(&s, &s.talkers[i], 0);
        leave(&s.talkers[i]);
    }
    return 0;
}
