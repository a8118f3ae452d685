/* How clients find WebSocket and BOSH: host-meta (XEP-0156 §3, RFC 6415), as XRD and as JSON. */
#include "protocols/xmpp/web_impl.h"
#include <stdio.h>
#include <string.h>

#define REL "urn:xmpp:alt-connections:"

/* The URL that is set, or this node's own. */
static void get_url(char out[512], struct web *w, const char *set, const char *scheme, const char *path)
{
    bool six = strchr(w->public_name, ':') != NULL;
    if (*set)
        snprintf(out, 512, "%s", set);
    else
        snprintf(out, 512, "%s://%s%s%s:%u%s", scheme, six ? "[" : "", w->public_name, six ? "]" : "",
                 w->o.https_port, path);
}

struct link {
    const char *rel;
    char url[512];
};

static unsigned get_links(struct link links[2], struct web *w)
{
    const struct web_settings *s = web_settings(w);
    unsigned n = 0;
    if (s->websocket) {
        links[n].rel = REL "websocket";
        get_url(links[n++].url, w, s->websocket_url, "wss", WEB_SOCKET_PATH);
    }
    if (s->bosh) {
        links[n].rel = REL "xbosh";
        get_url(links[n++].url, w, s->bosh_url, "https", WEB_BOSH_PATH);
    }
    return n;
}

static bool begin(struct web *w, struct http_answer *answer)
{
    answer->allow_origin = "*"; /* XEP-0156 §3: web clients of other sites read it */
    if (web_settings(w)->on)
        return true;
    answer->status = 404;
    return false;
}

void web_handle_host_meta(void *user, const struct http_request *r, struct http_exchange *x,
                          struct http_answer *answer)
{
    struct web *w = user;
    struct link links[2];
    if (!begin(w, answer) || r->method == HTTP_OPTIONS)
        return;
    answer->content_type = "application/xrd+xml; charset=utf-8";
    buf_adds(
        &answer->body,
        "<?xml version='1.0' encoding='utf-8'?>\n<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n");
    for (unsigned i = 0, n = get_links(links, w); i < n; i++) {
        buf_addf(&answer->body, "  <Link rel='%s' href='", links[i].rel);
        xml_escape(&answer->body, links[i].url, strlen(links[i].url));
        buf_adds(&answer->body, "'/>\n");
    }
    buf_adds(&answer->body, "</XRD>\n");
}

static void add_json(struct buf *out, const char *s)
{
    for (; *s; s++)
        if (*s == '"' || *s == '\\')
            buf_addf(out, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            buf_addf(out, "\\u%04x", (unsigned)*s);
        else
            buf_addc(out, *s);
}

void web_handle_host_meta_json(void *user, const struct http_request *r, struct http_exchange *x,
                               struct http_answer *answer)
{
    struct web *w = user;
    struct link links[2];
    if (!begin(w, answer) || r->method == HTTP_OPTIONS)
        return;
    answer->content_type = "application/json";
    buf_adds(&answer->body, "{\"links\":[");
    for (unsigned i = 0, n = get_links(links, w); i < n; i++) {
        buf_addf(&answer->body, "%s{\"rel\":\"%s\",\"href\":\"", i ? "," : "", links[i].rel);
        add_json(&answer->body, links[i].url);
        buf_adds(&answer->body, "\"}");
    }
    buf_adds(&answer->body, "]}\n");
}
