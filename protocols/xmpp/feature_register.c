/* XEP-0077 after log-in: what the account is, a new password (§3.3), its end (§3.2). Only for accounts whose
 * password is here; the settings say which of it is allowed. */
#include "im/address.h"
#include "im/credential_row.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/hooks.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

#define NS_REGISTER "jabber:iq:register"

enum { MAX_PASSWORD = 1023, MINUTE_MS = 60000 };

struct state {
    uint64_t since_ms;
    unsigned n; /* changes since then */
};

static bool is_local(struct xmpp_iq *iq)
{
    struct key k;
    key_init(&k);
    key_u64(&k, iq->home->session.user->uid);
    Imp__UserRow *user = shard_user_row(iq->shard, iq->home->session.user->uid, iq->arena);
    return user && user->source == IMP__USER_SOURCE__SOURCE_LOCAL &&
           store_find_row(shard_txn(iq->shard), TABLE_CREDENTIAL, &k, iq->arena);
}

static bool is_allowed(struct xmpp_iq *iq, enum setting setting)
{
    return iq->shard->settings.level >= LEVEL_3 && setting_bool(shard_txn(iq->shard), NULL, setting) &&
           is_local(iq);
}

static bool is_too_often(struct xmpp_iq *iq)
{
    struct state *s = hooks_state(iq->home, FEATURE_register, sizeof *s);
    uint64_t now = loop_now_ms(iq->shard->loop);
    unsigned max = (unsigned)setting_int(shard_txn(iq->shard), NULL, SETTING_LIMIT_REGISTRATIONS);
    if (s->n == 0 || now - s->since_ms >= MINUTE_MS)
        *s = (struct state){.since_ms = now};
    return s->n++ >= max;
}

static void handle_get(struct xmpp_iq *iq)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_REGISTER "'><registered/><username>");
    iq_escape(&out, iq->home->login->localpart);
    buf_adds(&out, "</username><password/></query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* ---- a new password ---- */

struct change {
    struct work work;
    struct shard *shard;
    uint64_t session, uid;
    struct iq_later *later;
    char password[MAX_PASSWORD + 1];
    int code;
    struct err_ctx err;
    struct credential credential;
};

static void on_changed(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result)
{
    struct iq_later *later = user;
    if (result->code == 0)
        iq_later_result(later, s, NULL, 0);
    else
        iq_later_error(later, s, STANZA_RESOURCE_CONSTRAINT, *result->text ? result->text : NULL);
}

static void derive(struct work *w)
{
    struct change *c = container_of(w, struct change, work);
    c->code =
        credential_new(&c->credential, c->password, strlen(c->password), CREDENTIAL_ITERATIONS, &c->err);
    mem_wipe(c->password, sizeof c->password);
}

static void derived(struct work *w)
{
    struct change *c = container_of(w, struct change, work);
    struct session *s = session_find(c->shard, c->session);
    struct credential_row row;
    credential_row_fill(&row, &c->credential, c->shard->settings.level);
    Imp__UserPassword body = IMP__USER_PASSWORD__INIT;
    body.uid = c->uid;
    body.credential = &row.row;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_USER_PASSWORD;
    command.user_password = &body;
    if (c->code != 0)
        iq_later_error(c->later, s, STANZA_NOT_ACCEPTABLE, c->err.text);
    else if (!s || session_submit(s, &command, on_changed, c->later) != 0)
        iq_later_error(c->later, s, STANZA_RESOURCE_CONSTRAINT, NULL);
    mem_wipe(c, sizeof *c);
    mem_free(c);
}

static void change_password(struct xmpp_iq *iq)
{
    const char *name = xml_child_text(iq->payload, "username", NS_REGISTER, iq->arena);
    char *password = (char *)xml_child_text(iq->payload, "password", NS_REGISTER, iq->arena);
    char prepared[JID_PART_MAX + 1];
    if (!name || !password || !*password || strlen(password) > MAX_PASSWORD) {
        iq_error(iq, STANZA_BAD_REQUEST, NULL);
    } else if (address_prep_local(prepared, name, strlen(name), NULL) != 0 ||
               strcmp(prepared, iq->home->login->localpart) != 0) {
        iq_error(iq, STANZA_NOT_ALLOWED, NULL);
    } else if (is_too_often(iq)) {
        iq_error(iq, STANZA_RESOURCE_CONSTRAINT, "too many changes: try later");
    } else {
        struct change *c = mem_new(struct change);
        c->shard = iq->shard;
        c->session = iq->home->session.id;
        c->uid = iq->home->session.user->uid;
        c->later = iq_keep(iq);
        snprintf(c->password, sizeof c->password, "%s", password);
        c->work = (struct work){.work = derive, .done = derived};
        loop_run_work(iq->shard->loop, &c->work);
    }
    if (password)
        mem_wipe(password, strlen(password));
}

/* ---- the end of the account ---- */

static void on_removed(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result)
{
    struct iq_later *later = user;
    if (s && result->code != 0) {
        struct c2s_home *h = home_of(s);
        mem_free(h->last_words);
        h->last_words = NULL;
    }
    if (result->code == 0)
        iq_later_result(later, NULL, NULL, 0); /* said already: the session has ended with the account */
    else
        iq_later_error(later, s, STANZA_RESOURCE_CONSTRAINT, NULL);
}

/* §3.2: the answer, then the stream ends. The end comes with the change of the store, so the answer waits
 * there. */
static void cancel(struct xmpp_iq *iq)
{
    struct c2s_home *h = iq->home;
    const struct envelope *e = iq->envelope;
    struct buf out = {0};
    buf_adds(&out, "<iq type='result' id='");
    iq_escape(&out, e->id);
    buf_adds(&out, "' to='");
    iq_escape(&out, e->from);
    buf_adds(&out, "'/>");
    mem_free(h->last_words);
    h->last_words = buf_steal(&out);
    Imp__UserRemove body = IMP__USER_REMOVE__INIT;
    body.uid = h->session.user->uid;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_USER_REMOVE;
    command.user_remove = &body;
    struct iq_later *later = iq_keep(iq);
    if (session_submit(&h->session, &command, on_removed, later) == 0)
        return;
    mem_free(h->last_words);
    h->last_words = NULL;
    iq_later_error(later, &h->session, STANZA_RESOURCE_CONSTRAINT, NULL);
}

static void handle(struct xmpp_iq *iq)
{
    bool remove = xml_child(iq->payload, "remove", NS_REGISTER);
    if (iq->envelope->type == IQ_GET) {
        if (is_local(iq))
            handle_get(iq);
        else
            iq_error(iq, STANZA_SERVICE_UNAVAILABLE, NULL); /* the call manager's */
    } else if (!is_allowed(iq, remove ? SETTING_XMPP_ACCOUNT_CANCEL : SETTING_XMPP_PASSWORD_CHANGE)) {
        iq_error(iq, STANZA_NOT_ALLOWED, NULL);
    } else if (remove && xml_next_element(xml_first_element(iq->payload))) {
        iq_error(iq, STANZA_BAD_REQUEST, NULL); /* §3.2: it must be alone */
    } else if (remove) {
        cancel(iq);
    } else {
        change_password(iq);
    }
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_REGISTER, "query", IQ_SERVER | IQ_SELF, .get = true, .set = true, .handle = handle},
    {0},
};
static const char *const features[] = {NS_REGISTER, NULL};
const struct xmpp_feature feature_register = {
    .name = "register",
    .xep = "XEP-0077 2.4",
    .level = LEVEL_3,
    .server_features = features,
    .handlers = handlers,
};
