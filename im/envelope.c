#include "im/envelope.h"
#include "base/err.h"
#include "base/xml.h"
#include <string.h>

static const char *const kind_names[N_STANZA_KINDS] = {"message", "presence", "iq"};
static const struct {
    uint8_t kind;
    const char *text;
} types[N_STANZA_TYPES] = {
#define X(id, kind, text) {STANZA_##kind, text},
    STANZA_TYPES(X)
#undef X
};
/* RFC 6120 §8.3.3, in the order of enum stanza_error. */
static const struct {
    const char *name, *class;
} errors[N_STANZA_ERRORS] = {
    {"bad-request", "modify"},
    {"conflict", "cancel"},
    {"feature-not-implemented", "cancel"},
    {"forbidden", "auth"},
    {"gone", "cancel"},
    {"internal-server-error", "wait"},
    {"item-not-found", "cancel"},
    {"jid-malformed", "modify"},
    {"not-acceptable", "modify"},
    {"not-allowed", "cancel"},
    {"policy-violation", "modify"},
    {"recipient-unavailable", "wait"},
    {"remote-server-not-found", "cancel"},
    {"remote-server-timeout", "wait"},
    {"resource-constraint", "wait"},
    {"service-unavailable", "cancel"},
    {"unexpected-request", "wait"},
    {"not-authorized", "auth"},
};

const char *stanza_kind_name(enum stanza_kind kind)
{
    return kind_names[kind];
}

enum stanza_kind stanza_type_kind(enum stanza_type type)
{
    return types[type].kind;
}

const char *stanza_type_text(enum stanza_type type)
{
    return types[type].text;
}

int stanza_type_parse(enum stanza_kind kind, const char *text)
{
    if (kind == STANZA_MESSAGE && text && strcmp(text, "normal") == 0)
        return MESSAGE_NORMAL;
    for (int i = 0; i < N_STANZA_TYPES; i++) {
        if (types[i].kind != kind)
            continue;
        if (!text ? !types[i].text : types[i].text && strcmp(text, types[i].text) == 0)
            return i;
    }
    return kind == STANZA_MESSAGE ? MESSAGE_NORMAL : ERR_INVALID;
}

bool stanza_type_is_error(enum stanza_type type)
{
    return type == MESSAGE_ERROR || type == PRESENCE_ERROR || type == IQ_ERROR;
}

const char *stanza_error_name(enum stanza_error error)
{
    return errors[error].name;
}

const char *stanza_error_class(enum stanza_error error)
{
    return errors[error].class;
}

void stanza_error_write(struct buf *out, enum stanza_error error, const char *text)
{
    buf_adds(out, "<error type='");
    buf_adds(out, errors[error].class);
    buf_adds(out, "'><");
    buf_adds(out, errors[error].name);
    buf_adds(out, " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'");
    if (error == STANZA_GONE && text) {
        buf_addc(out, '>');
        xml_escape(out, text, strlen(text));
        buf_adds(out, "</gone>");
    } else {
        buf_adds(out, "/>");
        if (text) {
            buf_adds(out, "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>");
            xml_escape(out, text, strlen(text));
            buf_adds(out, "</text>");
        }
    }
    buf_adds(out, "</error>");
}

/* Puts the string behind the struct, in the same allocation. */
static const char *put_string(char **at, const char *s)
{
    if (!s)
        return NULL;
    size_t n = strlen(s) + 1;
    char *to = *at;
    memcpy(to, s, n);
    *at += n;
    return to;
}

static size_t string_room(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

struct envelope *envelope_new(const struct envelope_parts *p)
{
    const char *from = p->from ? p->from : "";
    const char *to = p->to ? p->to : "";
    size_t n = sizeof(struct envelope) + string_room(from) + string_room(to) + string_room(p->id) +
               string_room(p->lang) + string_room(p->extra);
    struct envelope *e = mem_alloc(n);
    memset(e, 0, sizeof *e);
    list_init(&e->link);
    e->kind = types[p->type].kind;
    e->type = p->type;
    char *at = (char *)(e + 1);
    e->from = put_string(&at, from);
    e->to = put_string(&at, to);
    e->id = put_string(&at, p->id);
    e->lang = put_string(&at, p->lang);
    e->extra = put_string(&at, p->extra);
    e->payload = p->payload ? blob_ref(p->payload) : NULL;
    e->n_bytes = n + (p->payload ? p->payload->n : 0);
    return e;
}

void envelope_free(struct envelope *e)
{
    if (!e)
        return;
    blob_unref(e->payload);
    mem_free(e);
}

struct envelope *envelope_copy(const struct envelope *e, const char *to)
{
    struct envelope *c = envelope_new(&(struct envelope_parts){.type = e->type,
                                                               .from = e->from,
                                                               .to = to ? to : e->to,
                                                               .id = e->id,
                                                               .lang = e->lang,
                                                               .extra = e->extra,
                                                               .payload = e->payload});
    c->flags = e->flags;
    c->from_node = e->from_node;
    c->from_uid = e->from_uid;
    c->to_uid = to ? 0 : e->to_uid;
    c->session = e->session;
    c->after_index = e->after_index;
    c->n_in = e->n_in;
    c->row = e->row;
    c->row_place = e->row_place;
    c->stored = e->stored;
    c->stored_place = e->stored_place;
    c->is_looked_at = e->is_looked_at;
    c->seen = e->seen;
    return c;
}

static bool may_bounce(const struct envelope *e, enum stanza_error error)
{
    if ((e->flags & (ENVELOPE_NO_BOUNCE | ENVELOPE_BROADCAST | ENVELOPE_THROTTLE | ENVELOPE_SETTLED |
                     ENVELOPE_PROBE_BACK)) ||
        !*e->from)
        return false;
    switch ((enum stanza_type)e->type) {
    case MESSAGE_ERROR:
    case PRESENCE_ERROR:
    case PRESENCE_UNAVAILABLE:
    case IQ_RESULT:
    case IQ_ERROR:
        return false;
    case PRESENCE_PROBE:
        return error == STANZA_GONE; /* RFC 6121 §4.3.2 rule 2 */
    default:
        return true;
    }
}

struct envelope *envelope_error(const struct envelope *e, const void *error_xml, size_t n_bytes)
{
    static const enum stanza_type error_types[N_STANZA_KINDS] = {MESSAGE_ERROR, PRESENCE_ERROR, IQ_ERROR};
    struct buf inner = {0};
    if (e->payload)
        buf_add(&inner, e->payload->data, e->payload->n);
    buf_add(&inner, error_xml, n_bytes);
    struct blob *payload = blob_new(inner.data, inner.n);
    buf_fini(&inner);
    struct envelope *b = envelope_new(&(struct envelope_parts){.type = error_types[e->kind],
                                                               .from = e->to,
                                                               .to = e->from,
                                                               .id = e->id,
                                                               .lang = e->lang,
                                                               .extra = e->extra,
                                                               .payload = payload});
    blob_unref(payload);
    b->from_uid = e->to_uid;
    b->to_uid = e->from_uid;
    b->flags = ENVELOPE_NO_BOUNCE;
    return b;
}

struct envelope *envelope_bounce(const struct envelope *e, enum stanza_error error, const char *text)
{
    if (!may_bounce(e, error))
        return NULL;
    struct buf xml = {0};
    stanza_error_write(&xml, error, text);
    struct envelope *b = envelope_error(e, xml.data, xml.n);
    buf_fini(&xml);
    return b;
}

static void add_attr(struct buf *out, const char *name, const char *value)
{
    buf_addc(out, ' ');
    buf_adds(out, name);
    buf_add(out, "='", 2);
    xml_escape(out, value, strlen(value));
    buf_addc(out, '\'');
}

void envelope_write(struct buf *out, const struct envelope *e, const char *to, const char *extra_xml)
{
    const char *name = kind_names[e->kind];
    if (!to)
        to = e->to;
    buf_addc(out, '<');
    buf_adds(out, name);
    if (*e->from)
        add_attr(out, "from", e->from);
    if (*to)
        add_attr(out, "to", to);
    if (types[e->type].text)
        add_attr(out, "type", types[e->type].text);
    if (e->id)
        add_attr(out, "id", e->id);
    if (e->lang)
        add_attr(out, "xml:lang", e->lang);
    if (e->extra)
        buf_adds(out, e->extra);
    if ((!e->payload || e->payload->n == 0) && !extra_xml) {
        buf_adds(out, "/>");
        return;
    }
    buf_addc(out, '>');
    if (e->payload)
        buf_add(out, e->payload->data, e->payload->n);
    if (extra_xml)
        buf_adds(out, extra_xml);
    buf_add(out, "</", 2);
    buf_adds(out, name);
    buf_addc(out, '>');
}

enum { NO_STRING = 0xffffffff };

static void encode_string(struct buf *out, const char *s)
{
    if (!s) {
        buf_add_u32(out, NO_STRING);
        return;
    }
    size_t n = strlen(s);
    buf_add_u32(out, (uint32_t)n);
    buf_add(out, s, n + 1); /* with its NUL: the reader borrows it in place */
}

/* Such are sent at level 3 only: no node of a former release meets them. */
static bool is_counted(unsigned flags)
{
    return flags & (ENVELOPE_COUNTED | ENVELOPE_SETTLED | ENVELOPE_FENCE | ENVELOPE_REFUSED);
}

void envelope_encode(struct buf *out, const struct envelope *e)
{
    buf_add_u8(out, e->type);
    buf_add_u16(out, e->flags);
    buf_add_u64(out, e->from_uid);
    buf_add_u64(out, e->to_uid);
    buf_add_u64(out, e->session);
    buf_add_u64(out, e->after_index);
    buf_add_u64(out, e->order_index);
    buf_add_u64(out, e->order);
    encode_string(out, e->from);
    encode_string(out, e->to);
    encode_string(out, e->id);
    encode_string(out, e->lang);
    encode_string(out, e->extra);
    buf_add_u32(out, e->payload ? e->payload->n : NO_STRING);
    if (e->payload)
        buf_add(out, e->payload->data, e->payload->n);
    if (!is_counted(e->flags))
        return;
    buf_add_u64(out, e->n_in);
    buf_add_u64(out, e->row);
    buf_add_u32(out, e->row_place);
}

static const char *decode_string(struct reader *r)
{
    uint32_t n = read_u32(r);
    if (r->failed || n == NO_STRING)
        return NULL;
    const char *s = n < UINT32_MAX - 1 ? read_bytes(r, (size_t)n + 1) : NULL;
    if (!s || s[n] || memchr(s, 0, n)) {
        r->failed = 1;
        return NULL;
    }
    return s;
}

int envelope_decode(struct envelope **out, const uint8_t *data, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint8_t type = read_u8(&r);
    uint16_t flags = read_u16(&r);
    uint64_t from_uid = read_u64(&r), to_uid = read_u64(&r), session = read_u64(&r), after = read_u64(&r);
    uint64_t order_index = read_u64(&r), order = read_u64(&r);
    struct envelope_parts p = {.type = type};
    p.from = decode_string(&r);
    p.to = decode_string(&r);
    p.id = decode_string(&r);
    p.lang = decode_string(&r);
    p.extra = decode_string(&r);
    uint32_t n = read_u32(&r);
    const void *payload = r.failed || n == NO_STRING ? NULL : read_bytes(&r, n);
    uint64_t n_in = is_counted(flags) ? read_u64(&r) : 0, row = is_counted(flags) ? read_u64(&r) : 0;
    uint32_t row_place = is_counted(flags) ? read_u32(&r) : 0;
    if (r.failed || type >= N_STANZA_TYPES || !p.from || !p.to || reader_left(&r))
        return ERR_MALFORMED;
    if (n != NO_STRING)
        p.payload = blob_new(payload, n);
    struct envelope *e = envelope_new(&p);
    blob_unref(p.payload);
    e->flags = flags;
    e->from_uid = from_uid;
    e->to_uid = to_uid;
    e->session = session;
    e->after_index = after;
    e->order_index = order_index;
    e->order = order;
    e->n_in = n_in;
    e->row = row;
    e->row_place = row_place;
    *out = e;
    return 0;
}

size_t jid_bare_length(const char *jid)
{
    return strcspn(jid, "/");
}

const char *jid_resource(const char *jid)
{
    const char *slash = strchr(jid, '/');
    return slash ? slash + 1 : "";
}

bool jid_same_bare(const char *a, const char *b)
{
    size_t n = jid_bare_length(a);
    return n == jid_bare_length(b) && memcmp(a, b, n) == 0;
}
