#include "protocols/xmpp/caps.h"
#include "base/base64.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define NS_INFO "http://jabber.org/protocol/disco#info"
#define NS_DATA "jabber:x:data"

enum { PARTS_MAX = 1024 };

/* ---- the verification string ---- */

/* Strings of one kind, to be sorted and written. */
struct parts {
    const char *list[PARTS_MAX];
    size_t n;
    bool bad;
};

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool ends_in_notify(const char *s)
{
    static const char suffix[] = "+notify";
    size_t n = strlen(s);
    return n >= sizeof suffix - 1 && strcmp(s + n - (sizeof suffix - 1), suffix) == 0;
}

/* "<" separates: a string with one in it could be read as two. What is no feature and yet would count as a
 * wish to be notified could be a feature taken for something else. Either way another result with the same
 * hash would poison the cache (§8.1). */
static void add(struct parts *p, const char *s, bool is_feature)
{
    if (p->n == PARTS_MAX || strchr(s, '<') || (!is_feature && ends_in_notify(s)))
        p->bad = true;
    else
        p->list[p->n++] = s;
}

static void write_sorted(struct parts *p, bool unique, struct buf *out)
{
    qsort(p->list, p->n, sizeof *p->list, compare);
    for (size_t i = 0; i < p->n; i++) {
        if (unique && i && strcmp(p->list[i], p->list[i - 1]) == 0)
            p->bad = true; /* §5.4: 3.3, 3.4 */
        buf_adds(out, p->list[i]);
        buf_addc(out, '<');
    }
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static bool is_token(const char *s)
{
    return *s && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == strlen(s);
}

/* Identities sort by category, type and language; the order of the joined strings can differ from that only
 * where one category is the beginning of another, so a separator below all others takes the slash's place. */
static void write_identities(const struct xml *query, struct buf *out, struct arena *a, bool *bad)
{
    struct parts *p = arena_zalloc(a, sizeof *p);
    for (const struct xml *x = xml_child(query, "identity", NS_INFO); x;
         x = xml_next(x, "identity", NS_INFO)) {
        const char *category = or_empty(xml_attr(x, "category")), *type = or_empty(xml_attr(x, "type"));
        const char *name = or_empty(xml_attr(x, "name"));
        if (!is_token(category) || !is_token(type))
            *bad = true;
        add(p,
            arena_printf(a, "%s\1%s\1%s\1%s", category, type, or_empty(xml_attr_ns(x, "lang", XML_NS_XML)),
                         name),
            false);
    }
    size_t from = out->n;
    write_sorted(p, true, out);
    for (; from < out->n; from++)
        if (out->data[from] == '\1')
            out->data[from] = '/';
    *bad |= p->bad;
}

static void write_features(const struct xml *query, struct buf *out, struct arena *a, bool *bad)
{
    struct parts *p = arena_zalloc(a, sizeof *p);
    for (const struct xml *x = xml_child(query, "feature", NS_INFO); x; x = xml_next(x, "feature", NS_INFO))
        add(p, or_empty(xml_attr(x, "var")), true);
    write_sorted(p, true, out);
    *bad |= p->bad;
}

/* One field: its name and its values in order. */
static const char *field_text(const struct xml *field, struct arena *a, bool *bad)
{
    struct parts *p = arena_zalloc(a, sizeof *p);
    struct buf text = {0};
    for (const struct xml *v = xml_child(field, "value", NS_DATA); v; v = xml_next(v, "value", NS_DATA))
        add(p, xml_text(v, a), false);
    struct parts name = {0};
    add(&name, or_empty(xml_attr(field, "var")), false);
    buf_adds(&text, or_empty(xml_attr(field, "var")));
    buf_addc(&text, '<');
    write_sorted(p, false, &text);
    *bad |= p->bad || name.bad;
    const char *kept = arena_strndup(a, text.data, text.n);
    buf_fini(&text);
    return kept;
}

static bool is_form_type(const struct xml *field)
{
    return strcmp(or_empty(xml_attr(field, "var")), "FORM_TYPE") == 0;
}

/* A form without FORM_TYPE of type hidden does not count (§5.4: 3.6). Its text begins with the type. */
static const char *form_text(const struct xml *form, struct arena *a, bool *bad)
{
    const char *type = NULL;
    const char *texts[64];
    size_t n = 0;
    for (const struct xml *x = xml_child(form, "field", NS_DATA); x; x = xml_next(x, "field", NS_DATA)) {
        const char *field_type = or_empty(xml_attr(x, "type"));
        if (is_form_type(x)) {
            if (type || strcmp(field_type, "hidden") != 0)
                return NULL;
            type = or_empty(xml_child_text(x, "value", NS_DATA, a));
            for (const struct xml *v = xml_child(x, "value", NS_DATA); v; v = xml_next(v, "value", NS_DATA))
                *bad |= strcmp(xml_text(v, a), type) != 0; /* §5.4: 3.5 */
        } else if (n < n_elements(texts)) {
            texts[n++] = field_text(x, a, bad);
        } else {
            *bad = true;
        }
    }
    if (!type)
        return NULL;
    *bad |= strchr(type, '<') || ends_in_notify(type);
    struct buf out = {0};
    qsort(texts, n, sizeof *texts, compare);
    buf_addf(&out, "%s<", type);
    for (size_t i = 0; i < n; i++)
        buf_adds(&out, texts[i]);
    const char *kept = arena_strndup(a, out.data, out.n);
    buf_fini(&out);
    return kept;
}

static void write_forms(const struct xml *query, struct buf *out, struct arena *a, bool *bad)
{
    const char *forms[32];
    size_t n = 0;
    for (const struct xml *x = xml_child(query, "x", NS_DATA); x; x = xml_next(x, "x", NS_DATA)) {
        const char *text = form_text(x, a, bad);
        if (text && n == n_elements(forms))
            *bad = true;
        else if (text)
            forms[n++] = text;
    }
    qsort(forms, n, sizeof *forms, compare);
    for (size_t i = 0; i < n; i++) {
        size_t len = strcspn(forms[i], "<") + 1;
        if (i && strncmp(forms[i], forms[i - 1], len) == 0)
            *bad = true; /* two of one type */
        buf_adds(out, forms[i]);
    }
}

int caps_verification(const struct xml *query, const char *hash, char out[CAPS_VER_MAX])
{
    static const struct {
        const char *name, *openssl;
    } hashes[] = {{"sha-1", "SHA1"},
                  {"sha-224", "SHA224"},
                  {"sha-256", "SHA256"},
                  {"sha-384", "SHA384"},
                  {"sha-512", "SHA512"}};
    const EVP_MD *md = NULL;
    for (size_t i = 0; i < n_elements(hashes); i++)
        if (strcmp(hashes[i].name, hash) == 0)
            md = EVP_get_digestbyname(hashes[i].openssl);
    if (!md)
        return ERR_UNSUPPORTED;
    struct arena a;
    struct buf text = {0};
    bool bad = false;
    arena_init(&a);
    write_identities(query, &text, &a, &bad);
    write_features(query, &text, &a, &bad);
    write_forms(query, &text, &a, &bad);
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!EVP_Digest(text.n ? text.data : "", text.n, digest, &n, md, NULL))
        bad = true;
    base64_encode(out, digest, n);
    buf_fini(&text);
    arena_fini(&a);
    return bad ? ERR_INVALID : 0;
}

struct event_nodes *caps_wanted(const struct xml *query)
{
    enum { NOTIFY = sizeof "+notify" - 1 };
    const char *names[EVENT_NODES_MAX];
    size_t n = 0;
    struct arena a;
    arena_init(&a);
    for (const struct xml *x = xml_child(query, "feature", NS_INFO); x && n < n_elements(names);
         x = xml_next(x, "feature", NS_INFO)) {
        const char *var = or_empty(xml_attr(x, "var"));
        if (ends_in_notify(var) && strlen(var) > NOTIFY)
            names[n++] = arena_strndup(&a, var, strlen(var) - NOTIFY);
    }
    struct event_nodes *nodes = event_nodes_new(names, n);
    arena_fini(&a);
    return nodes;
}

/* ---- what is shown ---- */

static struct caps_shown *shown_new(const char *hash, const char *ver, const char *node)
{
    size_t n_hash = strlen(hash) + 1, n_ver = strlen(ver) + 1, n_node = strlen(node) + 1;
    struct caps_shown *s = mem_alloc(sizeof *s + n_hash + n_ver + n_node);
    s->hash = memcpy(s->text, hash, n_hash);
    s->ver = memcpy(s->text + n_hash, ver, n_ver);
    s->node = memcpy(s->text + n_hash + n_ver, node, n_node);
    return s;
}

struct caps_shown *caps_shown_copy(const struct caps_shown *s)
{
    return shown_new(s->hash, s->ver, s->node);
}

bool caps_shown_same(const struct caps_shown *a, const struct caps_shown *b)
{
    return a && b && strcmp(a->ver, b->ver) == 0 && strcmp(a->hash, b->hash) == 0 &&
           strcmp(a->node, b->node) == 0;
}

struct caps_shown *caps_shown_read(const struct xml *presence)
{
    enum { NODE_MAX = 512, HASH_MAX = 16 };
    const struct xml *x = xml_child(presence, "c", NS_CAPS);
    const char *node = x ? xml_attr(x, "node") : NULL, *ver = x ? xml_attr(x, "ver") : NULL;
    const char *hash = x ? xml_attr(x, "hash") : NULL;
    if (!node || !ver || strlen(node) > NODE_MAX || strlen(ver) >= CAPS_VER_MAX ||
        (hash && strlen(hash) > HASH_MAX))
        return NULL;
    return shown_new(hash ? hash : "", ver, node);
}

void caps_question(struct buf *out, const struct caps_shown *s)
{
    buf_adds(out, "<query xmlns='" NS_INFO "' node='");
    xml_escape(out, s->node, strlen(s->node));
    buf_addc(out, '#');
    xml_escape(out, s->ver, strlen(s->ver));
    buf_adds(out, "'/>");
}

struct event_nodes *caps_learn(struct caps_cache *c, const struct caps_shown *s, const struct xml *query)
{
    struct event_nodes *nodes = caps_wanted(query);
    char ver[CAPS_VER_MAX];
    if (*s->hash && caps_verification(query, s->hash, ver) == 0 && strcmp(ver, s->ver) == 0)
        caps_cache_add(c, s->hash, s->ver, nodes);
    return nodes;
}

/* ---- the cache ---- */

struct caps_entry {
    struct hnode node;
    struct list link; /* in the cache, least recently used first */
    struct event_nodes *nodes;
    size_t n;
    char key[];
};
struct caps_cache {
    struct htab entries;
    struct list used;
    size_t n;
};

static bool has_key(const struct hnode *node, const void *key, size_t n_bytes)
{
    const struct caps_entry *e = container_of((struct hnode *)node, struct caps_entry, node);
    return e->n == n_bytes && memcmp(e->key, key, n_bytes) == 0;
}

struct caps_cache *caps_cache_new(void)
{
    struct caps_cache *c = mem_new(struct caps_cache);
    htab_init(&c->entries, has_key);
    list_init(&c->used);
    return c;
}

static void forget(struct caps_cache *c, struct caps_entry *e)
{
    htab_remove(&c->entries, &e->node);
    list_remove(&e->link);
    event_nodes_unref(e->nodes);
    mem_free(e);
    c->n--;
}

void caps_cache_free(struct caps_cache *c)
{
    if (!c)
        return;
    for (struct list *item; (item = list_first(&c->used));)
        forget(c, list_entry(item, struct caps_entry, link));
    htab_fini(&c->entries);
    mem_free(c);
}

static struct caps_entry *find(struct caps_cache *c, const char *key, size_t n)
{
    struct hnode *node = htab_find(&c->entries, key, n);
    return node ? container_of(node, struct caps_entry, node) : NULL;
}

bool caps_cache_find(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes **nodes)
{
    char key[2 * CAPS_VER_MAX];
    int n = snprintf(key, sizeof key, "%s %s", hash, ver);
    struct caps_entry *e = n > 0 && (size_t)n < sizeof key ? find(c, key, (size_t)n) : NULL;
    if (!e)
        return false;
    list_remove(&e->link);
    list_append(&c->used, &e->link);
    *nodes = e->nodes;
    return true;
}

void caps_cache_add(struct caps_cache *c, const char *hash, const char *ver, struct event_nodes *nodes)
{
    char key[2 * CAPS_VER_MAX];
    int n = snprintf(key, sizeof key, "%s %s", hash, ver);
    if (n <= 0 || (size_t)n >= sizeof key || find(c, key, (size_t)n))
        return;
    if (c->n >= CAPS_CACHE_MAX)
        forget(c, list_entry(list_first(&c->used), struct caps_entry, link));
    struct caps_entry *e = mem_zalloc(sizeof *e + (size_t)n);
    memcpy(e->key, key, (size_t)n);
    e->n = (size_t)n;
    e->nodes = event_nodes_ref(nodes);
    htab_add(&c->entries, &e->node, e->key, e->n);
    list_append(&c->used, &e->link);
    c->n++;
}
