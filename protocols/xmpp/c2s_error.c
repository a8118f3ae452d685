#include "base/clock.h"
#include "protocols/xmpp/home.h"

#include <string.h>

void c2s_bare_header(struct buf *out, const char *from)
{
    char id[33];
    random_hex(id, 16); /* §4.7.3: not to be guessed */
    buf_addf(out,
             "<?xml version='1.0'?><stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM
             "' id='%s' version='1.0' xml:lang='en' from='",
             id);
    xml_escape(out, from, strlen(from));
    buf_adds(out, "'>");
}

void c2s_stream_error(struct buf *out, const char *condition, const char *text)
{
    bool has_content = strcmp(condition, "see-other-host") == 0;
    buf_adds(out, "<stream:error><");
    buf_adds(out, condition);
    buf_adds(out, " xmlns='urn:ietf:params:xml:ns:xmpp-streams'");
    if (has_content && text) {
        buf_addc(out, '>');
        xml_escape(out, text, strlen(text));
        buf_adds(out, "</see-other-host>");
    } else {
        buf_adds(out, "/>");
        if (text) {
            buf_adds(out, "<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>");
            xml_escape(out, text, strlen(text));
            buf_adds(out, "</text>");
        }
    }
    buf_adds(out, "</stream:error></stream:stream>");
}

const char *c2s_xml_error_condition(enum xml_error error)
{
    switch (error) {
    case XML_RESTRICTED:
        return "restricted-xml"; /* RFC 6120 §11.1 */
    case XML_BAD_ENCODING:
        return "unsupported-encoding"; /* §11.6 */
    case XML_TOO_BIG:
        return "policy-violation"; /* §4.9.3.14 */
    case XML_OK:
    case XML_NOT_WELL_FORMED:
    case XML_BAD_NAMESPACE: /* §11.3: namespace-well-formed, too */
        break;
    }
    return "not-well-formed";
}
