/* Refusals of XEP-0060: the stanza error and the condition that says more (§13). */
#include "protocols/xmpp/pep.h"
#include <string.h>

static const struct {
    enum stanza_error error;
    const char *condition, *feature;
} errors[] = {
#define X(id, error, condition, feature) {STANZA_##error, condition, feature},
    PEP_ERRORS(X)
#undef X
};

static const char *condition_xml(enum pep_error e, struct buf *out)
{
    buf_addf(out, "<%s xmlns='" NS_PUBSUB_ERRORS "'", errors[e].condition);
    if (errors[e].feature)
        buf_addf(out, " feature='%s'", errors[e].feature);
    buf_adds(out, "/>");
    return out->data;
}

void pep_refuse(struct xmpp_iq *iq, enum pep_error e, const char *text)
{
    struct buf xml = {0};
    iq_error_with(iq, errors[e].error, text, condition_xml(e, &xml));
    buf_fini(&xml);
}

void pep_refuse_later(struct iq_later *l, struct session *s, enum pep_error e, const char *text)
{
    struct buf xml = {0};
    iq_later_error_with(l, s, errors[e].error, text, condition_xml(e, &xml));
    buf_fini(&xml);
}

void pep_answer_refusal(struct iq_later *l, struct session *s, const struct proposal_result *result)
{
    const char *text = result->text && *result->text ? result->text : NULL;
    switch (result->code) {
    case ERR_NOTFOUND:
        iq_later_error(l, s, STANZA_ITEM_NOT_FOUND, text);
        break;
    case ERR_EXISTS:
        iq_later_error(l, s, STANZA_CONFLICT, text);
        break;
    case ERR_CONFLICT:
        pep_refuse_later(l, s, PEP_ERROR_PRECONDITION, text);
        break;
    case ERR_DENIED:
        iq_later_error(l, s, STANZA_FORBIDDEN, text);
        break;
    case ERR_INVALID:
        iq_later_error(l, s, STANZA_NOT_ACCEPTABLE, text);
        break;
    case ERR_LIMIT:
        iq_later_error(l, s, STANZA_RESOURCE_CONSTRAINT, text);
        break;
    default:
        iq_later_error(l, s, STANZA_RESOURCE_CONSTRAINT, NULL);
        break;
    }
}
