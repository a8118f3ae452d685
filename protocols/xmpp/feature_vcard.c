/* XEP-0054: vcard-temp. An account that never set one shows what the directory knows. */
#include "protocols/xmpp/feature.h"
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

static void handle_get(struct xmpp_iq *iq)
{
    struct key k;
    key_init(&k);
    key_u64(&k, iq->uid);
    Imp__VcardRow *row = store_find_row(shard_txn(iq->shard), TABLE_VCARD, &k, iq->arena);
    if (row && row->xml.len) {
        iq_result(iq, (const char *)row->xml.data, row->xml.len);
        return;
    }
    Imp__UserRow *user = shard_user_row(iq->shard, iq->uid, iq->arena);
    const char *jid = shard_user_jid(iq->shard, iq->uid, iq->arena);
    if (!user || !jid) {
        iq_error(iq, STANZA_SERVICE_UNAVAILABLE, NULL);
        return;
    }
    struct buf out = {0};
    from_directory(&out, user, jid);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void handle_set(struct xmpp_iq *iq)
{
    struct buf xml = {0};
    xml_write(&xml, iq->payload, NS_CLIENT);
    if (xml.n > iq->shard->settings.vcard_bytes) {
        iq_error(iq, STANZA_NOT_ACCEPTABLE, "the vCard is too large");
    } else {
        Imp__VcardSet body = IMP__VCARD_SET__INIT;
        body.uid = iq->uid;
        body.xml = (ProtobufCBinaryData){xml.n, (uint8_t *)xml.data};
        Imp__Command command = IMP__COMMAND__INIT;
        command.body_case = IMP__COMMAND__BODY_VCARD_SET;
        command.vcard_set = &body;
        iq_submit(iq, &command);
    }
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
    {NS_VCARD, "vCard", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle},
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
