/* What both kinds of connections, local and relayed, do alike: XML goes to the home as long as there is one. */
#include "protocols/xmpp/c2s.h"

static void on_header(void *user, const struct xml *header)
{
    struct c2s_conn *c = user;
    if (c->home)
        c2s_home_header(c->home, header);
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct c2s_conn *c = user;
    if (c->home)
        c2s_home_stanza(c->home, stanza);
}

static void on_end(void *user)
{
    struct c2s_conn *c = user;
    if (c->home)
        c2s_home_end(c->home);
}

const struct xml_stream_events c2s_conn_xml_events = {on_header, on_stanza, on_end};

void c2s_conn_check(struct c2s_conn *c, enum xml_error error)
{
    if (error != XML_OK && c->home)
        c2s_home_parse_error(c->home, error);
}
