/* Resumption (XEP-0198 §5): by the home that has the session, with all that it kept; by another one, from the
 * session's row. Before the session is found the home must know what the edge knew when it chose it. */
#include "base/clock.h"
#include "im/carbons.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/csi.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include "replication/levels.h"
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { ID_MAX = 256, SWEEP_ROWS = 256, ORPHANS_MAX = 10000 };

struct sm_resume {
    uint8_t hash[SM_HASH_BYTES];
    uint32_t n; /* stanzas that the client has */
    uint64_t since_ms;
    uint64_t inlined; /* SASL2: who waits; 0: nobody */
    uint64_t row;     /* to begin from; 0: session */
    uint32_t row_place;
    uint64_t session;
};

enum outcome { FOUND, AGAIN, NOT_FOUND, TOO_HIGH };

void sm_resume_free(struct c2s_home *h)
{
    mem_free(h->resume);
    h->resume = NULL;
}

/* ---- finding it ---- */

static struct c2s_home *find_live(struct c2s_home *h)
{
    struct user *u = user_find(h->session.shard, h->login->uid);
    struct session *s;
    if (u)
        list_for_each(s, &u->sessions, struct session, link)
        {
            if (s->ops != &c2s_session_ops || !home_of(s)->sm || !home_of(s)->sm->resumable)
                continue;
            if (CRYPTO_memcmp(home_of(s)->sm->id_hash, h->resume->hash, SM_HASH_BYTES) == 0)
                return home_of(s);
        }
    return NULL;
}

static Imp__SessionRow *find_row(struct c2s_home *h, struct arena *a)
{
    struct shard *s = h->session.shard;
    struct key prefix;
    struct store_iter i;
    Imp__SessionRow *found = NULL;
    key_init(&prefix);
    key_u64(&prefix, h->login->uid);
    store_iter_init(&i, shard_txn(s), TABLE_SESSION, &prefix);
    while (!found && store_iter_next(&i)) {
        Imp__SessionRow *row = store_iter_row(&i, a);
        if (!row || row->id_hash.len != SM_HASH_BYTES ||
            CRYPTO_memcmp(row->id_hash.data, h->resume->hash, SM_HASH_BYTES) != 0)
            continue;
        struct key_reader k;
        key_read(&k, i.key, i.n_key);
        key_read_u64(&k);
        h->resume->row = key_read_u64(&k);
        h->resume->row_place = key_read_u32(&k);
        found = row;
    }
    store_iter_fini(&i);
    return found;
}

/* ENDED: the count of a session whose time has passed; -1: not known. */
static enum outcome find(struct c2s_home *h, struct c2s_home **live, Imp__SessionRow **row, int64_t *ended,
                         struct arena *a)
{
    struct shard *s = h->session.shard;
    struct sm_resume *r = h->resume;
    *ended = -1;
    if (shard_check_lease(s) != LEASE_HELD || s->feed_index < h->login->route_index)
        return loop_now_ms(s->loop) - r->since_ms < HOME_BIND_WAIT_MS ? AGAIN : NOT_FOUND;
    *live = find_live(h);
    if (*live) {
        if (!h->login->tls && (*live)->login->tls) /* §8: no weaker than it was */
            return NOT_FOUND;
        const struct session_sm *sm = (*live)->session.sm;
        return r->n - (uint32_t)sm->n_acked > (*live)->sm->n ? TOO_HIGH : FOUND;
    }
    *row = find_row(h, a);
    if (!*row || (!h->login->tls && (*row)->tls))
        return NOT_FOUND;
    if ((*row)->ended_ms) {
        *ended = (uint32_t)(*row)->n_in;
        return NOT_FOUND;
    }
    if (sm_is_closing(s, h->login->uid, r->row, r->row_place))
        return loop_now_ms(s->loop) - r->since_ms < HOME_BIND_WAIT_MS ? AGAIN : NOT_FOUND;
    enum home_place place = shard_place_of(s, h->login->uid, NULL, NULL);
    if (place == PLACE_HERE)
        return FOUND;
    return place == PLACE_ARRIVING && loop_now_ms(s->loop) - r->since_ms < HOME_BIND_WAIT_MS ? AGAIN
                                                                                             : NOT_FOUND;
}

/* ---- taking it over ---- */

static void write_resumed(struct buf *out, const char *id, uint64_t n_in)
{
    buf_adds(out, "<resumed xmlns='" NS_SM "' previd='");
    xml_escape(out, id, strlen(id));
    buf_addf(out, "' h='%u'/>", (unsigned)(uint32_t)n_in);
}

/* The connection of H is OLD's from now on; H ends. */
static void move(struct c2s_home *h, struct c2s_home *old, const struct buf *resumed)
{
    struct c2s_conn *conn = h->conn;
    if (old->conn) { /* it did not notice that its client has gone */
        home_drop_conn(old, "conflict", "resumed on another connection");
        old->session.detached = true;
    }
    list_remove(&old->sm->link);
    /* There is room for more now: without a connection it is only kept, and written once, in its place. */
    sm_take_ack(old, h->resume->n);
    c2s_login_free(old->login);
    old->login = c2s_login_pack(h->login);
    h->login = NULL;
    h->conn = NULL;
    conn->home = old;
    old->conn = conn;
    old->heard_ms = loop_now_ms(conn->shard->loop);
    old->pinged = false;
    home_end(h);
    if (old->session.paused)
        conn->ops->pause(conn);
    if (resumed->n)
        home_write_raw(old, resumed->data, resumed->n);
    old->sm->n_told = old->sm->n_asked = old->session.sm->n_in;
    sm_write_again(old);
    csi_set_active(old);
    session_attach(&old->session);
}

static void restore_presence(struct c2s_home *h, const Imp__SessionRow *row)
{
    struct arena a;
    struct xml *root;
    arena_init(&a);
    struct envelope *e =
        row->presence.len ? stored_stanza(row->presence.data, row->presence.len, h->session.jid, "") : NULL;
    if (e && xml_parse(&root, &a, row->presence.data, row->presence.len, &xml_limits_default, NULL) == 0)
        home_own_presence(h, e, root, &a);
    else
        envelope_free(e);
    arena_fini(&a);
}

/* False: H was answered otherwise, or is gone. */
static bool begin_from(struct c2s_home *h, const Imp__SessionRow *row, const struct buf *resumed)
{
    struct shard *s = h->session.shard;
    struct err_ctx err = {0};
    const struct sm_resume *r = h->resume;
    if (session_open(&h->session, s, h->login->uid, row->resource, &c2s_session_ops, &err) < 0) {
        home_fail(h, "reset", err.text);
        return false;
    }
    h->session.first_index = 0; /* it has been there all the time */
    h->state = HOME_BOUND;
    list_remove(&h->unbound);
    sm_start(h);
    struct session_sm *sm = h->session.sm;
    sm->row = r->row;
    sm->row_place = r->row_place;
    sm->n_in = sm->n_seen = sm->n_covered = row->n_in;
    sm->n_before = row->n_in + SM_WINDOW;
    if (row->n_above && sm->n_before < row->above[row->n_above - 1])
        sm->n_before = row->above[row->n_above - 1];
    sm->n_out = sm->n_acked = r->n;
    sm->base = h->n_written;
    h->sm->resumable = true;
    h->sm->timeout_s = row->timeout_s;
    h->sm->n_told = row->n_in;
    memcpy(h->sm->id_hash, r->hash, SM_HASH_BYTES);
    sm_resume_free(h);
    home_forget_login(h);
    hooks_open(h);
    h->session.wants_roster = row->flags & SESSION_FLAG_ROSTER;
    if (row->flags & SESSION_FLAG_CARBONS)
        carbons_enable(&h->session, true);
    if (resumed->n)
        home_write_raw(h, resumed->data, resumed->n);
    restore_presence(h, row);
    return true;
}

/* ---- <resume/> ---- */

/* False: it is none. */
static bool read_request(struct c2s_home *h, const struct xml *x)
{
    const char *id = xml_attr(x, "previd"), *n = xml_attr(x, "h");
    char *end = NULL;
    unsigned long value = n ? strtoul(n, &end, 10) : 0;
    if (!id || strlen(id) > ID_MAX || !n || *n < '0' || *n > '9' || *end || value > UINT32_MAX)
        return false;
    sm_resume_free(h);
    h->resume = mem_new(struct sm_resume);
    h->resume->n = (uint32_t)value;
    h->resume->since_ms = loop_now_ms(h->session.shard->loop);
    SHA256((const uint8_t *)id, strlen(id), h->resume->hash);
    mem_free(h->resume_id);
    h->resume_id = mem_strdup(id);
    return true;
}

static void write_failed(struct buf *out, const char *condition, int64_t n_in)
{
    buf_adds(out, "<failed xmlns='" NS_SM "'");
    if (n_in >= 0)
        buf_addf(out, " h='%u'", (unsigned)n_in);
    buf_addf(out, "><%s xmlns='" NS_STANZAS "'/></failed>", condition);
}

static void fail_too_high(struct c2s_home *h, const struct c2s_home *live)
{
    struct buf out = {0};
    buf_addf(&out,
             "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
             "<handled-count-too-high xmlns='" NS_SM
             "' h='%u' send-count='%u'/></stream:error></stream:stream>",
             (unsigned)h->resume->n, (unsigned)(uint32_t)live->session.sm->n_out);
    home_close(h, out.data, out.n);
    buf_fini(&out);
}

static void wait(struct c2s_home *h)
{
    if (list_is_empty(&h->binding))
        list_append(&h->session.shard->xmpp->binding, &h->binding);
}

/* True: it goes on waiting. */
static bool step(struct c2s_home *h)
{
    struct arena a;
    struct buf out = {0};
    struct c2s_home *live = NULL;
    Imp__SessionRow *row = NULL;
    int64_t ended;
    arena_init(&a);
    enum outcome found = find(h, &live, &row, &ended, &a);
    if (found != AGAIN)
        list_remove(&h->binding);
    if (found == FOUND) {
        write_resumed(&out, h->resume_id, live ? sm_roll_back(&live->session) : row->n_in);
        if (live)
            move(h, live, &out);
        else
            begin_from(h, row, &out);
    } else if (found == TOO_HIGH) {
        fail_too_high(h, live);
    } else if (found == NOT_FOUND) {
        write_failed(&out, "item-not-found", ended);
        sm_resume_free(h);
        home_write_raw(h, out.data, out.n);
    }
    buf_fini(&out);
    arena_fini(&a);
    return found == AGAIN;
}

void sm_handle_resume(struct c2s_home *h, struct xml_stanza *element)
{
    struct shard *s = h->session.shard;
    struct buf out = {0};
    if (s->settings.level < LEVEL_3 || !read_request(h, element->root)) {
        write_failed(&out, s->settings.level < LEVEL_3 ? "feature-not-implemented" : "bad-request", -1);
        home_write_raw(h, out.data, out.n);
        buf_fini(&out);
        return;
    }
    if (!step(h))
        return;
    wait(h);
    h->conn->ops->pause(h->conn);
}

/* ---- within the log-in (XEP-0198 §7.1) ---- */

static enum inline_result inline_step(struct c2s_home *h, struct buf *answer)
{
    struct arena a;
    struct c2s_home *live = NULL;
    Imp__SessionRow *row = NULL;
    int64_t ended;
    enum inline_result result = INLINE_DONE;
    arena_init(&a);
    enum outcome found = find(h, &live, &row, &ended, &a);
    if (found == AGAIN) {
        result = INLINE_LATER;
    } else if (found == FOUND) {
        h->resume->session = live ? live->session.id : 0;
        mem_free(h->resumed_jid);
        h->resumed_jid = live ? mem_strdup(live->session.jid)
                              : mem_printf("%s@%s/%s", h->login->localpart, h->login->domain, row->resource);
        if (live && live->conn) /* nothing more of the former connection is handled */
            live->conn->ops->pause(live->conn);
        write_resumed(answer, h->resume_id, live ? sm_roll_back(&live->session) : row->n_in);
        result = INLINE_RESUMED;
    } else { /* too high: nothing that could be resumed */
        write_failed(answer, found == TOO_HIGH ? "undefined-condition" : "item-not-found", ended);
        sm_resume_free(h);
    }
    arena_fini(&a);
    return result;
}

enum inline_result sm_inline_resume(struct c2s_home *h, const struct xml *request, struct buf *answer)
{
    if (h->session.shard->settings.level < LEVEL_3)
        return INLINE_DONE;
    if (!read_request(h, request)) {
        write_failed(answer, "bad-request", -1);
        return INLINE_DONE;
    }
    enum inline_result result = inline_step(h, answer);
    if (h->resume)
        h->resume->inlined = home_inline_id(h);
    if (result == INLINE_LATER)
        wait(h);
    return result;
}

void sm_inline_written(struct c2s_home *h)
{
    const struct buf nothing = {0};
    if (!h->resume)
        return;
    struct session *s = h->resume->session ? session_find(h->session.shard, h->resume->session) : NULL;
    struct arena a;
    arena_init(&a);
    Imp__SessionRow *row = s ? NULL : find_row(h, &a);
    if (row && (row->ended_ms ||
                sm_is_closing(h->session.shard, h->login->uid, h->resume->row, h->resume->row_place)))
        row = NULL;
    if (s && s->ops == &c2s_session_ops && home_of(s)->sm)
        move(h, home_of(s), &nothing);
    else if (row && !h->resume->session)
        begin_from(h, row, &nothing);
    else
        home_fail(h, "reset", "the session has ended meanwhile");
    arena_fini(&a);
}

void sm_resume_again(struct c2s_home *h)
{
    if (!h->resume->inlined) {
        struct c2s_conn *conn = h->conn;
        if (!step(h) && conn->home && !conn->home->session.paused)
            conn->ops->resume(conn);
        return;
    }
    struct buf answer = {0};
    enum inline_result result = inline_step(h, &answer);
    if (result != INLINE_LATER) {
        list_remove(&h->binding);
        home_inline_done(h, result, answer.data, answer.n);
    }
    buf_fini(&answer);
}

/* ---- time-outs ---- */

struct sm_orphan {
    struct list link;
    uint64_t uid, row, until_ms;
    uint32_t place;
    bool seen;
};

static bool is_live(struct shard *s, uint64_t uid, uint64_t row)
{
    struct user *u = user_find(s, uid);
    struct session *session;
    if (u)
        list_for_each(session, &u->sessions, struct session,
                      link) if (session->sm && session->sm->row == row) return true;
    return false;
}

static struct sm_orphan *find_orphan(struct xmpp_shard *xs, uint64_t uid, uint64_t row, uint32_t place)
{
    struct sm_orphan *o;
    list_for_each(o, &xs->orphans, struct sm_orphan,
                  link) if (o->uid == uid && o->row == row && o->place == place) return o;
    return NULL;
}

/* A row of a user who is at home here, and no session: its home is gone, and its client has not come back. */
static void look_at_row(struct xmpp_shard *xs, uint64_t uid, uint64_t at, uint32_t place,
                        const Imp__SessionRow *row)
{
    struct shard *s = xs->shard;
    uint64_t now = loop_now_ms(s->loop);
    if (im_shard_of(s->im, uid) != s || row->ended_ms || is_live(s, uid, at) ||
        shard_place_of(s, uid, NULL, NULL) != PLACE_HERE)
        return;
    struct sm_orphan *o = find_orphan(xs, uid, at, place);
    if (o && now >= o->until_ms) {
        sm_close_row(s, uid, at, place, true);
        list_remove(&o->link);
        mem_free(o);
    } else if (!o && xs->n_orphans_seen < ORPHANS_MAX) {
        o = mem_new(struct sm_orphan);
        *o = (struct sm_orphan){.uid = uid, .row = at, .place = place};
        o->until_ms = now + row->timeout_s * UINT64_C(1000);
        list_append(&xs->orphans, &o->link);
        o->seen = true;
    } else if (o) {
        o->seen = true;
    }
}

/* Some rows each second; at the end those that are not orphans any more are forgotten. */
static void sweep(struct xmpp_shard *xs)
{
    struct shard *s = xs->shard;
    struct store_iter i;
    struct arena a;
    unsigned n = 0;
    arena_init(&a);
    store_iter_init(&i, shard_txn(s), TABLE_SESSION, NULL);
    if (xs->sweep.n)
        store_iter_seek(&i, &xs->sweep);
    bool more = false;
    while ((more = store_iter_next(&i)) && n++ < SWEEP_ROWS) {
        struct key_reader k;
        key_read(&k, i.key, i.n_key);
        uint64_t uid = key_read_u64(&k), row = key_read_u64(&k);
        uint32_t place = key_read_u32(&k);
        const Imp__SessionRow *value = store_iter_row(&i, &a);
        if (value)
            look_at_row(xs, uid, row, place, value);
        key_init(&xs->sweep);
        key_u64(&xs->sweep, uid);
        key_u64(&xs->sweep, row);
        key_u32(&xs->sweep, place + 1);
        arena_reset(&a);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    if (more)
        return;
    key_init(&xs->sweep);
    xs->n_orphans_seen = 0;
    struct sm_orphan *o;
    list_for_each(o, &xs->orphans, struct sm_orphan, link)
    {
        if (!o->seen) {
            list_remove(&o->link);
            mem_free(o);
            continue;
        }
        o->seen = false;
        xs->n_orphans_seen++;
    }
}

void sm_shard_tick(struct xmpp_shard *xs)
{
    struct shard *s = xs->shard;
    uint64_t now = loop_now_ms(s->loop);
    struct sm *sm;
    if (s->settings.level < LEVEL_3 || !shard_has_lease(s))
        return;
    list_for_each(sm, &xs->detached, struct sm, link)
    {
        struct c2s_home *h = sm->home;
        if (now < sm->until_ms)
            continue;
        if (h->session.sm->row)
            sm_close_row(s, h->session.user->uid, h->session.sm->row, h->session.sm->row_place, true);
        sm->keep_row = true;
        home_end(h);
    }
    list_for_each(sm, &xs->asking, struct sm, asking)
    {
        if (sm->asked || sm->n_told < sm->n_asked)
            home_check_acks(sm->home, now);
        else
            list_remove(&sm->asking);
    }
    sweep(xs);
}

void sm_shard_fini(struct xmpp_shard *xs)
{
    struct sm_orphan *o;
    list_for_each(o, &xs->orphans, struct sm_orphan, link) mem_free(o);
    sm_forget_closing(xs);
}
