/* Nodes whose items mean something beyond themselves. */
#include "im/user.h"
#include "protocols/xmpp/convert.h"
#include <string.h>

int pep_special_publish(struct pep_write *w, struct xmpp_iq *iq, const char *node, const char *id,
                        const struct xml *payload, const char **text)
{
    (void)id;
    if (strcmp(node, NODE_BOOKMARKS_OLD) == 0)
        return bookmarks_from_old(w, iq->shard, iq->uid, payload, text);
    if (strcmp(node, NODE_VCARD4) == 0 && xml_is(payload, "vcard", NS_VCARD4)) {
        struct buf xml = {0};
        vcard4_to_temp(&xml, payload);
        pep_write_vcard(w, arena_strndup(pep_write_arena(w), xml.data, xml.n), xml.n);
        buf_fini(&xml);
    }
    return 0;
}

void pep_special_retract(struct pep_write *w, struct xmpp_iq *iq, const char *node, const char *id)
{
    (void)iq, (void)id;
    if (strcmp(node, NODE_VCARD4) == 0)
        pep_write_vcard(w, NULL, 0);
}

static bool retracts(const Imp__PepWrite *w, const char *node)
{
    for (size_t i = 0; i < w->n_retract; i++)
        if (strcmp(w->retract[i]->node, node) == 0)
            return true;
    return false;
}

static bool touches(const Imp__PepWrite *w, const char *node)
{
    for (size_t i = 0; i < w->n_publish; i++)
        if (strcmp(w->publish[i]->node, node) == 0)
            return true;
    return retracts(w, node);
}

void pep_special_done(struct session *s, struct shard *shard, const Imp__PepWrite *w, uint64_t index)
{
    if (w->actor != w->uid)
        return;
    /* Data alone are published before what says that they are the avatar. */
    if (touches(w, NODE_AVATAR_METADATA) || retracts(w, NODE_AVATAR_DATA))
        avatar_changed(shard, w->uid);
    if (s && (touches(w, NODE_BOOKMARKS) || touches(w, NODE_PRIVATE)))
        bookmarks_changed(shard, w->uid, s->user->jid, index);
}

void pep_special_emptied(struct session *s, struct shard *shard, uint64_t uid, const char *node,
                         uint64_t index)
{
    if (strcmp(node, NODE_AVATAR_METADATA) == 0 || strcmp(node, NODE_AVATAR_DATA) == 0)
        avatar_changed(shard, uid);
    if (s && strcmp(node, NODE_BOOKMARKS) == 0)
        bookmarks_changed(shard, uid, s->user->jid, index);
    if (s && strcmp(node, NODE_VCARD4) == 0) { /* as after a retraction */
        struct pep_write *w = pep_write_new(home_of(s), uid, s->user->jid);
        pep_write_vcard(w, NULL, 0);
        pep_write_submit(w, NULL, NULL);
    }
}
