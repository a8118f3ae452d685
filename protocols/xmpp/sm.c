#include "protocols/xmpp/sm.h"
#include "base/xml.h"
#include "im/message.h"
#include "im/router.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

enum { FULL_STANZAS = 256, FULL_BYTES = 256 << 10, RING_FIRST = 16 };

void sm_start(struct c2s_home *h)
{
    h->sm = mem_new(struct sm);
    h->sm->home = h;
    list_init(&h->sm->link);
    list_init(&h->sm->asking);
    sm_begin(&h->session);
}

/* ---- what the client has not acknowledged ---- */

bool sm_is_stanza(const void *data, size_t n_bytes)
{
    static const char *const starts[] = {"<message", "<presence", "<iq"};
    for (size_t i = 0; i < n_elements(starts); i++) {
        size_t n = strlen(starts[i]);
        if (n_bytes > n && memcmp(data, starts[i], n) == 0)
            return true;
    }
    return false;
}

static void add_length(struct sm *sm, size_t n_bytes)
{
    if (sm->n == sm->cap) {
        unsigned cap = sm->cap ? sm->cap * 2 : RING_FIRST;
        uint32_t *lengths = mem_alloc(cap * sizeof *lengths);
        for (unsigned i = 0; i < sm->n; i++)
            lengths[i] = sm->lengths[(sm->first + i) % sm->cap];
        mem_free(sm->lengths);
        sm->lengths = lengths;
        sm->cap = cap;
        sm->first = 0;
    }
    sm->lengths[(sm->first + sm->n++) % sm->cap] = (uint32_t)n_bytes;
}

static size_t take_length(struct sm *sm)
{
    size_t n = sm->lengths[sm->first];
    sm->first = (sm->first + 1) % sm->cap;
    sm->n--;
    return n;
}

void sm_wrote(struct c2s_home *h, const void *data, size_t n_bytes)
{
    struct sm *sm = h->sm;
    buf_add(&sm->unacked, data, n_bytes);
    add_length(sm, n_bytes);
    h->session.sm->n_out++;
    if (sm->unacked.n - sm->at > h->session.shard->settings.unacked_bytes)
        home_overflow(h);
}

bool sm_is_full(const struct c2s_home *h)
{
    return h->sm && (h->sm->n >= FULL_STANZAS || h->sm->unacked.n - h->sm->at >= FULL_BYTES);
}

void sm_await_ack(struct c2s_home *h)
{
    if (list_is_empty(&h->sm->asking))
        list_append(&h->session.shard->xmpp->asking, &h->sm->asking);
}

void sm_ask(struct c2s_home *h)
{
    static const char r[] = "<r xmlns='" NS_SM "'/>";
    struct sm *sm = h->sm;
    if (!h->conn || sm->asked || !sm->n)
        return;
    sm->asked = true;
    sm_await_ack(h);
    sm->asked_ms = loop_now_ms(h->session.shard->loop);
    home_write_raw(h, r, sizeof r - 1);
}

bool sm_take_ack(struct c2s_home *h, uint32_t n)
{
    struct sm *sm = h->sm;
    struct session *s = &h->session;
    uint32_t more = n - (uint32_t)s->sm->n_acked; /* §4: the count wraps at 2^32 */
    if (more > sm->n)
        return false;
    for (uint32_t i = 0; i < more; i++)
        sm->at += take_length(sm);
    if (sm->at == sm->unacked.n) {
        buf_fini(&sm->unacked);
        sm->unacked = (struct buf){0};
        sm->at = 0;
    } else if (sm->at > sm->unacked.n / 2) {
        buf_cut(&sm->unacked, sm->at);
        sm->at = 0;
    }
    sm_acked(s, s->sm->n_acked + more);
    return true;
}

void sm_write_again(struct c2s_home *h)
{
    struct sm *sm = h->sm;
    sm->asked = false;
    if (sm->n)
        home_write_raw(h, sm->unacked.data + sm->at, sm->unacked.n - sm->at);
    sm_ask(h);
}

/* ---- what the client is told ---- */

void sm_write_ack(struct c2s_home *h)
{
    struct session *s = &h->session;
    struct buf out = {0};
    h->sm->n_told = sm_n_counted(s);
    buf_addf(&out, "<a xmlns='" NS_SM "' h='%u'/>", (unsigned)(uint32_t)h->sm->n_told);
    home_write_raw(h, out.data, out.n);
    buf_fini(&out);
}

void sm_on_counted(struct session *s)
{
    struct c2s_home *h = home_of(s);
    struct sm *sm = h->sm;
    if (!sm || !h->conn || sm->n_told >= sm->n_asked)
        return;
    if (sm_n_counted(s) >= sm->n_asked)
        sm_write_ack(h);
    else if (sm_n_settled_with_state(s) >= sm->n_asked)
        sm_want_counted(s); /* all of it is safe, and only the row is to be written */
}

/* ---- without a connection ---- */

bool sm_may_detach(const struct c2s_home *h)
{
    const struct shard *s = h->session.shard;
    return h->sm && h->sm->resumable && h->state == HOME_BOUND && session_is_open(&h->session) &&
           !s->stopping && im_is_serving(s->im);
}

void sm_detach(struct c2s_home *h)
{
    struct sm *sm = h->sm;
    struct shard *s = h->session.shard;
    sm->asked = false;
    session_resume(&h->session, PAUSE_OUTPUT);
    sm->until_ms = loop_now_ms(s->loop) + sm->timeout_s * UINT64_C(1000);
    list_remove(&sm->link);
    list_append(&s->xmpp->detached, &sm->link);
    session_detach(&h->session);
}

struct closing {
    struct list link; /* in xs->closing */
    uint64_t uid, row;
    uint32_t place;
};

static void on_closed(void *user, const struct proposal_result *result)
{
    struct closing *c = user;
    (void)result; /* if it failed, the row goes with its time-out */
    list_remove(&c->link);
    mem_free(c);
}

bool sm_is_closing(const struct shard *s, uint64_t uid, uint64_t row, uint32_t place)
{
    const struct closing *c;
    list_for_each(c, &s->xmpp->closing, struct closing,
                  link) if (c->uid == uid && c->row == row && c->place == place) return true;
    return false;
}

void sm_forget_closing(struct xmpp_shard *xs)
{
    struct closing *c;
    list_for_each(c, &xs->closing, struct closing, link) mem_free(c);
}

void sm_close_row(struct shard *s, uint64_t uid, uint64_t row, uint32_t place, bool keep)
{
    Imp__SessionRef ref = IMP__SESSION_REF__INIT, *refs[] = {&ref};
    ref.uid = uid;
    ref.session = row;
    ref.session_place = place;
    Imp__SessionClose body = IMP__SESSION_CLOSE__INIT;
    body.n_sessions = 1;
    body.sessions = refs;
    body.keep = keep;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_SESSION_CLOSE;
    command.session_close = &body;
    struct closing *c = mem_new(struct closing);
    *c = (struct closing){.uid = uid, .row = row, .place = place};
    list_append(&s->xmpp->closing, &c->link);
    if (shard_submit(s, &command, on_closed, c) < 0)
        on_closed(c, NULL);
}

/* §5: as if it had been sent to a resource that is not there. Messages are taken care of by the session. */
static void return_iq(struct shard *s, const char *data, size_t n_bytes)
{
    struct arena a;
    struct xml *root;
    arena_init(&a);
    if (xml_parse(&root, &a, data, n_bytes, &xml_limits_default, NULL) == 0) {
        const char *from = xml_attr(root, "from"), *to = xml_attr(root, "to");
        struct envelope *e = from && to && strchr(from, '@') ? stored_stanza(data, n_bytes, from, to) : NULL;
        if (e && (e->type == IQ_GET || e->type == IQ_SET))
            router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
        envelope_free(e);
    }
    arena_fini(&a);
}

void sm_moves_on(struct c2s_home *h)
{
    h->sm->keep_row = true;
    if (h->session.sm)
        h->session.sm->moves = true;
}

void sm_stop(struct c2s_home *h)
{
    struct sm *sm = h->sm;
    struct session *s = &h->session;
    if (!sm)
        return;
    h->sm = NULL;
    list_remove(&sm->link);
    list_remove(&sm->asking);
    if (s->sm && s->sm->row && !sm->keep_row)
        sm_close_row(s->shard, s->user->uid, s->sm->row, s->sm->row_place, false);
    for (size_t at = sm->at; sm->n;) {
        size_t n = take_length(sm);
        const char *data = sm->unacked.data + at;
        if (n > 3 && memcmp(data, "<iq", 3) == 0 && !s->shard->stopping)
            return_iq(s->shard, data, n);
        at += n;
    }
    buf_fini(&sm->unacked);
    mem_free(sm->lengths);
    mem_free(sm);
}
