/* XEP-0133 §4.24, §4.27: the message of the day and the welcome message, at log-in. Who has been here since a
 * message was set has seen it: that is when the last session ended (XEP-0012's row). */
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"

static bool is_first(const struct session *s)
{
    const struct session *other;
    list_for_each(other, &s->user->sessions, struct session, link)
    {
        if (other != s && other->presence)
            return false;
    }
    return true;
}

static void tell(struct c2s_home *h, const char *subject, const char *text)
{
    struct session *s = &h->session;
    struct envelope *e = service_message(s->shard, s->jid, subject, text);
    s->ops->deliver(s, e, NULL);
    envelope_free(e);
}

static void session_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was)
{
    struct session *s = &h->session;
    const struct service *sv = service_of(s->shard);
    (void)root;
    if (was || e->type != PRESENCE_AVAILABLE || (!sv->motd.text && !sv->welcome.text) || !is_first(s))
        return;
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_u64(&k, s->user->uid);
    const Imp__LastActivityRow *row = store_find_row(shard_txn(s->shard), TABLE_LAST_ACTIVITY, &k, &a);
    const Imp__UserRow *user = shard_user_row(s->shard, s->user->uid, &a);
    if (sv->welcome.text && !row && user && user->created_ms >= sv->welcome.set_ms)
        tell(h, "Welcome", sv->welcome.text);
    if (sv->motd.text && (!row || row->logout_ms < sv->motd.set_ms))
        tell(h, "Message of the day", sv->motd.text);
    arena_fini(&a);
}

const struct xmpp_feature feature_motd = {
    .name = "motd",
    .xep = "XEP-0133 1.3.1",
    .level = 3,
    .hooks = {.session_presence = session_presence},
};
