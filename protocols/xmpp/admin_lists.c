#include "protocols/xmpp/admin_lists.h"
#include "im/router.h"
#include "im/user.h"
#include "protocols/xmpp/service.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LIST_MAX = 1000,    /* addresses in one answer */
    ROWS_A_TURN = 2000, /* of the store, read before others get their turn */
};

/* One question that goes from shard to shard, or through the store, and ends where it began. */
struct tour {
    struct adhoc_call *call;
    struct im *im;
    unsigned at;
    enum admin_which which;
    const char *var;
    bool list;
    unsigned max;
    uint64_t n, from_uid;
    struct buf values;
    /* admin_announce */
    char *text;
    /* admin_look_at */
    uint64_t uid;
    void (*on_seen)(struct adhoc_call *c, uint64_t uid, const struct presence_facts *p);
    struct presence_facts facts;
};

static void free_tour(struct tour *t)
{
    buf_fini(&t->values);
    buf_fini(&t->facts.resources);
    mem_free(t->text);
    mem_free(t);
}

static struct tour *tour_new(struct adhoc_call *c)
{
    struct tour *t = mem_new(struct tour);
    t->call = c;
    t->im = c->shard->im;
    return t;
}

static void on_shard(struct shard *s, void (*fn)(void *arg, struct shard *s), void *arg)
{
    shard_call(s, fn, arg);
}

/* ---- answers, on the shard that asked ---- */

static void finish_list(void *arg, struct shard *s)
{
    struct tour *t = arg;
    struct buf out = {0};
    (void)s;
    adhoc_field_begin(&out, t->var, t->list ? "jid-multi" : "text-single");
    if (t->list && t->values.n)
        buf_add(&out, t->values.data, t->values.n);
    if (!t->list) {
        char n[32];
        snprintf(n, sizeof n, "%llu", (unsigned long long)t->n);
        adhoc_field_value(&out, n);
    }
    adhoc_field_end(&out);
    adhoc_form(t->call, out.data, out.n);
    buf_fini(&out);
    free_tour(t);
}

static void take(struct tour *t, const char *jid)
{
    t->n++;
    if (t->list && t->n <= t->max)
        adhoc_field_value(&t->values, jid);
}

/* ---- accounts: the store, in slices ---- */

static void read_accounts(void *arg, struct shard *s)
{
    struct tour *t = arg;
    struct key all, from;
    struct arena a;
    unsigned n = 0;
    arena_init(&a);
    key_init(&all);
    key_init(&from);
    key_u64(&from, t->from_uid + 1);
    struct store_iter it;
    store_iter_init(&it, shard_txn(s), TABLE_USER, &all);
    store_iter_seek(&it, &from);
    while (n < ROWS_A_TURN && !(t->list && t->n >= t->max) && store_iter_next(&it)) {
        const Imp__UserRow *row = store_iter_row(&it, &a);
        n++;
        if (row) {
            t->from_uid = row->uid;
            const char *jid = t->list ? shard_user_jid(s, row->uid, &a) : "";
            if ((t->which == ADMIN_REGISTERED || row->locked) && jid)
                take(t, jid);
        }
        if (n % 64 == 0)
            arena_reset(&a);
    }
    store_iter_fini(&it);
    arena_fini(&a);
    if (n == ROWS_A_TURN)
        on_shard(s, read_accounts, t);
    else
        finish_list(t, s);
}

/* ---- who is there: the shards' memory ---- */

static bool is_away(const struct envelope *presence)
{
    static const char away[] = "<show>away<", xa[] = "<show>xa<";
    const struct blob *b = presence->payload;
    return b && (memmem(b->data, b->n, away, sizeof away - 1) || memmem(b->data, b->n, xa, sizeof xa - 1));
}

/* Is the user online, and is somebody at one of the resources? */
static bool is_online(const struct user *u, bool *active)
{
    bool online = false;
    *active = false;
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (!s->presence)
            continue;
        online = true;
        *active |= !is_away(s->presence);
    }
    struct remote_resource *r;
    list_for_each(r, &u->remote, struct remote_resource, link)
    {
        online = true;
        *active |= !is_away(r->presence);
    }
    return online;
}

/* The address of a user who is known here only as a contact is in its presence. */
static void bare_of(const struct user *u, char out[3072])
{
    const char *jid = u->jid;
    if (!*jid && !list_is_empty(&u->remote))
        jid = list_entry(list_first(&u->remote), struct remote_resource, link)->presence->from;
    snprintf(out, 3072, "%.*s", (int)jid_bare_length(jid), jid);
}

static void look_around(void *arg, struct shard *s)
{
    struct tour *t = arg;
    htab_for_each(node, &s->users)
    {
        const struct user *u = container_of(node, struct user, node);
        bool active;
        char jid[3072];
        if (!is_online(u, &active) || (t->which == ADMIN_ACTIVE && !active) ||
            (t->which == ADMIN_IDLE && active))
            continue;
        bare_of(u, jid);
        if (*jid)
            take(t, jid);
    }
    if (++t->at < im_n_shards(t->im))
        on_shard(im_shard(t->im, t->at), look_around, t);
    else
        on_shard(t->call->shard, finish_list, t);
}

static void begin(struct tour *t)
{
    if (t->which == ADMIN_REGISTERED || t->which == ADMIN_DISABLED)
        read_accounts(t, t->call->shard);
    else
        on_shard(im_shard(t->im, 0), look_around, t);
}

void admin_count(struct adhoc_call *c, enum admin_which which, const char *var)
{
    struct tour *t = tour_new(c);
    t->which = which;
    t->var = var;
    begin(t);
}

void admin_list(struct adhoc_call *c, enum admin_which which, const char *var)
{
    struct tour *t = tour_new(c);
    unsigned long max = strtoul(adhoc_value(c, "max_items"), NULL, 10);
    t->which = which;
    t->var = var;
    t->list = true;
    t->max = max && max < LIST_MAX ? (unsigned)max : LIST_MAX;
    begin(t);
}

/* ---- one user ---- */

static void seen(void *arg, struct shard *s)
{
    struct tour *t = arg;
    (void)s;
    t->on_seen(t->call, t->uid, &t->facts);
    free_tour(t);
}

static void add_resource(struct presence_facts *p, const char *resource)
{
    p->n_resources++;
    buf_add(&p->resources, resource, strlen(resource) + 1);
}

static void look_at(void *arg, struct shard *s)
{
    struct tour *t = arg;
    struct presence_facts *p = &t->facts;
    struct user *u = user_find(s, t->uid);
    struct session *session;
    if (u) {
        list_for_each(session, &u->sessions, struct session, link)
        {
            struct session_info info = {0};
            session->ops->describe(session, &info);
            add_resource(p, session->resource);
            if (session->since_ms > p->since_ms)
                p->since_ms = session->since_ms;
            if (p->n_addresses < ADMIN_ADDRESSES_MAX)
                memcpy(p->addresses[p->n_addresses++], info.address, sizeof p->addresses[0]);
        }
        const struct remote_resource *r;
        list_for_each(r, &u->remote, struct remote_resource, link)
            add_resource(p, jid_resource(r->presence->from));
    }
    on_shard(t->call->shard, seen, t);
}

void admin_look_at(struct adhoc_call *c, uint64_t uid,
                   void (*on_seen)(struct adhoc_call *c, uint64_t uid, const struct presence_facts *p))
{
    struct tour *t = tour_new(c);
    t->uid = uid;
    t->on_seen = on_seen;
    on_shard(im_shard_of(t->im, uid), look_at, t);
}

/* ---- everybody ---- */

static void announced(void *arg, struct shard *s)
{
    struct tour *t = arg;
    (void)s;
    adhoc_done(t->call, arena_printf(&t->call->arena, "sent to %llu users", (unsigned long long)t->n));
    free_tour(t);
}

static void tell_all(void *arg, struct shard *s)
{
    struct tour *t = arg;
    htab_for_each(node, &s->users)
    {
        const struct user *u = container_of(node, struct user, node);
        bool active;
        char jid[3072];
        if (!is_online(u, &active))
            continue;
        bare_of(u, jid);
        if (!*jid)
            continue;
        struct envelope *e = service_message(s, jid, "Announcement", t->text);
        e->to_uid = u->uid;
        t->n++;
        /* Not while the table is walked: delivery may change it. */
        router_post(s, e);
    }
    if (++t->at < im_n_shards(t->im))
        on_shard(im_shard(t->im, t->at), tell_all, t);
    else
        on_shard(t->call->shard, announced, t);
}

static void on_recorded(void *user, const struct proposal_result *result)
{
    struct tour *t = user;
    if (result->code) {
        adhoc_fail(t->call, "nothing was sent, as it cannot be recorded: the cluster takes no writes now");
        free_tour(t);
        return;
    }
    on_shard(im_shard(t->im, 0), tell_all, t);
}

void admin_announce(struct adhoc_call *c, const char *text)
{
    struct tour *t = tour_new(c);
    t->text = mem_strdup(text);
    Imp__Note body = IMP__NOTE__INIT;
    Imp__Audited audited = IMP__AUDITED__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    audited.node = im_node_id(t->im);
    audited.who = arena_printf(&c->arena, "xmpp:%s", c->who);
    audited.command = arena_printf(&c->arena, "announce %s", text);
    command.audited = &audited;
    command.body_case = IMP__COMMAND__BODY_NOTE;
    command.note = &body;
    if (shard_submit(c->shard, &command, on_recorded, t) == 0)
        return;
    adhoc_fail(c, "nothing was sent, as it cannot be recorded: the cluster takes no writes now");
    free_tour(t);
}
