/* XEP-0313: the archive of an account, asked by its owner. Queries under way: mam.c. */
#include "base/clock.h"
#include "im/address.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/mam.h"
#include "replication/levels.h"
#include <stdlib.h>
#include <string.h>

#define NS_DATA "jabber:x:data"

/* ---- what a query asks for ---- */

/* An error that was sent, or 0. */
static int refuse(struct xmpp_iq *iq, enum stanza_error error, const char *text)
{
    iq_error(iq, error, text);
    return ERR_INVALID;
}

/* XEP-0313 §4.1.3: an id that is not in the archive is an error. */
static int read_id(struct xmpp_iq *iq, const char *text, struct archive_id *out)
{
    if (stored_id_parse(iq->shard->ids, text, &out->index, &out->place) &&
        archive_has(iq->shard, iq->uid, *out))
        return 0;
    return refuse(iq, STANZA_ITEM_NOT_FOUND, NULL);
}

static int read_time(struct xmpp_iq *iq, const char *text, uint64_t *ms)
{
    return clock_parse_utc(text, ms) < 0 ? refuse(iq, STANZA_BAD_REQUEST, "a time is not as XEP-0082 has it")
                                         : 0;
}

/* The last id before ID; what lies between has no message. */
static struct archive_id before(struct archive_id id)
{
    if (id.place)
        return (struct archive_id){id.index, id.place - 1};
    return id.index ? (struct archive_id){id.index - 1, UINT32_MAX} : archive_first;
}

static void raise_after(struct archive_filter *f, struct archive_id id)
{
    if (archive_id_compare(id, f->after) > 0)
        f->after = id;
}

static void lower_before(struct archive_filter *f, struct archive_id id)
{
    if (archive_id_compare(id, f->before) < 0)
        f->before = id;
}

static int read_start(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    uint64_t ms;
    int rc = read_time(iq, value, &ms);
    if (!rc)
        raise_after(&r->filter, before(archive_at_time(iq->shard, iq->uid, ms)));
    return rc;
}

static int read_end(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    uint64_t ms;
    int rc = read_time(iq, value, &ms);
    if (!rc)
        lower_before(&r->filter, archive_at_time(iq->shard, iq->uid, ms + 1));
    return rc;
}

static int read_with(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    char jid[JID_MAX + 1];
    if (jid_prepare(jid, value, strlen(value), NULL) < 0)
        return refuse(iq, STANZA_JID_MALFORMED, NULL);
    r->filter.with = arena_strdup(iq->arena, jid);
    return 0;
}

static int read_after_id(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    struct archive_id id;
    int rc = read_id(iq, value, &id);
    if (!rc)
        raise_after(&r->filter, id);
    return rc;
}

static int read_before_id(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    struct archive_id id;
    int rc = read_id(iq, value, &id);
    if (!rc)
        lower_before(&r->filter, id);
    return rc;
}

/* No room is archived here: whether they are to be in makes no difference. */
static int read_groupchat(struct xmpp_iq *iq, const char *value, struct mam_request *r)
{
    static const char *const values[] = {"true", "false", "1", "0"};
    (void)r;
    for (size_t i = 0; i < n_elements(values); i++)
        if (strcmp(value, values[i]) == 0)
            return 0;
    return refuse(iq, STANZA_BAD_REQUEST, "include-groupchat is true or false");
}

static int compare_ids(const void *a, const void *b)
{
    return archive_id_compare(*(const struct archive_id *)a, *(const struct archive_id *)b);
}

static int read_ids(struct xmpp_iq *iq, const struct xml *field, struct mam_request *r)
{
    r->ids = arena_alloc(iq->arena, MAM_PAGE_MAX * sizeof *r->ids);
    for (struct xml *v = xml_child(field, "value", NS_DATA); v; v = xml_next(v, "value", NS_DATA)) {
        if (r->n_ids == MAM_PAGE_MAX)
            return refuse(iq, STANZA_POLICY_VIOLATION, "too many ids in one query");
        int rc = read_id(iq, xml_text(v, iq->arena), &r->ids[r->n_ids]);
        if (rc)
            return rc;
        r->n_ids++;
    }
    if (!r->n_ids)
        return refuse(iq, STANZA_BAD_REQUEST, "the ids are missing");
    qsort(r->ids, r->n_ids, sizeof *r->ids, compare_ids);
    size_t n = 1;
    for (size_t i = 1; i < r->n_ids; i++)
        if (archive_id_compare(r->ids[i], r->ids[n - 1]) != 0)
            r->ids[n++] = r->ids[i];
    r->n_ids = n;
    return 0;
}

static const struct {
    const char *name, *type;
    int (*read)(struct xmpp_iq *iq, const char *value, struct mam_request *r);
} fields[] = {
    {"with", "jid-single", read_with},
    {"start", "text-single", read_start},
    {"end", "text-single", read_end},
    {"before-id", "text-single", read_before_id},
    {"after-id", "text-single", read_after_id},
    {"ids", "list-multi", NULL},
    {"include-groupchat", "boolean", read_groupchat},
};

static int read_field(struct xmpp_iq *iq, const struct xml *field, struct mam_request *r)
{
    const char *var = xml_attr(field, "var"), *value = xml_child_text(field, "value", NS_DATA, iq->arena);
    if (!var)
        return refuse(iq, STANZA_BAD_REQUEST, "a field without a name");
    if (strcmp(var, "FORM_TYPE") == 0)
        return value && strcmp(value, NS_MAM) == 0 ? 0
                                                   : refuse(iq, STANZA_BAD_REQUEST, "a form of another type");
    for (size_t i = 0; i < n_elements(fields); i++) {
        if (strcmp(var, fields[i].name) != 0)
            continue;
        if (!fields[i].read)
            return read_ids(iq, field, r);
        /* A field that was left empty is one that was left out. */
        return value && *value ? fields[i].read(iq, value, r) : 0;
    }
    return refuse(iq, STANZA_FEATURE_NOT_IMPLEMENTED, "a field that is not known");
}

static int read_form(struct xmpp_iq *iq, struct mam_request *r)
{
    const struct xml *form = xml_child(iq->payload, "x", NS_DATA);
    const char *type = form ? xml_attr(form, "type") : NULL;
    bool has_type = false;
    if (!form)
        return 0;
    if (!type || strcmp(type, "submit") != 0)
        return refuse(iq, STANZA_BAD_REQUEST, "the form is not submitted");
    for (struct xml *x = xml_child(form, "field", NS_DATA); x; x = xml_next(x, "field", NS_DATA)) {
        const char *var = xml_attr(x, "var");
        has_type |= var && strcmp(var, "FORM_TYPE") == 0;
        int rc = read_field(iq, x, r);
        if (rc)
            return rc;
    }
    return has_type ? 0 : refuse(iq, STANZA_BAD_REQUEST, "the form has no FORM_TYPE");
}

static int read_paging(struct xmpp_iq *iq, struct mam_request *r)
{
    if (rsm_read(&r->rsm, iq->payload, MAM_PAGE_MAX, iq->arena) < 0)
        return refuse(iq, STANZA_BAD_REQUEST,
                      "the page asked for is none: <max/> and <index/> are numbers (XEP-0059)");
    const struct xml *set = xml_child(iq->payload, "set", NS_RSM);
    if (!set || !xml_child(set, "max", NS_RSM))
        r->rsm.max = MAM_PAGE;
    int rc = 0;
    if (r->rsm.after)
        rc = read_id(iq, r->rsm.after, &r->page_after);
    if (!rc && r->rsm.before && *r->rsm.before)
        rc = read_id(iq, r->rsm.before, &r->page_before);
    return rc;
}

static void handle_query(struct xmpp_iq *iq)
{
    struct mam_request r = {
        .query_id = xml_attr(iq->payload, "queryid"),
        .filter = {.after = archive_first, .before = archive_last},
        .page_after = archive_first,
        .page_before = archive_last,
        .flip = xml_child(iq->payload, "flip-page", NS_MAM) != NULL,
    };
    if (xml_attr(iq->payload, "node")) /* §5.1.3: of pubsub archives */
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    else if (read_form(iq, &r) == 0 && read_paging(iq, &r) == 0)
        mam_begin(iq, &r);
}

/* §4.1.5 */
static void handle_fields(struct xmpp_iq *iq)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_MAM "'><x xmlns='" NS_DATA "' type='form'>"
                   "<field type='hidden' var='FORM_TYPE'><value>" NS_MAM "</value></field>");
    for (size_t i = 0; i < n_elements(fields); i++) {
        buf_addf(&out, "<field type='%s' var='%s'", fields[i].type, fields[i].name);
        buf_adds(&out, fields[i].read ? "/>"
                                      : "><validate xmlns='http://jabber.org/protocol/xdata-validate' "
                                        "datatype='xs:string'><open/></validate></field>");
    }
    buf_adds(&out, "</x></query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void on_query(struct xmpp_iq *iq)
{
    if (iq->scope != IQ_SELF)
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else if (iq->envelope->type == IQ_GET)
        handle_fields(iq);
    else
        handle_query(iq);
}

/* ---- metadata (§4.4) ---- */

static void write_end_of_archive(struct shard *s, struct buf *out, const char *name,
                                 const struct archive_item *item)
{
    char id[STORED_ID_MAX], stamp[32];
    stored_id_write(s->ids, id, item->id.index, item->id.place);
    clock_format_utc(stamp, item->time_ms, 1);
    buf_addf(out, "<%s id='%s' timestamp='%s'/>", name, id, stamp);
}

static void write_metadata(struct buf *out, struct shard *s, uint64_t uid)
{
    struct archive_item first, last;
    struct arena a;
    arena_init(&a);
    buf_adds(out, "<metadata xmlns='" NS_MAM "'");
    if (archive_ends(s, uid, &first, &last, &a)) {
        buf_addc(out, '>');
        write_end_of_archive(s, out, "start", &first);
        write_end_of_archive(s, out, "end", &last);
        buf_adds(out, "</metadata>");
    } else {
        buf_adds(out, "/>");
    }
    arena_fini(&a);
}

static void on_metadata(struct xmpp_iq *iq)
{
    struct buf out = {0};
    if (iq->scope != IQ_SELF) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return;
    }
    write_metadata(&out, iq->shard, iq->uid);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* XEP-0386 §4.2: whoever binds this way is told where the archive ends, asked for or not, and takes from
 * there what came while it was away. What is not in the archive is delivered as ever. */
static enum inline_result on_bind2(struct c2s_home *h, const struct xml *request, struct buf *answer)
{
    struct session *s = &h->session;
    (void)request;
    if (s->shard->settings.level < LEVEL_3)
        return INLINE_DONE;
    write_metadata(answer, s->shard, s->user->uid);
    offline_forget_archived(s);
    return INLINE_DONE;
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_MAM, "query", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = on_query, .outside = true},
    {NS_MAM, "metadata", IQ_SELF | IQ_ACCOUNT, .get = true, .handle = on_metadata, .outside = true},
    {0},
};
static const struct xmpp_inline inline_bind2[] = {{.handle = on_bind2}, {0}};
static const char *const account_features[] = {NS_MAM,
                                               NS_MAM "#extended",
                                               NS_MAM "#groupchat-field",
                                               NS_RSM,
                                               "urn:xmpp:sid:0",
                                               "urn:xmpp:message-retract:1",
                                               "urn:xmpp:message-retract:1#tombstone",
                                               NULL};
const struct xmpp_feature feature_mam = {
    .name = "mam",
    .xep = "XEP-0313 1.1.3",
    .level = LEVEL_3,
    .account_features = account_features,
    .handlers = handlers,
    .inline_bind2 = inline_bind2,
};
