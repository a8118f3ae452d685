/* Calls between nodes: the request goes out on the connection that we dialled, the reply comes back on it. */
#include "base/mem.h"
#include "cluster/link_session.h"
#include "plane.pb-c.h"
#include <stdio.h>
#include <string.h>

struct call {
    struct list link;
    struct links *links;
    uint64_t id, session; /* session 0: answered without the network */
    struct timer timeout;
    struct deferred later;
    int later_code;
    link_reply_fn *on_reply;
    void *user;
};
/* Of a request of another node: SESSION and CALL. Of a call to ourselves: LOCAL. */
struct link_request {
    struct links *links;
    uint64_t session, call;
    bool local;
};

static void finish(struct call *c, int code, const uint8_t *data, size_t n_bytes)
{
    list_remove(&c->link);
    c->links->n_calls--;
    timer_stop(&c->timeout);
    loop_cancel_deferred(&c->later);
    link_reply_fn *on_reply = c->on_reply;
    void *user = c->user;
    mem_free(c);
    if (on_reply)
        on_reply(user, code, data, n_bytes);
}

static struct call *find_call(struct links *l, uint64_t id)
{
    struct call *c;
    list_for_each(c, &l->calls, struct call, link) if (c->id == id) return c;
    return NULL;
}

static void on_timeout(struct timer *t)
{
    finish(container_of(t, struct call, timeout), ERR_TIMEOUT, NULL, 0);
}

static void on_later(struct deferred *d)
{
    struct call *c = container_of(d, struct call, later);
    finish(c, c->later_code, NULL, 0);
}

static struct link_method *find_method(struct links *l, const char *name)
{
    struct link_method *m;
    list_for_each(m, &l->methods, struct link_method, link) if (!strcmp(m->name, name)) return m;
    return NULL;
}

static void call_here(struct links *l, struct call *c, const char *method, const void *data, size_t n_bytes)
{
    struct link_method *m = find_method(l, method);
    if (!m) {
        c->later_code = ERR_UNSUPPORTED;
        loop_defer(l->loop, &c->later);
        return;
    }
    struct link_request *r = mem_new(struct link_request);
    *r = (struct link_request){.links = l, .call = c->id, .local = true};
    m->fn(m->user, r, l->node_id, data, n_bytes);
}

void link_call(struct links *l, uint32_t node, const char *method, const void *data, size_t n_bytes,
               unsigned timeout_ms, link_reply_fn *on_reply, void *user)
{
    struct call *c = mem_new(struct call);
    c->links = l;
    c->id = ++l->next_call;
    c->on_reply = on_reply;
    c->user = user;
    c->later.fn = on_later;
    list_init(&c->later.link);
    timer_init(&c->timeout, l->loop, on_timeout);
    timer_start(&c->timeout, timeout_ms, 0);
    list_append(&l->calls, &c->link);
    l->n_calls++;
    struct link_peer *p = link_peer_find(l, node);
    if (node == l->node_id) {
        call_here(l, c, method, data, n_bytes);
        return;
    }
    bool too_much = l->n_calls > LINK_MAX_CALLS || n_bytes > LINK_FRAME_MAX - 1024;
    if (too_much || !p || !p->out || p->out->state != SESSION_OPEN) {
        c->later_code = too_much ? ERR_LIMIT : ERR_UNAVAILABLE;
        loop_defer(l->loop, &c->later);
        return;
    }
    c->session = p->out->id;
    Imp__LinkCall message = IMP__LINK_CALL__INIT;
    message.id = c->id;
    message.method = (char *)method;
    message.data = (ProtobufCBinaryData){n_bytes, (uint8_t *)data};
    size_t n = imp__link_call__get_packed_size(&message);
    uint8_t *packed = mem_alloc(n);
    imp__link_call__pack(&message, packed);
    link_session_write(p->out, LINK_CALL, packed, n);
    mem_free(packed);
}

void links_handle_call(struct links *l, const char *method, link_call_fn *fn, void *user)
{
    struct link_method *m = mem_new(struct link_method);
    snprintf(m->name, sizeof(m->name), "%s", method);
    m->fn = fn;
    m->user = user;
    list_append(&l->methods, &m->link);
}

static void write_reply(struct link_session *s, uint64_t id, int code, const void *data, size_t n_bytes)
{
    Imp__LinkReply message = IMP__LINK_REPLY__INIT;
    message.id = id;
    message.code = code;
    if (n_bytes > LINK_FRAME_MAX - 1024) {
        message.code = ERR_LIMIT;
        n_bytes = 0;
    }
    message.data = (ProtobufCBinaryData){n_bytes, (uint8_t *)data};
    size_t n = imp__link_reply__get_packed_size(&message);
    uint8_t *packed = mem_alloc(n);
    imp__link_reply__pack(&message, packed);
    link_session_write(s, LINK_REPLY, packed, n);
    mem_free(packed);
}

void link_answer(struct link_request *request, int code, const void *data, size_t n_bytes)
{
    struct links *l = request->links;
    if (request->local) {
        struct call *c = find_call(l, request->call);
        if (c)
            finish(c, code, data, n_bytes);
    } else {
        struct link_session *s = link_session_find(l, request->session);
        if (s && s->state == SESSION_OPEN)
            write_reply(s, request->call, code, data, n_bytes);
    }
    mem_free(request);
}

void link_call_on_request(struct link_session *s, const uint8_t *data, size_t n_bytes)
{
    Imp__LinkCall *message = imp__link_call__unpack(NULL, n_bytes, data);
    if (!message) {
        link_session_end(s, "malformed call");
        return;
    }
    struct link_method *m = find_method(s->links, message->method);
    if (m) {
        struct link_request *r = mem_new(struct link_request);
        *r = (struct link_request){.links = s->links, .session = s->id, .call = message->id};
        m->fn(m->user, r, s->node, message->data.data, message->data.len);
    } else {
        write_reply(s, message->id, ERR_UNSUPPORTED, NULL, 0);
    }
    imp__link_call__free_unpacked(message, NULL);
}

void link_call_on_reply(struct link_session *s, const uint8_t *data, size_t n_bytes)
{
    Imp__LinkReply *message = imp__link_reply__unpack(NULL, n_bytes, data);
    if (!message) {
        link_session_end(s, "malformed reply");
        return;
    }
    struct call *c = find_call(s->links, message->id);
    if (c && c->session == s->id)
        finish(c, message->code, message->data.data, message->data.len);
    imp__link_reply__free_unpacked(message, NULL);
}

void link_call_session_lost(struct link_session *s)
{
    struct call *c;
    list_for_each(c, &s->links->calls, struct call, link)
    {
        if (c->session != s->id || c->later_code)
            continue;
        c->later_code = ERR_UNAVAILABLE;
        loop_defer(s->links->loop, &c->later);
    }
}

void link_call_cancel_all(struct links *l)
{
    while (!list_is_empty(&l->calls))
        finish(list_entry(list_first(&l->calls), struct call, link), ERR_CANCELED, NULL, 0);
}
