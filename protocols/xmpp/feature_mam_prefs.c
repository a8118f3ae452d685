/* XEP-0441: whose messages a user wants in the archive. */
#include "im/address.h"
#include "im/archive.h"
#include "protocols/xmpp/mam.h"
#include "replication/levels.h"
#include <string.h>

static const char *const modes[] = {
    [IMP__ARCHIVE_MODE__ARCHIVE_ALWAYS] = "always",
    [IMP__ARCHIVE_MODE__ARCHIVE_ROSTER] = "roster",
    [IMP__ARCHIVE_MODE__ARCHIVE_NEVER] = "never",
};

static void write_list(struct buf *out, const char *name, char *const *jids, size_t n)
{
    buf_addf(out, "<%s>", name);
    for (size_t i = 0; i < n; i++) {
        buf_adds(out, "<jid>");
        iq_escape(out, jids[i]);
        buf_adds(out, "</jid>");
    }
    buf_addf(out, "</%s>", name);
}

static void write_prefs(struct buf *out, Imp__ArchiveMode mode, const Imp__ArchivePrefsRow *row)
{
    buf_addf(out, "<prefs xmlns='" NS_MAM "' default='%s'>", modes[mode]);
    write_list(out, "always", row->always, row->n_always);
    write_list(out, "never", row->never, row->n_never);
    buf_adds(out, "</prefs>");
}

static void handle_get(struct xmpp_iq *iq)
{
    const Imp__ArchivePrefsRow none = IMP__ARCHIVE_PREFS_ROW__INIT,
                               *row = archive_prefs(iq->shard, iq->uid, iq->arena);
    struct buf out = {0};
    if (!row)
        row = &none;
    write_prefs(&out, row->mode ? row->mode : archive_mode(iq->shard), row);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* ---- set ---- */

static bool read_list(struct xmpp_iq *iq, const char *name, char ***jids, size_t *n)
{
    const struct xml *list = xml_child(iq->payload, name, NS_MAM);
    *jids = arena_alloc(iq->arena, ARCHIVE_LIST_MAX * sizeof **jids);
    for (struct xml *x = list ? xml_child(list, "jid", NS_MAM) : NULL; x; x = xml_next(x, "jid", NS_MAM)) {
        const char *text = xml_text(x, iq->arena);
        char jid[JID_MAX + 1];
        if (*n == ARCHIVE_LIST_MAX) {
            iq_error(iq, STANZA_POLICY_VIOLATION, "too many addresses");
            return false;
        }
        if (jid_prepare(jid, text, strlen(text), NULL) < 0) {
            iq_error(iq, STANZA_JID_MALFORMED, NULL);
            return false;
        }
        (*jids)[(*n)++] = arena_strdup(iq->arena, jid);
    }
    return true;
}

struct setting_prefs {
    struct iq_later *iq;
    struct buf answer;
};

static void on_set(struct session *s, struct shard *shard, void *user, const struct proposal_result *result)
{
    struct setting_prefs *p = user;
    (void)shard;
    if (result->code == 0)
        iq_later_result(p->iq, s, p->answer.data, p->answer.n);
    else
        iq_later_error(p->iq, s,
                       result->code == ERR_INVALID ? STANZA_POLICY_VIOLATION : STANZA_RESOURCE_CONSTRAINT,
                       result->text && *result->text ? result->text : NULL);
    buf_fini(&p->answer);
    mem_free(p);
}

static void handle_set(struct xmpp_iq *iq)
{
    const char *mode = xml_attr(iq->payload, "default");
    Imp__ArchivePrefsRow row = IMP__ARCHIVE_PREFS_ROW__INIT;
    for (size_t i = 1; mode && i < n_elements(modes); i++)
        if (strcmp(mode, modes[i]) == 0)
            row.mode = (Imp__ArchiveMode)i;
    if (!row.mode) {
        iq_error(iq, STANZA_BAD_REQUEST, "the default is always, roster or never");
        return;
    }
    if (!read_list(iq, "always", &row.always, &row.n_always) ||
        !read_list(iq, "never", &row.never, &row.n_never))
        return;
    Imp__ArchivePrefsSet body = IMP__ARCHIVE_PREFS_SET__INIT;
    body.uid = iq->uid;
    body.prefs = &row;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_ARCHIVE_PREFS_SET;
    command.archive_prefs_set = &body;
    struct setting_prefs *p = mem_new(struct setting_prefs);
    p->iq = iq_keep(iq);
    write_prefs(&p->answer, row.mode, &row);
    if (session_submit(&iq->home->session, &command, on_set, p) < 0) {
        iq_later_error(p->iq, &iq->home->session, STANZA_RESOURCE_CONSTRAINT, NULL);
        buf_fini(&p->answer);
        mem_free(p);
    }
}

static void handle(struct xmpp_iq *iq)
{
    if (iq->scope != IQ_SELF)
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else if (iq->envelope->type == IQ_GET)
        handle_get(iq);
    else
        handle_set(iq);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_MAM, "prefs", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle, .outside = true},
    {0},
};
const struct xmpp_feature feature_mam_prefs = {
    .name = "mam_prefs",
    .xep = "XEP-0441 0.2.0",
    .level = LEVEL_3,
    .handlers = handlers,
};
