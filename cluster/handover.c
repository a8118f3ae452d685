#include "cluster/handover.h"

#include "base/buf.h"
#include "base/err.h"
#include <string.h>

void handover_init(struct handover *h, uint32_t self, const struct handover_ops *ops)
{
    memset(h, 0, sizeof(*h));
    h->ops = *ops;
    h->self = self;
}

static struct handover_peer *find(struct handover *h, uint32_t node)
{
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++)
        if (h->peers[i].row.node == node)
            return &h->peers[i];
    return NULL;
}

/* NULL: too many. What is heard of a node that is no member is kept, since its row may be applied only later;
 * a member takes the place of such a one. */
static struct handover_peer *get(struct handover *h, uint32_t node, bool is_member)
{
    struct handover_peer *p = find(h, node);
    for (unsigned i = 0; !p && i < HANDOVER_MAX_NODES; i++)
        if (!h->peers[i].row.node || (is_member && !h->peers[i].is_member)) {
            p = &h->peers[i];
            *p = (struct handover_peer){.row.node = node};
        }
    return p;
}

/* ---- what others have handed over ---- */

static bool may_serve(const struct handover_peer *p)
{
    return p->is_member && (p->row.up || p->row.leaving);
}

static bool take_claim(struct handover_peer *p, uint64_t epoch, struct handover_claim c)
{
    if (epoch < p->epoch || (epoch == p->epoch && c.released <= p->claim.released))
        return false;
    p->epoch = epoch;
    p->claim = c;
    return true;
}

/* It says in the log that it has left, and may come up again: that may be faster than what it has sent over
 * its links. Bounded: only order depends on it. */
static bool has_just_left(struct handover *h, uint64_t now_ms, const struct handover_peer *p)
{
    return p->is_member && p->left_ms && now_ms - p->left_ms < HANDOVER_ORDER_MS &&
           h->ops.hears(h->ops.user, p->row.node);
}

/* Who is not heard itself is believed what others heard. */
static void take_told(struct handover *h, struct handover_peer *p)
{
    if (!p->told.released || h->ops.hears(h->ops.user, p->row.node))
        return;
    take_claim(p, p->told_epoch, p->told);
    p->told = (struct handover_claim){0};
}

static uint64_t released_by(struct handover *h, uint64_t now_ms, const struct handover_peer *p)
{
    uint64_t released = p->epoch >= p->row.epoch ? p->claim.released : 0;
    /* Before it came up it had nobody: its earlier time ended with node_down, or with node_left. */
    if (p->row.up && p->row.up_index && released < p->row.up_index - 1 && !has_just_left(h, now_ms, p))
        released = p->row.up_index - 1;
    return released;
}

static void find_floor(struct handover *h, uint64_t now_ms)
{
    uint64_t at = 0,
             floor = h->wanted; /* what comes later may make others homes that are not looked at here */
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++) {
        struct handover_peer *p = &h->peers[i];
        if (!p->row.node || p->row.node == h->self)
            continue;
        take_told(h, p);
        uint64_t released = released_by(h, now_ms, p);
        bool counts = may_serve(p) || (has_just_left(h, now_ms, p) && released < p->row.up_index);
        if (counts && released < floor)
            floor = released;
        if (counts && p->claim.at > at)
            at = p->claim.at;
    }
    if (floor == h->floor)
        return;
    h->floor = floor;
    h->ops.on_floor(h->ops.user, floor, at);
}

/* ---- frames: u64 routed, u16 n, n times { u32 node, u64 epoch, u64 released, u64 at } ---- */

static void add_claim(struct buf *out, uint32_t node, uint64_t epoch, struct handover_claim c)
{
    buf_add_u32(out, node);
    buf_add_u64(out, epoch);
    buf_add_u64(out, c.released);
    buf_add_u64(out, c.at);
}

static void send_to(struct handover *h, struct handover_peer *to)
{
    struct buf all = {0}, frame = {0};
    unsigned n = 1;
    add_claim(&all, h->self, h->epoch, (struct handover_claim){h->released, h->released_at});
    for (unsigned i = 0; i < HANDOVER_MAX_NODES && n < HANDOVER_MAX_NODES; i++) {
        const struct handover_peer *p = &h->peers[i];
        if (!p->is_member || p->row.node == h->self || p == to)
            continue;
        if (p->told_epoch > p->epoch || (p->told_epoch == p->epoch && p->told.released > p->claim.released))
            add_claim(&all, p->row.node, p->told_epoch, p->told);
        else
            add_claim(&all, p->row.node, p->epoch, p->claim);
        n++;
    }
    buf_add_u64(&frame, h->routed);
    buf_add_u16(&frame, (uint16_t)n);
    buf_add(&frame, all.data, all.n);
    int rc = h->ops.send(h->ops.user, to->row.node, frame.data, frame.n);
    to->resend = rc < 0 && rc != ERR_UNAVAILABLE;
    buf_fini(&all);
    buf_fini(&frame);
}

static void send_all(struct handover *h)
{
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++)
        if (h->peers[i].is_member && h->peers[i].row.node != h->self)
            send_to(h, &h->peers[i]);
}

/* ---- what we hand over ---- */

static bool are_all_routed(struct handover *h, uint64_t now_ms, uint64_t index)
{
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++) {
        const struct handover_peer *p = &h->peers[i];
        if (p->row.node == h->self || !(may_serve(p) || has_just_left(h, now_ms, p)))
            continue;
        /* Who has left has nothing more to send once it has said that it passed everything on. */
        bool routed = p->routed_epoch >= p->row.epoch && p->routed >= index;
        if (!may_serve(p))
            routed |= p->epoch >= p->row.epoch && p->claim.released >= p->row.up_index;
        if (!routed && h->ops.hears(h->ops.user, p->row.node))
            return false;
    }
    return true;
}

static void ask(struct handover *h, enum handover_phase phase, uint64_t index)
{
    h->is_asking[phase] = true;
    h->ops.ask(h->ops.user, phase, index);
}

static void advance(struct handover *h, uint64_t now_ms)
{
    if (!h->is_asking[HANDOVER_ROUTED] && h->wanted > h->routed) {
        h->asked_routed = h->wanted;
        ask(h, HANDOVER_ROUTED, h->asked_routed);
    }
    if (h->is_asking[HANDOVER_RELEASED] || h->routed <= h->released)
        return;
    if (h->asked_released <= h->released) {
        h->asked_released = h->routed;
        h->order_since_ms = now_ms;
    }
    if (are_all_routed(h, now_ms, h->asked_released) || now_ms - h->order_since_ms >= HANDOVER_ORDER_MS)
        ask(h, HANDOVER_RELEASED, h->asked_released);
}

void handover_answered(struct handover *h, uint64_t now_ms, enum handover_phase phase, uint64_t index)
{
    h->is_asking[phase] = false;
    if (phase == HANDOVER_ROUTED) {
        h->routed = h->asked_routed;
    } else {
        h->released = h->asked_released;
        h->released_at = index;
    }
    send_all(h);
    advance(h, now_ms);
}

/* ---- what comes in ---- */

void handover_set_epoch(struct handover *h, uint64_t epoch)
{
    h->epoch = epoch; /* the links begin anew with it, and are told everything then */
}

static void set_row(struct handover_peer *p, uint64_t now_ms, const struct handover_node *row)
{
    bool has_left = may_serve(p) && !row->up && !row->leaving && row->epoch == p->row.epoch;
    if (has_left)
        p->left_ms = now_ms;
    else if (row->epoch != p->row.epoch)
        p->left_ms = 0;
    p->row = *row;
}

void handover_set_nodes(struct handover *h, uint64_t now_ms, const struct handover_node *nodes, size_t n)
{
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++) {
        struct handover_peer *p = &h->peers[i];
        bool is_member = false;
        for (size_t j = 0; j < n && !is_member; j++)
            if (nodes[j].node == p->row.node) {
                set_row(p, now_ms, &nodes[j]);
                is_member = true;
            }
        p->is_member = is_member;
    }
    for (size_t i = 0; i < n; i++) {
        struct handover_peer *p = get(h, nodes[i].node, true);
        if (p && !p->is_member) {
            p->row = nodes[i];
            p->is_member = true;
        }
    }
    advance(h, now_ms);
}

void handover_moved(struct handover *h, uint64_t now_ms, uint64_t index)
{
    if (index > h->wanted)
        h->wanted = index;
    find_floor(h, now_ms);
    advance(h, now_ms);
}

static void hear_claim(struct handover *h, uint32_t from, uint32_t node, uint64_t epoch,
                       struct handover_claim c)
{
    struct handover_peer *p = node && node != h->self ? get(h, node, false) : NULL;
    if (!p)
        return;
    if (node == from) {
        h->has_news |= take_claim(p, epoch, c);
    } else if (epoch > p->told_epoch || (epoch == p->told_epoch && c.released > p->told.released)) {
        h->has_news |= epoch > p->epoch || (epoch == p->epoch && c.released > p->claim.released);
        p->told_epoch = epoch;
        p->told = c;
    }
}

void handover_on_frame(struct handover *h, uint64_t now_ms, uint32_t from, uint64_t epoch,
                       const uint8_t *data, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint64_t routed = read_u64(&r);
    unsigned n = read_u16(&r);
    struct handover_peer *p = get(h, from, false);
    if (r.failed || !p || from == h->self)
        return;
    if (epoch > p->routed_epoch || (epoch == p->routed_epoch && routed > p->routed)) {
        p->routed_epoch = epoch;
        p->routed = routed;
    }
    if (routed > h->heard)
        h->heard = routed;
    for (unsigned i = 0; i < n && i < HANDOVER_MAX_NODES; i++) {
        uint32_t node = read_u32(&r);
        uint64_t claimed_in = read_u64(&r), released = read_u64(&r), at = read_u64(&r);
        if (r.failed)
            break;
        hear_claim(h, from, node, claimed_in, (struct handover_claim){released, at});
    }
    find_floor(h, now_ms);
    advance(h, now_ms);
}

void handover_link_up(struct handover *h, uint32_t node)
{
    struct handover_peer *p = find(h, node);
    if (p && p->is_member)
        send_to(h, p);
}

void handover_tick(struct handover *h, uint64_t now_ms)
{
    find_floor(h, now_ms);
    if (h->has_news && now_ms - h->repeated_ms >= HANDOVER_REPEAT_MS) {
        h->has_news = false;
        h->repeated_ms = now_ms;
        send_all(h);
    }
    for (unsigned i = 0; i < HANDOVER_MAX_NODES; i++)
        if (h->peers[i].resend && h->peers[i].is_member)
            send_to(h, &h->peers[i]);
    advance(h, now_ms);
}
