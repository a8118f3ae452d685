#include "im/outside.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/router.h"
#include "im/user.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <string.h>

enum { ENDPOINTS_MAX = 1024, DOMAIN_MAX = 1023 };

/* Frames: u8 op, then what belongs to it. */
enum frame {
    FRAME_ALL,    /* what this node has told before is void; its endpoints follow */
    FRAME_UP,     /* u64 id, u8 shard, domain */
    FRAME_DOWN,   /* u64 id */
    FRAME_STANZA, /* u64 id, u8 shard, envelope */
};

struct endpoint {
    struct list link;
    uint32_t node;
    uint8_t shard;
    uint64_t id;
    char domain[];
};
struct outside {
    struct list endpoints; /* by node and id: the same order everywhere */
    unsigned n_endpoints;
    char *allowed; /* " a.example b.example " */
    uint64_t seed[2];
};

void outside_init(struct shard *s)
{
    s->outside = mem_new(struct outside);
    list_init(&s->outside->endpoints);
}

static void free_endpoint(struct outside *o, struct endpoint *p)
{
    list_remove(&p->link);
    o->n_endpoints--;
    mem_free(p);
}

void outside_fini(struct shard *s)
{
    struct outside *o = s->outside;
    if (!o)
        return;
    struct endpoint *p;
    list_for_each(p, &o->endpoints, struct endpoint, link) free_endpoint(o, p);
    mem_free(o->allowed);
    mem_free(o);
    s->outside = NULL;
}

void outside_read_settings(struct shard *s)
{
    struct arena a;
    arena_init(&a);
    const char *list =
        s->settings.level >= LEVEL_3 ? setting_string(shard_txn(s), NULL, SETTING_XMPP_COMPONENTS, &a) : "";
    char *text = *list ? mem_printf(" %s ", list) : NULL;
    for (char *p = text; p && *p; p++)
        *p = *p == '\t' || *p == '\n' || *p == '\r' ? ' ' : *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
    mem_free(s->outside->allowed);
    s->outside->allowed = text;
    arena_fini(&a);
    if (text)
        htab_for_each(node, &s->users) im_hook_on(container_of(node, struct user, node), IM_HOOK_CAPS);
}

/* ---- the table of this shard ---- */

static void add(struct outside *o, uint32_t node, uint8_t shard, uint64_t id, const char *domain)
{
    struct endpoint *p, *at;
    size_t n = strlen(domain) + 1;
    if (o->n_endpoints >= ENDPOINTS_MAX)
        return;
    p = mem_alloc(sizeof *p + n);
    *p = (struct endpoint){.node = node, .shard = shard, .id = id};
    memcpy(p->domain, domain, n);
    list_init(&p->link);
    o->n_endpoints++;
    list_for_each(at, &o->endpoints, struct endpoint, link)
    {
        if (at->node > node || (at->node == node && at->id > id)) {
            list_insert_before(&at->link, &p->link);
            return;
        }
    }
    list_append(&o->endpoints, &p->link);
}

/* ID 0: all of the node. */
static void forget(struct outside *o, uint32_t node, uint64_t id)
{
    struct endpoint *p;
    list_for_each(p, &o->endpoints, struct endpoint, link)
    {
        if (p->node == node && (!id || p->id == id))
            free_endpoint(o, p);
    }
}

static const char *domain_of(const char *jid, size_t *n)
{
    size_t bare = jid_bare_length(jid);
    const char *at = memchr(jid, '@', bare);
    *n = at ? bare - (size_t)(at + 1 - jid) : bare;
    return at ? at + 1 : jid;
}

static bool serves(const struct endpoint *p, const char *domain, size_t n)
{
    return strncmp(p->domain, domain, n) == 0 && p->domain[n] == 0;
}

static bool is_allowed(const struct outside *o, const char *domain, size_t n)
{
    const char *p = o->allowed;
    while (p && (p = strchr(p, ' '))) {
        p++;
        if (strncmp(p, domain, n) == 0 && p[n] == ' ')
            return true;
    }
    return false;
}

bool outside_has_any(const struct shard *s)
{
    return s->outside->allowed != NULL;
}

bool outside_is(const struct shard *s, const char *jid)
{
    size_t n;
    const struct outside *o = s->outside;
    if (!o->allowed)
        return false;
    const char *domain = domain_of(jid, &n);
    return n && is_allowed(o, domain, n);
}

void outside_list(const struct shard *s, void (*each)(void *user, const char *domain), void *user)
{
    struct endpoint *p, *q;
    list_for_each(p, &s->outside->endpoints, struct endpoint, link)
    {
        bool first = true;
        list_for_each(q, &s->outside->endpoints, struct endpoint, link)
        {
            if (q == p)
                break;
            first &= strcmp(q->domain, p->domain) != 0;
        }
        if (first && outside_is(s, p->domain))
            each(user, p->domain);
    }
}

/* ---- sending ---- */

/* Of those that serve the domain, the one for this pair of addresses: rendezvous hashing, so that the coming
 * or going of one moves nobody else. */
static const struct endpoint *pick(const struct outside *o, const struct envelope *e)
{
    size_t n;
    const char *domain = domain_of(e->to, &n);
    uint64_t pair[2] = {hash_siphash(o->seed, e->from, jid_bare_length(e->from)),
                        hash_siphash(o->seed, e->to, jid_bare_length(e->to))};
    const struct endpoint *best = NULL, *p;
    uint64_t best_weight = 0;
    list_for_each(p, &o->endpoints, struct endpoint, link)
    {
        if (!serves(p, domain, n))
            continue;
        uint64_t key[2] = {p->id, p->node}, weight = hash_siphash(pair, key, sizeof key);
        if (!best || weight > best_weight) {
            best = p;
            best_weight = weight;
        }
    }
    return best;
}

static void refuse(struct shard *s, struct envelope *e)
{
    router_bounce(s, e, STANZA_REMOTE_SERVER_TIMEOUT, "the component is not connected now");
    envelope_free(e);
}

struct handed {
    struct envelope *envelope;
    uint64_t id;
};

static void hand(void *arg, struct shard *s)
{
    struct handed *h = arg;
    outside_deliver_fn *deliver = s->im->outside_deliver;
    if (!deliver || !deliver(s, h->id, h->envelope))
        refuse(s, h->envelope);
    mem_free(h);
}

static void hand_over(struct im *im, unsigned shard, uint64_t id, struct envelope *e)
{
    struct handed *h = mem_new(struct handed);
    h->envelope = e;
    h->id = id;
    if (shard < im->n)
        shard_call(&im->shards[shard], hand, h);
}

void outside_send(struct shard *s, struct envelope *e)
{
    const struct endpoint *p = pick(s->outside, e);
    const struct im_backend *b = im_backend(s->im);
    if (!p) {
        refuse(s, e);
        return;
    }
    if (p->node == im_node_id(s->im)) {
        hand_over(s->im, p->shard, p->id, e);
        return;
    }
    buf_reset(&s->scratch);
    buf_add_u8(&s->scratch, FRAME_STANZA);
    buf_add_u64(&s->scratch, p->id);
    buf_add_u8(&s->scratch, p->shard);
    envelope_encode(&s->scratch, e);
    if (b->link_send(b->user, p->node, LINK_OUTSIDE, s->scratch.data, s->scratch.n) < 0)
        refuse(s, e);
    else
        envelope_free(e);
}

/* ---- coming and going ---- */

struct change {
    enum frame op;
    uint32_t node;
    uint8_t shard;
    uint64_t id;
    char domain[];
};

static struct change *change_new(enum frame op, uint32_t node, unsigned shard, uint64_t id,
                                 const char *domain)
{
    size_t n = strlen(domain) + 1;
    struct change *c = mem_zalloc(sizeof *c + n);
    *c = (struct change){.op = op, .node = node, .shard = (uint8_t)shard, .id = id};
    memcpy(c->domain, domain, n);
    return c;
}

static void apply(void *arg, struct shard *s)
{
    struct change *c = arg;
    if (c->op == FRAME_UP)
        add(s->outside, c->node, c->shard, c->id, c->domain);
    else
        forget(s->outside, c->node, c->id);
    mem_free(c);
}

static void apply_everywhere(struct im *im, const struct change *c)
{
    for (unsigned i = 0; i < im->n; i++)
        shard_call(&im->shards[i], apply, change_new(c->op, c->node, c->shard, c->id, c->domain));
}

static void write_change(struct buf *out, enum frame op, uint64_t id, unsigned shard, const char *domain)
{
    buf_reset(out);
    buf_add_u8(out, (uint8_t)op);
    if (op == FRAME_ALL)
        return;
    buf_add_u64(out, id);
    if (op == FRAME_DOWN)
        return;
    buf_add_u8(out, (uint8_t)shard);
    buf_adds(out, domain);
}

/* On shard 0, so that all that a node tells is in one order. A node that is not linked hears it with its next
 * session. */
static void announce(void *arg, struct shard *s)
{
    struct change *c = arg;
    const struct im_backend *b = im_backend(s->im);
    write_change(&s->scratch, c->op, c->id, c->shard, c->domain);
    for (unsigned i = 0; s->members && i < s->members->n; i++) {
        uint32_t node = s->members->list[i].id;
        if (node != im_node_id(s->im) && b->link_is_up(b->user, node))
            b->link_send(b->user, node, LINK_OUTSIDE, s->scratch.data, s->scratch.n);
    }
    apply_everywhere(s->im, c);
    mem_free(c);
}

uint64_t outside_up(struct shard *s, const char *domain)
{
    uint64_t id = ++s->next_endpoint << 8 | s->index;
    shard_call(&s->im->shards[0], announce, change_new(FRAME_UP, im_node_id(s->im), s->index, id, domain));
    return id;
}

void outside_down(struct shard *s, uint64_t id)
{
    shard_call(&s->im->shards[0], announce, change_new(FRAME_DOWN, im_node_id(s->im), s->index, id, ""));
}

void outside_set_deliver(struct im *im, outside_deliver_fn *deliver)
{
    im->outside_deliver = deliver;
}

/* ---- links ---- */

void outside_link_up(struct shard *s, uint32_t node)
{
    const struct im_backend *b = im_backend(s->im);
    if (s->index != 0 || s->settings.level < LEVEL_3)
        return;
    write_change(&s->scratch, FRAME_ALL, 0, 0, "");
    b->link_send(b->user, node, LINK_OUTSIDE, s->scratch.data, s->scratch.n);
    struct endpoint *p;
    list_for_each(p, &s->outside->endpoints, struct endpoint, link)
    {
        if (p->node != im_node_id(s->im))
            continue;
        write_change(&s->scratch, FRAME_UP, p->id, p->shard, p->domain);
        b->link_send(b->user, node, LINK_OUTSIDE, s->scratch.data, s->scratch.n);
    }
}

void outside_link_in_down(struct shard *s, uint32_t node)
{
    forget(s->outside, node, 0);
}

static void on_stanza(struct im *im, uint32_t from_node, uint64_t epoch, struct reader *r)
{
    struct envelope *e;
    uint64_t id = read_u64(r);
    uint8_t shard = read_u8(r);
    if (r->failed || shard >= im->n || envelope_decode(&e, r->p, reader_left(r)) < 0) {
        log_warning(im->log, "node %u sent a stanza for a component that cannot be read", from_node);
        return;
    }
    e->from_node = from_node;
    e->epoch = epoch;
    hand_over(im, shard, id, e);
}

void outside_on_frame(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct im *im = user;
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint8_t op = read_u8(&r);
    if (op == FRAME_STANZA) {
        on_stanza(im, from_node, epoch, &r);
        return;
    }
    uint64_t id = op == FRAME_ALL ? 0 : read_u64(&r);
    uint8_t shard = op == FRAME_UP ? read_u8(&r) : 0;
    char domain[DOMAIN_MAX + 1] = "";
    size_t n = op == FRAME_UP ? reader_left(&r) : 0;
    const void *text = n ? read_bytes(&r, n) : NULL;
    if (r.failed || n > DOMAIN_MAX || op > FRAME_STANZA || (op != FRAME_ALL && !id) ||
        (op == FRAME_UP && !n)) {
        log_warning(im->log, "node %u told something of components that cannot be read", from_node);
        return;
    }
    if (n)
        memcpy(domain, text, n);
    struct change *c = change_new(op, from_node, shard, id, domain);
    apply_everywhere(im, c);
    mem_free(c);
}
