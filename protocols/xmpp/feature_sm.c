/* Stream management (XEP-0198): enable, <r/> and <a/>. Resumption is in sm_resume.c. */
#include "base/clock.h"
#include "im/message.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include "replication/levels.h"
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { ID_BYTES = 16 };

static void write_failed(struct c2s_home *h, const char *condition)
{
    struct buf out = {0};
    buf_addf(&out, "<failed xmlns='" NS_SM "'><%s xmlns='" NS_STANZAS "'/></failed>", condition);
    home_write_raw(h, out.data, out.n);
    buf_fini(&out);
}

/* ---- enable ---- */

struct enabling {
    char id[2 * ID_BYTES + 1];
    unsigned timeout_s;
    uint64_t inlined; /* of Bind 2: who waits; 0: nobody */
};

void sm_location(struct shard *s, struct buf *out)
{
    const struct member *m = members_find(s->members, im_node_id(s->im));
    if (!m || !*m->public_name)
        return;
    buf_adds(out, " location='");
    xml_escape(out, m->public_name, strlen(m->public_name));
    if (m->xmpp_port && m->xmpp_port != 5222)
        buf_addf(out, ":%u", m->xmpp_port);
    buf_addc(out, '\'');
}

static void write_enabled(struct shard *s, const struct enabling *e, bool resumable, struct buf *out)
{
    buf_adds(out, "<enabled xmlns='" NS_SM "'");
    if (resumable) {
        buf_addf(out, " id='%s' resume='true' max='%u'", e->id, e->timeout_s);
        sm_location(s, out);
    }
    buf_adds(out, "/>");
}

/* From now on the session has a row; without one it is not resumed, and counts all the same. */
static void on_opened(struct session *s, struct shard *shard, void *user,
                      const struct proposal_result *result)
{
    struct enabling *e = user;
    struct c2s_home *h = s ? home_of(s) : NULL;
    if (h && h->conn) {
        if (!h->sm)
            sm_start(h);
        bool resumable = result->code == 0;
        if (resumable) {
            h->sm->resumable = true;
            h->sm->timeout_s = e->timeout_s;
            SHA256((const uint8_t *)e->id, strlen(e->id), h->sm->id_hash);
            s->sm->row = result->value;
            s->sm->row_place = (uint32_t)result->value2;
        }
        struct buf out = {0};
        write_enabled(shard, e, resumable, &out);
        if (!e->inlined)
            home_write_raw(h, out.data, out.n);
        else if (home_inline_find(shard, e->inlined) == h)
            home_inline_done(h, INLINE_DONE, out.data, out.n);
        buf_fini(&out);
        if (session_is_open(s) && h->sm && s->presence)
            sm_state_changed(s);
    } else if (result->code == 0 && s) {
        sm_close_row(shard, s->user->uid, result->value, (uint32_t)result->value2, false);
    }
    explicit_bzero(e->id, sizeof e->id);
    mem_free(e);
}

static bool wants_resume(const struct xml *x)
{
    const char *resume = xml_attr(x, "resume");
    return resume && (strcmp(resume, "true") == 0 || strcmp(resume, "1") == 0);
}

static unsigned timeout_for(struct shard *s, const struct xml *x)
{
    const char *max = xml_attr(x, "max");
    unsigned long wanted = max ? strtoul(max, NULL, 10) : 0;
    return wanted && wanted < s->settings.resume_timeout_s ? (unsigned)wanted : s->settings.resume_timeout_s;
}

/* False: it cannot be proposed. */
static bool open_row(struct c2s_home *h, const struct xml *x, bool inlined)
{
    struct session *s = &h->session;
    struct enabling *e = mem_new(struct enabling);
    uint8_t hash[SHA256_DIGEST_LENGTH];
    random_hex(e->id, ID_BYTES);
    e->timeout_s = timeout_for(s->shard, x);
    e->inlined = inlined ? home_inline_id(h) : 0;
    SHA256((const uint8_t *)e->id, strlen(e->id), hash);
    Imp__SessionOpen body = IMP__SESSION_OPEN__INIT;
    body.uid = s->user->uid;
    body.id_hash = (ProtobufCBinaryData){sizeof hash, hash};
    body.resource = (char *)s->resource;
    body.tls = h->login->tls;
    body.timeout_s = e->timeout_s;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_SESSION_OPEN;
    command.session_open = &body;
    if (session_submit(s, &command, on_opened, e) == 0)
        return true;
    mem_free(e);
    return false;
}

static void handle_enable(struct c2s_home *h, struct xml_stanza *element)
{
    struct shard *s = h->session.shard;
    const struct enabling none = {0};
    if (s->settings.level < LEVEL_3) {
        write_failed(h, "feature-not-implemented");
    } else if (h->sm) { /* §3: only once, or the stream ends */
        write_failed(h, "unexpected-request");
        home_fail(h, "policy-violation", "stream management is on already");
    } else if (!wants_resume(element->root) || !s->settings.resume_timeout_s ||
               !open_row(h, element->root, false)) {
        struct buf out = {0};
        write_enabled(s, &none, false, &out);
        sm_start(h);
        home_write_raw(h, out.data, out.n);
        buf_fini(&out);
    }
}

/* §3: a resource comes first. */
static void handle_early(struct c2s_home *h, struct xml_stanza *element)
{
    (void)element;
    write_failed(h, "unexpected-request");
}

/* XEP-0198 §7.2, XEP-0386 §4. */
static enum inline_result bind2_enable(struct c2s_home *h, const struct xml *request, struct buf *answer)
{
    struct shard *s = h->session.shard;
    const struct enabling none = {0};
    if (s->settings.level < LEVEL_3)
        return INLINE_DONE;
    sm_start(h); /* what is held behind <success/> counts */
    if (wants_resume(request) && s->settings.resume_timeout_s && open_row(h, request, true))
        return INLINE_LATER;
    write_enabled(s, &none, false, answer);
    return INLINE_DONE;
}

/* ---- r and a ---- */

static void handle_r(struct c2s_home *h, struct xml_stanza *element)
{
    struct session *s = &h->session;
    (void)element;
    if (!h->sm) {
        write_failed(h, "unexpected-request");
        return;
    }
    h->sm->n_asked = s->sm->n_in;
    if (sm_n_counted(s) >= h->sm->n_asked)
        sm_write_ack(h);
    else { /* §4: as soon as it is true; at the latest with the next tick */
        sm_want_counted(s);
        sm_await_ack(h);
    }
}

/* §4: more than was ever sent. */
static void fail_too_high(struct c2s_home *h, const char *n)
{
    struct buf out = {0};
    buf_adds(&out, "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
                   "<handled-count-too-high xmlns='" NS_SM "' h='");
    xml_escape(&out, n, strlen(n));
    buf_addf(&out, "' send-count='%u'/></stream:error></stream:stream>",
             (unsigned)(uint32_t)h->session.sm->n_out);
    home_close(h, out.data, out.n);
    buf_fini(&out);
}

static void handle_a(struct c2s_home *h, struct xml_stanza *element)
{
    const char *n = xml_attr(element->root, "h");
    char *end;
    if (!h->sm) {
        write_failed(h, "unexpected-request");
        return;
    }
    unsigned long value = n ? strtoul(n, &end, 10) : 0;
    if (!n || *n < '0' || *n > '9' || *end || value > UINT32_MAX) {
        home_fail(h, "bad-format", "h is not a count");
        return;
    }
    if (!sm_take_ack(h, (uint32_t)value)) {
        fail_too_high(h, n);
        return;
    }
    h->sm->asked = false;
    if (h->session.behind && !sm_is_full(h))
        message_session_drained(&h->session);
    if (h->sm)
        sm_ask(h);
}

static void session_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was)
{
    (void)e, (void)root, (void)was;
    sm_state_changed(&h->session);
}

/* ---- the feature ---- */

/* §2: it is there to be enabled or resumed. Once that was done within the log-in it is neither, and a client
 * that goes by the features would try, be refused, and take itself for unmanaged. */
static bool is_of_use(const struct c2s_home *h, enum stream_stage stage)
{
    return stage != STREAM_RESUMED && !h->sm;
}

static const struct xmpp_element_handler elements[] = {
    {NS_SM, "enable", .bound = true, .handle = handle_enable},
    {NS_SM, "enable", .unbound = true, .handle = handle_early},
    {NS_SM, "resume", .unbound = true, .handle = sm_handle_resume},
    {NS_SM, "resume", .bound = true, .handle = handle_early},
    {NS_SM, "r", .bound = true, .handle = handle_r},
    {NS_SM, "a", .bound = true, .handle = handle_a},
    {0},
};
static const struct xmpp_inline inline_bind2[] = {
    {NS_SM, "enable", .announced = NS_SM, .handle = bind2_enable},
    {0},
};
static const struct xmpp_inline inline_sasl2[] = {
    {NS_SM, "resume", .announced = "<sm xmlns='" NS_SM "'/>", .handle = sm_inline_resume,
     .written = sm_inline_written},
    {0},
};
const struct xmpp_feature feature_sm = {
    .name = "sm",
    .xep = "XEP-0198 1.6.1",
    .stream_feature = "<sm xmlns='" NS_SM "'/>",
    .stream_feature_is_on = is_of_use,
    .level = LEVEL_3,
    .elements = elements,
    .inline_bind2 = inline_bind2,
    .inline_sasl2 = inline_sasl2,
    .hooks = {.session_presence = session_presence},
};
