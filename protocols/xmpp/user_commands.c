/* XEP-0050: what users may decide about their own accounts, at the account's bare JID. */
#include "im/strangers.h"
#include "im/user.h"
#include "protocols/xmpp/adhoc.h"
#include "protocols/xmpp/pep.h"
#include <string.h>

#define DEFAULT "default"

/* ---- privacy against strangers (ADR 0049) ---- */

static void on_written(struct session *session, struct shard *s, void *user,
                       const struct proposal_result *result)
{
    struct adhoc_call *c = user;
    (void)session, (void)s;
    if (result->code == 0)
        adhoc_done(c, "done");
    else
        adhoc_fail(c,
                   *result->text ? arena_strdup(&c->arena, result->text) : "the cluster takes no writes now");
}

/* As private XML: what is decided, or none of it any more. */
static void run_strangers(struct adhoc_call *c)
{
    const char *value = adhoc_value(c, "strangers");
    bool is_default = strcmp(value, DEFAULT) == 0, is_known = is_default || strangers_parse(value) >= 0;
    struct session *session = session_find(c->shard, c->session);
    if (!is_known || !session) {
        adhoc_fail(c, "it is one of default, all, messages, none");
        return;
    }
    Imp__PepWrite body = IMP__PEP_WRITE__INIT;
    Imp__PepPublication publication = IMP__PEP_PUBLICATION__INIT, *publications[] = {&publication};
    Imp__PepRetraction retraction = IMP__PEP_RETRACTION__INIT, *retractions[] = {&retraction};
    Imp__PepConfig config;
    char *xml = arena_printf(&c->arena, "<strangers xmlns='" STRANGERS_NS "'>%s</strangers>", value);
    pep_config_initial(&config, STRANGERS_NODE);
    body.uid = body.actor = c->uid;
    publication.node = retraction.node = (char *)STRANGERS_NODE;
    publication.id = retraction.id = (char *)STRANGERS_ITEM;
    publication.payload = (ProtobufCBinaryData){strlen(xml), (uint8_t *)xml};
    publication.options = &config;
    retraction.optional = true;
    body.publish = publications;
    body.retract = retractions;
    body.n_publish = !is_default;
    body.n_retract = is_default;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_PEP_WRITE;
    command.pep_write = &body;
    if (session_submit(session, &command, on_written, c) < 0)
        adhoc_fail(c, "the cluster takes no writes now");
}

static void fill_strangers(struct xmpp_iq *iq, const struct adhoc_field *f, struct buf *out)
{
    const char *own = strangers_own(iq->shard, iq->uid);
    (void)f;
    adhoc_field_value(out, own ? own : DEFAULT);
}

/* ---- the table ---- */

static const struct adhoc_field strangers[] = {{"strangers", "list-single",
                                                "What reaches you from who is not on your roster: as this "
                                                "service has it; all; messages, but no presence; "
                                                "nothing but requests to become a contact",
                                                true, DEFAULT "|all|messages|none"},
                                               {0}};

const struct adhoc_command user_commands[] = {
    {"strangers", "Privacy against strangers", strangers, fill_strangers, run_strangers},
    {0},
};
