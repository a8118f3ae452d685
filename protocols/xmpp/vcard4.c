/* vcard-temp (XEP-0054) and vCard4 (XEP-0292, RFC 6351) into each other, as far as both have a place for it
 * (XEP-0292 §8). Photos are no part of it: avatars have nodes of their own. */
#include "protocols/xmpp/convert.h"
#include <string.h>

/* X(vcard-temp, vCard4, kind of value): properties with one text. */
#define SIMPLE(X)                                                                                            \
    X("FN", "fn", "text")                                                                                    \
    X("NICKNAME", "nickname", "text")                                                                        \
    X("BDAY", "bday", "date")                                                                                \
    X("TITLE", "title", "text")                                                                              \
    X("ROLE", "role", "text")                                                                                \
    X("URL", "url", "uri")                                                                                   \
    X("TZ", "tz", "text")                                                                                    \
    X("UID", "uid", "uri")                                                                                   \
    X("REV", "rev", "timestamp")                                                                             \
    X("PRODID", "prodid", "text")                                                                            \
    X("SORT-STRING", "sort-as", "text")                                                                      \
    X("DESC", "note", "text")                                                                                \
    X("NOTE", "note", "text")
static const struct simple {
    const char *temp, *v4, *value;
} simple[] = {
#define X(temp, v4, value) {temp, v4, value},
    SIMPLE(X)
#undef X
};
struct pair {
    const char *temp, *v4;
};
static const struct pair name_parts[] = {{"FAMILY", "surname"},    {"GIVEN", "given"},
                                         {"MIDDLE", "additional"}, {"PREFIX", "prefix"},
                                         {"SUFFIX", "suffix"},     {NULL, NULL}};
static const struct pair address_parts[] = {
    {"POBOX", "pobox"},   {"EXTADD", "ext"}, {"STREET", "street"}, {"LOCALITY", "locality"},
    {"REGION", "region"}, {"PCODE", "code"}, {"CTRY", "country"},  {NULL, NULL}};
static const struct pair types[] = {{"HOME", "home"},   {"WORK", "work"}, {"VOICE", "voice"},
                                    {"FAX", "fax"},     {"CELL", "cell"}, {"PAGER", "pager"},
                                    {"VIDEO", "video"}, {"MSG", "text"},  {NULL, NULL}};

static const char *text_of(const struct xml *x, struct arena *a)
{
    return x ? xml_text(x, a) : "";
}

static void add(struct buf *out, const char *name, const char *text)
{
    if (!*text)
        return;
    buf_addf(out, "<%s>", name);
    iq_escape(out, text);
    buf_addf(out, "</%s>", name);
}

/* ---- to vCard4 ---- */

static void add_valued(struct buf *out, const char *name, const char *value, const char *prefix,
                       const char *text)
{
    if (!*text)
        return;
    buf_addf(out, "<%s><%s>", name, value);
    iq_escape(out, prefix);
    iq_escape(out, text);
    buf_addf(out, "</%s></%s>", value, name);
}

static void add_parts(struct buf *out, const struct xml *x, const struct pair *parts, struct arena *a)
{
    for (; parts->temp; parts++) {
        buf_addf(out, "<%s>", parts->v4);
        iq_escape(out, text_of(xml_child(x, parts->temp, NULL), a));
        buf_addf(out, "</%s>", parts->v4);
    }
}

static void add_parameters(struct buf *out, const struct xml *x)
{
    bool any = false;
    for (const struct pair *t = types; t->temp; t++) {
        if (!xml_child(x, t->temp, NULL))
            continue;
        buf_addf(out, "%s<text>%s</text>", any ? "" : "<parameters><type>", t->v4);
        any = true;
    }
    if (any)
        buf_adds(out, "</type>");
    if (xml_child(x, "PREF", NULL))
        buf_addf(out, "%s<pref><integer>1</integer></pref>", any ? "" : "<parameters>");
    if (any || xml_child(x, "PREF", NULL))
        buf_adds(out, "</parameters>");
}

static void property_to_4(struct buf *out, const struct xml *x, struct arena *a)
{
    for (size_t i = 0; i < n_elements(simple); i++) {
        if (strcmp(x->name, simple[i].temp) == 0) {
            add_valued(out, simple[i].v4, simple[i].value, "", xml_text(x, a));
            return;
        }
    }
    if (strcmp(x->name, "N") == 0) {
        buf_adds(out, "<n>");
        add_parts(out, x, name_parts, a);
        buf_adds(out, "</n>");
    } else if (strcmp(x->name, "ADR") == 0) {
        buf_adds(out, "<adr>");
        add_parameters(out, x);
        add_parts(out, x, address_parts, a);
        buf_adds(out, "</adr>");
    } else if (strcmp(x->name, "TEL") == 0 && *text_of(xml_child(x, "NUMBER", NULL), a)) {
        buf_adds(out, "<tel>");
        add_parameters(out, x);
        add(out, "text", text_of(xml_child(x, "NUMBER", NULL), a));
        buf_adds(out, "</tel>");
    } else if (strcmp(x->name, "EMAIL") == 0 && *text_of(xml_child(x, "USERID", NULL), a)) {
        buf_adds(out, "<email>");
        add_parameters(out, x);
        add(out, "text", text_of(xml_child(x, "USERID", NULL), a));
        buf_adds(out, "</email>");
    } else if (strcmp(x->name, "JABBERID") == 0) {
        add_valued(out, "impp", "uri", "xmpp:", xml_text(x, a));
    } else if (strcmp(x->name, "ORG") == 0) {
        buf_adds(out, "<org>");
        for (const struct xml *part = xml_first_element(x); part; part = xml_next_element(part))
            add(out, "text", xml_text(part, a));
        buf_adds(out, "</org>");
    } else if (strcmp(x->name, "GEO") == 0) {
        buf_adds(out, "<geo><uri>geo:");
        iq_escape(out, text_of(xml_child(x, "LAT", NULL), a));
        buf_addc(out, ',');
        iq_escape(out, text_of(xml_child(x, "LON", NULL), a));
        buf_adds(out, "</uri></geo>");
    } else if (strcmp(x->name, "CATEGORIES") == 0) {
        buf_adds(out, "<categories>");
        for (const struct xml *part = xml_first_element(x); part; part = xml_next_element(part))
            add(out, "text", xml_text(part, a));
        buf_adds(out, "</categories>");
    }
}

static void each_property(struct buf *out, const struct xml *vcard,
                          void (*write)(struct buf *out, const struct xml *x, struct arena *a))
{
    struct arena a;
    arena_init(&a);
    for (const struct xml *x = xml_first_element(vcard); x; x = xml_next_element(x))
        write(out, x, &a);
    arena_fini(&a);
}

void vcard4_from_temp(struct buf *out, const struct xml *vcard)
{
    buf_adds(out, "<vcard xmlns='" NS_VCARD4 "'>");
    each_property(out, vcard, property_to_4);
    buf_adds(out, "</vcard>");
}

/* ---- to vcard-temp ---- */

/* The text of the first value, whatever its kind; parameters are none. */
static const char *value_of(const struct xml *x, struct arena *a)
{
    const struct xml *v = xml_first_element(x);
    while (v && strcmp(v->name, "parameters") == 0)
        v = xml_next_element(v);
    return text_of(v, a);
}

static const char *without(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) == 0 ? text + n : text;
}

static void add_old_types(struct buf *out, const struct xml *x, struct arena *a)
{
    const struct xml *parameters = xml_child(x, "parameters", NS_VCARD4);
    const struct xml *type = parameters ? xml_child(parameters, "type", NS_VCARD4) : NULL;
    for (const struct xml *t = type ? xml_first_element(type) : NULL; t; t = xml_next_element(t))
        for (const struct pair *p = types; p->temp; p++)
            if (strcmp(xml_text(t, a), p->v4) == 0)
                buf_addf(out, "<%s/>", p->temp);
    if (parameters && xml_child(parameters, "pref", NS_VCARD4))
        buf_adds(out, "<PREF/>");
}

static void add_old_parts(struct buf *out, const struct xml *x, const struct pair *parts, struct arena *a)
{
    for (; parts->temp; parts++)
        add(out, parts->temp, text_of(xml_child(x, parts->v4, NS_VCARD4), a));
}

static void add_old_geo(struct buf *out, const char *uri)
{
    const char *at = without(uri, "geo:"), *comma = strchr(at, ',');
    if (!comma)
        return;
    buf_adds(out, "<GEO><LAT>");
    xml_escape(out, at, (size_t)(comma - at));
    buf_adds(out, "</LAT><LON>");
    xml_escape(out, comma + 1, strcspn(comma + 1, ",;"));
    buf_adds(out, "</LON></GEO>");
}

static void add_old_org(struct buf *out, const struct xml *x, struct arena *a)
{
    const char *name = "ORGNAME";
    buf_adds(out, "<ORG>");
    for (const struct xml *t = xml_child(x, "text", NS_VCARD4); t; t = xml_next(t, "text", NS_VCARD4)) {
        add(out, name, xml_text(t, a));
        name = "ORGUNIT";
    }
    buf_adds(out, "</ORG>");
}

static void add_old_group(struct buf *out, const struct xml *x, const char *name, const char *value,
                          const char *text, struct arena *a)
{
    if (!*text)
        return;
    buf_addf(out, "<%s>", name);
    add_old_types(out, x, a);
    add(out, value, text);
    buf_addf(out, "</%s>", name);
}

static void property_to_temp(struct buf *out, const struct xml *x, struct arena *a)
{
    for (size_t i = 0; i < n_elements(simple); i++) {
        if (strcmp(x->name, simple[i].v4) == 0) { /* a note is a DESC, as clients show it */
            add(out, simple[i].temp, value_of(x, a));
            return;
        }
    }
    if (strcmp(x->name, "n") == 0) {
        buf_adds(out, "<N>");
        add_old_parts(out, x, name_parts, a);
        buf_adds(out, "</N>");
    } else if (strcmp(x->name, "adr") == 0) {
        buf_adds(out, "<ADR>");
        add_old_types(out, x, a);
        add_old_parts(out, x, address_parts, a);
        buf_adds(out, "</ADR>");
    } else if (strcmp(x->name, "tel") == 0) {
        add_old_group(out, x, "TEL", "NUMBER", without(value_of(x, a), "tel:"), a);
    } else if (strcmp(x->name, "email") == 0) {
        add_old_group(out, x, "EMAIL", "USERID", value_of(x, a), a);
    } else if (strcmp(x->name, "impp") == 0) {
        if (strncmp(value_of(x, a), "xmpp:", 5) == 0)
            add(out, "JABBERID", value_of(x, a) + 5);
    } else if (strcmp(x->name, "org") == 0) {
        add_old_org(out, x, a);
    } else if (strcmp(x->name, "geo") == 0) {
        add_old_geo(out, value_of(x, a));
    } else if (strcmp(x->name, "categories") == 0) {
        buf_adds(out, "<CATEGORIES>");
        for (const struct xml *t = xml_child(x, "text", NS_VCARD4); t; t = xml_next(t, "text", NS_VCARD4))
            add(out, "KEYWORD", xml_text(t, a));
        buf_adds(out, "</CATEGORIES>");
    }
}

void vcard4_to_temp(struct buf *out, const struct xml *vcard4)
{
    buf_adds(out, "<vCard xmlns='" NS_VCARD_TEMP "'>");
    each_property(out, vcard4, property_to_temp);
    buf_adds(out, "</vCard>");
}
