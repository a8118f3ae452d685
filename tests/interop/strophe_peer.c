/* A client on libstrophe for strophe_client.py, driven by lines on its input, telling by lines on its output.
 *
 *   strophe_peer JID PASSWORD HOST PORT CAFILE RESUME      RESUME: 0 without stream management
 *
 * Input: send TO TEXT | roster | presence TYPE TO | reconnect PORT HOST | quit
 * Output: connected JID | again JID | disconnected | message FROM TEXT | presence FROM TYPE | item JID
 * SUBSCRIPTION | done */
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strophe.h>
#include <unistd.h>

struct peer {
    xmpp_ctx_t *ctx;
    xmpp_conn_t *conn;
    xmpp_sm_state_t *sm; /* between two connections */
    const char *jid, *password, *ca;
    char host[64];
    unsigned short port;
    bool use_sm, quit, connected;
};

static void say(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

static int on_message(xmpp_conn_t *conn, xmpp_stanza_t *stanza, void *user)
{
    struct peer *p = user;
    char *body = NULL;
    xmpp_stanza_t *b = xmpp_stanza_get_child_by_name(stanza, "body");
    if (b && (body = xmpp_stanza_get_text(b)))
        say("message %s %s", xmpp_stanza_get_from(stanza), body);
    xmpp_free(p->ctx, body);
    return 1;
}

static int on_presence(xmpp_conn_t *conn, xmpp_stanza_t *stanza, void *user)
{
    const char *type = xmpp_stanza_get_type(stanza), *from = xmpp_stanza_get_from(stanza);
    say("presence %s %s", from ? from : "-", type ? type : "available");
    return 1;
}

static int on_roster(xmpp_conn_t *conn, xmpp_stanza_t *stanza, void *user)
{
    xmpp_stanza_t *query = xmpp_stanza_get_child_by_ns(stanza, XMPP_NS_ROSTER);
    for (xmpp_stanza_t *i = query ? xmpp_stanza_get_children(query) : NULL; i; i = xmpp_stanza_get_next(i))
        say("item %s %s", xmpp_stanza_get_attribute(i, "jid"), xmpp_stanza_get_attribute(i, "subscription"));
    say("done");
    return 1;
}

static void on_connection(xmpp_conn_t *conn, xmpp_conn_event_t event, int error,
                          xmpp_stream_error_t *stream_error, void *user)
{
    struct peer *p = user;
    p->connected = event == XMPP_CONN_CONNECT;
    if (!p->connected) {
        say("disconnected");
        return;
    }
    bool again = p->sm != NULL;
    p->sm = NULL;
    xmpp_handler_add(conn, on_message, NULL, "message", NULL, p);
    xmpp_handler_add(conn, on_presence, NULL, "presence", NULL, p);
    xmpp_id_handler_add(conn, on_roster, "roster", p);
    say("%s %s", again ? "again" : "connected", xmpp_conn_get_bound_jid(conn));
    if (again)
        return;
    xmpp_stanza_t *presence = xmpp_presence_new(p->ctx);
    xmpp_send(conn, presence);
    xmpp_stanza_release(presence);
}

static void begin(struct peer *p)
{
    p->conn = xmpp_conn_new(p->ctx);
    xmpp_conn_set_jid(p->conn, p->jid);
    xmpp_conn_set_pass(p->conn, p->password);
    xmpp_conn_set_cafile(p->conn, p->ca);
    long flags = p->port == 5223 ? XMPP_CONN_FLAG_LEGACY_SSL : XMPP_CONN_FLAG_MANDATORY_TLS;
    xmpp_conn_set_flags(p->conn, flags | (p->use_sm ? 0 : XMPP_CONN_FLAG_DISABLE_SM));
    if (p->sm)
        xmpp_conn_set_sm_state(p->conn, p->sm); /* the connection's from now on */
    if (xmpp_connect_client(p->conn, p->host, p->port, on_connection, p) != XMPP_EOK)
        say("disconnected");
}

static void end(struct peer *p)
{
    if (p->use_sm)
        p->sm = xmpp_conn_get_sm_state(p->conn);
    xmpp_conn_release(p->conn);
    p->conn = NULL;
}

static void send_presence(struct peer *p, const char *type, const char *to)
{
    xmpp_stanza_t *presence = xmpp_presence_new(p->ctx);
    xmpp_stanza_set_type(presence, type);
    xmpp_stanza_set_to(presence, to);
    xmpp_send(p->conn, presence);
    xmpp_stanza_release(presence);
}

static void ask_roster(struct peer *p)
{
    xmpp_stanza_t *iq = xmpp_iq_new(p->ctx, "get", "roster"), *query = xmpp_stanza_new(p->ctx);
    xmpp_stanza_set_name(query, "query");
    xmpp_stanza_set_ns(query, XMPP_NS_ROSTER);
    xmpp_stanza_add_child(iq, query);
    xmpp_send(p->conn, iq);
    xmpp_stanza_release(query);
    xmpp_stanza_release(iq);
}

static void obey(struct peer *p, char *line)
{
    char *word = strtok(line, " \n"), *first = strtok(NULL, " \n"), *rest = strtok(NULL, "\n");
    if (!word)
        return;
    if (strcmp(word, "send") == 0 && rest) {
        xmpp_stanza_t *m = xmpp_message_new(p->ctx, "chat", first, NULL);
        xmpp_message_set_body(m, rest);
        xmpp_send(p->conn, m);
        xmpp_stanza_release(m);
    } else if (strcmp(word, "roster") == 0) {
        ask_roster(p);
    } else if (strcmp(word, "presence") == 0 && rest) {
        send_presence(p, first, rest);
    } else if (strcmp(word, "reconnect") == 0 && rest) {
        end(p);
        p->port = (unsigned short)atoi(first);
        snprintf(p->host, sizeof p->host, "%s", rest);
        begin(p);
    } else if (strcmp(word, "quit") == 0) {
        p->quit = true;
        xmpp_disconnect(p->conn);
    }
}

/* A line at a time: commands never come faster than they are read. */
static void read_input(struct peer *p)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char line[65536];
    while (!p->quit && poll(&in, 1, 0) > 0) {
        size_t n = 0;
        while (n + 1 < sizeof line && read(STDIN_FILENO, line + n, 1) == 1 && line[n] != '\n')
            n++;
        if (n == 0)
            exit(0); /* the driver has gone */
        line[n] = '\0';
        obey(p, line);
    }
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    signal(SIGPIPE, SIG_IGN); /* libstrophe says goodbye on connections that are gone */
    xmpp_initialize();
    struct peer p = {.jid = argv[1],
                     .password = argv[2],
                     .port = (unsigned short)atoi(argv[4]),
                     .ca = argv[5],
                     .use_sm = atoi(argv[6]) != 0};
    snprintf(p.host, sizeof p.host, "%s", argv[3]);
    const xmpp_log_t *log = getenv("STROPHE_LOG") ? xmpp_get_default_logger(XMPP_LEVEL_DEBUG) : NULL;
    p.ctx = xmpp_ctx_new(NULL, log);
    begin(&p);
    while (!p.quit || p.connected) {
        xmpp_run_once(p.ctx, 5);
        read_input(&p);
    }
    xmpp_conn_release(p.conn);
    xmpp_ctx_free(p.ctx);
    xmpp_shutdown();
    return 0;
}
