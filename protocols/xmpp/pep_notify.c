/* Who hears of a change (XEP-0163 §4.3): the owner's own sessions, the subscribers of its presence, and who
 * has subscribed to the node by itself; each only as the access model allows, and but for the last ones only
 * with
 * "+notify" in its capabilities, which its home looks at (im/events.h). */
#include "im/block.h"
#include "im/events.h"
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/caps_outside.h"
#include "protocols/xmpp/pep.h"
#include <stdlib.h>
#include <string.h>

/* ---- events ---- */

static void begin_items(struct buf *out, const char *node)
{
    buf_adds(out, "<event xmlns='" NS_PUBSUB_EVENT "'><items node='");
    iq_escape(out, node);
    buf_adds(out, "'>");
}

void pep_event_item(struct buf *out, const char *node, const char *id, const char *publisher,
                    const void *payload, size_t n_bytes)
{
    begin_items(out, node);
    buf_adds(out, "<item id='");
    iq_escape(out, id);
    if (publisher && *publisher) {
        buf_adds(out, "' publisher='");
        iq_escape(out, publisher);
    }
    buf_adds(out, "'");
    if (payload && n_bytes) {
        buf_addc(out, '>');
        buf_add(out, payload, n_bytes);
        buf_adds(out, "</item></items></event>");
    } else {
        buf_adds(out, "/></items></event>");
    }
}

void pep_event_retract(struct buf *out, const char *node, const char *id)
{
    begin_items(out, node);
    buf_adds(out, "<retract id='");
    iq_escape(out, id);
    buf_adds(out, "'/></items></event>");
}

/* ---- on the shard of the owner ---- */

struct job {
    struct letter letter;
    struct shard *shard;
    struct pep_change c;
    struct arena arena;
};

/* Presence subscribers alone are told from which resource it came (XEP-0163 §4.3.1). */
static struct envelope *make_event(const struct pep_change *c, bool with_publisher)
{
    struct buf xml = {0};
    buf_add(&xml, c->inner, c->n_inner);
    if (with_publisher && c->publisher) {
        buf_adds(&xml, "<addresses xmlns='http://jabber.org/protocol/address'><address type='replyto' jid='");
        iq_escape(&xml, c->publisher);
        buf_adds(&xml, "'/></addresses>");
    }
    struct envelope *e =
        event_new(c->owner, c->owner_jid, c->node, c->config->message_type == 0, xml.data, xml.n, c->index);
    buf_fini(&xml);
    return e;
}

static bool may_hear(struct shard *s, const struct pep_change *c, const Imp__PepNodeRow *node, uint64_t uid,
                     struct arena *a)
{
    if (uid == c->owner)
        return true;
    bool plain = c->config->access == IMP__PEP_ACCESS__PEP_ACCESS_PRESENCE ||
                 c->config->access == IMP__PEP_ACCESS__PEP_ACCESS_OPEN;
    if (plain && !node->n_parties) /* who it is was taken from the roster */
        return true;
    const char *jid = shard_user_jid(s, uid, a);
    return jid && pep_check_access(shard_txn(s), c->owner, node, jid, a) == PEP_MAY;
}

static int compare_uids(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* One subscriber by itself. False: it may not, or is not known here. */
static bool tell_subscriber(struct shard *s, const struct pep_change *c, const Imp__PepNodeRow *node,
                            const char *jid, struct envelope **e, uint64_t *uid, struct arena *a)
{
    const char *bare = arena_strndup(a, jid, jid_bare_length(jid));
    bool gone = c->subscribers != NULL; /* with the list that said who may */
    if (shard_find_uid(s, bare, uid) < 0 || block_matches(s, c->owner, jid) ||
        (!gone && pep_check_access(shard_txn(s), c->owner, node, bare, a) != PEP_MAY))
        return false;
    if (!*e)
        *e = make_event(c, false);
    events_send_subscriber(s, jid, *e);
    return true;
}

/* Explicit subscribers get theirs; their uids are left out of the others. Returns how many of SKIP are used.
 */
static unsigned tell_subscribers(struct shard *s, const struct pep_change *c, const Imp__PepNodeRow *node,
                                 uint64_t *skip, struct arena *a)
{
    struct key prefix = pep_key_number(c->owner, node->number);
    struct store_iter i;
    unsigned n = 0;
    struct envelope *e = NULL;
    for (const char *const *jid = c->subscribers; jid && *jid && n < PEP_PARTIES_MAX; jid++)
        n += tell_subscriber(s, c, node, *jid, &e, &skip[n], a);
    store_iter_init(&i, shard_txn(s), TABLE_PEP_PARTY, &prefix);
    while (!c->subscribers && node->n_parties && n < PEP_PARTIES_MAX && store_iter_next(&i)) {
        const Imp__PepPartyRow *row = store_iter_row(&i, a);
        if (row && row->subscription == IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED)
            n += tell_subscriber(s, c, node, row->subscriber, &e, &skip[n], a);
    }
    store_iter_fini(&i);
    envelope_free(e);
    return n;
}

static void tell_presence(struct shard *s, const struct pep_change *c, const Imp__PepNodeRow *node,
                          const uint64_t *skip, unsigned n_skip, struct arena *a)
{
    unsigned n, n_uids = 0;
    struct user *u = user_get(s, c->owner, c->owner_jid);
    const uint64_t *subscribers = user_subscribers(u, &n);
    uint64_t *uids = mem_alloc((n + 1) * sizeof *uids);
    for (unsigned i = 0; i <= n; i++) {
        uint64_t uid = i < n ? subscribers[i] : c->owner;
        if (!bsearch(&uid, skip, n_skip, sizeof *skip, compare_uids) && may_hear(s, c, node, uid, a))
            uids[n_uids++] = uid;
    }
    struct envelope *e = make_event(c, true);
    events_send(s, uids, n_uids, e);
    envelope_free(e);
    mem_free(uids);
    user_release(u);
}

/* Resources of contacts at components: as the others, if they still may. */
struct outside {
    const struct pep_change *c;
    const Imp__PepNodeRow *node;
    struct envelope *e; /* made when first needed */
    struct arena *a;
};

static void tell_resource(void *arg, struct shard *s, const char *jid)
{
    struct outside *o = arg;
    const char *bare = arena_strndup(o->a, jid, jid_bare_length(jid));
    if (!presence_is_visible(s, o->c->owner, bare) ||
        pep_check_access(shard_txn(s), o->c->owner, o->node, bare, o->a) != PEP_MAY)
        return;
    if (!o->e)
        o->e = make_event(o->c, true);
    events_send_subscriber(s, jid, o->e);
}

static void tell_outside(struct shard *s, const struct pep_change *c, const Imp__PepNodeRow *node,
                         struct arena *a)
{
    struct outside o = {c, node, NULL, a};
    caps_outside_each(s, c->owner, c->node, tell_resource, &o);
    envelope_free(o.e);
}

static void free_job(struct job *job)
{
    arena_fini(&job->arena);
    mem_free(job);
}

static void run(struct job *job, struct shard *s)
{
    struct pep_change *c = &job->c;
    shard_see(s, c->index);
    Imp__PepNodeRow *node = pep_find_node(shard_txn(s), c->owner, c->node, &job->arena), gone;
    if (!node) {
        imp__pep_node_row__init(&gone);
        gone.number = c->number;
        gone.config = (Imp__PepConfig *)c->config;
        node = &gone;
    }
    uint64_t *skip = arena_alloc(&job->arena, PEP_PARTIES_MAX * sizeof *skip);
    unsigned n_skip = tell_subscribers(s, c, node, skip, &job->arena);
    qsort(skip, n_skip, sizeof *skip, compare_uids);
    tell_presence(s, c, node, skip, n_skip, &job->arena);
    tell_outside(s, c, node, &job->arena);
    free_job(job);
}

static void deliver_job(struct letter *letter)
{
    struct job *job = container_of(letter, struct job, letter);
    run(job, job->shard);
}

static void discard_job(struct letter *letter)
{
    free_job(container_of(letter, struct job, letter));
}

static const char *const *copy_list(const char *const *list, struct arena *a)
{
    size_t n = 0;
    while (list[n])
        n++;
    const char **copy = arena_alloc(a, (n + 1) * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = arena_strdup(a, list[i]);
    copy[n] = NULL;
    return copy;
}

static Imp__PepConfig *copy_config(const Imp__PepConfig *c, struct arena *a)
{
    Imp__PepConfig *copy = arena_alloc(a, sizeof *copy);
    *copy = *c;
    copy->title = arena_strdup(a, c->title);
    copy->description = arena_strdup(a, c->description);
    copy->payload_type = arena_strdup(a, c->payload_type);
    copy->groups = arena_alloc(a, (c->n_groups + 1) * sizeof *copy->groups);
    for (size_t i = 0; i < c->n_groups; i++)
        copy->groups[i] = arena_strdup(a, c->groups[i]);
    return copy;
}

void pep_notify(struct shard *s, const struct pep_change *c)
{
    if (!c->config->notifications)
        return;
    struct shard *target = im_shard_of(s->im, c->owner);
    struct job *job = mem_new(struct job);
    arena_init(&job->arena);
    job->c = *c;
    job->c.owner_jid = arena_strdup(&job->arena, c->owner_jid);
    job->c.node = arena_strdup(&job->arena, c->node);
    job->c.config = copy_config(c->config, &job->arena);
    job->c.publisher = c->publisher ? arena_strdup(&job->arena, c->publisher) : NULL;
    job->c.inner = arena_strndup(&job->arena, c->inner, c->n_inner);
    job->c.subscribers = c->subscribers ? copy_list(c->subscribers, &job->arena) : NULL;
    if (target == s) {
        run(job, s);
        return;
    }
    job->letter.deliver = deliver_job;
    job->letter.discard = discard_job;
    job->shard = target;
    loop_post(target->loop, &job->letter);
}
