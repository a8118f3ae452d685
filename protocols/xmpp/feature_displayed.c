/* XEP-0490 §5: what was displayed, published by the server from an element in a message. The node itself is
 * one like any other, with the configuration of private ones (pep_form.c). */
#include "im/user.h"
#include "protocols/xmpp/pep.h"
#include <string.h>

static void publish(struct c2s_home *h, const char *to, const struct xml *displayed)
{
    struct pep_write *w = pep_write_new(h, h->session.user->uid, h->session.user->jid);
    struct arena *a = pep_write_arena(w);
    struct buf xml = {0};
    xml_write(&xml, displayed, NULL);
    pep_write_publish(w, NODE_DISPLAYED, arena_strdup(a, to), arena_strndup(a, xml.data, xml.n), xml.n, NULL,
                      0);
    pep_write_submit(w, NULL, NULL);
    buf_fini(&xml);
}

/* Taken out of the message before anybody else sees it, in any case: the stanza-id is nobody's business. */
static enum hook_verdict from_client(struct c2s_home *h, struct envelope *e, struct xml_stanza *stanza)
{
    struct xml *x = xml_child(stanza->root, "displayed", NODE_DISPLAYED);
    if (!x || !pep_is_on(h->session.shard))
        return HOOK_GO_ON;
    xml_remove(x);
    struct blob *payload = stanza_inner(stanza->root, NS_CLIENT);
    e->n_bytes += (payload ? payload->n : 0) - (e->payload ? e->payload->n : 0);
    blob_unref(e->payload);
    e->payload = payload;
    if (*e->to && strlen(e->to) <= PEP_NODE_MAX && e->type != MESSAGE_ERROR)
        publish(h, e->to, x);
    return HOOK_GO_ON;
}

static const char *const features[] = {"urn:xmpp:mds:server-assist:0", NULL};
const struct xmpp_feature feature_displayed = {
    .name = "displayed",
    .xep = "XEP-0490 1.0.1",
    .level = LEVEL_3,
    .account_features = features,
    .always = {.from_client = ON_MESSAGE},
    .hooks = {.from_client = from_client},
};
