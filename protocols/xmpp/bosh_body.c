#include "protocols/xmpp/bosh_body.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/web_text.h"
#include <stdlib.h>
#include <string.h>

const char *bosh_attr_or(const struct xml *x, const char *name, const char *otherwise)
{
    const char *value = xml_attr(x, name);
    return value ? value : otherwise;
}

unsigned bosh_number(const struct xml *x, const char *name, unsigned otherwise, unsigned max)
{
    const char *text = xml_attr(x, name);
    if (!text || !*text || strspn(text, "0123456789") != strlen(text))
        return otherwise;
    unsigned long long n = strlen(text) > 9 ? max : strtoull(text, NULL, 10);
    return n > max ? max : (unsigned)n;
}

bool bosh_is_true(const char *value)
{
    return value && (!strcmp(value, "true") || !strcmp(value, "1"));
}

/* The payload as it goes to the shard. False: character data in the wrapper (§6). */
static bool read_payload(struct buf *out, const struct xml *body)
{
    for (const struct xml *c = body->children; c; c = c->next) {
        if (c->name)
            xml_write(out, c, NS_CLIENT);
        else if (strspn(c->text, " \t\r\n") != strlen(c->text))
            return false;
    }
    return true;
}

void bosh_body_fini(struct bosh_body *p)
{
    arena_fini(&p->arena);
    buf_fini(&p->payload);
    buf_fini(&p->header);
}

const char *bosh_body_read(struct bosh_body *p, const char *data, size_t n, const struct xml_limits *limits)
{
    memset(p, 0, sizeof(*p));
    arena_init(&p->arena);
    enum xml_error e = xml_read(&p->root, &p->arena, data, n, limits);
    if (e != XML_OK)
        return e == XML_TOO_BIG ? "policy-violation" : "bad-request";
    const char *rid = xml_attr(p->root, "rid");
    struct bosh_request *r = &p->request;
    if (!xml_is(p->root, "body", NS_BOSH) || !rid || !*rid || strlen(rid) > 16 ||
        strspn(rid, "0123456789") != strlen(rid) || !read_payload(&p->payload, p->root))
        return "bad-request";
    r->rid = strtoull(rid, NULL, 10);
    if (!r->rid || r->rid > BOSH_MAX_RID)
        return "bad-request";
    r->key = xml_attr(p->root, "key");
    r->newkey = xml_attr(p->root, "newkey");
    r->terminate = !strcmp(bosh_attr_or(p->root, "type", ""), "terminate");
    r->has_pause = xml_attr(p->root, "pause") != NULL;
    r->pause_s = bosh_number(p->root, "pause", 0, 86400);
    r->payload = p->payload.n ? p->payload.data : "";
    r->n_payload = p->payload.n;
    const char *restart = xml_attr_ns(p->root, "restart", NS_XBOSH);
    const char *version = xml_attr_ns(p->root, "version", NS_XBOSH);
    r->restart = bosh_is_true(restart);
    struct web_header h = web_read_header(p->root);
    h.version = version ? version : "1.0";
    web_write_header(&p->header, &h);
    r->header = p->header.data;
    return NULL;
}
