/* One change of items on its way through the log: collected, submitted, told, answered. */
#include "im/user.h"
#include "protocols/xmpp/pep.h"
#include <string.h>

enum { OPS_MAX = 500 }; /* half of FSM_MAX_ROWS */

struct pep_write {
    struct arena arena;
    struct c2s_home *home; /* until the submit */
    uint64_t owner;
    const char *owner_jid, *publisher; /* the latter: full JID */
    Imp__PepWrite body;
    bool notify[OPS_MAX]; /* by retraction */
    bool too_many;
    struct iq_later *later; /* NULL: nobody waits */
    const char *result;
};

struct pep_write *pep_write_new(struct c2s_home *h, uint64_t owner, const char *owner_jid)
{
    struct pep_write *w = mem_new(struct pep_write);
    struct arena *a = &w->arena;
    arena_init(a);
    w->home = h;
    w->owner = owner;
    w->owner_jid = arena_strdup(a, owner_jid);
    w->publisher = arena_strdup(a, h->session.jid);
    imp__pep_write__init(&w->body);
    w->body.uid = owner;
    w->body.actor = h->session.user->uid;
    w->body.publish = arena_alloc(a, OPS_MAX * sizeof *w->body.publish);
    w->body.retract = arena_alloc(a, OPS_MAX * sizeof *w->body.retract);
    return w;
}

struct arena *pep_write_arena(struct pep_write *w)
{
    return &w->arena;
}

static bool is_empty(const struct pep_write *w)
{
    return !w->body.n_publish && !w->body.n_retract && !w->body.set_vcard;
}

void pep_write_drop(struct pep_write *w)
{
    arena_fini(&w->arena);
    mem_free(w);
}

static bool has_room(struct pep_write *w)
{
    if (w->body.n_publish + w->body.n_retract < OPS_MAX)
        return true;
    w->too_many = true;
    return false;
}

void pep_write_publish(struct pep_write *w, const char *node, const char *id, const void *payload,
                       size_t n_bytes, const Imp__PepConfig *config, uint32_t fields)
{
    if (!has_room(w))
        return;
    Imp__PepPublication *p = arena_alloc(&w->arena, sizeof *p);
    imp__pep_publication__init(p);
    p->node = (char *)node;
    p->id = (char *)id;
    p->payload = (ProtobufCBinaryData){n_bytes, (uint8_t *)payload};
    p->options = (Imp__PepConfig *)config;
    p->fields = fields;
    if (!config) {
        p->options = arena_alloc(&w->arena, sizeof *p->options);
        pep_config_initial(p->options, node);
    }
    w->body.publish[w->body.n_publish++] = p;
}

void pep_write_retract(struct pep_write *w, const char *node, const char *id, bool optional, bool notify)
{
    if (!has_room(w))
        return;
    Imp__PepRetraction *r = arena_alloc(&w->arena, sizeof *r);
    imp__pep_retraction__init(r);
    r->node = (char *)node;
    r->id = (char *)id;
    r->optional = optional;
    w->notify[w->body.n_retract] = notify;
    w->body.retract[w->body.n_retract++] = r;
}

void pep_write_vcard(struct pep_write *w, const void *xml, size_t n_bytes)
{
    w->body.set_vcard = true;
    w->body.vcard = (ProtobufCBinaryData){n_bytes, (uint8_t *)xml};
}

/* ---- what is told ---- */

static struct pep_change change_of(const struct pep_write *w, const Imp__PepNodeRow *node, uint64_t index)
{
    return (struct pep_change){.owner = w->owner,
                               .owner_jid = w->owner_jid,
                               .node = node->node,
                               .config = node->config,
                               .number = node->number,
                               .publisher = w->body.actor == w->owner ? w->publisher : NULL,
                               .index = index};
}

static void tell_published(struct pep_write *w, struct shard *s, const Imp__PepPublication *p,
                           const char *publisher, uint64_t index)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), w->owner, p->node, &w->arena);
    if (!node || strcmp(p->node, NODE_PRIVATE) == 0)
        return;
    struct buf xml = {0};
    pep_event_item(&xml, p->node, p->id, publisher, node->config->payloads ? p->payload.data : NULL,
                   p->payload.len);
    struct pep_change c = change_of(w, node, index);
    c.inner = xml.data;
    c.n_inner = xml.n;
    pep_notify(s, &c);
    buf_fini(&xml);
}

static void tell_retracted(struct pep_write *w, struct shard *s, const Imp__PepRetraction *r, bool asked,
                           uint64_t index)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), w->owner, r->node, &w->arena);
    if (!node || strcmp(r->node, NODE_PRIVATE) == 0 || (!asked && !node->config->notify_retract))
        return;
    struct buf xml = {0};
    pep_event_retract(&xml, r->node, r->id);
    struct pep_change c = change_of(w, node, index);
    c.inner = xml.data;
    c.n_inner = xml.n;
    pep_notify(s, &c);
    buf_fini(&xml);
}

static void tell(struct pep_write *w, struct shard *s, uint64_t index)
{
    const char *publisher = NULL;
    if (w->body.actor != w->owner) {
        char *bare = arena_strndup(&w->arena, w->publisher, jid_bare_length(w->publisher));
        publisher = bare;
    }
    for (size_t i = 0; i < w->body.n_retract; i++)
        tell_retracted(w, s, w->body.retract[i], w->notify[i], index);
    for (size_t i = 0; i < w->body.n_publish; i++)
        tell_published(w, s, w->body.publish[i], publisher, index);
}

static void on_done(struct session *session, struct shard *s, void *user,
                    const struct proposal_result *result)
{
    struct pep_write *w = user;
    if (result->code) {
        if (w->later)
            pep_answer_refusal(w->later, session, result);
        pep_write_drop(w);
        return;
    }
    if (w->later)
        iq_later_result(w->later, session, w->result, w->result ? strlen(w->result) : 0);
    tell(w, s, result->index);
    pep_special_done(session, s, &w->body, result->index);
    pep_write_drop(w);
}

void pep_write_submit(struct pep_write *w, struct xmpp_iq *iq, const char *result)
{
    if (w->too_many) {
        if (iq)
            iq_error(iq, STANZA_POLICY_VIOLATION, "too many items at once");
        pep_write_drop(w);
        return;
    }
    if (iq && is_empty(w)) { /* it is so already */
        iq_result(iq, result, result ? strlen(result) : 0);
        pep_write_drop(w);
        return;
    }
    struct session *session = &w->home->session;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_PEP_WRITE;
    command.pep_write = &w->body;
    w->result = result ? arena_strdup(&w->arena, result) : NULL;
    w->later = iq ? iq_keep(iq) : NULL;
    if (session_submit(session, &command, on_done, w) < 0) {
        if (w->later)
            iq_later_error(w->later, session, STANZA_RESOURCE_CONSTRAINT, NULL);
        pep_write_drop(w);
    }
}
