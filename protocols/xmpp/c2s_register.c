/* Accounts made by clients before they log in (XEP-0077 §3.1), where xmpp.registration allows it: inside TLS
 * alone, a few per address and minute. */
#include "im/credential_row.h"
#include "im/directory_words.h"
#include "im/envelope.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

#define NS_REGISTER "jabber:iq:register"

enum { MAX_PASSWORD = 1023 };

static void write_iq(struct edge_conn *c, const char *type, const char *id, const char *inner, size_t n)
{
    struct buf out = {0};
    buf_addf(&out, "<iq type='%s' id='", type);
    xml_escape(&out, id, strlen(id));
    buf_adds(&out, "' from='");
    xml_escape(&out, c->domain, strlen(c->domain));
    buf_adds(&out, "'>");
    if (n)
        buf_add(&out, inner, n);
    buf_adds(&out, "</iq>");
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

static void write_error(struct edge_conn *c, const char *id, enum stanza_error error, const char *text)
{
    struct buf inner = {0};
    stanza_error_write(&inner, error, text);
    write_iq(c, "error", id, inner.data, inner.n);
    buf_fini(&inner);
}

static void write_form(struct edge_conn *c, const char *id)
{
    static const char form[] =
        "<query xmlns='" NS_REGISTER "'><instructions>Choose a user name and a password."
        "</instructions><username/><password/></query>";
    write_iq(c, "result", id, form, sizeof form - 1);
}

/* One account on its way; outlives its connection, which it knows by id. */
struct registration {
    struct work work;
    struct edge_shard *es;
    uint64_t conn;
    char *id, *domain;
    char localpart[JID_PART_MAX + 1], password[MAX_PASSWORD + 1];
    int code;
    struct err_ctx err;
    struct credential credential;
};

static void free_registration(struct registration *r)
{
    mem_free(r->id);
    mem_free(r->domain);
    mem_wipe(r, sizeof *r);
    mem_free(r);
}

static enum stanza_error error_of(int code)
{
    switch (code) {
    case ERR_EXISTS:
        return STANZA_CONFLICT;
    case ERR_INVALID:
    case ERR_MALFORMED:
    case ERR_NOTFOUND:
        return STANZA_NOT_ACCEPTABLE;
    default:
        return STANZA_RESOURCE_CONSTRAINT;
    }
}

static void finish(struct registration *r, int code, const char *text)
{
    struct edge_conn *c = edge_conn_find(r->es, r->conn);
    if (c && c->state == EDGE_CHECKING) {
        if (code == 0) {
            log_info(c->es->edge->log, "%s@%s was registered from %s", r->localpart, r->domain, c->address);
            write_iq(c, "result", r->id, NULL, 0);
        } else {
            write_error(c, r->id, error_of(code), text);
        }
        c->state = EDGE_SECURE;
        edge_conn_resume(c);
    }
    free_registration(r);
}

static void on_added(void *user, const struct proposal_result *result)
{
    finish(user, result->code, *result->text ? result->text : NULL);
}

static void propose(struct registration *r)
{
    struct credential_row credential;
    struct arena a;
    char *words[DIRECTORY_WORDS_MAX];
    arena_init(&a);
    credential_row_fill(&credential, &r->credential, edge_settings(r->es)->level);
    Imp__UserAdd body = IMP__USER_ADD__INIT;
    body.domain = r->domain;
    body.localpart = body.userid = r->localpart;
    body.credential = &credential.row;
    body.words = words;
    body.n_words = directory_words(words, &a, (const char *const[]){r->localpart, NULL});
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_USER_ADD;
    command.user_add = &body;
    int rc = shard_submit(r->es->shard, &command, on_added, r);
    arena_fini(&a);
    if (rc != 0)
        finish(r, rc, "this node takes no writes now");
}

static void derive(struct work *w)
{
    struct registration *r = container_of(w, struct registration, work);
    r->code =
        credential_new(&r->credential, r->password, strlen(r->password), CREDENTIAL_ITERATIONS, &r->err);
    mem_wipe(r->password, sizeof r->password);
}

static void derived(struct work *w)
{
    struct registration *r = container_of(w, struct registration, work);
    if (r->code != 0)
        finish(r, r->code, r->err.text);
    else
        propose(r);
}

static void begin(struct edge_conn *c, const char *id, const struct xml *query)
{
    struct c2s_edge *e = c->es->edge;
    struct arena a;
    arena_init(&a);
    const char *name = xml_child_text(query, "username", NS_REGISTER, &a);
    char *password = (char *)xml_child_text(query, "password", NS_REGISTER, &a);
    struct registration *r = mem_new(struct registration);
    if (!name || !password || !*password || strlen(password) > MAX_PASSWORD ||
        address_prep_local(r->localpart, name, strlen(name), NULL) != 0) {
        write_error(c, id, STANZA_NOT_ACCEPTABLE, "a user name and a password are needed");
    } else if (!c2s_throttle_register(e->throttle, c->address, edge_settings(c->es)->registrations,
                                      loop_now_ms(c->es->shard->loop))) {
        write_error(c, id, STANZA_RESOURCE_CONSTRAINT, "too many accounts from this address: try later");
    } else {
        snprintf(r->password, sizeof r->password, "%s", password);
        r->es = c->es;
        r->conn = c->id;
        r->id = mem_strdup(id);
        r->domain = mem_strdup(c->domain);
        r->work = (struct work){.work = derive, .done = derived};
        c->state = EDGE_CHECKING;
        edge_conn_pause(c);
        loop_run_work(c->es->shard->loop, &r->work);
        r = NULL;
    }
    if (password)
        mem_wipe(password, strlen(password));
    if (r)
        free_registration(r);
    arena_fini(&a);
}

void edge_stanza(struct edge_conn *c, const struct xml *x)
{
    const struct xml *query = xml_child(x, "query", NS_REGISTER);
    const char *type = xml_attr(x, "type"), *id = xml_attr(x, "id");
    if (!edge_settings(c->es)->registration || !xml_is(x, "iq", NULL) || !query || !type || !id)
        edge_conn_close(c, "not-authorized", NULL); /* RFC 6120 §4.9.3.12: no stanzas before log-in */
    else if (strcmp(type, "get") == 0)
        write_form(c, id);
    else if (strcmp(type, "set") == 0 && !xml_child(query, "remove", NS_REGISTER))
        begin(c, id, query);
    else
        write_error(c, id, STANZA_NOT_ALLOWED, NULL);
}
