#include "im/carbons.h"
#include "base/xml.h"
#include "im/hooks.h"
#include "im/mail.h"
#include "im/payload.h"
#include "im/sm_session.h"
#include "im/stored.h"
#include <string.h>

enum { ERRORS_REMEMBERED = 64 };

/* There while a session of the user has enabled carbons. */
struct carbons {
    unsigned n_sessions;
    /* Of messages that were copied: an error is copied if what it answers was (§6.1). */
    uint64_t seed[2], sent[ERRORS_REMEMBERED];
    unsigned at;
};

void carbons_enable(struct session *s, bool on)
{
    struct user *u = s->user;
    if (s->carbons == on)
        return;
    s->carbons = on;
    if (on && !u->carbons) {
        u->carbons = mem_new(struct carbons);
        u->carbons->seed[0] = s->id;
        u->carbons->seed[1] = u->uid;
    }
    u->carbons->n_sessions += on ? 1 : -1;
    if (on)
        im_hook_on(u, IM_HOOK_CARBONS);
    if (s->sm)
        sm_state_changed(s);
    if (u->carbons->n_sessions)
        return;
    mem_free(u->carbons);
    u->carbons = NULL;
}

/* ---- which messages: §6.1 ---- */

/* Of a message with ID to or from PEER (the resource does not count: who answers may say it differently). */
static uint64_t fingerprint(const struct carbons *c, const char *id, const char *peer)
{
    uint64_t of_peer = hash_siphash(c->seed, peer, jid_bare_length(peer));
    uint64_t seed[2] = {c->seed[0] ^ of_peer, c->seed[1]};
    return hash_siphash(seed, id, strlen(id));
}

static void remember(struct carbons *c, const struct envelope *e)
{
    if (!e->id || !*e->to)
        return;
    c->sent[c->at] = fingerprint(c, e->id, e->to);
    c->at = (c->at + 1) % ERRORS_REMEMBERED;
}

static bool answers_a_copied_one(const struct carbons *c, const struct envelope *e)
{
    if (!e->id)
        return false;
    uint64_t f = fingerprint(c, e->id, e->from);
    for (unsigned i = 0; i < ERRORS_REMEMBERED; i++)
        if (c->sent[i] == f)
            return true;
    return false;
}

static bool is_eligible(const struct carbons *c, const struct envelope *e, bool sent)
{
    enum { OF_IM = PAYLOAD_RECEIPT | PAYLOAD_CHAT_STATE | PAYLOAD_MARKER | PAYLOAD_INVITE };
    if (e->kind != STANZA_MESSAGE || e->type == MESSAGE_GROUPCHAT)
        return false;
    unsigned marks = payload_marks(e);
    if (marks & (PAYLOAD_PRIVATE | PAYLOAD_NO_COPY | PAYLOAD_CARBON))
        return false;
    if (e->type == MESSAGE_ERROR)
        return !sent && answers_a_copied_one(c, e);
    /* The room sends it to each client that has joined. */
    if (!sent && marks & PAYLOAD_MUC_USER && !(marks & PAYLOAD_INVITE) && *jid_resource(e->from))
        return false;
    return e->type == MESSAGE_CHAT || (e->type == MESSAGE_NORMAL && marks & PAYLOAD_BODY) || marks & OF_IM;
}

/* ---- the copies ---- */

/* XEP-0297 §3: the stanza names its own namespace inside of <forwarded/>. */
static struct blob *wrap(const struct envelope *e, const char *to, const char *element, const char *extra_xml)
{
    static const char tag[] = "<message";
    struct buf inner = {0}, out = {0};
    envelope_write(&inner, e, to, extra_xml);
    buf_addf(&out, "<%s xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>", element);
    buf_adds(&out, "<message xmlns='jabber:client'");
    buf_add(&out, inner.data + sizeof tag - 1, inner.n - (sizeof tag - 1));
    buf_addf(&out, "</forwarded></%s>", element);
    struct blob *b = blob_new(out.data, out.n);
    buf_fini(&inner);
    buf_fini(&out);
    return b;
}

static void copy_to(struct session *s, enum stanza_type type, struct blob *payload)
{
    struct envelope *e = envelope_new(
        &(struct envelope_parts){.type = type, .from = s->user->jid, .to = s->jid, .payload = payload});
    e->to_uid = e->from_uid = s->user->uid;
    e->flags = ENVELOPE_NO_BOUNCE; /* §11.3: never an error to the sender of the original */
    s->ops->deliver(s, e, NULL);
    envelope_free(e);
}

static bool is_among(struct session *const *list, size_t n, const struct session *s)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == s)
            return true;
    return false;
}

/* XEP-0359 §3: with the id that the sender's own archive has. */
static struct blob *wrap_sent(const struct user *u, const struct envelope *e)
{
    struct buf id = {0};
    char text[STORED_ID_MAX];
    if (e->stored) {
        stored_id_write(u->shard->ids, text, e->stored, e->stored_place);
        buf_addf(&id, "<stanza-id xmlns='urn:xmpp:sid:0' id='%s' by='", text);
        xml_escape(&id, u->jid, strlen(u->jid));
        buf_adds(&id, "'/>");
    }
    struct blob *b = wrap(e, NULL, "sent", id.data);
    buf_fini(&id);
    return b;
}

void carbons_send(struct user *u, uint64_t from, const struct envelope *e)
{
    if (!is_eligible(u->carbons, e, true))
        return;
    remember(u->carbons, e);
    /* A message to oneself: who gets it gets no copy of it. */
    struct session *to[PICK_MAX];
    size_t n = jid_same_bare(e->to, u->jid) ? message_pick_for(u, e->to, to, PICK_MAX) : 0;
    bool is_kept = n && to[0]->detached; /* for who comes */
    struct blob *payload = NULL;
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (!s->carbons || s->behind || s->id == from || (!is_kept && is_among(to, n, s)))
            continue;
        if (!payload)
            payload = wrap_sent(u, e);
        copy_to(s, e->type, payload);
    }
    blob_unref(payload);
}

void carbons_receive(struct user *u, const struct envelope *e, struct session *const *to, size_t n,
                     const char *extra_xml)
{
    /* What another session of the user has sent is with all of them already, as sent. */
    if (jid_same_bare(e->from, u->jid) || !is_eligible(u->carbons, e, false))
        return;
    struct blob *payload = NULL;
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (!s->carbons || s->behind || is_among(to, n, s))
            continue;
        if (!n && s->presence && s->priority >= 0) /* it waits for those: they get it, not a copy */
            continue;
        if (!payload)
            payload = wrap(e, *e->to ? NULL : u->jid, "received", extra_xml);
        copy_to(s, e->type, payload);
    }
    blob_unref(payload);
}
