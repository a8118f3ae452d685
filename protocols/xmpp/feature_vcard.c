/* XEP-0054: vcard-temp. An account that never set one shows what the directory knows. */
#include "im/user.h"
#include "protocols/xmpp/convert.h"
#include <string.h>

#define NS_VCARD "vcard-temp"

static void add_element(struct buf *out, const char *name, const char *text)
{
    if (!text || !*text)
        return;
    buf_addf(out, "<%s>", name);
    iq_escape(out, text);
    buf_addf(out, "</%s>", name);
}

static bool has(const char *s)
{
    return s && *s;
}

static void from_directory(struct buf *out, const Imp__UserRow *row, const char *jid)
{
    buf_adds(out, "<vCard xmlns='" NS_VCARD "'>");
    add_element(out, "FN", has(row->display_name) ? row->display_name : row->localpart);
    if (has(row->last_name) || has(row->first_name)) {
        buf_adds(out, "<N>");
        add_element(out, "FAMILY", row->last_name);
        add_element(out, "GIVEN", row->first_name);
        buf_adds(out, "</N>");
    }
    if (has(row->mail)) {
        buf_adds(out, "<EMAIL><INTERNET/>");
        add_element(out, "USERID", row->mail);
        buf_adds(out, "</EMAIL>");
    }
    add_element(out, "JABBERID", jid);
    buf_adds(out, "</vCard>");
}

/* What the user has set, as a tree without its photo if there is an avatar; NULL: nothing. */
static struct xml *stored_vcard(struct xmpp_iq *iq, bool without_photo)
{
    struct key k;
    struct xml *vcard = NULL;
    key_init(&k);
    key_u64(&k, iq->uid);
    Imp__VcardRow *row = store_find_row(shard_txn(iq->shard), TABLE_VCARD, &k, iq->arena);
    if (!row || xml_parse(&vcard, iq->arena, row->xml.data, row->xml.len, &xml_limits_default, NULL) < 0)
        return NULL;
    struct xml *photo = without_photo ? xml_child(vcard, "PHOTO", NS_VCARD) : NULL;
    if (photo)
        xml_remove(photo);
    return vcard;
}

/* In place of the end tag, which every vCard here has. */
static void add_photo(struct buf *out, const struct avatar *avatar)
{
    static const char end[] = "</vCard>";
    if (out->n > 2 && memcmp(out->data + out->n - 2, "/>", 2) == 0) {
        out->n -= 2;
        buf_addc(out, '>');
    } else {
        out->n -= sizeof end - 1;
    }
    avatar_write_photo(out, avatar);
    buf_adds(out, end);
}

/* Each part only to those who may read it in its other form: a node that is for few stays so. */
static void handle_get(struct xmpp_iq *iq)
{
    static const char *const photo_nodes[] = {NODE_AVATAR_METADATA, NODE_AVATAR_DATA, NULL};
    static const char *const vcard_nodes[] = {NODE_VCARD4, NULL};
    struct avatar avatar = {.hash = ""};
    if (pep_find_user(shard_txn(iq->shard), iq->uid, iq->arena) && pep_may_see(iq, iq->uid, photo_nodes))
        avatar_read(iq->shard, iq->uid, &avatar, iq->arena);
    const struct xml *vcard = pep_may_see(iq, iq->uid, vcard_nodes) ? stored_vcard(iq, *avatar.hash) : NULL;
    const Imp__UserRow *user = shard_user_row(iq->shard, iq->uid, iq->arena);
    const char *jid = shard_user_jid(iq->shard, iq->uid, iq->arena);
    struct buf out = {0};
    if (vcard)
        xml_write(&out, vcard, NS_CLIENT);
    else if (user && jid)
        from_directory(&out, user, jid);
    if (out.n && *avatar.hash)
        add_photo(&out, &avatar);
    if (out.n)
        iq_result(iq, out.data, out.n);
    else
        iq_error(iq, STANZA_SERVICE_UNAVAILABLE, NULL);
    buf_fini(&out);
}

static void set_alone(struct xmpp_iq *iq, const struct buf *xml)
{
    Imp__VcardSet body = IMP__VCARD_SET__INIT;
    body.uid = iq->uid;
    body.xml = (ProtobufCBinaryData){xml->n, (uint8_t *)xml->data};
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_VCARD_SET;
    command.vcard_set = &body;
    iq_submit(iq, &command);
}

/* With the avatar, and as vCard4, in one command (XEP-0398 §3, XEP-0292). */
static void set_all(struct xmpp_iq *iq)
{
    struct pep_write *w = pep_write_new(iq->home, iq->uid, iq->home->session.user->jid);
    struct arena *a = pep_write_arena(w);
    Imp__PepConfig *config = arena_alloc(a, sizeof *config);
    struct buf xml = {0}, vcard4 = {0};
    pep_config_initial(config, NODE_VCARD4);
    config->access =
        IMP__PEP_ACCESS__PEP_ACCESS_OPEN; /* as a vCard is; a node that is there stays as it is */
    avatar_from_vcard(w, iq->shard, iq->uid, iq->payload);
    xml_write(&xml, iq->payload, NS_CLIENT);
    vcard4_from_temp(&vcard4, iq->payload);
    pep_write_vcard(w, arena_strndup(a, xml.data, xml.n), xml.n);
    pep_write_publish(w, NODE_VCARD4, "current", arena_strndup(a, vcard4.data, vcard4.n), vcard4.n, config,
                      0);
    pep_write_submit(w, iq, NULL);
    buf_fini(&xml);
    buf_fini(&vcard4);
}

static void handle_set(struct xmpp_iq *iq)
{
    struct buf xml = {0};
    xml_write(&xml, iq->payload, NS_CLIENT);
    if (xml.n > iq->shard->settings.vcard_bytes)
        iq_error(iq, STANZA_NOT_ACCEPTABLE, "the vCard is too large");
    else if (pep_is_on(iq->shard))
        set_all(iq);
    else
        set_alone(iq, &xml);
    buf_fini(&xml);
}

static void handle(struct xmpp_iq *iq)
{
    if (iq->envelope->type == IQ_GET)
        handle_get(iq);
    else if (iq->scope == IQ_SELF)
        handle_set(iq);
    else
        iq_error(iq, STANZA_FORBIDDEN, NULL);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_VCARD, "vCard", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle, .outside = true},
    {0},
};
static const char *const features[] = {NS_VCARD, NULL};
const struct xmpp_feature feature_vcard = {
    .name = "vcard",
    .xep = "XEP-0054 1.3",
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
};
