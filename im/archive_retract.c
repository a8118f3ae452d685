/* XEP-0424 §5: a message that its sender takes back becomes a tombstone in the archives that have it.
 *
 * The retraction names the message by the id that its sender gave it, for which there is no index: the
 * archive is walked back from its end, a bounded number of rows at a time and in all. What is not found that
 * way keeps its text; clients have the retraction itself all the same. A job belongs to its shard and ends
 * with it. */
#include "base/clock.h"
#include "base/xml.h"
#include "im/archive.h"
#include "im/im_impl.h"
#include "im/stored.h"
#include <string.h>

#define NS_RETRACT "urn:xmpp:message-retract:1"

enum { ROWS_AT_ONCE = 128, ROWS_MAX = 4096, JOBS_MAX = 1024, TURN_MS = 2 };

struct archive_retractions {
    struct list jobs; /* struct retraction */
    unsigned n;
};

struct retraction {
    struct list link;
    struct archive_retractions *all;
    struct timer timer;
    struct shard *shard;
    uint64_t uid;               /* whose archive is looked through */
    char *from, *with;          /* who takes it back; the other side: bare JIDs */
    char *message, *retraction; /* ids that the sender gave */
    unsigned rows_left;
    struct archive_filter filter;
    struct archive_walk walk;
};

static void free_job(struct retraction *r)
{
    timer_stop(&r->timer);
    list_remove(&r->link);
    r->all->n--;
    mem_free(r->from);
    mem_free(r->with);
    mem_free(r->message);
    mem_free(r->retraction);
    mem_free(r);
}

struct archive_retractions *archive_retractions_new(void)
{
    struct archive_retractions *all = mem_new(struct archive_retractions);
    list_init(&all->jobs);
    return all;
}

void archive_retractions_free(struct archive_retractions *all)
{
    struct retraction *r;
    list_for_each(r, &all->jobs, struct retraction, link) free_job(r);
    mem_free(all);
}

/* ---- the tombstone ---- */

static void on_done(void *user, const struct proposal_result *result)
{
    struct shard *s = user;
    if (result->code && result->code != ERR_NOTFOUND)
        log_info(s->log, "a retracted message keeps its text: %s",
                 result->text && *result->text ? result->text : err_text(result->code));
}

static void propose(struct retraction *r, const struct archive_item *item, const struct envelope *e)
{
    struct buf inner = {0}, stanza = {0};
    char stamp[32];
    clock_format_utc(stamp, clock_wall_ms(), 1);
    buf_adds(&inner, "<retracted xmlns='" NS_RETRACT "' id='");
    xml_escape(&inner, r->retraction, strlen(r->retraction));
    buf_addf(&inner, "' stamp='%s'/>", stamp);
    struct blob *payload = blob_new(inner.data, inner.n);
    struct envelope *tombstone = envelope_new(
        &(struct envelope_parts){.type = e->type, .id = e->id, .lang = e->lang, .payload = payload});
    envelope_write(&stanza, tombstone, NULL, NULL);
    Imp__ArchiveRetract body = IMP__ARCHIVE_RETRACT__INIT;
    body.uid = r->uid;
    body.index = item->id.index;
    body.place = item->id.place;
    body.from = r->from;
    body.stanza = (ProtobufCBinaryData){stanza.n, (uint8_t *)stanza.data};
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_ARCHIVE_RETRACT;
    command.archive_retract = &body;
    if (shard_submit(r->shard, &command, on_done, r->shard) < 0)
        on_done(r->shard, &(struct proposal_result){.code = ERR_UNAVAILABLE, .text = ""});
    envelope_free(tombstone);
    blob_unref(payload);
    buf_fini(&inner);
    buf_fini(&stanza);
}

/* ---- the search ---- */

static bool has_text(const char *p, size_t n, const char *text)
{
    return memmem(p, n, text, strlen(text)) != NULL;
}

/* Is it worth parsing? An id with characters that are escaped in the store is found by that alone. */
static bool may_be(const struct retraction *r, const struct archive_item *item)
{
    return item->archived && jid_same_bare(item->from, r->from) &&
           (strpbrk(r->message, "&<>'\"") || has_text(item->stanza, item->n_bytes, r->message));
}

/* Whether that was it. A tombstone is passed by: ids may be used again. */
static bool look_at(struct retraction *r, struct archive_id id)
{
    struct archive_item item;
    struct arena a;
    bool is = false;
    arena_init(&a);
    if (archive_read(r->shard, r->uid, id, &item, &a) && may_be(r, &item)) {
        struct envelope *e = stored_stanza(item.stanza, item.n_bytes, item.from, item.to);
        is = e && e->id && strcmp(e->id, r->message) == 0 && e->payload &&
             !has_text(e->payload->data, e->payload->n, "<retracted xmlns='" NS_RETRACT);
        if (is)
            propose(r, &item, e);
        envelope_free(e);
    }
    arena_fini(&a);
    return is;
}

static void on_turn(struct timer *t)
{
    struct retraction *r = container_of(t, struct retraction, timer);
    struct archive_id ids[32];
    unsigned budget = ROWS_AT_ONCE < r->rows_left ? ROWS_AT_ONCE : r->rows_left, before = budget;
    while (budget && !r->walk.ended) {
        size_t n = archive_walk(&r->walk, ids, n_elements(ids), &budget);
        for (size_t i = 0; i < n; i++) {
            if (look_at(r, ids[i])) {
                free_job(r);
                return;
            }
        }
    }
    r->rows_left -= before - budget;
    if (!r->rows_left || r->walk.ended)
        free_job(r);
    else
        timer_start(&r->timer, TURN_MS, 0);
}

void archive_retract(struct shard *s, const struct envelope *e)
{
    struct archive_retractions *all = archive_retractions(s);
    unsigned wants = archive_wants(s, e);
    struct arena a;
    arena_init(&a);
    struct xml *root = stanza_tree(e, &a), *retract = root ? xml_child(root, "retract", NS_RETRACT) : NULL;
    const char *message = retract ? xml_attr(retract, "id") : NULL;
    bool may =
        message && *message && e->id && *e->id && wants & (ARCHIVE_FROM | ARCHIVE_TO) && all->n < JOBS_MAX;
    if (may) {
        struct retraction *r = mem_new(struct retraction);
        bool own = wants & ARCHIVE_FROM; /* else it is looked for in the other one's */
        r->all = all;
        r->shard = s;
        r->uid = own ? e->from_uid : e->to_uid;
        r->from = mem_strndup(e->from, jid_bare_length(e->from));
        r->with = own ? mem_strndup(e->to, jid_bare_length(e->to)) : mem_strdup(r->from);
        r->message = mem_strdup(message);
        r->retraction = mem_strdup(e->id);
        r->rows_left = ROWS_MAX;
        r->filter = (struct archive_filter){.with = r->with, .after = archive_first, .before = archive_last};
        archive_walk_init(&r->walk, s, r->uid, &r->filter, true);
        timer_init(&r->timer, s->loop, on_turn);
        timer_start(&r->timer, TURN_MS, 0);
        list_append(&all->jobs, &r->link);
        all->n++;
    }
    arena_fini(&a);
}
