/* XEP-0352: client state indication. While a client is inactive, what its user would not look at waits: the
 * last presence of each resource, the last chat state of each peer, the last notification of each node, and
 * receipts and markers. It goes out in order, before the first stanza that matters, when the client is active
 * again, or when it is too much to keep. */
#include "im/payload.h"
#include "protocols/xmpp/csi.h"
#include "protocols/xmpp/feature.h"
#include <string.h>

#define NS_CSI "urn:xmpp:csi:0"

enum { HELD_STANZAS = 200, HELD_BYTES = 128 << 10 };

struct csi {
    struct list held; /* struct envelope, oldest first */
    unsigned n;
    size_t n_bytes;
};
/* Of the session; the rest exists while it is inactive. */
struct csi_state {
    struct csi *csi;
};

static struct csi *find(struct c2s_home *h)
{
    struct csi_state *st = hooks_state(h, FEATURE_csi, 0);
    return st ? st->csi : NULL;
}

bool csi_is_inactive(struct c2s_home *h)
{
    return find(h) != NULL;
}

/* ---- what matters ---- */

enum importance {
    IMPORTANT,
    LATER,      /* as it is */
    LATER_LAST, /* the last one of its kind from there */
    NEVER,
};

static bool has(const struct envelope *e, const char *what)
{
    return e->payload && memmem(e->payload->data, e->payload->n, what, strlen(what));
}

static enum importance of_message(const struct envelope *e)
{
    if (e->type == MESSAGE_ERROR)
        return IMPORTANT;
    unsigned marks = payload_marks(e);
    if (marks & PAYLOAD_CARBON) {
        /* What is inside counts. A copied chat state is of no use later. */
        bool only_state = has(e, "http://jabber.org/protocol/chatstates") && !has(e, "<body");
        return only_state && !has(e, "encrypted") ? NEVER : IMPORTANT;
    }
    if (marks & PAYLOAD_EVENT && !(marks & ~(PAYLOAD_EVENT | PAYLOAD_OTHER)))
        return LATER_LAST;
    if (marks == PAYLOAD_CHAT_STATE)
        return LATER_LAST;
    if (marks && !(marks & ~(PAYLOAD_CHAT_STATE | PAYLOAD_RECEIPT | PAYLOAD_MARKER)))
        return LATER;
    return IMPORTANT;
}

static enum importance importance_of(const struct envelope *e)
{
    if (e->kind == STANZA_MESSAGE)
        return of_message(e);
    if (e->type != PRESENCE_AVAILABLE && e->type != PRESENCE_UNAVAILABLE)
        return IMPORTANT;
    /* A room's answer to a join (XEP-0045 §7.2.2) is waited for. */
    return has(e, "http://jabber.org/protocol/muc#user") && has(e, "<status") ? IMPORTANT : LATER_LAST;
}

/* Does NOW say all that OLD has said? */
static bool replaces(const struct envelope *now, const struct envelope *old)
{
    if (now->kind != old->kind || strcmp(now->from, old->from) != 0)
        return false;
    if (now->kind == STANZA_PRESENCE)
        return true;
    size_t n_now = 0, n_old = 0;
    const char *node = payload_event_node(now, &n_now), *node_old = payload_event_node(old, &n_old);
    if (node && node_old)
        return n_now == n_old && memcmp(node, node_old, n_now) == 0;
    return !node && !node_old && payload_marks(old) == PAYLOAD_CHAT_STATE;
}

/* ---- holding ---- */

static void drop(struct csi *c, struct envelope *e)
{
    list_remove(&e->link);
    c->n--;
    c->n_bytes -= e->n_bytes;
    envelope_free(e);
}

static void flush(struct c2s_home *h, struct csi *c)
{
    for (struct list *item; (item = list_first(&c->held));) {
        struct envelope *e = list_entry(item, struct envelope, link);
        home_write_stanza(h, e, NULL);
        drop(c, e);
    }
}

static void hold(struct c2s_home *h, struct csi *c, const struct envelope *e, bool last)
{
    struct envelope *old;
    if (last) {
        list_for_each(old, &c->held, struct envelope, link) if (replaces(e, old)) drop(c, old);
    }
    if (c->n >= HELD_STANZAS || c->n_bytes + e->n_bytes > HELD_BYTES)
        flush(h, c);
    struct envelope *copy = envelope_copy(e, NULL);
    list_append(&c->held, &copy->link);
    c->n++;
    c->n_bytes += copy->n_bytes;
}

static enum hook_output to_client(struct c2s_home *h, const struct envelope *e, const char *extra_xml)
{
    struct csi *c = find(h);
    if (!c)
        return HOOK_WRITE;
    enum importance i = e->kind == STANZA_IQ || extra_xml ? IMPORTANT : importance_of(e);
    switch (i) {
    case IMPORTANT:
        flush(h, c);
        return HOOK_WRITE;
    case NEVER:
        return HOOK_DROP;
    default:
        hold(h, c, e, i == LATER_LAST);
        return HOOK_HOLD;
    }
}

/* ---- §4.2 ---- */

static void set_inactive(struct c2s_home *h)
{
    struct csi_state *st = hooks_state(h, FEATURE_csi, sizeof *st);
    if (st->csi)
        return;
    st->csi = mem_new(struct csi);
    list_init(&st->csi->held);
    hooks_set(h, FEATURE_csi, HOOK_TO_CLIENT, ON_STANZA, true);
}

static void end(struct c2s_home *h)
{
    struct csi_state *st = hooks_state(h, FEATURE_csi, 0);
    struct csi *c = st->csi;
    for (struct list *item; (item = list_first(&c->held));)
        drop(c, list_entry(item, struct envelope, link));
    mem_free(c);
    st->csi = NULL;
    hooks_set(h, FEATURE_csi, HOOK_TO_CLIENT, ON_STANZA, false);
}

void csi_set_active(struct c2s_home *h)
{
    struct csi *c = find(h);
    if (!c)
        return;
    flush(h, c);
    end(h);
}

static void session_ended(struct c2s_home *h)
{
    if (find(h))
        end(h);
}

static void handle_inactive(struct c2s_home *h, struct xml_stanza *element)
{
    (void)element;
    set_inactive(h);
}

static void handle_active(struct c2s_home *h, struct xml_stanza *element)
{
    (void)element;
    csi_set_active(h);
}

static const struct xmpp_element_handler elements[] = {
    {NS_CSI, "inactive", .bound = true, .handle = handle_inactive},
    {NS_CSI, "active", .bound = true, .handle = handle_active},
    {0},
};
/* XEP-0386 §5: a client that logs in while nobody looks. */
static enum inline_result bind2_inactive(struct c2s_home *h, const struct xml *request, struct buf *answer)
{
    (void)request, (void)answer;
    set_inactive(h);
    return INLINE_DONE;
}

static const struct xmpp_inline inline_bind2[] = {
    {NS_CSI, "inactive", .announced = NS_CSI, .handle = bind2_inactive},
    {0},
};
const struct xmpp_feature feature_csi = {
    .name = "csi",
    .xep = "XEP-0352 1.0.0",
    .stream_feature = "<csi xmlns='" NS_CSI "'/>",
    .elements = elements,
    .inline_bind2 = inline_bind2,
    .hooks = {.to_client = to_client, .session_ended = session_ended},
};
