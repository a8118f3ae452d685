/* Avatars: kept as XEP-0084 has them, two nodes; shown in vcard-temp to whoever may read these nodes, and by
 * its hash in the presence of every session (XEP-0153, XEP-0398 §4). So there is one avatar, in every form,
 * and the access model of the nodes holds for all of them. */
#include "base/base64.h"
#include "im/presence.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/convert.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define NS_UPDATE "vcard-temp:x:update"

enum { HASH_TEXT = 40 };

/* ---- what there is ---- */

static bool is_hash(const char *s)
{
    return s && strlen(s) == HASH_TEXT && strspn(s, "0123456789abcdef") == HASH_TEXT;
}

static struct xml *parse(const Imp__PepItemRow *item, struct arena *a)
{
    struct xml *root = NULL;
    return item && xml_parse(&root, a, item->payload.data, item->payload.len, &xml_limits_default, NULL) == 0
               ? root
               : NULL;
}

/* XEP-0398 §3: the image that is no external one. */
static const struct xml *find_info(const struct xml *metadata)
{
    const struct xml *x = xml_child(metadata, "info", NODE_AVATAR_METADATA);
    while (x && (xml_attr(x, "url") || !is_hash(xml_attr(x, "id"))))
        x = xml_next(x, "info", NODE_AVATAR_METADATA);
    return x;
}

/* White space goes, as clients break lines. The number of bytes of the image, below 0: it is none. */
static long decode(const char *text, char *clean, uint8_t *image)
{
    size_t n = 0;
    for (; *text; text++)
        if (!strchr(" \t\r\n", *text))
            clean[n++] = *text;
    clean[n] = 0;
    return n ? base64_decode(image, clean, n) : ERR_MALFORMED;
}

static const char *hex_sha1(const uint8_t *data, size_t n, struct arena *a)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n_digest = 0;
    char *text = arena_alloc(a, HASH_TEXT + 1);
    EVP_Digest(data, n, digest, &n_digest, EVP_sha1(), NULL);
    for (int i = 0; i < HASH_TEXT; i++)
        text[i] = "0123456789abcdef"[i & 1 ? digest[i / 2] & 15 : digest[i / 2] >> 4];
    text[HASH_TEXT] = 0;
    return text;
}

/* XEP-0398 §3: the id must be that of the image. */
static bool is_image(const char *text, const char *id, struct arena *a)
{
    char *clean = arena_alloc(a, strlen(text) + 1);
    uint8_t *image = arena_alloc(a, strlen(text) + 4);
    long n = decode(text, clean, image);
    return n > 0 && strcmp(hex_sha1(image, (size_t)n, a), id) == 0;
}

void avatar_read(struct shard *s, uint64_t uid, struct avatar *out, struct arena *a)
{
    struct store_txn *t = shard_txn(s);
    memset(out, 0, sizeof *out);
    const Imp__PepNodeRow *node = pep_find_node(t, uid, NODE_AVATAR_METADATA, a);
    const struct xml *metadata = node ? parse(pep_last_item(t, uid, node, a), a) : NULL;
    const struct xml *info = metadata ? find_info(metadata) : NULL;
    const Imp__PepNodeRow *data = info ? pep_find_node(t, uid, NODE_AVATAR_DATA, a) : NULL;
    const struct xml *root = data ? parse(pep_find_item(t, uid, data, xml_attr(info, "id"), a), a) : NULL;
    const char *text = root && xml_is(root, "data", NODE_AVATAR_DATA) ? xml_text(root, a) : NULL;
    if (!text || !is_image(text, xml_attr(info, "id"), a))
        return;
    out->type = xml_attr(info, "type");
    out->data = text;
    out->n_data = strlen(out->data);
    memcpy(out->hash, xml_attr(info, "id"), HASH_TEXT);
}

static bool is_public(struct shard *s, uint64_t uid, const char *name, struct arena *a)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), uid, name, a);
    return node && (node->config->access == IMP__PEP_ACCESS__PEP_ACCESS_OPEN ||
                    node->config->access == IMP__PEP_ACCESS__PEP_ACCESS_PRESENCE);
}

/* The hash that presence shows: of an avatar that those who see the presence may see. "": none. */
static const char *shown_hash(struct user *u)
{
    struct shard *s = u->shard;
    if (u->avatar)
        return u->avatar;
    struct arena a;
    struct avatar avatar = {.hash = ""};
    arena_init(&a);
    if (pep_find_user(shard_txn(s), u->uid, &a) && is_public(s, u->uid, NODE_AVATAR_METADATA, &a) &&
        is_public(s, u->uid, NODE_AVATAR_DATA, &a))
        avatar_read(s, u->uid, &avatar, &a);
    user_set_avatar(u, avatar.hash);
    arena_fini(&a);
    return u->avatar;
}

/* ---- vCards ---- */

void avatar_write_photo(struct buf *out, const struct avatar *avatar)
{
    buf_adds(out, "<PHOTO>");
    if (avatar->type) {
        buf_adds(out, "<TYPE>");
        iq_escape(out, avatar->type);
        buf_adds(out, "</TYPE>");
    }
    buf_adds(out, "<BINVAL>");
    xml_escape(out, avatar->data, avatar->n_data);
    buf_adds(out, "</BINVAL></PHOTO>");
}

/* A vCard is for everybody; so are nodes that are made because of it. */
static const Imp__PepConfig *open_config(const char *node, struct arena *a)
{
    Imp__PepConfig *c = arena_alloc(a, sizeof *c);
    pep_config_initial(c, node);
    c->access = IMP__PEP_ACCESS__PEP_ACCESS_OPEN;
    return c;
}

static void publish_metadata(struct pep_write *w, const char *id, const char *inner)
{
    struct arena *a = pep_write_arena(w);
    const char *xml = arena_printf(a, "<metadata xmlns='" NODE_AVATAR_METADATA "'>%s</metadata>", inner);
    pep_write_publish(w, NODE_AVATAR_METADATA, id, xml, strlen(xml), open_config(NODE_AVATAR_METADATA, a), 0);
}

static void publish_image(struct pep_write *w, const char *base64, const uint8_t *image, size_t n,
                          const char *type, const char *id)
{
    struct arena *a = pep_write_arena(w);
    struct buf info = {0};
    const char *data = arena_printf(a, "<data xmlns='" NODE_AVATAR_DATA "'>%s</data>", base64);
    (void)image;
    pep_write_publish(w, NODE_AVATAR_DATA, id, data, strlen(data), open_config(NODE_AVATAR_DATA, a), 0);
    buf_addf(&info, "<info id='%s' bytes='%zu' type='", id, n);
    iq_escape(&info, type);
    buf_adds(&info, "'/>");
    publish_metadata(w, id, info.data);
    buf_fini(&info);
}

void avatar_from_vcard(struct pep_write *w, struct shard *s, uint64_t uid, struct xml *vcard)
{
    struct arena *a = pep_write_arena(w);
    struct xml *photo = xml_child(vcard, "PHOTO", NS_VCARD_TEMP);
    const char *text = photo ? xml_child_text(photo, "BINVAL", NS_VCARD_TEMP, a) : NULL;
    const char *type = photo ? xml_child_text(photo, "TYPE", NS_VCARD_TEMP, a) : NULL;
    struct avatar now;
    avatar_read(s, uid, &now, a);
    if (!text || !*text) { /* a vCard without an image: there is no avatar any more */
        if (*now.hash && !(photo && xml_child(photo, "EXTVAL", NS_VCARD_TEMP)))
            publish_metadata(w, "none", "");
        return;
    }
    char *clean = arena_alloc(a, strlen(text) + 1);
    uint8_t *image = arena_alloc(a, strlen(text) + 4);
    long n = decode(text, clean, image);
    if (n <= 0)
        return; /* stays what it is: the XEP lets a service convert valid photos only */
    xml_remove(photo);
    const char *id = hex_sha1(image, (size_t)n, a);
    if (strcmp(id, now.hash) != 0)
        publish_image(w, clean, image, (size_t)n, type && *type ? type : "image/png", id);
}

/* ---- presence ---- */

/* Of a session: its client has sent an empty photo, which says that it wants none shown (§4). What has become
 * empty since is ours. */
struct avatar_state {
    bool shows_none;
};

static const char *photo_of(struct xml *root, struct arena *a)
{
    const struct xml *x = xml_child(root, "x", NS_UPDATE),
                     *photo = x ? xml_child(x, "photo", NS_UPDATE) : NULL;
    return photo ? xml_text(photo, a) : NULL;
}

/* XEP-0398 §4: the presence's inner XML with the hash in it; NULL: it stays as it is. ROOT loses its old one.
 */
static struct blob *with_hash(struct xml *root, const char *hash, struct arena *a)
{
    struct xml *x = xml_child(root, "x", NS_UPDATE);
    const char *text = photo_of(root, a);
    if (text && strcmp(text, hash) == 0)
        return NULL;
    if (x)
        xml_remove(x);
    x = xml_add(a, root, "x", NS_UPDATE);
    xml_add_text(a, xml_add(a, x, "photo", NULL), hash, strlen(hash));
    return stanza_inner(root, NS_CLIENT);
}

static void set_payload(struct envelope *e, struct blob *payload)
{
    e->n_bytes += payload->n - (e->payload ? e->payload->n : 0);
    blob_unref(e->payload);
    e->payload = payload;
}

static enum hook_verdict from_client(struct c2s_home *h, struct envelope *e, struct xml_stanza *stanza)
{
    struct user *u = h->session.user;
    if (e->type != PRESENCE_AVAILABLE || !pep_is_on(u->shard))
        return HOOK_GO_ON;
    const char *photo = photo_of(stanza->root, stanza->arena);
    bool shows_none = photo && !*photo;
    struct avatar_state *st = hooks_state(h, FEATURE_avatar, shows_none ? sizeof *st : 0);
    if (st && !*e->to)
        st->shows_none = shows_none;
    if (shows_none || !*shown_hash(u))
        return HOOK_GO_ON;
    struct blob *payload = with_hash(stanza->root, u->avatar, stanza->arena);
    if (payload)
        set_payload(e, payload);
    return HOOK_GO_ON;
}

static void show_again(struct session *s, const char *hash)
{
    struct arena a;
    const struct avatar_state *st = hooks_state(home_of(s), FEATURE_avatar, 0);
    if (st && st->shows_none)
        return;
    arena_init(&a);
    struct xml *root = stanza_tree(s->presence, &a);
    const struct xml *x = root ? xml_child(root, "x", NS_UPDATE) : NULL;
    struct blob *payload = root && (x || *hash) ? with_hash(root, hash, &a) : NULL;
    if (payload) {
        struct envelope *e = envelope_copy(s->presence, NULL);
        set_payload(e, payload);
        presence_update(s, e, s->priority);
    }
    arena_fini(&a);
}

void avatar_changed(struct shard *s, uint64_t uid)
{
    struct user *u = user_find(s, uid);
    if (!u)
        return;
    user_set_avatar(u, NULL);
    char hash[HASH_TEXT + 1];
    strcpy(hash, shown_hash(u));
    struct session *session;
    list_for_each(session, &u->sessions, struct session, link)
    {
        if (session->presence && session->ops == &c2s_session_ops)
            show_again(session, hash);
    }
}

static const char *const features[] = {"urn:xmpp:pep-vcard-conversion:0", NULL};
const struct xmpp_feature feature_avatar = {
    .name = "avatar",
    .xep = "XEP-0398 1.0.1",
    .level = LEVEL_3,
    .account_features = features,
    .always = {.from_client = ON_PRESENCE},
    .hooks = {.from_client = from_client},
};
