#include "protocols/xmpp/mam.h"
#include "base/clock.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

enum {
    ROWS_AT_ONCE = 512,      /* looked at by a query before another one has its turn, */
    WRITE_AT_ONCE = 32,      /* and results written */
    OUTPUT_BYTES = 64 << 10, /* queued for the client: the query waits */
    COUNT_ROWS = 1000, /* looked at for a count that was not asked for (XEP-0059 §2.2: it may be left out) */
    TURN_MS = 1,
    WAIT_MS = 20,
};

enum mam_step { MAM_COLLECT, MAM_COUNT, MAM_WRITE };

struct mam_query {
    struct list link; /* in xs->mam->queries */
    struct shard *shard;
    uint64_t session, uid;
    struct iq_later *iq;
    char *query_id, *with;
    enum mam_step step;
    struct archive_filter all;  /* what the form asks for, */
    struct archive_filter page; /* and RSM of that */
    struct archive_walk walk;
    size_t max;
    uint64_t skip; /* matches before the page (XEP-0059 §2.6) */
    bool flip, offline, backwards, only_count, complete, counts_all;
    struct archive_id *ids; /* ascending; one more than a page while collecting */
    size_t n_ids, n_written;
    int64_t index, count; /* below 0: not known */
    unsigned count_left;
};

struct mam_shard {
    struct list queries;
    struct timer timer;
    struct xmpp_shard *xs;
};

/* ---- results ---- */

/* The stored stanza inside <forwarded/>: the same bytes, with namespace and addresses in the start tag. */
static bool write_forwarded(struct buf *out, const struct archive_item *item)
{
    static const char tag[] = "<message";
    size_t n = sizeof tag - 1;
    if (item->n_bytes <= n || memcmp(item->stanza, tag, n) != 0 || !strchr(" />", item->stanza[n]))
        return false;
    buf_adds(out, "<message xmlns='" NS_CLIENT "' from='");
    iq_escape(out, item->from);
    if (*item->to) {
        buf_adds(out, "' to='");
        iq_escape(out, item->to);
    }
    buf_addc(out, '\'');
    buf_add(out, item->stanza + n, item->n_bytes - n);
    return true;
}

/* Into q->shard->scratch. */
static bool write_archived(struct mam_query *q, const struct archive_item *item, const char *id,
                           const char *stamp)
{
    struct buf *out = &q->shard->scratch;
    buf_reset(out);
    buf_adds(out, "<result xmlns='" NS_MAM "'");
    if (q->query_id) {
        buf_adds(out, " queryid='");
        iq_escape(out, q->query_id);
        buf_addc(out, '\'');
    }
    buf_addf(out, " id='%s'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='%s'/>",
             id, stamp);
    if (!write_forwarded(out, item))
        return false;
    buf_adds(out, "</forwarded></result>");
    return true;
}

static void send_archived(struct mam_query *q, struct c2s_home *h, const struct archive_item *item,
                          const char *id, const char *stamp)
{
    struct session *s = &h->session;
    if (!item->archived || !write_archived(q, item, id, stamp))
        return;
    struct blob *payload = blob_new(q->shard->scratch.data, q->shard->scratch.n);
    struct envelope *e = envelope_new(&(struct envelope_parts){
        .type = MESSAGE_NORMAL, .from = s->user->jid, .to = s->jid, .payload = payload});
    home_write_stanza(h, e, NULL);
    envelope_free(e);
    blob_unref(payload);
}

static void send_offline(struct mam_query *q, struct c2s_home *h, const struct archive_item *item,
                         const char *id, const char *stamp)
{
    struct envelope *e =
        item->pending ? stored_stanza(item->stanza, item->n_bytes, item->from, item->to) : NULL;
    if (!e)
        return;
    struct buf extra = {0};
    e->stored = item->id.index;
    e->stored_place = item->id.place;
    buf_addf(&extra,
             "<offline xmlns='" NS_OFFLINE "'><item node='%s'/></offline>"
             "<delay xmlns='urn:xmpp:delay' from='%s' stamp='%s'/>",
             id, q->shard->domain, stamp);
    home_write_stanza(h, e, extra.data);
    envelope_free(e);
    buf_fini(&extra);
}

static void write_result(struct mam_query *q, struct c2s_home *h, struct archive_id id)
{
    struct archive_item item;
    struct arena a;
    char text[STORED_ID_MAX], stamp[32];
    arena_init(&a);
    /* It may be gone since the page was made. */
    if (archive_read(q->shard, q->uid, id, &item, &a)) {
        stored_id_write(q->shard->ids, text, id.index, id.place);
        clock_format_utc(stamp, item.time_ms, 1);
        (q->offline ? send_offline : send_archived)(q, h, &item, text, stamp);
    }
    arena_fini(&a);
}

static void write_end(struct mam_query *q, struct session *s)
{
    struct buf out = {0};
    char first[STORED_ID_MAX], last[STORED_ID_MAX];
    if (q->offline) {
        iq_later_result(q->iq, s, NULL, 0);
        q->iq = NULL;
        return;
    }
    if (q->n_ids) {
        stored_id_write(q->shard->ids, first, q->ids[0].index, q->ids[0].place);
        stored_id_write(q->shard->ids, last, q->ids[q->n_ids - 1].index, q->ids[q->n_ids - 1].place);
    }
    buf_addf(&out, "<fin xmlns='" NS_MAM "'%s>", q->complete ? " complete='true'" : "");
    /* An index that reaches the count ends the set for some clients (slixmpp 1.8), also when they walk
     * backwards. */
    int64_t index = q->n_ids && !q->backwards ? q->index : -1;
    rsm_write(&out, q->n_ids ? first : NULL, q->n_ids ? last : NULL, index, q->count);
    buf_adds(&out, "</fin>");
    iq_later_result(q->iq, s, out.data, out.n);
    q->iq = NULL;
    buf_fini(&out);
}

/* ---- steps: each does some of its work and says whether there is more to do ---- */

static void reverse(struct archive_id *ids, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        struct archive_id id = ids[i];
        ids[i] = ids[n - 1 - i];
        ids[n - 1 - i] = id;
    }
}

static void begin_count(struct mam_query *q)
{
    q->step = MAM_COUNT;
    q->count = q->index = 0;
    archive_walk_init(&q->walk, q->shard, q->uid, &q->all, false);
}

/* With the page the set may be known: then nothing is left to count. */
static void end_collect(struct mam_query *q)
{
    bool descending = q->walk.descending;
    q->complete = q->n_ids <= q->max;
    if (q->n_ids > q->max)
        q->n_ids = q->max;
    if (descending)
        reverse(q->ids, q->n_ids);
    if (q->offline) {
        q->step = MAM_WRITE;
        return;
    }
    if (!q->complete || !q->counts_all) {
        begin_count(q);
        return;
    }
    q->index = 0;
    q->count = (int64_t)q->n_ids;
    q->step = MAM_WRITE;
}

static void collect(struct mam_query *q, unsigned *budget)
{
    while (q->skip && *budget && !q->walk.ended) {
        struct archive_id passed[64];
        size_t max = q->skip < n_elements(passed) ? (size_t)q->skip : n_elements(passed);
        q->skip -= archive_walk(&q->walk, passed, max, budget);
    }
    if (!q->skip)
        q->n_ids += archive_walk(&q->walk, q->ids + q->n_ids, q->max + 1 - q->n_ids, budget);
    if (q->walk.ended || q->n_ids > q->max)
        end_collect(q);
}

static void count(struct mam_query *q, unsigned *budget)
{
    struct archive_id found[64];
    while (*budget && !q->walk.ended) {
        unsigned before = *budget;
        size_t n = archive_walk(&q->walk, found, n_elements(found), budget);
        q->count += (int64_t)n;
        for (size_t i = 0; q->n_ids && i < n; i++)
            q->index += archive_id_compare(found[i], q->ids[0]) < 0;
        if (q->only_count)
            continue;
        unsigned looked_at = before - *budget;
        q->count_left -= looked_at < q->count_left ? looked_at : q->count_left;
        if (!q->count_left && !q->walk.ended) {
            q->count = q->index = -1;
            break;
        }
    }
    if (!q->walk.ended && q->count >= 0)
        return;
    q->step = MAM_WRITE;
    if (q->only_count)
        q->complete = q->count == 0;
}

/* False: the client must take something first. */
static bool write_page(struct mam_query *q, struct session *s)
{
    for (int i = 0; i < WRITE_AT_ONCE && q->n_written < q->n_ids; i++) {
        if (session_queued(s) > OUTPUT_BYTES)
            return false;
        size_t at = q->flip ? q->n_ids - 1 - q->n_written : q->n_written;
        q->n_written++;
        write_result(q, home_of(s), q->ids[at]);
    }
    return true;
}

static void next_page(struct mam_query *q)
{
    q->page.after = q->ids[q->n_ids - 1];
    q->n_ids = q->n_written = 0;
    q->step = MAM_COLLECT;
    archive_walk_init(&q->walk, q->shard, q->uid, &q->page, false);
}

static bool is_waiting(struct session *s)
{
    return !home_of(s)->conn || session_queued(s) > OUTPUT_BYTES;
}

/* One turn; true: all is said. */
static bool run(struct mam_query *q, struct session *s)
{
    unsigned budget = ROWS_AT_ONCE;
    if (q->step == MAM_COLLECT)
        collect(q, &budget);
    if (q->step == MAM_COUNT)
        count(q, &budget);
    if (q->step != MAM_WRITE || !write_page(q, s) || q->n_written < q->n_ids)
        return false;
    if (q->offline && !q->complete) {
        next_page(q);
        return false;
    }
    write_end(q, s);
    return true;
}

/* ---- the queries of a shard ---- */

static void free_query(struct mam_query *q)
{
    if (q->iq)
        iq_later_result(q->iq, NULL, NULL, 0);
    list_remove(&q->link);
    mem_free(q->query_id);
    mem_free(q->with);
    mem_free(q->ids);
    mem_free(q);
}

static void on_turn(struct timer *t)
{
    struct mam_shard *m = container_of(t, struct mam_shard, timer);
    struct mam_query *q;
    bool ran = false;
    list_for_each(q, &m->queries, struct mam_query, link)
    {
        struct session *s = session_find(q->shard, q->session);
        if (!s) {
            free_query(q);
        } else if (!ran && !is_waiting(s)) {
            ran = true;
            list_remove(&q->link);
            if (run(q, s))
                free_query(q);
            else
                list_append(&m->queries, &q->link);
            break;
        }
    }
    if (!list_is_empty(&m->queries))
        timer_start(&m->timer, ran ? TURN_MS : WAIT_MS, 0);
}

static struct mam_shard *get_shard(struct xmpp_shard *xs)
{
    if (xs->mam)
        return xs->mam;
    struct mam_shard *m = mem_new(struct mam_shard);
    m->xs = xs;
    list_init(&m->queries);
    timer_init(&m->timer, xs->shard->loop, on_turn);
    xs->mam = m;
    return m;
}

void mam_shard_fini(struct xmpp_shard *xs)
{
    struct mam_query *q;
    if (!xs->mam)
        return;
    list_for_each(q, &xs->mam->queries, struct mam_query, link) free_query(q);
    timer_stop(&xs->mam->timer);
    mem_free(xs->mam);
    xs->mam = NULL;
}

static unsigned count_queries(const struct mam_shard *m, uint64_t session)
{
    unsigned n = 0;
    struct mam_query *q;
    list_for_each(q, &m->queries, struct mam_query, link) n += q->session == session;
    return n;
}

/* ---- beginning ---- */

/* The page of a list of ids that the client gave: all that can be known is known. */
static void pick_ids(struct mam_query *q, const struct mam_request *r)
{
    size_t n = 0, from = 0, to;
    for (size_t i = 0; i < r->n_ids; i++)
        if (archive_matches(q->shard, q->uid, r->ids[i], &q->page))
            q->ids[n++] = r->ids[i];
    to = n;
    if (r->rsm.has_index)
        from = r->rsm.index < n ? (size_t)r->rsm.index : n;
    q->complete = to - from <= q->max;
    q->n_ids = q->complete ? to - from : q->max;
    if (r->rsm.before)
        from = to - q->n_ids;
    memmove(q->ids, q->ids + from, q->n_ids * sizeof *q->ids);
    q->index = (int64_t)from;
    q->count = r->page_after.index || r->rsm.before ? -1 : (int64_t)n;
    if (q->count < 0)
        q->index = -1;
    q->step = MAM_WRITE;
}

static struct mam_query *new_query(struct xmpp_iq *iq, const struct mam_request *r)
{
    struct mam_query *q = mem_new(struct mam_query);
    list_init(&q->link);
    q->shard = iq->shard;
    q->session = iq->home->session.id;
    q->uid = iq->uid;
    q->iq = iq_keep(iq);
    q->query_id = r->query_id ? mem_strdup(r->query_id) : NULL;
    q->with = r->filter.with ? mem_strdup(r->filter.with) : NULL;
    q->max = r->rsm.max;
    q->flip = r->flip;
    q->offline = r->offline;
    q->backwards = r->rsm.before != NULL;
    q->count_left = COUNT_ROWS;
    q->skip = r->rsm.has_index ? r->rsm.index : 0;
    q->all = q->page = r->filter;
    q->all.with = q->page.with = q->with;
    if (archive_id_compare(r->page_after, q->page.after) > 0)
        q->page.after = r->page_after;
    if (archive_id_compare(r->page_before, q->page.before) < 0)
        q->page.before = r->page_before;
    size_t room = r->n_ids > q->max ? r->n_ids : q->max;
    q->ids = mem_alloc((room + 1) * sizeof *q->ids);
    return q;
}

static void plan(struct mam_query *q, const struct mam_request *r)
{
    bool whole = archive_id_compare(q->page.after, q->all.after) == 0 &&
                 archive_id_compare(q->page.before, q->all.before) == 0;
    q->counts_all = whole && !r->rsm.has_index;
    q->only_count = q->max == 0 && !r->n_ids;
    if (r->n_ids)
        pick_ids(q, r);
    else if (q->only_count)
        begin_count(q);
    else
        archive_walk_init(&q->walk, q->shard, q->uid, &q->page, r->rsm.before != NULL);
}

void mam_begin(struct xmpp_iq *iq, const struct mam_request *r)
{
    struct session *s = &iq->home->session;
    struct mam_shard *m = get_shard(iq->shard->xmpp);
    if (count_queries(m, s->id) >= MAM_QUERIES_MAX) {
        iq_error(iq, STANZA_RESOURCE_CONSTRAINT, "too many queries of the archive at once");
        return;
    }
    struct mam_query *q = new_query(iq, r);
    plan(q, r);
    if (!is_waiting(s) && run(q, s)) {
        free_query(q);
        return;
    }
    list_append(&m->queries, &q->link);
    if (!timer_is_on(&m->timer))
        timer_start(&m->timer, TURN_MS, 0);
}
