/* Stream features after SASL and resource binding (RFC 6120 §7). */
#include "base/clock.h"
#include "im/address.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include "replication/levels.h"
#include <string.h>

enum { BIND_TRIES_MAX = 8 }; /* RFC 6120 §7.7.3: at least 5, no more than 10 */

/* XEP-0478: of a stream that has logged in. */
static void add_limits(struct buf *out, const struct im_settings *set)
{
    if (set->level < LEVEL_3)
        return;
    buf_addf(out, "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>%u</max-bytes>", set->stanza_bytes);
    if (set->idle_timeout_s)
        buf_addf(out, "<idle-seconds>%u</idle-seconds>", set->idle_timeout_s);
    buf_adds(out, "</limits>");
}

static bool is_told(const struct xmpp_feature *f, const struct c2s_home *h, enum stream_stage stage)
{
    return f->stream_feature && feature_is_on(f, h->conn->shard) &&
           (!f->stream_feature_is_on || f->stream_feature_is_on(h, stage));
}

void home_features(struct c2s_home *h, enum stream_stage stage)
{
    struct buf out = {0};
    buf_adds(&out, "<stream:features>");
    if (stage == STREAM_UNBOUND)
        buf_adds(&out, "<bind xmlns='" NS_BIND "'/>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if (is_told(*f, h, stage))
            buf_adds(&out, (*f)->stream_feature);
    add_limits(&out, &h->conn->shard->settings);
    buf_adds(&out, "</stream:features>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void answer_bound(struct c2s_home *h, const char *id)
{
    struct buf out = {0};
    buf_adds(&out, "<iq type='result' id='");
    xml_escape(&out, id, strlen(id));
    buf_adds(&out, "'><bind xmlns='" NS_BIND "'><jid>");
    xml_escape(&out, h->session.jid, strlen(h->session.jid));
    buf_adds(&out, "</jid></bind></iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void write_error(struct c2s_home *h, enum stanza_error error, const char *text)
{
    struct buf out = {0};
    buf_adds(&out, "<iq type='error' id='");
    xml_escape(&out, h->bind_id, strlen(h->bind_id));
    buf_adds(&out, "'>");
    stanza_error_write(&out, error, text);
    buf_adds(&out, "</iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void refuse_bind(struct c2s_home *h, int code, const char *text)
{
    h->n_bind_failures++;
    switch (code) {
    case ERR_CONFLICT:
        write_error(h, STANZA_CONFLICT, text);
        break;
    case ERR_LIMIT:
    case ERR_AGAIN: /* for too long */
        write_error(h, STANZA_RESOURCE_CONSTRAINT, text);
        break;
    case ERR_UNAVAILABLE: /* it will be sent to the right one when it comes back */
        home_fail(h, "reset", text);
        break;
    default:
        home_fail(h, "not-authorized", text);
        break;
    }
}

int home_try_bind(struct c2s_home *h, struct err_ctx *err)
{
    struct shard *s = h->conn->shard;
    if (shard_check_lease(s) == LEASE_WAIT)
        return err_set(err, ERR_AGAIN, "this node has lost the cluster's majority for a moment");
    if (s->feed_index < h->login->route_index)
        return err_set(err, ERR_AGAIN, "this node is behind in replication");
    return session_open(&h->session, s, h->login->uid, h->bind_resource, &c2s_session_ops, err);
}

/* True: it waits. */
static bool bind_or_wait(struct c2s_home *h)
{
    struct shard *s = h->conn->shard;
    struct err_ctx err = {0};
    int rc = home_try_bind(h, &err);
    if (rc == ERR_AGAIN && loop_now_ms(s->loop) - h->bind_ms < HOME_BIND_WAIT_MS)
        return true;
    list_remove(&h->binding);
    if (rc < 0) {
        refuse_bind(h, rc, err.text);
        return false;
    }
    h->state = HOME_BOUND;
    list_remove(&h->unbound);
    hooks_open(h);
    answer_bound(h, h->bind_id);
    home_forget_login(h);
    return false;
}

static bool read_resource(struct c2s_home *h, const struct xml *root, const struct xml *bind,
                          struct arena *arena)
{
    const char *wanted = xml_child_text(bind, "resource", NS_BIND, arena);
    char resource[JID_PART_MAX + 1];
    mem_free(h->bind_resource);
    h->bind_resource = NULL;
    if (!wanted || !*wanted)
        return true;
    if (address_prep_resource(resource, wanted, strlen(wanted), NULL) < 0) {
        h->n_bind_failures++;
        home_refuse(h, root, STANZA_BAD_REQUEST, "the resource is not valid");
        return false;
    }
    h->bind_resource = mem_strdup(resource);
    return true;
}

void home_bind(struct c2s_home *h, struct xml_stanza *stanza)
{
    const struct xml *root = stanza->root;
    const char *type = xml_attr(root, "type"), *id = xml_attr(root, "id");
    const struct xml *bind = xml_child(root, "bind", NS_BIND);
    if (!xml_is(root, "iq", NS_CLIENT) || !bind || !type || strcmp(type, "set") != 0 || !id) {
        /* §7.1: nothing else before a resource is bound. */
        home_fail(h, "not-authorized", "bind a resource first");
        return;
    }
    if (h->n_bind_failures >= BIND_TRIES_MAX) {
        home_fail(h, "policy-violation", "too many attempts to bind a resource"); /* §7.7.3 */
        return;
    }
    struct shard *s = h->conn->shard;
    if (shard_check_lease(s) >= LEASE_REFUSE) {
        if (h->conn)
            home_fail(h, "resource-constraint", "this node cannot reach the cluster's majority");
        return;
    }
    if (!read_resource(h, root, bind, stanza->arena))
        return;
    mem_free(h->bind_id);
    h->bind_id = mem_strdup(id);
    h->bind_ms = loop_now_ms(s->loop);
    if (!bind_or_wait(h))
        return;
    /* What the client says behind it waits, too. */
    list_append(&s->xmpp->binding, &h->binding);
    h->conn->ops->pause(h->conn);
}

void home_bind_again(struct xmpp_shard *xs)
{
    struct c2s_home *h;
    list_for_each(h, &xs->binding, struct c2s_home, binding)
    {
        if (shard_check_lease(xs->shard) >= LEASE_REFUSE) {
            home_fail(h, "resource-constraint", "this node cannot reach the cluster's majority");
        } else if (h->resume) {
            sm_resume_again(h);
        } else if (h->inlined) {
            home_inline_bind(h);
        } else if (!bind_or_wait(h) && h->conn && !h->session.paused) {
            h->conn->ops->resume(h->conn);
        }
    }
}
