#include "im/stored.h"
#include "base/xml.h"
#include <stdio.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_known(const char *name, size_t n)
{
    static const char *const known[] = {"from", "to", "id", "type", "xml:lang", "xmlns"};
    for (size_t i = 0; i < n_elements(known); i++)
        if (strlen(known[i]) == n && memcmp(known[i], name, n) == 0)
            return true;
    return false;
}

/* The bytes went through the XML parser, so only the shape name=quote..quote must be followed. */
void stanza_extra_attributes(struct buf *out, const char *tag, size_t n_bytes)
{
    const char *p = tag, *end = tag + n_bytes;
    while (p < end && !is_space(*p))
        p++; /* the element's name */
    for (;;) {
        while (p < end && (is_space(*p) || *p == '/'))
            p++;
        const char *name = p;
        while (p < end && *p != '=' && !is_space(*p))
            p++;
        size_t n_name = (size_t)(p - name);
        while (p < end && *p != '\'' && *p != '"')
            p++;
        if (p >= end || !n_name)
            return;
        const char *close = memchr(p + 1, *p, (size_t)(end - p - 1));
        if (!close)
            return;
        if (!is_known(name, n_name)) {
            buf_addc(out, ' ');
            buf_add(out, name, n_name);
            buf_addc(out, '=');
            buf_add(out, p, (size_t)(close + 1 - p));
        }
        p = close + 1;
    }
}

/* Where the start tag ends; '>' may stand inside of attribute values. */
static const char *find_tag_end(const char *p, const char *end)
{
    char quote = 0;
    for (; p < end; p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '\'' || *p == '"')
            quote = *p;
        else if (*p == '>')
            return p;
    }
    return NULL;
}

/* It was within the limits of its time when it came in; these only stop what is no stanza at all. */
static const struct xml_limits limits = {
    .stanza_bytes = 16 << 20, .depth = 1000, .attrs = 1000, .elements = 1000000};

struct envelope *stored_stanza(const void *data, size_t n_bytes, const char *from, const char *to)
{
    const char *raw = data, *end = raw + n_bytes;
    struct arena a;
    arena_init(&a);
    struct xml *root;
    struct envelope *e = NULL;
    const char *tag_end = find_tag_end(raw, end);
    if (!tag_end || xml_parse(&root, &a, data, n_bytes, &limits, NULL) < 0)
        goto out;
    int kind = 0;
    while (kind < N_STANZA_KINDS && strcmp(root->name, stanza_kind_name(kind)) != 0)
        kind++;
    int type = kind < N_STANZA_KINDS ? stanza_type_parse(kind, xml_attr(root, "type")) : ERR_INVALID;
    if (type < 0)
        goto out;
    struct buf extra = {0};
    stanza_extra_attributes(&extra, raw + 1, (size_t)(tag_end - raw - 1));
    struct blob *payload = NULL;
    const char *close = memrchr(raw, '<', n_bytes);
    if (tag_end[-1] != '/' && close > tag_end)
        payload = blob_new(tag_end + 1, (size_t)(close - tag_end - 1));
    e = envelope_new(&(struct envelope_parts){.type = type,
                                              .from = from,
                                              .to = to,
                                              .id = xml_attr(root, "id"),
                                              .lang = xml_attr_ns(root, "lang", XML_NS_XML),
                                              .extra = extra.n ? extra.data : NULL,
                                              .payload = payload});
    blob_unref(payload);
    buf_fini(&extra);
out:
    arena_fini(&a);
    return e;
}

struct xml *stanza_tree(const struct envelope *e, struct arena *arena)
{
    struct buf text = {0};
    const char *type = stanza_type_text((enum stanza_type)e->type);
    buf_addf(&text, "<%s xmlns='jabber:client'", stanza_kind_name((enum stanza_kind)e->kind));
    if (type)
        buf_addf(&text, " type='%s'", type);
    if (e->id) {
        buf_adds(&text, " id='");
        xml_escape(&text, e->id, strlen(e->id));
        buf_addc(&text, '\'');
    }
    if (e->extra)
        buf_adds(&text, e->extra);
    buf_addc(&text, '>');
    if (e->payload)
        buf_add(&text, e->payload->data, e->payload->n);
    buf_addf(&text, "</%s>", stanza_kind_name((enum stanza_kind)e->kind));
    struct xml *root = NULL;
    if (xml_parse(&root, arena, text.data, text.n, &limits, NULL) < 0)
        root = NULL;
    buf_fini(&text);
    return root;
}

/* ---- ids ---- */

void stored_id_write(char out[STORED_ID_MAX], uint64_t index, uint32_t place)
{
    snprintf(out, STORED_ID_MAX, "%llx-%x", (unsigned long long)index, place);
}

static bool read_hex(const char **at, unsigned n_digits, uint64_t *out)
{
    const char *p = *at;
    uint64_t v = 0;
    for (; *p && strchr("0123456789abcdef", *p); p++)
        v = v << 4 | (uint64_t)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    bool ok = p > *at && (size_t)(p - *at) <= n_digits && !(**at == '0' && p > *at + 1);
    *at = p;
    *out = v;
    return ok;
}

/* Only what stored_id_write makes: one message has one id. */
bool stored_id_parse(const char *id, uint64_t *index, uint32_t *place)
{
    uint64_t in_entry;
    if (!read_hex(&id, 16, index) || *id++ != '-' || !read_hex(&id, 8, &in_entry) || *id)
        return false;
    *place = (uint32_t)in_entry;
    return true;
}

void stored_id_element(struct buf *out, const struct envelope *e, const char *by)
{
    char id[STORED_ID_MAX];
    if (!e->stored)
        return;
    stored_id_write(id, e->stored, e->stored_place);
    buf_addf(out, "<stanza-id xmlns='urn:xmpp:sid:0' id='%s' by='", id);
    xml_escape(out, by, strlen(by));
    buf_adds(out, "'/>");
}
