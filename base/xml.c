#include "base/xml.h"

#include <string.h>

/* ---- looking ---- */

bool xml_is(const struct xml *x, const char *name, const char *ns)
{
    return x && x->name && strcmp(x->name, name) == 0 && (!ns || x->ns == ns || strcmp(x->ns, ns) == 0);
}

static struct xml *match_from(struct xml *x, const char *name, const char *ns)
{
    while (x && !xml_is(x, name, ns))
        x = x->next;
    return x;
}

struct xml *xml_child(const struct xml *x, const char *name, const char *ns)
{
    return match_from(x->children, name, ns);
}

struct xml *xml_next(const struct xml *child, const char *name, const char *ns)
{
    return match_from(child->next, name, ns);
}

struct xml *xml_first_element(const struct xml *x)
{
    struct xml *c = x->children;
    while (c && !c->name)
        c = c->next;
    return c;
}

struct xml *xml_next_element(const struct xml *x)
{
    struct xml *c = x->next;
    while (c && !c->name)
        c = c->next;
    return c;
}

const char *xml_attr_ns(const struct xml *x, const char *name, const char *ns)
{
    for (const struct xml_attr *a = x->attrs; a; a = a->next)
        if (strcmp(a->name, name) == 0 && (!ns || strcmp(a->ns, ns) == 0))
            return a->value;
    return NULL;
}

const char *xml_attr(const struct xml *x, const char *name)
{
    return xml_attr_ns(x, name, "");
}

const char *xml_text(const struct xml *x, struct arena *a)
{
    size_t n = 0, n_nodes = 0;
    const char *only = "";
    for (const struct xml *c = x->children; c; c = c->next)
        if (!c->name) {
            n += c->n_text;
            n_nodes++;
            only = c->text;
        }
    if (n_nodes < 2)
        return only;
    char *out = arena_alloc(a, n + 1), *p = out;
    for (const struct xml *c = x->children; c; c = c->next)
        if (!c->name) {
            memcpy(p, c->text, c->n_text);
            p += c->n_text;
        }
    *p = '\0';
    return out;
}

const char *xml_child_text(const struct xml *x, const char *name, const char *ns, struct arena *a)
{
    const struct xml *c = xml_child(x, name, ns);
    return c ? xml_text(c, a) : NULL;
}

/* ---- building ---- */

struct xml *xml_new(struct arena *a, const char *name, const char *ns)
{
    struct xml *x = arena_zalloc(a, sizeof(*x));
    x->name = arena_strdup(a, name);
    x->ns = ns && *ns ? arena_strdup(a, ns) : "";
    return x;
}

void xml_append(struct xml *parent, struct xml *child)
{
    child->parent = parent;
    child->next = NULL;
    if (parent->last_child)
        parent->last_child->next = child;
    else
        parent->children = child;
    parent->last_child = child;
}

struct xml *xml_add(struct arena *a, struct xml *parent, const char *name, const char *ns)
{
    struct xml *x;
    if (ns && strcmp(ns, parent->ns) != 0) {
        x = xml_new(a, name, ns);
    } else {
        x = arena_zalloc(a, sizeof(*x));
        x->name = arena_strdup(a, name);
        x->ns = parent->ns;
    }
    xml_append(parent, x);
    return x;
}

void xml_set_attr(struct arena *a, struct xml *x, const char *name, const char *value)
{
    struct xml_attr **at = &x->attrs;
    while (*at && (strcmp((*at)->name, name) != 0 || *(*at)->ns))
        at = &(*at)->next;
    if (!value) {
        if (*at)
            *at = (*at)->next;
        return;
    }
    if (!*at) {
        *at = arena_zalloc(a, sizeof(**at));
        (*at)->name = arena_strdup(a, name);
        (*at)->ns = "";
    }
    (*at)->value = arena_strdup(a, value);
}

void xml_add_text(struct arena *a, struct xml *x, const char *text, size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    struct xml *t = arena_zalloc(a, sizeof(*t));
    t->text = arena_strndup(a, text, n_bytes);
    t->n_text = strlen(t->text); /* a NUL in TEXT ends it: XML has none */
    xml_append(x, t);
}

void xml_remove(struct xml *child)
{
    struct xml *parent = child->parent, *before = NULL;
    if (!parent)
        return;
    struct xml **at = &parent->children;
    while (*at != child) {
        before = *at;
        at = &before->next;
    }
    *at = child->next;
    if (parent->last_child == child)
        parent->last_child = before;
    child->parent = child->next = NULL;
}

/* The depth is bounded by xml_limits, or by the code that built the tree. */
static struct xml *copy_below(struct arena *a, const struct xml *x, const char *src_ns, const char *ns)
{
    struct xml *y = arena_zalloc(a, sizeof(*y));
    if (!x->name) {
        y->text = arena_strndup(a, x->text, x->n_text);
        y->n_text = x->n_text;
        return y;
    }
    y->name = arena_strdup(a, x->name);
    y->ns = x->ns == src_ns ? ns : *x->ns ? arena_strdup(a, x->ns) : "";
    struct xml_attr **tail = &y->attrs;
    for (const struct xml_attr *at = x->attrs; at; at = at->next) {
        struct xml_attr *b = arena_alloc(a, sizeof(*b));
        b->next = NULL;
        b->name = arena_strdup(a, at->name);
        b->ns = *at->ns ? arena_strdup(a, at->ns) : "";
        b->value = arena_strdup(a, at->value);
        *tail = b;
        tail = &b->next;
    }
    for (const struct xml *c = x->children; c; c = c->next)
        xml_append(y, copy_below(a, c, x->ns, y->ns));
    return y;
}

struct xml *xml_copy(struct arena *a, const struct xml *x)
{
    return copy_below(a, x, NULL, NULL);
}

const char *xml_error_text(enum xml_error error)
{
    switch (error) {
    case XML_OK:
        return "ok";
    case XML_NOT_WELL_FORMED:
        return "XML is not well-formed";
    case XML_RESTRICTED:
        return "DTD, processing instruction or comment";
    case XML_BAD_ENCODING:
        return "not UTF-8";
    case XML_TOO_BIG:
        return "too large, too deep or too many elements or attributes";
    case XML_BAD_NAMESPACE:
        return "undeclared prefix or forbidden namespace declaration";
    }
    return "unknown XML error";
}
